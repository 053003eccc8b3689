//! The PROXY protocol before a connection's own bytes: what is taken, and what is refused.

use proptest::prelude::*;
use reverse_http::proto::proxy_header::{BYTES_MAX, Header, read};

/// A header of version 2: its command, its family, and what follows its length.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, rest].concat()
}

const V4: [u8; 12] = [203, 0, 113, 7, 192, 0, 2, 1, 0x9c, 0xb0, 1, 0xbb];

fn v6() -> Vec<u8> {
    let address = |last| [&[0x20, 1, 0x0d, 0xb8][..], &[0; 11], &[last]].concat();
    [&address(7)[..], &address(1), &[0x9c, 0xb0, 1, 0xbb]].concat()
}

const TLV: [u8; 11] = [0x02, 0, 8, b'g', b'w', b'.', b't', b'e', b's', b't', b'.'];

#[test]
fn the_peer_that_a_balancer_names_is_the_peer() {
    let longest = [&V4[..], &[0x04, 0x0f, 0xe1], &[0; 0xfe1]].concat();
    assert_eq!(16 + longest.len(), BYTES_MAX);
    let worst = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert_eq!(worst.len(), 107);
    for (bytes, source) in [
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 40112 443\r\n".to_vec(), Some("203.0.113.7:40112")),
        (
            b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n".to_vec(),
            Some("255.255.255.255:65535"),
        ),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 40112 443\r\n".to_vec(), Some("[2001:db8::7]:40112")),
        (
            b"PROXY TCP6 ::ffff:203.0.113.7 ::1 40112 443\r\n".to_vec(),
            Some("[::ffff:203.0.113.7]:40112"),
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (b"PROXY UNKNOWN what nobody reads\r\n".to_vec(), None),
        (worst.into(), None),
        (binary(0x21, 0x11, &V4), Some("203.0.113.7:40112")),
        (binary(0x21, 0x21, &v6()), Some("[2001:db8::7]:40112")),
        (binary(0x21, 0x11, &[&V4[..], &TLV].concat()), Some("203.0.113.7:40112")),
        (binary(0x21, 0x11, &longest), Some("203.0.113.7:40112")),
        (binary(0x20, 0x00, b""), None),
        (binary(0x20, 0x11, &V4), None),
        (binary(0x20, 0x11, b""), None),
        (binary(0x20, 0x21, &V4), None),
        (binary(0x20, 0x12, &V4), None),
        (binary(0x20, 0xff, &[0xff; 300]), None),
        (binary(0x20, 0x00, &longest), None),
        (binary(0x21, 0x00, &TLV), None),
        (binary(0x21, 0x31, &[0; 216]), None),
    ] {
        let header = Header { source: source.map(|at| at.parse().unwrap()), length: bytes.len() };
        for behind in [&b""[..], b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"PROXY UNKNOWN\r\n"] {
            let whole = [&bytes[..], behind].concat();
            assert_eq!(read(&whole).unwrap(), Some(header), "{:?}", whole.escape_ascii());
        }
        for cut in 0..bytes.len() {
            let prefix = &bytes[..cut];
            assert_eq!(read(prefix).unwrap(), None, "{cut}: {}", prefix.escape_ascii());
        }
    }
}

#[test]
fn what_is_no_header_is_refused_as_soon_as_that_is_certain() {
    let too_long = [&V4[..], &[0x04, 0x0f, 0xe2], &[0; 0xfe2]].concat();
    for bytes in [
        b"GET / HTTP/1.1\r\n".to_vec(),
        b"G".to_vec(),
        b"PROXy".to_vec(),
        b"proxy TCP4".to_vec(),
        b"\r\n\r\n\0\r\nQUIX".to_vec(),
        b"\x16\x03\x01\x02\x00".to_vec(),
        b"\n".to_vec(),
        b"PROXY\r\n".to_vec(),
        b"PROXY \r\n".to_vec(),
        b"PROXY TCP4\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7\r\nGET".to_vec(),
        b"PROXY TCP5 203.0.113.7 192.0.2.1 40112 443\r\n".to_vec(),
        b"PROXY TCP4 2001:db8::7 2001:db8::1 40112 443\r\n".to_vec(),
        b"PROXY TCP6 203.0.113.7 192.0.2.1 40112 443\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 40112 65536\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 +4011 443\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 40112 +443\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 -1 443\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7  192.0.2.1 40112 443\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.256 192.0.2.1 40112 443\r\n".to_vec(),
        b"PROXY TCP4 localhost 192.0.2.1 40112 443\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 40112 443 \r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 40112 443\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 40112 443\rX".to_vec(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 40112 443\r\r\n".to_vec(),
        b"PROXY UNKNOWNS\r\n".to_vec(),
        b"PROXY UNKNOWN \x1b[31m\r\n".to_vec(),
        b"PROXY UNKNOWN\n".to_vec(),
        format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)).into_bytes(),
        format!("PROXY UNKNOWN {}", "x".repeat(93)).into_bytes(),
        binary(0x11, 0x11, &V4),
        binary(0x22, 0x11, &V4),
        binary(0x21, 0x12, &V4),
        binary(0x21, 0x22, &v6()),
        binary(0x21, 0x11, b""),
        binary(0x21, 0x41, &V4),
        binary(0x21, 0x13, &V4),
        binary(0x21, 0x11, &V4[..11]),
        binary(0x21, 0x21, &V4),
        binary(0x21, 0x31, &[0; 215]),
        binary(0x21, 0x11, &too_long),
        binary(0x21, 0x11, &too_long)[..16].to_vec(),
        binary(0x20, 0x11, &too_long),
        binary(0x20, 0x00, &too_long)[..16].to_vec(),
        binary(0x30, 0x00, b""),
    ] {
        assert!(read(&bytes).is_err(), "{}", bytes.escape_ascii());
    }
}

proptest! {
    #[test]
    fn whatever_comes_is_decided_within_the_bound(
        front in prop_oneof![
            Just(b"PROXY ".to_vec()),
            Just(b"PROXY TCP4 1.2.3.4 ".to_vec()),
            Just(b"\r\n\r\n\0\r\nQUIT\n".to_vec()),
            Just(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00".to_vec()),
            Just(Vec::new()),
        ],
        rest in proptest::collection::vec(any::<u8>(), 0..400),
        fill in any::<u8>(),
    ) {
        let mut bytes = [front, rest].concat();
        let mut before = None;
        for cut in 0..=bytes.len() {
            let now = read(&bytes[..cut]).map_err(drop);
            if let Ok(Some(header)) = &now {
                prop_assert!(header.length <= cut.min(BYTES_MAX));
            }
            // What was decided stays so, whatever follows.
            if let Some(was) = &before {
                prop_assert_eq!(was, &now);
            }
            before = (!matches!(now, Ok(None))).then_some(now);
        }
        bytes.resize(BYTES_MAX + 1, fill);
        prop_assert!(!matches!(read(&bytes), Ok(None)));
    }
}
