//! Programs in the gateway's process, as its loop sees their threads: they lease a link, send a
//! request on it, and return it or close it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use crate::close_reason::CloseCause;
use crate::error::Error;
use crate::gateway::simulated::{self as gateways, Lease};
use crate::limits::Limits;
use crate::sim::actors::{Actor, Cx, read_all, write_some};
use crate::sim::net::{MILLI, Micros, SECOND, tell};
use crate::sim::visitor::{Answer, Reading, Request, check, take_answer};

/// A thread that sends one request after the other.
pub(super) struct Program {
    /// The gateway in whose process it runs.
    of: usize,
    plan: VecDeque<Request>,
    starts: Micros,
    not_before: Option<Micros>,
    state: State,
    limits: Limits,
}

enum State {
    Idle,
    /// It has requested a link.
    Borrowing(Box<Request>, Receiver<Result<Lease, Error>>),
    Asking(Box<Asking>),
}

struct Asking {
    request: Request,
    lease: Lease,
    out: Vec<u8>,
    input: Vec<u8>,
    reading: Option<Reading>,
    read: usize,
    /// The timeouts of `send()`: for the first byte, and for the next one.
    until: Micros,
}

/// How long a program waits for bytes.
const TIME_LIMIT: Micros = 60 * SECOND;

impl Program {
    pub(super) fn new(of: usize, plan: VecDeque<Request>, starts: Micros) -> Self {
        Program {
            of,
            plan,
            starts,
            not_before: None,
            state: State::Idle,
            limits: Limits::default(),
        }
    }

    fn failed(cx: &mut Cx<'_>, request: &Request, why: String) {
        cx.tally.outcome(request.nonce, why);
        cx.tally.failed += 1;
    }

    /// Requests a link when the next request is due.
    fn begin(&mut self, cx: &mut Cx<'_>) -> bool {
        let Some(next) = self.plan.front() else { return false };
        let at = *self.not_before.get_or_insert(cx.now + next.pause);
        if at > cx.now {
            cx.wake(at);
            return false;
        }
        self.not_before = None;
        let Some(request) = self.plan.pop_front() else { return false };
        let (reply, answer) = bounded(1);
        tell(|| {
            format!("a program sends {} {} to {}", request.method, request.nonce, request.device)
        });
        gateways::borrow(
            &cx.gateways[self.of].loops,
            &request.device,
            Duration::from_secs(5),
            reply,
        );
        cx.wake_gateway(self.of);
        self.state = State::Borrowing(Box::new(request), answer);
        true
    }

    /// Continues to read. `Some`: the exchange is over, and the link may be reused or (`Err`) not.
    fn exchange(
        downstream: &mut Asking,
        limits: &Limits,
        cx: &mut Cx<'_>,
    ) -> Option<Result<(), String>> {
        let socket = downstream.lease.stream.simulated();
        let wrote = write_some(socket, &mut downstream.out, usize::MAX);
        let before = downstream.input.len();
        let ended = read_all(socket, &mut downstream.input, usize::MAX);
        let came = downstream.input.len() - before;
        downstream.read += came;
        if came > 0 {
            downstream.until = cx.now + TIME_LIMIT;
            cx.wake(downstream.until);
        }
        let failed = ended.is_err() && ended != Err(None);
        match take_answer(
            downstream.reading.take(),
            &mut downstream.input,
            &downstream.request,
            limits,
            failed,
            ended.is_err(),
        ) {
            Err(why) => return Some(Err(why)),
            Ok(Answer::Whole(reading)) => {
                check(cx, &downstream.request, &reading, false);
                let clean = reading.keeps
                    && downstream.out.is_empty()
                    && downstream.input.is_empty()
                    && ended.is_ok();
                return Some(if clean {
                    Ok(())
                } else {
                    Err("its answer was the link's last".to_owned())
                });
            }
            Ok(Answer::NotYet(reading)) => downstream.reading = reading,
        }
        if ended.is_err() || (wrote.is_err() && downstream.read == 0) {
            return Some(Err("closed".to_owned()));
        }
        if downstream.until <= cx.now {
            return Some(Err("its answer is late".to_owned()));
        }
        let abandons = downstream.request.abandon.is_some_and(|at| downstream.read >= at);
        abandons.then(|| Err("abandoned by its program".to_owned()))
    }
}

impl Actor for Program {
    fn step(&mut self, cx: &mut Cx<'_>) {
        if cx.now < self.starts {
            return;
        }
        loop {
            match std::mem::replace(&mut self.state, State::Idle) {
                State::Idle => {
                    if !self.begin(cx) {
                        return;
                    }
                }
                State::Borrowing(request, answer) => match answer.try_recv() {
                    Ok(Ok(lease)) => {
                        let _ = lease.stream.simulated().watch(Some((cx.node, 0)));
                        let (mut out, input) = (Vec::new(), lease.unread.clone());
                        request.write_for_device(&mut out);
                        self.state = State::Asking(Box::new(Asking {
                            request: *request,
                            lease,
                            out,
                            input,
                            reading: None,
                            read: 0,
                            until: cx.now + TIME_LIMIT,
                        }));
                        cx.wake(cx.now + TIME_LIMIT);
                    }
                    Ok(Err(e)) => Self::failed(cx, &request, e.to_string()),
                    Err(e) if e.is_empty() => {
                        self.state = State::Borrowing(request, answer);
                        return cx.wake(cx.now + 20 * MILLI);
                    }
                    Err(_) => Self::failed(cx, &request, "the gateway has gone".to_owned()),
                },
                State::Asking(mut downstream) => {
                    let over = Self::exchange(&mut downstream, &self.limits, cx);
                    let Some(over) = over else {
                        self.state = State::Asking(downstream);
                        return;
                    };
                    let Asking { request, lease, .. } = *downstream;
                    if let Err(why) = &over {
                        if cx
                            .tally
                            .requests
                            .get(&request.nonce)
                            .is_some_and(|entry| entry.outcome.is_none())
                        {
                            Self::failed(cx, &request, why.clone());
                        }
                    }
                    let _ = lease.stream.simulated().watch(None);
                    let stream = Arc::into_inner(lease.stream)
                        .ok_or(CloseCause::Failed.because("its stream is held elsewhere"));
                    let stream = over
                        .map_err(|_| CloseCause::Program.because("its exchange ended it"))
                        .and(stream);
                    gateways::give_back(&cx.gateways[self.of].loops, lease.of, stream);
                    cx.wake_gateway(self.of);
                }
            }
        }
    }

    fn is_done(&self) -> bool {
        self.plan.is_empty() && matches!(self.state, State::Idle)
    }

    fn leave(&mut self) {
        self.plan.clear();
        self.state = State::Idle;
    }
}
