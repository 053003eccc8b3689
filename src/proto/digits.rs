//! Numbers and bytes written as digits: decimal, hexadecimal, percent-encoding. Not with the
//! standard library's parsers, which accept a sign.

use std::str::FromStr;

/// Reads digits and nothing else. A number that does not fit becomes the largest that does.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add =
        |number: u64, digit: &u8| number.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(digits.iter().fold(0, add))
}

/// Reads digits and nothing else. `None` also for a number that does not fit.
pub(crate) fn number<T: FromStr>(digits: &str) -> Option<T> {
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_plain)
}

/// The value of a hex digit, of either case.
fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| value.try_into().ok())
}

/// Reads `N` bytes from twice as many hex digits, of either case, and nothing else.
pub(crate) fn from_hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
    }
    Some(bytes)
}

/// Two lower-case digits per byte, as sessions, message ids and digests are written.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from(b"0123456789abcdef"[usize::from(n)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xF)]).collect()
}

/// The bytes of a percent-encoded text (RFC 3986 §2.1). `None`: a `%` without two hex digits after
/// it.
///
/// ```
/// use reverse_http::proto::digits::percent_decoded;
/// assert_eq!(percent_decoded(b"a%20b"), Some(b"a b".to_vec()));
/// assert_eq!(percent_decoded(b"100%"), None);
/// ```
#[must_use]
pub fn percent_decoded(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        decoded.push(match (byte, tail) {
            (b'%', [high, low, tail @ ..]) => {
                rest = tail;
                hex_digit(*high)? << 4 | hex_digit(*low)?
            }
            (b'%', _) => return None,
            _ => *byte,
        });
    }
    Some(decoded)
}

/// The text with every character that is not unreserved percent-encoded (RFC 6570 §3.2.1).
pub(crate) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte))
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
