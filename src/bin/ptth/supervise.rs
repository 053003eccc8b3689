//! Notifications for a supervisor (sd_notify(3), without its library): ready, reloading, stopping,
//! a status line, and the watchdog.
//!
//! Each is one datagram to the Unix socket in `NOTIFY_SOCKET`. If that is not set, nothing is sent.
//! If a message cannot be sent, this is logged, and the process continues.

use std::fmt::Display;
use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a notification may wait for the supervisor. Then it is lost.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends notifications to the supervisor of this process, if there is one. Clones share it.
#[derive(Clone)]
pub(crate) struct Supervisor {
    transport: Option<Arc<(UnixDatagram, SocketAddr)>>,
    /// Set when the stop was reported. It is locked while another message is sent, so that none
    /// follows the stop.
    stops: Arc<Mutex<bool>>,
}

impl Supervisor {
    /// The supervisor from the environment.
    pub(crate) fn of_environment() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Supervisor::to(None);
        };
        let opened = address(name.as_encoded_bytes()).and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(SEND_TIMEOUT))?;
            Ok((socket, address))
        });
        match opened {
            Ok(transport) => Supervisor::to(Some(transport)),
            Err(e) => {
                log::warn!(
                    "NOTIFY_SOCKET={}: the supervisor will not be told anything: {e}",
                    name.to_string_lossy()
                );
                Supervisor::to(None)
            }
        }
    }

    fn to(transport: Option<(UnixDatagram, SocketAddr)>) -> Self {
        Supervisor { transport: transport.map(Arc::new), stops: Arc::default() }
    }

    /// Reports that the process serves, or tries to.
    pub(crate) fn ready(&self, status: impl Display) {
        self.tell_unless_stopping(&format!(
            "READY=1\nMAINPID={}\nSTATUS={status}",
            std::process::id()
        ));
    }

    pub(crate) fn status(&self, status: impl Display) {
        self.tell_unless_stopping(&format!("STATUS={status}"));
    }

    /// Ends what [`reloading`](Self::reloading) began; the status is the former one.
    pub(crate) fn reloaded(&self) {
        self.tell_unless_stopping("READY=1");
    }

    /// Reports a reload; [`ready`](Self::ready) or [`reloaded`](Self::reloaded) follows.
    pub(crate) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        self.tell_unless_stopping(&format!(
            "RELOADING=1\nMONOTONIC_USEC={}",
            i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000
        ));
    }

    /// Reports the stop. From now on only watchdog messages are sent: a reload in progress must not
    /// report that the process is ready.
    pub(crate) fn stopping(&self, status: impl Display) {
        let mut stops = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        *stops = true;
        self.tell(&format!("STOPPING=1\nSTATUS={status}"));
    }

    /// Sends watchdog messages at half of `WATCHDOG_USEC`, each after `ping` has succeeded within
    /// that time.
    pub(crate) fn watch(&self, ping: impl Fn(Duration) -> bool + Send + 'static) {
        if let Some(interval) = watchdog_interval().filter(|_| self.transport.is_some()) {
            self.watch_every(interval, ping);
        }
    }

    fn watch_every(&self, interval: Duration, ping: impl Fn(Duration) -> bool + Send + 'static) {
        let supervisor = self.clone();
        let watched =
            std::thread::Builder::new().name("ptth-watchdog".to_owned()).spawn(move || {
                loop {
                    let began = Instant::now();
                    if ping(interval) {
                        supervisor.tell("WATCHDOG=1");
                    }
                    // The duration of the turn is part of the interval, because two intervals are
                    // the whole time.
                    std::thread::sleep(interval.saturating_sub(began.elapsed()));
                }
            });
        if let Err(e) = watched {
            log::error!(
                "no thread for the supervisor's watchdog, which will think that this process hangs: {e}"
            );
        }
    }

    fn tell_unless_stopping(&self, message: &str) {
        let stops = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        if !*stops {
            self.tell(message);
        }
    }

    fn tell(&self, message: &str) {
        let Some((socket, address)) = self.transport.as_deref() else { return };
        if let Err(e) = socket.send_to_addr(message.as_bytes(), address) {
            log::warn!(
                "the supervisor was not told {:?}: {e}",
                message.lines().next().unwrap_or_default()
            );
        }
    }
}

/// A path, or with a leading `@` a name in Linux's abstract namespace.
fn address(name: &[u8]) -> io::Result<SocketAddr> {
    use std::os::unix::ffi::OsStrExt;
    match name {
        [b'/', ..] => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name)),
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => {
            <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)
        }
        _ => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "it is neither an absolute path nor, on Linux, an abstract name after @",
        )),
    }
}

/// Half of the time after which a supervisor considers this process hung. `None` if it does not
/// watch this process.
fn watchdog_interval() -> Option<Duration> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>());
    match number("WATCHDOG_PID") {
        Some(pid) if pid != Ok(u64::from(std::process::id())) => return None,
        _ => {}
    }
    match number("WATCHDOG_USEC")? {
        Ok(microseconds @ 1..) => Some(Duration::from_micros(microseconds) / 2),
        _ => {
            log::warn!("WATCHDOG_USEC is no number of microseconds; no sign of life will be given");
            None
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use super::*;

    #[test]
    fn a_loop_that_makes_no_turn_gives_no_sign_of_life() {
        let (near, far) = (
            UnixDatagram::unbound().unwrap(),
            std::env::temp_dir().join(format!("ptth-watchdog-{}", std::process::id())),
        );
        let _ = std::fs::remove_file(&far);
        let supervisor = UnixDatagram::bind(&far).unwrap();
        supervisor.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let transport =
            Supervisor::to(Some((near, address(far.as_os_str().as_encoded_bytes()).unwrap())));
        let turns = Arc::new(AtomicBool::new(true));
        let looked = turns.clone();
        transport.watch_every(Duration::from_millis(20), move |_| looked.load(SeqCst));
        let mut message = [0; 64];
        let mut hear = || supervisor.recv(&mut message).map(|n| message[..n].to_vec());
        assert_eq!(hear().unwrap(), b"WATCHDOG=1");
        turns.store(false, SeqCst);
        let end = std::time::Instant::now() + Duration::from_secs(5);
        while hear().is_ok() {
            assert!(std::time::Instant::now() < end, "signs of life of a loop that hangs");
        }
        turns.store(true, SeqCst);
        assert_eq!(hear().unwrap(), b"WATCHDOG=1");
        std::fs::remove_file(&far).unwrap();
    }

    #[test]
    fn only_names_that_systemd_gives_are_addresses() {
        assert!(address(b"/run/systemd/notify").unwrap().as_pathname().is_some());
        assert!(address(b"vsock:2:1234").is_err() && address(b"relative").is_err());
        #[cfg(target_os = "linux")]
        assert_eq!(
            std::os::linux::net::SocketAddrExt::as_abstract_name(&address(b"@ptth").unwrap()),
            Some(&b"ptth"[..])
        );
    }
}
