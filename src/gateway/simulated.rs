//! A gateway without sockets, for the simulation: how it is made, what programs ask of it, and what
//! must be left of it at the end.
#![allow(clippy::expect_used)] // tests alone

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::close_reason::CloseReason;
use crate::engine::simulated::Loop;
use crate::error::Error;
use crate::gateway::alarms::FIRST_ALARM;
pub(crate) use crate::gateway::announced::Announced;
use crate::gateway::builder::{GatewayBuilder, tell_loops};
pub(crate) use crate::gateway::claims::{
    Change, Claimant, Failed, Renewal, Renewed, SharedTable, Verdict,
};
pub(crate) use crate::gateway::leases::Lease;
use crate::gateway::leases::Leased;
use crate::gateway::ledger::{Keeper, Ledger, Tell};
use crate::gateway::listeners::Side;
pub(crate) use crate::gateway::loops::Loops;
use crate::gateway::peers::{Cluster, Peers};
use crate::gateway::routes::{Routes, Table};
pub(crate) use crate::gateway::state::Command;
use crate::gateway::state::{Borrow, Common, GatewayRole, TICK};
use crate::observe::Observer;
use crate::observe::table::Bounds;
use crate::relay::Wait;
use crate::stream::Stream;

/// A gateway whose turns are driven by hand.
pub(crate) type Simulated = Loop<GatewayRole>;

/// A gateway that was started.
pub(crate) struct Started {
    pub(crate) made: Vec<Simulated>,
    pub(crate) loops: Loops<Command>,
    /// What keeps its claims, where gateways share a table.
    pub(crate) claims: Option<Claims>,
}

/// Other gateways that are found in a table.
pub(crate) fn peers_in(table: Arc<dyn SharedTable>) -> Peers {
    Peers::simulated(table)
}

/// The work of the threads that keep a gateway's claims, and hear of changes.
pub(crate) struct Claims {
    cluster: Arc<Cluster>,
    ledger: Arc<Ledger>,
    keeper: Keeper,
    tell: Tell,
}

impl Claims {
    fn own(&self) -> Option<Arc<str>> {
        Some(self.cluster.own()?.text)
    }

    /// When the next turn is due.
    pub(crate) fn next_turn(&self) -> Instant {
        self.ledger.next_turn(&self.keeper)
    }

    /// Renews and releases what is due. `is_last`: the gateway has stopped.
    pub(crate) fn take_turn(&mut self, is_last: bool) {
        let cluster = self.cluster.clone();
        let own = move || Some(cluster.own()?.text);
        self.ledger.take_turn(&mut self.keeper, &own, &self.tell, is_last);
    }

    /// Notes that changes are received from now on.
    pub(crate) fn listening_began(&self) {
        self.ledger.listening_began(&self.tell);
    }

    pub(crate) fn note_change(&self, change: Change) {
        self.ledger.note_change(change, self.own().as_deref(), &self.tell);
    }

    /// The number of names that its devices have.
    pub(crate) fn held(&self) -> usize {
        let status = self.ledger.status();
        status.claimed + status.unclaimed
    }
}

/// The builder's gateway on the loops of these nodes, of which the first accepts; listener 0 is the
/// devices', listener 1 the visitors' (by path), listener 2 that of other gateways.
pub(crate) fn start(
    builder: GatewayBuilder,
    nodes: &[usize],
    now: Instant,
    visitors: SocketAddr,
) -> Started {
    let mut settings = builder.settings;
    settings.observer = Observer::on(Bounds { names: 16, bytes: 16 * 1024, records: 16 * 1024 });
    settings.via = format!("ptth-{}", nodes[0]).into();
    let limits = settings.limits.clone();
    let common = Common::new(settings);
    let made = Loop::several(nodes, now, &limits, (TICK, FIRST_ALARM), |remotes, number| {
        let loops = Loops::new(remotes.to_vec(), common.name_owners());
        let place = (loops, number);
        let mut role = GatewayRole::new(&common, place, vec![(visitors, None)]);
        role.dealt = (nodes.len() > 1 && number == 0).then_some(0);
        let routes = Routes::path().and_host("sim.example").expect("a suffix");
        role.listeners.add(Some(visitors), None, Side::Visitors(Arc::new(Table::new(routes))));
        role.listeners.add(None, None, Side::Peers);
        role
    });
    let remotes = made.iter().map(|gateway: &Simulated| gateway.remote.clone()).collect();
    let loops = Loops::new(remotes, common.name_owners());
    let claims = common.peers().and_then(|cluster| {
        let ledger = cluster.ledger()?.clone();
        let tell: Tell = Arc::new(tell_loops(Arc::downgrade(&cluster), loops.clone()));
        Some(Claims { cluster, ledger, keeper: Keeper::default(), tell })
    });
    Started { made, loops, claims }
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

/// The link comes back, or has ended. A stream that is no link ends when it is dropped.
pub(crate) fn give_back(loops: &Loops<Command>, of: Leased, stream: Result<Stream, CloseReason>) {
    if let Leased::Link(lease) = of {
        let stream = stream.map(|stream| (stream, Vec::new()));
        loops.send(lease.home(), Command::Return { lease, stream });
    }
}

/// Entries that are left although nobody is connected; empty if all is well. `drained`: the gateway
/// was asked to stop, and has stopped. `is_last`: its other loops have ended.
pub(crate) fn leftovers(gateway: &Simulated, drained: bool, is_last: bool) -> Vec<String> {
    let mut left = gateway.role.leftovers(drained, is_last);
    if gateway.connections.len() > 0 {
        left.push(format!("{} connections", gateway.connections.len()));
    }
    left
}
