//! The options of `ptth device`: their names, defaults, variables and help texts; and parsers for
//! their values and those of `ptth gateway`.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgAction, ArgGroup, Args, ValueEnum};
use reverse_http::gateway::Rate;
use reverse_http::proto::dialect::Dialect;
use reverse_http::{Fallback, OnRefusal, TurnMode};

use crate::certificates::{DeviceFiles, LocalFiles};
use crate::config::{digits, duration};
use crate::log_levels::LogFormat;

#[derive(Args)]
#[group(skip)]
#[command(group(ArgGroup::new("answers").args(["to", "text", "dir", "tcp"]).required(true).multiple(true)))]
pub(crate) struct DeviceArgs {
    /// The gateway, and this device's name as first path segment: https://gw.example/lamp or
    /// http://gw.example:9999/lamp. Further path segments and a query go into the offer unchanged,
    /// for gateways that want them; with --dialect ptth it is a template, like
    /// https://gw.example/ptth{?serialized_origin}
    pub(crate) url: String,
    #[command(flatten)]
    pub(crate) tls: DeviceFiles,
    #[command(flatten)]
    pub(crate) service: ServiceArgs,
    #[command(flatten)]
    pub(crate) local: LocalFiles,
    /// Let visitors connect to this TCP server by this name, and to no other (ptth connect); alone,
    /// or beside --to, --dir or --text; may be given several times
    #[arg(long, value_name = "NAME=HOST:PORT|unix:PATH", value_delimiter = ',', value_parser = tcp_target, env = "PTTH_TCP")]
    pub(crate) tcp: Vec<(String, String)>,
    /// A file (TOML) with options in its table `device`, the URL as `url`; it may be the gateway's,
    /// too; the command line and the environment take precedence
    #[arg(long, value_name = "FILE", env = "PTTH_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Validate the options, the files, certificates and token that they name, then exit: 0 if
    /// valid, else 2
    #[arg(long)]
    pub(crate) check: bool,
    /// Another gateway to be connected to at the same time, with this device's name there; may be
    /// given several times
    #[arg(long, value_name = "URL", value_delimiter = ',', env = "PTTH_GATEWAY")]
    pub(crate) gateway: Vec<String>,
    /// With --gateway: one gateway at a time in their order, the next when an attempt fails, the
    /// first again when the connection is lost
    #[arg(long, env = "PTTH_FAILOVER", value_parser = yes_or_no, action = ArgAction::SetTrue)]
    pub(crate) failover: bool,
    /// Dial through this proxy, by CONNECT: http://HOST:PORT; or none. Default: the environment, as
    /// for curl: http_proxy, all_proxy, no_proxy
    #[arg(long, value_name = "URL|none", env = "PTTH_PROXY", hide_env_values = true)]
    pub(crate) proxy: Option<String>,
    /// End with exit code 1 after this many failed attempts in a row while unconnected (default:
    /// never)
    #[arg(long, value_name = "N", value_parser = attempts, env = "PTTH_MAX_RETRIES")]
    pub(crate) max_retries: Option<u32>,
    /// Hosts that a gateway may redirect this device to, beside those of its gateways: HOST,
    /// *.DOMAIN, an address, a network, or * for any; HOST:PORT for that port alone, else the
    /// default port or one above 1023
    #[arg(long, value_name = "HOST[,HOST...]", value_delimiter = ',', env = "PTTH_REDIRECT_HOSTS")]
    pub(crate) redirect_hosts: Vec<String>,
    /// When the very first offer is refused (401, 403, 404 or 410): exit with code 3, or retry.
    /// Default: exit if the gateway itself refuses, retry if it may be an intermediary (an ingress
    /// that is not ready)
    #[arg(long, value_enum, env = "PTTH_ON_REFUSAL")]
    pub(crate) on_refusal: Option<Refused>,
    /// Idle links wanted, and links in all: more are dialled while callers wait
    #[arg(long, value_name = "MIN..MAX", default_value = "1..128", value_parser = links, env = "PTTH_LINKS")]
    pub(crate) links: RangeInclusive<usize>,
    /// The dialect to offer
    #[arg(long, value_enum, default_value = "PTTH/1.0", env = "PTTH_DIALECT")]
    pub(crate) dialect: Offered,
    /// With --dialect ptth: an origin to register, like https://lamp.example; may be given several
    /// times
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',', env = "PTTH_ORIGIN")]
    pub(crate) origin: Vec<String>,
    /// With --to: remove this path from requests to its server, /cam of --to /cam=URL, and put it
    /// back into paths in its responses; may be given several times
    #[arg(long, value_name = "PATH", value_delimiter = ',', value_parser = path, env = "PTTH_STRIP_PREFIX")]
    pub(crate) strip_prefix: Vec<String>,
    /// With --to: send this Host instead of the visitor's, to all servers or to that of PATH
    #[arg(long, value_name = "[PATH=]HOST", value_delimiter = ',', value_parser = host_for_path, env = "PTTH_HOST_HEADER")]
    pub(crate) host_header: Vec<ForPath<String>>,
    /// With --host-header: write that host into visitors' Origin and Referer, too, for a server
    /// that compares them
    #[arg(long, env = "PTTH_MAP_ORIGIN", value_parser = yes_or_no, action = ArgAction::SetTrue)]
    pub(crate) map_origin: bool,
    /// With --to: set this field in requests to the local server, instead of those of its name; may
    /// be given several times
    #[arg(long, value_name = "NAME: VALUE", value_parser = field, env = "PTTH_SET_FIELD")]
    pub(crate) set_field: Vec<(String, String)>,
    /// With --to: remove fields of this name from requests to the local server, X-Forwarded-For say;
    /// may be given several times
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "PTTH_REMOVE_FIELD")]
    pub(crate) remove_field: Vec<String>,
    /// With --to: set this field in the local server's responses; may be given several times
    #[arg(long, value_name = "NAME: VALUE", value_parser = field, env = "PTTH_SET_RESPONSE_FIELD")]
    pub(crate) set_response_field: Vec<(String, String)>,
    /// With --to: remove fields of this name from the local server's responses; may be given several
    /// times
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "PTTH_REMOVE_RESPONSE_FIELD")]
    pub(crate) remove_response_field: Vec<String>,
    /// With --to: connections at once to each local server, or to that of PATH, for a server that
    /// can serve few (1: one after the other); further requests wait (default: one for each
    /// request)
    #[arg(long, value_name = "[PATH=]N", value_delimiter = ',', value_parser = number_for_path, env = "PTTH_TO_CONNECTIONS")]
    pub(crate) to_connections: Vec<ForPath<usize>>,
    /// With --to: how long a connection to the local server is kept idle for the next request (0s:
    /// closed after each response)
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration, env = "PTTH_TO_KEEP_ALIVE")]
    pub(crate) to_keep_alive: Duration,
    /// A file with the bearer token for the gateway (`-`: standard input); or set PTTH_TOKEN
    #[arg(long, value_name = "FILE|-", env = "PTTH_TOKEN_FILE")]
    pub(crate) token_file: Option<String>,
    /// Whether to poll: if upgrades do not get through (auto), never, or always (only)
    #[arg(long, value_enum, default_value_t = Polling::Auto, env = "PTTH_FALLBACK")]
    pub(crate) fallback: Polling,
    /// Polls in parallel when the device polls, and the most while all carry requests or callers
    /// wait; each carries one request at a time. N alone: a fixed number
    #[arg(long, value_name = "N|MIN..MAX", default_value = "2..64", value_parser = polls, env = "PTTH_POLLS")]
    pub(crate) polls: RangeInclusive<usize>,
    /// The encoding of polls to accept (default: both)
    #[arg(long, value_enum, env = "PTTH_COMET")]
    pub(crate) comet: Option<Comet>,
    /// When an intermediary rejects Upgrade: how long to poll without it (0s: one poll)
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration, env = "PTTH_TURN_RETRY")]
    pub(crate) turn_retry: Duration,
    /// Pauses between attempts: bounds of the first and of the longest; each pause is random up to
    /// its bound
    #[arg(long, value_name = "MIN..MAX", default_value = "1s..60s", value_parser = pauses, env = "PTTH_BACKOFF")]
    pub(crate) backoff: (Duration, Duration),
    /// How long the lookup of a host name (of gateway, proxy or local server) may take before the
    /// attempt fails
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = some_time, env = "PTTH_RESOLVE_TIMEOUT")]
    pub(crate) resolve_timeout: Duration,
    /// How long each address may take to accept a connection, before the next one is tried
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = some_time, env = "PTTH_CONNECT_TIMEOUT")]
    pub(crate) connect_timeout: Duration,
    /// How long a proxy may take to open a tunnel
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = some_time, env = "PTTH_PROXY_TIMEOUT")]
    pub(crate) proxy_timeout: Duration,
    /// With --to: how long the local server may take to begin its response, then 504 (0s: as long
    /// as the gateway waits; with polls 60 s)
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration, env = "PTTH_FIRST_BYTE")]
    pub(crate) first_byte: Duration,
    /// With --to: how long the local server may be silent within a response, or not read from a
    /// request, then the response is cut, or 504 (0s: as long as the gateway waits; with polls 60
    /// s)
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration, env = "PTTH_TO_SILENCE")]
    pub(crate) to_silence: Duration,
    /// Silence after which a link is given up, once the gateway has sent a heartbeat on any link
    /// (0s: never)
    #[arg(long, value_name = "DURATION", default_value = "120s", value_parser = duration, env = "PTTH_SILENCE")]
    pub(crate) silence: Duration,
    /// How long links without any request or heartbeat are trusted before the device also polls, in
    /// case an intermediary swallows their data (0s: for ever)
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration, env = "PTTH_DOUBT_AFTER")]
    pub(crate) doubt_after: Duration,
    /// On SIGTERM: how long requests in progress may take to finish
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, env = "PTTH_DRAIN_TIMEOUT")]
    pub(crate) drain_timeout: Duration,
    /// The form of the log's lines on standard error
    #[arg(long, value_name = "FORM", value_enum, default_value = "text", env = "PTTH_LOG_FORMAT")]
    pub(crate) log_format: LogFormat,
    /// Report the state of the connection, in JSON: to a file that is replaced at each change, or
    /// at an address on loopback that answers HTTP with 200 while the device is connected, else 503
    #[arg(long, value_name = "PATH|ADDR", env = "PTTH_STATUS")]
    pub(crate) status: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Polling {
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
pub(crate) enum Refused {
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
pub(crate) enum Comet {
    Json,
    Message,
}

#[derive(Args)]
#[group(multiple = false)]
pub(crate) struct ServiceArgs {
    /// Forward requests to this local HTTP server: http://127.0.0.1:3000, https://nas.internal or
    /// unix:/run/app.sock. May be given several times, for paths that begin with PATH, and once
    /// without for all others: /api=http://127.0.0.1:8080. The longest path wins; requests for none
    /// get 404
    #[arg(long, value_name = "[PATH=]URL", value_delimiter = ',', env = "PTTH_TO", value_parser = local_server)]
    pub(crate) to: Vec<ForPath<String>>,
    /// Answer every request with this text
    #[arg(long, value_name = "STRING", env = "PTTH_TEXT")]
    pub(crate) text: Option<String>,
    /// Serve the files of this directory, index.html for a folder; nothing outside it, no hidden
    /// files, no listings
    #[arg(long, value_name = "PATH", env = "PTTH_DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Offered {
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

impl From<Offered> for Dialect {
    fn from(offered: Offered) -> Self {
        match offered {
            Offered::Classic => Dialect::classic(),
            Offered::Classic09 => Dialect::classic_0_9(),
            Offered::Ietf => Dialect::ietf(),
            Offered::H2o => Dialect::h2o(),
        }
    }
}

/// A switch in the environment.
pub(crate) fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" | "y" | "t" => Ok(true),
        "" | "0" | "false" | "no" | "off" | "n" | "f" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

/// `on-demand`, `lamp=now`.
pub(crate) fn turn(text: &str) -> Result<(Option<String>, TurnMode), String> {
    let (name, mode) =
        text.rsplit_once('=').map_or((None, text), |(name, mode)| (Some(name.to_owned()), mode));
    match mode {
        "now" => Ok((name, TurnMode::Now)),
        "on-demand" => Ok((name, TurnMode::OnDemand)),
        _ => Err("write now, on-demand, NAME=now or NAME=on-demand".to_owned()),
    }
}

/// A duration that is not zero.
pub(crate) fn some_time(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| {
        if time.is_zero() { Err("it must be greater than zero".to_owned()) } else { Ok(time) }
    })
}

pub(crate) fn some_number(text: &str) -> Result<usize, String> {
    number_up_to(text, usize::MAX)
}

/// A number of requests at once.
pub(crate) fn burst(text: &str) -> Result<u32, String> {
    number_up_to(text, Rate::REQUESTS_MAX)
}

/// A number of failed attempts.
fn attempts(text: &str) -> Result<u32, String> {
    number_up_to(text, u32::MAX)
}

/// A number from 1 on, in digits, without a sign.
pub(crate) fn number_up_to<N>(text: &str, most: N) -> Result<N, String>
where
    N: Copy + Display + FromStr + PartialOrd + From<u8>,
{
    const WRONG: &str = "write a whole number from 1 on";
    match digits(text).ok_or(WRONG)?.parse::<N>() {
        Ok(number) if number < N::from(1) => Err(WRONG.to_owned()),
        Ok(number) if number <= most => Ok(number),
        _ => Err(format!("at most {most}")),
    }
}

/// A number that is large enough for devices and visitors.
pub(crate) fn connections(text: &str) -> Result<usize, String> {
    some_number(text)
        .and_then(|n| if n < 4 { Err("it takes at least 4".to_owned()) } else { Ok(n) })
}

/// An option for the local server of a path, or for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForPath<T> {
    pub(crate) path: Option<String>,
    pub(crate) value: T,
}

/// `/cam=VALUE`, or `VALUE`.
fn for_path<'t>(text: &'t str, example: &str) -> Result<(Option<String>, &'t str), String> {
    match text.starts_with('/') {
        true => text
            .split_once('=')
            .map(|(path, value)| (Some(path.to_owned()), value))
            .ok_or_else(|| format!("write PATH= and a value, like {example}")),
        false => match text.split_once('=') {
            Some((name, _)) if is_segment(name) => {
                Err(format!("a path begins with a slash: write /{text}"))
            }
            _ => Ok((None, text)),
        },
    }
}

