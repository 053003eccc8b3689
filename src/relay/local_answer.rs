//! Responses that this end writes itself: refusals and failures.

use std::sync::Arc;

use crate::proto::head_writer;
use crate::proto::peer::SERVED;

/// A body with more information for people or programs than the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) content_type: Arc<str>,
    /// Without a line end.
    pub(crate) text: Arc<str>,
}

/// An answer that this end writes itself: a refusal or a failure.
#[derive(Clone, Debug)]
pub(crate) struct LocalAnswer<'a> {
    pub(crate) status: u16,
    pub(crate) reason: &'a str,
    /// `Proxy-Status` error type (RFC 9209 §2.3).
    pub(crate) error: Option<&'static str>,
    /// `Proxy-Status` also without an error type: a device has to distinguish this gateway's answer
    /// from an intermediary's.
    pub(crate) mark: bool,
    /// The answer is to another gateway, which has to recognise this one.
    pub(crate) to_gateway: bool,
    pub(crate) retry_after: Option<u64>,
    pub(crate) fields: &'a [(&'a str, &'a str)],
    /// The body instead of the reason.
    pub(crate) page: Option<&'a Page>,
    /// The answer is to a HEAD request: no body.
    pub(crate) to_head: bool,
    /// The connection is kept open.
    pub(crate) keep: bool,
}

impl<'a> LocalAnswer<'a> {
    /// An answer with this status and reason that closes the connection.
    pub(crate) const fn new(status: u16, reason: &'a str) -> Self {
        LocalAnswer {
            status,
            reason,
            error: None,
            mark: false,
            to_gateway: false,
            retry_after: None,
            fields: &[],
            page: None,
            to_head: false,
            keep: false,
        }
    }

    /// Appends the head and the body with one line end. Without a page, the body is the reason as
    /// `text/plain`.
    pub(crate) fn write(&self, out: &mut Vec<u8>, date: &str) {
        let (kind, body) = match self.page {
            Some(page) => (&*page.content_type, &*page.text),
            None => ("text/plain; charset=utf-8", self.reason),
        };
        let length = (body.len() + 1).to_string();
        let retry_after = self.retry_after.map(|s| s.to_string());
        let proxy_status = match (self.error, self.mark) {
            (Some(error), _) => {
                Some(format!("ptth; error={error}; details=\"{}\"", quoted(self.reason)))
            }
            (None, true) => Some(format!("ptth; details=\"{}\"", quoted(self.reason))),
            (None, false) => None,
        };
        let upgrades = self.fields.iter().any(|(name, _)| *name == "Upgrade"); // RFC 9110 §7.8: `Connection` has to list it
        let connection = match (self.keep, upgrades) {
            (true, true) => Some("Upgrade"),
            (true, false) => None,
            (false, true) => Some("close, Upgrade"),
            (false, false) => Some("close"),
        };
        let fields =
            [("Date", Some(date)), ("Content-Type", Some(kind)), ("Content-Length", Some(&length))];
        let more = [
            ("Retry-After", retry_after.as_deref()),
            ("Proxy-Status", proxy_status.as_deref()),
            ("Connection", connection),
            (SERVED.0, self.to_gateway.then_some(SERVED.1)),
        ];
        let built =
            fields.iter().chain(&more).filter_map(|(name, value)| value.map(|v| (*name, v)));
        if head_writer::write_status_line(
            out,
            self.status,
            head_writer::reason_phrase(self.status).as_bytes(),
        )
        .is_err()
        {
            return;
        }
        for (name, value) in built.chain(self.fields.iter().copied()) {
            if let Err(refusal) = head_writer::write_field(out, name, value.as_bytes()) {
                log::error!("field {name} of an answer was left out: {refusal}");
            }
        }
        out.extend_from_slice(b"\r\n");
        if !self.to_head {
            out.extend_from_slice(body.as_bytes());
            out.push(b'\n');
        }
    }
}

/// Text for a quoted string of a structured field (RFC 9651 §3.3.3): visible ASCII, escapes for `"`
/// and `\`. It is cut, so that a program's long reason does not push the head over its limit; the
/// body has the whole text.
fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 500;
    text.chars()
        .take(CHARS_MAX)
        .flat_map(|c| match c {
            '"' | '\\' => vec!['\\', c],
            ' '..='~' => vec![c],
            _ => vec!['?'],
        })
        .collect()
}
