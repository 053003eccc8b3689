//! Requests for devices that are connected to other gateways: how these are found, and the
//! connections to them.
//!
//! ```text
//!   no link here ─► heard of? ─┬─ at a gateway ─► an idle connection, or a new one ─► relayed, as to a link ─► idle
//!        ▲                     ├─ nowhere ─► waits here, and is asked again each second
//!        │                     └─ no ─► the directory, on a thread of its own
//!        └── that gateway does not have it (any more), or cannot be reached ◄──┘
//! ```
//! A link here takes precedence over a cached location. Requests of another gateway are never
//! forwarded to a third, so they do not reach this code.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::{Key, Slab};
use crate::gateway::alarms::Alarm;
use crate::gateway::bounds::Bound;
use crate::gateway::follow_ups::FollowUp;
use crate::gateway::mismatches::Mismatch;
use crate::gateway::peer_table::{Heard, LookUp, PeerId, PeerLink, PeerStage, PeerTable};
use crate::gateway::peers::{Located, NotLocated};
use crate::gateway::registry::Waiter;
use crate::gateway::setbacks::Setback;
use crate::gateway::state::{Asking, Command, GatewayRole, Obstacle, Search, Stage, State, States};
use crate::limits::{PEER_ATTEMPT, PEER_GRACE, PEER_IDLE_MAX, PEER_RECALL};
use crate::proto::peer::Miss;
use crate::relay::{self, Exchange, LocalAnswer};
use crate::stream::{HandshakeError, Stream, TlsSession};

const LATE: &str = "it did not answer within directory_timeout";
const SPENT: &str = "the gateway that was asked does not have the device any more, and more of the request's body was on its way than is kept (64 KiB); send it again";
const CAME_HERE: &str = "the device has meanwhile connected to another event loop of this gateway; send the request again";
const PEER_FULL: &str = "as many requests as may be are with the gateway that has the device";

impl GatewayRole {
    /// Looks for a device without a free link here at other gateways, if there are any; otherwise
    /// the request waits.
    pub(super) fn seek(&mut self, cx: &mut Connections<State>, id: Id, key: Key) {
        let Some(peers) = &self.peers else { return self.wait_in_line(cx, id, key) };
        let Some(Asking { name, source, .. }) = cx.asking(id) else { return };
        if source.is_peer() {
            return self.wait_in_line(cx, id, key);
        }
        let is_here = self.registry.is_connected_anywhere(name);
        match peers.heard(name, cx.now()) {
            _ if is_here => self.await_device(cx, id, key),
            Some(Heard::At(peer)) => self.ask_peer(cx, (id, key), peer),
            Some(Heard::Nowhere(_)) => self.await_device(cx, id, key),
            None => self.ask_directory(cx, id, key),
        }
    }

    /// Queues a request here, for as long as it may wait in total; meanwhile its device is looked
    /// up elsewhere.
    fn await_device(&mut self, cx: &mut Connections<State>, id: Id, key: Key) {
        let (now, until) = (cx.now(), cx.after(self.waits(key).link.time));
        let Some(Asking { name, search, .. }) = cx.asking_mut(id) else { return };
        let until = *search.until.get_or_insert(until);
        search.stage = Stage::InLine;
        let name = name.clone();
        // The queue is at the loop that owns the name, and a request that has begun is not moved
        // there. So a request of another loop waits by itself.
        match self.registry.elsewhere(&name) {
            None => self.wait_in_line(cx, id, key),
            Some(_) if self.registry.is_connected_anywhere(&name) => {
                self.refuse_search(cx, (id, key), "destination_unavailable", CAME_HERE);
            }
            Some(_) => {}
        }
        if self.search_of(cx, id, key).is_none() {
            return; // it was refused
        }
        if until <= now {
            return self.wait_is_over(cx, id, key);
        }
        let at = until.min(cx.after(PEER_RECALL));
        cx.set_deadline(id, Some(at));
        self.line_up(cx, &name, (id, key));
    }

