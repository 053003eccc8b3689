//! A device without sockets, for the simulation: how it is made, and what must be left of it at the
//! end.

#![allow(clippy::expect_used)] // only for tests: a device that cannot be built fails the test failed them

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::device::builder::DeviceBuilder;
use crate::device::command::Command;
use crate::device::events::DeviceEvent;
use crate::device::events::DeviceEventKind;
use crate::device::group::LoopGroup;
use crate::device::plan::Service;
use crate::device::role::DeviceRole;
use crate::device::servers::Common;
use crate::device::servers::Servers;
use crate::device::setup::Device;
use crate::device::setup::Parts;
use crate::device::target::Edits;
use crate::engine::simulated::Loop;
use crate::error::Error;

/// A device and its events.
pub(crate) struct Simulated {
    pub(crate) event_loop: Loop<DeviceRole>,
    events: Receiver<DeviceEvent>,
}

/// The builder's device on the loop of this node, forwarding to this server.
pub(crate) fn start(builder: DeviceBuilder, node: usize, now: Instant, target: &str) -> Simulated {
    let Device { limits, link_limits, parts, events, .. } =
        builder.build().expect("the simulation's device can be built");
    let Parts { mut members, events: sender, .. } =
        parts.into_inner().ok().flatten().expect("it was not started");
    let (plan, shared) = members.pop().expect("it has one gateway");
    let common = Common {
        host_header: None,
        maps_origin: false,
        edits: &Edits::default(),
        connections_max: limits.local_connections_max,
        has_tls: false,
        connector: &|| Err(Error::usage("there is no TLS here")),
    };
    let service = Service::Forward(
        Servers::new(target.into(), &common).expect("the simulation's server has an address"),
    );
    let for_role = [limits.clone(), link_limits];
    let event_loop = Loop::new(node, now, &limits, None, |remote| {
        let group = Arc::new(LoopGroup::default());
        let member = group.join(remote.clone());
        DeviceRole::new(for_role, (plan, shared), service, remote, sender, (group, member))
    });
    event_loop.remote.send(Command::TopUp);
    Simulated { event_loop, events }
}

/// Asks it to stop.
pub(crate) fn drain(device: &Simulated, time: Duration) {
    device.event_loop.remote.send(Command::Drain(time));
}

/// Its events of failed attempts and of links that ended with an error, since the last call.
pub(crate) fn failures(device: &Simulated) -> Vec<String> {
    device
        .events
        .try_iter()
        .filter(|event| event.kind == DeviceEventKind::Failed)
        .map(|event| event.detail)
        .collect()
}

/// Entries that are left in a stopped device; empty if all is well.
pub(crate) fn leftovers(device: &Simulated) -> Vec<String> {
    device.event_loop.role.leftovers(device.event_loop.connections.len())
}
