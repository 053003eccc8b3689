//! A `ureq::Agent` whose requests go to devices (feature `ureq`): ureq's own connector, resolver
//! and transport, over one end of a socket pair; the loop serves the other end like a visitor's
//! connection. So a link is used for one exchange, and is returned at a message boundary.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::sync::{Arc, PoisonError};

use crossbeam_channel::bounded;
use ureq::config::{Config, ConfigBuilder};
use ureq::middleware::{Middleware, MiddlewareNext};
use ureq::typestate::AgentScope;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, ShutdownHandle, Transport,
};

use crate::error::{Error, Fault};
use crate::gateway::handle::{Gateway, stopped};
use crate::gateway::leases::Lease;
use crate::gateway::state::Command;
use crate::link::CutError;
use crate::stream::Stream;

impl Gateway {
    /// An agent of [ureq](https://docs.rs/ureq/3) whose requests to `http://NAME/…` go to the
    /// device of that name, over links and polls alike (feature `ureq`). Everything else is as in
    /// ureq: its timeouts apply in addition to this gateway's [`Limits`](crate::Limits), and bodies
    /// are streamed.
    ///
    /// A device can redirect to itself only; a `Location` elsewhere is an error. If the gateway
    /// failed (because the device is unknown, say), `ureq::Error::Io` contains our [`Error`]. Each
    /// request takes a link, which goes back to its pool when the response has been read; the agent
    /// keeps none. When a timeout of ureq expires, the exchange keeps its link for up to
    /// [`Limits::abandoned_timeout`](crate::Limits::abandoned_timeout) (2 s), as the gateway cannot
    /// tell earlier that nobody waits.
    ///
    /// ```
    /// use reverse_http::{Device, Gateway};
    ///
    /// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    /// let url = format!("http://{}/lamp", gateway.devices_addr());
    /// let device = Device::builder(url).build()?.spawn(|_request| "on")?;
    /// gateway.device("lamp").wait_connected(std::time::Duration::from_secs(5))?;
    ///
    /// let agent = gateway.agent();
    /// let text = agent.get("http://lamp/status").call()?.body_mut().read_to_string()?;
    /// assert_eq!(text, "on");
    ///
    /// let error = agent.get("http://nobody/").call().unwrap_err();
    /// let ureq::Error::Io(error) = error else { panic!("{error}") };
    /// let ours = error.get_ref().and_then(|e| e.downcast_ref::<reverse_http::Error>()).unwrap();
    /// assert_eq!(ours.kind(), reverse_http::ErrorKind::Unknown);
    /// # device.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn agent(&self) -> ureq::Agent {
        self.agent_with(ureq::Agent::config_builder())
    }

    /// The same, with timeouts, redirects and headers from this configuration
    /// (`ureq::Agent::config_builder()`). Its proxy and ureq's own pool are not used.
    #[must_use]
    pub fn agent_with(&self, config: ConfigBuilder<AgentScope>) -> ureq::Agent {
        let config = config.proxy(None).max_idle_connections(0).middleware(OneDevice).build();
        ureq::Agent::with_parts(config, ToDevice(self.clone()), NoAddress)
    }

    /// One end of a connection on which requests to this device are served like a visitor's.
    fn open(&self, name: &str) -> Result<Lease, Error> {
        self.refuse_on_link("agent()")?;
        let device = self.device(name);
        device.check_name()?;
        let (reply, answer) = bounded(1);
        self.command(device.home(), Command::Open { name: name.to_owned(), reply })?;
        answer.recv().map_err(|_| stopped())?
    }
}

thread_local! {
    /// The device of the call that runs on this thread. ureq follows redirects within a call, and
    /// gives its connector only the next location.
    static CALLED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the redirects of a call with its device.
struct OneDevice;

impl Middleware for OneDevice {
    fn handle(
        &self,
        request: ureq::http::Request<ureq::SendBody<'_>>,
        next: MiddlewareNext<'_>,
    ) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let device = request.uri().host().map(str::to_ascii_lowercase);
        let _call = Call { before: CALLED.replace(device) };
        next.handle(request)
    }
}

