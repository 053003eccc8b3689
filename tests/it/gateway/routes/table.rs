//! The table of routes.

use std::time::{Duration, Instant};

use super::{Config, ask_host, reason};
use crate::support::local::routes;
use crate::support::process::get;
use crate::support::{LocalServer, each_row, eventually, vector};

// ── The table ──

const TABLE: &str = r#"
# Comments and blank lines are TOML's.
[[route]]
host = "lamp.example"
device = "lamp"

[[route]]
host = "lamp.example"
path = "/desk"
device = "desk"

[[route]]
host = "*.devices.example"

[[route]]
path = "/api"
device = "lamp"

[[route]]
path = "/api/raw"
device = "desk"
strip = false

[[route]]
path = "/lamp"
device = "door"
"#;

#[test]
fn requests_go_where_the_table_says_and_then_where_the_other_routes_do() {
    let config = Config::new(TABLE);
    let gateway =
        config.gateway(&["--route", "path,host=other.example", "--wait-for-link", "50ms"]);
    let _devices = ["lamp", "desk", "door"].map(|name| {
        LocalServer::device(&gateway, name, 1, move |c| {
            let prefix = c.head.get("x-forwarded-prefix").unwrap_or("-").to_owned();
            let text = format!(
                "{name} {} {prefix} {}",
                c.head.target(),
                c.head.get("host").unwrap_or_default()
            );
            c.text(text);
        })
    });
    let mut ietf = gateway.dial();
    ietf.write("GET /.well-known/ptth/https%3A%2F%2Forigin.devices.example/ HTTP/1.1\r\nHost: gw\r\nConnection: upgrade\r\nUpgrade: ptth\r\nALPN: http%2F1.1\r\n\r\n");
    assert_eq!(ietf.read_head().status(), 101);
    let rows: &[(&str, &str, Result<&str, u16>)] = &[
        ("lamp.example", "/x?y", Ok("lamp /x?y -")),
        ("LAMP.example.:8080", "/api/x", Ok("lamp /api/x -")),
        ("lamp.example", "/desk/x", Ok("desk /x /desk")),
        ("lamp.example", "/desktop", Ok("lamp /desktop -")),
        ("desk.devices.example", "/api/x", Ok("desk /api/x -")),
        ("a.desk.devices.example", "/q/", Err(404)),
        ("nobody.devices.example", "/q", Err(404)),
        ("any.example", "/api", Ok("lamp / /api")),
        ("any.example", "/api?q", Ok("lamp /?q /api")),
        ("any.example", "/api/", Ok("lamp / /api")),
        ("any.example", "/api/x//y", Ok("lamp /x//y /api")),
        ("any.example", "/api/raw/x", Ok("desk /api/raw/x -")),
        ("any.example", "/api/rawer", Ok("lamp /rawer /api")),
        ("any.example", "/apix/", Err(404)),
        ("any.example", "/%61pi/x", Err(400)),
        ("any.example", "/api%2Fx", Err(400)),
        ("any.example", "/api/../x", Err(400)),
        ("desk.other.example", "/x", Ok("desk /x -")),
        ("desk.other.example", "/api/x", Ok("lamp /x /api")), // the table stands before suffixes
        ("any.example", "/lamp/x", Ok("door /x /lamp")),      // and before paths
        ("any.example", "/desk/x", Ok("desk /x /desk")),
        ("any.example", "/", Err(404)),
    ];
    each_row(
        rows,
        |row| format!("{}{}", row.0, row.1),
        |(host, target, expected)| {
            let answer = gateway.visitor().ask(&ask_host(host, target, ""));
            match expected {
                Ok(text) => answer.expect_ok(format!("{text} {host}")),
                Err(status) => answer.expect_refusal(*status),
            }
        },
    );
    // Origins stand before everything.
    let mut visitor = gateway.visitor();
    visitor.write(ask_host("origin.devices.example", "/api/x", ""));
    assert_eq!(ietf.read_head().target(), "/api/x");
    ietf.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
}

