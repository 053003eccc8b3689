//! `ptth device --status`: reports in JSON how the device is connected, in a file that is replaced
//! atomically or at a separate listener, for health checks and LEDs.

mod listener;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use reverse_http::{DeviceEvent, DeviceEventKind};
use serde_json::{Value, json};

use crate::addresses::{bare, is_loopback};
use crate::output::say;
use crate::{Failure, failed, usage};

/// The state of the connections. Clones share it.
#[derive(Clone)]
pub(crate) struct DeviceStatus {
    state: Arc<Mutex<State>>,
    file: Option<Arc<PathBuf>>,
}

#[derive(Default)]
struct State {
    name: String,
    /// By URL: the transport, and since when.
    connected: BTreeMap<String, (String, SystemTime)>,
    last_error: Option<(String, String, SystemTime)>,
    stopped: bool,
}

impl State {
    fn json(&self) -> Value {
        let seconds = |at: &SystemTime| {
            at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
        };
        let gateways: Vec<Value> = self
            .connected
            .iter()
            .map(|(url, (via, since))| json!({ "url": url, "via": via, "since": seconds(since) }))
            .collect();
        let first = self.connected.values().min_by_key(|(_, since)| *since);
        json!({
            "name": self.name,
            "connected": first.is_some(),
            "via": first.map(|(via, _)| via),
            "since": first.map(|(_, since)| seconds(since)),
            "gateways": gateways,
            "last_error": self.last_error.as_ref().map(|(url, text, at)| {
                json!({ "url": url, "text": text, "at": seconds(at) })
            }),
            "stopped": self.stopped,
        })
    }

    fn note(&mut self, event: &DeviceEvent) {
        self.name.clone_from(&event.name);
        let now = SystemTime::now();
        match event.kind {
            DeviceEventKind::Connected | DeviceEventKind::Waiting => {
                let via = match event.kind {
                    DeviceEventKind::Waiting => "an offer that the gateway holds".to_owned(),
                    _ => event.detail.clone(),
                };
                let since = self.connected.get(&event.url).map_or(now, |(_, since)| *since);
                self.connected.insert(event.url.clone(), (via, since));
            }
            DeviceEventKind::Disconnected => {
                self.connected.remove(&event.url);
                self.last_error = Some((event.url.clone(), event.detail.clone(), now));
            }
            DeviceEventKind::Failed | DeviceEventKind::Refused { .. } => {
                self.last_error = Some((event.url.clone(), event.detail.clone(), now));
            }
            _ => {}
        }
    }
}

impl DeviceStatus {
    /// Refuses a value that is neither a path nor an address on loopback.
    ///
    /// # Errors
    /// It is neither.
    pub(crate) fn check(to: &str) -> Result<(), Failure> {
        if lacks_port(to) {
            return Err(usage(format!(
                "--status {to}: write an address with its port (127.0.0.1:9991), or a path with a slash (./{to})"
            )));
        }
        if is_address(to) && !is_loopback(("--status", to))? {
            return Err(usage(format!(
                "--status {to}: beyond loopback anybody could read it; write an address like 127.0.0.1:9991, or a path"
            )));
        }
        Ok(())
    }

    /// Listens, or writes the file for the first time.
    ///
    /// # Errors
    /// The address cannot be bound; the file cannot be written.
    pub(crate) fn start(to: &str) -> Result<Self, Failure> {
        let state = Arc::<Mutex<State>>::default();
        if !is_address(to) {
            let status = DeviceStatus { state, file: Some(Arc::new(PathBuf::from(to))) };
            status.write().map_err(|e| usage(format!("--status {to}: {e}")))?;
            return Ok(status);
        }
        let listener = TcpListener::bind(to).map_err(|e| {
            let hint = match e.kind() {
                io::ErrorKind::AddrInUse => {
                    "; another program has this port: choose another one, or end that program"
                }
                _ => "",
            };
            failed(format_args!("--status {to}: {e}{hint}"))
        })?;
        let address = listener.local_addr().map_err(failed)?;
        say(format_args!("status http://{address}"));
        let status = DeviceStatus { state, file: None };
        let shown = status.clone();
        listener::start(listener, move || shown.text()).map_err(failed)?;
        Ok(status)
    }

