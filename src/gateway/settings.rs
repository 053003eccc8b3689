//! The settings of a gateway, as one value: the builder fills it in, and the loops read it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use crate::gateway::admission::Sources;
use crate::gateway::offer::{Grant, Offer, Reject};
use crate::gateway::peers::Peers;
use crate::gateway::tokens::Tokens;
use crate::limits::Limits;
use crate::link::GatewayLink;
use crate::observe::Observer;
use crate::proto::forwarded::Network;
use crate::proto::turn::{Fallback, OfferRules};

pub(super) type Authorize = Arc<dyn Fn(&Offer) -> Result<Grant, Reject> + Send + Sync>;
pub(super) type OnLink = Arc<dyn Fn(GatewayLink) + Send + Sync>;

/// When a gateway answers an offer.
///
/// ```
/// use reverse_http::{Gateway, TurnMode};
/// let gateway = Gateway::builder().listen("127.0.0.1:0").turn(TurnMode::OnDemand).start()?;
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TurnMode {
    /// At once: the link is idle until there is a request.
    #[default]
    Now,
    /// When there is a request: the 101 and the request are sent together. Without a request the
    /// offer gets 204 after [`Limits::poll_hold`].
    OnDemand,
}

/// When the offers of each name are answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turns {
    pub(super) others: TurnMode,
    pub(super) own: HashMap<String, TurnMode>,
}

impl Turns {
    /// Returns true if an offer under these names is held until there is a request.
    pub(crate) fn hold<'n>(&self, mut names: impl Iterator<Item = &'n Arc<str>>) -> bool {
        let own =
            if self.own.is_empty() { None } else { names.find_map(|name| self.own.get(&**name)) };
        *own.unwrap_or(&self.others) == TurnMode::OnDemand
    }

    pub(super) fn ever_hold(&self) -> bool {
        self.others == TurnMode::OnDemand
            || self.own.values().any(|mode| *mode == TurnMode::OnDemand)
    }
}

/// A gateway's settings. What may be replaced while it runs (tokens, allowed networks) moves into
/// the component that replaces it.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) limits: Arc<Limits>,
    /// The limits for messages from devices: `limits` with room for the fields that they add.
    pub(super) link_limits: Arc<Limits>,
    pub(super) offer_rules: OfferRules,
    pub(super) turns: Turns,
    /// Sessions of one credential share a name instead of taking it over.
    pub(super) shared_names: bool,
    pub(super) fallback: Fallback,
    /// Origins of pages that may use the devices' port.
    pub(super) cors_origins: Vec<String>,
    pub(super) keep_underscore: bool,
    /// The trusted proxies.
    pub(super) trusted: Vec<Network>,
    /// Requests get our element of `Forwarded`.
    pub(super) forwarded_element: bool,
    /// Our pseudonym in `Via` (RFC 9110 §7.6.3).
    pub(super) via: Arc<str>,
    /// The origin of the gateway that takes the devices of a stopping one.
    pub(super) drain_to: Option<String>,
    /// Tokens of devices, and of visitors; `None`: they need none.
    pub(super) tokens: Option<Arc<Tokens>>,
    pub(super) visitor_tokens: Option<Arc<Tokens>>,
    /// Keys of visitors' sign-ins; without them, a random one is made.
    pub(super) sign_in_keys: Option<Vec<String>>,
    /// The networks from which connections of each side are accepted.
    pub(super) devices: Sources,
    pub(super) visitors: Sources,
    pub(super) authorize: Option<Authorize>,
    pub(super) on_link: Option<OnLink>,
    /// Other gateways.
    pub(super) peers: Option<Peers>,
    /// Counts for operators, if enabled.
    pub(super) observer: Observer,
}

impl Default for Settings {
    fn default() -> Self {
        let limits = Limits::default();
        Settings {
            link_limits: Arc::new(limits.with_room()),
            limits: Arc::new(limits),
            offer_rules: OfferRules::default(),
            turns: Turns::default(),
            shared_names: false,
            fallback: Fallback::Auto,
            cors_origins: Vec::new(),
            keep_underscore: false,
            trusted: Vec::new(),
            forwarded_element: false,
            via: "ptth".into(),
            drain_to: None,
            tokens: None,
            visitor_tokens: None,
            sign_in_keys: None,
            devices: Sources::default(),
            visitors: Sources::default(),
            authorize: None,
            on_link: None,
            peers: None,
            observer: Observer::default(),
        }
    }
}

impl Settings {
    /// Returns true if forwarding fields from this address are trusted.
    pub(super) fn is_trusted(&self, from: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(from))
    }

    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.link_limits = Arc::new(limits.with_room());
        self.limits = Arc::new(limits);
    }
}

/// The current limits, for threads other than the loop's. Clones share them.
#[derive(Clone)]
pub(crate) struct InForce(Arc<RwLock<Arc<Limits>>>);

impl InForce {
    pub(super) fn new(limits: Arc<Limits>) -> Self {
        InForce(Arc::new(RwLock::new(limits)))
    }

    pub(crate) fn get(&self) -> Arc<Limits> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, limits: Arc<Limits>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = limits;
    }
}
