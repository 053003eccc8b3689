//! The state of the gateway's loop: the state of each connection, with typed access to it; the
//! commands of other threads; and the components that own the rest.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Sender;

use crate::cancel::Cancel;
use crate::close_reason::CloseReason;
use crate::engine::budget::{Budget, Held};
use crate::engine::connections::{Connections, Id, Parcel};
use crate::engine::event_loop::Remote;
use crate::engine::slab::{Key, Slab};
use crate::engine::workers::Workers;
use crate::error::{Error, Refusal};
use crate::gateway::admission::{Admission, Port, SharedAdmission};
use crate::gateway::alarms::{Alarm, Alarms};
use crate::gateway::callers::{Callers, LeaseReply, NameReply};
use crate::gateway::credentials::Credentials;
use crate::gateway::device_head::DeviceHead;
use crate::gateway::device_info::DeviceInfo;
use crate::gateway::events::{Subscriber, Subscribers};
use crate::gateway::exchange_deadlines::ExchangeDeadlines;
use crate::gateway::follow_ups::FollowUp;
use crate::gateway::leases::{LeaseId, Leases};
use crate::gateway::ledger::{ClaimGuard, Rival};
use crate::gateway::lifecycle::Lifecycle;
use crate::gateway::listeners::{Listeners, Side};
use crate::gateway::loops::Loops;
use crate::gateway::name_owners::{Home, NameOwners};
use crate::gateway::offer::{Grant, Offer, Reject};
use crate::gateway::peer_table::{PeerLink, PeerTable};
use crate::gateway::peers::OtherOwner;
use crate::gateway::peers::{Cluster, Located};
use crate::gateway::polls::deliveries::{Deliveries, MessageId};
use crate::gateway::polls::posted::PostedAnswer;
use crate::gateway::polls::reply::{Parked, PollReply};
use crate::gateway::questions::Question;
use crate::gateway::rates::RateTable;
use crate::gateway::registry::{Registration, Registry, Session};
use crate::gateway::routes::Table;
use crate::gateway::settings::Settings;
use crate::gateway::sign_in::SignIns;
use crate::gateway::stats::{LinkCounts, Stats};
use crate::gateway::tokens::{Digest, Tokens, Whose};
use crate::limits::{LOOPS_MAX, Limits};
use crate::link::CutError;
use crate::observe::Observer;
use crate::proto::comet::Answer;
use crate::proto::turn::Transport;
use crate::relay::{Exchange, Lingering, Rules, Wait};
use crate::stream::{GatewayTls, Shown, ShownKey, Stream};
use crate::upgraded::Upgrades;

/// The gateway's state of a connection.
pub(crate) enum State {
    /// A connection of a load balancer, before its PROXY header.
    Unnamed {
        listener: usize,
        from: SocketAddr,
    },
    /// Its TLS handshake is in progress; this listener has accepted it.
    Securing {
        listener: usize,
        from: SocketAddr,
    },
    Visitor(Visitor),
    Device(Device),
    /// To another gateway.
    Peer(PeerLink),
    /// It was answered, and is being closed gently.
    Lingering(Lingering),
}

/// A device's connection that is new, or offers again.
pub(super) const HEAD: State =
    State::Device(Device::Head { began: false, polled: false, told: None });

/// A device's connection between two polls.
pub(super) const BETWEEN_POLLS: State =
    State::Device(Device::Head { began: false, polled: true, told: None });

/// The state of a visitor's connection.
pub(crate) enum Visitor {
    /// It waits for a request head; `began` means that a part has arrived. `moves` is how often it
    /// was moved to another loop for this request.
    Head { began: bool, first: bool, moves: u8, source: VisitorSource },
    /// A request for a device is being served, or waits for a link or a poll.
    Asking(Asking),
}

/// A request that is being served, or waits for a link or a poll.
pub(crate) struct Asking {
    pub(crate) key: Key,
    /// Its device.
    pub(crate) name: Arc<str>,
    /// The id of its event, if it was handed out to a poll.
    pub(crate) event: Option<MessageId>,
    /// The visitor's token, if visitors need one.
    pub(crate) token: Option<Box<Digest>>,
    /// The visitor's address, as far as proxies before this gateway are trusted. `None` for a
    /// program.
    pub(crate) visitor: Option<IpAddr>,
    /// The progress of its search for a device that is not here.
    pub(crate) search: Search,
    pub(crate) source: VisitorSource,
}

