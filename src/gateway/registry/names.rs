//! The entries of names. A registration knows the places of its names, so a step of a link finds
//! their entries without hashing a name.

use std::collections::HashMap;
use std::sync::Arc;

use crate::gateway::registry::entry::Entry;

/// A name of a registration, with the place of its entry, and the epoch of its owner. A place that
/// was reused holds another epoch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) name: Arc<str>,
    pub(super) place: usize,
    pub(super) epoch: u64,
}

#[derive(Default)]
pub(super) struct Names {
    places: HashMap<Arc<str>, usize>,
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
}

impl Names {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// The name as it is shared by its links.
    pub(super) fn known(&self, name: &str) -> Option<&Arc<str>> {
        self.places.get_key_value(name).map(|(name, _)| name)
    }

    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(self.place(name)?)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Entry> {
        let place = self.place(name)?;
        self.entries.get_mut(place)?.as_mut()
    }

    /// The entry of a registration's name, unless the name has another owner by now.
    pub(super) fn held(&self, held: &Held) -> Option<&Entry> {
        self.entries.get(held.place)?.as_ref().filter(|entry| entry.epoch == held.epoch)
    }

    pub(super) fn held_mut(&mut self, held: &Held) -> Option<&mut Entry> {
        self.entries.get_mut(held.place)?.as_mut().filter(|entry| entry.epoch == held.epoch)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Entry)> {
        self.places.iter().filter_map(|(name, place)| Some((name, self.entries[*place].as_ref()?)))
    }

    pub(super) fn for_each_mut(&mut self, mut f: impl FnMut(&str, &mut Entry)) {
        for (name, place) in &self.places {
            self.entries[*place].iter_mut().for_each(|entry| f(name, entry));
        }
    }

    /// The entry of a name, which is made if there is none, and its place.
    pub(super) fn get_or_insert(
        &mut self,
        name: &Arc<str>,
        new: impl FnOnce() -> Entry,
    ) -> (usize, &mut Entry) {
        let place = self.place(name).unwrap_or_else(|| {
            let place = self.free.pop().unwrap_or_else(|| {
                self.entries.push(None);
                self.entries.len() - 1
            });
            self.places.insert(name.clone(), place);
            place
        });
        (place, self.entries[place].get_or_insert_with(new))
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Entry> {
        let place = self.places.remove(name)?;
        self.free.push(place);
        self.entries[place].take()
    }
}