    /// Notes what happened.
    pub(crate) fn note(&self, event: &DeviceEvent) {
        self.change(|state| state.note(event));
    }

    /// The device has ended.
    pub(crate) fn stopped(&self) {
        self.change(|state| {
            state.connected.clear();
            state.stopped = true;
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        if let Err(e) = self.write() {
            log::warn!("--status: the file was not written: {e}");
        }
    }

    /// Whether the device is connected, and the state in JSON.
    fn text(&self) -> (bool, String) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (!state.connected.is_empty(), format!("{:#}\n", state.json()))
    }

    /// Replaces the file: a reader sees either the whole old text or the whole new one.
    fn write(&self) -> io::Result<()> {
        let Some(path) = &self.file else { return Ok(()) };
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let beside = Path::new(&beside);
        // An earlier process of this number may have left it; in a container all have the same.
        drop(std::fs::remove_file(beside));
        // Never through a link, and never into a FIFO, that another user has put there.
        let mut file = File::options().write(true).create_new(true).open(beside)?;
        let written = file.write_all(self.text().1.as_bytes());
        written.and_then(|()| std::fs::rename(beside, path.as_path())).inspect_err(|_| {
            drop(std::fs::remove_file(beside)); // the first error is the one that is reported
        })
    }
}

/// `127.0.0.1:9991` or `localhost:9991`, and no path.
fn is_address(to: &str) -> bool {
    let port = to.rsplit_once(':').map(|(_, port)| port);
    !to.contains('/') && port.is_some_and(|port| port.parse::<u16>().is_ok())
}

/// Returns true if this is more likely an incomplete address than a file name.
fn lacks_port(to: &str) -> bool {
    let is_host = to == "localhost" || bare(to).parse::<IpAddr>().is_ok();
    let is_port = !to.is_empty() && to.bytes().all(|byte| byte.is_ascii_digit());
    !to.contains('/') && (is_host || is_port || (to.contains(':') && !is_address(to)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// In a folder where others may write, too, another user may have put a link where the text is written
    /// before it takes its place (T72).
    #[test]
    fn the_status_is_written_through_no_link_and_leaves_nothing_behind() {
        let pid = std::process::id();
        let folder = std::env::temp_dir().join(format!("ptth-status-{pid}"));
        std::fs::create_dir(&folder).unwrap();
        let [path, beside, victim] =
            ["status", &format!("status.{pid}"), "victim"].map(|name| folder.join(name));
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &beside).unwrap();
        let status = DeviceStatus { state: Arc::default(), file: Some(Arc::new(path.clone())) };
        status.write().unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
        assert!(!beside.exists());
        // A write that fails leaves nothing either.
        let status = DeviceStatus { state: Arc::default(), file: Some(Arc::new(folder.clone())) };
        assert!(status.write().is_err());
        std::fs::remove_dir_all(&folder).unwrap();
        let beside = std::env::temp_dir().join(format!("ptth-status-{pid}.{pid}"));
        assert!(!beside.exists());
    }

    #[test]
    fn an_address_without_a_port_is_no_file() {
        for (to, lacks) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("[::1]", true),
            ("localhost", true),
            ("localhost:", true),
            ("127.0.0.1:99999", true),
            ("9991", true),
            ("127.0.0.1:9991", false),
            ("[::1]:9991", false),
            ("./127.0.0.1", false),
            ("./a:1", false),
            ("status.json", false),
            ("lamp", false),
        ] {
            assert_eq!(lacks_port(to), lacks, "{to}");
        }
    }

    #[test]
    fn a_path_is_told_from_an_address() {
        for (to, address) in [
            ("127.0.0.1:0", true),
            ("[::1]:9991", true),
            ("localhost:1", true),
            ("/run/ptth/status.json", false),
            ("status.json", false),
            ("./a:1", false),
        ] {
            assert_eq!(is_address(to), address, "{to}");
        }
    }
}
