//! The handshake as pure functions: dialect table, offer, the gateway's decision and answer, the
//! device's check.
//!
//! ```text
//!   device   write_offer ──► decide   gateway
//!            check       ◄── write_switch
//! ```
//! Authentication and limits are not checked here: the gateway does that between `decide` and
//! `write_switch`, since after the 101 it cannot refuse.
use std::borrow::Cow;
use std::fmt;

use crate::error::Refusal;
use crate::proto::authority::{authority, one_host};
use crate::proto::dialect::{ALPN_HTTP_1_1, Dialect, Naming};
use crate::proto::digits::{from_hex, hex, percent_decoded, percent_encoded};
use crate::proto::fields::{Fields, same_name, shown, trim};
use crate::proto::framed::FramedRequest;
use crate::proto::head::RequestHead;
use crate::proto::head_writer::{write_field, write_request_line};

/// The field that carries an event's id beside `message/http` (protocol.md §2.2); allowed beside
/// JSON.
pub const MESSAGE_ID: &str = "PTTH-Message-ID";

/// The reason with which a stopping gateway refuses offers and polls.
pub(crate) const STOPPING: &str = "this gateway is stopping; dial again";

/// With the value `1` in a device's POST: the device stops, so this POST is its last one, and its
/// reply must not carry an event (protocol.md §2).
pub(crate) const LAST: &str = "PTTH-Last";

/// In every answer of a gateway's devices' port except the 101, so that a device can tell it from a
/// middlebox's (protocol.md §1.7; RFC 9209).
pub(crate) const MARK: (&str, &str) = ("Proxy-Status", "ptth");

/// Returns true if a gateway of ours gave this answer: the first member of `Proxy-Status` is that
/// of the intermediary nearest to the origin.
#[must_use]
pub fn is_marked(fields: &Fields<'_>) -> bool {
    let first = fields.all(MARK.0).next().unwrap_or_default();
    let name = first.split(|byte| matches!(byte, b';' | b',')).next().unwrap_or_default();
    trim(name) == MARK.1.as_bytes()
}

/// The `details` of the first member of `Proxy-Status` (RFC 9209 §2.1.2), if they are a string of
/// visible characters.
#[must_use]
pub fn details<'f>(fields: &'f Fields<'_>) -> Option<&'f str> {
    const NAME: &str = "details=\"";
    let first = std::str::from_utf8(fields.all(MARK.0).next()?).ok()?;
    let behind = &first[first.find(NAME)? + NAME.len()..];
    let text = &behind[..behind.find('"')?];
    text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'\\').then_some(text)
}

/// How the fallback's messages are encoded (protocol.md §2.1, §2.2).
///
/// ```
/// use reverse_http::Encoding;
/// assert_eq!(Encoding::of_type(b"message/http; version=1.1"), Some(Encoding::Message));
/// assert_eq!(Encoding::Json.media_type(), "application/json");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Encoding {
    /// `application/json` (RFC 8259): whole messages. Needs the feature `comet`.
    Json,
    /// `message/http` (RFC 9112 §10.1): HTTP/1.1 text, byte for byte; answers stream.
    Message,
}

impl Encoding {
    /// The media type for `Content-Type` and `Accept`.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::Message => "message/http",
        }
    }

    /// The encoding that a `Content-Type` names, whatever its parameters. `text/plain` stands for
    /// `message/http`, as seed-style peers write it.
    #[must_use]
    pub fn of_type(content_type: &[u8]) -> Option<Self> {
        let media_type = trim(content_type.split(|&byte| byte == b';').next().unwrap_or_default());
        let is = |other: &str| media_type.eq_ignore_ascii_case(other.as_bytes());
        match () {
            () if is("application/json") => Some(Encoding::Json),
            () if is("message/http") || is("text/plain") => Some(Encoding::Message),
            () => None,
        }
    }

    /// The encoding that a poll's `Accept` asks for: the first of the two types with a q other than
    /// 0; JSON if there is none.
    #[must_use]
    pub fn accepted(fields: &Fields<'_>) -> Self {
        let wanted = fields.list("accept").find_map(|member| {
            let mut parts = member.split(|&byte| byte == b';').map(trim);
            let encoding = match parts.next() {
                Some(name) if name.eq_ignore_ascii_case(b"application/json") => Encoding::Json,
                Some(name) if name.eq_ignore_ascii_case(b"message/http") => Encoding::Message,
                _ => return None,
            };
            let refused = parts.any(|part| match part {
                [b'q' | b'Q', b'=', weight @ ..] => {
                    !weight.is_empty() && weight.iter().all(|&byte| matches!(byte, b'0' | b'.'))
                }
                _ => false,
            });
            (!refused).then_some(encoding)
        });
        wanted.unwrap_or(Encoding::Json)
    }
}

