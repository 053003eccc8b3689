//! Labels and last days of tokens, and what a device is told of one that is refused.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use reverse_http::Tokens;

use crate::gateway::tokens::{TokenFile, bearer};
use crate::support::process::offer;
use crate::support::{Gateway, Ptth, RawGateway, TempDir, eventually};

#[test]
fn a_token_has_a_label_and_a_last_day() {
    let new = |more: &[&str]| {
        let (code, out, err) = Ptth::run(&[&["token", "lamp"], more].concat());
        assert_eq!(code, 0, "{err}");
        let (token, line) = out.split_once('\n').unwrap();
        (token.to_owned(), line.trim().to_owned())
    };
    let label = ["--label", "the lamp at the door", "--expires"];
    let (over, over_line) = new(&[&label[..], &["2020-02-29"]].concat());
    assert!(over_line.ends_with(" lamp expires=2020-02-29 # the lamp at the door"), "{over_line}");
    let (good, good_line) = new(&[&label[..], &["2999-12-31"]].concat());
    for wrong in [["--expires", "tomorrow"], ["--expires", "2026-02-30"], ["--label", ""]] {
        assert_eq!(Ptth::run(&[&["token", "lamp"], &wrong[..]].concat()).0, 2, "{wrong:?}");
    }
    let file = TokenFile::new(&[]);
    let door_line = Tokens::line("elsewhere", "door").unwrap();
    file.write(format!("{over_line}\n{good_line}\n{door_line}\n"));
    let gateway = Gateway::start(&["--tokens", file.path(), "--visitor-tokens", file.path()]);
    // One whose day is over is told so, and no more than that.
    let mut device = gateway.dial();
    let refused = device.ask(&offer("lamp", &bearer(&over)));
    refused.expect_refusal(401);
    assert!(refused.text().contains("expired"), "{}", refused.text());
    assert!(!refused.text().contains("2020") && !refused.text().contains("door"));
    gateway.process.expect_stderr("(the lamp at the door) expired on 2020-02-29");
    // A device repeats the gateway's own reason, and adds what it knows itself.
    for (token, said) in [
        (Some(over.as_str()), "401: the token has expired; ask for a new one; check the token"),
        (
            Some("wrong"),
            "this gateway does not know the token that was sent; at the gateway, see its lines (GatewayBuilder::tokens, or --tokens); check the token",
        ),
        (None, "no token was given (DeviceBuilder::bearer_token, or --token-file and PTTH_TOKEN)"),
        (
            Some("elsewhere"),
            "403: the credential is not for this name; at the gateway, see its line",
        ),
    ] {
        let mut command = Ptth::command(&["device", &gateway.device_url("lamp"), "--text", "on"]);
        if let Some(token) = token {
            command.env("PTTH_TOKEN", token);
        }
        let (code, _, err) = Ptth::finish(&mut command);
        assert!(code == 3 && err.matches(said).count() == 1, "{code}: {err}");
    }
    let ask = |token: &str| {
        gateway.visitor().ask(&format!("GET /lamp/x HTTP/1.1\r\nHost: a\r\n{}\r\n", bearer(token)))
    };
    ask(&over).expect_refusal(401);
    gateway.process.expect_stderr("a visitor's token (the lamp at the door) expired on 2020-02-29");
    // The other one serves until its day is over: here, until the file says so.
    let mut link = gateway.link_with("lamp", &bearer(&good));
    let mut visitor = gateway.visitor();
    visitor.write(format!("GET /lamp/x HTTP/1.1\r\nHost: a\r\n{}\r\n", bearer(&good)));
    assert_eq!(link.read_head().target(), "/x");
    link.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    visitor.read_answer("GET").expect_ok("ok");
    file.write(good_line.replace("2999", "2021") + "\n" + &door_line);
    gateway.process.signal("HUP");
    eventually("both tables are read again", || {
        (gateway.process.stderr().matches("1 removed, 1 changed").count() == 2).then_some(())
    });
    assert_eq!(link.read_head().target(), "*", "it gets a goaway");
    ask(&good).expect_refusal(401);
    gateway.process.expect_stderr("expired on 2021-12-31");
}

/// A token comes from a file as people write files: with a line end, and not with two lines.
#[test]
fn a_file_has_one_line_for_a_token() {
    let dir = TempDir::new("token-lines");
    let file = dir.0.join("token");
    let path = file.to_str().unwrap();
    let line = reverse_http::Tokens::line("one", "lamp").unwrap();
    let lines = format!("# tokens\n{line}\n{line}\n");
    for (text, said) in [
        ("one\ntwo\n", format!("--token-file {path}: there is more than one line")),
        ("\n", format!("--token-file {path}: the token is empty")),
        ("one two\n", format!("--token-file {path}: there is a blank in the token; give")),
        (&line, format!("--token-file {path}: this is a line of a gateway's file of tokens")),
        (&lines, format!("--token-file {path}: this is a line of a gateway's file of tokens")),
        ("on\u{1}e", "the token (DeviceBuilder::bearer_token, or --token-file and PTTH_TOKEN) has a control character".to_owned()),
    ] {
        std::fs::write(&file, text).unwrap();
        let device = ["device", "http://127.0.0.1:9/lamp", "--text", "on", "--token-file", path];
        let (code, _, err) = Ptth::run(&device);
        assert!(code == 2 && err.contains(&said) && !err.contains("two"), "{code}: {err}");
        let told = Ptth::run(&["check", "http://127.0.0.1:9/lamp", "--token-file", path]);
        assert!(told.0 == 2 && told.2.contains(&said), "{told:?}");
    }
    let mut from_environment =
        Ptth::command(&["device", "http://127.0.0.1:9/lamp", "--text", "on"]);
    let (code, _, err) = Ptth::finish(from_environment.env("PTTH_TOKEN", "Bearer one"));
    assert!(
        code == 2 && err.contains("PTTH_TOKEN: there is a blank in the token"),
        "{code}: {err}"
    );
    for text in ["one", "one\n", "\u{feff}one\r\n\r\n"] {
        std::fs::write(&file, text).unwrap();
        let raw = RawGateway::start();
        let _device =
            Ptth::start(&["device", &raw.url("lamp"), "--text", "on", "--token-file", path]);
        let (_peer, offer) = raw.offer();
        assert_eq!(offer.get("authorization"), Some("Bearer one"), "{text:?}");
    }
}

#[test]
fn a_program_hears_which_setting_has_a_line_end() {
    let build = |token: &str| {
        reverse_http::Device::builder("http://127.0.0.1:9/lamp").bearer_token(token).build()
    };
    for (token, said) in [
        ("secret\n", "has a line end"),
        ("", "is empty"),
        ("sec\0ret", "control"),
        ("Bearer one", "has a blank"),
    ] {
        let error = build(token).unwrap_err();
        let text = error.to_string();
        assert!(error.is_usage() && text.contains(said) && text.contains("bearer_token"), "{text}");
        assert!(!text.contains("sec"), "{text}");
    }
    build("secret").unwrap();
    let field = reverse_http::Device::builder("http://127.0.0.1:9/lamp").field("X-Key", "sec\n");
    let text = field.build().unwrap_err().to_string();
    assert!(text.contains("X-Key") && !text.contains("sec"), "{text}");
}
