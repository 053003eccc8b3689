//! Every way over a turned link.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use http::Response;

use super::{Api, VERSIONS, curl, device, dial, echo, post, secure_gateway};
use crate::support::pki::TlsPeer;
use crate::support::process::get;
use crate::support::{
    Authority, DEADLINE, Hash, LocalServer, Ptth, RawPeer, eventually, need, pattern, say,
};

/// Passes bytes on both ways, each in a segment of its own.
fn byte_by_byte(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let far = TcpStream::connect(to).unwrap();
            for stream in [&near, &far] {
                stream.set_nodelay(true).unwrap();
            }
            for (mut from, mut to) in
                [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)]
            {
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while from.read(&mut byte).is_ok_and(|n| n > 0) && to.write_all(&byte).is_ok() {
                    }
                    let _ = to.shutdown(Shutdown::Write); // it may have gone
                });
            }
        }
    });
    at
}

// ── every way ──

#[test]
fn a_visitor_reaches_a_device_over_tls_on_both_legs() {
    if !need("curl") {
        return;
    }
    let (authority, local) = (Authority::new(), LocalServer::start());
    let (gateway, _) = secure_gateway(&authority, &[]);
    let to = format!("http://{}", local.addr);
    let _device = device(&authority, &gateway, "lamp", &["--to", &to]);
    let (ok, body) = curl(&authority, &gateway, &[], "/lamp/hello");
    assert!(ok, "{}", String::from_utf8_lossy(&body));
    let asked = local.requests();
    assert_eq!(asked[0].get("x-forwarded-proto"), Some("https"), "{}", asked[0].text());
    for target in ["/lamp/big?n=5000000", "/lamp/chunked?n=5000000", "/lamp/until-close?n=5000000"]
    {
        for more in [&[][..], &["--http1.0"]] {
            let (ok, body) = curl(&authority, &gateway, more, target);
            assert!(
                ok && Hash::of(&body) == Hash::of_pattern(5_000_000),
                "{target} {more:?}: {} bytes",
                body.len()
            );
        }
    }
    let file = authority.folder().join("upload");
    std::fs::write(&file, pattern(5_000_000)).unwrap();
    for more in [&[][..], &["-H", "Transfer-Encoding: chunked"]] {
        let upload = format!("@{}", file.display());
        let (ok, body) =
            curl(&authority, &gateway, &[&["--data-binary", &upload], more].concat(), "/lamp/hash");
        assert!(
            ok && body == Hash::of_pattern(5_000_000).as_bytes(),
            "{}",
            String::from_utf8_lossy(&body)
        );
    }
}

#[test]
fn many_requests_follow_each_other_on_one_connection_in_both_versions() {
    let (authority, local) = (Authority::new(), LocalServer::start());
    let (gateway, _) = secure_gateway(&authority, &[]);
    let _device =
        device(&authority, &gateway, "lamp", &["--to", &format!("http://{}", local.addr)]);
    for version in VERSIONS {
        let mut visitor =
            TlsPeer::connect(gateway.visitors, Arc::new(authority.client_of(version)));
        for n in [1, 100, 16_384, 16_385, 40_000, 300_000].into_iter().cycle().take(60) {
            let (head, body) = visitor.ask(&get(&format!("/lamp/big?n={n}")));
            assert_eq!(
                (head.status(), body.len()),
                (200, String::from_utf8_lossy(&pattern(n)).len()),
                "{version:?} {n}"
            );
        }
    }
}

#[test]
fn bytes_may_be_split_anywhere() {
    let (authority, local) = (Authority::new(), LocalServer::start());
    let (gateway, _) = secure_gateway(&authority, &[]);
    let (devices, visitors) = (byte_by_byte(gateway.devices), byte_by_byte(gateway.visitors));
    let url = format!("https://localhost:{}/lamp", devices.port());
    let device = Ptth::start(&[
        "device",
        &url,
        "--ca",
        authority.ca(),
        "--to",
        &format!("http://{}", local.addr),
    ]);
    assert!(device.line().starts_with("connected lamp"));
    for version in VERSIONS {
        let mut visitor = TlsPeer::connect(visitors, Arc::new(authority.client_of(version)));
        for _ in 0..3 {
            let (head, body) = visitor.ask(&get("/lamp/big?n=20000"));
            assert_eq!(
                (head.status(), body),
                (200, String::from_utf8_lossy(&pattern(20_000)).into_owned())
            );
        }
    }
}

