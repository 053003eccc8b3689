//! Other gateways as one loop knows them: the cached locations of devices, the exchanges that wait
//! for a lookup, and the connections to each gateway. Pure data, no socket.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::connections::Id;
use crate::engine::permits::{Permit, Permits};
use crate::engine::slab::Key;
use crate::gateway::peer_url::{Location, PeerUrl};
use crate::gateway::peers::Cluster;
use crate::gateway::setbacks::Setback;
use crate::limits::{PEER_NAMES_MAX, PEER_RECALL, PEERS_MAX};
use crate::observe::cut;

/// Longest reason of a failure that is remembered, in bytes.
const REASON_BYTES_MAX: usize = 200;

/// Most waiting requests that are noted before those that no longer wait are removed.
const IN_LINE_UNCHECKED: usize = 1024;

/// The index of a gateway in its loop's list.
pub(crate) type PeerId = usize;

/// A connection to another gateway.
pub(crate) struct PeerLink {
    pub(super) peer: PeerId,
    pub(super) stage: PeerStage,
}

#[derive(Clone, Copy)]
pub(super) enum PeerStage {
    /// It is being made for this exchange; `address`: the index of the address that is tried.
    Connecting {
        key: Key,
        address: usize,
    },
    /// Its TLS handshake is in progress.
    Securing {
        key: Key,
        address: usize,
    },
    Busy {
        key: Key,
    },
    /// It carries a probe.
    Probing {
        key: Key,
    },
    Idle,
}

/// Whether a gateway is known to be alive.
#[derive(Default)]
struct Pulse {
    /// A check is due later, or a probe is in progress.
    is_watched: bool,
    /// When it last answered a probe.
    heard: Option<Instant>,
    hangs: bool,
    /// There was a request for it since it was last found to hang.
    is_wanted: bool,
}

/// The result of a check of a gateway.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Check {
    Nothing,
    Later(Instant),
    Probe,
}

/// The cached location of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    At(PeerId),
    /// No other gateway has it; cached until then.
    Nowhere(Instant),
}

struct Peer {
    url: PeerUrl,
    addresses: Vec<SocketAddr>,
    /// Idle connections, the newest last.
    idle: Vec<Id>,
    /// The permits of all connections.
    open: Permits,
    counts: PeerCounts,
    pulse: Pulse,
}

/// Counts of the requests to a gateway.
#[derive(Default)]
struct PeerCounts {
    sent: u64,
    answered: u64,
    failures: u64,
    last_answer: Option<Instant>,
    last_failure: Option<(Instant, Box<str>)>,
}

/// The requests of another gateway that this one has served.
struct Served {
    requests: u64,
    last: Instant,
}

/// A gateway as an operator sees it: for one loop, or for all.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "admin"), allow(dead_code, reason = "nobody asks"))]
pub(crate) struct PeerRow {
    pub(crate) url: Arc<str>,
    /// Connections to it, those in the making included.
    pub(crate) open: usize,
    pub(crate) idle: usize,
    /// Requests that were sent to it.
    pub(crate) sent: u64,
    /// Those that it, or its device, answered to the end.
    pub(crate) answered: u64,
    pub(crate) failures: u64,
    /// How long ago.
    pub(crate) last_answer: Option<Duration>,
    pub(crate) last_failure: Option<(Duration, Box<str>)>,
    /// It accepted a request, and has not answered a probe since.
    pub(crate) hangs: bool,
    /// Its requests that were served here, if it sends its URL.
    pub(crate) served: u64,
    /// How long ago.
    pub(crate) last_served: Option<Duration>,
}

impl PeerRow {
    fn of(url: Arc<str>) -> Self {
        PeerRow {
            url,
            open: 0,
            idle: 0,
            sent: 0,
            answered: 0,
            failures: 0,
            last_answer: None,
            last_failure: None,
            hangs: false,
            served: 0,
            last_served: None,
        }
    }

