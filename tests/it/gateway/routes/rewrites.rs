//! What devices say of paths, put below the prefix that their route takes off: redirects, refreshes,
//! cookies.

use std::process::Command;

use super::edits::device;
use super::{Config, ask_host, hang_up};
use crate::support::{Answer, Gateway, Head, LocalServer, Ptth, each_row};

const TABLE: &str = r#"
[[route]]
path = "/deep/api"
device = "lamp"
rewrite = true

[[route]]
path = "/plain"
device = "lamp"
"#;

/// A server that answers with the fields that it is asked for, one in each `X-Say`.
fn speaker() -> LocalServer {
    LocalServer::with(|c| {
        let fields: String = c.head.all("x-say").iter().map(|line| format!("{line}\r\n")).collect();
        c.answer("200 OK", &fields, "hello");
    })
}

/// Asks for these fields at a target of `gw.example`.
#[track_caller]
fn say(gateway: &Gateway, target: &str, said: &[&str], more: &str) -> Head {
    let say: String = said.iter().map(|line| format!("X-Say: {line}\r\n")).collect();
    let answer: Answer =
        gateway.visitor().ask(&ask_host("gw.example", target, &format!("{say}{more}")));
    answer.expect_ok("hello");
    answer.head
}

const SAID: [&str; 8] = [
    "Location: /a?b",
    "Location: https://other.example/b",
    "Location: //host/c",
    "Content-Location: http://gw.example/d",
    "Refresh: 5; url='/e'",
    "Set-Cookie: a=1; Path=/; Domain=gw.example; HttpOnly",
    "Set-Cookie: b=2; path=/x; Secure",
    "Set-Cookie: c=3",
];

#[test]
fn redirects_and_cookies_get_the_prefix_back_on_links_and_on_polls() {
    let local = speaker();
    for fallback in ["never", "only"] {
        let config = Config::new(TABLE);
        let gateway = config.gateway(&["--rewrite-paths"]);
        let _device = device(&gateway, &local, fallback);
        for (target, prefix) in [("/deep/api/x", "/deep/api"), ("/lamp/x", "/lamp")] {
            let head = say(&gateway, target, &SAID, "");
            let location = [&format!("{prefix}/a?b"), "https://other.example/b", "//host/c"];
            assert_eq!(head.all("location"), location);
            assert_eq!(head.get("content-location"), Some(format!("{prefix}/d").as_str()));
            assert_eq!(head.get("refresh"), Some(format!("5; url={prefix}/e").as_str()));
            let cookies = [
                format!("a=1; Path={prefix}; HttpOnly"),
                format!("b=2; Path={prefix}/x; Secure"),
                "c=3".to_owned(),
            ];
            assert_eq!(head.all("set-cookie"), cookies);
        }
        // What is asked for at the prefix itself has its default path above it.
        let head = say(&gateway, "/deep/api", &["Set-Cookie: c=3", "Location: x"], "");
        assert_eq!(head.get("set-cookie"), Some("c=3; Path=/deep/api"));
        assert_eq!(head.get("location"), Some("/deep/api/x"));
        // A route that does not say so changes nothing.
        let head = say(&gateway, "/plain/x", &SAID, "");
        assert_eq!(head.all("location")[0], "/a?b");
        assert_eq!(head.all("set-cookie")[0], &SAID[5]["Set-Cookie: ".len()..]);
    }
}

#[test]
fn a_prefix_of_a_trusted_proxy_stands_before_the_routes_own() {
    let (config, local) = (Config::new(TABLE), speaker());
    let more = "X-Forwarded-Prefix: /iot\r\n";
    let said = ["Location: /a", "Set-Cookie: a=1; Path=/"];
    for (trust, prefix) in [("127.0.0.0/8", "/iot"), ("192.0.2.1", "")] {
        let gateway = config.gateway(&["--trusted-proxies", trust]);
        let _device = device(&gateway, &local, "never");
        let head = say(&gateway, "/deep/api/x", &said, more);
        assert_eq!(head.get("location"), Some(format!("{prefix}/deep/api/a").as_str()));
        let cookie = format!("a=1; Path={prefix}/deep/api");
        assert_eq!(head.get("set-cookie"), Some(cookie.as_str()));
    }
}