/// The progress of a request's search for a device that is not here, if known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Search {
    pub(crate) stage: Stage,
    /// Until this time it may wait for a link, here or elsewhere.
    pub(crate) until: Option<Instant>,
    /// Why it was not found elsewhere: the gateway that has it could not be reached, or the
    /// directory could not tell which gateway that is.
    pub(crate) obstacle: Option<Obstacle>,
    /// It waits for an answer of the directory.
    pub(crate) in_lookup: bool,
    /// It is woken when a gateway gets its device.
    pub(crate) is_lined_up: bool,
}

/// Why a device cannot be found or reached at another gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// The directory of gateways has not answered in time.
    DirectoryLate,
    /// The directory of gateways cannot answer.
    DirectoryAway,
    /// The directory of gateways was not asked, because too many lookups wait.
    DirectoryBusy,
    /// The gateway that has the device cannot be reached.
    Unreached,
}

impl Obstacle {
    /// The text for its visitor.
    pub(super) fn text(self) -> &'static str {
        match self {
            Obstacle::DirectoryLate => {
                "the directory of gateways did not say in time where the device is"
            }
            Obstacle::DirectoryAway => {
                "the directory of gateways cannot say where the device is; try again later"
            }
            Obstacle::DirectoryBusy => {
                "too many requests wait for the directory of gateways; try again later"
            }
            Obstacle::Unreached => "the gateway that has the device cannot be reached",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The device is here, or is not looked for elsewhere.
    #[default]
    Here,
    /// The directory of gateways is being asked; the request does not wait for the device yet.
    Asked,
    /// It waits here, and is looked for elsewhere from time to time.
    InLine,
    /// A connection to another gateway is being made.
    Connecting,
}

/// The source of a visitor's requests: a listener, a program, or another gateway.
#[derive(Clone)]
pub(crate) enum VisitorSource {
    /// A listener, by its number, because its routes may be replaced. `trusted`: the client is a
    /// trusted proxy. `secure`: it uses TLS. `pin`: the link that is reserved for it.
    Visitors { listener: usize, from: IpAddr, trusted: bool, secure: bool, pin: Option<Arc<Pin>> },
    /// A program of this process, for one device. `cut_error` gives it the error of a cut exchange.
    Program { name: Arc<str>, cut_error: CutError },
    /// Another gateway, for a device of this one. Its requests are never sent to a third gateway.
    Peer,
}

impl VisitorSource {
    pub(super) fn program(name: &str, cut_error: CutError) -> Self {
        VisitorSource::Program { name: name.into(), cut_error }
    }

    pub(super) fn is_peer(&self) -> bool {
        matches!(self, VisitorSource::Peer)
    }

    /// Gives a program the error of its exchange, unless it has one already.
    pub(super) fn leave_error(&self, error: impl FnOnce() -> Error) {
        if let VisitorSource::Program { cut_error, .. } = self {
            cut_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(error);
        }
    }
}

impl Visitor {
    pub(super) fn fresh(source: VisitorSource) -> Self {
        Visitor::Head { began: false, first: true, moves: 0, source }
    }

    /// The exchange in progress with a token: its key, its device, the token.
    pub(super) fn token(&self) -> Option<(Key, &str, &Digest)> {
        match self {
            Visitor::Asking(Asking { key, name, token: Some(token), .. }) => {
                Some((*key, name, token))
            }
            _ => None,
        }
    }

    pub(super) fn source(&self) -> &VisitorSource {
        match self {
            Visitor::Head { source, .. } | Visitor::Asking(Asking { source, .. }) => source,
        }
    }

