//! Options that cannot work together, or an address that none can be: refused with both names, before
//! anything is bound or dialled. What merely does nothing is a line of the log.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::gateway::tokens::TokenFile;
use crate::support::process::Ptth;
use crate::support::{Authority, TempDir, each_row, free_port};

/// What a check of these options says.
#[track_caller]
fn check(options: &[&str]) -> (i32, String) {
    let (code, out, error) = Ptth::run(&[&options[..1], &["--check"], &options[1..]].concat());
    (code, format!("{out}{error}"))
}

#[test]
fn a_device_that_polls_alone_has_no_tcp_targets() {
    let device = ["device", "http://127.0.0.1:9/lamp", "--tcp", "ssh=127.0.0.1:22", "--fallback"];
    let (code, told) = check(&[&device[..], &["only"]].concat());
    assert!(code == 2 && told.contains("--tcp") && told.contains("--fallback only"), "{told}");
    for right in ["auto", "never"] {
        let (code, told) = check(&[&device[..], &[right]].concat());
        assert_eq!(code, 0, "{told}");
    }
    let polls = ["device", "http://127.0.0.1:9/lamp", "--text", "x", "--fallback", "only"];
    assert_eq!(check(&polls).0, 0);
}

#[test]
fn an_address_for_the_status_has_its_port() {
    let folder = TempDir::new("status-address");
    let status = |to: &str| {
        let device = ["device", "--check", "http://127.0.0.1:9/lamp", "--text", "x", "--status"];
        let mut command = Ptth::command(&[&device[..], &[to]].concat());
        Ptth::finish(command.current_dir(&folder.0))
    };
    for wrong in ["127.0.0.1", "localhost", "9991", "127.0.0.1:99999"] {
        let (code, _, error) = status(wrong);
        assert!(code == 2 && error.contains(&format!("--status {wrong}: write an")), "{error}");
        assert!(error.contains(&format!("./{wrong}")), "{error}");
    }
    let (code, _, error) = status("0.0.0.0:9991");
    assert!(code == 2 && error.contains("beyond loopback"), "{error}");
    for right in ["127.0.0.1:9991", "./127.0.0.1", "status.json"] {
        let (code, _, error) = status(right);
        assert_eq!(code, 0, "{right}: {error}");
    }
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 0, "a file was made");
}

#[test]
fn a_directory_that_may_not_be_entered_is_refused_at_the_start() {
    let folder = TempDir::new("closed");
    let is_root =
        std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0;
    std::fs::set_permissions(&folder.0, std::fs::Permissions::from_mode(0o755)).unwrap();
    // As nobody where the tests run as root; with a copy of the program where nobody may run it.
    let program = folder.0.join("ptth");
    std::fs::copy(env!("CARGO_BIN_EXE_ptth"), &program).unwrap();
    let check = |mode| {
        let served = folder.0.join(format!("mode-{mode:o}"));
        std::fs::create_dir(&served).unwrap();
        std::fs::set_permissions(&served, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut command = Command::new(&program);
        command.args(["device", "http://127.0.0.1:9/lamp", "--check", "--dir"]).arg(&served);
        if is_root {
            command.uid(65534).gid(65534);
        }
        let (code, out, error) = Ptth::finish(&mut command);
        std::fs::set_permissions(&served, std::fs::Permissions::from_mode(0o755)).unwrap();
        (code, out + &error)
    };
    let (closed, entered) = if is_root { (0o700, 0o711) } else { (0o400, 0o100) };
    let (code, told) = check(closed);
    assert!(code == 2 && told.contains("Permission denied"), "{told}");
    let (code, told) = check(entered);
    assert_eq!(code, 0, "{told}");
}

/// Options of a gateway, and what the refusal has; nothing where they are right.
type Row<'a> = (Vec<&'a str>, &'a [&'a str]);

