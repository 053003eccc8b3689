//! Operators by their tokens: what the log says of them, and what ends with a token.

use std::time::Duration;

use serde_json::Value;

use super::{Observed, read_events};
use crate::support::{Ptth, RawPeer, TempDir, eventually};

/// A file of operators' tokens.
pub(super) struct Tokens {
    file: String,
    pub(super) tokens: Vec<String>,
    lines: Vec<String>,
}

impl Tokens {
    /// One token for each label; an empty one is none.
    #[track_caller]
    pub(super) fn draw(folder: &TempDir, labels: &[&str]) -> Tokens {
        let file = folder.0.join("operators").to_str().unwrap().to_owned();
        let mut drawn = Tokens { file, tokens: Vec::new(), lines: Vec::new() };
        for label in labels {
            let label = if label.is_empty() { &[][..] } else { &["--label", label] };
            let (_, out, _) = Ptth::run(&[&["token", "*"], label].concat());
            let (token, line) = out.trim_end().split_once('\n').unwrap();
            drawn.tokens.push(token.to_owned());
            drawn.lines.push(line.to_owned());
        }
        drawn.write(0..labels.len());
        drawn
    }

    /// Puts these into the file, and no others.
    fn write(&self, which: std::ops::Range<usize>) {
        std::fs::write(&self.file, self.lines[which].join("\n") + "\n").unwrap();
    }

    pub(super) fn file(&self) -> &str {
        &self.file
    }
}

fn request(path: &str, token: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n{fields}\r\n")
}

#[test]
fn the_log_says_which_operator_came_and_who_was_refused() {
    let folder = TempDir::new("admin-log-ins");
    let tokens = Tokens::draw(&folder, &["the shop", ""]);
    let observed = Observed::start(&["--admin-tokens", tokens.file()]);
    let status = |token: &str| observed.ask(&request("/api/v1/status", token, "")).status();
    for token in [0, 0, 1, 0] {
        assert_eq!(status(&tokens.tokens[token]), 200);
    }
    // A wrong token is told from none.
    for (answer, said) in [
        (observed.ask(&request("/api/v1/status", "guessed", "")), "the token is not one"),
        (observed.get("/api/v1/status"), "show a token"),
    ] {
        assert_eq!((answer.status(), answer.text().contains(said)), (401, true), "{said}");
    }
    let action = request("/api/v1/devices/lamp/drain", &tokens.tokens[0], "X-Ptth-Admin: 1\r\n");
    assert_eq!(observed.ask(&action.replacen("GET", "POST", 1)).status(), 200);
    observed.gateway.process.expect_stderr("an operator (the shop) asked for drain of lamp");
    let log = observed.gateway.process.stderr();
    let count = |text: &str| log.matches(text).count();
    assert_eq!(count("an operator came from 127.0.0.1, with the token the shop"), 1, "{log}");
    assert_eq!(count("an operator came from 127.0.0.1, with the token line 2"), 1, "{log}");
    assert_eq!(count("showed no token of this gateway's operators"), 1, "{log}");
    assert!(!log.contains("guessed") && !log.contains(&tokens.tokens[0]), "{log}");
}

#[test]
fn guesses_flood_no_log() {
    let folder = TempDir::new("admin-guesses");
    let tokens = Tokens::draw(&folder, &[""]);
    let observed = Observed::start(&["--admin-tokens", tokens.file()]);
    let guess = || assert_eq!(observed.ask(&request("/", "guess", "")).status(), 401);
    (0..200).for_each(|_| guess());
    let log = eventually("a count of the others", || {
        guess();
        let log = observed.gateway.process.stderr();
        log.contains("more lines like the last of their kind").then_some(log)
    });
    assert!(log.matches("showed no token of this gateway's operators").count() < 100, "{log}");
}

#[test]
fn whoever_waits_or_follows_ends_with_a_token_and_not_with_another_ones() {
    let folder = TempDir::new("admin-waits");
    let tokens = Tokens::draw(&folder, &["stays", "goes"]);
    let observed = Observed::start(&["--admin-tokens", tokens.file()]);
    let start = |token: usize, path: &str, fields: &str| {
        let mut peer = RawPeer::connect(observed.admin);
        peer.write(request(path, &tokens.tokens[token], fields));
        peer
    };
    let stream = "Accept: text/event-stream\r\n";
    let mut follower = start(0, "/api/v1/events", stream);
    assert_eq!(follower.read_head().status(), 200);
    let mut waits = start(1, "/api/v1/events?after=0&wait=60s", "");
    let mut follows = start(1, "/api/v1/events?after=0&wait=60s", stream);
    assert_eq!(follows.read_head().status(), 200);
    let mut outlasts = start(0, "/api/v1/events?after=0&wait=60s", "");
    tokens.write(0..1);
    observed.gateway.process.signal("HUP");
    assert_eq!(waits.read_answer("GET").status(), 401);
    follows.read_to_end();
    let _link = observed.gateway.link("lamp");
    let told: Value = serde_json::from_slice(&outlasts.read_answer("GET").body).unwrap();
    assert_eq!(told["events"][0]["device"], "lamp");
    read_events(&mut follower, "\"device\":\"lamp\"");
}

