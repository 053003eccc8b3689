//! `ptth cluster check`: what a gateway with these options would see of the directory and of the
//! other gateways, step by step, in words.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use reverse_http::proto::head::{self, LineEnds};
use reverse_http::text::{counted, spelled_out};
use reverse_http::tls::DeviceTls;
use reverse_http::{DirectoryReport, Limits, RedisDirectory};

use crate::addresses::{bare, with_port};
use crate::arguments::some_time;
use crate::check::{good, is_for_tls, rounded, warn, wrong};
use crate::files;
use crate::output::print_line;
use crate::peers::{Named, PeersArgs};
use crate::wire::{Part, Wire, looked_up};
use crate::{Failure, failed, usage};

/// Longest answer of a gateway that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Clocks that are further apart are told.
const CLOCKS_APART: Duration = Duration::from_secs(1);
/// The step that looks at how others reach this gateway.
const OWN: &str = "own URL";
/// A gateway announces itself more often than this.
const SILENT: Duration = Duration::from_secs(120);
/// Steps of the look at Redis, each of which may take `--timeout`: some twelve, and each of 16 servers
/// that hang.
const STEPS: u32 = 28;

#[derive(Args)]
pub(crate) struct ClusterArgs {
    /// What to do: check goes to the directory and to each gateway that it knows, and says what is
    /// wrong
    #[arg(value_enum)]
    what: What,
    /// The file of ptth gateway: of its table `[gateway]`, the options below count
    #[arg(long, value_name = "FILE", env = "PTTH_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    others: PeersArgs,
    /// How long each step may take
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = some_time)]
    timeout: Duration,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    Check,
}

/// Runs the check. Exit codes: 0 all right, 1 something is wrong, 2 wrong usage.
pub(crate) fn run(args: &ClusterArgs) -> Result<(), Failure> {
    let What::Check = args.what;
    let named = args.others.named()?;
    let named = named.ok_or_else(|| {
        usage("there is nothing to check: give the gateway's --directory, or --peers")
    })?;
    let mut check = Check { faults: 0, named: &named, timeout: args.timeout };
    let mut gateways: BTreeSet<String> = named.listed.iter().map(|url| spelt(url)).collect();
    let own = named.own.as_deref().map(spelt);
    check.file(own.as_deref())?;
    let table = match &named.redis {
        Some(redis) => Some(check.directory(redis)?),
        None => None,
    };
    match &own {
        None => warn(
            OWN,
            "it is not known how others reach this gateway; give --peers, and --advertise where that is 0.0.0.0 or has port 0",
        )?,
        Some(own) => {
            let answers = check.gateway(OWN, own)?;
            if let Some(Some(table)) = &table {
                check.own_place(own, answers, table)?;
            }
        }
    }
    let known = table.iter().flatten().flat_map(|table| table.gateways.iter().cloned());
    gateways.extend(known);
    if let Some(own) = &own {
        gateways.remove(own);
    }
    match table {
        Some(None) => warn(
            "gateway",
            "not asked: which others there are the directory says, and it does not answer",
        )?,
        Some(Some(table)) if gateways.is_empty() => {
            warn(
                "gateway",
                format_args!(
                    "the directory ({table}) knows no other: is that the one that the others have?"
                ),
            )?;
        }
        _ if gateways.is_empty() => warn("gateway", "the directory knows no other")?,
        _ => {}
    }
    for url in &gateways {
        check.gateway("gateway", url)?;
    }
    match check.faults {
        0 => print_line("all right: a gateway with these options reaches all of it"),
        1 => Err(failed("one thing is wrong")),
        many => Err(failed(format_args!("{many} things are wrong"))),
    }
}

/// A table in Redis that answered.
struct Table {
    database: i64,
    prefix: String,
    /// Those that are not silent.
    gateways: Vec<String>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "database {}, prefix {}", self.database, self.prefix)
    }
}

struct Check<'n> {
    faults: usize,
    named: &'n Named,
    timeout: Duration,
}

