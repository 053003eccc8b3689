//! A link that program code uses, and its return to the loop.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::close_reason::CloseCause;
use crate::close_reason::CloseReason;
use crate::device::command::Command;
use crate::device::counters::Counters;
use crate::device::dial_stages::PACE;
use crate::device::link::Link;
use crate::engine::event_loop::Remote;
use crate::error::Error;
use crate::error::Fault;
use crate::link::DeviceLink;
use crate::stream::Shared;
use crate::stream::Stream;

/// A link that program code uses.
pub(crate) struct Lease {
    pub(crate) stream: Arc<Stream>,
    pub(crate) unread: Vec<u8>,
    /// It carries a request, which may wait for `recv()` or a thread, so the link is not idle.
    pub(crate) busy: Option<Busy>,
    pub(crate) guard: LeaseGuard,
}

/// The reason for a link that its gateway closed between two requests.
pub(crate) const CLOSED: CloseReason = CloseCause::Closed.because("by the gateway");

/// Returns a link, or the reason of its end, to the loop.
pub(crate) struct LeaseGuard {
    pub(super) remote: Remote<Command>,
    pub(super) number: u64,
    pub(super) link: Link,
    /// The reason of the link's end, if it is not returned.
    pub(super) why: CloseReason,
    pub(crate) shared: Arc<Counters>,
}

impl LeaseGuard {
    /// The link ended for a reason other than its exchange.
    pub(crate) fn end(mut self, why: CloseReason) {
        self.why = why;
    }

    /// The same, after an error on it.
    pub(crate) fn failed(self, error: &Error) {
        self.end(reason_of(error));
    }

    /// No request could be read. If it was answered with a refusal, its link is closed gently.
    pub(crate) fn refused(mut self, link: DeviceLink<Shared>, error: &Error) {
        if !link.is_leaving() {
            return self.failed(error);
        }
        self.why = reason_of(error);
        let (stream, unread) = link.into_parts();
        self.close(stream.into_inner(), unread);
    }

    /// The link has carried bytes: its end is not a failed dial.
    pub(crate) fn used(&mut self) {
        self.link.used = true;
    }

    /// Returns the link to the loop.
    pub(crate) fn give_back(
        mut self,
        stream: Option<Stream>,
        unread: Vec<u8>,
        seen_heartbeat: bool,
    ) {
        self.link.beaten |= seen_heartbeat;
        let back = stream.and_then(|stream| {
            stream.set_nonblocking(true).ok().map(|()| (stream, unread, self.link))
        });
        if let Some(back) = back {
            self.remote.send(Command::Back { number: self.number, back: Box::new(back) });
            self.number = 0;
        }
    }

    /// The last message on the link was written: the loop closes it gently, and dials another one.
    pub(crate) fn close(mut self, stream: Option<Stream>, unread: Vec<u8>) {
        let back = stream.and_then(|stream| {
            stream.set_nonblocking(true).ok().map(|()| (stream, unread, self.link))
        });
        if let Some(back) = back {
            let (number, back, why) = (self.number, Box::new(back), self.why.clone());
            self.remote.send(Command::Ends { number, back, why });
            self.number = 0;
        }
    }

    /// A goaway arrived on the link. It is answered when this returns: by then another link is
    /// being dialled, if one is wanted.
    pub(crate) fn says_goaway(&mut self) {
        let (dialled, done) = crossbeam_channel::bounded(1);
        let number = std::mem::take(&mut self.number); // the end of the link is counted now
        if number != 0 && self.remote.send(Command::Goaway { number, link: self.link, dialled }) {
            let _ = done.recv_timeout(PACE); // a gateway does not wait for a loop that is late or has ended
        }
    }

    /// Counts a further busy link, until the guard is dropped.
    pub(super) fn occupy(&self) -> Busy {
        if self.link.slot.is_some() {
            return Busy(None);
        }
        self.shared.link_is_busy();
        Busy(Some(self.shared.clone()))
    }

    /// The same, and requests another link if too few idle ones are left.
    pub(crate) fn busy(&self) -> Busy {
        let busy = self.occupy();
        if self.link.slot.is_none()
            && self.shared.is_short()
            && !self.shared.asked.swap(true, Relaxed)
        {
            self.remote.send(Command::TopUp);
        }
        busy
    }

    /// The gateway reported this number of waiting callers in a head that the loop has not read.
    pub(crate) fn callers_wait(&self, callers: usize) {
        self.remote.send(Command::CallersWait(callers));
    }
}

/// The close reason for an error on a link.
fn reason_of(error: &Error) -> CloseReason {
    let end = match () {
        () if error.is_timeout() => CloseCause::Late,
        () if error.is_closed() => CloseCause::Cut,
        () if error.fault() == Fault::Gateway => CloseCause::ProtocolError,
        () => CloseCause::Failed,
    };
    CloseReason::new(end, error.to_string())
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        if self.number != 0 {
            self.remote.send(Command::Gone {
                number: self.number,
                link: self.link,
                why: self.why.clone(),
            });
        }
    }
}

/// A link's busy time; a virtual link's is not counted.
pub(crate) struct Busy(Option<Arc<Counters>>);

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.busy.fetch_sub(1, Relaxed);
        }
    }
}