    pub(super) fn source_mut(&mut self) -> &mut VisitorSource {
        match self {
            Visitor::Head { source, .. } | Visitor::Asking(Asking { source, .. }) => source,
        }
    }
}

/// The state of a device's connection.
pub(crate) enum Device {
    /// An offer or a poll is being read. `began`: a part has arrived. `polled`: it is not the first
    /// on this connection. `told`: the event in the last reply on it.
    Head { began: bool, polled: bool, told: Option<MessageId> },
    /// `authorize` is looking at it.
    Deciding(Box<DeviceHead>),
    /// The answer in it is being read.
    PostedAnswer(Box<PostedAnswer>),
    /// It waits for a request.
    Held { registration: Arc<Registration>, hold: Hold },
    /// A poll is being answered.
    PollReply(Box<PollReply>),
    /// It is a link.
    Link(Link),
}

/// The bytes for a held connection when there is a request.
pub(crate) enum Hold {
    /// On-demand turn: this 101, then the request.
    Offer(Vec<u8>),
    /// The request as an event.
    Poll(Box<Parked>),
}

pub(crate) struct Link {
    pub(super) registration: Arc<Registration>,
    /// The exchange it carries, or will carry: a request may be held back.
    pub(super) exchange: Option<Key>,
    /// When that exchange was assigned to it.
    pub(super) asked: Option<Instant>,
    /// It got a goaway, or has to end; it is closed after its answer.
    pub(super) leaving: bool,
    /// It is reserved for this visitor's connection.
    pub(super) pinned: Option<Id>,
    /// That visitor's request, which waits for the end of a heartbeat.
    pub(super) wanted: Option<Key>,
}

impl Device {
    pub(super) fn link(registration: Arc<Registration>) -> Self {
        Device::Link(Link {
            registration,
            exchange: None,
            asked: None,
            leaving: false,
            pinned: None,
            wanted: None,
        })
    }

    /// Its registration, if it has one.
    pub(super) fn registration(&self) -> Option<&Registration> {
        match self {
            Device::Link(link) => Some(&link.registration),
            Device::Held { registration, .. } => Some(registration),
            Device::PostedAnswer(posted) => Some(posted.registration()),
            Device::Head { .. } | Device::Deciding(_) | Device::PollReply(_) => None,
        }
    }
}

/// A visitor's reservation of a link. It is part of the visitor's state, and dropping its last copy
/// ends the link, however the visitor's connection ended.
pub(crate) struct Pin {
    pub(super) remote: Remote<Command>,
    pub(super) link: Id,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.remote.send(Command::Unpin { link: self.link });
    }
}

/// Typed access to the state of a connection.
pub(super) trait States {
    fn state(&self, id: Id) -> Option<&State>;
    fn state_mut(&mut self, id: Id) -> Option<&mut State>;

    fn visitor(&self, id: Id) -> Option<&Visitor> {
        if let State::Visitor(visitor) = self.state(id)? { Some(visitor) } else { None }
    }
    fn visitor_mut(&mut self, id: Id) -> Option<&mut Visitor> {
        if let State::Visitor(visitor) = self.state_mut(id)? { Some(visitor) } else { None }
    }
    fn asking(&self, id: Id) -> Option<&Asking> {
        if let Visitor::Asking(asking) = self.visitor(id)? { Some(asking) } else { None }
    }
    fn asking_mut(&mut self, id: Id) -> Option<&mut Asking> {
        if let Visitor::Asking(asking) = self.visitor_mut(id)? { Some(asking) } else { None }
    }
    fn device(&self, id: Id) -> Option<&Device> {
        if let State::Device(device) = self.state(id)? { Some(device) } else { None }
    }
    fn device_mut(&mut self, id: Id) -> Option<&mut Device> {
        if let State::Device(device) = self.state_mut(id)? { Some(device) } else { None }
    }
    fn deciding(&self, id: Id) -> Option<&DeviceHead> {
        if let Device::Deciding(head) = self.device(id)? { Some(head) } else { None }
    }
    fn link(&self, id: Id) -> Option<&Link> {
        if let Device::Link(link) = self.device(id)? { Some(link) } else { None }
    }
    fn link_mut(&mut self, id: Id) -> Option<&mut Link> {
        if let Device::Link(link) = self.device_mut(id)? { Some(link) } else { None }
    }
    fn posted(&self, id: Id) -> Option<&PostedAnswer> {
        if let Device::PostedAnswer(posted) = self.device(id)? { Some(posted) } else { None }
    }
    fn posted_mut(&mut self, id: Id) -> Option<&mut PostedAnswer> {
        if let Device::PostedAnswer(posted) = self.device_mut(id)? { Some(posted) } else { None }
    }
    fn parked(&self, id: Id) -> Option<&Parked> {
        match self.device(id)? {
            Device::Held { hold: Hold::Poll(parked), .. } => Some(parked),
            _ => None,
        }
    }
    fn poll_reply(&self, id: Id) -> Option<&PollReply> {
        if let Device::PollReply(reply) = self.device(id)? { Some(reply) } else { None }
    }
    fn poll_reply_mut(&mut self, id: Id) -> Option<&mut PollReply> {
        if let Device::PollReply(reply) = self.device_mut(id)? { Some(reply) } else { None }
    }

