//! Deadlines of the loop: a heap of wake-ups that is not updated with every change of a deadline.
//!
//! A connection's deadline moves with almost every event, but nearly always later. So an entry is
//! pushed only when it is earlier than the one already there; if the deadline has moved when the
//! entry fires, it is pushed again for the rest. A busy keep-alive connection costs one heap
//! operation per timeout period instead of two per request.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// The subject of a wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A connection, by its key's bits.
    Connection(usize),
    /// An alarm of the role, with a number of its choice.
    Alarm(u64),
}

#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Timer)>>,
}

impl Timers {
    pub(crate) fn push(&mut self, at: Instant, timer: Timer) {
        self.heap.push(Reverse((at, timer)));
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// The time at which the next one is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Removes one that is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<(Instant, Timer)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}
