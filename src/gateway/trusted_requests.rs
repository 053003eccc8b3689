//! Requests of programs of this process, and of other gateways: they name their device, and are
//! forwarded as written.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use crate::engine::connections::{Connections, Id};
use crate::error::Refusal;
use crate::gateway::request_decision::{Decision, Forwarding};
use crate::gateway::state::{GatewayRole, State};
use crate::observe::Visit;
use crate::proto::body::Framing;
use crate::proto::edits::FieldEdits;
use crate::proto::forward::{self, REQUEST_ID, RequestRules};
use crate::proto::framed::FramedRequest;
use crate::proto::head;
use crate::proto::peer::{self, Miss};
use crate::proto::turn;
use crate::proto::upgrade;
use crate::relay::{self, Exchange};

pub(super) const TOO_LONG_WITH_OURS: &str = "the request head is longer than a device takes, with the fields that this gateway adds; send fewer or shorter fields";
const CIRCLE: &str =
    "this request has already come through this gateway (Via), and would come again";

/// Fields of responses to other gateways.
static SERVED_BY_US: LazyLock<Arc<FieldEdits>> =
    LazyLock::new(|| Arc::new(FieldEdits::own(peer::SERVED)));

/// The most bytes that may still be added to a head when its link is known.
const ADDED_LATER: usize = 96;

impl GatewayRole {
    /// Returns true if a device accepts a head of this length. The number of fields is never too
    /// large: `HOP_FIELDS_MAX` is more than a gateway adds.
    pub(super) fn fits_a_link(&self, head: &[u8]) -> bool {
        head.len() + ADDED_LATER <= self.settings.link_limits.head_bytes_max
    }

    /// Plans a program's own request, which is forwarded as written.
    pub(super) fn plan_for_program(
        &self,
        id: Id,
        request: &FramedRequest<'_>,
        name: &str,
        now: Instant,
    ) -> Decision {
        let framing = request.framing();
        let host = host_of(request);
        let mut head = Vec::with_capacity(request.len + 16);
        let planned = forward::origin_form(request).and_then(|target| {
            let rules = as_written(target, host, upgrade::is_offer(request, framing));
            forward::request(&mut head, request, framing, &rules)
        });
        match planned {
            Err(refusal) => Decision::Refused { refusal, to_head: false, keep: false },
            Ok(()) if !self.fits_a_link(&head) => Decision::Refused {
                refusal: Refusal::new(431, TOO_LONG_WITH_OURS),
                to_head: false,
                keep: false,
            },
            Ok(()) => {
                let mut exchange =
                    Box::new(Exchange::new(id, request, framing, head, &self.settings.limits, now));
                exchange.observed = self.observer.request(name, request, &Visit::default());
                let (name, token, visitor) = (name.into(), None, None);
                Decision::Forward(Forwarding { exchange, name, token, visitor })
            }
        }
    }

    /// Plans another gateway's request for a device that is connected here. The other gateway has
    /// checked its visitor's token and route.
    pub(super) fn plan_for_peer(
        &mut self,
        id: Id,
        request: &FramedRequest<'_>,
        now: Instant,
    ) -> Decision {
        let (to_head, framing) = (request.method == "HEAD", request.framing());
        let keep = framing == Framing::Empty
            && request.minor > 0
            && head::keeps_alive(request.minor, &request.fields)
            && !self.lifecycle.is_ending();
        let refused = |refusal, keep| Decision::Refused { refusal, to_head, keep };
        let shown = peer::secret(&request.fields);
        let of_device = turn::is_of_device(request, &self.settings.offer_rules.dialects);
        let stranger = Decision::Missed { miss: Miss::Stranger, of_device, to_head, keep: false };
        if !self.peers.as_ref().is_some_and(|peers| peers.cluster.admits(shown)) {
            return stranger;
        }
        let target = match forward::origin_form(request) {
            Ok("*") => {
                return match peer::asked_about(&request.fields) {
                    Ok(device) => Decision::Server { has: device.map(|name| self.has(name)), keep },
                    Err(refusal) => refused(refusal, keep),
                };
            }
            Ok(target) => target,
            Err(refusal) => return refused(refusal, false),
        };
        let told = match peer::read(&request.fields) {
            Ok(told) => told,
            Err(_) if of_device => return stranger,
            Err(refusal) => return refused(refusal, false),
        };
        // The last entry is the gateway that sends this, which may have the same name.
        if forward::came_through_before(&request.fields, &self.settings.via) {
            return refused(Refusal::new(508, CIRCLE), keep);
        }
        if let Some(miss) = self.misses(told.device) {
            return Decision::Missed { miss, of_device: false, to_head, keep };
        }
        if let Some(to) = self.elsewhere(told.device, now) {
            return Decision::Elsewhere(to);
        }
        let upgrade = upgrade::is_offer(request, framing);
        let via = Some(&*self.settings.via);
        let rules = RequestRules { via, ..as_written(target, host_of(request), upgrade) };
        let mut head = Vec::with_capacity(request.len + 64);
        match forward::request(&mut head, request, framing, &rules) {
            Err(refusal) => return refused(refusal, false),
            Ok(()) if !self.fits_a_link(&head) => {
                return refused(Refusal::new(431, TOO_LONG_WITH_OURS), keep);
            }
            Ok(()) => {}
        }
        self.forward_for_peer(id, request, head, told, now)
    }