/// Returns true if this is probably a path without its slash: no URL, host with a port, or socket
/// begins like this before a `=`.
fn is_segment(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// `/cam`.
fn path(text: &str) -> Result<String, String> {
    match text.starts_with('/') {
        true => Ok(text.to_owned()),
        false => Err(format!("a path begins with a slash: write /{text}")),
    }
}

/// A URL; `127.0.0.1:3000` stands for `http://127.0.0.1:3000`.
fn local_server(text: &str) -> Result<ForPath<String>, String> {
    let (path, url) = for_path(text, "/api=http://127.0.0.1:8080")?;
    let has_scheme = url.contains("://") || url.starts_with("unix:");
    let value = if has_scheme { url.to_owned() } else { format!("http://{url}") };
    Ok(ForPath { path, value })
}

fn host_for_path(text: &str) -> Result<ForPath<String>, String> {
    for_path(text, "/cam=cam.internal")
        .map(|(path, value)| ForPath { path, value: value.to_owned() })
}

fn number_for_path(text: &str) -> Result<ForPath<usize>, String> {
    let (path, value) = for_path(text, "/cam=1")?;
    Ok(ForPath { path, value: some_number(value)? })
}

/// `X-Site: porch`.
fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write NAME: VALUE, like X-Site: porch")?;
    Ok((name.to_owned(), value.trim().to_owned()))
}

