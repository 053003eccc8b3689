//! Names that are remembered after their last link has ended, in the order of these ends: one entry
//! for each name, however often it connects and disconnects.
//!
//! If there are too many, the credential with the most names loses its oldest: a device that
//! registers thousands of names displaces its own, not those of others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

/// The owner of the names, if there is a credential.
type Credential = Option<Arc<str>>;

/// The time at which a name was disconnected; each is unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp(Instant, u64);

impl Stamp {
    pub(crate) fn at(self) -> Instant {
        self.0
    }
}

#[derive(Default)]
pub(crate) struct Departed {
    names: BTreeMap<Stamp, (Arc<str>, Credential)>,
    of: HashMap<Credential, BTreeSet<Stamp>>,
    /// The number of names of each credential, in order: the credential with the most is last.
    sizes: BTreeSet<(usize, Credential)>,
    stamps: u64,
}

impl Departed {
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// Adds a name that was disconnected. Returns the key of its entry.
    pub(crate) fn insert(
        &mut self,
        name: Arc<str>,
        credential: &Credential,
        now: Instant,
    ) -> Stamp {
        self.stamps += 1;
        let stamp = Stamp(now, self.stamps);
        self.names.insert(stamp, (name, credential.clone()));
        let of = self.of.entry(credential.clone()).or_default();
        self.sizes.remove(&(of.len(), credential.clone()));
        of.insert(stamp);
        self.sizes.insert((of.len(), credential.clone()));
        stamp
    }

    /// Removes a name that is connected again, or forgotten.
    pub(crate) fn remove(&mut self, stamp: Stamp) -> Option<Arc<str>> {
        let (name, credential) = self.names.remove(&stamp)?;
        if let Some(of) = self.of.get_mut(&credential) {
            self.sizes.remove(&(of.len(), credential.clone()));
            of.remove(&stamp);
            match of.len() {
                0 => drop(self.of.remove(&credential)),
                left => drop(self.sizes.insert((left, credential))),
            }
        }
        Some(name)
    }

    /// The oldest entry.
    pub(crate) fn first(&self) -> Option<Stamp> {
        self.names.keys().next().copied()
    }

    /// The oldest entry of the credential with the most names.
    pub(crate) fn first_of_most(&self) -> Option<Stamp> {
        let (_, credential) = self.sizes.last()?;
        self.of.get(credential)?.first().copied()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_credential_with_most_names_loses_its_oldest() {
        let (mut departed, now) = (Departed::default(), Instant::now());
        let (mine, other): (Credential, Credential) = (Some("mine".into()), None);
        let first = departed.insert("lamp".into(), &mine, now);
        let others: Vec<Stamp> =
            (0..3).map(|n| departed.insert(format!("n{n}").into(), &other, now)).collect();
        assert_eq!(
            (departed.len(), departed.first(), departed.first_of_most()),
            (4, Some(first), Some(others[0]))
        );
        assert_eq!(departed.remove(others[0]).as_deref(), Some("n0"));
        assert_eq!((departed.remove(others[0]), departed.first_of_most()), (None, Some(others[1])));
        for stamp in others.into_iter().chain([first]) {
            departed.remove(stamp);
        }
        assert!(departed.names.is_empty() && departed.of.is_empty() && departed.sizes.is_empty());
    }
}
