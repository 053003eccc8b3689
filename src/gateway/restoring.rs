//! Names that are claimed again after the directory has lost its data: those that are left, and the
//! time of the loss. Pure data.

#![cfg_attr(not(feature = "redis"), allow(dead_code, reason = "no table is shared"))]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Restoring {
    began: Instant,
    all: usize,
    left: HashSet<Arc<str>>,
}

impl Restoring {
    /// Begins with these names. If some are left from an earlier loss, the beginning is that of the
    /// earlier one.
    pub(super) fn begin(
        names: impl Iterator<Item = Arc<str>>,
        before: Option<&Restoring>,
        now: Instant,
    ) -> Self {
        let left: HashSet<Arc<str>> = names.collect();
        Restoring { began: before.map_or(now, |before| before.began), all: left.len(), left }
    }

    /// Notes that a name is claimed again, or that no device has it any longer. For the last name,
    /// returns how many there were and how long it took.
    pub(super) fn restored(&mut self, name: &str, now: Instant) -> Option<(usize, Duration)> {
        let was_last = self.left.remove(name) && self.left.is_empty();
        was_last.then(|| (self.all, now.saturating_duration_since(self.began)))
    }

    pub(super) fn left(&self) -> usize {
        self.left.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_name_ends_it_and_a_second_loss_goes_on_from_the_first() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let names = || ["a", "b"].map(Arc::from).into_iter();
        let mut first = Restoring::begin(names(), None, start);
        assert_eq!((first.restored("a", start + second), first.left()), (None, 1));
        let mut again = Restoring::begin(names(), Some(&first), start + 2 * second);
        assert_eq!(again.restored("c", start), None, "it came later");
        assert_eq!(again.restored("b", start + 2 * second), None);
        assert_eq!(again.restored("a", start + 3 * second), Some((2, 3 * second)));
        assert_eq!(again.restored("a", start + 4 * second), None);
    }
}
