//! Visitors' tokens beside the application's own `Authorization`: `PTTH-Authorization`, preflights,
//! the access log.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;
use std::sync::Arc;

use crate::support::pki::TlsPeer;
use crate::support::process::get;
use crate::support::{
    Authority, Gateway, Head, LocalServer, Ptth, RawPeer, TempDir, each_row, local,
};

use super::tokens::{TokenFile, basic, bearer};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn gateway(more: &[&str]) -> (Gateway, TokenFile) {
    let tokens = TokenFile::new(&[("right", "lamp"), ("other", "porch")]);
    let gateway = Gateway::start(&[&["--visitor-tokens", tokens.path()], more].concat());
    (gateway, tokens)
}

fn own(value: &str) -> String {
    format!("PTTH-Authorization: {value}\r\n")
}

/// Asks with these fields; what the device heard, where it heard anything.
#[track_caller]
fn ask(gateway: &Gateway, link: &mut RawPeer, fields: &str, status: u16) -> Option<Head> {
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x").replacen("\r\n\r\n", &format!("\r\n{fields}\r\n"), 1));
    if status != 200 {
        visitor.read_answer("GET").expect_refusal(status);
        return None;
    }
    let heard = link.read_head();
    link.write(OK);
    visitor.read_answer("GET").expect_ok("ok");
    Some(heard)
}

#[test]
fn a_token_in_a_field_of_its_own_leaves_authorization_to_the_application() {
    let (gateway, _tokens) = gateway(&[]);
    let mut link = gateway.link("lamp");
    let (mine, app) = (own("Bearer right"), bearer("application"));
    let rows: [(&str, String, u16, &[&str]); 16] = [
        ("both", format!("{mine}{app}"), 200, &["Bearer application"]),
        ("the other way round", format!("{app}{mine}"), 200, &["Bearer application"]),
        ("another scheme", format!("{mine}Authorization: Digest x\r\n"), 200, &["Digest x"]),
        ("alone", mine.clone(), 200, &[]),
        ("in capitals", mine.to_uppercase().replace("RIGHT", "right"), 200, &[]),
        ("basic", basic("me", "right").replace("Auth", "PTTH-Auth"), 200, &[]),
        ("as before", bearer("right"), 200, &[]),
        ("twice the application's", format!("{mine}{app}{app}"), 200, &["Bearer application"; 2]),
        ("the gateway's in both", format!("{mine}{}", bearer("right")), 200, &["Bearer right"]),
        (
            "unknown, beside a right one",
            format!("{}{}", own("Bearer no"), bearer("right")),
            401,
            &[],
        ),
        ("empty, beside a right one", format!("{}{}", own(""), bearer("right")), 401, &[]),
        ("twice", format!("{mine}{mine}"), 400, &[]),
        ("twice, and different", format!("{mine}{}", own("Bearer other")), 400, &[]),
        ("another device's", own("Bearer other"), 403, &[]),
        ("another name", mine.replace('-', "_"), 401, &[]),
        (
            "named in Connection",
            format!("Connection: PTTH-Authorization\r\n{mine}{app}"),
            200,
            &["Bearer application"],
        ),
    ];
    each_row(
        &rows,
        |(what, ..)| (*what).to_owned(),
        |(_, fields, status, passed)| {
            if let Some(heard) = ask(&gateway, &mut link, fields, *status) {
                assert_eq!(heard.all("authorization"), *passed);
                assert!(
                    !heard.text().to_lowercase().contains("right")
                        || passed.contains(&"Bearer right")
                );
                assert!(heard.get("ptth-authorization").is_none(), "{}", heard.text());
            }
        },
    );
}

#[test]
fn a_gateway_that_wants_no_token_forwards_none_of_that_field() {
    let gateway = Gateway::start(&[]);
    let mut link = gateway.link("lamp");
    for fields in [own("Bearer right"), own("Bearer right").repeat(2)] {
        let heard = ask(&gateway, &mut link, &format!("{fields}{}", bearer("app")), 200).unwrap();
        assert_eq!(heard.all("authorization"), ["Bearer app"]);
        assert!(heard.get("ptth-authorization").is_none(), "{}", heard.text());
    }
}