    fn peer_link(&self, id: Id) -> Option<&PeerLink> {
        if let State::Peer(link) = self.state(id)? { Some(link) } else { None }
    }
    fn peer_link_mut(&mut self, id: Id) -> Option<&mut PeerLink> {
        if let State::Peer(link) = self.state_mut(id)? { Some(link) } else { None }
    }

    /// The registration of a link, or of a held offer or poll.
    fn registration(&self, id: Id) -> Option<Arc<Registration>> {
        match self.device(id)? {
            Device::Link(link) => Some(link.registration.clone()),
            Device::Held { registration, .. } => Some(registration.clone()),
            _ => None,
        }
    }
}

impl States for Connections<State> {
    fn state(&self, id: Id) -> Option<&State> {
        Some(&self.get(id)?.state)
    }
    fn state_mut(&mut self, id: Id) -> Option<&mut State> {
        Some(&mut self.get_mut(id)?.state)
    }
}

/// The compiler copies up to 128 bytes inline; for more it calls `memcpy`, at each of a dozen moves
/// on the way to the loop.
#[cfg(not(test))] // with a simulated socket a stream is larger
const _: () = assert!(size_of::<Command>() <= 128);

/// A command of another thread to the gateway's loop.
pub(crate) enum Command {
    /// A link for a program's `send()`.
    Borrow(Borrow),
    /// One end of a connection on which a program's requests to this device are served like a
    /// visitor's.
    #[cfg(feature = "ureq")]
    Open { name: String, reply: LeaseReply },
    /// Returns a leased link, or reports its end.
    Return { lease: LeaseId, stream: Result<(Stream, Vec<u8>), CloseReason> },
    /// Waits until a name is connected.
    Wait { name: String, time: Duration, cancel: Option<Cancel>, reply: NameReply },
    /// Some of the threads that wait were cancelled.
    Cancelled,
    /// The links of a name, and its transport.
    Links { name: String, reply: Sender<(LinkCounts, Option<Transport>)> },
    /// The devices with these names that are connected to this loop.
    Devices { names: Vec<Arc<str>>, reply: Sender<Vec<DeviceInfo>> },
    /// A helper has read a long message in JSON.
    Parsed { id: Id, answer: Box<Result<Option<Answer>, Refusal>>, held: Held },
    /// A helper has written a long event in JSON for this poll.
    Encoded { poll: Id, event: MessageId, json: Result<(Vec<u8>, Held), Refusal> },
    /// `authorize` has decided.
    Decided { id: Id, offer: Box<Offer>, verdict: Result<Grant, Reject> },
    /// Adopts a connection for which another server has written the 101.
    Adopt {
        stream: Stream,
        unread: Vec<u8>,
        offer: Box<Offer>,
        grant: Grant,
        reply: Sender<Result<(), Error>>,
    },
    /// Adds a listener.
    Listen {
        /// `None` if another loop accepts for this one.
        listener: Option<TcpListener>,
        at: SocketAddr,
        side: Side,
        tls: Option<Box<GatewayTls>>,
        reply: Sender<Result<(), Error>>,
    },
    /// Replaces the certificates of the listener at this address.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    SetTls { at: SocketAddr, tls: GatewayTls, reply: Sender<Result<ShownAt, Error>> },
    /// These client certificates, accepted by this listener before its settings were replaced, are
    /// no longer accepted.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    RefuseCertificates {
        listener: usize,
        refused: HashSet<ShownKey>,
        reply: Sender<Vec<Arc<Shown>>>,
    },
    /// Stops listening at this address.
    Unlisten { at: SocketAddr, reply: Sender<Result<(), Error>> },
    /// Replaces bounds and timeouts.
    SetLimits { limits: Box<Limits>, reply: Sender<()> },
    /// Replaces the routes of the listener at this address. The old ones are returned, so that the
    /// loop does not spend time on freeing a long table.
    SetRoutes { at: SocketAddr, table: Arc<Table>, reply: Sender<Result<Arc<Table>, Error>> },
    /// Replaces tokens. The old ones are returned, like routes.
    SetTokens { whose: Whose, tokens: Arc<Tokens>, reply: Sender<Result<Arc<Tokens>, Error>> },
    /// Adds a subscriber for events, and confirms it.
    Subscribe { subscriber: Subscriber, reply: Sender<()> },
    /// Stops the gateway: announces it during `notice`, then accepts no new requests, and lets
    /// exchanges in progress finish within `time`.
    Drain { notice: Duration, time: Duration },
    /// The visitor's connection to which this link was pinned has ended.
    Unpin { link: Id },
    /// A connection that another loop hands over to this one.
    Moved { parcel: Box<Parcel<State>>, errand: Errand },
    /// A connection that another loop has accepted for this one.
    Accepted { listener: usize, stream: Stream, from: SocketAddr },
    /// These names are connected to another loop, and callers wait for names.
    Announce { names: Arc<[Arc<str>]> },
    /// Another loop has no room for a connection of this side: this loop should close one.
    GiveWay { side: Whose },
    /// There are too many unauthenticated connections to this port, and this one is the oldest of
    /// them.
    CloseUnseen { port: Port, id: Id },
    /// An operator's question.
    #[cfg_attr(not(feature = "admin"), allow(dead_code))]
    Observe(Question),
    /// The directory's answer on where a device is.
    Located { name: Box<str>, found: Located },
    /// Cached locations of devices may be wrong ([`Changes`](super::changes::Changes)).
    ForgetPeers,
    /// The verdict of the shared table on the names of this offer. `None` if it did not answer.
    Claimed { id: Id, number: u64, claimed: Option<Result<ClaimGuard, OtherOwner>> },
    /// Another gateway has taken a name that was claimed with this epoch.
    LostName { name: Arc<str>, epoch: u64, to: Rival },
    /// Answered when the loop has completed a turn.
    Ping { reply: Sender<()> },
}

