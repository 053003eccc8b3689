//! Keeps the beginning of a body while it is sent to another gateway: if that one no longer has the
//! device, a further one is asked.

use crate::engine::budget::Held;
use crate::limits::PEER_BODY_KEPT_MAX;

pub(super) struct Kept {
    bytes: Vec<u8>,
    held: Held,
}

impl Kept {
    /// `held` is an empty share of the budget for whole messages.
    pub(super) fn new(held: Held) -> Self {
        Kept { bytes: Vec::new(), held }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Keeps further bytes. Returns false if the body is too long, or others need the memory.
    pub(super) fn keep(&mut self, data: &[u8]) -> bool {
        if self.bytes.len() + data.len() > PEER_BODY_KEPT_MAX {
            return false;
        }
        let had = self.bytes.capacity();
        self.bytes.extend_from_slice(data);
        self.held.grow(self.bytes.capacity() - had) && !self.held.is_wanted()
    }
}
