//! A device's local server at `https://`: how it is known, what visitors are told where it is not,
//! files that are read again, upgrades, half-written handshakes, and nginx.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reverse_http::tls::LocalTls;
use reverse_http::{Body, Device};
use rustls::{ServerConnection, StreamOwned};

use crate::support::pki::{self, Years};
use crate::support::process::get;
use crate::support::{
    Authority, DEADLINE, Gateway, Hash, LocalServer, Pair, Process, Ptth, each_row, eventually,
    free_port, need, pattern, program,
};

/// A server over TLS on threads: it answers `hello`, echoes bodies, switches to `chat`, and keeps
/// the names that it was asked for.
struct Server {
    at: SocketAddr,
    names: Arc<Mutex<Vec<Option<String>>>>,
}

type Tls = StreamOwned<ServerConnection, TcpStream>;

impl Server {
    fn start(pair: &Pair) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (at, names) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<_>>>::default());
        let (config, kept) = (Arc::new(pki::server(pair)), names.clone());
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                let tls = ServerConnection::new(config.clone()).unwrap();
                let (tls, kept) = (StreamOwned::new(tls, socket), kept.clone());
                std::thread::spawn(move || Server::serve(tls, &kept));
            }
        });
        Server { at, names }
    }

    fn serve(mut tls: Tls, names: &Mutex<Vec<Option<String>>>) -> Option<()> {
        let mut first = true;
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                tls.read_exact(&mut byte).ok()?; // the device has gone, or does not like us
                head.push(byte[0]);
            }
            if std::mem::take(&mut first) {
                names.lock().unwrap().push(tls.conn.server_name().map(str::to_owned));
            }
            let head = String::from_utf8(head).unwrap().to_lowercase();
            if head.contains("upgrade: chat") {
                tls.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n").ok()?;
                let mut said = Vec::new();
                tls.read_to_end(&mut said).ok()?; // to the end of the visitor's direction
                tls.write_all(&[b"heard ", &said[..]].concat()).ok()?;
                tls.conn.send_close_notify(); // else it is a cut
                return tls.flush().ok();
            }
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
            tls.read_exact(&mut body).ok()?;
            if body.is_empty() {
                body = b"hello".to_vec();
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            tls.write_all(&[head.as_bytes(), &body].concat()).ok()?;
        }
    }

    fn url(&self) -> String {
        format!("https://{}", self.at)
    }

    fn connections(&self) -> usize {
        self.names.lock().unwrap().len()
    }
}

/// A device that forwards to this server.
#[track_caller]
fn device(gateway: &Gateway, server: &Server, more: &[&str]) -> Process {
    Ptth::device(gateway, "lamp", &[&["--to", &server.url()], more].concat())
}