    /// Notes a waiting request, to be woken when another gateway gets its device.
    pub(super) fn line_up(&mut self, cx: &mut Connections<State>, name: &str, waiter: (Id, Key)) {
        let Some(Asking { search, .. }) = cx.asking_mut(waiter.0) else { return };
        if std::mem::replace(&mut search.is_lined_up, true) {
            return;
        }
        let (cx, exchanges) = (&*cx, &self.exchanges);
        let is_there = |(id, key)| search_of(exchanges, cx, id, key).is_some();
        if let Some(peers) = &mut self.peers {
            peers.line_up(name, waiter, is_there);
        }
    }

    /// The progress of a request that has no connection yet.
    fn search_of(&self, cx: &Connections<State>, id: Id, key: Key) -> Option<Search> {
        search_of(&self.exchanges, cx, id, key)
    }

    pub(super) fn is_in_line(&self, cx: &Connections<State>, id: Id, key: Key) -> bool {
        self.search_of(cx, id, key).is_some_and(|search| search.stage == Stage::InLine)
    }

    fn set_stage(&self, cx: &mut Connections<State>, id: Id, stage: Stage) {
        if let Some(Asking { search, .. }) = cx.asking_mut(id) {
            search.stage = stage;
        }
    }

    /// The deadline of a request that waits for a connection has passed.
    pub(super) fn seek_expired(&mut self, cx: &mut Connections<State>, id: Id, key: Key) {
        let Some(search) = self.search_of(cx, id, key) else { return };
        match search.stage {
            Stage::Here | Stage::Connecting => self.visitor_waited(cx, id, key),
            Stage::Asked => {
                self.log_directory_late(cx, id);
                self.give_up_directory(cx, id, key, Obstacle::DirectoryLate);
            }
            Stage::InLine if search.until.is_none_or(|until| until <= cx.now()) => {
                self.wait_is_over(cx, id, key)
            }
            Stage::InLine => self.seek_again(cx, id, key),
        }
    }

    fn log_directory_late(&self, cx: &Connections<State>, id: Id) {
        let Some(Asking { name, .. }) = cx.asking(id) else { return };
        let time = self.settings.limits.directory_timeout;
        if let Some(peers) = &self.peers {
            peers.cluster.note(Some(LATE));
        }
        log_names!(
            Warn,
            "the directory of gateways did not say where {name} is within {time:?} (directory_timeout)"
        );
    }

    /// Asks the directory again for a request that still waits.
    pub(super) fn seek_again(&mut self, cx: &mut Connections<State>, id: Id, key: Key) {
        let until = cx.asking(id).and_then(|asking| asking.search.until);
        let at = cx.after(PEER_RECALL);
        cx.set_deadline(id, Some(until.map_or(at, |until| at.min(until))));
        let Some(Asking { name, .. }) = cx.asking(id) else { return };
        let name = name.clone();
        let is_here = self.registry.is_connected_anywhere(&name);
        let heard = self.peers.as_ref().and_then(|peers| peers.heard(&name, cx.now()));
        match heard {
            _ if is_here && self.registry.elsewhere(&name).is_some() => {
                self.refuse_search(cx, (id, key), "destination_unavailable", CAME_HERE);
            }
            _ if is_here => {}
            Some(Heard::At(peer)) => {
                self.registry.cancel_wait(&name, Waiter::Exchange(key));
                self.ask_peer(cx, (id, key), peer);
            }
            Some(Heard::Nowhere(_)) => {}
            None => drop(self.begin_lookup(cx, &name, (id, key))),
        }
    }

    /// The time that a request may wait for its device has passed.
    fn wait_is_over(&mut self, cx: &mut Connections<State>, id: Id, key: Key) {
        let Some(Asking { name, search, .. }) = cx.asking(id) else { return };
        let obstacle = search.obstacle.filter(|_| !self.registry.is_connected_anywhere(name));
        let Some(why) = obstacle else { return self.visitor_waited(cx, id, key) };
        let name = name.clone();
        self.registry.cancel_wait(&name, Waiter::Exchange(key));
        self.refuse_search(cx, (id, key), "destination_unavailable", why.text());
    }

    fn refuse_search(
        &mut self,
        cx: &mut Connections<State>,
        (id, key): (Id, Key),
        error: &'static str,
        reason: &str,
    ) {
        let answer = LocalAnswer { retry_after: Some(1), ..LocalAnswer::new(503, reason) };
        self.give_up(cx, id, key, &LocalAnswer { error: Some(error), ..answer });
    }