    /// Whether it can be reached, as one word, by its last result.
    #[cfg_attr(not(feature = "admin"), allow(dead_code, reason = "nobody asks"))]
    pub(crate) fn state(&self) -> &'static str {
        match (&self.last_failure, self.last_answer) {
            _ if self.hangs => "hangs",
            (Some((failed, _)), answered) if answered.is_none_or(|ago| *failed <= ago) => "fails",
            (_, Some(_)) => "answers",
            (_, None) => "unused",
        }
    }

    /// Adds the counts of another loop for the same gateway.
    #[cfg_attr(not(feature = "admin"), allow(dead_code, reason = "nobody asks"))]
    pub(crate) fn add(&mut self, other: PeerRow) {
        self.open += other.open;
        self.idle += other.idle;
        self.sent += other.sent;
        self.answered += other.answered;
        self.failures += other.failures;
        self.last_answer = [self.last_answer, other.last_answer].into_iter().flatten().min();
        let failures = [self.last_failure.take(), other.last_failure];
        self.last_failure = failures.into_iter().flatten().min_by_key(|(ago, _)| *ago);
        self.hangs |= other.hangs;
        self.served += other.served;
        self.last_served = [self.last_served, other.last_served].into_iter().flatten().min();
    }
}

pub(crate) struct PeerTable {
    pub(super) cluster: Arc<Cluster>,
    names: HashMap<Box<str>, Name>,
    /// Lookups in progress.
    asked: HashMap<Box<str>, LookUp>,
    in_line: InLine,
    peers: Vec<Peer>,
    /// The key is the URL of the asking gateway.
    served: HashMap<Arc<str>, Served>,
}

/// The cached state of a name.
#[derive(Default)]
struct Name {
    heard: Option<Heard>,
    /// When another gateway was last believed to have it.
    last: Option<Instant>,
}

impl Name {
    fn is_at(&self) -> bool {
        matches!(self.heard, Some(Heard::At(_)))
    }

    fn set(&mut self, heard: Option<Heard>, now: Instant) {
        if self.is_at() {
            self.last = Some(now);
        }
        self.heard = heard;
    }
}

/// A lookup in progress, and the requests that wait for it.
#[derive(Default)]
pub(super) struct LookUp {
    pub(super) waiters: Vec<(Id, Key)>,
    /// The directory has changed since it was asked: its answer may be outdated.
    pub(super) outdated: bool,
}

/// Requests that wait for a device which may connect to another gateway; they are woken when it
/// does. One that no longer waits is removed later.
#[derive(Default)]
struct InLine {
    by_name: BTreeMap<Box<str>, Vec<(Id, Key)>>,
    len: usize,
    /// When there are as many, those that no longer wait are removed.
    most: usize,
}

impl PeerTable {
    pub(super) fn new(cluster: Arc<Cluster>) -> Self {
        PeerTable {
            cluster,
            names: HashMap::new(),
            asked: HashMap::new(),
            in_line: InLine::default(),
            peers: Vec::new(),
            served: HashMap::new(),
        }
    }

    /// The cached location of a name.
    pub(super) fn heard(&self, name: &str, now: Instant) -> Option<Heard> {
        let heard = self.names.get(name)?.heard?;
        (!matches!(heard, Heard::Nowhere(until) if until <= now)).then_some(heard)
    }

    /// A request waits for an answer of the directory. `Some(true)`: the directory has to be asked;
    /// `None`: too many requests wait.
    pub(super) fn ask(&mut self, name: &str, waiter: (Id, Key), most: usize) -> Option<bool> {
        if let Some(LookUp { waiters, .. }) = self.asked.get_mut(name) {
            if waiters.len() >= most {
                return None;
            }
            waiters.push(waiter);
            return Some(false);
        }
        self.asked.insert(name.into(), LookUp { waiters: vec![waiter], outdated: false });
        Some(true)
    }

    /// Takes the lookup of a name.
    pub(super) fn told(&mut self, name: &str) -> LookUp {
        self.asked.remove(name).unwrap_or_default()
    }

    /// A request waits for its device. `is_there` says whether another one still does.
    pub(super) fn line_up(
        &mut self,
        name: &str,
        waiter: (Id, Key),
        is_there: impl Fn((Id, Key)) -> bool,
    ) {
        let line = &mut self.in_line;
        if line.len >= line.most {
            line.by_name.retain(|_, waiters| {
                waiters.retain(|waiter| is_there(*waiter));
                !waiters.is_empty()
            });
            line.len = line.by_name.values().map(Vec::len).sum();
            line.most = (2 * line.len).max(IN_LINE_UNCHECKED);
        }
        line.by_name.entry(name.into()).or_default().push(waiter);
        line.len += 1;
    }

    /// Takes the requests that wait for a name, or for any; some may no longer wait.
    pub(super) fn take_line(&mut self, name: Option<&str>) -> Vec<(Id, Key)> {
        let line = &mut self.in_line;
        let taken = match name {
            Some(name) => line.by_name.remove(name).unwrap_or_default(),
            None => std::mem::take(&mut line.by_name).into_values().flatten().collect(),
        };
        line.len -= taken.len();
        taken
    }

