//! The fields of a head: names are compared without case, lists are read over all lines of a name,
//! and `Debug` hides secret values.

use std::borrow::Cow;
use std::fmt;

/// One field line. `Debug` shows no credentials (T23).
///
/// ```
/// use reverse_http::Limits;
/// use reverse_http::proto::head::{self, LineEnds};
///
/// let bytes = b"GET /status HTTP/1.1\r\nHost:  lamp \r\n\r\n";
/// let head = head::request(bytes, &Limits::default(), LineEnds::Crlf)?.expect("it is whole");
/// let host = head.fields.iter().next().expect("it has one field");
/// assert_eq!((host.name, host.value), ("Host", b"lamp".as_slice()));
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name as received.
    pub name: &'a str,
    /// The value without surrounding white space.
    pub value: &'a [u8],
}

impl fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Field")
            .field("name", &self.name)
            .field("value", &shown(self.name, self.value))
            .finish()
    }
}

/// The fields of a head in their order, with duplicates and spelling kept. `Debug` shows no
/// credentials (T23).
///
/// ```
/// use reverse_http::Limits;
/// use reverse_http::proto::head::{self, LineEnds};
///
/// let head = b"GET / HTTP/1.1\r\nHost: lamp\r\nConnection: close, TE\r\n\r\n";
/// let head = head::request(head, &Limits::default(), LineEnds::Crlf)?.expect("it is whole");
/// assert_eq!(head.fields.get("host"), Some(b"lamp".as_slice()));
/// assert!(head.fields.lists("connection", "te"));
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Default)]
pub struct Fields<'a>(pub(super) Vec<Field<'a>>);

impl<'a> Fields<'a> {
    /// All fields in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Field<'a>> {
        self.0.iter()
    }
    /// The number of lines.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Returns true if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Value of the first line of this name (compared without case).
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.0.iter().find(|field| same_name(field.name, name)).map(|field| field.value)
    }
    /// Values of all lines of this name.
    pub fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'a [u8]> + 's {
        self.0.iter().filter(move |field| same_name(field.name, name)).map(|field| field.value)
    }
    /// Members of the comma list over all lines of this name, trimmed, without empty ones. Quoted
    /// strings are not split.
    pub fn list<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'a [u8]> + 's {
        self.all(name).flat_map(members)
    }
    /// Returns true if that list contains this token (compared without case).
    #[must_use]
    pub fn lists(&self, name: &str, token: &str) -> bool {
        self.list(name).any(|member| member.eq_ignore_ascii_case(token.as_bytes()))
    }
}

impl<'s, 'a> IntoIterator for &'s Fields<'a> {
    type Item = &'s Field<'a>;
    type IntoIter = std::slice::Iter<'s, Field<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|field| (field.name, shown(field.name, field.value))))
            .finish()
    }
}

/// Returns true if the name has a character besides letters, digits and `-`. Servers that make
/// variables of fields (CGI) read such a character as `-`: `_` all of them, and lighttpd each one. So
/// such a field may pass for another one, which this hop vouches for (T12).
pub(crate) fn is_ambiguous(name: &str) -> bool {
    !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Returns true if such a server may read these names as the same one.
pub(crate) fn reads_alike(a: &str, b: &str) -> bool {
    let is_sign = |byte: u8| !byte.is_ascii_alphanumeric();
    a.len() == b.len()
        && a.bytes()
            .zip(b.bytes())
            .all(|(a, b)| a.eq_ignore_ascii_case(&b) || (is_sign(a) && is_sign(b)))
}

/// Members of the comma list in one value, trimmed, without empty ones.
pub(crate) fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    Members { rest: value }
}

/// Members of one comma list (RFC 9110 §5.6.1); quoted strings are not split.
struct Members<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Members<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while !self.rest.is_empty() {
            let end = comma(self.rest);
            let member = trim(&self.rest[..end]);
            self.rest = self.rest.get(end + 1..).unwrap_or_default();
            if !member.is_empty() {
                return Some(member);
            }
        }
        None
    }
}

/// The position of the first comma outside a quoted string, or the end.
fn comma(list: &[u8]) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (i, &byte) in list.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return i,
            _ => {}
        }
    }
    list.len()
}

/// The bytes without optional white space around them (RFC 9110 §5.6.3).
pub(crate) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Compares names of fields, without case (RFC 9110 §5.1).
pub(crate) fn same_name(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.eq_ignore_ascii_case(b)
}

/// Returns true if a name, scheme or segment begins with `prefix`, compared without case.
pub(crate) fn begins(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Returns true if fields of this name carry credentials, which no log and no `Debug` may show
/// (T23).
pub(crate) fn is_secret(name: &str) -> bool {
    const SECRETS: [&str; 6] = [
        "authorization",
        "proxy-authorization",
        "ptth-authorization",
        "cookie",
        "set-cookie",
        "ptth-peer-secret",
    ];
    SECRETS.iter().any(|secret| same_name(name, secret))
}

/// A value as `Debug` may show it.
pub(crate) fn shown<'v>(name: &str, value: &'v [u8]) -> Cow<'v, str> {
    if is_secret(name) { "(not shown)".into() } else { String::from_utf8_lossy(value) }
}

/// The first coding of a message's content that is not `identity` (RFC 9110 §8.4).
pub(crate) fn coding<'a>(fields: &Fields<'a>) -> Option<&'a [u8]> {
    fields
        .list("content-encoding")
        .find(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
}
