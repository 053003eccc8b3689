//! `ptth check`: does the steps of a device that connects to its gateway, and explains which step
//! fails and what to do.
//!
//! The offer is for a separate name, because a second session of a connected device would take its
//! name over. The gateway's verdict on the real name is checked only with `--take-over`.

mod chain;

use std::fmt::Display;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use clap::{ArgAction, Args};
use reverse_http::Device;
use reverse_http::proto::dialect::Dialect;
use reverse_http::proto::turn::{self, OfferPlan};
use reverse_http::proto::verdict::Verdict;
use reverse_http::tls::DeviceTls;

use crate::addresses::{bare, with_port};
use crate::arguments::{some_time, yes_or_no};
use crate::certificates::DeviceFiles;
use crate::config::duration;
use crate::device::token;
use crate::files::Reading;
use crate::output::print_line;
use crate::proxy::{self, ProxyServer};
use crate::wire::{Reply, Wire, looked_up};
use crate::{Failure, failed, usage};

#[derive(Args)]
pub(crate) struct CheckArgs {
    /// The gateway and the device's name, as for ptth device: https://gw.example/lamp
    url: String,
    #[command(flatten)]
    tls: DeviceFiles,
    /// A file with the bearer token for the gateway (`-`: standard input); or set PTTH_TOKEN
    #[arg(long, value_name = "FILE|-", env = "PTTH_TOKEN_FILE")]
    token_file: Option<String>,
    /// Go through this proxy, by CONNECT: http://HOST:PORT; or none. Else the environment counts,
    /// as for ptth device
    #[arg(long, value_name = "URL|none", env = "PTTH_PROXY", hide_env_values = true)]
    proxy: Option<String>,
    /// How long to wait for the gateway's heartbeat on the link (0s: not at all)
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    heartbeat: Duration,
    /// How long each other step may take; a gateway may hold a poll for as long as its --poll-hold,
    /// on top
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = some_time)]
    timeout: Duration,
    /// Offer the device's own name, too: a device that is connected loses its links, and dials again
    #[arg(long, value_parser = yes_or_no, action = ArgAction::SetTrue)]
    take_over: bool,
}

/// A little more than a gateway's default for holding a poll.
const HOLD: Duration = Duration::from_secs(30);

/// A step that succeeded.
pub(crate) fn good(step: &str, what: impl Display) -> Result<(), Failure> {
    print_line(format_args!("ok     {step:<9}  {what}"))
}

/// A problem that a device tolerates.
pub(crate) fn warn(step: &str, what: impl Display) -> Result<(), Failure> {
    print_line(format_args!("note   {step:<9}  {what}"))
}

/// The step that fails.
pub(crate) fn wrong(step: &str, what: impl Display) -> Result<(), Failure> {
    print_line(format_args!("wrong  {step:<9}  {what}"))
}

/// The same, as the end of the command.
fn bad(step: &str, what: impl Display) -> Failure {
    wrong(step, what).err().unwrap_or_else(|| failed("not usable"))
}

/// Runs the check. Exit codes: 0 usable, 1 not, 2 wrong usage, 3 refused by the gateway.
pub(crate) fn run(args: CheckArgs) -> Result<(), Failure> {
    let gateway = Target::of(&args)?;
    let proxy = proxy::server_for(args.proxy.as_deref(), &args.url)?;
    let check = Check { gateway, proxy, timeout: args.timeout, heartbeat: args.heartbeat };
    let addresses = check.reach()?;
    if check.gateway.tls.is_some() {
        check.show_chain(&addresses)?;
    }
    let transport = check.offer_own_name(&addresses)?;
    if args.take_over {
        check.offer_name(&addresses)?;
    }
    print_line(format_args!("usable: a device would connect by {transport}"))
}

/// The target of the check, and its credentials.
struct Target {
    host: String,
    port: u16,
    authority: String,
    target: String,
    tls: Option<DeviceTls>,
    /// The facts that an established TLS session has proved.
    shown: &'static str,
    token: Option<String>,
}