    /// Caches an answer of the directory. If there is no room for another gateway, it counts as
    /// none.
    pub(super) fn learn(&mut self, name: &str, location: Option<Location>, now: Instant) -> Heard {
        let place = location.and_then(|location| self.place(location));
        let heard = place.map_or(Heard::Nowhere(now + PEER_RECALL), Heard::At);
        self.note(name, heard, now);
        heard
    }

    fn note(&mut self, name: &str, heard: Heard, now: Instant) {
        // All of it can be looked up again. Names without a gateway are removed first: any visitor
        // can make them up, and must not cause new lookups for all other devices.
        if self.names.len() >= PEER_NAMES_MAX && !self.names.contains_key(name) {
            self.names.retain(|_, name| name.is_at());
            if self.names.len() > PEER_NAMES_MAX / 2 {
                self.names.clear();
            }
        }
        self.names.entry(name.into()).or_default().set(Some(heard), now);
    }

    /// How long ago another gateway was last believed to have a device; `None`: never, or longer
    /// ago than `most`.
    pub(super) fn last(&self, name: &str, now: Instant, most: Duration) -> Option<Duration> {
        let at = match self.names.get(name)? {
            Name { heard: Some(Heard::At(_)), .. } => now,
            name => name.last?,
        };
        Some(now.saturating_duration_since(at)).filter(|ago| *ago < most)
    }

    fn place(&mut self, location: Location) -> Option<PeerId> {
        let Location { url, addresses } = location;
        if let Some(known) = self.peers.iter().position(|peer| peer.url == url) {
            self.peers[known].addresses = addresses;
            return Some(known);
        }
        let (open, counts) = (Permits::default(), PeerCounts::default());
        let pulse = Pulse::default();
        let peer = Peer { url, addresses, idle: Vec::new(), open, counts, pulse };
        if self.peers.len() < PEERS_MAX {
            self.peers.push(peer);
            return Some(self.peers.len() - 1);
        }
        // One without connections is replaced.
        let unused = self.peers.iter().position(|peer| peer.open.unseen() == 0)?;
        self.names.retain(|_, name| name.heard != Some(Heard::At(unused)));
        self.peers[unused] = peer;
        Some(unused)
    }

    /// A gateway does not have the device, or could not be reached: it is not looked up again until
    /// then.
    pub(super) fn is_nowhere(&mut self, name: &str, until: Instant, now: Instant) {
        self.note(name, Heard::Nowhere(until), now);
    }

    /// The same, for a gateway that has never had the device.
    pub(super) fn was_never_there(&mut self, name: &str, until: Instant) {
        self.note(name, Heard::Nowhere(until), until);
        self.names.get_mut(name).into_iter().for_each(|name| name.last = None);
    }

    /// Forgets the cached location of a name.
    pub(super) fn forget(&mut self, name: &str, now: Instant) {
        if let Some(name) = self.names.get_mut(name) {
            name.set(None, now);
        }
        if let Some(asked) = self.asked.get_mut(name) {
            asked.outdated = true;
        }
    }

    /// The same, unless the cached location is this gateway.
    pub(super) fn forget_unless_at(&mut self, name: &str, gateway: &str, now: Instant) {
        let url = match self.heard(name, now) {
            Some(Heard::At(peer)) => self.url(peer),
            _ => None,
        };
        if url.is_none_or(|url| *url.text != *gateway) {
            self.forget(name, now);
        }
    }

    /// Forgets all cached locations.
    pub(super) fn forget_all(&mut self, now: Instant) {
        self.names.retain(|_, name| {
            name.set(None, now);
            name.last.is_some()
        });
        self.asked.values_mut().for_each(|asked| asked.outdated = true);
    }

    /// A gateway did not serve a request.
    pub(super) fn note_setback(&self, peer: PeerId, setback: Setback) {
        if let Some(url) = self.url(peer) {
            self.cluster.note_setback(url, setback);
        }
    }

    pub(super) fn url(&self, peer: PeerId) -> Option<&PeerUrl> {
        self.peers.get(peer).map(|peer| &peer.url)
    }

    pub(super) fn address(&self, peer: PeerId, place: usize) -> Option<SocketAddr> {
        self.peers.get(peer)?.addresses.get(place).copied()
    }

