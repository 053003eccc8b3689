//! The access log.

use std::io::Read;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::OK;
use crate::support::process::get;
use crate::support::{Gateway, Ptth, TempDir, eventually};

// ── The access log ──

/// A gateway that logs requests into a file.
struct Logged {
    gateway: Gateway,
    folder: TempDir,
}

impl Logged {
    #[track_caller]
    fn start(more: &[&str]) -> Logged {
        let folder = TempDir::new("access-log");
        let file = folder.0.join("access.log");
        let gateway = Gateway::start(&[&["--access-log", file.to_str().unwrap()], more].concat());
        Logged { gateway, folder }
    }

    /// The lines of a file, once there are so many.
    #[track_caller]
    fn lines(&self, file: &str, most: usize) -> Vec<String> {
        eventually(&format!("{most} lines in {file}"), || {
            let text = std::fs::read_to_string(self.folder.0.join(file)).ok()?;
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            (lines.len() >= most).then_some(lines)
        })
    }
}

#[test]
fn the_access_log_has_a_line_for_each_request() {
    let logged = Logged::start(&[]);
    let mut link = logged.gateway.link("lamp");
    let mut visitor = logged.gateway.visitor();
    visitor.write(
        "GET /lamp/a?x=1 HTTP/1.1\r\nHost: a\r\nReferer: http://b/\"\r\nUser-Agent: curl/8\r\n\r\n",
    );
    link.read_head();
    link.write(OK);
    visitor.read_answer("GET").expect_ok("ok");
    logged.gateway.get("/nobody/").expect_refusal(404);
    let lines = logged.lines("access.log", 2);
    let (before, after) = lines[0].split_once(" - - [").unwrap();
    assert_eq!(before.parse::<std::net::Ipv4Addr>().unwrap().octets()[0], 127);
    let (date, rest) = after.split_once("] ").unwrap();
    assert!(date.ends_with(" +0000") && date.len() == "06/Nov/1994:08:49:37 +0000".len(), "{date}");
    assert_eq!(rest, r#""GET /lamp/a?x=1 HTTP/1.1" 200 2 "http://b/\"" "curl/8""#);
    assert!(lines[1].ends_with(r#""GET /nobody/ HTTP/1.1" 404 - "-" "-""#), "{}", lines[1]);
    let logged = Logged::start(&["--access-log-format", "common"]);
    logged.gateway.visitor().ask("GET /lamp HTTP/1.1\r\nHost: a\r\n\r\n");
    let lines = logged.lines("access.log", 1);
    assert!(lines[0].ends_with(r#"+0000] "GET /lamp HTTP/1.1" 308 -"#), "{}", lines[0]);
}

#[test]
fn in_json_it_has_everything_and_behind_proxies_the_visitor() {
    let logged =
        Logged::start(&["--access-log-format", "json", "--trusted-proxies", "127.0.0.0/8"]);
    let gateway = &logged.gateway;
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write("POST /lamp/a HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 198.51.100.9, 203.0.113.7, 127.0.0.9\r\nX-Request-Id: abc-1\r\nContent-Length: 3\r\n\r\nxyz");
    assert_eq!(link.read_head().all("x-request-id"), ["abc-1"]);
    assert_eq!(link.read_exact(3), b"xyz");
    link.write(OK);
    visitor.read_answer("POST").expect_ok("ok");
    let line: Value = serde_json::from_str(&logged.lines("access.log", 1)[0]).unwrap();
    for (name, value) in [
        ("device", Value::from("lamp")),
        ("visitor", "203.0.113.7".into()),
        ("method", "POST".into()),
        ("target", "/lamp/a".into()),
        ("host", "h".into()),
        ("status", 200.into()),
        ("bytes_to_device", 3.into()),
        ("bytes_from_device", 2.into()),
        ("request_id", "abc-1".into()),
        ("retried", false.into()),
        ("gateway", Value::Null),
        ("from_gateway", false.into()),
        ("failure", Value::Null),
    ] {
        assert_eq!(line[name], value, "{name} in {line}");
    }
    assert!(line["link"].is_u64() && line["first_byte_ms"].is_number(), "{line}");
    // A request that fails, and one that is sent again.
    visitor.write(get("/lamp/b"));
    link.read_head();
    drop(link);
    let mut other = gateway.link("lamp");
    other.read_head();
    other.write(OK);
    visitor.read_answer("GET").expect_ok("ok");
    let line: Value = serde_json::from_str(&logged.lines("access.log", 2)[1]).unwrap();
    assert_eq!((&line["retried"], &line["status"]), (&true.into(), &200.into()), "{line}");
}

#[test]
fn a_visitors_own_request_id_is_not_believed() {
    let logged = Logged::start(&["--access-log-format", "json"]);
    let mut link = logged.gateway.link("lamp");
    let mut visitor = logged.gateway.visitor();
    visitor.write(
        "GET /lamp/a HTTP/1.1\r\nHost: h\r\nX-Request-Id: mine\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n",
    );
    let head = link.read_head();
    let ids = head.all("x-request-id");
    assert!(ids.len() == 1 && ids[0].len() == 32 && ids[0] != "mine", "{ids:?}");
    link.write(OK);
    visitor.read_answer("GET").expect_ok("ok");
    let line: Value = serde_json::from_str(&logged.lines("access.log", 1)[0]).unwrap();
    assert_eq!(line["request_id"], ids[0]);
    assert!(line["visitor"].as_str().unwrap().starts_with("127."));
    // Without an access log it is the device's business.
    let gateway = Gateway::start(&[]);
    let mut link = gateway.link("lamp");
    gateway.visitor().write("GET /lamp/a HTTP/1.1\r\nHost: h\r\nX-Request-Id: mine\r\n\r\n");
    assert_eq!(link.read_head().all("x-request-id"), ["mine"]);
}

#[test]
fn the_access_log_is_opened_anew_on_sighup_and_whole_at_the_end() {
    let mut logged = Logged::start(&["--access-log-format", "common", "--drain-timeout", "100ms"]);
    logged.gateway.get("/nobody/1").expect_refusal(404);
    logged.lines("access.log", 1);
    std::fs::rename(logged.folder.0.join("access.log"), logged.folder.0.join("access.1")).unwrap();
    logged.gateway.process.signal("HUP");
    logged.gateway.process.expect_stderr("was reopened");
    for n in 0..50 {
        logged.gateway.get(&format!("/nobody/{n}")).expect_refusal(404);
    }
    logged.gateway.process.signal("TERM");
    assert_eq!(logged.gateway.process.exit_code(), 0);
    assert_eq!(logged.lines("access.log", 50).len(), 50);
    assert_eq!(logged.lines("access.1", 1).len(), 1);
}

#[test]
fn an_access_log_that_nobody_takes_keeps_no_request_waiting() {
    let folder = TempDir::new("access-fifo");
    let fifo = folder.0.join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    // Somebody has it open, and reads nothing.
    let mut reader = std::fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    let gateway = Gateway::start(&["--access-log", fifo.to_str().unwrap(), "--route", "none"]);
    let mut visitor = gateway.visitor();
    for _ in 0..50 {
        visitor.write(get("/nothing").repeat(200));
        (0..200).for_each(|_| drop(visitor.read_answer("GET")));
    }
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while reader.read(&mut piece).is_ok_and(|n| n > 0) {}
    });
    eventually("it says how many are lost", || {
        visitor.ask(&get("/nothing"));
        gateway.process.stderr().contains("requests are not in the access log").then_some(())
    });
}

#[test]
fn what_waits_for_the_access_log_is_bounded_in_bytes_and_counted_as_memory() {
    let folder = TempDir::new("access-bytes");
    let fifo = folder.0.join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    // Somebody has it open, and reads nothing.
    let _reader = std::fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    let log = ["--access-log", fifo.to_str().unwrap(), "--route", "none", "--memory", "64M"];
    let observed = super::Observed::start(&log);
    let (mut visitor, long) = (observed.gateway.visitor(), "x".repeat(4_000));
    for _ in 0..10 {
        visitor.write(get(&format!("/{long}")).repeat(100));
        (0..100).for_each(|_| drop(visitor.read_answer("GET")));
    }
    let lost = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("ptth_access_log_lost_total "));
        line?.parse::<u64>().ok()
    };
    // A 64th of the memory: 1 MiB, some 250 of these; some more are in the writer's hands.
    let metrics = eventually("what is lost", || {
        let text = observed.get("/metrics").text();
        lost(&text).is_some_and(|lost| lost > 0).then_some(text)
    });
    let lost = lost(&metrics).unwrap();
    assert!((500..950).contains(&lost), "{lost}");
    let memory = &observed.json("/api/v1/limits")["use"]["memory_bytes"];
    assert!((900_000..4_000_000).contains(&memory.as_u64().unwrap()), "{memory}");
    // The writer hangs, and it is said nevertheless.
    observed.gateway.process.expect_stderr("requests are not in the access log");
}

#[test]
fn a_file_that_cannot_be_opened_is_wrong_usage() {
    let common = ["gateway", "--devices", "127.0.0.1:0", "--visitors", "127.0.0.1:0"];
    for file in ["/", "/no/such/folder/log"] {
        for check in [&[][..], &["--check"]] {
            let (code, out, error) =
                Ptth::run(&[&common[..], &["--access-log", file], check].concat());
            assert!(code == 2 && out.is_empty(), "{code} {error}");
            assert!(error.contains(&format!("--access-log {file}")), "{error}");
        }
    }
    let folder = TempDir::new("access-check");
    let new = folder.0.join("log");
    let options = ["--check", "--access-log", new.to_str().unwrap()];
    assert_eq!(Ptth::run(&[&common[..], &options].concat()).0, 0);
    assert!(!new.exists(), "a check makes no file");
}

#[test]
fn a_fifo_without_a_reader_is_not_waited_for() {
    let mut logged = Logged::start(&["--access-log-format", "common", "--drain-timeout", "100ms"]);
    let path = logged.folder.0.join("access.log");
    std::fs::rename(&path, logged.folder.0.join("access.1")).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    logged.gateway.process.signal("HUP");
    let fifo = path.to_str().unwrap();
    let options = ["--devices", "127.0.0.1:0", "--visitors", "127.0.0.1:0", "--access-log", fifo];
    let start = |more: &[&str]| Ptth::start(&[&["gateway"], &options[..], more].concat());
    for mut process in [start(&[]), start(&["--check"])] {
        assert_eq!(process.exit_code(), 2);
        process.expect_stderr(&format!("--access-log {fifo}: it took longer than"));
        assert_eq!(process.line_within(Duration::ZERO), None);
    }
    logged.gateway.process.expect_stderr("the file that was open stays");
    logged.gateway.get("/nobody/").expect_refusal(404);
    logged.lines("access.1", 1);
    logged.gateway.process.signal("TERM");
    assert_eq!(logged.gateway.process.exit_code(), 0);
}

#[test]
fn on_standard_output_it_stands_behind_the_ready_lines() {
    let gateway = Gateway::start(&["--access-log", "-", "--access-log-format", "common"]);
    gateway.get("/nobody/").expect_refusal(404);
    assert!(gateway.process.line().ends_with("\"GET /nobody/ HTTP/1.1\" 404 -"));
}

#[test]
fn a_visitor_forges_no_line_of_the_access_log() {
    let forged = "x\" 200 1\\ \u{9b}2J\u{202e}é\u{1f4a9}";
    let request =
        format!("GET /nobody/?q=%22%0a HTTP/1.1\r\nHost: a\r\nUser-Agent: {forged}\r\n\r\n");
    for (format, expected) in [
        (
            "combined",
            r#""GET /nobody/?q=%22%0a HTTP/1.1" 404 - "-" "x\" 200 1\\ \xC2\x9B2J\xE2\x80\xAE\xC3\xA9\xF0\x9F\x92\xA9""#,
        ),
        ("json", r#""user_agent":"x\" 200 1\\ \u009b2J\u202e\u00e9\ud83d\udca9""#),
    ] {
        let logged = Logged::start(&["--access-log-format", format]);
        let mut visitor = logged.gateway.visitor();
        visitor.ask(&request).expect_refusal(404);
        let lines = logged.lines("access.log", 1);
        assert!(lines.len() == 1 && lines[0].contains(expected), "{lines:?}");
    }
    // What is long is cut: as many lines as may wait take little memory.
    let logged = Logged::start(&["--access-log-format", "json"]);
    let target = format!("/nobody/{}", "x".repeat(7_000));
    logged.gateway.get(&target).expect_refusal(404);
    let value: Value = serde_json::from_str(&logged.lines("access.log", 1)[0]).unwrap();
    let written = value["target"].as_str().unwrap();
    assert!(written.len() < 4_200 && target.starts_with(&written[..4_000]), "{}", written.len());
}
