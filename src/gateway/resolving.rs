//! Connections that wait until the hosts of other gateways are resolved, up to a bound, because a
//! name server may hang for a long time. Pure data, no clock.

use std::collections::HashMap;
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Resolving<T> {
    of: HashMap<Arc<str>, Vec<T>>,
    len: usize,
}

impl<T> Default for Resolving<T> {
    fn default() -> Self {
        Resolving { of: HashMap::new(), len: 0 }
    }
}

impl<T> Resolving<T> {
    /// Returns true if the host is not being resolved yet.
    ///
    /// # Errors
    /// The bound for all hosts together is reached.
    pub(super) fn add(&mut self, host: &Arc<str>, wanted: T, most: usize) -> Result<bool, T> {
        if self.len >= most {
            return Err(wanted);
        }
        self.len += 1;
        let waiting = self.of.entry(host.clone()).or_default();
        waiting.push(wanted);
        Ok(waiting.len() == 1)
    }

    /// Takes the entries of a host that was resolved, or cannot be.
    pub(super) fn take(&mut self, host: &str) -> Vec<T> {
        let waited = self.of.remove(host).unwrap_or_default();
        self.len -= waited.len();
        waited
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }
}
