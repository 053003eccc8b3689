//! The fields in which proxies report the hops before them, `X-Forwarded-*` and `Forwarded` (RFC
//! 7239), and the networks whose fields are trusted.
//!
//! ```text
//!   the peer's address ─┬─ in no trusted network ─► whatever came goes, and our own word is written
//!                       └─ in one ─► what is understood of it ─► written again, with our own element after it
//! ```
//! Lists are read from the end, where the nearest proxy wrote: members before a malformed one are
//! not trusted, and are dropped with it. None of these fields decides where a request goes. Apart
//! from the scheme, which is compared with an origin, they are only forwarded to the server.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt::{self, Write};

use crate::error::Refusal;
use crate::proto::authority::authority;
use crate::proto::fields::{Fields, trim};
use crate::proto::head::{is_dots, is_token};
use crate::proto::head_writer::{push_decimal, push_field, write_field};

/// Members of a list that are kept, those nearest to us. A longer chain of proxies can only be a
/// loop.
const HOPS_MAX: usize = 32;

/// Longest prefix that is accepted from a proxy or a route, in bytes: far more than a usual path
/// prefix, far less than a head.
const PREFIX_BYTES_MAX: usize = 1024;

/// A network: an address, or a block of them in CIDR notation (RFC 4632 §3.1, RFC 4291 §2.3).
///
/// ```
/// use reverse_http::proto::forwarded::Network;
/// let network: Network = "10.0.0.0/8".parse()?;
/// assert!(network.contains("10.1.2.3".parse().unwrap()) && !network.contains("11.0.0.0".parse().unwrap()));
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// All bits after the prefix are zero.
    base: IpAddr,
    prefix: u32,
}

impl Network {
    /// Returns true if the address is in this network. `::ffff:a.b.c.d` counts as the IPv4 address;
    /// it is in no IPv6 network, not even in `::/0`.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                u32::from(base) == u32::from(address) & v4_mask(self.prefix)
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                u128::from(base) == u128::from(address) & v6_mask(self.prefix)
            }
            _ => false,
        }
    }
}

fn v4_mask(prefix: u32) -> u32 {
    u32::MAX.checked_shl(32 - prefix).unwrap_or(0)
}

fn v6_mask(prefix: u32) -> u128 {
    u128::MAX.checked_shl(128 - prefix).unwrap_or(0)
}

impl std::str::FromStr for Network {
    type Err = Refusal;

