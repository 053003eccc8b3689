//! The options of a gateway of a cluster: the listener for other gateways, and how they are found
//! and authenticated. The files are read again on SIGHUP.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use clap::Args;
use reverse_http::proto::turn::Name;
use reverse_http::tls::{ClientCertificates, DeviceTls, GatewayTls};
use reverse_http::{Error, Gateway, Peers, RedisDirectory};

use crate::addresses::{self, Listening, address, at_listener, is_loopback, is_unspecified};
use crate::certificate_pairs::Pairs;
use crate::certificates;
use crate::config::duration;
use crate::files::{self, Reading};
use crate::reload::{reload_tls, wrong};
use crate::secrets;
use crate::{Failure, usage};

/// Longest file of names that is read, in bytes, and of a password.
const TABLE_MAX: u64 = 64 << 20;
const PASSWORD_MAX: u64 = 64 << 10;

/// Stands for every name that is not in the table.
pub(crate) const OTHERS: &str = "*";

#[derive(Args)]
pub(crate) struct PeersArgs {
    /// The address for other gateways, which send their visitors' requests for devices of this one;
    /// beyond loopback with --peer-secret or --peers-client-ca (default: none)
    #[arg(long, value_name = "ADDR", value_parser = address, env = "PTTH_PEERS")]
    peers: Option<String>,
    /// The URL of --peers for other gateways, like http://10.0.0.1:7000, by which this gateway
    /// recognises itself in --directory (default: the address of --peers)
    #[arg(long, value_name = "URL", env = "PTTH_ADVERTISE")]
    advertise: Option<String>,
    /// Which other gateway has a device that is not connected here. A table in Redis that all
    /// gateways share: redis://HOST:PORT (or several, followed by `,HOST:PORT`), redis+unix:///PATH, or
    /// redis+sentinel://HOST:PORT/MASTER; with TLS rediss:// and rediss+sentinel://. Or file:PATH, a
    /// line for each device with its name and the URL of that gateway's --peers (`*`: any other
    /// device); the file is read again on SIGHUP
    #[arg(long, value_name = "URL", value_parser = directory, env = "PTTH_DIRECTORY")]
    directory: Option<Directory>,
    /// The user (ACL) for Redis (default: its default user); read again from --config on SIGHUP,
    /// like the servers
    #[arg(long, value_name = "NAME", env = "PTTH_DIRECTORY_USER")]
    directory_user: Option<String>,
    /// A file with the password for Redis in its first line; read again on SIGHUP
    #[arg(long, value_name = "FILE", env = "PTTH_DIRECTORY_PASSWORD")]
    directory_password: Option<PathBuf>,
    /// With rediss://: trust the CA certificates in this file (PEM), and not the system's; read again
    /// on SIGHUP
    #[arg(long, value_name = "FILE", env = "PTTH_DIRECTORY_CA")]
    directory_ca: Option<PathBuf>,
    /// The prefix of keys and of the channel in Redis, if several clusters use one server (default:
    /// ptth)
    #[arg(long, value_name = "TEXT", env = "PTTH_DIRECTORY_PREFIX")]
    directory_prefix: Option<String>,
    /// How long a gateway's entries in Redis last if it does not renew them, between 3 s and 1 h;
    /// the same at all gateways (default: 30s)
    #[arg(long, value_name = "DURATION", value_parser = duration, env = "PTTH_DIRECTORY_CLAIM_TIME")]
    directory_claim_time: Option<Duration>,
    /// A file with the secret that gateways share, in its first line; further lines are secrets
    /// that are accepted from others, too; read again on SIGHUP
    #[arg(long, value_name = "FILE", env = "PTTH_PEER_SECRET")]
    peer_secret: Option<PathBuf>,
    /// Use TLS at --peers: the certificate (PEM), followed by those between it and its root; it is
    /// presented to gateways at https://, too
    #[arg(long, value_name = "FILE", env = "PTTH_PEERS_CERT")]
    peers_cert: Option<PathBuf>,
    /// Its private key (PEM, not encrypted)
    #[arg(long, value_name = "FILE", env = "PTTH_PEERS_KEY")]
    peers_key: Option<PathBuf>,
    /// Require other gateways to present a certificate of this CA, with any names
    #[arg(long, value_name = "FILE", env = "PTTH_PEERS_CLIENT_CA")]
    peers_client_ca: Option<PathBuf>,
    /// With gateways at https://: trust the CA certificates in this file (PEM), and not the system's
    #[arg(long, value_name = "FILE", env = "PTTH_PEERS_CA")]
    peers_ca: Option<PathBuf>,
}

