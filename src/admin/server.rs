//! The admin listener's connections: bounds, heads, admission.
//!
//! One thread accepts, and each connection has its own thread; they are few, because a gateway has
//! few operators. Each wait has a deadline.

use std::fmt;
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::admin::answers;
use crate::admin::context::{Context, PULSE};
use crate::admin::operators::{Operator, Operators, Remote};
use crate::admin::permits::ConnectionPermit;
use crate::admin::reply::Reply;
use crate::admin::request::OperatorRequest;
use crate::admin::settings::Admin;
use crate::admin::view::View;
use crate::error::{Error, Fault};
use crate::gateway::Tokens;
use crate::gateway::listeners::why_not_bound;
use crate::http_date::{DateText, date_now};
use crate::limits::Limits;
use crate::proto::body::Framing;
use crate::proto::dialect::Dialect;
use crate::proto::forward;
use crate::proto::framed::FramedRequest;
use crate::proto::head::{self, LineEnds};
use crate::proto::turn;
use crate::setting::DEVICES;
use crate::stream::Stream;

/// Connections that follow events or wait for one.
const FOLLOWERS_MAX: usize = 32;
/// Requests on one connection.
const REQUESTS_MAX: usize = 1_000;
/// Longest request head, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a request may take to arrive, and the next one to begin.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long writing an answer may make no progress.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections to a Unix socket that wait to be accepted.
const BACKLOG: i32 = 128;

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Accepts a connection, and returns its source.
    fn accept(&self) -> io::Result<(Stream, Remote)> {
        let (stream, from): (Stream, _) = match self {
            Listener::Tcp(listener) => {
                let (stream, from) = listener.accept()?;
                (stream.into(), Remote::Address(from.ip().to_canonical()))
            }
            Listener::Unix(listener, _) => (listener.accept()?.0.into(), Remote::UnixSocket),
        };
        stream.set_nonblocking(false)?;
        stream.tune()?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok((stream, from))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, path) = self {
            let _ = remove_socket(path); // it may have been removed already
        }
    }
}