/// A call on this thread; dropping it restores the call around it.
struct Call {
    before: Option<String>,
}

impl Drop for Call {
    fn drop(&mut self) {
        CALLED.set(self.before.take());
    }
}

/// No lookup is needed: the gateway knows its devices.
#[derive(Debug)]
struct NoAddress;

impl Resolver for NoAddress {
    fn resolve(
        &self,
        _uri: &ureq::http::Uri,
        _config: &Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut one = self.empty();
        one.push(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))); // ureq requires one; it is not dialled
        Ok(one)
    }
}

#[derive(Debug)]
struct ToDevice(Gateway);

impl Connector for ToDevice {
    type Out = Exchange;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _chained: Option<()>,
    ) -> Result<Option<Exchange>, ureq::Error> {
        let uri = details.uri;
        let name = match (uri.scheme_str(), uri.host(), uri.port()) {
            (Some("http"), Some(name), None) => name.to_ascii_lowercase(), // hosts have no case
            _ => {
                let text = format!("{uri}: a device is asked at http://NAME/, without a port");
                return Err(ureq::Error::BadUri(text));
            }
        };
        CALLED.with_borrow(|called| match called {
            Some(called) if *called != name => Err(elsewhere(called, &name)),
            _ => Ok(()),
        })?;
        let lease = self.0.open(&name).map_err(io::Error::from)?;
        lease.stream.set_nonblocking(false)?;
        let shutdown: Arc<dyn ShutdownHandle> = lease.stream.clone();
        (details.register_shutdown)(Arc::downgrade(&shutdown))?;
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Exchange { stream: lease.stream, cut_error: lease.cut_error, buffers }))
    }
}

fn elsewhere(called: &str, name: &str) -> ureq::Error {
    let text = format!("device {called} redirected its caller to {name}, which is another one");
    io::Error::from(Error::refused(Fault::Device, 502, text, None)).into()
}

impl ShutdownHandle for Stream {
    fn shutdown(&self) {
        let _ = Stream::shutdown(self, Shutdown::Both); // it may have ended already
    }
}

/// The caller's end of the socket pair, for one request.
struct Exchange {
    stream: Arc<Stream>,
    /// The loop's reason for ending the exchange.
    cut_error: CutError,
    buffers: LazyBuffers,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Exchange {
    /// The loop's reason for the end, or else `error`.
    fn failed(&self, error: io::Error, timeout: NextTimeout) -> ureq::Error {
        let cut = self.cut_error.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (cut, error.kind()) {
            (Some(cut), _) => io::Error::from(cut).into(),
            (None, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                ureq::Error::Timeout(timeout.reason)
            }
            (None, _) => error.into(),
        }
    }
}

impl Transport for Exchange {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let timeout = timeout.for_write();
        self.stream.set_write_timeout(timeout.not_zero().map(|time| *time))?;
        let output = &self.buffers.output()[..amount];
        (&*self.stream).write_all(output).map_err(|e| self.failed(e, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let timeout = timeout.for_read();
        self.stream.set_read_timeout(timeout.not_zero().map(|time| *time))?;
        let input = self.buffers.input_append_buf();
        let read = loop {
            match (&*self.stream).read(input) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        let amount = read.map_err(|e| self.failed(e, timeout))?;
        if amount == 0 {
            let cut = self.cut_error.lock().unwrap_or_else(PoisonError::into_inner).take();
            return cut.map_or(Ok(false), |cut| Err(io::Error::from(cut).into()));
        }
        self.buffers.input_appended(amount);
        Ok(true)
    }

    /// Never used for another request: the loop keeps links, and ureq's pool would only keep
    /// sockets.
    fn is_open(&mut self) -> bool {
        false
    }
}