    fn ask_directory(&mut self, cx: &mut Connections<State>, id: Id, key: Key) {
        let Some(Asking { name, .. }) = cx.asking(id) else { return };
        let name = name.clone();
        self.set_stage(cx, id, Stage::Asked);
        let at = cx.after(self.settings.limits.directory_timeout);
        cx.set_deadline(id, Some(at));
        if !self.begin_lookup(cx, &name, (id, key)) {
            self.give_up_directory(cx, id, key, Obstacle::DirectoryBusy);
        }
    }

    /// Starts a lookup in the directory, unless one is in progress. Returns false if too many
    /// wait.
    fn begin_lookup(&mut self, cx: &mut Connections<State>, name: &str, waiter: (Id, Key)) -> bool {
        let most = self.settings.limits.waiting_per_device_max;
        let Some(peers) = &mut self.peers else { return false };
        let Some(Asking { search, visitor, .. }) = cx.asking_mut(waiter.0) else { return false };
        let visitor = *visitor;
        if search.in_lookup {
            return true;
        }
        search.in_lookup = match peers.ask(name, waiter, most) {
            None => false,
            Some(false) => true,
            Some(true) => {
                let (remote, of) = (self.remote.clone(), name.into());
                let tell = move |found| {
                    remote.send(Command::Located { name: of, found });
                };
                let begun = peers.cluster.locate(name, visitor, tell);
                if !begun {
                    drop(peers.told(name));
                }
                begun
            }
        };
        search.in_lookup
    }

    /// The directory has answered where a device is, or has failed.
    pub(super) fn located(&mut self, cx: &mut Connections<State>, name: &str, found: Located) {
        let now = cx.now();
        let Some(peers) = &mut self.peers else { return };
        let LookUp { waiters, outdated } = peers.told(name);
        for (id, key) in &waiters {
            if let Some(asking) = cx.asking_mut(*id).filter(|asking| asking.key == *key) {
                asking.search.in_lookup = false;
            }
        }
        if outdated {
            // The answer is outdated: the directory is asked again, within the time that the
            // requests have left.
            for waiter in waiters {
                self.begin_lookup(cx, name, waiter);
            }
            return;
        }
        let heard = match found {
            Ok(location) => Ok(peers.learn(name, location, now)),
            Err(NotLocated::Busy) => Err(Obstacle::DirectoryBusy),
            Err(NotLocated::Failed(why)) => {
                log_names!(Warn, "the directory of gateways cannot say where {name} is: {why}");
                Err(Obstacle::DirectoryAway)
            }
        };
        for (id, key) in waiters {
            let stage = match self.search_of(cx, id, key) {
                Some(Search { stage: stage @ (Stage::Asked | Stage::InLine), .. }) => stage,
                _ => continue,
            };
            if let Some(Asking { search, .. }) = cx.asking_mut(id) {
                match heard {
                    Ok(_) => {
                        search.obstacle = search.obstacle.filter(|why| *why == Obstacle::Unreached)
                    }
                    Err(why) => search.obstacle = search.obstacle.or(Some(why)),
                }
            }
            match (heard, stage) {
                // It may have connected here meanwhile.
                (Ok(_), Stage::Asked) => {
                    self.follow_ups.push_back(FollowUp::FindLink { visitor: id, key });
                }
                (Ok(Heard::At(peer)), _) if !self.registry.is_connected_anywhere(name) => {
                    self.registry.cancel_wait(name, Waiter::Exchange(key));
                    self.ask_peer(cx, (id, key), peer);
                }
                (Err(why), Stage::Asked) => self.give_up_directory(cx, id, key, why),
                _ => {}
            }
        }
    }

    /// Without the directory, only a device that was connected here, or is expected here, is worth
    /// waiting for.
    fn give_up_directory(&mut self, cx: &mut Connections<State>, id: Id, key: Key, why: Obstacle) {
        let Some(Asking { name, search, .. }) = cx.asking_mut(id) else { return };
        search.obstacle = Some(why);
        if self.registry.is_connected_anywhere(name) {
            return self.follow_ups.push_back(FollowUp::FindLink { visitor: id, key });
        }
        match self.registry.knows(name) || self.is_expected(name) {
            true => self.await_device(cx, id, key),
            false => {
                let error = match why {
                    Obstacle::DirectoryBusy => {
                        self.stats.reached(Bound::LookUps);
                        "connection_limit_reached"
                    }
                    _ => "destination_unavailable",
                };
                self.refuse_search(cx, (id, key), error, why.text());
            }
        }
    }

