//! The handshake as pure functions: dialect table, offer, the gateway's decision and answer, the device's check.
use std::borrow::Cow;
use std::time::Duration;

use crate::error::Refusal;
use crate::proto::head::{RequestHead, ResponseHead};

/// One row of the dialect table (protocol.md §1.2). Names of tokens compare without case, versions exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dialect {
    /// The upgrade token: `PTTH/1.0`, `PTTH/0.9`, `ptth`.
    pub token: Cow<'static, str>,
    /// The one method of an offer; `None`: any (our own offers use POST).
    pub method: Option<Cow<'static, str>>,
    /// How the offer names what it registers.
    pub naming: Naming,
    /// Further fields of the 101.
    pub answer_fields: Vec<(Cow<'static, str>, Cow<'static, str>)>,
}

/// How an offer names what it registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Naming {
    /// First segment of the path; `/` is `default`.
    PathSegment,
    /// `/.well-known/ptth/{serialized_origin}/` and an `ALPN` list (draft-kazuho-ptth-ptth).
    Origins,
}

impl Dialect {
    /// `PTTH/1.0`, any method.
    pub fn classic() -> Self { todo!() }
    /// `PTTH/0.9`, any method (the seed).
    pub fn classic_0_9() -> Self { todo!() }
    /// `ptth`, GET, origins, `ALPN: http%2F1.1` in the 101.
    pub fn ietf() -> Self { todo!() }
    /// A classic row with a token of one's own.
    ///
    /// # Errors
    /// The token is not `name` or `name/version` of token characters, or is one that must never turn (`h2c`, `HTTP/2.0`, `TLS/1.0`, `websocket`).
    pub fn custom(token: &str) -> Result<Self, Refusal> { let _ = token; todo!() }
    /// The three rows every gateway starts with.
    pub fn table() -> Vec<Dialect> { todo!() }
}

/// A name a link can be registered under: a device name (DNS label) or an origin.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Name {
    /// `[a-z0-9-]`, 1 to 63 octets, no hyphen at either end.
    Label(String),
    /// `https://backend.example.com`, lower case, default port left out.
    Origin {
        /// `http` or `https`.
        scheme: String,
        /// Host, lower case.
        host: String,
        /// Port where it is not the scheme's own.
        port: Option<u16>,
    },
}
// Display: the label, or the origin's serialisation.

impl Name {
    /// A device name.
    ///
    /// # Errors
    /// 400 and the rule that it breaks.
    pub fn label(text: &str) -> Result<Self, Refusal> { let _ = text; todo!() }
    /// An origin's ASCII serialisation.
    ///
    /// # Errors
    /// 400; `null`, other schemes, a path, userinfo.
    pub fn origin(text: &str) -> Result<Self, Refusal> { let _ = text; todo!() }
}

/// What the gateway's operator allows in an offer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OfferRules {
    /// The dialects that turn.
    pub dialects: Vec<Dialect>,
    /// Take offers without `Host` (AirPlay senders). Default false.
    pub missing_host: bool,
    /// Insist on `Connection: upgrade`, also from the seed's own kind of device. Default false.
    pub strict_connection: bool,
}
// Default: Dialect::table(), false, false.

/// A well-formed offer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Offer {
    /// The names it registers, at least one.
    pub names: Vec<Name>,
    /// The token octets as offered, echoed in the 101.
    pub token: String,
    /// Row of [`OfferRules::dialects`].
    pub dialect: usize,
    /// Target of the offer as it came (path and query).
    pub target: String,
    /// `PTTH-Session`, where there is a valid one (32 hex digits); anything else malformed is 400.
    pub session: Option<[u8; 16]>,
    /// All fields as they came (name, value), for `authorize`. Debug never shows `Authorization`, `Proxy-Authorization` or `Cookie` values (T23).
    pub fields: OfferFields,
    /// The offer asked for `100-continue`.
    pub expects_continue: bool,
}

/// The fields of an offer, with a `Debug` that shows no secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct OfferFields(pub Vec<(String, Vec<u8>)>);

impl std::fmt::Debug for OfferFields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { let _ = f; todo!() }
}

