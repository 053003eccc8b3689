//! A device at the end of a serial line, without a network: the line turns as a connection does, and
//! carries one request after another. A pseudo-terminal stands for the line (`/dev/ttyS0`, say).

use std::io::{self, Read, Write};
use std::{fs::File, os::fd::OwnedFd, sync::Arc, time::Duration};

use http::{Request, Response};
use reverse_http::link::{self, Offered};
use reverse_http::proto::{dialect::Dialect, turn::OfferPlan};
use reverse_http::{Body, Error, stream::TimedStream};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::{pty, termios};

/// One end. Terminals have no time-outs of the kind that sockets have, so a read waits in `poll`.
struct Serial(File, Option<Duration>);

/// Raw: every byte passes as it is, without echo.
fn raw(terminal: OwnedFd) -> io::Result<Serial> {
    let mut modes = termios::tcgetattr(&terminal)?;
    modes.make_raw();
    termios::tcsetattr(&terminal, termios::OptionalActions::Now, &modes)?;
    Ok(Serial(File::from(terminal), None))
}

impl Read for Serial {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let time = self.1.map(TryInto::try_into).transpose().map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], time.as_ref())? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => self.0.read(buf),
        }
    }
}

impl Write for Serial {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TimedStream for Serial {
    fn limit_read(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.1 = time;
        Ok(())
    }
    fn limit_write(&mut self, _: Option<Duration>) -> io::Result<()> {
        Ok(()) // a line without flow control takes every byte in time
    }
}

/// The small machine: offers to turn, then answers.
fn meter(line: Serial) -> Result<(), Error> {
    let plan = OfferPlan::new("pc", "/meter", Dialect::classic());
    let Offered::Turned(mut link) = link::offer(line, &plan, Arc::default())? else {
        return Ok(());
    };
    while let Some(request) = link.next_request()? {
        link.respond(Response::new(Body::from(format!("21.5 °C in {}", request.uri()))))?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let one = pty::openpt(pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY)?;
    pty::grantpt(&one)?;
    pty::unlockpt(&one)?;
    let name = pty::ptsname(&one, Vec::new())?.into_string()?;
    let other = raw(File::options().read(true).write(true).open(name)?.into())?;
    std::thread::spawn(move || meter(other)); // until the other end closes
    let (mut link, offer) = link::accept(raw(one)?, &Default::default(), Default::default())?;
    for path in ["/cellar", "/attic"] {
        let mut body = link.ask(Request::get(path).body(Body::empty())?)?.into_body();
        println!("{}: {}", offer.names[0], body.read_to_text(1000)?);
    }
    Ok(())
}