    /// Reads `10.0.0.0/8`, `2001:db8::/32`, or a single address.
    ///
    /// # Errors
    /// It is neither; the prefix is longer than the address; bits are set after the prefix
    /// (`10.0.0.1/8`), which is ambiguous.
    fn from_str(text: &str) -> Result<Self, Refusal> {
        let wrong = || {
            Refusal::new(
                400,
                format!(
                    "{text:?} is no address and no network; write 10.0.0.7, 10.0.0.0/8, 2001:db8::7 or 2001:db8::/32"
                ),
            )
        };
        let (address, prefix) =
            text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let written: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if written.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|n: &u32| *n <= most && n.to_string() == digits)
                .ok_or_else(wrong)?,
        };
        // `::ffff:10.0.0.0/104` is 10.0.0.0/8.
        let (base, prefix) = match written.to_canonical() {
            canonical if canonical.is_ipv4() && written.is_ipv6() && prefix >= 96 => {
                (canonical, prefix - 96)
            }
            _ => (written, prefix),
        };
        let masked = match base {
            IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from(u32::from(base) & v4_mask(prefix))),
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base) & v6_mask(prefix))),
        };
        if masked != base {
            return Err(Refusal::new(
                400,
                format!("{text:?} has address bits after its prefix; write {masked}/{prefix}"),
            ));
        }
        Ok(Network { base, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// The client, for the forwarding fields: what this hop knows itself, and, if the client is a
/// trusted proxy, its fields.
///
/// ```
/// use reverse_http::proto::forwarded::Forwarded;
/// let visitor = Forwarded {
///     remote_ip: "203.0.113.7".parse().ok(),
///     proto: "https",
///     host: "gw.example",
///     ..Forwarded::default()
/// };
/// assert!(visitor.claims.is_none(), "no proxy before this one is believed");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Forwarded<'a> {
    /// The IP address of the client: a visitor, or its proxy.
    pub remote_ip: Option<IpAddr>,
    /// `http` or `https`: the scheme of the client's request.
    pub proto: &'a str,
    /// The `Host` that the client sent.
    pub host: &'a str,
    /// The fields of a trusted proxy; `None`: the client is not a trusted proxy.
    pub claims: Option<&'a ProxyClaims<'a>>,
    /// Whether to add our element of `Forwarded`, too.
    pub element: bool,
}

impl Forwarded<'_> {
    /// Appends the forwarding fields; `prefix` was removed from the path.
    pub(crate) fn write(&self, out: &mut Vec<u8>, prefix: Option<&str>) -> Result<(), Refusal> {
        let nothing = ProxyClaims::default();
        let claims = self.claims.unwrap_or(&nothing);
        let ip = self.remote_ip.map(|ip| ip.to_canonical());
        match ip {
            Some(ip) if claims.hops.is_empty() => push_address(out, "X-Forwarded-For", ip),
            Some(ip) => push_shown(out, "X-Forwarded-For", format_args!("{}, {ip}", claims.hops)),
            None if claims.hops.is_empty() => {}
            None => push_field(out, "X-Forwarded-For", claims.hops.as_bytes()),
        }
        write_field(
            out,
            "X-Forwarded-Proto",
            claims.proto.as_deref().unwrap_or(self.proto).as_bytes(),
        )?;
        write_field(out, "X-Forwarded-Host", claims.host.unwrap_or(self.host).as_bytes())?;
        if let Some(port) = claims.port {
            push_shown(out, "X-Forwarded-Port", port);
        }
        match (claims.prefix, prefix) {
            ("", None) => {}
            ("", Some(ours)) => write_field(out, "X-Forwarded-Prefix", ours.as_bytes())?,
            (outer, ours) => write_field(
                out,
                "X-Forwarded-Prefix",
                [outer, ours.unwrap_or_default()].concat().as_bytes(),
            )?,
        }
        let elements = match self.element {
            false => claims.elements.clone(),
            true if claims.elements.is_empty() => self.own_element(ip),
            true => [&claims.elements, ", ", &self.own_element(ip)].concat(),
        };
        if !elements.is_empty() {
            write_field(out, "Forwarded", elements.as_bytes())?;
        }
        Ok(())
    }

    /// The element of this hop (RFC 7239 §4): the client's address, host and scheme. Our own
    /// address and all ports are kept private.
    fn own_element(&self, ip: Option<IpAddr>) -> String {
        let mut element = String::new();
        push_pair(&mut element, "for", &ip.map_or_else(|| UNKNOWN.to_owned(), node));
        if !self.host.is_empty() {
            push_pair(&mut element, "host", self.host);
        }
        push_pair(&mut element, "proto", self.proto);
        element
    }
}

/// Appends a field whose value is an address. IPv4 is written without the formatter, which takes a
/// twentieth of the time of a relayed request.
fn push_address(out: &mut Vec<u8>, name: &str, address: IpAddr) {
    let IpAddr::V4(address) = address else { return push_shown(out, name, address) };
    out.extend_from_slice(name.as_bytes());
    let mut before: &[u8] = b": ";
    for part in address.octets() {
        out.extend_from_slice(before);
        push_decimal(out, part.into());
        before = b".";
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a field whose `Display` is plain ASCII, without a `String` in between.
fn push_shown(out: &mut Vec<u8>, name: &str, value: impl fmt::Display) {
    struct Bytes<'o>(&'o mut Vec<u8>);
    impl Write for Bytes<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }
    let _ = write!(Bytes(out), "{name}: {value}\r\n"); // Bytes never fails
}