impl Target {
    /// Validates the options with the rules of `ptth device`.
    fn of(args: &CheckArgs) -> Result<Self, Failure> {
        let files = args.tls.tls(Reading::First).map_err(usage)?;
        let uri: Option<http::Uri> = args.url.parse().ok();
        let secure = uri.as_ref().and_then(http::Uri::scheme_str) == Some("https");
        if files.is_some() && !secure {
            return Err(usage(
                "--ca, --pin, --cert, --key and --clock-floor go with a gateway at https://",
            ));
        }
        let token = token(args.token_file.as_deref(), "--token-file", "PTTH_TOKEN")?;
        let tls = secure.then(|| files.unwrap_or_default());
        let mut builder = Device::builder(&args.url).whole_target(true);
        if let Some(tls) = &tls {
            builder = builder.tls(tls.clone());
        }
        if let Some(token) = &token {
            builder = builder.bearer_token(token);
        }
        builder.build()?;
        // The builder has parsed the URL, so it has all of these parts.
        let wrong = || usage(format!("{}: write a URL like http://gw.example:9999/lamp", args.url));
        let uri = uri.ok_or_else(wrong)?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let host = bare(authority.host()).to_owned();
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let authority = authority.to_string();
        Ok(Target { host, port, authority, target, tls, shown: args.tls.shown(), token })
    }
}

struct Check {
    gateway: Target,
    proxy: Option<ProxyServer>,
    timeout: Duration,
    heartbeat: Duration,
}

/// The outcome of an offer.
enum Offered {
    Turned(Box<Wire>),
    Polls,
    /// The gateway knows the credential, which is not bound to this name.
    OtherName,
}

impl Check {
    /// Checks DNS and TCP (of the proxy, if there is one), and returns the addresses that accept
    /// connections.
    fn reach(&self) -> Result<Vec<SocketAddr>, Failure> {
        let (host, port) = match &self.proxy {
            Some(proxy) => {
                good("proxy", format_args!("{} (of {})", proxy.authority(), proxy.source))?;
                (proxy.host.clone(), proxy.port)
            }
            None => (self.gateway.host.clone(), self.gateway.port),
        };
        let asked = (host.clone(), port);
        let found = looked_up(asked, Instant::now() + self.timeout).map_err(|e| {
            bad("DNS", format_args!("{host} has no address ({e}); check the name, and this machine's resolver (/etc/resolv.conf)"))
        })?;
        let (v4, v6): (Vec<_>, Vec<_>) = found.iter().partition(|address| address.is_ipv4());
        let list = |addresses: &[SocketAddr]| match addresses {
            [] => "no address".to_owned(),
            some => some.iter().map(|a| a.ip().to_string()).collect::<Vec<_>>().join(", "),
        };
        good("DNS", format_args!("{host}: IPv4 {}; IPv6 {}", list(&v4), list(&v6)))?;
        let mut open = Vec::new();
        for address in found {
            let began = Instant::now();
            match TcpStream::connect_timeout(&address, self.timeout) {
                Ok(_) => {
                    good("TCP", format_args!("{address} accepts after {}", rounded(began)))?;
                    open.push(address);
                }
                Err(e) => warn("TCP", format_args!("{address}: {}", explained(&e)))?,
            }
        }
        if open.is_empty() {
            return Err(bad(
                "TCP",
                "no address accepts connections: is it the right port, does the other side run, does a firewall on the way let it through?",
            ));
        }
        Ok(open)
    }

    /// Connects to the gateway, through the proxy if there is one.
    fn connect(&self, addresses: &[SocketAddr]) -> Result<Wire, Failure> {
        let address = addresses.first().ok_or_else(|| bad("TCP", "no address"))?;
        let stream = TcpStream::connect_timeout(address, self.timeout)
            .map_err(|e| bad("TCP", format_args!("{address}: {}", explained(&e))))?;
        let mut wire = Wire::new(stream, Instant::now() + self.timeout);
        let Some(proxy) = &self.proxy else { return Ok(wire) };
        let to = with_port(&self.gateway.host, self.gateway.port);
        let told = wire.send(proxy.connect(&to).as_bytes()).and_then(|()| wire.reply());
        let reply = told.map_err(|e| bad("proxy", format_args!("{}: {e}", proxy.authority())))?;
        match reply.status {
            200..=299 => Ok(wire),
            407 => Err(bad(
                "proxy",
                "407: it wants credentials: http://USER:PASSWORD@HOST:PORT in the environment (PTTH_PROXY)",
            )),
            status if self.gateway.tls.is_none() => Err(bad(
                "proxy",
                format_args!(
                    "{status} {}: it opens no tunnel to {to}; a device would try to poll through it, as a browser would. Use https://, or a port that it allows (443)",
                    reply.reason
                ),
            )),
            status => Err(bad(
                "proxy",
                format_args!(
                    "{status} {}: it opens no tunnel to {to}; use a port that it allows (443), or have it allow this one",
                    reply.reason
                ),
            )),
        }
    }

