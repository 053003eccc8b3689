//! Rates of requests, of a visitor's address and of a token: what passes, what is told to those who
//! come before their time, and who counts as whom.

use super::edits::device;
use super::{Config, reason};
use crate::gateway::tokens::{TokenFile, bearer};
use crate::support::process::get;
use crate::support::{Answer, Gateway, LocalServer, Ptth, each_row};

const TABLE: &str = r#"
[[route]]
path = "/few"
device = "lamp"
rate = "1/h"
burst = 3
free_preflights = true

[[route]]
path = "/any"
device = "lamp"
"#;

const TOO_MANY: &str = "this address has sent more requests than route /few allows: 1/h";

#[track_caller]
fn expect_too_many(answer: &Answer, told: &str) {
    assert_eq!(reason(answer, 429, "http_request_denied"), told);
    let seconds: u64 = answer.head.get("retry-after").unwrap().parse().unwrap();
    assert!((3_000..=3_600).contains(&seconds), "{seconds}");
}

/// Asks with these fields on a connection of its own.
fn ask(gateway: &Gateway, target: &str, fields: &str) -> Answer {
    gateway.visitor().ask(&get(target).replacen("\r\n\r\n", &format!("\r\n{fields}\r\n"), 1))
}

#[test]
fn what_comes_before_its_time_reaches_no_device_on_links_and_on_polls() {
    for fallback in ["never", "only"] {
        let (config, local) = (Config::new(TABLE), LocalServer::start());
        let gateway = config.gateway(&["--health-path", "/up"]);
        let _device = device(&gateway, &local, fallback);
        let preflight = "OPTIONS /few/x HTTP/1.1\r\nHost: v\r\nOrigin: https://a.example\r\nAccess-Control-Request-Method: PUT\r\n\r\n";
        for _ in 0..3 {
            assert_eq!(gateway.get("/few/x").status(), 200);
            assert_eq!(gateway.get("/up").status(), 200);
            assert_eq!(gateway.visitor().ask(preflight).status(), 200);
        }
        let asked = local.count();
        let mut visitor = gateway.visitor();
        for target in ["/few/x", "/few"] {
            visitor.write(get(target));
            let answer = visitor.read_answer("GET");
            expect_too_many(&answer, TOO_MANY);
            assert!(!answer.head.closes(), "the connection goes on");
        }
        visitor.write("HEAD /few/x HTTP/1.1\r\nHost: v\r\n\r\n");
        let answer = visitor.read_answer("HEAD");
        assert_eq!((answer.status(), answer.text().as_str()), (429, ""));
        assert_eq!(local.count(), asked);
        // A body that nobody reads is never the next request.
        let body = get("/any/x");
        visitor.write(format!(
            "POST /few/x HTTP/1.1\r\nHost: v\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let answer = visitor.read_answer("POST");
        assert!(answer.status() == 429 && answer.head.closes(), "{}", answer.head.text());
        visitor.expect_end();
        assert_eq!(local.count(), asked);
        // Preflights, the health path and other routes go on.
        assert_eq!(gateway.visitor().ask(preflight).status(), 200);
        assert_eq!((gateway.get("/up").status(), gateway.get("/any/x").status()), (200, 200));
        // What was counted counts on in the table that is read again.
        config.reload(&gateway, &TABLE.replace("burst = 3", "burst = 4"));
        assert_eq!(gateway.get("/few/x").status(), 200);
        expect_too_many(&gateway.get("/few/x"), TOO_MANY);
        config.reload(&gateway, &TABLE.replace("rate = \"1/h\"\nburst = 3\n", ""));
        assert_eq!(gateway.get("/few/x").status(), 200);
    }
}

#[test]
fn an_address_is_the_visitors_own_where_those_who_are_trusted_tell_it() {
    let (config, local) = (Config::new(TABLE), LocalServer::start());
    let from = |address: &str| format!("X-Forwarded-For: {address}\r\n");
    let gateway = config.gateway(&["--trusted-proxies", "127.0.0.0/8"]);
    let _device = device(&gateway, &local, "never");
    let ask_from = |address: &str| ask(&gateway, "/few/x", &from(address)).status();
    for others in ["192.0.2.1", "192.0.2.2", "2001:db8:0:1::1"] {
        assert_eq!([(); 4].map(|()| ask_from(others)), [200, 200, 200, 429], "{others}");
    }
    // A /64 is one house; what stands before the nearest address counts for nothing.
    assert_eq!((ask_from("2001:db8:0:1:ffff::"), ask_from("2001:db8:0:2::1")), (429, 200));
    assert_eq!(ask_from("198.51.100.9, 192.0.2.1"), 429);
    // From all others the field says nothing.
    let gateway = config.gateway(&[]);
    let _device = device(&gateway, &local, "never");
    let statuses =
        [1, 2, 3, 4].map(|n| ask(&gateway, "/few/x", &from(&format!("192.0.2.{n}"))).status());
    assert_eq!(statuses, [200, 200, 200, 429]);
    // The PROXY header of a balancer does.
    let gateway = config.gateway(&["--visitors-proxy-protocol", "127.0.0.0/8"]);
    let _device = device(&gateway, &local, "never");
    let statuses = [1, 1, 1, 1, 2].map(|n| {
        let mut visitor = gateway.visitor();
        visitor.write(format!("PROXY TCP4 192.0.2.{n} 192.0.2.99 1 2\r\n{}", get("/few/x")));
        visitor.read_answer("GET").status()
    });
    assert_eq!(statuses, [200, 200, 200, 429, 200]);
}

#[test]
fn a_token_has_its_own_rate_from_wherever_it_comes() {
    let tokens = TokenFile::new(&[("mine", "*"), ("other", "*")]);
    let table = "[[route]]\npath = \"/few\"\ndevice = \"lamp\"\nrate_per_token = \"2/h\"\n";
    let (config, local) = (Config::new(table), LocalServer::start());
    let options = ["--visitor-tokens", tokens.path(), "--trusted-proxies", "127.0.0.0/8"];
    let gateway = config.gateway(&options);
    let _device = device(&gateway, &local, "never");
    let from = |n: u8, token: &str| {
        ask(&gateway, "/few/x", &format!("X-Forwarded-For: 192.0.2.{n}\r\n{}", bearer(token)))
    };
    assert_eq!([1, 2].map(|n| from(n, "mine").status()), [200, 200]);
    let told = "this token has sent more requests than route /few allows: 2/h";
    assert_eq!(reason(&from(3, "mine"), 429, "http_request_denied"), told);
    assert_eq!((from(3, "other").status(), from(3, "guessed").status()), (200, 401));
    assert_eq!(local.count(), 3);
}

#[test]
fn the_options_are_for_what_no_route_of_the_table_takes_and_for_all_loops_together() {
    let (config, local) = (Config::new(TABLE), LocalServer::start());
    let options = ["--rate", "5/h", "--loops", "3", "--route", "path,host=devices.example"];
    let gateway = config.gateway(&options);
    let _device = device(&gateway, &local, "never");
    // Each connection comes to a loop of the system's choice, and is moved to its device's.
    let by_host = get("/x").replace("Host: ", "Host: lamp.devices.example\r\nX-Was: ");
    let statuses: Vec<u16> = (0..16)
        .map(|n| match n % 2 {
            0 => gateway.get("/lamp/x").status(),
            _ => gateway.visitor().ask(&by_host).status(),
        })
        .collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 5, "{statuses:?}");
    assert_eq!(statuses[..5], [200; 5]);
    let told = "this address has sent more requests than this gateway allows: 5/h";
    assert_eq!(reason(&gateway.get("/lamp/x"), 429, "http_request_denied"), told);
    assert_eq!((gateway.get("/few/x").status(), gateway.get("/any/x").status()), (200, 200));
    assert_eq!(gateway.get("/").status(), 404, "what reaches no device does not count");
}

#[test]
fn rates_that_cannot_work_are_refused() {
    let route = "[[route]]\npath = \"/x\"\n";
    let rows: [(&[&str], &str, &[&str]); 13] = [
        (&["--rate", "20"], "", &["--rate", "20/s, 100/m or 1000/h"]),
        (&["--rate", "0/s"], "", &["0/s"]),
        (&["--rate-per-token", "1/d"], "", &["1/d"]),
        (&["--rate-per-token", "1/s"], "", &["--rate-per-token goes with --visitor-tokens"]),
        (&["--burst", "5"], "", &["--burst goes with --rate"]),
        (&["--rate", "1/s", "--burst", "0"], "", &["--burst"]),
        (&["--rate", "1/s", "--burst", "1000001"], "", &["--burst", "at most 1000000"]),
        (&["--rate", "1/s", "--burst", "4294967297"], "", &["4294967297", "at most 1000000"]),
        (
            &[],
            "device = \"lamp\"\nrate = \"1/s\"\nburst = 4294967297\n",
            &["line 5, column 9: burst: at most 1000000"],
        ),
        (&[], "device = \"lamp\"\nrate = \"20/x\"\n", &["line 4, column 8: rate", "20/s"]),
        (&[], "device = \"lamp\"\nburst = 2\n", &["line 1", "route /x has a burst and no rate"]),
        (&[], "answer = \"hi\"\nrate = \"1/s\"\n", &["line 1", "a rate, which goes with a device"]),
        (
            &[],
            "device = \"lamp\"\nrate_per_token = \"1/s\"\n",
            &[
                "line 1, column 1",
                "route /x needs visitors' tokens, for rate_per_token or sign_in; give --visitor-tokens",
            ],
        ),
    ];
    each_row(
        &rows,
        |row| format!("{:?} {}", row.0, row.1),
        |(options, text, told)| {
            let text = if text.is_empty() { String::new() } else { format!("{route}{text}") };
            let config = Config::new(&text);
            let path = config.path().to_str().unwrap().to_owned();
            let check: &[&str] = &["gateway", "--check", "--config", &path];
            let (code, _, err) = Ptth::run(&[check, options].concat());
            assert!(code == 2 && told.iter().all(|told| err.contains(told)), "{err}");
        },
    );
    // The library refuses what only a gateway with tokens can count.
    let gateway = crate::support::gateway().listen("127.0.0.1:0").start().unwrap();
    let routes = || reverse_http::Routes::path().rate_per_token("1/s".parse().unwrap());
    let refused = gateway.listen_visitors("127.0.0.1:0", routes()).unwrap_err();
    assert!(refused.is_usage() && refused.to_string().contains("visitor_tokens"), "{refused}");
    let at = gateway.listen_visitors("127.0.0.1:0", reverse_http::Routes::path()).unwrap();
    assert!(gateway.set_routes(at, routes()).unwrap_err().is_usage());
}
