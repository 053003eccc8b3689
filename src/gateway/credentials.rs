//! Checks the tokens of offers, polls and visitors' requests with the current tables, which may be
//! replaced while the gateway runs. Remembers certificates that are no longer accepted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use crate::error::Error;
use crate::gateway::offer::{Offer, Reject};
use crate::gateway::registry::{Denied, Owner, Registration};
use crate::gateway::tokens::{self, Digest, Tokens, Whose};
use crate::proto::forward::GATEWAY_AUTHORIZATION;
use crate::proto::head::Fields;
use crate::setting::{TOKENS, VISITOR_TOKENS};
use crate::stream::{Shown, ShownKey};

pub(super) const REVOKED: &str = "the token or certificate that it came in with is no longer valid";
const EXPIRED: &str = "the token has expired; ask for a new one";
const OTHER_NAME: &str = "the credential is not for this name";

/// The answer to a request without a valid token. It reveals only whether the token that was sent
/// is known.
struct Words {
    none: &'static str,
    unreadable: &'static str,
    unknown: &'static str,
}

const TO_DEVICES: Words = Words {
    none: "this gateway requires a device token, and the request has none; send Authorization: Bearer TOKEN",
    unreadable: "this gateway requires a device token, and cannot read the Authorization of the request; send it once, as Bearer TOKEN",
    unknown: "this gateway does not know the token that was sent",
};
const TO_VISITORS: Words = Words {
    none: "this gateway requires a visitor token; send it as Authorization: Bearer, or as the password of Basic, or as PTTH-Authorization: Bearer where Authorization is the device's",
    unreadable: "this gateway requires a visitor token, and cannot read the one of the request; send it once, as Bearer TOKEN, or as the password of Basic",
    unknown: "this gateway does not know the visitor token that was sent; where Authorization is the device's, send the token as PTTH-Authorization: Bearer",
};

impl Words {
    fn of(&self, is_shown: bool, digest: Option<&Digest>) -> &'static str {
        match (is_shown, digest) {
            (false, _) => self.none,
            (true, None) => self.unreadable,
            (true, Some(_)) => self.unknown,
        }
    }
}

pub(crate) struct Credentials {
    /// `None` if devices need no token.
    devices: Option<Arc<Tokens>>,
    /// `None` if visitors need no token.
    visitors: Option<Arc<Tokens>>,
    /// Certificates of connections whose CA was replaced.
    refused: HashSet<ShownKey>,
    /// While the CA of this listener is being replaced: the certificates of its connections that
    /// come from other loops, which those no longer report.
    arrived: Option<(usize, HashMap<ShownKey, Arc<Shown>>)>,
    /// When the next token of a table expires.
    next_expiry: Option<SystemTime>,
}

/// The token of a visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VisitorToken {
    /// Visitors need no token.
    NotNeeded,
    /// No valid token, with the reason.
    Unknown(&'static str),
    /// `PTTH-Authorization` more than once.
    Several,
    Known(Digest, Shower),
}

impl VisitorToken {
    /// Returns true if `Authorization` was for this gateway, and the device does not get it.
    pub(super) fn takes_authorization(self) -> bool {
        !matches!(self, VisitorToken::NotNeeded | VisitorToken::Known(_, Shower::Own))
    }
}

/// The field that contained a visitor's token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shower {
    /// `Authorization`, which the gateway removes.
    Authorization,
    /// `PTTH-Authorization`, or the cookie of a sign-in: `Authorization` then belongs to the
    /// application.
    Own,
}

impl Shower {
    /// The relevant field: `PTTH-Authorization` if there is one, even if it is invalid.
    fn of(fields: &Fields<'_>) -> Self {
        match fields.get(GATEWAY_AUTHORIZATION) {
            Some(_) => Shower::Own,
            None => Shower::Authorization,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Shower::Authorization => "Authorization",
            Shower::Own => GATEWAY_AUTHORIZATION,
        }
    }

    fn digest(self, fields: &Fields<'_>, token_bytes_max: usize) -> Option<Digest> {
        tokens::shown(fields.all(self.name()), token_bytes_max)
    }
}

/// Logs a hint if an unknown token is in a line of the table that is invalid.
fn log_mistake<'a>(
    table: &Tokens,
    fields: impl Iterator<Item = &'a [u8]>,
    (token_bytes_max, setting): (usize, &str),
) {
    if let Some((line, what)) = tokens::mistake(table, fields, token_bytes_max) {
        log_names!(
            Warn,
            "a token that was refused has line {line} ({setting}), which is wrong: {what}; ptth token NAME makes a right one"
        );
    }
}

