//! What a device keeps for a connection.

use crate::device::dial::Dial;
use crate::device::dial::Stage;
use crate::device::link::Link;
use crate::device::pool::Local;
use crate::device::races::Racer;
use crate::engine::connections::Connections;
use crate::engine::connections::Id;
use crate::engine::slab::Key;
use crate::relay::Lingering;

/// What the device keeps for a connection.
pub(crate) enum State {
    /// It connects to one of the addresses of a gateway, a proxy or the local server.
    Racing(Racer),
    Dial(Box<Dial>),
    Link(Link),
    /// This end of a virtual link, of the poll slot that it belongs to.
    Bridge(Key),
    Local(Local),
    Lingering(Lingering),
}

/// Writes what waits. Where that fails the next read says why.
pub(super) fn flush(cx: &mut Connections<State>, id: Id) {
    let Some(peer) = cx.get_mut(id) else { return };
    if peer.flush().is_err() {
        peer.look_again();
        cx.reschedule(id);
    }
}

/// What a peer said, for a log line.
pub(super) fn printable(text: &[u8]) -> String {
    text.iter()
        .map(|&byte| if matches!(byte, b' '..=b'~') { char::from(byte) } else { ' ' })
        .collect()
}

pub(super) fn dial_stage(cx: &mut Connections<State>, id: Id, stage: Stage) {
    if let Some(State::Dial(dial)) = cx.get_mut(id).map(|p| &mut p.state) {
        dial.stage = stage;
    }
}

pub(super) fn find_lingering(state: &mut State) -> Option<&mut Lingering> {
    if let State::Lingering(lingering) = state { Some(lingering) } else { None }
}