    /// Secures a connection as a device would.
    fn secured(&self, addresses: &[SocketAddr]) -> Result<Wire, Failure> {
        let wire = self.connect(addresses)?;
        let Some(tls) = &self.gateway.tls else { return Ok(wire) };
        let config = tls.clone().into_rustls()?;
        wire.secure(config, &self.gateway.host).map_err(|e| bad("TLS", e))
    }

    /// Prints the gateway's certificates, valid or not; the verification follows.
    fn show_chain(&self, addresses: &[SocketAddr]) -> Result<(), Failure> {
        let wire = self.connect(addresses)?;
        match chain::shown(wire, &self.gateway.host) {
            Ok(chain) => chain.iter().try_for_each(|line| warn("chain", line))?,
            Err(e) => return Err(bad("TLS", e)),
        }
        let wire = self.secured(addresses)?;
        good("TLS", format_args!("{}; {}", wire.version(), self.gateway.shown))?;
        Ok(())
    }

    /// Offers an unused name.
    fn offer_own_name(&self, addresses: &[SocketAddr]) -> Result<&'static str, Failure> {
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(failed)?;
        let name = format!("check-{:08x}", u32::from_le_bytes(random));
        let name = renamed(&self.gateway.target, &name);
        match self.offer(addresses, &name)? {
            Offered::Turned(wire) => {
                good("offer", "101: the connection is turned (PTTH/1.0)")?;
                self.await_heartbeat(*wire)?;
                Ok("upgrade")
            }
            Offered::Polls => Ok("COMET (polls)"),
            Offered::OtherName => self.offer_by_get(addresses, &name),
        }
    }

    /// A gateway that refuses the name also refuses it for a poll. A GET is never a poll, so the
    /// same answer to a GET shows that `Upgrade` arrives.
    fn offer_by_get(&self, addresses: &[SocketAddr], name: &str) -> Result<&'static str, Failure> {
        let mut dialect = Dialect::classic();
        dialect.method = Some("GET".into());
        let reply = self.ask(addresses, name, dialect)?;
        good(
            "token",
            "the gateway knows it; it is not for the name of this check, as it should be. Whether it is for the device's name shows --take-over",
        )?;
        match reply.status {
            405 => {
                warn(
                    "offer",
                    "an intermediary removed Upgrade: COMET will be used (docs/operations.md says what proxies need)",
                )?;
                Ok("COMET (polls)")
            }
            _ => {
                good("offer", "Upgrade reaches the gateway")?;
                Ok("upgrade")
            }
        }
    }

    /// Offers the device's own name.
    fn offer_name(&self, addresses: &[SocketAddr]) -> Result<(), Failure> {
        match self.offer(addresses, &self.gateway.target)? {
            Offered::Turned(_) => good("name", "101: the gateway lets the device have its name")?,
            Offered::Polls => good("name", "the gateway lets the device have its name, by polls")?,
            Offered::OtherName => {
                wrong(
                    "name",
                    "the gateway knows the token, and it is not for this name: see its line of --tokens",
                )?;
                return Err(refused());
            }
        }
        Ok(())
    }

    fn ask(
        &self,
        addresses: &[SocketAddr],
        target: &str,
        dialect: Dialect,
    ) -> Result<Reply, Failure> {
        self.exchange(addresses, target, dialect).map(|(reply, _)| reply)
    }

    fn exchange(
        &self,
        addresses: &[SocketAddr],
        target: &str,
        dialect: Dialect,
    ) -> Result<(Reply, Wire), Failure> {
        let mut wire = self.secured(addresses)?;
        let mut plan = OfferPlan::new(&self.gateway.authority, target, dialect);
        plan.accept = Some("message/http, application/json".into());
        if let Some(token) = &self.gateway.token {
            plan.fields.push(("Authorization".to_owned(), format!("Bearer {token}")));
        }
        let mut offer = Vec::new();
        turn::write_offer(&mut offer, &plan).map_err(|e| usage(e.reason.into_owned()))?;
        wire.extend(self.timeout + HOLD);
        let told = wire.send(&offer).and_then(|()| wire.reply());
        let reply = told.map_err(|e| {
            bad("offer", format_args!("{e}; the other side may not be a gateway, or be a visitors' port, or an intermediary may drop what it does not know"))
        })?;
        Ok((reply, wire))
    }

    fn offer(&self, addresses: &[SocketAddr], target: &str) -> Result<Offered, Failure> {
        let (reply, wire) = self.exchange(addresses, target, Dialect::classic())?;
        let from =
            if reply.marked { "the gateway" } else { "something that is no gateway of ours" };
        let status = reply.status;
        let told =
            if reply.text.is_empty() { String::new() } else { format!(" It says: {}", reply.text) };
        match reply.verdict {
            Verdict::Turned { warning } => {
                warning.iter().try_for_each(|warning| warn("offer", warning))?;
                Ok(Offered::Turned(Box::new(wire)))
            }
            Verdict::FellBack(_) | Verdict::Nothing => {
                warn(
                    "offer",
                    format_args!(
                        "{status}: an intermediary removed Upgrade, or the gateway only takes polls (--fallback only): COMET will be used"
                    ),
                )?;
                Ok(Offered::Polls)
            }
            Verdict::Refused(403) if reply.marked && self.gateway.token.is_some() => {
                Ok(Offered::OtherName)
            }
            Verdict::Refused(_) => {
                let remedy = match status {
                    401 => {
                        "it wants a token that it knows: --token-file, a line in its --tokens, or a new token where the old one expired"
                    }
                    403 => "it does not admit this device: see its log",
                    _ => "the URL may be wrong, or an ingress is not ready",
                };
                wrong("offer", format_args!("{status} from {from}: {remedy}.{told}"))?;
                Err(refused())
            }
            Verdict::Redirect(to) => Err(bad(
                "offer",
                format_args!(
                    "{status}: the gateway sends devices to {to}; check that URL, and allow its host with --redirect-hosts"
                ),
            )),
            Verdict::Later { .. } if status == 426 => Err(bad(
                "offer",
                format_args!(
                    "426 from {from}: an intermediary removed Upgrade, and this gateway takes no polls (--fallback never).{told}"
                ),
            )),
            Verdict::Later { .. } if is_for_tls(status, &reply.text) => {
                Err(bad("offer", format_args!("{status}: {}", reply.text)))
            }
            Verdict::Later { .. } => Err(bad(
                "offer",
                format_args!(
                    "{status} from {from}: it does not serve now; a device would try again.{told}"
                ),
            )),
            Verdict::NoTurn(_) => Err(bad(
                "offer",
                format_args!(
                    "{status} from {from}: it neither upgrades nor takes polls here; check the port and the path.{told}"
                ),
            )),
            Verdict::Wrong(why) => Err(bad("offer", why)),
            Verdict::Informational => Err(bad("offer", format_args!("{status} without a body"))),
        }
    }

    /// Waits for the gateway's heartbeat on the new link.
    fn await_heartbeat(&self, mut wire: Wire) -> Result<(), Failure> {
        if self.heartbeat.is_zero() {
            return Ok(());
        }
        let began = Instant::now();
        wire.extend(self.heartbeat);
        match wire.heartbeat() {
            Ok(true) => good(
                "heartbeat",
                format_args!("it came after {}, and was answered", rounded(began)),
            )?,
            Ok(false) => warn(
                "heartbeat",
                format_args!(
                    "none within {:?}: the gateway may send them more seldom (its --heartbeat); the link stayed open",
                    self.heartbeat
                ),
            )?,
            Err(e) => {
                return Err(bad(
                    "heartbeat",
                    format_args!(
                        "the idle link ended after {} ({e}): a proxy or firewall on the way closes idle connections before the gateway's --heartbeat; set that lower, or the other's timeout higher",
                        rounded(began)
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// Returns true if a gateway's TLS port has answered a request without TLS.
pub(crate) fn is_for_tls(status: u16, text: &str) -> bool {
    status == 400 && text.contains("this port speaks TLS")
}

/// `/lamp/more?query` with another first segment.
fn renamed(target: &str, name: &str) -> String {
    let path = target.strip_prefix('/').unwrap_or(target);
    let end = path.find(['/', '?']).unwrap_or(path.len());
    format!("/{name}{}", &path[end..])
}

fn refused() -> Failure {
    Failure { text: "refused by the gateway".to_owned(), code: 3 }
}

pub(crate) fn rounded(began: Instant) -> String {
    in_ms(began.elapsed())
}

/// In whole milliseconds.
pub(crate) fn in_ms(time: Duration) -> String {
    match time {
        brief if brief < Duration::from_millis(1) => "less than 1ms".to_owned(),
        long => format!(
            "{:?}",
            Duration::from_millis(u64::try_from(long.as_millis()).unwrap_or(u64::MAX))
        ),
    }
}

/// The usual cause of a failed connection.
fn explained(error: &std::io::Error) -> String {
    use std::io::ErrorKind as Kind;
    let remedy = match error.kind() {
        Kind::ConnectionRefused => "nothing listens at this port",
        Kind::TimedOut => "no answer; a firewall may drop the packets",
        Kind::NetworkUnreachable | Kind::HostUnreachable => "this machine has no route there",
        _ => return error.to_string(),
    };
    format!("{remedy} ({error})")
}