impl Credentials {
    pub(super) fn new(devices: Option<Arc<Tokens>>, visitors: Option<Arc<Tokens>>) -> Self {
        let (refused, arrived, next_expiry) = (HashSet::new(), None, None);
        let mut credentials = Credentials { devices, visitors, refused, arrived, next_expiry };
        credentials.look_ahead(SystemTime::now());
        credentials
    }

    /// Checks that the offer has a token that is bound to its names, and records its identity.
    pub(super) fn check(&self, offer: &mut Offer, token_bytes_max: usize) -> Result<(), Reject> {
        let Some(tokens) = &self.devices else { return Ok(()) };
        let shown = tokens::shown(offer.authorization(), token_bytes_max);
        let Some(digest) = shown.filter(|digest| tokens.knows(digest)) else {
            let is_shown = offer.authorization().next().is_some();
            let why = TO_DEVICES.of(is_shown, shown.as_ref());
            if shown.is_none() {
                return Err(Reject::new(401, why));
            }
            log_mistake(tokens, offer.authorization(), (token_bytes_max, TOKENS));
            return Err(Reject::new(
                401,
                format!("{why}; at the gateway, see its lines ({TOKENS})"),
            ));
        };
        if let Some(day) = tokens.expired(&digest) {
            let label = tokens.label(&digest).unwrap_or_default();
            log_names!(
                Info,
                "the token of an offer for {} ({label}) expired on {day}",
                offer.label()
            );
            return Err(Reject::new(401, EXPIRED));
        }
        if !offer.wire.names.iter().all(|name| tokens.allows(&digest, &name.to_string())) {
            let text = format!("{OTHER_NAME}; at the gateway, see its line ({TOKENS})");
            return Err(Reject::new(403, text));
        }
        offer.token = Some(digest);
        Ok(())
    }

    /// The offer's identity from its token, for take-overs, if the current table still allows these
    /// names.
    pub(super) fn identity(
        &self,
        offer: &Offer,
        names: &[String],
    ) -> Result<Option<Arc<str>>, Denied> {
        let (Some(tokens), Some(digest)) = (&self.devices, &offer.token) else { return Ok(None) };
        match tokens.identity(digest) {
            Some(identity) if names.iter().all(|name| tokens.allows(digest, name)) => {
                Ok(Some(identity.clone()))
            }
            Some(_) => Err(Denied::new(403, OTHER_NAME, None)),
            None => Err(Denied::new(401, REVOKED, None)),
        }
    }

    /// The operator's label of a device's token.
    pub(super) fn label(&self, digest: &Digest) -> Option<Box<str>> {
        self.devices.as_ref()?.label(digest)
    }

    /// Returns true if a certificate has expired, or its CA was replaced.
    pub(super) fn is_void(&self, shown: &Shown) -> bool {
        shown.expires() <= SystemTime::now() || self.refused.contains(&shown.key())
    }

    /// Returns true if a device's token is bound to exactly this name.
    pub(super) fn have_token_for(&self, name: &str) -> bool {
        self.devices.as_ref().is_some_and(|tokens| tokens.names(name))
    }

    pub(super) fn have_origins(&self) -> bool {
        self.devices.as_ref().is_some_and(|tokens| tokens.have_origins())
    }

    pub(super) fn is_revoked(&self, registration: &Registration) -> bool {
        let by_token = match (&self.devices, registration.token()) {
            (Some(tokens), Some(digest)) => {
                !registration.names().all(|name| tokens.allows(digest, name))
            }
            _ => false,
        };
        by_token || registration.certificate().is_some_and(|shown| self.is_void(shown))
    }

    /// The same for the owner of a name.
    pub(super) fn is_owner_revoked(&self, name: &str, owner: &Owner) -> bool {
        let by_token = match (&self.devices, &owner.token) {
            (Some(tokens), Some(digest)) => !tokens.allows(digest, name),
            _ => false,
        };
        by_token || owner.certificate.as_ref().is_some_and(|shown| self.is_void(shown))
    }

    /// The token of a visitor's request.
    pub(super) fn of_visitor(&self, fields: &Fields<'_>, token_bytes_max: usize) -> VisitorToken {
        let Some(tokens) = &self.visitors else { return VisitorToken::NotNeeded };
        if fields.all(GATEWAY_AUTHORIZATION).nth(1).is_some() {
            return VisitorToken::Several;
        }
        let shower = Shower::of(fields);
        let shown = shower.digest(fields, token_bytes_max);
        match shown.filter(|digest| tokens.knows(digest)) {
            Some(digest) => match tokens.expired(&digest) {
                None => VisitorToken::Known(digest, shower),
                Some(day) => {
                    let label = tokens.label(&digest).unwrap_or_default();
                    log_names!(Info, "a visitor's token ({label}) expired on {day}");
                    VisitorToken::Unknown(EXPIRED)
                }
            },
            None => {
                let is_shown = shower == Shower::Own || fields.get("Authorization").is_some();
                if shown.is_some() {
                    log_mistake(
                        tokens,
                        fields.all(shower.name()),
                        (token_bytes_max, VISITOR_TOKENS),
                    );
                }
                VisitorToken::Unknown(TO_VISITORS.of(is_shown, shown.as_ref()))
            }
        }
    }

