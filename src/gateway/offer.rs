//! An offer as the program's `authorize` sees it, and the possible decisions.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::gateway::tokens::Digest;
use crate::proto::authorization::Credential;
use crate::proto::turn::{self, Name};
use crate::stream::Shown;

/// A device's offer, or a poll of the fallback, as the program's `authorize` sees it. Its `Debug`
/// shows no secret.
///
/// ```
/// use reverse_http::{Gateway, Grant, Reject};
///
/// let gateway = Gateway::builder()
///     .listen("127.0.0.1:0")
///     .authorize(|offer| match offer.bearer_token() {
///         Some("secret") => Ok(Grant::offered().to("the owner of that token")),
///         Some(_) => Err(Reject::new(403, "this token is for another device")),
///         None => Err(Reject::new(401, "send Authorization: Bearer")),
///     })
///     .start()?;
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Offer {
    pub(super) wire: turn::Offer,
    remote_ip: Option<IpAddr>,
    /// It came over TLS.
    pub(super) secure: bool,
    /// Its token, if it is in the gateway's table.
    pub(super) token: Option<Digest>,
    pub(super) certificate: Option<Arc<Shown>>,
}

impl Offer {
    pub(super) fn new(
        wire: turn::Offer,
        remote_ip: Option<IpAddr>,
        certificate: Option<Arc<Shown>>,
    ) -> Self {
        Offer { wire, remote_ip, secure: false, token: None, certificate }
    }

    /// An offer that another server has read; for [`Gateway::adopt`](crate::Gateway::adopt).
    #[must_use]
    pub fn from_wire(wire: turn::Offer, remote_ip: Option<IpAddr>) -> Self {
        Offer { wire, remote_ip, secure: false, token: None, certificate: None }
    }

    /// The names it wants to register: device names, or origins for an IETF offer. At least one.
    #[must_use]
    pub fn names(&self) -> &[Name] {
        &self.wire.names
    }
    /// The upgrade token as offered: `PTTH/1.0`, `PTTH/0.9`, `ptth`. Empty for a poll.
    #[must_use]
    pub fn upgrade_token(&self) -> &str {
        &self.wire.token
    }
    /// Returns true if it is a poll of the fallback. `authorize` is called for each poll of a
    /// device, so it should be fast.
    #[must_use]
    pub fn is_poll(&self) -> bool {
        self.wire.is_poll()
    }
    /// Path and query of the offer.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.wire.target
    }
    /// The IP address of the device, or of the proxy before this gateway; `None` over a Unix socket.
    #[must_use]
    pub fn remote_ip(&self) -> Option<IpAddr> {
        self.remote_ip
    }
    /// The DNS names, sorted, of the certificate that the device presented and a CA of this gateway
    /// has issued (feature `tls`). They allow the names of the offer; otherwise `authorize` would
    /// not be called. `None`: the device presented no certificate.
    pub fn certificate_names(&self) -> Option<&[String]> {
        self.certificate.as_deref().map(Shown::names)
    }
    /// Value of the first field of this name, compared without case.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.wire
            .fields
            .0
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_slice())
    }
    /// The token of `Authorization: Bearer …` (RFC 6750 §2.1), read as for
    /// [`tokens`](crate::GatewayBuilder::tokens): `None` also if there are several such fields, or
    /// if the token is malformed.
    #[must_use]
    pub fn bearer_token(&self) -> Option<&str> {
        match Credential::of(self.authorization(), usize::MAX)? {
            Credential::Bearer(token) => Some(token),
            Credential::Basic(_) => None,
        }
    }

    /// The values of all `Authorization` fields.
    pub(super) fn authorization(&self) -> impl Iterator<Item = &[u8]> {
        let fields = self.wire.fields.0.iter();
        fields
            .filter(|(name, _)| name.eq_ignore_ascii_case("authorization"))
            .map(|(_, value)| value.as_slice())
    }
    /// The names and the address, for the log.
    pub(super) fn whose(&self) -> String {
        let from = self.remote_ip.map(|ip| format!(" from {ip}")).unwrap_or_default();
        format!("{}{from}", self.label())
    }

    pub(super) fn label(&self) -> String {
        self.wire.names.iter().map(Name::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// What `authorize` grants.
///
/// ```
/// use reverse_http::{Gateway, Grant};
///
/// let gateway = Gateway::builder()
///     .listen("127.0.0.1:0")
///     .authorize(|offer| {
///         println!("{} comes from {:?}", offer.names()[0], offer.remote_ip());
///         Ok(Grant::names(["lamp"]).expect("it is a name").to("the only lamp"))
///     })
///     .start()?;
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Grant {
    pub(super) names: Option<Vec<String>>,
    pub(super) credential: Option<String>,
}

impl Grant {
    /// Grants the names that were offered, without an identity.
    #[must_use]
    pub fn offered() -> Self {
        Grant::default()
    }
    /// Grants other names than those offered (device names, or origins).
    ///
    /// # Errors
    /// One of them is neither.
    pub fn names<I: IntoIterator<Item = S>, S: AsRef<str>>(names: I) -> Result<Self, Error> {
        let checked: Result<Vec<String>, Error> = names
            .into_iter()
            .map(|name| {
                let name = name.as_ref();
                let parsed =
                    if name.contains("://") { Name::origin(name) } else { Name::label(name) };
                parsed
                    .map(|n| n.to_string())
                    .map_err(|e| Error::usage(format!("granting the name {name:?}: {}", e.reason)))
            })
            .collect();
        Ok(Grant { names: Some(checked?), credential: None })
    }
    /// Sets the identity of the device, an opaque text. While a name is in use, only a device with
    /// the same identity may join it or take it over; others get 409. Default: the identity of the
    /// certificate that the device presented, if any.
    pub fn to(mut self, credential: impl Into<String>) -> Self {
        self.credential = Some(credential.into());
        self
    }
}

/// A refusal by `authorize`: the answer to the device.
///
/// ```
/// use std::time::Duration;
/// use reverse_http::{Gateway, Reject};
///
/// let gateway = Gateway::builder()
///     .listen("127.0.0.1:0")
///     .authorize(|_| Err(Reject::new(503, "come back later").retry_after(Duration::from_secs(60))))
///     .start()?;
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Reject {
    pub(super) status: u16,
    pub(super) reason: String,
    pub(super) retry_after: Option<u64>,
    pub(super) location: Option<String>,
}

impl Reject {
    /// A refusal with this status (401 for a missing or wrong credential, 403 if it is not for this
    /// name, 404, 410, 429, 503 …) and one line with the reason. A status outside 400 to 599
    /// becomes 403.
    pub fn new(status: u16, reason: impl Into<String>) -> Self {
        let status = if (400..600).contains(&status) { status } else { 403 };
        Reject { status, reason: reason.into(), retry_after: None, location: None }
    }
    /// Redirects the device to another gateway: 307 with this `Location`.
    pub fn elsewhere(location: impl Into<String>) -> Self {
        Reject {
            status: 307,
            reason: "another gateway has this device".to_owned(),
            retry_after: None,
            location: Some(location.into()),
        }
    }
    /// Asks the device to stay away for this time (in whole seconds).
    #[must_use]
    pub fn retry_after(mut self, time: Duration) -> Self {
        self.retry_after = Some(time.as_secs());
        self
    }
}
