//! `ptth device`: makes a device from the options, which answers its gateway's requests until a
//! signal.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use reverse_http::device::{DeviceBuilder, LocalServer};
use reverse_http::text::counted;
use reverse_http::{
    Body, Device, DeviceEvent, DeviceEventKind, DeviceHandle, Encoding, Limits, OnRefusal,
};
use signal_hook::consts::{SIGHUP, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::arguments::{Comet, DeviceArgs, Offered, Polling, ServiceArgs};
use crate::config::Merged;
use crate::contradictions;
use crate::device_status::DeviceStatus;
use crate::files::{Again, Reading};
use crate::local_servers::{self, is_any_secure, is_secure, said_of_all};
use crate::output::{print_line, say};
use crate::signals::{SIGNALS, ends_of, exit_on_second};
use crate::supervise::Supervisor;
use crate::{Failure, certificates, failed, files, proxy, usage};

/// Runs until a signal, or until there is no gateway left to try.
pub(crate) fn run(args: DeviceArgs, merged: &Merged) -> Result<(), Failure> {
    check_combinations(&args)?;
    contradictions::of_device(&args, merged);
    let stamps = certificates::stamps(&args.tls, &args.local);
    let (device, servers) = (builder(&args)?.build()?, local_servers::of(&args)?);
    if args.check {
        return check_service(&device, servers, &args.service);
    }
    let signals = Signals::new(SIGNALS).map_err(failed)?;
    let events = device.events();
    let handle = serve(device, servers, args.service)?;
    // It is ready at once: an unreachable gateway is not an error of this process, and units that
    // depend on it need not wait.
    let supervisor = Supervisor::of_environment();
    supervisor.ready(format_args!("connecting to {}", args.url));
    let watched = handle.clone();
    supervisor.watch(move |time| watched.ping(time).is_ok());
    let status = args.status.as_deref().map(DeviceStatus::start).transpose()?;
    let reporter = report(events, supervisor.clone(), status.clone());
    let given = (args.tls, args.local);
    let files = Arc::new(certificates::InForce::new(given, stamps, handle.clone()));
    let again = {
        let (files, running, supervisor) = (files.clone(), handle.clone(), supervisor.clone());
        Again::start("ptth-reload", move || {
            supervisor.reloading();
            files.read_again();
            running.retry_now();
            log::info!("SIGHUP: dialling now");
            supervisor.reloaded();
        })
    };
    let again = again.map_err(failed)?;
    files.watch().map_err(failed)?;
    let (running, drain) = (handle.clone(), args.drain_timeout);
    std::thread::spawn(move || handle_signals(signals, &running, &again, &supervisor, drain));
    let ended = handle.wait();
    drop(reporter.join()); // its last lines are written
    status.iter().for_each(DeviceStatus::stopped);
    Ok(ended?)
}

/// Refuses options that mean nothing without another one.
fn check_combinations(args: &DeviceArgs) -> Result<(), Failure> {
    if !args.origin.is_empty() && !matches!(args.dialect, Offered::Ietf) {
        return Err(usage(
            "--origin goes with --dialect ptth; other devices are named by the URL's path",
        ));
    }
    local_servers::check(args)?;
    if !args.tcp.is_empty() && matches!(args.fallback, Polling::Only) {
        return Err(usage(
            "--tcp takes links, and --fallback only does without: a device that polls cannot do it; omit one of them",
        ));
    }
    args.status.as_deref().map_or(Ok(()), DeviceStatus::check)?;
    if args.failover && args.gateway.is_empty() {
        return Err(usage("--failover goes with --gateway: it takes a second gateway to go to"));
    }
    Ok(())
}

fn limits_of(args: &DeviceArgs) -> Limits {
    let mut limits = Limits::default();
    (limits.silence, limits.turn_retry, limits.doubt_after) =
        (args.silence, args.turn_retry, args.doubt_after);
    (limits.local_connections_max, limits.local_keep_alive) =
        (said_of_all(&args.to_connections).copied().unwrap_or(0), args.to_keep_alive);
    (limits.resolve_timeout, limits.connect_timeout, limits.proxy_timeout) =
        (args.resolve_timeout, args.connect_timeout, args.proxy_timeout);
    (limits.local_first_byte_timeout, limits.local_silence_timeout) =
        (args.first_byte, args.to_silence);
    limits
}

fn builder(args: &DeviceArgs) -> Result<DeviceBuilder, Failure> {
    let mut builder = Device::builder(&args.url)
        .links(args.links.clone())
        .dialect(args.dialect.into())
        .limits(limits_of(args))
        .backoff(args.backoff.0..args.backoff.1)
        .fallback(args.fallback.into())
        .polls(args.polls.clone())
        .failover(args.failover)
        .whole_target(true)
        .field("User-Agent", concat!("ptth/", env!("CARGO_PKG_VERSION")))
        .on_refusal(args.on_refusal.map_or(OnRefusal::Stop, Into::into));
    for url in &args.gateway {
        builder = builder.gateway(url);
    }
    for host in &args.redirect_hosts {
        builder = builder.redirect_host(host);
    }
    if let Some(attempts) = args.max_retries {
        builder = builder.max_retries(attempts);
    }
    let gateways: Vec<&str> =
        std::iter::once(&args.url).chain(&args.gateway).map(String::as_str).collect();
    builder = proxy::set(builder, args.proxy.as_deref(), &gateways)?;
    builder = secured(builder, args, gateways.iter().any(|url| is_secure(url)))?;
    match args.comet {
        Some(Comet::Json) => builder = builder.poll_encoding(Encoding::Json),
        Some(Comet::Message) => builder = builder.poll_encoding(Encoding::Message),
        None => {}
    }
    for origin in &args.origin {
        builder = builder.origin(origin);
    }
    if let Some(token) = token(args.token_file.as_deref(), "--token-file", "PTTH_TOKEN")? {
        builder = builder.bearer_token(token);
    }
    for (name, place) in &args.tcp {
        builder = builder.tcp(name, place);
    }
    local_servers::set(builder, args)
}

/// Sets how gateways and local servers are verified.
fn secured(
    mut builder: DeviceBuilder,
    args: &DeviceArgs,
    gateway_is_secure: bool,
) -> Result<DeviceBuilder, Failure> {
    let local_is_secure = is_any_secure(args);
    if let Some(tls) = args.tls.tls(Reading::First).map_err(usage)? {
        match gateway_is_secure {
            true => builder = builder.tls(tls),
            false if local_is_secure && args.tls.has_clock_floor_alone() => {}
            false => {
                return Err(usage(
                    "--ca, --pin, --cert, --key and --clock-floor go with a gateway at https://",
                ));
            }
        }
    }
    if args.local.are_insecure() {
        log::warn!(
            "--to-insecure: the local server's certificate is not checked, so an attacker between can read and change everything; --to-pin is as short and safe"
        );
    }
    let floor = args.tls.clock_floor().filter(|_| local_is_secure);
    if let Some(tls) = args.local.tls(Reading::First, floor).map_err(usage)? {
        builder = builder.local_tls(tls);
    }
    Ok(builder)
}

/// `--check`: validates the local servers and directories.
fn check_service(
    device: &Device,
    servers: Vec<LocalServer>,
    service: &ServiceArgs,
) -> Result<(), Failure> {
    if !servers.is_empty() {
        device.check_forward(servers)?;
    }
    if let Some(path) = &service.dir {
        device.check_dir(path)?;
    }
    print_line("the options, and the files that they name, are valid")?;
    Ok(())
}

/// Starts the device with its local servers, directory or text.
fn serve(
    device: Device,
    servers: Vec<LocalServer>,
    service: ServiceArgs,
) -> Result<DeviceHandle, Failure> {
    Ok(match (service.dir, service.text) {
        _ if !servers.is_empty() => device.spawn_forward(servers)?,
        (Some(dir), _) => device.spawn_dir(dir)?,
        (None, Some(text)) => device.spawn(answer_with_text(text))?,
        (None, None) => device.spawn(|_| nothing_but_tcp())?,
    })
}

/// Reports to standard output and to the supervisor how the device is connected.
fn report(
    events: impl IntoIterator<Item = DeviceEvent> + Send + 'static,
    supervisor: Supervisor,
    status: Option<DeviceStatus>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for event in events {
            status.iter().for_each(|status| status.note(&event));
            match event.kind {
                DeviceEventKind::Connected => {
                    supervisor.status(format_args!("connected {} via {}", event.name, event.url));
                    say(format_args!(
                        "connected {} via {} ({})",
                        event.name, event.url, event.detail
                    ));
                }
                DeviceEventKind::Waiting => {
                    supervisor.status(format_args!("waiting for {}", event.url));
                    say(format_args!("waiting {} via {}", event.name, event.url));
                }
                _ => {} // the library has logged it
            }
        }
    })
}

