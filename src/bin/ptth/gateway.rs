//! `ptth gateway`: makes a gateway from the options, which serves until a signal, and reloads its
//! files on SIGHUP.

use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use reverse_http::gateway::GatewayBuilder;
use reverse_http::proto::dialect::Dialect;
use reverse_http::text::counted;
use reverse_http::tls::GatewayTls;
use reverse_http::{Gateway, Limits, Routes, Tokens};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::access_log::AccessLog;
use crate::addresses::{is_loopback, refuse_absent, refuse_same};
use crate::arguments::Offered;
use crate::config::Merged;
use crate::contradictions;
use crate::files::{Again, Reading};
use crate::gateway_arguments::{EdgeArgs, GatewayArgs};
use crate::listeners::Listeners;
use crate::output::print_line;
use crate::peers::Cluster;
use crate::reload::{LastRead, Tables, outcome, read_tokens};
use crate::secrets;
use crate::signals::{SIGNALS, ends_of};
use crate::supervise::Supervisor;
use crate::{Failure, failed, usage};

/// Serves until a signal, or only checks the options.
pub(crate) fn run(args: GatewayArgs, merged: &Merged) -> Result<(), Failure> {
    let prepared = Prepared::of(&args, merged)?;
    if args.check {
        prepared.builder.check()?;
        args.admin.tokens(Reading::First)?;
        args.access_log.check()?;
        refuse_absent(&listening(&args, &args))?;
        return print_line("the options, and the files that they name, are valid");
    }
    let access_log = args.access_log.open()?;
    // Until here a signal ends the process, even if a file hangs.
    let told = watch(Signals::new(SIGNALS).map_err(failed)?);
    let gateway = Arc::new(prepared.builder.start()?);
    let mut access_log = access_log.map(|log| log.start(&gateway)).transpose()?;
    let visitors = match prepared.visitors_tls {
        Some(tls) => gateway.listen_visitors_tls(&args.visitors, prepared.table, tls)?,
        None => gateway.listen_visitors(&args.visitors, prepared.table)?,
    };
    let peers =
        prepared.cluster.map(|cluster| cluster.start(&gateway, &args.others)).transpose()?;
    let listeners = Listeners::start(&gateway, &args, visitors, (prepared.schemes, peers))?;
    let admin = listeners.admin();
    listeners.say();
    listeners.tell_configuration("read at the start");
    let supervisor = Supervisor::of_environment();
    supervisor.ready(listeners.serving());
    let watched = gateway.clone();
    supervisor.watch(move |time| watched.ping(time).is_ok());
    let (notice, time) = (args.drain_notice, args.drain_timeout);
    let again = {
        let (gateway, supervisor) = (gateway.clone(), supervisor.clone());
        let reopen = access_log.as_ref().map(AccessLog::reopen_flag);
        let state = Mutex::new((prepared.last_read, listeners));
        Again::start("ptth-reload", move || {
            supervisor.reloading();
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let (last_read, listeners) = &mut *state;
            last_read.read_again(&gateway, listeners, &args);
            listeners.read_others_again(&gateway, &args, last_read.others(&args.others));
            listeners.tell_configuration(&outcome());
            reopen.iter().for_each(|again| again.store(true, SeqCst));
            supervisor.ready(listeners.serving());
        })
    };
    let signal = until_stopped(&gateway, &told, &again.map_err(failed)?, access_log.as_mut())?;
    // With Ctrl-C there is no load balancer to wait for.
    let notice = if signal == SIGINT { Duration::ZERO } else { notice };
    drain(&gateway, told, &supervisor, notice, time);
    drop(admin.lock().unwrap_or_else(PoisonError::into_inner).take());
    access_log.into_iter().for_each(|log| log.finish(&gateway));
    Ok(())
}

