//! Local answers of a route, without a device: a redirect, or a text.

use std::fmt;
use std::sync::Arc;

use crate::error::Error;
use crate::proto::authority::authority;
use crate::proto::head::{Fields, is_dots};
use crate::proto::head_writer;
use crate::relay::Page;

/// The default type of a text.
pub(super) const PLAIN: &str = "text/plain; charset=utf-8";

/// The longest text of a route, in bytes: a page, not a download. Texts are in memory as long as
/// their table.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// The target of a redirect, or a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// With `appends`, the rest of the request's path and its query are appended.
    Redirect {
        to: String,
        appends: bool,
    },
    Text(Arc<str>),
}

/// The answer of a route, as it is written.
#[derive(Debug)]
pub(in crate::gateway) struct Reply {
    pub(in crate::gateway) status: u16,
    pub(in crate::gateway) location: Option<String>,
    pub(in crate::gateway) page: Page,
}

impl Reply {
    pub(in crate::gateway) fn redirect(status: u16, location: String, text: &str) -> Self {
        let page = Page { content_type: PLAIN.into(), text: text.into() };
        Reply { status, location: Some(location), page }
    }
}

impl Goal {
    /// `https://new.example/base/*`, or `/base/*` on the same host.
    ///
    /// # Errors
    /// It is neither an `http` or `https` URL nor a path.
    pub(super) fn redirect(to: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::usage(format!(
                "redirect {to:?}: write a URL like https://new.example/page or a path like /page; with /* at its end the rest of the path and the query are appended"
            ))
        };
        let (base, appends) = match to.strip_suffix("/*") {
            Some(_) => (&to[..to.len() - 1], true),
            None => (to, false),
        };
        let is_plain = base.bytes().all(|byte| matches!(byte, 0x21..=0x7E))
            && !base.contains(['*', '\\', '"', '<', '>'])
            && !(appends && base.contains(['?', '#']));
        let url = ["https://", "http://"].into_iter().find_map(|scheme| base.strip_prefix(scheme));
        let path = url.unwrap_or(base).split(['?', '#']).next().unwrap_or_default();
        let is_plain = is_plain && !path.split('/').any(is_dots);
        let is_known = match url {
            Some(rest) => {
                let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
                !host.is_empty() && authority(host.as_bytes()).is_ok()
            }
            None => base.starts_with('/') && !base.starts_with("//"),
        };
        match is_plain && is_known {
            true => Ok(Goal::Redirect { to: base.to_owned(), appends }),
            false => Err(wrong()),
        }
    }

    /// # Errors
    /// It is too long.
    pub(super) fn text(text: &str) -> Result<Self, Error> {
        bounded(text).map(Goal::Text)
    }

    /// Returns true if the status fits: one of a redirect, or of an answer with a body.
    pub(super) fn takes(&self, status: u16) -> bool {
        match self {
            Goal::Redirect { .. } => matches!(status, 301 | 302 | 303 | 307 | 308),
            Goal::Text(_) => {
                matches!(status, 200..=203 | 400..=599) && !matches!(status, 401 | 407)
            }
        }
    }

    /// Returns true if it is a redirect to the path of its own route, which would be followed for
    /// ever. A target below that path may belong to another route.
    pub(super) fn leads_back(&self, path: &str, keeps_prefix: bool) -> bool {
        let Goal::Redirect { to, appends } = self else { return false };
        let base = to.split(['?', '#']).next().unwrap_or_default();
        // What is appended then begins with the route's own path.
        let own = if *appends && keeps_prefix { "" } else { path };
        base.strip_suffix('/').unwrap_or(base) == own
    }

    /// The answer to a request. `rest` is its path after the route's prefix, and its query.
    pub(super) fn reply(
        &self,
        status: Option<u16>,
        content_type: Option<&Arc<str>>,
        rest: &str,
    ) -> Reply {
        match self {
            Goal::Text(text) => Reply {
                status: status.unwrap_or(200),
                location: None,
                page: Page {
                    content_type: content_type.cloned().unwrap_or_else(|| PLAIN.into()),
                    text: text.clone(),
                },
            },
            Goal::Redirect { to, appends } => {
                // With another slash, a redirect to a path would name another host.
                let rest = if *appends { rest.trim_start_matches('/') } else { "" };
                let location = [to, rest].concat();
                Reply::redirect(status.unwrap_or(308), location, "this has moved; see Location")
            }
        }
    }
}

/// For the table of routes: `redirect to https://new.example/`, `answer`.
impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Goal::Redirect { to, appends } => {
                write!(f, "redirect to {to}{}", if *appends { "*" } else { "" })
            }
            Goal::Text(_) => f.write_str("an answer of its own"),
        }
    }
}

/// # Errors
/// It is too long.
fn bounded(text: &str) -> Result<Arc<str>, Error> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    match text.len() <= TEXT_BYTES_MAX {
        true => Ok(text.into()),
        false => Err(Error::usage(format!(
            "a text of {} bytes; a route's own has {TEXT_BYTES_MAX} at most",
            text.len()
        ))),
    }
}

/// The pages of a route for a device that is not connected: for people, for programs, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::gateway) struct Offline {
    html: Option<Page>,
    json: Option<Page>,
}

impl Offline {
    /// # Errors
    /// It is too long.
    pub(super) fn set_html(&mut self, text: &str) -> Result<(), Error> {
        let content_type = "text/html; charset=utf-8".into();
        self.html = Some(Page { content_type, text: bounded(text)? });
        Ok(())
    }

    /// # Errors
    /// It is too long.
    pub(super) fn set_json(&mut self, text: &str) -> Result<(), Error> {
        let content_type = "application/json".into();
        self.json = Some(Page { content_type, text: bounded(text)? });
        Ok(())
    }

    /// The page for a visitor with this `Accept`: JSON if it is accepted by name and HTML is not.
    pub(in crate::gateway) fn page(&self, fields: &Fields<'_>) -> Option<&Page> {
        let accepts = |is_it: fn(&[u8]) -> bool| {
            fields.list("accept").any(|member| {
                let kind = member.split(|byte| *byte == b';').next().unwrap_or_default();
                is_it(&kind.trim_ascii().to_ascii_lowercase())
            })
        };
        let wants_json = || {
            accepts(|kind| kind == b"application/json" || kind.ends_with(b"+json"))
                && !accepts(|kind| kind == b"text/html" || kind == b"application/xhtml+xml")
        };
        match (&self.html, &self.json) {
            (Some(_), Some(json)) if wants_json() => Some(json),
            (html, json) => html.as_ref().or(json.as_ref()),
        }
    }
}

/// A value of `Content-Type`.
///
/// # Errors
/// It is not a valid field value.
pub(super) fn content_type(value: &str) -> Result<Arc<str>, Error> {
    let mut scratch = Vec::new();
    match value.contains('/')
        && head_writer::write_field(&mut scratch, "Content-Type", value.as_bytes()).is_ok()
    {
        true => Ok(value.into()),
        false => Err(Error::usage(format!(
            "content_type {value:?}: write one like text/html; charset=utf-8"
        ))),
    }
}
