//! A server in the place of Redis that sends answers without an end: none of it is kept.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use crate::cluster::{Cluster, device, peers_of};
use crate::support::{Gateway, LocalServer, eventually};

/// What it says to every command: how that begins, and what goes on for ever.
const ANSWERS: [(&str, &str, &str); 7] = [
    ("$536870912\r\n", "x", "longer than 1024 KiB"),
    ("$1048000\r\n", "x", "what answers there is no Redis"),
    ("*1000000000\r\n", ":1\r\n", "more than 65536 values"),
    ("*60000\r\n", "*1\r\n", "nested deeper than 8 levels"),
    ("*60000\r\n", "$20\r\n01234567890123456789\r\n", "longer than 1024 KiB"),
    ("+", "x", "longer than 1024 KiB"),
    ("", "HTTP/1.1 200 OK\r\n", "no Redis: it speaks HTTP"),
];

/// Sends the answer until the other side closes; returns how much of it was taken, in bytes.
fn flood(mut connection: TcpStream, begin: &str, rest: &str) -> usize {
    let mut command = [0; 4096];
    if connection.read(&mut command).unwrap_or(0) == 0 {
        return 0;
    }
    let chunk = rest.repeat(64 << 10 >> rest.len().ilog2());
    let mut sent = 0;
    let mut next = begin;
    while connection.write_all(next.as_bytes()).is_ok() {
        sent += next.len();
        next = &chunk;
        if sent > 1 << 30 {
            break; // it would never have ended
        }
    }
    sent
}

/// A server, the number of connections that have ended, and the most that one has taken.
struct Hostile {
    url: String,
    ended: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Hostile {
    fn start(begin: &'static str, rest: &'static str) -> Hostile {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}", server.local_addr().unwrap());
        let (ended, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counts = (ended.clone(), most.clone());
        std::thread::spawn(move || {
            for connection in server.incoming().flatten() {
                let (ended, most) = counts.clone();
                std::thread::spawn(move || {
                    most.fetch_max(flood(connection, begin, rest), SeqCst);
                    ended.fetch_add(1, SeqCst);
                });
            }
        });
        Hostile { url, ended, most }
    }
}

#[test]
fn an_answer_without_an_end_takes_no_memory_and_keeps_nobody_out() {
    let (cluster, local) = (Cluster::new(), LocalServer::start());
    let secret = cluster.path("secret");
    for (begin, rest, told) in ANSWERS {
        let hostile = Hostile::start(begin, rest);
        let options = ["--peers", "127.0.0.1:0", "--peer-secret", &secret];
        let gateway = Gateway::start(&[&options[..], &["--directory", &hostile.url]].concat());
        drop(peers_of(&gateway.process));
        let before = gateway.process.resident_kib();
        let _lamp = device(&gateway, "lamp", &local.url());
        gateway.process.expect_stderr(told);
        eventually("it has tried several times", || {
            (hostile.ended.load(SeqCst) >= 4).then_some(())
        });
        gateway.get("/lamp/x").expect_ok("hello\n");
        let grown = gateway.process.resident_kib().saturating_sub(before);
        assert!(grown < 32 << 10, "{begin:?}: {grown} KiB more");
        // What was sent and not read lies in the sockets' buffers.
        let most = hostile.most.load(SeqCst);
        assert!(most < 16 << 20, "{begin:?}: {most} bytes were taken");
    }
}
