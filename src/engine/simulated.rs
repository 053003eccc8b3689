//! A role's loop driven by hand: the turn of [`event_loop`](super::event_loop) on the simulated
//! network and its clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::engine::connections::{Connections, Id, Watcher};
use crate::engine::event_loop::{Remote, expire, handle_commands, ready, step_ready};
use crate::engine::group::Group;
use crate::engine::handshakes::Handshakes;
use crate::engine::role::Role;
use crate::limits::Limits;
use crate::sim::net;
use crate::stream::Stream;

/// A loop that takes one turn at a time.
pub(crate) struct Loop<R: Role> {
    pub(crate) role: R,
    pub(crate) connections: Connections<R::State>,
    pub(crate) remote: Remote<R::Command>,
    commands: Receiver<R::Command>,
    node: usize,
}

impl<R: Role> Loop<R> {
    /// The single loop of this node. `alarm` is set before it begins.
    pub(crate) fn new(
        node: usize,
        now: Instant,
        limits: &Limits,
        alarm: Option<(Duration, u64)>,
        role: impl FnOnce(Remote<R::Command>) -> R,
    ) -> Self {
        let (remote, commands) = Remote::simulated();
        let connections = Self::table(node, now, limits, (Group::new(1, limits), 0));
        let mut this = Loop { role: role(remote.clone()), connections, remote, commands, node };
        this.alarm(alarm);
        this
    }

    /// The loops of these nodes, as one group.
    pub(crate) fn several(
        nodes: &[usize],
        now: Instant,
        limits: &Limits,
        alarm: (Duration, u64),
        role: impl Fn(&[Remote<R::Command>], usize) -> R,
    ) -> Vec<Self> {
        let (remotes, commands): (Vec<_>, Vec<_>) =
            nodes.iter().map(|_| Remote::simulated()).unzip();
        let group = Group::new(nodes.len(), limits);
        let loops = nodes.iter().zip(commands).enumerate();
        loops
            .map(|(number, (node, commands))| {
                let connections = Self::table(*node, now, limits, (group.clone(), number));
                let (role, remote) = (role(&remotes, number), remotes[number].clone());
                let mut this = Loop { role, connections, remote, commands, node: *node };
                this.alarm(Some(alarm));
                this
            })
            .collect()
    }

    fn alarm(&mut self, alarm: Option<(Duration, u64)>) {
        if let Some((after, key)) = alarm {
            let at = self.connections.after(after);
            self.connections.alarm(at, key);
        }
    }

    fn table(
        node: usize,
        now: Instant,
        limits: &Limits,
        (group, number): (Arc<Group>, usize),
    ) -> Connections<R::State> {
        let mut connections = Connections::new(
            Watcher::Simulated(node),
            limits.connections_max,
            Handshakes::new(limits, None, Arc::default(), group.clone()),
            (group, number),
        );
        connections.begin_at(now);
        connections
    }

    /// One turn, in the order of the real loop. Returns false if the role is finished.
    pub(crate) fn turn(&mut self, now: Instant) -> bool {
        if self.role.finished(&self.connections) {
            return false;
        }
        if !self.connections.listening {
            self.connections.listeners_closed();
        }
        let events = net::with(|net| net.take_ready(self.node));
        self.connections.set_clock(now, Duration::ZERO);
        step_ready(&mut self.connections, &mut self.role, events.len());
        for (token, news) in events {
            let id = Id::from_bits(token);
            if self.connections.note(id, news) {
                ready(&mut self.connections, &mut self.role, id);
            }
        }
        while let Some((listener, socket, from)) =
            net::with(|net| net.accept(self.node)).filter(|_| self.connections.listening)
        {
            self.role.accepted(&mut self.connections, listener, Stream::from(socket), from);
        }
        handle_commands(&mut self.connections, &mut self.role, &self.commands);
        expire(&mut self.connections, &mut self.role);
        !self.role.finished(&self.connections)
    }

    /// Bytes in the buffers of its connections.
    pub(crate) fn held(&self) -> usize {
        self.connections
            .ids()
            .into_iter()
            .filter_map(|id| self.connections.get(id))
            .map(|conn| conn.pending() + conn.kept())
            .sum()
    }

    /// Returns true if it has work to do without an event.
    pub(crate) fn is_eager(&self) -> bool {
        self.connections.is_eager() || !self.commands.is_empty()
    }

    /// The time at which its next timer is due, as its wait would end for it.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.connections.timers.next().map(|at| at + Duration::from_millis(1))
    }
}
