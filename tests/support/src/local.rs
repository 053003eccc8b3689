//! A small local HTTP server on threads: it keeps the head of every request it was asked, and can
//! stand behind a device or be one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::process::Gateway;
use super::raw::{Head, RawPeer};
use super::{Hash, fill_pattern};

/// One request in the hands of a handler.
pub struct Conversation<'a> {
    pub head: Head,
    pub peer: &'a mut RawPeer,
    body_read: bool,
    /// Set by a handler that spoke raw bytes after which the connection cannot go on.
    pub close: bool,
}

impl Conversation<'_> {
    /// The whole body, by whichever framing. `Expect: 100-continue` gets its 100.
    pub fn body(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        self.each_piece(|piece| body.extend_from_slice(piece));
        body
    }

    /// Leaves the body unread, as servers do that take it for the next request.
    pub fn forget_body(&mut self) {
        self.body_read = true;
    }

    /// Hands the body on piece by piece.
    pub fn each_piece(&mut self, mut take: impl FnMut(&[u8])) {
        if std::mem::replace(&mut self.body_read, true) {
            return;
        }
        if self.head.get("expect").is_some() {
            self.peer.write("HTTP/1.1 100 Continue\r\n\r\n");
        }
        if self.head.all("transfer-encoding").is_empty() {
            let length = self.head.get("content-length").map_or(0, |v| v.parse().unwrap());
            return self.peer.read_through(length, take);
        }
        assert_eq!(self.head.get("transfer-encoding"), Some("chunked"));
        loop {
            match self.peer.read_chunk() {
                last if last.is_empty() => return, // no trailers are sent to this server
                data => take(&data),
            }
        }
    }

    /// 200 with this body as `text/plain`.
    pub fn text(&mut self, body: impl AsRef<[u8]>) {
        self.answer("200 OK", "Content-Type: text/plain\r\n", body);
    }

    /// Status and reason, fields (each with its CRLF), body with its length; to HEAD without the
    /// body.
    pub fn answer(&mut self, status: &str, fields: &str, body: impl AsRef<[u8]>) {
        self.each_piece(|_| {});
        let body = body.as_ref();
        let mut bytes =
            format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n", body.len())
                .into_bytes();
        if self.head.method() != "HEAD" {
            bytes.extend_from_slice(body);
        }
        self.close |= self.peer.try_write(bytes).is_err();
    }

    /// Bytes as they are; the connection goes on when they were a whole message.
    pub fn raw(&mut self, bytes: impl AsRef<[u8]>) {
        self.each_piece(|_| {});
        self.close |= self.peer.try_write(bytes).is_err();
    }
}

/// What answers one request.
pub type Handler = Arc<dyn Fn(&mut Conversation<'_>) + Send + Sync>;

/// Requests asked so far, and the answers to all that will be.
#[derive(Clone)]
pub struct LocalServer {
    pub addr: SocketAddr,
    requests: Arc<Mutex<Vec<Head>>>,
    handler: Handler,
    _stop: Arc<Stop>,
}

/// Ends the accepting thread with the last handle on the server.
struct Stop {
    addr: Option<SocketAddr>,
    flag: Arc<AtomicBool>,
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.flag.store(true, Ordering::Relaxed);
        if let Some(addr) = self.addr {
            let _ = TcpStream::connect_timeout(&addr, Duration::from_secs(1)); // wakes `accept`
        }
    }
}

impl LocalServer {
    /// With [`routes`].
    pub fn start() -> LocalServer {
        LocalServer::with(routes)
    }

    /// A listener with a handler of one's own.
    pub fn with(handler: impl Fn(&mut Conversation<'_>) + Send + Sync + 'static) -> LocalServer {
        LocalServer::on(TcpListener::bind((super::own_address(), 0)).unwrap(), handler)
    }

    /// With [`routes`], at an address of its own.
    pub fn start_at(address: Ipv4Addr, port: u16) -> LocalServer {
        LocalServer::on(TcpListener::bind((address, port)).unwrap(), routes)
    }

    fn on(
        listener: TcpListener,
        handler: impl Fn(&mut Conversation<'_>) + Send + Sync + 'static,
    ) -> LocalServer {
        let addr = listener.local_addr().unwrap();
        let flag = Arc::new(AtomicBool::new(false));
        let stop = Stop { addr: Some(addr), flag: flag.clone() };
        let server = LocalServer {
            addr,
            requests: Arc::default(),
            handler: Arc::new(handler),
            _stop: Arc::new(stop),
        };
        let (requests, handler) = (server.requests.clone(), server.handler.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if flag.load(Ordering::Relaxed) {
                    return;
                }
                let (requests, handler) = (requests.clone(), handler.clone());
                std::thread::spawn(move || {
                    serve(RawPeer::adopt(stream, "local server"), &requests, &handler)
                });
            }
        });
        server
    }

