//! Connections to local servers: their assignment to requests, the queue for them, and their idle
//! time. Each server has its own pool.
//!
//! ```text
//!   request ─┬─ its link's own ─► busy ─┬─► idle, anybody's ─► closed after local_keep_alive
//!            ├─ an idle one ────►       └─► bound: a login that belongs to the connection went over it (NTLM, Negotiate)
//!            ├─ a new one ──────►           └─► its link's, for requests of the same visitor's connection; closed by any other, and with the link
//!            └─ none may be opened: in line, at most local_wait_timeout
//! ```
//! A device sees links, and a gateway sends requests of many visitors over one. So a bound
//! connection is used again only for a request with a mark that visitors cannot forge
//! ([`SAME_VISITOR`](crate::proto::forward::SAME_VISITOR)), which says that it comes from the same
//! visitor's connection as the previous one. With a gateway that does not send the mark, and over
//! polls, a bound connection is never used twice. A login with a single request (Kerberos) then
//! still works; one with several (NTLM) fails at the second. It cannot be refused instead, because
//! the two cannot be distinguished.

use std::net::{IpAddr, SocketAddr};

use crate::close_reason::CloseReason;
use crate::device::dial_stages::LOCALS;
use crate::device::link::Link;
use crate::device::local_pool::{BOUND_GRACE, Local, Made, POOL_MAX, ServerId};
use crate::device::lookups::Waiter;
use crate::device::role::DeviceRole;
use crate::device::state::{State, States};
use crate::device::target::Endpoint;
use crate::engine::connections::{Connections, Id};
use crate::engine::permits::Permit;
use crate::engine::slab::Key;
use crate::relay;
use crate::relay::Exchange;

impl DeviceRole {
    /// Gives an exchange a connection to its local server: its link's bound one, an idle one, or a
    /// new one; or enqueues it.
    pub(super) fn find_local(&mut self, cx: &mut Connections<State>, key: Key) {
        let Some(exchange) = self.exchanges.get(key) else { return };
        let Some(server) = exchange.server else { return };
        let (downstream, same, unsafe_twice) =
            (exchange.downstream(), self.is_same_visitor(exchange), !exchange.is_idempotent());
        if let Some((id, of)) = downstream.and_then(|link| self.unbind(cx, link)) {
            if same && of == server && cx.is_quiet(id, unsafe_twice) {
                return self.use_local(cx, (key, server), id, true);
            }
            cx.close(id);
            self.wake_locals(cx);
        }
        let pool = self.locals.pool(server);
        match pool.waiting.is_empty() && pool.has_room() {
            true => self.give_local(cx, key, server),
            false => self.await_local(cx, key, server),
        }
    }

    /// Returns true if the gateway has marked a request as coming from the same visitor's
    /// connection as the previous one on its link.
    fn is_same_visitor(&self, exchange: &Exchange) -> bool {
        exchange.same_visitor().is_some_and(|said| self.sessions.is_one(said))
    }

    fn give_local(&mut self, cx: &mut Connections<State>, key: Key, server: ServerId) {
        let unsafe_twice = self.exchanges.get(key).is_some_and(|e| !e.is_idempotent());
        while let Some(id) = self.locals.pool(server).idle.pop() {
            // A request that must not be repeated is not sent to a server that has closed the
            // connection.
            if cx.is_quiet(id, unsafe_twice) {
                return self.use_local(cx, (key, server), id, false);
            }
            cx.close(id);
        }
        let pool = self.locals.pool(server);
        pool.opening.push((key, Permit::one(&pool.open)));
        self.open_local(cx, key, server);
    }

    /// A new connection for an exchange is established. It is closed if it is no longer needed.
    pub(super) fn local_opened(&mut self, cx: &mut Connections<State>, key: Key, id: Id) {
        let place = self.locals.opened(key);
        let wanted = self.exchanges.get(key).filter(|exchange| exchange.downstream().is_some());
        let Some(server) = wanted.and_then(|exchange| exchange.server) else {
            self.exchanges.remove(key); // its link is gone
            cx.close(id);
            return self.wake_locals(cx);
        };
        cx.set_permit(id, place);
        self.use_local(cx, (key, server), id, false);
    }

