//! The smallest whole: a device with a handler, a gateway, and a program there that asks. In life
//! the device is another program, behind NAT; only the URL tells it where its gateway is.

use std::time::Duration;

use http::{Request, StatusCode};
use reverse_http::{Body, Device, Gateway};

/// What a handler returns becomes a response: text, a status, a `Result` of these.
fn lamp(request: Request<Body>) -> Result<&'static str, StatusCode> {
    match request.uri().path() {
        "/status" => Ok("on"),
        _ => Err(StatusCode::NOT_FOUND),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;

    let url = format!("http://{}/lamp", gateway.devices_addr());
    let device = Device::builder(url).build()?.spawn(lamp)?;

    let lamp = gateway.device("lamp");
    lamp.wait_connected(Duration::from_secs(5))?;
    for path in ["/status", "/colour"] {
        let response = lamp.send(Request::get(path).body(Body::empty())?)?;
        let status = response.status();
        println!("{path}: {status} {:?}", response.into_body().read_to_text(1000)?);
    }
    device.stop();
    Ok(())
}
