//! TLS on both legs, from outside: who is let in, every way over a turned link, bytes split
//! anywhere, hostile and real peers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use http::{Request, Response};
use reverse_http::gateway::GatewayBuilder;
use reverse_http::tls::{ClientCertificates, DeviceTls, GatewayTls, Identity};
use reverse_http::{Body, Device};
use rustls::{HandshakeKind, StreamOwned};

use crate::engine::scale::affordable;
use crate::support::pki::{self, NOW, TlsPeer, Years};
use crate::support::process::{get, offer};
use crate::support::{
    Authority, DEADLINE, Gateway, Hash, LocalServer, Pair, Process, Ptth, RawPeer, SWITCH,
    eventually, free_port, need, pattern, program, say,
};

/// A gateway with TLS on both ports, and what they show.
fn secure_gateway(authority: &Authority, more: &[&str]) -> (Gateway, Pair) {
    let pair = authority.server("gateway");
    let files = [
        "--devices-cert",
        pair.certificate(),
        "--devices-key",
        pair.key(),
        "--visitors-cert",
        pair.certificate(),
    ];
    (Gateway::start(&[&files[..], &["--visitors-key", pair.key()], more].concat()), pair)
}

fn url(gateway: &Gateway, name: &str) -> String {
    format!("https://localhost:{}/{name}", gateway.devices.port())
}

/// `ptth device` over TLS, without waiting for anything.
fn dial(gateway: &Gateway, name: &str, more: &[&str]) -> Process {
    Ptth::start(&[&["device", &url(gateway, name), "--backoff", "10ms..200ms"], more].concat())
}

/// The same, connected.
#[track_caller]
fn device(authority: &Authority, gateway: &Gateway, name: &str, more: &[&str]) -> Process {
    let process = dial(gateway, name, &[&["--ca", authority.ca()], more].concat());
    let line = process.line();
    assert!(line.starts_with(&format!("connected {name} via https://")), "{line}");
    process
}

/// curl on the visitors' port, with the authority's certificate.
fn curl(
    authority: &Authority,
    gateway: &Gateway,
    arguments: &[&str],
    target: &str,
) -> (bool, Vec<u8>) {
    let url = format!("https://localhost:{}{target}", gateway.visitors.port());
    let mut command = Command::new("curl");
    command
        .args(["-sS", "--max-time", "30", "--http1.1", "--cacert", authority.ca()])
        .args(arguments)
        .arg(url);
    let output = command.output().unwrap();
    if !output.status.success() {
        say(&format!("curl: {}", String::from_utf8_lossy(&output.stderr)));
    }
    (output.status.success(), output.stdout)
}

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

const VERSIONS: [&rustls::SupportedProtocolVersion; 2] =
    [&rustls::version::TLS12, &rustls::version::TLS13];

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

/// Both ends in this process, over TLS.
struct Api {
    authority: Authority,
    gateway: reverse_http::Gateway,
}

impl Api {
    fn new(change: impl FnOnce(GatewayBuilder) -> GatewayBuilder) -> Api {
        let authority = Authority::new();
        let pair = authority.server("gateway");
        let tls =
            GatewayTls::new(Identity::from_pem(&pair.certificate_pem, &pair.key_pem).unwrap())
                .unwrap();
        let gateway = change(reverse_http::Gateway::builder().listen_tls("127.0.0.1:0", tls))
            .start()
            .unwrap();
        Api { authority, gateway }
    }

    fn device(&self, name: &str) -> Device {
        self.device_with(name, 1..=8)
    }

    fn device_with(&self, name: &str, links: RangeInclusive<usize>) -> Device {
        let url = format!("https://localhost:{}/{name}", self.gateway.devices_addr().port());
        let tls = DeviceTls::new().ca(&self.authority.pem).unwrap();
        Device::builder(url)
            .tls(tls)
            .links(links)
            .backoff(Duration::from_millis(5)..Duration::from_millis(50))
            .build()
            .unwrap()
    }

    fn ask(&self, request: Request<Body>) -> (u16, Vec<u8>) {
        let device = self.gateway.device("lamp");
        device.wait(DEADLINE).unwrap();
        let response = device.send(request).unwrap();
        (response.status().as_u16(), response.into_body().read_to_vec(1 << 30).unwrap())
    }
}

fn echo(request: Request<Body>) -> Response<Body> {
    Response::new(request.into_body())
}

