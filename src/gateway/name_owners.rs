//! Which event loop of this gateway owns a name: the loops' shared view of their registries.
//!
//! The loop that registers a name first, or expects its device, owns it until the name is
//! forgotten: the entry here is made before the registry's, and removed after it. A loop searches
//! its own registry first, so a request on a connection of its device's loop does not use this
//! table.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use crate::engine::budget::Part;

const SHARDS: usize = 16;

type Names = HashMap<Arc<str>, Known>;

#[derive(Debug)]
struct Known {
    owner: usize,
    is_connected: bool,
}

/// The names of all loops, and their common counters.
#[derive(Debug)]
pub(crate) struct NameOwners {
    shards: [RwLock<Names>; SHARDS],
    hash: RandomState,
    /// Names that are connected.
    connected: AtomicUsize,
    /// Names that are no longer connected, but still known.
    remembered: AtomicUsize,
    /// Threads of programs that wait until a name is connected.
    awaited: AtomicUsize,
    parts: Mutex<Parts>,
}

/// The part that each credential, or name without one, uses of the budget of whole messages.
#[derive(Debug, Default)]
struct Parts {
    of: HashMap<Box<str>, Weak<AtomicUsize>>,
    /// The number of entries after the last sweep.
    left: usize,
}

impl Default for NameOwners {
    fn default() -> Self {
        NameOwners {
            shards: Default::default(),
            hash: RandomState::new(),
            connected: AtomicUsize::new(0),
            remembered: AtomicUsize::new(0),
            awaited: AtomicUsize::new(0),
            parts: Mutex::default(),
        }
    }
}

impl NameOwners {
    fn shard(&self, name: &str) -> &RwLock<Names> {
        &self.shards[self.hash.hash_one(name) as usize % SHARDS]
    }

    fn read(&self, name: &str) -> RwLockReadGuard<'_, Names> {
        self.shard(name).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, name: &str) -> RwLockWriteGuard<'_, Names> {
        self.shard(name).write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop that owns this name.
    pub(crate) fn owner(&self, name: &str) -> Option<usize> {
        self.read(name).get(name).map(|known| known.owner)
    }

    /// Returns true if a device of this name is connected.
    pub(crate) fn is_connected(&self, name: &str) -> bool {
        self.read(name).get(name).is_some_and(|known| known.is_connected)
    }

    /// Makes a loop the owner of a name without an owner. Returns true if it had none.
    ///
    /// # Errors
    /// Another loop owns it.
    pub(super) fn own(&self, name: &Arc<str>, number: usize) -> Result<bool, usize> {
        match self.write(name).entry(name.clone()) {
            Entry::Vacant(vacant) => {
                vacant.insert(Known { owner: number, is_connected: false });
                Ok(true)
            }
            Entry::Occupied(known) if known.get().owner == number => Ok(false),
            Entry::Occupied(known) => Err(known.get().owner),
        }
    }

    /// The owner has forgotten the name.
    pub(super) fn disown(&self, name: &str) {
        self.write(name).remove(name);
    }

    /// Notes whether a name is connected.
    pub(super) fn set_connected(&self, name: &str, is_connected: bool) {
        if let Some(known) = self.write(name).get_mut(name) {
            known.is_connected = is_connected;
        }
    }

    /// Names that are connected.
    pub(crate) fn connected(&self) -> usize {
        self.connected.load(Relaxed)
    }

    /// The names that are connected, each with its owner. One shard is locked at a time.
    pub(crate) fn connected_names(&self) -> Vec<(Arc<str>, usize)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let names = shard.read().unwrap_or_else(PoisonError::into_inner);
            let connected = names.iter().filter(|(_, known)| known.is_connected);
            found.extend(connected.map(|(name, known)| (name.clone(), known.owner)));
        }
        found
    }

    /// Counts newly connected names. Returns false if there are more than `most` then.
    pub(super) fn connect(&self, names: usize, most: usize) -> bool {
        let more = |count: usize| count.checked_add(names).filter(|sum| *sum <= most);
        self.connected.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    /// A name is no longer connected.
    pub(super) fn disconnect(&self) {
        self.connected.fetch_sub(1, Relaxed);
    }

    /// Names that are remembered.
    pub(super) fn remembered(&self) -> usize {
        self.remembered.load(Relaxed)
    }

    pub(super) fn remember(&self) {
        self.remembered.fetch_add(1, Relaxed);
    }

    pub(super) fn forget(&self) {
        self.remembered.fetch_sub(1, Relaxed);
    }

    /// A thread waits for a name. The caller has to check afterwards whether the name is connected,
    /// so that no loop that connects it overlooks the thread.
    pub(super) fn begin_wait(&self) {
        self.awaited.fetch_add(1, SeqCst);
    }

    pub(super) fn end_wait(&self) {
        self.awaited.fetch_sub(1, SeqCst);
    }

    /// Returns true if a thread waits for any name of any loop.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited.load(SeqCst) > 0
    }

    /// The part that this credential, or name, uses of the budget of whole messages.
    pub(super) fn part(&self, key: &str) -> Part {
        const SPARE: usize = 64;
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = parts.of.get(key).and_then(Weak::upgrade) {
            return part;
        }
        if parts.of.len() > 2 * parts.left + SPARE {
            parts.of.retain(|_, part| part.strong_count() > 0);
            parts.left = parts.of.len();
        }
        let part = Part::default();
        parts.of.insert(key.into(), Arc::downgrade(&part));
        part
    }

    /// The number of parts, unused ones included.
    #[cfg(test)]
    pub(super) fn parts(&self) -> usize {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).of.len()
    }

    /// Names of all loops.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|s| s.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}

/// A loop's number, and the table of owners.
#[derive(Clone)]
pub(crate) struct Home {
    pub(super) owners: Arc<NameOwners>,
    /// The loop's number.
    pub(super) number: usize,
}

#[cfg(test)]
impl Home {
    /// The place of a single loop.
    pub(super) fn alone() -> Self {
        Home { owners: Arc::default(), number: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_loop_owns_a_name_until_it_is_forgotten() {
        let (owners, name) = (NameOwners::default(), Arc::from("lamp"));
        assert_eq!(owners.owner("lamp"), None);
        assert_eq!(owners.own(&name, 1), Ok(true));
        assert_eq!(owners.own(&name, 1), Ok(false));
        assert_eq!(owners.own(&name, 0), Err(1));
        assert!(!owners.is_connected("lamp"));
        owners.set_connected("lamp", true);
        assert!(owners.is_connected("lamp") && owners.owner("lamp") == Some(1));
        owners.disown("lamp");
        assert_eq!((owners.owner("lamp"), owners.len()), (None, 0));
        assert_eq!(owners.own(&name, 0), Ok(true));
    }

    #[test]
    fn names_are_counted_for_all_loops_up_to_their_bound() {
        let owners = NameOwners::default();
        assert!(owners.connect(2, 3) && !owners.connect(2, 3) && owners.connect(1, 3));
        assert_eq!(owners.connected(), 3);
        owners.disconnect();
        assert!(owners.connect(1, 3));
    }

    #[test]
    fn one_credential_has_one_part_wherever_its_names_are() {
        let owners = NameOwners::default();
        let part = owners.part("credential mine");
        assert!(Arc::ptr_eq(&part, &owners.part("credential mine")));
        assert!(!Arc::ptr_eq(&part, &owners.part("name lamp")));
    }
}