#[test]
fn requests_go_to_the_local_server_over_tls() {
    let authority = Authority::new();
    let server = Server::start(&authority.server("local"));
    let gateway = Gateway::start(&[]);
    let _device = device(&gateway, &server, &["--to-ca", authority.ca()]);
    let mut visitor = gateway.visitor();
    for _ in 0..5 {
        visitor.ask(&get("/lamp/x")).expect_ok("hello");
    }
    assert_eq!(server.connections(), 1, "connections are kept for the next request");
    let body = pattern(3_000_000);
    visitor.write(format!(
        "POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    visitor.write(&body);
    let answer = visitor.read_answer("POST");
    assert_eq!(Hash::of(&answer.body), Hash::of(&body));
    // A tunnel, with an end of its own in each direction.
    let mut visitor = gateway.visitor();
    visitor
        .write("GET /lamp/c HTTP/1.1\r\nHost: a\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n");
    assert_eq!(visitor.read_head().status(), 101);
    visitor.write("one, two");
    visitor.finish_writing();
    assert_eq!(visitor.read_to_end(), b"heard one, two");
}

/// What a device says of a server that it does not accept, and a visitor hears of it.
#[track_caller]
fn refuses(pair: &Pair, more: &[&str], why: &str) {
    let (server, gateway) = (Server::start(pair), Gateway::start(&[]));
    let device = device(&gateway, &server, more);
    let answer = gateway.get("/lamp/x");
    answer.expect_refusal(502);
    let told = answer.head.text() + &answer.text();
    assert!(told.contains("error=tls_certificate_error"), "{told}");
    for inside in [&server.at.port().to_string(), "--to", "subjectAltName", "CA"] {
        assert!(!told.contains(inside), "{inside} in {told}");
    }
    device.expect_stderr(why);
    assert_eq!(server.connections(), 0, "it was asked nothing");
}

/// The same where it accepts it.
#[track_caller]
fn accepts(pair: &Pair, more: &[&str]) -> Option<String> {
    let (server, gateway) = (Server::start(pair), Gateway::start(&[]));
    let _device = device(&gateway, &server, more);
    gateway.get("/lamp/x").expect_ok("hello");
    let names = server.names.lock().unwrap();
    names.first().unwrap().clone()
}

#[test]
fn a_device_checks_its_local_server() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let pair = authority.server("local");
    let named = authority.issue("named", &["nas.internal"], pki::NOW);
    let expired = authority.issue("expired", &["127.0.0.1"], Years(2020, 2021));
    let early = authority.issue("early", &["127.0.0.1"], Years(2080, 2085));
    let own = authority.self_made("own", &["127.0.0.1"], pki::NOW, true);
    let other = stranger.server("other");
    let ca = ["--to-ca", authority.ca()];
    let with = |more: &[&'static str]| [&ca[..], more].concat();
    // Refused.
    refuses(&pair, &[], "no CA that is trusted here has issued the local server's certificate");
    refuses(
        &pair,
        &["--to-ca", stranger.ca()],
        "give its CA (LocalTls::ca, or --to-ca), or pin its key (LocalTls::pin, or --to-pin)",
    );
    refuses(
        &pair,
        &["--to-pin", &other.pin],
        "none of those that are pinned (LocalTls::pin, or --to-pin)",
    );
    refuses(&pair, &["--to-ca", stranger.ca(), "--to-pin", &pair.pin], "no CA that is trusted");
    refuses(&named, &ca, "a name that it has (LocalTls::server_name, or --to-server-name)");
    refuses(&pair, &with(&["--to-server-name", "nas.internal"]), "nas.internal is asked for");
    refuses(&expired, &ca, "has expired");
    refuses(&early, &ca, "not valid before");
    refuses(&own, &ca, "not exactly one of those that are given (LocalTls::ca, or --to-ca)");
    // Accepted.
    assert_eq!(accepts(&pair, &ca), None, "an address is no server name (RFC 6066 §3)");
    let pins = format!("{},{}", other.pin, pair.pin);
    accepts(&pair, &["--to-pin", &pins]);
    accepts(&pair, &with(&["--to-server-name", "localhost"]));
    let name = accepts(&named, &with(&["--to-server-name", "nas.internal"]));
    assert_eq!(name.as_deref(), Some("nas.internal"));
    accepts(&early, &with(&["--clock-floor", "2081-06-01"]));
    accepts(&own, &["--to-ca", own.certificate()]);
    for pair in [&other, &expired, &named] {
        accepts(pair, &["--to-insecure"]);
    }
    let name = accepts(&other, &["--to-insecure", "--to-server-name", "nas.internal"]);
    assert_eq!(name.as_deref(), Some("nas.internal"));
}

#[test]
fn options_that_cannot_work_are_refused_with_a_remedy() {
    let authority = Authority::new();
    let pair = authority.server("local");
    let (ca, https, plain) = (authority.ca(), "https://127.0.0.1:1", "http://127.0.0.1:1");
    let rows: [(&[&str], &str); 11] = [
        (&["--to", plain, "--to-ca", ca], "--to-ca goes with --to https://"),
        (&["--to", "unix:/run/x", "--to-insecure"], "--to-insecure goes with --to https://"),
        (&["--text", "x", "--to-pin", &pair.pin], "--to-pin goes with --to https://"),
        (&["--to", plain, "--to-server-name", "a"], "--to-server-name goes with --to https://"),
        (&["--to", https, "--to-insecure", "--to-ca", ca], "--to-insecure checks nothing"),
        (&["--to", https, "--to-insecure", "--to-pin", &pair.pin], "--to-insecure checks nothing"),
        (&["--to", https, "--to-ca", "/nowhere"], "--to-ca /nowhere"),
        (&["--to", https, "--to-ca", pair.key()], "there is no certificate in it"),
        (&["--to", https, "--to-pin", "sha256/x"], "44 characters"),
        (&["--to", https, "--to-server-name", "a:1"], "without a port"),
        (&["--to", "https://127.0.0.1:1/app", "--to-ca", ca], "omit the path"),
    ];
    each_row(
        &rows,
        |(options, _)| format!("{options:?}"),
        |(options, why)| {
            let start = ["device", "http://127.0.0.1:1/lamp", "--check"];
            let (code, _, said) = Ptth::run(&[&start[..], options].concat());
            assert_eq!((code, said.contains(why)), (2, true), "{said}");
        },
    );
    for options in [
        &["--to", https, "--to-ca", ca][..],
        &["--to", https, "--to-pin", &pair.pin, "--clock-floor", "2026-01-31"],
        &["--to", https, "--to-insecure", "--to-server-name", "nas.internal"],
    ] {
        let start = ["device", "http://127.0.0.1:1/lamp", "--check"];
        let (code, said, wrong) = Ptth::run(&[&start[..], options].concat());
        assert_eq!((code, said.contains("are valid")), (0, true), "{wrong}");
    }
    // A library says the same.
    let build = || {
        let builder = Device::builder("http://127.0.0.1:1/lamp");
        builder.local_tls(LocalTls::new().insecure()).build().unwrap()
    };
    for error in [
        build().spawn_forward("http://127.0.0.1:1").unwrap_err(),
        build().spawn(|_| http::Response::new(Body::empty())).unwrap_err(),
        LocalTls::new().server_name("a b").unwrap_err(),
    ] {
        assert!(error.is_usage(), "{error}");
    }
    let both = LocalTls::new().insecure().pin(&pair.pin).unwrap();
    let both = Device::builder("http://127.0.0.1:1/lamp").local_tls(both).build().unwrap();
    assert!(both.spawn_forward(https).unwrap_err().is_usage());
}

#[test]
fn variables_and_files_have_the_options_too() {
    let authority = Authority::new();
    let server = Server::start(&authority.issue("named", &["nas.internal"], pki::NOW));
    let gateway = Gateway::start(&[]);
    let file = authority.folder().join("ptth.toml");
    let text = format!(
        "[device]\nurl = \"{}\"\nto = \"{}\"\nto_ca = \"{}\"\nto_server_name = \"nas.internal\"\n",
        gateway.device_url("lamp"),
        server.url(),
        authority.ca()
    );
    std::fs::write(&file, text).unwrap();
    let by_file = Ptth::start(&["device", "--config", file.to_str().unwrap()]);
    assert!(by_file.line().starts_with("connected lamp"));
    gateway.get("/lamp/x").expect_ok("hello");
    let mut command = Ptth::command(&["device", &gateway.device_url("other")]);
    let by_variables = Process::start(
        command
            .env("PTTH_TO", server.url())
            .env("PTTH_TO_CA", authority.ca())
            .env("PTTH_TO_SERVER_NAME", "nas.internal"),
    );
    assert!(by_variables.line().starts_with("connected other"));
    gateway.get("/other/x").expect_ok("hello");
    let mut command = Ptth::command(&["device", &gateway.device_url("third")]);
    let insecure =
        Process::start(command.env("PTTH_TO", server.url()).env("PTTH_TO_INSECURE", "yes"));
    assert!(insecure.line().starts_with("connected third"));
    gateway.get("/third/x").expect_ok("hello");
    insecure.expect_stderr("--to-insecure");
}

#[test]
fn a_new_ca_counts_from_the_next_connection_on() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = Server::start(&authority.server("local"));
    let gateway = Gateway::start(&[]);
    let file = authority.folder().join("local-ca.pem");
    std::fs::write(&file, &stranger.pem).unwrap();
    let device = device(&gateway, &server, &["--to-ca", file.to_str().unwrap()]);
    gateway.get("/lamp/x").expect_refusal(502);
    std::fs::write(&file, &authority.pem).unwrap();
    eventually("the changed file is read", || {
        (gateway.get("/lamp/x").status() == 200).then_some(())
    });
    // A connection that idles was made by the old one, and goes with it.
    std::fs::write(&file, &stranger.pem).unwrap();
    device.signal("HUP");
    eventually("the changed file is read", || {
        (gateway.get("/lamp/x").status() == 502).then_some(())
    });
    // A mistake changes nothing.
    std::fs::write(&file, &authority.pem).unwrap();
    eventually("it is read again", || (gateway.get("/lamp/x").status() == 200).then_some(()));
    std::fs::write(&file, "rubbish").unwrap();
    device.signal("HUP");
    device.expect_stderr("the certificates stay as they were");
    gateway.get("/lamp/x").expect_ok("hello");
}

/// Where one of several servers is at https, what is said of TLS holds for it and for no other.
#[test]
fn one_of_several_servers_is_at_https() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (server, plain) = (Server::start(&authority.server("local")), LocalServer::start());
    let gateway = Gateway::start(&[]);
    let file = authority.folder().join("local-ca.pem");
    std::fs::write(&file, &authority.pem).unwrap();
    let (nas, ca) = (format!("/nas={}", server.url()), file.to_str().unwrap());
    let device =
        Ptth::device(&gateway, "lamp", &["--to", &plain.url(), "--to", &nas, "--to-ca", ca]);
    gateway.get("/lamp/nas/x").expect_ok("hello");
    assert_eq!(gateway.get("/lamp/echo").status(), 200);
    std::fs::write(&file, &stranger.pem).unwrap();
    device.signal("HUP");
    eventually("the changed file is read", || {
        (gateway.get("/lamp/nas/x").status() == 502).then_some(())
    });
    assert_eq!(gateway.get("/lamp/echo").status(), 200);
    assert_eq!(server.connections(), 1);
}

