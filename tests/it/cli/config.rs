//! The file of `--config`: every option may stand in it, mistakes have a place, the command line and
//! the environment win; `--check`; what a reading again says.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use crate::support::process::{Process, get};
use crate::support::{
    Gateway, Ptth, RawGateway, RawPeer, TempDir, each_row, eventually, own_address,
};

struct File {
    _dir: TempDir,
    path: PathBuf,
}

impl File {
    fn new(text: &str) -> File {
        let dir = TempDir::new("config");
        let path = dir.0.join("ptth.toml");
        std::fs::write(&path, text).unwrap();
        File { _dir: dir, path }
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

/// Names of the options in a help text.
fn options_of(command: &str) -> Vec<String> {
    let (_, help, _) = Ptth::run(&[command, "--help"]);
    let lines = help.lines().filter_map(|line| line.trim_start().split_once("--"));
    let begins = lines.filter(|(before, _)| before.is_empty() || before.ends_with(", "));
    let name = |rest: &str| rest.split([' ', '[', '.']).next().unwrap().to_owned();
    begins.map(|(_, rest)| name(rest)).collect()
}

#[test]
fn every_option_of_both_commands_may_stand_in_the_file() {
    let mut seen = 0;
    for command in ["gateway", "device"] {
        for option in options_of(command) {
            if ["config", "check", "help", "version"].contains(&option.as_str()) {
                continue;
            }
            let key = option.replace('-', "_");
            let file = File::new(&format!("[{command}]\n{key} = {{}}\n"));
            // No option is a table: it is known, and its value is wrong.
            let (code, _, err) = Ptth::run(&["gateway", "--check", "--config", file.path()]);
            let place = format!("line 2, column {}: {key}: write", key.len() + 4);
            assert!(code == 2 && err.contains(&place), "{command} {option}: {err}");
            seen += 1;
        }
    }
    assert!(seen > 70, "only {seen} options were found");
}

#[test]
fn mistakes_have_a_line_and_a_column() {
    let rows: &[(&str, &str, &[&str])] = &[
        ("[gateway]\nwait_for_lnk = \"5s\"\n", "line 2, column 1", &["did you mean wait_for_link"]),
        ("[gateway]\nwait_for_link = \"5\"\n", "line 2, column 17", &["unit"]),
        ("[gateway]\nwait-for-link = 5\n", "line 2, column 17", &["unit"]),
        ("[gateway]\nin_flight = 0\n", "line 2, column 13", &["from 1 on"]),
        ("[gateway]\nforwarded = \"yes\"\n", "line 2, column 13", &["true or false"]),
        ("[gateway]\nvia = [\"a\", \"b\"]\n", "line 2, column 7", &["one value"]),
        ("[gateway]\nvia = true\n", "line 2, column 7", &["switch"]),
        ("[gateway]\nvia = \"a\"\nVia = \"b\"\n", "line 3, column 1", &["Via"]),
        ("[gateway]\nmin_rate = 1\nmin-rate = 2\n", "line 3, column 1", &["second time"]),
        ("[gateway]\nconfig = \"other\"\n", "line 2, column 1", &["config"]),
        ("[gateway]\ncheck = true\n", "line 2, column 1", &["check"]),
        ("[gateway]\nfallback = \"maybe\"\n", "line 2, column 12", &["auto, never, only"]),
        ("gateway = 1\n", "line 1, column 1", &["[gateway]"]),
        ("[device]\nlinks = \"5..2\"\n", "line 2, column 9", &["MIN"]),
        (
            "[device]\ntext = \"ä\"\nto = \"http://a\"\n",
            "line 3, column 1",
            &["exclude each other"],
        ),
        ("[device] # ä\ngateway = [\"http://a/b\", 1.5]\n", "line 2, column 11", &["quotes"]),
        ("[devices]\n", "line 1, column 2", &["[device]"]),
        ("a = \"ä\" b\n", "line 1, column 9", &[]),
    ];
    each_row(
        rows,
        |row| row.0.replace('\n', " | "),
        |(text, place, words)| {
            let file = File::new(text);
            let (code, out, err) = Ptth::run(&["gateway", "--check", "--config", file.path()]);
            assert_eq!((code, out.as_str()), (2, ""), "{err}");
            let place = format!("{}, {place}: ", file.path());
            assert!(err.contains(&place), "{place} is not in: {err}");
            assert!(words.iter().all(|word| err.contains(word)), "{words:?}: {err}");
        },
    );
}

#[test]
fn an_option_that_goes_with_another_is_found_in_the_file() {
    let file = File::new("[device]\ntext = \"x\"\n  host_header = \"a\"\n");
    let (code, _, err) =
        Ptth::run(&["device", "http://127.0.0.1:9/lamp", "--config", file.path(), "--check"]);
    assert!(code == 2 && err.contains("--host-header goes with --to"), "{err}");
    assert!(err.contains("line 3, column 3 (--host-header)"), "{err}");
    // What was typed has no place in the file.
    let file = File::new("[device]\ntext = \"x\"\n");
    let url = "http://127.0.0.1:9/lamp";
    let (code, _, err) =
        Ptth::run(&["device", url, "--config", file.path(), "--host-header", "a", "--check"]);
    assert!(code == 2 && !err.contains("line"), "{err}");
}

#[test]
fn the_command_line_wins_over_the_environment_and_that_over_the_file() {
    let gateway = Gateway::start(&["--shared-names"]);
    let url = gateway.device_url("lamp");
    let file = File::new(&format!(
        "[device]\nurl = \"{url}\"\ntext = \"file\"\nbackoff = \"10ms..200ms\"\n\
         [gateway]\ndevices = \"127.0.0.1:1\"\n[[route]]\npath = \"/x\"\ndevice = \"lamp\"\n"
    ));
    let says = |typed: &[&str], variable: Option<&str>, expected: &str| {
        let mut command = Ptth::command(&["device", "--config", file.path()]);
        command.args(typed);
        variable.iter().for_each(|text| {
            command.env("PTTH_TEXT", text);
        });
        let device = Process::start(&mut command);
        assert!(device.line().starts_with("connected lamp"));
        gateway.get("/lamp/").expect_ok(expected);
    };
    says(&[], None, "file");
    says(&[], Some("environment"), "environment");
    says(&["--text", "typed"], None, "typed");
    // One that excludes an option of the file wins, too.
    let local = crate::support::LocalServer::start();
    says(&["--to", &local.url()], None, "hello\n");
    // The name of the file may come from the environment.
    let mut command = Ptth::command(&["device"]);
    let device = Process::start(command.env("PTTH_CONFIG", file.path()));
    assert!(device.line().starts_with("connected lamp"));
}

#[test]
fn a_gateway_takes_all_of_its_options_from_the_file() {
    let file = File::new(
        "[gateway]\ndevices = \"127.0.0.1:0\"\nvisitors = \"127.0.0.1:0\"\nroute = [\"none\"]\n\
         shared_names = true\nhalf_close = false\nhealth_path = \"/alive\"\nmin_rate = 0\n\
         drain_notice = \"0s\"\n[[route]]\npath = \"/api\"\ndevice = \"lamp\"\n[device]\ntext = \"x\"\n",
    );
    let gateway = Gateway::of(Ptth::start(&["gateway", "--config", file.path()]));
    let _device = Ptth::device(&gateway, "lamp", &["--text", "here"]);
    gateway.get("/api/x").expect_ok("here");
    gateway.get("/lamp/x").expect_refusal(404);
    assert_eq!(gateway.get("/alive").status(), 200);
}

#[test]
fn check_validates_and_binds_nothing() {
    let taken = RawGateway::at_localhost();
    let address = taken.addr.to_string();
    let gateway = |more: &[&str]| {
        let (code, out, err) =
            Ptth::run(&[&["gateway", "--check", "--devices", &address], more].concat());
        (code, format!("{out}{err}"))
    };
    let right = gateway(&[]);
    assert!(right.0 == 0 && right.1.contains("are valid"), "{}", right.1);
    let file = File::new("[[route]]\npath = \"/a\"\ndevice = \"Lamp\"\n");
    for (more, word) in [
        (&["--tokens", "/nowhere"][..], "--tokens /nowhere"),
        (&["--devices-cert", file.path(), "--devices-key", file.path()], "--devices-cert"),
        (&["--config", file.path()], "line 3, column 10"),
        (&["--visitors", "nonsense"], "nonsense"),
        (&["--visitors", &address], "two addresses"),
        (&["--cors-origin", "nonsense"], "nonsense"),
        (&["--route", "sideways"], "sideways"),
        (&["--trusted-proxies", "10.0.0.0/40"], "10.0.0.0/40"),
    ] {
        let told = gateway(more);
        assert!(told.0 == 2 && told.1.contains(word), "{more:?}: {}", told.1);
    }
    let device = |more: &[&str]| {
        let url = taken.url("lamp");
        let (code, out, err) = Ptth::run(&[&["device", &url, "--check"], more].concat());
        (code, format!("{out}{err}"))
    };
    let right = device(&["--text", "x"]);
    assert!(right.0 == 0 && right.1.contains("are valid"), "{}", right.1);
    for (more, word) in [
        (&["--to", "ftp://a"][..], "ftp"),
        (&["--dir", "/no/such/directory"], "/no/such/directory"),
        (&["--text", "x", "--token-file", "/nowhere"], "--token-file /nowhere"),
        (&["--text", "x", "--ca", "/nowhere"], "--ca /nowhere"),
    ] {
        let told = device(more);
        assert!(told.0 == 2 && told.1.contains(word), "{more:?}: {}", told.1);
    }
    assert!(taken.try_accept().is_none(), "a check dials nobody");
}

#[test]
fn what_operators_stumbled_over_is_told_in_words() {
    let twice = "[[route]]\npath = \"/a\"\ndevice = \"x\"\n".repeat(2);
    let (file, odd) = (File::new(&twice), File::new("[gateway]\n\"\\u001b[2J\" = 1\n"));
    for (arguments, words) in [
        (
            &["gateway", "--config", odd.path()][..],
            &["line 2, column 1", "has no setting ?[2J"][..],
        ),
        (
            &["gateway", "--heartbeat", "-1s"][..],
            &["'-1s'", "--heartbeat", "write a whole number"][..],
        ),
        (&["gateway", "--in-flight", "-1"], &["--in-flight", "from 1 on"]),
        (
            &["gateway", "--config", file.path()],
            &["line 4", "another route /a", "line 1, column 1"],
        ),
        (
            &["device", "http://127.0.0.1:9/lamp", "--text", "x", "--proxy", "socks5://a"],
            &["CONNECT", "http://HOST:PORT"],
        ),
    ] {
        let (code, out, error) = Ptth::run(&[arguments, &["--check"]].concat());
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {error}");
        for word in words {
            assert!(error.contains(word), "{arguments:?}: no {word:?} in {error}");
        }
    }
}

#[test]
fn a_reading_again_says_what_changed() {
    let (_, made, _) = Ptth::run(&["token", "lamp"]);
    let (_, other, _) = Ptth::run(&["token", "door"]);
    let (lamp, door) = (made.lines().nth(1).unwrap(), other.lines().nth(1).unwrap());
    let tokens = File::new(&format!("{lamp}\n"));
    let one = "[gateway]\nvia = \"one\"\n[[route]]\npath = \"/api\"\ndevice = \"lamp\"\n";
    let file = File::new(one);
    let gateway = Gateway::start(&["--config", file.path(), "--tokens", tokens.path()]);
    gateway.process.signal("HUP");
    gateway.process.expect_stderr("1 route was read from");
    gateway.process.expect_stderr(&format!("{}: nothing changed", file.path()));
    gateway.process.expect_stderr(&format!("1 token was read from {}: nothing", tokens.path()));
    // In the file the new route stands before the other, by host and path after it.
    let more = "[[route]]\nhost = \"b.example\"\ndevice = \"door\"\n";
    let text = one.replace("one", "two").replace("\"lamp\"", "\"desk\"");
    let text = text.replacen("[[route]]", &format!("{more}[[route]]"), 1);
    std::fs::write(&file.path, text).unwrap();
    std::fs::write(&tokens.path, format!("{door}\n{}\n", lamp.replace(" lamp", " lamp,desk")))
        .unwrap();
    gateway.process.signal("HUP");
    gateway.process.expect_stderr("1 added (b.example/), 1 changed (*/api)");
    gateway.process.expect_stderr("count from the next start on: 1 changed (via)");
    gateway.process.expect_stderr("2 tokens were read from");
    gateway.process.expect_stderr("1 added, 1 changed");
    // A mistake in an option changes nothing, routes included.
    std::fs::write(&file.path, "[gateway]\nfallbak = \"x\"\n").unwrap();
    gateway.process.signal("HUP");
    gateway.process.expect_stderr(
        "line 2, column 1: [gateway] has no setting fallbak; did you mean fallback?",
    );
    gateway.process.expect_stderr("the routes stay as they were");
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A request through `link`, answered.
#[track_caller]
fn exchange(visitor: &mut RawPeer, link: &mut RawPeer) {
    visitor.write(get("/lamp/x"));
    link.read_head();
    link.write(OK);
    visitor.read_answer("GET").expect_ok("ok");
}

/// Where a listener was added last, by the log.
#[track_caller]
fn added(gateway: &Gateway, whose: &str, on: &str) -> SocketAddr {
    let begin = format!("added {whose} http://{on}:");
    gateway.process.expect_stderr(&begin);
    let log = gateway.process.stderr();
    let (_, rest) = log.rsplit_once(&begin).unwrap();
    let port = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap();
    format!("{on}:{port}").parse().unwrap()
}

#[test]
fn sighup_moves_listeners_and_takes_limits_and_connections_stay() {
    let (one, other) = (own_address().to_string(), "127.0.0.1");
    let text = |devices: &str, visitors: &str, more: &str| {
        format!("[gateway]\ndevices = \"{devices}\"\nvisitors = \"{visitors}\"\n{more}\n")
    };
    let (here, there) = (format!("{one}:0"), format!("{other}:0"));
    let file = File::new(&text(&here, &here, ""));
    let mut gateway = Gateway::of(Ptth::start(&["gateway", "--config", file.path()]));
    let again = |gateway: &Gateway, text: &str| {
        std::fs::write(&file.path, text).unwrap();
        gateway.process.signal("HUP");
    };
    let (mut link, mut visitor) = (gateway.link("lamp"), gateway.visitor());
    exchange(&mut visitor, &mut link);
    again(&gateway, &text(&here, &there, "first_byte = \"100ms\""));
    gateway.process.expect_stderr("limits and timeouts: 1 added (first-byte)");
    let (devices, old) = (gateway.devices, gateway.visitors);
    let told = format!("; removed visitors http://{old}; kept devices http://{devices}");
    gateway.visitors = added(&gateway, "visitors", other);
    gateway.process.expect_stderr(&told);
    eventually("the old listener is closed", || TcpStream::connect(old).is_err().then_some(()));
    exchange(&mut visitor, &mut link); // who came in before stays
    exchange(&mut gateway.visitor(), &mut link);
    let mut late = gateway.visitor();
    late.write(get("/lamp/late"));
    link.read_head();
    late.read_answer("GET").expect_refusal(504);
    // What cannot be bound, or must not be, changes nothing.
    let mut link = gateway.link("lamp");
    again(&gateway, &text(&here, "203.0.113.7:1", ""));
    gateway.process.expect_stderr(&format!("visitors stay at {}", gateway.visitors));
    gateway.process.expect_stderr("limits and timeouts: 1 removed (first-byte)");
    exchange(&mut gateway.visitor(), &mut link);
    again(&gateway, &text("0.0.0.0:0", &there, ""));
    gateway.process.expect_stderr("--devices 0.0.0.0:0: beyond loopback");
    gateway.process.expect_stderr("the listeners stay as they were");
    exchange(&mut gateway.visitor(), &mut link);
    again(&gateway, &text(&there, &there, "in_flight = 0"));
    gateway.process.expect_stderr("and so do listeners and limits");
    // Devices move, too; their links stay.
    again(&gateway, &text(&there, &there, ""));
    gateway.devices = added(&gateway, "devices", other);
    eventually("the old listener is closed", || TcpStream::connect(devices).is_err().then_some(()));
    exchange(&mut gateway.visitor(), &mut link);
    let _door = gateway.link("door");
    // The routes of the file are for everybody, wherever they came in.
    again(&gateway, &text(&there, &there, "[[route]]\npath = \"/x\"\ndevice = \"lamp\""));
    gateway.process.expect_stderr("1 added (*/x)");
    visitor.write(get("/x"));
    link.read_head();
    link.write(OK);
    visitor.read_answer("GET").expect_ok("ok");
}

#[test]
fn sighup_moves_the_operators_listener_and_the_command_line_wins() {
    let file = File::new("[gateway]\nadmin = \"127.0.0.1:0\"\nin_flight = 7\n");
    let gateway = Gateway::start(&["--config", file.path(), "--in-flight", "9"]);
    let old = gateway.process.line().replace("admin http://", "");
    std::fs::write(&file.path, "[gateway]\nadmin = \"127.0.0.2:0\"\nin_flight = 8\n").unwrap();
    gateway.process.signal("HUP");
    let at = added(&gateway, "admin", "127.0.0.2").to_string();
    let (code, out, error) = Ptth::run(&["health", "--admin", &at]);
    assert_eq!((code, out.as_str()), (0, "ok"), "{error}");
    assert_eq!(Ptth::run(&["health", "--admin", &old]).0, 1);
    std::fs::write(&file.path, "[gateway]\nadmin = \"0.0.0.0:0\"\n").unwrap();
    gateway.process.signal("HUP");
    gateway.process.expect_stderr("the operators' listener stays as it was");
    std::fs::write(&file.path, "[gateway]\n").unwrap();
    gateway.process.signal("HUP");
    gateway.process.expect_stderr(&format!("listeners: removed admin http://{at}"));
    assert_eq!(Ptth::run(&["health", "--admin", &at]).0, 1);
    assert!(!gateway.process.stderr().contains("limits and timeouts"), "--in-flight was typed");
}