    /// The same as a device: `links` turned links at `gateway` under `name`, no listener.
    #[track_caller]
    pub fn device(
        gateway: &Gateway,
        name: &str,
        links: usize,
        handler: impl Fn(&mut Conversation<'_>) + Send + Sync + 'static,
    ) -> LocalServer {
        let stop = Stop { addr: None, flag: Arc::default() };
        let server = LocalServer {
            addr: gateway.devices,
            requests: Arc::default(),
            handler: Arc::new(handler),
            _stop: Arc::new(stop),
        };
        for _ in 0..links {
            server.answer_on(gateway.link(name));
        }
        server
    }

    /// Answers on a connection that is turned already.
    pub fn answer_on(&self, link: RawPeer) {
        let (requests, handler) = (self.requests.clone(), self.handler.clone());
        std::thread::spawn(move || serve(link, &requests, &handler));
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The heads of all requests so far; heartbeats are not counted, they are the link's own.
    pub fn requests(&self) -> Vec<Head> {
        self.requests.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    /// The head of the last request.
    #[track_caller]
    pub fn last(&self) -> Head {
        self.requests().pop().expect("the server was asked nothing")
    }
}

fn serve(mut peer: RawPeer, requests: &Mutex<Vec<Head>>, handler: &Handler) {
    peer.deadline = Duration::from_secs(120);
    loop {
        let Some(head) = peer.try_read_head() else { return };
        if head.start == "OPTIONS * HTTP/1.1" {
            peer.write("HTTP/1.1 204 No Content\r\n\r\n");
            if head.closes() {
                return;
            }
            continue;
        }
        requests.lock().unwrap().push(head.clone());
        let close = head.closes();
        let mut conversation = Conversation { head, peer: &mut peer, body_read: false, close };
        handler(&mut conversation);
        conversation.each_piece(|_| {});
        if conversation.close {
            return;
        }
    }
}

/// The usual answers:
///
/// - `/echo…`: the head as it came, then the body
/// - `/hash`: length and hash of the body
/// - `/big?n=N`: N bytes of the pattern with their length; `/chunked?n=N`: in chunks;
///   `/until-close?n=N`: to the end of the stream
/// - `/status/NNN`: that status
/// - anything else: `hello`
pub fn routes(c: &mut Conversation<'_>) {
    let target = c.head.target().to_owned();
    let n = target.split_once("?n=").map_or(0, |(_, n)| n.parse::<u64>().unwrap());
    match target.split('?').next().unwrap_or_default() {
        path if path.starts_with("/echo") => {
            let mut body = c.head.bytes.clone();
            c.each_piece(|piece| body.extend_from_slice(piece));
            c.text(body);
        }
        "/hash" => {
            let mut hash = Hash::default();
            c.each_piece(|piece| hash.update(piece));
            c.text(hash.finish());
        }
        "/big" => {
            c.raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {n}\r\n\r\n"));
            pattern_out(c, n, |_| Vec::new(), b"");
        }
        "/chunked" => {
            c.raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            pattern_out(c, n, |len| format!("{len:x}\r\n").into_bytes(), b"\r\n");
            c.raw("0\r\n\r\n");
        }
        "/until-close" => {
            c.raw("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            pattern_out(c, n, |_| Vec::new(), b"");
            c.close = true;
        }
        path if path.starts_with("/status/") => {
            let status = path.trim_start_matches("/status/").to_owned();
            c.answer(&format!("{status} As Asked"), "", "");
        }
        _ => c.text("hello\n"),
    }
}

fn pattern_out(c: &mut Conversation<'_>, n: u64, open: impl Fn(usize) -> Vec<u8>, close: &[u8]) {
    let (mut sent, mut block) = (0, vec![0; 48_000]);
    while sent < n && !c.close {
        let len = (block.len() as u64).min(n - sent) as usize;
        fill_pattern(sent, &mut block[..len]);
        let piece = [&open(len), &block[..len], close].concat();
        c.raw(piece);
        sent += len as u64;
    }
}
