//! Routes that answer by themselves: redirects and texts, from outside.

use std::process::Command;

use super::{Config, ask_host};
use crate::support::process::get;

const TABLE: &str = r#"
[[route]]
host = "old.example"
redirect = "https://new.example/base/*"

[[route]]
path = "/moved"
redirect = "/there/*"
status = 302

[[route]]
path = "/robots.txt"
answer = """
User-agent: *
Disallow: /
"""

[[route]]
path = "/down"
answer = "<h1>back soon</h1>"
content_type = "text/html; charset=utf-8"
status = 503
"#;

#[test]
fn redirects_and_texts_of_routes_reach_no_device() {
    let config = Config::new(TABLE);
    let gateway = config.gateway(&["--access-log", "-", "--access-log-format", "json"]);
    let _link = gateway.link("moved"); // a device of the same name is behind the table
    for (host, target, status, location) in [
        ("old.example", "/a/b?c", 308, Some("https://new.example/base/a/b?c")),
        ("old.example", "/", 308, Some("https://new.example/base/")),
        ("gw.example", "/moved/x", 302, Some("/there/x")),
        ("gw.example", "/moved//evil.example/x", 302, Some("/there/evil.example/x")),
        ("gw.example", "/robots.txt", 200, None),
        ("gw.example", "/down/x?y", 503, None),
    ] {
        let answer = gateway.visitor().ask(&ask_host(host, target, ""));
        assert_eq!((answer.status(), answer.head.get("location")), (status, location), "{target}");
        let line = gateway.process.line();
        assert!(line.contains(&format!("\"status\":{status}")), "{line}");
    }
    let mut visitor = gateway.visitor();
    for _ in 0..2 {
        let answer = visitor.ask(&get("/robots.txt"));
        assert_eq!(answer.text(), "User-agent: *\nDisallow: /\n");
        assert_eq!(answer.head.get("content-type"), Some("text/plain; charset=utf-8"));
        assert!(!answer.head.closes(), "the connection goes on");
        visitor.write("HEAD /robots.txt HTTP/1.1\r\nHost: gw.example\r\n\r\n");
        let answer = visitor.read_answer("HEAD");
        assert_eq!((answer.head.get("content-length"), answer.text().as_str()), (Some("26"), ""));
    }
    let answer = visitor.ask(&get("/down"));
    assert_eq!((answer.status(), answer.text().as_str()), (503, "<h1>back soon</h1>\n"));
    assert_eq!(answer.head.all("content-type"), ["text/html; charset=utf-8"]);
    // Bytes of a body are never the next request.
    let mut visitor = gateway.visitor();
    let body = get("/nobody/");
    let post = "POST /down HTTP/1.1\r\nHost: gw.example\r\nContent-Length:";
    visitor.write(format!("{post} {}\r\n\r\n{body}", body.len()));
    let answer = visitor.read_answer("POST");
    assert!(answer.status() == 503 && answer.head.closes(), "{}", answer.head.text());
    visitor.expect_end();
    // What would name another host, or split the head, is refused as ever.
    let mut visitor = gateway.visitor();
    visitor.write("GET /moved/\\evil HTTP/1.1\r\nHost: gw.example\r\n\r\n");
    visitor.read_answer("GET").expect_refusal(400);
    // The table is read again.
    config.reload(&gateway, &TABLE.replace("status = 302", "status = 307"));
    assert_eq!(gateway.get("/moved/x").status(), 307);
    config.reload(&gateway, &TABLE.replace("status = 302", "status = 200"));
    gateway.process.expect_stderr("route /moved has status 200");
    assert_eq!(gateway.get("/moved/x").status(), 307);
}

#[test]
fn curl_follows_a_redirect_of_a_route() {
    let config = Config::new(
        "[[route]]\npath = \"/moved\"\nredirect = \"/there/*\"\n[[route]]\npath = \"/there\"\nanswer = \"here\"\n",
    );
    let gateway = config.gateway(&[]);
    let url = format!("http://{}/moved/x?y", gateway.visitors);
    let mut curl = Command::new("curl");
    curl.args(["-sSL", "--max-time", "30", "-w", "%{http_code} %{url_effective}", &url]);
    let output = String::from_utf8(curl.output().unwrap().stdout).unwrap();
    assert_eq!(output, format!("here\n200 http://{}/there/x?y", gateway.visitors));
}

const AWAY: &str = r#"
[[route]]
path = "/both"
device = "lamp"
offline_html = "<h1>away</h1>"
offline_json = '{"away": true}'
wait_for_link = "0s"
in_flight = 1

[[route]]
path = "/json"
device = "lamp"
offline_json = '{"away": true}'
wait_for_link = "50ms"

[[route]]
path = "/none"
device = "lamp"
wait_for_link = "0s"
"#;

#[test]
fn a_route_shows_its_page_while_its_device_is_away() {
    let config = Config::new(AWAY);
    let gateway = config.gateway(&["--wait-for-link", "0s"]);
    const HTML: (&str, &str) = ("text/html; charset=utf-8", "<h1>away</h1>\n");
    const JSON: (&str, &str) = ("application/json", "{\"away\": true}\n");
    let mut visitor = gateway.visitor();
    for (target, accept, (kind, text)) in [
        ("/both/x", "", HTML),
        ("/both/x", "Accept: */*\r\n", HTML),
        ("/both/x", "Accept: application/json\r\n", JSON),
        ("/both/x", "Accept: image/png, Application/Problem+JSON;q=0.5\r\n", JSON),
        ("/both/x", "Accept: application/json, text/html;q=0.1\r\n", HTML),
        ("/json/x", "Accept: text/html\r\n", JSON),
    ] {
        let answer = visitor.ask(&ask_host("gw.example", target, accept));
        assert_eq!((answer.status(), answer.text().as_str()), (503, text), "{target} {accept}");
        assert_eq!(answer.head.all("content-type"), [kind], "{target} {accept}");
        assert_eq!(answer.head.get("retry-after"), Some("1"));
        let told = answer.head.get("proxy-status").unwrap();
        assert!(told.contains("destination_unavailable") && !told.contains("h1"), "{told}");
        assert!(!answer.head.closes());
    }
    visitor.write("HEAD /both/x HTTP/1.1\r\nHost: gw.example\r\n\r\n");
    let answer = visitor.read_answer("HEAD");
    assert_eq!((answer.status(), answer.head.get("content-length")), (503, Some("14")));
    let answer = visitor.ask(&get("/none/x"));
    assert_eq!(answer.head.get("content-type"), Some("text/plain; charset=utf-8"));
    assert!(answer.text().contains("lamp"), "{}", answer.text());
    // It is shown for a device that is away alone.
    let mut link = gateway.link("lamp");
    let mut first = gateway.visitor();
    first.write(get("/both/x"));
    link.read_head();
    let answer = visitor.ask(&get("/both/y"));
    assert!(answer.status() == 503 && answer.text().contains("in_flight"), "{}", answer.text());
    link.write("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy");
    assert_eq!(first.read_answer("GET").text(), "busy");
}