/// `COMET json` or `COMET message/http`, as in events and in the `connected` line.
impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Encoding::Json => "COMET json",
            Encoding::Message => "COMET message/http",
        })
    }
}

/// How device and gateway reach each other.
///
/// ```
/// use reverse_http::{Encoding, Transport};
/// assert_eq!(Transport::Turn.to_string(), "turn");
/// assert_eq!(Transport::Comet(Encoding::Json).to_string(), "COMET json");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// Connections that turned.
    Turn,
    /// The COMET fallback: polls, in this encoding.
    Comet(Encoding),
}

/// `turn`, `COMET json` or `COMET message/http`.
impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Transport::Turn => f.write_str("turn"),
            Transport::Comet(encoding) => encoding.fmt(f),
        }
    }
}

/// Whether the COMET fallback may be used (protocol.md §2.3).
///
/// ```
/// use reverse_http::{Fallback, Gateway};
/// let gateway = Gateway::builder().listen("127.0.0.1:0").fallback(Fallback::Never).start()?;
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fallback {
    /// Each reply decides: connections turn if they can, otherwise polls carry the messages.
    #[default]
    Auto,
    /// Connections have to turn.
    Never,
    /// No connection turns; only polls are used.
    Only,
}

/// A name under which a link can be registered: a device name (DNS label) or an origin.
///
/// ```
/// use reverse_http::proto::turn::Name;
/// assert_eq!(Name::label("lamp")?.to_string(), "lamp");
/// assert_eq!(Name::origin("https://lamp.example:443")?.to_string(), "https://lamp.example");
/// assert!(Name::label("Lamp").is_err());
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Name {
    /// `[a-z0-9-]`, 1 to 63 bytes, no hyphen at either end.
    Label(String),
    /// `https://backend.example.com`, lower case, default port left out.
    Origin {
        /// `http` or `https`.
        scheme: String,
        /// Host, lower case.
        host: String,
        /// The port, if it is not the scheme's own.
        port: Option<u16>,
    },
}

/// The label, or the origin's serialisation.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Label(label) => f.write_str(label),
            Name::Origin { scheme, host, port: None } => write!(f, "{scheme}://{host}"),
            Name::Origin { scheme, host, port: Some(port) } => {
                write!(f, "{scheme}://{host}:{port}")
            }
        }
    }
}

/// The name that the path `/` registers.
const DEFAULT_LABEL: &str = "default";

impl Name {
    /// A device name.
    ///
    /// # Errors
    /// 400 and the rule that it breaks.
    pub fn label(text: &str) -> Result<Self, Refusal> {
        let broken = if text.is_empty() || text.len() > 63 {
            "a device's name has 1 to 63 bytes"
        } else if !text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')) {
            "a device's name has only a to z, 0 to 9 and hyphens (lower case, nothing percent-encoded)"
        } else if text.starts_with('-') || text.ends_with('-') {
            "a device's name has no hyphen at its start or end"
        } else {
            return Ok(Name::Label(text.to_owned()));
        };
        Err(Refusal::new(400, broken))
    }

    /// An origin's ASCII serialisation (RFC 6454 §6.2), with or without its default port.
    ///
    /// # Errors
    /// 400; `null`, other schemes, upper case, a path, userinfo, a trailing dot.
    pub fn origin(text: &str) -> Result<Self, Refusal> {
        let wrong = || {
            Refusal::new(
                400,
                "an origin is https://host or http://host, with or without :port, in lower case",
            )
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let default_port = match scheme {
            "https" => 443,
            "http" => 80,
            _ => return Err(wrong()),
        };
        let authority = authority(rest.as_bytes())?;
        let dotted = authority.whole[authority.host.len()..].starts_with('.'); // `host` is the front of `whole`, but for that dot
        if dotted || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(wrong());
        }
        let port = authority.port.filter(|&port| port != default_port);
        Ok(Name::Origin { scheme: scheme.to_owned(), host: authority.host.to_owned(), port })
    }
}