impl Check<'_> {
    fn bad(&mut self, step: &str, what: impl Display) -> Result<(), Failure> {
        self.faults += 1;
        wrong(step, what)
    }

    /// What a directory in a file has.
    fn file(&self, own: Option<&str>) -> Result<(), Failure> {
        let Some(file) = &self.named.file else { return Ok(()) };
        let lines = self.named.listed.len();
        let is_own = |url: &&String| own.is_some_and(|own| spelt(url) == own);
        let of_own = self.named.listed.iter().filter(is_own).count();
        let text = format!("{}: {}", file.display(), counted(lines as u64, "line"));
        match lines {
            0 => warn("directory", format_args!("{text}: devices of other gateways are not found")),
            _ if of_own == lines => warn("directory", format_args!("{text}, all for this gateway")),
            _ => good("directory", format_args!("{text}, {of_own} for this gateway")),
        }
    }

    /// Whether the gateway that answers at this one's URL is in this table.
    fn own_place(&mut self, own: &str, answers: bool, table: &Table) -> Result<(), Failure> {
        match (table.gateways.iter().any(|url| url == own), answers) {
            (true, _) => Ok(()),
            (false, true) => self.bad(
                "known",
                format_args!(
                    "a gateway answers at {own} and is not in this directory ({table}): does it have another --directory, database or --directory-prefix? (Just started, or the directory just emptied: check again)"
                ),
            ),
            (false, false) => {
                warn("known", format_args!("{own}, this gateway, is not there: it does not run"))
            }
        }
    }

    /// The server with the table, and the gateways that it knows; `None`: it does not answer.
    fn directory(&mut self, redis: &RedisDirectory) -> Result<Option<Table>, Failure> {
        let (asked, timeout) = (redis.clone(), self.timeout);
        let look = move || asked.examine(timeout).map_err(|e| e.to_string());
        let report = match files::on_a_thread(timeout.saturating_mul(STEPS), look) {
            Ok(report) => report,
            Err(e) => {
                let is_away = ["os error", "in time", "lookup"].iter().any(|part| e.contains(part));
                let remedy = match is_away {
                    true => {
                        "; is --directory right, does the server run, does a firewall let this one through?"
                    }
                    false => "",
                };
                self.bad("directory", format_args!("{e}{remedy}"))?;
                return Ok(None);
            }
        };
        self.server(&report)?;
        let mut urls = Vec::new();
        for (url, ago) in &report.gateways {
            let url = spelled_out(url); // whoever can write there has written it
            let text = format!("{url} announced itself {} s ago", ago.as_secs());
            match *ago > SILENT {
                true => warn(
                    "known",
                    format_args!(
                        "{text}: it was killed, or does not reach the directory; it is forgotten after a day, and not asked here"
                    ),
                )?,
                false => {
                    good("known", text)?;
                    urls.push(url);
                }
            }
        }
        for url in &report.shared_urls {
            let url = spelled_out(url);
            self.bad(
                "known",
                format_args!(
                    "{url}: several gateways announce themselves by it, and requests for the devices of one go to any of them; give each its own --advertise"
                ),
            )?;
        }
        let DirectoryReport { database, prefix, .. } = report;
        Ok(Some(Table { database, prefix, gateways: urls }))
    }

    fn server(&mut self, report: &DirectoryReport) -> Result<(), Failure> {
        for said in &report.passed_over {
            warn("directory", format_args!("passed over: {said}"))?;
        }
        let or_hidden = |text: &Option<String>| text.clone().unwrap_or("unknown".to_owned());
        let (version, role) = (or_hidden(&report.version), or_hidden(&report.role));
        let text = format!(
            "{} ({version}, role {role}) answers within {:.1} ms",
            report.server,
            report.round_trip.as_secs_f64() * 1000.0
        );
        match role.as_str() {
            "slave" => self.bad(
                "directory",
                format_args!("{text}: a replica takes no claims; name its master in --directory"),
            )?,
            _ => good("directory", text)?,
        }
        match &report.claims {
            Ok(()) => good("claims", "a name that nobody has was claimed and released")?,
            Err(e) => {
                self.bad("claims", format_args!("{e}; a gateway's claims have to be taken"))?
            }
        }
        match &report.changes {
            Ok(()) => good("changes", "the channel can be listened to")?,
            Err(e) => self.bad(
                "changes",
                format_args!("{e}; its user has to be allowed the channel (&PREFIX:changes)"),
            )?,
        }
        if let Some(policy) = report.memory_policy.as_ref().filter(|policy| *policy != "noeviction")
        {
            warn(
                "memory",
                format_args!(
                    "maxmemory-policy {policy}: a full server drops names of devices; use noeviction, or a server for the directory alone"
                ),
            )?;
        }
        if let Some(apart) = report.clock_difference.filter(|apart| *apart > CLOCKS_APART) {
            warn(
                "clock",
                format_args!(
                    "the server's clock and this machine's are {:.1} s apart; set both (NTP)",
                    apart.as_secs_f64()
                ),
            )?;
        }
        Ok(())
    }

    /// A gateway as this one would ask it; returns true if it is one.
    fn gateway(&mut self, step: &str, url: &str) -> Result<bool, Failure> {
        match self.ask(url, step == OWN) {
            Ok(told) => good(step, format_args!("{url}: {told}")).map(|()| true),
            Err(why) => self.bad(step, format_args!("{url}: {why}")).map(|()| false),
        }
    }

    /// `is_own`: the URL is this gateway's.
    fn ask(&self, url: &str, is_own: bool) -> Result<String, String> {
        let Target { host, port, authority, is_secure } = target(url)?;
        let asked = (host.clone(), port);
        let until = Instant::now() + self.timeout;
        let found = looked_up(asked, until)
            .map_err(|e| format!("{host} has no address ({e}); check the name"))?;
        let wire = Wire::dial(&found, Instant::now() + self.timeout).map_err(|e| {
            format!(
                "no connection ({e}): does that gateway run, does a firewall let this one through?"
            )
        })?;
        let tls = || self.named.tls.clone().into_rustls().map_err(|e| e.to_string());
        let config = if is_secure { Some(tls()?) } else { None };
        let mut wire = match config {
            None => wire,
            Some(config) => wire
                .explained(DeviceTls::explained_between_gateways)
                .secure(config, &host)
                .map_err(|e| format!("no TLS: {e}"))?,
        };
        wire.extend(self.timeout);
        let secret = match &self.named.secret {
            Some(secret) => format!("PTTH-Peer-Secret: {secret}\r\n"),
            None => String::new(),
        };
        let request =
            format!("OPTIONS * HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n{secret}\r\n");
        let began = Instant::now();
        let answered = wire.send(request.as_bytes()).and_then(|()| Answered::read(&mut wire));
        let answered = answered.map_err(|e| match (is_secure, e.contains("in time")) {
            (false, true) => format!(
                "it took the connection and said nothing for {:?}: it hangs, or speaks TLS (https://)",
                self.timeout
            ),
            (true, true) => format!("it did not answer for {:?}: it hangs", self.timeout),
            (false, false) => format!("{e}; does it speak TLS there (https://)?"),
            (true, false) if e.contains("--peers-c") => e,
            (true, false) => {
                format!("{e}; does it want a certificate (--peers-client-ca)? --peers-cert is shown")
            }
        })?;
        let tls = if is_secure { format!(", {}", wire.version()) } else { String::new() };
        answered
            .verdict(self.named.secret.is_some(), is_own)
            .map(|taken| format!("{taken}{tls}, after {}", rounded(began)))
    }
}