    /// Gives an exchange a connection to the gateway that has its device.
    fn ask_peer(&mut self, cx: &mut Connections<State>, (id, key): (Id, Key), peer: PeerId) {
        let Some(exchange) = self.exchanges.get(key) else { return };
        // A request that is unsafe to repeat must not be sent over a closed connection. A second
        // attempt gets a new connection: if a gateway was killed, all its connections are dead, but
        // not all show it yet.
        let (look, may_idle) = (!exchange.is_idempotent(), !exchange.is_retried());
        if self.peers.as_mut().is_some_and(|peers| peers.hangs(peer)) {
            return self.peer_is_away(cx, (id, key), peer);
        }
        let peers = self.peers.as_mut().filter(|_| may_idle);
        if let Some(idle) = peers.and_then(|peers| quiet_link(peers, cx, peer, look)) {
            return self.use_peer(cx, idle, key);
        }
        self.set_stage(cx, id, Stage::Connecting);
        let until = cx.after(self.waits(key).link.time);
        if let Some(Asking { search, .. }) = cx.asking_mut(id) {
            search.until.get_or_insert(until);
        }
        cx.set_deadline(id, None); // the connection has one
        self.connect_peer(cx, key, peer, 0);
    }

    /// Begins to connect to a gateway, at the first usable address from this index on.
    fn connect_peer(&mut self, cx: &mut Connections<State>, key: Key, peer: PeerId, from: usize) {
        let Some(exchange) = self.exchanges.get(key) else { return };
        let (visitor, limits) = (exchange.downstream(), &self.settings.limits);
        let (most, within) = match visitor {
            Some(_) => (limits.peer_connections_max, limits.connect_timeout),
            None if exchange.is_probe() => {
                (limits.peer_connections_max + 1, limits.connect_timeout.min(limits.peer_timeout))
            }
            None => return,
        };
        let mut address = from;
        loop {
            let Some(peers) = &self.peers else { return };
            let (to, permit) = (peers.address(peer, address), peers.permit(peer, most));
            let (to, permit) = match (to, permit.filter(|_| !cx.is_full()), visitor) {
                (Some(to), Some(permit), _) => (to, permit),
                (None, _, Some(id)) => return self.peer_is_away(cx, (id, key), peer),
                (_, _, None) => return self.probe_over(key, peer, true), // its state is unknown
                (Some(_), None, Some(id)) => {
                    self.stats.reached(Bound::PeerConnections);
                    return self.refuse_search(
                        cx,
                        (id, key),
                        "connection_limit_reached",
                        PEER_FULL,
                    );
                }
            };
            let stage = PeerStage::Connecting { key, address };
            let connecting = Stream::connect_tcp(to).and_then(|stream| {
                cx.insert_connecting(stream, State::Peer(PeerLink { peer, stage }))
            });
            match connecting {
                Ok(connection) => {
                    cx.set_permit(connection, Some(permit));
                    let at = attempt_until(cx, visitor, within);
                    return cx.set_deadline(connection, Some(at));
                }
                Err(e) => self.peer_unreached(cx, peer, &e.to_string()),
            }
            address += 1;
        }
    }

    fn peer_unreached(&mut self, cx: &Connections<State>, peer: PeerId, why: &str) {
        let Some(peers) = &mut self.peers else { return };
        peers.count_failure(peer, cx.now(), why);
        let text = peers.url(peer).map_or("", |url| &url.text);
        log_names!(Warn, "the gateway at {text} cannot be reached: {why}");
    }

    /// A gateway cannot be reached: the device may connect here, or to another one.
    fn peer_is_away(&mut self, cx: &mut Connections<State>, (id, key): (Id, Key), peer: PeerId) {
        let until = cx.after(PEER_RECALL);
        if let Some(peers) = &self.peers {
            peers.note_setback(peer, Setback::Unreached);
        }
        let Some(search) = self.search_of(cx, id, key) else { return };
        let Some(Asking { name, search: of, .. }) = cx.asking_mut(id) else { return };
        *of = Search { obstacle: Some(Obstacle::Unreached), ..search };
        let name = name.clone();
        self.expect_back(cx, &name, until);
        // The device may have connected here meanwhile, with an idle link: a request that is queued
        // now would wait for its next one.
        self.follow_ups.push_back(FollowUp::FindLink { visitor: id, key });
    }