/// The rules of a gateway's operator for offers.
///
/// ```
/// use reverse_http::proto::{dialect::Dialect, turn::OfferRules};
/// let mut rules = OfferRules::default();
/// rules.dialects.push(Dialect::h2o());
/// rules.strict_connection = true;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OfferRules {
    /// The dialects that turn.
    pub dialects: Vec<Dialect>,
    /// Accept offers without `Host` (AirPlay senders). Default false.
    pub missing_host: bool,
    /// Require `Connection: upgrade`, even of devices that offer in the seed's form. Default false.
    pub strict_connection: bool,
}

impl Default for OfferRules {
    fn default() -> Self {
        OfferRules { dialects: Dialect::table(), missing_host: false, strict_connection: false }
    }
}

/// A well-formed offer, or a poll of the fallback, which registers a name in the same way.
///
/// ```
/// use reverse_http::Limits;
/// use reverse_http::proto::framed::FramedRequest;
/// use reverse_http::proto::head::{self, LineEnds};
/// use reverse_http::proto::turn::{self, Decision, OfferRules};
///
/// let offer = b"POST /lamp HTTP/1.1\r\nHost: gw\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n";
/// let head = head::request(offer, &Limits::default(), LineEnds::Crlf)?.expect("it is whole");
/// let decision = turn::decide(&FramedRequest::of(head)?, &OfferRules::default())?;
/// let Decision::Turn(offer) = decision else { panic!("a poll") };
/// assert_eq!((offer.names[0].to_string(), &*offer.token), ("lamp".to_owned(), "PTTH/1.0"));
/// assert_eq!(offer.fields.0[0], ("Host".to_owned(), b"gw".to_vec()));
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Offer {
    /// The names that it registers, at least one.
    pub names: Vec<Name>,
    /// The token bytes as offered, echoed in the 101. Empty for a poll.
    pub token: String,
    /// The index of its dialect in [`OfferRules::dialects`]. 0 for a poll.
    pub dialect: usize,
    /// Target of the offer as received (path and query).
    pub target: String,
    /// `PTTH-Session`, if there is one. A malformed one (not 32 hex digits) is refused with 400.
    pub session: Option<[u8; 16]>,
    /// All fields as received (name, value), for `authorize`. Debug never shows `Authorization`,
    /// `Proxy-Authorization` or `Cookie` values (T23).
    pub fields: OfferFields,
    /// The offer asked for `100-continue`.
    pub expects_continue: bool,
}

impl Offer {
    /// Returns true if this is a poll of the COMET fallback, without an offer to turn.
    #[must_use]
    pub fn is_poll(&self) -> bool {
        self.token.is_empty()
    }

    /// Returns true if it is the offer of an AirPlay sender, recognised by its purpose field: some
    /// of them answer with the version `EVENT/1.0`.
    pub(crate) fn is_airplay(&self) -> bool {
        self.fields.0.iter().any(|(name, _)| same_name(name, "x-apple-purpose"))
    }
}

/// The fields of an offer, with a `Debug` that shows no secret.
///
/// ```
/// use reverse_http::Limits;
/// use reverse_http::proto::framed::FramedRequest;
/// use reverse_http::proto::head::{self, LineEnds};
/// use reverse_http::proto::turn::{self, Decision, OfferRules};
///
/// let offer = b"POST /lamp HTTP/1.1\r\nHost: gw\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n";
/// let head = head::request(offer, &Limits::default(), LineEnds::Crlf)?.expect("it is whole");
/// let decision = turn::decide(&FramedRequest::of(head)?, &OfferRules::default())?;
/// let Decision::Turn(offer) = decision else { panic!("a poll") };
/// assert_eq!((offer.names[0].to_string(), &*offer.token), ("lamp".to_owned(), "PTTH/1.0"));
/// assert_eq!(offer.fields.0[0], ("Host".to_owned(), b"gw".to_vec()));
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct OfferFields(pub Vec<(String, Vec<u8>)>);

impl fmt::Debug for OfferFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.0.iter().map(|(name, value)| (name, shown(name, value))))
            .finish()
    }
}

