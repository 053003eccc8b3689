//! The command `ptth`: a gateway, a device, and a demonstration, on the public API of the library
//! alone.
//!
//! Ready lines go to standard output, one each, flushed; logs go to standard error, level by
//! `RUST_LOG` (default `info`). Exit codes: 0 stopped, 1 failed (a device: after `--max-retries`),
//! 2 wrong usage, 3 refused by the gateway, or by all of them (401, 403, 404, 410).

#![allow(rustdoc::bare_urls, reason = "the doc comments of the arguments are the text of --help")]

mod admin;
mod certificates;
mod config;
mod environment;
mod files;
mod levels;
mod output;
mod proxy;
mod supervise;
mod tokens;

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::admin::AdminArgs;
use crate::config::duration;
use certificates::{DeviceFiles, GatewayFiles};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use reverse_http::proto::turn::Dialect;
use reverse_http::tls::GatewayTls;
use reverse_http::{
    Body, Device, DeviceEventKind, DeviceHandle, Encoding, EndCounts, Error, Fallback, Gateway,
    Limits, OnRefusal, Routes, Tokens, TurnMode,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::files::{Again, Reading};
use crate::output::say;
use crate::supervise::Supervisor;

#[derive(Parser)]
#[command(
    name = "ptth",
    version,
    about = "Reverse HTTP: reach devices behind NAT over connections that they dialled themselves",
    after_help = "Three terminals and any HTTP server on port 3000:\n  \
        ptth gateway --devices 127.0.0.1:9999 --visitors 127.0.0.1:8080\n  \
        ptth device http://127.0.0.1:9999/lamp --to http://127.0.0.1:3000\n  \
        curl -i http://127.0.0.1:8080/lamp/anything\n\n\
        Every option can also be set as an environment variable: --wait-for-link as PTTH_WAIT_FOR_LINK.\n\
        Durations are written 500ms, 10s, 5m, 1h. Logs go to standard error; RUST_LOG=debug shows more."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Take devices' connections and let visitors reach them over HTTP
    Gateway(Box<GatewayArgs>),
    /// Connect to a gateway and answer what comes
    Device(Box<DeviceArgs>),
    /// Make a token for devices or visitors: prints it, then the line for the gateway's file of
    /// tokens
    Token {
        /// What it is for: device names, origins, `*` (any device), https://*.example (any host one
        /// label below)
        names: String,
    },
    /// Gateway, device and one request in this process: the transcript, live; then exit
    Demo,
}

