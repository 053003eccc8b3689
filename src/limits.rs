//! Every bound and every timeout, in one place: name with its unit, default, precedent, and what
//! happens at the bound.
//!
//! Nothing else in the crate holds a number that a peer could push against. A [`Limits`] is checked
//! once, when a gateway or a device is built, and then shared.

use std::time::{Duration, Instant};

use crate::error::Error;

macro_rules! limits {
    ($( $(#[$doc:meta])* $name:ident : $type:ty = $default:expr ; )*) => {
        /// Bounds and timeouts of one gateway, device or link. Start from [`Limits::default`] and
        /// change fields.
        ///
        /// ```
        /// let mut limits = reverse_http::Limits::default();
        /// limits.head_bytes_max = 8 * 1024;
        /// limits.first_byte_timeout = std::time::Duration::from_secs(20);
        /// ```
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Limits { $( $(#[$doc])* pub $name: $type, )* }

        impl Default for Limits {
            fn default() -> Self {
                Limits { $( $name: $default, )* }
            }
        }
    };
}

limits! {
    /// Longest message head in bytes, start line and empty line included; a chunk line and a
    /// trailer section count against the same bound. Default 16 KiB (nginx 4 × 8 KiB, HAProxy 16
    /// KiB). Heads from the other end of a link may have 4 KiB more, since that end adds fields of
    /// its own. Beyond: 431 to a request, 502 for a response.
    head_bytes_max: usize = 16 * 1024;
    /// Most fields in a head or trailer section. Default 100 (httparse's usual array, Apache's
    /// `LimitRequestFields`), at most 240; 16 more from the other end of a link. Beyond: 431 or 502.
    fields_max: usize = 100;
    /// Longest request target in bytes. Default 8,000 (RFC 9112 §3 recommends at least that).
    /// Beyond: 414.
    target_bytes_max: usize = 8_000;
    /// Most 1xx responses before a final one. Default 8. Beyond: the link is closed, a visitor gets
    /// 502.
    informational_max: usize = 8;
    /// Most 307/308 redirects of an offer in a row. Default 5. Beyond: the device backs off and
    /// starts again at its own URL.
    redirects_max: usize = 5;
    /// Bytes of an abandoned body that are read and discarded so that the connection can be used
    /// again. Default 64 KiB. Beyond: closed.
    drain_bytes_max: usize = 64 * 1024;
    /// Bytes of an answer that a relay reads ahead of its visitor, so that a slow visitor does not
    /// hold the link. Default 32 KiB. Beyond: the link waits.
    read_ahead_bytes_max: usize = 32 * 1024;
    /// Connections of one event loop in all. Default 65,000. A quarter of them is reserved for
    /// devices, and an eighth for visitors, so that neither can lock the other out. Beyond: the
    /// oldest visitor's connection that is idle between two requests is closed; if there is none,
    /// accepting pauses until a connection closes.
    connections_max: usize = 65_000;
    /// Connections from one peer address (IPv6: one /64) at a gateway's devices' port, and as many
    /// at its visitors' ports. Default zero: a quarter of `connections_max` (one peer cannot take
    /// all, and many devices behind one NAT have room); never more than three quarters of it.
    /// Trusted proxies have no such bound. Beyond: closed at once.
    connections_per_address_max: usize = 0;
    /// Unauthenticated connections on the devices' port: those without an accepted offer or poll.
    /// The same number applies to the port for other gateways, to connections that have presented
    /// neither the secret nor a certificate; at most half of these may come from one address (IPv6:
    /// one /64), whose further ones are closed at once, and there are no more than half of
    /// `handshakes_max`. Default zero: a quarter of `connections_max`; never more than three
    /// quarters of it. Beyond: the oldest of them is closed.
    unauthenticated_max: usize = 0;
    /// Longest token in bytes. Default 1,024. Beyond: 401.
    token_bytes_max: usize = 1_024;
    /// TLS handshakes in progress at once in one event loop, including those that wait for the
    /// other side. Default zero: half of `connections_max`; never more than three quarters of it.
    /// Visitors, together with connections to other gateways for them, can take three quarters of
    /// them. Beyond: a new connection is closed at once.
    handshakes_max: usize = 0;
    /// Connections that this side has ended and still reads from
    /// ([`linger_timeout`](Self::linger_timeout)), in one event loop. Default 1,024. Beyond: the
    /// one that was ended first is closed.
    lingering_max: usize = 1_024;
    /// Links of one device name at a gateway. Default 1,024, and never more than a quarter of
    /// `connections_max` (or eight, where that is less). Beyond: the offer gets 503 with
    /// `Retry-After`.
    links_per_device_max: usize = 1_024;
    /// Requests in flight to one device name, over links and as events. Default 1,024. Beyond:
    /// requests wait.
    in_flight_per_device_max: usize = 1_024;
    /// Callers (visitors and `send()`) that wait for a link of one device. Default 1,024. Beyond:
    /// 503 with `Retry-After: 1`.
    waiting_per_device_max: usize = 1_024;
    /// Device names in use at once. Default 65,000. Beyond: the offer gets 503 with `Retry-After`.
    devices_max: usize = 65_000;
    /// Names remembered after their last link has ended. Default 65,536. Beyond: of the credential
    /// with the most of them, the oldest is forgotten. With each name, the 16 sessions that were
    /// replaced last are remembered.
    remembered_max: usize = 65_536;
    /// How long these names are remembered. Default 10 minutes.
    remember: Duration = Duration::from_secs(600);
    /// Links that `on_link` handlers hold at once, each on a worker thread. Default 256. Beyond:
    /// the offer gets 503 with `Retry-After`.
    on_link_max: usize = 256;
    /// Threads that decide about offers (`authorize`), or that look names up for one gateway of a
    /// device. Default 8. Beyond: offers are queued; a lookup fails and is repeated later.
    helpers_max: usize = 8;
    /// Offers that wait for `authorize`. Default 1,024. Beyond: 503 with `Retry-After`. The same
    /// number of names may wait for a lookup in a directory of gateways; beyond, the visitors'
    /// address with most of them gets 503 for its latest one.
    authorize_queue_max: usize = 1_024;
    /// Longest message of the COMET fallback that is held whole, in bytes: an upload to a device
    /// without a link, and any message in JSON. Default 8 MiB. Beyond: 413 to the visitor, 502
    /// where a device's answer is too large. A response in `message/http` is streamed and has no
    /// such bound. Of an upload only the body counts; the encoded event may be longer (a head,
    /// base64, escapes), and devices accept that.
    message_bytes_max: usize = 8 * 1024 * 1024;
    /// Bytes of all such messages that one gateway holds at once, in the form in which they are
    /// held: in JSON a byte may take six. Default 256 MiB, of which one device may use a quarter
    /// (or three times `message_bytes_max`, if that is more). Beyond: 503 with `Retry-After`, to
    /// visitors and to devices. At a device, it bounds the events of one gateway in memory. Beyond:
    /// the poll whose reply is too large counts as a failed attempt.
    messages_bytes_max: usize = 256 * 1024 * 1024;
    /// Bytes of memory for what one gateway holds: connections with their buffers and TLS sessions,
    /// heads of requests in progress, records about devices, and whole messages, whose
    /// `messages_bytes_max` is a part of it. Default 1 GiB. When nine tenths are in use, new
    /// requests get 503 with `Retry-After: 1`; exchanges in progress go on, in pieces that get
    /// smaller as memory does. When all is in use, a new visitor is admitted only in the place of
    /// an idle one.
    memory_bytes_max: usize = 1024 * 1024 * 1024;
    /// Longest answer that a device keeps until the gateway has acknowledged it, so that it can be
    /// posted again. Default 1 MiB. A longer one is not repeated: its visitor sees an aborted
    /// message.
    answer_keep_bytes_max: usize = 1024 * 1024;
    /// Bytes of acknowledged answers that a device keeps, in case their events come again. Default
    /// 4 MiB. Beyond: the oldest are forgotten; if their event comes again, it gets 502.
    answer_cache_bytes_max: usize = 4 * 1024 * 1024;
    /// Connections of one event loop to each other gateway: one for each request that is served
    /// there. Default 4,096. Beyond: 503 with `Retry-After: 1`.
    peer_connections_max: usize = 4_096;
    /// Connections of a device to each of its local servers, idle ones included. Default 0: one for
    /// each request in progress, which links and polls bound. Beyond: requests wait. Use 1 for
    /// servers that handle one connection at a time.
    local_connections_max: usize = 0;
    /// Events kept for a subscriber that does not read them. Default 1,024. Beyond: they are
    /// dropped; the next event of a gateway says how many.
    events_max: usize = 1_024;

    /// Whole time for a request head to arrive, from its first byte (from the accept for the first
    /// one). Default 10 s (slowhttptest's slow heads end here). Then: 408, close.
    head_timeout: Duration = Duration::from_secs(10);
    /// Whole time for a TLS handshake, from the accept (at a device: from the connect), and for the
    /// PROXY header that a balancer sends before a connection. Default 10 s (HAProxy's advice for
    /// `timeout client-hs`; nginx has 60 s). Then: closed.
    handshake_timeout: Duration = Duration::from_secs(10);
    /// How long a kept-alive visitor may stay silent between requests. Default 75 s (nginx
    /// `keepalive_timeout`). Then: closed.
    idle_visitor_timeout: Duration = Duration::from_secs(75);
    /// How long a caller waits for a link of a known device. Default 5 s. Then: 503 with
    /// `Retry-After: 1`. A route may have its own, as it may of the next two.
    wait_for_link: Duration = Duration::from_secs(5);
    /// Longest time in which a device accepts nothing of a request that is being written to it.
    /// Default 60 s (nginx `proxy_send_timeout`). Then: 504, link closed.
    request_write_timeout: Duration = Duration::from_secs(60);
    /// From the request's last byte to the response's first. Default 60 s (nginx
    /// `proxy_read_timeout`). Then: 504, link closed.
    first_byte_timeout: Duration = Duration::from_secs(60);
    /// At a device that forwards: from the request's last byte to the first of its local server's
    /// response. Default zero: off, the gateway's `first_byte_timeout` decides, and the device
    /// notices that its gateway has ended the link (nginx behind nginx would give up on its own). A
    /// device that polls cannot notice this; there `first_byte_timeout` applies. Then: 504.
    local_first_byte_timeout: Duration = Duration::ZERO;
    /// At a device that forwards: longest silence of its local server in the middle of a response,
    /// or while it should read a request. Default zero: off, as above; with polls,
    /// `body_silence_timeout` and `request_write_timeout` apply. Then: the response is aborted, or
    /// 504 if none has begun. For tunnels, `tunnel_silence_timeout` applies.
    local_silence_timeout: Duration = Duration::ZERO;
    /// Longest silence within a body, while the peer is expected to send or read. Default 60 s.
    /// Then: the exchange is aborted, with 408 or 504 if no response has begun.
    body_silence_timeout: Duration = Duration::from_secs(60);
    /// The whole exchange, from the visitor's head (or a program's `send()`) to the last byte of
    /// the response; for a tunnel, to its 101. Default zero: off (nginx, HAProxy; Envoy's is 15 s,
    /// which cuts event streams). Then: 504, or the answer is aborted.
    exchange_timeout: Duration = Duration::ZERO;
    /// Longest silence in both directions of a tunnel (a WebSocket, say). Default 1 hour (HAProxy's
    /// usual `timeout tunnel`); zero turns it off. Then: closed. Once one direction has ended,
    /// `body_silence_timeout` applies to the other.
    tunnel_silence_timeout: Duration = Duration::from_secs(3600);
    /// Longest silence in an exchange whose visitor has closed its direction of the connection,
    /// while callers wait for its link or poll: most visitors that do so are gone. Default 1 s;
    /// zero honours a half-close indefinitely. Then: 503 to the visitor, or the response is cut,
    /// and the link is closed.
    half_close_timeout: Duration = Duration::from_secs(1);
    /// Lowest rate, in bytes per second over [`min_rate_window`](Self::min_rate_window), at which a
    /// visitor may read what is ready for it, while callers wait for a link or a poll, or, if the
    /// response is held in memory whole, while more than half of `messages_bytes_max` is in use.
    /// The same rate is required of a visitor that sends a request's body, while callers wait for
    /// its link, and of the sender of a message that is held whole, while that much memory is in
    /// use. Default 1,024; 0 turns it off. Below: the exchange is ended; a sender gets 408.
    min_rate_bytes_per_s: u64 = 1_024;
    /// The time over which that rate is measured. Default 10 s.
    min_rate_window: Duration = Duration::from_secs(10);
    /// How long a connection that this side has ended is still read from after the last response,
    /// while nothing arrives, so that the response is not lost to a reset. Default 5 s (nginx
    /// `lingering_timeout`). Then: closed.
    linger_timeout: Duration = Duration::from_secs(5);
    /// The same in total, however much arrives: a client that reads nothing before it has written
    /// everything has this time. Default 30 s (nginx `lingering_time`). Then: closed.
    linger_total_timeout: Duration = Duration::from_secs(30);
    /// How long an exchange may be silent if most likely nobody waits for it any more: the rest of
    /// a response whose visitor has left, and what a device forwards for a gateway that has ended
    /// the link. Default 2 s. Then: both connections are closed. It is also how long a stopping
    /// gateway with `drain_to` keeps the devices' port open, and how long connections that it
    /// closes may be silent.
    abandoned_timeout: Duration = Duration::from_secs(2);
    /// TCP connect, per address. Default 10 s. Then: that address has failed.
    connect_timeout: Duration = Duration::from_secs(10);
    /// How long a directory of gateways may take to say which one has a device. Default 2 s (twice
    /// the first retransmission of TCP). Then: 503 with `Retry-After: 1`; a thread that hangs is
    /// not waited for, and of those there are `helpers_max` at most.
    directory_timeout: Duration = Duration::from_secs(2);
    /// How long another gateway that has a complete request may send nothing of a response before
    /// it is probed (`OPTIONS *`, on a separate connection), and how long it may take to answer the
    /// probe. Default 5 s. Then: it is taken to hang; its requests get 504, and until it answers
    /// again, requests for its devices wait as for a gateway that cannot be reached. Zero: it is
    /// not probed.
    peer_timeout: Duration = Duration::from_secs(5);
    /// How long an idle connection to another gateway is kept. Default 60 s, less than the
    /// `idle_visitor_timeout` of its other end. Then: closed. Zero: closed after each response.
    peer_keep_alive: Duration = Duration::from_secs(60);
    /// How long a device tries one address of a name before it also tries the next. Default 250 ms
    /// (RFC 8305 §5). The first connection that is established is used.
    address_delay: Duration = Duration::from_millis(250);
    /// Looking a name up, at the device. Default 10 s (two tries of 5 s at one name server, as
    /// glibc makes them). Then: the attempt failed; a resolver that hangs costs a thread until it
    /// returns, `helpers_max` of them at most.
    resolve_timeout: Duration = Duration::from_secs(10);
    /// How long a device keeps an idle connection to its local server. Default 60 s (nginx's
    /// `keepalive_timeout` of an upstream). Then: closed. Zero: closed after each response.
    local_keep_alive: Duration = Duration::from_secs(60);
    /// How long a request waits for a connection to the local server, if there are as many as
    /// `local_connections_max` allows. Default 30 s (the `timeout queue` of HAProxy's examples).
    /// Then: 503 with `Retry-After: 1`.
    local_wait_timeout: Duration = Duration::from_secs(30);
    /// From a CONNECT to the proxy's answer, at the device. Default 30 s (the proxy looks up and
    /// connects meanwhile). Then: the attempt failed.
    proxy_timeout: Duration = Duration::from_secs(30);
    /// From an offer to its answer, at the device. Default 90 s (three times a held poll). Then:
    /// closed and dialled again.
    offer_timeout: Duration = Duration::from_secs(90);
    /// Silence on an idle link before the gateway sends a heartbeat (`OPTIONS *`), up to a 256th
    /// later. Default 25 s (below the 30 s of the shortest NAT timeouts); zero turns it off.
    heartbeat: Duration = Duration::from_secs(25);
    /// From a heartbeat to its whole answer. Default 10 s. Then: link closed.
    heartbeat_timeout: Duration = Duration::from_secs(10);
    /// Silence after which a device gives up an idle link, once its gateway has sent a heartbeat on
    /// any link (before that, it may be a gateway that sends none). Default 120 s; zero turns it
    /// off.
    silence: Duration = Duration::from_secs(120);
    /// How long a device trusts links over which nothing ever came, neither a request nor a
    /// heartbeat, before it also polls: an intermediary may pass the 101 on and swallow the rest.
    /// The links are given up when such a poll delivers a request, or when another of them ends.
    /// Default 5 minutes (our gateway's heartbeat comes after 25 s); zero turns it off.
    doubt_after: Duration = Duration::from_secs(300);
    /// How long a gateway holds an on-demand offer, or a poll, before it answers that there is
    /// nothing. Default 25 s (below nginx's `proxy_read_timeout` of 60 s).
    poll_hold: Duration = Duration::from_secs(25);
    /// How long a device that polls, or whose offers are held, counts as connected after its last
    /// poll or offer was answered. Default 5 s.
    poll_gap: Duration = Duration::from_secs(5);
    /// Silence after an event was delivered before the same event, with the same id, is delivered
    /// once more. Default 10 s; zero turns it off.
    redeliver_after: Duration = Duration::from_secs(10);
    /// How long a device polls without `Upgrade` when an intermediary rejects `Upgrade`, before it
    /// offers the turn again. Default 10 minutes.
    turn_retry: Duration = Duration::from_secs(600);
    /// How long the busy links of a replaced session may take to finish. Default 10 s. Then:
    /// closed; their callers get 502.
    take_over_grace: Duration = Duration::from_secs(10);
    /// First pause before a device dials again; doubles with each failure, with full jitter.
    /// Default 1 s.
    backoff_min: Duration = Duration::from_secs(1);
    /// Longest such pause. Default 60 s. A `Retry-After` may ask for up to an hour.
    backoff_max: Duration = Duration::from_secs(60);
    /// How long a worker stays on a link it has answered, reading the next request itself, before
    /// the event loop watches the link again. Default 20 ms.
    worker_linger: Duration = Duration::from_millis(20);
    /// Threads for a device's handlers, for each of its gateways. Default 64 (Tomcat has 200,
    /// gunicorn's sync workers are a few). Beyond: requests wait for a thread, as many as there are
    /// links and polls. A device that forwards needs no threads.
    handlers_max: usize = 64;
    /// The time over which a device measures how many links and polls it needs at once. Default 60
    /// s; zero: links that were dialled stay. An idle link beyond that number, and beyond MIN, ends
    /// with the answer to its next heartbeat; such a poll ends with the next reply that brings no
    /// event.
    demand_window: Duration = Duration::from_secs(60);
    /// How long a visitor's sign-in is valid, whether it is used or not. Default 12 h.
    sign_in_timeout: Duration = Duration::from_secs(12 * 3_600);
    /// How long an event loop spins for the next event before it sleeps, as long as spinning mostly
    /// pays off: sleeping and waking up costs more than most exchanges. Meanwhile it yields to
    /// every other thread. Default 100 µs, at most 10 ms, as no deadline is checked meanwhile; zero
    /// turns it off (to save power at the cost of latency).
    spin: Duration = Duration::from_micros(100);
    /// How long a worker thread without work is kept. Default 10 s.
    worker_idle_timeout: Duration = Duration::from_secs(10);
}

impl Limits {
    /// Checks that every bound can work: none is zero where zero does not mean "off", and a head
    /// has room for a request line.
    ///
    /// # Errors
    /// The first field that cannot work, with the smallest value that can.
    pub fn check(&self) -> Result<(), Error> {
        self.check_least()?;
        Self::check_most("fields_max", self.fields_max, FIELDS_CEILING - HOP_FIELDS_MAX)?;
        self.check_not_zero()?;
        Self::check_most("head_bytes_max", self.head_bytes_max, HEAD_CEILING)?;
        Self::check_most("events_max", self.events_max, EVENTS_CEILING)?;
        if self.spin > SPIN_CEILING {
            return Err(Error::usage(format!(
                "limits: spin is {:?}; the most that works is {SPIN_CEILING:?}",
                self.spin
            )));
        }
        if self.backoff_min > self.backoff_max {
            return Err(Error::usage("limits: backoff_min is longer than backoff_max".to_owned()));
        }
        Ok(())
    }

    fn check_most(name: &str, value: usize, most: usize) -> Result<(), Error> {
        if value > most {
            return Err(Error::usage(format!(
                "limits: {name} is {value}; the most that works is {most}"
            )));
        }
        Ok(())
    }

    fn check_least(&self) -> Result<(), Error> {
        let at_least: [(&str, usize, usize); 20] = [
            ("head_bytes_max", self.head_bytes_max, 256),
            ("fields_max", self.fields_max, 8),
            ("target_bytes_max", self.target_bytes_max, 1),
            ("read_ahead_bytes_max", self.read_ahead_bytes_max, 1024),
            ("connections_max", self.connections_max, 4),
            ("token_bytes_max", self.token_bytes_max, 1),
            ("lingering_max", self.lingering_max, 1),
            ("links_per_device_max", self.links_per_device_max, 1),
            ("in_flight_per_device_max", self.in_flight_per_device_max, 1),
            ("devices_max", self.devices_max, 1),
            ("remembered_max", self.remembered_max, 1),
            ("on_link_max", self.on_link_max, 1),
            ("peer_connections_max", self.peer_connections_max, 1),
            ("helpers_max", self.helpers_max, 1),
            ("handlers_max", self.handlers_max, 1),
            ("authorize_queue_max", self.authorize_queue_max, 1),
            ("events_max", self.events_max, 1),
            ("message_bytes_max", self.message_bytes_max, 1024),
            ("messages_bytes_max", self.messages_bytes_max, self.message_bytes_max),
            ("memory_bytes_max", self.memory_bytes_max, self.messages_bytes_max),
        ];
        for (name, value, least) in at_least {
            if value < least {
                return Err(Error::usage(format!(
                    "limits: {name} is {value}; the least that works is {least}"
                )));
            }
        }
        Ok(())
    }

    fn check_not_zero(&self) -> Result<(), Error> {
        let never_zero: [(&str, Duration); 21] = [
            ("head_timeout", self.head_timeout),
            ("handshake_timeout", self.handshake_timeout),
            ("idle_visitor_timeout", self.idle_visitor_timeout),
            ("request_write_timeout", self.request_write_timeout),
            ("first_byte_timeout", self.first_byte_timeout),
            ("body_silence_timeout", self.body_silence_timeout),
            ("connect_timeout", self.connect_timeout),
            ("address_delay", self.address_delay),
            ("directory_timeout", self.directory_timeout),
            ("resolve_timeout", self.resolve_timeout),
            ("proxy_timeout", self.proxy_timeout),
            ("local_wait_timeout", self.local_wait_timeout),
            ("offer_timeout", self.offer_timeout),
            ("abandoned_timeout", self.abandoned_timeout),
            ("heartbeat_timeout", self.heartbeat_timeout),
            ("poll_hold", self.poll_hold),
            ("min_rate_window", self.min_rate_window),
            ("backoff_min", self.backoff_min),
            ("backoff_max", self.backoff_max),
            ("worker_linger", self.worker_linger),
            ("sign_in_timeout", self.sign_in_timeout),
        ];
        for (name, value) in never_zero {
            if value.is_zero() {
                return Err(Error::usage(format!(
                    "limits: {name} is zero; it must be greater than zero"
                )));
            }
        }
        Ok(())
    }
}

/// The instant that long after `then`; a time too long for the clock counts as a year.
pub(crate) fn instant_after(then: Instant, time: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    then.checked_add(time).unwrap_or_else(|| then + YEAR)
}

/// Shares of the totals. They are computed on use, so that a lower total lowers them, too.
impl Limits {
    /// Connections that one address may have.
    pub(crate) fn connections_per_address(&self) -> usize {
        self.share(self.connections_per_address_max, 4)
    }

    /// Unauthenticated connections on the devices' port.
    pub(crate) fn unauthenticated(&self) -> usize {
        self.share(self.unauthenticated_max, 4)
    }

    /// Unauthenticated connections on the port for other gateways. They leave some TLS handshakes
    /// to visitors and to authenticated gateways.
    pub(crate) fn strangers(&self) -> usize {
        self.unauthenticated().min(self.handshakes() / 2).max(1)
    }

    /// Of those, how many may come from one address: the rest is left to other addresses.
    pub(crate) fn strangers_per_address(&self) -> usize {
        (self.strangers() / 2).max(1)
    }

    /// TLS handshakes in progress.
    pub(crate) fn handshakes(&self) -> usize {
        self.share(self.handshakes_max, 2)
    }

    /// Links and polls of one name.
    pub(crate) fn links_per_device(&self) -> usize {
        self.links_per_device_max.min((self.connections_max / 4).max(LINKS_PER_DEVICE_LEAST))
    }

    /// Connections that visitors may have: a quarter is left to devices, without which visitors
    /// could reach nothing.
    pub(crate) fn visitors_connections(&self) -> usize {
        self.connections_max - self.connections_max / 4
    }

    /// Connections that devices may have: an eighth is left to visitors.
    pub(crate) fn devices_connections(&self) -> usize {
        self.connections_max - self.connections_max / 8
    }

    /// Bytes of whole messages that one device may have in memory.
    pub(crate) fn messages_of_device(&self) -> usize {
        (self.messages_bytes_max / 4)
            .max(self.message_bytes_max.saturating_mul(3))
            .min(self.messages_bytes_max)
    }

    /// The setting, or one part of the total if it is zero; less than the total in any case.
    fn share(&self, set: usize, parts: usize) -> usize {
        let total = self.connections_max;
        let wanted = if set == 0 { total / parts } else { set };
        wanted.min(total - total / 4).max(1)
    }
}

impl Limits {
    /// The limits for heads that this process wrote itself: it has added its own fields to a head
    /// that came within the bounds.
    pub(crate) fn for_own_heads(&self) -> Limits {
        Limits {
            head_bytes_max: HEAD_CEILING,
            fields_max: FIELDS_CEILING - HOP_FIELDS_MAX,
            target_bytes_max: HEAD_CEILING,
            ..self.clone()
        }
        .with_room()
    }

    /// The limits for heads and trailers that another gateway or device of ours read within these
    /// bounds and forwarded with fields of its own.
    pub(crate) fn with_room(&self) -> Limits {
        Limits {
            head_bytes_max: self.head_bytes_max.saturating_add(HOP_BYTES_MAX),
            fields_max: self.fields_max.saturating_add(HOP_FIELDS_MAX),
            ..self.clone()
        }
    }

    /// Longest reply that can be an event: the longest upload if it consisted of control characters
    /// alone (six bytes each in JSON), and its head.
    pub(crate) fn event_bytes_max(&self) -> usize {
        self.message_bytes_max.saturating_mul(6).saturating_add(HEAD_CEILING)
    }
}

/// Ceiling of `events_max`: each subscriber's queue allocates its memory at the start.
pub(crate) const EVENTS_CEILING: usize = 1 << 20;

/// Ceiling of `spin`: a loop that spins checks no deadlines, and would take a longer spin for a
/// time in which the process was stopped.
const SPIN_CEILING: Duration = Duration::from_millis(10);

/// Links that one device may have in any case, however small `connections_max` is.
const LINKS_PER_DEVICE_LEAST: usize = 8;

/// Idle visitors' connections that one scan collects when some have to be closed; the next scan is
/// due when these are used up.
pub(crate) const IDLE_FOUND_MAX: usize = 1_024;

/// The part of [`Limits::memory_bytes_max`] that a gateway's records about its devices may take.
/// Half of that is for names that are away; beyond, the oldest name of the credential with most of
/// them is forgotten. When all is in use, no device's history grows.
pub(crate) const OBSERVED_PART: usize = 8;

/// The part of [`Limits::memory_bytes_max`] that records of requests may take while they wait to be
/// read: 16 MiB by default, some thousands of long ones. Beyond, records are dropped, and counted.
pub(crate) const RECORDS_PART: usize = 64;

/// How long a name that is away is listed for operators, at most.
pub(crate) const OBSERVED_AWAY_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);

/// How often a connection is moved from one event loop to another for one request or offer, if its
/// device's owner changes meanwhile. Beyond, it is answered 503.
pub(crate) const MOVES_MAX: u8 = 16;

/// Most event loops of a gateway.
pub(crate) const LOOPS_MAX: usize = 64;

/// Sessions of one name that are remembered after they were replaced. Usually two devices, or a
/// few, compete for a name.
pub(crate) const REPLACED_MAX: usize = 16;

/// Log lines of one kind that peers can cause, per second; beyond, they are counted, and the count
/// is logged. The logger is the process's, so no gateway has its own bound.
pub(crate) const LOG_LINES_PER_SECOND: u32 = 50;

/// The same for lines about the state of a device: if many devices disconnect at once, each is
/// still named, up to this bound.
pub(crate) const LOG_NAMES_PER_SECOND: u32 = 1_000;

/// Lines of one kind about one device within [`LOG_NAME_WINDOW`]; further ones are counted, and the
/// count is logged when the window ends.
pub(crate) const LOG_LINES_PER_NAME: u32 = 10;
/// The time over which they are counted.
pub(crate) const LOG_NAME_WINDOW: std::time::Duration = std::time::Duration::from_secs(10);
/// Names whose lines are counted at a time; for further names in a window, only the bound for all
/// together applies.
pub(crate) const LOG_NAMES_MAX: usize = 16_384;
/// Counts of single names that are logged at the end of a window, those with most lines first; one
/// line sums up the others.
pub(crate) const LOG_COUNTS_MAX: usize = 20;

/// Lines per second about requests that come from pages of other hosts, as browsers report them:
/// one line is enough to see the cause, and any browser may send many.
pub(crate) const LOG_OTHER_SITES_PER_SECOND: u32 = 1;

/// Longest such line, in characters.
pub(crate) const LOG_LINE_CHARS_MAX: usize = 1_000;

/// What a hop may add to a head, in bytes: forwarding fields, framing, `Date`, `Via`. Precedent:
/// HAProxy's `tune.maxrewrite`, 1 KiB; our path prefix may be longer. The next gateway or device
/// accepts this much more than `head_bytes_max`. Beyond: 431 by the gateway itself, 502 by the
/// device; the link stays open.
pub(crate) const HOP_BYTES_MAX: usize = 4 * 1024;

/// The same for the number of fields; a test checks that no hop adds as many.
pub(crate) const HOP_FIELDS_MAX: usize = 16;

/// Other gateways that one loop knows at once. Beyond: one without connections is forgotten; if
/// there is none, no request is sent to the new one.
pub(crate) const PEERS_MAX: usize = 1024;

/// Addresses of another gateway's name that are tried, one after the other.
pub(crate) const PEER_ADDRESSES_MAX: usize = 4;

/// Names whose gateway one loop remembers: some 100 bytes each. Beyond: all are forgotten, and
/// looked up again.
pub(crate) const PEER_NAMES_MAX: usize = 65_536;

/// Changed names of the directory of gateways that one loop has not processed yet. Beyond: the loop
/// forgets the gateways of all names.
pub(crate) const CHANGED_NAMES_MAX: usize = 4_096;

/// Idle connections of each loop to one other gateway. Beyond: closed.
pub(crate) const PEER_IDLE_MAX: usize = 256;

/// How long the answer that no gateway has a device is remembered, and how often the lookup is
/// repeated while a request waits.
pub(crate) const PEER_RECALL: Duration = Duration::from_secs(1);

/// For how long a gateway that could not be reached, or did not have a device, gets requests for it
/// only if no other gateway has it.
pub(crate) const PEER_SETBACK: Duration = Duration::from_secs(10);

/// How many of these are remembered. Beyond: the expired ones are forgotten, or all if none has
/// expired.
pub(crate) const PEER_SETBACKS_MAX: usize = 1024;

/// How long an attempt to connect to another gateway, and its TLS handshake, may take even if the
/// visitor's wait is shorter: time for a retransmission.
pub(crate) const PEER_ATTEMPT: Duration = Duration::from_secs(1);

/// Bytes of a request's body that are kept until another gateway answers, which may no longer have
/// the device. A longer body is not kept, so its request is not sent to a third gateway.
pub(crate) const PEER_BODY_KEPT_MAX: usize = 64 * 1024;

/// How long a stopping gateway keeps idle connections of other gateways: a request may be on its
/// way.
pub(crate) const PEER_PARTING: Duration = Duration::from_millis(500);

/// How much longer than its device another gateway may take to begin an answer, so that its own
/// timeout expires first and its error text arrives.
pub(crate) const PEER_GRACE: Duration = Duration::from_secs(2);

/// Links of a name that serve one visitor's connection alone (NTLM, Negotiate): all but one in so
/// many, and at least one. Beyond, the one that was idle longest is closed. HAProxy and nginx,
/// which open such connections themselves, need no share.
pub(crate) const PINNED_PART: usize = 4;

/// How long callers wait, at most, before such a link, if it is idle, is closed to make room for
/// one that they can use; half of their own wait if that is shorter. Long enough for a login of
/// three legs over a slow network.
pub(crate) const PINNED_GRACE: Duration = Duration::from_secs(1);

/// The part of [`Limits::memory_bytes_max`] that the table of rates may take, once a rate is set.
pub(crate) const RATES_PART: usize = 256;

/// Visitors and tokens whose requests are counted for their rate at a time: 1.6 MiB. Beyond, a
/// client shares an entry with the one that has used least of its rate. Precedent: nginx's
/// `limit_req_zone` (16,000 in 1 MiB; the least recently used entry is evicted, and its client
/// starts afresh).
pub(crate) const RATES_MAX: usize = 65_536;

/// Sign-ins that one visitor's address (IPv6: one /64) may try in a minute, and in one burst.
pub(crate) const SIGN_INS_PER_MINUTE: u32 = 10;

/// A head is read in one piece of the loop's buffer; this is the ceiling of
/// [`Limits::head_bytes_max`].
const HEAD_CEILING: usize = 128 * 1024;

/// Most fields of a head or trailer section, including those that hops add, so that
/// [`Limits::fields_max`] is at most [`HOP_FIELDS_MAX`] less: an accepted message can always be
/// forwarded. Each field of a message is compared with every name that `Connection` lists, hence
/// the bound.
pub(crate) const FIELDS_CEILING: usize = 256;
