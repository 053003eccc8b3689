//! A host with its port, as `Host` and absolute targets write it.

use core::net::Ipv6Addr;

use crate::error::Refusal;
use crate::proto::head::Fields;

/// The parts of a `Host` value, or of the authority in an absolute target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Authority<'a> {
    /// As received, without an empty port.
    pub(crate) whole: &'a str,
    /// The host as received, without one trailing dot; an IPv6 address with its brackets.
    pub(crate) host: &'a str,
    /// The port, if there is one.
    pub(crate) port: Option<u16>,
}

/// `HOST:PORT`, an IPv6 address in brackets.
pub(crate) fn authority_of(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// Reads `host[:port]`: a DNS name or IPv4 address of letters, digits, `-`, `.` and `_`, or an IPv6
/// address in brackets. Narrower than RFC 3986 (`reg-name` may have `,` and `%`): characters that
/// no host has confuse the next parser (T11). An empty port is the default port (RFC 3986 §3.2.3),
/// and its colon is not forwarded.
///
/// # Errors
/// 400: empty, userinfo, white space, a list, a bad port, an empty label.
pub(crate) fn authority(bytes: &[u8]) -> Result<Authority<'_>, Refusal> {
    let wrong = |reason| Refusal::new(400, reason);
    let whole = std::str::from_utf8(bytes)
        .map_err(|_| wrong("the host has bytes above 0x7F; write it in its ASCII form"))?;
    if bytes.contains(&b'@') {
        return Err(wrong("the host has userinfo before it"));
    }
    let whole = without_empty_port(whole);
    let (host, after) = match whole.strip_prefix('[').map(|inner| inner.split_once(']')) {
        Some(Some((address, after))) if address.parse::<Ipv6Addr>().is_ok() => {
            (&whole[..address.len() + 2], after)
        }
        Some(_) => return Err(wrong("the host has a bracket, but no IPv6 address in brackets")),
        None => {
            let colon = whole.bytes().position(|byte| byte == b':');
            whole.split_at(colon.unwrap_or(whole.len()))
        }
    };
    let port = match after.strip_prefix(':') {
        None if after.is_empty() => None,
        Some(port)
            if (1..=5).contains(&port.len())
                && port.bytes().all(|digit| digit.is_ascii_digit()) =>
        {
            Some(port.parse().map_err(|_| wrong("the port of the host is above 65535"))?)
        }
        _ => return Err(wrong("the host is followed by something that is not a port")),
    };
    if host.starts_with('[') {
        return Ok(Authority { whole, host, port });
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let plain = |label: &[u8]| {
        !label.is_empty()
            && label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if host.len() > 253 || !host.as_bytes().split(|byte| *byte == b'.').all(plain) {
        return Err(wrong("the host is empty, or no host name or address"));
    }
    Ok(Authority { whole, host, port })
}

/// A host without the brackets of an IPv6 address.
pub(crate) fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Turns `host:` into `host`: an empty port is the scheme's own (RFC 3986 §3.2.3). A colon of an
/// IPv6 address without brackets stays, and is refused.
pub(crate) fn without_empty_port(authority: &str) -> &str {
    match authority.strip_suffix(':') {
        Some(host) if host.ends_with(']') || !host.contains(':') => host,
        _ => authority,
    }
}

/// The one `Host` value, if there is one.
///
/// # Errors
/// 400: more than one line.
pub(crate) fn one_host<'a>(fields: &Fields<'a>) -> Result<Option<&'a [u8]>, Refusal> {
    let mut hosts = fields.all("host");
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => Err(Refusal::new(400, "there is more than one Host field")),
        (host, None) => Ok(host),
    }
}
