//! A test of time without waiting: a gateway and a device in this process, on a clock that the program
//! moves (`testing::pair`). A night passes, a connection is lost without a word, the gateway cannot be
//! reached for a while. In a project this stands in its tests.

use std::time::{Duration, Instant};

use http::Request;
use reverse_http::{Body, Device, DeviceEventKind, Gateway, testing};

const SECOND: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let began = Instant::now();
    let device = Device::builder("http://gateway/lamp").backoff(SECOND..30 * SECOND).build()?;
    let events = device.events();
    let pair = testing::pair(Gateway::builder(), &device, |_: Request<Body>| "on")?;
    let lamp = pair.gateway.device("lamp");
    let ask = || -> Result<String, Box<dyn std::error::Error>> {
        let mut response = lamp.send(Request::get("/").body(Body::empty())?)?;
        Ok(response.body_mut().read_to_text(100)?)
    };

    pair.advance(8 * 3600 * SECOND); // heartbeats keep its links
    println!("after the night: {}", ask()?);

    pair.stall()?; // as a router that was restarted
    pair.advance(40 * SECOND);
    assert!(pair.gateway.devices()?.is_empty(), "no heartbeat is answered");
    pair.advance(120 * SECOND); // the device has its own limit for silence
    println!("after the restart: {}", ask()?);

    pair.set_reachable(false);
    pair.disconnect();
    pair.advance(600 * SECOND);
    let failed = events.try_iter().filter(|event| event.kind == DeviceEventKind::Failed).count();
    assert!(pair.gateway.devices()?.is_empty() && failed > 10);
    pair.set_reachable(true);
    pair.advance(30 * SECOND); // its longest pause
    println!("after {failed} attempts in vain: {}", ask()?);

    println!("{:?} in {:?}", pair.elapsed(), began.elapsed());
    Ok(())
}
