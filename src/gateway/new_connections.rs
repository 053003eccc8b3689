//! New connections: their listener, first state and TLS handshake; and connections that another
//! loop hands to this one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::engine::connection::Fetched;
use crate::engine::connections::{Connections, Id, Parcel};
use crate::engine::permits::Permit;
use crate::error::Error;
use crate::gateway::admission::Port;
use crate::gateway::bounds::Bound;
use crate::gateway::follow_ups::FollowUp;
use crate::gateway::listeners::Side;
use crate::gateway::registry::Registration;
use crate::gateway::state::{
    Errand, GatewayRole, Granted, HEAD, ShownAt, State, States, Visitor, VisitorSource,
};
use crate::gateway::tokens::Whose;
use crate::limits::Limits;
use crate::proto::proxy_header;
use crate::relay::{LocalAnswer, Rules};
use crate::stream::{GatewayTls, HandshakeError, Shown, ShownKey, Stream, TlsSession};

impl GatewayRole {
    pub(super) fn listen(
        &mut self,
        cx: &mut Connections<State>,
        listener: Option<TcpListener>,
        at: SocketAddr,
        (side, tls): (Side, Option<GatewayTls>),
    ) -> Result<(), Error> {
        if self.lifecycle.is_draining() {
            return Err(Error::stopped("this gateway is stopping; nothing new is listened on"));
        }
        if let Some(number) = self.listeners.closed(at, &side) {
            if let Some(listener) = listener {
                cx.listen_again(number, listener);
            }
            self.listeners.open_again(number, tls, side);
            return Ok(());
        }
        if listener.is_some_and(|listener| cx.listen(listener).is_none()) {
            return Err(Error::usage(
                "this gateway listens on as many addresses as one event loop takes",
            ));
        }
        self.listeners.add(Some(at), tls, side);
        Ok(())
    }

    /// Stops listening at this address.
    pub(super) fn unlisten(
        &mut self,
        cx: &mut Connections<State>,
        at: SocketAddr,
    ) -> Result<(), Error> {
        let Some(number) = self.listeners.close(at) else {
            return Err(Error::usage(format!("this gateway does not listen at {at}")));
        };
        cx.unlisten(number);
        Ok(())
    }

    /// Replaces bounds and timeouts, with effect from now on.
    pub(super) fn set_limits(&mut self, cx: &mut Connections<State>, limits: Limits) {
        self.settings.set_limits(limits);
        let limits = self.settings.limits.clone();
        self.rules = Arc::new(Rules {
            limits: limits.clone(),
            answer_limits: self.settings.link_limits.clone(),
            ..(*self.rules).clone()
        });
        self.own_limits = limits.for_own_heads();
        self.budget = self.budget.bounded(limits.messages_bytes_max, limits.messages_of_device());
        self.observer.set_bounds(&limits);
        cx.set_connections_max(limits.connections_max);
        self.registry.set_limits(limits);
    }

    /// Replaces TLS settings, from the next handshake on. Connections whose handshake is in
    /// progress are closed, because the old settings might admit them.
    pub(super) fn set_tls(
        &mut self,
        cx: &mut Connections<State>,
        at: SocketAddr,
        new: GatewayTls,
    ) -> Result<ShownAt, Error> {
        let wants_certificates = new.needs_client();
        let number = self.listeners.set_tls(at, new)?;
        self.credentials.begin_change(number);
        let checks = wants_certificates
            || self.listeners.is_for_peers(number)
            || self.listeners.side(number) == Some(Whose::Devices);
        let mut shown: HashMap<ShownKey, Arc<Shown>> = HashMap::new();
        for id in cx.ids() {
            let Some(connection) = cx.get(id) else { continue };
            match &connection.state {
                State::Securing { listener, .. } if checks && *listener == number => cx.close(id),
                _ => {
                    let certificate = connection.stream().certificate();
                    shown.extend(certificate.map(|shown| (shown.key(), shown)));
                }
            }
        }
        let leases = self.leases.registrations().filter_map(Registration::certificate);
        shown.extend(leases.map(|shown| (shown.key(), shown.clone())));
        Ok((number, shown.into_values().filter(|shown| shown.key().0 == number).collect()))
    }

    /// The state of a new connection, by its listener.
    fn initial_state(&self, listener: usize, from: SocketAddr, secure: bool) -> State {
        match self.listeners.side(listener) {
            Some(Whose::Visitors) if self.listeners.is_for_peers(listener) => {
                State::Visitor(Visitor::fresh(VisitorSource::Peer))
            }
            Some(Whose::Visitors) => {
                let source = VisitorSource::Visitors {
                    listener,
                    from: from.ip().to_canonical(),
                    trusted: self.settings.is_trusted(from.ip()),
                    secure,
                    pin: None,
                };
                State::Visitor(Visitor::fresh(source))
            }
            _ => HEAD,
        }
    }

