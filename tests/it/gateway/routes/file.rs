//! The file, and SIGHUP.

use std::time::Duration;

use super::{Config, hang_up, reason};
use crate::support::local::routes;
use crate::support::process::get;
use crate::support::{Gateway, LocalServer, Ptth, each_row, vector};

// ── The file ──

/// The file, the line of its mistake, and words that the message has to have.
const MISTAKES: &[(&str, usize, &[&str])] = &[
    ("[[route]\n", 1, &[]),
    ("\n\nroute = [\n", 3, &[]),
    ("[[route]]\nhost = lamp\n", 2, &[]),
    ("[[route]]\nhost = \"a.example\"\nhost = \"b.example\"\n", 3, &["duplicate"]),
    (
        "[[route]]\nhost = \"a.example\"\ndevice = \"lamp\"\nhots = \"b\"\n",
        4,
        &["hots", "host, path, device"],
    ),
    ("# one\n[[routes]]\nhost = \"a.example\"\n", 2, &["routes", "[[route]]"]),
    ("listen = \"127.0.0.1:80\"\n", 1, &["listen", "[[route]]"]),
    ("[route]\nhost = \"a.example\"\n", 1, &["two brackets"]),
    ("route = [1]\n", 1, &["[[route]]"]),
    (
        "[[route]]\nhost = \"a.example:80\"\ndevice = \"lamp\"\n",
        2,
        &["a.example:80", "lamp.example"],
    ),
    ("[[route]]\nhost = \"*\"\ndevice = \"lamp\"\n", 2, &["*.devices.example"]),
    ("[[route]]\nhost = 5\n", 2, &["host", "quotes"]),
    ("[[route]]\n\npath = \"api\"\n", 3, &["api", "begins with /"]),
    ("[[route]]\npath = \"/a/../b\"\n", 2, &["/a/../b"]),
    ("[[route]]\npath = \"/api\"\ndevice = \"Lamp\"\n", 3, &["Lamp", "lower case"]),
    (
        "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nstrip = \"no\"\n",
        4,
        &["strip", "true or false"],
    ),
    (
        "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nfirst_byte = 120\n",
        4,
        &["first_byte", "\"10s\""],
    ),
    (
        "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nfirst_byte = \"120\"\n",
        4,
        &["first_byte", "unit"],
    ),
    (
        "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nfirst_byte = \"0s\"\n",
        4,
        &["first_byte", "greater than zero"],
    ),
    (
        "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nbody_silence = \"0ms\"\n",
        4,
        &["body_silence", "greater than zero"],
    ),
    (
        "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nwait_for_link = \"soon\"\n",
        4,
        &["wait_for_link", "whole number"],
    ),
    ("[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nin_flight = 0\n", 4, &["in_flight", "1"]),
    (
        "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nin_flight = -1\n",
        4,
        &["in_flight", "whole number"],
    ),
    (
        "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nin_flight = 1.5\n",
        4,
        &["in_flight", "whole number"],
    ),
    (
        "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nin_flight = 99999999999999999999\n",
        4,
        &["in_flight", "whole number"],
    ),
    ("# a\n[[route]]\ndevice = \"lamp\"\n", 2, &["a host, a path, or both"]),
    (
        "# a\n# b\n[[route]]\nhost = \"a.example\"\n",
        3,
        &["a.example names no device", "*.devices.example"],
    ),
    (
        "[[route]]\npath = \"/x\"\nanswer = \"hi\"\nredirect = \"/y\"\n",
        4,
        &["a redirect or an answer; leave one out"],
    ),
    (
        "# a\n[[route]]\npath = \"/x\"\nredirect = \"/x/*\"\n",
        2,
        &["route /x has a redirect to itself"],
    ),
    (
        "# a\n[[route]]\npath = \"/x\"\nstrip = false\nredirect = \"/*\"\n",
        2,
        &["route /x has a redirect to itself"],
    ),
    ("# a\n[[route]]\npath = \"/x\"\nredirect = \"/y/../x/*\"\n", 4, &["redirect \"/y/../x/*\""]),
    (
        "# a\n[[route]]\npath = \"/x\"\nanswer = \"hi\"\nstatus = 407\n",
        2,
        &["status 407", "401 and 407"],
    ),
    (
        "[[route]]\npath = \"/x\"\ndevice = \"lamp\"\nset_field = [\"X-A: 1\", \"X-B\"]\n",
        4,
        &["column 24: set_field", "\"NAME: VALUE\""],
    ),
    (
        "[[route]]\npath = \"/x\"\ndevice = \"lamp\"\nremove_response_field = 5\n",
        4,
        &["remove_response_field", "\"NAME\""],
    ),
    (
        "# a\n[[route]]\npath = \"/x\"\nanswer = \"hi\"\nset_response_field = \"X-A: 1\"\n",
        2,
        &["route /x has fields to set or remove"],
    ),
    (
        "[[route]]\nhost = \"a.example\"\npath = \"/x\"\ndevice = \"lamp\"\n\n[[route]]\ndevice = \"desk\"\npath = \"/x/\"\nhost = \"A.example\"\n",
        6,
        &["another route a.example/x"],
    ),
];