    /// The permit for another connection; `None`: there are as many as are allowed.
    pub(super) fn permit(&self, peer: PeerId, most: usize) -> Option<Permit> {
        let peer = self.peers.get(peer)?;
        (peer.open.unseen() < most).then(|| Permit::one(&peer.open))
    }

    pub(super) fn take_idle(&mut self, peer: PeerId) -> Option<Id> {
        self.peers.get_mut(peer)?.idle.pop()
    }

    /// A connection is idle. Returns false if there are as many as are allowed.
    pub(super) fn put_idle(&mut self, peer: PeerId, id: Id, most: usize) -> bool {
        let Some(peer) = self.peers.get_mut(peer).filter(|peer| peer.idle.len() < most) else {
            return false;
        };
        peer.idle.push(id);
        true
    }

    /// A connection was closed.
    pub(super) fn drop_idle(&mut self, peer: PeerId, id: Id) {
        self.peers.get_mut(peer).into_iter().for_each(|peer| peer.idle.retain(|idle| *idle != id));
    }

    /// A request was sent to a gateway. Returns true if no check of it is due yet.
    pub(super) fn watch(&mut self, peer: PeerId) -> bool {
        let pulse = self.peers.get_mut(peer).map(|peer| &mut peer.pulse);
        pulse.is_some_and(|pulse| !std::mem::replace(&mut pulse.is_watched, true))
    }

    /// Returns true if a gateway was found to hang, and has answered no probe since. Notes that
    /// there is a request for it.
    pub(super) fn hangs(&mut self, peer: PeerId) -> bool {
        let pulse = self.peers.get_mut(peer).map(|peer| &mut peer.pulse);
        pulse.is_some_and(|pulse| {
            pulse.is_wanted = true;
            pulse.hangs
        })
    }

    /// Decides what to do about a gateway. `oldest`: since when it owes a response.
    pub(super) fn check(
        &mut self,
        peer: PeerId,
        oldest: Option<Instant>,
        now: Instant,
        wait: Duration,
    ) -> Check {
        let Some(Peer { pulse, .. }) = self.peers.get_mut(peer) else { return Check::Nothing };
        if wait.is_zero() {
            *pulse = Pulse::default(); // the limit was set to zero meanwhile: it is not probed
            return Check::Nothing;
        }
        let since = oldest.map(|oldest| pulse.heard.map_or(oldest, |heard| heard.max(oldest)));
        let check = match since {
            _ if pulse.hangs && pulse.is_wanted => Check::Probe,
            Some(since) if since + wait <= now => Check::Probe,
            Some(since) => Check::Later(since + wait),
            None => Check::Nothing,
        };
        pulse.hangs &= check == Check::Probe; // otherwise the next request finds out
        pulse.is_watched = check != Check::Nothing;
        check
    }

    /// A gateway has answered a probe, or has not. It is checked again later. Returns true if it
    /// was known to hang.
    pub(super) fn probed(&mut self, peer: PeerId, lives: bool, now: Instant) -> bool {
        let Some(Peer { pulse, .. }) = self.peers.get_mut(peer) else { return false };
        pulse.is_wanted &= lives;
        pulse.heard = pulse.heard.filter(|_| !lives).or(lives.then_some(now));
        std::mem::replace(&mut pulse.hangs, !lives)
    }

    /// A request is sent to a gateway.
    pub(super) fn count_sent(&mut self, peer: PeerId) {
        self.peers.get_mut(peer).into_iter().for_each(|peer| peer.counts.sent += 1);
    }

    /// A gateway has answered.
    pub(super) fn count_answered(&mut self, peer: PeerId, now: Instant) {
        let Some(Peer { counts, .. }) = self.peers.get_mut(peer) else { return };
        counts.answered += 1;
        counts.last_answer = Some(now);
    }

    /// A request to a gateway has failed: it could not be reached, or its answer was cut.
    pub(super) fn count_failure(&mut self, peer: PeerId, now: Instant, why: &str) {
        let Some(Peer { counts, .. }) = self.peers.get_mut(peer) else { return };
        counts.failures += 1;
        counts.last_failure = Some((now, cut(why, REASON_BYTES_MAX)));
    }

