//! The addresses in a gateway's options: parses them, and finds those that cannot work before
//! anything is bound.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use crate::{Failure, usage};

/// The addresses at which a gateway should listen, each with its option.
pub(crate) type Listening<'a> = [(&'a str, &'a str)];

/// Parses the value of `--devices` and similar options: HOST:PORT. The host is looked up later.
pub(crate) fn address(text: &str) -> Result<String, String> {
    const LIKE: &str = "write an address like 127.0.0.1:9999";
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest = rest.trim_end_matches('/');
        return Err(format!("this is an address, not a URL: omit {scheme}://, {rest}"));
    }
    if let Ok(ip) = bare(text).parse::<IpAddr>() {
        let with_port = with_port(&ip.to_string(), 9999);
        return Err(format!("the port is missing; write an address like {with_port}"));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(match text {
            "" => LIKE.to_owned(),
            _ => format!("there is no host with a port; {LIKE}"),
        });
    };
    let fits = |c: char| c.is_ascii_graphic() && !"/,@#?".contains(c);
    match () {
        () if port.parse::<u16>().is_err() || !port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(format!("{port:?} is no port (0 to 65535); {LIKE}"))
        }
        () if host.is_empty() => {
            Err(format!("the host is missing; write 0.0.0.0:{port} for every address"))
        }
        () if !host.chars().all(fits) => Err(format!("{host:?} is no host; {LIKE}")),
        () if host.contains(':') && text.parse::<SocketAddr>().is_err() => {
            Err("an IPv6 address has brackets; write it like [::1]:9999".to_owned())
        }
        () => Ok(text.to_owned()),
    }
}

/// The same for `--admin`, which also accepts `unix:PATH`.
pub(crate) fn address_or_socket(text: &str) -> Result<String, String> {
    match text.strip_prefix("unix:") {
        Some("") => Err("the path is missing; write it like unix:/run/ptth.sock".to_owned()),
        Some(_) => Ok(text.to_owned()),
        None => address(text).map_err(|why| format!("{why}, or a socket like unix:/run/ptth.sock")),
    }
}

/// The listener of this gateway to which a URL leads, if that is certain: because of the same host
/// and port, or an address of this machine.
///
/// # Errors
/// An address of a listener is invalid.
pub(crate) fn at_listener<'a>(
    url: &str,
    listening: &Listening<'a>,
) -> Result<Option<(&'a str, &'a str)>, Failure> {
    let Ok(uri) = url.parse::<http::Uri>() else { return Ok(None) };
    let Some(named) = uri.authority() else { return Ok(None) };
    let port = named.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    if port == 0 {
        return Ok(None); // any free port
    }
    let host = bare(named.host());
    let found: Vec<IpAddr> = match host.parse() {
        Ok(ip) => vec![ip],
        Err(_) if host.eq_ignore_ascii_case("localhost") => {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        }
        Err(_) => Vec::new(),
    };
    for (option, address) in listening.iter().filter(|(_, at)| !at.starts_with("unix:")) {
        let is_said = address.rsplit_once(':').is_some_and(|(its_host, its_port)| {
            bare(its_host).eq_ignore_ascii_case(host) && its_port.parse() == Ok(port)
        });
        if is_said || is_at(&found, port, &addresses((option, address))?) {
            return Ok(Some((option, address)));
        }
    }
    Ok(None)
}

/// Returns true if a listener at these addresses is reached at this port of these hosts.
fn is_at(hosts: &[IpAddr], port: u16, listener: &[SocketAddr]) -> bool {
    let reaches = |host: &IpAddr| {
        listener.iter().any(|at| {
            let (at, ip) =
                (SocketAddr::new(at.ip().to_canonical(), at.port()), host.to_canonical());
            let is_everywhere = at.ip().is_unspecified() && UdpSocket::bind((ip, 0)).is_ok();
            at.port() == port && (at.ip() == ip || is_everywhere)
        })
    };
    hosts.iter().any(reaches)
}

