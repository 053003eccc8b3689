//! Certificates, keys and pins of the command line: reads the files for the library, and reports
//! each error with its option and file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use clap::{ArgAction, Args, ValueEnum};
use reverse_http::tls::{ClientCertificates, DeviceTls, GatewayTls, LocalTls};
use reverse_http::{DeviceHandle, calendar};

use crate::arguments::yes_or_no;
use crate::certificate_pairs::Pairs;
use crate::files::{self, Reading, Stamp};

#[derive(Args)]
pub(crate) struct GatewayFiles {
    /// Speak TLS with devices: the certificate (PEM), followed by those between it and its root;
    /// read again on SIGHUP, as all files of TLS are; may be given several times, then the client's
    /// SNI selects one, else the first is used
    #[arg(long, value_name = "FILE", value_delimiter = ',', env = "PTTH_DEVICES_CERT")]
    devices_cert: Vec<PathBuf>,
    /// Its private key (PEM, not encrypted); given as often as the certificate, in the same order
    #[arg(long, value_name = "FILE", value_delimiter = ',', env = "PTTH_DEVICES_KEY")]
    devices_key: Vec<PathBuf>,
    /// Speak TLS with devices with every certificate of this folder, too: NAME.crt with NAME.key,
    /// NAME/fullchain.pem with NAME/privkey.pem
    #[arg(long, value_name = "DIR", env = "PTTH_DEVICES_CERTS")]
    devices_certs: Option<PathBuf>,
    /// Require devices to show a certificate of this CA; they may register the DNS names in it
    #[arg(long, value_name = "FILE", env = "PTTH_DEVICES_CLIENT_CA")]
    devices_client_ca: Option<PathBuf>,
    /// With --devices-client-ca: whether devices have to show one
    #[arg(
        long,
        value_name = "WHETHER",
        value_enum,
        default_value = "required",
        env = "PTTH_DEVICES_CLIENT_CERT"
    )]
    devices_client_cert: Shown,
    /// Speak TLS with visitors: the certificate (PEM), followed by those between it and its root;
    /// may be given several times
    #[arg(long, value_name = "FILE", value_delimiter = ',', env = "PTTH_VISITORS_CERT")]
    visitors_cert: Vec<PathBuf>,
    /// Its private key (PEM, not encrypted); given as often as the certificate, in the same order
    #[arg(long, value_name = "FILE", value_delimiter = ',', env = "PTTH_VISITORS_KEY")]
    visitors_key: Vec<PathBuf>,
    /// Speak TLS with visitors with every certificate of such a folder, too
    #[arg(long, value_name = "DIR", env = "PTTH_VISITORS_CERTS")]
    visitors_certs: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shown {
    Required,
    Optional,
}

impl GatewayFiles {
    /// Returns true if only devices with a certificate are admitted.
    pub(crate) fn know_devices(&self) -> bool {
        self.devices_client_ca.is_some() && self.devices_client_cert == Shown::Required
    }

    /// Returns true if files are given that SIGHUP reads again.
    pub(crate) fn are_given(&self) -> bool {
        let named = !self.devices_cert.is_empty() || !self.visitors_cert.is_empty();
        named || self.devices_certs.is_some() || self.visitors_certs.is_some()
    }

    /// The current TLS settings for devices, from the files.
    pub(crate) fn devices(&self, reading: Reading) -> Result<Option<GatewayTls>, String> {
        let pairs = Pairs {
            certificate: ("--devices-cert", &self.devices_cert),
            key: ("--devices-key", &self.devices_key),
            folder: ("--devices-certs", self.devices_certs.as_deref()),
        };
        let tls = side(&pairs, reading)?;
        let option = "--devices-client-ca";
        let Some(ca) = &self.devices_client_ca else {
            return match self.devices_client_cert {
                Shown::Optional => Err(format!("--devices-client-cert wants {option}, too")),
                Shown::Required => Ok(tls),
            };
        };
        let tls = tls.ok_or_else(|| {
            format!("{option} wants TLS with devices: give --devices-cert and --devices-key, too")
        })?;
        let wanted = match self.devices_client_cert {
            Shown::Required => ClientCertificates::Required,
            Shown::Optional => ClientCertificates::Optional,
        };
        tls.client_ca(read(option, ca, reading)?, wanted)
            .map(Some)
            .map_err(|e| format!("{option} {}: {e}", ca.display()))
    }

