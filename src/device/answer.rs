//! An event that a device has received, and its answer: read from the virtual link, kept until a
//! reply acknowledges it, remembered afterwards.
//!
//! ```text
//!   Head ─► Body ─► Done       the part of the handler's response that was read; its bytes are the answer's text
//! ```
//! This file uses no socket, and of the clock only the instant of a first failure. `event_answers.rs`
//! moves the bytes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::device::url::Url;
use crate::engine::budget::Held;
use crate::error::Refusal;
use crate::limits::Limits;
use crate::proto::body::{self, Decoder, Framing, Piece};
use crate::proto::comet::{self, Event};
use crate::proto::head::{self, LineEnds};
use crate::proto::interim::InterimCount;
use crate::proto::turn::{Brought, Encoding};
use crate::relay::LocalAnswer;

/// Whether and how an unacknowledged answer may be posted again.
#[derive(Debug, Default)]
pub(super) struct Again {
    /// It was too long to be kept, so it cannot be posted again.
    pub(super) lost: bool,
    /// An intermediary requires its length (411).
    pub(super) needs_length: bool,
    /// The text reports a failure instead of the handler's response.
    pub(super) replaced: bool,
}

/// An event and its answer, until the answer is acknowledged or given up.
pub(super) struct Work {
    pub(super) id: String,
    protocol: String,
    /// The bytes of its request, until the virtual link has taken them.
    pub(super) held: Option<Held>,
    pub(super) encoding: Encoding,
    is_head: bool,
    /// The gateway from which it came: the answer is sent only there.
    pub(super) from: Arc<Url>,
    reading: Reading,
    /// The virtual link can carry another request after this response.
    keeps: bool,
    /// The answer as it is posted. If it is too long to be kept, the part that no connection has
    /// taken yet.
    text: Vec<u8>,
    pub(super) again: Again,
    pub(super) failing_since: Option<Instant>,
    pub(super) post: Option<Post>,
}

/// The state of reading the handler's response.
enum Reading {
    Head { interim: InterimCount },
    Body(Decoder),
    Done,
}

/// The current POST of the answer.
pub(super) struct Post {
    pub(super) chunked: bool,
    /// The number of bytes of the text that were passed to it.
    given: usize,
    pub(super) ended: bool,
    /// The values by which its deadline was last set.
    pub(super) seen: Option<(u64, bool, bool, bool)>,
    /// When its last byte was written.
    pub(super) written_at: Option<Instant>,
}

/// The minimum that is read of a response before its POST begins, whatever may be kept: its head
/// has to fit.
const FIRST_READ: usize = 256 * 1024;

impl Work {
    pub(super) fn new(event: &Event, encoding: Encoding, from: Arc<Url>) -> Self {
        Work {
            id: event.id.clone(),
            protocol: event.protocol.clone(),
            held: None,
            encoding,
            is_head: event.is_head,
            from,
            reading: Reading::Head { interim: InterimCount::default() },
            keeps: false,
            text: Vec::new(),
            again: Again::default(),
            failing_since: None,
            post: None,
        }
    }

    /// An answer that was given before, for an event that arrived again.
    pub(super) fn repeated(
        event: &Event,
        encoding: Encoding,
        from: Arc<Url>,
        text: Vec<u8>,
    ) -> Self {
        Work { reading: Reading::Done, text, ..Work::new(event, encoding, from) }
    }

    /// Returns true if the response was read to its end.
    pub(super) fn is_read(&self) -> bool {
        matches!(self.reading, Reading::Done)
    }

    /// Returns true if the whole answer is in memory.
    pub(super) fn is_whole(&self) -> bool {
        self.is_read() && !self.again.lost
    }

    /// Returns true if a POST may begin: JSON needs the whole message, `message/http` is streamed.
    pub(super) fn is_ready(&self) -> bool {
        self.is_whole()
            || (self.encoding == Encoding::Message
                && !self.again.needs_length
                && !self.text.is_empty())
    }

    /// Returns true if the virtual link can carry another request.
    pub(super) fn keeps_link(&self) -> bool {
        self.keeps && self.is_read()
    }

