//! A table with generations: a key of a reused slot never finds its successor (T42).

/// The key of an entry of a [`Slab`]. It fits a mio token: half its bits are the slot, half the
/// generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(usize);

const HALF: u32 = usize::BITS / 2;
const LOW: usize = (1 << HALF) - 1;

impl Key {
    /// The number for a mio token.
    pub(crate) fn bits(self) -> usize {
        self.0
    }
    /// The key for the number of a mio token.
    pub(crate) fn from_bits(bits: usize) -> Self {
        Key(bits)
    }
    fn new(slot: usize, generation: usize) -> Self {
        Key((generation << HALF) | slot)
    }
    fn slot(self) -> usize {
        self.0 & LOW
    }
}

struct Slot<T> {
    key: Key,
    entry: Option<T>,
}

/// A growing table whose freed slots are reused with another generation.
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<usize>,
    len: usize,
    /// The generation of a new slot.
    generation: usize,
}

/// The distance between the first generations of two tables.
const APART: u32 = HALF / 4 * 3;

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Slab::numbered(0)
    }

    /// The table with this number of several tables. Their keys differ until a slot has been used
    /// millions of times.
    pub(crate) fn numbered(number: usize) -> Self {
        Slab { slots: Vec::new(), free: Vec::new(), len: 0, generation: (number << APART) & LOW }
    }

    /// The most entries. The highest slots are excluded: with all generation bits set, their keys
    /// would be the loop's own tokens.
    pub(crate) const CEILING: usize = LOW - 128;

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Inserts an entry. The caller keeps the number of entries below [`CEILING`](Self::CEILING).
    pub(crate) fn insert(&mut self, entry: T) -> Key {
        self.len += 1;
        if let Some(slot) = self.free.pop() {
            self.slots[slot].entry = Some(entry);
            return self.slots[slot].key;
        }
        let key = Key::new(self.slots.len(), self.generation);
        self.slots.push(Slot { key, entry: Some(entry) });
        key
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.slot()).filter(|s| s.key == key)?;
        let entry = slot.entry.take()?;
        let generation = (key.0 >> HALF).wrapping_add(1) & LOW;
        slot.key = Key::new(key.slot(), generation);
        self.free.push(key.slot());
        self.len -= 1;
        Some(entry)
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        self.slots.get(key.slot()).filter(|s| s.key == key)?.entry.as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.slots.get_mut(key.slot()).filter(|s| s.key == key)?.entry.as_mut()
    }

    /// Mutable access to two different entries.
    pub(crate) fn pair_mut(&mut self, a: Key, b: Key) -> Option<(&mut T, &mut T)> {
        let (i, j) = (a.slot(), b.slot());
        if i == j || i.max(j) >= self.slots.len() {
            return None;
        }
        let (low, high) = self.slots.split_at_mut(i.max(j));
        let (first, second) =
            if i < j { (&mut low[i], &mut high[0]) } else { (&mut high[0], &mut low[j]) };
        if first.key != a || second.key != b {
            return None;
        }
        Some((first.entry.as_mut()?, second.entry.as_mut()?))
    }

    pub(crate) fn keys(&self) -> Vec<Key> {
        self.slots.iter().filter(|s| s.entry.is_some()).map(|s| s.key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_a_reused_slot_finds_nothing() {
        let mut slab = Slab::new();
        let old = slab.insert("old");
        assert_eq!(slab.remove(old), Some("old"));
        let new = slab.insert("new");
        assert_eq!(new.slot(), old.slot());
        assert_eq!(slab.get(old), None);
        assert_eq!(slab.get_mut(old), None);
        assert_eq!(slab.remove(old), None);
        assert_eq!((slab.get(new), slab.len()), (Some(&"new"), 1));
        assert_eq!(Key::from_bits(new.bits()), new);
    }

    #[test]
    fn keys_of_two_tables_differ() {
        let (mut one, mut two) = (Slab::numbered(1), Slab::numbered(2));
        let key = one.insert("one");
        assert_ne!(key, two.insert("two"));
        assert_eq!((one.get(key), two.get(key)), (Some(&"one"), None));
    }

    #[test]
    fn a_pair_is_two_different_living_entries() {
        let mut slab = Slab::new();
        let (a, b) = (slab.insert(1), slab.insert(2));
        assert_eq!(slab.pair_mut(a, b), Some((&mut 1, &mut 2)));
        assert_eq!(slab.pair_mut(b, a), Some((&mut 2, &mut 1)));
        assert_eq!(slab.pair_mut(a, a), None);
        slab.remove(b);
        assert_eq!(slab.pair_mut(a, b), None);
    }
}