    /// The gateway that had the device has lost it: the device is dialling somewhere.
    fn expect_back(&mut self, cx: &Connections<State>, name: &str, until: Instant) {
        if let Some(peers) = &mut self.peers {
            peers.is_nowhere(name, until, cx.now());
        }
        if !self.registry.knows(name) {
            let _ = self.registry.expect(name, cx.now()); // another loop may know it
        }
    }

    /// A connection attempt has failed; the next address is tried.
    fn peer_failed(&mut self, cx: &mut Connections<State>, connection: Id, why: &str) {
        let Some(PeerLink { peer, stage }) = cx.peer_link(connection) else { return };
        let (peer, stage) = (*peer, *stage);
        cx.close(connection);
        self.peer_unreached(cx, peer, why);
        match stage {
            // A gateway that refuses a connection does not hang: its requests continue, or have
            // ended.
            PeerStage::Connecting { key, .. } | PeerStage::Securing { key, .. }
                if self.probes(key) =>
            {
                self.probe_over(key, peer, true);
            }
            PeerStage::Connecting { key, address } | PeerStage::Securing { key, address } => {
                self.connect_peer(cx, key, peer, address + 1);
            }
            PeerStage::Busy { .. } | PeerStage::Probing { .. } | PeerStage::Idle => {}
        }
    }

    /// Returns true if this request is a probe.
    fn probes(&self, key: Key) -> bool {
        self.exchanges.get(key).is_some_and(|exchange| exchange.is_probe())
    }

    /// A probe has ended without a connection.
    fn probe_over(&mut self, key: Key, peer: PeerId, lives: bool) {
        self.exchanges.remove(key);
        self.follow_ups.push_back(FollowUp::PeerProbed { peer, lives });
    }

    /// Sends a probe.
    pub(super) fn send_probe(&mut self, cx: &mut Connections<State>, key: Key, peer: PeerId) {
        let idle = self.peers.as_mut().and_then(|peers| quiet_link(peers, cx, peer, true));
        match idle {
            Some(connection) => self.use_for_probe(cx, connection, key),
            None => self.connect_peer(cx, key, peer, 0),
        }
    }

    fn use_for_probe(&mut self, cx: &mut Connections<State>, connection: Id, key: Key) {
        cx.set_deadline(connection, None); // the exchange keeps the time
        if let Some(link) = cx.peer_link_mut(connection) {
            link.stage = PeerStage::Probing { key };
        }
        relay::attach(self, cx, key, connection);
    }

    /// Something happened on a connection to another gateway.
    pub(super) fn peer_ready(&mut self, cx: &mut Connections<State>, connection: Id) {
        let Some(PeerLink { peer, stage }) = cx.peer_link(connection) else { return };
        let (peer, stage) = (*peer, *stage);
        match stage {
            PeerStage::Connecting { key, address } => {
                let connected = cx.get(connection).map_or(Ok(false), |c| c.stream().connected());
                match connected {
                    Ok(false) => {}
                    Ok(true) => self.peer_connected(cx, connection, (peer, key), address),
                    Err(e) => self.peer_failed(cx, connection, &e.to_string()),
                }
            }
            PeerStage::Securing { .. } => {} // the handshake's events are the loop's
            PeerStage::Busy { key } | PeerStage::Probing { key } => relay::advance(self, cx, key),
            PeerStage::Idle => {
                if !cx.is_quiet(connection, false) {
                    self.close_idle_peer(cx, connection, peer);
                }
            }
        }
    }

    /// A connection's deadline has passed.
    pub(super) fn peer_expired(&mut self, cx: &mut Connections<State>, connection: Id) {
        let Some(PeerLink { peer, stage }) = cx.peer_link(connection) else { return };
        let (peer, stage) = (*peer, *stage);
        match stage {
            PeerStage::Connecting { key, .. } | PeerStage::Securing { key, .. }
                if self.probes(key) =>
            {
                cx.close(connection);
                self.probe_over(key, peer, false);
            }
            PeerStage::Connecting { .. } => self.peer_failed(
                cx,
                connection,
                "it did not accept within connect_timeout, or as long as its visitor waits",
            ),
            PeerStage::Securing { .. } => self.peer_failed(
                cx,
                connection,
                "no TLS within handshake_timeout, or as long as its visitor waits",
            ),
            PeerStage::Busy { key } | PeerStage::Probing { key } => relay::expired(self, cx, key),
            PeerStage::Idle => self.close_idle_peer(cx, connection, peer),
        }
    }