#[test]
fn parameters_that_nobody_knows_are_refused_with_those_that_there_are() {
    let observed = Observed::start(&[]);
    for (path, told) in [
        ("/api/v1/devices?sort=name&silent=5m", "q, state, silent_for, sort, page, limit"),
        ("/api/v1/devices?limits", "q, state, silent_for, sort, page, limit"),
        ("/api/v1/links?name=lamp", "only these parameters: device"),
        ("/api/v1/events?since=3", "after, wait"),
        ("/api/v1/status?verbose=1", "no parameters"),
        ("/api/v1/devices/lamp?limit=1", "no parameters"),
        // One that nobody can read would be as good as absent.
        ("/api/v1/devices?silent_for=5%20minutes", "silent_for: "),
        ("/api/v1/devices?silent_for=99999999999999999999h", "silent_for: "),
        ("/api/v1/devices?page=-1", "page: "),
        ("/api/v1/devices?limit=all", "limit: "),
        ("/api/v1/devices?limit=0", "limit: "),
        ("/api/v1/devices?limit=1001", "limit: "),
        ("/api/v1/devices?limit=3&limit=all", "limit: "),
        ("/api/v1/devices?limit=3&limit=4", "limit: "),
        ("/api/v1/devices?limit=%", "limit: "),
        ("/api/v1/devices?page=0", "page: "),
        ("/api/v1/devices?sort=p999", "sort: "),
        ("/api/v1/devices?sort=--name", "sort: "),
        ("/api/v1/devices?state=%zz", "state: "),
        ("/api/v1/devices?q=%ff", "q: "),
        ("/api/v1/devices?state=away", "state: "),
        ("/api/v1/events?after=-1", "after: "),
        ("/api/v1/events?wait=soon", "wait: "),
    ] {
        let answer = observed.get(path);
        assert_eq!(answer.status(), 400, "{path}");
        assert!(answer.text().contains(told), "{path}: {}", answer.text());
    }
    assert_eq!(observed.post("/api/v1/log-level?to=debug").status(), 400);
    let all = "/api/v1/devices?q=a&state=up&silent_for=1s&sort=name&page=1&limit=5&";
    for key in
        "name state links idle busy waiting silent since ups requests errors p50 p99 bytes address"
            .split(' ')
    {
        for path in [format!("/api/v1/devices?sort={key}"), format!("/api/v1/devices?sort=-{key}")]
        {
            assert_eq!(observed.get(&path).status(), 200, "{path}");
        }
    }
    let empty = "/api/v1/devices?q=&state=&silent_for=&limit=";
    for path in [all, empty, "/api/v1/events?after=0&wait=0s", "/api/v1/status?"] {
        assert_eq!(observed.get(path).status(), 200, "{path}");
    }
    assert_eq!(observed.get("/?utm=1").status(), 200, "a page is no interface");
    assert_eq!(observed.get("/api/v1/nothing?x=1").status(), 404);
}

#[test]
fn events_from_before_the_listener_are_told() {
    let gateway = reverse_http::Gateway::builder();
    let gateway = gateway.listen("127.0.0.1:0").observe(true).start().unwrap();
    let mut link = RawPeer::connect(gateway.devices_addr());
    link.write(crate::support::process::offer("lamp", ""));
    assert_eq!(link.read_head().status(), 101);
    gateway.device("lamp").wait_connected(Duration::from_secs(30)).unwrap();
    let listener = gateway.admin("127.0.0.1:0", reverse_http::admin::Admin::new()).unwrap();
    let at = listener.url().strip_prefix("http://").unwrap().parse().unwrap();
    let first = eventually("the first event", || {
        let mut peer = RawPeer::connect(at);
        let answer = peer.ask("GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let told: Value = serde_json::from_slice(&answer.body).unwrap();
        told["events"].get(0).cloned()
    });
    assert_eq!((&first["kind"], &first["device"]), (&"up".into(), &"lamp".into()));
}
