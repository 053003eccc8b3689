//! Answers operators' questions to the gateway's loop.
//!
//! Every question is one bounded step: a list of devices is returned in pieces, and the caller
//! turns them into text on its own thread.

#![cfg_attr(not(feature = "admin"), allow(dead_code, reason = "nobody asks"))]

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::close_reason::CloseCause;
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::gateway::device_info::DeviceInfo;
use crate::gateway::questions::{DeviceHistory, DeviceRow, LinkRow, Process, Question};
use crate::gateway::registry::Registration;
use crate::gateway::state::{Device, GatewayRole, Hold, State, States};
use crate::observe::row::Row;

/// The most devices in one piece of a list.
const ROWS_MAX: usize = 256;

/// The most links in one answer.
pub(crate) const LINKS_MAX: usize = 2_048;

/// The most routes in one answer.
const ROUTES_MAX: usize = 4_096;
const DISCONNECTED: &str = "an operator disconnected the device";

impl GatewayRole {
    pub(super) fn observe(&mut self, cx: &mut Connections<State>, question: Question) {
        // The caller may have given up.
        match question {
            Question::Devices { from, reply } => drop(reply.send(self.device_rows(from))),
            Question::Device { name, reply } => drop(reply.send(self.device_history(&name))),
            Question::Links { name, reply } => {
                drop(reply.send(self.link_rows(cx, name.as_deref())))
            }
            Question::Process { reply } => drop(reply.send(self.process(cx))),
            Question::Peers { reply } => {
                let rows = self.peers.as_ref().map(|peers| peers.rows(cx.now()));
                drop(reply.send(rows.unwrap_or_default()));
            }
            Question::Routes { reply } => drop(reply.send(self.listeners.rows(ROUTES_MAX))),
            Question::Records { to, readers } => self.observer.record(to, readers),
            Question::Disconnect { name, reply } => drop(reply.send(self.disconnect(cx, &name))),
            Question::DrainDevice { name, reply } => drop(reply.send(self.drain_device(cx, &name))),
        }
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
        let refused = table.refusals.of(name).cloned().collect();
        let row = table.aged(name, now)?;
        Some(Box::new(DeviceHistory {
            row: self.device_row(row),
            changes: row.changes.iter().cloned().collect(),
            recent: row.recent.iter().cloned().collect(),
            minutes: row.minutes.iter().copied().collect(),
            minute,
            refused,
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
        rows.extend(leases.take(LINKS_MAX - rows.len()).map(|(id, lease)| LinkRow {
            id: id.number(),
            device: lease.registration.name().clone(),
            state: "program",
            remote_ip: None,
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
            remote_ip: connection.stream().remote_ip(),
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
            refusals: table.as_ref().map(|table| table.refusals.clone()).unwrap_or_default(),
            start: table.map_or_else(Instant::now, |table| table.start),
            certificates: self.listeners.certificates(),
        }
    }

    /// The connections of a device. They include links that are also registered under other names.
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
            // One that is held back on the link, or was, does not end it.
            let of_link = exchange.and_then(|key| self.exchanges.get(key));
            let ends_link = of_link.is_some_and(|exchange| !exchange.is_waiting());
            if let Some(key) = exchange {
                self.end_exchange(cx, key, CloseCause::Operator, DISCONNECTED);
            }
            if !ends_link {
                self.drop_link(cx, *id, why.clone());
            }
        }
        self.fail_events_of_name(cx, name, CloseCause::Operator, DISCONNECTED);
        let leases = self.leases.ids(|registration| is_of(registration, Some(name)));
        for lease in &leases {
            self.leases.cut(*lease, crate::Error::closed(crate::Fault::Gateway, DISCONNECTED));
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

    /// The devices with these names that are connected to this loop.
    pub(super) fn device_infos(
        &self,
        cx: &Connections<State>,
        names: &[Arc<str>],
    ) -> Vec<DeviceInfo> {
        names.iter().filter_map(|name| self.device_info(cx, name)).collect()
    }

    fn device_info(&self, cx: &Connections<State>, name: &str) -> Option<DeviceInfo> {
        let transport = self.registry.transport(name)?;
        let (since, token, connection) = self.registry.presence(name)?;
        let load = self.registry.load(name);
        let age = cx.now().saturating_duration_since(since);
        let now = SystemTime::now();
        Some(DeviceInfo {
            name: name.to_owned(),
            transport,
            since: now.checked_sub(age).unwrap_or(now),
            idle: load.idle + load.polls,
            busy: load.busy + load.events,
            waiting: load.waiting,
            address: connection.and_then(|id| cx.get(id)?.stream().remote_ip()),
            token: token.and_then(|digest| self.credentials.label(digest)).map(String::from),
        })
    }
}

fn is_of(registration: &Registration, name: Option<&str>) -> bool {
    name.is_none_or(|name| registration.names().any(|own| **own == *name))
}