/// The directory, which tells which gateway has a device.
#[derive(Clone)]
enum Directory {
    File(PathBuf),
    Redis(Box<RedisDirectory>),
}

fn directory(text: &str) -> Result<Directory, String> {
    match text.split_once(':') {
        Some(("file", path)) if !path.is_empty() => Ok(Directory::File(path.into())),
        Some((scheme, _)) if scheme.starts_with("redis") => RedisDirectory::new(text)
            .map(|at| Directory::Redis(Box::new(at)))
            .map_err(|e| e.to_string()),
        _ => Err("write file:PATH, or redis://HOST:PORT".to_owned()),
    }
}

/// The gateway of each device.
pub(crate) type Table = HashMap<String, String>;

/// The settings of the options and their files.
pub(crate) struct Cluster {
    pub(crate) peers: Peers,
    /// The table of a directory in a file.
    table: Arc<RwLock<Table>>,
    tls: Option<GatewayTls>,
}

/// The settings that `ptth cluster` uses.
pub(crate) struct Named {
    /// This gateway's own URL, if it is known.
    pub(crate) own: Option<String>,
    /// The directory in a file.
    pub(crate) file: Option<PathBuf>,
    /// Its lines: the gateway of each device.
    pub(crate) listed: Table,
    pub(crate) redis: Option<RedisDirectory>,
    /// The secret that is sent.
    pub(crate) secret: Option<String>,
    /// How gateways at https:// are verified.
    pub(crate) tls: DeviceTls,
}

impl PeersArgs {
    pub(crate) fn address(&self) -> Option<&str> {
        self.peers.as_deref()
    }

    /// Returns true if files are given that SIGHUP reads again.
    pub(crate) fn reads_files(&self) -> bool {
        let files =
            [&self.peer_secret, &self.peers_cert, &self.directory_password, &self.directory_ca];
        self.table_file().is_some() || files.into_iter().any(Option::is_some)
    }

    /// Reads the files. `None`: this gateway is not in a cluster.
    pub(crate) fn read(&self) -> Result<Option<Cluster>, Failure> {
        self.check()?;
        if self.peers.is_none() && self.directory.is_none() {
            return Ok(None);
        }
        let first = Reading::First;
        let tls = self.listener_tls(first).map_err(usage)?;
        let read = self.table(first).map_err(usage)?;
        let known_by_tls = self.peers_ca.is_some()
            || self.peers_cert.is_some()
            || read.values().any(|url| url.starts_with("https://"));
        let table = Arc::new(RwLock::new(read));
        let answers = table.clone();
        let mut peers = match &self.directory {
            Some(Directory::Redis(redis)) => {
                Peers::shared_in(self.redis(redis, self, first).map_err(usage)?)
            }
            _ => Peers::found_by(move |name| {
                let table = answers.read().unwrap_or_else(PoisonError::into_inner);
                Ok(table.get(name).or_else(|| table.get(OTHERS)).cloned())
            }),
        };
        peers = match &self.directory {
            Some(Directory::Redis(_)) => peers,
            Some(Directory::File(_)) => peers.directory_kind("file"),
            None => peers.directory_kind("none"),
        };
        if let Some(secrets) = self.secrets(first).map_err(usage)? {
            let option = |e| usage(self.of_secrets(&e));
            peers = peers.secrets(secrets).map_err(option)?;
        }
        if let Some(url) = &self.advertise {
            peers = peers.advertise(url).map_err(|e| usage(format!("--advertise: {e}")))?;
        }
        if known_by_tls {
            let tls = self.connector(first).map_err(usage)?;
            peers = peers.tls(tls).map_err(|e| usage(format!("--peers-ca: {e}")))?;
        }
        Ok(Some(Cluster { peers, table, tls }))
    }

