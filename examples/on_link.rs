//! `on_link`: each device's connection goes to a function of the gateway's program, which asks over
//! it as long as it likes. For gateways that only ask, device by device, such as this collector.
#![allow(clippy::expect_used)] // a thread of an example that cannot go on ends it

use std::sync::mpsc;
use std::time::Duration;

use http::Request;
use reverse_http::{Body, Device, DeviceHandle, Gateway, GatewayLink, Tokens};

/// Asks a device twice, and says what it said. The link ends with this function; the device then
/// dials again, so a service would stay here in a loop.
fn collect(
    mut link: GatewayLink,
    readings: &mpsc::Sender<String>,
) -> Result<(), reverse_http::Error> {
    // The link knows whose it is.
    let who = format!("{} ({})", link.name().unwrap_or("?"), link.token().unwrap_or("no token"));
    for path in ["/temperature", "/humidity"] {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let text = link.ask(request)?.into_body().read_to_text(100)?;
        let _ = readings.send(format!("{who} {path}: {text}"));
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let lines = [
        Tokens::line_with("secret-1", "attic", None, Some("upstairs"))?,
        Tokens::line_with("secret-2", "cellar", None, Some("downstairs"))?,
    ];
    let (tell, readings) = mpsc::channel();
    let gateway = Gateway::builder()
        .listen("127.0.0.1:0")
        .tokens(Tokens::parse(&lines.join("\n"))?)
        .on_link(move |link| {
            if let Err(e) = collect(link, &tell) {
                println!("a link failed: {e}");
            }
        })
        .start()?;

    let mut devices: Vec<DeviceHandle> = Vec::new();
    for (name, token) in [("attic", "secret-1"), ("cellar", "secret-2")] {
        let url = format!("http://{}/{name}", gateway.devices_addr());
        let device = Device::builder(url).bearer_token(token).links(1..=1).build()?;
        devices.push(device.spawn(|request: Request<Body>| format!("{} is fine", request.uri()))?);
    }
    for _ in 0..4 {
        println!("{}", readings.recv_timeout(Duration::from_secs(10))?);
    }
    devices.iter().for_each(DeviceHandle::stop);
    Ok(())
}