    /// The known gateways, for an operator.
    pub(super) fn rows(&self, now: Instant) -> Vec<PeerRow> {
        let ago = |at: Instant| now.saturating_duration_since(at);
        let row = |Peer { url, idle, open, counts, pulse, .. }: &Peer| PeerRow {
            open: open.unseen(),
            idle: idle.len(),
            sent: counts.sent,
            answered: counts.answered,
            failures: counts.failures,
            last_answer: counts.last_answer.map(ago),
            last_failure: counts.last_failure.as_ref().map(|(at, why)| (ago(*at), why.clone())),
            hangs: pulse.hangs,
            ..PeerRow::of(url.text.clone())
        };
        let served = |(url, served): (&Arc<str>, &Served)| PeerRow {
            served: served.requests,
            last_served: Some(ago(served.last)),
            ..PeerRow::of(url.clone())
        };
        // Counts of one gateway are added up, as are those of several loops.
        self.peers.iter().map(row).chain(self.served.iter().map(served)).collect()
    }

    /// Counts a served request of another gateway, which has sent this URL as its own. Anyone with
    /// the secret may send any URL, so their number has a bound.
    pub(super) fn count_served(&mut self, gateway: &str, now: Instant) {
        let is_full = self.served.len() >= PEERS_MAX;
        let served = match self.served.get_mut(gateway) {
            Some(served) => served,
            None if is_full => return,
            None => {
                let Ok(url) = PeerUrl::parse(gateway) else { return };
                self.served.entry(url.text).or_insert(Served { requests: 0, last: now })
            }
        };
        served.requests += 1;
        served.last = now;
    }

