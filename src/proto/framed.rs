//! A request whose framing is decided. Every function that decides what a request *means* (a
//! heartbeat, an offer, a route, a preflight) takes this type, so the end of the body is known
//! before such a decision (T47): an overlooked body would be read as the next request.

use std::ops::Deref;

use crate::error::Refusal;
use crate::proto::body::{self, Framing};
use crate::proto::head::RequestHead;

/// A request head and its framing. The only way to make one is to decide the framing.
///
/// ```
/// use reverse_http::proto::framed::FramedRequest;
/// use reverse_http::proto::{body::Framing, head, head::LineEnds};
///
/// let limits = reverse_http::Limits::default();
/// let head = head::request(b"PUT /lamp HTTP/1.1\r\nHost: gw\r\nContent-Length: 2\r\n\r\n", &limits, LineEnds::Crlf).unwrap().unwrap();
/// assert_eq!(FramedRequest::of(head).unwrap().framing(), Framing::Length(2));
/// ```
#[derive(Clone, Debug)]
pub struct FramedRequest<'a> {
    head: RequestHead<'a>,
    framing: Framing,
}

impl<'a> FramedRequest<'a> {
    /// Decides the framing of a request (RFC 9112 §6.3).
    ///
    /// # Errors
    /// 400 or 501 with the reason: the end of the body is unknown, so the connection has to be
    /// closed.
    pub fn of(head: RequestHead<'a>) -> Result<Self, Refusal> {
        let framing = body::of_request(&head)?;
        Ok(FramedRequest { head, framing })
    }

    /// Where the body ends.
    #[must_use]
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Returns true if a body follows the head. A declared length of 0 is no body.
    #[must_use]
    pub fn has_body(&self) -> bool {
        self.framing != Framing::Empty
    }
}

impl<'a> Deref for FramedRequest<'a> {
    type Target = RequestHead<'a>;

    fn deref(&self) -> &RequestHead<'a> {
        &self.head
    }
}