#[test]
fn the_table_can_be_all_there_is() {
    let config = Config::new("[[route]]\npath = \"/api\"\ndevice = \"lamp\"\n");
    let gateway = config.gateway(&["--route", "none"]);
    let _device = LocalServer::device(&gateway, "lamp", 1, routes);
    gateway.get("/api/x").expect_ok("hello\n");
    let answer = gateway.get("/lamp/x");
    assert_eq!(reason(&answer, 404, "destination_not_found"), "no route has this host and path");
    config.reload(&gateway, "# none\n");
    gateway.get("/api/x").expect_refusal(404);
}

#[test]
fn a_device_that_a_route_names_is_known_before_it_was_ever_there() {
    let config = Config::new(
        "[[route]]\nhost = \"lamp.example\"\ndevice = \"lamp\"\n[[route]]\nhost = \"*.devices.example\"\n",
    );
    let gateway = config.gateway(&["--wait-for-link", "300ms"]);
    for (host, target) in
        [("lamp.example", "/x"), ("lamp.devices.example", "/x"), ("any.example", "/lamp/x")]
    {
        let then = Instant::now();
        let answer = gateway.visitor().ask(&ask_host(host, target, ""));
        let reason = reason(&answer, 503, "destination_unavailable");
        assert!(then.elapsed() >= Duration::from_millis(250), "{host}: it did not wait");
        assert_eq!(
            reason,
            "device lamp is not connected, and was not recently; it did not connect within 0.3 s (wait_for_link)"
        );
        assert_eq!(answer.head.get("retry-after"), Some("1"));
    }
    // A label that a visitor made up is not.
    gateway.visitor().ask(&ask_host("desk.devices.example", "/x", "")).expect_refusal(404);
    // A waiting request gets the next link.
    let config = Config::new(
        "[[route]]\nhost = \"lamp.example\"\ndevice = \"lamp\"\nwait_for_link = \"9s\"\n",
    );
    let gateway = config.gateway(&["--wait-for-link", "1ms"]);
    let mut visitor = gateway.visitor();
    visitor.write(ask_host("lamp.example", "/x", ""));
    visitor.expect_quiet(Duration::from_millis(100));
    let _device = LocalServer::device(&gateway, "lamp", 1, routes);
    visitor.read_answer("GET").expect_ok("hello\n");
}

#[test]
fn a_route_has_its_own_waits_and_errors_say_so() {
    let config = Config::new(
        "[[route]]\npath = \"/slow\"\ndevice = \"lamp\"\nfirst_byte = \"200ms\"\nbody_silence = \"150ms\"\nwait_for_link = \"100ms\"\n\
         [[route]]\npath = \"/usual\"\ndevice = \"lamp\"\n",
    );
    let gateway = config.gateway(&["--first-byte", "1h", "--wait-for-link", "1h"]);
    let answer = gateway.get("/slow/x");
    let text = reason(&answer, 503, "destination_unavailable");
    assert_eq!(
        text,
        "device lamp is not connected, and was not recently; it did not connect within 0.1 s (wait_for_link of its route)"
    );

    let mut device = gateway.link("lamp");
    let mut usual = gateway.visitor();
    usual.write(get("/usual/x"));
    device.read_head();
    let answer = gateway.get("/slow/x");
    let text = reason(&answer, 503, "connection_limit_reached");
    assert_eq!(
        text,
        "the one link of device lamp stayed busy for 0.1 s (wait_for_link of its route); let the device dial more (DeviceBuilder::links, or --links), or ask later"
    );
    usual.expect_quiet(Duration::from_millis(300)); // longer than any wait of the other route
    device.write(vector("draft-4-response"));
    usual.read_answer("GET").expect_ok("Good");

    let mut visitor = gateway.visitor();
    visitor.write(get("/slow/x"));
    device.read_head();
    let text = reason(&visitor.read_answer("GET"), 504, "http_response_timeout");
    assert_eq!(
        text,
        "the device did not begin its response within 0.2 s (first_byte of its route)"
    );
    device.expect_closed();

    let _device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write("POST /slow/x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf");
    let text = reason(&visitor.read_answer("POST"), 408, "http_request_error");
    assert_eq!(
        text,
        "nothing of the request's body arrived for 0.15 s (body_silence of its route)"
    );
}