/// Refuses two listeners at one address.
///
/// # Errors
/// There are two, or an address is invalid.
pub(crate) fn refuse_same(listening: &Listening<'_>) -> Result<(), Failure> {
    for (n, (option, address)) in listening.iter().enumerate() {
        for (other, elsewhere) in &listening[..n] {
            if are_same((other, elsewhere), (option, address))? {
                let both = match elsewhere == address {
                    true => format!("{other} and {option} are both {address}"),
                    false => format!("{other} {elsewhere} and {option} {address} are one address"),
                };
                return Err(usage(format!("{both}; they need two addresses")));
            }
        }
    }
    Ok(())
}

/// Refuses addresses that this machine does not have, and sockets that could not be created. It
/// binds nothing to which clients could connect.
///
/// # Errors
/// The error of the first invalid one.
pub(crate) fn refuse_absent(listening: &Listening<'_>) -> Result<(), Failure> {
    for (option, address) in listening {
        let wrong = |what: &str| usage(format!("{option} {address}: {what}"));
        if let Some(path) = address.strip_prefix("unix:") {
            could_be_made(Path::new(path)).map_err(|what| wrong(&what))?;
            continue;
        }
        // A gateway uses the first one.
        let Some(first) = addresses((option, address))?.first().copied() else {
            return Err(wrong("it names no address"));
        };
        match UdpSocket::bind((first.ip(), 0)) {
            Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => {
                return Err(wrong("this machine has no such address"));
            }
            _ => {} // other errors concern only datagrams
        }
    }
    Ok(())
}

/// Checks whether a Unix socket could be created.
fn could_be_made(path: &Path) -> Result<(), String> {
    std::os::unix::net::SocketAddr::from_pathname(path).map_err(|e| e.to_string())?;
    let folder = match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => return Err("it names no file".to_owned()),
    };
    match std::fs::metadata(folder) {
        Ok(data) if data.is_dir() => {}
        Ok(_) => return Err(format!("{} is no folder", folder.display())),
        Err(e) => return Err(format!("the folder {}: {e}", folder.display())),
    }
    match std::fs::symlink_metadata(path) {
        Ok(data) if !data.file_type().is_socket() => {
            Err("there is a file that is not a socket".to_owned())
        }
        _ => Ok(()),
    }
}

