//! A TLS session over a socket (feature `tls`), non-blocking for the event loop or blocking for a
//! worker.
//!
//! Two locks keep the bytes of each direction in order, and a third one protects the session
//! itself. The third is held only for computation, never while waiting for a socket. So one thread
//! may read while another writes, and shutting the socket down needs no lock.
//!
//! Bytes that a write reports as written were taken by the socket, too. If it stops half-way, the
//! same bytes have to be written again, and are not encrypted twice. So pending bytes wait at the
//! same place as without TLS, and are counted there.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, IoSlice, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rustls::{ClientConnection, Connection, ServerConnection};

use crate::atomic::AtomicU64;
use crate::error::Error;
use crate::proto::head::foreign_protocol;
use crate::stream::handshake::{HandshakeError, Shaken};
use crate::stream::socket::Socket;
use crate::tls::{self, Connector, GatewayTls, Shown, Side};

/// The size of one read of cipher text from the socket: a record and a little.
const CIPHER: usize = 17 * 1024;
/// The number of bytes that are encrypted before they are written to the socket.
const CHUNK: usize = 32 * 1024;
/// The length of a record's head, and the longest record (RFC 8446 §5.2, and TLS 1.2's).
const RECORD_HEAD: usize = 5;
const RECORD_MAX: usize = RECORD_HEAD + 16 * 1024 + 2048;
/// The most records of one non-blocking read. A record costs about the same for any length, even
/// for one byte, so the number of records is the work, not their length. This many full records are
/// more than any buffer holds.
const RECORDS: usize = 128;

/// The measured memory of an idle session
/// (`shares::idle_tls_sessions_take_what_is_counted_for_them`).
const SESSION: usize = 10 * 1024;

pub(crate) struct TlsSession {
    session: Mutex<Session>,
    /// Held by the reader of the socket.
    reading: Mutex<()>,
    /// Held by the writer of the socket.
    writing: Mutex<Outgoing>,
    /// Streams that share this session.
    handles: AtomicUsize,
    nonblocking: AtomicBool,
    /// The longest time of a blocking read, in milliseconds; 0 for no limit.
    read_limit: AtomicU64,
    /// No close_notify is sent.
    forsaken: AtomicBool,
    /// The session's end or failure is known, and was not reported yet.
    held: AtomicBool,
    /// The last read stopped at `RECORDS`, before the end of the input.
    paused: AtomicBool,
    /// The numbers of bytes that the socket has written and read.
    written: AtomicU64,
    read: AtomicU64,
    /// At the gateway's side: its settings, and the number of its listener.
    gateway: Option<(GatewayTls, usize)>,
    /// The other side's certificate.
    shown: Mutex<Option<Arc<Shown>>>,
}

/// Why a session has failed, for every later call.
type Failure = (io::ErrorKind, String);

struct Session {
    tls: Connection,
    /// The side, for explaining failures.
    side: Side,
    /// Cipher text that was read; the session has not taken the part from `used` on.
    fed: Vec<u8>,
    used: usize,
    /// The session's position in its input.
    records: Records,
    failed: Option<Failure>,
}

/// A position in a sequence of records.
#[derive(Clone, Copy, Default)]
struct Records {
    /// The part of a record's head that was read.
    head: [u8; RECORD_HEAD],
    seen: usize,
    /// The missing bytes of the record's body.
    left: usize,
}

impl Records {
    /// Walks over cipher text in which at most `most` records begin. Returns the number of bytes,
    /// and of records that began.
    fn walk(&mut self, bytes: &[u8], most: usize) -> (usize, usize) {
        let (mut at, mut begun) = (0, 0);
        while at < bytes.len() {
            let here = bytes.len() - at;
            if self.left > 0 {
                let n = self.left.min(here);
                (at, self.left) = (at + n, self.left - n);
                continue;
            }
            if self.seen == 0 {
                if begun == most {
                    break;
                }
                begun += 1;
            }
            let n = (RECORD_HEAD - self.seen).min(here);
            self.head[self.seen..][..n].copy_from_slice(&bytes[at..][..n]);
            (at, self.seen) = (at + n, self.seen + n);
            if self.seen == RECORD_HEAD {
                (self.seen, self.left) =
                    (0, usize::from(self.head[3]) * 256 + usize::from(self.head[4]));
            }
        }
        (at, begun)
    }
}

