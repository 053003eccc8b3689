//! `ptth cluster`: tests the directory and the other gateways step by step, as a gateway with these
//! options would use them (`check`), and shows where it finds a device (`find`).

mod asking;
mod find;

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use reverse_http::text::{counted, spelled_out};
use reverse_http::{DirectoryReport, RedisDirectory};

use self::asking::{Asking, spelt};
use crate::arguments::some_time;
use crate::check::{good, in_ms, warn, wrong};
use crate::files;
use crate::output::print_line;
use crate::peers::{Named, PeersArgs};
use crate::{Failure, failed, usage};

/// A larger difference between clocks is reported.
const CLOCKS_APART: Duration = Duration::from_secs(1);
/// The step that tests this gateway's own URL.
const OWN: &str = "own URL";
/// A gateway announces itself more often than this.
const SILENT: Duration = Duration::from_secs(120);
/// Steps of the test of Redis, each of which may take `--timeout`: some twelve, and one for each of
/// 16 servers that hang.
const STEPS: u32 = 28;

#[derive(Args)]
pub(crate) struct ClusterArgs {
    /// What to do: check tests the directory and each gateway that it lists, and reports faults;
    /// find shows where a device is
    #[arg(value_enum)]
    what: What,
    /// With find: the device's name, or its origin
    name: Option<String>,
    /// With find: print JSON (docs/cluster.md)
    #[arg(long)]
    json: bool,
    /// The file of ptth gateway: the options below are read from its table `[gateway]`
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
    Find,
}

/// Exit codes: 0 no fault, or found; 1 a fault, or not found; 2 wrong usage.
pub(crate) fn run(args: &ClusterArgs) -> Result<(), Failure> {
    let named = args.others.named()?;
    let named = named.ok_or_else(|| {
        usage("there is nothing to check: give the gateway's --directory, or --peers")
    })?;
    match (args.what, &args.name) {
        (What::Check, Some(_)) => Err(usage("a device's name goes with ptth cluster find")),
        (What::Check, None) if args.json => Err(usage("--json goes with ptth cluster find")),
        (What::Check, None) => check(&named, args.timeout),
        (What::Find, None) => Err(usage("which device? Write ptth cluster find NAME")),
        (What::Find, Some(name)) => find::run(&named, name, args.timeout, args.json),
    }
}

fn check(named: &Named, timeout: Duration) -> Result<(), Failure> {
    let mut check = Check { faults: 0, named, timeout };
    let mut gateways: BTreeSet<String> = named.listed.values().map(|url| spelt(url)).collect();
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

    /// Reports the entries of a directory in a file.
    fn file(&self, own: Option<&str>) -> Result<(), Failure> {
        let Some(file) = &self.named.file else { return Ok(()) };
        let lines = self.named.listed.len();
        let is_own = |url: &&String| own.is_some_and(|own| spelt(url) == own);
        let of_own = self.named.listed.values().filter(is_own).count();
        let text = format!("{}: {}", file.display(), counted(lines as u64, "line"));
        match lines {
            0 => warn("directory", format_args!("{text}: devices of other gateways are not found")),
            _ if of_own == lines => warn("directory", format_args!("{text}, all for this gateway")),
            _ => good("directory", format_args!("{text}, {of_own} for this gateway")),
        }
    }

    /// Reports whether the gateway that answers at this one's URL is in this table.
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

    /// Reports the server with the table, and the gateways that it lists; `None`: it does not
    /// answer.
    fn directory(&mut self, redis: &RedisDirectory) -> Result<Option<Table>, Failure> {
        let (asked, timeout) = (redis.clone(), self.timeout);
        let look = move || asked.examine(timeout).map_err(|e| e.to_string());
        let report = match files::on_a_thread(timeout.saturating_mul(STEPS), look) {
            Ok(report) => report,
            Err(e) => {
                self.bad("directory", format_args!("{e}{}", remedy(&e)))?;
                return Ok(None);
            }
        };
        self.server(&report)?;
        let mut urls = Vec::new();
        for (url, ago) in &report.gateways {
            let url = spelled_out(url); // anyone who can write there may have written it
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
        for (url, time) in &report.other_claim_times {
            let url = spelled_out(url);
            self.bad(
                "known",
                format_args!(
                    "{url}: its claims last {time:?}, which is not the --directory-claim-time here; it has to be the same for all gateways"
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

    /// Tests a gateway as this one would use it; returns true if it is one.
    fn gateway(&mut self, step: &str, url: &str) -> Result<bool, Failure> {
        let asking = Asking { named: self.named, timeout: self.timeout };
        match asking.ask(url, step == OWN, None) {
            Ok(reply) => {
                let took = in_ms(reply.took);
                good(step, format_args!("{url}: {}, after {took}", reply.taken)).map(|()| true)
            }
            Err(why) => self.bad(step, format_args!("{url}: {why}")).map(|()| false),
        }
    }
}

/// What to check if a server does not answer.
fn remedy(why: &str) -> &'static str {
    match ["os error", "in time", "lookup"].iter().any(|part| why.contains(part)) {
        true => {
            "; is --directory right, does the server run, does a firewall let this one through?"
        }
        false => "",
    }
}
