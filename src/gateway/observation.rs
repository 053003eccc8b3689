//! What an operator asks the gateway's loop, and what it tells its [`Observer`](crate::observe::Observer).
//!
//! Every question is one bounded step: a list of devices is given out in pieces, and whoever asks
//! turns them into text on a thread of its own.

#![cfg_attr(not(feature = "admin"), allow(dead_code, reason = "nobody asks"))]

use std::net::IpAddr;
use std::time::Instant;

use crate::close_reason::CloseCause;
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::gateway::offer::Offer;
use crate::gateway::questions::{DeviceHistory, DeviceRow, LinkRow, Process, Question};
use crate::gateway::registry::{Owner, Registration};
use crate::gateway::state::{Device, GatewayRole, Hold, State, States};
use crate::observe::row::{OfferSeen, Row};
use crate::observe::{OFFER_TEXT_MAX, Observed, Visit, cut};
use crate::proto::forward::REQUEST_ID;
use crate::proto::forwarded::ProxyClaims;
use crate::proto::head::Fields;

/// Devices of one piece of a list.
const ROWS_MAX: usize = 256;
/// Links of one answer.
pub(crate) const LINKS_MAX: usize = 2_048;
/// Routes of one answer.
const ROUTES_MAX: usize = 4_096;

/// Longest `X-Request-Id` of a trusted proxy, in bytes; a longer one is replaced.
const REQUEST_ID_BYTES_MAX: usize = 128;

const DISCONNECTED: &str = "an operator disconnected the device";

impl GatewayRole {
    pub(super) fn observe(&mut self, cx: &mut Connections<State>, question: Question) {
        // Whoever asked may have given up.
        match question {
            Question::Devices { from, reply } => drop(reply.send(self.device_rows(from))),
            Question::Device { name, reply } => drop(reply.send(self.device_history(&name))),
            Question::Links { name, reply } => {
                drop(reply.send(self.link_rows(cx, name.as_deref())))
            }
            Question::Process { reply } => drop(reply.send(self.process(cx))),
            Question::Routes { reply } => drop(reply.send(self.listeners.rows(ROUTES_MAX))),
            Question::Records { to, readers } => self.observer.record(to, readers),
            Question::Disconnect { name, reply } => drop(reply.send(self.disconnect(cx, &name))),
            Question::DrainDevice { name, reply } => drop(reply.send(self.drain_device(cx, &name))),
        }
    }

    /// Who asks, and under which id; that costs something only where there is an access log.
    pub(super) fn visit(
        &self,
        fields: &Fields<'_>,
        from: IpAddr,
        said: Option<&ProxyClaims<'_>>,
    ) -> Visit {
        if !self.observer.is_on() {
            return Visit { from: Some(from), ..Visit::default() };
        }
        let told = said.and_then(|said| said.visitor(|hop| self.is_trusted(hop)));
        let request_id = self.observer.records().then(|| {
            let came = fields.get(REQUEST_ID).and_then(|id| std::str::from_utf8(id).ok());
            match came.filter(|id| said.is_some() && is_request_id(id)) {
                Some(id) => id.to_owned(),
                None => random_id(),
            }
        });
        Visit { from: Some(told.unwrap_or(from)), request_id, token: None }
    }

    /// Notes what the offer or poll says of the device that was let in.
    pub(super) fn observe_offer(&self, offer: &Offer, registration: &Registration, owner: &Owner) {
        if !self.observer.is_on() {
            return;
        }
        let agent = offer.field("User-Agent").map(String::from_utf8_lossy).unwrap_or_default();
        let seen = OfferSeen {
            agent: cut(&agent, OFFER_TEXT_MAX),
            protocol: cut(offer.upgrade_token(), OFFER_TEXT_MAX),
            address: offer.peer(),
            secure: offer.secure,
            token: offer.token.and_then(|digest| self.credentials.label(&digest)),
            certificate: offer
                .certificate
                .as_ref()
                .map(|shown| cut(&shown.names().join(", "), OFFER_TEXT_MAX)),
            certificate_expires: offer.certificate.as_ref().map(|shown| shown.expires()),
        };
        for name in registration.names() {
            self.observer.offered(name, seen.clone(), &owner.credential);
        }
    }

    /// A link that program code takes for one exchange, of which no more is known than its time.
    pub(super) fn observe_lease(&self, registration: &Registration) -> Observed {
        let mut observed = self.observer.lease(registration.name());
        observed.attached(None);
        observed
    }

    fn device_rows(&self, from: usize) -> (Vec<DeviceRow>, Option<usize>) {
        let Some(mut table) = self.observer.table() else { return (Vec::new(), None) };
        let (rows, next) = table.rows(from, ROWS_MAX, Instant::now());
        (rows.map(|row| self.device_row(row)).collect(), next)
    }

    fn device_row(&self, row: &Row) -> DeviceRow {
        DeviceRow {
            name: row.name.clone(),
            home: self.registry.knows(&row.name).then_some(self.number),
            transport: row.transport,
            load: self.registry.load(&row.name),
            since: row.since,
            last_seen: row.last_seen,
            ups: row.ups,
            in_progress: row.in_progress,
            counts: row.counts.clone(),
            p50: row.times.percentile(0.5),
            p99: row.times.percentile(0.99),
            offer: row.offer.clone(),
            cause: match row.transport {
                Some(_) => None,
                None => row.changes.back().and_then(|change| change.cause),
            },
        }
    }