#[derive(Args)]
struct GatewayArgs {
    /// Where devices connect (port 0: any free one)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9999", env = "PTTH_DEVICES")]
    devices: String,
    /// Where visitors come in
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", env = "PTTH_VISITORS")]
    visitors: String,
    #[command(flatten)]
    tls: GatewayFiles,
    /// How a visitor names a device, behind the table of --config: `path` (/NAME/rest),
    /// `host=SUFFIX` (NAME.SUFFIX) or `none`; may be given several times
    #[arg(
        long,
        value_name = "path|host=SUFFIX|none",
        default_value = "path",
        value_delimiter = ',',
        env = "PTTH_ROUTE"
    )]
    route: Vec<String>,
    /// A file (TOML) with a table of routes, from host and path to device; read again on SIGHUP
    #[arg(long, value_name = "FILE", env = "PTTH_CONFIG")]
    config: Option<PathBuf>,
    /// Proxies before this gateway whose X-Forwarded-* and Forwarded fields are believed: addresses
    /// or networks, like 10.0.0.0/8
    #[arg(
        long,
        value_name = "CIDR[,CIDR...]",
        value_delimiter = ',',
        env = "PTTH_TRUSTED_PROXIES"
    )]
    trusted_proxies: Vec<String>,
    /// Tell devices in Forwarded (RFC 7239), too, who asked
    #[arg(long, env = "PTTH_FORWARDED", value_parser = yes_or_no, action = ArgAction::SetTrue)]
    forwarded: bool,
    /// When an offer is answered: `now`, or `on-demand` (when somebody asks for the device);
    /// NAME=now or NAME=on-demand says it for one device, whatever holds for the others; may be
    /// given several times
    #[arg(long, value_name = "[NAME=]now|on-demand", default_value = "now", value_delimiter = ',', value_parser = turn, env = "PTTH_TURN")]
    turn: Vec<(Option<String>, TurnMode)>,
    /// Take offers of this protocol, too: `h2o` (its reverse tunnel, Upgrade: reverse), or an
    /// upgrade token of your own, offered as PTTH/1.0 is; may be given several times
    #[arg(long, value_name = "h2o|TOKEN", value_delimiter = ',', env = "PTTH_DIALECT")]
    dialect: Vec<String>,
    /// Whether devices may poll: where no upgrade gets through, never, or always and nothing is
    /// turned
    #[arg(long, value_name = "WHEN", value_enum, default_value = "auto", env = "PTTH_FALLBACK")]
    fallback: Polling,
    /// Let web pages of this origin use --devices, so that a browser tab can be a device; may be
    /// given several times
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',', env = "PTTH_CORS_ORIGIN")]
    cors_origin: Vec<String>,
    /// A file with the devices' tokens, a line each: SHA-256 in hex, then the names it is for (see
    /// ptth token); read again on SIGHUP
    #[arg(long, value_name = "FILE", env = "PTTH_TOKENS")]
    tokens: Option<PathBuf>,
    /// A file like that of --tokens with the visitors' tokens, and which devices each may ask; read
    /// again on SIGHUP
    #[arg(long, value_name = "FILE", env = "PTTH_VISITOR_TOKENS")]
    visitor_tokens: Option<PathBuf>,
    /// Take devices' connections only from these addresses or networks, like 10.0.0.0/8 (a proxy's
    /// own address counts)
    #[arg(long, value_name = "CIDR[,CIDR...]", value_delimiter = ',', env = "PTTH_DEVICES_ALLOW")]
    devices_allow: Vec<String>,
    /// Take visitors' connections only from these addresses or networks; others get 403 (a proxy's
    /// own address counts)
    #[arg(long, value_name = "CIDR[,CIDR...]", value_delimiter = ',', env = "PTTH_VISITORS_ALLOW")]
    visitors_allow: Vec<String>,
    /// Connections in all; then visitors' idle ones give way, else accepting pauses; lowered to
    /// what the limit of open files allows
    #[arg(long, value_name = "N", default_value = "65000", value_parser = some_number, env = "PTTH_CONNECTIONS")]
    connections: usize,
    /// Connections from one peer address (IPv6: one /64) to --devices, and as many to --visitors,
    /// trusted proxies aside; more are closed at once [default: a quarter of --connections]
    #[arg(long, value_name = "N", value_parser = some_number, env = "PTTH_CONNECTIONS_PER_ADDRESS")]
    connections_per_address: Option<usize>,
    /// Connections to --devices of which no offer or poll was let in yet; of more the oldest is
    /// closed [default: a quarter of --connections]
    #[arg(long, value_name = "N", value_parser = some_number, env = "PTTH_UNAUTHENTICATED")]
    unauthenticated: Option<usize>,
    /// Let --devices listen beyond loopback although every peer can register any name
    #[arg(long, env = "PTTH_INSECURE_ANYONE_MAY_REGISTER", value_parser = yes_or_no, action = ArgAction::SetTrue)]
    insecure_anyone_may_register: bool,
    /// Take offers without a Host field (AirPlay senders)
    #[arg(long, env = "PTTH_MISSING_HOST", value_parser = yes_or_no, action = ArgAction::SetTrue)]
    missing_host: bool,
    /// Refuse offers whose Connection field does not list `upgrade`
    #[arg(long, env = "PTTH_STRICT_CONNECTION", value_parser = yes_or_no, action = ArgAction::SetTrue)]
    strict_connection: bool,
    /// Forward visitors' fields whose names have an underscore
    #[arg(long, env = "PTTH_KEEP_UNDERSCORE", value_parser = yes_or_no, action = ArgAction::SetTrue)]
    keep_underscore: bool,
    /// This gateway's name in Via; a request that has it already came round in a circle, and gets
    /// 508 (default: ptth- and a random number)
    #[arg(long, value_name = "NAME", env = "PTTH_VIA")]
    via: Option<String>,
    /// Silence on an idle link before the device is asked for a sign of life (0s: never)
    #[arg(long, value_name = "DURATION", default_value = "25s", value_parser = duration, env = "PTTH_HEARTBEAT")]
    heartbeat: Duration,
    /// How long that sign of life may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, env = "PTTH_HEARTBEAT_TIMEOUT")]
    heartbeat_timeout: Duration,
    /// How long a poll (and, with --turn on-demand, an offer) is held before it is answered that
    /// there is nothing
    #[arg(long, value_name = "DURATION", default_value = "25s", value_parser = duration, env = "PTTH_POLL_HOLD")]
    poll_hold: Duration,
    /// How long a request waits for a link of a known device, then 503
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration, env = "PTTH_WAIT_FOR_LINK")]
    wait_for_link: Duration,
    /// How long a device may take to begin its response, then 504
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration, env = "PTTH_FIRST_BYTE")]
    first_byte: Duration,
    /// How long a request's head may take to arrive, in all, then 408
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = some_time, env = "PTTH_HEAD")]
    head: Duration,
    /// How long a TLS handshake may take, in all, then closed
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = some_time, env = "PTTH_HANDSHAKE")]
    handshake: Duration,
    /// How long a kept-alive visitor may stay silent between requests
    #[arg(long, value_name = "DURATION", default_value = "75s", value_parser = some_time, env = "PTTH_IDLE_VISITOR")]
    idle_visitor: Duration,
    /// How long a device may take nothing of a request that is written to it, then 504
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = some_time, env = "PTTH_REQUEST_WRITE")]
    request_write: Duration,
    /// Longest silence within a request's or an answer's body, then 408 or an abort
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = some_time, env = "PTTH_BODY_SILENCE")]
    body_silence: Duration,
    /// Whole exchange, from the visitor's head to the answer's last byte, then 504 or an abort (0s:
    /// no bound)
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration, env = "PTTH_EXCHANGE")]
    exchange: Duration,
    /// Longest silence on a tunnel (a WebSocket, say) before it is closed (0s: no bound)
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration, env = "PTTH_TUNNEL_SILENCE")]
    tunnel_silence: Duration,
    /// Requests in flight to one device; others wait in line
    #[arg(long, value_name = "N", default_value = "1024", value_parser = some_number, env = "PTTH_IN_FLIGHT")]
    in_flight: usize,
    /// Requests that wait in line for one device, then 503
    #[arg(long, value_name = "N", default_value = "1024", value_parser = some_number, env = "PTTH_WAITING")]
    waiting: usize,
    /// Bytes of memory for connections and what was read and not passed on yet; from nine tenths on
    /// new requests get 503
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30, value_parser = clap::value_parser!(u64).range(1 << 20..), env = "PTTH_MEMORY")]
    memory: u64,
    /// Let several devices with the same credential have one name; requests go to them in turn
    #[arg(long, env = "PTTH_SHARED_NAMES", value_parser = yes_or_no, action = ArgAction::SetTrue)]
    shared_names: bool,
    /// Bytes per second that a visitor has to take while others wait for its link, or for the room
    /// that its answer takes; and that an upload has to bring while others wait for its link, or
    /// for the room that it takes (0: any)
    #[arg(long, value_name = "BYTES", default_value_t = 1024, env = "PTTH_MIN_RATE")]
    min_rate: u64,
    /// Serve visitors that have ended their direction of the connection (half-close) even while
    /// others wait for the link; else they count as gone a second after anything moved
    #[arg(long, env = "PTTH_HALF_CLOSE", value_parser = yes_or_no, action = ArgAction::SetTrue)]
    half_close: bool,
    /// A path on --visitors that this gateway answers itself: 200 while it serves, 503 from SIGTERM
    /// on (for load balancers; default: none)
    #[arg(long, value_name = "PATH", env = "PTTH_HEALTH_PATH")]
    health_path: Option<String>,
    /// On SIGTERM: how long to serve on, so that load balancers see it coming, before
    /// --drain-timeout begins (0s: not; a second signal ends it)
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration, env = "PTTH_DRAIN_NOTICE")]
    drain_notice: Duration,
    /// On SIGTERM: the gateway that devices are sent to, like http://b.example:9999
    #[arg(long, value_name = "URL", env = "PTTH_DRAIN_TO")]
    drain_to: Option<String>,
    /// On SIGTERM, after --drain-notice: how long requests in progress may take to finish
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, env = "PTTH_DRAIN_TIMEOUT")]
    drain_timeout: Duration,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
