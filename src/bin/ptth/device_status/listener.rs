//! The listener of `ptth device --status ADDR`: one short answer for each connection.
//!
//! A silent client cannot lock others out: each connection has a thread and one deadline, and when
//! there are more than a few, the oldest is closed. A web page that connects here by DNS rebinding
//! sends a host that is not this machine's, and gets 421.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reverse_http::Limits;
use reverse_http::proto::head::{self, LineEnds, RequestHead};
use reverse_http::proto::head_writer;
use reverse_http::proto::rebinding;

/// The deadline of a connection.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Longest request head, in bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Connections at once.
const CONNECTIONS_MAX: usize = 16;

/// The content type of all answers except the state.
const TEXT: &str = "text/plain; charset=utf-8";

/// The answer: whether the device is connected, and the state in JSON.
pub(super) type Told = (bool, String);

/// The connections in progress, the oldest in front.
type Connections = Arc<Mutex<VecDeque<Arc<TcpStream>>>>;

/// Answers on a separate thread, as long as the process runs.
///
/// # Errors
/// There is no thread for it.
pub(super) fn start(
    listener: TcpListener,
    tell: impl Fn() -> Told + Send + Sync + 'static,
) -> io::Result<()> {
    let (tell, connections) = (Arc::new(tell), Connections::default());
    let accept = move || {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) => serve(Arc::new(stream), &connections, &tell),
                // No descriptor is left, most likely.
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    };
    std::thread::Builder::new().name("ptth-status".to_owned()).spawn(accept).map(drop)
}

fn serve<T>(stream: Arc<TcpStream>, connections: &Connections, tell: &Arc<T>)
where
    T: Fn() -> Told + Send + Sync + 'static,
{
    {
        let mut all = connections.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= CONNECTIONS_MAX {
            if let Some(oldest) = all.pop_front() {
                let _ = oldest.shutdown(Shutdown::Both); // it may have ended already
            }
        }
        all.push_back(stream.clone());
    }
    let (connections, tell) = (connections.clone(), tell.clone());
    let peer = stream.clone();
    let job = move || {
        let _ = answer(&peer, &*tell); // the client has left
        let mut all = connections.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| !Arc::ptr_eq(other, &peer));
    };
    let spawned = std::thread::Builder::new().name("ptth-status-peer".to_owned()).spawn(job);
    if let Err(e) = spawned {
        log::warn!("--status: a connection was closed: no thread could be started: {e}");
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// One request, whatever its path.
fn answer(mut stream: &TcpStream, tell: &impl Fn() -> Told) -> io::Result<()> {
    let end = Instant::now() + TIMEOUT;
    let mut limits = Limits::default();
    limits.head_bytes_max = HEAD_BYTES_MAX;
    let (mut bytes, mut piece) = (Vec::new(), [0; 1024]);
    let (status, kind, to_head, body) = loop {
        match head::request(&bytes, &limits, LineEnds::CrlfOrLf) {
            Ok(Some(request)) if !is_for_us(&request) => {
                let text =
                    "the status is told under localhost and addresses alone (DNS rebinding)\n";
                break (421, TEXT, request.method == "HEAD", text.to_owned());
            }
            Ok(Some(request)) => {
                let (connected, text) = tell();
                let status = if connected { 200 } else { 503 };
                break (status, "application/json", request.method == "HEAD", text);
            }
            Err(refusal) => {
                break (refusal.status, TEXT, false, format!("{}\n", refusal.reason));
            }
            Ok(None) => {}
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            n => bytes.extend_from_slice(&piece[..n]),
        }
    };
    stream.set_write_timeout(Some(TIMEOUT))?;
    let phrase = head_writer::reason_phrase(status);
    write!(
        stream,
        "HTTP/1.1 {status} {phrase}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n{}",
        body.len(),
        if to_head { "" } else { &body }
    )
}

/// Returns true if the request's host is this machine. Health checks in HTTP/1.0 may have none; a
/// browser sends one.
fn is_for_us(request: &RequestHead<'_>) -> bool {
    request.fields.all("Host").all(rebinding::is_local)
}