/// The result of taking plain text from a session.
struct Taken {
    /// The number of bytes of plain text.
    filled: usize,
    /// The end or the failure, if there is no more plain text.
    end: Option<Result<(), Failure>>,
    /// The most records were processed.
    paused: bool,
}

#[derive(Default)]
struct Outgoing {
    /// Cipher text; the part from `sent` on has to be written.
    text: Vec<u8>,
    sent: usize,
    /// Bytes that were encrypted, and not reported as written yet.
    debt: Option<Debt>,
}

/// Plain text that was encrypted before the socket had room. The next write has to repeat the same
/// bytes: other bytes would be lost, and the other side would get the old ones.
#[derive(Clone, Copy)]
struct Debt {
    length: usize,
    /// The number of compared bytes: for non-blocking use, enough to distinguish messages.
    compared: usize,
    mark: Option<u64>,
}

impl Debt {
    const COMPARED: usize = 64;

    fn of(slices: &[IoSlice<'_>], skip: usize, length: usize, nonblocking: bool) -> Self {
        let compared = if nonblocking { length.min(Self::COMPARED) } else { length };
        Debt { length, compared, mark: marked_behind(slices, skip, compared) }
    }

    fn is_of(&self, slices: &[IoSlice<'_>]) -> bool {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        total >= self.length && marked_behind(slices, 0, self.compared) == self.mark
    }
}

impl TlsSession {
    /// The device's side of a session with a gateway, or a local server, at this host.
    pub(crate) fn to_server(connector: &Connector, host: &str) -> Result<Arc<TlsSession>, Error> {
        let name = connector.server_name(host)?;
        let connection = ClientConnection::new(connector.config.clone(), name);
        let connection =
            connection.map_err(|e| Error::usage(format!("TLS cannot be begun: {e}")))?;
        Ok(TlsSession::new(connection.into(), connector.side(), None))
    }

    /// The gateway's side, at the listener with this number. With `is_gateway` the listener is for
    /// other gateways.
    pub(crate) fn to_peer(
        tls: &GatewayTls,
        listener: usize,
        is_gateway: bool,
    ) -> Result<Arc<TlsSession>, Error> {
        let side = if is_gateway { Side::GatewayOfGateways } else { Side::Gateway };
        let connection = ServerConnection::new(tls.config().clone());
        let connection =
            connection.map_err(|e| Error::usage(format!("TLS cannot be begun: {e}")))?;
        Ok(TlsSession::new(connection.into(), side, Some((tls.clone(), listener))))
    }

    fn new(tls: Connection, side: Side, gateway: Option<(GatewayTls, usize)>) -> Arc<TlsSession> {
        Arc::new(TlsSession {
            session: Mutex::new(Session {
                tls,
                side,
                fed: Vec::new(),
                used: 0,
                records: Records::default(),
                failed: None,
            }),
            reading: Mutex::new(()),
            writing: Mutex::default(),
            handles: AtomicUsize::new(1),
            nonblocking: AtomicBool::new(true),
            read_limit: AtomicU64::new(0),
            forsaken: AtomicBool::new(false),
            held: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
            gateway,
            shown: Mutex::new(None),
        })
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, Outgoing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- the handshake ---

    /// Returns true if this side has to send first.
    pub(crate) fn speaks_first(&self) -> bool {
        matches!(self.session().tls, Connection::Client(_))
    }

    /// Moves bytes, without computation; on a blocking socket, reads once. Must not be called while
    /// [`compute`](Self::compute) runs.
    pub(super) fn shake(&self, socket: &Socket) -> Shaken {
        if self.session.is_poisoned() {
            return Shaken::Failed(HandshakeError::new("its computation panicked"));
        }
        let sent = self.push(&mut self.writing(), socket);
        let mut session = self.session();
        if let Some((kind, text)) = &session.failed {
            return Shaken::Failed(HandshakeError {
                untrusted: *kind == io::ErrorKind::PermissionDenied,
                ..HandshakeError::new(text.clone())
            });
        }
        if let Err(e) = sent {
            if e.kind() != io::ErrorKind::WouldBlock {
                return Shaken::Failed(HandshakeError::new(e.to_string()));
            }
        }
        if !session.tls.is_handshaking() {
            return Shaken::Done;
        }
        let mut cipher = [0; CIPHER];
        let mut ended = None;
        while ended.is_none() && !session.has_record() {
            let mut from = socket;
            match from.read(&mut cipher) {
                Ok(0) => {
                    ended =
                        Some("the other side closed the connection within the handshake".to_owned())
                }
                Ok(n) => {
                    self.read.fetch_add(n as u64, Relaxed);
                    session.fed.extend_from_slice(&cipher[..n]);
                    if !self.nonblocking.load(Acquire) {
                        break;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => ended = Some(e.to_string()),
            }
        }
        if let Some(broken) = session.foreign() {
            return Shaken::Failed(broken);
        }
        match ended {
            _ if session.has_record() => Shaken::Compute,
            Some(text) => Shaken::Failed(HandshakeError {
                silent: self.read.load(Relaxed) == 0,
                ..HandshakeError::new(text)
            }),
            None => Shaken::Waiting,
        }
    }

    /// The computation of a handshake's step. [`shake`](Self::shake) sends its result.
    pub(crate) fn compute(&self) {
        let mut session = self.session();
        // Only complete records, because the beginning of the next one has to be known.
        let mut whole = session.whole_records();
        // Records after the handshake are left for reads: a session holds only a limited amount of
        // unread plain text.
        while whole > 0 && session.failed.is_none() && session.tls.is_handshaking() {
            match session.feed(whole) {
                (0, _) => break,
                (n, _) => whole -= n,
            }
        }
        let mut out = self.writing();
        session.collect(&mut out);
        if !session.tls.is_handshaking() {
            let shown = self.gateway.as_ref().and_then(|(tls, listener)| {
                Shown::of(session.tls.peer_certificates(), tls, *listener)
            });
            *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
        }
    }

    /// The certificate that a gateway's peer showed; `None`: it showed none.
    pub(crate) fn shown(&self) -> Option<Arc<Shown>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    // --- the stream's life ---

    /// # Errors
    /// Fails if encrypted bytes are not written yet, because the stream's next owner would write
    /// other bytes.
    pub(super) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        if !nonblocking && self.writing.try_lock().is_ok_and(|out| out.debt.is_some()) {
            return Err(io::Error::other("bytes wait to be written on it"));
        }
        self.nonblocking.store(nonblocking, Release);
        Ok(())
    }

    pub(super) fn limit_read(&self, time: Option<Duration>) {
        let millis =
            time.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1));
        self.read_limit.store(millis, Release);
    }

    /// Bytes that the socket took and brought, so far.
    pub(super) fn moved(&self) -> (u64, u64) {
        (self.written.load(Relaxed), self.read.load(Relaxed))
    }

    /// Its memory: the base of every session, cipher text of both directions, and an incomplete
    /// record.
    pub(crate) fn held(&self) -> usize {
        // A busy session is counted later.
        let fed = self.session.try_lock().map_or(0, |session| {
            session.fed.capacity() + if session.records.left > 0 { RECORD_MAX } else { 0 }
        });
        SESSION + fed + self.writing.try_lock().map_or(0, |out| out.text.capacity())
    }

    /// Returns true if bytes were encrypted that count as not written: they cannot be removed.
    pub(super) fn owes(&self) -> bool {
        self.writing().debt.is_some()
    }

    /// Returns true if the next read reports an end or a failure, regardless of the socket.
    pub(super) fn holds_end(&self) -> bool {
        self.held.load(Acquire)
    }

    /// Returns true if the last read stopped before the end of the input.
    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Acquire)
    }