struct DeviceArgs {
    /// The gateway, and this device's name as first path segment: https://gw.example/lamp or
    /// http://gw.example:9999/lamp. More of a path, and a query, go into the offer as they are, for
    /// gateways that want them; with --protocol ptth it is a template, like
    /// https://gw.example/ptth{?serialized_origin}
    url: String,
    #[command(flatten)]
    tls: DeviceFiles,
    #[command(flatten)]
    service: ServiceArgs,
    /// Another gateway to be connected to at the same time, with this device's name there; may be
    /// given several times
    #[arg(long, value_name = "URL", value_delimiter = ',', env = "PTTH_GATEWAY")]
    gateway: Vec<String>,
    /// With --gateway: one gateway at a time in their order, the next when an attempt fails, the
    /// first again when the way in is lost
    #[arg(long, env = "PTTH_FAILOVER", value_parser = yes_or_no, action = ArgAction::SetTrue)]
    failover: bool,
    /// Dial through this proxy, by CONNECT: http://HOST:PORT; or none. Else the environment counts,
    /// as for curl: http_proxy, all_proxy, no_proxy
    #[arg(long, value_name = "URL|none", env = "PTTH_PROXY", hide_env_values = true)]
    proxy: Option<String>,
    /// End with exit code 1 after so many failed attempts in a row without a way in (default:
    /// never)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), env = "PTTH_MAX_RETRIES")]
    max_retries: Option<u32>,
    /// Hosts that a gateway may redirect this device to, beside those of its gateways: HOST,
    /// *.DOMAIN, an address, a network, or * for any; HOST:PORT for that port alone, else the
    /// default port or one above 1023
    #[arg(long, value_name = "HOST[,HOST...]", value_delimiter = ',', env = "PTTH_REDIRECT_HOSTS")]
    redirect_hosts: Vec<String>,
    /// When the very first offer is refused (401, 403, 404 or 410): exit with code 3, or retry.
    /// Else it depends: exit where the gateway itself refuses, retry where it may be something on
    /// the way (an ingress that is not ready)
    #[arg(long, value_enum, env = "PTTH_ON_REFUSAL")]
    on_refusal: Option<Refused>,
    /// Idle links wanted, and links in all: more are dialled while callers wait
    #[arg(long, value_name = "MIN..MAX", default_value = "1..128", value_parser = links, env = "PTTH_LINKS")]
    links: RangeInclusive<usize>,
    /// The protocol to offer
    #[arg(long, value_enum, default_value = "PTTH/1.0", env = "PTTH_PROTOCOL")]
    protocol: Protocol,
    /// With --protocol ptth: an origin to register, like https://lamp.example; may be given several
    /// times
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',', env = "PTTH_ORIGIN")]
    origin: Vec<String>,
    /// With --to: send this Host instead of the visitor's
    #[arg(long, value_name = "HOST", env = "PTTH_HOST_HEADER")]
    host_header: Option<String>,
    /// With --to: connections to the local server at once, for one that serves few (1: one after
    /// the other); more requests wait (default: as many as there are requests)
    #[arg(long, value_name = "N", value_parser = some_number, env = "PTTH_TO_CONNECTIONS")]
    to_connections: Option<usize>,
    /// With --to: how long a connection to the local server idles for the next request (0s: it is
    /// closed behind each answer)
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration, env = "PTTH_TO_KEEP_ALIVE")]
    to_keep_alive: Duration,
    /// A file with the bearer token for the gateway (`-`: standard input); or set PTTH_TOKEN
    #[arg(long, value_name = "FILE|-", env = "PTTH_TOKEN_FILE")]
    token_file: Option<String>,
    /// Polls instead of connections that turn, where one or the other does not get through: auto
    /// finds out
    #[arg(long, value_enum, default_value_t = Polling::Auto, env = "PTTH_FALLBACK")]
    fallback: Polling,
    /// Polls in parallel, where they are needed, and polls in all while callers wait; each carries
    /// one request at a time. N alone: always so many
    #[arg(long, value_name = "N|MIN..MAX", default_value = "2..64", value_parser = polls, env = "PTTH_POLLS")]
    polls: RangeInclusive<usize>,
    /// The one encoding of polls to ask for, instead of both
    #[arg(long, value_enum, env = "PTTH_COMET")]
    comet: Option<Comet>,
    /// Where something on the way does not stand an Upgrade: how long to poll without it (0s: one
    /// poll)
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration, env = "PTTH_TURN_RETRY")]
    turn_retry: Duration,
    /// Pauses between attempts: the first, and the longest; each is random up to its bound
    #[arg(long, value_name = "MIN..MAX", default_value = "1s..60s", value_parser = pauses, env = "PTTH_BACKOFF")]
    backoff: (Duration, Duration),
    /// How long the look-up of a name may take, the gateway's, the proxy's or the local server's,
    /// before the attempt counts as failed
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = some_time, env = "PTTH_RESOLVE_TIMEOUT")]
    resolve_timeout: Duration,
    /// How long each address may take to accept a connection, before the next one is tried
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = some_time, env = "PTTH_CONNECT_TIMEOUT")]
    connect_timeout: Duration,
    /// How long a proxy may take to open a tunnel
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = some_time, env = "PTTH_PROXY_TIMEOUT")]
    proxy_timeout: Duration,
    /// With --to: how long the local server may take to begin its response, then 504 (0s: as long
    /// as the gateway waits; with polls 60 s)
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration, env = "PTTH_FIRST_BYTE")]
    first_byte: Duration,
    /// Silence after which a link is given up, once the gateway has sent a heartbeat on any (0s:
    /// never)
    #[arg(long, value_name = "DURATION", default_value = "120s", value_parser = duration, env = "PTTH_SILENCE")]
    silence: Duration,
    /// How long links over which nothing ever came are trusted before the device polls beside them,
    /// in case something on the way swallows it (0s: for ever)
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration, env = "PTTH_DOUBT_AFTER")]
    doubt_after: Duration,
    /// On SIGTERM: how long requests in progress may take to finish
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, env = "PTTH_DRAIN_TIMEOUT")]
    drain_timeout: Duration,
}