/// A registered origin comes before the table, whatever scheme a trusted proxy tells over TLS.
#[test]
fn a_preflight_to_an_origin_is_not_free_because_a_route_is() {
    let folder = TempDir::new("preflights-origin");
    let file = folder.0.join("ptth.toml");
    let route = "[[route]]\nhost = \"a.example\"\ndevice = \"lamp\"\nfree_preflights = true\n";
    std::fs::write(&file, route).unwrap();
    let (authority, config) = (Authority::new(), file.to_str().unwrap());
    let pair = authority.server("gateway");
    let (gateway, _tokens) = gateway(&[
        "--config",
        config,
        "--trusted-proxies",
        "127.0.0.1",
        "--visitors-cert",
        pair.certificate(),
        "--visitors-key",
        pair.key(),
    ]);
    let mut lamp = gateway.link("lamp");
    let mut device = gateway.dial();
    device.write("GET /.well-known/ptth/http%3A%2F%2Fa.example/ HTTP/1.1\r\nHost: gw\r\nConnection: upgrade\r\nUpgrade: ptth\r\nALPN: http%2F1.1\r\n\r\n");
    assert_eq!(device.read_head().status(), 101);
    let client = Arc::new(authority.client(None));
    let ask = |scheme: &str| {
        let mut visitor = TlsPeer::connect(gateway.visitors, client.clone());
        let request = preflight("/x", &format!("X-Forwarded-Proto: {scheme}\r\n"));
        visitor.write(request.replace("gw.example", "a.example"));
        visitor
    };
    assert_eq!(ask("http").read_head().status(), 401, "it is the origin's");
    let mut visitor = ask("https");
    assert_eq!(lamp.read_head().method(), "OPTIONS");
    lamp.write("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(visitor.read_head().status(), 204);
}

fn preflight(target: &str, fields: &str) -> String {
    format!(
        "OPTIONS {target} HTTP/1.1\r\nHost: gw.example\r\nOrigin: https://app.example\r\nAccess-Control-Request-Method: PUT\r\n{fields}\r\n"
    )
}

#[test]
fn preflights_pass_without_a_token_where_their_route_says_so() {
    let folder = TempDir::new("preflights");
    let file = folder.0.join("ptth.toml");
    let route = |free| {
        let text = "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\n[[route]]\npath = \"/closed\"\ndevice = \"lamp\"\n";
        text.replacen("\"lamp\"\n", &format!("\"lamp\"\nfree_preflights = {free}\n"), 1)
    };
    std::fs::write(&file, route(true)).unwrap();
    let config = file.to_str().unwrap();
    let (gateway, _tokens) = gateway(&["--config", config, "--health-path", "/health"]);
    let mut link = gateway.link("lamp");
    let status = |request: &str| {
        let mut visitor = gateway.visitor();
        visitor.write(request);
        visitor.read_answer("OPTIONS").status()
    };
    let free = preflight("/api/x", "");
    for fields in ["", "Access-Control-Request-Headers: authorization\r\n"] {
        let mut visitor = gateway.visitor();
        visitor.write(preflight("/api/x", fields));
        let heard = link.read_head();
        assert_eq!((heard.method(), heard.target()), ("OPTIONS", "/x"));
        assert!(heard.get("authorization").is_none(), "{}", heard.text());
        link.write("HTTP/1.1 204 No Content\r\nAccess-Control-Allow-Origin: *\r\n\r\n");
        assert_eq!(visitor.read_answer("OPTIONS").status(), 204);
        // What follows on the connection has to show one.
        visitor.write(get("/api/x"));
        visitor.read_answer("GET").expect_refusal(401);
    }
    for (request, expected) in [
        (preflight("/closed/x", ""), 401),
        (preflight("/lamp/x", ""), 401),
        (preflight("/nobody", ""), 401),
        (preflight("*", ""), 401),
        (free.replace("Origin:", "X-Origin:"), 401),
        (free.replace("Access-Control-Request-Method:", "X-Method:"), 401),
        (free.replace("OPTIONS", "GET"), 401),
        (preflight("/api/x", "Content-Length: 2\r\n") + "no", 401),
        // What no browser's preflight has.
        (preflight("/api/x", "Connection: upgrade\r\nUpgrade: websocket\r\n"), 401),
        (preflight("/api/x", "Expect: 100-continue\r\n"), 401),
        (preflight("/api/x", "Cookie: a=b\r\n"), 401),
        (preflight("/api/x", "Authorization: NTLM abc\r\n"), 401),
        (preflight("/api/x", "Proxy-Authorization: NTLM abc\r\n"), 401),
        (preflight("/api/x", &bearer("no")), 401),
        (preflight("/api/x", &own("Bearer no")), 401),
        (preflight("/api/x", "Origin: https://other.example\r\n"), 401),
        (preflight("/api/x", &own("Bearer right").repeat(2)), 400),
    ] {
        assert_eq!(status(&request), expected, "{request}");
    }
    gateway.get("/health").expect_ok("ok\n");
    gateway.get("/api/x").expect_refusal(401);
    // The route is read again.
    std::fs::write(&file, route(false)).unwrap();
    gateway.process.signal("HUP");
    gateway.process.expect_stderr("1 changed (*/api)");
    assert_eq!(status(&free), 401);
}

#[test]
fn the_access_log_tells_whose_token_it_was() {
    let line = |token, label| reverse_http::Tokens::line_with(token, "lamp", None, label).unwrap();
    for format in ["json", "combined", "common"] {
        let tokens = TokenFile::new(&[]);
        tokens.write([line("right", Some("the \"shop\" [1]")), line("plain", None)].join("\n"));
        let more = ["--access-log", "-", "--access-log-format", format];
        let gateway = Gateway::start(&[&["--visitor-tokens", tokens.path()], &more[..]].concat());
        let mut link = gateway.link("lamp");
        for (fields, status, json, word) in [
            (
                own("Bearer right"),
                200,
                "\"token\":\"the \\\"shop\\\" [1]\"",
                "the\\x20\\x22shop\\x22\\x20\\x5B1\\x5D",
            ),
            (
                bearer("right"),
                200,
                "\"token\":\"the \\\"shop\\\" [1]\"",
                "the\\x20\\x22shop\\x22\\x20\\x5B1\\x5D",
            ),
            (bearer("plain"), 200, "\"token\":\"line 2\"", "line\\x202"),
            (bearer("no"), 401, "\"token\":null", "-"),
            (String::new(), 401, "\"token\":null", "-"),
        ] {
            ask(&gateway, &mut link, &fields, status);
            let line = gateway.process.line();
            match format {
                "json" => assert!(line.contains(json), "{line}"),
                _ => assert_eq!(line.split(' ').nth(2), Some(word), "{line}"),
            }
        }
        let mut visitor = gateway.visitor();
        visitor.write(get("/porch/").replacen(
            "\r\n\r\n",
            &format!("\r\n{}\r\n", bearer("right")),
            1,
        ));
        visitor.read_answer("GET").expect_refusal(403);
        let line = gateway.process.line();
        assert!(line.contains("shop"), "a refusal has it, too: {line}");
    }
}

/// curl with a password of the application's.
#[test]
fn curl_shows_both() {
    let (gateway, _tokens) = gateway(&[]);
    let server = LocalServer::with(local::routes);
    let _device = Ptth::device(&gateway, "lamp", &["--to", &server.url()]);
    let url = format!("http://{}/lamp/x", gateway.visitors);
    let curl = |more: &[&str]| {
        let options = ["-sS", "--max-time", "30", "-u", "me:mine", "-w", " %{http_code}"];
        let output = Command::new("curl").args(options).args(more).arg(&url).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(curl(&["-H", "PTTH-Authorization: Bearer right"]), "hello\n 200");
    let heard = server.last();
    assert_eq!(heard.all("authorization"), ["Basic bWU6bWluZQ=="]);
    assert!(heard.get("ptth-authorization").is_none(), "{}", heard.text());
    assert!(curl(&[]).ends_with(" 401"));
    assert_eq!(server.count(), 1);
}
