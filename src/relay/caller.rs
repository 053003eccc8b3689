//! The caller of an exchange: a client, the loop itself, or nobody since the client has left.

use std::time::Instant;

use crate::engine::connections::Id;

pub(super) enum Caller {
    /// The client on the downstream connection.
    Client(Client),
    /// The loop itself: any response is a sign of life.
    Probe,
    /// The client has left, and a short rest of the response is drained to save the upstream
    /// connection. `looked` is the time of the last check for callers that want that connection;
    /// `None`: no such checks.
    Gone { looked: Option<Instant> },
}

/// The downstream side.
pub(super) struct Client {
    pub(super) id: Id,
    /// The minor number of its HTTP version.
    pub(super) minor: u8,
    /// Another request may follow on its connection.
    pub(super) keeps: bool,
    /// The client no longer reads, but its request may be complete.
    pub(super) is_deaf: bool,
    pub(super) sending: Sending,
}

/// The direction in which a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    Open,
    /// The client has ended it, and is most likely gone.
    Ended,
    /// The client has ended it and may still want its response. The time of that end, or of the
    /// last check for waiting callers.
    HalfClosed(Instant),
}

impl Client {
    pub(super) fn new(id: Id, minor: u8, keeps: bool) -> Self {
        Client { id, minor, keeps, is_deaf: false, sending: Sending::Open }
    }
}

impl Caller {
    pub(super) fn client(&self) -> Option<&Client> {
        match self {
            Caller::Client(client) => Some(client),
            Caller::Probe | Caller::Gone { .. } => None,
        }
    }

    pub(super) fn client_mut(&mut self) -> Option<&mut Client> {
        match self {
            Caller::Client(client) => Some(client),
            Caller::Probe | Caller::Gone { .. } => None,
        }
    }

    /// Returns true if the client has ended its direction, and is most likely gone.
    pub(super) fn has_ended(&self) -> bool {
        self.client().is_some_and(|client| client.sending == Sending::Ended)
    }

    /// The time since which waiting callers take precedence over this client.
    pub(super) fn absent_since(&mut self) -> Option<&mut Instant> {
        match self {
            Caller::Client(Client { sending: Sending::HalfClosed(looked), .. }) => Some(looked),
            Caller::Gone { looked } => looked.as_mut(),
            Caller::Client(_) | Caller::Probe => None,
        }
    }

    /// Returns true if the client speaks HTTP/1.0.
    pub(super) fn is_old(&self) -> bool {
        self.client().is_some_and(|client| client.minor == 0)
    }
}