    /// The same for visitors.
    pub(crate) fn visitors(&self, reading: Reading) -> Result<Option<GatewayTls>, String> {
        let pairs = Pairs {
            certificate: ("--visitors-cert", &self.visitors_cert),
            key: ("--visitors-key", &self.visitors_key),
            folder: ("--visitors-certs", self.visitors_certs.as_deref()),
        };
        side(&pairs, reading)
    }
}

/// A device's TLS files, which are read again on SIGHUP, and soon after one of them has changed.
pub(crate) struct InForce {
    files: DeviceFiles,
    local: LocalFiles,
    device: DeviceHandle,
    /// The stamps of the files when they were last read.
    stamps: Mutex<Vec<Option<Stamp>>>,
}

/// The interval for checking whether a file has changed. Certificates are renewed days before they
/// expire.
const LOOK: Duration = Duration::from_secs(2);

impl InForce {
    /// `stamps` are those from before the files were read.
    pub(crate) fn new(
        (files, local): (DeviceFiles, LocalFiles),
        stamps: Vec<Option<Stamp>>,
        device: DeviceHandle,
    ) -> Self {
        InForce { files, local, device, stamps: Mutex::new(stamps) }
    }

    /// Reads the files again, with effect from the next dial and the next connection to the local
    /// server. If one cannot be read, nothing changes.
    pub(crate) fn read_again(&self) {
        let mut stamps = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        if stamps.is_empty() {
            return;
        }
        let before = self.stamps();
        match self.read_all() {
            Ok(()) => {
                log::info!("the certificates were read again; they count from the next dial on")
            }
            Err(e) => log::error!("{e}; the certificates stay as they were"),
        }
        *stamps = before; // files that were written meanwhile are read again soon
    }

    /// Both are read before either takes effect.
    fn read_all(&self) -> Result<(), String> {
        let gateway = match self.files.stamps().is_empty() {
            true => None,
            false => self.files.tls(Reading::Again)?,
        };
        let local = match self.local.stamp() {
            None => None,
            Some(_) => self.local.tls(Reading::Again, self.files.clock_floor)?,
        };
        if let Some(tls) = gateway {
            self.device.set_tls(tls).map_err(|e| e.to_string())?;
        }
        match local {
            Some(tls) => self.device.set_local_tls(tls).map_err(|e| e.to_string()),
            None => Ok(()),
        }
    }

    /// The gateway's files, then the local server's.
    fn stamps(&self) -> Vec<Option<Stamp>> {
        stamps(&self.files, &self.local)
    }

    /// Checks from time to time whether a file has changed, on a separate thread, because a file
    /// system may hang.
    ///
    /// # Errors
    /// There is no thread.
    pub(crate) fn watch(self: &Arc<Self>) -> io::Result<()> {
        if self.stamps().is_empty() {
            return Ok(());
        }
        let (files, name) = (Arc::downgrade(self), "ptth-files".to_owned());
        std::thread::Builder::new().name(name).spawn(move || {
            while let Some(files) = files.upgrade() {
                let known = files.stamps.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if files.stamps() != known {
                    files.read_again();
                }
                drop(files);
                std::thread::sleep(LOOK);
            }
        })?;
        Ok(())
    }
}

/// The current stamps of the files.
pub(crate) fn stamps(files: &DeviceFiles, local: &LocalFiles) -> Vec<Option<Stamp>> {
    files.stamps().into_iter().chain(local.stamp()).collect()
}

/// `2026-01-31`.
fn first_second(text: &str) -> Result<SystemTime, String> {
    calendar::day(text).map_err(|e| e.to_string())
}