/// T11: what a device strips itself is not put back twice.
#[test]
fn a_device_that_maps_and_a_gateway_that_does_agree() {
    let (gateway, local) = (Gateway::start(&["--rewrite-paths"]), speaker());
    let to = format!("/cam={}", local.url());
    let _device = Ptth::device(&gateway, "lamp", &["--to", &to, "--strip-prefix", "/cam"]);
    let head = say(&gateway, "/lamp/cam/x", &["Location: /a", "Set-Cookie: a=1; Path=/"], "");
    assert_eq!(head.get("location"), Some("/lamp/cam/a"));
    assert_eq!(head.get("set-cookie"), Some("a=1; Path=/lamp/cam"));
}

#[test]
fn curl_logs_in_behind_a_prefix_and_shows_the_cookie_to_no_other_device() {
    let local = LocalServer::with(|c| match c.head.target() {
        "/" => c.answer("302 Found", "Location: /home\r\nSet-Cookie: s=1; Path=/\r\n", ""),
        _ => {
            let cookie = c.head.get("cookie").unwrap_or("none").to_owned();
            c.text(cookie);
        }
    });
    let gateway = Gateway::start(&["--rewrite-paths"]);
    let _lamp = Ptth::device(&gateway, "lamp", &["--to", &local.url()]);
    let _door = Ptth::device(&gateway, "door", &["--to", &local.url()]);
    let url = |target: &str| format!("http://{}{target}", gateway.visitors);
    let (lamp, door) = (url("/lamp/"), url("/door/x"));
    let mut curl = Command::new("curl");
    // `-b ""` keeps cookies in memory, for both.
    curl.args(["-sSL", "--max-time", "30", "-b", "", "-w", " %{url_effective}\n", &lamp, &door]);
    let output = String::from_utf8(curl.output().unwrap().stdout).unwrap();
    assert_eq!(output, format!("s=1 {}\nnone {door}\n", url("/lamp/home")));
}

#[test]
fn what_there_is_to_rewrite_is_read_again_and_what_cannot_work_is_refused() {
    let local = speaker();
    let text = |on| format!("{TABLE}[gateway]\nrewrite_paths = {on}\n");
    let config = Config::new(&text("false"));
    let gateway = config.gateway(&[]);
    let _device = device(&gateway, &local, "never");
    let location =
        |target| say(&gateway, target, &["Location: /a"], "").get("location").map(str::to_owned);
    assert_eq!(location("/lamp/x").as_deref(), Some("/a"));
    config.reload(&gateway, &text("true"));
    gateway.process.expect_stderr("options of routes: 1 changed (rewrite-paths)");
    assert_eq!(location("/lamp/x").as_deref(), Some("/lamp/a"));
    config.write(&text("true").replace("rewrite = true", "rewrite = false"));
    hang_up(&gateway);
    assert_eq!(location("/deep/api/x").as_deref(), Some("/a"));
    let rows: [(&[&str], &str, &str); 6] = [
        (&["--route", "none", "--rewrite-paths"], "", "--rewrite-paths goes with --route path"),
        (&["--route", "host=a.example", "--rewrite-paths"], "", "nothing is taken off a path"),
        (
            &[],
            "path = \"/x\"\ndevice = \"lamp\"\nrewrite = true\nstrip = false\n",
            "line 1, column 1",
        ),
        (&[], "host = \"a.example\"\ndevice = \"lamp\"\nrewrite = true\n", "takes no path off"),
        (&[], "path = \"/\"\ndevice = \"lamp\"\nrewrite = true\n", "route / takes no path off"),
        (&[], "path = \"/x\"\ndevice = \"lamp\"\nrewrite = 1\n", "line 4, column 11"),
    ];
    each_row(
        &rows,
        |row| format!("{:?} {}", row.0, row.1),
        |(options, route, told)| {
            let config = Config::new(&match *route {
                "" => String::new(),
                route => format!("[[route]]\n{route}"),
            });
            let path = config.path().to_str().unwrap().to_owned();
            let check: &[&str] = &["gateway", "--check", "--config", &path];
            let (code, _, err) = Ptth::run(&[check, options].concat());
            assert!(code == 2 && err.contains(told), "{err}");
        },
    );
}