fn post(body: impl Into<Body>) -> Request<Body> {
    Request::post("/echo").body(body.into()).unwrap()
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
    let visitors = api.gateway.relay("127.0.0.1:0", reverse_http::Routes::path()).unwrap();
    let device = api.device("lamp").spawn(|_| {
        reverse_http::upgrade(http::HeaderValue::from_static("flood"), |mut stream| {
            let mut writer = stream.writer().unwrap();
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
    api.gateway.device("lamp").wait(DEADLINE).unwrap();
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

// ── who is let in ──

#[test]
fn a_device_checks_its_gateway() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (gateway, pair) = secure_gateway(&authority, &[]);
    let _connected = device(&authority, &gateway, "by-ca", &["--text", "hi"]);
    let pinned = dial(&gateway, "by-pin", &["--text", "hi", "--pin", &pair.pin]);
    assert!(pinned.line().starts_with("connected by-pin"));
    let curls = dial(
        &gateway,
        "as-curl",
        &["--text", "hi", "--pin", &pair.pin.replacen('/', "//", 1), "--ca", authority.ca()],
    );
    assert!(curls.line().starts_with("connected as-curl"));
    let other = stranger.server("other");
    for (arguments, why) in [
        (&["--ca", stranger.ca()][..], "no CA that is trusted here"),
        (&["--pin", &other.pin], "none of those that are pinned"),
        (&["--ca", authority.ca(), "--pin", &other.pin], "none of those that are pinned"),
        (&["--ca", stranger.ca(), "--pin", &pair.pin], "no CA that is trusted here"),
        (&[], "no CA that is trusted here"),
    ] {
        dial(&gateway, "lamp", &[arguments, &["--text", "hi"]].concat()).expect_stderr(why);
    }
    for (what, names, years, more, why) in [
        ("expired", &["localhost"][..], Years(2020, 2021), &[][..], Some("has expired")),
        ("early", &["localhost"], Years(2080, 2085), &[], Some("not valid before")),
        ("early-floor", &["localhost"], Years(2080, 2085), &["--clock-floor", "2081-06-01"], None),
        (
            "late-floor",
            &["localhost"],
            Years(2080, 2085),
            &["--clock-floor", "2086-06-01"],
            Some("has expired"),
        ),
        ("elsewhere", &["gw.example"], NOW, &[], Some("another host")),
    ] {
        let pair = authority.issue(what, names, years);
        let gateway =
            Gateway::start(&["--devices-cert", pair.certificate(), "--devices-key", pair.key()]);
        let device =
            dial(&gateway, "lamp", &[&["--text", "hi", "--ca", authority.ca()], more].concat());
        match why {
            Some(why) => device.expect_stderr(why),
            None => assert!(device.line().starts_with("connected lamp"), "{what}"),
        }
        let pinned = dial(&gateway, "pinned", &["--text", "hi", "--pin", &pair.pin]);
        assert!(
            pinned.line().starts_with("connected pinned"),
            "a key has no dates and no name: {what}"
        );
    }
}

/// As `openssl req -x509` makes it: a CA's own, and a server's or device's at the same time.
#[test]
fn a_self_made_certificate_is_taken_where_exactly_it_is_trusted() {
    let (authority, localhost) = (Authority::new(), &["localhost"][..]);
    let made =
        |file: &str, names: &[&str], years: Years| authority.self_made(file, names, years, true);
    let (own, twin) = (made("own", localhost, NOW), made("twin", localhost, NOW));
    let bundle = authority.folder().join("bundle.pem");
    std::fs::write(&bundle, format!("{}{}", authority.pem, own.certificate_pem)).unwrap();
    let serve = |pair: &Pair| {
        Gateway::start(&["--devices-cert", pair.certificate(), "--devices-key", pair.key()])
    };
    let gateway = serve(&own);
    for ca in [own.certificate(), bundle.to_str().unwrap()] {
        let device = dial(&gateway, "lamp", &["--text", "hi", "--ca", ca]);
        assert!(device.line().starts_with("connected lamp"), "{}", device.stderr());
    }
    for ca in [twin.certificate(), authority.ca()] {
        dial(&gateway, "lamp", &["--text", "hi", "--ca", ca])
            .expect_stderr("a CA's own (CA:TRUE), and not exactly one that --ca has");
    }
    for (file, names, years, why) in [
        (
            "elsewhere",
            &["gw.example", "other.example"][..],
            NOW,
            "for gw.example, other.example, localhost is asked for",
        ),
        ("nameless", &[], NOW, "it has no name at all (subjectAltName)"),
        ("old", localhost, Years(2020, 2021), "has expired, on Fri, 01 Jan 2021"),
        ("early", localhost, Years(2080, 2085), "is not valid before Mon, 01 Jan 2080"),
    ] {
        let pair = made(file, names, years);
        let gateway = serve(&pair);
        dial(&gateway, "lamp", &["--text", "hi", "--ca", pair.certificate()]).expect_stderr(why);
        let pinned = dial(&gateway, "lamp", &["--text", "hi", "--pin", &pair.pin]);
        assert!(pinned.line().starts_with("connected lamp"), "{file}");
    }
    let plain = authority.self_made("plain", localhost, NOW, false);
    let gateway = serve(&plain);
    let device = dial(&gateway, "lamp", &["--text", "hi", "--ca", plain.certificate()]);
    assert!(device.line().starts_with("connected lamp"), "{}", device.stderr());
    // A device's, at a gateway.
    let (lamp, other) = (made("lamp", &["lamp"], NOW), made("other", &["lamp"], NOW));
    let (gateway, _) = secure_gateway(&authority, &["--devices-client-ca", lamp.certificate()]);
    let with = |pair: &Pair| {
        dial(
            &gateway,
            "lamp",
            &[
                "--text",
                "hi",
                "--ca",
                authority.ca(),
                "--cert",
                pair.certificate(),
                "--key",
                pair.key(),
            ],
        )
    };
    let _refused = with(&other);
    gateway.process.expect_stderr("the device's certificate is a CA's own (CA:TRUE), and not exactly one that --devices-client-ca has");
    let device = with(&lamp);
    assert!(device.line().starts_with("connected lamp"), "{}", device.stderr());
    let _refused = with(&authority.issue("late", &["lamp"], Years(2020, 2021)));
    gateway.process.expect_stderr("the device's certificate has expired, on Fri, 01 Jan 2021");
}

/// A handshake that fails behind the client's own last message looks like an offer that is hung up
/// on, and says nothing of offers.
#[test]
fn a_certificate_that_is_refused_makes_no_device_poll() {
    let authority = Authority::new();
    let pair = authority.server("gateway");
    let gateway = Gateway::start(&[
        "--devices-cert",
        pair.certificate(),
        "--devices-key",
        pair.key(),
        "--devices-client-ca",
        authority.ca(),
    ]);
    let device = dial(&gateway, "lamp", &["--text", "hi", "--ca", authority.ca()]);
    eventually(&format!("five attempts; there is:\n{}", device.stderr()), || {
        (device.stderr().matches("cannot be reached").count()
            + device.stderr().matches("the connection to the gateway broke").count()
            >= 5)
            .then_some(())
    });
    assert!(!device.stderr().contains("polling without Upgrade"), "{}", device.stderr());
}

#[test]
fn what_the_command_line_says_is_in_the_environment_too() {
    let authority = Authority::new();
    let (pair, own) = (authority.server("gateway"), authority.device("own", &["lamp"]));
    let gateway = Gateway::start_with_env(
        &[],
        &[
            ("PTTH_DEVICES_CERT", pair.certificate()),
            ("PTTH_DEVICES_KEY", pair.key()),
            ("PTTH_DEVICES_CLIENT_CA", authority.ca()),
            ("PTTH_DEVICES_CLIENT_CERT", "optional"),
            ("PTTH_VISITORS_CERT", pair.certificate()),
            ("PTTH_VISITORS_KEY", pair.key()),
            ("PTTH_HANDSHAKE", "300ms"),
        ],
    );
    let environment = [
        ("PTTH_CA", authority.ca()),
        ("PTTH_PIN", &pair.pin),
        ("PTTH_CERT", own.certificate()),
        ("PTTH_KEY", own.key()),
        ("PTTH_CLOCK_FLOOR", "2026-02-01"),
    ];
    let mut command = Ptth::command(&["device", &url(&gateway, "lamp"), "--text", "hi"]);
    let shown = Process::start(command.envs(environment));
    assert!(shown.line().starts_with("connected lamp"));
    // Optional: without a certificate every name is to be had, with one only its own.
    let mut command = Ptth::command(&["device", &url(&gateway, "other"), "--text", "hi"]);
    let bare = Process::start(command.envs(environment[..2].iter().copied()));
    assert!(bare.line().starts_with("connected other"));
    let mut command = Ptth::command(&["device", &url(&gateway, "other"), "--text", "hi"]);
    assert_eq!(Process::start(command.envs(environment)).exit_code(), 3);
    let (head, body) =
        TlsPeer::connect(gateway.visitors, Arc::new(authority.client(None))).ask(&get("/lamp/"));
    assert_eq!((head.status(), body.as_str()), (200, "hi"));
    let began = Instant::now();
    RawPeer::connect(gateway.visitors).expect_closed();
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_millis(1300), "{took:?}");
}

#[test]
fn a_certificate_is_a_credential_for_its_names() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (gateway, _) = secure_gateway(&authority, &["--devices-client-ca", authority.ca()]);
    let with = |pair: &Pair, name: &str, more: &[&str]| {
        let files = [
            "--cert",
            pair.certificate(),
            "--key",
            pair.key(),
            "--ca",
            authority.ca(),
            "--text",
            "hi",
        ];
        dial(&gateway, name, &[&files[..], more].concat())
    };
    // Who shows none, or one of another authority, does not get through.
    dial(&gateway, "lamp", &["--ca", authority.ca(), "--text", "hi"]).expect_stderr("--cert");
    with(&stranger.device("lamp", &["lamp"]), "lamp", &[])
        .expect_stderr("does not accept the certificate");
    with(&authority.issue("old", &["lamp"], Years(2020, 2021)), "lamp", &[])
        .expect_stderr("does not accept the certificate");
    // What it is for, and what not; polls as offers.
    let lamp = authority.device("lamp", &["lamp", "bulb"]);
    for more in [&[][..], &["--fallback", "only"]] {
        for name in ["lamp", "bulb"] {
            let device = with(&lamp, name, more);
            assert!(device.line().starts_with(&format!("connected {name}")), "{more:?}");
        }
        let mut refused = with(&lamp, "other", more);
        assert_eq!(refused.exit_code(), 3, "{more:?}");
        assert!(refused.stderr().contains("403"), "{}", refused.stderr());
    }
    let mut nameless = with(&authority.device("nameless", &[]), "lamp", &[]);
    assert_eq!(nameless.exit_code(), 3);
    for (names, origin, good) in [
        (&["lamp.example"][..], "https://lamp.example", true),
        (&["lamp.example"], "https://lamp.example:8443", true),
        (&["lamp.example"], "https://a.lamp.example", false),
        (&["*.lamp.example"], "https://a.lamp.example", true),
        (&["*.lamp.example"], "https://lamp.example", false),
    ] {
        let pair = authority.device("origins", names);
        let mut device = with(&pair, "", &["--dialect", "ptth", "--origin", origin]);
        match good {
            true => assert!(device.line().starts_with(&format!("connected {origin}")), "{names:?}"),
            false => assert_eq!(device.exit_code(), 3, "{names:?} {origin}"),
        }
    }
}

/// Where a certificate is optional, either will do, and neither will not.
#[test]
fn a_certificate_or_a_token_lets_a_device_in() {
    let authority = Authority::new();
    let drawn = Command::new(env!("CARGO_BIN_EXE_ptth")).args(["token", "desk"]).output().unwrap();
    let drawn = String::from_utf8(drawn.stdout).unwrap();
    let (token, line) = drawn.trim_end().split_once('\n').unwrap();
    let dir = crate::support::TempDir::new("either");
    let (tokens, shown) = (dir.0.join("tokens"), dir.0.join("token"));
    std::fs::write(&tokens, format!("{line}\n")).unwrap();
    std::fs::write(&shown, token).unwrap();
    let optional = [
        "--devices-client-ca",
        authority.ca(),
        "--devices-client-cert",
        "optional",
        "--tokens",
        tokens.to_str().unwrap(),
    ];
    let (gateway, _) = secure_gateway(&authority, &optional);
    let lamp = authority.device("lamp", &["lamp"]);
    let certificate = ["--cert", lamp.certificate(), "--key", lamp.key(), "--text", "hi"];
    let _by_certificate = device(&authority, &gateway, "lamp", &certificate);
    let _by_token = device(
        &authority,
        &gateway,
        "desk",
        &["--token-file", shown.to_str().unwrap(), "--text", "hi"],
    );
    for (name, more, status) in [
        ("lamp", &["--text", "hi"][..], "401"),
        ("desk", &certificate, "403"),
        ("lamp", &["--token-file", shown.to_str().unwrap(), "--text", "hi"], "403"),
    ] {
        let mut refused = dial(&gateway, name, &[&["--ca", authority.ca()], more].concat());
        assert_eq!(refused.exit_code(), 3, "{name} {more:?}");
        assert!(refused.stderr().contains(status), "{name} {more:?}: {}", refused.stderr());
    }
}

#[test]
fn a_renewed_certificate_is_the_same_device_and_another_is_not() {
    let authority = Authority::new();
    let (gateway, _) = secure_gateway(&authority, &["--devices-client-ca", authority.ca()]);
    let with = |pair: &Pair| {
        dial(
            &gateway,
            "lamp",
            &[
                "--cert",
                pair.certificate(),
                "--key",
                pair.key(),
                "--ca",
                authority.ca(),
                "--text",
                "hi",
            ],
        )
    };
    let first = with(&authority.device("first", &["lamp", "bulb"]));
    assert!(first.line().starts_with("connected lamp"));
    with(&authority.device("stranger", &["lamp"])).expect_stderr("409");
    let renewed = with(&authority.device("renewed", &["bulb", "lamp"]));
    assert!(renewed.line().starts_with("connected lamp"), "{}", renewed.stderr());
}

#[test]
fn authorize_is_told_the_names_of_the_certificate() {
    let authority = Authority::new();
    let pair = authority.server("gateway");
    let tls =
        GatewayTls::new(Identity::from_pem(&pair.certificate_pem, &pair.key_pem).unwrap()).unwrap();
    let tls = tls.client_ca(&authority.pem, ClientCertificates::Optional).unwrap();
    let (told, names) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let gateway =
        reverse_http::Gateway::builder().listen_tls("127.0.0.1:0", tls).authorize(move |offer| {
            told.lock().unwrap().send(offer.certificate_names().map(<[String]>::to_vec)).unwrap();
            Ok(reverse_http::Grant::offered())
        });
    let gateway = gateway.start().unwrap();
    let own = authority.device("own", &["lamp", "Bulb"]);
    for (identity, expected) in
        [(None, None), (Some(own), Some(vec!["bulb".to_owned(), "lamp".to_owned()]))]
    {
        let mut tls = DeviceTls::new().ca(&authority.pem).unwrap();
        if let Some(pair) = identity {
            tls = tls.identity(Identity::from_pem(&pair.certificate_pem, &pair.key_pem).unwrap());
        }
        let url = format!("https://localhost:{}/lamp", gateway.devices_addr().port());
        let device =
            Device::builder(url).tls(tls).links(1..=1).build().unwrap().spawn(echo).unwrap();
        assert_eq!(names.recv_timeout(DEADLINE).unwrap(), expected);
        device.stop();
    }
}

#[test]
fn a_device_without_a_clock_waits_for_one() {
    let api = Api::new(|builder| builder);
    let clock = Arc::new(AtomicU64::new(1000));
    let shown = clock.clone();
    let tls = DeviceTls::new().ca(&api.authority.pem).unwrap();
    let tls = tls.clock(move || SystemTime::UNIX_EPOCH + Duration::from_secs(shown.load(Relaxed)));
    let url = format!("https://localhost:{}/lamp", api.gateway.devices_addr().port());
    let device = Device::builder(url).tls(tls).build().unwrap();
    let events = device.events();
    let running = device.spawn(echo).unwrap();
    let waiting = events.recv_timeout(DEADLINE).unwrap();
    assert!(waiting.detail.contains("clock"), "{waiting:?}");
    assert!(
        events.recv_timeout(Duration::from_secs(3)).is_err(),
        "it says so once, and dials nobody"
    );
    assert_eq!(api.gateway.stats().turns, 0);
    clock.store(1_800_000_000, Relaxed);
    api.gateway.device("lamp").wait(DEADLINE).unwrap();
    running.stop();
}

#[test]
fn mistakes_in_files_are_told_with_option_file_and_remedy() {
    let authority = Authority::new();
    let (pair, other) = (authority.server("gateway"), authority.server("other"));
    let file = |name: &str, text: &str| {
        let path = authority.folder().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (empty, rubbish) = (
        file("empty", ""),
        file("rubbish", "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n"),
    );
    let encrypted = file(
        "encrypted",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let nothing = authority.folder().join("nothing");
    let nothing = nothing.to_str().unwrap();
    let gateway = ["gateway", "--devices", "127.0.0.1:0", "--visitors", "127.0.0.1:0"];
    let device = ["device", "https://localhost:1/lamp", "--text", "hi"];
    for (command, arguments, parts) in [
        (
            &gateway[..],
            &["--devices-cert", pair.certificate()][..],
            &["--devices-key", "give both"][..],
        ),
        (&gateway, &["--visitors-key", pair.key()], &["--visitors-cert", "give both"]),
        (
            &gateway,
            &["--devices-cert", nothing, "--devices-key", pair.key()],
            &["--devices-cert", nothing, "No such file"],
        ),
        (
            &gateway,
            &["--devices-cert", &empty, "--devices-key", pair.key()],
            &[&empty, "no certificate in it"],
        ),
        (
            &gateway,
            &["--devices-cert", &rubbish, "--devices-key", pair.key()],
            &[&rubbish, "no PEM"],
        ),
        (
            &gateway,
            &["--visitors-cert", pair.certificate(), "--visitors-key", &empty],
            &["--visitors-key", &empty, "no private key"],
        ),
        (
            &gateway,
            &["--visitors-cert", pair.certificate(), "--visitors-key", &encrypted],
            &[&encrypted, "encrypted", "openssl pkey"],
        ),
        (
            &gateway,
            &["--visitors-cert", pair.certificate(), "--visitors-key", other.key()],
            &[other.key(), "not the certificate's"],
        ),
        (
            &gateway,
            &["--visitors-cert", pair.key(), "--visitors-key", pair.certificate()],
            &["no certificate in it"],
        ),
        (
            &gateway,
            &["--devices-client-ca", authority.ca()],
            &["--devices-client-ca", "--devices-cert"],
        ),
        (
            &gateway,
            &[
                "--devices-cert",
                pair.certificate(),
                "--devices-key",
                pair.key(),
                "--devices-client-ca",
                &empty,
            ],
            &["--devices-client-ca", &empty, "no certificate in it"],
        ),
        (&device, &["--ca", &empty], &["--ca", &empty, "no certificate in it"]),
        (
            &device,
            &["--cert", pair.certificate(), "--key", other.key()],
            &["--key", other.key(), "not the certificate's"],
        ),
        (&device, &["--key", other.key()], &["--cert", "give both"]),
        (&device, &["--pin", "sha1/AAAA"], &["--pin", "sha256/"]),
        (&device, &["--clock-floor", "2026-02-30"], &["--clock-floor", "2026-01-31"]),
        (
            &["device", "http://localhost:1/lamp", "--text", "hi"],
            &["--ca", authority.ca()],
            &["https://"],
        ),
    ] {
        let (code, _, stderr) = Ptth::run(&[command, arguments].concat());
        assert_eq!(code, 2, "{arguments:?}: {stderr}");
        for part in parts {
            assert!(stderr.contains(part), "{part} in {stderr}");
        }
    }
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&pair.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let files = ["--devices-cert", pair.certificate(), "--devices-key", pair.key()];
    Gateway::start(&files).process.expect_stderr("everybody on this machine can read this key");
    std::fs::set_permissions(&pair.key, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!Gateway::start(&files).process.stderr().contains("can read this key"));
}

// ── sessions ──

#[test]
fn sessions_are_resumed_in_both_versions() {
    let authority = Authority::new();
    let (gateway, _) = secure_gateway(&authority, &[]);
    for version in VERSIONS {
        let config = Arc::new(authority.client_of(version));
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let mut visitor = TlsPeer::connect(gateway.visitors, config.clone());
            visitor.ask(&get("/nobody/"));
            assert_eq!(visitor.0.conn.handshake_kind(), Some(kind), "{version:?}");
        }
    }
}

#[test]
fn a_device_resumes_its_session() {
    let authority = Authority::new();
    let config = Arc::new(pki::server(&authority.server("gateway")));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}/lamp", listener.local_addr().unwrap().port());
    let device = Ptth::start(&[
        "device",
        &url,
        "--ca",
        authority.ca(),
        "--text",
        "hi",
        "--backoff",
        "1ms..5ms",
        "--links",
        "1..1",
    ]);
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let (socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut stream =
            StreamOwned::new(rustls::ServerConnection::new(config.clone()).unwrap(), socket);
        let mut offered = Vec::new();
        while !offered.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            offered.extend_from_slice(&byte);
        }
        assert_eq!((stream.conn.handshake_kind(), stream.conn.alpn_protocol()), (Some(kind), None));
        stream
            .write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    }
    drop(device);
}

#[test]
fn new_certificates_count_from_the_next_handshake_on() {
    let authority = Authority::new();
    let (gateway, pair) = secure_gateway(&authority, &[]);
    let device = device(&authority, &gateway, "lamp", &["--text", "hi"]);
    let config = Arc::new(authority.client(None));
    let shown = |peer: &TlsPeer| peer.0.conn.peer_certificates().unwrap()[0].to_vec();
    let mut old = TlsPeer::connect(gateway.visitors, config.clone());
    assert_eq!(old.ask(&get("/lamp/")).1, "hi");
    let before = shown(&old);
    authority.issue("gateway", &["127.0.0.1", "localhost"], NOW);
    gateway.process.signal("HUP");
    gateway.process.expect_stderr("the certificates for visitors were read again");
    let mut new = TlsPeer::connect(gateway.visitors, config.clone());
    assert_eq!(new.ask(&get("/lamp/")).1, "hi");
    assert_ne!(shown(&new), before, "and no session of before is resumed");
    assert_eq!(old.ask(&get("/lamp/")).1, "hi", "what is connected stays");
    // Files that cannot be read leave it as it was.
    std::fs::write(&pair.key, "").unwrap();
    gateway.process.signal("HUP");
    gateway.process.expect_stderr("the certificates for visitors stay as they were");
    let mut again = TlsPeer::connect(gateway.visitors, config);
    assert_eq!((again.ask(&get("/lamp/")).1.as_str(), shown(&again)), ("hi", shown(&new)));
    assert!(device.line_within(Duration::from_millis(50)).is_none(), "the device kept its link");
}

// ── hostile peers ──

#[test]
fn what_is_not_tls_ends_alone() {
    let authority = Authority::new();
    let (gateway, _) = secure_gateway(&authority, &["--handshake", "1s"]);
    let hello = {
        let mut client = rustls::ClientConnection::new(
            Arc::new(authority.client(None)),
            "localhost".try_into().unwrap(),
        )
        .unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    };
    let pieces: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("half a hello", hello[..hello.len() / 2].to_vec()),
        ("garbage", (0..=255).cycle().take(4096).collect()),
        ("an oversized record", [&[22, 3, 1, 0xff, 0xff][..], &[0; 70_000]].concat()),
        ("an empty record", vec![22, 3, 1, 0, 0]),
        ("many empty records", [22, 3, 1, 0, 0].repeat(5_000)),
        ("an alert", vec![21, 3, 3, 0, 2, 2, 40]),
        ("many warnings", [21, 3, 3, 0, 2, 1, 90].repeat(5_000)),
        ("application data at once", [&[23, 3, 3, 0, 32][..], &[7; 32]].concat()),
        ("a hello, then garbage", [&hello[..], &[0xff; 3_000]].concat()),
        ("a hello, twice", hello.repeat(2)),
        (
            "a long handshake message",
            [
                &[22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..],
                &[1; 16_380],
                &[22, 3, 1, 0x40, 0],
                &[1; 16_384],
            ]
            .concat(),
        ),
    ];
    for port in [gateway.visitors, gateway.devices] {
        for (what, bytes) in &pieces {
            for waits in [false, true] {
                let mut peer = RawPeer::connect(port);
                peer.who = format!("{what}, waits: {waits}");
                let _ = peer.try_write(bytes); // it may be closed in the middle of it
                if !waits {
                    peer.finish_writing();
                }
                peer.read_to_any_end();
            }
        }
        let mut plain = RawPeer::connect(port);
        let answer = plain.ask(&get("/lamp/"));
        answer.expect_refusal(400);
        assert!(answer.text().contains("https://"), "{}", answer.text());
    }
    gateway.process.expect_stderr("plain HTTP");
    let (head, _) =
        TlsPeer::connect(gateway.visitors, Arc::new(authority.client(None))).ask(&get("/nobody/"));
    assert_eq!(head.status(), 404);
    assert!(!gateway.process.stderr().contains("panic"), "{}", gateway.process.stderr());
}

