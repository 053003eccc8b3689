//! Requests that no device gets are counted, and in the access log, by the rule of the others.

use serde_json::Value;

use super::Observed;
use super::operators::Tokens;
use crate::support::process::get;
use crate::support::{Ptth, TempDir, eventually};

/// What the access log tells of requests: method, target, status and failure.
fn told(lines: &str) -> Vec<String> {
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let words = |line: Value| {
        ["method", "target", "status", "failure"].map(|field| line[field].to_string()).join(" ")
    };
    lines.map(words).collect()
}

#[test]
fn a_request_that_cannot_be_read_has_its_line_and_its_count() {
    let folder = TempDir::new("refused");
    let file = folder.0.join("access.log");
    let log = ["--access-log", file.to_str().unwrap(), "--access-log-format", "json"];
    let observed = Observed::start(&[&log[..], &["--head", "500ms"]].concat());
    let long = format!("GET /long HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    let both =
        "POST /both HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (request, status) in [
        ("GET /bad HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("nonsense\r\n\r\n", 400),
        (both, 400),
        ("GET /two HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (&long, 431),
        ("GET /late HTTP/1.1\r\nHost: a\r\n", 408),
        ("GET /v HTTP/1.7\r\nHost: a\r\n\r\n", 505),
    ] {
        let mut visitor = observed.gateway.visitor();
        visitor.write(request);
        assert_eq!(visitor.read_answer("GET").status(), status, "{request}");
    }
    let lines = eventually("seven lines", || {
        let text = std::fs::read_to_string(&file).ok()?;
        (text.lines().count() >= 7).then_some(text)
    });
    let expected = [
        "\"GET\" \"/bad\" 400 \"http_request_error\"",
        "null \"nonsense\" 400 \"http_request_error\"",
        "\"POST\" \"/both\" 400 \"http_request_error\"",
        "\"GET\" \"/two\" 400 \"http_request_error\"",
        "\"GET\" \"/long\" 431 \"http_request_error\"",
        "\"GET\" \"/late\" 408 \"http_request_error\"",
        "\"GET\" \"/v\" 505 \"http_request_error\"",
    ];
    assert_eq!(told(&lines), expected);
    let totals = eventually("seven requests", || {
        let totals = observed.json("/api/v1/status");
        (totals["requests"] == 7).then_some(totals)
    });
    assert_eq!((&totals["responses"]["4xx"], &totals["errors"]), (&6.into(), &1.into()));
    assert_eq!(totals["failures"]["http_request_error"], 7);
}

#[test]
fn what_the_gateway_answers_itself_is_counted_and_a_visitor_without_a_token_is_no_error() {
    let folder = TempDir::new("refused-401");
    let tokens = Tokens::draw(&folder, &[""]);
    let observed = Observed::start(&["--visitor-tokens", tokens.file(), "--health-path", "/up"]);
    let mut visitor = observed.gateway.visitor();
    visitor.ask(&get("/lamp/")).expect_refusal(401);
    let shown = format!("Authorization: Bearer {}\r\n", tokens.tokens[0]);
    let with = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n{shown}\r\n");
    assert_eq!(visitor.ask(&with("/lamp")).status(), 308);
    assert_eq!(visitor.ask(&with("/")).status(), 404);
    assert_eq!(visitor.ask(&get("/up")).status(), 200);
    let totals = eventually("three requests", || {
        let totals = observed.json("/api/v1/status");
        (totals["requests"] == 3).then_some(totals)
    });
    let responses = &totals["responses"];
    assert_eq!(
        (&responses["4xx"], &responses["3xx"], &responses["2xx"], &totals["errors"]),
        (&2.into(), &1.into(), &0.into(), &0.into()),
        "a load balancer's question is none of a visitor's"
    );
    assert_eq!(totals["failures"]["http_request_denied"], 1);
}

/// A proxy ends its connection after an answer that came before the request was whole, now with
/// the rest of that, now without.
#[test]
fn who_leaves_behind_a_whole_answer_to_half_a_request_is_no_error() {
    let observed = Observed::start(&[]);
    let url = format!("http://{}/lamp", observed.gateway.devices);
    let device = Ptth::start(&["device", &url, "--text", "hi"]);
    device.line_like("connected");
    for n in 0..60 {
        let mut visitor = observed.gateway.visitor();
        visitor.write("POST /lamp/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
        visitor.read_answer("POST").expect_ok("hi");
        if n % 2 == 0 {
            visitor.write("x".repeat(1000));
        }
        visitor.reset();
    }
    let totals = eventually("sixty requests", || {
        let totals = observed.json("/api/v1/status");
        (totals["requests"] == 60).then_some(totals)
    });
    assert_eq!((&totals["responses"]["2xx"], &totals["errors"]), (&60.into(), &0.into()));
    assert_eq!(totals["failures"], serde_json::json!({}));
}
