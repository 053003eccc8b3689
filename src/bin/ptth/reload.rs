//! The files that a gateway reloads on SIGHUP, and the log lines about changes. If a file has an
//! error, its previous contents stay in force.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use reverse_http::tls::GatewayTls;
use reverse_http::{Error, Gateway, Limits, Tokens};

use crate::certificate_pairs::told;
use crate::config::{File, Merged, changes};
use crate::files::Reading;
use crate::gateway::{fixed_routes, limits_of, read_sign_in_keys};
use crate::gateway_arguments::GatewayArgs;
use crate::listeners::Listeners;
use crate::peers::PeersArgs;
use crate::{Cli, Command, environment, tokens};

/// The tables of tokens.
pub(crate) struct Tables {
    pub(crate) devices: Option<Tokens>,
    pub(crate) visitors: Option<Tokens>,
}

/// The number of errors that were reported since the last [`outcome`].
static MISTAKES: AtomicUsize = AtomicUsize::new(0);

/// Logs and counts an error of a reload.
macro_rules! wrong {
    ($($told:tt)*) => {{
        log::error!($($told)*);
        $crate::reload::count_mistake();
    }};
}
pub(crate) use wrong;

pub(crate) fn count_mistake() {
    MISTAKES.fetch_add(1, SeqCst);
}

/// The outcome of a reload, for operators.
pub(crate) fn outcome() -> String {
    match MISTAKES.swap(0, SeqCst) {
        0 => "read again, and in force".to_owned(),
        1 => "read again with a mistake; see the log".to_owned(),
        n => format!("read again with {n} mistakes; see the log"),
    }
}

/// The contents of the files when they were last read.
pub(crate) struct LastRead {
    tables: Tables,
    routes: BTreeMap<String, String>,
    /// The file's effective options: those that neither the command line nor the environment has.
    options: BTreeMap<String, String>,
    /// The limits in force.
    limits: Limits,
    /// The options about other gateways that the file said last, where it has changed.
    others: Option<PeersArgs>,
}

impl LastRead {
    pub(crate) fn new(tables: Tables, merged: &Merged, limits: Limits) -> Self {
        let routes = merged.file.as_ref().map(File::routes_by_key).unwrap_or_default();
        LastRead { tables, routes, options: merged.said.clone(), limits, others: None }
    }

    /// Reloads every file of the command line.
    pub(crate) fn read_again(
        &mut self,
        gateway: &Gateway,
        listeners: &mut Listeners,
        args: &GatewayArgs,
    ) {
        let (devices, visitors) = (listeners.devices_at(), listeners.visitors_at());
        reload_tls(gateway, "devices", devices, args.tls.devices(Reading::Again));
        reload_tls(gateway, "visitors", visitors, args.tls.visitors(Reading::Again));
        match &args.config {
            Some(path) => self.read_config(gateway, listeners, (path, args)),
            None if !args.reads_files() => log::info!(
                "SIGHUP: nothing to read again: no --config, tokens or certificates are given"
            ),
            None => {}
        }
        reload_tokens("--tokens", &args.tokens, self.tables.devices.as_mut(), |tokens| {
            gateway.set_tokens(tokens)
        });
        let before = self.tables.visitors.as_mut();
        reload_tokens("--visitor-tokens", &args.visitor_tokens, before, |tokens| {
            gateway.set_visitor_tokens(tokens)
        });
        let keys = read_sign_in_keys(args, Reading::Again).and_then(|keys| {
            let Some(keys) = keys else { return Ok(None) };
            gateway.set_sign_in_keys(&keys).map_err(|e| e.to_string())?;
            Ok(Some(keys.len()))
        });
        match keys {
            Ok(None) => {}
            Ok(Some(count)) => log::info!("keys of sign-ins were read again: {count}"),
            Err(e) => wrong!("{e}; the keys stay as they were"),
        }
    }

    /// The options about other gateways, as they are now.
    pub(crate) fn others<'a>(&'a self, start: &'a PeersArgs) -> &'a PeersArgs {
        self.others.as_ref().unwrap_or(start)
    }

    fn read_config(
        &mut self,
        gateway: &Gateway,
        listeners: &mut Listeners,
        (path, args): (&Path, &GatewayArgs),
    ) {
        let read = environment::parse_again::<Cli>().and_then(|(cli, merged)| {
            let (Command::Gateway(new), Some(file)) = (cli.command, merged.file) else {
                return Err(format!("--config {}: it is not named any more", path.display()));
            };
            let fixed = fixed_routes(&new).map_err(|e| e.text)?;
            let routes = file
                .routes(fixed, args.visitor_tokens.is_some())
                .map_err(|e| format!("--config {e}"))?;
            Ok((new, file, merged.said, routes))
        });
        let (new, file, options, routes) = match read {
            Ok(read) => read,
            Err(e) => {
                return wrong!("{e}; the routes stay as they were, and so do listeners and limits");
            }
        };
        for at in listeners.with_routes() {
            if let Err(e) = gateway.set_routes(at, routes.clone()) {
                return wrong!("--config {}: {e}; the routes stay as they were", path.display());
            }
        }
        let by_key = file.routes_by_key();
        let (length, what) = (routes.table_len(), changes(&self.routes, &by_key));
        log::info!("{} from {}: {what}", were_read(length, "route"), path.display());
        self.routes = by_key;
        let part = |all| of_these(all, |name| ROUTES.contains(&name));
        let (before, now) = (part(&self.options), part(&options));
        if before != now {
            log::info!("options of routes: {}; they count from now on", changes(&before, &now));
        }
        self.follow_limits(gateway, &new, &options);
        listeners.follow(gateway, args, &new, &routes);
        self.others = Some(new.others);
        self.tell_others(path, &options);
        self.options = options;
    }