#[test]
fn a_route_has_its_own_time_for_the_whole_exchange() {
    let config = Config::new(
        "[[route]]\npath = \"/short\"\ndevice = \"lamp\"\nexchange = \"200ms\"\n\
         [[route]]\npath = \"/free\"\ndevice = \"lamp\"\nexchange = \"0s\"\n\
         [[route]]\npath = \"/usual\"\ndevice = \"lamp\"\n",
    );
    let gateway = config.gateway(&["--exchange", "300ms"]);
    for (target, text) in [
        ("/short/x", "the exchange did not end within 0.2 s (exchange of its route)"),
        ("/usual/x", "the exchange did not end within 0.3 s (exchange_timeout)"),
    ] {
        let mut device = gateway.link("lamp");
        let mut visitor = gateway.visitor();
        visitor.write(get(target));
        device.read_head();
        assert_eq!(reason(&visitor.read_answer("GET"), 504, "http_response_timeout"), text);
        device.expect_closed();
    }
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/free/x"));
    device.read_head();
    visitor.expect_quiet(Duration::from_millis(600)); // twice what any other may take
    device.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
}

#[test]
fn a_polling_device_is_waited_for_as_its_route_says() {
    let config = Config::new(
        "[[route]]\npath = \"/slow\"\ndevice = \"lamp\"\nfirst_byte = \"200ms\"\nbody_silence = \"150ms\"\n",
    );
    let gateway = config.gateway(&["--first-byte", "1h", "--poll-hold", "1h"]);
    let mut device = gateway.dial();
    device.write(
        "POST /lamp HTTP/1.1\r\nHost: gw\r\nAccept: message/http\r\nContent-Length: 0\r\n\r\n",
    );
    eventually("the poll is held", || gateway.process.stderr().contains("lamp: up").then_some(()));
    let mut visitor = gateway.visitor();
    visitor.write("POST /slow/x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf");
    let answer = visitor.read_answer("POST");
    answer.expect_refusal(408);
    assert!(answer.text().contains("0.15 s (body_silence of its route)"), "{}", answer.text());
    let mut visitor = gateway.visitor();
    visitor.write(get("/slow/x"));
    assert_eq!(device.read_head().status(), 200);
    let text = reason(&visitor.read_answer("GET"), 504, "http_response_timeout");
    assert_eq!(
        text,
        "the device took the request and did not answer it within 0.2 s (first_byte of its route)"
    );
}