    pub(super) fn share(self: &Arc<Self>) -> Arc<Self> {
        self.handles.fetch_add(1, AcqRel);
        self.clone()
    }

    /// Lets the other side see that the message is incomplete.
    pub(super) fn forsake(&self) {
        self.forsaken.store(true, Release);
    }

    /// One of the streams is dropped; the last one sends close_notify, if that is possible without
    /// waiting.
    pub(super) fn leave(&self, socket: &Socket) {
        if self.handles.fetch_sub(1, AcqRel) != 1 || self.forsaken.load(Acquire) {
            return;
        }
        if socket.set_nonblocking(true).is_ok() {
            let _ = self.end(socket); // the socket may be closed already
        }
    }

    /// Sends close_notify. `WouldBlock` if the socket has not taken it yet.
    pub(super) fn end(&self, socket: &Socket) -> io::Result<()> {
        self.tell_end(&mut self.writing(), socket)
    }

    /// The same before both directions are ended while threads may use them. Nothing is sent if
    /// that would have to wait for one of them, or for the socket.
    pub(super) fn end_at_once(&self, socket: &Socket) {
        if self.forsaken.load(Acquire) {
            return;
        }
        let Ok(mut out) = self.writing.try_lock() else { return };
        if socket.set_nonblocking(true).is_ok() {
            let _ = self.tell_end(&mut out, socket); // it may be gone already
        }
    }

