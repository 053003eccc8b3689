//! Files that are read again, and signals: what hangs, never ends, vanishes or is half written
//! changes nothing, and signals work (T55).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::gateway::tokens::{TokenFile, bearer};
use crate::support::pki::{NOW, TlsPeer, Years};
use crate::support::process::get;
use crate::support::{Authority, Gateway, Process, Ptth, TempDir, each_row, eventually};

/// Sends a signal and waits for one more line with this text.
#[track_caller]
fn says(process: &Process, signal: &str, text: &str) {
    let count = || process.stderr().matches(text).count();
    let before = count();
    process.signal(signal);
    eventually(&format!("{text:?} after SIG{signal}; there is:\n{}", process.stderr()), || {
        (count() > before).then_some(())
    });
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// What may stand where a file should be, by name.
type Spoiler = (&'static str, fn(&Path));

fn spoilers() -> Vec<Spoiler> {
    vec![
        ("a FIFO that nobody writes to", fifo),
        ("nothing", |_| {}),
        ("a device that never ends", |path| symlink("/dev/zero", path).unwrap()),
        ("a directory", |path| std::fs::create_dir(path).unwrap()),
        ("a link that leads nowhere", |path| symlink("nowhere", path).unwrap()),
        ("17 MiB", |path| std::fs::File::create(path).unwrap().set_len(17 << 20).unwrap()),
    ]
}

/// Puts something else in a file's place while `check` runs.
fn spoiled(path: &Path, spoil: fn(&Path), check: impl FnOnce()) {
    let kept = path.with_extension("kept");
    std::fs::rename(path, &kept).unwrap();
    spoil(path);
    check();
    let _ = std::fs::remove_file(path).or_else(|_| std::fs::remove_dir(path)); // it may be nothing
    std::fs::rename(&kept, path).unwrap();
}

#[test]
fn files_of_a_gateway_that_cannot_be_read_change_nothing_and_signals_work() {
    let authority = Authority::new();
    let pair = authority.server("gateway");
    let dir = TempDir::new("reload");
    let config = dir.0.join("routes.toml");
    std::fs::write(&config, "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\n").unwrap();
    let (devices, visitors) =
        (TokenFile::new(&[("secret", "lamp")]), TokenFile::new(&[("visitor", "lamp")]));
    let keys = dir.0.join("keys");
    std::fs::write(&keys, "k".repeat(32)).unwrap();
    let mut gateway = Gateway::start(&[
        "--tokens",
        devices.path(),
        "--visitor-tokens",
        visitors.path(),
        "--sign-in-key",
        keys.to_str().unwrap(),
        "--config",
        config.to_str().unwrap(),
        "--visitors-cert",
        pair.certificate(),
        "--visitors-key",
        pair.key(),
    ]);
    let url = gateway.device_url("lamp");
    let device = Process::start(
        Ptth::command(&["device", &url, "--text", "hi"]).env("PTTH_TOKEN", "secret"),
    );
    assert!(device.line().starts_with("connected lamp"));
    let client = Arc::new(authority.client(None));
    let ask = || {
        let request = format!("GET /api/x HTTP/1.1\r\nHost: a\r\n{}\r\n", bearer("visitor"));
        let (head, body) = TlsPeer::connect(gateway.visitors, client.clone()).ask(&request);
        assert_eq!((head.status(), body.as_str()), (200, "hi"));
    };
    let files: Vec<(&str, &Path)> = vec![
        ("tokens", &devices.path),
        ("tokens", &visitors.path),
        ("keys", &keys),
        ("routes", &config),
        ("certificates for visitors", &pair.certificate),
        ("certificates for visitors", &pair.key),
    ];
    for (what, file) in &files {
        let few = if what.starts_with("certificates") { 2 } else { usize::MAX }; // a pair is tried for a while
        for (spoiler, spoil) in spoilers().into_iter().take(few) {
            spoiled(file, spoil, || {
                says(&gateway.process, "HUP", &format!("{what} stay as they were"))
            });
            assert!(!gateway.process.stderr().contains("0 tokens"), "{spoiler}");
        }
        ask();
    }
    // A pair that is right and has expired.
    let old = authority.issue("old", &["localhost"], Years(2020, 2021));
    let mine = (std::fs::read(&pair.certificate).unwrap(), std::fs::read(&pair.key).unwrap());
    std::fs::copy(&old.certificate, &pair.certificate).unwrap();
    std::fs::copy(&old.key, &pair.key).unwrap();
    says(&gateway.process, "HUP", "has expired, on Fri, 01 Jan 2021");
    ask();
    std::fs::write(&pair.certificate, mine.0).unwrap();
    std::fs::write(&pair.key, mine.1).unwrap();
    says(&gateway.process, "HUP", "the certificates for visitors were read again");
    ask();
    // The case that could only be killed: a FIFO, and signals while it is read.
    let (kept, tokens) = (devices.path.with_extension("kept"), devices.path.clone());
    std::fs::rename(&tokens, &kept).unwrap();
    fifo(&tokens);
    gateway.process.signal("HUP");
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit_code(), 0);
}

#[test]
fn files_of_a_device_that_cannot_be_read_change_nothing_and_signals_work() {
    let authority = Authority::new();
    let (pair, own) = (authority.server("gateway"), authority.device("lamp", &["lamp"]));
    let gateway = Gateway::start(&[
        "--devices-cert",
        pair.certificate(),
        "--devices-key",
        pair.key(),
        "--devices-client-ca",
        authority.ca(),
    ]);
    let url = format!("https://localhost:{}/lamp", gateway.devices.port());
    let files = ["--ca", authority.ca(), "--cert", own.certificate(), "--key", own.key()];
    let mut device = Ptth::start(&[&["device", &url, "--text", "hi"], &files[..]].concat());
    assert!(device.line().starts_with("connected lamp"));
    for file in [&authority.file, &own.certificate, &own.key] {
        for (_, spoil) in
            spoilers().into_iter().take(if file == &authority.file { usize::MAX } else { 2 })
        {
            spoiled(file, spoil, || says(&device, "HUP", "certificates stay as they were"));
            gateway.get("/lamp/").expect_ok("hi");
        }
    }
    std::fs::remove_file(&own.key).unwrap();
    fifo(&own.key);
    device.signal("HUP");
    device.signal("TERM");
    assert_eq!(device.exit_code(), 0);
}

#[test]
fn at_the_start_files_are_bounded_in_size() {
    let gateway = ["gateway", "--devices", "127.0.0.1:0", "--visitors", "127.0.0.1:0"];
    let (plain, secure) = (
        ["device", "http://localhost:1/lamp", "--text", "hi"],
        ["device", "https://localhost:1/lamp", "--text", "hi"],
    );
    let folder = TempDir::new("long-files");
    let long = folder.0.join("long");
    std::fs::File::create(&long).unwrap().set_len(17 << 20).unwrap();
    let long = long.to_str().unwrap();
    let rows: Vec<Vec<&str>> = vec![
        [&gateway[..], &["--config", long]].concat(),
        [&gateway[..], &["--tokens", long]].concat(),
        [&gateway[..], &["--visitor-tokens", long]].concat(),
        [&gateway[..], &["--devices-cert", long, "--devices-key", long]].concat(),
        [&gateway[..], &["--visitors-cert", long, "--visitors-key", long]].concat(),
        [&plain[..], &["--token-file", long]].concat(),
        [&secure[..], &["--ca", long]].concat(),
        [&secure[..], &["--cert", long, "--key", long]].concat(),
    ];
    each_row(
        &rows,
        |row| row.join(" "),
        |row| {
            let (code, _, stderr) = Ptth::run(row);
            assert!(
                code == 2 && stderr.contains(long) && stderr.contains("longer than"),
                "{code}: {stderr}"
            );
        },
    );
}

/// `ptth device --token-file -`, with an input that stays open.
fn with_open_input(gateway: &Gateway, input: &[u8]) -> (std::process::Child, Option<String>) {
    use std::io::{BufRead, BufReader, Write};
    let mut command = Ptth::command(&[
        "device",
        &gateway.device_url("lamp"),
        "--text",
        "hi",
        "--token-file",
        "-",
    ]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(input); // where it is longer than is read, the process has ended
    let mut line = String::new();
    let read = BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.stdin = Some(stdin);
    (child, (read > 0).then_some(line))
}

#[test]
fn a_token_on_standard_input_is_its_first_line_and_bounded() {
    let tokens = TokenFile::new(&[("secret", "lamp")]);
    let gateway = Gateway::start(&["--tokens", tokens.path()]);
    for input in ["secret\n", "\r\n  secret \r\nmore\n", "\u{feff}secret\n"] {
        let (mut child, line) = with_open_input(&gateway, input.as_bytes());
        assert!(line.is_some_and(|line| line.starts_with("connected lamp")), "{input:?}");
        child.kill().unwrap(); // by its own id
        child.wait().unwrap();
    }
    let (child, line) = with_open_input(&gateway, &[0; 200_000]);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        line.is_none() && output.status.code() == Some(2) && stderr.contains("longer than 64 KiB"),
        "{stderr}"
    );
}

/// Nothing is to be lost yet: the usual way of a signal ends the process.
#[test]
fn a_signal_ends_a_start_that_waits_for_a_file() {
    use std::os::unix::process::ExitStatusExt;
    let dir = TempDir::new("waits");
    let path = dir.0.join("tokens");
    fifo(&path);
    let arguments = [
        "gateway",
        "--devices",
        "127.0.0.1:0",
        "--visitors",
        "127.0.0.1:0",
        "--tokens",
        "/dev/stdin",
    ];
    let writer = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut command = Ptth::command(&arguments);
    command.stdin(std::fs::File::open(&path).unwrap());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the FIFO is being read", || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", child.id())).ok()?;
        open.flatten()
            .filter(|entry| entry.file_name() != "0")
            .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|link| link == path))
            .then_some(())
    });
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    let status = eventually("it ends", || child.try_wait().unwrap());
    assert_eq!(status.signal(), Some(15));
    drop(writer);
}

