//! What a role adds so that exchanges can be driven on its loop.

use std::sync::Arc;

use crate::close_reason::CloseReason;
use crate::engine::Role;
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::{Key, Slab};
use crate::relay::exchange::Exchange;
use crate::relay::local_answer::LocalAnswer;
use crate::relay::rules::Rules;

/// What a role adds so that exchanges can be driven on its loop.
pub(crate) trait Relaying: Role {
    fn exchanges(&mut self) -> &mut Slab<Box<Exchange>>;
    fn rules(&self) -> Arc<Rules>;
    /// The upstream connection is free: it is at a message boundary and can be reused, or (`Err`)
    /// has to be closed for this reason.
    fn free(
        &mut self,
        cx: &mut Connections<Self::State>,
        link: Id,
        reusable: Result<(), CloseReason>,
    );
    /// Finds another upstream connection: no byte of a response has arrived and the request may be
    /// sent again, or another gateway does not have the device ([`Exchange::take_miss`]).
    fn retry(&mut self, cx: &mut Connections<Self::State>, key: Key);
    /// The exchange has ended and is removed. The downstream connection is at a message boundary
    /// (`keep`), or has to be closed gently.
    fn next(&mut self, cx: &mut Connections<Self::State>, downstream: Id, keep: bool);
    /// The exchange failed before its response began: answers the downstream side, and ends its
    /// connection unless the answer keeps it.
    fn answer(
        &mut self,
        cx: &mut Connections<Self::State>,
        downstream: Id,
        answer: &LocalAnswer<'_>,
    );
    /// The exchange cannot be completed for the downstream connection, or was a tunnel that has
    /// ended: closes it, with a reset if the client has to see the end as a failure.
    fn downstream_gone(
        &mut self,
        cx: &mut Connections<Self::State>,
        downstream: Id,
        why: &CloseReason,
        reset: bool,
    );
    /// Returns true if callers wait for a connection like this exchange's.
    fn callers_wait(&self, cx: &Connections<Self::State>, link: Id) -> bool;
    /// The number of bytes of memory that may still be used.
    fn memory_left(&self, cx: &Connections<Self::State>) -> usize;
}