    /// The settings for `ptth cluster`. `None`: this gateway is not in a cluster.
    pub(crate) fn named(&self) -> Result<Option<Named>, Failure> {
        self.check()?;
        if self.peers.is_none() && self.directory.is_none() {
            return Ok(None);
        }
        let first = Reading::First;
        drop(self.listener_tls(first).map_err(usage)?);
        let mut valid = Peers::found_by(|_| Ok(None));
        let secrets = self.secrets(first).map_err(usage)?;
        if let Some(secrets) = &secrets {
            valid = valid.secrets(secrets).map_err(|e| usage(self.of_secrets(&e)))?;
        }
        if let Some(url) = &self.advertise {
            drop(valid.advertise(url).map_err(|e| usage(format!("--advertise: {e}")))?);
        }
        let redis = match &self.directory {
            Some(Directory::Redis(redis)) => Some(self.redis(redis, self, first).map_err(usage)?),
            _ => None,
        };
        Ok(Some(Named {
            own: match &self.advertise {
                Some(url) => Some(url.clone()),
                None => self.own_address()?,
            },
            file: self.table_file().map(Path::to_owned),
            listed: self.table(first).map_err(usage)?,
            redis,
            secret: secrets.and_then(|secrets| secrets.into_iter().next()),
            tls: self.connector(first).map_err(usage)?,
        }))
    }

    /// The URL of --peers, if others can reach it.
    fn own_address(&self) -> Result<Option<String>, Failure> {
        let Some(address) = &self.peers else { return Ok(None) };
        let scheme = if self.peers_cert.is_some() { "https" } else { "http" };
        // A gateway listens at the first one, and announces that.
        let first = addresses::addresses(("--peers", address))?.into_iter().next();
        let reachable = first.filter(|at| !at.ip().is_unspecified() && at.port() != 0);
        Ok(reachable.map(|at| format!("{scheme}://{at}")))
    }

    fn table_file(&self) -> Option<&Path> {
        match &self.directory {
            Some(Directory::File(file)) => Some(file),
            _ => None,
        }
    }

    /// The table in Redis with its settings from the options; the prefix and the claim time are
    /// those of the start.
    fn redis(
        &self,
        at: &RedisDirectory,
        start: &PeersArgs,
        reading: Reading,
    ) -> Result<RedisDirectory, String> {
        let mut at = at.clone();
        if let Some(user) = &self.directory_user {
            at = at.user(user);
        }
        if let Some(file) = &self.directory_password {
            let text = files::text(("--directory-password", file), PASSWORD_MAX, reading)?;
            certificates::warn_of_readers("--directory-password", file);
            let password = text.lines().next().map(str::trim).filter(|line| !line.is_empty());
            let none =
                || format!("--directory-password {}: its first line is empty", file.display());
            at = at.password(password.ok_or_else(none)?);
        }
        if let Some(file) = &self.directory_ca {
            let pem = certificates::read("--directory-ca", file, reading)?;
            at = at.ca(pem).map_err(|e| format!("--directory-ca {}: {e}", file.display()))?;
        }
        if let Some(prefix) = &start.directory_prefix {
            at = at.prefix(prefix).map_err(|e| format!("--directory-prefix {prefix}: {e}"))?;
        }
        if let Some(time) = start.directory_claim_time {
            at = at.claim_time(time).map_err(|e| format!("--directory-claim-time: {e}"))?;
        }
        Ok(at)
    }