/// A program's thread needs a link.
pub(crate) struct Borrow {
    pub(super) name: String,
    pub(super) wait: Wait,
    /// How many loops were asked before.
    pub(super) moves: u8,
    pub(super) cancel: Option<Cancel>,
    pub(super) reply: LeaseReply,
}

/// The reason a connection was moved.
pub(crate) enum Errand {
    /// A visitor's request, which is unread in its buffer.
    Ask,
    /// This offer or poll, which was granted.
    Register(Box<Granted>),
}

/// An offer that was granted and is not admitted yet.
pub(crate) struct Granted {
    pub(super) offer: Offer,
    pub(super) grant: Grant,
    pub(super) journey: Journey,
}

/// Whether the names of an offer were claimed in a table of several gateways.
#[derive(Default)]
pub(crate) enum Claim {
    /// It was not tried, or is not needed.
    #[default]
    None,
    /// The table did not answer.
    Later,
    Made(ClaimGuard),
}

/// The path of an offer through the loops.
#[derive(Default)]
pub(crate) struct Journey {
    /// The number of moves.
    pub(super) moves: u8,
    /// The loops, one bit each, that have nothing against it.
    pub(super) agreed: u64,
    /// Sessions that it has replaced under names that other loops have given up for it.
    pub(super) replaced: Vec<(Box<str>, Session, Instant)>,
    pub(super) claim: Claim,
}

const _: () = assert!(LOOPS_MAX <= u64::BITS as usize);

/// A listener's number, and the certificates of connections through it, each once.
pub(crate) type ShownAt = (usize, Vec<Arc<Shown>>);

