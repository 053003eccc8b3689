//! Turns a connection over a Unix socket pair and asks over it: layers 1 and 2 alone, without
//! gateway, device or event loop.
//!
//!     cargo run --example unix_pair
//!
//! The library starts no thread here; the one thread beside `main` is this example's own and plays
//! the device.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use http::{Request, Response};
use reverse_http::link::{self, Offered};
use reverse_http::proto::dialect::Dialect;
use reverse_http::proto::turn::{OfferPlan, OfferRules};
use reverse_http::stream::TimedStream;
use reverse_http::{Body, Limits};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Result<()> {
    let (gateway_end, device_end) = UnixStream::pair()?;
    let device = thread::spawn(move || device(device_end));
    gateway(Shown(gateway_end))?;
    device.join().map_err(|_| "the device panicked")?
}

/// Dials out (here: has the other end of the pair), offers, and from the turn on is the HTTP
/// server.
fn device(stream: UnixStream) -> Result<()> {
    let plan = OfferPlan::new("gw.example", "/lamp", Dialect::classic());
    let Offered::Turned(mut link) = link::offer(stream, &plan, Arc::new(Limits::default()))? else {
        return Err("the gateway did not turn the connection".into());
    };
    while let Some(request) = link.next_request()? {
        let response = match request.uri().path() {
            "/status" => Response::new(Body::from("on\n")),
            // The request's own body, streamed back.
            _ => Response::new(request.into_body()),
        };
        link.respond(response)?;
    }
    Ok(())
}

/// Accepts, turns the connection, and from then on is the HTTP client.
fn gateway(stream: Shown) -> Result<()> {
    let (mut link, offer) =
        link::accept(stream, &OfferRules::default(), Arc::new(Limits::default()))?;
    println!("\n-- turned: {} is the server from here on --\n", offer.names[0]);

    let response = link.ask(Request::get("/status").body(Body::empty())?)?;
    let status = response.into_body().read_to_text(1024)?;
    let response = link.ask(Request::post("/echo").body(Body::from("hello\n"))?)?;
    let echo = response.into_body().read_to_text(1024)?;

    println!("\n-- the lamp is {}, and says {} --", status.trim_end(), echo.trim_end());
    if (status.as_str(), echo.as_str()) != ("on\n", "hello\n") {
        return Err("the device answered something else".into());
    }
    Ok(())
}

/// A stream that prints what goes over it, as an example of a transport of one's own.
struct Shown(UnixStream);

fn show(who: &str, bytes: &[u8]) {
    for line in String::from_utf8_lossy(bytes).lines() {
        println!("{who:>7}  {line}");
    }
}

impl Read for Shown {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(buf)?;
        show("device", &buf[..n]);
        Ok(n)
    }
}

impl Write for Shown {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.0.write(buf)?;
        show("gateway", &buf[..n]);
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl TimedStream for Shown {
    fn limit_read(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(time)
    }
    fn limit_write(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.0.set_write_timeout(time)
    }
}