#[test]
fn a_reader_that_does_not_read_is_not_read_for_and_gets_all_later() {
    let (authority, local) = (Authority::new(), LocalServer::start());
    let (gateway, _) = secure_gateway(&authority, &[]);
    let _device =
        device(&authority, &gateway, "lamp", &["--to", &format!("http://{}", local.addr)]);
    let before = gateway.process.resident_kib();
    let visitors: Vec<TlsPeer> = (0..4)
        .map(|_| {
            let mut visitor = TlsPeer::connect(gateway.visitors, Arc::new(authority.client(None)));
            visitor.write("GET /lamp/until-close?n=20000000 HTTP/1.0\r\n\r\n");
            visitor
        })
        .collect();
    eventually("all are asked", || (local.count() == 4).then_some(()));
    std::thread::sleep(Duration::from_millis(300)); // time in which it could buffer
    let grown = gateway.process.resident_kib().saturating_sub(before);
    say(&format!(
        "slow visitors over TLS: 4 of 20 MB answers unread, the gateway grew by {grown} KiB"
    ));
    assert!(grown < 16 * 1024, "{grown} KiB");
    for mut visitor in visitors {
        visitor.read_head();
        let (mut hash, mut buffer) = (Hash::default(), vec![0; 50_000]);
        loop {
            match visitor.0.read(&mut buffer).expect("a clean end") {
                0 => break,
                n => hash.update(&buffer[..n]),
            }
        }
        assert_eq!(hash.finish(), Hash::of_pattern(20_000_000));
    }
}

#[test]
fn polls_and_held_offers_go_over_tls_too() {
    let (authority, local) = (Authority::new(), LocalServer::start());
    for (more, transport) in
        [(&["--fallback", "only"][..], "COMET"), (&["--turn", "on-demand"], "")]
    {
        let (gateway, _) = secure_gateway(&authority, more);
        let device = dial(
            &gateway,
            "lamp",
            &["--ca", authority.ca(), "--to", &format!("http://{}", local.addr)],
        );
        match transport {
            "" => gateway.process.expect_stderr("lamp: up"), // it is told that it waits when its first offer is given back
            transport => assert!(device.line().contains(transport)),
        }
        let mut visitor = TlsPeer::connect(gateway.visitors, Arc::new(authority.client(None)));
        for n in [10, 200_000] {
            let (head, body) = visitor.ask(&get(&format!("/lamp/big?n={n}")));
            assert_eq!(
                (head.status(), body),
                (200, String::from_utf8_lossy(&pattern(n)).into_owned()),
                "{more:?}"
            );
        }
        let upload = "x".repeat(300_000);
        let (head, body) = visitor.ask(&format!(
            "POST /lamp/hash HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{upload}",
            upload.len()
        ));
        assert_eq!((head.status(), body), (200, Hash::of(upload.as_bytes())), "{more:?}");
    }
}

#[test]
fn programs_ask_and_answer_over_tls() {
    let api = Api::new(|builder| builder);
    let device = api.device("lamp").spawn(echo).unwrap();
    for n in [0, 1, 5_000, 16_384, 70_000, 3_000_000].into_iter().cycle().take(40) {
        let (status, body) = api.ask(post(pattern(n)));
        assert!(status == 200 && body == pattern(n), "{n}: {status}, {} bytes", body.len());
    }
    assert!(device.stats().links <= 3, "links are used again: {:?}", device.stats());
    device.stop();
}