/// Balancers and monitors look so whether a port is open.
#[test]
fn who_connects_and_closes_is_no_line_of_the_log() {
    let authority = Authority::new();
    let (gateway, _) = secure_gateway(&authority, &[]);
    for port in [gateway.visitors, gateway.devices] {
        let mut peer = RawPeer::connect(port);
        peer.finish_writing();
        peer.expect_closed();
        let mut garbage = RawPeer::connect(port);
        garbage.write([0; 10]);
        garbage.read_to_any_end();
    }
    eventually("both that said something are told", || {
        (gateway.process.stderr().matches("the TLS handshake with").count() == 2).then_some(())
    });
    assert!(!gateway.process.stderr().contains("without a byte"), "{}", gateway.process.stderr());
}

/// A whole record of a request, and a little, in one segment with the end of the handshake.
#[test]
fn much_that_comes_behind_a_handshake_is_read_when_its_turn_comes() {
    let (authority, local) = (Authority::new(), LocalServer::start());
    let (gateway, _) = secure_gateway(&authority, &[]);
    let _device =
        device(&authority, &gateway, "lamp", &["--to", &format!("http://{}", local.addr)]);
    for version in VERSIONS {
        let mut visitor =
            TlsPeer::connect(gateway.visitors, Arc::new(authority.client_of(version)));
        let StreamOwned { conn, sock } = &mut visitor.0;
        while conn.is_handshaking() {
            while conn.wants_write() && conn.is_handshaking() {
                conn.write_tls(sock).unwrap();
            }
            if conn.is_handshaking() {
                conn.read_tls(sock).unwrap();
                conn.process_new_packets().unwrap();
            }
        }
        let body = "x".repeat(16_500);
        let request = format!(
            "POST /lamp/hash HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        conn.set_buffer_limit(None);
        conn.writer().write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        while conn.wants_write() {
            conn.write_tls(&mut bytes).unwrap();
        }
        sock.write_all(&bytes).unwrap();
        let head = visitor.read_head();
        let mut hash = vec![0; head.get("content-length").unwrap().parse().unwrap()];
        visitor.0.read_exact(&mut hash).unwrap();
        assert_eq!(
            (head.status(), hash),
            (200, Hash::of(body.as_bytes()).into_bytes()),
            "{version:?}"
        );
    }
}

// ── fairness: records of one byte (T56) ──

/// A message in records of one byte each, as one stretch of cipher text.
fn in_small_records(conn: &mut rustls::Connection, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for byte in message {
        conn.writer().write_all(&[*byte]).unwrap();
        while conn.wants_write() {
            conn.write_tls(&mut bytes).unwrap();
        }
    }
    bytes
}

/// The longest that a visitor waited for its answer, of those who asked while `work` ran.
fn longest_wait(
    visitors: SocketAddr,
    config: Arc<rustls::ClientConfig>,
    work: impl FnOnce(),
) -> Duration {
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asks = scope.spawn(|| {
            let (mut visitor, mut longest) = (TlsPeer::connect(visitors, config), Duration::ZERO);
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let began = Instant::now();
                assert_eq!(visitor.ask(&get("/quick/x")).1, "on");
                longest = longest.max(began.elapsed());
            }
            longest
        });
        work();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        asks.join().unwrap()
    })
}