    fn follow_limits(
        &mut self,
        gateway: &Gateway,
        new: &GatewayArgs,
        options: &BTreeMap<String, String>,
    ) {
        let limits = match limits_of(new) {
            Ok(limits) if limits == self.limits => return,
            Ok(limits) => limits,
            Err(e) => return wrong!("{}; the limits stay as they were", e.text),
        };
        match gateway.set_limits(limits.clone()) {
            Ok(()) => {
                let part = |all| of_these(all, |name| LIMITS.contains(&name));
                let what = changes(&part(&self.options), &part(options));
                log::info!("limits and timeouts: {what}; they count from now on");
                self.limits = limits;
            }
            Err(e) => wrong!("{e}; the limits stay as they were"),
        }
    }

    /// Reports changed options that take effect only at the next start.
    fn tell_others(&self, path: &Path, options: &BTreeMap<String, String>) {
        let known = |name: &str| {
            [&LIMITS[..], &ADDRESSES, &ROUTES, &DIRECTORY].iter().any(|names| names.contains(&name))
        };
        let part = |all| of_these(all, |name| !known(name));
        let (before, now) = (part(&self.options), part(options));
        if before != now {
            log::warn!(
                "{}: options of [gateway] count from the next start on: {}",
                path.display(),
                changes(&before, &now)
            );
        }
    }
}

/// Options whose new values take effect at once: those that [`limits_of`] reads.
const LIMITS: [&str; 20] = [
    "connections",
    "connections-per-address",
    "unauthenticated",
    "memory",
    "heartbeat",
    "heartbeat-timeout",
    "poll-hold",
    "wait-for-link",
    "first-byte",
    "min-rate",
    "half-close",
    "head",
    "idle-visitor",
    "handshake",
    "request-write",
    "body-silence",
    "exchange",
    "tunnel-silence",
    "in-flight",
    "waiting",
];

/// Options whose new values take effect at once with the routes of the file: those that
/// [`fixed_routes`] reads.
const ROUTES: [&str; 7] =
    ["route", "rewrite-paths", "sign-in", "rate", "rate-per-token", "burst", "health-path"];

/// Options with the addresses of listeners.
const ADDRESSES: [&str; 3] = ["devices", "visitors", "admin"];

/// Options about the directory in Redis whose new values count at once.
const DIRECTORY: [&str; 4] = ["directory", "directory-user", "directory-password", "directory-ca"];

/// Some of the options.
fn of_these(
    all: &BTreeMap<String, String>,
    is_one: impl Fn(&str) -> bool,
) -> BTreeMap<String, String> {
    let some = all.iter().filter(|(name, _)| is_one(name));
    some.map(|(name, said)| (name.clone(), said.clone())).collect()
}

/// New handshakes use the new certificates; if a file cannot be read, the old ones stay.
pub(crate) fn reload_tls(
    gateway: &Gateway,
    whose: &str,
    at: SocketAddr,
    read: Result<Option<GatewayTls>, String>,
) {
    match read.and_then(|tls| {
        let Some(tls) = tls else { return Ok(None) };
        let told = told(tls.identities());
        gateway.set_tls(at, tls).map(|()| Some(told)).map_err(|e| e.to_string())
    }) {
        Ok(None) => {}
        Ok(Some(told)) => log::info!("the certificates for {whose} were read again: {told}"),
        Err(e) => wrong!("{e}; the certificates for {whose} stay as they were"),
    }
}

/// The table in the file of an option.
pub(crate) fn read_tokens(option: &str, file: &Path, reading: Reading) -> Result<Tokens, String> {
    tokens::read(file, reading).map_err(|e| format!("{option} {e}"))
}

/// `1 route was read`, `no routes were read`.
fn were_read(count: usize, noun: &str) -> String {
    match count {
        0 => format!("no {noun}s were read"),
        1 => format!("1 {noun} was read"),
        _ => format!("{count} {noun}s were read"),
    }
}

/// Reloads the file of an option; an error in it changes nothing. `before` is the previous table,
/// if the caller keeps it.
pub(crate) fn reload_tokens(
    option: &str,
    file: &Option<PathBuf>,
    before: Option<&mut Tokens>,
    set: impl FnOnce(Tokens) -> Result<(), Error>,
) {
    let Some(file) = file else { return };
    let replaced = read_tokens(option, file, Reading::Again)
        .and_then(|tokens| set(tokens.clone()).map(|()| tokens).map_err(|e| e.to_string()));
    match replaced {
        Ok(tokens) => {
            let what = before.as_ref().map(|before| tokens.changes_since(before));
            let what = what.map(|what| format!(": {what}")).unwrap_or_default();
            log::info!("{} from {}{what}", were_read(tokens.len(), "token"), file.display());
            before.into_iter().for_each(|before| *before = tokens.clone());
        }
        Err(e) => wrong!("{e}; the tokens stay as they were"),
    }
}