    fn device_history(&self, name: &str) -> Option<Box<DeviceHistory>> {
        let (mut table, now) = (self.observer.table()?, Instant::now());
        let minute = table.minute(now);
        let row = table.aged(name, now)?;
        Some(Box::new(DeviceHistory {
            row: self.device_row(row),
            changes: row.changes.iter().cloned().collect(),
            recent: row.recent.iter().cloned().collect(),
            minutes: row.minutes.iter().copied().collect(),
            minute,
        }))
    }

    fn link_rows(&self, cx: &Connections<State>, name: Option<&str>) -> Vec<LinkRow> {
        let now = Instant::now();
        let mut rows = Vec::new();
        for id in cx.ids() {
            if rows.len() >= LINKS_MAX {
                break;
            }
            rows.extend(self.link_row(cx, id, name, now));
        }
        let leases = self.leases.iter().filter(|(_, lease)| is_of(&lease.registration, name));
        rows.extend(leases.take(LINKS_MAX - rows.len()).map(|(ticket, lease)| LinkRow {
            id: ticket.number(),
            device: lease.registration.name().clone(),
            state: "program",
            peer: None,
            received: 0,
            written: 0,
            exchange: lease.observed.in_progress(now),
        }));
        rows
    }

    fn link_row(
        &self,
        cx: &Connections<State>,
        id: Id,
        name: Option<&str>,
        now: Instant,
    ) -> Option<LinkRow> {
        let connection = cx.get(id)?;
        let State::Device(device) = &connection.state else { return None };
        let registration = device.registration().filter(|found| is_of(found, name))?;
        let (state, exchange) = match device {
            Device::Link(link) => {
                let state = match link.exchange {
                    Some(key) if self.is_tunnel(key) => "tunnel",
                    _ if link.leaving => "leaving",
                    Some(_) => "busy",
                    None if link.pinned.is_some() => "pinned",
                    None => "idle",
                };
                (state, link.exchange)
            }
            Device::Held { hold: Hold::Offer(_), .. } => ("held-offer", None),
            Device::Held { .. } => ("held-poll", None),
            Device::PostedAnswer(posted) => ("answering", posted.exchange()),
            _ => return None,
        };
        let exchange = exchange.and_then(|key| self.exchanges.get(key));
        Some(LinkRow {
            id: id.bits() as u64,
            device: registration.name().clone(),
            state,
            peer: connection.stream().peer_ip(),
            received: connection.received(),
            written: connection.written(),
            exchange: exchange.and_then(|exchange| exchange.observed.in_progress(now)),
        })
    }

    fn is_tunnel(&self, key: Key) -> bool {
        self.exchanges.get(key).is_some_and(|exchange| exchange.is_tunnel())
    }

    fn process(&self, cx: &Connections<State>) -> Process {
        let table = self.observer.table();
        Process {
            connections: cx.len(),
            memory: self.memory(cx),
            messages: self.budget.taken(),
            exchanges: self.exchanges.len(),
            leases: self.leases.len(),
            is_stopping: self.lifecycle.is_ending(),
            totals: table.as_ref().map(|table| table.totals.clone()).unwrap_or_default(),
            start: table.map_or_else(Instant::now, |table| table.start),
            certificates: self.listeners.certificates(),
        }
    }

    /// The connections of a device. A name that a link shares with others takes them along.
    fn connections_of(&self, cx: &Connections<State>, name: &str) -> Vec<Id> {
        let is_theirs = |id: &Id| {
            let registration = cx.device(*id).and_then(Device::registration);
            registration.is_some_and(|found| is_of(found, Some(name)))
        };
        cx.ids().into_iter().filter(is_theirs).collect()
    }

    fn disconnect(&mut self, cx: &mut Connections<State>, name: &str) -> usize {
        let why = CloseCause::Operator.because(DISCONNECTED);
        let ids = self.connections_of(cx, name);
        for id in &ids {
            let Some(device) = cx.device(*id) else { continue };
            let exchange = match device {
                Device::Link(link) => link.exchange,
                Device::PostedAnswer(posted) => posted.exchange(),
                Device::Held { .. } => {
                    self.unhold(cx, *id, &why);
                    self.deny_device(cx, *id, 503, DISCONNECTED, Some(1));
                    continue;
                }
                _ => continue,
            };
            match exchange {
                Some(key) => self.end_exchange(cx, key, CloseCause::Operator, DISCONNECTED),
                None => self.drop_link(cx, *id, why.clone()),
            }
        }
        self.fail_events_of_name(cx, name, CloseCause::Operator, DISCONNECTED);
        let leases = self.leases.tickets(|registration| is_of(registration, Some(name)));
        for ticket in &leases {
            self.leases.cut(*ticket, crate::Error::closed(crate::Fault::Gateway, DISCONNECTED));
        }
        ids.len() + leases.len()
    }

    fn drain_device(&mut self, cx: &mut Connections<State>, name: &str) -> usize {
        let mut told = 0;
        for id in self.connections_of(cx, name) {
            match cx.link_mut(id) {
                Some(link) if link.exchange.is_some() => link.leaving = true,
                Some(_) => self.part(cx, id),
                None => continue,
            }
            told += 1;
        }
        told
    }
}

/// What a trusted proxy may call a request.
fn is_request_id(id: &str) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

fn random_id() -> String {
    let mut bytes = [0; 16];
    match crate::engine::random::fill(&mut bytes) {
        Ok(()) => format!("{:032x}", u128::from_be_bytes(bytes)),
        Err(_) => "-".to_owned(), // the log of such a system has larger problems
    }
}

fn is_of(registration: &Registration, name: Option<&str>) -> bool {
    name.is_none_or(|name| registration.names().any(|own| **own == *name))
}
