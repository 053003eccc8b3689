//! A WebSocket from a gateway's program to a device, through `send()`; both ends speak tungstenite
//! over the plain blocking stream behind the 101.
#![allow(clippy::expect_used)] // a thread of an example that cannot go on ends it

use std::time::Duration;

use http::{HeaderValue, Request, Response, header};
use reverse_http::{Body, Device, Gateway, Upgraded, upgrade};
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

/// The device: answers each message, until the other side closes.
fn handler(request: Request<Body>) -> Response<Body> {
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY) else {
        return Response::new(Body::from("open a WebSocket here"));
    };
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).expect("base64");
    let mut response = upgrade("websocket", |stream| {
        let mut socket = WebSocket::from_raw_socket(stream, Role::Server, None);
        while let Ok(message) = socket.read() {
            if let Message::Text(text) = message {
                if socket.send(Message::text(format!("you said {text}"))).is_err() {
                    break;
                }
            }
        }
    });
    response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    let url = format!("http://{}/desk", gateway.devices_addr());
    let device = Device::builder(url).build()?.spawn(handler)?;
    let desk = gateway.device("desk");
    desk.wait_connected(Duration::from_secs(5))?;

    let key = generate_key();
    let offer = Request::get("/")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, &key)
        .body(Body::empty())?;
    let mut response = desk.send(offer)?;
    let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
    if accepted.is_none_or(|accept| *accept != *derive_accept_key(key.as_bytes())) {
        return Err("the device speaks no WebSocket".into());
    }
    let stream = Upgraded::from_response(&mut response).ok_or("no 101")?;
    let mut socket = WebSocket::from_raw_socket(stream, Role::Client, None);
    for word in ["one", "two", "three"] {
        socket.send(Message::text(word))?;
        println!("{}", socket.read()?.into_text()?);
    }
    socket.close(None)?;
    while socket.read().is_ok() {} // until the other side has closed, too
    device.stop();
    Ok(())
}
