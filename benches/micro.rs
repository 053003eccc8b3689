//! What the parts cost alone: `cargo bench --bench micro`. Some ten seconds; a word behind `--`
//! chooses (`-- head`). Times compare within one run; `benches/account.rs` counts instructions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on has failed"
)]

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use reverse_http::proto::body::{Decoder, Framing, Piece, last_chunk, open_chunk};
use reverse_http::proto::comet;
use reverse_http::proto::framed::FramedRequest;
use reverse_http::proto::head::{self, LineEnds};
use reverse_http::proto::turn::{self, OfferRules};
use reverse_http::{Body, DeviceLink, GatewayLink, Limits};

const REQUEST: &[u8] = b"GET /lamp/status HTTP/1.1\r\nHost: lamp.example\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: origin\r\nContent-Type: text/plain\r\n\
    Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 13\r\n\r\nHello, world!";
const OFFER: &[u8] = b"POST /lamp HTTP/1.1\r\nHost: gw.example\r\nUpgrade: PTTH/1.0\r\n\
    Connection: Upgrade\r\nPTTH-Session: 0123456789abcdef0123456789abcdef\r\nContent-Length: 0\r\n\r\n";

fn main() {
    divan::main();
}

#[divan::bench]
fn request_head(bencher: Bencher<'_, '_>) {
    let limits = Limits::default();
    bencher
        .counter(BytesCount::new(REQUEST.len()))
        .bench(|| head::request(black_box(REQUEST), &limits, LineEnds::Crlf).unwrap().unwrap().len);
}

#[divan::bench]
fn response_head(bencher: Bencher<'_, '_>) {
    let limits = Limits::default();
    bencher.counter(BytesCount::new(RESPONSE.len())).bench(|| {
        head::response(black_box(RESPONSE), &limits, LineEnds::Crlf).unwrap().unwrap().len
    });
}

/// A chunked body: so many bytes in each chunk.
#[divan::bench(args = [16, 1024, 65536])]
fn chunks(bencher: Bencher<'_, '_>, chunk: usize) {
    let (limits, mut text) = (Limits::default(), Vec::new());
    while text.len() < 256 * 1024 {
        open_chunk(&mut text, chunk);
        text.resize(text.len() + chunk, b'x');
        text.extend_from_slice(b"\r\n");
    }
    last_chunk(&mut text, &[]).unwrap();
    bencher.counter(BytesCount::new(text.len())).bench(|| {
        let (mut decoder, mut used) = (Decoder::new(Framing::Chunked, &limits), 0);
        loop {
            let (n, piece) = decoder.decode(black_box(&text[used..])).unwrap();
            used += n;
            if matches!(piece, Piece::End) {
                return used;
            }
        }
    });
}

#[divan::bench]
fn event_to_json(bencher: Bencher<'_, '_>) {
    let limits = Limits::default();
    bencher.bench(|| {
        let mut out = Vec::new();
        comet::event_to_json(&mut out, "0123456789abcdef", black_box(REQUEST), &limits).unwrap();
        out
    });
}

#[divan::bench]
fn answer_from_json(bencher: Bencher<'_, '_>) {
    let (limits, mut json) = (Limits::default(), Vec::new());
    let id = "0123456789abcdef";
    comet::answer_to_json(&mut json, id, "PTTH/1.0", RESPONSE, false, &limits).unwrap();
    bencher.bench(|| comet::answer_from_json(black_box(&json), None, &limits).unwrap().is_some());
}

#[divan::bench]
fn offer(bencher: Bencher<'_, '_>) {
    let (limits, rules) = (Limits::default(), OfferRules::default());
    bencher.bench(|| {
        let head = head::request(black_box(OFFER), &limits, LineEnds::Crlf).unwrap().unwrap();
        turn::decide(&FramedRequest::of(head).unwrap(), &rules).is_ok()
    });
}

/// A request and its response over a turned connection, both ends blocking.
#[divan::bench]
fn exchange_over_a_pipe(bencher: Bencher<'_, '_>) {
    let (near, far) = UnixStream::pair().unwrap();
    let limits = Arc::new(Limits::default());
    let mut device = DeviceLink::new(far, Vec::new(), limits.clone());
    let device = std::thread::spawn(move || {
        while let Ok(Some(_)) = device.next_request() {
            device.respond(http::Response::new(Body::from("Hello, world!".to_owned()))).unwrap();
        }
    });
    let mut gateway = GatewayLink::new(near, Vec::new(), limits);
    bencher.bench_local(|| {
        let request = http::Request::get("/status").body(Body::empty()).unwrap();
        gateway.ask(request).unwrap().into_body().read_to_vec(100).unwrap()
    });
    drop(gateway);
    device.join().unwrap();
}
