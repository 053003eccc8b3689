//! Closes a connection gently, so that a reset does not destroy the last response.

use std::time::{Duration, Instant};

use crate::engine::connection::{Connection, Fetched};
use crate::engine::connections::{Connections, Id};
use crate::limits::Limits;

/// Bytes that one step reads from a connection that is being closed.
const LINGER_READ: usize = 64 * 1024;

/// A connection that is being closed gently: pending bytes are written, the sending direction is
/// closed, and further input is read and dropped. So a reset does not destroy the last answer (RFC
/// 9112 §9.6), even if a client writes its whole request before it reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lingering {
    /// The connection is closed at this time at the latest.
    ends: Instant,
    /// It is closed earlier after silence of this length.
    silence: Duration,
    shut: bool,
}

/// The state of a connection that is being closed, after a step.
enum Lingered {
    Over,
    Waits,
    /// Bytes were read, and there may be more.
    Came,
}

impl Lingering {
    fn step<T>(&mut self, conn: &mut Connection<T>, scratch: &mut [u8]) -> Lingered {
        let waits =
            |conn: &Connection<T>| if conn.is_broken() { Lingered::Over } else { Lingered::Waits };
        match conn.flush() {
            Err(_) => return Lingered::Over,
            Ok(false) => return waits(conn),
            Ok(true) => {}
        }
        if !self.shut {
            match conn.end_output() {
                Ok(true) => self.shut = true,
                Ok(false) => return waits(conn),
                Err(_) => return Lingered::Over,
            }
        }
        match conn.fetch(scratch, LINGER_READ) {
            Ok(Fetched::Bytes(_)) => Lingered::Came,
            Ok(Fetched::Nothing) => Lingered::Waits,
            Ok(Fetched::End) | Err(_) => Lingered::Over,
        }
    }
}

/// Begins to close a connection gently; `begin` makes its state. With `hurried` this side is
/// stopping, and waits less for a silent client.
pub(crate) fn linger<T>(
    cx: &mut Connections<T>,
    id: Id,
    limits: &Limits,
    hurried: bool,
    begin: impl FnOnce(Lingering) -> T,
) {
    let silence = if hurried {
        limits.linger_timeout.min(limits.abandoned_timeout)
    } else {
        limits.linger_timeout
    };
    let (silent, ends) = (cx.after(silence), cx.after(limits.linger_total_timeout));
    let Some(conn) = cx.get_mut(id) else { return };
    conn.state = begin(Lingering { ends, silence, shut: false });
    cx.set_deadline(id, Some(silent.min(ends)));
    cx.lingers(id, limits.lingering_max);
}

/// This side is stopping: reduces the time for a connection that is being closed.
pub(crate) fn hurry_lingering<T>(
    cx: &mut Connections<T>,
    id: Id,
    limits: &Limits,
    find: fn(&mut T) -> Option<&mut Lingering>,
) {
    let silence = limits.linger_timeout.min(limits.abandoned_timeout);
    let at = cx.after(silence);
    let Some(lingering) = cx.get_mut(id).and_then(|conn| find(&mut conn.state)) else { return };
    lingering.silence = silence;
    let at = at.min(lingering.ends);
    cx.set_deadline(id, Some(at));
}

/// One step of a connection that is being closed gently; closes it at the end. `find` gives the
/// [`Lingering`] in its state.
pub(crate) fn step_lingering<T>(
    cx: &mut Connections<T>,
    id: Id,
    find: fn(&mut T) -> Option<&mut Lingering>,
) {
    let mut scratch = cx.take_scratch();
    let stepped = cx.get_mut(id).and_then(|conn| {
        let mut lingering = *find(&mut conn.state)?;
        let step = lingering.step(conn, &mut scratch);
        *find(&mut conn.state)? = lingering;
        Some((step, lingering))
    });
    cx.put_scratch(scratch);
    match stepped {
        Some((Lingered::Over, _)) => cx.close(id),
        Some((Lingered::Came, Lingering { ends, silence, .. })) => {
            let at = cx.after(silence).min(ends);
            cx.set_deadline(id, Some(at));
            if cx.get(id).is_some_and(Connection::has_input) {
                cx.reschedule(id); // a bounded piece in each turn of the loop
            }
        }
        Some((Lingered::Waits, _)) | None => {}
    }
}
