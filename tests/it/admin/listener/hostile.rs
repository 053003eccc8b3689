//! What others write: names, agents, paths, labels, fields of requests, and whole answers to an
//! operator's commands.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use reverse_http::text::misleads;

use super::{OK, Observed};
use crate::support::{Ptth, RawPeer, TempDir};

#[test]
fn what_others_write_is_text_on_every_page() {
    let folder = TempDir::new("admin-markup");
    let file = folder.0.join("tokens");
    let (_, out, _) = Ptth::run(&["token", "lamp", "--label", "<i>label</i>"]);
    let (token, line) = out.trim_end().split_once('\n').unwrap();
    std::fs::write(&file, format!("{line}\u{202e}\u{2066}\n")).unwrap();
    let observed = Observed::start(&["--tokens", file.to_str().unwrap()]);
    let script = "<script>alert(1)</script>";
    let fields = format!(
        "Authorization: Bearer {token}\r\nUser-Agent: {script}\"'&\u{9b}31m\u{202e}\u{200b}\r\n"
    );
    let mut link = observed.gateway.link_with("lamp", &fields);
    let mut visitor = observed.gateway.visitor();
    visitor.write("GET /lamp/'onload='alert(1)&lt;b&gt; HTTP/1.1\r\nHost: a\r\n\r\n");
    link.read_head();
    link.write(OK);
    visitor.read_answer("GET").expect_ok("ok");
    observed.device("lamp", "one request", |device| device["requests"] == 1);
    let query = "/?q=%3Cscript%3Ealert(1)%3C/script%3E&sort=%22%3E%3Cu%3E&silent_for=%3Cu%3E";
    for page in ["/", "/devices/lamp", "/?q=%3Cscript", "/?fragment=1", query] {
        let html = observed.get(page).text();
        for never in
            [script, "<i>label", "'onload", "\"><u>", "\u{9b}", "\u{202e}", "\u{2066}", "\u{200b}"]
        {
            assert!(!html.contains(never), "{page}: {never:?}\n{html}");
        }
    }
    let html = observed.get("/devices/lamp").text();
    for escaped in ["&lt;script&gt;alert(1)", "&lt;i&gt;label", "&#39;onload", "&amp;lt;b"] {
        assert!(html.contains(escaped), "{escaped}\n{html}");
    }
    assert_eq!(observed.get("/").head.get("x-content-type-options"), Some("nosniff"));
    // What is no page is no page: a name out of a link is not written back.
    for path in ["/devices/%3Cscript%3E", "/api/v1/devices/%3Cscript%3E", "/%3Cscript%3E"] {
        let answer = observed.get(path);
        assert!(answer.status() == 404 && !answer.text().contains('<'), "{}", answer.text());
        assert!(answer.head.get("content-type").unwrap().starts_with("text/plain"));
    }
    // Nor does a name that is asked to leave come into the log with what a terminal obeys.
    observed.post("/api/v1/devices/%1b%5b2J%0aforged/drain");
    observed.gateway.process.expect_stderr("forged");
    let log = observed.gateway.process.stderr();
    assert!(!log.contains('\x1b') && !log.lines().any(|l| l.starts_with("forged")), "{log}");
}

/// A server that sends this to each client repeatedly, in pieces with a few milliseconds between.
fn dripping(first: &'static str, again: &'static [u8]) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut sent = stream.write_all(first.as_bytes());
                while sent.is_ok() {
                    std::thread::sleep(Duration::from_millis(5));
                    sent = stream.write_all(again);
                }
            });
        }
    });
    at
}

#[test]
fn whatever_answers_a_command_has_one_deadline_and_bounds() {
    const CHUNKS: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (first, again, told) in [
        ("", &b"H"[..], "is not HTTP"),
        ("HTTP/1.1 200 OK\r\n", b"X: y\r\n", "fields_max"),
        ("HTTP/1.1 200 OK\r\nX: ", b"y", "in time"),
        ("HTTP/1.1 200 OK\r\n\r\n{", b" ", "in time"),
        ("", b"HTTP/1.1 100 Continue\r\n\r\n", "interim responses"),
        (CHUNKS, b"1\r\n{\r\n", "in time"),
        (CHUNKS, b"ffffffffffffffffff\r\n", "is not HTTP"),
    ] {
        let at = dripping(first, again).to_string();
        let (admin, url) = (["--admin", &at, "--admin-timeout", "700ms"], format!("http://{at}"));
        let commands = [
            [&["status"][..], &admin].concat(),
            [&["health"][..], &admin].concat(),
            vec!["call", "lamp", "GET", "/", "--visitors", &url, "--timeout", "700ms"],
        ];
        for command in commands {
            let (code, _, error) = Ptth::run(&command);
            let is_told = error.contains(told) || error.contains("in time");
            assert!(code == 1 && is_told, "{first:?} {command:?}: {code} {error}");
        }
    }
    // Nothing that a terminal obeys.
    let json = "HTTP/1.1 503 No\r\nContent-Length: 8\r\n\r\nno\x1b[2J\r\n";
    let at = dripping(json, b"").to_string();
    let (code, out, error) = Ptth::run(&["status", "--admin", &at]);
    assert!(code == 1 && out.is_empty() && error.contains("503 no?[2J"), "{error:?}");
}