    /// # Errors
    /// An option concerns Redis, and the directory is not in Redis.
    fn check_directory(&self) -> Result<(), Failure> {
        if let Some(Directory::Redis(_)) = &self.directory {
            return Ok(());
        }
        let only_there = [
            (self.directory_user.is_some(), "--directory-user"),
            (self.directory_password.is_some(), "--directory-password"),
            (self.directory_ca.is_some(), "--directory-ca"),
            (self.directory_prefix.is_some(), "--directory-prefix"),
            (self.directory_claim_time.is_some(), "--directory-claim-time"),
        ];
        match only_there.iter().find(|(given, _)| *given) {
            Some((_, option)) => Err(usage(format!("{option} goes with --directory redis://…"))),
            None => Ok(()),
        }
    }

    /// Checks the options, without the files.
    fn check(&self) -> Result<(), Failure> {
        self.check_directory()?;
        if self.peers_ca.is_some() && self.peers.is_some() && self.directory.is_none() {
            // With both options, they are hardly confused.
            if self.peers_client_ca.is_none() {
                return Err(usage(
                    "--peers-ca goes with --directory: it is the CA of gateways that this one asks; those that come to --peers are known by --peers-client-ca",
                ));
            }
            log::warn!("--peers-ca does nothing without --directory: this gateway asks no other");
        }
        let Some(address) = &self.peers else {
            let only_there = [
                (self.advertise.is_some(), "--advertise"),
                (self.peers_client_ca.is_some(), "--peers-client-ca"),
            ];
            if let Some((_, option)) = only_there.iter().find(|(given, _)| *given) {
                return Err(usage(format!("{option} goes with --peers")));
            }
            let others = [
                (self.peer_secret.is_some(), "--peer-secret"),
                (self.peers_cert.is_some() || self.peers_key.is_some(), "--peers-cert"),
                (self.peers_ca.is_some(), "--peers-ca"),
            ];
            return match others.iter().find(|(given, _)| *given) {
                Some((_, option)) if self.directory.is_none() => {
                    Err(usage(format!("{option} goes with --peers or --directory")))
                }
                _ => Ok(()),
            };
        };
        let claims = matches!(self.directory, Some(Directory::Redis(_)));
        if claims && self.advertise.is_none() && is_unspecified(("--peers", address))? {
            return Err(usage(format!(
                "--peers {address}: the directory could not tell other gateways where this one is, and nobody would find its devices; give \
                 --advertise with the URL by which they reach it, as in --advertise http://gw1.internal:9997"
            )));
        }
        self.check_scheme(address)?;
        let is_known = self.peer_secret.is_some() || self.peers_client_ca.is_some();
        if is_known || is_loopback(("--peers", address))? {
            return Ok(());
        }
        Err(usage(format!(
            "--peers {address}: beyond loopback whoever reached it could ask any device, as any visitor. Say who may with --peer-secret FILE \
             (openssl rand -hex 32 makes one), or with --peers-cert, --peers-key and --peers-client-ca"
        )))
    }

