//! Fields that a device sets and removes on the way to its local server and back.

use crate::support::process::get;
use crate::support::{Gateway, LocalServer, Ptth, each_row};

#[test]
fn fields_are_set_and_removed_in_requests_and_in_responses() {
    let local = LocalServer::with(|c| {
        match c.head.get("upgrade").is_some() {
        true => c.raw(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: Upgrade\r\nServer: small\r\n\r\n",
        ),
        false => c.answer(
            "200 OK",
            "Server: small\r\nX-Frame-Options: DENY\r\nx-frame-options: SAMEORIGIN\r\nX-Kept: a\r\nVary: b\r\n",
            "hello",
        ),
    }
    });
    let gateway = Gateway::start(&[]);
    let options = [
        "--to",
        &local.url(),
        "--set-field",
        "X-Site: the porch, left",
        "--set-field",
        "accept:text/plain",
        "--remove-field",
        "X-Forwarded-For,x-forwarded-proto",
        "--remove-field",
        "Cookie",
        "--set-response-field",
        "Cache-Control: no-store",
        "--set-response-field",
        "Vary: c",
        "--remove-response-field",
        "Server,X-FRAME-OPTIONS",
    ];
    let _device = Ptth::device(&gateway, "lamp", &options);
    let mut visitor = gateway.visitor();
    let answer = visitor.ask(
        "POST /lamp/x HTTP/1.1\r\nHost: v\r\nAccept: a\r\nACCEPT: b\r\nCookie: c=1\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\nhi",
    );
    answer.expect_ok("hello");
    let asked = local.last();
    assert_eq!(asked.all("x-site"), ["the porch, left"]);
    assert_eq!(asked.all("accept"), ["text/plain"]);
    for removed in ["x-forwarded-for", "x-forwarded-proto", "cookie"] {
        assert_eq!(asked.get(removed), None, "{}", asked.text());
    }
    assert_eq!((asked.get("x-kept"), asked.get("content-length")), (Some("1"), Some("2")));
    assert_eq!(asked.get("x-forwarded-prefix"), Some("/lamp"));
    let head = &answer.head;
    assert_eq!(
        (head.all("vary"), head.all("cache-control")),
        (vec!["c"], vec!["no-store"]),
        "{}",
        head.text()
    );
    assert_eq!((head.get("server"), head.get("x-frame-options")), (None, None));
    assert_eq!((head.get("x-kept"), head.get("content-length")), (Some("a"), Some("5")));
    // A 101 has them, too, and is one still.
    visitor
        .write("GET /lamp/x HTTP/1.1\r\nHost: v\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n");
    let head = visitor.read_head();
    assert_eq!((head.status(), head.get("upgrade")), (101, Some("chat")), "{}", head.text());
    assert_eq!((head.get("server"), head.get("vary")), (None, Some("c")));
    // Without the options nothing is changed.
    let _plain = Ptth::device(&gateway, "porch", &["--to", &local.url()]);
    let answer = gateway.get("/porch/x");
    assert_eq!(answer.head.get("server"), Some("small"));
    assert!(local.last().get("x-forwarded-for").is_some());
}

/// In either direction. The local server knows no trailers: one would be part of its next request.
#[test]
fn what_a_device_removes_is_no_trailer_either() {
    let local = LocalServer::with(|c| {
        c.raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nServer: small\r\nX-Sum: 1\r\n\r\n");
    });
    let gateway = Gateway::start(&[]);
    let edits = ["--remove-field", "X-Gone", "--remove-response-field", "Server"];
    let to = local.url();
    let _device = Ptth::device(&gateway, "lamp", &[&["--to", &to], &edits[..]].concat());
    let mut visitor = gateway.visitor();
    for _ in 0..2 {
        let answer = visitor.ask("POST /lamp/x HTTP/1.1\r\nHost: v\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-gone: 1\r\n\r\n");
        answer.expect_ok("ok");
        assert_eq!(answer.trailers, [("X-Sum".to_owned(), "1".to_owned())]);
    }
}

/// T1, T10: no option changes where a message ends, or whom it is for.
#[test]
fn fields_that_frame_a_message_cannot_be_edited() {
    let names = [
        "Content-Length",
        "transfer-encoding",
        "Connection",
        "Host",
        "Upgrade",
        "TE",
        "Trailer",
        "Keep-Alive",
        "Expect",
        "Via",
        "HTTP2-Settings",
        "Proxy-Connection",
        "PTTH-Same-Visitor",
        "ptth-waiting",
        "a b",
        "a\r\nb",
        "",
    ];
    let refused = |options: &[&str], why: &str| {
        let start = ["device", "http://127.0.0.1:1/lamp", "--check"];
        let (code, _, said) = Ptth::run(&[&start[..], options].concat());
        assert_eq!((code, said.contains(why)), (2, true), "{options:?}: {said}");
    };
    let to = ["--to", "127.0.0.1:1"];
    each_row(
        &names,
        |name| (*name).to_owned(),
        |name| {
            let line = format!("{name}: 1");
            for option in ["--set-field", "--set-response-field"] {
                refused(&[&to[..], &[option, &line]].concat(), option);
            }
            for option in ["--remove-field", "--remove-response-field"] {
                refused(&[&to[..], &[option, name]].concat(), option);
            }
        },
    );
    refused(&[&to[..], &["--set-field", "X-A: b\r\nHost: c"]].concat(), "control byte");
    refused(&[&to[..], &["--set-field", "X-A"]].concat(), "write NAME: VALUE");
    let long = format!("X-A: {}", "a".repeat(9_000));
    refused(&[&to[..], &["--set-field", &long]].concat(), "8 KiB");
    for option in ["--set-field", "--set-response-field"] {
        refused(&["--text", "x", option, "X-A: b"], "goes with --to");
    }
    for option in ["--remove-field", "--remove-response-field"] {
        refused(&["--text", "x", option, "X-A"], "goes with --to");
    }
}

#[test]
fn a_file_edits_fields_and_polls_have_the_edits_too() {
    let (gateway, local) = (Gateway::start(&[]), LocalServer::start());
    let folder = crate::support::TempDir::new("fields");
    let file = folder.0.join("ptth.toml");
    let text = format!(
        "[device]\nurl = \"{}\"\nto = \"{}\"\nset_field = [\"X-Site: porch\", \"X-Other: a, b\"]\nremove_field = [\"Cookie\"]\nfallback = \"only\"\n",
        gateway.device_url("lamp"),
        local.url()
    );
    std::fs::write(&file, text).unwrap();
    let device = Ptth::start(&["device", "--config", file.to_str().unwrap()]);
    assert!(device.line().starts_with("connected lamp"));
    gateway
        .visitor()
        .ask("GET /lamp/x HTTP/1.1\r\nHost: v\r\nCookie: a=b\r\n\r\n")
        .expect_ok("hello\n");
    let asked = local.last();
    assert_eq!(
        (asked.get("x-site"), asked.get("x-other"), asked.get("cookie")),
        (Some("porch"), Some("a, b"), None)
    );
    let _ = gateway.visitor().ask(&get("/lamp/y"));
}
