//! The settings of a device, and their validation.

use std::fmt;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::device::counters::Counters;
use crate::device::gateways::GatewayList;
use crate::device::gateways::GatewayTarget;
use crate::device::no_proxy::Exceptions;
use crate::device::plan::OnRefusal;
use crate::device::plan::Plan;
use crate::device::polls::can_poll;
use crate::device::proxy::Proxy;
use crate::device::redirects::RedirectHosts;
use crate::device::setup::Device;
use crate::device::setup::Parts;
use crate::device::target::Edits;
use crate::device::tcp_target::TcpTarget;
use crate::device::url::Url;
use crate::engine::random;
use crate::error::{Error, Fault};
use crate::limits::Limits;
use crate::proto::dialect::{Dialect, Naming};
use crate::proto::edits::FieldEdits;
use crate::proto::head_writer;
use crate::proto::template;
use crate::proto::turn::{self, Encoding, Fallback, Name, OfferPlan};
use crate::setting::{BEARER_TOKEN, FALLBACK, LINKS, MAX_RETRIES, ORIGIN, POLLS};
use crate::stream::Connector;
#[cfg(feature = "tls")]
use crate::tls::{DeviceTls, LocalTls};

/// An offer, and the fields that are sent only to the gateways' own origins.
type Offer = (OfferPlan, Vec<(String, String)>);

/// Builds a [`Device`].
///
/// ```
/// use std::time::Duration;
/// use reverse_http::{Device, OnRefusal};
///
/// let device = Device::builder("http://gw.example:9999/lamp")
///     .gateway("http://gw2.example:9999/lamp")
///     .bearer_token("secret")
///     .links(1..=8)
///     .backoff(Duration::from_secs(1)..Duration::from_secs(30))
///     .on_refusal(OnRefusal::Stop)
///     .build()?; // checks all of it; nothing is dialled yet
///
/// assert!(Device::builder("gw.example").build().is_err_and(|e| e.is_usage()));
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[must_use = "build() makes the device"]
pub struct DeviceBuilder {
    url: String,
    others: Vec<String>,
    failover: bool,
    proxy: Option<String>,
    proxy_credentials: Option<(String, String)>,
    no_proxy: String,
    redirect_hosts: Vec<String>,
    max_retries: Option<u32>,
    links: RangeInclusive<usize>,
    dialect: Dialect,
    origins: Vec<String>,
    limits: Limits,
    token: Option<String>,
    fields: Vec<(String, String)>,
    on_refusal: OnRefusal,
    host_header: Option<String>,
    maps_origin: bool,
    edits: Edits,
    tcp: Vec<(String, String)>,
    whole_target: bool,
    fallback: Fallback,
    polls: RangeInclusive<usize>,
    poll_encoding: Option<Encoding>,
    #[cfg(feature = "tls")]
    tls: Option<DeviceTls>,
    #[cfg(feature = "tls")]
    local_tls: Option<LocalTls>,
}

impl fmt::Debug for DeviceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceBuilder")
            .field("links", &self.links)
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}

impl Device {
    /// A builder for a device of the gateway at this URL: `http://gw.example:9999/lamp` registers
    /// the name `lamp`; without a path it is `default`.
    #[doc(alias("new", "connect"))]
    pub fn builder(url: impl Into<String>) -> DeviceBuilder {
        DeviceBuilder {
            url: url.into(),
            others: Vec::new(),
            failover: false,
            proxy: None,
            proxy_credentials: None,
            no_proxy: String::new(),
            redirect_hosts: Vec::new(),
            max_retries: None,
            links: 1..=128,
            dialect: Dialect::classic(),
            origins: Vec::new(),
            limits: Limits::default(),
            token: None,
            fields: Vec::new(),
            on_refusal: OnRefusal::default(),
            host_header: None,
            maps_origin: false,
            edits: Edits::default(),
            tcp: Vec::new(),
            whole_target: false,
            fallback: Fallback::default(),
            polls: 2..=64,
            poll_encoding: None,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            local_tls: None,
        }
    }
}

