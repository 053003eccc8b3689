//! How long each phase of an exchange may take, and the name of each of these timeouts.

use std::fmt;
use std::time::Duration;

use crate::limits::Limits;

/// A timeout and its name, displayed as in error messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) time: Duration,
    pub(crate) name: &'static str,
}

impl Wait {
    /// For a side that has most likely left.
    pub(super) fn abandoned(limits: &Limits) -> Self {
        Wait { time: limits.abandoned_timeout, name: "abandoned_timeout" }
    }

    /// Returns false if there is no limit.
    pub(super) fn is_bounded(&self) -> bool {
        !self.time.is_zero()
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The rest of a deadline is displayed in milliseconds.
        let milliseconds = self.time.as_secs_f64() * 1e3;
        write!(f, "{} s ({})", milliseconds.round() / 1e3, self.name)
    }
}

/// How long each phase of an exchange may take; a route may have its own values. Zero means no
/// limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waits {
    pub(crate) link: Wait,
    /// For the upstream side to read bytes of the request.
    pub(crate) write: Wait,
    pub(crate) first_byte: Wait,
    pub(crate) body_silence: Wait,
    /// For the next byte of a response that has begun, to a request that is whole.
    pub(crate) response_silence: Wait,
    /// For the next byte on a tunnel, and on one that has ended in one direction.
    pub(crate) tunnel: Wait,
    pub(crate) half_tunnel: Wait,
    /// The whole exchange.
    pub(crate) exchange: Wait,
}

impl Waits {
    pub(crate) fn of(limits: &Limits) -> Self {
        Waits {
            link: Wait { time: limits.wait_for_link, name: "wait_for_link" },
            write: Wait { time: limits.request_write_timeout, name: "request_write_timeout" },
            first_byte: Wait { time: limits.first_byte_timeout, name: "first_byte_timeout" },
            body_silence: Wait { time: limits.body_silence_timeout, name: "body_silence_timeout" },
            response_silence: Wait {
                time: limits.body_silence_timeout,
                name: "body_silence_timeout",
            },
            tunnel: Wait { time: limits.tunnel_silence_timeout, name: "tunnel_silence_timeout" },
            half_tunnel: Wait { time: limits.body_silence_timeout, name: "body_silence_timeout" },
            exchange: Wait { time: limits.exchange_timeout, name: "exchange_timeout" },
        }
    }

    /// The timeouts of a device that forwards requests from a link. The gateway decides how long
    /// each phase may take, and ends the link when the time has expired, unless the device has its own
    /// limits for its local server. A tunnel that has ended in one direction is the exception,
    /// because a gateway that has half-closed a link cannot be distinguished from one that is gone.
    pub(crate) fn of_forwarder(limits: &Limits) -> Self {
        let usual = Self::of(limits);
        let endless = |wait: Wait| Wait { time: Duration::ZERO, ..wait };
        let local = Wait { time: limits.local_silence_timeout, name: "local_silence_timeout" };
        Waits {
            link: usual.link,
            write: local,
            first_byte: Wait {
                time: limits.local_first_byte_timeout,
                name: "local_first_byte_timeout",
            },
            body_silence: endless(usual.body_silence),
            response_silence: local,
            tunnel: endless(usual.tunnel),
            half_tunnel: usual.tunnel,
            exchange: endless(usual.exchange),
        }
    }

    /// The timeouts of a device that forwards the request of a poll. It cannot notice that its
    /// gateway has given up, so its own limits apply.
    pub(crate) fn of_polling_forwarder(limits: &Limits) -> Self {
        let (usual, own) = (Self::of(limits), Self::of_forwarder(limits));
        let first = |own: Wait, usual| if own.is_bounded() { own } else { usual };
        Waits {
            first_byte: first(own.first_byte, usual.first_byte),
            write: first(own.write, usual.write),
            response_silence: first(own.response_silence, usual.response_silence),
            ..usual
        }
    }
}