#[test]
fn records_of_one_byte_arrive_whole_and_keep_nobody_waiting() {
    const MANY: usize = 60_000;
    let (authority, local) = (Authority::new(), LocalServer::start());
    let (gateway, _) = secure_gateway(&authority, &[]);
    let _lamp = device(&authority, &gateway, "lamp", &["--to", &format!("http://{}", local.addr)]);
    let _quick = device(&authority, &gateway, "quick", &["--text", "on"]);
    let config = Arc::new(authority.client(None));
    let connect = || {
        let mut peer = TlsPeer::connect(gateway.visitors, config.clone());
        peer.ask(&get("/nobody/")); // the handshake is over
        peer
    };
    let quiet = longest_wait(gateway.visitors, config.clone(), || {
        std::thread::sleep(Duration::from_millis(300))
    });
    // A visitor's upload.
    let mut visitor = connect();
    let request = format!("POST /lamp/hash HTTP/1.1\r\nHost: a\r\nContent-Length: {MANY}\r\n\r\n");
    visitor.write(&request);
    let mut connection = rustls::Connection::Client(visitor.0.conn);
    let bytes = in_small_records(&mut connection, &pattern(MANY));
    let rustls::Connection::Client(conn) = connection else { panic!() };
    visitor = TlsPeer(StreamOwned::new(conn, visitor.0.sock));
    let upload = longest_wait(gateway.visitors, config.clone(), || {
        visitor.0.sock.write_all(&bytes).unwrap();
        let head = visitor.read_head();
        let mut hash = vec![0; head.get("content-length").unwrap().parse().unwrap()];
        visitor.0.read_exact(&mut hash).unwrap();
        assert_eq!(hash, Hash::of_pattern(MANY as u64).into_bytes());
    });
    // A device's answer.
    let mut link = named_link(&authority, &gateway, "hall");
    let mut visitor = connect();
    visitor.write(get("/hall/x"));
    link.read_head();
    link.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {MANY}\r\n\r\n"));
    let mut connection = rustls::Connection::Client(link.0.conn);
    let bytes = in_small_records(&mut connection, &pattern(MANY));
    let mut socket = link.0.sock;
    let answer = longest_wait(gateway.visitors, config.clone(), || {
        std::thread::scope(|scope| {
            scope.spawn(|| socket.write_all(&bytes).unwrap());
            assert_eq!(visitor.read_head().status(), 200);
            let mut body = vec![0; MANY];
            visitor.0.read_exact(&mut body).unwrap();
            assert!(body == pattern(MANY));
        });
    });
    say(&format!(
        "{MANY} records of one byte: another visitor waited {upload:?} beside an upload, {answer:?} beside an answer, {quiet:?} when all is quiet"
    ));
}