    pub(super) fn arrive(
        &mut self,
        cx: &mut Connections<State>,
        listener: usize,
        stream: Stream,
        from: SocketAddr,
    ) {
        let Some(side) = self.listeners.side(listener) else { return };
        if self.lifecycle.is_draining() && side == Whose::Visitors {
            return;
        }
        let is_peer = self.listeners.is_for_peers(listener);
        let is_named = is_peer || !self.admission.is_balancer(side, from.ip());
        let permit = match is_named {
            true if is_peer => self.admission.open_peer(from, &self.settings.limits),
            true => self.permit(side, from),
            false => self.admission.open_unnamed(side, from),
        };
        let permit = match permit {
            Ok(permit) => permit,
            Err(bound) => return bound.into_iter().for_each(|bound| self.stats.reached(bound)),
        };
        if !self.make_room(cx, side) {
            self.stats.reached(self.scarce(cx, side));
            return log_names!(
                Warn,
                "a connection from {from} was closed: there is no room for it (connections_max)"
            );
        }
        let state = match is_named {
            true => self.first_state(listener, from),
            false => State::Unnamed { listener, from },
        };
        let id = match cx.insert(stream, &[], state) {
            Ok(id) => id,
            Err(e) => return log_names!(Warn, "a connection from {from} was dropped: {e}"),
        };
        cx.set_permit(id, Some(permit));
        let port = match side {
            Whose::Devices => Some(Port::Devices),
            Whose::Visitors => is_peer.then_some(Port::Peers),
        };
        port.into_iter().for_each(|port| self.note_newcomer(cx, port, id));
        if is_named {
            return self.begin_connection(cx, id, listener, from);
        }
        let at = cx.after(self.settings.limits.handshake_timeout);
        cx.set_deadline(id, Some(at));
        self.follow_ups.push_back(FollowUp::Step(id)); // the header has often arrived already
    }

    fn permit(&self, side: Whose, from: SocketAddr) -> Result<Permit, Option<Bound>> {
        let trusted = self.settings.is_trusted(from.ip());
        self.admission.open(side, from, trusted, &self.settings.limits)
    }

    /// The state of a connection whose client is known.
    fn first_state(&self, listener: usize, from: SocketAddr) -> State {
        match self.listeners.tls(listener) {
            Some(_) => State::Securing { listener, from },
            None => self.initial_state(listener, from, false),
        }
    }

    /// The address of the client is known; TLS or a request follows.
    fn begin_connection(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        listener: usize,
        from: SocketAddr,
    ) {
        let tls = self.listeners.tls(listener);
        let (secure, is_visitor) =
            (tls.is_some(), self.listeners.side(listener) == Some(Whose::Visitors));
        let is_peer = self.listeners.is_for_peers(listener);
        let channel = match tls.map(|tls| TlsSession::to_peer(tls, listener, is_peer)).transpose() {
            Ok(channel) => channel,
            Err(e) => {
                log_names!(Warn, "a connection from {from} was dropped: {e}");
                return cx.close(id);
            }
        };
        if is_visitor && !is_peer && !self.admit_visitor(cx, id, from, secure) {
            return;
        }
        let limits = &self.settings.limits;
        let time = if secure { limits.handshake_timeout } else { limits.head_timeout };
        let at = cx.after(time);
        cx.set_deadline(id, Some(at));
        match channel {
            None => self.follow_ups.push_back(FollowUp::Step(id)), // the request has often arrived already
            Some(channel) if cx.secure(id, channel.clone(), is_visitor) => {}
            Some(_) => {
                self.stats.reached(Bound::Handshakes);
                log_names!(
                    Warn,
                    "a connection from {from} was closed: as many TLS handshakes are in progress as handshakes_max allows"
                );
                cx.close(id);
            }
        }
    }

    /// Reads the PROXY header at the beginning of a load balancer's connection. The bytes after it
    /// stay in the socket, for TLS or the request parser.
    pub(super) fn proxy_header(&mut self, cx: &mut Connections<State>, id: Id) {
        let mut scratch = cx.take_scratch();
        let read = read_proxy_header(cx, id, &mut scratch);
        cx.put_scratch(scratch);
        let Some(State::Unnamed { listener, from }) = cx.state(id) else { return };
        let (listener, from) = (*listener, *from);
        match read {
            ProxyHeader::NotYet => {}
            ProxyHeader::Whole(source) => {
                if let (Some(source), Some(connection)) = (source, cx.get_mut(id)) {
                    connection.set_remote(source);
                }
                self.name_peer(cx, id, listener, source.unwrap_or(from));
            }
            ProxyHeader::None => {
                log_names!(Debug, "{from} connected for a PROXY header and closed without a byte");
                cx.close(id);
            }
            ProxyHeader::Wrong(why) => self.refuse_proxy_header(cx, id, from, &why),
        }
    }

