//! What `ptth gateway --check` finds before anything is bound, files that would be waited for, and
//! what a terminal obeys.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use crate::support::process::Ptth;
use crate::support::{TempDir, free_port, need, ptth};

const COMMON: [&str; 5] = ["gateway", "--devices", "127.0.0.1:0", "--visitors", "127.0.0.1:0"];

#[test]
fn a_check_finds_addresses_that_cannot_work_and_binds_none() {
    let folder = TempDir::new("check-addresses");
    let file = folder.0.join("file");
    std::fs::write(&file, "[gateway]").unwrap();
    let port = free_port();
    let (own, other) = (format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}"));
    let unix = |path: &Path| format!("unix:{}", path.display());
    let (missing, no_socket) = (unix(&folder.0.join("no/admin.sock")), unix(&file));
    let long = unix(&folder.0.join("x".repeat(200)));
    let below = unix(&file.join("admin.sock"));
    let check = |more: &[&str]| Ptth::run(&[&["gateway", "--check"], more].concat());
    for (devices, visitors, admin, told) in [
        (&*own, &*own, "127.0.0.1:0", "--devices and --visitors are both"),
        ("127.0.0.1:0", &*own, &*own, "--visitors and --admin are both"),
        (&*own, &*other, "127.0.0.1:0", "are one address"),
        (
            "127.0.0.1:0",
            "203.0.113.77:80",
            "127.0.0.1:0",
            "--visitors 203.0.113.77:80: this machine",
        ),
        ("127.0.0.1:0", "127.0.0.1:0", &*missing, "/no: No such file"),
        ("127.0.0.1:0", "127.0.0.1:0", &*no_socket, "a file that is not a socket"),
        ("127.0.0.1:0", "127.0.0.1:0", &*below, "is no folder"),
        ("127.0.0.1:0", "127.0.0.1:0", &*long, "--admin unix:"),
    ] {
        let (code, out, error) =
            check(&["--devices", devices, "--visitors", visitors, "--admin", admin]);
        assert!(code == 2 && out.is_empty(), "{devices} {visitors} {admin}: {code} {out} {error}");
        assert!(error.contains(told), "{told}: {error}");
    }
    // An address that somebody listens on is no mistake: it may be the gateway that is to be
    // restarted.
    let taken = TcpListener::bind(&own).unwrap();
    let socket = unix(&folder.0.join("admin.sock"));
    let (code, out, error) =
        check(&["--devices", &own, "--visitors", "127.0.0.1:0", "--admin", &socket]);
    assert!(code == 0 && out.contains("are valid"), "{error}");
    assert!(!folder.0.join("admin.sock").exists());
    drop(taken);
    // The same at a start, before anything is bound.
    let same = ["--devices", &own, "--visitors", "127.0.0.1:0", "--admin", &own];
    let (code, out, error) = Ptth::run(&[&["gateway"], &same[..]].concat());
    assert!(code == 2 && out.is_empty() && error.contains("are both"), "{error}");
}

#[test]
fn a_fifo_is_refused_at_once_and_a_pipe_of_the_shells_is_read() {
    let folder = TempDir::new("fifos");
    let fifo = folder.0.join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let fifo = fifo.to_str().unwrap();
    let at = |option| [option, fifo];
    let data = format!("@{fifo}");
    let common = &COMMON[..];
    for command in [
        [common, &["--check"], &at("--tokens")].concat(),
        [common, &["--check"], &at("--config")].concat(),
        [common, &["--check", "--admin", "127.0.0.1:0"], &at("--admin-tokens")].concat(),
        [common, &["--check"], &at("--devices-cert"), &at("--devices-key")].concat(),
        [common, &at("--tokens")].concat(),
        [&["status"][..], &at("--admin-token-file")].concat(),
        [&["call", "lamp", "GET", "/"][..], &at("--token-file")].concat(),
        vec!["call", "lamp", "POST", "/", "--data", &data],
        [&["device", "http://127.0.0.1:1/lamp", "--text", "x"][..], &at("--token-file")].concat(),
    ] {
        let (code, out, error) = Ptth::run(&command);
        assert!(code == 2 && out.is_empty(), "{command:?}: {code} {error}");
        assert!(error.contains("it is not a regular file"), "{command:?}: {error}");
    }
    let ptth = ptth();
    let (_, lines, _) = Ptth::run(&["token", "lamp"]);
    let line = lines.lines().nth(1).unwrap();
    let script = format!(
        "echo '{line}' | {} {} --check --tokens /dev/stdin",
        ptth.display(),
        common.join(" ")
    );
    let (code, out, error) = Ptth::finish(Command::new("sh").args(["-c", &script]));
    assert!(code == 0 && out.contains("are valid"), "{error}");
}

/// A server that gives one answer.
fn answering(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer);
        }
    });
    url
}

#[test]
fn a_head_is_shown_on_a_terminal_without_what_that_obeys() {
    let url =
        answering(b"HTTP/1.1 200 OK\r\nX-A: \xc2\x9b2J\xe2\x80\xae\r\nContent-Length: 2\r\n\r\nok");
    let call = ["call", "lamp", "GET", "/", "-i", "--visitors", &url];
    let (code, out, error) = Ptth::run(&call);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("X-A: \u{9b}2J\u{202e}"), "as it came, into a pipe: {out:?}");
    if !need("script") {
        return;
    }
    let command = format!("{} {}", ptth().display(), call.join(" "));
    let (code, out, error) =
        Ptth::finish(Command::new("script").args(["-qec", &command, "/dev/null"]));
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("X-A: \\u{9b}2J\\u{202e}") && out.contains("ok"), "{out:?}");
    assert!(!out.contains('\u{9b}'), "{out:?}");
}