pub(crate) struct GatewayRole {
    pub(super) settings: Settings,
    /// The limits for heads that were written here.
    pub(super) own_limits: Limits,
    pub(super) credentials: Credentials,
    /// The next time at which a certificate of a device may expire.
    pub(super) next_expiry: Option<SystemTime>,
    pub(super) admission: Admission,
    pub(super) helpers: Workers,
    /// Separate threads for long JSON, so that offers do not wait for messages of devices.
    pub(super) json_workers: Workers,
    pub(super) link_workers: Workers,
    /// This loop's number, and the senders to all loops.
    pub(super) number: usize,
    pub(super) loops: Loops<Command>,
    /// Connections that it has accepted for all loops, if it does so.
    pub(super) dealt: Option<usize>,
    /// The sender to this loop.
    pub(super) remote: Remote<Command>,
    pub(super) stats: Arc<Stats>,
    pub(super) observer: Observer,
    pub(super) rules: Arc<Rules>,
    pub(super) listeners: Listeners,
    pub(super) exchanges: Slab<Box<Exchange>>,
    pub(super) deadlines: ExchangeDeadlines,
    pub(super) registry: Registry,
    pub(super) events: Deliveries,
    /// The budget for whole messages in memory.
    pub(super) budget: Budget,
    /// Counts the heads of requests in progress, of which each has a bound.
    pub(super) heads: Budget,
    /// Counts recent requests of each client, in all loops.
    pub(super) rates: Arc<RateTable>,
    pub(super) sign_ins: Arc<SignIns>,
    /// Set if a link is registered under an origin, so that visitors' hosts have to be looked up.
    pub(super) origins: Arc<AtomicBool>,
    pub(super) leases: Leases,
    pub(super) callers: Callers,
    pub(super) alarms: Alarms,
    pub(super) follow_ups: VecDeque<FollowUp>,
    pub(super) subscribers: Arc<Mutex<Subscribers>>,
    /// Upgraded connections that programs hold.
    pub(super) upgrades: Arc<Upgrades>,
    /// Other gateways, if it knows any.
    pub(super) peers: Option<Box<PeerTable>>,
    /// Offers whose names are being claimed.
    pub(super) claiming: HashMap<Id, (u64, Box<Granted>)>,
    /// Claims that were begun so far.
    pub(super) claims: u64,
    pub(super) lifecycle: Lifecycle,
}

pub(super) const SHORT_OF_MEMORY: &str =
    "this gateway has taken nine tenths of memory_bytes_max; try again later";
pub(super) const STOPPED: &str = "this gateway stopped";
/// The number of threads for long JSON. Each may use several times a message's length, which is not
/// counted; so there are few.
const JSON_THREADS: usize = 2;
/// Whether the system distributes connections among sockets that listen at one address. If not, the
/// first loop accepts for all.
pub(super) const EACH_ACCEPTS: bool = cfg!(target_os = "linux");
/// How often old names are forgotten.
pub(super) const TICK: Duration = Duration::from_secs(30);

/// Settings, counters and worker threads that the loops of a gateway share.
pub(super) struct Common {
    settings: Settings,
    owners: Arc<NameOwners>,
    stats: Arc<Stats>,
    rules: Arc<Rules>,
    helpers: Workers,
    json_workers: Workers,
    link_workers: Workers,
    budget: Budget,
    heads: Budget,
    rates: Arc<RateTable>,
    sign_ins: Arc<SignIns>,
    admission: SharedAdmission,
    origins: Arc<AtomicBool>,
    subscribers: Arc<Mutex<Subscribers>>,
    upgrades: Arc<Upgrades>,
    /// The common knowledge about other gateways.
    peers: Option<Arc<Cluster>>,
    /// The first tables of tokens: devices' and visitors'.
    tokens: [Option<Arc<Tokens>>; 2],
}

