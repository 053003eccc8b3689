//! A firmware update over a connection that breaks: the gateway asks how much the device has, sends
//! the rest, and shows its progress (`Body::with_progress`).
#![allow(clippy::expect_used)] // a thread of an example that cannot go on ends it

use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, StatusCode};
use reverse_http::{Body, Device, DeviceRef, Gateway, Progress};

/// The device: `GET` says how many bytes it has, `PUT` adds to them from the byte that
/// `Content-Range` names. The first `PUT` fails half-way.
fn device(mut request: Request<Body>, flash: &Mutex<Vec<u8>>) -> Result<String, StatusCode> {
    let mut flash = flash.lock().expect("no panic");
    if request.method() == "PUT" {
        let range = request.headers().get("Content-Range").and_then(|range| range.to_str().ok());
        if !range.is_some_and(|range| range.starts_with(&format!("bytes {}-", flash.len()))) {
            return Err(StatusCode::CONFLICT); // it would leave a hole, or come twice
        }
        let most = if flash.is_empty() { 2_000_000 } else { u64::MAX };
        let read = request.body_mut().take(most).read_to_end(&mut flash);
        if read.is_err() || most != u64::MAX {
            return Err(StatusCode::SERVICE_UNAVAILABLE); // and the rest is not wanted
        }
    }
    Ok(flash.len().to_string())
}

fn stored(device: &DeviceRef) -> Result<usize, Box<dyn std::error::Error>> {
    let request = Request::get("/firmware").body(Body::empty())?;
    Ok(device.send(request)?.into_body().read_to_text(20)?.parse()?)
}

/// Prints each quarter of the image.
fn show(from: usize, whole: usize) -> impl FnMut(Progress) + Send + 'static {
    let mut shown = from * 4 / whole;
    move |now| {
        let sent = from + now.bytes as usize;
        if sent * 4 / whole > shown {
            shown = sent * 4 / whole;
            println!("{:3} % sent", sent * 100 / whole);
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    let flash: Arc<Mutex<Vec<u8>>> = Arc::default();
    let stores = flash.clone();
    let url = format!("http://{}/meter", gateway.devices_addr());
    let running = Device::builder(url).build()?.spawn(move |r| device(r, &stores))?;
    let meter = gateway.device("meter");
    meter.wait_connected(Duration::from_secs(5))?;

    let image: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 251) as u8).collect();
    let whole = image.len();
    for attempt in 1..=5 {
        let from = stored(&meter)?;
        if from == whole {
            break;
        }
        println!("attempt {attempt}, from byte {from} on");
        let body = Body::from(image[from..].to_vec()).with_progress(show(from, whole));
        let range = format!("bytes {from}-{}/{whole}", whole - 1);
        match meter.send(Request::put("/firmware").header("Content-Range", range).body(body)?) {
            Ok(response) => println!("the device answered {}", response.status()),
            Err(e) => println!("it broke: {e}"),
        }
    }
    assert!(*flash.lock().expect("no panic") == image, "every byte is there, once");
    running.stop();
    Ok(())
}