    /// Refuses a URL with another scheme than that of its listener.
    fn check_scheme(&self, address: &str) -> Result<(), Failure> {
        let Some(url) = &self.advertise else { return Ok(()) };
        let is_own = at_listener(url, &[("--peers", address)])?.is_some();
        match (self.peers_cert.is_some(), url.split_once("://")) {
            (true, Some(("http", rest))) if is_own => Err(usage(format!(
                "--advertise {url}: with --peers-cert TLS is spoken there; write https://{rest}"
            ))),
            (false, Some(("https", rest))) if is_own => Err(usage(format!(
                "--advertise {url}: without --peers-cert no TLS is spoken there; write http://{rest}, or give one"
            ))),
            (true, Some(("http", _))) => {
                log::warn!(
                    "--advertise {url}: others are told a URL without TLS, and --peers speaks TLS (--peers-cert); that works only if a proxy is between them"
                );
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Refuses the URL of another listener of this gateway: others would send requests of visitors
    /// and the secret there.
    ///
    /// # Errors
    /// It is such a URL.
    pub(crate) fn check_advertised(&self, listening: &Listening<'_>) -> Result<(), Failure> {
        let Some(url) = &self.advertise else { return Ok(()) };
        let others: Vec<_> =
            listening.iter().filter(|(option, _)| *option != "--peers").copied().collect();
        match at_listener(url, &others)? {
            Some((option, address)) => Err(usage(format!(
                "--advertise {url} is this gateway's {option} {address}; it has to be the URL of --peers"
            ))),
            None => Ok(()),
        }
    }

    fn pairs(&self) -> Pairs<'_> {
        Pairs {
            certificate: ("--peers-cert", self.peers_cert.as_slice()),
            key: ("--peers-key", self.peers_key.as_slice()),
            folder: ("", None),
        }
    }

    fn listener_tls(&self, reading: Reading) -> Result<Option<GatewayTls>, String> {
        let tls = certificates::side(&self.pairs(), reading)?;
        let (option, Some(ca)) = ("--peers-client-ca", &self.peers_client_ca) else {
            return Ok(tls);
        };
        let tls = tls.ok_or_else(|| {
            format!("{option} wants TLS at --peers: give --peers-cert and --peers-key, too")
        })?;
        tls.client_ca(certificates::read(option, ca, reading)?, ClientCertificates::Required)
            .map(Some)
            .map_err(|e| format!("{option} {}: {e}", ca.display()))
    }

    fn connector(&self, reading: Reading) -> Result<DeviceTls, String> {
        let mut tls = DeviceTls::new();
        if let Some(ca) = &self.peers_ca {
            tls = tls
                .ca(certificates::read("--peers-ca", ca, reading)?)
                .map_err(|e| format!("--peers-ca {}: {e}", ca.display()))?;
        }
        // It is the listener's, which reports it itself.
        if let Some(identity) = self.pairs().default_again(reading)? {
            tls = tls.identity(identity);
        }
        Ok(tls)
    }

    /// The lines of the file of secrets. None of them is ever shown.
    fn secrets(&self, reading: Reading) -> Result<Option<Vec<String>>, String> {
        let Some(file) = &self.peer_secret else { return Ok(None) };
        let check = |line: &str| Peers::found_by(|_| Ok(None)).secrets([line]).map(drop);
        secrets::read(("--peer-secret", file), reading, check).map(Some)
    }

    /// The text for a mistake that concerns the whole file of secrets.
    fn of_secrets(&self, e: &Error) -> String {
        let file = self.peer_secret.as_deref().unwrap_or(Path::new(""));
        format!("--peer-secret {}: {e}", file.display())
    }

    fn table(&self, reading: Reading) -> Result<Table, String> {
        let Some(file) = self.table_file() else { return Ok(Table::new()) };
        let text = files::text(("--directory", file), TABLE_MAX, reading)?;
        // As a full disk leaves it: all devices elsewhere would be forgotten.
        if reading == Reading::Again && text.trim().is_empty() {
            return Err(format!(
                "--directory {}: the file is empty; one without names needs a comment (# nobody)",
                file.display()
            ));
        }
        let mut table = Table::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let wrong =
                |what: &str| format!("--directory {}, line {}: {what}", file.display(), number + 1);
            match (words.next(), words.next(), words.next()) {
                (None, ..) => {}
                (Some(name), Some(url), None) => {
                    // A bad URL is reported now, not at the first request.
                    let gateway = Peers::found_by(|_| Ok(None)).advertise(url);
                    gateway.map(drop).map_err(|e| wrong(&e.to_string()))?;
                    check_name(name).map_err(|e| wrong(&e))?;
                    if table.insert(name.to_owned(), url.to_owned()).is_some() {
                        return Err(wrong(&format!("{name} is there twice")));
                    }
                }
                _ => return Err(wrong("write a device's name and a gateway's URL")),
            }
        }
        Ok(table)
    }
}

/// Checks the first word of a line of the table: a name, an origin, or `*`.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let read = match name {
        OTHERS => return Ok(()),
        _ if name.contains("://") => Name::origin(name),
        _ => Name::label(name),
    };
    read.map(drop).map_err(|e| format!("device name {name}: {}", e.reason))
}

