//! Logins that authenticate a connection and not a request: NTLM, and Negotiate (RFC 4559).

use crate::proto::fields::{Fields, same_name, trim};

/// Returns true if a field of this name and value is part of a login that authenticates its
/// connection and not its request: NTLM, and Negotiate (RFC 4559). The next request on such a
/// connection is made as that user, so no other visitor may use it. Like HAProxy, this compares the
/// beginning of a scheme; a false match costs only a connection.
pub(crate) fn is_bound_login(name: &str, value: &[u8]) -> bool {
    const SCHEMES: [&[u8]; 4] = [b"ntlm", b"nego", b"kerberos", b"credssp"];
    let is = |other: &str| same_name(name, other);
    let login = match name.len() {
        13 => is("authorization"),
        16 => is("www-authenticate"),
        18 => is("proxy-authenticate"),
        19 => is("proxy-authorization"),
        _ => false,
    };
    let bound = |member: &[u8]| {
        SCHEMES.iter().any(|scheme| {
            member.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        })
    };
    login && value.split(|byte| *byte == b',').any(|member| bound(trim(member)))
}

/// The same for a whole head.
pub(crate) fn has_bound_login(fields: &Fields<'_>) -> bool {
    fields.iter().any(|field| is_bound_login(field.name, field.value))
}
