//! A gateway without sockets, for the simulation: how it is made, and what must be left of it when all is over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::simulated::Loop;
use crate::gateway::role::{self, Command, GatewayRole, Settings};
use crate::gateway::routes::Table;
use crate::gateway::{GatewayBuilder, Routes, Stats};

/// A gateway that takes its turns by hand.
pub(crate) type Simulated = Loop<GatewayRole>;

/// The builder's gateway on the loop of this node; listener 0 is the devices', listener 1 the visitors' (by path).
pub(crate) fn start(builder: GatewayBuilder, node: usize, now: Instant, visitors: SocketAddr) -> Simulated {
    let limits = Arc::new(builder.limits);
    let settings = Settings {
        limits: limits.clone(),
        link_limits: Arc::new(limits.with_room()),
        offer_rules: builder.offer_rules,
        turns: builder.turns,
        shared_names: builder.shared_names,
        fallback: builder.fallback,
        cors_origins: builder.cors_origins,
        keep_underscore: builder.keep_underscore,
        trusted: builder.trusted,
        forwarded_element: builder.forwarded,
        via: format!("ptth-{node}").into(),
        drain_to: builder.drain_to,
        tokens: builder.tokens,
        visitor_tokens: builder.visitor_tokens,
        devices_allow: builder.devices_allow,
        visitors_allow: builder.visitors_allow,
        authorize: builder.authorize,
        on_link: builder.on_link,
    };
    let tick = Some((role::TICK, role::FIRST_ALARM));
    Loop::new(node, now, &limits, tick, |remote| {
        let mut role = GatewayRole::new(settings, remote, Arc::new(Stats::default()), vec![(visitors, None)]);
        role.listen_simulated(Box::new(Table::new(Routes::path())), visitors);
        role
    })
}

/// Asks it to stop.
pub(crate) fn drain(gateway: &Simulated, time: Duration) {
    gateway.remote.send(Command::Drain { notice: Duration::ZERO, time });
}

/// What is left though nobody is connected any more; empty where all is well. `drained`: it was asked to stop, and has.
pub(crate) fn leftovers(gateway: &Simulated, drained: bool) -> Vec<String> {
    let mut left = gateway.role.leftovers(drained);
    if gateway.peers.len() > 0 {
        left.push(format!("{} connections", gateway.peers.len()));
    }
    left
}
