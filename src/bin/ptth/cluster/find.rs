//! `ptth cluster find NAME`: which gateway the directory names for a device, whether that gateway
//! has it, and a text about faults and remedies.

use std::time::Duration;

use reverse_http::text::{counted, spelled_out};
use reverse_http::{NameClaim, NameReport, RedisDirectory};
use serde_json::{Value, json};

use super::asking::{Asking, Has, Reply, spelt};
use super::{OWN, SILENT, STEPS, remedy};
use crate::check::{good, in_ms, warn, wrong};
use crate::output::print_line;
use crate::peers::{Named, OTHERS, check_name};
use crate::{Failure, files, usage};

/// Most gateways without a claim that are asked, all at once.
const ASKED_MAX: usize = 64;
const AT_ONCE: usize = 16;

/// Runs the command. Exit codes: 0 the device was found, and its gateway has it; 1 otherwise; 2
/// wrong usage.
pub(super) fn run(
    named: &Named,
    name: &str,
    timeout: Duration,
    is_json: bool,
) -> Result<(), Failure> {
    if name == OTHERS {
        return Err(usage(format!("device name {OTHERS}: this means several; find takes one")));
    }
    check_name(name).map_err(usage)?;
    if named.redis.is_none() && named.file.is_none() {
        return Err(usage("there is no directory that could be asked: give --directory"));
    }
    let asking = Asking { named, timeout };
    let mut find = Find { asking, name, is_json, findings: Vec::new() };
    let table = find.directory()?;
    let seen = find.gateways(&table)?;
    let conclusion = Conclusion::of(name, &table, &seen);
    if is_json {
        print_line(find.json(&table, &seen, &conclusion))?;
    } else {
        print_line(&conclusion.text)?;
    }
    match conclusion.is_found {
        true => Ok(()),
        false => Err(Failure { text: String::new(), code: 1 }), // it is printed
    }
}

/// The answer of the directory.
#[derive(Default)]
struct Table {
    kind: &'static str,
    server: String,
    round_trip: Option<Duration>,
    /// Why it does not answer.
    away: Option<String>,
    claims: Vec<(String, Claim)>,
    replaced: usize,
    invalid: usize,
    /// Gateways, and when each announced itself.
    gateways: Vec<(String, Duration)>,
}

enum Claim {
    Redis(NameClaim),
    /// A line of a file, for this name or for any other.
    Line(String),
}

impl Claim {
    /// Returns true if requests are sent there.
    fn is_valid(&self) -> bool {
        match self {
            Claim::Redis(claim) => claim.valid_for.is_some(),
            Claim::Line(_) => true,
        }
    }

    /// The text for its expiry.
    fn end(&self) -> String {
        match self {
            Claim::Redis(NameClaim { valid_for: Some(left), .. }) => {
                format!("until the claim expires, in {}, unless it is renewed", spoken(*left))
            }
            _ => "until the directory is corrected".to_owned(),
        }
    }

    fn json(&self) -> Value {
        let ms = |time: Option<Duration>| time.map(millis);
        match self {
            Claim::Redis(claim) => json!({
                "epoch": claim.epoch,
                "claimed_ms": ms(claim.claimed),
                "valid_ms": ms(claim.valid_for),
                "credential": claim.has_credential,
            }),
            Claim::Line(line) => json!({ "line": line }),
        }
    }
}

impl Table {
    fn claim_of(&self, url: &str) -> Option<&Claim> {
        self.claims.iter().find(|(of, _)| of == url).map(|(_, claim)| claim)
    }

    fn is_claimed_by(&self, url: &str) -> bool {
        self.claim_of(url).is_some_and(Claim::is_valid)
    }

    fn announced(&self, url: &str) -> Option<Duration> {
        self.gateways.iter().find(|(of, _)| of == url).map(|(_, ago)| *ago)
    }

    /// The remedy if a gateway has a device, but the directory does not name it.
    fn correction(&self) -> &'static str {
        match self.kind {
            "redis" => {
                "that gateway claims the name within a third of --directory-claim-time. If not, it does not reach this directory, or has another database or prefix: run ptth cluster check there"
            }
            _ => "correct the file",
        }
    }

    /// The text for its absence from the list of gateways.
    fn silence(&self, url: &str) -> String {
        match self.announced(url) {
            _ if self.kind != "redis" => String::new(),
            Some(ago) if ago <= SILENT => String::new(),
            Some(ago) => format!(
                "; that gateway has not announced itself for {}: it was killed, or does not reach the directory",
                spoken(ago)
            ),
            None => {
                "; that gateway is not in the directory's list: it has just started, has left, or was killed over a day ago".to_owned()
            }
        }
    }
}