    /// Returns true if visitors need a token.
    pub(super) fn know_visitors(&self) -> bool {
        self.visitors.is_some()
    }

    /// Returns true if this is a valid visitor token.
    pub(super) fn is_visitor(&self, digest: &Digest) -> bool {
        self.visitors.as_ref().is_some_and(|tokens| tokens.is_valid(digest))
    }

    /// The token of a sign-in. `Authorization` then belongs to the application, unless it contains
    /// one of our tokens, for example an expired one.
    pub(super) fn signed_in(
        &self,
        digest: Digest,
        fields: &Fields<'_>,
        token_bytes_max: usize,
    ) -> VisitorToken {
        let beside = Shower::Authorization.digest(fields, token_bytes_max);
        let is_ours = |beside| self.visitors.as_ref().is_some_and(|tokens| tokens.knows(beside));
        match beside.as_ref().is_some_and(is_ours) {
            true => VisitorToken::Known(digest, Shower::Authorization),
            false => VisitorToken::Known(digest, Shower::Own),
        }
    }

    /// The operator's label of a visitor's token.
    pub(super) fn visitor_label(&self, digest: &Digest) -> Option<Box<str>> {
        self.visitors.as_ref()?.label(digest)
    }

    /// The comment of its line, if there is one.
    pub(super) fn visitor_comment(&self, digest: &Digest) -> Option<Box<str>> {
        self.visitors.as_ref()?.comment(digest)
    }

    /// The operator's label of the token in a request.
    pub(super) fn label_shown(
        &self,
        fields: &Fields<'_>,
        token_bytes_max: usize,
    ) -> Option<Box<str>> {
        let tokens = self.visitors.as_ref()?;
        let digest = Shower::of(fields).digest(fields, token_bytes_max)?;
        tokens.is_valid(&digest).then(|| tokens.label(&digest)).flatten()
    }

    /// Returns true if a visitor with this token may send requests to this device.
    pub(super) fn visitor_may(&self, digest: &Digest, name: &str) -> bool {
        self.visitors.as_ref().is_none_or(|tokens| tokens.allows(digest, name))
    }

    /// Replaces a table, and returns the old one.
    ///
    /// # Errors
    /// The gateway was started without such a table: connected devices have no token that could be
    /// checked now.
    pub(super) fn replace(&mut self, whose: Whose, new: Arc<Tokens>) -> Result<Arc<Tokens>, Error> {
        let table = match whose {
            Whose::Devices => &mut self.devices,
            Whose::Visitors => &mut self.visitors,
        };
        let Some(table) = table else {
            return Err(Error::usage(
                "this gateway was started without such tokens; give them to its builder, then they can be replaced",
            ));
        };
        let old = std::mem::replace(table, new);
        self.look_ahead(SystemTime::now());
        Ok(old)
    }

    /// Returns true if a token has expired since the last call.
    pub(super) fn have_expired(&mut self, now: SystemTime) -> bool {
        let due = self.next_expiry.is_some_and(|at| at <= now);
        if due {
            self.look_ahead(now);
        }
        due
    }

    fn look_ahead(&mut self, now: SystemTime) {
        let tables = [&self.devices, &self.visitors].into_iter().flatten();
        self.next_expiry = tables.filter_map(|tokens| tokens.next_expiry(now)).min();
    }

    /// The CA of this listener is being replaced.
    pub(super) fn begin_change(&mut self, listener: usize) {
        self.arrived = Some((listener, HashMap::new()));
    }

    /// A connection with this certificate has come from another loop.
    pub(super) fn note_arrival(&mut self, shown: Arc<Shown>) {
        if let Some((listener, arrived)) = &mut self.arrived {
            let key = shown.key();
            if key.0 == *listener {
                arrived.insert(key, shown);
            }
        }
    }

    /// Records the certificates at a listener that its new CA does not accept, and returns those
    /// that have arrived since the change began.
    pub(super) fn refuse(
        &mut self,
        listener: usize,
        refused: HashSet<ShownKey>,
    ) -> Vec<Arc<Shown>> {
        self.refused.retain(|(of, _)| *of != listener);
        self.refused.extend(refused);
        self.arrived.take().into_iter().flat_map(|(_, arrived)| arrived.into_values()).collect()
    }
}