/// A running listener.
pub(super) struct Server {
    url: String,
    context: Arc<Context>,
    stopped: Arc<AtomicBool>,
    waker: Waker,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Server {
    pub(super) fn start(address: &str, view: Arc<View>, admin: Admin) -> Result<Server, Error> {
        let (listener, url) = match address.strip_prefix("unix:") {
            Some(path) => (bind_unix(Path::new(path))?, address.to_owned()),
            None => bind_tcp(address, admin.tokens.is_some())?,
        };
        let doing = |e| Error::io(Fault::Gateway, "starting the admin listener", e);
        let poll = Poll::new().map_err(doing)?;
        let waker = Waker::new(poll.registry(), Token(1)).map_err(doing)?;
        let descriptor = match &listener {
            Listener::Tcp(listener) => listener.as_raw_fd(),
            Listener::Unix(listener, _) => listener.as_raw_fd(),
        };
        poll.registry()
            .register(&mut SourceFd(&descriptor), Token(0), Interest::READABLE)
            .map_err(doing)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let limits = Limits { head_bytes_max: HEAD_BYTES_MAX, ..Limits::default() };
        let context = Arc::new(Context {
            view,
            operators: Operators::new(admin.tokens, limits.token_bytes_max),
            set_log_level: admin.set_log_level,
            limits,
            stopped: stopped.clone(),
            connections: Arc::default(),
            followers: AtomicUsize::new(0),
        });
        let shared = context.clone();
        let thread = std::thread::Builder::new()
            .name("ptth-admin".to_owned())
            .spawn(move || accept(&listener, poll, &shared))
            .map_err(doing)?;
        Ok(Server { url, context, stopped, waker, thread: Mutex::new(Some(thread)) })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Stops accepting; connections end within a second.
    pub(super) fn stop(&self) {
        self.stopped.store(true, SeqCst);
        self.context.view.feed.end();
        let woken = self.waker.wake().is_ok();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread.filter(|_| woken) {
            drop(thread.join()); // a panic was logged already
        }
    }

    pub(super) fn configuration_read(&self, told: String) {
        self.context.view.set_configuration(told);
    }

    /// Replaces the tokens, if the listener has tokens.
    pub(super) fn set_tokens(&self, new: Tokens) -> Result<(), Error> {
        self.context.operators.replace(new)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn bind_tcp(address: &str, has_tokens: bool) -> Result<(Listener, String), Error> {
    let doing = |e| {
        let hint = why_not_bound(&e);
        Error::io(Fault::Network, format_args!("listening for operators on {address}{hint}"), e)
    };
    let candidates: Vec<SocketAddr> = address.to_socket_addrs().map_err(doing)?.collect();
    let beyond = candidates.iter().find(|at| !at.ip().to_canonical().is_loopback());
    if let Some(at) = beyond.filter(|_| !has_tokens) {
        return Err(Error::usage(format!(
            "the admin listener at {at} is beyond loopback: any client that reaches it could disconnect devices; listen on 127.0.0.1 or a Unix socket, or set tokens"
        )));
    }
    let listener = TcpListener::bind(&candidates[..]).map_err(doing)?;
    listener.set_nonblocking(true).map_err(doing)?;
    let at = listener.local_addr().map_err(doing)?;
    Ok((Listener::Tcp(listener), format!("http://{at}")))
}

/// Removes a socket, and no other file.
fn remove_socket(path: &Path) -> io::Result<()> {
    if std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return std::fs::remove_file(path);
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is not a socket"))
}

/// Binds a socket that only its owner can use. A socket without a listener is left over from an
/// earlier run, and is removed. Linux refuses a connection to any other file in the same way, and
/// these are kept.
fn bind_unix(path: &Path) -> Result<Listener, Error> {
    let doing = |e| {
        let at = format!("listening for operators on unix:{}", path.display());
        Error::io(Fault::Gateway, at, e)
    };
    // Without waiting: the process behind it may hang, and its backlog be full.
    if Stream::connect_unix(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
        remove_socket(path).map_err(doing)?;
    }
    let listener = listen_privately(path).map_err(doing)?;
    // Where it was not made so: Linux did that before anybody could connect.
    #[cfg(not(target_os = "linux"))]
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(doing)?;
    listener.set_nonblocking(true).map_err(doing)?;
    Ok(Listener::Unix(listener, path.to_owned()))
}

/// Binds a socket whose file is its owner's from the first moment on (Linux), whatever the umask is:
/// a change of its mode after that comes too late for a client that waits for it, and may reach
/// another file that has taken its place (T72).
fn listen_privately(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let file = File::from(OwnedFd::from(socket.try_clone()?));
    // The file gets the mode that its socket has.
    let set = file.set_permissions(Permissions::from_mode(0o600));
    if cfg!(target_os = "linux") {
        set?; // others do not know that
    }
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    Ok(UnixListener::from(OwnedFd::from(socket)))
}

fn accept(listener: &Listener, mut poll: Poll, context: &Arc<Context>) {
    let mut events = Events::with_capacity(4);
    let mut has_failed = false;
    while !context.stopped.load(SeqCst) {
        match listener.accept() {
            Ok((stream, from)) => {
                has_failed = false;
                serve_on_thread(stream, from, context);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                // The gateway may have ended although this listener was not dropped.
                if let Err(e) = poll.poll(&mut events, Some(Duration::from_secs(1))) {
                    if e.kind() != io::ErrorKind::Interrupted {
                        return log::error!("the admin listener ended: {e}");
                    }
                }
                if context.view.is_over() {
                    return;
                }
            }
            Err(e) => {
                // One warning until it works again. Most likely no descriptor is free.
                let level = if has_failed { log::Level::Debug } else { log::Level::Warn };
                log::log!(
                    level,
                    "the admin listener cannot accept: {e}; trying again every 100 ms"
                );
                has_failed = true;
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// One of a bounded number of permits; dropping it returns it.
struct FollowerPermit<'c>(&'c AtomicUsize);

impl<'c> FollowerPermit<'c> {
    fn take(taken: &'c AtomicUsize, most: usize) -> Option<FollowerPermit<'c>> {
        let permit = FollowerPermit(taken);
        (taken.fetch_add(1, SeqCst) < most).then_some(permit) // if it is too many, it is returned at once
    }
}

impl Drop for FollowerPermit<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Starts the connection's thread, if there is a permit.
fn serve_on_thread(stream: Stream, from: Remote, context: &Arc<Context>) {
    let stream = Arc::new(stream);
    let Some(permit) = context.connections.take(&stream, from.beyond()) else {
        // Nothing was written before, so the socket takes it at once or not at all.
        let told = stream.set_nonblocking(true).and_then(|()| {
            Reply::text(503, "the admin listener has as many connections as it takes")
                .write(&stream, false, false)
        });
        return told.unwrap_or_else(|e| log::debug!("a connection of an operator ended: {e}"));
    };
    let context = context.clone();
    let thread = std::thread::Builder::new().name("ptth-admin-peer".to_owned());
    let spawned = thread.spawn(move || {
        serve((&stream, from), &permit, &context)
            .unwrap_or_else(|e| log::debug!("a connection of an operator ended: {e}"));
    });
    if let Err(e) = spawned {
        log_names!(Warn, "an operator's connection was closed: no thread could be started: {e}");
    }
}

fn serve(
    (stream, from): (&Stream, Remote),
    permit: &ConnectionPermit,
    context: &Context,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    for _ in 0..REQUESTS_MAX {
        let end = Instant::now() + HEAD_TIMEOUT;
        while matches!(head::request(&bytes, &context.limits, LineEnds::Crlf), Ok(None)) {
            if !read_more(stream, &mut bytes, end, context)? {
                return Ok(());
            }
        }
        if !permit.answers() {
            return Ok(());
        }
        let Some(answered) = answer_head(&bytes, from, context) else { return Ok(()) };
        bytes.drain(..answered.taken);
        if let Some((after, operator)) = answered.reply.follows().zip(answered.operator) {
            return follow(stream, context, (after, operator), answered.to_head);
        }
        answered.reply.write(stream, answered.to_head, answered.keep)?;
        if !answered.keep || answered.reply.is_last() {
            return Ok(());
        }
        permit.waits(true);
    }
    Ok(())
}

/// A request that was read, and its response.
struct Answered {
    reply: Reply,
    /// The operator, if the credential was checked.
    operator: Option<Operator>,
    taken: usize,
    to_head: bool,
    keep: bool,
}

/// `None` if the head is incomplete.
fn answer_head(bytes: &[u8], from: Remote, context: &Context) -> Option<Answered> {
    let wrong = |refusal, to_head| Answered {
        reply: Reply::of(&refusal),
        operator: None,
        taken: bytes.len(),
        to_head,
        keep: false,
    };
    let request = match head::request(bytes, &context.limits, LineEnds::Crlf) {
        Ok(None) => return None,
        Ok(Some(request)) => request,
        Err(refusal) => return Some(wrong(refusal, false)),
    };
    let (taken, to_head) = (request.len, request.method == "HEAD");
    let keep = head::keeps_alive(request.minor, &request.fields);
    Some(match FramedRequest::of(request) {
        Ok(request) => {
            let (reply, operator) = answer(&request, from, context);
            // A client without access would occupy an operator's place.
            let keep = keep && !reply.refuses_host() && context.operators.are_shown(&request);
            Answered { reply, operator, taken, to_head, keep }
        }
        Err(refusal) => wrong(refusal, to_head),
    })
}

/// Returns false if no more bytes will come.
fn read_more(
    mut stream: &Stream,
    bytes: &mut Vec<u8>,
    end: Instant,
    context: &Context,
) -> io::Result<bool> {
    let mut piece = [0; 4096];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || context.stopped.load(SeqCst) {
            return Ok(false);
        }
        stream.set_read_timeout(Some(left.min(Duration::from_secs(1))))?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(false),
            Ok(n) => {
                bytes.extend_from_slice(&piece[..n]);
                return Ok(true);
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Checks the credential, then answers.
fn answer(
    request: &FramedRequest<'_>,
    from: Remote,
    context: &Context,
) -> (Reply, Option<Operator>) {
    let refused = |reply| (reply, None);
    if turn::is_of_device(request, &Dialect::table()) {
        // Before its token is checked, which is a device's.
        let text =
            format!("this port is for operators; devices connect to the devices' port ({DEVICES})");
        let mark = format!("{}; error=http_request_denied; details=\"{text}\"", turn::MARK.1);
        return refused(Reply::text(404, &text).field(turn::MARK.0, mark).last());
    }
    if request.framing() != Framing::Empty {
        return refused(Reply::text(413, "requests to the admin listener have no body").last());
    }
    let target = match forward::origin_form(request) {
        Ok(target) => target,
        Err(refusal) => return refused(Reply::text(refusal.status, &refusal.reason).last()),
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if !matches!(request.method, "GET" | "HEAD" | "POST") {
        let reply = Reply::text(405, "the admin listener takes GET, HEAD and POST");
        return refused(reply.field("Allow", "GET, HEAD, POST"));
    }
    let operator = match answers::is_health(path) {
        true => None,
        false => match context.operators.admit(request, from) {
            Ok(operator) => Some(operator),
            Err(reply) => return refused(reply),
        },
    };
    let asked = OperatorRequest {
        is_post: request.method == "POST",
        path,
        query,
        wants_events: request.fields.lists("Accept", "text/event-stream"),
        last_event: request.fields.get("Last-Event-ID").unwrap_or_default(),
        operator,
    };
    let permit = asked.waits().then(|| FollowerPermit::take(&context.followers, FOLLOWERS_MAX));
    match permit {
        Some(None) => {
            refused(Reply::text(503, "as many connections as are allowed follow events already"))
        }
        _ => (answers::answer(&asked, context), operator),
    }
}

/// Sends server-sent events until one side ends, or the reader's token becomes invalid.
fn follow(
    mut stream: &Stream,
    context: &Context,
    (mut after, operator): (u64, Operator),
    to_head: bool,
) -> io::Result<()> {
    let Some(_permit) = FollowerPermit::take(&context.followers, FOLLOWERS_MAX) else {
        return Reply::text(503, "as many connections as are allowed follow events already")
            .write(stream, false, false);
    };
    let date = date_now();
    let date = date.as_ref().map_or("", DateText::as_str);
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\nConnection: close\r\n\r\n"
    )?;
    if to_head {
        return Ok(());
    }
    let mut told = Instant::now();
    let mut text = format!("retry: 2000\n\n{}", answers::pulse(&context.view));
    while !context.stopped.load(SeqCst) && !context.view.is_over() {
        let wait = PULSE.saturating_sub(told.elapsed());
        for (id, event) in context.view.feed.after(after, wait).events {
            after = id;
            text.push_str(&format!("id: {id}\nevent: device\ndata: {event}\n\n"));
        }
        if told.elapsed() >= PULSE {
            told = Instant::now();
            text.push_str(&answers::pulse(&context.view));
        }
        if !context.operators.still_admit(operator) {
            return Ok(());
        }
        stream.write_all(text.as_bytes())?;
        text.clear();
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_its_owners_before_its_mode_could_be_changed() {
        let path = std::env::temp_dir().join(format!("ptth-private-{}", std::process::id()));
        let listener = listen_privately(&path).unwrap();
        let mode = std::fs::symlink_metadata(&path).unwrap().permissions().mode();
        std::fs::remove_file(&path).unwrap();
        drop(listener);
        assert_eq!(mode & 0o777, 0o600);
    }
}
