//! A gateway without sockets, for the simulation: how it is made, requests of programs, and what
//! must be left of it at the end.
#![allow(clippy::expect_used)] // only for tests

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::close_reason::CloseReason;
use crate::engine::simulated::Loop;
use crate::error::Error;
use crate::gateway::alarms::FIRST_ALARM;
use crate::gateway::builder::GatewayBuilder;
pub(crate) use crate::gateway::leases::Lease;
use crate::gateway::leases::Leased;
use crate::gateway::listeners::Side;
pub(crate) use crate::gateway::loops::Loops;
use crate::gateway::routes::{Routes, Table};
pub(crate) use crate::gateway::state::Command;
use crate::gateway::state::{Borrow, Common, GatewayRole, TICK};
use crate::observe::Observer;
use crate::observe::table::Bounds;
use crate::relay::Wait;
use crate::stream::Stream;

/// A gateway whose turns are driven by hand.
pub(crate) type Simulated = Loop<GatewayRole>;

/// The builder's gateway on the loops of these nodes, of which the first accepts. Listener 0 is for
/// devices, listener 1 for visitors (by path).
pub(crate) fn start(
    builder: GatewayBuilder,
    nodes: &[usize],
    now: Instant,
    visitors: SocketAddr,
) -> (Vec<Simulated>, Loops<Command>) {
    let mut settings = builder.settings;
    settings.observer = Observer::on(Bounds { names: 16, bytes: 16 * 1024, records: 16 * 1024 });
    settings.via = format!("ptth-{}", nodes[0]).into();
    let limits = settings.limits.clone();
    let common = Common::new(settings);
    let made = Loop::several(nodes, now, &limits, (TICK, FIRST_ALARM), |remotes, number| {
        let loops = Loops::new(remotes.to_vec(), common.directory());
        let place = (loops, number);
        let mut role = GatewayRole::new(&common, place, vec![(visitors, None)]);
        role.dealt = (nodes.len() > 1 && number == 0).then_some(0);
        let routes = Routes::path().and_host("sim.example").expect("a suffix");
        role.listeners.add(Some(visitors), None, Side::Visitors(Arc::new(Table::new(routes))));
        role
    });
    let remotes = made.iter().map(|gateway: &Simulated| gateway.remote.clone()).collect();
    (made, Loops::new(remotes, common.directory()))
}

/// Asks it to stop.
pub(crate) fn drain(gateway: &Simulated, time: Duration) {
    gateway.remote.send(Command::Drain { notice: Duration::ZERO, time });
}

/// A link for a program, as its `send()` asks for one.
pub(crate) fn borrow(
    loops: &Loops<Command>,
    name: &str,
    wait: Duration,
    reply: Sender<Result<Lease, Error>>,
) {
    let wait = Wait { time: wait, name: "wait_for_link" };
    let wanted = Borrow { name: name.to_owned(), wait, moves: 0, cancel: None, reply };
    loops.send(loops.home_of(name), Command::Borrow(wanted));
}

/// Returns a link, or reports its end. A stream that is not a link ends when it is dropped.
pub(crate) fn give_back(loops: &Loops<Command>, of: Leased, stream: Result<Stream, CloseReason>) {
    if let Leased::Link(lease) = of {
        let stream = stream.map(|stream| (stream, Vec::new()));
        loops.send(lease.home(), Command::Return { lease, stream });
    }
}

/// Entries that are left without any connection; empty if all is well. `drained` means that the
/// gateway was stopped.
pub(crate) fn leftovers(gateway: &Simulated, drained: bool) -> Vec<String> {
    let mut left = gateway.role.leftovers(drained);
    if gateway.connections.len() > 0 {
        left.push(format!("{} connections", gateway.connections.len()));
    }
    left
}
