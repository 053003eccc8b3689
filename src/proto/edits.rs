//! Fields that an operator sets or removes in forwarded messages.
//!
//! Fields that frame a message, name its recipient, or apply to one connection only cannot be
//! edited, so that no option changes how the next parser reads a message (T1, T10, T12).

use std::fmt;

use crate::error::Refusal;
use crate::proto::body::Decoder;
use crate::proto::fields::{begins, reads_alike, same_name};
use crate::proto::head_writer::{push_field, write_field};

/// Most edits; there is a bound for their bytes, too. More are refused, since the next hop has
/// limits, too.
const EDITS_MAX: usize = 64;
const BYTES_MAX: usize = 8 * 1024;

/// Fields of a message that an operator sets or removes. A field that is set replaces every field
/// of its name, and is written after the message's own fields.
///
/// ```
/// use reverse_http::proto::edits::FieldEdits;
/// let edits = FieldEdits::default().set("X-Device", "lamp")?.remove("X-Forwarded-For")?;
/// assert!(!edits.is_empty());
/// for framing in ["Content-Length", "transfer-encoding", "Host", "Connection", "PTTH-Waiting"] {
///     assert!(FieldEdits::default().remove(framing).is_err());
/// }
/// assert!(FieldEdits::default().set("X-Device", "lamp\r\nHost: other").is_err());
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct FieldEdits {
    set: Vec<(String, String)>,
    removed: Vec<String>,
    /// They are the gateway's own, and are written into interim responses, too.
    are_own: bool,
}

impl fmt::Debug for FieldEdits {
    /// Values may be secrets (T23).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set: Vec<&str> = self.set.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("FieldEdits").field("set", &set).field("removed", &self.removed).finish()
    }
}

/// The names, without values: `set X-Site, X-Device, remove Server`.
impl fmt::Display for FieldEdits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set: Vec<&str> = self.set.iter().map(|(name, _)| name.as_str()).collect();
        let all = [("set", set.join(", ")), ("remove", self.removed.join(", "))];
        let told = all.iter().filter(|(_, names)| !names.is_empty());
        let told: Vec<String> = told.map(|(what, names)| format!("{what} {names}")).collect();
        f.write_str(&told.join(", "))
    }
}

impl FieldEdits {
    /// Sets this field, which replaces those of its name. Setting one name several times writes
    /// several fields.
    ///
    /// # Errors
    /// An invalid name, or one that may not be edited, a value with a control byte, more than 64
    /// edits or 8 KiB.
    pub fn set(mut self, name: &str, value: &str) -> Result<Self, Refusal> {
        may_be_edited(name)?;
        write_field(&mut Vec::new(), name, value.trim().as_bytes())?;
        self.set.push((name.to_owned(), value.trim().to_owned()));
        self.bounded()
    }

    /// Drops all fields of this name.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn remove(mut self, name: &str) -> Result<Self, Refusal> {
        may_be_edited(name)?;
        write_field(&mut Vec::new(), name, b"")?;
        self.removed.push(name.to_owned());
        self.bounded()
    }

    /// Returns true if nothing is edited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.removed.is_empty()
    }

    /// Edits with this field of the gateway's own, which no operator may set.
    pub(crate) fn own((name, value): (&str, &str)) -> Self {
        let set = vec![(name.to_owned(), value.to_owned())];
        FieldEdits { set, removed: Vec::new(), are_own: true }
    }

    pub(crate) fn are_own(&self) -> bool {
        self.are_own
    }

    fn bounded(self) -> Result<Self, Refusal> {
        let bytes: usize = self.set.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        match self.set.len() + self.removed.len() <= EDITS_MAX && bytes <= BYTES_MAX {
            true => Ok(self),
            false => Err(Refusal::new(400, "more than 64 fields, or 8 KiB of them, are edited")),
        }
    }

    /// Returns true if a received field of this name is not forwarded: neither that of the edited
    /// name, nor one that CGI takes for it (T12).
    pub(crate) fn covers(&self, name: &str) -> bool {
        let set = self.set.iter().map(|(set, _)| set);
        set.chain(&self.removed).any(|edited| reads_alike(edited, name))
    }

    /// Drops trailers of these names: a field that is set or removed in a head must not appear in
    /// the trailers.
    pub(crate) fn drop_trailers(&self, body: &mut Decoder) {
        body.retain_trailers(|name| !self.covers(name));
    }

    /// Appends the fields that are set.
    pub(crate) fn push(&self, out: &mut Vec<u8>) {
        self.set.iter().for_each(|(name, value)| push_field(out, name, value.as_bytes()));
    }
}

/// Returns true if a gateway always writes this field into the requests that it forwards: the
/// forwarding fields and the request's id.
pub(crate) fn is_written_by_gateways(name: &str) -> bool {
    begins(name, "x-forwarded-") || same_name(name, "forwarded") || same_name(name, "x-request-id")
}

/// # Errors
/// The field frames the message, names the recipient, or applies to one connection only.
fn may_be_edited(name: &str) -> Result<(), Refusal> {
    const KEPT: [&str; 11] = [
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    ];
    let is_kept = KEPT.iter().any(|kept| same_name(name, kept));
    match is_kept || begins(name, "ptth-") || begins(name, "proxy-") {
        true => Err(Refusal::new(
            400,
            "this field says where a message ends, whom it is for, or what holds for one connection; it cannot be edited",
        )),
        false => Ok(()),
    }
}
