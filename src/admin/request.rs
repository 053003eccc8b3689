//! A request of an operator, and the parameters in its query.

use std::str::FromStr;
use std::time::Duration;

use crate::admin::operators::Operator;
use crate::proto::digits::{self, percent_decoded};

/// A request that was admitted.
pub(super) struct OperatorRequest<'a> {
    pub(super) is_post: bool,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) wants_events: bool,
    pub(super) last_event: &'a [u8],
    /// The operator; `None` for health checks, which need no token.
    pub(super) operator: Option<Operator>,
}

impl OperatorRequest<'_> {
    /// The decoded value of a parameter; empty if it is missing or malformed.
    pub(super) fn parameter(&self, name: &str) -> String {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        let value = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next();
        decoded(&value.unwrap_or_default().replace('+', "%20")).unwrap_or_default()
    }

    /// The value as a number; `None` also if it is none.
    pub(super) fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        digits::number(&self.parameter(name))
    }

    /// The value as a time: `90s`, `5m`, `1h`, or a number of seconds.
    pub(super) fn time(&self, name: &str) -> Option<Duration> {
        let text = self.parameter(name);
        let (number, factor) = match text.as_bytes().last()? {
            b's' => (&text[..text.len() - 1], 1),
            b'm' => (&text[..text.len() - 1], 60),
            b'h' => (&text[..text.len() - 1], 3_600),
            _ => (&text[..], 1),
        };
        let seconds: u64 = digits::number(number)?;
        seconds.checked_mul(factor).map(Duration::from_secs)
    }

    /// Returns true if its answer may wait for an event.
    pub(super) fn waits(&self) -> bool {
        self.path == "/api/v1/events" && !self.wants_events && !self.parameter("wait").is_empty()
    }
}

/// Decodes a percent-encoded text. `None` if it is malformed.
pub(super) fn decoded(text: &str) -> Option<String> {
    String::from_utf8(percent_decoded(text.as_bytes())?).ok()
}