/// The state for other gateways while this one serves.
pub(crate) struct PeersInForce {
    table: Arc<RwLock<Table>>,
    /// The address of the listener, and the scheme of its URL.
    listening: Option<(SocketAddr, &'static str)>,
}

impl Cluster {
    /// Starts the listener for other gateways, if there is one.
    pub(crate) fn start(
        self,
        gateway: &Gateway,
        args: &PeersArgs,
    ) -> Result<PeersInForce, Failure> {
        let listening = match (&args.peers, self.tls) {
            (None, _) => None,
            (Some(address), Some(tls)) => Some((gateway.listen_peers_tls(address, tls)?, "https")),
            (Some(address), None) => Some((gateway.listen_peers(address)?, "http")),
        };
        Ok(PeersInForce { table: self.table, listening })
    }
}

impl PeersInForce {
    /// The URL of the ready line.
    pub(crate) fn url(&self) -> Option<String> {
        self.listening.map(|(at, scheme)| format!("{scheme}://{at}"))
    }

    /// Reads the files again; a file with a mistake changes nothing. `args` are those of the start;
    /// `new` are the current ones, which are used for the directory in Redis.
    pub(crate) fn read_again(&self, gateway: &Gateway, args: &PeersArgs, new: &PeersArgs) {
        let again = Reading::Again;
        if let Some((at, _)) = self.listening {
            reload_tls(gateway, "other gateways", at, args.listener_tls(again));
        }
        if let Some(file) = args.table_file() {
            match args.table(again) {
                Ok(table) => {
                    let lines = table.len();
                    *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
                    gateway.forget_peers(None);
                    log::info!("the directory was read from {}, lines: {lines}", file.display());
                }
                Err(e) => wrong!("{e}; the directory stays as it was"),
            }
        }
        let secrets = args.secrets(again).and_then(|secrets| {
            let Some(secrets) = secrets else { return Ok(None) };
            let count = secrets.len();
            gateway.set_peer_secrets(secrets).map_err(|e| args.of_secrets(&e))?;
            Ok(Some(count))
        });
        match secrets {
            Ok(None) => {}
            Ok(Some(count)) => log::info!("secrets of gateways were read again: {count}"),
            Err(e) => wrong!("{e}; the secrets stay as they were"),
        }
        follow_redis(gateway, args, new);
    }
}

/// Applies the current settings of the servers in Redis, and of the user, password and CA for them.
fn follow_redis(gateway: &Gateway, start: &PeersArgs, new: &PeersArgs) {
    let at = match (&start.directory, &new.directory) {
        (Some(Directory::Redis(_)), Some(Directory::Redis(at))) => at,
        (Some(Directory::Redis(_)), _) | (_, Some(Directory::Redis(_))) => {
            return log::warn!(
                "--directory: another kind of directory counts from the next start on"
            );
        }
        _ if start.table_file() != new.table_file() => {
            return log::warn!("--directory: another file counts from the next start on");
        }
        _ => return,
    };
    let set = new.check_directory().map_err(|e| e.text).and_then(|()| {
        let directory = new.redis(at, start, Reading::Again)?;
        gateway.set_directory(directory).map_err(|e| e.to_string())
    });
    match set {
        Ok(false) => log::debug!("the settings for the directory in Redis are as they were"),
        Ok(true) => log::info!(
            "the directory in Redis is used with other settings from now on (servers, user, password or CA)"
        ),
        Err(e) => wrong!(
            "the new settings for the directory in Redis do not work: {e}; it is used with the old ones, and the new ones are tried again when those fail"
        ),
    }
}
