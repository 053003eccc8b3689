//! The lines that are sent to other gateways: with a request, and in a probe.

use crate::engine::connections::Connections;
use crate::engine::slab::Key;
use crate::gateway::state::{GatewayRole, State, States};
use crate::proto::peer::{LINES_MAX, PeerRequest, PeerWaits, write_probe};

impl GatewayRole {
    /// The lines for the other gateway that are added to a request.
    pub(super) fn lines_for_peer(&self, cx: &Connections<State>, key: Key) -> Vec<u8> {
        let mut lines = Vec::with_capacity(LINES_MAX / 2);
        let visitor = self.exchanges.get(key).and_then(|exchange| exchange.downstream());
        let Some((peers, asking)) = self.peers.as_ref().zip(visitor.and_then(|id| cx.asking(id)))
        else {
            return lines;
        };
        let waits = self.waits(key);
        let own = peers.cluster.own();
        let told = PeerRequest {
            gateway: own.as_ref().map(|url| &*url.text),
            device: &asking.name,
            visitor: asking.visitor,
            waits: PeerWaits {
                link: Some(waits.link.time),
                first_byte: Some(waits.first_byte.time),
                body_silence: Some(waits.body_silence.time),
            },
        };
        let written = peers.cluster.write_to(|secret| told.write(&mut lines, secret));
        if let Err(refusal) = written {
            log::error!("a request for another gateway cannot be written: {refusal}"); // it was checked
        }
        lines
    }

    /// The request that probes whether a gateway is alive.
    pub(super) fn probe_request(&self) -> Vec<u8> {
        let mut request = Vec::with_capacity(128);
        if let Some(peers) = &self.peers {
            let written = peers.cluster.write_to(|secret| write_probe(&mut request, secret));
            if let Err(refusal) = written {
                log::error!("a request for another gateway cannot be written: {refusal}"); // it was checked
            }
        }
        request
    }
}