    /// The number of bytes of the response that may be read before its POST begins.
    pub(super) fn room(&self, limits: &Limits) -> usize {
        let most = match self.encoding {
            Encoding::Json => limits.message_bytes_max.saturating_add(1), // one more byte shows that it is too long
            _ => limits.answer_keep_bytes_max.max(FIRST_READ),
        };
        most.saturating_sub(self.text.len())
    }

    /// Takes bytes from the virtual link, and returns how many it used.
    ///
    /// # Errors
    /// The bytes are not a valid response, or an answer cannot carry it.
    pub(super) fn take(&mut self, bytes: &[u8], limits: &Limits) -> Result<usize, Refusal> {
        let mut used = 0;
        while let Reading::Head { mut interim } = self.reading {
            let Some(response) = head::response(&bytes[used..], limits, LineEnds::Crlf)? else {
                return Ok(used);
            };
            match response.status {
                101 => {
                    return Err(Refusal::new(
                        502,
                        "the device wants to switch protocols, which no poll can",
                    ));
                }
                100..=199 => {
                    interim.count(limits).map_err(|e| Refusal {
                        reason: format!("the device {}", e.reason).into(),
                        ..e
                    })?;
                    self.reading = Reading::Head { interim };
                }
                _ => {
                    let framing =
                        body::of_response(&response, if self.is_head { "HEAD" } else { "GET" })?;
                    if framing == Framing::UntilClose {
                        return Err(Refusal::new(
                            502,
                            "the device's response does not say where it ends",
                        ));
                    }
                    self.keeps =
                        response.minor > 0 && head::keeps_alive(response.minor, &response.fields);
                    self.text.extend_from_slice(&bytes[used..used + response.len]);
                    self.reading = Reading::Body(Decoder::new(framing, limits));
                }
            }
            used += response.len;
        }
        while let Reading::Body(decoder) = &mut self.reading {
            let (n, piece) = decoder.decode(&bytes[used..])?;
            self.text.extend_from_slice(&bytes[used..used + n]);
            used += n;
            match piece {
                Piece::Data(_) => {}
                Piece::More => break,
                Piece::End => self.reading = Reading::Done,
            }
        }
        if self.encoding == Encoding::Json {
            self.write_json(limits)?;
        }
        Ok(used)
    }

    fn write_json(&mut self, limits: &Limits) -> Result<(), Refusal> {
        if self.text.len() > limits.message_bytes_max {
            return Err(Refusal::new(
                502,
                "the device's answer is larger than message_bytes_max, and JSON carries whole messages only",
            ));
        }
        if !self.is_read() {
            return Ok(());
        }
        let mut json = Vec::new();
        comet::answer_to_json(
            &mut json,
            &self.id,
            &self.protocol,
            &self.text,
            self.is_head,
            limits,
        )?;
        self.text = json;
        Ok(())
    }

    /// Replaces the answer by a short one of the device itself.
    pub(super) fn replace(&mut self, answer: &LocalAnswer<'_>, date: &str, limits: &Limits) {
        self.text = Vec::new();
        let answer = LocalAnswer { keep: true, to_head: self.is_head, ..answer.clone() };
        answer.write(&mut self.text, date);
        (self.reading, self.keeps, self.post) = (Reading::Done, false, None);
        (self.again.lost, self.again.replaced) = (false, true);
        if self.encoding == Encoding::Json {
            if let Err(refusal) = self.write_json(limits) {
                log::error!("an answer of the device's own cannot be written in JSON: {refusal}"); // cannot happen: we have just written it
            }
        }
    }

