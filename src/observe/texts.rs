//! Texts from clients, cut to a bounded length.

use std::borrow::Cow;

use crate::text::misleads;

/// Longest path that is remembered, in bytes; the query never is, because it may contain secrets.
pub(super) const PATH_BYTES_MAX: usize = 96;

/// Longest reason of a change that is remembered, in bytes.
pub(super) const REASON_BYTES_MAX: usize = 160;

/// Longest text out of an offer that is remembered, in bytes.
pub(crate) const OFFER_TEXT_MAX: usize = 128;

/// The beginning of a text, of at most this many bytes.
pub(super) fn beginning(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The beginning of a text, without characters that [mislead](misleads).
pub(crate) fn cut(text: &str, most: usize) -> Box<str> {
    let mut kept = String::new();
    cut_into(&mut kept, text, most);
    kept.into()
}

/// The same in place of a former text, whose memory is used again.
pub(super) fn cut_into(kept: &mut String, text: &str, most: usize) {
    let text = beginning(text, most);
    kept.clear();
    kept.reserve_exact(text.len());
    if text.bytes().fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~')) {
        return kept.push_str(text); // nearly always, and much faster
    }
    kept.extend(text.chars().map(|c| if misleads(c) { '?' } else { c }));
}

/// A method; common ones need no allocation.
pub(super) fn method(text: &str) -> Cow<'static, str> {
    const USUAL: [&str; 8] = ["GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", ""];
    match USUAL.iter().find(|usual| **usual == text) {
        Some(usual) => Cow::Borrowed(usual),
        None => Cow::Owned(cut(text, 16).into()),
    }
}