/// `ssh=127.0.0.1:22`.
fn tcp_target(text: &str) -> Result<(String, String), String> {
    let (name, place) =
        text.split_once('=').ok_or("write NAME=HOST:PORT, like ssh=127.0.0.1:22")?;
    Ok((name.to_owned(), place.to_owned()))
}

/// `20/s`.
pub(crate) fn rate(text: &str) -> Result<Rate, String> {
    text.parse().map_err(|e: reverse_http::Error| e.to_string())
}

/// `1048576`, `512M`, `1Gi`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    const WRONG: &str = "write a whole number of bytes, with or without a unit: 512M, 1G, or Ki, Mi, Gi in powers of 1024";
    const LONG: &str = "that is more than 64 bits count";
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number = digits(&text[..unit_at]).ok_or(WRONG)?.parse::<u64>().map_err(|_| LONG)?;
    let unit = match &text[unit_at..] {
        "" => 1,
        "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err(WRONG.to_owned()),
    };
    number.checked_mul(unit).ok_or_else(|| LONG.to_owned())
}

/// A size that is large enough for a gateway.
pub(crate) fn memory(text: &str) -> Result<u64, String> {
    size(text).and_then(|bytes| match bytes {
        0..1_048_576 => Err("it takes at least 1Mi (1048576 bytes)".to_owned()),
        bytes => Ok(bytes),
    })
}

