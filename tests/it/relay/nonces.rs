//! T15: callers that vanish at every point of an exchange, between others that check a nonce; over
//! links and over the fallback. No wrong answer, ever, and nothing is left behind.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::raw::find;
use crate::support::{Gateway, Process, Ptth, RawPeer, eventually, eventually_within, say};

/// A local server that echoes what it is asked, and does not mind requests that are cut.
fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // It ends with the test's process; so do its connections, when the device closes them.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || echo(stream));
        }
    });
    addr
}

/// `/NONCE`: the nonce and the body, many times, by length or in chunks; 300,000 bytes where the
/// nonce says `large`.
fn echo(mut stream: TcpStream) -> Option<()> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 1 << 16]);
    loop {
        while let Some(head_len) = find(&bytes, b"\r\n\r\n").map(|at| at + 4) {
            let head = String::from_utf8_lossy(&bytes[..head_len]).into_owned();
            let length = head.lines().find_map(|line| {
                line.to_lowercase().strip_prefix("content-length: ")?.trim().parse::<usize>().ok()
            });
            let end = head_len + length.unwrap_or(0);
            if bytes.len() < end {
                break;
            }
            let nonce = head.split(' ').nth(1)?.trim_start_matches('/').to_owned();
            let answer = answer_to(&nonce, &bytes[head_len..end]);
            bytes.drain(..end);
            let message = match nonce.ends_with(['1', '3', '5', '7', '9']) {
                true => [
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len())
                        .as_bytes(),
                    &answer,
                ]
                .concat(),
                false => {
                    let (a, b) = answer.split_at(answer.len() / 3);
                    let chunk = |data: &[u8]| {
                        [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
                    };
                    [
                        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice(),
                        &chunk(a),
                        &chunk(b),
                        b"0\r\n\r\n",
                    ]
                    .concat()
                }
            };
            stream.write_all(&message).ok()?;
        }
        match stream.read(&mut buffer) {
            Ok(n @ 1..) => bytes.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
    }
}

fn answer_to(nonce: &str, body: &[u8]) -> Vec<u8> {
    let one = [nonce.as_bytes(), b"=", body, b";"].concat();
    one.repeat(if nonce.starts_with("large") { 300_000 / one.len() } else { 60 })
}

/// A request that is answered with its nonce: POST, with the nonce as its body too, or GET.
fn request(nonce: &str, post: bool) -> (String, Vec<u8>) {
    let body = if post { format!("body of {nonce}").repeat(20) } else { String::new() };
    let method = if post {
        format!("POST /lamp/{nonce} HTTP/1.1\r\nContent-Length: {}", body.len())
    } else {
        format!("GET /lamp/{nonce} HTTP/1.1")
    };
    (format!("{method}\r\nHost: a\r\n\r\n{body}"), answer_to(nonce, body.as_bytes()))
}

/// Leaves after `k` bytes of its exchange, by an end or by a reset.
fn vanish(visitors: SocketAddr, nonce: &str, post: bool, k: usize, by_reset: bool) {
    let (request, _) = request(nonce, post);
    let mut visitor = RawPeer::connect(visitors);
    visitor.write(&request[..k.min(request.len())]);
    if k > request.len() {
        visitor.read_exact(k - request.len());
    }
    if by_reset { visitor.reset() } else { drop(visitor) }
}

/// 4 threads with 25 that vanish and 25 that check each, in turns. `spare`: links that may come up
/// besides those that are there now.
fn play(what: &str, gateway: &Gateway, device: &Process, spare: usize) {
    RawPeer::connect(gateway.visitors)
        .ask(&request("warm-1", false).0)
        .expect_ok(answer_to("warm-1", b""));
    let before = eventually("all is quiet", || {
        let now = gateway.process.descriptors();
        std::thread::sleep(Duration::from_millis(20)); // two looks at some distance
        (now == gateway.process.descriptors()).then_some((now, gateway.process.threads()))
    });
    let (visitors, then) = (gateway.visitors, Instant::now());
    let checked = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let checked = &checked;
            scope.spawn(move || {
                let mut kept = RawPeer::connect(visitors);
                for i in 0..25 {
                    let n = worker * 25 + i;
                    let post = n % 3 == 0;
                    let nonce = format!("{}-{n}", if n % 10 == 4 { "large" } else { "gone" });
                    let (whole, answer) = request(&nonce, post);
                    // From the first byte to some bytes before the last, over all the 100.
                    let most = whole.len() + 60 + answer.len().min(60_000);
                    vanish(visitors, &nonce, post, 1 + n * most / 100, n % 4 == 1);
                    let nonce = format!("check-{n}");
                    let (whole, answer) = request(&nonce, n % 2 == 0);
                    let mut fresh = RawPeer::connect(visitors);
                    for visitor in [&mut kept, &mut fresh] {
                        visitor.deadline = Duration::from_secs(20);
                        visitor.write(&whole);
                        visitor.read_answer("GET").expect_ok(&answer);
                        checked.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(checked.into_inner(), 200);
    // Sooner than any deadline of a connection. Helpers that have parsed long JSON live on for 10
    // s.
    let helpers = u64::from(what.contains("json"));
    eventually_within(
        Duration::from_secs(20),
        "descriptors and threads of the gateway are back",
        || {
            let now = (gateway.process.descriptors(), gateway.process.threads());
            (now.0 <= before.0 + spare && now.1 <= before.1 + helpers).then_some(())
        },
    );
    assert!(!device.stderr().contains("panic") && !gateway.process.stderr().contains("panic"));
    say(&format!(
        "nonces, {what}: 100 vanished, 200 were answered right, in {:.1} s",
        then.elapsed().as_secs_f32()
    ));
}

#[test]
fn nonces_over_one_link() {
    let gateway = Gateway::start(&["--wait-for-link", "20s"]);
    let device = Ptth::device(
        &gateway,
        "lamp",
        &["--to", &format!("http://{}", echo_server()), "--links", "1..1"],
    );
    play("one link", &gateway, &device, 0);
}

#[test]
fn nonces_over_three_links() {
    let gateway = Gateway::start(&["--wait-for-link", "20s"]);
    let device = Ptth::device(
        &gateway,
        "lamp",
        &["--to", &format!("http://{}", echo_server()), "--links", "1..3"],
    );
    play("up to three links", &gateway, &device, 2);
}

fn over_the_fallback(encoding: &str, transport: &str) {
    let gateway = Gateway::start(&["--wait-for-link", "20s"]);
    let (url, to) = (gateway.device_url("lamp"), format!("http://{}", echo_server()));
    let arguments = [
        "device",
        &url,
        "--backoff",
        "10ms..200ms",
        "--fallback",
        "only",
        "--polls",
        "3",
        "--comet",
        encoding,
        "--to",
        &to,
    ];
    let device = Ptth::start(&arguments);
    assert_eq!(
        device.line(),
        format!("connected lamp via {url} ({transport})"),
        "{}",
        device.stderr()
    );
    play(transport, &gateway, &device, 3);
}

#[test]
fn nonces_over_polls_in_message_http() {
    over_the_fallback("message", "COMET message/http");
}

#[test]
#[cfg(feature = "comet")]
fn nonces_over_polls_in_json() {
    over_the_fallback("json", "COMET json");
}