/// The well-formed parts of the forwarding fields of a trusted proxy.
///
/// ```
/// use reverse_http::Limits;
/// use reverse_http::proto::forwarded::ProxyClaims;
/// use reverse_http::proto::head::{self, LineEnds};
///
/// let head = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: HTTPS\r\n\r\n";
/// let head = head::request(head, &Limits::default(), LineEnds::Crlf)?.expect("it is whole");
/// assert_eq!(ProxyClaims::read(&head.fields).scheme(), Some("https"));
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyClaims<'a> {
    /// `X-Forwarded-For`: addresses, the farthest first; empty if there are none.
    hops: String,
    /// `X-Forwarded-Proto`, lower case.
    proto: Option<String>,
    host: Option<&'a str>,
    port: Option<u16>,
    /// `X-Forwarded-Prefix`, without a trailing slash.
    prefix: &'a str,
    /// `Forwarded`; empty if there is none.
    elements: String,
}

impl<'a> ProxyClaims<'a> {
    /// Reads the forwarding fields of a request that came from a trusted proxy. Malformed parts are
    /// left out, and the request is served.
    ///
    /// - `X-Forwarded-For`, all its lines: addresses, or `unknown`; a port is left out. Members
    ///   before a malformed one are dropped with it.
    /// - `-Proto`, `-Host`, `-Port`, `-Prefix`: one line with one value: a scheme, an authority, a
    ///   port, a path of plain segments.
    /// - `Forwarded`, all its lines: elements as of RFC 7239 §4, blanks around `;` allowed. A
    ///   malformed line, and those before it, become `for=unknown`.
    ///
    /// Of both lists the last 32 members are kept. Any other `X-Forwarded-*` is dropped.
    pub fn read(fields: &Fields<'a>) -> Self {
        let one = |name| one_line(fields, name);
        ProxyClaims {
            hops: hops(fields),
            proto: one("x-forwarded-proto")
                .filter(|proto| is_scheme(proto))
                .map(str::to_ascii_lowercase),
            host: one("x-forwarded-host").filter(|host| authority(host.as_bytes()).is_ok()),
            port: one("x-forwarded-port").and_then(port),
            prefix: one("x-forwarded-prefix").and_then(outer_prefix).unwrap_or_default(),
            elements: elements(fields),
        }
    }

    /// The scheme that the visitor used, if it is known and one of HTTP's: an origin is compared
    /// with it.
    #[must_use]
    pub fn scheme(&self) -> Option<&'static str> {
        match self.proto.as_deref()? {
            "https" | "wss" => Some("https"), // some proxies name a WebSocket's scheme
            "http" | "ws" => Some("http"),
            _ => None,
        }
    }

    /// The visitor's address: the nearest one that is not a trusted proxy's.
    pub fn visitor(&self, is_trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let mut farthest = None;
        for hop in self.hops.rsplit(", ") {
            let address = hop.parse().ok()?; // `unknown`: nor is anything before it
            if !is_trusted(address) {
                return Some(address);
            }
            farthest = Some(address);
        }
        farthest
    }

    /// The host that the visitor asked for, according to the proxy.
    #[must_use]
    pub fn host(&self) -> Option<&'a str> {
        self.host
    }

    /// The path prefix that the proxy has removed; empty: none.
    #[must_use]
    pub fn prefix(&self) -> &'a str {
        self.prefix
    }
}

/// The value of a field that has exactly one line.
fn one_line<'a>(fields: &Fields<'a>, name: &str) -> Option<&'a str> {
    let mut lines = fields.all(name);
    match (lines.next(), lines.next()) {
        (Some(line), None) => std::str::from_utf8(line).ok(),
        _ => None,
    }
}

/// Returns true for a scheme (RFC 3986 §3.1) of a usual length.
fn is_scheme(text: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    text.len() <= 16
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(rest)
}

fn port(digits: &str) -> Option<u16> {
    digits.parse().ok().filter(|port: &u16| *port > 0 && port.to_string() == digits)
}

