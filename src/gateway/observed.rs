//! Reports visitors, offers and leases to the [`Observer`](crate::observe::Observer).

use std::net::IpAddr;

use crate::gateway::offer::Offer;
use crate::gateway::registry::{Owner, Registration};
use crate::gateway::state::GatewayRole;
use crate::observe::row::OfferSeen;
use crate::observe::{OFFER_TEXT_MAX, Observed, Visit, cut};
use crate::proto::forward::REQUEST_ID;
use crate::proto::forwarded::ProxyClaims;
use crate::proto::head::Fields;
use crate::proto::turn::Name;

/// The longest accepted `X-Request-Id` of a trusted proxy, in bytes; a longer one is replaced.
const REQUEST_ID_BYTES_MAX: usize = 128;

impl GatewayRole {
    /// The visitor's address and the id of the request; without an access log this costs nothing.
    pub(super) fn visit(
        &self,
        fields: &Fields<'_>,
        from: IpAddr,
        claims: Option<&ProxyClaims<'_>>,
    ) -> Visit {
        if !self.observer.is_on() && self.peers.is_none() {
            return Visit { from: Some(from), ..Visit::default() };
        }
        let request_id = self.observer.records().then(|| {
            let came = fields.get(REQUEST_ID).and_then(|id| std::str::from_utf8(id).ok());
            match came.filter(|id| claims.is_some() && is_request_id(id)) {
                Some(id) => id.to_owned(),
                None => random_id(),
            }
        });
        let from = Some(self.address_of(from, claims));
        Visit { from, request_id, ..Visit::default() }
    }

    /// The visitor's own address, if trusted proxies report it.
    pub(super) fn address_of(&self, from: IpAddr, claims: Option<&ProxyClaims<'_>>) -> IpAddr {
        let told = claims.and_then(|claims| claims.visitor(|hop| self.settings.is_trusted(hop)));
        told.unwrap_or(from)
    }

    /// Records the properties of an admitted device from its offer or poll.
    pub(super) fn observe_offer(&self, offer: &Offer, registration: &Registration, owner: &Owner) {
        if !self.observer.is_on() {
            return;
        }
        let agent = offer.field("User-Agent").map(String::from_utf8_lossy).unwrap_or_default();
        let seen = OfferSeen {
            agent: cut(&agent, OFFER_TEXT_MAX),
            protocol: cut(offer.upgrade_token(), OFFER_TEXT_MAX),
            address: offer.remote_ip(),
            secure: offer.secure,
            token: offer.token.and_then(|digest| self.credentials.label(&digest)),
            certificate: offer
                .certificate
                .as_ref()
                .map(|shown| cut(&shown.names().join(", "), OFFER_TEXT_MAX)),
            certificate_expires: offer.certificate.as_ref().map(|shown| shown.expires()),
        };
        for name in registration.names() {
            self.observer.offered(name, seen.clone(), &owner.credential);
        }
    }

    /// Records a refused offer or poll. `None` if it could not be parsed.
    pub(super) fn observe_refusal(
        &self,
        offer: Option<&Offer>,
        from: Option<IpAddr>,
        answer: (u16, &str),
    ) {
        if self.observer.is_on() {
            let names = offer.map_or(&[][..], Offer::names);
            let names: Vec<String> = names.iter().map(Name::to_string).collect();
            self.observer.refused(names.iter().map(String::as_str), from, answer);
        }
    }

    /// Records the duration of an exchange on a link that program code uses.
    pub(super) fn observe_lease(&self, registration: &Registration) -> Observed {
        let mut observed = self.observer.lease(registration.name());
        observed.attached(None);
        observed
    }
}

/// Returns true if this is a valid request id.
fn is_request_id(id: &str) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

fn random_id() -> String {
    let mut bytes = [0; 16];
    match crate::engine::random::fill(&mut bytes) {
        Ok(()) => format!("{:032x}", u128::from_be_bytes(bytes)),
        Err(_) => "-".to_owned(), // the log of such a system has larger problems
    }
}