impl DeviceBuilder {
    /// Sends `Authorization: Bearer TOKEN` with the offer, to the gateways' own origins only. Trim
    /// a token that was read from a file: [`build`](Self::build) refuses tokens that are empty or
    /// contain a line end or a blank.
    pub fn bearer_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }
    /// Adds a gateway. The device is connected to all of them at once, with MIN..MAX links to each,
    /// and with a separate back-off and fallback for each. May be called several times, for at most
    /// 16 gateways. The token and the fields are sent to each of them.
    pub fn gateway(mut self, url: impl Into<String>) -> Self {
        self.others.push(url.into());
        self
    }
    /// Whether to use several gateways one at a time, in their order, instead of all at once: the
    /// next one when an attempt at the current one fails, the first one again after a pause when
    /// all have failed, and also when the connection is lost. Default: off.
    pub fn failover(mut self, failover: bool) -> Self {
        self.failover = failover;
        self
    }
    /// A proxy through which all gateways are dialled with CONNECT: `http://HOST:PORT` (the port
    /// defaults to 1080). Default: none; the environment is not read.
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.proxy = Some(url.into());
        self
    }
    /// User and password for the proxy (`Proxy-Authorization: Basic`). They are never logged.
    pub fn proxy_credentials(
        mut self,
        user: impl Into<String>,
        password: impl Into<String>,
    ) -> Self {
        self.proxy_credentials = Some((user.into(), password.into()));
        self
    }
    /// Hosts that are dialled without the proxy, in the syntax of curl's `no_proxy`: names (which
    /// include all names below them), addresses and networks, separated by commas; `*` for all. An
    /// entry that ends in `:PORT` is for that port only.
    pub fn no_proxy(mut self, hosts: impl Into<String>) -> Self {
        self.no_proxy = hosts.into();
        self
    }
    /// A host to which a gateway may redirect this device (307 and 308), beside those of its own
    /// gateways: `gw2.example`, `*.gw.example` for all names below it, an address, a network like
    /// `10.0.0.0/8`, or `*` for any. Its default port and ports above 1023 are allowed, or with
    /// `:PORT` only that one. May be called several times. A gateway elsewhere can never redirect
    /// the device to a loopback or link-local address.
    pub fn redirect_host(mut self, host: impl Into<String>) -> Self {
        self.redirect_hosts.push(host.into());
        self
    }
    /// Ends the device ([`Error::is_not_connected`]) after this many failed attempts in a row while
    /// it is not connected; with several gateways, when that is so at each of them. A link that
    /// ended within a second, unused, also counts as a failed attempt. Default: the device never
    /// gives up.
    pub fn max_retries(mut self, attempts: u32) -> Self {
        self.max_retries = Some(attempts);
        self
    }
    /// Idle links to keep, and links in all, pending dials included. Default: `1..=128`. A link
    /// carries one request at a time; more are dialled when links get busy, as many at once as the
    /// gateway reports waiting callers. Links that were not needed in the last minute are closed
    /// ([`Limits::demand_window`]).
    pub fn links(mut self, links: RangeInclusive<usize>) -> Self {
        self.links = links;
        self
    }
    /// Whether to poll where upgrades are blocked (the COMET fallback). Default:
    /// [`Fallback::Auto`]: each reply of the gateway decides, at no cost where upgrades work. An
    /// IETF offer ([`Dialect::ietf`]) cannot poll; with it, `Auto` means `Never`.
    pub fn fallback(mut self, fallback: Fallback) -> Self {
        self.fallback = fallback;
        self
    }
    /// Polls to keep where the device falls back, and polls in all. More are opened when each has a
    /// request in progress, so that one is free for the next, and when the gateway reports waiting
    /// callers. Each carries one request at a time. Within 1 to 64; default: `2..=64`.
    pub fn polls(mut self, polls: RangeInclusive<usize>) -> Self {
        self.polls = polls;
        self
    }
    /// The only encoding of the fallback to ask for. Default: both, with `message/http` preferred
    /// to JSON (feature `comet`).
    pub fn poll_encoding(mut self, encoding: Encoding) -> Self {
        self.poll_encoding = Some(encoding);
        self
    }
    /// The dialect of the offer. Default: [`Dialect::classic`], `PTTH/1.0`.
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }
    /// An origin to register with an IETF offer ([`Dialect::ietf`]), like `https://lamp.example`.
    /// May be called several times. Offers go to `/.well-known/ptth/{serialized_origin}/`, unless
    /// the gateway's URL contains a template of RFC 6570, like
    /// `https://gw.example/ptth{?serialized_origin}`.
    pub fn origin(mut self, origin: impl Into<String>) -> Self {
        self.origins.push(origin.into());
        self
    }
    /// Adds a field to the offer. It is sent to the gateways' own origins only.
    pub fn field(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }
    /// How the certificate of a gateway at `https://` is verified, and the device's own certificate
    /// (feature `tls`). Default: the system's roots, and no certificate.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: DeviceTls) -> Self {
        self.tls = Some(tls);
        self
    }
    /// For [`Device::forward_to`] with a server at `https://`: how its certificate is verified
    /// (feature `tls`). Default: with the system's roots.
    #[cfg(feature = "tls")]
    pub fn local_tls(mut self, tls: LocalTls) -> Self {
        self.local_tls = Some(tls);
        self
    }
    /// Bounds and timeouts, including the back-off.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
    /// The first and the longest pause between attempts. Default: 1 s to 60 s, with full jitter.
    pub fn backoff(mut self, pauses: Range<Duration>) -> Self {
        (self.limits.backoff_min, self.limits.backoff_max) = (pauses.start, pauses.end);
        self
    }
    /// What to do if the very first offer is refused. Default: try again later.
    pub fn on_refusal(mut self, what: OnRefusal) -> Self {
        self.on_refusal = what;
        self
    }
    /// For [`Device::forward_to`]: sends this `Host` instead of the visitor's. If `Location`,
    /// `Content-Location` or `Refresh` of a response has a URL with this host, visitors get a path
    /// on their own host instead, with the prefix that the gateway removed; a cookie with this
    /// `Domain` becomes a cookie of their host.
    pub fn host_header(mut self, host: impl Into<String>) -> Self {
        self.host_header = Some(host.into());
        self
    }
    /// With [`host_header`](Self::host_header): `Origin` and `Referer` that name the visitor's
    /// `Host` are rewritten to that of the local server, for servers that compare them. Others stay
    /// as they are. Default: off, as servers that honour `X-Forwarded-Host` compare with that.
    pub fn map_origin(mut self, map: bool) -> Self {
        self.maps_origin = map;
        self
    }

    /// For [`Device::forward_to`]: fields to set and to remove in requests to the local server, if
    /// it cannot handle what proxies add, or needs what they do not.
    ///
    /// ```no_run
    /// use reverse_http::{Device, proto::edits::FieldEdits};
    /// let edits = FieldEdits::default().set("X-Site", "porch")?.remove("X-Forwarded-For")?;
    /// let device = Device::builder("https://gw.example/lamp").request_fields(edits).build()?;
    /// device.forward_to("http://127.0.0.1:3000")?; // blocks
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn request_fields(mut self, edits: FieldEdits) -> Self {
        self.edits.request = Some(edits).filter(|edits| !edits.is_empty()).map(Arc::new);
        self
    }
    /// The same for its responses, including those to upgrades, but not for 1xx. Fields that are
    /// set or removed are not passed on as trailers either.
    pub fn response_fields(mut self, edits: FieldEdits) -> Self {
        self.edits.response = Some(edits).filter(|edits| !edits.is_empty()).map(Arc::new);
        self
    }
    /// Lets visitors connect to a TCP server (`HOST:PORT`, or `unix:/path`) by this name, in
    /// addition to whatever answers requests: `GET /NAME` with `Upgrade: ptth-tcp/1` opens a
    /// connection to it (`ptth connect https://gw.example/lamp/ssh`). Visitors can reach no other
    /// servers. May be called several times, for at most 64 servers. Every visitor that the gateway
    /// admits to this device may connect to its targets; restrict that at the gateway (visitors'
    /// tokens). This does not work over polls, which carry no upgrades.
    ///
    /// ```no_run
    /// use reverse_http::{Body, Device};
    /// let device = Device::builder("https://gw.example/lamp").tcp("ssh", "127.0.0.1:22").build()?;
    /// device.forward_to("http://127.0.0.1:3000")?; // blocks
    /// # Ok::<(), reverse_http::Error>(())
    /// ```
    pub fn tcp(mut self, name: impl Into<String>, address: impl Into<String>) -> Self {
        self.tcp.push((name.into(), address.into()));
        self
    }

    /// Accepts gateway URLs with more than a name, like
    /// `http://gw.example/message-queue?id=iamsam`: path and query go into the offer unchanged, and
    /// the first segment is the device's name. Third-party gateways may identify devices by the
    /// rest; ours uses the first segment only. Default: off, as such a URL is usually a mistake; it
    /// is refused.
    pub fn whole_target(mut self, take: bool) -> Self {
        self.whole_target = take;
        self
    }

    /// Validates all options, without dialling anything yet.
    ///
    /// # Errors
    /// A URL is not `http://HOST[:PORT][/NAME]` (or `https`, with the feature `tls`), contains a
    /// secret, or is given twice; there are more than 16 URLs; the system has no root certificates;
    /// a name is not a DNS label; links or polls are not `1 <= MIN <= MAX`; there are more than 64
    /// polls; a limit or field cannot work; an IETF offer has no origin or is combined with
    /// [`Fallback::Only`]; JSON is requested in a build without the feature `comet`; there are
    /// credentials without a proxy; a redirect host is invalid; there are no retries at all; there
    /// are settings for TLS, but no URL is `https`; a TCP target has no name or address, or is
    /// given twice.
    pub fn build(self) -> Result<Device, Error> {
        self.limits.check()?;
        self.check_links()?;
        let fallback = self.check_fallback()?;
        let tcp: Arc<[TcpTarget]> = TcpTarget::parse_all(&self.tcp)?.into();
        let (proxy, gateways) = (self.check_proxy()?, self.check_gateways()?);
        let redirects =
            RedirectHosts::new(gateways.iter().map(|gateway| &*gateway.url), &self.redirect_hosts)?;
        let tls = self.connector(gateways.iter().any(|gateway| gateway.url.secure))?;
        let (offer, secrets) = self.offer(&gateways, fallback)?;
        let plan = |gateways: GatewayList| Plan {
            gateways,
            tls: tls.clone(),
            offer: offer.clone(),
            secrets: secrets.clone(),
            on_refusal: self.on_refusal,
            redirects: redirects.clone(),
            proxy: proxy.clone(),
            max_retries: self.max_retries,
            tcp: tcp.clone(),
            fallback,
            polls: self.polls.clone(),
            encoding: self.poll_encoding.unwrap_or(Encoding::Message),
            network: None,
        };
        let groups = if self.failover {
            vec![gateways]
        } else {
            gateways.into_iter().map(|gateway| vec![gateway]).collect()
        };
        let members = groups
            .into_iter()
            .filter_map(GatewayList::new)
            .map(|gateways| (plan(gateways), Arc::new(Counters::new(self.links.clone()))))
            .collect();
        let (events, events_out) = bounded(self.limits.events_max);
        let parts = Parts {
            members,
            events,
            host_header: self.host_header,
            maps_origin: self.maps_origin,
            edits: self.edits,
            #[cfg(feature = "tls")]
            local_tls: self.local_tls,
        };
        Ok(Device {
            link_limits: Arc::new(self.limits.with_room()),
            limits: Arc::new(self.limits),
            parts: Mutex::new(Some(parts)),
            events: events_out,
            queue: OnceLock::new(),
            starting: Mutex::new(()),
        })
    }

    fn check_links(&self) -> Result<(), Error> {
        let (min, max) = (*self.links.start(), *self.links.end());
        if min == 0 || min > max || max > LINKS_CEILING {
            return Err(Error::usage(format!(
                "links {min}..{max} ({LINKS}): it takes 1 <= MIN <= MAX <= {LINKS_CEILING}"
            )));
        }
        if self.max_retries == Some(0) {
            return Err(Error::usage(format!(
                "no retries at all ({MAX_RETRIES}): the device would never dial; omit it, or give 1 or more"
            )));
        }
        Ok(())
    }

    /// Verifies the gateways' certificates, if a URL begins with `https://`.
    #[cfg(feature = "tls")]
    fn connector(&self, secure: bool) -> Result<Option<Arc<Connector>>, Error> {
        match (secure, &self.tls) {
            (true, tls) => Ok(Some(Arc::new(tls.clone().unwrap_or_default().connector()?))),
            (false, None) => Ok(None),
            (false, Some(_)) => Err(Error::usage(
                "TLS settings are given, and no gateway's URL begins with https://; write https:// or omit them",
            )),
        }
    }

    #[cfg(not(feature = "tls"))]
    fn connector(&self, _: bool) -> Result<Option<Arc<Connector>>, Error> {
        Ok(None)
    }

    /// The offer, and the fields that are sent only to a configured gateway's origin.
    fn offer(&self, gateways: &[GatewayTarget], fallback: Fallback) -> Result<Offer, Error> {
        let mut session = [0; 16];
        random::fill(&mut session).map_err(|e| {
            Error::io(Fault::Network, "drawing a session id", io::Error::other(e.to_string()))
        })?;
        let first = gateways
            .first()
            .map_or(("", ""), |gateway| (&gateway.url.authority, &gateway.url.target));
        let mut offer = OfferPlan::new(first.0, first.1, self.dialect.clone());
        offer.session = Some(session);
        offer.upgrade = fallback != Fallback::Only;
        offer.accept = accepted(fallback, self.poll_encoding).map(Into::into);
        let mut secrets = self.fields.clone();
        if let Some(token) = &self.token {
            check_token(token)?;
            secrets.push(("Authorization".to_owned(), format!("Bearer {token}")));
        }
        for (name, value) in &secrets {
            head_writer::write_field(&mut Vec::new(), name, value.as_bytes())
                .map_err(|e| Error::usage(format!("field {name:?} of the offer: {}", e.reason)))?;
        }
        let mut whole = offer.clone();
        whole.fields.extend(secrets.iter().cloned());
        turn::write_offer(&mut Vec::new(), &whole)
            .map_err(|e| Error::usage(format!("the offer cannot be written: {}", e.reason)))?;
        Ok((offer, secrets))
    }

    /// The gateways' URLs, each with this device's name at that gateway.
    fn check_gateways(&self) -> Result<Vec<GatewayTarget>, Error> {
        let mut gateways: Vec<GatewayTarget> = Vec::new();
        for text in std::iter::once(&self.url).chain(&self.others) {
            let mut url = Url::parse(text, "gateway")?;
            let name = match self.dialect.naming {
                Naming::Origins => self.register_origins(&mut url)?,
                _ => path_name(&url, self.whole_target)?,
            };
            if gateways
                .iter()
                .any(|gateway| gateway.url.same_origin(&url) && gateway.url.target == url.target)
            {
                return Err(Error::usage(format!("gateway URL {}: it is given twice", url.text)));
            }
            gateways.push(GatewayTarget { url: Arc::new(url), name: name.to_string() });
        }
        if gateways.len() > GATEWAYS_CEILING {
            return Err(Error::usage(format!(
                "{} gateways: it takes {GATEWAYS_CEILING} at most",
                gateways.len()
            )));
        }
        Ok(gateways)
    }

    /// Sets an IETF offer's path, and returns the first origin.
    fn register_origins(&self, url: &mut Url) -> Result<Name, Error> {
        let mut names = Vec::new();
        for origin in &self.origins {
            names.push(
                Name::origin(origin)
                    .map_err(|e| Error::usage(format!("origin {origin}: {}", e.reason)))?,
            );
        }
        let needed = || {
            Error::usage(format!(
                "an IETF offer registers origins: name at least one, like https://lamp.example ({ORIGIN})"
            ))
        };
        let own = turn::origins_of_path(&url.target).ok();
        if names.is_empty() {
            names = own.clone().ok_or_else(needed)?;
        }
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        let wrong = |why: &str| Error::usage(format!("gateway URL {}: {why}", url.text));
        let target = match own {
            _ if url.target == "/" => turn::ietf_target(&names),
            _ if template::is_template(&url.target) => {
                template::expand(&url.target, &names).map_err(|e| wrong(&e.reason))?
            }
            Some(own) if own == sorted => url.target.clone(),
            Some(_) => {
                return Err(wrong(&format!(
                    "its path registers other origins than those that are given beside it ({ORIGIN})"
                )));
            }
            None => {
                return Err(wrong(
                    "with an IETF offer its path has to say where the origins go, as in /ptth{?serialized_origin}; \
                     without a path they go to /.well-known/ptth/{serialized_origin}/",
                ));
            }
        };
        url.target = target;
        names.into_iter().next().ok_or_else(needed)
    }

    fn check_proxy(&self) -> Result<Option<Proxy>, Error> {
        match &self.proxy {
            Some(url) => Proxy::new(url, self.proxy_credentials.as_ref(), &self.no_proxy).map(Some),
            None if self.proxy_credentials.is_some() => {
                Err(Error::usage("credentials for a proxy, but there is no proxy"))
            }
            None => Ok(None),
        }
    }

    /// The fallback of this device, if its offers can be polls.
    fn check_fallback(&self) -> Result<Fallback, Error> {
        let (min, max) = (*self.polls.start(), *self.polls.end());
        if min == 0 || min > max || max > POLLS_CEILING {
            return Err(Error::usage(format!(
                "polls {min}..{max} ({POLLS}): it takes 1 <= MIN <= MAX <= {POLLS_CEILING}"
            )));
        }
        if self.poll_encoding == Some(Encoding::Json) && !HAS_JSON {
            return Err(Error::usage(
                "this build has no JSON (feature comet); poll in message/http",
            ));
        }
        match self.fallback {
            fallback if can_poll(&self.dialect) => Ok(fallback),
            Fallback::Only => Err(Error::usage(format!(
                "a device with this protocol cannot poll, and is to do nothing else ({FALLBACK}); choose PTTH/1.0, or let its connections turn"
            ))),
            _ => Ok(Fallback::Never),
        }
    }
}