/// The contents of options and files, read and validated before anything is bound.
struct Prepared {
    builder: GatewayBuilder,
    /// The routes of the file, followed by those of `--route`.
    table: Routes,
    last_read: LastRead,
    visitors_tls: Option<GatewayTls>,
    /// The schemes of the devices' and the visitors' URLs.
    schemes: (&'static str, &'static str),
    /// Other gateways.
    cluster: Option<Cluster>,
}

impl Prepared {
    fn of(args: &GatewayArgs, merged: &Merged) -> Result<Self, Failure> {
        check_addresses(args, args)?;
        args.admin.check()?;
        contradictions::of_gateway(args, merged);
        let fixed = fixed_routes(args)?;
        let (first, knows_visitors) = (Reading::First, args.visitor_tokens.is_some());
        let table = match &merged.file {
            Some(file) => {
                file.routes(fixed, knows_visitors).map_err(|e| usage(format!("--config {e}")))?
            }
            None => fixed,
        };
        let limits = limits_of(args)?;
        let (devices_tls, visitors_tls) =
            (args.tls.devices(first).map_err(usage)?, args.tls.visitors(first).map_err(usage)?);
        let scheme = |secure: bool| if secure { "https" } else { "http" };
        let schemes = (scheme(devices_tls.is_some()), scheme(visitors_tls.is_some()));
        let builder = match devices_tls {
            Some(tls) => Gateway::builder().listen_tls(&args.devices, tls),
            None => Gateway::builder().listen(&args.devices),
        };
        let in_force = limits.clone();
        let builder = with_offers(builder.limits(limits), args)?;
        let tables = read_tables(args)?;
        let builder = with_access(builder, args, &tables)?
            .keep_underscore(args.leniency.keep_underscore)
            .forwarded(args.forwarded)
            .observe(args.admin.is_on() || args.access_log.is_on());
        let builder = match args.loops {
            Some(loops) => builder.loops(loops),
            None => builder,
        };
        let builder = match &args.via {
            Some(via) => builder.via(via),
            None => builder,
        };
        let builder = match &args.drain_to {
            Some(origin) => builder.drain_to(origin),
            None => builder,
        };
        let cluster = args.others.read()?;
        let builder = match &cluster {
            Some(cluster) => builder.peers(cluster.peers.clone()),
            None => builder,
        };
        let last_read = LastRead::new(tables, merged, in_force);
        Ok(Prepared { builder, table, last_read, visitors_tls, schemes, cluster })
    }
}

/// Refuses addresses where anybody could register, two listeners at one address (of devices,
/// visitors, operators, other gateways), and a wrong URL for other gateways. `new` has the
/// listeners' addresses, and `args` the other options in force.
pub(crate) fn check_addresses(args: &GatewayArgs, new: &GatewayArgs) -> Result<(), Failure> {
    let devices = &new.devices;
    if args.tokens.is_none()
        && !args.tls.know_devices()
        && !args.leniency.insecure_anyone_may_register
        && !is_loopback(("--devices", devices))?
    {
        return Err(usage(format!(
            "--devices {devices}: beyond loopback every peer could register any name. Say who may with --tokens FILE (ptth token NAME makes its lines) or \
             --devices-client-ca FILE, or accept it with --insecure-anyone-may-register"
        )));
    }
    let listening = listening(args, new);
    refuse_same(&listening)?;
    args.others.check_advertised(&listening)
}

/// Every address of a gateway, by its option. The listener for other gateways stays at its first
/// address.
fn listening<'a>(args: &'a GatewayArgs, new: &'a GatewayArgs) -> Vec<(&'static str, &'a str)> {
    let admin = new.admin.address().map(|admin| ("--admin", admin));
    let peers = args.others.address().map(|peers| ("--peers", peers));
    let sides = [("--devices", new.devices.as_str()), ("--visitors", &new.visitors)];
    sides.into_iter().chain(admin).chain(peers).collect()
}

