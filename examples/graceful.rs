//! An orderly stop: what is in progress may finish, nothing new begins, and whoever holds an open
//! connection is told first. A real program waits for a signal where this one waits for a channel
//! (`signal_hook::iterator::Signals`, say, on a thread that sends).
#![allow(clippy::expect_used)] // a thread of an example that cannot go on ends it

use std::io::{Read, Write};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use http::{Request, Response, header};
use reverse_http::{Body, Device, Gateway, Upgraded, upgrade};

fn handler(request: Request<Body>) -> Response<Body> {
    if request.headers().contains_key(header::UPGRADE) {
        return upgrade("chat", |mut stream| {
            let _ = stream.write_all(b"hello").and_then(|()| stream.read_to_end(&mut Vec::new()));
        });
    }
    thread::sleep(Duration::from_millis(300)); // some work
    Response::new(Body::from("done"))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    let url = format!("http://{}/worker", gateway.devices_addr());
    let device = Device::builder(url).build()?.spawn(handler)?;
    let worker = gateway.device("worker");
    worker.wait_connected(Duration::from_secs(5))?;

    // An open connection, whose owner is told that it ends.
    let offer = Request::get("/chat").header(header::UPGRADE, "chat").body(Body::empty())?;
    let mut chat = Upgraded::from_response(&mut worker.send(offer)?).ok_or("no chat")?;
    let stopping = chat.stopping();
    let chatting = thread::spawn(move || {
        let mut hello = [0; 5];
        chat.read_exact(&mut hello).expect("it said hello");
        assert!(stopping.wait(), "the gateway stops");
        println!("the chat says goodbye");
        drop(chat);
    });
    // A request in progress.
    let (begun, begins) = mpsc::channel();
    let asking = thread::spawn(move || {
        let request = Request::get("/work").body(Body::empty()).expect("a request");
        begun.send(()).expect("somebody waits");
        worker.send(request).map(|response| response.into_body().read_to_text(100))
    });
    begins.recv()?;
    thread::sleep(Duration::from_millis(100)); // it is on its way

    // "Ctrl-C": at most 5 s for what is in progress.
    let since = Instant::now();
    gateway.drain(Duration::from_secs(5));
    println!("the work said {:?}", asking.join().expect("no panic")??);
    chatting.join().expect("no panic");
    println!("the gateway stopped after {} ms", since.elapsed().as_millis());
    device.stop();
    Ok(())
}