/// A server that answers every request with this JSON.
fn telling(json: String) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut peer = RawPeer::adopt(stream.unwrap(), "a command");
            peer.read_head();
            let length = json.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            let _ = peer.try_write(head + &json); // the command may have seen enough
        }
    });
    at
}

#[test]
fn json_of_a_hostile_server_is_a_bounded_text_on_a_terminal() {
    // What serde_json does not escape: of C1 and DEL, of marks that change the direction.
    let evil = "\u{9b}31m\u{7f}\u{202e}\u{e0041}";
    let json =
        format!(r#"{{"name":["{evil}"],"state":{{"{evil}":1}},"links":"\u001b","offer":"é灯"}}"#);
    let list = format!(r#"{{"devices":[{json}],"kind":["{evil}"]}}"#);
    for (json, name) in [(&json, Some("lamp")), (&list, None)] {
        let at = telling(json.clone()).to_string();
        for format in [None, Some("--json")] {
            let words = ["status", "--admin", &at];
            let command = words.into_iter().chain(name).chain(format);
            let (code, out, error) = Ptth::run(&command.collect::<Vec<_>>());
            assert_eq!((code, error.as_str()), (0, ""), "{out}");
            assert!(!out.chars().any(|c| c != '\n' && misleads(c)), "{out:?}");
            if format.is_some() {
                let same = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
                assert_eq!(same(&out), same(json), "it means the same");
                assert!(out.contains("é灯"), "{out}");
            }
        }
    }
    // A cell that is too wide for the formatting of the standard library, in more rows than a table has.
    let wide = "x".repeat(70_000);
    let list = format!(r#"{{"devices":[{{"name":"{wide}"}}{}]}}"#, ",{}".repeat(50_000));
    let at = telling(list).to_string();
    let (code, out, error) = Ptth::run(&["status", "--admin", &at]);
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(out.contains("xxx…") && out.len() < 2_000_000, "{} bytes", out.len());
    let device = format!(r#"{{"name":"{wide}","recent_requests":[{{"path":"{wide}"}}]}}"#);
    let at = telling(device).to_string();
    let (code, out, error) = Ptth::run(&["status", "lamp", "--admin", &at]);
    assert!(code == 0 && out.len() < 20_000, "{} bytes: {error}", out.len());
}

#[test]
fn heads_are_read_strictly_and_within_bounds() {
    let observed = Observed::start(&[]);
    let statuses = [
        ("GET / HTTP/1.1\nHost: HOST\n\n", 400),
        ("GET / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\n\r\nabc", 413),
        (
            "GET / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        ("BREW / HTTP/1.1\r\nHost: HOST\r\n\r\n", 405),
        ("GET /nothing HTTP/1.1\r\nHost: HOST\r\n\r\n", 404),
        ("GET /devices/nobody HTTP/1.1\r\nHost: HOST\r\n\r\n", 404),
        ("GET /devices/%zz HTTP/1.1\r\nHost: HOST\r\n\r\n", 400),
        ("HEAD /metrics HTTP/1.1\r\nHost: HOST\r\n\r\n", 200),
    ];
    for (head, status) in statuses {
        assert_eq!(observed.ask(head).status(), status, "{head}");
    }
    let long = format!("GET / HTTP/1.1\r\nHost: HOST\r\nX: {}\r\n\r\n", "x".repeat(17_000));
    assert_eq!(observed.ask(&long).status(), 431);
    // Several on one connection, also when they come in one piece.
    let mut peer = RawPeer::connect(observed.admin);
    peer.write("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3));
    (0..3).for_each(|_| peer.read_answer("GET").expect_ok("ok\n"));
}
