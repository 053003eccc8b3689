//! Selects one of several certificates for a client: one with the requested name (SNI) that is
//! valid now, else one with the name, else the first.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::pki_types::UnixTime;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::identity::Identity;

/// Certificates by their names. Of several with one name the earlier one is presented, unless the
/// client does not support its kind of key (with an ECDSA and an RSA certificate), or it is not
/// valid now and another one is.
pub(super) struct ByName {
    first: Identity,
    exact: HashMap<String, Vec<Identity>>,
    /// `*.example`, by the part after the first dot.
    wildcard: HashMap<String, Vec<Identity>>,
}

impl ByName {
    pub(super) fn of(first: &Identity, others: &[Identity]) -> Self {
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        // A single certificate is for all clients, whatever its names.
        let named = std::iter::once(first).chain(others).filter(|_| !others.is_empty());
        for identity in named {
            for name in identity.names() {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(domain) => (&mut wildcard, domain.to_owned()),
                    None => (&mut exact, name),
                };
                let of_name: &mut Vec<_> = names.entry(name).or_default();
                of_name.push(identity.clone());
            }
        }
        ByName { first: first.clone(), exact, wildcard }
    }

    /// The certificates for a name: first those that contain it, then those with a star for its
    /// first label.
    fn named(&self, name: &str) -> impl Iterator<Item = &Identity> {
        let name = name.to_ascii_lowercase();
        let domain = name.split_once('.').map(|(_, domain)| domain);
        let below = domain.and_then(|domain| self.wildcard.get(domain));
        self.exact.get(&name).into_iter().chain(below).flatten()
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let name = hello.server_name().unwrap_or_default();
        let usable = self.named(name).filter(|named| named.0.key.choose_scheme(schemes).is_some());
        let now = UnixTime::now();
        // The earliest of the valid ones, else the earliest.
        let shown = usable.min_by_key(|named| !named.is_valid(now)).unwrap_or(&self.first);
        Some(shown.0.clone())
    }
}

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByName")
            .field("exact", &self.exact.keys())
            .field("wildcard", &self.wildcard.keys())
            .finish_non_exhaustive()
    }
}
