//! The event loops of one gateway: sends commands to them, and finds the loop that owns a name.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::engine::event_loop::Remote;
use crate::gateway::changes::{Changes, Outdated};
use crate::gateway::name_owners::NameOwners;

/// A request or offer was moved too often, because its name kept changing its loop.
pub(super) const MOVED_TOO_OFTEN: &str =
    "the device changes from one event loop of this gateway to another; try again";

/// The senders to all loops. Clones share the table of owners.
pub(crate) struct Loops<C> {
    remotes: Arc<[Remote<C>]>,
    owners: Arc<NameOwners>,
}

impl<C> Clone for Loops<C> {
    fn clone(&self) -> Self {
        Loops { remotes: self.remotes.clone(), owners: self.owners.clone() }
    }
}

impl<C> Loops<C> {
    /// Of these loops, at least one, in the order of their numbers.
    pub(crate) fn new(remotes: Vec<Remote<C>>, owners: Arc<NameOwners>) -> Self {
        Loops { remotes: remotes.into(), owners }
    }

    pub(crate) fn len(&self) -> usize {
        self.remotes.len()
    }

    pub(crate) fn are_several(&self) -> bool {
        self.len() > 1
    }

    /// The loop that owns this name; if none does, a fixed one for it.
    pub(crate) fn home_of(&self, name: &str) -> usize {
        if !self.are_several() {
            return 0;
        }
        let spread = || name.bytes().fold(0, |sum: usize, b| sum.wrapping_mul(31) + b as usize);
        self.owners.owner(name).unwrap_or_else(spread) % self.len()
    }

    /// The names that are connected, each with the loop that owns it.
    pub(crate) fn connected_names(&self) -> Vec<(Arc<str>, usize)> {
        self.owners.connected_names()
    }

    /// The loop that owns this name, if it is connected.
    pub(crate) fn home_of_connected(&self, name: &str) -> Option<usize> {
        self.owners.is_connected(name).then(|| self.owners.owner(name)).flatten()
    }

    /// Sends a command to a loop. Returns false if it has ended.
    pub(crate) fn send(&self, number: usize, command: C) -> bool {
        self.remotes.get(number).is_some_and(|remote| remote.send(command))
    }

    /// Sends a command to every loop, in order, with replies to the same channel. `None` if one of
    /// them has ended; the others still get it.
    pub(crate) fn ask<T>(&self, mut command: impl FnMut(Sender<T>) -> C) -> Option<Receiver<T>> {
        let (reply, answers) = bounded(self.len()); // so that no loop waits for the caller
        let mut sent = true;
        for remote in &*self.remotes {
            sent &= remote.send(command(reply.clone()));
        }
        sent.then_some(answers)
    }

    /// Sends a command to every loop except one.
    pub(crate) fn send_others(&self, but: usize, mut command: impl FnMut() -> C) {
        for (_, remote) in self.remotes.iter().enumerate().filter(|(number, _)| *number != but) {
            remote.send(command());
        }
    }

    /// Notes the changes for all loops, and sends a command to each loop that has none pending for
    /// them.
    pub(crate) fn send_once(&self, all: &Changes, what: &Outdated, command: impl Fn() -> C) {
        all.note(what, self.len(), |number| {
            self.send(number, command()); // a loop that has ended needs no changes
        });
    }

    /// Makes every loop take a turn.
    pub(crate) fn wake_all(&self) {
        self.remotes.iter().for_each(Remote::wake);
    }

    /// The sender to the loop of this number.
    pub(crate) fn remote(&self, number: usize) -> &Remote<C> {
        &self.remotes[number % self.len()]
    }
}