/// Sets which offers are accepted, and when they are answered.
fn with_offers(builder: GatewayBuilder, args: &GatewayArgs) -> Result<GatewayBuilder, Failure> {
    let mut builder = builder.fallback(args.fallback.into()).shared_names(args.shared_names);
    for (name, mode) in &args.turn {
        builder = match name {
            Some(name) => builder.turn_of(name, *mode),
            None => builder.turn(*mode),
        };
    }
    for dialect in &args.dialect {
        // The names are those of `ptth device --dialect`.
        let known = match Offered::from_str(dialect, false) {
            Ok(named) => Ok(named.into()),
            Err(_) => Dialect::custom(dialect),
        };
        builder = builder
            .dialect(known.map_err(|e| usage(format!("--dialect {dialect}: {}", e.reason)))?);
    }
    for origin in &args.cors_origin {
        builder = builder.cors_origin(origin);
    }
    Ok(builder
        .missing_host(args.leniency.missing_host)
        .strict_connection(args.leniency.strict_connection))
}

/// The tables of tokens that the options name.
fn read_tables(args: &GatewayArgs) -> Result<Tables, Failure> {
    let read = |option, file: &Option<PathBuf>| {
        let read = file.as_ref().map(|file| read_tokens(option, file, Reading::First));
        read.transpose().map_err(usage)
    };
    Ok(Tables {
        devices: read("--tokens", &args.tokens)?,
        visitors: read("--visitor-tokens", &args.visitor_tokens)?,
    })
}

/// The keys of sign-ins in a file.
pub(crate) fn read_sign_in_keys(
    args: &GatewayArgs,
    reading: Reading,
) -> Result<Option<Vec<String>>, String> {
    let Some(file) = &args.edge.sign_in_key else { return Ok(None) };
    if args.visitor_tokens.is_none() {
        return Err(
            "--sign-in-key goes with --visitor-tokens: one of those is signed in with".into()
        );
    }
    let named = ("--sign-in-key", file.as_path());
    let check = |keys: &[&str]| {
        let builder = Gateway::builder().visitor_tokens(Tokens::default());
        builder.sign_in_keys(keys).check()
    };
    let keys = secrets::read(named, reading, |line| check(&[line]))?;
    let all: Vec<&str> = keys.iter().map(String::as_str).collect();
    check(&all).map_err(|e| format!("--sign-in-key {}: {e}", file.display()))?;
    Ok(Some(keys))
}

/// Sets admission and trusted proxies.
fn with_access(
    mut builder: GatewayBuilder,
    args: &GatewayArgs,
    tables: &Tables,
) -> Result<GatewayBuilder, Failure> {
    if let Some(tokens) = &tables.devices {
        builder = builder.tokens(tokens.clone());
    }
    if let Some(tokens) = &tables.visitors {
        builder = builder.visitor_tokens(tokens.clone());
    }
    if let Some(keys) = read_sign_in_keys(args, Reading::First).map_err(usage)? {
        builder = builder.sign_in_keys(keys);
    }
    Ok(builder
        .trusted_proxies(&args.trusted_proxies)
        .devices_allow(&args.devices_allow)
        .visitors_allow(&args.visitors_allow)
        .devices_proxy_protocol(&args.devices_proxy_protocol)
        .visitors_proxy_protocol(&args.visitors_proxy_protocol))
}

/// Stops the gateway, and returns when that is complete. A signal within the notice ends the
/// notice, a later one ends the process.
fn drain(
    gateway: &Arc<Gateway>,
    told: mpsc::Receiver<i32>,
    supervisor: &Supervisor,
    notice: Duration,
    time: Duration,
) {
    let says = match notice.is_zero() {
        true => format!("stopping; requests in progress have {time:?} to finish"),
        false => format!(
            "stopping; it serves on for {notice:?}, then requests in progress have {time:?} to finish"
        ),
    };
    log::info!("{says}");
    supervisor.stopping(says);
    let (hurried, ends) = (gateway.clone(), Instant::now() + notice);
    std::thread::spawn(move || {
        while let Ok(signal) = told.recv_timeout(ends.saturating_duration_since(Instant::now())) {
            if signal == SIGUSR1 {
                log_state(&hurried);
            } else if signal != SIGHUP {
                log::info!("stopping without further notice");
                drop(told); // from now on a signal ends the process
                return hurried.drain(time);
            }
        }
    });
    gateway.drain_with_notice(notice, time);
}

