//! Threads, tokens and log of the process.

use crate::support::process::{Process, get};
use crate::support::raw::find;
use crate::support::{Ptth, RawGateway, RawPeer, eventually};

#[test]
fn a_device_that_holds_many_idle_links_has_no_thread_for_each() {
    let raw = RawGateway::start();
    let few = Ptth::start(&["device", &raw.url("few"), "--text", "x", "--links", "5..5"]);
    let links: Vec<RawPeer> = (0..5).map(|_| raw.turn()).collect();
    links.into_iter().enumerate().for_each(|(i, mut l)| {
        assert_eq!(l.ask("OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n").status(), 204, "link {i}")
    });
    let other = RawGateway::start();
    let many = Ptth::start(&["device", &other.url("many"), "--text", "x", "--links", "300..300"]);
    let mut links: Vec<RawPeer> = (0..300).map(|_| other.turn()).collect();
    links
        .iter_mut()
        .for_each(|l| assert_eq!(l.ask("OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n").status(), 204));
    eventually("no more threads than with five links", || {
        (many.threads() <= few.threads()).then_some(())
    });
    assert!(find(links[299].ask(&get("/")).body.as_slice(), b"x").is_some());
}

#[test]
fn a_token_comes_from_a_file_or_the_environment_and_is_never_shown() {
    let raw = RawGateway::start();
    let folder = crate::support::TempDir::new("token");
    let file = folder.0.join("token");
    std::fs::write(&file, "hunter2\n").unwrap();
    let url = raw.url("lamp");
    let mut by_file =
        Ptth::command(&["device", &url, "--text", "x", "--token-file", file.to_str().unwrap()]);
    let mut by_environment = Ptth::command(&["device", &url, "--text", "x"]);
    by_environment.env("PTTH_TOKEN", "hunter2");
    for command in [&mut by_file, &mut by_environment] {
        let mut device = Process::start(command);
        let (mut peer, offer) = raw.offer();
        assert_eq!(offer.get("authorization"), Some("Bearer hunter2"));
        peer.write(
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 0\r\n\r\n",
        );
        assert_eq!(device.exit_code(), 3);
        assert!(!device.stderr().contains("hunter2"), "{}", device.stderr());
    }
    let (code, _, stderr) =
        Ptth::run(&["device", &url, "--text", "x", "--token-file", "/dev/null"]);
    assert!(code == 2 && stderr.contains("token"), "{code}: {stderr}");
}

/// How a device is connected is a line of standard output, and not one of the log beside it.
#[test]
fn a_connection_is_told_once() {
    let raw = RawGateway::start();
    let device = Ptth::start(&["device", &raw.url("lamp"), "--text", "on"]);
    drop(raw.turn());
    device.line_like("connected lamp via");
    device.expect_stderr("disconnected lamp from");
    assert!(!device.stderr().contains("] connected lamp"), "{}", device.stderr());
}

/// What a gateway says of its refusal reaches the device's log; what something on the
/// way says, or what is no plain text, does not.
#[test]
fn a_gateways_own_words_are_in_the_devices_log() {
    for (status, mark, said) in [
        ("400 Bad Request", "ptth; details=\"this port speaks TLS\"", Some("this port speaks TLS")),
        (
            "403 Forbidden",
            "ptth; error=x; details=\"not for this name\"",
            Some("not for this name"),
        ),
        ("429 Full", "nginx; details=\"of another\", ptth", None),
        ("429 Full", "ptth; details=\"of \\\\another\"", None),
        ("429 Full", "ptth; details=\"of another", None),
    ] {
        let raw = RawGateway::start();
        let device = Ptth::start(
            &[&["device", &raw.url("lamp"), "--text", "on"], &["--backoff", "60s..60s"][..]]
                .concat(),
        );
        let (mut peer, _) = raw.offer();
        peer.write(format!("HTTP/1.1 {status}\r\nProxy-Status: {mark}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"));
        match said {
            Some(said) => device.expect_stderr(said),
            None => {
                device.expect_stderr("429");
                assert!(!device.stderr().contains("another"), "{mark}: {}", device.stderr());
            }
        }
    }
}