    /// The properties of the answer for the head of its POST.
    pub(super) fn brought(&self) -> Brought<'_> {
        Brought {
            encoding: self.encoding,
            id: &self.id,
            length: self.is_whole().then_some(self.text.len() as u64),
        }
    }

    /// Begins a POST, at the answer's first byte.
    pub(super) fn begin_post(&mut self) {
        let whole = self.is_whole();
        self.post =
            Some(Post { chunked: !whole, given: 0, ended: whole, seen: None, written_at: None });
    }

    /// The part of the answer that was not yet passed to the POST.
    pub(super) fn fresh(&self) -> &[u8] {
        self.post.as_ref().and_then(|post| self.text.get(post.given..)).unwrap_or_default()
    }

    /// That part was passed to the POST: it is kept for another attempt, or dropped.
    pub(super) fn given(&mut self, limits: &Limits) {
        let Some(post) = &mut self.post else { return };
        self.again.lost |= self.text.len() > limits.answer_keep_bytes_max;
        if self.again.lost {
            self.text = Vec::new();
        }
        post.given = self.text.len();
        post.ended |= matches!(self.reading, Reading::Done);
    }

    /// The answer, if it is complete and was kept.
    fn into_text(self) -> Option<Vec<u8>> {
        self.is_whole().then_some(self.text)
    }
}

/// The ids of answered events, with the answers that are kept: an event that arrives again is not
/// run again.
#[derive(Default)]
pub(super) struct Past {
    entries: VecDeque<Answered>,
}

struct Answered {
    id: String,
    from: Arc<Url>,
    encoding: Encoding,
    text: Option<Vec<u8>>,
}

/// The most ids that are remembered: a gateway sends an event again within seconds, or not at all.
const PAST_MAX: usize = 1024;

impl Past {
    /// Remembers an event, and its answer if that is complete and should be `kept`. At the bounds
    /// the oldest are dropped: first their answers, then their ids.
    pub(super) fn remember(&mut self, work: Work, kept: bool, limits: &Limits) {
        let (id, from, encoding) = (work.id.clone(), work.from.clone(), work.encoding);
        let text = kept.then_some(work).and_then(Work::into_text);
        self.entries.retain(|known| known.id != id || !known.from.same_origin(&from));
        self.entries.push_back(Answered { id, from, encoding, text });
        while self.entries.len() > PAST_MAX {
            self.entries.pop_front();
        }
        let len = |entry: &Answered| entry.text.as_ref().map_or(0, Vec::len);
        let mut bytes: usize = self.entries.iter().map(len).sum();
        for entry in &mut self.entries {
            if bytes <= limits.answer_cache_bytes_max {
                break;
            }
            bytes -= len(entry);
            entry.text = None;
        }
    }