struct Target {
    host: String,
    port: u16,
    authority: String,
    is_secure: bool,
}

/// # Errors
/// No gateway's URL: somebody else has written it.
fn target(url: &str) -> Result<Target, String> {
    let wrong = || "this is no URL of a gateway (http://HOST:PORT)".to_owned();
    let uri: http::Uri = url.parse().map_err(|_| wrong())?;
    let is_secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(wrong()),
    };
    let named = uri.authority().filter(|at| !at.as_str().contains('@')).ok_or_else(wrong)?;
    let host = bare(named.host()).to_owned();
    let port = named.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
    Ok(Target { host, port, authority: named.to_string(), is_secure })
}

/// A gateway's URL as the directory has it.
fn spelt(url: &str) -> String {
    let Ok(Target { host, port, is_secure, .. }) = target(url) else { return url.to_owned() };
    let scheme = if is_secure { "https" } else { "http" };
    format!("{scheme}://{}", with_port(&host.to_ascii_lowercase(), port))
}

/// What came back.
#[derive(Default)]
struct Answered {
    status: u16,
    /// A gateway's port for others has answered.
    is_served: bool,
    is_stranger: bool,
    /// A gateway of this project, at whichever port.
    is_marked: bool,
    text: String,
}

impl Answered {
    fn read(wire: &mut Wire) -> Result<Self, String> {
        let mut answered = Answered::default();
        let status = wire.answer("OPTIONS", ANSWER_BYTES_MAX, |_, part| {
            match part {
                Part::Head(bytes) => answered.take_head(bytes),
                Part::Body(bytes) => answered.text.push_str(&String::from_utf8_lossy(bytes)),
            }
            Ok(())
        });
        let status = status.map_err(|failure| failure.text)?;
        Ok(Answered { status, ..answered })
    }

