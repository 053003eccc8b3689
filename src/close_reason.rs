//! Why links end: a closed list, so that logs, events and counters say the same.
//!
//! It does not depend on a socket or a role: both roles, and the relay between them, take their
//! reasons from here.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::sync::atomic::Ordering::Relaxed;

use crate::atomic::AtomicU64;
use crate::error::{Error, Fault};

macro_rules! causes {
    ($( $(#[$doc:meta])* $name:ident = $text:literal, )*) => {
        /// Why a link, or the last connection of a name, ended. It is shown as one word
        /// (`heartbeat-missed`), the same in logs, events and counters.
        ///
        /// ```
        /// use reverse_http::CloseCause;
        /// assert_eq!(CloseCause::HeartbeatMissed.to_string(), "heartbeat-missed");
        /// assert!(CloseCause::Surplus.is_usual() && !CloseCause::HeartbeatMissed.is_usual());
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum CloseCause { $( $(#[$doc])* $name, )* }

        impl CloseCause {
            /// All causes, in this order.
            pub const ALL: &'static [CloseCause] = &[ $( CloseCause::$name, )* ];

            /// Its name: `closed`, `heartbeat-missed`.
            pub fn as_str(self) -> &'static str {
                match self { $( CloseCause::$name => $text, )* }
            }
        }
    };
}

causes! {
    /// The other side closed it between two exchanges.
    Closed = "closed",
    /// The other side closed it in the middle of an exchange.
    Cut = "cut",
    /// The connection was reset.
    Reset = "reset",
    /// The network no longer delivered anything: TCP's keepalive or `TCP_USER_TIMEOUT` expired.
    Unreachable = "unreachable",
    /// At the gateway: a heartbeat was not answered within
    /// [`heartbeat_timeout`](crate::Limits::heartbeat_timeout).
    HeartbeatMissed = "heartbeat-missed",
    /// At the device: nothing came for [`silence`](crate::Limits::silence), on a link that had seen
    /// heartbeats.
    Silent = "silent",
    /// The peer violated the protocol, with a malformed message or unexpected bytes.
    ProtocolError = "protocol-error",
    /// A timeout of an exchange expired.
    Late = "late",
    /// The caller gave up in the middle of an exchange that could not be completed.
    CallerGone = "caller-gone",
    /// The caller read slower than [`min_rate_bytes_per_s`](crate::Limits::min_rate_bytes_per_s)
    /// while others waited.
    SlowReader = "slow-reader",
    /// The caller sent its request slower than
    /// [`min_rate_bytes_per_s`](crate::Limits::min_rate_bytes_per_s) while others waited.
    SlowSender = "slow-sender",
    /// A message announced that it was the last one, or could end only with the connection.
    LastMessage = "last-message",
    /// It was switched to another protocol, which has ended.
    Tunnel = "tunnel",
    /// A newer session of the device took the name over.
    Replaced = "replaced",
    /// The token of the device is no longer valid.
    Revoked = "revoked",
    /// At the device: it was idle, and was not needed in the last minute.
    Surplus = "surplus",
    /// One of the sides is stopping, and lets exchanges in progress finish.
    Drained = "drained",
    /// One of the sides has stopped.
    Stopped = "stopped",
    /// A limit of this side was reached.
    Limit = "limit",
    /// The link was in the hands of program code, which ended it.
    Program = "program",
    /// The operating system of this side failed.
    Failed = "failed",
    /// A device that polls, or whose offers are held, did not come back within
    /// [`poll_gap`](crate::Limits::poll_gap).
    Absent = "absent",
    /// An operator of the gateway ended it.
    Operator = "operator",
}

impl CloseCause {
    /// The cause that an error of the connection stands for.
    pub(crate) fn of_io(error: &io::Error) -> CloseCause {
        use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut, UnexpectedEof};
        match error.kind() {
            TimedOut | HostUnreachable | NetworkUnreachable => CloseCause::Unreachable,
            UnexpectedEof => CloseCause::Cut,
            _ => CloseCause::Reset,
        }
    }

    /// Returns true if it is part of the normal life of a link, and of no interest to an operator.
    #[must_use]
    pub fn is_usual(self) -> bool {
        matches!(
            self,
            CloseCause::LastMessage
                | CloseCause::Tunnel
                | CloseCause::Program
                | CloseCause::Surplus
        )
    }

    /// This cause with a text.
    pub(crate) const fn because(self, text: &'static str) -> CloseReason {
        CloseReason { cause: self, text: Cow::Borrowed(text) }
    }
}

impl fmt::Display for CloseCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A reason with its circumstances. Shown as `heartbeat-missed: no answer within 10 s`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CloseReason {
    pub(crate) cause: CloseCause,
    pub(crate) text: Cow<'static, str>,
}

impl CloseReason {
    pub(crate) fn new(cause: CloseCause, text: impl Into<Cow<'static, str>>) -> Self {
        CloseReason { cause, text: text.into() }
    }

    /// The reason that the error of a program's exchange stands for.
    pub(crate) fn of_exchange(error: &Error) -> Self {
        let cause = match () {
            () if error.is_stopped() => CloseCause::Stopped,
            () if error.fault() == Fault::Caller => CloseCause::Program,
            () if error.is_timeout() => CloseCause::Late,
            () if error.is_closed() => CloseCause::Cut,
            () if error.is_malformed() => CloseCause::ProtocolError,
            () => CloseCause::Failed,
        };
        CloseReason::new(cause, error.to_string())
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.cause, self.text)
    }
}

/// The number of links that were closed, by cause.
#[derive(Debug)]
pub(crate) struct Counters([AtomicU64; CloseCause::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Counters(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Counters {
    pub(crate) fn count(&self, cause: CloseCause) {
        self.0[cause as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn read(&self) -> CloseCounts {
        CloseCounts(std::array::from_fn(|n| self.0[n].load(Relaxed)))
    }
}

/// How many links were closed since the start, by cause.
///
/// ```
/// use reverse_http::{CloseCause, Gateway};
///
/// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
/// let closed = gateway.stats().closed;
/// assert_eq!((closed.of(CloseCause::Replaced), closed.total()), (0, 0));
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CloseCounts([u64; CloseCause::ALL.len()]);

impl CloseCounts {
    pub(crate) fn sum(counts: impl Iterator<Item = CloseCounts>) -> CloseCounts {
        counts.fold(CloseCounts([0; CloseCause::ALL.len()]), |sum, more| {
            CloseCounts(std::array::from_fn(|n| sum.0[n] + more.0[n]))
        })
    }

    /// The number of links closed for this cause.
    #[must_use]
    pub fn of(&self, cause: CloseCause) -> u64 {
        self.0[cause as usize]
    }

    /// The number of all closed links.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Each cause with its count, including zeros.
    pub fn iter(&self) -> impl Iterator<Item = (CloseCause, u64)> + '_ {
        CloseCause::ALL.iter().map(|cause| (*cause, self.of(*cause)))
    }
}

/// Only causes that occurred: `{closed: 3, heartbeat-missed: 1}`.
impl fmt::Debug for CloseCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(
                self.iter()
                    .filter(|(_, n)| *n > 0)
                    .map(|(cause, n)| (format_args!("{cause}").to_string(), n)),
            )
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_word_and_a_place_of_its_own() {
        let counters = Counters::default();
        for (n, end) in CloseCause::ALL.iter().enumerate() {
            assert_eq!(*end as usize, n);
            assert!(end.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{end}");
            assert_eq!(
                CloseCause::ALL.iter().filter(|other| other.as_str() == end.as_str()).count(),
                1
            );
            counters.count(*end);
            assert_eq!((counters.read().of(*end), counters.read().total()), (1, n as u64 + 1));
        }
    }
}
