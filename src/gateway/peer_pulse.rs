//! Checks whether other gateways that owe responses are alive. One that hangs still has its
//! connections, and its system accepts new ones: so it is probed with a request.

use std::time::Instant;

use crate::close_reason::CloseCause;
use crate::engine::connections::Connections;
use crate::engine::slab::Key;
use crate::gateway::alarms::Alarm;
use crate::gateway::peer_table::{Check, PeerId, PeerLink, PeerStage};
use crate::gateway::setbacks::Setback;
use crate::gateway::state::{GatewayRole, State, States};
use crate::relay::{Exchange, LocalAnswer};

impl GatewayRole {
    /// It is time to check a gateway to which requests were sent.
    pub(super) fn check_peer(&mut self, cx: &mut Connections<State>, peer: PeerId) {
        let (now, wait) = (cx.now(), self.settings.limits.peer_timeout);
        let oldest = self.owed_by(cx, peer).into_iter().map(|(_, since)| since).min();
        let Some(peers) = &mut self.peers else { return };
        match peers.check(peer, oldest, now, wait) {
            Check::Nothing => {}
            Check::Later(at) => self.set_alarm(cx, at, Alarm::CheckPeer(peer)),
            Check::Probe => {
                let exchange =
                    Exchange::heartbeat(self.probe_request(), wait, &self.settings.limits, now);
                let key = self.exchanges.insert(Box::new(exchange));
                self.send_probe(cx, key, peer);
            }
        }
    }

    /// Requests that a gateway has received completely and not begun to answer, each with the time
    /// of its last progress.
    fn owed_by(&self, cx: &Connections<State>, peer: PeerId) -> Vec<(Key, Instant)> {
        let key_of = |id| match cx.peer_link(id)? {
            PeerLink { peer: of, stage: PeerStage::Busy { key } } if *of == peer => Some(*key),
            _ => None,
        };
        let keys = cx.ids().into_iter().filter_map(key_of);
        keys.filter_map(|key| Some((key, self.exchanges.get(key)?.owed_since()?))).collect()
    }

    /// A gateway was probed.
    pub(super) fn peer_probed(&mut self, cx: &mut Connections<State>, peer: PeerId, lives: bool) {
        let (now, wait) = (cx.now(), self.settings.limits.peer_timeout);
        let Some(peers) = &mut self.peers else { return };
        let hung = peers.probed(peer, lives, now);
        let url = peers.url(peer).map(|url| url.text.clone()).unwrap_or_default();
        match (lives, hung) {
            (true, true) => log_names!(Info, "the gateway at {url} answers again"),
            (true, false) => {}
            (false, _) => {
                let why = format!("it gave no sign of life within {wait:?}");
                peers.count_failure(peer, now, &why);
                peers.note_setback(peer, Setback::Unreached);
                // Including those that were sent to it meanwhile: it has not even answered the
                // probe.
                let owed = self.owed_by(cx, peer);
                let given_up = owed.into_iter().map(|(key, _)| self.give_up_owed(cx, key)).count();
                if !hung || given_up > 0 {
                    log_names!(
                        Warn,
                        "the gateway at {url} hangs: it accepts connections and gives no sign of life within {wait:?} (peer_timeout); requests that were given up: {given_up}"
                    );
                }
            }
        }
        self.set_alarm(cx, now + wait, Alarm::CheckPeer(peer));
    }

    fn give_up_owed(&mut self, cx: &mut Connections<State>, key: Key) {
        const WHY: &str =
            "the gateway that has the device hangs: it took the request, and gives no sign of life";
        let error = Some("connection_timeout");
        let answer = LocalAnswer { error, ..LocalAnswer::new(504, WHY) };
        self.end_exchange_with(cx, key, CloseCause::Late.because(WHY), &answer);
    }
}