/// A gateway that was asked.
struct Seen {
    url: String,
    is_own: bool,
    answer: Result<Reply, String>,
}

impl Seen {
    fn has(&self) -> Option<Has> {
        self.answer.as_ref().ok().and_then(|reply| reply.has)
    }

    fn is_connected(&self) -> bool {
        self.has() == Some(Has::Connected)
    }
}

#[derive(Clone, Copy)]
enum Verdict {
    Good,
    Note,
    Wrong,
}

struct Find<'n> {
    asking: Asking<'n>,
    name: &'n str,
    is_json: bool,
    findings: Vec<(Verdict, &'static str, String)>,
}

impl Find<'_> {
    fn tell(&mut self, verdict: Verdict, step: &'static str, text: String) -> Result<(), Failure> {
        match verdict {
            _ if self.is_json => {}
            Verdict::Good => good(step, &text)?,
            Verdict::Note => warn(step, &text)?,
            Verdict::Wrong => wrong(step, &text)?,
        }
        self.findings.push((verdict, step, text));
        Ok(())
    }

    fn directory(&mut self) -> Result<Table, Failure> {
        let table = match &self.asking.named.redis {
            Some(redis) => self.in_redis(redis)?,
            None => self.in_file()?,
        };
        for (url, claim) in &table.claims {
            let (verdict, text) = match claim {
                Claim::Line(line) => (Verdict::Good, format!("{url}: by its line of {line}")),
                Claim::Redis(claim) => of_claim(claim, &table.silence(url)),
            };
            self.tell(verdict, "claim", text)?;
        }
        if table.away.is_none() && table.claims.is_empty() {
            self.tell(Verdict::Note, "claim", format!("there is none of {}", self.name))?;
        }
        if table.replaced > 0 {
            let text = format!(
                "{} of {} gave way to a newer one recently, and will get 409 as long as that one is connected",
                counted(table.replaced as u64, "session"),
                self.name
            );
            self.tell(Verdict::Note, "claim", text)?;
        }
        if table.invalid > 0 {
            let count = counted(table.invalid as u64, "field");
            let text = format!("{count} of its key not written by a gateway: ignored");
            self.tell(Verdict::Note, "claim", text)?;
        }
        Ok(table)
    }

    fn in_file(&mut self) -> Result<Table, Failure> {
        let named = self.asking.named;
        let lines = &named.listed;
        let line = [self.name, OTHERS].into_iter().find(|line| lines.contains_key(*line));
        let claim = |line: &str| (spelt(&lines[line]), Claim::Line(line.to_owned()));
        let server = named.file.as_ref().map(|file| file.display().to_string());
        let server = server.unwrap_or_default();
        let text = format!("{server}: {}", counted(lines.len() as u64, "line"));
        self.tell(Verdict::Good, "directory", text)?;
        let claims = line.map(claim).into_iter().collect();
        Ok(Table { kind: "file", server, claims, ..Table::default() })
    }

    fn in_redis(&mut self, redis: &RedisDirectory) -> Result<Table, Failure> {
        let (asked, name, timeout) = (redis.clone(), self.name.to_owned(), self.asking.timeout);
        let look = move || asked.look_up(&name, timeout).map_err(|e| e.to_string());
        let report = match files::on_a_thread(timeout.saturating_mul(STEPS), look) {
            Ok(report) => report,
            Err(why) => {
                let text = format!("{why}{}", remedy(&why));
                self.tell(Verdict::Wrong, "directory", text)?;
                return Ok(Table { kind: "redis", away: Some(why), ..Table::default() });
            }
        };
        let NameReport { server, round_trip, claims, replaced, invalid, gateways, .. } = report;
        let text = format!("{server} answers within {:.1} ms", millis(round_trip));
        self.tell(Verdict::Good, "directory", text)?;
        // Anyone who can write there may have written it.
        let claim = |claim: NameClaim| (spelled_out(&claim.gateway), Claim::Redis(claim));
        let gateways = gateways.into_iter().map(|(url, ago)| (spelled_out(&url), ago));
        Ok(Table {
            kind: "redis",
            server,
            round_trip: Some(round_trip),
            away: None,
            claims: claims.into_iter().map(claim).collect(),
            replaced,
            invalid,
            gateways: gateways.collect(),
        })
    }

    /// Asks this gateway and those with a claim; if none of these has the device, also the others.
    fn gateways(&mut self, table: &Table) -> Result<Vec<Seen>, Failure> {
        let own = self.asking.named.own.as_deref().map(spelt);
        if own.is_none() {
            let text = "it is not known how this gateway is reached, so it is not asked itself; give --peers, and --advertise where that is 0.0.0.0 or has port 0";
            self.tell(Verdict::Note, OWN, text.to_owned())?;
        }
        let mut urls: Vec<String> = own.iter().cloned().collect();
        let claimed = table.claims.iter().map(|(url, _)| url);
        let claimed: Vec<String> =
            claimed.filter(|url| own.as_ref() != Some(url)).cloned().collect();
        let more = claimed.len().saturating_sub(ASKED_MAX);
        urls.extend(claimed.into_iter().take(ASKED_MAX));
        let mut seen = self.ask(table, &urls, own.as_deref())?;
        self.tell_unasked(more)?;
        let is_served = |seen: &Seen| table.is_claimed_by(&seen.url) && seen.is_connected();
        if !seen.iter().any(is_served) {
            let lives = |(url, ago): &&(String, Duration)| *ago <= SILENT && !urls.contains(url);
            let others: Vec<String> =
                table.gateways.iter().filter(lives).map(|(url, _)| url.clone()).collect();
            let asked = &others[..others.len().min(ASKED_MAX)];
            seen.extend(self.ask(table, asked, None)?);
            self.tell_unasked(others.len() - asked.len())?;
        }
        Ok(seen)
    }

    fn tell_unasked(&mut self, count: usize) -> Result<(), Failure> {
        match count {
            0 => Ok(()),
            count => {
                let text = format!("{} more: not asked", counted(count as u64, "gateway"));
                self.tell(Verdict::Note, "gateway", text)
            }
        }
    }

    fn ask(
        &mut self,
        table: &Table,
        urls: &[String],
        own: Option<&str>,
    ) -> Result<Vec<Seen>, Failure> {
        let mut all = Vec::new();
        for some in urls.chunks(AT_ONCE) {
            let (asking, name) = (&self.asking, self.name);
            let ask = |url: &String| {
                let is_own = own == Some(url);
                let answer = asking.ask(url, is_own, Some(name));
                Seen { url: url.clone(), is_own, answer }
            };
            let seen: Vec<Seen> = std::thread::scope(|scope| {
                let asked: Vec<_> = some.iter().map(|url| scope.spawn(move || ask(url))).collect();
                asked.into_iter().filter_map(|asked| asked.join().ok()).collect()
            });
            for seen in seen {
                let (verdict, text) = self.of_gateway(table, &seen);
                let which = if seen.is_own { ", this gateway" } else { "" };
                self.tell(verdict, "gateway", format!("{}{which}: {text}", seen.url))?;
                all.push(seen);
            }
        }
        Ok(all)
    }

    /// The meaning of a gateway's answer.
    fn of_gateway(&self, table: &Table, seen: &Seen) -> (Verdict, String) {
        let name = self.name;
        let claim = table.claim_of(&seen.url).filter(|claim| claim.is_valid());
        let reply = match (&seen.answer, claim) {
            (Ok(reply), _) => reply,
            (Err(why), None) => return (Verdict::Note, why.clone()),
            (Err(why), Some(claim)) => {
                let text = format!(
                    "{why} (requests for {name} are sent there, and wait or get 503, {}, or until the device connects to another gateway)",
                    claim.end()
                );
                return (Verdict::Wrong, text);
            }
        };
        let after = in_ms(reply.took);
        match (reply.has, claim) {
            (Some(Has::Connected), None) if table.away.is_none() => (
                Verdict::Wrong,
                format!("it has {name}, after {after}, and the directory does not say so"),
            ),
            (Some(Has::Connected), _) => (Verdict::Good, format!("it has {name}, after {after}")),
            (Some(_), None) => (Verdict::Note, format!("it does not have {name}, after {after}")),
            (Some(has), Some(claim)) => {
                let was = if has == Has::Away {
                    "has it no more, or stops"
                } else {
                    "knows nothing of it"
                };
                let text = format!(
                    "it does not have {name}: it {was}. Requests are sent there {}",
                    claim.end()
                );
                (Verdict::Wrong, text)
            }
            (None, _) => {
                let text =
                    "it serves, and does not say whether it has the device: its version is older";
                (Verdict::Note, text.to_owned())
            }
        }
    }

    fn json(&self, table: &Table, seen: &[Seen], conclusion: &Conclusion) -> Value {
        let gateway = |seen: &Seen| {
            let reply = seen.answer.as_ref();
            json!({
                "url": seen.url,
                "own": seen.is_own,
                "claim": table.claim_of(&seen.url).map(Claim::json),
                "announced_ms": table.announced(&seen.url).map(millis),
                "has": seen.has().map(Has::as_str),
                "took_ms": reply.ok().map(|reply| millis(reply.took)),
                "error": reply.err(),
            })
        };
        let finding = |(verdict, step, text): &(Verdict, &str, String)| {
            let verdict = match verdict {
                Verdict::Good => "ok",
                Verdict::Note => "note",
                Verdict::Wrong => "wrong",
            };
            json!({ "verdict": verdict, "step": step, "text": text })
        };
        json!({
            "name": self.name,
            "found": conclusion.is_found,
            "told": conclusion.text,
            "directory": {
                "kind": table.kind,
                "server": Some(&table.server).filter(|server| !server.is_empty()),
                "round_trip_ms": table.round_trip.map(millis),
                "error": table.away,
            },
            "gateways": seen.iter().map(gateway).collect::<Value>(),
            "replaced_sessions": table.replaced,
            "invalid_entries": table.invalid,
            "findings": self.findings.iter().map(finding).collect::<Value>(),
        })
    }
}