/// The kind of a request on the devices' port.
///
/// ```
/// use reverse_http::Limits;
/// use reverse_http::proto::framed::FramedRequest;
/// use reverse_http::proto::head::{self, LineEnds};
/// use reverse_http::proto::turn::{self, Decision, OfferRules};
///
/// let offer = b"POST /lamp HTTP/1.1\r\nHost: gw\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n";
/// let head = head::request(offer, &Limits::default(), LineEnds::Crlf)?.expect("it is whole");
/// let decision = turn::decide(&FramedRequest::of(head)?, &OfferRules::default())?;
/// let Decision::Turn(offer) = decision else { panic!("a poll") };
/// assert_eq!((offer.names[0].to_string(), &*offer.token), ("lamp".to_owned(), "PTTH/1.0"));
/// assert_eq!(offer.fields.0[0], ("Host".to_owned(), b"gw".to_vec()));
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// An offer to turn.
    Turn(Box<Offer>),
    /// A POST in HTTP/1.1 or 1.0 without an offer that we know: a poll of the COMET fallback
    /// ([`Offer::is_poll`]).
    Poll(Box<Offer>),
}

/// Decides about a request on the devices' port, with the checks in the order of protocol.md §1.2
/// and §1.3. An `Upgrade` in HTTP/1.0, or without a token of one of the dialects, counts as absent.
///
/// # Errors
/// 400 (malformed offer, bad name, missing `Host`, ALPN without `http/1.1`, offer whose
/// `Connection` does not list `upgrade`, if that is required), 405 (a method that neither polls nor
/// offers; the caller adds `Allow: POST`). The caller handles framing and body.
pub fn decide(head: &FramedRequest<'_>, rules: &OfferRules) -> Result<Decision, Refusal> {
    // RFC 9110 §7.8: Upgrade in an HTTP/1.0 request is ignored. So is an offer that a load balancer
    // has damaged: a POST is a poll then.
    let offered = if head.minor == 0 { None } else { offered(&head.fields, &rules.dialects) };
    let offered = offered.filter(|_| {
        head.method != "POST" || rules.strict_connection || !is_for_another_hop(&head.fields)
    });
    let Some((token, row, dialect)) = offered else {
        if head.method != "POST" {
            return Err(Refusal::new(
                405,
                "this port takes offers of devices (Upgrade: PTTH/1.0, Connection: Upgrade) and polls (POST)",
            ));
        }
        check_host(head, rules)?;
        let names = vec![name_of_path(head.target)?];
        return Ok(Decision::Poll(Box::new(registration(head, names, "", 0)?)));
    };
    if let Some(method) = dialect.method.as_deref().filter(|&method| method != head.method) {
        return Err(Refusal::new(400, format!("an offer of {token} has the method {method}")));
    }
    // The draft, unlike the seed, requires it in every offer.
    check_connection(&head.fields, rules.strict_connection || dialect.naming == Naming::Origins)?;
    check_host(head, rules)?;
    let names = match dialect.naming {
        Naming::PathSegment => vec![name_of_path(head.target)?],
        Naming::Origins => origins_of_path(head.target)?,
    };
    if dialect.alpn && !head.fields.list("alpn").any(is_http_1_1) {
        return Err(Refusal::new(
            400,
            "the offer has no ALPN field that lists http%2F1.1, the only protocol spoken after the turn",
        ));
    }
    Ok(Decision::Turn(Box::new(registration(head, names, token, row)?)))
}

/// Returns true if a request looks like a device's: an offer of one of these dialects, or of
/// another version of this protocol, or a poll with a session. The version of HTTP does not matter.
/// It lets a port that is not for devices say so; [`decide`] makes the real decision.
pub(crate) fn is_of_device(head: &FramedRequest<'_>, dialects: &[Dialect]) -> bool {
    let is_ours =
        |token: &[u8]| token.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"PTTH/"));
    offered(&head.fields, dialects).is_some()
        || head.fields.list("upgrade").any(is_ours)
        || (head.method == "POST" && head.fields.get("PTTH-Session").is_some())
}

fn registration(
    head: &RequestHead<'_>,
    names: Vec<Name>,
    token: &str,
    dialect: usize,
) -> Result<Offer, Refusal> {
    Ok(Offer {
        names,
        token: token.to_owned(),
        dialect,
        target: head.target.to_owned(),
        session: session(&head.fields)?,
        fields: OfferFields(
            head.fields.iter().map(|field| (field.name.to_owned(), field.value.to_vec())).collect(),
        ),
        expects_continue: head.minor > 0 && head.fields.lists("expect", "100-continue"), // RFC 9110 §10.1.1: 1.0 has no 100
    })
}