pub(crate) fn side(pairs: &Pairs<'_>, reading: Reading) -> Result<Option<GatewayTls>, String> {
    let mut identities = pairs.identities(reading)?.into_iter();
    let Some(first) = identities.next() else { return Ok(None) };
    let tls = GatewayTls::new(first).and_then(|tls| tls.also(identities));
    tls.map(Some).map_err(|e| format!("{}: {e}", pairs.certificate.0))
}

#[derive(Args)]
pub(crate) struct DeviceFiles {
    /// With https://: trust the CA certificates in this file (PEM), and not the system's
    #[arg(long, value_name = "FILE", env = "PTTH_CA")]
    ca: Option<PathBuf>,
    /// The gateway's public key (sha256/BASE64) instead of a chain to a CA, or with --ca beside it;
    /// may be given several times
    #[arg(long, value_name = "PIN", value_delimiter = ',', env = "PTTH_PIN")]
    pin: Vec<String>,
    /// A certificate (PEM) to show to the gateway
    #[arg(long, value_name = "FILE", env = "PTTH_CERT")]
    cert: Option<PathBuf>,
    /// Its private key (PEM, not encrypted)
    #[arg(long, value_name = "FILE", env = "PTTH_KEY")]
    key: Option<PathBuf>,
    /// For machines without a clock: take no earlier date than this for now (2026-01-31) when
    /// certificates are checked, instead of waiting
    #[arg(long, value_name = "DATE", value_parser = first_second, env = "PTTH_CLOCK_FLOOR")]
    clock_floor: Option<SystemTime>,
}

impl DeviceFiles {
    /// The facts that an established session has proved.
    pub(crate) fn shown(&self) -> &'static str {
        match (self.pin.is_empty(), &self.ca) {
            (true, _) => "the chain, the dates and the host are right",
            (false, Some(_)) => "the chain, the dates, the host and the pinned key are right",
            (false, None) => {
                "the pinned key is right; chain, dates and host count for nothing beside it"
            }
        }
    }

    /// The TLS settings from the options and their files, if any are given.
    pub(crate) fn tls(&self, reading: Reading) -> Result<Option<DeviceTls>, String> {
        let mut tls = DeviceTls::new();
        if let Some(ca) = &self.ca {
            tls = tls
                .ca(read("--ca", ca, reading)?)
                .map_err(|e| format!("--ca {}: {e}", ca.display()))?;
        }
        for pin in &self.pin {
            tls = tls.pin(pin).map_err(|e| format!("--pin: {e}"))?;
        }
        let pairs = Pairs {
            certificate: ("--cert", self.cert.as_slice()),
            key: ("--key", self.key.as_slice()),
            folder: ("", None),
        };
        let identity = pairs.identities(reading)?.pop();
        let given = self.ca.is_some()
            || !self.pin.is_empty()
            || identity.is_some()
            || self.clock_floor.is_some();
        if let Some(identity) = identity {
            tls = tls.identity(identity);
        }
        if let Some(floor) = self.clock_floor {
            tls = tls.clock_floor(floor);
        }
        Ok(given.then_some(tls))
    }

    /// Returns true if only the earliest time is given.
    pub(crate) fn has_clock_floor_alone(&self) -> bool {
        let others =
            self.ca.is_some() || !self.pin.is_empty() || self.cert.is_some() || self.key.is_some();
        self.clock_floor.is_some() && !others
    }

    pub(crate) fn clock_floor(&self) -> Option<SystemTime> {
        self.clock_floor
    }

    /// The stamps that show whether a file has changed. A missing file is also a state.
    fn stamps(&self) -> Vec<Option<Stamp>> {
        [&self.ca, &self.cert, &self.key]
            .into_iter()
            .flatten()
            .map(|file| Stamp::of(file).ok())
            .collect()
    }
}

