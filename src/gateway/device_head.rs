//! The head of a request on the devices' port: offer or poll, the framing and encoding of its body,
//! the encodings that it accepts.

use std::sync::Arc;

use crate::error::Refusal;
use crate::gateway::registry::{Owner, Registration};
use crate::proto::body::Framing;
use crate::proto::comet;
use crate::proto::fields;
use crate::proto::framed::FramedRequest;
use crate::proto::head;
use crate::proto::turn::{Encoding, LAST, Transport};

/// The head of a device's request: an offer or a poll.
pub(crate) struct DeviceHead {
    /// It is an offer.
    pub(crate) turns: bool,
    pub(crate) framing: Framing,
    /// The encoding for events.
    pub(crate) accepts: Encoding,
    /// The encoding of its own body.
    pub(crate) content: Option<Encoding>,
    /// The event that it answers, if a field names it.
    pub(crate) id: Option<String>,
    /// It contains an answer to an event of its mailbox, so the device already knows that polling
    /// works.
    pub(crate) knows: bool,
    /// Its device is stopping: it takes no event, and makes no offer.
    pub(crate) last: bool,
    pub(crate) minor: u8,
    pub(crate) keep: bool,
    /// The web page from which it comes.
    pub(crate) origin: Option<String>,
    /// Its target, for a redirect.
    pub(crate) target: Box<str>,
}

impl DeviceHead {
    pub(super) fn read(
        request: &FramedRequest<'_>,
        turns: bool,
        origin: Option<String>,
    ) -> Result<Self, Refusal> {
        let framing = request.framing();
        let id = comet::id_of(&request.fields)?.map(str::to_owned);
        if request.fields.all("Content-Type").count() > 1 {
            return Err(Refusal::new(400, "there is more than one Content-Type"));
        }
        // protocol.md §1.3: every error in the body of an offer is 400.
        let wrong_type = || {
            let status = if turns { 400 } else { 415 };
            Refusal::new(
                status,
                "an answer is application/json or message/http; its Content-Type says something else",
            )
        };
        if framing != Framing::Empty && fields::coding(&request.fields).is_some() {
            let status = if turns { 400 } else { 415 };
            return Err(Refusal::new(
                status,
                "an answer has no Content-Encoding; this one is compressed",
            ));
        }
        let content = match request.fields.get("Content-Type").filter(|_| framing != Framing::Empty)
        {
            None => None,
            Some(content_type) => Some(Encoding::of_type(content_type).ok_or_else(wrong_type)?),
        };
        if content == Some(Encoding::Message) && id.is_none() {
            return Err(Refusal::new(
                400,
                "an answer in message/http names its event in PTTH-Message-ID; this one does not",
            ));
        }
        if framing == Framing::Empty && id.is_some() {
            return Err(Refusal::new(400, "there is a PTTH-Message-ID, but no answer in the body"));
        }
        let accepts = Encoding::accepted(&request.fields);
        if accepts == Encoding::Json && !cfg!(feature = "comet") && !turns {
            return Err(Refusal::new(
                406,
                "this gateway has no JSON (feature comet); send Accept: message/http",
            ));
        }
        let last = request.fields.get(LAST) == Some(b"1");
        let keep = !last && head::keeps_alive(request.minor, &request.fields);
        Ok(DeviceHead {
            turns: turns && !last,
            framing,
            accepts,
            content,
            id,
            knows: false,
            last,
            minor: request.minor,
            keep,
            origin,
            target: request.target.into(),
        })
    }

    pub(super) fn transport(&self) -> Transport {
        if self.turns { Transport::Turn } else { Transport::Comet(self.accepts) }
    }

    pub(super) fn has_body(&self) -> bool {
        self.framing != Framing::Empty
    }
}

/// A device that was admitted.
pub(crate) struct Admitted {
    pub(super) registration: Arc<Registration>,
    pub(super) owner: Owner,
    /// Its name was unknown before.
    pub(super) fresh: bool,
}