#[test]
fn a_route_lets_so_many_requests_in_and_no_more() {
    let config = Config::new(
        "[[route]]\npath = \"/few\"\ndevice = \"lamp\"\nin_flight = 2\nwait_for_link = \"9s\"\n[[route]]\npath = \"/many\"\ndevice = \"lamp\"\n",
    );
    let gateway = config.gateway(&[]);
    let mut links = [gateway.link("lamp")];
    let mut inside = [gateway.visitor(), gateway.visitor()];
    inside[0].write(get("/few/0"));
    assert_eq!(links[0].read_head().target(), "/0");
    inside[1].write(get("/few/1")); // it waits for the link, and counts
    inside[1].expect_quiet(Duration::from_millis(100));
    let mut outside = gateway.visitor();
    for target in ["/few/2", "/few", "/few/3"] {
        let answer = outside.ask(&get(target));
        assert_eq!(
            reason(&answer, 503, "connection_limit_reached"),
            "as many requests of route /few are in flight as its in_flight allows: 2"
        );
        assert_eq!(
            (answer.head.get("retry-after"), answer.head.closes()),
            (Some("1"), false),
            "{}",
            answer.head.text()
        );
    }
    // A body that nobody reads is never the next request.
    let mut posted = gateway.visitor();
    posted.write("POST /few/x HTTP/1.1\r\nHost: a\r\nContent-Length: 26\r\n\r\nGET /few/never HTTP/1.1\r\n\r\n");
    posted.read_answer("POST").expect_refusal(503);
    posted.expect_closed();
    // Another route of the same device goes on.
    let mut other = gateway.visitor();
    other.write(get("/many/x"));
    for (visitor, target) in inside.iter_mut().zip(["/1", "/x"]) {
        links[0].write(vector("draft-4-response"));
        visitor.read_answer("GET").expect_ok("Good");
        assert_eq!(links[0].read_head().target(), target);
    }
    links[0].write(vector("draft-4-response"));
    other.read_answer("GET").expect_ok("Good");
    // What is over no longer counts, whichever way it ended: answered, cut by the device, left by
    // the visitor.
    for _ in 0..3 {
        outside.write(get("/few/x"));
        links[0].read_head();
        links[0].write(vector("draft-4-response"));
        outside.read_answer("GET").expect_ok("Good");
    }
    drop(links);
    for _ in 0..3 {
        let mut link = gateway.link("lamp");
        outside.write("PATCH /few/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        link.read_head();
        drop(link);
        outside.read_answer("PATCH").expect_refusal(502);
        let mut link = gateway.link("lamp");
        let mut gone = gateway.visitor();
        gone.write("POST /few/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nha");
        link.read_head();
        gone.reset();
        link.read_exact(2);
        link.expect_closed();
    }
    let _device = LocalServer::device(&gateway, "lamp", 1, routes);
    outside.ask(&get("/few/x")).expect_ok("hello\n");
}

#[test]
fn a_tunnel_is_in_flight_until_it_ends_and_a_reload_does_not_touch_it() {
    let text =
        "[[route]]\npath = \"/ws\"\ndevice = \"lamp\"\nin_flight = 1\nfirst_byte = \"100ms\"\n";
    let config = Config::new(text);
    let gateway = config.gateway(&[]);
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(
        "GET /ws/chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert_eq!(device.read_head().target(), "/chat");
    device.write(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert_eq!(visitor.read_head().status(), 101);
    gateway.get("/ws/x").expect_refusal(503);
    config.reload(&gateway, &text.replace("lamp", "desk"));
    gateway.get("/ws/x").expect_refusal(503);
    visitor.expect_quiet(Duration::from_millis(200)); // longer than the route's first_byte
    visitor.write("ping");
    assert_eq!(device.read_exact(4), b"ping");
    drop((visitor, device));
    let _desk = LocalServer::device(&gateway, "desk", 1, routes);
    eventually("the tunnel's place is free", || {
        (gateway.get("/ws/x").status() == 200).then_some(())
    });
}

#[test]
fn a_hundred_routes_each_lead_to_their_device() {
    let text: String = (0..100)
        .map(|n| {
            let key = if n % 2 == 0 {
                format!("path = \"/p/{n}\"")
            } else {
                format!("host = \"h{n}.example\"\npath = \"/p\"")
            };
            format!("[[route]]\n{key}\ndevice = \"device-{n}\"\n\n")
        })
        .collect();
    let config = Config::new(&text);
    let gateway = config.gateway(&["--route", "none"]);
    let _devices: Vec<LocalServer> = (0..100)
        .map(|n| {
            LocalServer::device(&gateway, &format!("device-{n}"), 1, move |c| {
                let target = c.head.target().to_owned();
                c.text(format!("{n} {target}"));
            })
        })
        .collect();
    let mut visitor = gateway.visitor();
    for n in 0..100 {
        let request = match n % 2 {
            0 => get(&format!("/p/{n}/x")),
            _ => ask_host(&format!("h{n}.example"), "/p/x", ""),
        };
        visitor.ask(&request).expect_ok(format!("{n} /x"));
    }
    visitor.ask(&get("/p/100/x")).expect_refusal(404);
}