#[derive(Args)]
pub(crate) struct LocalFiles {
    /// With --to https://: trust the CA certificates in this file (PEM) for the local server, and
    /// not the system's
    #[arg(long, value_name = "FILE", env = "PTTH_TO_CA")]
    to_ca: Option<PathBuf>,
    /// With --to https://: the local server's public key (sha256/BASE64) instead of a chain to a CA,
    /// or with --to-ca beside it; may be given several times
    #[arg(long, value_name = "PIN", value_delimiter = ',', env = "PTTH_TO_PIN")]
    to_pin: Vec<String>,
    /// With --to https://: the host name for SNI and for the check of the local server's
    /// certificate, instead of the URL's host
    #[arg(long, value_name = "HOST", env = "PTTH_TO_SERVER_NAME")]
    to_server_name: Option<String>,
    /// With --to https://: accept every certificate of the local server; for one on the same
    /// machine or cable (else pin its key: --to-pin)
    #[arg(long, env = "PTTH_TO_INSECURE", value_parser = yes_or_no, action = ArgAction::SetTrue)]
    to_insecure: bool,
}

impl LocalFiles {
    /// The first of the options that is given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        match self {
            LocalFiles { to_ca: Some(_), .. } => Some("--to-ca"),
            LocalFiles { to_pin, .. } if !to_pin.is_empty() => Some("--to-pin"),
            LocalFiles { to_server_name: Some(_), .. } => Some("--to-server-name"),
            LocalFiles { to_insecure: true, .. } => Some("--to-insecure"),
            _ => None,
        }
    }

    /// Returns true if a name for its certificate is given.
    pub(crate) fn has_server_name(&self) -> bool {
        self.to_server_name.is_some()
    }

    /// Returns true if the local server is not verified.
    pub(crate) fn are_insecure(&self) -> bool {
        self.to_insecure
    }

    /// What the options and their file say. `None`: nothing.
    pub(crate) fn tls(
        &self,
        reading: Reading,
        floor: Option<SystemTime>,
    ) -> Result<Option<LocalTls>, String> {
        if self.to_insecure && (self.to_ca.is_some() || !self.to_pin.is_empty()) {
            return Err(
                "--to-insecure checks nothing; omit it, or omit --to-ca and --to-pin".to_owned()
            );
        }
        let mut tls = LocalTls::new();
        if let Some(ca) = &self.to_ca {
            tls = tls
                .ca(read("--to-ca", ca, reading)?)
                .map_err(|e| format!("--to-ca {}: {e}", ca.display()))?;
        }
        for pin in &self.to_pin {
            tls = tls.pin(pin).map_err(|e| format!("--to-pin: {e}"))?;
        }
        if let Some(name) = &self.to_server_name {
            tls = tls.server_name(name).map_err(|e| format!("--to-server-name: {e}"))?;
        }
        if self.to_insecure {
            tls = tls.insecure();
        }
        if let Some(floor) = floor {
            tls = tls.clock_floor(floor);
        }
        Ok((self.given().is_some() || floor.is_some()).then_some(tls))
    }

    /// The stamp that shows whether the file has changed, if there is a file.
    fn stamp(&self) -> Option<Option<Stamp>> {
        self.to_ca.as_ref().map(|file| Stamp::of(file).ok())
    }
}

/// The longest file, in bytes: more than a chain or a bundle of CAs has.
const FILE_MAX: u64 = 8 << 20;

pub(crate) fn read(option: &str, file: &Path, reading: Reading) -> Result<Vec<u8>, String> {
    files::read(file, FILE_MAX, reading)
        .map_err(|what| format!("{option} {}: {what}", file.display()))
}

pub(crate) fn warn_of_readers(option: &str, file: &Path) {
    use std::os::unix::fs::PermissionsExt;
    const OTHERS: u32 = 0o004;
    if std::fs::metadata(file).is_ok_and(|data| data.permissions().mode() & OTHERS != 0) {
        log::warn!(
            "{option} {0}: every user of this machine can read this secret; chmod o-r {0}",
            file.display()
        );
    }
}