#[derive(Clone, Copy, ValueEnum)]
enum Polling {
    Auto,
    Never,
    Only,
}

impl From<Polling> for Fallback {
    fn from(polling: Polling) -> Self {
        match polling {
            Polling::Auto => Fallback::Auto,
            Polling::Never => Fallback::Never,
            Polling::Only => Fallback::Only,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Refused {
    Exit,
    Retry,
}

impl From<Refused> for OnRefusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Exit => OnRefusal::StopOnAny,
            Refused::Retry => OnRefusal::Retry,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Comet {
    Json,
    Message,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct ServiceArgs {
    /// Forward requests to this local HTTP server: http://127.0.0.1:3000 or unix:/run/app.sock
    #[arg(long, value_name = "URL", env = "PTTH_TO")]
    to: Option<String>,
    /// Answer every request with this text
    #[arg(long, value_name = "STRING", env = "PTTH_TEXT")]
    text: Option<String>,
    /// Serve the files of this directory, index.html for a folder; nothing outside it, no hidden
    /// files, no listings
    #[arg(long, value_name = "PATH", env = "PTTH_DIR")]
    dir: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Protocol {
    #[value(name = "PTTH/1.0")]
    Classic,
    #[value(name = "PTTH/0.9")]
    Classic09,
    #[value(name = "ptth")]
    Ietf,
    /// As h2o's reverse tunnel: GET, Upgrade: reverse
    #[value(name = "h2o")]
    H2o,
}

/// Why the command ends: what to say, and the exit code.
struct Failure {
    text: String,
    code: u8,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match () {
            () if error.is_usage() => 2,
            () if error.is_refused() => 3,
            () => 1,
        };
        Failure { text: error.to_string(), code }
    }
}

fn usage(text: impl Into<String>) -> Failure {
    Failure { text: text.into(), code: 2 }
}

fn failed(text: impl Display) -> Failure {
    Failure { text: text.to_string(), code: 1 }
}

fn main() -> ExitCode {
    let done = output::start()
        .map_err(|e| failed(format_args!("starting a thread for standard output: {e}")))
        .and_then(run);
    let code = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { text, code }) => {
            output::complain(format_args!("ptth: {text}"));
            ExitCode::from(code)
        }
    };
    output::finish();
    code
}

fn run(errors: output::Output) -> Result<(), Failure> {
    let level = env_logger::Env::default().default_filter_or("info");
    levels::start(level, errors);
    if let Err(e) = rlimit::increase_nofile_limit(u64::MAX) {
        log::debug!("the limit of open files stays as it is: {e}");
    }
    match environment::parse::<Cli>()?.command {
        Command::Gateway(args) => gateway(*args),
        Command::Device(args) => device(*args),
        Command::Token { names } => tokens::print_new(&names),
        Command::Demo => demo(),
    }
}

impl GatewayArgs {
    /// Whether files are given that SIGHUP reads again.
    fn reads_files(&self) -> bool {
        self.config.is_some()
            || self.tokens.is_some()
            || self.visitor_tokens.is_some()
            || self.tls.are_given()
    }
}

fn gateway(args: GatewayArgs) -> Result<(), Failure> {
    if args.tokens.is_none()
        && !args.tls.know_devices()
        && !args.insecure_anyone_may_register
        && !is_loopback(&args.devices)?
    {
        return Err(usage(format!(
            "--devices {}: beyond loopback every peer could register any name. Say who may with --tokens FILE (ptth token NAME makes its lines) or \
             --devices-client-ca FILE, or accept it with --insecure-anyone-may-register",
            args.devices
        )));
    }
    if same_address(&args.devices, &args.visitors)? {
        return Err(usage(format!(
            "--devices and --visitors are both {}; they need two addresses",
            args.devices
        )));
    }
    args.admin.check()?;
    let fixed = routes(&args.route)?;
    let fixed = match &args.health_path {
        Some(path) => fixed.health_path(path)?,
        None => fixed,
    };
    let table = with_table(fixed.clone(), args.config.as_deref(), Reading::First).map_err(usage)?;
    let limits = limits_of(&args)?;
    let first = Reading::First;
    let (devices_tls, visitors_tls) =
        (args.tls.devices(first).map_err(usage)?, args.tls.visitors(first).map_err(usage)?);
    let scheme = |secure: bool| if secure { "https" } else { "http" };
    let (devices_scheme, visitors_scheme) =
        (scheme(devices_tls.is_some()), scheme(visitors_tls.is_some()));
    let builder = match devices_tls {
        Some(tls) => Gateway::builder().listen_tls(&args.devices, tls),
        None => Gateway::builder().listen(&args.devices),
    };
    let mut builder =
        builder.limits(limits).fallback(args.fallback.into()).shared_names(args.shared_names);
    for (name, mode) in &args.turn {
        builder = match name {
            Some(name) => builder.turn_of(name, *mode)?,
            None => builder.turn(*mode),
        };
    }
    for dialect in &args.dialect {
        let known = if dialect == "h2o" { Ok(Dialect::h2o()) } else { Dialect::custom(dialect) };
        builder = builder
            .dialect(known.map_err(|e| usage(format!("--dialect {dialect}: {}", e.reason)))?);
    }
    if let Some(file) = &args.tokens {
        builder = builder.tokens(read_tokens("--tokens", file, first).map_err(usage)?);
    }
    if let Some(file) = &args.visitor_tokens {
        builder =
            builder.visitor_tokens(read_tokens("--visitor-tokens", file, first).map_err(usage)?);
    }
    // Until here a signal ends the process, whatever the files do.
    let told = watch(Signals::new(SIGNALS).map_err(failed)?);
    let builder = args
        .cors_origin
        .iter()
        .fold(builder, |builder, origin| builder.cors_origin(origin))
        .missing_host(args.missing_host)
        .strict_connection(args.strict_connection)
        .keep_underscore(args.keep_underscore)
        .trusted_proxies(&args.trusted_proxies)?
        .devices_allow(&args.devices_allow)?
        .visitors_allow(&args.visitors_allow)?
        .forwarded(args.forwarded)
        .observe(args.admin.is_on());
    let builder = match &args.via {
        Some(via) => builder.via(via)?,
        None => builder,
    };
    let builder = match &args.drain_to {
        Some(origin) => builder.drain_to(origin)?,
        None => builder,
    };
    let gateway = Arc::new(builder.start()?);
    let visitors = match visitors_tls {
        Some(tls) => gateway.relay_tls(&args.visitors, table, tls)?,
        None => gateway.relay(&args.visitors, table)?,
    };
    let admin = args.admin.listen(&gateway)?.map(Arc::new);
    say(format_args!("devices {devices_scheme}://{}", gateway.devices_addr()));
    say(format_args!("visitors {visitors_scheme}://{visitors}"));
    if let Some(admin) = &admin {
        say(format_args!("admin {}", admin.url()));
    }
    let supervisor = Supervisor::of_environment();
    let serving = format!(
        "devices {devices_scheme}://{}, visitors {visitors_scheme}://{visitors}",
        gateway.devices_addr()
    );
    supervisor.ready(&serving);
    let watched = gateway.clone();
    supervisor.watch(move |time| watched.ping(time).is_ok());
    let (notice, time) = (args.drain_notice, args.drain_timeout);
    let again = {
        let (gateway, supervisor, admin) = (gateway.clone(), supervisor.clone(), admin.clone());
        Again::start("ptth-reload", move || {
            supervisor.reloading();
            read_again(&gateway, visitors, &args, &fixed);
            args.admin.read_again(admin.as_deref());
            supervisor.ready(&serving);
        })
    };
    let signal = until_stopped(&gateway, &told, &again.map_err(failed)?)?;
    // Somebody at a keyboard waits for no load balancer.
    let notice = if signal == SIGINT { Duration::ZERO } else { notice };
    drain(&gateway, told, &supervisor, notice, time);
    admin.iter().for_each(|admin| admin.stop());
    Ok(())
}

/// What this process hears of.
const SIGNALS: [i32; 4] = [SIGTERM, SIGINT, SIGHUP, SIGUSR1];

fn with_table(
    fixed: Routes,
    file: Option<&std::path::Path>,
    reading: Reading,
) -> Result<Routes, String> {
    match file {
        Some(file) => config::routes_of(file, fixed, reading).map_err(|e| format!("--config {e}")),
        None => Ok(fixed),
    }
}

/// Reads every file of the command line again. A mistake in one changes nothing of what that one
/// says.
fn read_again(
    gateway: &Gateway,
    visitors: std::net::SocketAddr,
    args: &GatewayArgs,
    fixed: &Routes,
) {
    reload_tls(gateway, "devices", gateway.devices_addr(), args.tls.devices(Reading::Again));
    reload_tls(gateway, "visitors", visitors, args.tls.visitors(Reading::Again));
    let reloaded =
        with_table(fixed.clone(), args.config.as_deref(), Reading::Again).and_then(|routes| {
            let length = routes.table_len();
            gateway.set_routes(visitors, routes).map(|()| length).map_err(|e| e.to_string())
        });
    match (reloaded, &args.config) {
        (Err(e), _) => log::error!("{e}; the routes stay as they were"),
        (Ok(length), Some(file)) => log::info!("{length} routes were read from {}", file.display()),
        (Ok(_), None) if !args.reads_files() => {
            log::info!(
                "SIGHUP: nothing to read again: no --config, tokens or certificates are given"
            );
        }
        (Ok(_), None) => {}
    }
    reload_tokens("--tokens", &args.tokens, |tokens| gateway.set_tokens(tokens));
    reload_tokens("--visitor-tokens", &args.visitor_tokens, |tokens| {
        gateway.set_visitor_tokens(tokens)
    });
}

/// Stops the gateway; returns when all is over. A signal within the notice ends that, a later one
/// the process.
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
                drop(told); // from here on a signal ends the process
                return hurried.stop(time);
            }
        }
    });
    gateway.drain(notice, time);
}

