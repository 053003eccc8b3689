//! The bounds that keep connections, offers and requests out, and how often each has done so.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use crate::atomic::AtomicU64;

/// A bound of a gateway that keeps connections, offers or requests out once it is reached.
///
/// ```
/// use reverse_http::Bound;
///
/// assert_eq!(Bound::Connections.as_str(), "connections_max");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bound {
    /// [`Limits::connections_max`](crate::Limits::connections_max), or the share of devices or of
    /// visitors in it. While connections wait for room, this is counted several times a second,
    /// however many they are.
    Connections,
    /// [`Limits::connections_per_address_max`](crate::Limits::connections_per_address_max).
    ConnectionsPerAddress,
    /// [`Limits::unauthenticated_max`](crate::Limits::unauthenticated_max).
    Unauthenticated,
    /// [`Limits::handshakes_max`](crate::Limits::handshakes_max).
    Handshakes,
    /// [`Limits::memory_bytes_max`](crate::Limits::memory_bytes_max).
    Memory,
    /// The descriptors that the operating system allows the process. Counted as
    /// [`Connections`](Self::Connections).
    Descriptors,
    /// [`Limits::devices_max`](crate::Limits::devices_max).
    Devices,
    /// [`Limits::links_per_device_max`](crate::Limits::links_per_device_max).
    LinksPerDevice,
    /// [`Limits::authorize_queue_max`](crate::Limits::authorize_queue_max).
    AuthorizeQueue,
    /// [`Limits::on_link_max`](crate::Limits::on_link_max).
    OnLink,
    /// [`Limits::waiting_per_device_max`](crate::Limits::waiting_per_device_max).
    WaitingPerDevice,
    /// The maximum of requests in flight of a [`Route`](crate::gateway::Route).
    InFlight,
    /// The [`Rate`](crate::gateway::Rate) of a route.
    Rate,
    /// [`Limits::messages_bytes_max`](crate::Limits::messages_bytes_max), or the helpers that
    /// convert long messages for polls.
    Messages,
    /// [`Limits::peer_connections_max`](crate::Limits::peer_connections_max).
    PeerConnections,
    /// The look-ups that may wait for the directory of gateways.
    LookUps,
}

impl Bound {
    const ALL: [Bound; 16] = [
        Bound::Connections,
        Bound::ConnectionsPerAddress,
        Bound::Unauthenticated,
        Bound::Handshakes,
        Bound::Memory,
        Bound::Descriptors,
        Bound::Devices,
        Bound::LinksPerDevice,
        Bound::AuthorizeQueue,
        Bound::OnLink,
        Bound::WaitingPerDevice,
        Bound::InFlight,
        Bound::Rate,
        Bound::Messages,
        Bound::PeerConnections,
        Bound::LookUps,
    ];

    /// Its name in the metrics and in the API: the field of [`Limits`](crate::Limits), where it is
    /// one.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Bound::Connections => "connections_max",
            Bound::ConnectionsPerAddress => "connections_per_address_max",
            Bound::Unauthenticated => "unauthenticated_max",
            Bound::Handshakes => "handshakes_max",
            Bound::Memory => "memory_bytes_max",
            Bound::Descriptors => "descriptors",
            Bound::Devices => "devices_max",
            Bound::LinksPerDevice => "links_per_device_max",
            Bound::AuthorizeQueue => "authorize_queue_max",
            Bound::OnLink => "on_link_max",
            Bound::WaitingPerDevice => "waiting_per_device_max",
            Bound::InFlight => "in_flight",
            Bound::Rate => "rate",
            Bound::Messages => "messages_bytes_max",
            Bound::PeerConnections => "peer_connections_max",
            Bound::LookUps => "look_ups",
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Counts how often each bound was reached.
#[derive(Debug, Default)]
pub(crate) struct BoundCounters([AtomicU64; Bound::ALL.len()]);

impl BoundCounters {
    pub(super) fn count(&self, bound: Bound) {
        self.0[bound as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn read(&self) -> BoundCounts {
        BoundCounts(std::array::from_fn(|n| self.0[n].load(Relaxed)))
    }
}

/// How often each bound of a gateway has kept something out since the start: a connection that was
/// closed, or had to wait, an offer or a request that was refused.
///
/// ```
/// use reverse_http::{Bound, Gateway};
///
/// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
/// let reached = gateway.stats().bounds_reached;
/// assert_eq!((reached.of(Bound::Handshakes), reached.total()), (0, 0));
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BoundCounts([u64; Bound::ALL.len()]);

impl BoundCounts {
    /// How often this bound was reached.
    #[must_use]
    pub fn of(&self, bound: Bound) -> u64 {
        self.0[bound as usize]
    }

    /// How often any bound was reached.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Each bound with its count, including zeros.
    pub fn iter(&self) -> impl Iterator<Item = (Bound, u64)> + '_ {
        Bound::ALL.iter().map(|bound| (*bound, self.of(*bound)))
    }
}

/// Only bounds that were reached: `{connections_max: 3, rate: 1}`.
impl fmt::Debug for BoundCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reached = self.iter().filter(|(_, count)| *count > 0);
        f.debug_map().entries(reached.map(|(bound, count)| (bound.as_str(), count))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_has_a_name_and_a_count_of_its_own() {
        let counters = BoundCounters::default();
        for (n, bound) in Bound::ALL.iter().enumerate() {
            assert_eq!(*bound as usize, n);
            assert!(bound.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{bound}");
            (0..=n).for_each(|_| counters.count(*bound));
        }
        let counts = counters.read();
        let names: std::collections::BTreeSet<&str> =
            counts.iter().map(|(bound, _)| bound.as_str()).collect();
        assert_eq!(names.len(), Bound::ALL.len());
        assert!(counts.iter().enumerate().all(|(n, (_, count))| count == n as u64 + 1));
        assert!(format!("{counts:?}").starts_with(r#"{"connections_max": 1, "#), "{counts:?}");
    }

    #[test]
    fn the_bounds_of_limits_have_the_names_of_their_fields() {
        let limits = format!("{:?}", crate::Limits::default());
        for bound in Bound::ALL {
            let of_limits = bound.as_str().ends_with("_max");
            assert_eq!(limits.contains(&format!(" {bound}: ")), of_limits, "{bound}");
        }
    }
}