#[test]
fn what_is_no_tls_and_what_never_ends_is_told_apart() {
    let gateway = Gateway::start(&[]);
    // Plain HTTP at that port.
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("https://{}", plain.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut socket in plain.incoming().flatten() {
            let _ = socket.read(&mut [0; 1000]);
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let device = Ptth::device(&gateway, "lamp", &["--to", &to, "--to-insecure"]);
    let answer = gateway.get("/lamp/x");
    answer.expect_refusal(502);
    assert!(answer.head.text().contains("error=tls_protocol_error"), "{}", answer.head.text());
    device.expect_stderr("the other side does not speak TLS, what came is plain HTTP");
    drop(device);
    // Nobody answers: the visitor goes, another waits, nothing is stuck.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("https://{}", silent.local_addr().unwrap());
    let brief = ["--to", &to, "--to-insecure", "--drain-timeout", "300ms"];
    let mut device = Ptth::device(&gateway, "porch", &brief);
    let mut gone = gateway.visitor();
    gone.write(get("/porch/x"));
    let _held: TcpStream = silent.accept().unwrap().0;
    gone.reset();
    let mut waits = gateway.visitor();
    waits.write("GET /porch/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let _also: TcpStream = silent.accept().unwrap().0;
    device.signal("TERM");
    let _ = waits.read_to_any_end(); // a refusal, or the end
    assert_eq!(device.exit_code_within(Duration::from_secs(30)), 0);
}

#[test]
fn a_handshake_has_its_time() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("https://{}", silent.local_addr().unwrap());
    let gateway = Gateway::start(&[]);
    let mut limits = reverse_http::Limits::default();
    limits.handshake_timeout = Duration::from_millis(300);
    let device = Device::builder(gateway.device_url("lamp"))
        .limits(limits)
        .local_tls(LocalTls::new().insecure())
        .build()
        .unwrap();
    let running = device.spawn_forward(&to).unwrap();
    eventually("it is connected", || (running.stats().links > 0).then_some(()));
    let began = Instant::now();
    let answer = gateway.get("/lamp/x");
    answer.expect_refusal(504);
    assert!(answer.head.text().contains("error=connection_timeout"), "{}", answer.head.text());
    assert!(began.elapsed() >= Duration::from_millis(300));
    running.stop();
}

#[test]
fn nginx_is_a_local_server_over_tls() {
    if !need("nginx") || !need("curl") {
        return;
    }
    let authority = Authority::new();
    let pair = authority.issue("nginx", &["nas.internal"], pki::NOW);
    let folder = authority.folder();
    std::fs::write(folder.join("big"), pattern(5_000_000)).unwrap();
    let (_nginx, port) = eventually("nginx listens on a free port", || {
        let port = free_port();
        let configuration = format!(
            "daemon off; pid {0}/pid; error_log {0}/log; events {{}}\nhttp {{ access_log off; client_body_temp_path {0}/b; proxy_temp_path {0}/p; \
             fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\nserver {{ listen 127.0.0.1:{port} ssl; server_name nas.internal; \
             ssl_certificate {1}; ssl_certificate_key {2};\nlocation = /name {{ return 200 \"$ssl_server_name $scheme\"; }}\n\
             location / {{ root {0}; }} }} }}",
            folder.display(),
            pair.certificate(),
            pair.key(),
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
    let gateway = Gateway::start(&[]);
    let to = format!("https://127.0.0.1:{port}");
    let _device = Ptth::device(
        &gateway,
        "nas",
        &["--to", &to, "--to-ca", authority.ca(), "--to-server-name", "nas.internal"],
    );
    let curl = |path: &str| {
        let url = format!("http://{}/nas/{path}", gateway.visitors);
        let mut command = Command::new("curl");
        command.args(["-sS", "--noproxy", "*", "--max-time", "20", &url]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let said = String::from_utf8(curl("name")).unwrap();
    assert_eq!(said, "nas.internal https");
    for _ in 0..3 {
        assert_eq!(Hash::of(&curl("big")), Hash::of_pattern(5_000_000));
    }
}
