//! Offers of another protocol (`Upgrade`, RFC 9110 §7.8) that a relay or a program forwards, and the
//! 101 that accepts one. The offer of a device has its own rules (`turn.rs`).

use crate::proto::body::Framing;
use crate::proto::fields::{Fields, members};
use crate::proto::head::{RequestHead, is_token};
use crate::proto::head_writer::push_field;

/// Most protocols that a 101 may switch to: one for each layer. Kept small, because each of them is
/// compared with every protocol that was offered, and an offer may fill a whole head.
const SWITCHED_MAX: usize = 8;

/// The protocols that a request has offered. A 101 may switch to these only.
///
/// A version may differ, as the documented ones of PTTH do (protocol.md §1.4): whoever offered the
/// protocol knows its versions, and a relay does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    /// The members of `Upgrade`, separated by commas.
    members: Box<[u8]>,
}

impl Offered {
    /// The offer of a request with this framing. `None`: it makes none that may be forwarded. An
    /// offer with a body does not count (T9): two parsers might disagree on where the body ends and
    /// the other protocol begins.
    pub(crate) fn by(request: &RequestHead<'_>, framing: Framing) -> Option<Self> {
        if !is_offer(request, framing) {
            return None;
        }
        Self::of(protocols(&request.fields))
    }

    /// An offer of these protocols. `None`: there are none.
    pub(crate) fn of<'a>(protocols: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let members = protocols.collect::<Vec<_>>().join(&b',');
        (!members.is_empty()).then(|| Offered { members: members.into() })
    }

    /// The memory that it takes.
    pub(crate) fn size(&self) -> usize {
        self.members.len()
    }

    /// Checks the members of `Upgrade` in a 101. HTTP/1 beside an offered protocol is what goes on
    /// above that protocol, and was not offered (`TLS/1.2, HTTP/1.1`, RFC 2817 §3.3).
    ///
    /// # Errors
    /// The reason why no bytes of another protocol may follow.
    pub(crate) fn check_switch<'a>(
        &self,
        switched: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), &'static str> {
        let mut named = false;
        let mut offered = false;
        for (n, member) in switched.enumerate() {
            if n == SWITCHED_MAX {
                return Err("named more than 8 protocols in the Upgrade field of its 101");
            }
            named = true;
            match self.has(member) {
                true => offered = true,
                false if is_http_1(member) => {}
                false => return Err(NOT_OFFERED),
            }
        }
        match (named, offered) {
            (_, true) => Ok(()),
            (true, false) => Err(NOT_OFFERED),
            (false, _) => Err("switched protocols without saying to which"),
        }
    }

    fn has(&self, member: &[u8]) -> bool {
        may_pass(member)
            && members(&self.members).any(|ours| name(ours).eq_ignore_ascii_case(name(member)))
    }
}

const NOT_OFFERED: &str = "switched to a protocol that the request did not offer";

/// Returns true if a request offers another protocol that may be forwarded.
pub(crate) fn is_offer(request: &RequestHead<'_>, framing: Framing) -> bool {
    framing == Framing::Empty
        && request.minor > 0
        && request.fields.lists("Connection", "upgrade")
        && protocols(&request.fields).next().is_some()
}

/// The protocols in `Upgrade` that may be forwarded: those that a request offers, or that a 101 has
/// switched to. `h2c`, of any version, is neither honoured nor forwarded, as if it were absent; the
/// same applies to a member that is not the name of a protocol.
pub(crate) fn protocols<'f, 'a>(fields: &'f Fields<'a>) -> impl Iterator<Item = &'a [u8]> + 'f {
    fields.list("upgrade").filter(|token| may_pass(token))
}

/// The same for one value of `Upgrade`.
pub(crate) fn protocols_of(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    members(value).filter(|token| may_pass(token))
}

fn may_pass(token: &[u8]) -> bool {
    is_protocol(token) && !name(token).eq_ignore_ascii_case(b"h2c")
}

/// Returns true if a member of `Upgrade` is a name, or a name and a version (RFC 9110 §7.8). Other
/// members are removed: after an unclosed quote, the next parser may see members, such as `h2c`,
/// that we did not see.
fn is_protocol(member: &[u8]) -> bool {
    member.splitn(2, |byte| *byte == b'/').all(is_token)
}

/// The name of a protocol, without its version.
fn name(protocol: &[u8]) -> &[u8] {
    protocol.split(|byte| *byte == b'/').next().unwrap_or_default()
}

fn is_http_1(protocol: &[u8]) -> bool {
    [&b"HTTP/1.1"[..], b"HTTP/1.0"].iter().any(|http| protocol.eq_ignore_ascii_case(http))
}

/// Appends the protocols that a message offers, or has switched to.
pub(crate) fn push_upgrade(out: &mut Vec<u8>, fields: &Fields<'_>) {
    push_protocols(out, protocols(fields));
}