/// The first offered token that belongs to a dialect: the order is the device's preference (RFC
/// 9110 §7.8).
fn offered<'a, 'd>(
    fields: &Fields<'a>,
    dialects: &'d [Dialect],
) -> Option<(&'a str, usize, &'d Dialect)> {
    fields.list("upgrade").filter_map(|token| std::str::from_utf8(token).ok()).find_map(|token| {
        let (row, dialect) =
            dialects.iter().enumerate().find(|(_, dialect)| dialect.is_offered_by(token))?;
        Some((token, row, dialect))
    })
}

/// Checks that `Connection` lists `upgrade`, or that this is the seed's own form, which omits it,
/// without a trace of an intermediary.
fn check_connection(fields: &Fields<'_>, strict: bool) -> Result<(), Refusal> {
    if fields.lists("connection", "upgrade") {
        return Ok(());
    }
    if strict {
        return Err(Refusal::new(
            400,
            "the offer has Upgrade, but Connection does not list upgrade; send Connection: Upgrade",
        ));
    }
    if is_for_another_hop(fields) {
        return Err(Refusal::new(
            400,
            "the offer came through an intermediary that forwarded Upgrade without Connection: Upgrade",
        ));
    }
    Ok(())
}

/// Returns true for `Upgrade` without `Connection: upgrade` if there is a trace of an intermediary.
/// It has removed only `Connection`; the `Upgrade` was for its own hop (RFC 9110 §7.6.1), and
/// counts as absent.
fn is_for_another_hop(fields: &Fields<'_>) -> bool {
    !fields.lists("connection", "upgrade")
        && ["via", "forwarded", "x-forwarded-for"].iter().any(|name| fields.get(name).is_some())
}

/// Checks that there is exactly one valid `Host` in HTTP/1.1; the operator may allow none, or an
/// empty one.
fn check_host(head: &RequestHead<'_>, rules: &OfferRules) -> Result<(), Refusal> {
    match one_host(&head.fields)? {
        Some(host) if !host.is_empty() => authority(host).map(drop),
        _ if head.minor == 0 || rules.missing_host => Ok(()),
        _ => Err(Refusal::new(400, "the offer or poll has no Host")),
    }
}

/// The name that a classic offer or a poll registers: the first segment of its path.
fn name_of_path(target: &str) -> Result<Name, Refusal> {
    let path = target.strip_prefix('/').filter(|_| !target.contains('#'));
    let path =
        path.ok_or_else(|| Refusal::new(400, "the target of an offer or poll is a path, /NAME"))?;
    let end = path.find('?').unwrap_or(path.len());
    match &path[..end] {
        "" => Ok(Name::Label(DEFAULT_LABEL.to_owned())),
        path => Name::label(path.split_once('/').map_or(path, |(first, _)| first)),
    }
}

/// The path before and after the list of origins.
const WELL_KNOWN: (&str, &str) = ("/.well-known/ptth/", "/");

