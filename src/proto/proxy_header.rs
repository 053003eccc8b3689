//! The PROXY protocol, versions 1 and 2: the header that a TCP balancer sends before the bytes of a
//! connection, so that the server learns the client's address
//! (<https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>).
//!
//! The grammar is the crate `proxy-header`'s. This reader is stricter: a line of version 1 has at
//! most the protocol's 107 bytes and only the words of its grammar, a header of version 2 has a
//! bound, and both are refused at the first byte that cannot begin a header.

use core::net::SocketAddr;

use proxy_header::{Error, ParseConfig, Protocol, ProxyHeader};

use crate::error::Refusal;

/// The beginning of a line of version 1.
const TEXT: &[u8] = b"PROXY ";
const TEXT_MAX: usize = 107;

/// The beginning of a header of version 2; four bytes follow, the last two of which are the length
/// of the rest.
const BINARY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The command after it for a connection of the balancer's own: the rest of the header is ignored,
/// its family included.
const LOCAL: u8 = 0x20;

/// Longest header of version 2, in bytes, as in nginx (its `NGX_PROXY_PROTOCOL_MAX_HEADER`).
/// Without extensions (TLV), the longest has 232.
pub const BYTES_MAX: usize = 4_096;

/// A complete header.
///
/// ```
/// use reverse_http::proto::proxy_header;
/// let header = proxy_header::read(b"PROXY UNKNOWN\r\nGET / HTTP/1.1\r\n")?.expect("it is whole");
/// assert_eq!((header.source, header.length), (None, 15));
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The client's address, as the balancer saw it. `None`: the connection is the balancer's own
    /// (LOCAL, a health check), or it does not know the address (UNKNOWN, a Unix socket).
    pub source: Option<SocketAddr>,
    /// Bytes of the header; the connection's own follow it.
    pub length: usize,
}

/// Reads a header at the front of `bytes`. Extensions of version 2 are skipped. `None`: it is not
/// complete yet.
///
/// ```
/// use reverse_http::proto::proxy_header;
/// let header = proxy_header::read(b"PROXY TCP4 203.0.113.7 192.0.2.1 40112 443\r\nGET / HTTP/1.1\r\n")?;
/// let header = header.expect("it is whole");
/// assert_eq!(header.source, "203.0.113.7:40112".parse().ok());
/// assert_eq!(header.length, 44);
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
///
/// # Errors
/// No header begins like this; it is longer than a header may be; it is malformed, or for datagrams.
pub fn read(bytes: &[u8]) -> Result<Option<Header>, Refusal> {
    let wrong = |why: &'static str| Err(Refusal::new(400, why));
    let (is_text, is_binary) = (begins(bytes, TEXT), begins(bytes, BINARY));
    if !is_text && !is_binary {
        return wrong("no PROXY header begins with its first bytes");
    }
    let most = match bytes.get(14..16) {
        Some([high, low]) if is_binary => 16 + usize::from(u16::from_be_bytes([*high, *low])),
        _ if is_text && bytes.contains(&b'\n') => bytes.len(),
        _ if is_text => TEXT_MAX,
        _ => BYTES_MAX,
    };
    if most > BYTES_MAX {
        return wrong("its PROXY header is longer than 4,096 bytes");
    }
    if is_binary && bytes.get(12) == Some(&LOCAL) {
        let is_whole = bytes.len() >= most;
        return Ok(is_whole.then_some(Header { source: None, length: most }));
    }
    let config = ParseConfig { include_tlvs: false, allow_v1: is_text, allow_v2: is_binary };
    match ProxyHeader::parse(bytes, config) {
        Ok((_, length)) if is_text && !is_line(&bytes[..length]) => {
            wrong("its PROXY header is malformed")
        }
        Ok((header, length)) => match header.proxied_address() {
            Some(address) if address.protocol == Protocol::Datagram => {
                wrong("its PROXY header is for datagrams")
            }
            address => Ok(Some(Header { source: address.map(|a| a.source), length })),
        },
        Err(Error::BufferTooShort) if bytes.len() < most => Ok(None),
        Err(_) => wrong("its PROXY header is malformed"),
    }
}

/// Returns true if one is the beginning of the other.
fn begins(bytes: &[u8], mark: &[u8]) -> bool {
    bytes.iter().zip(mark).all(|(byte, marked)| byte == marked)
}

/// Returns true if a complete line of version 1 has the words of the grammar, separated by single
/// blanks. The text after `UNKNOWN` is ignored.
fn is_line(line: &[u8]) -> bool {
    let bare = line.strip_suffix(b"\r\n").unwrap_or_default();
    let mut words = bare.split(|byte| *byte == b' ').skip(1);
    let is_bare = line.len() <= TEXT_MAX && bare.iter().all(|byte| matches!(byte, b' '..=b'~'));
    match words.next() {
        Some(b"UNKNOWN") => is_bare,
        Some(b"TCP4" | b"TCP6") => {
            let ports = words.skip(2);
            let are_digits = |word: &[u8]| word.iter().all(u8::is_ascii_digit);
            is_bare && ports.map(are_digits).eq([true, true])
        }
        _ => false,
    }
}
