//! Bounds the admin listener's connections, and chooses the one that is closed for a new one.
//!
//! A connection costs a thread before it has sent anything, and a client that opens many idle
//! connections must lock out neither operators nor health checks. So when the table is full, the
//! oldest connection that waits for a request is closed: first one without an admitted request,
//! then one that idles between two requests. A connection that is being answered stays.

use std::collections::BTreeMap;
use std::net::{IpAddr, Shutdown};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::stream::Stream;

/// Connections at once, each with a thread.
pub(super) const CONNECTIONS_MAX: usize = 64;
/// The most connections from one address beyond loopback: a stranger leaves room for the operators.
pub(super) const CONNECTIONS_PER_ADDRESS_MAX: usize = CONNECTIONS_MAX / 4;
/// The most connections that were closed for others, and whose threads have not ended yet.
const LEAVING_MAX: usize = CONNECTIONS_MAX;
/// How long accepting waits for such a thread.
const LEAVING_TIMEOUT: Duration = Duration::from_secs(1);

/// The connections in progress.
#[derive(Default)]
pub(super) struct Permits {
    table: Mutex<Table>,
    /// A connection that was closed for another one has ended.
    ended: Condvar,
}

#[derive(Default)]
struct Table {
    connections: BTreeMap<u64, Connection>,
    leaving: usize,
    /// Numbers of connections and waits, in their order.
    last: u64,
}

struct Connection {
    stream: Arc<Stream>,
    /// The address for the bound per address, if it counts.
    from: Option<IpAddr>,
    /// `None` while it is being answered.
    waits: Option<Waits>,
}

/// The state of a connection that waits for a request; the smallest is closed first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Waits {
    /// It has carried an operator's request.
    is_operators: bool,
    since: u64,
}

impl Table {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Makes room for one connection from this address; returns false if there is none.
    fn make_room(&mut self, from: Option<IpAddr>) -> bool {
        let all = &self.connections;
        let of_address = |connection: &Connection| from.is_some() && connection.from == from;
        let share = all.values().filter(|connection| of_address(connection)).count();
        let is_share_full = share >= CONNECTIONS_PER_ADDRESS_MAX;
        if !is_share_full && all.len() < CONNECTIONS_MAX {
            return true;
        }
        let candidates =
            all.iter().filter(|(_, connection)| !is_share_full || of_address(connection));
        let waiting = candidates.filter_map(|(number, found)| Some((found.waits?, *number)));
        let Some((_, number)) = waiting.min().filter(|_| self.leaving < LEAVING_MAX) else {
            return false;
        };
        if let Some(connection) = self.connections.remove(&number) {
            self.leaving += 1;
            let _ = connection.stream.shutdown(Shutdown::Both); // it may have ended already
        }
        true
    }
}

impl Permits {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit for a connection that waits for its first request. `from` is the address for the
    /// bound per address, if it counts. `None` if all connections are busy.
    pub(super) fn take(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        from: Option<IpAddr>,
    ) -> Option<ConnectionPermit> {
        let has_many_leaving = |table: &mut Table| table.leaving >= LEAVING_MAX;
        let waited = self.ended.wait_timeout_while(self.table(), LEAVING_TIMEOUT, has_many_leaving);
        let mut table = waited.unwrap_or_else(PoisonError::into_inner).0;
        if !table.make_room(from) {
            return None;
        }
        let number = table.next();
        let waits = Some(Waits { is_operators: false, since: number });
        table.connections.insert(number, Connection { stream: stream.clone(), from, waits });
        Some(ConnectionPermit { permits: self.clone(), number })
    }
}

/// The permit of one connection; dropping it returns it.
pub(super) struct ConnectionPermit {
    permits: Arc<Permits>,
    number: u64,
}

impl ConnectionPermit {
    /// The connection waits for its next request. `is_operators` means that it has carried an
    /// operator's request.
    pub(super) fn waits(&self, is_operators: bool) {
        let mut table = self.permits.table();
        let since = table.next();
        if let Some(connection) = table.connections.get_mut(&self.number) {
            connection.waits = Some(Waits { is_operators, since });
        }
    }

    /// A request has arrived. Returns false if the connection was closed for another one before.
    pub(super) fn answers(&self) -> bool {
        let mut table = self.permits.table();
        let found = table.connections.get_mut(&self.number);
        found.map(|connection| connection.waits = None).is_some()
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut table = self.permits.table();
        if table.connections.remove(&self.number).is_none() {
            table.leaving -= 1;
            self.permits.ended.notify_one();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A connection's two ends: the listener's, and the client's.
    fn connected() -> (Arc<Stream>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        (Arc::new(ours.into()), theirs)
    }

    fn answer_all(held: &[(ConnectionPermit, UnixStream)]) {
        for (permit, _) in held {
            let _ = permit.answers(); // one that gave way before has none
        }
    }

    fn is_over(mut theirs: &UnixStream) -> bool {
        matches!(theirs.read(&mut [0]), Ok(0))
    }

    #[test]
    fn the_oldest_that_waits_gives_way_and_operators_last() {
        let permits = Arc::new(Permits::default());
        let held: Vec<_> = (0..CONNECTIONS_MAX)
            .map(|_| {
                let (ours, theirs) = connected();
                (permits.take(&ours, None).unwrap(), theirs)
            })
            .collect();
        assert!(held[0].0.answers(), "it is being answered");
        held[1].0.waits(true);
        let (ours, _theirs) = connected();
        let new = permits.take(&ours, None).unwrap();
        assert_eq!(held.iter().position(|(_, theirs)| is_over(theirs)), Some(2));
        assert!(!held[2].0.answers() && new.answers(), "what gave way is not answered");
        // Connections of operators go when no other waits; one that is being answered never goes.
        held.iter().for_each(|(permit, _)| permit.waits(true));
        held[0].0.answers();
        let (ours, _theirs) = connected();
        let _second = permits.take(&ours, None).unwrap();
        assert!(!is_over(&held[0].1) && is_over(&held[1].1));
        answer_all(&held);
        let (ours, _theirs) = connected();
        assert!(permits.take(&ours, None).is_some(), "the second one waits");
        drop((held, new));
        let table = permits.table();
        assert_eq!((table.connections.len(), table.leaving), (0, 1), "the second one's thread");
    }

    #[test]
    fn one_address_beyond_loopback_has_a_share_of_the_connections() {
        let permits = Arc::new(Permits::default());
        let (stranger, other) = ([203, 0, 113, 7].into(), [203, 0, 113, 8].into());
        let take = |from| {
            let (ours, theirs) = connected();
            permits.take(&ours, from).map(|permit| (permit, theirs))
        };
        let mut held: Vec<_> =
            (0..CONNECTIONS_PER_ADDRESS_MAX).map(|_| take(Some(stranger)).unwrap()).collect();
        let its = take(Some(stranger)).unwrap();
        assert!(is_over(&held[0].1), "an address makes room of its own");
        assert!(its.0.answers());
        answer_all(&held);
        assert!(take(Some(stranger)).is_none());
        held.extend(take(Some(other)));
        held.extend((0..CONNECTIONS_MAX).filter_map(|_| take(None)));
        assert!(!is_over(&held[1].1), "others take nothing of what is being answered");
        assert_eq!(permits.table().connections.len(), CONNECTIONS_MAX);
        answer_all(&held);
        assert!(take(None).is_none() && take(Some(other)).is_none());
        drop(held);
        drop(its);
        let table = permits.table();
        assert_eq!((table.connections.len(), table.leaving), (0, 0));
    }
}
