//! A firmware update over a connection that breaks: the gateway asks how much the device has, sends
//! the rest, and shows its progress. A `Body` takes any reader, so progress is a reader that counts.
#![allow(clippy::expect_used)] // a thread of an example that cannot go on ends it

use std::io::{self, Cursor, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, StatusCode};
use reverse_http::{Body, Device, DeviceRef, Gateway};

/// Tells how much of a body has been read, which is how much was sent.
struct Progress<R> {
    inner: R,
    sent: usize,
    whole: usize,
}

impl<R: Read> Read for Progress<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        if self.sent * 4 / self.whole != (self.sent + n) * 4 / self.whole {
            println!("{:3} % sent", (self.sent + n) * 100 / self.whole);
        }
        self.sent += n;
        Ok(n)
    }
}

/// The device: `GET` says how many bytes it has, `PUT` adds to them. The first `PUT` fails half-way.
fn device(mut request: Request<Body>, flash: &Mutex<Vec<u8>>) -> Result<String, StatusCode> {
    let mut flash = flash.lock().expect("no panic");
    if request.method() == "PUT" {
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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    let flash: Arc<Mutex<Vec<u8>>> = Arc::default();
    let stores = flash.clone();
    let url = format!("http://{}/meter", gateway.devices_addr());
    let running = Device::builder(url).build()?.spawn(move |r| device(r, &stores))?;
    let meter = gateway.device("meter");
    meter.wait_connected(Duration::from_secs(5))?;

    let image: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 251) as u8).collect();
    for attempt in 1..=5 {
        let from = stored(&meter)?;
        if from == image.len() {
            break;
        }
        println!("attempt {attempt}, from byte {from} on");
        let rest = Cursor::new(image[from..].to_vec());
        let body = Progress { inner: rest, sent: from, whole: image.len() };
        let body = Body::from_reader_with_length(body, (image.len() - from) as u64);
        match meter.send(Request::put("/firmware").body(body)?) {
            Ok(response) => println!("the device answered {}", response.status()),
            Err(e) => println!("it broke: {e}"),
        }
    }
    assert!(*flash.lock().expect("no panic") == image, "every byte is there, once");
    running.stop();
    Ok(())
}
