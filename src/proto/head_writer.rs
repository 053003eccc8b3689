//! Writes heads: each field and line that we build goes through this file.

use crate::error::Refusal;
use crate::proto::head::{is_text, is_token};

/// Appends `Name: value CRLF`, the one function through which every field we build goes (T10).
///
/// # Errors
/// The name is not a token, or the value has CR, LF, NUL or another control byte (except HTAB).
/// Nothing is appended then.
pub fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) -> Result<(), Refusal> {
    if !is_token(name.as_bytes()) {
        return Err(Refusal::new(400, "a field name is empty or has a byte that no token has"));
    }
    if !value.iter().all(|&byte| is_text(byte)) {
        return Err(Refusal::new(
            400,
            "a field value has a CR, an LF, a NUL or another control byte",
        ));
    }
    push_field(out, name, value);
    Ok(())
}

/// Appends a field that was parsed, and is therefore valid.
pub(crate) fn push_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(if value.is_empty() { b":" } else { b": " }); // `Host:` as in draft-lentczner's sample
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends `METHOD target HTTP/1.1 CRLF`.
///
/// # Errors
/// A method that is not a token; a target that is empty or has bytes outside 0x21 to 0x7E. Nothing
/// is appended then.
pub fn write_request_line(out: &mut Vec<u8>, method: &str, target: &str) -> Result<(), Refusal> {
    if !is_token(method.as_bytes()) {
        return Err(Refusal::new(400, "the method is empty or has a byte that no token has"));
    }
    if target.is_empty() || !target.bytes().all(|byte| matches!(byte, 0x21..=0x7E)) {
        return Err(Refusal::new(
            400,
            "the request target is empty, or has white space, a control byte or one above 0x7E",
        ));
    }
    for part in [method, " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    Ok(())
}

/// Appends `HTTP/1.1 status reason CRLF`; the space is written even without a reason (RFC 9112 §4).
///
/// # Errors
/// A status outside 100 to 999; a reason with control bytes. Nothing is appended then.
pub fn write_status_line(out: &mut Vec<u8>, status: u16, reason: &[u8]) -> Result<(), Refusal> {
    if !(100..=999).contains(&status) {
        return Err(Refusal::new(502, "a status is not from 100 to 999"));
    }
    if !reason.iter().all(|&byte| is_text(byte)) {
        return Err(Refusal::new(
            502,
            "a reason phrase has a CR, an LF, a NUL or another control byte",
        ));
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Appends a number in digits.
pub(crate) fn push_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20]; // 2^64 has 20
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

/// Writes `content-type` as `Content-Type`: the spelling of names in heads that we build (relayed
/// heads keep theirs).
pub fn title_case(name: &str, out: &mut Vec<u8>) {
    let mut begins = true;
    for byte in name.bytes() {
        out.push(if begins { byte.to_ascii_uppercase() } else { byte });
        begins = byte == b'-';
    }
}

/// The registered reason phrase of a status, or "".
#[must_use]
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        104 => "Upload Resumption Supported",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "",
    }
}