/// What the options say of bounds and times.
fn limits_of(args: &GatewayArgs) -> Result<Limits, Failure> {
    let mut limits = Limits::default();
    limits.connections_max = affordable(args.connections)?;
    limits.memory_bytes_max = usize::try_from(args.memory).unwrap_or(usize::MAX);
    limits.messages_bytes_max = limits.messages_bytes_max.min(limits.memory_bytes_max / 2);
    limits.message_bytes_max = limits.message_bytes_max.min(limits.messages_bytes_max / 4); // one in JSON takes some times its length
    // Zero: derived from the total, which may have been lowered.
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

/// The table in the file of an option.
fn read_tokens(option: &str, file: &std::path::Path, reading: Reading) -> Result<Tokens, String> {
    tokens::read(file, reading).map_err(|e| format!("{option} {e}"))
}

/// Reads the file of an option again; a mistake in it changes nothing.
fn reload_tokens(
    option: &str,
    file: &Option<PathBuf>,
    set: impl FnOnce(Tokens) -> Result<(), Error>,
) {
    let Some(file) = file else { return };
    let replaced = read_tokens(option, file, Reading::Again).and_then(|tokens| {
        let length = tokens.len();
        set(tokens).map(|()| length).map_err(|e| e.to_string())
    });
    match replaced {
        Ok(length) => log::info!("{length} tokens were read from {}", file.display()), // and are in force
        Err(e) => log::error!("{e}; the tokens stay as they were"),
    }
}

/// Descriptors that are no connections: listeners, the loop's own, standard streams, files that are
/// read again. A quarter, within these bounds.
const DESCRIPTORS_RESERVED: std::ops::RangeInclusive<u64> = 16..=64;

/// So many connections, or as many as there are descriptors for, which is said once: those in hand
/// are served then, and only accepting waits.
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
        // Nobody asked for the default; whoever has thousands of descriptors lacks nothing.
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

/// New handshakes get what the files say now; what cannot be read leaves all as it was.
fn reload_tls(
    gateway: &Gateway,
    whose: &str,
    at: std::net::SocketAddr,
    read: Result<Option<GatewayTls>, String>,
) {
    match read.and_then(|tls| {
        tls.map(|tls| gateway.set_tls(at, tls).map_err(|e| e.to_string())).transpose()
    }) {
        Ok(None) => {}
        Ok(Some(())) => log::info!("the certificates for {whose} were read again"),
        Err(e) => log::error!("{e}; the certificates for {whose} stay as they were"),
    }
}

/// What `--route` says.
fn routes(given: &[String]) -> Result<Routes, Failure> {
    given.iter().try_fold(Routes::default(), |routes, route| match route.split_once('=') {
        None if route == "path" => Ok(routes.and_path()),
        None if route == "none" => Ok(routes),
        Some(("host", suffix)) => Ok(routes.and_host(suffix)?),
        _ => Err(usage(format!("--route {route}: write path, host=SUFFIX, or none"))),
    })
}

/// Tells of signals, as long as somebody listens; SIGTERM or SIGINT then ends the process at once.
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

/// Returns on SIGTERM or SIGINT: which it was. No file is read here, so nothing keeps a signal
/// waiting.
fn until_stopped(
    gateway: &Gateway,
    told: &mpsc::Receiver<i32>,
    reload: &Again,
) -> Result<i32, Failure> {
    loop {
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

/// SIGUSR1: one line about what goes on.
fn log_state(gateway: &Gateway) {
    let stats = gateway.stats();
    log::info!(
        "state: {} devices connected, {} polls held; since the start {} turns, {} events, {} exchanges, {} refusals, {} links ended ({})",
        stats.devices,
        stats.polls,
        stats.turns,
        stats.events,
        stats.exchanges,
        stats.refused,
        stats.ends.total(),
        ends_of(&stats.ends)
    );
}

fn log_device_state(device: &DeviceHandle) {
    let stats = device.stats();
    let transport = stats.transport.map_or_else(
        || "not connected".to_owned(),
        |transport| format!("connected by {transport}"),
    );
    log::info!(
        "state: {transport}, {} links ({} busy), {} polls, {} dials; since the start {} exchanges, {} links ended ({})",
        stats.links,
        stats.busy,
        stats.polls,
        stats.dialing,
        stats.exchanges,
        stats.ends.total(),
        ends_of(&stats.ends)
    );
}

fn ends_of(ends: &EndCounts) -> String {
    let told: Vec<String> = ends
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(end, count)| format!("{end} {count}"))
        .collect();
    if told.is_empty() { "none".to_owned() } else { told.join(", ") }
}

/// A second SIGTERM or SIGINT ends the process at once.
fn exit_on_second(mut signals: Signals) {
    std::thread::spawn(move || {
        if signals.forever().any(|signal| matches!(signal, SIGTERM | SIGINT)) {
            std::process::exit(1);
        }
    });
}

fn addresses(address: &str) -> Result<Vec<std::net::SocketAddr>, Failure> {
    let found = address
        .to_socket_addrs()
        .map_err(|e| usage(format!("{address}: write an address like 127.0.0.1:9999 ({e})")))?;
    Ok(found.collect())
}

fn is_loopback(address: &str) -> Result<bool, Failure> {
    Ok(addresses(address)?.iter().all(|a| a.ip().to_canonical().is_loopback()))
}

fn same_address(a: &str, b: &str) -> Result<bool, Failure> {
    let b = addresses(b)?;
    Ok(addresses(a)?.iter().any(|a| a.port() != 0 && b.contains(a)))
}

fn device(args: DeviceArgs) -> Result<(), Failure> {
    let dialect = match args.protocol {
        Protocol::Classic => Dialect::classic(),
        Protocol::Classic09 => Dialect::classic_0_9(),
        Protocol::Ietf => Dialect::ietf(),
        Protocol::H2o => Dialect::h2o(),
    };
    let mut limits = Limits::default();
    (limits.silence, limits.turn_retry, limits.doubt_after) =
        (args.silence, args.turn_retry, args.doubt_after);
    (limits.local_connections_max, limits.local_keep_alive) =
        (args.to_connections.unwrap_or(0), args.to_keep_alive);
    (limits.resolve_timeout, limits.connect_timeout, limits.proxy_timeout) =
        (args.resolve_timeout, args.connect_timeout, args.proxy_timeout);
    limits.local_first_byte_timeout = args.first_byte;
    if !args.origin.is_empty() && !matches!(args.protocol, Protocol::Ietf) {
        return Err(usage(
            "--origin goes with --protocol ptth; other devices are named by the URL's path",
        ));
    }
    if args.host_header.is_some() && args.service.to.is_none() {
        return Err(usage("--host-header goes with --to"));
    }
    if args.to_connections.is_some() && args.service.to.is_none() {
        return Err(usage("--to-connections goes with --to"));
    }
    if args.failover && args.gateway.is_empty() {
        return Err(usage("--failover goes with --gateway: it takes a second gateway to go to"));
    }
    let mut builder = Device::builder(&args.url)
        .links(args.links)
        .protocol(dialect)
        .limits(limits)
        .backoff(args.backoff.0..args.backoff.1)
        .fallback(args.fallback.into())
        .polls(args.polls)
        .failover(args.failover)
        .whole_target(true)
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
    builder = proxy::set(
        builder,
        args.proxy.as_deref(),
        &std::iter::once(&args.url).chain(&args.gateway).map(String::as_str).collect::<Vec<_>>(),
    )?;
    let stamps = args.tls.stamps();
    if let Some(tls) = args.tls.tls(Reading::First).map_err(usage)? {
        if !std::iter::once(&args.url).chain(&args.gateway).any(|url| url.starts_with("https:")) {
            return Err(usage(
                "--ca, --pin, --cert, --key and --clock-floor go with a gateway at https://",
            ));
        }
        builder = builder.tls(tls);
    }
    match args.comet {
        Some(Comet::Json) => builder = builder.comet(Encoding::Json),
        Some(Comet::Message) => builder = builder.comet(Encoding::Message),
        None => {}
    }
    for origin in args.origin {
        builder = builder.origin(origin);
    }
    if let Some(token) = token(args.token_file.as_deref())? {
        builder = builder.bearer_token(token);
    }
    if let Some(host) = args.host_header {
        builder = builder.host_header(host);
    }
    let device = builder.build()?;
    let mut signals = Signals::new(SIGNALS).map_err(failed)?;
    let events = device.events();
    let handle = match (args.service.to, args.service.dir, args.service.text) {
        (Some(target), ..) => device.spawn_forward(&target)?,
        (None, Some(dir), _) => device.spawn_dir(dir)?,
        (None, None, text) => device.spawn(answer_with_text(text.unwrap_or_default()))?,
    };
    // Ready at once: a gateway that is away is no fault of this process, and what is ordered behind
    // it need not wait.
    let supervisor = Supervisor::of_environment();
    supervisor.ready(format_args!("connecting to {}", args.url));
    let (watched, reports) = (handle.clone(), supervisor.clone());
    supervisor.watch(move |time| watched.ping(time).is_ok());
    let reporter = std::thread::spawn(move || {
        for event in events {
            match event.kind {
                DeviceEventKind::Connected => {
                    reports.status(format_args!("connected {} via {}", event.name, event.url));
                    say(format_args!(
                        "connected {} via {} ({})",
                        event.name, event.url, event.detail
                    ));
                }
                DeviceEventKind::Waiting => {
                    reports.status(format_args!("waiting for {}", event.url));
                    say(format_args!("waiting {} via {}", event.name, event.url));
                }
                _ => {} // the library has logged it
            }
        }
    });
    let (running, drain) = (handle.clone(), args.drain_timeout);
    let files = Arc::new(certificates::InForce::new(args.tls, stamps, handle.clone()));
    let again = {
        let (files, running, supervisor) = (files.clone(), handle.clone(), supervisor.clone());
        Again::start("ptth-reload", move || {
            supervisor.reloading();
            files.read_again();
            running.retry_now();
            log::info!("SIGHUP: what is wanted is dialled now");
            supervisor.reloaded();
        })
    };
    let again = again.map_err(failed)?;
    files.watch().map_err(failed)?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            match signal {
                SIGHUP => again.ask(),
                SIGUSR1 => log_device_state(&running),
                _ => {
                    let says = format!("stopping; requests in progress have {drain:?} to finish");
                    log::info!("{says}");
                    supervisor.stopping(says);
                    exit_on_second(signals);
                    return running.drain(drain);
                }
            }
        }
    });
    let ended = handle.wait();
    drop(reporter.join()); // its last lines are out
    Ok(ended?)
}

