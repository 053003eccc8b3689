//! Programs' threads that wait for the loop: for a link to lease, or for a name to be connected.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::error::Error;
use crate::gateway::leases::Lease;
use crate::relay::Wait;

pub(super) type LeaseReply = Sender<Result<Lease, Error>>;
pub(super) type NameReply = Sender<Result<(), Error>>;

/// A thread that waits.
pub(super) enum Caller {
    /// In line for a link of this name.
    Link { name: String, wait: Wait, reply: LeaseReply },
    /// Until this name is connected.
    Name { name: String, reply: NameReply },
}

#[derive(Default)]
pub(super) struct Callers {
    waiting: BTreeMap<u64, Caller>,
    latest: u64,
}

impl Callers {
    /// The number of the next one.
    pub(super) fn next(&mut self) -> u64 {
        self.latest += 1;
        self.latest
    }

    pub(super) fn add(&mut self, number: u64, caller: Caller) {
        self.waiting.insert(number, caller);
    }

    /// One waits no longer.
    pub(super) fn take(&mut self, number: u64) -> Option<Caller> {
        self.waiting.remove(&number)
    }

    /// One that waited for a link gets one.
    pub(super) fn take_for_link(&mut self, number: u64) -> Option<(String, LeaseReply)> {
        match self.waiting.remove(&number)? {
            Caller::Link { name, reply, .. } => Some((name, reply)),
            Caller::Name { .. } => None,
        }
    }

    /// These names are connected: wakes those who waited for one of them.
    pub(super) fn announce(&mut self, names: &[Arc<str>]) {
        self.waiting.retain(|_, caller| match caller {
            Caller::Name { name, reply } if names.iter().any(|up| **up == **name) => {
                let _ = reply.send(Ok(())); // the caller may have gone
                false
            }
            _ => true,
        });
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}