    /// From here on a load balancer's connection counts as the client's.
    fn name_peer(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        listener: usize,
        from: SocketAddr,
    ) {
        let Some(side) = self.listeners.side(listener) else { return cx.close(id) };
        cx.set_permit(id, None); // the permit of the load balancer's address, which may be the client's, too
        let permit = match self.permit(side, from) {
            Ok(permit) => permit,
            Err(bound) => {
                bound.into_iter().for_each(|bound| self.stats.reached(bound));
                return cx.close(id);
            }
        };
        cx.set_permit(id, Some(permit));
        let state = self.first_state(listener, from);
        let Some(unnamed) = cx.state_mut(id) else { return };
        *unnamed = state;
        self.begin_connection(cx, id, listener, from);
    }

    pub(super) fn refuse_proxy_header(
        &self,
        cx: &mut Connections<State>,
        id: Id,
        from: SocketAddr,
        why: &str,
    ) {
        self.stats.proxy_headers_refused.fetch_add(1, Relaxed);
        log_names!(
            Warn,
            "a connection from {from}, from which a PROXY header is wanted, was closed: {why}"
        );
        cx.close(id);
    }

    pub(super) fn handshake_over(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        outcome: Result<(), HandshakeError>,
    ) {
        let Some(State::Securing { listener, from }) = cx.state(id) else { return };
        let (listener, from) = (*listener, *from);
        match outcome {
            Ok(()) => {
                let state = self.initial_state(listener, from, true);
                if let Some(securing) = cx.state_mut(id) {
                    *securing = state;
                }
                let shown = cx.get(id).and_then(|c| c.stream().certificate());
                if shown.is_some() && self.listeners.is_for_peers(listener) {
                    cx.seen(id);
                }
                self.note_visitors_expiry(cx, id);
                let at = cx.after(self.settings.limits.head_timeout);
                cx.set_deadline(id, Some(at));
                self.follow_ups.push_back(FollowUp::Step(id));
            }
            Err(broken) => {
                match broken.silent {
                    true => log_names!(Debug, "{from} connected for TLS and closed without a byte"),
                    false => {
                        log_names!(Info, "the TLS handshake with {from} failed: {}", broken.text)
                    }
                }
                match broken.plain {
                    true => self.refuse(
                        cx,
                        id,
                        &LocalAnswer::new(400, "this port speaks TLS; write https:// in the URL"),
                    ),
                    false => cx.close(id),
                }
            }
        }
    }

    /// A connection that another loop has taken out.
    pub(super) fn moved_in(
        &mut self,
        cx: &mut Connections<State>,
        parcel: Parcel<State>,
        errand: Errand,
    ) {
        let id = match cx.put_in(parcel) {
            Ok(id) => id,
            Err(e) => return log_names!(Warn, "a connection was lost between event loops: {e}"),
        };
        let shown = cx.get(id).and_then(|connection| connection.stream().certificate());
        shown.into_iter().for_each(|shown| self.credentials.note_arrival(shown));
        let at = cx.after(self.settings.limits.head_timeout);
        cx.set_deadline(id, Some(at));
        match errand {
            Errand::Ask => {
                self.note_visitors_expiry(cx, id);
                self.visitor_head(cx, id);
            }
            Errand::Register(granted) => {
                let Granted { offer, grant, journey } = *granted;
                self.decided(cx, id, offer, Ok(grant), journey)
            }
        }
        cx.resume(id);
        cx.tally(id);
        // There is no second event for bytes that arrived meanwhile.
        cx.reschedule(id);
    }
}

/// The part of a PROXY header that has arrived.
enum ProxyHeader {
    NotYet,
    /// The client that it names, if any. The header was removed from the socket.
    Whole(Option<SocketAddr>),
    /// The connection was closed without a byte, as by a check whether the port is open.
    None,
    Wrong(Cow<'static, str>),
}

fn read_proxy_header(cx: &mut Connections<State>, id: Id, scratch: &mut [u8]) -> ProxyHeader {
    let Some(connection) = cx.get_mut(id) else { return ProxyHeader::NotYet };
    let most = proxy_header::BYTES_MAX.min(scratch.len());
    let length = match connection.peek(&mut scratch[..most]) {
        Ok(Fetched::Bytes(length)) => length,
        Ok(Fetched::Nothing) => return ProxyHeader::NotYet,
        Ok(Fetched::End) => return ProxyHeader::None,
        Err(e) => return ProxyHeader::Wrong(e.to_string().into()),
    };
    match proxy_header::read(&scratch[..length]) {
        Ok(Some(header)) => match connection.skip(header.length, scratch) {
            Ok(()) => ProxyHeader::Whole(header.source),
            Err(e) => ProxyHeader::Wrong(e.to_string().into()),
        },
        Ok(None) if connection.is_ending() => {
            ProxyHeader::Wrong("it ended before its header was whole".into())
        }
        Ok(None) => ProxyHeader::NotYet,
        Err(refusal) => ProxyHeader::Wrong(refusal.reason),
    }
}