#[test]
fn programs_that_keep_the_loop_themselves_are_served_over_tls() {
    let api = Api::new(|builder| builder);
    let receiving = api.device("lamp");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..20 {
                let mut exchange = receiving.recv().unwrap();
                let body = std::mem::take(exchange.request_mut().body_mut());
                exchange.respond(Response::new(body)).unwrap();
            }
        });
        for n in (0..20).map(|n| n * 10_007) {
            assert_eq!(api.ask(post(pattern(n))), (200, pattern(n)));
        }
    });
    drop(receiving);
    let listener = api.device_with("lamp", 1..=1).listen().unwrap(); // it serves one at a time
    let accepting = std::thread::spawn(move || {
        let mut link = listener.accept().unwrap();
        for _ in 0..5 {
            let request = link.next_request().unwrap().unwrap();
            link.respond(echo(request)).unwrap();
        }
        link.close();
        listener.stop();
    });
    for n in (0..5).map(|n| n * 40_009) {
        assert_eq!(api.ask(post(pattern(n))), (200, pattern(n)));
    }
    accepting.join().unwrap();
}

#[test]
fn a_handler_of_links_asks_over_tls() {
    let (send, answers) = std::sync::mpsc::channel();
    let send = std::sync::Mutex::new(send);
    let api = Api::new(|builder| {
        builder.on_link(move |mut link| {
            for n in [10, 100_000, 2_000_000] {
                let answer = link
                    .ask(post(pattern(n)))
                    .and_then(|response| response.into_body().read_to_vec(1 << 24));
                send.lock().unwrap().send(answer.is_ok_and(|body| body == pattern(n))).unwrap();
            }
        })
    });
    let device = api.device("lamp").spawn(echo).unwrap();
    for _ in 0..3 {
        assert!(answers.recv_timeout(DEADLINE).unwrap());
    }
    device.stop();
}

/// Both directions of an upgraded stream at once, each from a thread of its own, with more than any
/// buffer takes.
#[test]
fn a_handler_reads_and_writes_an_upgraded_stream_at_the_same_time() {
    const MUCH: u64 = 8_000_000;
    let api = Api::new(|builder| builder);
    let visitors =
        api.gateway.listen_visitors("127.0.0.1:0", reverse_http::Routes::path()).unwrap();
    let device = api.device("lamp").spawn(|_| {
        reverse_http::upgrade(http::HeaderValue::from_static("flood"), |mut stream| {
            let mut writer = stream.writer();
            let writing = std::thread::spawn(move || writer.write_all(&pattern(MUCH as usize)));
            let (mut hash, mut buffer) = (Hash::default(), vec![0; 30_000]);
            while hash.len < MUCH {
                let n = stream.read(&mut buffer).unwrap();
                assert!(n > 0, "an early end");
                hash.update(&buffer[..n]);
            }
            assert_eq!(hash.finish(), Hash::of_pattern(MUCH));
            writing.join().unwrap().unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(stream.read(&mut buffer).unwrap(), 0);
        })
    });
    let device = device.unwrap();
    api.gateway.device("lamp").wait_connected(DEADLINE).unwrap();
    let socket = TcpStream::connect(visitors).unwrap();
    let mut visitor = RawPeer::adopt(socket.try_clone().unwrap(), "visitor");
    visitor.deadline = Duration::from_secs(60);
    visitor
        .write("GET /lamp/x HTTP/1.1\r\nHost: a\r\nUpgrade: flood\r\nConnection: Upgrade\r\n\r\n");
    assert_eq!(visitor.read_head().status(), 101);
    let writing = std::thread::spawn(move || {
        let mut socket = socket;
        socket.write_all(&pattern(MUCH as usize)).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
    });
    let mut hash = Hash::default();
    visitor.read_through(MUCH, |bytes| hash.update(bytes));
    assert_eq!(hash.finish(), Hash::of_pattern(MUCH));
    writing.join().unwrap();
    visitor.expect_end();
    device.stop();
}

#[test]
fn operators_see_which_devices_come_over_tls() {
    let authority = Authority::new();
    let (gateway, _pair) = secure_gateway(&authority, &["--admin", "127.0.0.1:0"]);
    let line = gateway.process.line();
    let admin = line.strip_prefix("admin ").unwrap();
    let _lamp = device(&authority, &gateway, "lamp", &["--text", "on"]);
    eventually("the device is told", || {
        let (code, out, _) = Ptth::run(&["status", "lamp", "--json", "--admin", admin]);
        (code == 0 && out.contains(r#""tls":true,"#)).then_some(())
    });
}
