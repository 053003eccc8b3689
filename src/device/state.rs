//! The state of a device's connection, with typed access to it.

use crate::device::address_race::Racer;
use crate::device::dial_stages::Dial;
use crate::device::dial_stages::Stage;
use crate::device::link::Link;
use crate::device::local_pool::Local;
use crate::engine::connections::Connections;
use crate::engine::connections::Id;
use crate::engine::slab::Key;
use crate::relay::Lingering;

/// The state of a connection.
pub(crate) enum State {
    /// A connection attempt to one of the addresses of a gateway, a proxy or a local server.
    Racing(Racer),
    Dial(Box<Dial>),
    Link(Link),
    /// The loop's end of the virtual link of this poll slot.
    Bridge(Key),
    Local(Local),
    Lingering(Lingering),
}

/// Typed access to the state of a connection.
pub(super) trait States {
    fn state(&self, id: Id) -> Option<&State>;
    fn state_mut(&mut self, id: Id) -> Option<&mut State>;

    fn racer(&self, id: Id) -> Option<&Racer> {
        if let State::Racing(racer) = self.state(id)? { Some(racer) } else { None }
    }
    /// Returns true if a TLS handshake is in progress on this connection to a local server, for
    /// this exchange.
    fn is_securing(&self, id: Id, exchange: Key) -> bool {
        matches!(self.state(id), Some(State::Local(Local::Securing { key, .. })) if *key == exchange)
    }
    fn dial(&self, id: Id) -> Option<&Dial> {
        if let State::Dial(dial) = self.state(id)? { Some(dial) } else { None }
    }
    fn dial_mut(&mut self, id: Id) -> Option<&mut Dial> {
        if let State::Dial(dial) = self.state_mut(id)? { Some(dial) } else { None }
    }
    fn link(&self, id: Id) -> Option<&Link> {
        if let State::Link(link) = self.state(id)? { Some(link) } else { None }
    }
    fn link_mut(&mut self, id: Id) -> Option<&mut Link> {
        if let State::Link(link) = self.state_mut(id)? { Some(link) } else { None }
    }
}

impl States for Connections<State> {
    fn state(&self, id: Id) -> Option<&State> {
        Some(&self.get(id)?.state)
    }
    fn state_mut(&mut self, id: Id) -> Option<&mut State> {
        Some(&mut self.get_mut(id)?.state)
    }
}

/// Writes the pending output. If that fails, the next read reports the reason.
pub(super) fn flush(cx: &mut Connections<State>, id: Id) {
    let Some(conn) = cx.get_mut(id) else { return };
    if conn.flush().is_err() {
        conn.look_again();
        cx.reschedule(id);
    }
}

/// Escapes text from the other end for a log line.
pub(super) fn printable(text: &[u8]) -> String {
    text.iter()
        .map(|&byte| if matches!(byte, b' '..=b'~') { char::from(byte) } else { ' ' })
        .collect()
}

pub(super) fn dial_stage(cx: &mut Connections<State>, id: Id, stage: Stage) {
    if let Some(dial) = cx.dial_mut(id) {
        dial.stage = stage;
    }
}

pub(super) fn find_lingering(state: &mut State) -> Option<&mut Lingering> {
    if let State::Lingering(lingering) = state { Some(lingering) } else { None }
}