    fn peer_connected(
        &mut self,
        cx: &mut Connections<State>,
        connection: Id,
        (peer, key): (PeerId, Key),
        address: usize,
    ) {
        let Some(peers) = &self.peers else { return };
        let url = peers.url(peer).filter(|url| url.is_secure);
        let Some((url, connector)) = url.zip(peers.cluster.connector.as_ref()) else {
            return self.peer_opened(cx, connection, (peer, key));
        };
        let channel = TlsSession::to_server(connector, url.host());
        if let Some(link) = cx.peer_link_mut(connection) {
            link.stage = PeerStage::Securing { key, address };
        }
        let most = self.settings.limits.handshake_timeout;
        let exchange = self.exchanges.get(key);
        let at = match exchange.is_some_and(|exchange| exchange.is_probe()) {
            true => cx.after(most.min(self.settings.limits.peer_timeout)),
            false => attempt_until(cx, exchange.and_then(|exchange| exchange.downstream()), most),
        };
        cx.set_deadline(connection, Some(at));
        match channel {
            Ok(channel) if cx.secure(connection, channel.clone(), true) => {}
            Ok(_) => {
                self.peer_failed(cx, connection, "as many TLS handshakes are in progress as may be")
            }
            Err(e) => self.peer_failed(cx, connection, &e.to_string()),
        }
    }

    /// The TLS handshake with another gateway is complete.
    pub(super) fn peer_secured(
        &mut self,
        cx: &mut Connections<State>,
        connection: Id,
        outcome: Result<(), HandshakeError>,
    ) {
        let Some(PeerLink { peer, stage }) = cx.peer_link(connection) else { return };
        let (peer, PeerStage::Securing { key, .. }) = (*peer, *stage) else { return };
        match outcome {
            Ok(()) => self.peer_opened(cx, connection, (peer, key)),
            Err(broken) => {
                self.peer_failed(cx, connection, &format!("no TLS with it: {}", broken.text))
            }
        }
    }

    /// A connection is established. If its request no longer waits, it is kept for another one.
    fn peer_opened(
        &mut self,
        cx: &mut Connections<State>,
        connection: Id,
        (peer, key): (PeerId, Key),
    ) {
        if self.probes(key) {
            return self.use_for_probe(cx, connection, key);
        }
        let visitor = self.exchanges.get(key).and_then(|exchange| exchange.downstream());
        let search = visitor.and_then(|id| self.search_of(cx, id, key));
        match search {
            Some(Search { stage: Stage::Connecting, .. }) => self.use_peer(cx, connection, key),
            _ => self.keep_peer(cx, connection, peer),
        }
    }

    /// Sends a request to another gateway.
    fn use_peer(&mut self, cx: &mut Connections<State>, connection: Id, key: Key) {
        let lines = self.lines_for_peer(cx, key);
        let visitor = self.exchanges.get(key).and_then(|exchange| exchange.downstream());
        let Some((Some(exchange), id)) = visitor.map(|id| (self.exchanges.get_mut(key), id)) else {
            return cx.close(connection);
        };
        exchange.begins_hop(PEER_GRACE, self.budget.share());
        if let Some((link, peers)) = cx.peer_link(connection).zip(self.peers.as_mut()) {
            peers.count_sent(link.peer);
            exchange.observed.hops_to(peers.url(link.peer).map(|url| &url.text));
        }
        self.stats.hops.fetch_add(1, Relaxed);
        self.set_stage(cx, id, Stage::Here);
        cx.set_deadline(connection, None); // the exchange keeps the time
        if let Some(link) = cx.peer_link_mut(connection) {
            link.stage = PeerStage::Busy { key };
        }
        self.watch_peer(cx, connection);
        relay::attach_with(self, cx, key, connection, &lines);
    }