/// The errors do not contain the token.
fn check_token(token: &str) -> Result<(), Error> {
    let wrong = |what: &str| Error::usage(format!("the token ({BEARER_TOKEN}) {what}"));
    match () {
        () if token.is_empty() => Err(wrong("is empty; omit it, or give one")),
        () if token.contains(['\r', '\n']) => Err(wrong(
            "has a line end, perhaps that of the file that it was read from; trim it (str::trim), and give one line",
        )),
        () if token.chars().any(char::is_control) => {
            Err(wrong("has a control character, which no field may have"))
        }
        () if token.contains(' ') => Err(wrong(
            "has a blank, which no token has (RFC 6750 §2.1); give the token alone, without the text beside it",
        )),
        () => Ok(()),
    }
}

/// `Accept` of offers and polls.
fn accepted(fallback: Fallback, only: Option<Encoding>) -> Option<&'static str> {
    match only {
        _ if fallback == Fallback::Never => None,
        Some(encoding) => Some(encoding.media_type()),
        None if HAS_JSON => Some("message/http, application/json"),
        None => Some(Encoding::Message.media_type()),
    }
}

/// The most links: no device needs more, and no gateway accepts more by default.
const LINKS_CEILING: usize = 1024;
/// The most gateways; more are probably a mistake.
const GATEWAYS_CEILING: usize = 16;
/// The most polls: more are no longer a fallback.
const POLLS_CEILING: usize = 64;
const HAS_JSON: bool = cfg!(feature = "comet");