    /// Every idle connection.
    pub(super) fn take_all_idle(&mut self) -> Vec<Id> {
        self.peers.iter_mut().flat_map(|peer| std::mem::take(&mut peer.idle)).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::gateway::peers::Peers;
    use crate::limits::Limits;

    #[test]
    fn that_a_device_is_where_it_was_changes_nothing() {
        let peers = Peers::found_by(|_| Ok(None));
        let mut table = PeerTable::new(Arc::new(Cluster::new(peers, &Limits::default(), false)));
        let now = Instant::now();
        let at = |url: &str| Location { url: PeerUrl::parse(url).unwrap(), addresses: Vec::new() };
        let heard = table.learn("lamp", Some(at("http://a:1")), now);
        table.forget_unless_at("lamp", "http://a:1", now);
        assert_eq!(table.heard("lamp", now), Some(heard));
        table.forget_unless_at("lamp", "http://b:1", now);
        assert_eq!(table.heard("lamp", now), None);
        table.is_nowhere("lamp", now + std::time::Duration::from_secs(1), now);
        table.forget_unless_at("lamp", "http://a:1", now);
        assert_eq!(table.heard("lamp", now), None);
    }

    #[test]
    fn a_gateway_that_owes_a_response_is_asked_and_one_that_hangs_is_asked_while_it_is_wanted() {
        let peers = Peers::found_by(|_| Ok(None));
        let mut table = PeerTable::new(Arc::new(Cluster::new(peers, &Limits::default(), false)));
        let (start, wait) = (Instant::now(), Duration::from_secs(5));
        let at = |seconds| start + Duration::from_secs(seconds);
        let url = PeerUrl::parse("http://a:1").unwrap();
        table.learn("lamp", Some(Location { url, addresses: Vec::new() }), start);
        assert!(table.watch(0) && !table.watch(0), "one looks after it");
        assert_eq!(table.check(0, None, at(5), wait), Check::Nothing);
        assert!(table.watch(0));
        assert_eq!(table.check(0, Some(at(3)), at(5), wait), Check::Later(at(8)));
        assert!(!table.watch(0));
        assert_eq!(table.check(0, Some(at(3)), at(8), wait), Check::Probe);
        assert!(!table.watch(0) && !table.probed(0, true, at(9)) && !table.hangs(0));
        assert_eq!(table.check(0, Some(at(3)), at(13), wait), Check::Later(at(14)), "it lived");
        assert_eq!(table.check(0, Some(at(3)), at(14), wait), Check::Probe);
        assert!(!table.probed(0, false, at(19)), "that it hangs is new");
        assert!(table.hangs(0), "and it is wanted");
        assert_eq!(table.check(0, None, at(24), wait), Check::Probe);
        assert!(table.probed(0, false, at(29)));
        assert_eq!(table.check(0, None, at(34), wait), Check::Nothing, "it was not wanted");
        assert!(!table.hangs(0) && table.watch(0), "the next request finds out");
        assert!(!table.probed(0, false, at(40)) && table.hangs(0));
        assert!(table.probed(0, true, at(41)) && !table.hangs(0), "it answers again");
        // The limit is set to zero while it hangs: it is not probed any more, and is tried again.
        assert!(!table.probed(0, false, at(50)) && table.hangs(0));
        assert_eq!(table.check(0, Some(at(40)), at(55), Duration::ZERO), Check::Nothing);
        assert!(!table.hangs(0) && table.watch(0));
    }

    #[test]
    fn what_came_last_says_whether_a_gateway_can_be_reached() {
        let peers = Peers::found_by(|_| Ok(None));
        let mut table = PeerTable::new(Arc::new(Cluster::new(peers, &Limits::default(), false)));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let url = PeerUrl::parse("http://a:1").unwrap();
        table.learn("lamp", Some(Location { url, addresses: Vec::new() }), start);
        let state = |table: &PeerTable| table.rows(at(9))[0].state();
        assert_eq!(state(&table), "unused");
        table.count_failure(0, at(1), "refused");
        assert_eq!(state(&table), "fails");
        table.count_answered(0, at(2));
        assert_eq!(state(&table), "answers");
        table.count_failure(0, at(3), "refused");
        assert_eq!(state(&table), "fails");
        assert!(!table.probed(0, false, at(4)));
        table.count_answered(0, at(5));
        assert_eq!(state(&table), "hangs", "until it gives a sign of life");
        assert!(table.probed(0, true, at(6)));
        assert_eq!(state(&table), "answers");
    }

    #[test]
    fn gateways_that_ask_are_counted_by_their_urls_and_made_up_ones_take_no_room() {
        let peers = Peers::found_by(|_| Ok(None));
        let mut table = PeerTable::new(Arc::new(Cluster::new(peers, &Limits::default(), false)));
        let now = Instant::now();
        for url in ["http://a:1", "http://A:1/", "http://a:1", "nonsense", "http://a/path"] {
            table.count_served(url, now);
        }
        let rows = table.rows(now);
        assert_eq!((rows.len(), rows[0].served, &*rows[0].url), (1, 3, "http://a:1"));
        (0..PEERS_MAX * 2).for_each(|n| table.count_served(&format!("http://x{n}:1"), now));
        assert_eq!(table.rows(now).len(), PEERS_MAX);
        table.count_served("http://a:1", now);
        let mut rows = table.rows(now).into_iter();
        assert_eq!(rows.find(|row| &*row.url == "http://a:1").unwrap().served, 4);
    }

    #[test]
    fn requests_in_line_are_taken_by_name_and_those_that_left_do_not_pile_up() {
        let peers = Peers::found_by(|_| Ok(None));
        let mut table = PeerTable::new(Arc::new(Cluster::new(peers, &Limits::default(), false)));
        let mut keys = crate::engine::slab::Slab::new();
        let mut waiter = || (keys.insert(()), keys.insert(()));
        let (lamp, door) = (waiter(), waiter());
        table.line_up("lamp", lamp, |_| true);
        table.line_up("door", door, |_| true);
        assert_eq!(
            (table.take_line(Some("lamp")), table.take_line(Some("lamp"))),
            (vec![lamp], vec![])
        );
        for _ in 0..IN_LINE_UNCHECKED * 3 {
            let gone = waiter();
            table.line_up("door", gone, |one| one == door);
            assert!(table.in_line.len <= IN_LINE_UNCHECKED + 1);
        }
        assert!(table.take_line(None).contains(&door));
        assert_eq!((table.take_line(None), table.in_line.len), (vec![], 0));
    }

    #[test]
    fn names_that_are_made_up_push_out_no_device() {
        let peers = Peers::found_by(|_| Ok(None));
        let mut table = PeerTable::new(Arc::new(Cluster::new(peers, &Limits::default(), false)));
        let now = Instant::now();
        table.note("lamp", Heard::At(0), now);
        (0..PEER_NAMES_MAX * 2).for_each(|n| table.is_nowhere(&format!("n{n}"), now, now));
        assert_eq!(table.heard("lamp", now), Some(Heard::At(0)));
        assert!(table.names.len() <= PEER_NAMES_MAX);
        // If there are too many names that gateways have, all are looked up again.
        (0..PEER_NAMES_MAX).for_each(|n| table.note(&format!("d{n}"), Heard::At(0), now));
        assert!(table.names.len() <= PEER_NAMES_MAX && table.heard("lamp", now).is_none());
    }
}
