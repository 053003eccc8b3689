//! A gateway's side: its own certificates, and the verification of devices' certificates.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring as provider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};

use super::by_name::ByName;
use super::certificate::{FAR, Trusted, dns_names, not_after};
use super::identity::Identity;
use super::setup::{ALPN, unusable};
use crate::error::Error;

/// Offered by clients that are configured for HTTP/1.0, which is served, too.
const ALPN_OLD: &[u8] = b"http/1.0";

/// Whether clients have to present a certificate.
///
/// ```
/// use reverse_http::tls::{ClientCertificates, GatewayTls};
/// # fn with(tls: GatewayTls, ca: Vec<u8>) -> Result<GatewayTls, reverse_http::Error> {
/// tls.client_ca(ca, ClientCertificates::Required)
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientCertificates {
    /// A client without one fails the handshake.
    #[default]
    Required,
    /// A client without one is let through, without that credential.
    Optional,
}

/// The certificates of a gateway's listener, and its requirements for clients' certificates.
///
/// ```no_run
/// use reverse_http::Gateway;
/// use reverse_http::tls::{ClientCertificates, GatewayTls, Identity};
/// # fn read(_: &str) -> Vec<u8> { Vec::new() }
/// let tls = GatewayTls::new(Identity::from_pem(read("gw.crt"), read("gw.key"))?)?;
/// let devices = tls.client_ca(read("devices-ca.crt"), ClientCertificates::Required)?;
/// let gateway = Gateway::builder().listen_tls("0.0.0.0:443", devices).start()?;
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone)]
pub struct GatewayTls {
    /// The first one is for clients that request no name of another one. Empty with a program's own
    /// configuration.
    identities: Vec<Identity>,
    /// The verifier of client certificates. `None` without one, or with a program's own
    /// configuration.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    config: Arc<ServerConfig>,
    /// When the first of the certificates and their chains expires, if known.
    expires: Option<SystemTime>,
}

impl fmt::Debug for GatewayTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayTls").finish_non_exhaustive()
    }
}

impl GatewayTls {
    /// Presents this certificate, and does not ask clients for one. Sessions are resumed by
    /// tickets, for a few hours.
    ///
    /// # Errors
    /// The operating system provides no randomness for the tickets' key.
    pub fn new(identity: Identity) -> Result<Self, Error> {
        GatewayTls::with(vec![identity], None)
    }

    /// Adds certificates, selected by the name that a client asks for (SNI): it gets the one with
    /// this name, written out (`a.example`) or with a star for the first label (`*.example`). All
    /// other clients, including those that ask for no name, get that of [`new`](Self::new). Of
    /// several certificates with the same name, the first is presented whose kind of key the client
    /// supports and that is valid at the time of the handshake; if there is none, the first.
    ///
    /// ```no_run
    /// use reverse_http::tls::{GatewayTls, Identity};
    /// # fn read(_: &str) -> Vec<u8> { Vec::new() }
    /// let usual = Identity::from_pem(read("gw.crt"), read("gw.key"))?;
    /// let other = Identity::from_pem(read("shop.crt"), read("shop.key"))?; // for shop.example
    /// let tls = GatewayTls::new(usual)?.also([other])?;
    /// # Ok::<(), reverse_http::Error>(())
    /// ```
    ///
    /// # Errors
    /// One of them has no DNS name that a client could ask for; this was made with
    /// [`from_rustls`](Self::from_rustls).
    pub fn also(mut self, others: impl IntoIterator<Item = Identity>) -> Result<Self, Error> {
        if self.identities.is_empty() {
            return Err(Error::usage("a configuration of rustls says itself what it shows"));
        }
        for other in others {
            if other.names().is_empty() {
                return Err(Error::usage(
                    "a certificate beside the first one has no DNS name (subjectAltName), so no client could ask for it",
                ));
            }
            self.identities.push(other);
        }
        GatewayTls::with(self.identities, self.verifier)
    }

    /// Its certificates, that of [`new`](Self::new) first; none if it was made with
    /// [`from_rustls`](Self::from_rustls).
    #[must_use]
    pub fn identities(&self) -> &[Identity] {
        &self.identities
    }

    /// Asks clients for a certificate issued by this CA (PEM, one or several), for client
    /// authentication and not expired.
    ///
    /// The certificate is a credential bound to names, the DNS names of its subjectAltName: `lamp`
    /// allows the device name `lamp`, `lamp.example` the IETF origins of that host,
    /// `*.lamps.example` those one label below. Offers and polls for other names get 403. For
    /// take-overs, devices whose certificates have the same names are the same device, so a renewed
    /// certificate changes nothing. Connections end with their certificate: when it expires, or
    /// when `set_tls` replaces its CA, within
    /// [`Limits::take_over_grace`](crate::Limits::take_over_grace).
    ///
    /// # Errors
    /// It contains no certificate that can be used as that of a CA; this was made with
    /// [`from_rustls`](Self::from_rustls).
    pub fn client_ca(
        self,
        ca: impl AsRef<[u8]>,
        wanted: ClientCertificates,
    ) -> Result<Self, Error> {
        if self.identities.is_empty() {
            return Err(Error::usage("a configuration of rustls says itself whom it lets in"));
        }
        let trusted = Trusted::of(ca.as_ref())?;
        let verifier = WebPkiClientVerifier::builder_with_provider(
            trusted.roots.clone(),
            Arc::new(provider::default_provider()),
        );
        let verifier = match wanted {
            ClientCertificates::Required => verifier,
            ClientCertificates::Optional => verifier.allow_unauthenticated(),
        };
        let verifier = DeviceVerifier { chain: verifier.build().map_err(unusable)?, trusted };
        GatewayTls::with(self.identities, Some(Arc::new(verifier)))
    }

