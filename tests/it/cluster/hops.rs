//! What passes over one hop: methods, bodies, upgrades, ends.

use std::net::TcpListener;
use std::time::Duration;

use crate::cluster::{Cluster, device};
use crate::relay::upgrades::tunnel;
use crate::support::process::get;
use crate::support::raw::find;
use crate::support::{Gateway, Hash, LocalServer, Ptth, RawPeer, each_row, own_address, pattern};

/// A request, and what its answer has to have in it.
struct Row {
    name: &'static str,
    request: Vec<u8>,
    method: &'static str,
    status: u16,
    part: String,
}

fn row(
    name: &'static str,
    method: &'static str,
    request: impl AsRef<[u8]>,
    part: impl Into<String>,
) -> Row {
    Row { name, request: request.as_ref().to_vec(), method, status: 200, part: part.into() }
}

fn rows() -> Vec<Row> {
    let body = pattern(1 << 20);
    let with_body = |method: &str, target: &str| {
        let head = format!(
            "{method} /lamp{target} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), &body].concat()
    };
    let chunked = |end: &str| {
        let mut all =
            b"POST /lamp/hash HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for piece in body.chunks(70_000) {
            all.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            all.extend_from_slice(piece);
            all.extend_from_slice(b"\r\n");
        }
        all.extend_from_slice(format!("0\r\n{end}\r\n").as_bytes());
        all
    };
    let hash = || Hash::of(&body);
    let plain = |method: &str| format!("{method} /lamp/x HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut rows = vec![
        row("GET", "GET", plain("GET"), "hello"),
        row("HEAD", "HEAD", plain("HEAD"), ""),
        row("DELETE", "DELETE", plain("DELETE"), "hello"),
        row("OPTIONS", "OPTIONS", plain("OPTIONS"), "hello"),
        row("a method of one's own", "BREW", plain("BREW"), "hello"),
        row("POST without a body", "POST", plain("POST"), "hello"),
        row("POST with a length", "POST", with_body("POST", "/hash"), hash()),
        row("PUT with a length", "PUT", with_body("PUT", "/hash"), hash()),
        row("DELETE with a body", "DELETE", with_body("DELETE", "/hash"), hash()),
        row("POST in chunks", "POST", chunked(""), hash()),
        row("POST in chunks with trailers", "POST", chunked("X-Sum: 1\r\n"), hash()),
        row(
            "an expectation",
            "POST",
            "POST /lamp/echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
            "\r\n\r\nhello",
        ),
        row("HTTP/1.0", "GET", "GET /lamp/x HTTP/1.0\r\n\r\n", "hello"),
        row("a query", "GET", get("/lamp/echo?a=b&c"), "GET /echo?a=b&c HTTP/1.1"),
    ];
    let long = String::from_utf8_lossy(&pattern(300_000)).into_owned();
    for target in ["/big?n=300000", "/chunked?n=300000", "/until-close?n=300000"] {
        rows.push(row(target, "GET", get(&format!("/lamp{target}")), long.clone()));
    }
    for status in [204, 304, 404, 500] {
        let request = get(&format!("/lamp/status/{status}"));
        rows.push(Row { status, ..row("a status", "GET", request, "") });
    }
    rows
}

#[test]
fn every_method_and_body_shape_passes_one_hop() {
    let cluster = Cluster::new();
    let (second, url) = cluster.gateway("second", &[]);
    cluster.say("first", &format!("lamp {url} # where it is\n"));
    let (first, _) = cluster.gateway("first", &[]);
    let local = LocalServer::start();
    let _device = device(&second, "lamp", &local.url());
    let rows = rows();
    let check = |row: &Row| {
        let mut visitor = first.visitor();
        visitor.deadline = Duration::from_secs(30);
        visitor.write(&row.request);
        let mut answer = visitor.read_answer(row.method);
        if answer.status() == 100 {
            answer = visitor.read_answer(row.method);
        }
        assert_eq!(answer.status(), row.status, "{}", answer.head.text());
        assert!(String::from_utf8_lossy(&answer.body).contains(&row.part), "{}", row.name);
    };
    each_row(&rows, |row| row.name.to_owned(), check);
    // The same on one connection of a visitor, and so over few to the other gateway.
    let mut visitor = first.visitor();
    for n in 0..50 {
        visitor.ask(&get(&format!("/lamp/x{n}"))).expect_ok("hello\n");
    }
    let twice = [get("/lamp/echo1"), get("/lamp/echo2")].concat();
    visitor.write(twice);
    for n in [1, 2] {
        let part = format!("GET /echo{n} ");
        assert!(find(visitor.read_answer("GET").text().as_bytes(), part.as_bytes()).is_some());
    }
}