    /// Returns why requests of other gateways do not reach this device here; `None` if they do.
    fn misses(&self, device: &str) -> Option<Miss> {
        if self.registry.is_connected_anywhere(device) && !self.lifecycle.is_draining() {
            return None;
        }
        let is_known = self.registry.is_known_anywhere(device) || self.is_expected(device);
        Some(if is_known { Miss::Away } else { Miss::Unknown })
    }

    /// The answer to the question of another gateway whether a device is connected here.
    fn has(&self, device: &str) -> &'static str {
        self.misses(device).map_or(peer::CONNECTED, Miss::as_str)
    }

    /// Logs a request of a client that is not a gateway of this cluster.
    pub(super) fn log_stranger(&self, cx: &Connections<State>, id: Id) {
        let Some(connection) = cx.get(id) else { return };
        let from = connection.stream().remote_label();
        log_names!(
            Warn,
            "a request from {from} on the peers' port got 403: it does not show the secret of this cluster"
        );
    }

    fn forward_for_peer(
        &mut self,
        id: Id,
        request: &FramedRequest<'_>,
        head: Vec<u8>,
        told: peer::PeerRequest<'_>,
        now: Instant,
    ) -> Decision {
        let limits = &self.settings.limits;
        let mut exchange = Exchange::new(id, request, request.framing(), head, limits, now);
        let waits = &mut exchange.waits;
        let wait = |wait: &mut relay::Wait, told: Option<Duration>| {
            told.into_iter().for_each(|time| wait.time = time);
        };
        wait(&mut waits.link, told.waits.link);
        wait(&mut waits.first_byte, told.waits.first_byte);
        for silence in
            [&mut waits.body_silence, &mut waits.response_silence, &mut waits.half_tunnel]
        {
            wait(silence, told.waits.body_silence);
        }
        exchange.edits = Some(SERVED_BY_US.clone());
        let waits = &mut exchange.waits;
        waits.exchange.time = Duration::ZERO; // the other gateway's deadline is earlier
        let request_id = request.fields.get(REQUEST_ID).filter(|_| self.observer.records());
        let request_id = request_id.and_then(|id| std::str::from_utf8(id).ok()).map(str::to_owned);
        let visit = Visit { from: told.visitor, request_id, token: None, from_gateway: true };
        exchange.observed = self.observer.request(told.device, request, &visit);
        if self.lifecycle.is_ending() {
            exchange.last_of_caller();
        }
        self.stats.hops_served.fetch_add(1, Relaxed);
        if let Some((peers, gateway)) = self.peers.as_mut().zip(told.gateway) {
            peers.count_served(gateway, now);
        }
        let (name, token, visitor) = (told.device.into(), None, told.visitor);
        Decision::Forward(Forwarding { exchange: Box::new(exchange), name, token, visitor })
    }
}

/// The rules for a request that is forwarded unchanged, because its sender has already applied a
/// gateway's rules.
fn as_written<'r>(target: &'r str, host: &'r str, upgrade: bool) -> RequestRules<'r> {
    RequestRules {
        target,
        host,
        prefix: None,
        forwarded: None,
        via: None,
        keep_underscore: true,
        drop_authorization: false,
        upgrade,
        request_id: None,
        edits: None,
        alias: None,
        own_cookie: None,
    }
}

fn host_of<'r>(request: &FramedRequest<'r>) -> &'r str {
    let host = request.fields.get("Host").and_then(|host| std::str::from_utf8(host).ok());
    host.unwrap_or_default()
}