fn answer_with_text(text: String) -> impl Fn(http::Request<Body>) -> http::Response<Body> {
    let text: Arc<[u8]> = text.into_bytes().into();
    move |_| {
        let mut response = http::Response::new(Body::from(text.to_vec()));
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
        response
    }
}

/// Longest file with a token that is read, in bytes.
const TOKEN_FILE_MAX: u64 = 64 * 1024;

fn token(file: Option<&str>) -> Result<Option<String>, Failure> {
    let told = |file: &str, what: &dyn Display| usage(format!("--token-file {file}: {what}"));
    let text = match file {
        Some("-") => files::line_of_stdin().map_err(|what| told("-", &what))?,
        Some(path) => {
            let bytes = files::read(std::path::Path::new(path), TOKEN_FILE_MAX, Reading::First)
                .map_err(|what| told(path, &what))?;
            String::from_utf8(bytes)
                .map_err(|_| told(path, &"there are bytes that are not UTF-8"))?
        }
        None => match std::env::var("PTTH_TOKEN") {
            Ok(token) => token,
            Err(std::env::VarError::NotPresent) => return Ok(None),
            Err(e) => return Err(usage(format!("PTTH_TOKEN: {e}"))),
        },
    };
    match text.trim_start_matches('\u{feff}').trim() {
        "" => Err(usage("the token is empty; leave it away, or give one")),
        token => Ok(Some(token.to_owned())),
    }
}

