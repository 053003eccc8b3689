//! The addresses of a gateway's options: which of them cannot work, found before anything is bound.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use crate::{Failure, usage};

/// Where a gateway is to listen, by the option that says so.
pub(crate) type Listening<'a> = [(&'a str, &'a str)];

/// Refuses two listeners at one address.
///
/// # Errors
/// There are two, or an address is invalid.
pub(crate) fn refuse_same(listening: &Listening<'_>) -> Result<(), Failure> {
    for (n, (option, address)) in listening.iter().enumerate() {
        for (other, elsewhere) in &listening[..n] {
            if are_same(elsewhere, address)? {
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

/// Refuses addresses that this machine does not have, and sockets that could not be made. Nothing
/// is bound that anybody could connect to.
///
/// # Errors
/// The fault of the first invalid one.
pub(crate) fn refuse_absent(listening: &Listening<'_>) -> Result<(), Failure> {
    for (option, address) in listening {
        let wrong = |what: &str| usage(format!("{option} {address}: {what}"));
        if let Some(path) = address.strip_prefix("unix:") {
            could_be_made(Path::new(path)).map_err(|what| wrong(&what))?;
            continue;
        }
        // A gateway takes the first one.
        let Some(first) = addresses(address)?.first().copied() else {
            return Err(wrong("it names no address"));
        };
        match UdpSocket::bind((first.ip(), 0)) {
            Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => {
                return Err(wrong("this machine has no such address"));
            }
            _ => {} // whatever else is wrong concerns datagrams
        }
    }
    Ok(())
}

/// What would keep a Unix socket from being made.
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

fn addresses(address: &str) -> Result<Vec<SocketAddr>, Failure> {
    let found = address
        .to_socket_addrs()
        .map_err(|e| usage(format!("{address}: write an address like 127.0.0.1:9999 ({e})")))?;
    Ok(found.collect())
}

pub(crate) fn is_loopback(address: &str) -> Result<bool, Failure> {
    Ok(addresses(address)?.iter().all(|a| a.ip().to_canonical().is_loopback()))
}

/// Returns true if it stands for all addresses of this machine.
pub(crate) fn is_unspecified(address: &str) -> Result<bool, Failure> {
    Ok(addresses(address)?.iter().any(|a| a.ip().to_canonical().is_unspecified()))
}

fn are_same(a: &str, b: &str) -> Result<bool, Failure> {
    match (a.strip_prefix("unix:"), b.strip_prefix("unix:")) {
        (Some(a), Some(b)) => return Ok(a == b),
        (None, None) => {}
        _ => return Ok(false),
    }
    let b = addresses(b)?;
    Ok(addresses(a)?.iter().any(|a| b.iter().any(|b| clash(*a, *b, binds_both()))))
}

/// Returns true if a listener at one keeps a second one from the other. `both`: a listener at
/// `[::]` takes IPv4, too.
fn clash(a: SocketAddr, b: SocketAddr, both: bool) -> bool {
    let covers = |wide: IpAddr, other: IpAddr| {
        wide.is_unspecified() && (wide.is_ipv4() == other.is_ipv4() || (both && wide.is_ipv6()))
    };
    let (one, other) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() != 0
        && a.port() == b.port()
        && (one == other || covers(one, other) || covers(other, one))
}

/// What Linux does unless it is told otherwise.
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
