//! The state of a device's event loop, and its events.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Instant;

use crossbeam_channel::{Sender, TrySendError};

use crate::close_reason::CloseCause;
use crate::device::address_race::Races;
use crate::device::answer::Past;
use crate::device::backoff::Backoff;
use crate::device::burst::Burst;
use crate::device::command::Command;
use crate::device::counters::Counters;
use crate::device::demand::Demand;
use crate::device::doubt::Doubt;
use crate::device::events::{DeviceEvent, DeviceEventKind};
use crate::device::findings::{Parting, Signs, Tries};
use crate::device::follow_ups::FollowUp;
use crate::device::gateways::GatewayTarget;
use crate::device::group::LoopGroup;
use crate::device::local_pool::{Locals, ServerId};
use crate::device::lookups::Lookups;
use crate::device::mode::Mode;
use crate::device::notices;
use crate::device::plan::{Plan, Service};
use crate::device::sessions::Sessions;
use crate::device::slots::Slot;
use crate::device::target::Target;
use crate::engine::budget::Budget;
use crate::engine::event_loop::Remote;
use crate::engine::slab::Slab;
use crate::engine::workers::Workers;
use crate::limits::Limits;
use crate::proto::head::LineEnds;
use crate::proto::turn::{Encoding, Transport};
use crate::relay::{Exchange, Rules};
use crate::stream::Stream;

pub(crate) struct DeviceRole {
    pub(super) limits: Arc<Limits>,
    /// The limits for messages from the gateway.
    pub(super) link_limits: Arc<Limits>,
    pub(super) plan: Plan,
    pub(super) service: Service,
    pub(super) remote: Remote<Command>,
    pub(super) shared: Arc<Counters>,
    pub(super) workers: Workers,
    pub(super) lookups: Lookups,
    pub(super) races: Races,
    pub(super) rules: Arc<Rules>,
    pub(super) exchanges: Slab<Box<Exchange>>,
    pub(super) locals: Locals,
    pub(super) leases: HashMap<u64, Weak<Stream>>,
    pub(super) numbers: u64,
    pub(super) backoff: Backoff,
    pub(super) tries: Tries,
    pub(super) signs: Signs,
    /// Nothing is dialled before this.
    pub(super) not_before: Option<Instant>,
    pub(super) burst: Burst,
    pub(super) demand: Demand,
    /// It was logged that dialling waits for the clock.
    pub(super) waits_for_clock: bool,
    pub(super) transport: Option<Transport>,
    pub(super) slots: Slab<Slot>,
    pub(super) past: Past,
    /// The budget for bytes of events in memory.
    pub(super) messages: Budget,
    pub(super) sessions: Sessions,
    pub(super) mode: Mode,
    /// The encoding of the fallback's replies.
    pub(super) encoding: Option<Encoding>,
    /// When a connection last ended without an answer to its offer, if no offer was answered since.
    pub(super) hung_up: Option<Instant>,
    /// Until this time the proxy gets polls in absolute form, because it does not open tunnels to
    /// the gateway.
    pub(super) no_tunnel_until: Option<Instant>,
    /// How often, since the last 101, an intermediary refused an offer and let the following poll
    /// pass.
    pub(super) troubled: u32,
    pub(super) doubt: Doubt,
    pub(super) follow_ups: VecDeque<FollowUp>,
    pub(super) events: Sender<DeviceEvent>,
    pub(super) draining: bool,
    pub(super) parting: Parting,
    pub(super) stopped: bool,
    pub(super) group: Arc<LoopGroup>,
    /// Its number in the group.
    pub(super) member: usize,
}

/// The rules of a device's relay.
fn rules(limits: &Arc<Limits>) -> Rules {
    Rules {
        limits: limits.clone(),
        answer_limits: limits.clone(),
        ends: LineEnds::CrlfOrLf,
        via: None,
        add_date: true,
        upstream_name: "the device's local server",
        // A gateway that half-closes a link gives up its request; the link and the local connection
        // are needed for others.
        downstream_may_half_close: false,
        upstream_is_link: false,
    }
}

impl DeviceRole {
    pub(super) fn new(
        [limits, link_limits]: [Arc<Limits>; 2],
        (plan, shared): (Plan, Arc<Counters>),
        service: Service,
        remote: Remote<Command>,
        events: Sender<DeviceEvent>,
        (group, member): (Arc<LoopGroup>, usize),
    ) -> Self {
        let rules = rules(&limits);
        let (idle, mode) = (limits.worker_idle_timeout, Mode::new(plan.fallback));
        let locals = match &service {
            Service::Forward(servers) => {
                Locals::new(servers.iter().map(|target| target.connections_max))
            }
            _ => Locals::new(std::iter::empty()),
        };
        let sessions = Sessions::new(plan.offer.session);
        DeviceRole {
            // A link needs at most one job, so the queue can hold all of them.
            workers: Workers::new(
                "ptth-handler",
                limits.handlers_max.min(shared.max() + plan.polls.end()),
                2 * shared.max() + plan.polls.end(),
                idle,
            ),
            demand: Demand::new(limits.demand_window),
            lookups: Lookups::new(&limits),
            races: Races::new(),
            rules: Arc::new(rules),
            backoff: Backoff::new(limits.backoff_min, limits.backoff_max),
            tries: Tries::default(),
            signs: Signs::default(),
            messages: Budget::new(limits.messages_bytes_max),
            limits,
            link_limits,
            plan,
            service,
            remote,
            shared,
            exchanges: Slab::new(),
            locals,
            leases: HashMap::new(),
            numbers: 0,
            not_before: None,
            burst: Burst::until(Instant::now()),
            waits_for_clock: false,
            follow_ups: VecDeque::new(),
            transport: None,
            slots: Slab::new(),
            past: Past::default(),
            sessions,
            mode,
            encoding: None,
            hung_up: None,
            no_tunnel_until: None,
            troubled: 0,
            doubt: Doubt::default(),
            events,
            draining: false,
            parting: Parting::No,
            stopped: false,
            group,
            member,
        }
    }

    pub(super) fn draining(&self) -> bool {
        self.draining
    }

    pub(super) fn remote(&self) -> Remote<Command> {
        self.remote.clone()
    }

    /// The current gateway.
    pub(super) fn current_gateway(&self) -> Arc<GatewayTarget> {
        self.plan.gateways.current().clone()
    }

    /// A local server of the list.
    pub(super) fn server(&self, server: ServerId) -> Option<&Target> {
        match &self.service {
            Service::Forward(servers) => servers.get(server),
            _ => None,
        }
    }

    /// Its URL, as it was given.
    pub(super) fn server_text(&self, server: ServerId) -> &str {
        self.server(server).map_or("", |target| &target.text)
    }

    /// Sends an event. `url` is the location to which `gateway` has redirected.
    pub(super) fn tell(
        &self,
        kind: DeviceEventKind,
        gateway: &GatewayTarget,
        url: &str,
        detail: String,
    ) {
        self.publish(kind, gateway, url, detail, None);
    }

    pub(super) fn publish(
        &self,
        kind: DeviceEventKind,
        gateway: &GatewayTarget,
        url: &str,
        detail: String,
        cause: Option<CloseCause>,
    ) {
        notices::changed(kind, &gateway.name, url, &detail);
        let transport = self.transport.filter(|_| kind == DeviceEventKind::Connected);
        let event = DeviceEvent {
            kind,
            name: gateway.name.clone(),
            url: url.to_owned(),
            detail,
            transport,
            cause,
        };
        if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
            log_names!(Debug, "nobody reads the device's events; dropped: {event:?}");
        }
    }
}
