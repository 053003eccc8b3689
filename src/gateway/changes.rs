//! Changes in the directory of gateways that the loops have not processed yet. However fast changes
//! come, each loop has one command in its queue, and for each name only the last change.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits::CHANGED_NAMES_MAX;

/// Cached answers about other gateways that are no longer valid.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outdated {
    All,
    /// Names, each with the gateway that has it now, if that is known: an answer with this gateway
    /// remains valid.
    Names(BTreeMap<Arc<str>, Option<Box<str>>>),
}

impl Default for Outdated {
    fn default() -> Self {
        Outdated::Names(BTreeMap::new())
    }
}

impl Outdated {
    /// One name.
    pub(crate) fn name(name: &str) -> Self {
        Outdated::Names(BTreeMap::from([(name.into(), None)]))
    }

    fn is_nothing(&self) -> bool {
        matches!(self, Outdated::Names(names) if names.is_empty())
    }

    fn add(&mut self, other: &Outdated) {
        let (Outdated::Names(names), Outdated::Names(more)) = (&mut *self, other) else {
            *self = Outdated::All;
            return;
        };
        names.extend(more.iter().map(|(name, gateway)| (name.clone(), gateway.clone())));
        if names.len() > CHANGED_NAMES_MAX {
            *self = Outdated::All;
        }
    }
}

/// The changes that each loop has not processed yet, by its number.
#[derive(Default)]
pub(crate) struct Changes(Mutex<Vec<Outdated>>);

impl Changes {
    fn lock(&self) -> MutexGuard<'_, Vec<Outdated>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes changes for this number of loops, and calls `wake` for each that has no command for
    /// them in its queue.
    pub(crate) fn note(&self, what: &Outdated, loops: usize, mut wake: impl FnMut(usize)) {
        let mut all = self.lock();
        if all.len() < loops {
            all.resize_with(loops, Outdated::default);
        }
        for (number, pending) in all.iter_mut().enumerate() {
            let is_news = pending.is_nothing();
            pending.add(what);
            if is_news && !pending.is_nothing() {
                wake(number);
            }
        }
    }

    /// Takes the changes for a loop.
    pub(crate) fn take(&self, number: usize) -> Outdated {
        self.lock().get_mut(number).map(std::mem::take).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_woken_once_for_all_changes_and_hears_of_each_name_the_last() {
        let (changes, mut woken) = (Changes::default(), Vec::new());
        let moved = |name: &str, gateway: &str| {
            Outdated::Names(BTreeMap::from([(name.into(), Some(gateway.into()))]))
        };
        for what in [moved("lamp", "a"), moved("door", "a"), moved("lamp", "b")] {
            changes.note(&what, 2, |number| woken.push(number));
        }
        assert_eq!(woken, [0, 1]);
        let Outdated::Names(names) = changes.take(0) else { panic!("names") };
        assert_eq!((names.len(), names["lamp"].as_deref()), (2, Some("b")));
        assert!(changes.take(0).is_nothing());
        changes.note(&Outdated::name("lamp"), 2, |number| woken.push(number));
        assert_eq!(woken, [0, 1, 0], "the other one has not looked yet");
        for n in 0..3 * CHANGED_NAMES_MAX {
            changes.note(&moved(&format!("n{n}"), "a"), 2, |number| woken.push(number));
        }
        assert_eq!((changes.take(0), changes.take(1)), (Outdated::All, Outdated::All));
        assert_eq!(woken.len(), 3, "of so many names nothing counts any more");
    }
}
