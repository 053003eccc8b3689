//! Local servers that stop half-way, with a bound of the device's own on that and without.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::support::process::get;
use crate::support::{DEADLINE, Gateway, LocalServer, Ptth, RawPeer};

/// A server that stops in the middle of each response until it is told to go on.
fn pausing() -> (LocalServer, std::sync::mpsc::Sender<()>) {
    let (go, goes) = channel::<()>();
    let goes = Mutex::new(goes);
    let server = LocalServer::with(move |c| {
        c.raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
        let _ = goes.lock().unwrap().recv_timeout(DEADLINE); // no word: the test is over
        c.raw("world");
    });
    (server, go)
}

#[test]
fn a_response_that_stops_is_cut_where_the_device_has_a_bound() {
    let ((local, go), gateway) = (pausing(), Gateway::start(&[]));
    let bound = ["--to", &local.url(), "--to-silence", "300ms"];
    let device = Ptth::device(&gateway, "lamp", &bound);
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    assert_eq!(visitor.read_head().status(), 200);
    assert_eq!(visitor.read_to_any_end().0, b"hello");
    device.expect_stderr("local_silence_timeout");
    // Without a bound it may take its time, as far as the gateway lets it.
    let _patient = Ptth::device(&gateway, "porch", &["--to", &local.url()]);
    go.send(()).unwrap(); // for the first response, whose server waits still
    let mut visitor = gateway.visitor();
    visitor.write(get("/porch/x"));
    assert_eq!(visitor.read_head().status(), 200);
    std::thread::sleep(Duration::from_millis(900)); // three times the other's bound
    go.send(()).unwrap();
    assert_eq!(visitor.read_exact(10), b"helloworld");
}

#[test]
fn what_the_visitor_is_slow_with_is_not_the_servers_silence() {
    let (local, gateway) = (LocalServer::start(), Gateway::start(&[]));
    let bound = ["--to", &local.url(), "--to-silence", "200ms", "--first-byte", "20s"];
    let _device = Ptth::device(&gateway, "lamp", &bound);
    let mut visitor = gateway.visitor();
    visitor.write("POST /lamp/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    std::thread::sleep(Duration::from_millis(700)); // more than three times the bound
    visitor.write("world");
    let answer = visitor.read_answer("POST");
    assert!(answer.status() == 200 && answer.body.ends_with(b"helloworld"), "{}", answer.text());
}

#[test]
fn a_server_that_takes_nothing_of_a_request_is_504_where_the_device_has_a_bound() {
    let listener = TcpListener::bind((crate::support::own_address(), 0)).unwrap();
    let to = format!("http://{}", listener.local_addr().unwrap());
    let gateway = Gateway::start(&[]);
    let _device = Ptth::device(&gateway, "lamp", &["--to", &to, "--to-silence", "300ms"]);
    let deaf = std::thread::spawn(move || RawPeer::adopt(listener.accept().unwrap().0, "deaf"));
    let socket = TcpStream::connect(gateway.visitors).unwrap();
    let mut writing = socket.try_clone().unwrap();
    let mut visitor = RawPeer::adopt(socket, "visitor");
    let length = 64 << 20; // more than all buffers on the way
    visitor.write(format!("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
    let writer = std::thread::spawn(move || {
        let piece = vec![b'x'; 1 << 20];
        // To the end of the connection, whose reset may come before all is written.
        (0..64).take_while(|_| writing.write_all(&piece).is_ok()).count()
    });
    let answer = visitor.read_answer("POST");
    assert_eq!(answer.status(), 504, "{}", answer.text());
    assert!(answer.text().contains("local_silence_timeout"), "{}", answer.text());
    drop((visitor, deaf.join().unwrap()));
    writer.join().unwrap();
}