/// Handles signals until one of them ends the device.
fn handle_signals(
    mut signals: Signals,
    device: &DeviceHandle,
    again: &Again,
    supervisor: &Supervisor,
    drain: Duration,
) {
    for signal in signals.forever() {
        match signal {
            SIGHUP => again.ask(),
            SIGUSR1 => log_device_state(device),
            _ => {
                let says = format!("stopping; requests in progress have {drain:?} to finish");
                log::info!("{says}");
                supervisor.stopping(says);
                exit_on_second(signals);
                return device.drain(drain);
            }
        }
    }
}

/// The answer of a device that has only TCP targets to every other request.
fn nothing_but_tcp() -> http::Response<Body> {
    let text = "this device has TCP targets alone (ptth connect)\n";
    let mut response = http::Response::new(Body::from(text.as_bytes().to_vec()));
    *response.status_mut() = http::StatusCode::NOT_FOUND;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    response
}

/// A handler that answers every request with this text.
pub(crate) fn answer_with_text(
    text: String,
) -> impl Fn(http::Request<Body>) -> http::Response<Body> {
    let text: Arc<[u8]> = text.into_bytes().into();
    move |_| {
        let mut response = http::Response::new(Body::from(text.to_vec()));
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
        response
    }
}

fn log_device_state(device: &DeviceHandle) {
    let stats = device.stats();
    let transport = stats.transport.map_or_else(
        || "not connected".to_owned(),
        |transport| format!("connected by {transport}"),
    );
    log::info!(
        "state: {transport}, {} ({} busy), {}, {}; since the start {}, {} ended ({})",
        counted(stats.links as u64, "link"),
        stats.busy,
        counted(stats.polls as u64, "poll"),
        counted(stats.dialing as u64, "dial"),
        counted(stats.exchanges, "exchange"),
        counted(stats.closed.total(), "link"),
        ends_of(&stats.closed)
    );
}

