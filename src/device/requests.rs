//! Messages that arrive on a link: a request for program code, for the local server or a TCP
//! target, or a heartbeat.

use crate::close_reason::{CloseCause, CloseReason};
use crate::device::lease::CLOSED;
use crate::device::plan::Service;
use crate::device::role::DeviceRole;
use crate::device::state::State;
use crate::device::tcp::AskedTcp;
use crate::engine::connection::Fetched;
use crate::engine::connections::{Connections, Id};
use crate::proto::forward::callers_waiting;
use crate::proto::framed::FramedRequest;
use crate::proto::head::LineEnds;
use crate::proto::heartbeat::Heartbeat;
use crate::proto::{head, heartbeat};
use crate::relay::{Exchange, LocalAnswer};

/// The message that arrived on an idle link.
enum Came {
    NotYet,
    Gone(CloseReason),
    /// The number of waiting callers that it reports.
    Heartbeat {
        heartbeat: Heartbeat,
        callers: usize,
    },
    Refused(crate::error::Refusal),
    /// A complete head (this many bytes of the scratch buffer) for program code.
    Request(usize),
    Forward(Box<Exchange>),
    Tcp(Box<AskedTcp>),
}

impl DeviceRole {
    pub(super) fn link_ready(&mut self, cx: &mut Connections<State>, id: Id) {
        if !self.answers_are_out(cx, id) {
            return;
        }
        let mut scratch = cx.take_scratch();
        let came = self.read_request(cx, id, &mut scratch);
        let step = match came {
            Came::Request(filled) => {
                self.lease(cx, id, &scratch[..filled]);
                None
            }
            other => Some(other),
        };
        cx.put_scratch(scratch);
        match step {
            None | Some(Came::Request(_)) => {
                if self.is_wanting() {
                    self.top_up(cx);
                }
            }
            Some(Came::NotYet) => {}
            Some(Came::Gone(why)) => self.link_gone(cx, id, why),
            Some(Came::Heartbeat { heartbeat, callers }) => {
                self.heartbeat(cx, id, heartbeat, callers)
            }
            Some(Came::Refused(refusal)) => {
                self.answer_link(cx, id, &LocalAnswer::new(refusal.status, &refusal.reason));
            }
            Some(Came::Forward(exchange)) => self.begin_forward(cx, id, exchange),
            Some(Came::Tcp(asked)) => self.begin_tcp(cx, id, *asked),
        }
    }

    fn read_request(&mut self, cx: &mut Connections<State>, id: Id, scratch: &mut [u8]) -> Came {
        let now = cx.now();
        let Some(conn) = cx.get_mut(id) else { return Came::NotYet };
        let filled = match conn.fetch(scratch, self.link_limits.head_bytes_max + 1024) {
            Ok(Fetched::Bytes(n)) => n,
            Ok(Fetched::Nothing) if conn.is_broken() => {
                return Came::Gone(CloseCause::Reset.because("while it idled"));
            }
            Ok(Fetched::Nothing) => return Came::NotYet,
            Ok(Fetched::End) => return Came::Gone(CLOSED),
            Err(e) => {
                return Came::Gone(CloseReason::new(
                    CloseCause::of_io(&e),
                    format!("while it idled: {e}"),
                ));
            }
        };
        let bytes = &scratch[..filled];
        if bytes == b"\r\n" && conn.ignores(bytes) {
            return Came::NotYet; // a stray line end after an earlier message
        }
        let read = head::request(bytes, &self.link_limits, LineEnds::Crlf);
        if let (State::Link(link), true) = (&mut conn.state, head::begins_request(bytes)) {
            link.used |= !bytes.starts_with(b"OPTIONS * "); // even if it is refused: that may be a visitor's fault, and dialling works (T48)
        }
        match read {
            Err(refusal) => Came::Refused(refusal),
            Ok(None) if conn.is_over() => Came::Gone(
                CloseCause::Cut.because("closed by the gateway in the middle of a request"),
            ),
            Ok(None) => {
                conn.keep(bytes);
                let State::Link(link) = &mut conn.state else { return Came::NotYet };
                if !std::mem::replace(&mut link.began, true) {
                    cx.set_deadline(id, Some(cx.after(self.limits.head_timeout)));
                }
                Came::NotYet
            }
            Ok(Some(head)) => {
                let request = match FramedRequest::of(head) {
                    Ok(request) => request,
                    Err(refusal) => return Came::Refused(refusal),
                };
                let callers = callers_waiting(&request.fields).unwrap_or_default();
                self.note_callers(now, callers);
                match heartbeat::recognise(&request) {
                    Err(refusal) => return Came::Refused(refusal),
                    Ok(Some(heartbeat)) => {
                        conn.keep(&bytes[request.len..]);
                        return Came::Heartbeat { heartbeat, callers };
                    }
                    Ok(None) => {}
                }
                match self.asked_tcp(id, &request, now) {
                    Err(refusal) => return Came::Refused(refusal),
                    Ok(Some(asked)) => {
                        conn.keep(&bytes[request.len..]);
                        return Came::Tcp(Box::new(asked));
                    }
                    Ok(None) => {}
                }
                let Service::Forward(servers) = &self.service else { return Came::Request(filled) };
                match servers.plan(id, &request, &self.link_limits, now) {
                    Ok(exchange) => {
                        conn.keep(&bytes[request.len..]);
                        Came::Forward(Box::new(exchange))
                    }
                    Err(refusal) => Came::Refused(refusal),
                }
            }
        }
    }
}
