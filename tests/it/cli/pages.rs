//! `ptth completions` and `ptth man`: what is printed is read by the shells and by man without a
//! complaint, and has every option.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::OpenOptions;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Ptth, RawGateway, TempDir, need, program};

/// What a program says of a file's syntax.
fn complaints(command: &mut Command) -> (bool, String) {
    let output = command.stdout(Stdio::null()).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn completions_are_scripts_that_the_shells_read() {
    let folder = TempDir::new("completions");
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, err) = Ptth::run(&["completions", shell]);
        assert_eq!(code, 0, "{err}");
        for word in ["--wait-for-link", "--backoff", "completions", "PTTH/0.9"] {
            let word = if shell == "fish" { word.trim_start_matches('-') } else { word };
            assert!(script.contains(word), "{shell} does not complete {word}");
        }
        // bash is everywhere; the others are asked where they are installed.
        let installed = Command::new(program(shell)).arg("--version").output().is_ok();
        if !installed && (shell != "bash" || !need(shell)) {
            continue;
        }
        let file = folder.0.join(shell);
        std::fs::write(&file, script).unwrap();
        let option = if shell == "fish" { "--no-execute" } else { "-n" };
        let said = complaints(Command::new(program(shell)).arg(option).arg(&file));
        assert_eq!(said, (true, String::new()), "{shell}");
    }
    assert_eq!(Ptth::run(&["completions", "csh"]).0, 2);
}

#[test]
fn bash_completes_an_option() {
    if !need("bash") {
        return;
    }
    let folder = TempDir::new("completions-bash");
    let file = folder.0.join("ptth");
    std::fs::write(&file, Ptth::run(&["completions", "bash"]).1).unwrap();
    let script = format!(
        "source {}; COMP_WORDS=(ptth gateway --wait-f); COMP_CWORD=2; _ptth ptth --wait-f gateway; echo \"${{COMPREPLY[@]}}\"",
        file.display()
    );
    let output = Command::new(program("bash")).args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "--wait-for-link", "{output:?}");
}

#[test]
fn manual_pages_are_read_without_a_warning() {
    let folder = TempDir::new("man");
    let dir = folder.0.to_str().unwrap();
    let (code, _, err) = Ptth::run(&["man", "--dir", dir]);
    assert_eq!(code, 0, "{err}");
    for (page, word) in [
        ("ptth.1", "gateway"),
        ("ptth-gateway.1", "wait\\-for\\-link"),
        ("ptth-device.1", "PTTH_BACKOFF"),
        ("ptth-token.1", "expires"),
        ("ptth-check.1", "take\\-over"),
    ] {
        let text = std::fs::read_to_string(folder.0.join(page)).unwrap();
        assert!(text.contains(word), "{page} does not have {word}");
    }
    let (code, one, _) = Ptth::run(&["man", "gateway"]);
    assert!(code == 0 && one.contains(".TH ptth-gateway 1"), "{one}");
    assert_eq!(Ptth::run(&["man", "nonsense"]).0, 2);
    if !need("man") {
        return;
    }
    for page in std::fs::read_dir(&folder.0).unwrap() {
        let page = page.unwrap().path();
        let mut man = Command::new(program("man"));
        man.args(["--warnings", "-E", "UTF-8", "-l"]).arg(&page);
        man.env("LC_ALL", "C.UTF-8").env("MANROFFSEQ", "").env("MANWIDTH", "80");
        let (success, said) = complaints(&mut man);
        assert!(success && said.is_empty(), "{}: {said}", page.display());
    }
}

/// A one-shot command whose standard output is this.
fn into(stdout: impl Into<Stdio>, arguments: &[&str]) -> (i32, String) {
    let output = Ptth::command(arguments).stdout(stdout).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn what_was_asked_for_is_written_or_the_command_fails() {
    for arguments in [
        &["token", "lamp"][..],
        &["man", "gateway"],
        &["completions", "bash"],
        &["demo"],
        &["check", "http://127.0.0.1:9/lamp"],
        &["device", "http://127.0.0.1:9/lamp", "--text", "x", "--check"],
        &["gateway", "--check"],
    ] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (code, error) = into(full, arguments);
        assert!(code == 1 && error.contains("standard output: "), "{arguments:?}: {code} {error}");
        // A reader that stops early causes no error.
        let (read, closed) = UnixStream::pair().unwrap();
        drop(read);
        let (code, error) = into(OwnedFd::from(closed), arguments);
        assert!(code == 1 && !error.contains("ptth:"), "{arguments:?}: {code} {error}");
    }
}

#[test]
fn a_slow_reader_gets_everything() {
    let admin = RawGateway::start(); // it plays an admin listener
    let body = format!("{{\"x\":\"{}\"}}", "x".repeat(1 << 20)); // more than a pipe holds
    let mut command = Ptth::command(&["status", "--json", "--admin", &admin.addr.to_string()]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut peer = admin.accept();
    peer.read_head();
    peer.write(format!("HTTP/1.1 200 OK\r\n\r\n{body}"));
    drop(peer);
    let late = Instant::now() + Duration::from_millis(1_500);
    while Instant::now() < late {
        assert_eq!(child.try_wait().unwrap(), None, "it ended before it was read");
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut read = String::new();
    child.stdout.take().unwrap().read_to_string(&mut read).unwrap();
    assert!(child.wait().unwrap().success() && read.trim_end() == body);
}