// ── renewal ──

/// What a gateway shows to visitors.
fn shown(gateway: &Gateway, authority: &Authority) -> Vec<u8> {
    let mut peer = TlsPeer::connect(gateway.visitors, Arc::new(authority.client(None)));
    peer.ask(&get("/nobody/"));
    peer.0.conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn a_renewal_that_writes_two_files_one_after_the_other_is_read_when_they_are_a_pair() {
    let authority = Authority::new();
    let pair = authority.server("gateway");
    let gateway =
        Gateway::start(&["--visitors-cert", pair.certificate(), "--visitors-key", pair.key()]);
    let before = shown(&gateway, &authority);
    let new = authority.server("new");
    std::fs::copy(&new.certificate, &pair.certificate).unwrap();
    gateway.process.signal("HUP");
    std::fs::copy(&new.key, &pair.key).unwrap();
    gateway.process.expect_stderr("the certificates for visitors were read again");
    assert_ne!(shown(&gateway, &authority), before);
    assert!(
        !gateway.process.stderr().contains("stay as they were"),
        "{}",
        gateway.process.stderr()
    );
}

/// certbot's way: `live/` has links into `archive/`, and each is moved.
#[test]
fn links_that_are_moved_to_renewed_files_are_followed() {
    let authority = Authority::new();
    let (old, new) = (authority.server("old"), authority.server("new"));
    let dir = TempDir::new("live");
    let live = |name: &str| dir.0.join(name);
    let point = |name: &str, to: &PathBuf| {
        let beside = live("beside");
        symlink(to, &beside).unwrap();
        std::fs::rename(beside, live(name)).unwrap();
    };
    point("cert", &old.certificate);
    point("key", &old.key);
    let (cert, key) = (live("cert"), live("key"));
    let gateway = Gateway::start(&[
        "--visitors-cert",
        cert.to_str().unwrap(),
        "--visitors-key",
        key.to_str().unwrap(),
    ]);
    let before = shown(&gateway, &authority);
    point("cert", &new.certificate);
    gateway.process.signal("HUP");
    point("key", &new.key);
    gateway.process.expect_stderr("the certificates for visitors were read again");
    assert_ne!(shown(&gateway, &authority), before);
    // What is cut off half-way is told, and what was in force stays.
    let now = shown(&gateway, &authority);
    std::fs::write(&new.certificate, &new.certificate_pem[..new.certificate_pem.len() / 2])
        .unwrap();
    says(&gateway.process, "HUP", "the certificates for visitors stay as they were");
    assert_eq!(shown(&gateway, &authority), now);
}

#[test]
fn a_device_shows_its_renewed_certificate_at_the_next_dial() {
    let (authority, successor) = (Authority::new(), Authority::new());
    let (pair, own) = (authority.server("gateway"), authority.device("lamp", &["lamp"]));
    let ca = authority.folder().join("devices-ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let files = [
        "--devices-cert",
        pair.certificate(),
        "--devices-key",
        pair.key(),
        "--devices-client-ca",
        ca.to_str().unwrap(),
    ];
    let gateway = Gateway::start(&files);
    let url = format!("https://localhost:{}/lamp", gateway.devices.port());
    let shows = [
        "--ca",
        authority.ca(),
        "--cert",
        own.certificate(),
        "--key",
        own.key(),
        "--backoff",
        "10ms..200ms",
    ];
    let device = Ptth::start(&[&["device", &url, "--text", "hi"], &shows[..]].concat());
    assert!(device.line().starts_with("connected lamp"));
    // Without a signal to it: its files change, then the gateway takes another CA's certificates
    // alone.
    let renewed = successor.issue("lamp", &["lamp"], NOW);
    std::fs::copy(&renewed.certificate, &own.certificate).unwrap();
    std::fs::copy(&renewed.key, &own.key).unwrap();
    device.expect_stderr("the certificates were read again");
    std::fs::write(&ca, &successor.pem).unwrap();
    says(&gateway.process, "HUP", "the certificates for devices were read again");
    let line = device.line_within(Duration::from_secs(20));
    assert!(line.is_some_and(|line| line.starts_with("connected lamp")), "{}", device.stderr());
    gateway.get("/lamp/").expect_ok("hi");
}

// ── signals ──

#[test]
fn a_storm_of_sighups_is_few_readings() {
    let tokens = TokenFile::new(&[("secret", "lamp")]);
    let mut gateway = Gateway::start(&["--tokens", tokens.path()]);
    let storm = format!("for i in $(seq 500); do kill -HUP {}; done", gateway.process.id());
    assert!(Command::new("sh").args(["-c", &storm]).status().unwrap().success());
    says(&gateway.process, "HUP", "1 token was read");
    gateway.get("/nobody/").expect_refusal(404);
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit_code(), 0);
}

