//! A device for machines with little flash and memory (docs/embedded.md): two links, one handler,
//! small stacks, no logger, no file written. It ends with its standard input.
//!
//!     cargo run --profile small -p embedded-device -- http://gw.example:9999/lamp
//!     cargo run --profile small -p embedded-device --features tls -- https://gw.example:9999/lamp ca.pem

use std::error::Error;
use std::io::Read;

use http::{Request, StatusCode};
use reverse_http::{Body, Device, DeviceHandle, Limits};

fn lamp(request: Request<Body>) -> Result<&'static str, StatusCode> {
    match request.uri().path() {
        "/status" => Ok("on\n"),
        _ => Err(StatusCode::NOT_FOUND),
    }
}

fn start(url: &str, ca: Option<&str>) -> Result<DeviceHandle, Box<dyn Error>> {
    let mut limits = Limits::default();
    limits.handlers_max = 2; // threads of the handler
    let device = Device::builder(url).links(2..=4).limits(limits);
    #[cfg(feature = "tls")]
    let device = match ca {
        Some(ca) => device.tls(reverse_http::tls::DeviceTls::new().ca(std::fs::read(ca)?)?),
        None => device,
    };
    #[cfg(not(feature = "tls"))]
    if ca.is_some() {
        return Err("a CA is for https://, which is built with --features tls".into());
    }
    Ok(device.build()?.spawn(lamp)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("usage: embedded-device URL [CA.pem]")?;
    let device = start(&url, arguments.next().as_deref())?;
    let _ = std::io::stdin().read(&mut [0]); // until its end, or a line
    device.stop();
    Ok(())
}
