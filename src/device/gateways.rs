//! The gateways that one event loop may go to: one, or with failover several in their order.

use std::sync::Arc;
use std::time::Instant;

use crate::device::url::Url;

/// A configured gateway: its URL, and the name of this device there.
#[derive(Debug)]
pub(crate) struct GatewayTarget {
    pub(crate) url: Arc<Url>,
    pub(crate) name: String,
}

/// The gateways that one event loop may use, one at a time, in their order: one, or with failover
/// all.
#[derive(Debug)]
pub(crate) struct GatewayList {
    list: Vec<Entry>,
    current: usize,
}

#[derive(Debug)]
struct Entry {
    pub(super) gateway: Arc<GatewayTarget>,
    /// It must not be dialled before this (`Retry-After`).
    pub(super) not_before: Option<Instant>,
    /// It refused the device permanently.
    pub(super) refused: bool,
}

impl GatewayList {
    /// `gateways` has at least one.
    pub(crate) fn new(gateways: Vec<GatewayTarget>) -> Option<Self> {
        let list: Vec<Entry> = gateways
            .into_iter()
            .map(|gateway| Entry { gateway: Arc::new(gateway), not_before: None, refused: false })
            .collect();
        (!list.is_empty()).then_some(GatewayList { list, current: 0 })
    }

    pub(crate) fn current(&self) -> &Arc<GatewayTarget> {
        &self.list[self.current].gateway
    }

    pub(crate) fn is_current(&self, gateway: &Arc<GatewayTarget>) -> bool {
        Arc::ptr_eq(self.current(), gateway)
    }

    pub(crate) fn any_has_origin(&self, url: &Url) -> bool {
        self.list.iter().any(|entry| entry.gateway.url.same_origin(url))
    }

    pub(crate) fn is_list(&self) -> bool {
        self.list.len() > 1
    }

    /// Makes this gateway the current one.
    pub(crate) fn choose(&mut self, gateway: &Arc<GatewayTarget>) {
        self.current = self.place(gateway).unwrap_or(self.current);
    }

    /// Forgets all `Retry-After` times.
    pub(crate) fn hurry(&mut self) {
        self.list.iter_mut().for_each(|entry| entry.not_before = None);
    }

    /// The gateway will not be dialled before `at`, or never if it `refused` permanently.
    pub(crate) fn rest(
        &mut self,
        gateway: &Arc<GatewayTarget>,
        at: Option<Instant>,
        refused: bool,
    ) {
        if let Some(place) = self.place(gateway) {
            let entry = &mut self.list[place];
            entry.not_before = at.max(entry.not_before);
            entry.refused |= refused;
        }
    }

    pub(crate) fn all_refused(&self) -> bool {
        self.list.iter().all(|entry| entry.refused)
    }

    /// Moves on to the next gateway that may be dialled at `now`. Returns false if there is none
    /// after the current one.
    pub(crate) fn advance(&mut self, now: Instant) -> bool {
        match (self.current + 1..self.list.len()).find(|place| self.list[*place].may(now)) {
            Some(place) => self.current = place,
            None => return false,
        }
        true
    }

    /// Begins again with the first gateway that may be dialled at `at`, or else with the one that
    /// may be dialled soonest. Returns the time of that dial.
    pub(crate) fn start_over(&mut self, at: Instant) -> Instant {
        let first = (0..self.list.len()).find(|place| self.list[*place].may(at));
        let soonest = || {
            (0..self.list.len())
                .filter(|place| !self.list[*place].refused)
                .min_by_key(|place| self.list[*place].not_before)
        };
        self.current = first.or_else(soonest).unwrap_or(self.current);
        self.list[self.current].not_before.map_or(at, |not_before| not_before.max(at))
    }

    pub(super) fn place(&self, gateway: &Arc<GatewayTarget>) -> Option<usize> {
        self.list.iter().position(|entry| Arc::ptr_eq(&entry.gateway, gateway))
    }
}

impl Entry {
    fn may(&self, at: Instant) -> bool {
        !self.refused && self.not_before.is_none_or(|not_before| not_before <= at)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use std::time::Duration;

    fn gateways(n: usize) -> (GatewayList, Vec<Arc<GatewayTarget>>) {
        let gateway = |n: usize| GatewayTarget {
            url: Arc::new(Url::parse(&format!("http://gw{n}/lamp"), "gateway").unwrap()),
            name: "lamp".to_owned(),
        };
        let gateways = GatewayList::new((0..n).map(gateway).collect()).unwrap();
        let list = gateways.list.iter().map(|entry| entry.gateway.clone()).collect();
        (gateways, list)
    }

    #[test]
    fn a_failovers_list_is_gone_through_in_order_and_begins_again_with_its_first() {
        let now = Instant::now();
        let (mut gateways, list) = gateways(3);
        assert!(
            gateways.is_current(&list[0])
                && gateways.advance(now)
                && gateways.is_current(&list[1])
                && gateways.advance(now)
        );
        assert!(
            gateways.is_current(&list[2])
                && !gateways.advance(now)
                && gateways.is_current(&list[2])
        );
        assert_eq!(gateways.start_over(now), now);
        assert!(gateways.is_current(&list[0]));
        // A gateway with a Retry-After is not dialled.
        let later = now + Duration::from_secs(60);
        gateways.rest(&list[0], Some(later), false);
        gateways.rest(&list[1], Some(now + Duration::from_secs(90)), false);
        assert_eq!(gateways.start_over(now), now);
        assert!(gateways.is_current(&list[2]));
        gateways.rest(&list[2], Some(now + Duration::from_secs(61)), false);
        assert_eq!(gateways.start_over(now), later);
        assert!(gateways.is_current(&list[0]) && !gateways.advance(now));
        // A gateway that refused permanently is not dialled again.
        gateways.rest(&list[0], None, true);
        assert_eq!(gateways.start_over(now), now + Duration::from_secs(61));
        assert!(gateways.is_current(&list[2]) && !gateways.all_refused());
        gateways.hurry();
        assert_eq!(gateways.start_over(now), now);
        assert!(gateways.is_current(&list[1]));
    }
}