    fn use_local(
        &mut self,
        cx: &mut Connections<State>,
        (key, server): (Key, ServerId),
        id: Id,
        bound: bool,
    ) {
        cx.set_deadline(id, None);
        if let Some(conn) = cx.get_mut(id) {
            let made = match &conn.state {
                State::Local(Local::Securing { made, .. }) => *made,
                _ => Made { server, known: self.locals.pool(server).known },
            };
            conn.state = State::Local(Local::Busy { key, bound, made });
        }
        relay::attach(self, cx, key, id);
    }

    fn await_local(&mut self, cx: &mut Connections<State>, key: Key, server: ServerId) {
        let Some(downstream) = self.exchanges.get(key).and_then(|e| e.downstream()) else { return };
        self.locals.pool(server).waiting.push_back(key);
        let at = cx.after(self.limits.local_wait_timeout);
        cx.set_deadline(downstream, Some(at));
        self.watch_locals(cx);
    }

    fn watch_locals(&mut self, cx: &mut Connections<State>) {
        if self.locals.has_line() && !std::mem::replace(&mut self.locals.alarmed, true) {
            let at = cx.after(BOUND_GRACE);
            cx.alarm(at, LOCALS);
        }
    }

    /// Requests have waited for a while: closes idle bound connections for them, the longest idle
    /// first.
    pub(super) fn locals_are_late(&mut self, cx: &mut Connections<State>) {
        self.locals.alarmed = false;
        self.serve_locals(cx);
        for server in self.locals.servers() {
            let most = self.locals.pool(server).waiting.len();
            if most == 0 {
                continue;
            }
            let mut bound: Vec<_> = cx
                .ids()
                .into_iter()
                .filter_map(|id| match cx.state(id) {
                    Some(State::Local(Local::Bound { server: of, since, .. })) if *of == server => {
                        Some((*since, id))
                    }
                    _ => None,
                })
                .collect();
            bound.sort();
            for (_, id) in bound.into_iter().take(most) {
                log_names!(
                    Info,
                    "a local connection that one visitor is logged in on was closed: others wait, and there are as many as local_connections_max allows"
                );
                self.close_local(cx, id);
            }
        }
        self.serve_locals(cx);
        self.watch_locals(cx);
    }

    /// A connection is free, or another may be opened: the first waiting request gets another step.
    pub(super) fn wake_locals(&mut self, cx: &mut Connections<State>) {
        for pool in self.locals.pools() {
            while let Some(key) = pool.waiting.front().filter(|_| pool.has_room()) {
                match self.exchanges.get(*key).and_then(|e| e.downstream()) {
                    Some(downstream) => {
                        cx.reschedule(downstream);
                        break;
                    }
                    None => drop(pool.waiting.pop_front()), // its link is gone
                }
            }
        }
    }

    /// Serves waiting requests, as far as there are connections.
    pub(super) fn serve_locals(&mut self, cx: &mut Connections<State>) {
        for server in self.locals.servers() {
            while let Some(key) = self.locals.pool(server).waiting.front().copied() {
                if self.exchanges.get(key).is_some_and(|e| e.downstream().is_some()) {
                    if !self.locals.pool(server).has_room() {
                        break;
                    }
                    self.locals.pool(server).waiting.pop_front();
                    self.give_local(cx, key, server);
                } else {
                    self.locals.pool(server).waiting.pop_front();
                }
            }
        }
    }

