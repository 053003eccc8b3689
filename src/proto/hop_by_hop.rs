//! Hop-by-hop fields: they apply to one connection, because of their name or because `Connection`
//! names them, and are removed at each hop (RFC 9110 §7.6.1).

use crate::proto::fields::{Fields, begins, same_name};

/// Returns true if a field of this name applies to one connection only (RFC 9110 §7.6.1), whatever
/// `Connection` lists.
pub(crate) fn is_of_connection(name: &str) -> bool {
    ["connection", "keep-alive", "proxy-connection", "te", "upgrade"]
        .iter()
        .any(|own| same_name(name, own))
}

/// Most fields that `Connection` may name besides the usual options. Kept small: every field is
/// compared with each.
const NAMED_MAX: usize = 16;

pub(crate) const TOO_MANY_NAMED: &str = "Connection names more than 16 fields";

/// The options of `Connection` that name fields.
pub(crate) struct Named<'a> {
    names: [&'a [u8]; NAMED_MAX],
    len: usize,
}

impl<'a> Named<'a> {
    /// Reads `Connection`. `None`: it names more than [`NAMED_MAX`] fields.
    pub(crate) fn by_connection(fields: &Fields<'a>) -> Option<Self> {
        Self::of(fields.list("connection"))
    }

    /// The same for these options. `None`: they name more than [`NAMED_MAX`] fields.
    pub(crate) fn of(options: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let mut named = Named { names: [b""; NAMED_MAX], len: 0 };
        let usual: [&[u8]; 4] = [b"close", b"keep-alive", b"upgrade", b"te"];
        for option in options {
            if !usual.iter().any(|usual| option.eq_ignore_ascii_case(usual)) {
                *named.names.get_mut(named.len)? = option;
                named.len += 1;
            }
        }
        Some(named)
    }

    /// Returns true if a field of this name is removed because `Connection` names it.
    pub(crate) fn drops(&self, name: &str) -> bool {
        let is_named =
            self.names[..self.len].iter().any(|named| named.eq_ignore_ascii_case(name.as_bytes()));
        is_named && !survives(name)
    }
}

/// End-to-end fields that `Connection` may not remove (RFC 9110 §7.6.1: an option never names a
/// field meant for all recipients). A visitor that could remove these would reach the device with
/// another identity, or bypass its cache and its checks (T12).
fn survives(name: &str) -> bool {
    const END_TO_END: [&str; 17] = [
        "authorization",
        "proxy-authorization",
        "www-authenticate",
        "cookie",
        "set-cookie",
        "cache-control",
        "via",
        "origin",
        "date",
        "expect",
        "range",
        "location",
        "retry-after",
        "vary",
        "etag",
        "x-real-ip",
        "trailer",
    ];
    END_TO_END.iter().any(|kept| same_name(name, kept))
        || begins(name, "content-")
        || begins(name, "if-")
}
