//! The event loops of one device, one for each gateway: how they end together.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::device::command::Command;
use crate::device::notices;
use crate::engine::event_loop::Remote;
use crate::error::Error;

/// The state of one gateway's loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is connected, or still tries.
    Hopes,
    /// It has used up its retries; it goes on trying while another loop still may.
    GaveUp,
    /// Its gateway refused the device permanently, and the loop has ended.
    Refused,
}

/// The state that the loops of one device share.
#[derive(Default)]
pub(crate) struct LoopGroup(Mutex<State>);

#[derive(Default)]
struct State {
    members: Vec<Member>,
    outcome: Option<Error>,
}

struct Member {
    remote: Remote<Command>,
    standing: Standing,
    /// Why it gave up.
    why: Option<Error>,
}

impl LoopGroup {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(state: &State) {
        for member in &state.members {
            member.remote.send(Command::Drain(Duration::ZERO)); // a loop that has ended ignores it
        }
    }

    /// Adds a loop, and returns its number.
    pub(crate) fn join(&self, remote: Remote<Command>) -> usize {
        let mut state = self.lock();
        state.members.push(Member { remote, standing: Standing::Hopes, why: None });
        state.members.len() - 1
    }

    /// Sends a command to all loops. Returns the number of loops that still run.
    pub(crate) fn send(&self, mut command: impl FnMut() -> Command) -> usize {
        self.lock().members.iter().filter(|member| member.remote.send(command())).count()
    }

    pub(crate) fn hopes(&self, number: usize) {
        if let Some(member) = self.lock().members.get_mut(number) {
            (member.standing, member.why) = (Standing::Hopes, None);
        }
    }

    /// Marks this loop as failed. Returns true if it was the last one, so that the device ends. The
    /// device's error is a refusal only if all gateways refused.
    pub(crate) fn report(&self, number: usize, standing: Standing, why: Error) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        if let Some(member) = state.members.get_mut(number) {
            (member.standing, member.why) = (standing, Some(why));
        }
        if state.members.iter().any(|member| member.standing == Standing::Hopes) {
            return false;
        }
        let last =
            state.members.iter_mut().max_by_key(|member| member.standing == Standing::GaveUp);
        let error = last.and_then(|member| member.why.take());
        if state.outcome.is_none() {
            error.iter().for_each(notices::ended);
            state.outcome = error;
        }
        LoopGroup::end(state);
        true
    }

    /// A loop broke: the device ends.
    pub(crate) fn fail(&self, error: Error) {
        let mut state = self.lock();
        state.outcome.get_or_insert(error);
        LoopGroup::end(&state);
    }

    /// Why the device ended by itself, for each of the threads that wait for it.
    pub(crate) fn outcome(&self) -> Option<Error> {
        self.lock().outcome.as_ref().map(Error::copy)
    }
}
