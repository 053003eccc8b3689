//! Real peers.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{openssl, secure_gateway};
use crate::support::process::{get, offer};
use crate::support::{
    Authority, DEADLINE, Gateway, Process, Ptth, SWITCH, eventually, free_port, need, program,
};

#[test]
fn openssl_is_a_visitor_and_a_device() {
    if !need("openssl") {
        return;
    }
    let authority = Authority::new();
    let (gateway, _) = secure_gateway(&authority, &["--devices-client-ca", authority.ca()]);
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
}

#[test]
fn openssl_is_a_gateway() {
    if !need("openssl") {
        return;
    }
    let authority = Authority::new();
    let pair = authority.server("gateway");
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