/// Appends an offer of these protocols. Returns true if there are any.
pub(crate) fn push_protocols<'a>(
    out: &mut Vec<u8>,
    protocols: impl Iterator<Item = &'a [u8]>,
) -> bool {
    let mut first = true;
    for token in protocols {
        out.extend_from_slice(if first { b"Upgrade: " } else { b", " });
        out.extend_from_slice(token);
        first = false;
    }
    if !first {
        out.extend_from_slice(b"\r\n");
        push_field(out, "Connection", b"Upgrade");
    }
    !first
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_to_what_was_offered() {
        let lists = |value: &'static str| members(value.as_bytes());
        for (offer, switch, right) in [
            ("websocket", "websocket", true),
            ("websocket", "WebSocket", true),
            ("WebSocket", "websocket", true),
            ("foo, websocket", "websocket", true),
            ("foo, websocket", "websocket, foo", true),
            ("websocket", "websocket, websocket", true),
            ("PTTH/0.9", "PTTH/1.0", true),
            ("websocket", "websocket/13", true),
            ("TLS/1.2", "TLS/1.2, HTTP/1.1", true),
            ("HTTP/1.1", "HTTP/1.1", true),
            ("websocket", "foo", false),
            ("websocket", "websocket, foo", false),
            ("websocket", "foo, websocket", false),
            ("websocket", "websockets", false),
            ("websocket", "web", false),
            ("websocket", "h2c", false),
            ("h2c, websocket", "h2c", false),
            ("h2c, websocket", "websocket, h2c", false),
            ("websocket", "HTTP/1.1", false),
            ("websocket", "websocket, HTTP/2", false),
            ("websocket", "websocket, \"x", false),
            ("websocket", "websocket foo", false),
            ("websocket/13", "websocket/13/14 x", false),
            ("a/b", "b", false),
            ("websocket", "", false),
            ("websocket", " , ,", false),
        ] {
            let offered = Offered::of(protocols_of(offer.as_bytes())).unwrap();
            let said = offered.check_switch(lists(switch));
            assert_eq!(said.is_ok(), right, "{offer:?} was answered with {switch:?}: {said:?}");
        }
        for nothing in ["h2c, \"x, ,", "H2C", "h2c/2", "h2C/", "/h2c", "a/b/c", "", ","] {
            assert_eq!(Offered::of(protocols_of(nothing.as_bytes())), None, "{nothing}");
        }
        let kept = Offered::of(protocols_of(b"h2c/2, h2cx/2 ,websocket")).unwrap();
        assert_eq!((&*kept.members, kept.size()), (&b"h2cx/2,websocket"[..], 16));
    }

    #[test]
    fn so_many_protocols_and_no_more_are_compared() {
        let offered = Offered::of(protocols_of(b"websocket")).unwrap();
        let switch = |most| offered.check_switch(std::iter::repeat_n(&b"websocket"[..], most));
        assert_eq!((switch(SWITCHED_MAX), switch(1)), (Ok(()), Ok(())));
        assert!(switch(SWITCHED_MAX + 1).unwrap_err().contains("more than 8"));
        assert!(switch(0).unwrap_err().contains("without saying to which"));
        let error = offered.check_switch(protocols_of(b"HTTP/1.1")).unwrap_err();
        assert_eq!(error, NOT_OFFERED);
    }

    #[test]
    fn an_offer_is_a_request_of_http_1_1_without_a_body_whose_connection_lists_it() {
        let offer = |text: String| {
            let limits = crate::Limits::default();
            let ends = crate::proto::head::LineEnds::Crlf;
            let head = crate::proto::head::request(text.as_bytes(), &limits, ends);
            let head = head.unwrap().unwrap();
            let framing = crate::proto::body::of_request(&head).unwrap();
            let mut out = Vec::new();
            push_upgrade(&mut out, &head.fields);
            let offered = Offered::by(&head, framing);
            assert_eq!(is_offer(&head, framing), offered.is_some());
            (offered.is_some(), String::from_utf8(out).unwrap())
        };
        let with = |version: &str, lines: &str| {
            offer(format!("GET / HTTP/{version}\r\nHost: a\r\n{lines}\r\n"))
        };
        let connection = "Connection: Upgrade\r\n";
        for (version, lines, is_offer, written) in [
            ("1.1", "Upgrade: a, b/2\r\n", true, "Upgrade: a, b/2\r\n"),
            ("1.1", "Upgrade: a\r\nUpgrade: h2c, b\r\n", true, "Upgrade: a, b\r\n"),
            ("1.0", "Upgrade: a\r\n", false, "Upgrade: a\r\n"),
            ("1.1", "Upgrade: a\r\nContent-Length: 1\r\n", false, "Upgrade: a\r\n"),
            ("1.1", "Upgrade: h2c\r\n", false, ""),
            ("1.1", "", false, ""),
        ] {
            let written = match written {
                "" => String::new(),
                upgrade => format!("{upgrade}{connection}"),
            };
            let read = with(version, &format!("{connection}{lines}"));
            assert_eq!(read, (is_offer, written), "{version} {lines}");
        }
        assert!(
            !with("1.1", "Upgrade: a\r\n").0
                && !with("1.1", "Connection: close\r\nUpgrade: a\r\n").0
        );
    }
}