fn path_name(url: &Url, whole_target: bool) -> Result<Name, Error> {
    let path = url.target.split('?').next().unwrap_or("/");
    if !whole_target && (path.len() < url.target.len() || path.matches('/').count() > 1) {
        return Err(Error::usage(format!(
            "gateway URL {}: its path is the device's name alone, as in http://gw.example/lamp; for a gateway that wants more there is DeviceBuilder::whole_target",
            url.text
        )));
    }
    let segment = path.strip_prefix('/').unwrap_or(path).split('/').next().unwrap_or("");
    let name = if path == "/" { "default" } else { segment };
    Name::label(name).map_err(|e| {
        Error::usage(format!("gateway URL {}: the device's name {name:?}: {}", url.text, e.reason))
    })
}

/// Returns true if `no_proxy`, in the syntax of [`DeviceBuilder::no_proxy`], contains the host of
/// this URL, so that it is dialled without a proxy. Returns false for a text that is not a URL.
///
/// ```
/// assert!(reverse_http::device::goes_without_proxy("http://gw.example:9999/lamp", "localhost,.example"));
/// ```
#[must_use]
pub fn goes_without_proxy(url: &str, no_proxy: &str) -> bool {
    Url::parse(url, "gateway").is_ok_and(|url| Exceptions::parse(no_proxy).has(&url.host, url.port))
}