impl Common {
    pub(super) fn new(mut settings: Settings) -> Self {
        let limits = settings.limits.clone();
        let idle = limits.worker_idle_timeout;
        let rules = Rules {
            limits: limits.clone(),
            answer_limits: settings.link_limits.clone(),
            ends: crate::proto::head::LineEnds::CrlfOrLf,
            via: Some(settings.via.clone()),
            add_date: true, // RFC 9110 §6.6.1: a proxy adds a missing one
            upstream_name: "the device",
            downstream_may_half_close: true,
            upstream_is_link: true,
        };
        let (offers, links) = (limits.authorize_queue_max, limits.on_link_max);
        let owners: Arc<NameOwners> = Arc::default();
        Common {
            stats: Arc::new(Stats::of(owners.clone(), settings.observer.taken_by_records())),
            owners,
            rules: Arc::new(rules),
            helpers: Workers::new("ptth-authorize", limits.helpers_max, offers, idle),
            json_workers: Workers::new("ptth-json", JSON_THREADS, offers, idle),
            link_workers: Workers::new("ptth-link", links, links, idle),
            budget: Budget::of_parts(limits.messages_bytes_max, limits.messages_of_device()),
            heads: Budget::new(usize::MAX),
            rates: Arc::new(RateTable::new(limits.memory_bytes_max)),
            sign_ins: Arc::new(SignIns::new(settings.sign_in_keys.as_deref().unwrap_or_default())),
            admission: SharedAdmission::new(),
            origins: Arc::default(),
            subscribers: Arc::default(),
            upgrades: Arc::default(),
            peers: settings
                .peers
                .take()
                .map(|peers| Arc::new(Cluster::new(peers, &limits, settings.shared_names))),
            tokens: [settings.tokens.take(), settings.visitor_tokens.take()],
            settings,
        }
    }

    pub(super) fn name_owners(&self) -> Arc<NameOwners> {
        self.owners.clone()
    }

    pub(super) fn stats(&self) -> Arc<Stats> {
        self.stats.clone()
    }

    pub(super) fn peers(&self) -> Option<Arc<Cluster>> {
        self.peers.clone()
    }

    pub(super) fn sign_ins(&self) -> Arc<SignIns> {
        self.sign_ins.clone()
    }

    pub(super) fn upgrades(&self) -> Arc<Upgrades> {
        self.upgrades.clone()
    }

    /// Events from before the first loop runs.
    #[cfg(feature = "admin")]
    pub(super) fn subscribe(
        &self,
    ) -> crate::subscription::Subscription<crate::gateway::events::GatewayEvent> {
        let (subscriber, events) = crate::gateway::events::subscription(&self.settings.limits);
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).add(subscriber);
        events
    }
}

impl GatewayRole {
    /// The role of the loop with this number.
    pub(super) fn new(
        common: &Common,
        (loops, number): (Loops<Command>, usize),
        devices: Vec<(SocketAddr, Option<GatewayTls>)>,
    ) -> Self {
        let settings = common.settings.clone();
        let [devices_tokens, visitors_tokens] = common.tokens.clone();
        let credentials = Credentials::new(devices_tokens, visitors_tokens);
        if credentials.have_origins() {
            common.origins.store(true, Relaxed);
        }
        let limits = settings.limits.clone();
        let home = Home { owners: common.owners.clone(), number };
        GatewayRole {
            helpers: common.helpers.clone(),
            json_workers: common.json_workers.clone(),
            link_workers: common.link_workers.clone(),
            rules: common.rules.clone(),
            own_limits: limits.for_own_heads(),
            registry: Registry::new(limits, settings.shared_names, home),
            listeners: Listeners::of_devices(devices),
            events: Deliveries::default(),
            budget: common.budget.clone(),
            heads: common.heads.clone(),
            rates: common.rates.clone(),
            sign_ins: common.sign_ins.clone(),
            origins: common.origins.clone(),
            credentials,
            next_expiry: None,
            admission: Admission::new(
                settings.devices.clone(),
                settings.visitors.clone(),
                common.admission.clone(),
                number,
            ),
            number,
            dealt: (!EACH_ACCEPTS && loops.are_several()).then_some(0),
            remote: loops.remote(number).clone(),
            loops,
            stats: common.stats.clone(),
            observer: settings.observer.clone(),
            exchanges: Slab::new(),
            deadlines: ExchangeDeadlines::default(),
            leases: Leases::numbered(number),
            callers: Callers::new(common.owners.clone()),
            alarms: Alarms::default(),
            follow_ups: VecDeque::new(),
            subscribers: common.subscribers.clone(),
            upgrades: common.upgrades.clone(),
            peers: common.peers.clone().map(|cluster| Box::new(PeerTable::new(cluster))),
            claiming: HashMap::new(),
            claims: 0,
            lifecycle: Lifecycle::default(),
            settings,
        }
    }

    pub(super) fn set_alarm(&mut self, cx: &mut Connections<State>, at: Instant, alarm: Alarm) {
        cx.alarm(at, self.alarms.add(alarm));
    }
}