/// A proxy's prefix ends up in links and redirects: only a single plain path is accepted.
pub(crate) fn outer_prefix(text: &str) -> Option<&str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+;=:@%".contains(&byte);
    path_prefix(text).ok().filter(|prefix| prefix.bytes().all(plain))
}

/// A path prefix of whole segments, without a trailing slash: `/api` for `/api` and `/api/`; empty
/// for `/`.
///
/// # Errors
/// It does not begin with `/`, or has an empty segment, one of dots, a query, a fragment, a
/// backslash, a byte that is invalid in a target, a `%` without two hex digits: no request's path
/// would match it.
pub(crate) fn path_prefix(text: &str) -> Result<&str, &'static str> {
    let prefix = text.strip_suffix('/').unwrap_or(text);
    if !text.starts_with('/') {
        return Err("a path begins with /");
    }
    if text.len() > PREFIX_BYTES_MAX {
        return Err("a path prefix has at most 1024 bytes");
    }
    if !text.bytes().all(|byte| matches!(byte, 0x21..=0x7E) && !matches!(byte, b'?' | b'#' | b'\\'))
    {
        return Err(
            "a path has no query, fragment, backslash or blank, and no byte above 0x7E; percent-encode those",
        );
    }
    let encoded = |at: usize| {
        prefix
            .as_bytes()
            .get(at + 1..at + 3)
            .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit) && hex != b"00")
    };
    if !prefix.match_indices('%').all(|(at, _)| encoded(at)) {
        return Err("a % in a path must be followed by two hex digits other than 00");
    }
    if !prefix.is_empty()
        && prefix[1..].split('/').any(|segment| segment.is_empty() || is_dots(segment))
    {
        return Err("a path has no empty segment, and none that is . or ..");
    }
    Ok(prefix)
}

const UNKNOWN: &str = "unknown";

