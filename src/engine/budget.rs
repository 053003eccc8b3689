//! Quotas on memory and on requests in flight: a bound on the total, and a bound on the part of
//! each.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::error::Refusal;

/// A bound on a total, for example on the bytes of whole messages in memory or the requests of a
/// route. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    taken: Arc<AtomicUsize>,
    most: usize,
    /// The most that one holder may take, if holders are distinguished.
    most_of_one: usize,
}

/// The amount that one of many holders takes of a [`Budget`].
pub(crate) type Part = Arc<AtomicUsize>;

impl Budget {
    pub(crate) fn new(most: usize) -> Self {
        Budget { taken: Arc::default(), most, most_of_one: most }
    }

    /// Like [`new`](Self::new), with a bound on each part.
    pub(crate) fn of_parts(most: usize, most_of_one: usize) -> Self {
        Budget { most_of_one, ..Budget::new(most) }
    }

    /// The same budget with other bounds; shares that were taken keep theirs.
    pub(crate) fn bounded(&self, most: usize, most_of_one: usize) -> Self {
        Budget { most, most_of_one, taken: self.taken.clone() }
    }

    /// An empty share.
    pub(crate) fn share(&self) -> Held {
        Held { budget: self.clone(), part: None, bytes: 0 }
    }

    /// An empty share that counts for this part.
    pub(crate) fn share_of(&self, part: Part) -> Held {
        Held { budget: self.clone(), part: Some(part), bytes: 0 }
    }

    /// The same, but it leaves `spare` bytes of the part to other shares.
    pub(crate) fn share_but(&self, part: Part, spare: usize) -> Held {
        let most_of_one = self.most_of_one.saturating_sub(spare);
        Held { budget: Budget { most_of_one, ..self.clone() }, part: Some(part), bytes: 0 }
    }

    /// The amount that is taken now.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    /// One unit, for a budget that does not count bytes. `None` if the budget is used up.
    pub(crate) fn one(&self) -> Option<Held> {
        let mut held = self.share();
        held.grow(1).then_some(held)
    }

    /// Continues the count of another budget, with the bound of this one.
    pub(crate) fn succeed(&mut self, other: &Budget) {
        self.taken = other.taken.clone();
    }
}

/// A share of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    budget: Budget,
    part: Option<Part>,
    bytes: usize,
}

impl Held {
    /// Takes more. Returns false, and takes nothing, if the budget is used up.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let within =
            |most: usize| move |taken: usize| taken.checked_add(bytes).filter(|sum| *sum <= most);
        let Budget { taken, most, most_of_one } = &self.budget;
        if self
            .part
            .as_ref()
            .is_some_and(|part| part.fetch_update(Relaxed, Relaxed, within(*most_of_one)).is_err())
        {
            return false;
        }
        let grown = taken.fetch_update(Relaxed, Relaxed, within(*most)).is_ok();
        if grown {
            self.bytes += bytes;
        } else if let Some(part) = &self.part {
            part.fetch_sub(bytes, Relaxed);
        }
        grown
    }

    /// The same for bytes of a whole message that holds `beside` bytes already.
    ///
    /// # Errors
    /// 413: the message is above the bound for one holder. 503: the budget, or this part of it, is
    /// used up now.
    pub(crate) fn take(&mut self, bytes: usize, beside: usize) -> Result<(), Refusal> {
        if self.grow(bytes) {
            return Ok(());
        }
        if bytes.saturating_add(beside) > self.budget.most_of_one {
            return Err(Refusal::new(
                413,
                "the message is longer, as the device takes it, than the share of messages_bytes_max that one device has",
            ));
        }
        Err(Refusal::new(
            503,
            "this gateway holds as many bytes of whole messages as messages_bytes_max allows, or its share for this device; try again later",
        ))
    }

    /// Counts memory that is in use already, regardless of the bound.
    pub(crate) fn force(&mut self, bytes: usize) {
        self.budget.taken.fetch_add(bytes, Relaxed);
        if let Some(part) = &self.part {
            part.fetch_add(bytes, Relaxed);
        }
        self.bytes += bytes;
    }

    /// Returns true if others need this memory: more than half of the budget, or of its part, is
    /// taken.
    pub(crate) fn is_wanted(&self) -> bool {
        let Budget { taken, most, most_of_one } = &self.budget;
        let of_part = self.part.as_ref().is_some_and(|part| part.load(Relaxed) > most_of_one / 2);
        self.bytes > 0 && (of_part || taken.load(Relaxed) > most / 2)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Relaxed);
        if let Some(part) = &self.part {
            part.fetch_sub(self.bytes, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_wanted_when_more_than_half_of_it_is_taken() {
        let budget = Budget::of_parts(1000, 100);
        let (mine, others) = (Part::default(), Part::default());
        let (mut held, mut beside) = (budget.share_of(mine.clone()), budget.share_of(others));
        assert!(held.grow(50) && beside.grow(10));
        assert!(!held.is_wanted() && !beside.is_wanted());
        assert!(held.grow(1));
        assert!(held.is_wanted() && !beside.is_wanted());
        // Bytes taken by force count for the part, too, and are given back with the rest.
        held.force(60);
        assert_eq!((mine.load(Relaxed), budget.taken()), (111, 121));
        drop(held);
        assert_eq!((mine.load(Relaxed), budget.taken()), (0, 10));
    }

    #[test]
    fn what_is_spared_is_left_to_the_others_of_a_part() {
        let budget = Budget::of_parts(1000, 100);
        let part = Part::default();
        let (mut upload, mut answer) = (budget.share_but(part.clone(), 25), budget.share_of(part));
        assert!(!upload.grow(76) && upload.grow(75) && !upload.grow(1));
        assert!(answer.grow(25) && !answer.grow(1));
    }
}
