//! A connection that was switched to another protocol: bytes go both ways as they arrive, and each
//! direction ends separately.

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::connection::{Connection, Fetched};
use crate::relay::rules::Rules;

/// A connection that was switched to another protocol.
#[derive(Default)]
pub(super) struct Tunnel {
    pub(super) to_downstream: Direction,
    pub(super) to_upstream: Direction,
    /// A half-close has been seen; from then on silence is limited.
    pub(super) half_seen: bool,
}

/// The state of one direction of a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Direction {
    #[default]
    Open,
    /// The end was passed on to the receiving side.
    Shut,
    /// The receiving side no longer reads.
    Deaf,
}

impl Tunnel {
    /// Moves the bytes that have arrived, in both directions. Returns false if there were none.
    pub(super) fn step<T>(
        &mut self,
        downstream: &mut Connection<T>,
        link: &mut Connection<T>,
        scratch: &mut [u8],
        rules: &Rules,
    ) -> Result<bool, CloseReason> {
        let moved = pour(downstream, link, &mut self.to_upstream, scratch, rules)?
            | pour(link, downstream, &mut self.to_downstream, scratch, rules)?;
        if !moved {
            downstream.free_buffers();
            link.free_buffers();
        }
        Ok(moved)
    }

    pub(super) fn is_half_ended(&self) -> bool {
        self.to_downstream != Direction::Open || self.to_upstream != Direction::Open
    }

    /// Returns true if the downstream side no longer reads, and all bytes from it were passed on.
    pub(super) fn is_given_up(&self) -> bool {
        (self.to_downstream, self.to_upstream) == (Direction::Deaf, Direction::Shut)
    }

    /// Why the tunnel has ended, if it has: the end was passed on to both sides, or to one that no
    /// longer reads.
    pub(super) fn end<T>(&self, link: &Connection<T>, rules: &Rules) -> Option<CloseReason> {
        match (self.to_downstream, self.to_upstream) {
            (Direction::Open, _) | (_, Direction::Open) => None,
            // After an end was sent on a link, only a reset can report another one, and a reset
            // would lose the bytes that are on their way.
            _ if self.is_given_up() && rules.upstream_is_link && !link.is_over() => None,
            (Direction::Deaf, Direction::Deaf) => {
                Some(CloseCause::Reset.because("its tunnel broke"))
            }
            _ => Some(CloseCause::Tunnel.because("its tunnel ended in both directions")),
        }
    }
}

/// Moves one direction of a tunnel. If the receiving side no longer reads, bytes from it are still
/// passed on: the other direction goes on to its end.
fn pour<T>(
    from: &mut Connection<T>,
    to: &mut Connection<T>,
    direction: &mut Direction,
    scratch: &mut [u8],
    rules: &Rules,
) -> Result<bool, CloseReason> {
    if *direction == Direction::Deaf {
        return Ok(false);
    }
    let written = to.written();
    let mut moved = false;
    let mut taken = Ok(true);
    if to.pending() < rules.limits.read_ahead_bytes_max && from.has_input() {
        match from.fetch(scratch, scratch.len()) {
            Ok(Fetched::Bytes(n)) => {
                taken = to.send(&scratch[..n]).map(|()| true);
                moved = true;
            }
            Ok(Fetched::Nothing | Fetched::End) => {}
            Err(_) => return Err(CloseCause::Reset.because("its tunnel broke")),
        }
    }
    taken = taken.and_then(|_| to.flush());
    if matches!(taken, Ok(true))
        && from.at_end_of_stream()
        && from.kept() == 0
        && *direction == Direction::Open
    {
        // A direction that ends leaves the other one open.
        taken = to.end_output().inspect(|told| {
            if *told {
                (*direction, moved) = (Direction::Shut, true);
            }
        });
    }
    if taken.is_err() || (to.is_broken() && *direction == Direction::Open) {
        to.drop_output();
        to.look_again();
        (*direction, moved) = (Direction::Deaf, true);
    }
    Ok(moved || to.written() != written)
}
