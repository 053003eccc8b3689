//! The handle on a running device.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;

use crate::close_reason::CloseCounts;
use crate::device::command::Command;
use crate::device::counters::Counters;
use crate::device::group::LoopGroup;
use crate::engine::loop_threads::LoopThreads;
use crate::error::{Error, Fault};
use crate::proto::turn::Transport;
#[cfg(feature = "tls")]
use crate::tls::{DeviceTls, LocalTls};

/// Counters of a device, for all its gateways together.
///
/// ```
/// use std::time::Duration;
/// use reverse_http::{Body, Device, Gateway, Transport};
///
/// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
/// let device = Device::builder(format!("http://{}/lamp", gateway.devices_addr())).build()?;
/// let events = device.events();
/// let running = device.spawn(|_| http::Response::new(Body::empty()))?;
/// events.recv_timeout(Duration::from_secs(5))?;
/// assert_eq!((running.stats().transport, running.stats().exchanges), (Some(Transport::Turn), 0));
/// # running.stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceStats {
    /// The transport of the first of its gateways that is connected; `None`: no gateway is
    /// connected.
    pub transport: Option<Transport>,
    /// Current links.
    pub links: usize,
    /// Current polls, including those with a request in progress.
    pub polls: usize,
    /// Links with a request in progress.
    pub busy: usize,
    /// Connections that are about to become links.
    pub dialing: usize,
    /// Requests received since the start.
    pub exchanges: u64,
    /// Links that were closed since the start, by cause.
    pub closed: CloseCounts,
}

/// A handle on a running device. Clones refer to the same device; when the last of them is dropped,
/// the device is stopped, as by [`stop`](Self::stop).
///
/// ```
/// use std::time::Duration;
/// use reverse_http::{Body, Device, Gateway};
///
/// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
/// let device = Device::builder(format!("http://{}/lamp", gateway.devices_addr())).build()?;
/// let running = device.spawn(|_| http::Response::new(Body::from("on")))?;
/// gateway.device("lamp").wait_connected(Duration::from_secs(5))?;
/// println!("{} links", running.stats().links);
///
/// running.drain(Duration::from_secs(5)); // requests in progress may finish
/// running.wait()?; // it has ended
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "a device is stopped when the last of its handles is dropped"]
pub struct DeviceHandle(pub(super) Arc<Running>);

pub(super) struct Running {
    pub(super) group: Arc<LoopGroup>,
    pub(super) shared: Vec<Arc<Counters>>,
    pub(super) threads: LoopThreads,
    /// At least one gateway is dialled over TLS.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    pub(super) secure: bool,
    /// At least one local server is reached over TLS.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    pub(super) local_secure: bool,
}

impl fmt::Debug for DeviceHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceHandle").field("stats", &self.stats()).finish()
    }
}

impl DeviceHandle {
    /// Stops the device at once and cuts requests in progress. Returns when its connections have
    /// ended.
    ///
    /// Running handlers are not interrupted: they may still be at work when this returns; their
    /// responses are dropped. If a program needs to know when a handler has ended, the handler has
    /// to signal it.
    pub fn stop(&self) {
        self.drain(Duration::ZERO);
    }

    /// Accepts nothing new, lets requests in progress finish within `time`, then stops. Returns
    /// when its connections have ended; handlers that take longer keep running, as with
    /// [`stop`](Self::stop).
    pub fn drain(&self, time: Duration) {
        self.0.group.send(|| Command::Drain(time));
        self.0.join();
    }

