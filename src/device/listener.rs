//! Accepts links in a program.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;

use crate::device::handle::StopOnDrop;
use crate::device::lease::Busy;
use crate::device::lease::Lease;
use crate::device::lease::LeaseGuard;
use crate::error::Error;
use crate::limits::Limits;
use crate::link::DeviceLink;
use crate::stream::{Stream, TimedStream};

/// Returns turned connections; see [`Device::listen`](crate::Device::listen).
///
/// ```
/// use std::time::Duration;
/// use reverse_http::{Body, Device, Gateway};
///
/// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
/// let url = format!("http://{}/lamp", gateway.devices_addr());
/// let listener = Device::builder(url).links(1..=1).build()?.listen()?;
/// std::thread::spawn(move || {
///     while let Ok(mut link) = listener.accept() {
///         while let Ok(Some(_request)) = link.next_request() {
///             link.respond(http::Response::new(Body::from("on"))).unwrap();
///         }
///     }
/// });
///
/// let lamp = gateway.device("lamp");
/// lamp.wait_connected(Duration::from_secs(5))?;
/// let response = lamp.send(http::Request::get("/").body(Body::empty()).unwrap())?;
/// assert_eq!(response.into_body().read_to_text(100)?, "on");
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "the device stops when its listener is dropped"]
pub struct Listener {
    pub(super) queue: Receiver<Lease>,
    pub(super) running: Arc<StopOnDrop>,
    pub(super) limits: Arc<Limits>,
}

impl Listener {
    /// Waits for the next turned connection. When that is dropped, the device dials another one if
    /// it needs one.
    ///
    /// # Errors
    /// The device was refused by the gateway, or was stopped.
    pub fn accept(&self) -> Result<DeviceLink<Accepted>, Error> {
        let Lease { stream, unread, mut guard, .. } =
            self.queue.recv().map_err(|_| self.running.0.ended())?;
        if !unread.is_empty() {
            guard.used();
        }
        let busy = guard.busy();
        Ok(DeviceLink::within(Accepted { stream, guard, _busy: busy }, unread, self.limits.clone()))
    }

    /// Stops the device, which ends all its links.
    pub fn stop(&self) {
        self.running.0.stop();
    }
}

/// The stream of a link that [`Listener::accept`] returned.
///
/// ```
/// use reverse_http::{Body, DeviceLink, Error, device::Accepted};
///
/// fn serve(mut link: DeviceLink<Accepted>) -> Result<(), Error> {
///     while let Some(request) = link.next_request()? {
///         link.respond(http::Response::new(Body::from(format!("{}\n", request.uri()))))?;
///     }
///     Ok(())
/// }
/// ```
pub struct Accepted {
    stream: Arc<Stream>,
    _busy: Busy, // dropped before the guard: the loop counts when it learns of the link's end
    guard: LeaseGuard,
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Accepted").field(&self.stream).finish()
    }
}

impl Read for Accepted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = (&*self.stream).read(buf)?;
        if n > 0 {
            self.guard.used();
        }
        Ok(n)
    }
}

impl Write for Accepted {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self.stream).write(buf)
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self.stream).write_vectored(bufs)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TimedStream for Accepted {
    fn limit_read(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(time)
    }
    fn limit_write(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.stream.set_write_timeout(time)
    }
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.stream.as_fd())
    }
    fn read_arrived(&mut self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        let read = self.stream.read_what_arrived(buf);
        if matches!(read, Some(Ok(1..))) {
            self.guard.used();
        }
        read
    }
    fn before_goaway(&mut self) {
        self.guard.says_goaway();
    }
    fn callers_wait(&mut self, callers: usize) {
        self.guard.callers_wait(callers);
    }
    fn half_close(&self) -> bool {
        self.stream.shutdown(Shutdown::Write).is_ok()
    }
    fn reset_when_dropped(&self) {
        self.stream.will_reset();
    }
}