/// The names that an IETF offer registers, each once.
pub(crate) fn origins_of_path(target: &str) -> Result<Vec<Name>, Refusal> {
    let list = target.strip_prefix(WELL_KNOWN.0).and_then(|rest| rest.strip_suffix(WELL_KNOWN.1));
    let list = list.ok_or_else(|| {
        Refusal::new(400, "the target of an offer of ptth is not /.well-known/ptth/ORIGINS/")
    })?;
    let mut names = Vec::new();
    for member in list.split(',') {
        let origin =
            percent_decoded(member.as_bytes()).and_then(|bytes| String::from_utf8(bytes).ok());
        let origin = origin.ok_or_else(|| {
            Refusal::new(400, "an origin in the target is not percent-encoded ASCII")
        })?;
        names.push(Name::origin(&origin)?);
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Returns true if an ALPN id, percent-encoded as RFC 7639 wants it or not, is `http/1.1`.
pub(super) fn is_http_1_1(id: &[u8]) -> bool {
    percent_decoded(id).is_some_and(|id| id == b"http/1.1")
}

/// Reads `PTTH-Session`: one line of 32 hex digits.
fn session(fields: &Fields<'_>) -> Result<Option<[u8; 16]>, Refusal> {
    let mut lines = fields.all("ptth-session");
    let (Some(value), second) = (lines.next(), lines.next()) else { return Ok(None) };
    match from_hex(value).filter(|_| second.is_none()) {
        Some(session) => Ok(Some(session)),
        None => Err(Refusal::new(400, "PTTH-Session is not one value of 32 hex digits")),
    }
}

/// Appends the 101: `Upgrade` with the offered token's bytes, `Connection: Upgrade`, the dialect's
/// own fields, nothing else. For the classic rows exactly the 76 bytes of draft-lentczner's sample
/// (with PTTH/1.0).
///
/// A field of the dialect that cannot be written, frames the message (RFC 9110 §8.6), or is one of
/// the above, is left out.
pub fn write_switch(out: &mut Vec<u8>, token: &str, dialect: &Dialect) {
    out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
    // The token of decide() comes from a parsed head, so it can be written. Whatever else a program
    // passes, it cannot add a line.
    let _ = write_field(out, "Upgrade", token.as_bytes());
    out.extend_from_slice(b"Connection: Upgrade\r\n");
    for (name, value) in &dialect.answer_fields {
        if !is_ours(name) {
            let _ = write_field(out, name, value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Fields of offer and 101 that only this file writes.
fn is_ours(name: &str) -> bool {
    ["host", "upgrade", "connection", "content-length", "transfer-encoding"]
        .iter()
        .any(|ours| same_name(name, ours))
}

/// The offer of a device. `Debug` shows no credentials (T23).
///
/// ```
/// use reverse_http::proto::{dialect::Dialect, turn::{self, OfferPlan}};
/// let mut plan = OfferPlan::new("gw.example", "/lamp", Dialect::classic());
/// plan.fields.push(("Authorization".to_owned(), "Bearer secret".to_owned()));
/// let mut out = Vec::new();
/// turn::write_offer(&mut out, &plan)?;
/// assert!(out.starts_with(b"POST /lamp HTTP/1.1\r\n"));
/// assert!(!format!("{plan:?}").contains("secret"));
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct OfferPlan {
    /// `Host` of the offer.
    pub authority: String,
    /// Path and query; for an IETF offer the well-known path.
    pub target: String,
    /// The dialect that it offers.
    pub dialect: Dialect,
    /// Offer the turn; if false, it is a poll of the fallback, always POST, without `Upgrade`.
    pub upgrade: bool,
    /// `Accept`: the encodings of the fallback that it accepts, the preferred one first. `None`: it
    /// does not accept the fallback, and sends no `Accept`.
    pub accept: Option<Cow<'static, str>>,
    /// This run's session.
    pub session: Option<[u8; 16]>,
    /// This is a device's last POST: it stops, and accepts no event with the reply.
    pub last: bool,
    /// Further fields (`Authorization` …).
    pub fields: Vec<(String, String)>,
}

impl OfferPlan {
    /// A plan that offers the turn, accepts no fallback, and has no session and no further fields.
    pub fn new(authority: impl Into<String>, target: impl Into<String>, dialect: Dialect) -> Self {
        let (authority, target) = (authority.into(), target.into());
        OfferPlan {
            authority,
            target,
            dialect,
            upgrade: true,
            accept: None,
            session: None,
            last: false,
            fields: Vec::new(),
        }
    }
}

impl fmt::Debug for OfferPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OfferPlan { authority, target, dialect, upgrade, accept, session, last, fields } = self;
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| (name, shown(name, value.as_bytes()))).collect();
        f.debug_struct("OfferPlan")
            .field("authority", authority)
            .field("target", target)
            .field("dialect", dialect)
            .field("upgrade", upgrade)
            .field("accept", accept)
            .field("session", session)
            .field("last", last)
            .field("fields", &fields)
            .finish()
    }
}

/// The answer to an earlier event, which a POST of the fallback carries.
///
/// ```
/// use reverse_http::Encoding;
/// use reverse_http::proto::{dialect::Dialect, turn::{self, Brought, OfferPlan}};
///
/// let mut poll = OfferPlan::new("gw.example", "/lamp", Dialect::classic());
/// poll.upgrade = false;
/// let answer = Brought { encoding: Encoding::Message, id: "6f1c", length: Some(40) };
/// let mut out = Vec::new();
/// turn::write_post(&mut out, &poll, Some(&answer))?;
/// assert!(String::from_utf8(out).unwrap().contains("PTTH-Message-ID: 6f1c\r\n"));
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brought<'a> {
    /// The encoding of the answer, for `Content-Type`.
    pub encoding: Encoding,
    /// The event's id, for `PTTH-Message-ID`.
    pub id: &'a str,
    /// Bytes of the body; `None`: it is chunked.
    pub length: Option<u64>,
}

/// Appends the offer (protocol.md §1.1): `Host`, `Upgrade`, `Connection: Upgrade`, `Content-Length:
/// 0` (not with GET), `ALPN: http%2F1.1` for the rows that have it, `Accept` with `Accept-Encoding:
/// identity`, `PTTH-Session`, `PTTH-Last`, the further fields.
///
/// # Errors
/// A target or field that cannot be written, or a further field that is one of those above. Nothing
/// is appended then.
pub fn write_offer(out: &mut Vec<u8>, plan: &OfferPlan) -> Result<(), Refusal> {
    write_post(out, plan, None)
}

/// Appends the head of a POST to the mailbox (protocol.md §2): the offer, or a poll if
/// [`OfferPlan::upgrade`] is false, with the framing of the answer that it carries.
///
/// # Errors
/// Those of [`write_offer`]; an answer with a dialect whose offers are not POST.
pub fn write_post(
    out: &mut Vec<u8>,
    plan: &OfferPlan,
    brought: Option<&Brought<'_>>,
) -> Result<(), Refusal> {
    let start = out.len();
    write_post_lines(out, plan, brought).inspect_err(|_| out.truncate(start))
}

fn write_post_lines(
    out: &mut Vec<u8>,
    plan: &OfferPlan,
    brought: Option<&Brought<'_>>,
) -> Result<(), Refusal> {
    let method = plan.dialect.method.as_deref().filter(|_| plan.upgrade).unwrap_or("POST");
    write_request_line(out, method, &plan.target)?;
    write_field(out, "Host", plan.authority.as_bytes())?;
    if plan.upgrade {
        write_field(out, "Upgrade", plan.dialect.token.as_bytes())?;
        write_field(out, "Connection", b"Upgrade")?;
    }
    match brought {
        None if method == "GET" => {}
        None => write_field(out, "Content-Length", b"0")?,
        Some(_) if method == "GET" => {
            return Err(Refusal::new(400, "an offer with GET brings no answer"));
        }
        Some(Brought { encoding, id, length }) => {
            write_field(out, "Content-Type", encoding.media_type().as_bytes())?;
            write_field(out, MESSAGE_ID, id.as_bytes())?;
            match length {
                Some(length) => write_field(out, "Content-Length", length.to_string().as_bytes())?,
                None => write_field(out, "Transfer-Encoding", b"chunked")?,
            }
        }
    }
    if plan.upgrade && plan.dialect.alpn {
        write_field(out, "ALPN", ALPN_HTTP_1_1.as_bytes())?;
    }
    if let Some(accept) = &plan.accept {
        write_field(out, "Accept", accept.as_bytes())?;
        write_field(out, "Accept-Encoding", b"identity")?; // without it a middlebox may compress the response (RFC 9110 §12.5.3)
    }
    if let Some(session) = plan.session {
        write_field(out, "PTTH-Session", hex(&session).as_bytes())?;
    }
    if plan.last {
        write_field(out, LAST, b"1")?;
    }
    for (name, value) in &plan.fields {
        let reserved = ["ptth-session", MESSAGE_ID, LAST, "alpn", "content-type"];
        let accepts = plan.accept.is_some()
            && ["accept", "accept-encoding"].iter().any(|ours| same_name(name, ours));
        if is_ours(name) || accepts || reserved.iter().any(|ours| same_name(name, ours)) {
            return Err(Refusal::new(
                400,
                format!("the offer's own field {name} cannot be given as a further one"),
            ));
        }
        write_field(out, name, value.as_bytes())?;
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// The well-known target of an IETF offer for these origins: each percent-encoded, joined with `,`.
#[must_use]
pub fn ietf_target(origins: &[Name]) -> String {
    let mut target = WELL_KNOWN.0.to_owned();
    for (i, origin) in origins.iter().enumerate() {
        if i > 0 {
            target.push(',');
        }
        target.push_str(&percent_encoded(&origin.to_string()));
    }
    target + WELL_KNOWN.1
}