/// The members of `X-Forwarded-For` after the last malformed one.
fn hops(fields: &Fields<'_>) -> String {
    // Quotes have no meaning in this field: an unclosed one must not hide what a proxy wrote after
    // it.
    let members =
        fields.all("x-forwarded-for").flat_map(|line| line.split(|byte| *byte == b',')).map(trim);
    let members: Vec<&[u8]> = members.filter(|member| !member.is_empty()).collect();
    let known: Vec<String> = members
        .iter()
        .rev()
        .take(HOPS_MAX)
        .map_while(|member| hop(std::str::from_utf8(member).ok()?))
        .collect();
    known.iter().rev().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn hop(member: &str) -> Option<String> {
    if member.eq_ignore_ascii_case(UNKNOWN) {
        return Some(UNKNOWN.to_owned());
    }
    if let Ok(address) = member.parse::<IpAddr>() {
        return Some(address.to_canonical().to_string());
    }
    let (name, behind) = name_and_port(member)?;
    behind
        .is_none_or(|digits| port(digits).is_some())
        .then(|| address(name).map(|address| address.to_string()))?
}

/// Splits a node into its name (an IPv6 address with brackets) and the text after the colon (RFC
/// 7239 §6).
fn name_and_port(text: &str) -> Option<(&str, Option<&str>)> {
    let end = if text.starts_with('[') {
        text.find(']')? + 1
    } else {
        text.find(':').unwrap_or(text.len())
    };
    match text.split_at(end) {
        (name, "") => Some((name, None)),
        (name, behind) => Some((name, Some(behind.strip_prefix(':')?))),
    }
}

/// Reads `192.0.2.7` or `[2001:db8::7]`.
fn address(name: &str) -> Option<IpAddr> {
    let address = match name.strip_prefix('[') {
        Some(inner) => IpAddr::V6(inner.strip_suffix(']')?.parse().ok()?),
        None => IpAddr::V4(name.parse().ok()?),
    };
    Some(address.to_canonical())
}

/// An address as a node of `Forwarded`.
fn node(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// The well-formed elements of `Forwarded`, over all its lines.
fn elements(fields: &Fields<'_>) -> String {
    let mut known: Vec<String> = Vec::new();
    for line in fields.all("forwarded") {
        match line_of_elements(line) {
            Some(elements) => known.extend(elements),
            // RFC 7239 §6.2: an unknown client. Without it, the proxy that wrote it would look like
            // the client.
            None => known = vec![format!("for={UNKNOWN}")],
        }
    }
    known[known.len().saturating_sub(HOPS_MAX)..].join(", ")
}

fn line_of_elements(line: &[u8]) -> Option<Vec<String>> {
    let mut rest = std::str::from_utf8(line).ok()?;
    let mut elements = Vec::new();
    loop {
        let element = element(&mut rest)?;
        elements.extend((!element.is_empty()).then_some(element));
        match rest.strip_prefix(',') {
            Some(behind) => rest = behind,
            None => return rest.is_empty().then_some(elements),
        }
    }
}

/// One element, normalised; `rest` then begins with the byte that ended it. `None`: it is
/// malformed.
fn element(rest: &mut &str) -> Option<String> {
    let mut element = String::new();
    let mut names: Vec<String> = Vec::new();
    loop {
        *rest = rest.trim_start_matches([' ', '\t']);
        if let Some(behind) = rest.strip_prefix(';') {
            *rest = behind;
            continue;
        }
        if rest.is_empty() || rest.starts_with(',') {
            return Some(element);
        }
        let (name, behind) = rest.split_once('=')?;
        let name = name.to_ascii_lowercase();
        if !is_token(name.as_bytes()) || names.contains(&name) {
            return None;
        }
        let (value, behind) = value(behind)?;
        push_pair(&mut element, &name, &understood(&name, value)?);
        names.push(name);
        *rest = behind.trim_start_matches([' ', '\t']);
        if !(rest.is_empty() || rest.starts_with([';', ','])) {
            return None;
        }
    }
}

/// A token or a quoted string, and the text after it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',', ' ', '\t']).unwrap_or(text.len());
        return is_token(&text.as_bytes()[..end]).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value
                .push(chars.next().map(|(_, escaped)| escaped).filter(|c| matches!(c, ' '..='~'))?),
            ' '..='~' => value.push(c),
            _ => return None,
        }
    }
    None
}

/// A node as it is forwarded: an address, `unknown` or an obfuscated name (RFC 7239 §6.3), with or
/// without a port.
fn known_node(text: &str) -> Option<String> {
    let obfuscated = |text: &str| {
        let rest = text.strip_prefix('_').unwrap_or_default();
        !rest.is_empty()
            && rest
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    };
    let (name, behind) = name_and_port(text)?;
    let name = match address(name) {
        Some(address) => node(address),
        None if name.eq_ignore_ascii_case(UNKNOWN) => UNKNOWN.to_owned(),
        None if obfuscated(name) => name.to_owned(),
        None => return None,
    };
    match behind {
        None => Some(name),
        Some(text) if port(text).is_some() || obfuscated(text) => Some(format!("{name}:{text}")),
        Some(_) => None,
    }
}

/// The value of a pair as it is forwarded. `None`: it is invalid for its name.
fn understood(name: &str, value: String) -> Option<String> {
    match name {
        "for" | "by" => known_node(&value),
        "host" => authority(value.as_bytes()).is_ok().then_some(value),
        "proto" => is_scheme(&value).then(|| value.to_ascii_lowercase()),
        _ => Some(value),
    }
}

/// Appends `name=value`, with quotes if they are needed.
fn push_pair(element: &mut String, name: &str, value: &str) {
    if !element.is_empty() {
        element.push(';');
    }
    element.push_str(name);
    element.push('=');
    if is_token(value.as_bytes()) {
        return element.push_str(value);
    }
    element.push('"');
    for c in value.chars() {
        if matches!(c, '"' | '\\') {
            element.push('\\');
        }
        element.push(c);
    }
    element.push('"');
}