    fn take_head(&mut self, bytes: &[u8]) {
        let Ok(Some(head)) = head::response(bytes, &Limits::default(), LineEnds::CrlfOrLf) else {
            return;
        };
        let is = |name, value: &[u8]| head.fields.get(name).is_some_and(|found| found == value);
        self.is_served = is("PTTH-Peer-Served", b"1");
        self.is_stranger = is("PTTH-Peer-Miss", b"stranger");
        self.is_marked = reverse_http::proto::turn::is_marked(&head.fields);
    }

    fn verdict(&self, has_secret: bool, is_own: bool) -> Result<&'static str, String> {
        let status = self.status;
        let remedy = match is_own {
            true => "correct --advertise",
            false => "correct the directory, or its --advertise",
        };
        match (self.is_served, status) {
            (true, 200) if has_secret => Ok("it takes the secret"),
            (true, 200) => Ok("it takes requests of this gateway"),
            (true, _) if self.is_stranger && has_secret => Err(
                "it does not take this one's secret; give both the same in the first line of --peer-secret".to_owned(),
            ),
            (true, _) if self.is_stranger => {
                Err("it wants a secret, and this one shows none; give --peer-secret".to_owned())
            }
            (true, _) => Err(format!("{status}: it does not serve now; see its log")),
            (false, _) if is_for_tls(status, &self.text) => {
                Err("this port speaks TLS; write https:// in the URL".to_owned())
            }
            (false, _) => Err(match self.place() {
                Some(place) => format!("{status}: this is {place}, not its --peers; {remedy}"),
                None => format!("what answers there ({status}) is no gateway; {remedy}"),
            }),
        }
    }

    /// Which port of a gateway it is that answers without the mark of others, if it is one.
    fn place(&self) -> Option<&'static str> {
        match &self.text {
            text if text.contains("admin listener") => Some("a gateway's --admin"),
            text if text.contains("answers OPTIONS * itself") => Some("a gateway's --visitors"),
            _ if self.is_marked => Some("a gateway's --devices"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_has_written_may_be_no_url() {
        for wrong in ["", "10.0.0.1:7000", "ftp://a", "http://a:b@c", "http://a b", "http://"] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
        let found = target("https://[::1]").ok().map(|found| (found.host, found.port));
        assert_eq!(found, Some(("::1".to_owned(), 443)));
        assert_eq!(spelt("https://[::1]/"), "https://[::1]:443");
        assert_eq!((&*spelt("http://GW"), &*spelt("nothing")), ("http://gw:80", "nothing"));
    }
}
