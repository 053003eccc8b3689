//! The tap between two hops, and the local server behind them.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::super::{head_of, whole};
use super::{Plan, lock};
use crate::support::DEADLINE;
use crate::support::raw::find;

// ── The tap ──

/// What went over one connection since the last case.
#[derive(Clone, Debug, Default)]
pub(super) struct Wire {
    /// What the device wrote, and what the gateway wrote.
    pub(super) device: Vec<u8>,
    pub(super) gateway: Vec<u8>,
    pub(super) device_ended: bool,
    pub(super) gateway_ended: bool,
}

/// A relay of bytes between the device and the gateway's port for devices; it keeps all of them.
pub(super) struct Tap {
    pub(super) addr: SocketAddr,
    pub(super) wires: Arc<Mutex<Vec<Wire>>>,
}

impl Tap {
    /// It ends with the test's process.
    pub(super) fn start(gateway: SocketAddr) -> Tap {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tap = Tap { addr: listener.local_addr().unwrap(), wires: Arc::default() };
        let wires = tap.wires.clone();
        std::thread::spawn(move || {
            for device in listener.incoming().flatten() {
                let Ok(gateway) = TcpStream::connect_timeout(&gateway, DEADLINE) else { continue };
                let number = {
                    let mut wires = lock(&wires);
                    wires.push(Wire::default());
                    wires.len() - 1
                };
                let pairs = [(&device, &gateway, true), (&gateway, &device, false)];
                for (from, to, device) in pairs {
                    let (from, to, wires) =
                        (from.try_clone().unwrap(), to.try_clone().unwrap(), wires.clone());
                    let _ = (from.set_nodelay(true), to.set_nodelay(true)); // of a connection that may be over
                    std::thread::spawn(move || carry(from, to, &wires, number, device));
                }
            }
        });
        tap
    }

    /// What went over each connection since the last call.
    pub(super) fn take(&self) -> Vec<Wire> {
        let mut wires = lock(&self.wires);
        let taken = wires.clone();
        for wire in wires.iter_mut() {
            (wire.device, wire.gateway) = (Vec::new(), Vec::new());
        }
        taken
    }
}

/// Keeps each piece before it goes on: what has had an effect is in the record.
fn carry(
    mut from: TcpStream,
    mut to: TcpStream,
    wires: &Mutex<Vec<Wire>>,
    number: usize,
    device: bool,
) {
    let mut buffer = [0; 1 << 16];
    loop {
        let n = from.read(&mut buffer).unwrap_or(0);
        {
            let wire = &mut lock(wires)[number];
            match (n, device) {
                (0, true) => wire.device_ended = true,
                (0, false) => wire.gateway_ended = true,
                (n, true) => wire.device.extend_from_slice(&buffer[..n]),
                (n, false) => wire.gateway.extend_from_slice(&buffer[..n]),
            }
        }
        if n == 0 || to.write_all(&buffer[..n]).is_err() {
            let _ = to.shutdown(Shutdown::Write); // it may be closed already
            let _ = from.shutdown(Shutdown::Read);
            return;
        }
    }
}

// ── The local server ──

/// What the local server was asked since the last case.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    /// Whole requests, one after the other, in the order in which they came.
    pub(super) bytes: Vec<u8>,
    pub(super) count: usize,
    /// The beginning of a request that was not whole when its connection ended.
    pub(super) cut: Vec<u8>,
}

/// Answers as each request's `X-Plan` says.
pub(super) struct Local {
    pub(super) addr: SocketAddr,
    pub(super) asked: Arc<Mutex<Asked>>,
}

impl Local {
    pub(super) fn start() -> Local {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = Local { addr: listener.local_addr().unwrap(), asked: Arc::default() };
        let asked = local.asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let asked = asked.clone();
                std::thread::spawn(move || serve(stream, &asked));
            }
        });
        local
    }

    pub(super) fn take(&self) -> Asked {
        std::mem::take(&mut lock(&self.asked))
    }
}

/// The request without the device's own `Connection: close`, the last line of a head that has it:
/// the requests of all connections are read as one stream, which does not end there.
fn going_on(request: &[u8]) -> Vec<u8> {
    const CLOSE: &[u8] = b"\r\nConnection: close";
    let head = find(request, b"\r\n\r\n").unwrap_or(request.len());
    let (head, rest) = request.split_at(head);
    [head.strip_suffix(CLOSE).unwrap_or(head), rest].concat()
}

fn serve(mut stream: TcpStream, asked: &Mutex<Asked>) {
    let mut buffer = [0; 1 << 16];
    let (mut unread, mut continued) = (Vec::new(), false);
    let _ = stream.set_nodelay(true); // of a connection that may be over
    loop {
        if let Some(len) = whole(&unread) {
            let request: Vec<u8> = unread.drain(..len).collect();
            {
                let mut asked = lock(asked);
                asked.bytes.extend(going_on(&request));
                asked.count += 1;
            }
            let plan = Plan::of(&request);
            if stream.write_all(&plan.bytes()).is_err() || plan.closes() {
                let _ = stream.shutdown(Shutdown::Write); // the device has what it was told
                return;
            }
            continued = false;
            continue;
        }
        let expects = |(head, _): (String, usize)| {
            head.to_ascii_lowercase().contains("\r\nexpect: 100-continue")
        };
        if !continued && head_of(&unread).is_some_and(expects) {
            continued = true;
            let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n"); // a device that has gone is noticed below
        }
        match stream.read(&mut buffer) {
            Ok(n @ 1..) => unread.extend_from_slice(&buffer[..n]),
            _ => {
                lock(asked).cut.extend(unread);
                return;
            }
        }
    }
}
