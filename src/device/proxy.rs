//! A proxy on the way out: CONNECT (RFC 9110 §9.3.6) as a stage of the dial, and which hosts are
//! dialled without it.
//!
//! ```text
//!   connected ─► CONNECT gw.example:9999 ─► 1xx* ─► 2xx ─► offer, as ever      anything else: a failed attempt
//!                                                └─► 403, 405 ─► POST http://gw.example:9999/lamp: polls, where the gateway is http://
//! ```

use std::net::IpAddr;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::device::dial::{Url, retry_after};
use crate::device::role::{DeviceRole, Stage, State, dial_stage, flush, printable};
use crate::engine::connections::{Connections, Fetched, Id};
use crate::error::Error;
use crate::limits::Limits;
use crate::proto::head::{self, Fields, LineEnds, ResponseHead};
use crate::proto::turn::{self, Fallback};

/// The port of a proxy whose URL names none: curl's.
const PROXY_PORT: u16 = 1080;

/// The proxy of a device. No `Debug`: it has a password.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(super) host: String,
    pub(super) port: u16,
    /// `HOST:PORT`, for texts.
    pub(super) text: String,
    /// The whole value of `Proxy-Authorization`.
    authorization: Option<String>,
    except: Exceptions,
}

impl Proxy {
    /// Reads `http://HOST[:PORT]`. `credentials` are user and password.
    pub(super) fn new(
        url: &str,
        credentials: Option<&(String, String)>,
        except: &str,
    ) -> Result<Self, Error> {
        let url = Url::parse(url, "proxy")?;
        if url.secure {
            return Err(Error::usage(format!(
                "proxy URL {}: a proxy is spoken to over http:// (what goes through it may well be https)",
                url.text
            )));
        }
        if url.target != "/" {
            return Err(Error::usage(format!("proxy URL {}: leave its path away", url.text)));
        }
        let names_port =
            url.authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
                && !url.authority.ends_with(']');
        let port = if names_port { url.port } else { PROXY_PORT };
        let text = authority_of(&url.host, port);
        let authorization = credentials.map(|(user, password)| {
            if user.contains(':') || user.chars().chain(password.chars()).any(char::is_control) {
                return Err(Error::usage("the proxy's credentials: a user has no colon, and neither has control characters (RFC 7617)"));
            }
            Ok(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
        });
        Ok(Proxy {
            host: url.host,
            port,
            text,
            authorization: authorization.transpose()?,
            except: Exceptions::parse(except),
        })
    }

    /// Whether this host is dialled through it.
    fn serves(&self, url: &Url) -> bool {
        !self.except.has(&url.host, url.port)
    }

    fn write_connect(&self, out: &mut Vec<u8>, url: &Url) {
        let to = authority_of(&url.host, url.port);
        out.extend_from_slice(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").as_bytes());
        // Some proxies let nobody through who does not say what they are.
        out.extend_from_slice(
            concat!("User-Agent: ptth/", env!("CARGO_PKG_VERSION"), "\r\n").as_bytes(),
        );
        if let Some(value) = &self.authorization {
            out.extend_from_slice(format!("Proxy-Authorization: {value}\r\n").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }

    /// What the proxy's final answer means: a tunnel, or why there is none.
    fn verdict(&self, head: &ResponseHead<'_>) -> Result<(), Refused> {
        // Framing fields mean nothing here (RFC 9110 §9.3.6), but with a page of HTML they show
        // that no tunnel is meant.
        let has_body = head.fields.get("content-length").is_some_and(|length| length != b"0")
            || head.fields.get("transfer-encoding").is_some();
        let page = has_body && turn::is_page(&head.fields);
        let schemes = unspoken(&head.fields);
        let why = match head.status {
            200..=299 if !page => return Ok(()),
            200..=399 => {
                "that is no tunnel, but a page or the way to one: perhaps a captive portal that wants a log-in"
            }
            407 if schemes.is_some() => {
                "it wants credentials in a way that is not spoken here (only Basic is); put a proxy between that speaks it, like cntlm or px"
            }
            407 if self.authorization.is_some() => "it does not take these credentials",
            407 => {
                "it wants credentials; give them in the proxy's URL in the environment, like http_proxy=http://USER:PASSWORD@HOST:PORT"
            }
            403 | 405 => {
                "it does not let this device go there; allow CONNECT to that host and port, or use another proxy"
            }
            502..=504 => "it cannot reach the gateway",
            _ => "it opens no tunnel; is it a proxy?",
        };
        let schemes = schemes
            .filter(|_| head.status == 407)
            .map_or(String::new(), |schemes| format!(" ({schemes})"));
        let why =
            format!("proxy {} answered CONNECT with {}{schemes}: {why}", self.text, head.status);
        Err(Refused {
            why,
            no_connect: matches!(head.status, 403 | 405),
            retry_after: retry_after(&head.fields),
        })
    }
}

/// What a 407 wants, where Basic is not among it: `Negotiate, NTLM`.
fn unspoken(fields: &Fields<'_>) -> Option<String> {
    let mut schemes: Vec<String> = Vec::new();
    for challenge in fields.all("proxy-authenticate") {
        // A challenge's parameters are `name=value`: what stands first in a member and is none is a
        // scheme's name (RFC 9110 §11.6.1).
        let members = challenge.split(|&byte| byte == b',').map(|member| member.trim_ascii());
        let names = members
            .filter_map(|member| member.split(|&byte| byte == b' ').next())
            .filter(|name| !name.is_empty() && !name.contains(&b'='));
        schemes.extend(names.map(printable).filter(|name| name.len() <= 32).take(8));
    }
    let spoken =
        schemes.is_empty() || schemes.iter().any(|scheme| scheme.eq_ignore_ascii_case("basic"));
    (!spoken).then(|| schemes.join(", "))
}

/// No tunnel.
struct Refused {
    why: String,
    /// It does not let CONNECT go there, and may let other requests.
    no_connect: bool,
    retry_after: Option<Duration>,
}

impl From<String> for Refused {
    fn from(why: String) -> Self {
        Refused { why, no_connect: false, retry_after: None }
    }
}

/// `HOST:PORT`, an IPv6 address in brackets.
fn authority_of(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

impl DeviceRole {
    /// The proxy through which this gateway is dialled, if any.
    pub(super) fn proxy_to(&self, url: &Url) -> Option<&Proxy> {
        self.plan.proxy.as_ref().filter(|proxy| proxy.serves(url))
    }

    /// The connection stands: to the gateway, which gets its offer, or to a proxy, which is asked
    /// for a tunnel first.
    pub(super) fn connected(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(State::Dial(dial)) = cx.get(id).map(|p| &p.state) else { return };
        let url = dial.url.clone();
        let Some(proxy) = self.proxy_to(&url).filter(|_| !self.polls_through_proxy(&url, cx.now()))
        else {
            return self.reached(cx, id);
        };
        let Some(peer) = cx.get_mut(id) else { return };
        proxy.write_connect(peer.output(), &url);
        dial_stage(cx, id, Stage::Tunnelling { informational: 0 });
        flush(cx, id);
        let at = cx.after(self.limits.proxy_timeout);
        cx.set_deadline(id, Some(at));
    }

    pub(super) fn tunnel_is_late(&mut self, cx: &mut Connections<State>, id: Id) {
        let proxy = self.plan.proxy.as_ref().map_or("", |proxy| &proxy.text);
        let why = format!("proxy {proxy} did not answer CONNECT within proxy_timeout");
        self.end_dial(cx, id, &why, None);
    }

    pub(super) fn read_tunnel(&mut self, cx: &mut Connections<State>, id: Id) {
        let mut scratch = cx.take_scratch();
        let answer = self
            .plan
            .proxy
            .as_ref()
            .map(|proxy| proxy_answer(cx, id, proxy, &self.limits, &mut scratch));
        cx.put_scratch(scratch);
        match answer {
            Some(Ok(true)) => {
                self.reached(cx, id);
                if cx.get(id).is_some_and(|peer| peer.has_input()) {
                    cx.again(id); // what came behind the 200 is the gateway's
                }
            }
            Some(Ok(false)) | None => {}
            Some(Err(Refused { why, no_connect: true, .. }))
                if self.may_poll_through_proxy(cx, id) =>
            {
                self.poll_through_proxy(cx, id, &why)
            }
            Some(Err(Refused { why, retry_after, .. })) => self.end_dial(cx, id, &why, retry_after),
        }
    }

    /// Whether requests for this gateway go to its proxy in absolute form (RFC 9112 §3.2.2), since
    /// that opens no tunnel to such ports.
    pub(super) fn polls_through_proxy(&self, url: &Url, now: Instant) -> bool {
        !url.secure
            && self.no_tunnel_until.is_some_and(|until| now < until)
            && self.proxy_to(url).is_some()
    }

    /// The target of a request that goes through a proxy without a tunnel, and what the proxy has
    /// to see beside it.
    pub(super) fn through_proxy(&self, url: &Url) -> (String, Option<(String, String)>) {
        let authorization = self.proxy_to(url).and_then(|proxy| proxy.authorization.clone());
        (
            format!("http://{}{}", url.authority, url.target),
            authorization.map(|value| ("Proxy-Authorization".to_owned(), value)),
        )
    }

    fn may_poll_through_proxy(&self, cx: &Connections<State>, id: Id) -> bool {
        let Some(State::Dial(dial)) = cx.get(id).map(|p| &p.state) else { return false };
        !dial.url.secure
            && self.plan.fallback != Fallback::Never
            && !(self.draining() && dial.slot.is_none())
    }

    fn poll_through_proxy(&mut self, cx: &mut Connections<State>, id: Id, why: &str) {
        let time = self.limits.turn_retry.max(PROXY_RETRY_MIN);
        log_names!(
            Warn,
            "{why}. Polling through it without a tunnel for {} s (turn_retry); a gateway on port 443 (https) would most likely get one",
            time.as_secs_f32()
        );
        self.no_tunnel_until = Some(cx.after(time));
        self.ask_without_upgrade(cx, id, None);
    }
}

/// Where `turn_retry` is zero: how long a proxy's refusal counts, at least.
const PROXY_RETRY_MIN: Duration = Duration::from_secs(60);

/// Whether the tunnel stands. Bytes behind the answer are kept: they are the gateway's.
fn proxy_answer(
    cx: &mut Connections<State>,
    id: Id,
    proxy: &Proxy,
    limits: &Limits,
    scratch: &mut [u8],
) -> Result<bool, Refused> {
    let Some(peer) = cx.get_mut(id) else { return Ok(false) };
    let _ = peer.flush(); // a failure shows in the next read
    let filled = match peer.fetch(scratch, limits.head_bytes_max + 1024) {
        Ok(Fetched::Bytes(n)) => n,
        Ok(Fetched::Nothing) => return Ok(false),
        Ok(Fetched::End) => {
            return Err(format!(
                "proxy {} closed the connection instead of answering CONNECT",
                proxy.text
            )
            .into());
        }
        Err(e) => {
            return Err(format!(
                "the connection to proxy {} broke before it answered CONNECT: {e}",
                proxy.text
            )
            .into());
        }
    };
    let (bytes, mut used) = (&scratch[..filled], 0);
    loop {
        let parsed = head::response(&bytes[used..], limits, LineEnds::CrlfOrLf).map_err(|e| {
            format!("proxy {} answered CONNECT with what is no answer: {}", proxy.text, e.reason)
        })?;
        let over = peer.is_over();
        let State::Dial(dial) = &mut peer.state else { return Ok(false) };
        let Stage::Tunnelling { informational } = &mut dial.stage else { return Ok(false) };
        let Some(response) = parsed else {
            if over {
                return Err(format!(
                    "proxy {} closed the connection in the middle of its answer to CONNECT",
                    proxy.text
                )
                .into());
            }
            peer.keep(&bytes[used..]);
            return Ok(false);
        };
        used += response.len;
        if !(100..=199).contains(&response.status) {
            proxy.verdict(&response)?;
            if used < filled {
                peer.keep(&bytes[used..]);
            }
            return Ok(true);
        }
        *informational += 1;
        if *informational > limits.informational_max {
            return Err(format!(
                "proxy {} sent more interim responses than informational_max",
                proxy.text
            )
            .into());
        }
    }
}

/// Hosts that are dialled without the proxy, as curl reads `no_proxy`: names with all names below
/// them, addresses, networks, or `*` for all. Beyond curl's rules an entry may end in `:PORT` and
/// is for that port alone.
#[derive(Clone, Default)]
pub(super) struct Exceptions {
    all: bool,
    list: Vec<(Except, Option<u16>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Except {
    /// In lower case, without dots at its ends.
    Name(String),
    Network(IpAddr, u32),
}

impl Exceptions {
    /// An entry that can match nothing is left out, as curl does.
    pub(super) fn parse(text: &str) -> Self {
        if text.trim() == "*" {
            return Exceptions { all: true, list: Vec::new() };
        }
        let entries = text.split([',', ' ', '\t']).filter(|entry| !entry.is_empty());
        Exceptions { all: false, list: entries.filter_map(Exceptions::entry).collect() }
    }

    fn entry(text: &str) -> Option<(Except, Option<u16>)> {
        if let Some(network) = network(text) {
            return Some((network, None));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (text, None),
        };
        let name = host.trim_matches('.').to_ascii_lowercase();
        let entry = network(host).or_else(|| (!name.is_empty()).then_some(Except::Name(name)))?;
        Some((entry, port))
    }

    pub(super) fn has(&self, host: &str, port: u16) -> bool {
        let address: Option<IpAddr> = host.parse().ok();
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        self.all
            || self.list.iter().filter(|(_, only)| only.is_none_or(|only| only == port)).any(
                |(entry, _)| match (entry, address) {
                    (Except::Network(..), Some(address)) => entry.holds(address),
                    (Except::Name(below), None) => name
                        .strip_suffix(below.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
                    _ => false,
                },
            )
    }
}

impl Except {
    /// Whether it is a network with this address in it.
    pub(super) fn holds(&self, address: IpAddr) -> bool {
        match self {
            Except::Network(base, prefix) => {
                common_bits(*base, address).is_some_and(|bits| bits >= *prefix)
            }
            Except::Name(_) => false,
        }
    }
}

/// `10.0.0.0/8`, `::1`, `[::1]`. Bits behind the prefix do not count.
pub(super) fn network(text: &str) -> Option<Except> {
    let (address, prefix) =
        text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let address: IpAddr = address.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.map_or(Some(most), |digits| digits.parse().ok().filter(|n| *n <= most))?;
    Some(Except::Network(address, prefix))
}

/// How many bits two addresses of one family begin with in common.
fn common_bits(a: IpAddr, b: IpAddr) -> Option<u32> {
    match (a, b.to_canonical()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => Some((u32::from(a) ^ u32::from(b)).leading_zeros()),
        (IpAddr::V6(a), IpAddr::V6(b)) => Some((u128::from(a) ^ u128::from(b)).leading_zeros()),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_is_read_as_curl_reads_it() {
        for (list, host, is) in [
            ("*", "gw.example", true),
            (" * ", "10.0.0.1", true),
            ("example", "gw.example", true),
            (".example", "gw.example", true),
            (".gw.example", "gw.example", true),
            ("GW.Example.", "gw.eXample", true),
            ("gw.example", "gw.example.", true),
            ("example", "gwexample", false),
            ("gw.example", "example", false),
            ("a.example,b.example", "b.example", true),
            ("a.example b.example", "b.example", true),
            ("*.example", "gw.example", false), // curl knows no patterns
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.9.9.9/8", "10.1.2.3", true), // bits behind the prefix do not count
            ("10.0.0.0/8", "11.1.2.3", false),
            ("0.0.0.0/0", "11.1.2.3", true),
            ("10.0.0.0/33", "10.0.0.0", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("0.0.1", "127.0.0.1", false), // an address has no names above it
            ("::1", "::1", true),
            ("[::1]", "::1", true),
            ("fe80::/10", "fe81::1", true),
            ("fe80::/10", "2001:db8::1", false),
            ("gw.example:9999", "gw.example", true),
            ("gw.example:80", "gw.example", false),
            ("127.0.0.1:9999", "127.0.0.1", true),
            ("[::1]:9999", "::1", true),
            ("[::1]:80", "::1", false),
            ("gw.example:port", "gw.example", false),
            ("", "gw.example", false),
            (",. ,", "gw.example", false),
        ] {
            assert_eq!(Exceptions::parse(list).has(host, 9999), is, "{list:?} {host}");
        }
    }

    #[test]
    fn a_proxy_is_a_host_and_has_its_credentials_beside_it() {
        let none = None;
        for (url, text) in [
            ("http://proxy:3128", "proxy:3128"),
            ("http://proxy", "proxy:1080"),
            ("http://[::1]:3128/", "[::1]:3128"),
            ("http://[::1]", "[::1]:1080"),
        ] {
            assert_eq!(
                Proxy::new(url, none, "").unwrap_or_else(|e| panic!("{url}: {e}")).text,
                text
            );
        }
        for url in [
            "http://me:hunter2@proxy:3128",
            "https://proxy",
            "socks5://proxy:1080",
            "proxy:3128",
            "http://proxy:3128/x",
        ] {
            let error = Proxy::new(url, none, "").err().unwrap_or_else(|| panic!("{url} is taken"));
            assert!(error.is_usage() && !error.to_string().contains("hunter2"), "{error}");
        }
        let secret = ("Aladdin".to_owned(), "open sesame".to_owned());
        let proxy = Proxy::new("http://proxy:3128", Some(&secret), "").unwrap();
        let mut out = Vec::new();
        proxy.write_connect(&mut out, &Url::parse("http://[2001:db8::1]/lamp", "gateway").unwrap());
        let head = String::from_utf8(out).unwrap();
        assert_eq!(
            head,
            concat!(
                "CONNECT [2001:db8::1]:80 HTTP/1.1\r\nHost: [2001:db8::1]:80\r\nUser-Agent: ptth/",
                env!("CARGO_PKG_VERSION"),
                "\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n"
            )
        ); // the example of RFC 7617 §2
        assert!(
            Proxy::new("http://proxy:3128", Some(&("a:b".to_owned(), String::new())), "").is_err()
        );
    }
}
