//! Programs' threads that wait for the loop: for a link to lease, or for a name to be connected.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::cancel::Cancel;
use crate::error::Error;
use crate::gateway::leases::Lease;
use crate::gateway::name_owners::NameOwners;
use crate::relay::Wait;

pub(super) type LeaseReply = Sender<Result<Lease, Error>>;
pub(super) type NameReply = Sender<Result<(), Error>>;

/// A thread that waits.
pub(super) enum Caller {
    /// It waits for a link of this name.
    Link { name: String, wait: Wait, cancel: Option<Cancel>, reply: LeaseReply },
    /// It waits until this name is connected.
    Name { name: String, cancel: Option<Cancel>, reply: NameReply },
}

impl Caller {
    fn is_cancelled(&self) -> bool {
        let (Caller::Link { cancel, .. } | Caller::Name { cancel, .. }) = self;
        cancel.as_ref().is_some_and(Cancel::is_cancelled)
    }
}

pub(super) struct Callers {
    owners: Arc<NameOwners>,
    waiting: BTreeMap<u64, Caller>,
    latest: u64,
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.waiting.values().for_each(|caller| self.is_over(caller));
    }
}

impl Callers {
    /// The callers of one loop; all loops share the table of owners.
    pub(super) fn new(owners: Arc<NameOwners>) -> Self {
        Callers { owners, waiting: BTreeMap::new(), latest: 0 }
    }

    fn is_over(&self, caller: &Caller) {
        if let Caller::Name { .. } = caller {
            self.owners.end_wait();
        }
    }

    /// The number for the next caller.
    pub(super) fn next(&mut self) -> u64 {
        self.latest += 1;
        self.latest
    }

    pub(super) fn add(&mut self, number: u64, caller: Caller) {
        if let Caller::Name { .. } = caller {
            self.owners.begin_wait();
        }
        self.waiting.insert(number, caller);
    }

    /// Removes a caller that no longer waits.
    pub(super) fn take(&mut self, number: u64) -> Option<Caller> {
        let caller = self.waiting.remove(&number)?;
        self.is_over(&caller);
        Some(caller)
    }

    /// The name of the device for whose link this caller waits.
    pub(super) fn name_for_link(&self, number: u64) -> Option<&str> {
        match self.waiting.get(&number)? {
            Caller::Link { name, .. } => Some(name),
            Caller::Name { .. } => None,
        }
    }

    /// Removes a caller that waited for a link and gets one.
    pub(super) fn take_for_link(&mut self, number: u64) -> Option<(String, LeaseReply)> {
        match self.take(number)? {
            Caller::Link { name, reply, .. } => Some((name, reply)),
            Caller::Name { .. } => None,
        }
    }

    /// Removes the callers that were cancelled.
    pub(super) fn take_cancelled(&mut self) -> Vec<(u64, Caller)> {
        let cancelled = self.waiting.iter().filter(|(_, caller)| caller.is_cancelled());
        let numbers: Vec<u64> = cancelled.map(|(number, _)| *number).collect();
        numbers.into_iter().filter_map(|n| self.take(n).map(|caller| (n, caller))).collect()
    }

    /// These names are connected, to any loop: wakes the callers that wait for them.
    pub(super) fn announce(&mut self, names: &[Arc<str>]) {
        let owners = &self.owners;
        self.waiting.retain(|_, caller| match caller {
            Caller::Name { name, reply, .. } if names.iter().any(|up| **up == **name) => {
                let _ = reply.send(Ok(())); // the caller may have left
                owners.end_wait();
                false
            }
            _ => true,
        });
    }

    /// Returns true if a thread waits for any name, at any loop.
    pub(super) fn are_anywhere(&self) -> bool {
        self.owners.is_awaited()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}