    /// Has a gateway checked after a while, in case it hangs.
    fn watch_peer(&mut self, cx: &mut Connections<State>, connection: Id) {
        let wait = self.settings.limits.peer_timeout;
        let peer = cx.peer_link(connection).map(|link| link.peer).filter(|_| !wait.is_zero());
        let peer = peer.filter(|peer| self.peers.as_mut().is_some_and(|peers| peers.watch(*peer)));
        if let Some(peer) = peer {
            let at = cx.after(wait);
            self.set_alarm(cx, at, Alarm::CheckPeer(peer));
        }
    }

    /// A connection to another gateway is free: for the next request, or to be closed.
    pub(super) fn peer_free(
        &mut self,
        cx: &mut Connections<State>,
        connection: Id,
        reusable: Result<(), CloseReason>,
    ) {
        let Some(PeerLink { peer, stage }) = cx.peer_link(connection) else { return };
        let (peer, stage) = (*peer, *stage);
        self.count_outcome(cx, (peer, stage), &reusable);
        if matches!(stage, PeerStage::Probing { .. }) {
            let is_late = |why: &CloseReason| why.cause == CloseCause::HeartbeatMissed;
            let lives = !reusable.as_ref().is_err_and(is_late);
            self.follow_ups.push_back(FollowUp::PeerProbed { peer, lives });
        }
        match reusable.map_err(|why| why.cause) {
            Ok(()) => self.keep_peer(cx, connection, peer),
            // The end alone would not show whether the answer is still wanted.
            Err(CloseCause::LastMessage | CloseCause::Closed | CloseCause::Tunnel) => {
                cx.close(connection)
            }
            Err(_) => cx.reset(connection),
        }
    }

    fn count_outcome(
        &mut self,
        cx: &Connections<State>,
        (peer, stage): (PeerId, PeerStage),
        outcome: &Result<(), CloseReason>,
    ) {
        let PeerStage::Busy { key } = stage else { return };
        let exchange = self.exchanges.get(key);
        let miss = exchange.and_then(|exchange| exchange.miss());
        let visitor = exchange.and_then(|exchange| exchange.downstream());
        let mismatch = self.mismatch(key, miss);
        let Some(peers) = &mut self.peers else { return };
        let missed = matches!(miss, Some(Miss::Away | Miss::Unknown));
        if let Some(asking) = visitor.filter(|_| missed).and_then(|id| cx.asking(id)) {
            peers.note_setback(peer, Setback::Missed(asking.name.clone()));
        }
        match (outcome.as_ref().map_err(|why| why.cause), mismatch) {
            (_, Some(mismatch)) => peers.count_failure(peer, cx.now(), mismatch.told),
            (Ok(()) | Err(CloseCause::LastMessage | CloseCause::Tunnel), _) => {
                peers.count_answered(peer, cx.now());
            }
            (Err(cause), _) if is_failure(cause) => {
                let why = outcome.as_ref().err().map_or("", |why| &why.text);
                peers.count_failure(peer, cx.now(), why);
            }
            (Err(_), _) => {} // its own side gave up
        }
    }

    fn keep_peer(&mut self, cx: &mut Connections<State>, connection: Id, peer: PeerId) {
        let time = self.settings.limits.peer_keep_alive;
        let keeps = !time.is_zero() && !self.lifecycle.is_draining();
        let Some(peers) = self.peers.as_mut().filter(|_| keeps) else {
            return cx.close(connection);
        };
        if !peers.put_idle(peer, connection, PEER_IDLE_MAX) {
            return cx.close(connection);
        }
        if let Some(found) = cx.get_mut(connection) {
            found.state = State::Peer(PeerLink { peer, stage: PeerStage::Idle });
            found.free_buffers();
        }
        let at = cx.after(time);
        cx.set_deadline(connection, Some(at));
    }

    fn close_idle_peer(&mut self, cx: &mut Connections<State>, connection: Id, peer: PeerId) {
        self.peers.iter_mut().for_each(|peers| peers.drop_idle(peer, connection));
        cx.close(connection);
    }

    /// The gateway stops: idle connections are closed.
    pub(super) fn close_idle_peers(&mut self, cx: &mut Connections<State>) {
        let idle = self.peers.as_mut().map(|peers| peers.take_all_idle());
        idle.into_iter().flatten().for_each(|connection| cx.close(connection));
    }