/// A switch in the environment.
fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" | "y" | "t" => Ok(true),
        "" | "0" | "false" | "no" | "off" | "n" | "f" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

/// `on-demand`, `lamp=now`.
fn turn(text: &str) -> Result<(Option<String>, TurnMode), String> {
    let (name, mode) =
        text.rsplit_once('=').map_or((None, text), |(name, mode)| (Some(name.to_owned()), mode));
    match mode {
        "now" => Ok((name, TurnMode::Now)),
        "on-demand" => Ok((name, TurnMode::OnDemand)),
        _ => Err("write now, on-demand, NAME=now or NAME=on-demand".to_owned()),
    }
}

/// A duration that is not zero.
fn some_time(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| {
        if time.is_zero() { Err("it must be greater than zero".to_owned()) } else { Ok(time) }
    })
}

fn some_number(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "write a whole number from 1 on".to_owned())
}

/// `MIN..MAX`.
fn range<'t>(text: &'t str, example: &str) -> Result<(&'t str, &'t str), String> {
    text.split_once("..").ok_or_else(|| format!("write MIN..MAX, like {example}"))
}

/// `MIN..MAX`, each at least 1 and at most `ceiling`.
fn numbers(text: &str, ceiling: usize, example: &str) -> Result<RangeInclusive<usize>, String> {
    let (min, max) = range(text, example)?;
    let number = |n: &str| {
        n.parse::<usize>()
            .map_err(|_| format!("{n:?} is not a number; write MIN..MAX, like {example}"))
    };
    let (min, max) = (number(min)?, number(max)?);
    if min == 0 || min > max || max > ceiling {
        return Err(format!("it takes 1 <= MIN <= MAX <= {ceiling}"));
    }
    Ok(min..=max)
}