    pub(super) fn local_free(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        reusable: Result<(), CloseReason>,
    ) {
        let Some(State::Local(Local::Busy { key, bound, made })) = cx.state(id) else {
            return self.close_local(cx, id);
        };
        let Made { server, known } = *made;
        let pool = self.locals.pool(server);
        let (is_of_old, has_line) = (known != pool.known, !pool.waiting.is_empty());
        let takes_idle = pool.idle.len() < POOL_MAX;
        let exchange = self.exchanges.get(*key);
        let bound = *bound || exchange.is_some_and(|exchange| exchange.is_bound());
        let downstream = exchange.and_then(|exchange| exchange.downstream());
        // A challenge alone is no login, but the connection is still not given to other visitors.
        let challenged = exchange.is_some_and(|exchange| exchange.is_challenged());
        // A server might take an unread rest of one visitor's request for the next visitor's
        // request.
        let clean = !exchange.is_some_and(|exchange| exchange.may_leave_body());
        let (time, stops) = (self.limits.local_keep_alive, self.draining() && !has_line);
        if reusable.is_err() || time.is_zero() || stops || is_of_old {
            return self.close_local(cx, id);
        }
        match downstream.filter(|_| bound) {
            Some(link) if self.bind(cx, (id, server), link) => {}
            None if !bound && !challenged && clean && takes_idle => {
                let Some(conn) = cx.get_mut(id) else { return };
                conn.state = State::Local(Local::Idle { server });
                self.locals.pool(server).idle.push(id);
                self.wake_locals(cx);
            }
            _ => return self.close_local(cx, id),
        }
        if let Some(conn) = cx.get_mut(id) {
            conn.free_buffers();
        }
        let at = cx.after(time);
        cx.set_deadline(id, Some(at));
    }

    /// Closes a local connection in any state.
    pub(super) fn close_local(&mut self, cx: &mut Connections<State>, id: Id) {
        match cx.state(id) {
            Some(State::Local(Local::Bound { link, .. })) => drop(self.unbind(cx, *link)),
            Some(State::Local(Local::Idle { server })) => {
                self.locals.pool(*server).idle.retain(|idle| *idle != id);
            }
            _ => {}
        }
        cx.close(id);
        self.wake_locals(cx);
    }

    /// Reserves a connection for the link whose visitor is logged in on it. The link counts as
    /// busy, so that another one is dialled for other visitors. Returns false for a poll, which
    /// carries requests of all visitors.
    fn bind(
        &mut self,
        cx: &mut Connections<State>,
        (id, server): (Id, ServerId),
        link: Id,
    ) -> bool {
        let Some(State::Link(Link { slot: None, bound, .. })) = cx.state_mut(link) else {
            return false;
        };
        *bound = Some(id);
        self.shared.busy.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let since = cx.now();
        if let Some(conn) = cx.get_mut(id) {
            conn.state = State::Local(Local::Bound { server, link, since });
        }
        true
    }

    /// Removes a link's bound connection, and returns it with its server.
    fn unbind(&mut self, cx: &mut Connections<State>, link: Id) -> Option<(Id, ServerId)> {
        let Some(State::Link(Link { bound, .. })) = cx.state_mut(link) else {
            return None;
        };
        let id = bound.take()?;
        self.shared.busy.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        match cx.state(id) {
            Some(State::Local(Local::Bound { server, .. })) => Some((id, *server)),
            _ => None,
        }
    }

    /// A link has ended: closes its bound connection.
    pub(super) fn end_bound(&mut self, cx: &mut Connections<State>, link: &Link) {
        if let Some(id) = link.bound {
            self.shared.busy.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            cx.close(id);
            self.wake_locals(cx);
        }
    }

    /// Opens a connection to its local server for an exchange.
    pub(super) fn open_local(&mut self, cx: &mut Connections<State>, key: Key, server: ServerId) {
        let exchange = self.exchanges.get(key).filter(|e| !e.has_lost_caller());
        if let Some(downstream) = exchange.and_then(|e| e.downstream()) {
            cx.set_deadline(downstream, None); // lookup and race have their own deadlines
        }
        let Some(target) = self.server(server) else { return };
        self.connect_to(cx, target.endpoint.clone(), Waiter::Local(key));
    }

    /// Begins to connect to an endpoint. The waiter gets the connection, or the reason why there is
    /// none.
    pub(super) fn connect_to(
        &mut self,
        cx: &mut Connections<State>,
        endpoint: Endpoint,
        waiter: Waiter,
    ) {
        match endpoint {
            Endpoint::Unix(path) => self.race_to(cx, waiter, &path),
            Endpoint::Tcp(host, port) => match host.parse::<IpAddr>() {
                Ok(ip) => self.race(cx, waiter, &host, vec![SocketAddr::new(ip, port)]),
                Err(_) => self.look_up(cx, &host, port, waiter),
            },
        }
    }
}
