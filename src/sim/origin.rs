//! A local server behind a device: it reads requests, and answers them as the seed decides.

use crate::limits::Limits;
use crate::proto::body::{self, Decoder, Piece};
use crate::proto::head::{self, LineEnds};
use crate::sim::actors::{Actor, Cx, pattern, read_all, write_some};
use crate::sim::net::{self, MILLI, Micros, SECOND, Socket};
use crate::sim::tunnels::TARGET;

/// A request as a server reads it.
pub(super) struct ReceivedRequest {
    /// It wants a tunnel that echoes this number of bytes.
    pub(super) echo: Option<usize>,
    /// `None`: a heartbeat, or a request that no visitor sent.
    pub(super) nonce: Option<u64>,
    pub(super) method: String,
    pub(super) length: usize,
    pub(super) close: bool,
    pub(super) decoder: Decoder,
    pub(super) body: Vec<u8>,
}

fn query(target: &str, name: &str) -> Option<u64> {
    let (_, query) = target.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// Takes a request's head from `input`.
pub(super) fn take_head(
    input: &mut Vec<u8>,
    limits: &Limits,
) -> Result<Option<ReceivedRequest>, String> {
    let Some(request) = head::request(input, limits, LineEnds::Crlf).map_err(|e| e.to_string())?
    else {
        return Ok(None);
    };
    let framing = body::of_request(&request).map_err(|e| e.to_string())?;
    let wants_echo =
        request.target.starts_with(TARGET) && request.fields.lists("Connection", "upgrade");
    let length = query(request.target, "len").unwrap_or(0) as usize;
    let asked = ReceivedRequest {
        echo: wants_echo.then_some(length),
        nonce: query(request.target, "n"),
        method: request.method.to_owned(),
        length,
        close: !head::keeps_alive(request.minor, &request.fields),
        decoder: Decoder::new(framing, limits),
        body: Vec::new(),
    };
    let used = request.len;
    input.drain(..used);
    Ok(Some(asked))
}

/// Takes the body from `input`; returns true if it is complete.
pub(super) fn take_body(asked: &mut ReceivedRequest, input: &mut Vec<u8>) -> Result<bool, String> {
    let mut used = 0;
    let whole = loop {
        let (n, piece) = asked.decoder.decode(&input[used..]).map_err(|e| e.to_string())?;
        used += n;
        match piece {
            Piece::Data(data) => asked.body.extend_from_slice(data),
            Piece::More => break false,
            Piece::End => break true,
        }
    };
    input.drain(..used);
    Ok(whole)
}

/// Counts a complete request, and checks its body.
pub(super) fn run(cx: &mut Cx<'_>, asked: &ReceivedRequest, whose: &str) {
    let Some(nonce) = asked.nonce else { return };
    cx.tally.ran(nonce, whose);
    if asked.method == "POST" && asked.body != pattern('q', nonce, asked.length) {
        cx.tally.violation(format!(
            "{whose} got a body of {nonce} that is not what was sent: {} bytes",
            asked.body.len()
        ));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    Keep,
    Close,
}

/// The response to a request: its bytes, and how the connection goes on.
pub(super) fn answer(
    cx: &mut Cx<'_>,
    asked: &ReceivedRequest,
    open_ended_allowed: bool,
) -> (Vec<u8>, Ends) {
    let Some(nonce) = asked.nonce else {
        return (
            b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            if asked.close { Ends::Close } else { Ends::Keep },
        );
    };
    let rng = &mut *cx.rng;
    let length = rng.skewed(24 * 1024) as usize;
    let (is_head, status) = (asked.method == "HEAD", if rng.permille(60) { 204 } else { 200 });
    let mut out = Vec::new();
    if !cx.calm && rng.permille(60) {
        out.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n");
    }
    let bytes = pattern('n', nonce, length);
    let fields = format!("X-Nonce: {nonce}\r\nX-Len: {length}\r\n");
    let kind = match rng.range(0, 99) {
        _ if status == 204 => 0,
        n if n >= 92 && !open_ended_allowed => 0,
        n => n,
    };
    let says_close = asked.close || rng.permille(50);
    let close = if says_close { "Connection: close\r\n" } else { "" };
    let mut ends = if says_close { Ends::Close } else { Ends::Keep };
    let length_field =
        if status == 204 { String::new() } else { format!("Content-Length: {length}\r\n") };
    match kind {
        0..=49 => {
            out.extend_from_slice(
                format!("HTTP/1.1 {status} OK\r\n{fields}{close}{length_field}\r\n").as_bytes(),
            );
            out.extend_from_slice(if is_head || status == 204 { &[] } else { &bytes });
        }
        50..=91 => {
            out.extend_from_slice(
                format!("HTTP/1.1 200 OK\r\n{fields}{close}Transfer-Encoding: chunked\r\n\r\n")
                    .as_bytes(),
            );
            if !is_head {
                for piece in bytes.chunks(rng.size(1, 4000)) {
                    body::open_chunk(&mut out, piece.len());
                    out.extend_from_slice(piece);
                    out.extend_from_slice(b"\r\n");
                }
                out.extend_from_slice(b"0\r\n\r\n");
            }
        }
        _ => {
            let minor = rng.range(0, 1);
            out.extend_from_slice(
                format!("HTTP/1.{minor} 200 OK\r\n{fields}Connection: close\r\n\r\n").as_bytes(),
            );
            out.extend_from_slice(if is_head { &[] } else { &bytes });
            ends = Ends::Close;
            if let Some(entry) = cx.tally.requests.get_mut(&nonce) {
                entry.open_ended = true;
            }
        }
    }
    (out, ends)
}

/// A plain server behind a device.
pub(super) struct Origin {
    pub(super) label: String,
    conns: Vec<Serving>,
    limits: Limits,
    /// It sometimes closes, fails or pauses.
    pub(super) rough: bool,
}

struct Serving {
    socket: Socket,
    input: Vec<u8>,
    asked: Option<ReceivedRequest>,
    out: Vec<u8>,
    /// When the output may go on.
    until: Micros,
    ends: Option<Ends>,
    /// When it is closed for being idle.
    idle: Option<Micros>,
    /// The bytes left to send before a reset.
    breaks: Option<usize>,
    /// A tunnel: the bytes left to echo before it ends.
    echo: Option<usize>,
}

impl Origin {
    pub(super) fn new(label: String, rough: bool) -> Self {
        Origin { label, conns: Vec::new(), limits: Limits::default().for_own_heads(), rough }
    }

    /// Returns false if the connection is over.
    fn serve(
        label: &str,
        rough: bool,
        limits: &Limits,
        serving: &mut Serving,
        cx: &mut Cx<'_>,
    ) -> bool {
        let rough = rough && !cx.calm;
        loop {
            if serving.until > cx.now {
                return true;
            }
            if let Some(goes_on) = Self::write(rough, serving, cx) {
                return goes_on;
            }
            match Self::read(label, limits, serving, cx) {
                Ok(asked) => Self::respond(label, rough, asked, serving, cx),
                Err(goes_on) => return goes_on,
            }
        }
    }

    /// Writes the pending output. Returns `Some` if no request can be read now: true if the
    /// connection goes on.
    fn write(rough: bool, serving: &mut Serving, cx: &mut Cx<'_>) -> Option<bool> {
        if serving.echo.is_some() && serving.input.is_empty() {
            let ended = read_all(&serving.socket, &mut serving.input, usize::MAX).is_err();
            if ended && serving.input.is_empty() {
                return Some(false);
            }
        }
        if let Some(left) = &mut serving.echo {
            let echoed = serving.input.len().min(*left);
            serving.out.extend(serving.input.drain(..echoed));
            serving.input.clear();
            *left -= echoed;
        }
        if let Some(left) = &mut serving.breaks {
            let wrote = write_some(&serving.socket, &mut serving.out, *left);
            *left -= wrote.unwrap_or(*left);
            if *left == 0 {
                let _ = serving.socket.abort();
                return Some(false);
            }
            return Some(true);
        }
        if write_some(&serving.socket, &mut serving.out, usize::MAX).is_err() {
            return Some(false);
        }
        if !serving.out.is_empty() {
            return Some(true);
        }
        if let Some(left) = serving.echo {
            return Some(left > 0);
        }
        if let Some(ends) = serving.ends.take() {
            if ends == Ends::Close {
                return Some(false);
            }
            if rough && cx.rng.permille(100) {
                let at = cx.now + cx.rng.skewed(20 * SECOND);
                serving.idle = Some(at);
                cx.wake(at);
            }
        }
        let is_idle = serving.asked.is_none() && serving.input.is_empty();
        (is_idle && serving.idle.is_some_and(|at| at <= cx.now)).then_some(false)
    }

    /// Reads a request to its end. `Err`: there is none yet; true if the connection goes on.
    fn read(
        label: &str,
        limits: &Limits,
        serving: &mut Serving,
        cx: &mut Cx<'_>,
    ) -> Result<ReceivedRequest, bool> {
        let ended = read_all(&serving.socket, &mut serving.input, usize::MAX).is_err();
        if serving.asked.is_none() {
            match take_head(&mut serving.input, limits) {
                Err(why) => {
                    cx.tally
                        .violation(format!("{label} received bytes that are not a request: {why}"));
                    return Err(false);
                }
                Ok(None) => return Err(!ended),
                Ok(asked) => serving.asked = asked,
            }
        }
        let Some(asked) = &mut serving.asked else { return Err(!ended) };
        match take_body(asked, &mut serving.input) {
            Err(why) => {
                cx.tally.violation(format!("{label} received a malformed body: {why}"));
                return Err(false);
            }
            Ok(false) => return Err(!ended),
            Ok(true) => {}
        }
        serving.asked.take().ok_or(false)
    }

    fn respond(
        label: &str,
        rough: bool,
        asked: ReceivedRequest,
        serving: &mut Serving,
        cx: &mut Cx<'_>,
    ) {
        run(cx, &asked, label);
        if asked.echo.is_some() {
            serving.out =
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"
                    .to_vec();
            serving.echo = asked.echo;
            if asked.length > 0 && cx.rng.permille(300) {
                serving.breaks = Some(serving.out.len() + cx.rng.size(0, asked.length - 1));
            }
            return;
        }
        let (out, ends) = answer(cx, &asked, true);
        (serving.out, serving.ends, serving.idle) = (out, Some(ends), None);
        if rough {
            let pause = match cx.rng.range(0, 99) {
                0..=49 => 0,
                50..=89 => cx.rng.skewed(200 * MILLI),
                90..=97 => cx.rng.skewed(8 * SECOND),
                _ => cx.rng.range(50, 100) * SECOND,
            };
            serving.until = cx.now + pause;
            cx.wake(serving.until);
            if cx.rng.permille(60) {
                serving.breaks = Some(cx.rng.size(0, serving.out.len()));
            }
        }
    }
}

impl Actor for Origin {
    fn step(&mut self, cx: &mut Cx<'_>) {
        while let Some((_, socket, _)) = net::with(|net| net.accept(cx.node)) {
            let _ = socket.watch(Some((cx.node, 0)));
            self.conns.push(Serving {
                socket,
                input: Vec::new(),
                asked: None,
                out: Vec::new(),
                until: 0,
                ends: None,
                idle: None,
                breaks: None,
                echo: None,
            });
        }
        let mut n = 0;
        while n < self.conns.len() {
            match Self::serve(&self.label, self.rough, &self.limits, &mut self.conns[n], cx) {
                true => n += 1,
                false => drop(self.conns.remove(n)),
            }
        }
    }

    fn leave(&mut self) {
        self.conns.clear();
    }
}