/// `MIN..MAX`.
fn range<'t>(text: &'t str, example: &str) -> Result<(&'t str, &'t str), String> {
    text.split_once("..").ok_or_else(|| format!("write MIN..MAX, like {example}"))
}

/// `MIN..MAX`, each at least 1 and at most `ceiling`.
fn numbers(text: &str, ceiling: usize, example: &str) -> Result<RangeInclusive<usize>, String> {
    let (min, max) = range(text, example)?;
    let number = |n: &str| {
        let number = digits(n).map(|n| n.parse().unwrap_or(usize::MAX));
        number.ok_or_else(|| format!("{n:?} is not a number; write MIN..MAX, like {example}"))
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_local_server_without_a_scheme_is_at_http() {
        for (text, path, url) in [
            ("127.0.0.1:3000", None, "http://127.0.0.1:3000"),
            ("localhost:3000", None, "http://localhost:3000"),
            ("http://a", None, "http://a"),
            ("ftp://a", None, "ftp://a"),
            ("unix:/run/app.sock", None, "unix:/run/app.sock"),
            ("/api=a:3000", Some("/api"), "http://a:3000"),
            ("/api=unix:/run/a=b.sock", Some("/api"), "unix:/run/a=b.sock"),
            ("/=https://a", Some("/"), "https://a"),
        ] {
            let server = ForPath { path: path.map(str::to_owned), value: url.to_owned() };
            assert_eq!(local_server(text), Ok(server));
        }
        assert!(local_server("/run/app.sock").is_err());
    }

    #[test]
    fn a_number_has_digits_and_its_bounds_are_told() {
        assert_eq!((some_number("1"), some_number("00012")), (Ok(1), Ok(12)));
        assert_eq!(some_number(&usize::MAX.to_string()), Ok(usize::MAX));
        assert_eq!((burst("1000000"), attempts("4294967295")), (Ok(1_000_000), Ok(u32::MAX)));
        for wrong in ["", "0", "-1", "+5", " 5", "5 ", "1e9", "0x10", "1_000", "1.0", "\u{665}"] {
            assert_eq!(some_number(wrong), Err("write a whole number from 1 on".to_owned()));
            assert_eq!(burst(wrong), Err("write a whole number from 1 on".to_owned()));
        }
        for power in [32, 63, 64, 127] {
            let long = (1_u128 << power).to_string();
            assert_eq!(burst(&long), Err("at most 1000000".to_owned()));
            assert_eq!(attempts(&long), Err("at most 4294967295".to_owned()));
        }
        let longer = (1_u128 << 64).to_string();
        assert_eq!(some_number(&longer), Err(format!("at most {}", usize::MAX)));
        assert_eq!(links("1..1024"), Ok(1..=1024));
        for wrong in ["+1..5", "1..+5", "-1..5", "1..", "..5", "1..1e9"] {
            assert!(links(wrong).unwrap_err().contains("is not a number"), "{wrong}");
        }
        for wrong in ["0..1", "2..1", "1..1025", &format!("1..{longer}")] {
            assert!(links(wrong).unwrap_err().contains("MAX <= 1024"), "{wrong}");
        }
    }

    #[test]
    fn sizes_have_units_in_powers_of_1000_and_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("2K", 2_000),
            ("512M", 512_000_000),
            ("1G", 1_000_000_000),
            ("1Ki", 1 << 10),
            ("3Mi", 3 << 20),
            ("1Gi", 1 << 30),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "G", "1g", "1GB", "-1", "+1", "1.5G", " 1", "1 G", "99999999999G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        for long in ["18446744073709551616", "18446744073709551615K", "99999999999999999999G"] {
            assert_eq!(size(long), Err("that is more than 64 bits count".to_owned()), "{long}");
        }
        assert_eq!(size("18446744073709551615"), Ok(u64::MAX));
        assert!(memory("1Mi").is_ok() && memory("1048575").is_err() && memory("1K").is_err());
    }
}