    /// Returns true if the handshake requires a client certificate. For a program's own
    /// configuration, that is unknown.
    pub(crate) fn needs_client(&self) -> bool {
        self.verifier.as_ref().is_some_and(|verifier| verifier.client_auth_mandatory())
    }

    /// There is at least one identity.
    fn with(
        identities: Vec<Identity>,
        verifier: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Result<Self, Error> {
        let Some((first, others)) = identities.split_first() else {
            return Err(Error::usage("there is no certificate to show"));
        };
        let shown = ByName::of(first, others);
        let builder = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(unusable)?;
        let builder = match verifier.clone() {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(shown));
        config.alpn_protocols = vec![ALPN.to_vec(), ALPN_OLD.to_vec()];
        config.ticketer = provider::Ticketer::new().map_err(unusable)?;
        config.send_tls13_tickets = 1; // a device keeps its connection
        let expires = identities.iter().filter_map(Identity::expires).min();
        Ok(GatewayTls { identities, verifier, config: Arc::new(config), expires })
    }

    /// Uses a program's own rustls configuration unchanged. The names of a client certificate that
    /// its verifier accepts are used as with [`client_ca`](Self::client_ca). If such a
    /// configuration replaces another (`set_tls`), existing connections with a certificate cannot
    /// be verified against it, and have to present their certificate again.
    #[must_use]
    pub fn from_rustls(config: Arc<ServerConfig>) -> Self {
        GatewayTls { identities: Vec::new(), verifier: None, config, expires: None }
    }

    pub(crate) fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// When the first of the presented certificates, or of their chains, expires, if known.
    #[cfg_attr(not(feature = "admin"), allow(dead_code))]
    pub(crate) fn expires(&self) -> Option<SystemTime> {
        self.expires
    }

    /// Returns true if a certificate that was accepted before would be accepted now. This takes
    /// computation, so the event loop must not call it.
    pub(crate) fn accepts(&self, shown: &Shown) -> bool {
        let (Some(verifier), Some((leaf, between))) = (&self.verifier, shown.chain.split_first())
        else {
            return false;
        };
        verifier.verify_client_cert(leaf, between, UnixTime::now()).is_ok()
    }

    /// When a chain that is valid now expires: its leaf, or, if this side knows its CA, a
    /// certificate between the two.
    fn valid_until(&self, chain: &[CertificateDer<'_>]) -> Option<UnixTime> {
        let (leaf, between) = chain.split_first()?;
        let until = not_after(leaf)?;
        let Some(verifier) = self.verifier.as_ref().filter(|_| !between.is_empty()) else {
            return Some(until);
        };
        match verifier.verify_client_cert(leaf, between, until) {
            Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
                not_after,
                ..
            })) => Some(if not_after.as_secs() < until.as_secs() { not_after } else { until }),
            _ => Some(until),
        }
    }
}

/// Verifies client certificates.
#[derive(Debug)]
struct DeviceVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    trusted: Trusted,
}

impl ClientCertVerifier for DeviceVerifier {
    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match self.chain.verify_client_cert(leaf, between, now) {
            Err(e) if self.trusted.has_itself(leaf, &e) => Ok(ClientCertVerified::assertion()),
            verified => verified,
        }
    }

    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// A certificate with which a client was admitted: a credential that is valid until it expires or
/// its CA is replaced. Two are equal if their bytes and listeners are.
pub(crate) struct Shown {
    /// The DNS names that it is for.
    names: Arc<[String]>,
    /// The certificate and its intermediate ones, as presented.
    chain: Vec<CertificateDer<'static>>,
    key: ShownKey,
    expires: SystemTime,
}

/// The listener at which a certificate was presented, and its SHA-256.
pub(crate) type ShownKey = (usize, [u8; 32]);

impl Shown {
    /// The certificate that a handshake at this listener has accepted, if there was one.
    pub(crate) fn of(
        chain: Option<&[CertificateDer<'_>]>,
        tls: &GatewayTls,
        listener: usize,
    ) -> Option<Arc<Self>> {
        let chain = chain.filter(|chain| !chain.is_empty())?;
        let leaf = chain.first()?;
        let mut digest = [0; 32];
        digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, leaf).as_ref());
        // The last second still counts. With a malformed date, the certificate is valid as long as
        // its CA is.
        let until = tls
            .valid_until(chain)
            .map(|until| Duration::from_secs(until.as_secs().saturating_add(1)));
        let expires = until.and_then(|until| SystemTime::UNIX_EPOCH.checked_add(until));
        Some(Arc::new(Shown {
            names: dns_names(leaf).into(),
            chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
            key: (listener, digest),
            expires: expires.unwrap_or(SystemTime::UNIX_EPOCH + FAR),
        }))
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    pub(crate) fn key(&self) -> ShownKey {
        self.key
    }

    pub(crate) fn expires(&self) -> SystemTime {
        self.expires
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown")
            .field("names", &self.names)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Shown {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Shown {}