/// The same at a device, whose gateway asks so.
#[test]
fn a_device_reads_records_of_one_byte_to_their_end() {
    const MANY: usize = 20_000;
    let (authority, local) = (Authority::new(), LocalServer::start());
    let config = Arc::new(pki::server(&authority.server("gateway")));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}/lamp", listener.local_addr().unwrap().port());
    let to = format!("http://{}", local.addr);
    let device =
        Ptth::start(&["device", &url, "--ca", authority.ca(), "--to", &to, "--links", "1..1"]);
    let (socket, _) = listener.accept().unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut stream = StreamOwned::new(rustls::ServerConnection::new(config).unwrap(), socket);
    let read_head = |stream: &mut StreamOwned<rustls::ServerConnection, TcpStream>| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend_from_slice(&byte);
        }
        crate::support::Head::parse(&head)
    };
    read_head(&mut stream);
    stream.write_all(SWITCH).unwrap();
    assert!(device.line().starts_with("connected lamp"));
    let mut request =
        format!("POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: {MANY}\r\n\r\n").into_bytes();
    request.extend_from_slice(&pattern(MANY));
    let mut connection = rustls::Connection::Server(stream.conn);
    let bytes = in_small_records(&mut connection, &request);
    let rustls::Connection::Server(conn) = connection else { panic!() };
    let mut stream = StreamOwned::new(conn, stream.sock);
    stream.sock.write_all(&bytes).unwrap();
    let head = read_head(&mut stream);
    let mut hash = vec![0; head.get("content-length").unwrap().parse().unwrap()];
    stream.read_exact(&mut hash).unwrap();
    assert_eq!(hash, Hash::of_pattern(MANY as u64).into_bytes());
}