#[test]
fn what_other_gateways_are_told_is_the_address_of_peers() {
    let ports: Vec<String> = (0..4).map(|_| free_port().to_string()).collect();
    let at = |n: usize| format!("127.0.0.1:{}", ports[n]);
    let url = |n: usize| format!("http://{}", at(n));
    let (devices, visitors, admin, peers) = (at(0), at(1), at(2), at(3));
    let everywhere = format!("0.0.0.0:{}", ports[1]);
    let mapped = format!("http://203.0.113.77:{}", ports[1]);
    let urls: Vec<String> = (0..4).map(url).collect();
    let secure = urls[3].replace("http", "https");
    let authority = Authority::new();
    let pair = authority.server("peers");
    let tls = ["--peers-cert", pair.certificate(), "--peers-key", pair.key()];
    let own = |more: &[&'_ str], visitors: &'_ str| -> Vec<String> {
        let listeners = ["gateway", "--devices", &devices, "--visitors", visitors];
        let others = ["--admin", &admin, "--peers", &peers, "--advertise"];
        [&listeners[..], &others[..], more].concat().iter().map(ToString::to_string).collect()
    };
    let rows: [(Vec<String>, &[&str]); 12] = [
        (own(&[&urls[0]], &visitors), &["--advertise", "is this gateway's --devices", "--peers"]),
        (own(&[&urls[1]], &visitors), &["--advertise", "is this gateway's --visitors", "--peers"]),
        (own(&[&urls[2]], &visitors), &["--advertise", "is this gateway's --admin", "--peers"]),
        (own(&[&urls[1]], &everywhere), &["--advertise", "is this gateway's --visitors"]),
        (own(&[&mapped], &everywhere), &[]),
        (own(&[&urls[3]], &visitors), &[]),
        (own(&["http://gw.example:7000"], &visitors), &[]),
        (own(&[&[&*urls[3]][..], &tls].concat(), &visitors), &["--advertise", "--peers-cert"]),
        (own(&[&[&*secure][..], &tls].concat(), &visitors), &[]),
        (own(&[&secure], &visitors), &["--advertise", "--peers-cert"]),
        (own(&["https://gw.example:7000"], &visitors), &[]), // a proxy speaks TLS there
        (own(&[&["http://gw.example"][..], &tls].concat(), &visitors), &[]),
    ];
    each_row(
        &rows,
        |row| row.0.join(" "),
        |(options, parts)| {
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            let (code, told) = check(&options);
            assert_eq!(code, if parts.is_empty() { 0 } else { 2 }, "{told}");
            parts.iter().for_each(|part| assert!(told.contains(part), "{part}: {told}"));
        },
    );
    // The last one may work, and is told.
    let last: Vec<&str> = rows[11].0.iter().map(String::as_str).collect();
    assert!(check(&last).1.contains("speaks TLS (--peers-cert)"));
}

#[test]
fn options_of_a_gateway_that_cannot_work_together_are_refused() {
    let rows: [Row<'_>; 5] = [
        (vec!["--route", "path", "--route", "none"], &["--route none"]),
        (vec!["--route", "none"], &[]),
        (vec!["--route", "path", "--route", "host=a.example"], &[]),
        (vec!["--peers", "127.0.0.1:0", "--peers-ca", "x"], &["--peers-ca", "--directory"]),
        (vec!["--peers", "127.0.0.1:0"], &[]),
    ];
    each_row(
        &rows,
        |row| row.0.join(" "),
        |(options, parts)| {
            let (code, told) = check(&[&["gateway"], &options[..]].concat());
            assert_eq!(code, if parts.is_empty() { 0 } else { 2 }, "{told}");
            parts.iter().for_each(|part| assert!(told.contains(part), "{part}: {told}"));
        },
    );
    // A file for several gateways, of which this one asks no other.
    let authority = Authority::new();
    let pair = authority.server("peers");
    let tls = ["--peers-cert", pair.certificate(), "--peers-key", pair.key()];
    let both = ["--peers-client-ca", authority.ca(), "--peers-ca", authority.ca()];
    let (code, told) = check(&[&["gateway", "--peers", "127.0.0.1:0"], &tls[..], &both].concat());
    assert!(code == 0 && told.contains("--peers-ca does nothing without --directory"), "{told}");
}

#[test]
fn options_that_do_nothing_are_told_and_not_refused() {
    let device = ["device", "http://127.0.0.1:9/lamp", "--text", "x"];
    let folder = TempDir::new("nothing");
    let file = folder.0.join("ptth.toml").display().to_string();
    std::fs::write(&file, "[gateway]\npoll_hold = \"9s\"\n").unwrap();
    let never = ["gateway", "--fallback", "never"];
    for (command, option, beside) in [
        ([&device[..], &["--fallback", "never", "--polls", "3"]].concat(), "polls", "never"),
        ([&device[..], &["--fallback", "never", "--comet", "json"]].concat(), "comet", "never"),
        (
            [&device[..], &["--fallback", "never", "--turn-retry", "1m"]].concat(),
            "turn-retry",
            "never",
        ),
        ([&device[..], &["--fallback", "never"]].concat(), "", ""),
        ([&device[..], &["--polls", "3"]].concat(), "", ""),
        ([&never[..], &["--poll-hold", "9s"]].concat(), "poll-hold", "--fallback never"),
        ([&never[..], &["--config", &file]].concat(), "poll-hold", "--fallback never"),
        ([&never[..], &["--poll-hold", "9s", "--turn", "on-demand"]].concat(), "", ""),
        (never.to_vec(), "", ""),
        (
            vec!["gateway", "--heartbeat", "0s", "--heartbeat-timeout", "1s"],
            "heartbeat-timeout",
            "--heartbeat 0s",
        ),
        (vec!["gateway", "--heartbeat", "0s"], "", ""),
    ] {
        let (code, told) = check(&command);
        assert_eq!(code, 0, "{command:?}: {told}");
        let line = told.lines().find(|line| line.contains("does nothing beside"));
        match (option, line) {
            ("", line) => assert_eq!(line, None, "{command:?}"),
            (option, line) => {
                let line = line.unwrap_or_else(|| panic!("{command:?}: {told}"));
                assert!(line.contains(&format!("--{option} ")) && line.contains(beside), "{line}");
            }
        }
    }
}

#[test]
fn an_address_that_is_none_is_told_with_its_option_and_its_place() {
    let folder = TempDir::new("addresses");
    let file = folder.0.join("ptth.toml").display().to_string();
    for (option, wrong) in [
        ("devices", "24031"),
        ("visitors", "\"127.0.0.1\""),
        ("admin", "\"nowhere\""),
        ("peers", "\"http://127.0.0.1:1\""),
    ] {
        std::fs::write(&file, format!("[gateway]\n{option} = {wrong}\n")).unwrap();
        let (code, told) = check(&["gateway", "--config", &file]);
        let column = option.len() + 4;
        let place = format!("{file}, line 2, column {column}: {option}: ");
        assert!(code == 2 && told.contains(&place), "{place}: {told}");
        let typed = wrong.trim_matches('"');
        let (code, told) = check(&["gateway", &format!("--{option}"), typed]);
        assert!(code == 2 && told.contains(&format!("--{option} <")), "{told}");
        std::fs::write(&file, format!("[gateway]\n{option} = \"127.0.0.1:0\"\n")).unwrap();
        let (code, told) = check(&["gateway", "--config", &file]);
        assert_eq!(code, 0, "{told}");
    }
    // A name that nobody knows: the file has an address, and it is none of a machine.
    std::fs::write(&file, "[gateway]\n\nvisitors = \"nobody.invalid:80\"\n").unwrap();
    let (code, told) = check(&["gateway", "--config", &file]);
    assert!(code == 2 && told.contains("--visitors nobody.invalid:80: "), "{told}");
    assert!(told.contains("line 3, column 1"), "{told}");
}

#[test]
fn a_value_that_cannot_work_is_told_with_its_option() {
    let folder = TempDir::new("values");
    let file = folder.0.join("ptth.toml").display().to_string();
    for (option, wrong, right) in [
        ("first-byte", "0s", "1s"),
        ("poll-hold", "0s", "1s"),
        ("heartbeat-timeout", "0s", "1s"),
        ("connections", "3", "4"),
        ("trusted-proxies", "10.0.0.0/40", "10.0.0.0/8"),
        ("devices-allow", "nobody", "10.0.0.0/8"),
        ("visitors-allow", "nobody", "10.0.0.0/8"),
        ("devices-proxy-protocol", "nobody", "10.0.0.0/8"),
        ("visitors-proxy-protocol", "nobody", "10.0.0.0/8"),
        ("drain-to", "nonsense", "http://b.example:9999"),
        ("health-path", "health", "/health"),
        ("via", "a b", "a-b"),
    ] {
        let option = format!("--{option}");
        let (code, told) = check(&["gateway", &option, wrong]);
        assert!(code == 2 && told.contains(&option), "{told}");
        let (code, told) = check(&["gateway", &option, right]);
        assert_eq!(code, 0, "{told}");
        let name = option.trim_start_matches('-').replace('-', "_");
        std::fs::write(&file, format!("[gateway]\n\n{name} = \"{wrong}\"\n")).unwrap();
        let (code, told) = check(&["gateway", "--config", &file]);
        assert!(code == 2 && told.contains("line 3, column "), "{told}");
    }
}

#[test]
fn a_gateway_has_a_port() {
    let device = |url: &str| check(&["device", url, "--text", "x"]);
    let (code, told) = device("http://127.0.0.1:0/lamp");
    assert!(code == 2 && told.contains("port 0"), "{told}");
    assert_eq!(device("http://127.0.0.1:1/lamp").0, 0);
    let advertised = |url: &str| check(&["gateway", "--peers", "127.0.0.1:0", "--advertise", url]);
    let (code, told) = advertised("http://gw.example:0");
    assert!(code == 2 && told.contains("--advertise") && told.contains("port 0"), "{told}");
    assert_eq!(advertised("http://gw.example:1").0, 0);
}

#[test]
fn nobody_there_is_told_with_what_to_look_at() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let called = Ptth::run(&["call", "lamp", "GET", "/", "--visitors", &nobody]);
    let connected = Ptth::run(&["connect", &format!("{nobody}/lamp/ssh")]);
    for (code, _, error) in [called, connected] {
        assert!(code == 1 && error.contains("does a gateway run there"), "{error}");
        assert!(error.contains("--visitors") && error.contains(&nobody[7..]), "{error}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let gateway = ["gateway", "--devices", "127.0.0.1:0", "--visitors", "127.0.0.1:0"];
    let (code, _, error) = Ptth::run(&[&gateway[..], &["--admin", &at]].concat());
    assert!(code == 1 && error.contains("another program has this port"), "{error}");
    let device = ["device", "http://127.0.0.1:9/lamp", "--text", "x", "--status", &at];
    let (code, _, error) = Ptth::run(&device);
    assert!(code == 1 && error.contains("another program has this port"), "{error}");
}

#[test]
fn files_of_gateways_are_told_once_and_with_their_lines() {
    let (authority, folder) = (Authority::new(), TempDir::new("secrets"));
    let secrets = folder.0.join("secrets").display().to_string();
    let gateway = ["gateway", "--peers", "127.0.0.1:0", "--peer-secret", &secrets];
    for (text, told) in [
        ("0123456789abcdef\n# old\n\nshort\n", ", line 4: "),
        ("short\n", ", line 1: "),
        ("# none\n", ": there is no secret"),
    ] {
        std::fs::write(&secrets, text).unwrap();
        let (code, error) = check(&gateway);
        assert!(code == 2 && error.contains(&format!("--peer-secret {secrets}{told}")), "{error}");
        assert!(!error.contains("short"), "a secret is told: {error}");
    }
    std::fs::write(&secrets, "0123456789abcdef\n# old\nfedcba9876543210\n").unwrap();
    assert_eq!(check(&gateway).0, 0);
    let tokens = TokenFile::new(&[("visitor", "lamp")]);
    let alone = ["gateway", "--sign-in-key", &secrets];
    let edge = [&alone[..], &["--visitor-tokens", tokens.path()]].concat();
    let long = "k".repeat(32);
    for (text, told) in [
        (format!("{long}\n\n0123456789abcdef\n"), ", line 3: a key of sign-ins has 32 to 256 "),
        (format!("{long}\n").repeat(9), ": there are 9 keys"),
        ("# none\n".to_owned(), ": there is no key"),
    ] {
        std::fs::write(&secrets, text).unwrap();
        let (code, error) = check(&edge);
        assert!(code == 2 && error.contains(&format!("--sign-in-key {secrets}{told}")), "{error}");
        assert!(!error.contains(&long), "{error}");
    }
    std::fs::write(&secrets, format!("{long}\n# old\n{long}x\n")).unwrap();
    assert_eq!(check(&edge).0, 0);
    let (code, error) = check(&alone);
    assert!(code == 2 && error.contains("--sign-in-key goes with --visitor-tokens"), "{error}");
    let pair = authority.server("peers");
    let readable = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(pair.key(), readable).unwrap();
    let tls = ["--peers-cert", pair.certificate(), "--peers-key", pair.key()];
    let (code, told) = check(&[&gateway[..], &tls].concat());
    assert_eq!(code, 0, "{told}");
    assert_eq!(told.matches(&format!("--peers-key {}", pair.key())).count(), 1, "{told}");
}

#[test]
fn a_variable_that_is_empty_is_told_by_its_name() {
    let with = |variable: &str, value: &str| {
        let mut command = Ptth::command(&["gateway", "--check"]);
        Ptth::finish(command.env(variable, value))
    };
    for variable in ["PTTH_DEVICES", "PTTH_PEERS", "PTTH_ADMIN", "PTTH_HEARTBEAT"] {
        let (code, _, error) = with(variable, "");
        let told = format!("{variable} in the environment is empty; unset it, or write ");
        assert!(code == 2 && error.contains(&told), "{error}");
    }
    let (code, _, error) = with("PTTH_DEVICES", "24031");
    assert!(code == 2 && error.contains("PTTH_DEVICES in the environment: \"24031\""), "{error}");
    assert_eq!(with("PTTH_DEVICES", "127.0.0.1:0").0, 0);
}
