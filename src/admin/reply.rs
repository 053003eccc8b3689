//! A response of the admin listener, and how it is written.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::Refusal;
use crate::http_date::{DateText, date_now};
use crate::proto::head_writer;
use crate::stream::Stream;

/// How long writing an answer may take in all, even with progress.
const WRITE_TOTAL: Duration = Duration::from_secs(60);

/// The response to a request.
pub(super) struct Reply {
    status: u16,
    kind: &'static str,
    body: Vec<u8>,
    fields: Vec<(&'static str, String)>,
    is_last: bool,
    follows: Option<u64>,
}

impl Reply {
    /// Returns true if it refuses to answer for the request's host.
    pub(super) fn refuses_host(&self) -> bool {
        self.status == 421
    }

    pub(super) fn new(status: u16, kind: &'static str, body: impl Into<Vec<u8>>) -> Reply {
        let fields = Vec::new();
        Reply { status, kind, body: body.into(), fields, is_last: false, follows: None }
    }

    /// One line of text.
    pub(super) fn text(status: u16, text: &str) -> Reply {
        Reply::new(status, "text/plain; charset=utf-8", format!("{text}\n"))
    }

    /// The response to malformed bytes; the connection ends.
    pub(super) fn of(refusal: &Refusal) -> Reply {
        Reply::text(refusal.status, &refusal.reason).last()
    }

    pub(super) fn json(value: &Value) -> Reply {
        Reply::new(200, "application/json", format!("{value}\n"))
    }

    pub(super) fn missing(what: &str) -> Reply {
        Reply::text(404, what)
    }

    pub(super) fn field(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.fields.push((name, value.into()));
        self
    }

    pub(super) fn last(mut self) -> Reply {
        self.is_last = true;
        self
    }

    pub(super) fn is_last(&self) -> bool {
        self.is_last
    }

    /// Its connection follows the events after this one.
    pub(super) fn following(mut self, event: u64) -> Reply {
        self.follows = Some(event);
        self
    }

    /// The event after which its connection follows the events.
    pub(super) fn follows(&self) -> Option<u64> {
        self.follows
    }

    /// Writes it, with fields against caching, framing and content sniffing.
    pub(super) fn write(&self, mut stream: &Stream, to_head: bool, keep: bool) -> io::Result<()> {
        let date = date_now();
        let length = self.body.len().to_string();
        let connection = if keep && !self.is_last { "keep-alive" } else { "close" };
        let fixed = [
            ("Date", date.as_ref().map_or("", DateText::as_str)),
            ("Content-Type", self.kind),
            ("Content-Length", &length),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Connection", connection),
        ];
        let own = self.fields.iter().map(|(name, value)| (*name, value.as_str()));
        let mut out = Vec::with_capacity(self.body.len() + 512);
        let phrase = head_writer::reason_phrase(self.status);
        let refused = |refusal: Refusal| io::Error::other(refusal.reason);
        head_writer::write_status_line(&mut out, self.status, phrase.as_bytes())
            .map_err(refused)?;
        for (name, value) in fixed.into_iter().chain(own) {
            head_writer::write_field(&mut out, name, value.as_bytes()).map_err(refused)?;
        }
        out.extend_from_slice(b"\r\n");
        if !to_head {
            out.extend_from_slice(&self.body);
        }
        let end = Instant::now() + WRITE_TOTAL;
        let mut rest = &out[..];
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            if Instant::now() > end {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        stream.flush()
    }
}