#[test]
fn more_handshakes_than_may_be_are_closed_at_once() {
    let mut limits = reverse_http::Limits::default();
    limits.handshakes_max = 2;
    let api = Api::new(|builder| builder.limits(limits));
    let waiting: Vec<RawPeer> =
        (0..2).map(|_| RawPeer::connect(api.gateway.devices_addr())).collect();
    let began = Instant::now();
    RawPeer::connect(api.gateway.devices_addr()).expect_closed();
    assert!(began.elapsed() < Duration::from_secs(5), "long before handshake_timeout");
    drop(waiting); // and with them their places
    let device = api.device("lamp").spawn(echo).unwrap();
    assert_eq!(api.ask(post(pattern(10))), (200, pattern(10)));
    device.stop();
}

/// A turned link over TLS that this test answers on.
fn link(authority: &Authority, gateway: &Gateway) -> TlsPeer {
    named_link(authority, gateway, "lamp")
}

fn named_link(authority: &Authority, gateway: &Gateway, name: &str) -> TlsPeer {
    let mut link = TlsPeer::connect(gateway.devices, Arc::new(authority.client(None)));
    link.write(offer(name, ""));
    assert_eq!(link.read_head().status(), 101);
    link
}

#[test]
fn a_body_that_ends_with_the_connection_needs_the_end_of_tls() {
    let authority = Authority::new();
    let (gateway, _) = secure_gateway(&authority, &[]);
    for (told, whole) in [(true, true), (false, false)] {
        let mut link = link(&authority, &gateway);
        let mut visitor = TlsPeer::connect(gateway.visitors, Arc::new(authority.client(None)));
        visitor.write("GET /lamp/x HTTP/1.0\r\n\r\n");
        link.read_head();
        link.write("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf");
        visitor.read_head();
        if told {
            link.0.conn.send_close_notify();
            link.0.flush().unwrap();
        }
        drop(link); // FIN either way
        let mut body = Vec::new();
        let ended = visitor.0.read_to_end(&mut body);
        assert_eq!(
            (ended.is_ok(), body.as_slice()),
            (whole, &b"half"[..]),
            "close_notify: {told}; {ended:?}"
        );
    }
}