#[test]
fn a_mistake_is_told_with_its_line_and_what_is_right() {
    each_row(
        MISTAKES,
        |row| row.0.replace('\n', " | "),
        |(text, line, words)| {
            let config = Config::new(text);
            let file = config.path().to_str().unwrap().to_owned();
            let (code, out, err) = Ptth::run(&[
                "gateway",
                "--devices",
                "127.0.0.1:0",
                "--visitors",
                "127.0.0.1:0",
                "--config",
                &file,
            ]);
            assert_eq!((code, out.as_str()), (2, ""), "{err}");
            assert!(err.contains(&format!("{file}, line {line}, column ")), "{err}");
            assert!(
                words.iter().all(|word| err.contains(word)) && !err.contains("panicked"),
                "{words:?}: {err}"
            );
            assert_eq!(err.trim_end().lines().count(), 1, "one line says it: {err}");
        },
    );
}

#[test]
fn a_file_that_is_not_there_is_wrong_usage_and_an_empty_one_has_no_routes() {
    let (code, _, err) = Ptth::run(&[
        "gateway",
        "--devices",
        "127.0.0.1:0",
        "--visitors",
        "127.0.0.1:0",
        "--config",
        "/nowhere/routes.toml",
    ]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("/nowhere/routes.toml"), "{err}");
    let config = Config::new("");
    std::fs::write(config.path(), b"# \xff\n").unwrap();
    let (code, _, err) = Ptth::run(&["gateway", "--config", config.path().to_str().unwrap()]);
    assert_eq!(code, 2, "{err}");
    config.write("");
    let gateway = config.gateway(&[]);
    let _device = LocalServer::device(&gateway, "lamp", 1, routes);
    gateway.get("/lamp/x").expect_ok("hello\n");
}

// ── SIGHUP ──

#[test]
fn a_reload_touches_no_connection_and_what_is_in_flight_keeps_its_route() {
    let one = "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nfirst_byte = \"9s\"\nin_flight = 1\n";
    let other = "[[route]]\npath = \"/api\"\ndevice = \"desk\"\nfirst_byte = \"50ms\"\nin_flight = 2\n[[route]]\npath = \"/new\"\ndevice = \"lamp\"\n";
    let config = Config::new(one);
    let gateway = config.gateway(&["--route", "none"]);
    let (mut lamp, mut desk) = (gateway.link("lamp"), gateway.link("desk"));
    let (mut kept, mut busy) = (gateway.visitor(), gateway.visitor());
    kept.write(get("/api/before"));
    assert_eq!(lamp.read_head().target(), "/before");
    lamp.write(vector("draft-4-response"));
    kept.read_answer("GET").expect_ok("Good");
    crate::support::fence(gateway.visitors); // its place is free
    busy.write(get("/api/during"));
    assert_eq!(lamp.read_head().target(), "/during");

    config.reload(&gateway, other);
    gateway.process.expect_stderr("2 routes were read from");
    // The kept connection finds the new table: another device, a shorter wait, and a bound of two
    // of which one is taken.
    kept.write(get("/api/after"));
    assert_eq!(desk.read_head().target(), "/after");
    gateway.get("/api/third").expect_refusal(503);
    let text = reason(&kept.read_answer("GET"), 504, "http_response_timeout");
    assert!(text.ends_with("0.05 s (first_byte of its route)"), "{text}");
    // What was in flight keeps its device and its timeouts, long after the new route's would be
    // over.
    busy.expect_quiet(Duration::from_millis(200));
    lamp.write(vector("draft-4-response"));
    busy.read_answer("GET").expect_ok("Good");
    for visitor in [&mut kept, &mut busy] {
        visitor.write(get("/new/x"));
        assert_eq!(lamp.read_head().target(), "/x");
        lamp.write(vector("draft-4-response"));
        visitor.read_answer("GET").expect_ok("Good");
    }
}

#[test]
fn a_broken_file_on_reload_leaves_the_routes_as_they_were() {
    let right = "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\n";
    let config = Config::new(right);
    let mut gateway = config.gateway(&["--route", "none"]);
    let _device = LocalServer::device(&gateway, "lamp", 1, routes);
    let mut visitor = gateway.visitor();
    let file = config.path().display().to_string();
    for (text, line) in [
        ("[[route]]\npath = \"/other\"\ndevise = \"lamp\"\n", 3),
        ("[[route]]\npath = \"/api\"\ndevice = \"lamp", 3),
    ] {
        config.reload(&gateway, text);
        gateway.process.expect_stderr(&format!("{file}, line {line}, column "));
        visitor.ask(&get("/api/x")).expect_ok("hello\n");
        visitor.ask(&get("/other/x")).expect_refusal(404);
    }
    // As a full disk leaves it, which is no wish for all defaults.
    config.reload(&gateway, "\n");
    gateway.process.expect_stderr(&format!("{file}: the file is empty"));
    visitor.ask(&get("/api/x")).expect_ok("hello\n");
    std::fs::remove_file(config.path()).unwrap();
    hang_up(&gateway);
    visitor.ask(&get("/api/x")).expect_ok("hello\n");
    config.reload(&gateway, &right.replace("api", "other"));
    visitor.ask(&get("/other/x")).expect_ok("hello\n");
    visitor.ask(&get("/api/x")).expect_refusal(404);
    assert!(!gateway.process.has_ended());
}

#[test]
fn sighup_ends_no_gateway_neither_without_a_file_nor_while_it_stops() {
    let mut gateway = Gateway::start(&["--drain-timeout", "60s"]);
    hang_up(&gateway);
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/slow"));
    link.read_head();
    gateway.process.signal("TERM");
    gateway.process.expect_stderr("stopping");
    for _ in 0..3 {
        gateway.process.signal("HUP");
    }
    visitor.expect_quiet(Duration::from_millis(100));
    link.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
    drop(link);
    assert_eq!(
        gateway.process.exit_code_within(Duration::from_secs(5)),
        0,
        "{}",
        gateway.process.stderr()
    );
}
