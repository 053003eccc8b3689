//! Permits of connections: they count connections for each address and each side, and
//! unauthenticated ones.
//!
//! A [`Permit`] belongs to one connection and moves with it, also out of the loop. Dropping it
//! returns it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// The number of sides, by which a role distinguishes its listeners' connections.
const SIDES: usize = 2;

/// Counts permits.
#[derive(Clone, Default)]
pub(crate) struct Permits(Arc<Counts>);

#[derive(Default)]
struct Counts {
    of_address: Mutex<HashMap<(IpAddr, usize), usize>>,
    of_side: [AtomicUsize; SIDES],
    unseen: AtomicUsize,
}

/// One connection's permit. It is boxed, because a connection is moved often and admitted once.
#[derive(Default)]
pub(crate) struct Permit {
    /// Held only for its drop.
    _side: Option<Box<OfSide>>,
    unseen: Option<Box<Unseen>>,
}

struct OfAddress(Permits, (IpAddr, usize));

struct OfSide {
    permits: Permits,
    side: usize,
    /// Held only for its drop.
    _address: Option<OfAddress>,
}

struct Unseen {
    permits: Permits,
    /// Held only for its drop.
    _address: Option<OfAddress>,
}

impl Permits {
    /// A permit for a connection from this address on this side. `None` if it has `most` there
    /// already.
    pub(crate) fn take(&self, address: IpAddr, side: usize, most: usize) -> Option<Permit> {
        let address = self.of_address(address, side, most)?;
        Some(self.take_with(side, Some(address)))
    }

    fn take_with(&self, side: usize, address: Option<OfAddress>) -> Permit {
        self.0.of_side[side].fetch_add(1, Relaxed);
        let of_side = OfSide { permits: self.clone(), side, _address: address };
        Permit { _side: Some(Box::new(of_side)), unseen: None }
    }

    fn of_address(&self, address: IpAddr, side: usize, most: usize) -> Option<OfAddress> {
        let address = (household(address), side);
        let mut counts = self.0.of_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= most {
            return None; // it is not 0, so no empty entry is left
        }
        *count += 1;
        drop(counts);
        Some(OfAddress(self.clone(), address))
    }

    /// A permit on this side, however many connections its address has.
    pub(crate) fn take_any(&self, side: usize) -> Permit {
        self.take_with(side, None)
    }

    /// The number of connections on this side.
    pub(crate) fn of_side(&self, side: usize) -> usize {
        self.0.of_side[side].load(Relaxed)
    }

    /// The number of unauthenticated connections.
    pub(crate) fn unseen(&self) -> usize {
        self.0.unseen.load(Relaxed)
    }
}

impl Permit {
    /// A permit that is counted without an address, for a device's connections to its local server.
    pub(crate) fn one(permits: &Permits) -> Self {
        Permit::default().unseen(permits)
    }

    /// The connection counts as unauthenticated until [`seen`](Self::seen).
    pub(crate) fn unseen(mut self, permits: &Permits) -> Self {
        self.unseen = Some(Box::new(Unseen::count(permits, None)));
        self
    }

    /// The same, for a connection from this address. `None` if it has `most` of those already.
    pub(crate) fn unseen_of(
        mut self,
        permits: &Permits,
        address: IpAddr,
        most: usize,
    ) -> Option<Self> {
        let address = permits.of_address(address, 0, most)?;
        self.unseen = Some(Box::new(Unseen::count(permits, Some(address))));
        Some(self)
    }

    pub(crate) fn is_unseen(&self) -> bool {
        self.unseen.is_some()
    }

    pub(crate) fn seen(&mut self) {
        self.unseen = None;
    }
}

impl Unseen {
    fn count(permits: &Permits, address: Option<OfAddress>) -> Self {
        permits.0.unseen.fetch_add(1, Relaxed);
        Unseen { permits: permits.clone(), _address: address }
    }
}

impl Drop for OfAddress {
    fn drop(&mut self) {
        let mut counts = self.0.0.of_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

impl Drop for OfSide {
    fn drop(&mut self) {
        self.permits.0.of_side[self.side].fetch_sub(1, Relaxed);
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        self.permits.0.unseen.fetch_sub(1, Relaxed);
    }
}

/// The address for counting: with IPv6 the /64, because a subscriber has at least a whole one.
pub(crate) fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_permit_is_given_back_when_it_is_dropped() {
        let permits = Permits::default();
        let one: IpAddr = "192.0.2.1".parse().unwrap();
        let (first, second) = (
            permits.take(one, 0, 2).unwrap(),
            permits.take("::ffff:192.0.2.1".parse().unwrap(), 0, 2).unwrap(),
        );
        assert!(
            permits.take(one, 0, 2).is_none()
                && permits.take("192.0.2.2".parse().unwrap(), 0, 2).is_some()
        );
        assert!(permits.take(one, 1, 1).is_some(), "each side has its own");
        assert_eq!((permits.of_side(0), permits.of_side(1)), (2, 0));
        drop(first);
        let mut third = permits.take(one, 0, 2).unwrap().unseen(&permits);
        assert_eq!(permits.unseen(), 1);
        third.seen();
        assert_eq!(permits.unseen(), 0);
        drop((second, third));
        assert!(permits.0.of_address.lock().unwrap().is_empty());
    }

    #[test]
    fn those_who_have_shown_nothing_are_counted_for_their_address_until_they_have() {
        let (permits, strangers) = (Permits::default(), Permits::default());
        let one: IpAddr = "192.0.2.1".parse().unwrap();
        let stranger = |most| permits.take_any(1).unseen_of(&strangers, one, most);
        let mut first = stranger(2).unwrap();
        let _second = stranger(2).unwrap();
        assert!(stranger(2).is_none() && stranger(3).is_some(), "a permit not taken is given back");
        assert_eq!((permits.of_side(1), strangers.unseen(), permits.unseen()), (2, 2, 0));
        first.seen();
        assert!(stranger(2).is_some() && !first.is_unseen());
        assert_eq!((permits.of_side(1), strangers.unseen()), (2, 1), "its side has it still");
        assert!(permits.take(one, 1, 1).is_some(), "it counts for no address there");
    }

    #[test]
    fn one_network_of_ipv6_is_one_address() {
        let permits = Permits::default();
        let _permit = permits.take("2001:db8:0:1::1".parse().unwrap(), 0, 1).unwrap();
        assert!(permits.take("2001:db8:0:1:ffff::2".parse().unwrap(), 0, 1).is_none());
        assert!(permits.take("2001:db8:0:2::1".parse().unwrap(), 0, 1).is_some());
    }
}