/// What a request on the devices' port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// An offer that may turn.
    Turn(Box<Offer>),
    /// POST that offers nothing we know, in HTTP/1.1 or 1.0: a poll of the COMET fallback.
    Poll(Name),
}

/// Decides about a request on the devices' port: order of checks as protocol.md §1.2 and §1.3.
/// An `Upgrade` in HTTP/1.0, or with tokens that no dialect has, counts as absent.
///
/// # Errors
/// 400 (malformed offer, bad name, missing `Host`, ALPN without `http/1.1`, offer whose `Connection` does not list
/// `upgrade`, where that is asked), 405 (a method that neither polls nor offers; the caller adds `Allow: POST`). Framing and body are the caller's business.
pub fn decide(head: &RequestHead<'_>, rules: &OfferRules) -> Result<Decision, Refusal> { let _ = (head, rules); todo!() }

/// Appends the 101: `Upgrade` with the offered token's octets, `Connection: Upgrade`, the dialect's own fields, nothing else.
/// For the classic rows exactly the 76 octets of draft-lentczner's sample (with PTTH/1.0).
pub fn write_switch(out: &mut Vec<u8>, token: &str, dialect: &Dialect) { let _ = (out, token, dialect); todo!() }

/// What a device offers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OfferPlan {
    /// `Host` of the offer.
    pub authority: String,
    /// Path and query; for an IETF offer the well-known path.
    pub target: String,
    /// The row it offers.
    pub dialect: Dialect,
    /// This run's session.
    pub session: Option<[u8; 16]>,
    /// Further fields (`Authorization` …).
    pub fields: Vec<(String, String)>,
}

impl OfferPlan {
    /// A plan with no session and no further fields.
    pub fn new(authority: impl Into<String>, target: impl Into<String>, dialect: Dialect) -> Self { let _ = (authority.into(), target.into(), dialect); todo!() }
}

/// Appends the offer (protocol.md §1.1): `Host`, `Upgrade`, `Connection: Upgrade`, `Content-Length: 0` (not with GET),
/// `ALPN: http%2F1.1` for the IETF row, `PTTH-Session`, the further fields. `Accept: message/http, application/json` comes with the COMET fallback, not yet.
///
/// # Errors
/// A further field that cannot be written.
pub fn write_offer(out: &mut Vec<u8>, plan: &OfferPlan) -> Result<(), Refusal> { let _ = (out, plan); todo!() }

/// The well-known target of an IETF offer for these origins: each percent-encoded, joined with `,`.
pub fn ietf_target(origins: &[Name]) -> String { let _ = origins; todo!() }

/// What a device makes of one response to its offer (protocol.md §1.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The connection is turned. `warning`: something tolerated (missing `Connection`, other version).
    Turned {
        /// What was tolerated.
        warning: Option<&'static str>,
    },
    /// A 1xx before the final answer: read on.
    Informational,
    /// 204: nothing yet; offer again on this connection.
    Nothing,
    /// 200 whose type is `application/json` or `message/http`: the gateway fell back (section 2).
    FellBack,
    /// 307 or 308: offer there. The `Location` as it came.
    Redirect(String),
    /// 401, 403, 404, 410: stop when it is the first offer ever.
    Refused(u16),
    /// 409, 400, 426, 408, 429, 5xx: come back later, after this at least.
    Later {
        /// The status.
        status: u16,
        /// `Retry-After` in seconds (delta form only; capped at one hour). HTTP-date form counts as absent here.
        retry_after: Option<Duration>,
    },
    /// 405, 501, any other 2xx or 4xx: this is no gateway that turns; polls without `Upgrade` are next.
    NoTurn(u16),
    /// A right HTTP message that is wrong here: 101 without or with another `Upgrade`, 301/302/303, any other 3xx. The sentence says what to do.
    Wrong(String),
}

/// Judges the response to an offer of `token`.
pub fn check(head: &ResponseHead<'_>, token: &str) -> Verdict { let _ = (head, token); todo!() }

/// Names what the first octets are when they are not HTTP/1: "an HTTP/2 preface", "a TLS hello", "an SSH banner"; `None` when they may be HTTP/1.
pub fn foreign_protocol(octets: &[u8]) -> Option<&'static str> { let _ = octets; todo!() }
