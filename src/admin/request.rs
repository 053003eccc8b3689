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
        self.values(name).next().flatten().unwrap_or_default()
    }

    /// Returns true if a parameter is missing, or is there once and decodes to a text.
    pub(super) fn is_clear(&self, name: &str) -> bool {
        let mut values = self.values(name);
        !matches!(values.next(), Some(None)) && values.next().is_none()
    }

    /// The decoded values of a parameter; `None` for one that is malformed.
    fn values(&self, name: &str) -> impl Iterator<Item = Option<String>> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        let values = pairs.filter(move |(key, _)| *key == name).map(|(_, value)| value);
        values.map(|value| decoded(&value.replace('+', "%20")))
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
