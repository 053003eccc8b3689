//! Names of a local server that its visitors know by others: hosts, origins, paths.

use crate::support::{Gateway, LocalServer, Ptth};

/// A server that answers with the fields that it is asked for, one in each `X-Say`.
fn speaker() -> LocalServer {
    LocalServer::with(|c| {
        let fields: String = c.head.all("x-say").iter().map(|line| format!("{line}\r\n")).collect();
        c.answer("200 OK", &fields, "hello");
    })
}

/// K21, T11: what names the server by the host that it is told comes back as the visitors' own, in
/// every field that leads somewhere, and nothing else does.
#[test]
fn fields_that_name_the_host_header_come_back_as_the_visitors_own() {
    let (gateway, local) = (Gateway::start(&[]), speaker());
    let to = ["--to", &local.url(), "--host-header", "app.internal:3000"];
    let _device = Ptth::device(&gateway, "lamp", &to);
    let said = [
        "Location: http://app.internal:3000/a",
        "Location: http://elsewhere.example/b",
        "Location: //app.internal:3000/c",
        "Location: http://app.internal:3000@evil.example/",
        "Content-Location: https://app.internal:3000/d",
        "Refresh: 0; URL='http://app.internal:3000/e'",
        "Set-Cookie: a=1; Domain=app.internal; Path=/x",
        "Set-Cookie: b=1; Domain=elsewhere.example",
        "Link: <http://app.internal:3000/f>",
    ];
    let asked: String = said.iter().map(|line| format!("X-Say: {line}\r\n")).collect();
    let answer = gateway.visitor().ask(&format!("GET /lamp/x HTTP/1.1\r\nHost: v\r\n{asked}\r\n"));
    answer.expect_ok("hello");
    let head = &answer.head;
    assert_eq!(
        head.all("location"),
        [
            "/lamp/a",
            "http://elsewhere.example/b",
            "/lamp/c",
            "http://app.internal:3000@evil.example/"
        ]
    );
    assert_eq!(head.get("content-location"), Some("/lamp/d"));
    assert_eq!(head.get("refresh"), Some("0; url=/lamp/e"));
    assert_eq!(head.all("set-cookie"), ["a=1; Path=/x", "b=1; Domain=elsewhere.example"]);
    assert_eq!(head.get("link"), Some("<http://app.internal:3000/f>"));
    // Without the option the server is told the visitors' host, and nothing is changed.
    let _plain = Ptth::device(&gateway, "porch", &["--to", &local.url()]);
    let answer = gateway.visitor().ask(&format!("GET /porch/x HTTP/1.1\r\nHost: v\r\n{asked}\r\n"));
    let fields: Vec<String> =
        answer.head.all("location").iter().map(|value| format!("Location: {value}")).collect();
    assert_eq!(fields, said[..4]);
}

/// T11: `Origin` and `Referer` are mapped where that is asked for, and only those of the device's
/// own pages: what another site's pages ask for still says so.
#[test]
fn origins_are_mapped_where_it_is_asked_for_and_only_the_visitors_own() {
    let (gateway, local) = (Gateway::start(&[]), LocalServer::start());
    let to = ["--to", &local.url(), "--host-header", "app.internal:3000"];
    let _mapping = Ptth::device(&gateway, "lamp", &[&to[..], &["--map-origin"]].concat());
    let _plain = Ptth::device(&gateway, "porch", &to);
    let mut visitor = gateway.visitor();
    for (name, origin, referer, seen) in [
        (
            "lamp",
            "https://v.example",
            "https://v.example/lamp/a?b",
            ("https://app.internal:3000", "https://app.internal:3000/a?b"),
        ),
        (
            "lamp",
            "https://evil.example",
            "https://evil.example/lamp/a",
            ("https://evil.example", "https://evil.example/lamp/a"),
        ),
        ("lamp", "null", "https://v.example:81/", ("null", "https://v.example:81/")),
        (
            "porch",
            "https://v.example",
            "https://v.example/porch/a",
            ("https://v.example", "https://v.example/porch/a"),
        ),
    ] {
        let request = format!(
            "GET /{name}/x HTTP/1.1\r\nHost: v.example\r\nOrigin: {origin}\r\nReferer: {referer}\r\n\r\n"
        );
        assert_eq!(visitor.ask(&request).status(), 200);
        let asked = local.last();
        assert_eq!(
            (asked.get("host"), asked.all("origin"), asked.all("referer")),
            (Some("app.internal:3000"), vec![seen.0], vec![seen.1]),
            "{origin}"
        );
    }
    let (code, _, said) =
        Ptth::run(&["device", "http://127.0.0.1:1/lamp", "--to", "a", "--map-origin"]);
    assert_eq!((code, said.contains("--map-origin goes with --host-header")), (2, true), "{said}");
}