/// Longest file with a token that is read, in bytes.
const TOKEN_FILE_MAX: u64 = 64 * 1024;

/// The token of a file, or of the environment.
pub(crate) fn token(
    file: Option<&str>,
    option: &str,
    variable: &str,
) -> Result<Option<String>, Failure> {
    let told = |file: &str, what: &dyn Display| usage(format!("{option} {file}: {what}"));
    let text = match file {
        Some("-") => files::line_of_stdin().map_err(|what| told("-", &what))?,
        Some(path) => {
            let bytes = files::read(Path::new(path), TOKEN_FILE_MAX, Reading::First)
                .map_err(|what| told(path, &what))?;
            String::from_utf8(bytes)
                .map_err(|_| told(path, &"there are bytes that are not UTF-8"))?
        }
        None => match std::env::var(variable) {
            Ok(token) => token,
            Err(std::env::VarError::NotPresent) => return Ok(None),
            Err(e) => return Err(usage(format!("{variable}: {e}"))),
        },
    };
    let from = file.map_or(variable.to_owned(), |file| format!("{option} {file}"));
    match text.trim_start_matches('\u{feff}').trim() {
        "" => Err(usage(format!("{from}: the token is empty; omit it, or give one"))),
        text if text.lines().any(is_line_of_gateway) => Err(usage(format!(
            "{from}: this is a line of a gateway's file of tokens (HASH NAMES); give the token, the first line of what ptth token prints"
        ))),
        token if token.contains(['\r', '\n']) => Err(usage(format!(
            "{from}: there is more than one line; a token is one line (of what ptth token prints it is the first)"
        ))),
        token if token.contains(char::is_whitespace) => Err(usage(format!(
            "{from}: there is a blank in the token; give the token alone, one word"
        ))),
        token => Ok(Some(token.to_owned())),
    }
}

/// Returns true if this is a line of a gateway's token file: a SHA-256, and names.
fn is_line_of_gateway(line: &str) -> bool {
    const DIGITS: usize = 64;
    let mut words = line.split_whitespace();
    let is_hash =
        |word: &str| word.len() == DIGITS && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    words.next().is_some_and(is_hash) && words.next().is_some()
}