/// The limits from the options.
pub(crate) fn limits_of(args: &GatewayArgs) -> Result<Limits, Failure> {
    let mut limits = Limits::default();
    limits.connections_max = affordable(args.connections)?;
    limits.memory_bytes_max = usize::try_from(args.memory).unwrap_or(usize::MAX);
    limits.messages_bytes_max = limits.messages_bytes_max.min(limits.memory_bytes_max / 2);
    limits.message_bytes_max = limits.message_bytes_max.min(limits.messages_bytes_max / 4); // a message in JSON takes several times its length
    // Zero means: derived from the total, which may have been lowered.
    limits.connections_per_address_max = args.connections_per_address.unwrap_or_default();
    limits.unauthenticated_max = args.unauthenticated.unwrap_or_default();
    (limits.heartbeat, limits.heartbeat_timeout, limits.poll_hold) =
        (args.heartbeat, args.heartbeat_timeout, args.poll_hold);
    (limits.wait_for_link, limits.first_byte_timeout) = (args.wait_for_link, args.first_byte);
    limits.min_rate_bytes_per_s = args.min_rate;
    if args.half_close {
        limits.half_close_timeout = Duration::ZERO;
    }
    (limits.head_timeout, limits.idle_visitor_timeout) = (args.head, args.idle_visitor);
    limits.handshake_timeout = args.handshake;
    (limits.request_write_timeout, limits.body_silence_timeout) =
        (args.request_write, args.body_silence);
    (limits.exchange_timeout, limits.tunnel_silence_timeout) = (args.exchange, args.tunnel_silence);
    (limits.in_flight_per_device_max, limits.waiting_per_device_max) =
        (args.in_flight, args.waiting);
    Ok(limits)
}

/// Descriptors for other purposes than connections (listeners, the loop, standard streams, files):
/// a quarter, within these bounds.
const DESCRIPTORS_RESERVED: std::ops::RangeInclusive<u64> = 16..=64;

/// This number of connections, or as many as the descriptors allow, which is logged once. So
/// existing connections are served, and only accepting waits.
fn affordable(wanted: usize) -> Result<usize, Failure> {
    let descriptors = rlimit::Resource::NOFILE.get_soft().map_err(failed)?;
    let reserved =
        (descriptors / 4).clamp(*DESCRIPTORS_RESERVED.start(), *DESCRIPTORS_RESERVED.end());
    let most = usize::try_from(descriptors.saturating_sub(reserved)).unwrap_or(usize::MAX);
    if most < 4 {
        return Err(failed(format_args!(
            "the limit of open files is {descriptors}, too low to serve anybody; raise it (ulimit -n)"
        )));
    }
    if most < wanted {
        // The default was not requested explicitly, and thousands of descriptors are enough.
        let level = if wanted == Limits::default().connections_max && most >= 4_096 {
            log::Level::Debug
        } else {
            log::Level::Warn
        };
        log::log!(
            level,
            "the limit of open files ({descriptors}) allows {most} connections, not {wanted}; raise it (ulimit -n) for more"
        );
    }
    Ok(wanted.min(most))
}

