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
    /// The upstream connection is free: at a message boundary and fit for reuse, or (`Err`, why) to
    /// be closed.
    fn free(
        &mut self,
        cx: &mut Connections<Self::State>,
        link: Id,
        reusable: Result<(), CloseReason>,
    );
    /// Find another upstream connection: nothing of a response came and the request may be sent
    /// again. Or another gateway does not have the device ([`Exchange::take_miss`]).
    fn retry(&mut self, cx: &mut Connections<Self::State>, key: Key);
    /// The exchange is over and gone: the downstream connection is at a message boundary (`keep`)
    /// or is to be closed gently.
    fn next(&mut self, cx: &mut Connections<Self::State>, downstream: Id, keep: bool);
    /// The exchange failed before its response began; tell the downstream side, and end its
    /// connection unless the answer keeps it.
    fn answer(
        &mut self,
        cx: &mut Connections<Self::State>,
        downstream: Id,
        answer: &LocalAnswer<'_>,
    );
    /// The exchange cannot end well for the downstream connection, or was a tunnel that has ended:
    /// close it, with a reset where its end has to be seen as a failure.
    fn downstream_gone(
        &mut self,
        cx: &mut Connections<Self::State>,
        downstream: Id,
        why: &CloseReason,
        reset: bool,
    );
    /// Returns true if callers wait for a connection like this exchange's.
    fn callers_wait(&self, cx: &Connections<Self::State>, link: Id) -> bool;
    /// How many bytes of memory may still be used.
    fn memory_left(&self, cx: &Connections<Self::State>) -> usize;
}