    fn tell_end(&self, out: &mut Outgoing, socket: &Socket) -> io::Result<()> {
        {
            let mut session = self.session();
            if session.failed.is_none() {
                session.tls.send_close_notify(); // a second call does nothing
            }
            session.collect(out);
        }
        self.push(out, socket)
    }

    // --- reading ---

    /// As a socket's `read`: without blocking it reads until `buf` is full or the socket empty, or
    /// [`RECORDS`] records were read ([`is_paused`](Self::is_paused)); blocking, until it has
    /// something.
    pub(super) fn read(&self, socket: &Socket, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let _one = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let blocking = !self.nonblocking.load(Acquire);
        let mut timeout = ReadTimeout::new(
            blocking.then(|| self.read_limit.load(Acquire)).filter(|millis| *millis > 0),
        );
        let (mut filled, mut drained, mut records) =
            (0, false, if blocking { usize::MAX } else { RECORDS });
        self.paused.store(false, Release);
        let read = loop {
            let taken = self.session().take(&mut buf[filled..], &mut records);
            filled += taken.filled;
            if taken.paused {
                self.paused.store(true, Release);
                break if filled > 0 { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) };
            }
            if let Some(end) = taken.end {
                self.held.store(filled > 0, Release);
                break if filled > 0 {
                    Ok(())
                } else {
                    end.map_err(|(kind, text)| io::Error::new(kind, text))
                };
            }
            if filled == buf.len() || (filled > 0 && (blocking || drained)) {
                break Ok(());
            }
            if let Err(e) = timeout.lessen(socket) {
                break Err(e);
            }
            match self.read_socket(socket) {
                Ok(short) => drained = short,
                Err(e) if e.kind() == io::ErrorKind::Interrupted && !blocking => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && filled > 0 => break Ok(()),
                Err(e) if filled > 0 => {
                    self.session().failed.get_or_insert((e.kind(), e.to_string()));
                    self.held.store(true, Release);
                    break Ok(());
                }
                Err(e) => break Err(e),
            }
        };
        timeout.restore(socket);
        self.answer(socket);
        read.map(|()| filled)
    }

    /// Reads once from the socket. Returns true if it is empty now.
    fn read_socket(&self, mut socket: &Socket) -> io::Result<bool> {
        let mut cipher = [0; CIPHER];
        let n = socket.read(&mut cipher)?;
        self.read.fetch_add(n as u64, Relaxed);
        let mut session = self.session();
        match n {
            0 => _ = session.tls.read_tls(&mut io::empty())?, // this reports the end
            n => session.fed.extend_from_slice(&cipher[..n]),
        }
        Ok(n < CIPHER && n > 0)
    }

    /// Sends messages that reading has caused (an alert, new keys), unless a write is in progress,
    /// which will send them.
    fn answer(&self, socket: &Socket) {
        if !self.session().tls.wants_write() {
            return;
        }
        let mut out = match self.writing.try_lock() {
            Ok(out) => out,
            Err(TryLockError::Poisoned(out)) => out.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.session().collect(&mut out);
        if out.debt.is_none() {
            let _ = self.push(&mut out, socket); // the rest is sent with the next write, which also reports a failure
        }
    }

    // --- writing ---

    /// As a socket's `write`; after `WouldBlock` the same bytes have to be written again.
    pub(super) fn write(&self, socket: &Socket, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut out = self.writing();
        self.push(&mut out, socket)?;
        let mut taken = 0;
        if let Some(debt) = out.debt.take() {
            if !debt.is_of(slices) {
                let text = "other bytes than those whose writing had timed out; after that, a TLS stream takes the same ones again";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            taken = debt.length; // continue: a writer with a short count would wait for the socket, which may have room
        }
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        while taken < total {
            let n = self.encrypt(&mut out, slices, taken)?;
            match self.push(&mut out, socket) {
                Ok(()) => taken += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let nonblocking = self.nonblocking.load(Acquire);
                    out.debt = Some(Debt::of(slices, taken, n, nonblocking));
                    return if taken > 0 { Ok(taken) } else { Err(e) };
                }
                Err(e) => return Err(e),
            }
        }
        Ok(taken)
    }

    /// Encrypts up to a chunk of the bytes after the first `skip` ones.
    fn encrypt(
        &self,
        out: &mut Outgoing,
        slices: &[IoSlice<'_>],
        skip: usize,
    ) -> io::Result<usize> {
        let mut session = self.session();
        if let Some((kind, text)) = &session.failed {
            return Err(io::Error::new(*kind, text.clone()));
        }
        let mut taken = 0;
        for part in behind(slices, skip) {
            let part = &part[..part.len().min(CHUNK - taken)];
            let mut left = part;
            while !left.is_empty() {
                match session.tls.writer().write(left)? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    n => left = &left[n..],
                }
                session.collect(out);
            }
            taken += part.len();
            if taken == CHUNK {
                break;
            }
        }
        Ok(taken)
    }

    /// Writes pending cipher text.
    fn push(&self, out: &mut Outgoing, mut socket: &Socket) -> io::Result<()> {
        while out.sent < out.text.len() {
            match socket.write(&out.text[out.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    out.sent += n;
                    self.written.fetch_add(n as u64, Relaxed);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        (out.text, out.sent) = (Vec::new(), 0);
        Ok(())
    }
}

impl Session {
    /// Passes up to `most` bytes of cipher text to the session. Returns how many it took, and how
    /// many records began in them; 0 if there are none, or it takes none now.
    fn feed(&mut self, most: usize) -> (usize, usize) {
        let mut rest = &self.fed[self.used..][..most];
        if rest.is_empty() {
            return (0, 0);
        }
        let fed = self.tls.read_tls(&mut rest);
        let taken = most - rest.len();
        let (_, begun) = self.records.walk(&self.fed[self.used..][..taken], usize::MAX);
        self.used += taken;
        if self.used == self.fed.len() {
            (self.fed, self.used) = (Vec::new(), 0);
        }
        match fed {
            Ok(0) => return (0, 0),
            Ok(_) => {}
            Err(e) => self.failed = Some((e.kind(), e.to_string())),
        }
        if let Err(e) = self.tls.process_new_packets() {
            let kind = match e {
                rustls::Error::InvalidCertificate(_) => io::ErrorKind::PermissionDenied,
                rustls::Error::AlertReceived(alert)
                    if self.side == tls::Side::OtherGateway && tls::is_of_certificate(alert) =>
                {
                    io::ErrorKind::PermissionDenied // of this side's, in TLS 1.3 after the handshake
                }
                _ => io::ErrorKind::InvalidData,
            };
            self.failed = Some((kind, tls::explained(&e, self.side)));
        }
        (taken, begun)
    }

    /// Takes the plain text of the next `records` records; if there is no more, also the end (`Ok`)
    /// or failure of the session.
    fn take(&mut self, buf: &mut [u8], records: &mut usize) -> Taken {
        let mut filled = 0;
        let end = loop {
            if filled == buf.len() {
                break None;
            }
            match self.tls.reader().read(&mut buf[filled..]) {
                Ok(0) => break Some(Ok(())),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(failed) = &self.failed {
                        break Some(Err(failed.clone()));
                    }
                    let (most, _) = { self.records }.walk(&self.fed[self.used..], *records);
                    if most == 0 {
                        return Taken { filled, end: None, paused: self.used < self.fed.len() };
                    }
                    match self.feed(most) {
                        (0, _) => break None,
                        (_, begun) => *records -= begun.min(*records),
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    let text = "the other side ended the connection without saying so in TLS (close_notify)";
                    break Some(Err((e.kind(), text.to_owned())));
                }
                Err(e) => break Some(Err((e.kind(), e.to_string()))),
            }
        };
        Taken { filled, end, paused: false }
    }

    /// Takes the session's output.
    fn collect(&mut self, out: &mut Outgoing) {
        while self.tls.wants_write() {
            if !matches!(self.tls.write_tls(&mut out.text), Ok(n) if n > 0) {
                break; // writing to a vector never fails
            }
        }
    }

    /// Returns true if a complete record was read, or invalid bytes.
    fn has_record(&self) -> bool {
        self.whole_records() > 0
    }

    /// The length of all complete records that were read. The session will refuse invalid bytes.
    fn whole_records(&self) -> usize {
        let fed = &self.fed[self.used..];
        let mut whole = 0;
        while let Some(length) = fed.get(whole + 3..whole + RECORD_HEAD) {
            let length = RECORD_HEAD + usize::from(length[0]) * 256 + usize::from(length[1]);
            if length > RECORD_MAX {
                return fed.len();
            }
            if fed.len() - whole < length {
                break;
            }
            whole += length;
        }
        whole
    }

    /// Recognises another protocol than TLS by a session's first bytes.
    fn foreign(&self) -> Option<HandshakeError> {
        const HANDSHAKE: u8 = 22;
        const ALERT: u8 = 21;
        if self.tls.protocol_version().is_some() || self.tls.wants_write() {
            return None;
        }
        let first = *self.fed.get(self.used)?;
        if matches!(first, HANDSHAKE | ALERT) {
            return None;
        }
        let server = matches!(self.tls, Connection::Server(_));
        let known = foreign_protocol(&self.fed[self.used..]);
        let plain = server && first.is_ascii_uppercase() && known.is_none();
        let what = known.unwrap_or(if first.is_ascii_uppercase() {
            "plain HTTP"
        } else {
            "something else"
        });
        let text = match (server, plain) {
            (true, true) => {
                format!("this port speaks TLS, and what came is {what}; write https:// in the URL")
            }
            (true, false) => {
                format!("this port speaks TLS, and what came is {what}; check the sender's URL")
            }
            (false, _) => format!(
                "the other side does not speak TLS, what came is {what}; write http:// in the URL, or another port"
            ),
        };
        Some(HandshakeError { plain, ..HandshakeError::new(text) })
    }
}

fn behind<'s>(slices: &'s [IoSlice<'_>], mut skip: usize) -> impl Iterator<Item = &'s [u8]> {
    slices.iter().map(move |slice| {
        let skipped = skip.min(slice.len());
        skip -= skipped;
        &slice[skipped..]
    })
}

/// A value that distinguishes these bytes from others. `None` if there are fewer bytes.
fn marked_behind(slices: &[IoSlice<'_>], skip: usize, length: usize) -> Option<u64> {
    let (mut hasher, mut left) = (DefaultHasher::new(), length);
    for part in behind(slices, skip) {
        let part = &part[..part.len().min(left)];
        part.iter().for_each(|byte| byte.hash(&mut hasher));
        left -= part.len();
    }
    (left == 0).then(|| hasher.finish())
}

/// The deadline of a blocking read that needs several of the socket's.
struct ReadTimeout {
    limit: Option<Duration>,
    /// When the first read of the socket began.
    began: Option<Instant>,
    lessened: bool,
}

impl ReadTimeout {
    fn new(millis: Option<u64>) -> Self {
        let limit = millis.map(Duration::from_millis);
        ReadTimeout { limit, began: None, lessened: false }
    }

    /// Before a read of the socket: every one but the first may take the remaining time.
    fn lessen(&mut self, socket: &Socket) -> io::Result<()> {
        let Some(limit) = self.limit else { return Ok(()) };
        let Some(began) = self.began else {
            self.began = Some(Instant::now());
            return Ok(());
        };
        let left = limit.saturating_sub(began.elapsed());
        if left < Duration::from_millis(1) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.lessened = true;
        socket.set_read_timeout(Some(left))
    }

    fn restore(&self, socket: &Socket) {
        if self.lessened {
            let _ = socket.set_read_timeout(self.limit); // if it fails, the socket is closed
        }
    }
}

#[cfg(test)]
mod tests;
