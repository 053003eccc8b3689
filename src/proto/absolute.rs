//! URLs in absolute form (RFC 9112 §3.2.2), in request targets and fields.

use crate::error::Refusal;
use crate::proto::authority::{Authority, authority};
use crate::proto::fields::begins;

/// Splits an http or https URL into the scheme's port, the authority, and the rest. `None`: the
/// text is not such a URL.
///
/// # Errors
/// Its authority is invalid.
pub(crate) fn absolute_form(text: &str) -> Result<Option<(u16, Authority<'_>, &str)>, Refusal> {
    let (scheme_port, rest) = match (strip_scheme(text, "http://"), strip_scheme(text, "https://"))
    {
        (Some(rest), _) => (80, rest),
        (_, Some(rest)) => (443, rest),
        _ => return Ok(None),
    };
    let (named, path) = split_authority(rest)?;
    Ok(Some((scheme_port, named, path)))
}

/// Splits the text after `//` into the authority and the rest.
///
/// # Errors
/// The authority is invalid.
pub(crate) fn split_authority(rest: &str) -> Result<(Authority<'_>, &str), Refusal> {
    let (named, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    Ok((authority(named.as_bytes())?, path))
}

fn strip_scheme<'t>(target: &'t str, scheme: &str) -> Option<&'t str> {
    begins(target, scheme).then(|| &target[scheme.len()..])
}