/// The routes of `--route`, with the options for it.
pub(crate) fn fixed_routes(args: &GatewayArgs) -> Result<Routes, Failure> {
    let routes = args.route.iter().try_fold(Routes::default(), |routes, route| {
        match route.split_once('=') {
            None if route == "path" => Ok(routes.and_path()),
            None if route == "none" => Ok(routes),
            Some(("host", suffix)) => Ok(routes.and_host(suffix)?),
            _ => Err(usage(format!("--route {route}: write path, host=SUFFIX, or none"))),
        }
    })?;
    if args.route.len() > 1 && args.route.iter().any(|route| route == "none") {
        return Err(usage(
            "--route none goes with no other --route: it says that no request names a device by itself",
        ));
    }
    if args.edge.rewrite_paths && !args.route.iter().any(|route| route == "path") {
        return Err(usage(
            "--rewrite-paths goes with --route path: elsewhere nothing is taken off a path",
        ));
    }
    if args.edge.sign_in && args.visitor_tokens.is_none() {
        return Err(usage("--sign-in goes with --visitor-tokens: it asks for one of those"));
    }
    let routes = routes.rewrite_paths(args.edge.rewrite_paths).sign_in(args.edge.sign_in);
    let routes = with_rates(routes, args)?;
    Ok(match &args.health_path {
        Some(path) => routes.health_path(path)?,
        None => routes,
    })
}

/// The rates of --rate and similar options.
fn with_rates(mut routes: Routes, args: &GatewayArgs) -> Result<Routes, Failure> {
    let EdgeArgs { rate, rate_per_token, burst, .. } = &args.edge;
    if rate_per_token.is_some() && args.visitor_tokens.is_none() {
        return Err(usage("--rate-per-token goes with --visitor-tokens"));
    }
    if let Some(rate) = rate {
        routes = routes.rate(*rate);
    }
    if let Some(rate) = rate_per_token {
        routes = routes.rate_per_token(*rate);
    }
    let Some(burst) = burst else { return Ok(routes) };
    if rate.is_none() && rate_per_token.is_none() {
        return Err(usage("--burst goes with --rate or --rate-per-token"));
    }
    Ok(routes.burst(*burst)?)
}

/// Reports signals as long as there is a receiver; after that SIGTERM or SIGINT ends the process at
/// once.
fn watch(mut signals: Signals) -> mpsc::Receiver<i32> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if tell.send(signal).is_err() && matches!(signal, SIGTERM | SIGINT) {
                std::process::exit(1);
            }
        }
    });
    told
}

/// Returns SIGTERM or SIGINT when it arrives. No file is read here, so no signal has to wait.
fn until_stopped(
    gateway: &Gateway,
    told: &mpsc::Receiver<i32>,
    reload: &Again,
    mut access_log: Option<&mut AccessLog>,
) -> Result<i32, Failure> {
    loop {
        access_log.iter_mut().for_each(|log| log.tell_lost(gateway));
        match told.recv_timeout(Duration::from_secs(1)) {
            Ok(SIGHUP) => reload.ask(),
            Ok(SIGUSR1) => log_state(gateway),
            Ok(signal) => return Ok(signal),
            Err(_) if !gateway.is_running() => {
                return Err(failed("the gateway's event loop ended; the log says why"));
            }
            Err(_) => {}
        }
    }
}

/// SIGUSR1: logs one line about the state.
fn log_state(gateway: &Gateway) {
    let stats = gateway.stats();
    log::info!(
        "state: {} connected, {} held; since the start {}, {}, {}, {}, {} ended ({})",
        counted(stats.devices as u64, "device"),
        counted(stats.polls as u64, "poll"),
        counted(stats.turns, "turn"),
        counted(stats.events, "event"),
        counted(stats.exchanges, "exchange"),
        counted(stats.refused, "refusal"),
        counted(stats.closed.total(), "link"),
        ends_of(&stats.closed)
    );
}

impl GatewayArgs {
    /// Returns true if files are given that SIGHUP reads again.
    pub(crate) fn reads_files(&self) -> bool {
        self.config.is_some()
            || self.tokens.is_some()
            || self.visitor_tokens.is_some()
            || self.edge.sign_in_key.is_some()
            || self.admin.reads_files()
            || self.others.reads_files()
            || self.access_log.is_file()
            || self.tls.are_given()
    }
}