#[test]
fn sigusr1_is_a_line_about_what_goes_on() {
    let gateway = Gateway::start(&[]);
    let device = Ptth::device(&gateway, "lamp", &["--text", "hi", "--links", "1..1"]);
    gateway.get("/lamp/").expect_ok("hi");
    says(
        &gateway.process,
        "USR1",
        "state: 1 device connected, 0 polls held; since the start 1 turn, 0 events, 1 exchange",
    );
    // A visitor can have its answer before the device knows that its link is free.
    let text =
        "state: connected by turn, 1 link (0 busy), 0 polls, 0 dials; since the start 1 exchange";
    eventually("the device has a free link", || {
        let lines = device.stderr().matches("state: ").count();
        device.signal("USR1");
        eventually("a line", || (device.stderr().matches("state: ").count() > lines).then_some(()));
        device.stderr().contains(text).then_some(())
    });
    gateway.get("/lamp/").expect_ok("hi");
}

#[test]
fn a_second_sigterm_within_a_drain_ends_either_side() {
    let mut gateway = Gateway::start(&["--drain-timeout", "100s"]);
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    link.read_head();
    says(&gateway.process, "TERM", "stopping");
    gateway.process.signal("HUP");
    gateway.process.signal("USR1");
    link.expect_quiet(Duration::from_millis(100)); // neither ends it
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit_code(), 1);
}