fn links(text: &str) -> Result<RangeInclusive<usize>, String> {
    numbers(text, 1024, "1..128")
}

fn polls(text: &str) -> Result<RangeInclusive<usize>, String> {
    match text.contains("..") {
        true => numbers(text, 64, "2..64"),
        false => numbers(&format!("{text}..{text}"), 64, "2..64"),
    }
}

fn pauses(text: &str) -> Result<(Duration, Duration), String> {
    let (min, max) = range(text, "1s..60s")?;
    let (min, max) = (duration(min)?, duration(max)?);
    if min.is_zero() || min > max {
        return Err("it takes 0 < MIN <= MAX, like 1s..60s".to_owned());
    }
    Ok((min, max))
}

/// The seed's transcript, live: what is printed are the bytes that pass between the device and the
/// gateway.
fn demo() -> Result<(), Failure> {
    say(
        "A device that nobody can dial connects to its gateway and offers to turn the connection around.\n",
    );
    let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    let visitors = gateway.relay("127.0.0.1:0", Routes::path())?;
    let (said, transcript) = mpsc::channel();
    let tap = tap(gateway.devices_addr(), said).map_err(failed)?;
    let device = Device::builder(format!("http://{tap}/lamp")).links(1..=1).build()?;
    let handle = device.spawn(answer_with_text("!dlrow ,olleH\r\n".to_owned()))?;
    gateway.device("lamp").wait(Duration::from_secs(5))?;
    let print = |pieces: usize| {
        for (who, bytes) in transcript.iter().take(pieces) {
            say(format_args!("{who}"));
            for line in String::from_utf8_lossy(&bytes).lines() {
                say(format_args!("    {line}"));
            }
            say("");
        }
    };
    print(2);
    say(format_args!(
        "From here on the gateway asks and the device answers. A visitor runs: curl http://{visitors}/lamp/status\n"
    ));
    let mut visitor = TcpStream::connect(visitors).map_err(failed)?;
    visitor.set_read_timeout(Some(Duration::from_secs(10))).map_err(failed)?;
    write!(visitor, "GET /lamp/status HTTP/1.1\r\nHost: {visitors}\r\nAccept: text/plain\r\nConnection: close\r\n\r\n").map_err(failed)?;
    let mut answer = String::new();
    visitor.read_to_string(&mut answer).map_err(failed)?;
    print(2);
    say("The visitor got:");
    answer.lines().for_each(|line| say(format_args!("    {line}")));
    handle.stop();
    match answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("!dlrow ,olleH\r\n") {
        true => Ok(()),
        false => Err(failed("the visitor did not get the device's answer")),
    }
}

/// A wire to listen in on: what comes to its address goes on to `to`, and both directions are told.
fn tap(
    to: std::net::SocketAddr,
    said: mpsc::Sender<(&'static str, Vec<u8>)>,
) -> io::Result<std::net::SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let at = listener.local_addr()?;
    std::thread::spawn(move || {
        let both = listener.accept().and_then(|(device, _)| Ok((device, TcpStream::connect(to)?)));
        let Ok((device, gateway)) = both else { return };
        for (who, from, to) in [
            ("device:", device.try_clone(), gateway.try_clone()),
            ("gateway:", Ok(gateway), Ok(device)),
        ] {
            let (Ok(from), Ok(to), said) = (from, to, said.clone()) else { return };
            std::thread::spawn(move || copy(who, from, to, said));
        }
    });
    Ok(at)
}

fn copy(
    who: &'static str,
    mut from: TcpStream,
    mut to: TcpStream,
    said: mpsc::Sender<(&'static str, Vec<u8>)>,
) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(n) = from.read(&mut buffer) {
        if n == 0
            || said.send((who, buffer[..n].to_vec())).is_err()
            || to.write_all(&buffer[..n]).is_err()
        {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write); // the demonstration is over
}