    /// The answer to this event, if it was answered. The inner `None` means that the answer was not
    /// kept, or not in this encoding.
    pub(super) fn recall(&self, id: &str, from: &Url, encoding: Encoding) -> Option<Option<&[u8]>> {
        let found =
            self.entries.iter().find(|known| known.id == id && known.from.same_origin(from));
        found.map(|known| known.text.as_deref().filter(|_| known.encoding == encoding))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn url() -> Arc<Url> {
        Arc::new(Url::parse("http://gw.example/lamp", "gateway").unwrap())
    }

    fn work(encoding: Encoding, request: &str) -> Work {
        let event =
            comet::event_from_text("id", request.as_bytes().to_vec(), &Limits::default()).unwrap();
        Work::new(&event, encoding, url())
    }

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const RESPONSE: &[u8] =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\nX: y\r\n\r\n";

    #[test]
    fn the_text_is_the_responses_own_bytes_wherever_they_are_cut() {
        let limits = Limits::default();
        let bytes = [b"HTTP/1.1 100 Continue\r\n\r\n", RESPONSE].concat();
        for at in 0..bytes.len() {
            let mut work = work(Encoding::Message, GET);
            let used = work.take(&bytes[..at], &limits).unwrap();
            assert!(!work.is_read());
            assert_eq!(
                used + work.take(&bytes[used..], &limits).unwrap(),
                bytes.len(),
                "cut at {at}"
            );
            assert!(work.is_whole() && work.keeps_link());
            assert_eq!(work.text, RESPONSE);
        }
    }

    #[test]
    fn what_no_answer_can_carry_is_an_error() {
        let limits = Limits::default();
        for bytes in [
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nuntil close",
            "hello\r\n\r\n",
            &"HTTP/1.1 102 Processing\r\n\r\n".repeat(9),
        ] {
            assert!(
                work(Encoding::Message, GET).take(bytes.as_bytes(), &limits).is_err(),
                "{bytes}"
            );
        }
        let head = "HEAD / HTTP/1.1\r\n\r\n";
        let mut work = work(Encoding::Message, head);
        assert!(
            work.take(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", &limits).is_ok()
                && work.is_whole()
        );
    }

    #[test]
    fn a_long_answer_is_let_go_while_it_streams() {
        let limits = Limits { answer_keep_bytes_max: 100, ..Limits::default() };
        let mut work = work(Encoding::Message, GET);
        work.take(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx", &limits).unwrap();
        work.begin_post();
        assert_eq!((work.brought().length, work.fresh().len()), (None, 41));
        work.given(&limits);
        assert!(!work.again.lost && work.fresh().is_empty());
        work.take(&[b'x'; 99], &limits).unwrap();
        assert_eq!(work.fresh(), [b'x'; 99]);
        work.given(&limits);
        assert!(
            work.again.lost
                && !work.is_ready()
                && work.fresh().is_empty()
                && work.into_text().is_none()
        );
    }

    fn answered(id: &str) -> Work {
        let event =
            comet::event_from_text(id, GET.as_bytes().to_vec(), &Limits::default()).unwrap();
        Work::repeated(&event, Encoding::Message, url(), vec![b'x'; 5])
    }

    #[test]
    fn the_past_forgets_texts_then_ids_oldest_first() {
        let limits = Limits { answer_cache_bytes_max: 10, ..Limits::default() };
        let (mut past, here) = (Past::default(), url());
        for id in ["a", "b", "c"] {
            past.remember(answered(id), true, &limits);
        }
        assert_eq!(past.recall("a", &here, Encoding::Message), Some(None));
        assert_eq!(past.recall("b", &here, Encoding::Message), Some(Some(&[b'x'; 5][..])));
        assert_eq!(
            past.recall("b", &here, Encoding::Json),
            Some(None),
            "it was written in another encoding"
        );
        assert_eq!(past.recall("d", &here, Encoding::Message), None);
        let elsewhere = Arc::new(Url::parse("http://other.example/lamp", "gateway").unwrap());
        assert_eq!(
            past.recall("b", &elsewhere, Encoding::Message),
            None,
            "another gateway is told nothing"
        );
        let mut same_id = answered("b");
        same_id.from = elsewhere.clone();
        past.remember(same_id, false, &limits);
        assert_eq!(
            past.recall("b", &here, Encoding::Message),
            Some(Some(&[b'x'; 5][..])),
            "nor may it make another's event new again"
        );
        past.remember(answered("b"), false, &limits);
        for n in 0..PAST_MAX - 1 {
            past.remember(answered(&n.to_string()), false, &limits);
        }
        assert_eq!(
            (
                past.recall("a", &here, Encoding::Message),
                past.recall("b", &here, Encoding::Message)
            ),
            (None, Some(None))
        );
        assert!(
            past.entries.iter().all(|entry| entry.text.is_none()),
            "what nobody can ask for any more is not kept"
        );
    }

    #[cfg(feature = "comet")]
    #[test]
    fn an_answer_in_json_is_one_message_within_its_bound() {
        let limits = Limits { message_bytes_max: 1024, ..Limits::default() };
        let mut fits = work(Encoding::Json, GET);
        fits.take(RESPONSE, &limits).unwrap();
        assert!(
            fits.is_ready()
                && fits.text.starts_with(
                    b"{\"message-id\": \"id\", \"http-version\": \"PTTH/1.0\", \"status\": 200"
                )
        );
        let mut long = work(Encoding::Json, GET);
        let refusal = long
            .take(
                &[b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", &[b'x'; 1000][..]].concat(),
                &limits,
            )
            .unwrap_err();
        long.replace(&LocalAnswer::new(502, &refusal.reason), "now", &limits);
        let text = String::from_utf8(long.into_text().unwrap()).unwrap();
        assert!(
            text.contains("\"status\": 502") && text.contains("larger than message_bytes_max"),
            "{text}"
        );
    }
}