    /// Waits until every event loop of the device (one for each gateway) has completed a turn. This
    /// is for supervisors.
    ///
    /// # Errors
    /// An event loop has not within `time`; the device has ended.
    pub fn ping(&self, time: Duration) -> Result<(), Error> {
        let (reply, answers) = crossbeam_channel::unbounded();
        let asked = self.0.group.send(|| Command::Ping(reply.clone()));
        drop(reply);
        if asked == 0 {
            return Err(over());
        }
        let end = std::time::Instant::now().checked_add(time);
        let mut turns = 0;
        for _ in 0..asked {
            let answer = match end {
                Some(end) => answers.recv_deadline(end),
                None => answers.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match answer {
                Ok(()) => turns += 1,
                Err(RecvTimeoutError::Disconnected) => break, // the others ended meanwhile
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Error::timeout(
                        Fault::Device,
                        format!("the device's event loop made no turn within {time:?}"),
                    ));
                }
            }
        }
        if turns == 0 { Err(over()) } else { Ok(()) }
    }

    /// Replaces the verification of gateways and the device's own certificate (feature `tls`), for
    /// a renewed certificate or another CA. This takes effect at the next dial. Connections stay,
    /// but sessions that began before are not resumed.
    ///
    /// # Errors
    /// No gateway of this device is at `https://`; the system has no root certificates; the device
    /// has ended.
    #[cfg(feature = "tls")]
    pub fn set_tls(&self, tls: DeviceTls) -> Result<(), Error> {
        if !self.0.secure {
            return Err(Error::usage(
                "this device has no gateway at https://, so there is no TLS to replace",
            ));
        }
        let connector = Arc::new(tls.connector()?);
        match self.0.group.send(|| Command::SetTls(connector.clone())) {
            0 => Err(over()),
            _ => Ok(()),
        }
    }

    /// Replaces the verification of the local server (feature `tls`). This takes effect at the next
    /// connection: exchanges in progress continue, but older connections are not used for further
    /// requests.
    ///
    /// # Errors
    /// This device does not forward to a server at `https://`; the settings cannot work; the system
    /// has no root certificates; the device has ended.
    #[cfg(feature = "tls")]
    pub fn set_local_tls(&self, tls: LocalTls) -> Result<(), Error> {
        if !self.0.local_secure {
            return Err(Error::usage(
                "this device forwards to no server at https://, so there is no TLS to replace",
            ));
        }
        let connector = Arc::new(tls.connector()?);
        match self.0.group.send(|| Command::SetLocalTls(connector.clone())) {
            0 => Err(over()),
            _ => Ok(()),
        }
    }

    /// Dials at once, whatever the back-off or a gateway's `Retry-After` says.
    pub fn retry_now(&self) {
        self.0.group.send(|| Command::Retry);
    }

    /// Waits until the device has ended because it was stopped, was refused, or has used up its
    /// retries. Every call, on any thread, returns the same.
    ///
    /// # Errors
    /// The gateway, or each of several, refused the first offer
    /// ([`OnRefusal::Stop`](crate::OnRefusal::Stop));
    /// [`max_retries`](crate::DeviceBuilder::max_retries) attempts failed.
    pub fn wait(&self) -> Result<(), Error> {
        self.0.join();
        self.0.group.outcome().map_or(Ok(()), Err)
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> DeviceStats {
        let sum =
            |count: fn(&Counters) -> usize| self.0.shared.iter().map(|shared| count(shared)).sum();
        DeviceStats {
            transport: self.0.shared.iter().find_map(|shared| shared.transport()),
            links: sum(|shared| shared.links.load(Relaxed)),
            polls: sum(|shared| shared.polls.load(Relaxed)),
            busy: sum(|shared| shared.busy.load(Relaxed)),
            dialing: sum(|shared| shared.dialing.load(Relaxed)),
            exchanges: self.0.shared.iter().map(|shared| shared.exchanges.load(Relaxed)).sum(),
            closed: CloseCounts::sum(self.0.shared.iter().map(|shared| shared.closed.read())),
        }
    }

    pub(super) fn ended(&self) -> Error {
        self.0.group.outcome().unwrap_or_else(|| Error::stopped("this device was stopped"))
    }
}

fn over() -> Error {
    Error::stopped("this device has ended")
}

impl Running {
    /// Waits for the event loops, unless this runs on one of their threads.
    fn join(&self) {
        if !self.threads.join() {
            self.group.fail(Error::stopped("the device's event loop panicked; please report it"));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.group.send(|| Command::Drain(Duration::ZERO));
        self.join();
    }
}

/// Ends the device when no handle is left that could take its requests.
#[derive(Debug)]
pub(super) struct StopOnDrop(pub(super) DeviceHandle);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.0.group.send(|| Command::Drain(Duration::ZERO));
    }
}