    /// The gateway that was asked does not have the device: the directory is asked again, at once
    /// the first time.
    pub(super) fn peer_missed(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        key: Key,
        miss: Miss,
    ) {
        let (now, misses) = (cx.now(), self.exchanges.get(key).map_or(0, |e| e.misses()));
        let Some(Asking { name, search, .. }) = cx.asking_mut(id) else { return };
        search.obstacle = None;
        let name = name.clone();
        let until = if misses > 1 { cx.after(PEER_RECALL) } else { now };
        match miss {
            Miss::Away => self.expect_back(cx, &name, until),
            Miss::Unknown => {
                self.peers.iter_mut().for_each(|peers| peers.was_never_there(&name, until));
            }
            Miss::Stranger | Miss::Foreign(_) | Miss::Untrusted => {
                let mismatch = self.mismatch(key, Some(miss));
                return mismatch.map_or((), |why| self.refuse_hop(cx, (id, key), &name, &why));
            }
        }
        if self.exchanges.get(key).is_some_and(|exchange| !exchange.is_unspent()) {
            return self.refuse_search(cx, (id, key), "destination_unavailable", SPENT);
        }
        self.follow_ups.push_back(FollowUp::FindLink { visitor: id, key });
    }

    /// Why a gateway that the directory names cannot be used, if so.
    fn mismatch(&self, key: Key, miss: Option<Miss>) -> Option<Mismatch> {
        let has_secret = self.peers.as_ref().is_some_and(|peers| peers.cluster.has_secret());
        let alert = self.exchanges.get(key).map_or("", |exchange| exchange.alert());
        Mismatch::of(miss?, has_secret, alert)
    }

    /// The directory names a gateway that cannot be used; an operator has to correct that.
    fn refuse_hop(
        &mut self,
        cx: &mut Connections<State>,
        (id, key): (Id, Key),
        name: &str,
        why: &Mismatch,
    ) {
        let heard = self.peers.as_ref().and_then(|peers| peers.heard(name, cx.now()));
        let url = match (heard, &self.peers) {
            (Some(Heard::At(peer)), Some(peers)) => peers.url(peer),
            _ => None,
        };
        let (url, logged) = (url.map_or("another gateway", |url| &url.text), &why.logged);
        log_names!(Warn, "{name}, at {url}: {logged}");
        self.peers.iter_mut().for_each(|peers| peers.forget(name, cx.now())); // it may be corrected soon
        let error = Some("proxy_configuration_error");
        self.give_up(cx, id, key, &LocalAnswer { error, ..LocalAnswer::new(502, why.told) });
    }
}

fn search_of(
    exchanges: &Slab<Box<Exchange>>,
    cx: &Connections<State>,
    id: Id,
    key: Key,
) -> Option<Search> {
    let asking = cx.asking(id).filter(|asking| asking.key == key && asking.event.is_none())?;
    let waits = exchanges.get(key).is_some_and(|exchange| exchange.is_waiting());
    waits.then_some(asking.search)
}

/// Returns true if the other gateway, its device or the network is the cause.
fn is_failure(cause: CloseCause) -> bool {
    matches!(
        cause,
        CloseCause::Cut
            | CloseCause::Reset
            | CloseCause::Unreachable
            | CloseCause::ProtocolError
            | CloseCause::Late
    )
}

/// The deadline of one step of an attempt to reach a gateway: after `most`, or earlier if its
/// visitor waits for less, but then after [`PEER_ATTEMPT`] at the earliest.
fn attempt_until(cx: &Connections<State>, visitor: Option<Id>, most: Duration) -> Instant {
    let until = visitor.and_then(|id| cx.asking(id)?.search.until);
    let until = until.map(|until| until.max(cx.after(PEER_ATTEMPT)));
    cx.after(most).min(until.unwrap_or_else(|| cx.after(most)))
}

/// The newest usable idle connection to a gateway; newer ones that are no longer usable are closed.
fn quiet_link(
    peers: &mut PeerTable,
    cx: &mut Connections<State>,
    peer: PeerId,
    look: bool,
) -> Option<Id> {
    loop {
        let idle = peers.take_idle(peer)?;
        if cx.is_quiet(idle, look) {
            return Some(idle);
        }
        cx.close(idle);
    }
}
