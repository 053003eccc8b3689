//! A program asks devices that are connected to other gateways.

use std::io::{Read, Write};
use std::time::Duration;

use http::{HeaderValue, Request, Response};
use reverse_http::{
    Body, Cancel, Device, DeviceHandle, ErrorKind, Gateway, Peers, Upgraded, upgrade,
};

/// Two gateways: devices come to the second, and the program asks the first.
fn both() -> (Gateway, Gateway) {
    let second = crate::support::gateway().peers(Peers::found_by(|_| Ok(None)));
    let second = second.listen("127.0.0.1:0").start().unwrap();
    let url = format!("http://{}", second.listen_peers("127.0.0.1:0").unwrap());
    let there = move |name: &str| Ok((name != "nobody").then(|| url.clone()));
    let first = crate::support::gateway().peers(Peers::found_by(there));
    (first.listen("127.0.0.1:0").start().unwrap(), second)
}

fn device<R: reverse_http::IntoResponse>(
    gateway: &Gateway,
    handler: impl Fn(Request<Body>) -> R + Send + Sync + 'static,
) -> DeviceHandle {
    let url = format!("http://{}/lamp", gateway.devices_addr());
    let device = Device::builder(url).build().unwrap().spawn(handler).unwrap();
    gateway.device("lamp").wait_connected(Duration::from_secs(20)).unwrap();
    device
}

#[test]
fn a_program_asks_devices_of_other_gateways() {
    let (first, second) = both();
    let _device = device(&second, |request: Request<Body>| {
        let (parts, mut body) = request.into_parts();
        let text = body.read_to_text(10 << 20).unwrap();
        Response::new(Body::from(format!("{} {} {}", parts.method, parts.uri, text.len())))
    });
    let lamp = first.device("lamp");
    let ask = |request: Request<Body>| {
        lamp.send(request).unwrap().into_body().read_to_text(1000).unwrap()
    };
    for _ in 0..3 {
        assert_eq!(ask(Request::get("/x?y").body(Body::empty()).unwrap()), "GET /x?y 0");
    }
    let long = "x".repeat(1 << 20);
    assert_eq!(
        ask(Request::post("/up").body(Body::from(long.clone())).unwrap()),
        "POST /up 1048576"
    );
    let stream = Body::from_reader(std::io::Cursor::new(long));
    assert_eq!(ask(Request::put("/up").body(stream).unwrap()), "PUT /up 1048576");
    assert_eq!(second.stats().hops_served, 5);
    let unknown = first.device("nobody").send(Request::get("/").body(Body::empty()).unwrap());
    assert_eq!(unknown.unwrap_err().kind(), ErrorKind::Unknown);
}

#[test]
fn a_program_upgrades_and_cancels_over_a_hop() {
    let (first, second) = both();
    let _device = device(&second, |request: Request<Body>| match request.uri().path() {
        "/chat" => upgrade(HeaderValue::from_static("chat"), |mut stream: Upgraded| {
            let mut said = [0; 5];
            stream.read_exact(&mut said).unwrap();
            stream.write_all(&said).unwrap();
        }),
        _ => {
            std::thread::sleep(Duration::from_millis(300));
            Response::new(Body::from("late"))
        }
    });
    let offer = Request::get("/chat").header("Upgrade", "chat").header("Connection", "Upgrade");
    let mut response = first.device("lamp").send(offer.body(Body::empty()).unwrap()).unwrap();
    assert_eq!(response.status(), 101);
    let mut stream = Upgraded::from_response(&mut response).unwrap();
    stream.write_all(b"hello").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "hello");
    let cancel = Cancel::new();
    let lamp = first.device("lamp").cancel_with(&cancel);
    let asking =
        std::thread::spawn(move || lamp.send(Request::get("/").body(Body::empty()).unwrap()));
    crate::support::eventually("it is there", || (second.stats().hops_served == 2).then_some(()));
    cancel.cancel();
    assert_eq!(asking.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
}