#[test]
fn the_device_sees_the_visitor_and_nothing_of_the_hop() {
    let cluster = Cluster::new();
    let (second, url) = cluster.gateway("second", &["--via", "second"]);
    cluster.say("first", &format!("lamp {url}\n"));
    let (first, _) = cluster.gateway("first", &["--via", "first"]);
    let local = LocalServer::start();
    let _device = device(&second, "lamp", &local.url());
    let request = "GET /lamp/x HTTP/1.1\r\nHost: shop.example\r\nX-Request-Id: mine\r\nX-Forwarded-For: 9.9.9.9\r\nPTTH-Peer-Device: other\r\nPTTH-Peer-Secret: guess\r\nPTTH-Peer-Visitor: 8.8.8.8\r\n\r\n";
    first.visitor().ask(request).expect_ok("hello\n");
    let head = local.last();
    let [from] = head.all("x-forwarded-for")[..] else { panic!("{}", head.text()) };
    assert!(from.starts_with("127."), "{from}");
    for (name, value) in [
        ("host", "shop.example"),
        ("x-forwarded-host", "shop.example"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-prefix", "/lamp"),
        ("x-request-id", "mine"),
    ] {
        assert_eq!(head.all(name), [value], "{}", head.text());
    }
    assert_eq!(head.all("via"), ["1.1 first", "1.1 second"]);
    assert!(!head.text().to_lowercase().contains("ptth-peer"), "{}", head.text());
    // One name for all of them is no circle.
    let cluster = Cluster::new();
    let (second, url) = cluster.gateway("second", &["--via", "edge"]);
    cluster.say("first", &format!("lamp {url}\n"));
    let (first, _) = cluster.gateway("first", &["--via", "edge"]);
    let _device = device(&second, "lamp", &local.url());
    first.get("/lamp/x").expect_ok("hello\n");
}

#[test]
fn upgrades_pass_a_hop_and_each_direction_ends_by_itself() {
    let gateway = Gateway::across(&[]);
    let (mut visitor, mut link) = tunnel(&gateway);
    for n in 0..20 {
        let text = format!("line {n}\n");
        link.write(&text);
        assert_eq!(visitor.read_exact(text.len()), text.as_bytes());
        visitor.write(&text);
        assert_eq!(link.read_exact(text.len()), text.as_bytes());
    }
    visitor.finish_writing();
    link.expect_end();
    link.write("the last word");
    link.finish_writing();
    assert_eq!(visitor.read_to_end(), b"the last word");
    let (visitor, mut link) = tunnel(&gateway);
    visitor.reset();
    link.expect_no_more();
}

#[test]
fn a_visitor_that_leaves_frees_the_device_of_another_gateway() {
    let gateway = Gateway::across(&["--wait-for-link", "20s"]);
    let mut link = gateway.link("lamp");
    // Half of an upload, then nothing.
    let mut visitor = gateway.visitor();
    visitor.write("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf");
    link.read_head();
    link.read_exact(4);
    visitor.reset();
    link.expect_no_more();
    // A long answer that nobody takes any more.
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    link.read_head();
    link.write("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\nsome");
    visitor.read_head();
    visitor.read_exact(4);
    visitor.reset();
    link.expect_no_more();
    // Who has ended its direction gives way to who waits there, as at one gateway.
    let mut link = gateway.link("lamp");
    let mut gone = gateway.visitor();
    gone.write(get("/lamp/gone"));
    assert_eq!(link.read_head().target(), "/gone");
    gone.finish_writing();
    let mut waiting = gateway.visitor();
    waiting.write(get("/lamp/waits"));
    link.expect_no_more();
    let mut next = gateway.link("lamp");
    assert_eq!(next.read_head().target(), "/waits");
    next.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    waiting.read_answer("GET").expect_ok("ok");
    assert_eq!(gone.read_answer("GET").status(), 503);
}

#[test]
fn what_a_device_does_wrong_is_told_over_a_hop() {
    let gateway = Gateway::across(&["--first-byte", "300ms"]);
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    link.read_head();
    let late = visitor.read_answer("GET");
    late.expect_refusal(504);
    assert!(late.text().contains("first_byte_timeout"), "{}", late.text());
    // Cut in the middle: never a clean end.
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    link.read_head();
    link.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    drop(link);
    let cut = visitor.read_answer_or_cut("GET").unwrap_err();
    assert!(cut.head.is_some());
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    link.read_head();
    link.write("HTTP/1.1 nonsense\r\n\r\n");
    visitor.read_answer("GET").expect_refusal(502);
}

#[test]
fn nothing_is_answered_to_somebody_else_over_a_hop() {
    let gateway = Gateway::across(&["--wait-for-link", "20s"]);
    let local = LocalServer::start();
    let links = ["--to", &local.url(), "--links", "1..3"];
    let _device = Ptth::device(&gateway, "lamp", &links);
    let visitors = gateway.visitors;
    std::thread::scope(|scope| {
        for worker in 0..4 {
            scope.spawn(move || {
                let mut kept = RawPeer::connect(visitors);
                kept.deadline = Duration::from_secs(30);
                for n in 0..50 {
                    let gone = get(&format!("/lamp/echo-gone-{worker}-{n}"));
                    let mut leaves = RawPeer::connect(visitors);
                    leaves.write(&gone[..(n + 1) * gone.len() / 50]);
                    if n % 2 == 0 {
                        leaves.reset()
                    } else {
                        drop(leaves)
                    }
                    let nonce = format!("/echo-{worker}-{n}");
                    kept.write(get(&format!("/lamp{nonce}")));
                    let answer = kept.read_answer("GET");
                    assert!(
                        answer.text().starts_with(&format!("GET {nonce} ")),
                        "{}",
                        answer.text()
                    );
                }
            });
        }
    });
}

/// One loop expects the device back; the visitors of the others are not told that nobody knows it.
#[test]
fn visitors_of_all_loops_wait_for_a_device_whose_gateway_is_lost() {
    let (cluster, listener) = (Cluster::new(), TcpListener::bind((own_address(), 0)).unwrap());
    cluster.say("first", &format!("lamp http://{}\n", listener.local_addr().unwrap()));
    let (first, _) = cluster.gateway("first", &["--loops", "3", "--wait-for-link", "1s"]);
    let mut visitors: Vec<RawPeer> = (0..16).map(|_| first.visitor()).collect();
    let mut hops = Vec::new();
    for visitor in &mut visitors {
        visitor.write(get("/lamp/x"));
        let mut hop = RawPeer::adopt(listener.accept().unwrap().0, "a hop");
        hop.read_head();
        hops.push(hop);
    }
    drop(listener);
    drop(hops);
    for mut visitor in visitors {
        visitor.read_answer("GET").expect_refusal(503);
    }
}
