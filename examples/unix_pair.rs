//! Turns a connection over a Unix socket pair and asks over it: layers 1 and 2 alone, without
//! gateway, device or event loop. The library starts no thread here; the one beside `main` is this
//! example's own and plays the device.

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
use reverse_http::{Body, Error};

/// Dials out (here: has the other end of the pair), offers, and from the turn on is the HTTP
/// server.
fn device(stream: UnixStream) -> Result<(), Error> {
    let plan = OfferPlan::new("gw.example", "/lamp", Dialect::classic());
    let Offered::Turned(mut link) = link::offer(stream, &plan, Arc::default())? else {
        return Ok(()); // another answer than 101
    };
    while let Some(request) = link.next_request()? {
        link.respond(match request.uri().path() {
            "/status" => Response::new(Body::from("on\n")),
            _ => Response::new(request.into_body()), // the request's own body, streamed back
        })?;
    }
    Ok(())
}

/// A stream that prints what goes over it, as an example of a transport of one's own.
struct Shown(UnixStream);

fn show(who: &str, bytes: &[u8]) {
    String::from_utf8_lossy(bytes).lines().for_each(|line| println!("{who:>7}  {line}"));
}

impl Read for Shown {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf).inspect(|n| show("device", &buf[..*n]))
    }
}

impl Write for Shown {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf).inspect(|n| show("gateway", &buf[..*n]))
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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (stream, other) = UnixStream::pair()?;
    let serving = thread::spawn(move || device(other));
    // Accepts, turns the connection, and from then on is the HTTP client.
    let (mut link, offer) = link::accept(Shown(stream), &OfferRules::default(), Arc::default())?;
    println!("-- turned: {} is the server from here on --", offer.names[0]);
    let status = link.ask(Request::get("/status").body(Body::empty())?)?;
    assert_eq!(status.into_body().read_to_text(1024)?, "on\n");
    let echo = link.ask(Request::post("/echo").body(Body::from("hello\n"))?)?;
    assert_eq!(echo.into_body().read_to_text(1024)?, "hello\n");
    drop(link); // by which the device sees the end
    serving.join().map_err(|_| "the device panicked")??;
    Ok(())
}
