//! A POST with the answer to an event, and the progress of reading it.

use crate::engine::slab::Key;
use crate::error::Refusal;
use crate::gateway::device_head::{Admitted, DeviceHead};
use crate::gateway::registry::Registration;
use crate::limits::Limits;
use crate::proto::body::Decoder;
use crate::relay::Gathering;

/// A request of a registered device, while the answer in it is read.
pub(crate) struct PostedAnswer {
    pub(crate) head: DeviceHead,
    pub(crate) admitted: Admitted,
    /// The bytes that turn the connection.
    pub(crate) switch: Option<Vec<u8>>,
    pub(crate) decoder: Decoder,
    pub(crate) reading: Reading,
}

pub(crate) enum Reading {
    /// JSON, or a body without a type: read completely.
    Whole(Gathering),
    /// The response's head.
    Head(Vec<u8>),
    /// A helper reads the JSON.
    Elsewhere,
    /// The exchange that it answers has the connection.
    Exchange(Key),
    /// No exchange waits for it; this many bytes were dropped.
    Dropped(usize),
}

impl PostedAnswer {
    /// The device that sent the POST.
    pub(in crate::gateway) fn registration(&self) -> &Registration {
        &self.admitted.registration
    }

    /// The exchange to which its answer streams.
    pub(in crate::gateway) fn exchange(&self) -> Option<Key> {
        match self.reading {
            Reading::Exchange(key) => Some(key),
            _ => None,
        }
    }

    pub(in crate::gateway) fn new(
        head: DeviceHead,
        admitted: Admitted,
        switch: Option<Vec<u8>>,
        limits: &Limits,
    ) -> Box<Self> {
        let decoder = Decoder::new(head.framing, limits);
        Box::new(PostedAnswer { head, admitted, switch, decoder, reading: Reading::Dropped(0) })
    }
}

impl Reading {
    pub(in crate::gateway) fn take(&mut self, data: &[u8], limits: &Limits) -> Result<(), Refusal> {
        match self {
            Reading::Whole(message) if message.len() + data.len() > limits.message_bytes_max => {
                return Err(too_long());
            }
            Reading::Whole(message) => return message.take(data),
            Reading::Head(bytes) => bytes.extend_from_slice(data),
            Reading::Dropped(dropped) if *dropped + data.len() > limits.message_bytes_max => {
                return Err(too_long());
            }
            Reading::Dropped(dropped) => *dropped += data.len(),
            Reading::Elsewhere | Reading::Exchange(_) => {}
        }
        Ok(())
    }
}

pub(crate) fn disagrees() -> Refusal {
    Refusal::new(400, "the response in the answer is shorter or longer than the answer's body")
}

pub(crate) fn too_long() -> Refusal {
    Refusal::new(
        413,
        "the answer is longer than message_bytes_max allows; in message/http it could stream",
    )
}

/// Messages in JSON longer than this are read and written on a helper's thread: the loop has others
/// to serve.
pub(crate) const JSON_INLINE_MAX: usize = 128 * 1024;