/// A new session's ticket, or a change of keys, is nothing that a device says.
#[test]
fn what_tls_says_for_itself_leaves_an_idle_link_alone() {
    let authority = Authority::new();
    let (gateway, _) = secure_gateway(&authority, &["--heartbeat", "0s"]);
    let mut link = link(&authority, &gateway);
    for _ in 0..5 {
        link.0.conn.refresh_traffic_keys().unwrap();
        link.0.flush().unwrap();
        let mut visitor = TlsPeer::connect(gateway.visitors, Arc::new(authority.client(None)));
        visitor.write("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        link.read_head();
        link.write("HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(visitor.read_head().status(), 204);
    }
}

// ── real peers ──

/// Runs openssl with this input, to its end or for so long.
fn openssl(arguments: &[&str], input: &str, lines: usize) -> String {
    let mut command = Command::new("openssl");
    let mut child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    let (send, received) = std::sync::mpsc::channel();
    let stdout = child.stdout.take().unwrap();
    std::thread::spawn(move || {
        BufReader::new(stdout).lines().map_while(Result::ok).for_each(|line| _ = send.send(line))
    });
    let said = (0..lines)
        .map_while(|_| received.recv_timeout(DEADLINE).ok())
        .collect::<Vec<_>>()
        .join("\n");
    let _ = child.kill(); // by its own id; it waits for its input
    let _ = child.wait();
    said
}

#[test]
fn openssl_is_a_visitor_a_device_and_a_gateway() {
    if !need("openssl") {
        return;
    }
    let authority = Authority::new();
    let (gateway, pair) = secure_gateway(&authority, &["--devices-client-ca", authority.ca()]);
    let own = authority.device("own", &["lamp"]);
    let connect = |port: SocketAddr| format!("localhost:{}", port.port());
    // As a device: its offer, and an answer to what it will be asked, which comes to its standard
    // output.
    let (devices, visitors) = (connect(gateway.devices), connect(gateway.visitors));
    let mut command = Command::new("openssl");
    command.args([
        "s_client",
        "-quiet",
        "-verify_return_error",
        "-CAfile",
        authority.ca(),
        "-connect",
        &devices,
    ]);
    command
        .args(["-cert", own.certificate(), "-key", own.key()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut as_device = command.spawn().unwrap();
    let (mut input, mut output) =
        (as_device.stdin.take().unwrap(), BufReader::new(as_device.stdout.take().unwrap()));
    input.write_all(offer("lamp", "").as_bytes()).unwrap();
    let mut until_empty = || {
        let lines = std::iter::from_fn(|| {
            let mut line = String::new();
            output.read_line(&mut line).ok().filter(|n| *n > 0).map(|_| line.trim_end().to_owned())
        });
        lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>()
    };
    assert_eq!(until_empty()[0], "HTTP/1.1 101 Switching Protocols");
    let visitor = std::thread::spawn({
        let ca = authority.ca().to_owned();
        move || {
            openssl(
                &[
                    "s_client",
                    "-quiet",
                    "-verify_return_error",
                    "-CAfile",
                    &ca,
                    "-connect",
                    &visitors,
                ],
                &get("/lamp/x"),
                8,
            )
        }
    });
    let asked = until_empty();
    assert!(
        asked[0].starts_with("GET /x HTTP/1.1")
            && asked.iter().any(|line| line == "X-Forwarded-Proto: https"),
        "{asked:?}"
    );
    input.write_all(b"HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Length: 8\r\n\r\nopenssl\n").unwrap();
    let said = visitor.join().unwrap();
    assert!(said.starts_with("HTTP/1.1 200 OK") && said.contains("openssl"), "{said}");
    let _ = as_device.kill(); // by its own id
    let _ = as_device.wait();
    // As a gateway: it turns, asks, and shows the answer.
    let port = free_port().to_string();
    let mut command = Command::new("openssl");
    command.args([
        "s_server",
        "-quiet",
        "-accept",
        &port,
        "-cert",
        pair.certificate(),
        "-key",
        pair.key(),
        "-naccept",
        "1",
    ]);
    let mut server =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut input, mut output) =
        (server.stdin.take().unwrap(), BufReader::new(server.stdout.take().unwrap()));
    let url = format!("https://localhost:{port}/lamp");
    let device = Ptth::start(&[
        "device",
        &url,
        "--ca",
        authority.ca(),
        "--text",
        "from the device\n",
        "--backoff",
        "10ms..100ms",
    ]);
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), "POST /lamp HTTP/1.1");
    input.write_all(SWITCH).unwrap();
    input.write_all(get("/x").as_bytes()).unwrap();
    assert!(device.line().starts_with("connected lamp"));
    while line != "from the device\n" {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "an early end");
    }
    let _ = server.kill(); // by its own id
    let _ = server.wait();
}

#[test]
fn curl_needs_its_certificate() {
    if !need("curl") {
        return;
    }
    let authority = Authority::new();
    let (gateway, _) = secure_gateway(&authority, &["--devices-client-ca", authority.ca()]);
    let own = authority.device("own", &["lamp"]);
    let url = format!("https://localhost:{}/lamp", gateway.devices.port());
    let curl = |more: &[&str]| {
        Command::new("curl")
            .args(["-sS", "-i", "--max-time", "20", "--cacert", authority.ca(), &url])
            .args(more)
            .output()
    };
    let with = curl(&["--cert", own.certificate(), "--key", own.key()]).unwrap();
    let said = String::from_utf8_lossy(&with.stdout);
    assert!(said.starts_with("HTTP/1.1 405"), "a GET is no offer, but it got through: {said}");
    let without = curl(&[]).unwrap();
    assert!(
        !without.status.success() && without.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&without.stdout)
    );
}