/// A host without the brackets of an IPv6 address.
pub(crate) fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// `HOST:PORT`, an IPv6 address in brackets.
pub(crate) fn with_port(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// The addresses of an option's host and port.
///
/// # Errors
/// The host has none.
pub(crate) fn addresses((option, address): (&str, &str)) -> Result<Vec<SocketAddr>, Failure> {
    let found = address.to_socket_addrs().map_err(|e| {
        usage(format!("{option} {address}: write an address like 127.0.0.1:9999 ({e})"))
    })?;
    Ok(found.collect())
}

/// Returns true if an option has an address on loopback.
pub(crate) fn is_loopback(said: (&str, &str)) -> Result<bool, Failure> {
    Ok(addresses(said)?.iter().all(|a| a.ip().to_canonical().is_loopback()))
}

/// Returns true if an option has an address that stands for all addresses of this machine.
pub(crate) fn is_unspecified(said: (&str, &str)) -> Result<bool, Failure> {
    Ok(addresses(said)?.iter().any(|a| a.ip().to_canonical().is_unspecified()))
}

fn are_same(a: (&str, &str), b: (&str, &str)) -> Result<bool, Failure> {
    match (a.1.strip_prefix("unix:"), b.1.strip_prefix("unix:")) {
        (Some(a), Some(b)) => return Ok(a == b),
        (None, None) => {}
        _ => return Ok(false),
    }
    let b = addresses(b)?;
    Ok(addresses(a)?.iter().any(|a| b.iter().any(|b| clash(*a, *b, binds_both()))))
}

/// Returns true if two listeners at these addresses would conflict. `both` means that a listener at
/// `[::]` also accepts IPv4.
fn clash(a: SocketAddr, b: SocketAddr, both: bool) -> bool {
    let covers = |wide: IpAddr, other: IpAddr| {
        wide.is_unspecified() && (wide.is_ipv4() == other.is_ipv4() || (both && wide.is_ipv6()))
    };
    let (one, other) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() != 0
        && a.port() == b.port()
        && (one == other || covers(one, other) || covers(other, one))
}

/// The default of Linux for listeners at `[::]`.
fn binds_both() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only").is_ok_and(|only| only.trim() == "0")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_host_with_its_port_has_brackets_where_it_needs_them() {
        assert_eq!((bare("[::1]"), bare("gw.example")), ("::1", "gw.example"));
        assert_eq!(with_port(bare("[::1]"), 80), "[::1]:80");
        assert_eq!(with_port("gw.example", 80), "gw.example:80");
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for right in ["127.0.0.1:0", "0.0.0.0:65535", "[::1]:80", "localhost:80", "gw.example:443"]
        {
            assert_eq!(address(right).as_deref(), Ok(right));
            assert!(address_or_socket(right).is_ok());
        }
        for (wrong, told) in [
            ("", "like 127.0.0.1:9999"),
            ("9999", "no host with a port"),
            ("127.0.0.1", "port is missing; write an address like 127.0.0.1:9999"),
            ("::1", "port is missing; write an address like [::1]:9999"),
            ("[::1]", "like [::1]:9999"),
            ("fe80::1:x", "no port"),
            ("fe80::x:1", "brackets"),
            (":9999", "0.0.0.0:9999"),
            ("127.0.0.1:70000", "70000"),
            ("127.0.0.1:+80", "no port"),
            ("http://127.0.0.1:9999/", "omit http://, 127.0.0.1:9999"),
            ("a b:80", "no host"),
            ("a/b:80", "no host"),
        ] {
            let why = address(wrong).unwrap_err();
            assert!(why.contains(told), "{wrong}: {why}");
            assert!(address_or_socket(wrong).is_err());
        }
        assert!(address("unix:/run/a").is_err() && address_or_socket("unix:").is_err());
        assert_eq!(address_or_socket("unix:/run/a").as_deref(), Ok("unix:/run/a"));
    }

    #[test]
    fn a_url_that_is_a_listener_of_this_machine() {
        let listening = [
            ("--devices", "127.0.0.1:9999"),
            ("--visitors", "0.0.0.0:8080"),
            ("--admin", "unix:/run/a:80"),
            ("--other", "127.0.0.1:0"),
        ];
        for (url, option) in [
            ("http://127.0.0.1:9999", Some("--devices")),
            ("http://localhost:9999/", Some("--devices")),
            ("http://127.0.0.1:8080", Some("--visitors")),
            ("http://203.0.113.77:8080", None), // another machine maps this port, perhaps
            ("http://203.0.113.77:9999", None),
            ("http://127.0.0.1:7000", None),
            ("http://127.0.0.1:0", None),
            ("http://gw.example:9999", None),
            ("http://unix", None),
            ("nonsense", None),
        ] {
            let found = at_listener(url, &listening).ok().unwrap();
            assert_eq!(found.map(|(option, _)| option), option, "{url}");
        }
        let named = [("--visitors", "localhost:80"), ("--devices", "[::1]:443")];
        let found = |url| at_listener(url, &named).ok().unwrap().map(|(option, _)| option);
        assert_eq!(found("http://LOCALHOST"), Some("--visitors"));
        assert_eq!(found("https://[::1]"), Some("--devices"));
    }

    #[test]
    fn addresses_that_keep_each_other_out() {
        for (a, b, together) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "[::ffff:127.0.0.1]:80", true),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("[::1]:80", "[::]:80", true),
            ("[::]:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            let (one, other) = (a.parse().unwrap(), b.parse().unwrap());
            let found = (clash(one, other, true), clash(other, one, true));
            assert_eq!(found, (together, together), "{a} {b}");
        }
        let (wide, v4) = ("[::]:80".parse().unwrap(), "127.0.0.1:80".parse().unwrap());
        assert!(!clash(wide, v4, false));
    }
}