fn of_claim(claim: &NameClaim, silence: &str) -> (Verdict, String) {
    let made = match claim.claimed {
        Some(ago) => format!("made {} ago", spoken(ago)),
        None => "made before the server's clock was set".to_owned(),
    };
    let begins = format!("{}: {made} (epoch {})", spelled_out(&claim.gateway), claim.epoch);
    match claim.valid_for {
        Some(left) => {
            (Verdict::Good, format!("{begins}, valid for {} more{silence}", spoken(left)))
        }
        None => (Verdict::Note, format!("{begins}, expired: nobody is sent there{silence}")),
    }
}

/// The result of all answers.
struct Conclusion {
    is_found: bool,
    text: String,
}

impl Conclusion {
    fn of(name: &str, table: &Table, seen: &[Seen]) -> Self {
        let urls = |is: &dyn Fn(&&Seen) -> bool| -> String {
            let urls: Vec<&str> = seen.iter().filter(is).map(|seen| &*seen.url).collect();
            urls.join(", ")
        };
        let is_claimed = |seen: &&Seen| table.is_claimed_by(&seen.url);
        let served = urls(&|seen| is_claimed(seen) && seen.is_connected());
        let unclaimed = urls(&|seen| !is_claimed(seen) && seen.is_connected());
        let stale = urls(&|seen| {
            is_claimed(seen)
                && (seen.answer.is_err() || seen.has().is_some_and(|has| has != Has::Connected))
        });
        let unsaid = urls(&|seen| is_claimed(seen) && seen.answer.is_ok() && seen.has().is_none());
        let is_found = stale.is_empty() && unclaimed.is_empty() && table.away.is_none();
        let has = |urls: &str| !urls.is_empty();
        let text = match () {
            () if table.away.is_some() && has(&unclaimed) => format!(
                "the directory does not answer. {name} is at {unclaimed}, which serves it; other gateways reach it only if they have asked for it before. Mend the directory: ptth cluster check"
            ),
            () if table.away.is_some() => format!(
                "the directory does not answer, so gateways find {name} only where it is connected to them. Mend the directory: ptth cluster check"
            ),
            () if has(&stale) && has(&served) => format!(
                "{name} is at {served}, and the directory names {stale}, too, which does not serve it: some requests go there first"
            ),
            () if has(&stale) && has(&unclaimed) => format!(
                "{name} is at {unclaimed}, and the directory names {stale}: {}",
                table.correction()
            ),
            () if has(&stale) => format!(
                "{name} is not served: the directory names {stale}, which does not serve it, and no other gateway that answered has it. Look there, and at the device (ptth check)"
            ),
            () if has(&unclaimed) => {
                let beside = if has(&served) { format!("{served} and ") } else { String::new() };
                format!(
                    "{name} is at {beside}{unclaimed}, and the directory does not name {unclaimed}: {}",
                    table.correction()
                )
            }
            () if has(&served) => format!("{name} is at {served}"),
            () if has(&unsaid) => format!("{name} is at {unsaid}, as the directory says"),
            () => {
                return Conclusion {
                    is_found: false,
                    text: format!(
                        "{name} is at no gateway that answered: it is not connected. Look at the device (its log, ptth check), and at offers that were refused (ptth status {name})"
                    ),
                };
            }
        };
        Conclusion { is_found, text }
    }
}

fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

/// A time in words.
fn spoken(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        _ if seconds < 10.0 => format!("{seconds:.1} s"),
        _ if seconds < 120.0 => format!("{seconds:.0} s"),
        _ if seconds < 7_200.0 => format!("{:.0} min", seconds / 60.0),
        _ if seconds < 172_800.0 => format!("{:.0} h", seconds / 3_600.0),
        _ => format!("{:.0} days", seconds / 86_400.0),
    }
}