#[test]
fn nginx_ends_tls_before_the_gateway() {
    if !need("nginx") {
        return;
    }
    let authority = Authority::new();
    let pair = authority.server("nginx");
    let gateway = Gateway::start(&[]);
    let folder = authority.folder();
    let at = |port: u16| format!("https://localhost:{port}/lamp");
    let (_nginx, port) = eventually("nginx listens on a free port", || {
        let port = free_port();
        let configuration = format!(
            "daemon off; pid {0}/pid; error_log {0}/log; events {{}}\nhttp {{ access_log off; client_body_temp_path {0}/b; proxy_temp_path {0}/p; \
             fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\nserver {{ listen 127.0.0.1:{port} ssl; ssl_certificate {1}; \
             ssl_certificate_key {2};\nlocation / {{ proxy_pass http://{3}; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; \
             proxy_set_header Connection upgrade; proxy_read_timeout 60s; }} }} }}",
            folder.display(),
            pair.certificate(),
            pair.key(),
            gateway.devices
        );
        let file = folder.join("nginx.conf");
        std::fs::write(&file, configuration).unwrap();
        let mut nginx = Process::start(Command::new(program("nginx")).args([
            "-p",
            folder.to_str().unwrap(),
            "-c",
            file.to_str().unwrap(),
        ]));
        let end = Instant::now() + DEADLINE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if nginx.has_ended() || Instant::now() > end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Some((nginx, port))
    });
    let device =
        Ptth::start(&["device", &at(port), "--ca", authority.ca(), "--text", "behind nginx"]);
    assert!(device.line().starts_with("connected lamp"));
    for _ in 0..5 {
        gateway.get("/lamp/").expect_ok("behind nginx");
    }
}

// ── many ──

/// Idle links over TLS, then handshakes that are never finished: neither costs a thread, and those
/// are reaped.
#[test]
fn idle_links_and_unfinished_handshakes_cost_no_thread() {
    let authority = Authority::new();
    let (gateway, _) = secure_gateway(
        &authority,
        &[
            "--heartbeat",
            "0s",
            "--handshake",
            "3s",
            "--trusted-proxies",
            "127.0.0.1",
            "--unauthenticated",
            "9999",
        ],
    );
    let config = Arc::new(authority.client(None));
    let idle = |name: &str| {
        let mut link = TlsPeer::connect(gateway.devices, config.clone());
        link.write(offer(name, ""));
        assert_eq!(link.read_head().status(), 101);
        link.0.sock
    };
    let first: Vec<TcpStream> = (0..10).map(|n| idle(&format!("few-{n}"))).collect();
    let before = gateway.process.resident_kib();
    let wish = affordable(1_000);
    let links: Vec<TcpStream> = (0..wish).map(|n| idle(&format!("many-{n}"))).collect();
    let each = (gateway.process.resident_kib().saturating_sub(before) * 1024) as f64 / wish as f64;
    say(&format!(
        "idle links over TLS: {wish} links, {} threads: {each:.0} bytes of resident memory each",
        gateway.process.threads()
    ));
    assert!(each < 24_576.0, "{each:.0} bytes for each idle link");
    drop((first, links));
    let threads = gateway.process.threads();
    let wish = affordable(5_000);
    let mut half = Vec::new();
    rustls::ClientConnection::new(config.clone(), "localhost".try_into().unwrap())
        .unwrap()
        .write_tls(&mut half)
        .unwrap();
    half.truncate(half.len() - 1);
    let began = Instant::now();
    let waiting: Vec<TcpStream> = (0..wish)
        .map(|n| {
            let mut peer = TcpStream::connect(gateway.visitors).unwrap();
            peer.write_all(&half[..half.len() * (n % 2)]).unwrap(); // nothing, or all but a byte
            peer
        })
        .collect();
    let (head, _) = TlsPeer::connect(gateway.visitors, config).ask(&get("/nobody/"));
    assert_eq!(head.status(), 404, "others get through meanwhile");
    assert!(
        gateway.process.threads() <= threads,
        "{} threads, {threads} before",
        gateway.process.threads()
    );
    say(&format!("unfinished handshakes: {wish} were there after {:?}", began.elapsed()));
    eventually("all are reaped", || (gateway.process.descriptors() < 200).then_some(()));
    drop(waiting);
}

/// A fleet that comes back at once: what visitors of others wait meanwhile is printed.
#[test]
fn a_storm_of_handshakes_does_not_stop_those_that_are_served() {
    let (authority, local) = (Authority::new(), LocalServer::start());
    // However slow the machine is, the storm's last handshake has its turn.
    let patience = Duration::from_secs(120);
    let (gateway, _) = secure_gateway(&authority, &["--heartbeat", "0s", "--handshake", "120s"]);
    let _device =
        device(&authority, &gateway, "lamp", &["--to", &format!("http://{}", local.addr)]);
    let mut visitor = TlsPeer::connect(gateway.visitors, Arc::new(authority.client(None)));
    let mut times = |while_: &dyn Fn(usize) -> bool| {
        let mut times = Vec::new();
        while while_(times.len()) {
            let began = Instant::now();
            assert_eq!(visitor.ask(&get("/lamp/x")).0.status(), 200);
            times.push(began.elapsed());
        }
        times.sort_unstable();
        (times[times.len() / 2], times[times.len() * 99 / 100], times.len())
    };
    let quiet = times(&|n| n < 300);
    let wish = affordable(2_000);
    // Hellos made beforehand: the arithmetic of this test's own end must not be in the way.
    let config = Arc::new(authority.client(None));
    let mut hellos = (0..wish).map(|_| {
        let mut hello = Vec::new();
        rustls::ClientConnection::new(config.clone(), "localhost".try_into().unwrap())
            .unwrap()
            .write_tls(&mut hello)
            .unwrap();
        hello
    });
    let hellos: Vec<Vec<u8>> = hellos.by_ref().collect();
    let (began, devices) = (Instant::now(), gateway.devices);
    let storm = std::thread::spawn(move || {
        let mut peers: Vec<TcpStream> = hellos
            .iter()
            .map(|hello| {
                let mut peer = TcpStream::connect(devices).unwrap();
                peer.write_all(hello).unwrap();
                peer
            })
            .collect();
        for peer in &mut peers {
            peer.set_read_timeout(Some(patience)).unwrap();
            peer.read_exact(&mut [0; 64]).unwrap(); // the gateway's part of the arithmetic is done
        }
        began.elapsed()
    });
    let stormy = times(&|n| n < 50 || !storm.is_finished());
    let took = storm.join().unwrap();
    say(&format!(
        "storm: {wish} handshakes in {took:?}; quick requests meanwhile: {} with p50 {:?}, p99 {:?} (without: {:?}, {:?})",
        stormy.2, stormy.0, stormy.1, quiet.0, quiet.1
    ));
    // Whoever is served has not to wait until the storm is over.
    assert!(
        stormy.1 < took.max(Duration::from_secs(1)),
        "{:?}, and the storm took {took:?}",
        stormy.1
    );
}
