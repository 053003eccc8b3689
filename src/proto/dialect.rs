//! The dialect table: the upgrade tokens of a turn, and the form of an offer with each.

use std::borrow::Cow;

use crate::error::Refusal;
use crate::proto::fields::same_name;
use crate::proto::head::is_token;

/// `http/1.1` as the `ALPN` field writes it (RFC 7639 §2.2).
pub(super) const ALPN_HTTP_1_1: &str = "http%2F1.1";

/// One row of the dialect table (protocol.md §1.2). Names of tokens compare without case, versions
/// exactly.
///
/// ```
/// use reverse_http::proto::dialect::Dialect;
/// assert_eq!(Dialect::classic().token, "PTTH/1.0");
/// assert_eq!(Dialect::custom("LAMP/2")?.token, "LAMP/2");
/// assert!(Dialect::custom("h2c").is_err(), "it stands for another protocol");
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dialect {
    /// The upgrade token: `PTTH/1.0`, `PTTH/0.9`, `ptth`.
    pub token: Cow<'static, str>,
    /// The one method of an offer; `None`: any (our own offers use POST).
    pub method: Option<Cow<'static, str>>,
    /// How the offer carries the device's name.
    pub naming: Naming,
    /// The offer lists in `ALPN` the protocols that may be used after the turn, among them
    /// `http/1.1` (written `http%2F1.1`).
    pub alpn: bool,
    /// Further fields of the 101.
    pub answer_fields: Vec<(Cow<'static, str>, Cow<'static, str>)>,
}

/// How an offer carries the device's name.
///
/// ```
/// use reverse_http::proto::dialect::{Dialect, Naming};
/// assert_eq!(Dialect::classic().naming, Naming::PathSegment);
/// assert_eq!(Dialect::ietf().naming, Naming::Origins);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Naming {
    /// First segment of the path; `/` is `default`.
    PathSegment,
    /// `/.well-known/ptth/{serialized_origin}/` and an `ALPN` list (draft-kazuho-ptth-ptth).
    Origins,
}

impl Dialect {
    fn row(token: impl Into<Cow<'static, str>>) -> Self {
        Dialect {
            token: token.into(),
            method: None,
            naming: Naming::PathSegment,
            alpn: false,
            answer_fields: Vec::new(),
        }
    }

    /// `PTTH/1.0`, any method.
    #[must_use]
    pub fn classic() -> Self {
        Self::row("PTTH/1.0")
    }

    /// `PTTH/0.9`, any method (the seed).
    #[must_use]
    pub fn classic_0_9() -> Self {
        Self::row("PTTH/0.9")
    }

    /// `ptth`, GET, origins, `ALPN: http%2F1.1` in the 101.
    #[must_use]
    pub fn ietf() -> Self {
        Dialect {
            method: Some("GET".into()),
            naming: Naming::Origins,
            alpn: true,
            answer_fields: vec![("ALPN".into(), ALPN_HTTP_1_1.into())],
            ..Self::row("ptth")
        }
    }

    /// `reverse`, GET, `ALPN`, `Selected-ALPN: http%2F1.1` in the 101: how h2o's reverse tunnel
    /// connects, named by its path like a classic one.
    #[must_use]
    pub fn h2o() -> Self {
        Dialect {
            method: Some("GET".into()),
            alpn: true,
            answer_fields: vec![("Selected-ALPN".into(), ALPN_HTTP_1_1.into())],
            ..Self::row("reverse")
        }
    }

    /// A classic row with a token of a program's own.
    ///
    /// # Errors
    /// The token is not `name` or `name/version` of token characters, or is one that must never
    /// turn (`h2c`, `HTTP/2.0`, `TLS/1.0`, `websocket`).
    pub fn custom(token: &str) -> Result<Self, Refusal> {
        let (name, version) = name_and_version(token);
        if !is_token(name.as_bytes())
            || version.is_some_and(|version| !is_token(version.as_bytes()))
        {
            return Err(Refusal::new(
                400,
                "an upgrade token is a name, or a name, a slash and a version, of token characters",
            ));
        }
        // Registered for other protocols: a peer that names one of these does not want to turn.
        const NEVER: [&str; 7] =
            ["h2c", "h2", "HTTP", "TLS", "websocket", "connect-udp", "connect-ip"];
        if NEVER.iter().any(|never| same_name(name, never)) {
            return Err(Refusal::new(
                400,
                format!(
                    "the upgrade token {name} stands for another protocol and never turns a connection"
                ),
            ));
        }
        Ok(Self::row(token.to_owned()))
    }

    /// The three rows every gateway starts with.
    #[must_use]
    pub fn table() -> Vec<Dialect> {
        vec![Self::classic(), Self::classic_0_9(), Self::ietf()]
    }

    pub(super) fn is_offered_by(&self, token: &str) -> bool {
        let (ours, theirs) = (name_and_version(&self.token), name_and_version(token));
        same_name(ours.0, theirs.0) && ours.1 == theirs.1
    }
}

pub(super) fn name_and_version(token: &str) -> (&str, Option<&str>) {
    token.split_once('/').map_or((token, None), |(name, version)| (name, Some(version)))
}
