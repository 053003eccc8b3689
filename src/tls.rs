//! TLS (feature `tls`): what a device wants of its gateway's certificate, and what a gateway shows
//! and wants. Values only; how bytes move is [`stream`](crate::stream)'s business.
//!
//! rustls with the `ring` provider, TLS 1.2 and 1.3, ALPN `http/1.1`. Early data (0-RTT) stays off.
//! There is no switch that trusts every gateway: who cannot have a certificate of a known CA pins the
//! gateway's key ([`DeviceTls::pin`]). For a local server there is one ([`LocalTls::insecure`]).

mod by_name;

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring as provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore,
    ServerConfig, SignatureScheme,
};

use self::by_name::ByName;
use crate::error::{Error, Fault};

const ALPN: &[u8] = b"http/1.1";
/// What clients that were told to speak HTTP/1.0 ask for; it is served, too.
const ALPN_OLD: &[u8] = b"http/1.0";

/// A device whose clock shows an earlier time has no clock yet: 2026-01-01T00:00:00Z, before which
/// this code did not exist.
const CLOCK_FLOOR: Duration = Duration::from_secs(1_767_225_600);

/// Whether devices have to show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientCertificates {
    /// Who shows none does not get through the handshake.
    #[default]
    Required,
    /// Who shows none is let through, as somebody without that credential.
    Optional,
}

/// A certificate with its chain, and the private key that belongs to it.
#[derive(Clone, Debug)]
pub struct Identity(Arc<CertifiedKey>);

impl Identity {
    /// Reads a certificate, followed by those between it and its root, and a key in PKCS#8, PKCS#1
    /// or SEC1, both as PEM.
    ///
    /// # Errors
    /// There is no certificate or no key in them, the key is encrypted, or it is not the
    /// certificate's.
    pub fn from_pem(certificates: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Result<Self, Error> {
        let (certificates, key) = (certificates.as_ref(), key.as_ref());
        let chain = certificates_of(certificates)?;
        let key = match PrivateKeyDer::from_pem_slice(key) {
            Ok(key) => key,
            Err(_) if contains(key, b"ENCRYPTED") => {
                return Err(Error::usage(
                    "the key is encrypted, and nobody is there to type its password; decrypt it: openssl pkey -in KEY -out PLAIN",
                ));
            }
            Err(_) if contains(key, b"-----BEGIN CERTIFICATE") => {
                return Err(Error::usage(
                    "there is a certificate where the key should be (-----BEGIN PRIVATE KEY-----); are the two swapped?",
                ));
            }
            Err(_) => {
                return Err(Error::usage(
                    "there is no private key in it (-----BEGIN PRIVATE KEY-----)",
                ));
            }
        };
        let certified = CertifiedKey::from_der(chain, key, &provider::default_provider()).map_err(
            |e| match e {
                rustls::Error::InconsistentKeys(_) => Error::usage(
                    "the key is not the certificate's; give the pair that was made together",
                ),
                rustls::Error::InvalidCertificate(why) => {
                    Error::usage(format!("the certificate cannot be read: {why}"))
                }
                other => Error::usage(format!(
                    "the key cannot be used ({other}); use ECDSA P-256 or P-384, Ed25519, or RSA"
                )),
            },
        )?;
        if let Some(leaf) = certified.cert.first() {
            ParsedCertificate::try_from(leaf)
                .map_err(|e| Error::usage(format!("the certificate cannot be read: {e}")))?;
        }
        Ok(Identity(Arc::new(certified)))
    }

    /// Checks the dates of the certificate itself, not of those between it and its root.
    ///
    /// # Errors
    /// It has expired at that time, or is not valid yet; the text says since or from when.
    pub fn check_dates(&self, now: SystemTime) -> Result<(), Error> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(now);
        match self.0.cert.first().and_then(|leaf| wrong_date(leaf, now)) {
            Some(WrongDate::Expired(at)) => Err(Error::usage(format!(
                "the certificate has expired, on {}; renew it, or set this machine's clock",
                date(at)
            ))),
            Some(WrongDate::NotYet(at)) => Err(Error::usage(format!(
                "the certificate is not valid before {}; set this machine's clock, or renew it if the clock is right",
                date(at)
            ))),
            None => Ok(()),
        }
    }

    /// Whether the dates of the certificate itself include this time.
    fn is_valid(&self, now: UnixTime) -> bool {
        self.0.cert.first().is_none_or(|leaf| wrong_date(leaf, now).is_none())
    }

    /// The DNS names of its subjectAltName, in lower case, sorted; `*.example` as it stands there.
    pub fn names(&self) -> Vec<String> {
        let Some(leaf) = self.0.cert.first() else { return Vec::new() };
        let mut names = dns_names(leaf);
        names.extend(short_wildcards(leaf));
        names.sort_unstable();
        names
    }

    /// The last second in which it is valid; `None`: its date cannot be read.
    pub fn valid_until(&self) -> Option<SystemTime> {
        let until = not_after(self.0.cert.first()?)?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(until.as_secs()))
    }

    /// The same of it and those between it and its root: the first that is over ends them all.
    fn expires(&self) -> Option<SystemTime> {
        let ends = self.0.cert.iter().filter_map(not_after).map(|end| end.as_secs());
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(ends.min()?))
    }
}

fn certificates_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err(Error::usage("there is no certificate in it (-----BEGIN CERTIFICATE-----)"))
        }
        Ok(found) => Ok(found),
        Err(e) => Err(Error::usage(format!("the certificates are no PEM: {e}"))),
    }
}

fn contains(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|window| window == what)
}

/// What a file of CA certificates says: roots, and the certificates themselves.
#[derive(Clone, Debug)]
struct Trusted {
    roots: Arc<RootCertStore>,
    given: Arc<[CertificateDer<'static>]>,
}

impl Trusted {
    fn of(pem: &[u8]) -> Result<Self, Error> {
        let given = certificates_of(pem)?;
        let mut roots = RootCertStore::empty();
        for certificate in &given {
            roots.add(certificate.clone()).map_err(|e| {
                Error::usage(format!("one of the CA's certificates cannot be used: {e}"))
            })?;
        }
        Ok(Trusted { roots: Arc::new(roots), given: given.into() })
    }

    /// Whether a certificate was refused only since it is a CA's own, and is one of those in the
    /// file: `openssl req -x509` makes such ones, and whoever puts exactly it into the file trusts
    /// it. Its dates were checked before.
    fn has_itself(&self, leaf: &CertificateDer<'_>, refused: &rustls::Error) -> bool {
        is_ca_as_leaf(refused) && self.given.iter().any(|given| given == leaf)
    }
}

/// What webpki refused it for, where rustls has no word of its own.
fn refused_by_webpki(error: &CertificateError) -> Option<&webpki::Error> {
    let CertificateError::Other(other) = error else { return None };
    other.0.downcast_ref()
}

fn is_ca_as_leaf(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(why) = error else { return false };
    matches!(refused_by_webpki(why), Some(webpki::Error::CaUsedAsEndEntity))
}

fn unusable(e: impl fmt::Display) -> Error {
    Error::usage(format!("TLS cannot be set up: {e}"))
}

// --- the gateway's side ---

/// What a gateway's listener shows to those who connect, and what it wants of them.
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
    /// The first is for clients that ask for no name that another one has. None: somebody else's
    /// configuration.
    identities: Vec<Identity>,
    /// Who checks the certificates of those who connect. `None`: nobody, or somebody else's
    /// configuration.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    config: Arc<ServerConfig>,
    /// When the first of the certificates and their chains is over, where that is known.
    expires: Option<SystemTime>,
}

impl fmt::Debug for GatewayTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayTls").finish_non_exhaustive()
    }
}

impl GatewayTls {
    /// Shows this certificate; whoever connects need not show one. Sessions are resumed by tickets,
    /// for a few hours.
    ///
    /// # Errors
    /// There is no randomness for the tickets' key.
    pub fn new(identity: Identity) -> Result<Self, Error> {
        GatewayTls::with(vec![identity], None)
    }

    /// Shows other certificates, too: a client that asks for a name (SNI) that one of them has gets
    /// that one, written out (`a.example`) or with a star for the first label (`*.example`). All
    /// other clients get the one of [`new`](Self::new), and so do those that ask for no name. Of
    /// several with the same name the earliest is shown whose kind of key the client takes and that
    /// is valid at the time of the handshake; if none is, the earliest.
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
    /// One of them has no DNS name, so nobody could ask for it; this was made with
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

    /// The certificates that it shows, the first one first; none where it was made with
    /// [`from_rustls`](Self::from_rustls).
    pub fn identities(&self) -> &[Identity] {
        &self.identities
    }

    /// Whoever connects shows a certificate that this CA (PEM, one or several) has issued, for
    /// client authentication and not expired.
    ///
    /// It is a credential bound to names, its subjectAltName's DNS names: `lamp` allows the device
    /// name `lamp`, `lamp.example` the IETF origins of that host, `*.lamps.example` those one label
    /// below. Offers and polls for other names get 403. Devices whose certificates have the same
    /// names are the same as far as take-over goes, so a renewed certificate is still the same
    /// device's. What a certificate has let in ends with it: when it expires, or when `set_tls`
    /// puts another CA in place of its own, within
    /// [`Limits::take_over_grace`](crate::Limits::take_over_grace).
    ///
    /// # Errors
    /// There is no certificate in it that can be used as a CA's; or this was made with
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

    /// Somebody's own configuration of rustls, as it is. The names of a client certificate that its
    /// verifier takes count as they do with [`client_ca`](Self::client_ca). Where such a
    /// configuration is put in another's place (`set_tls`), what is connected by a certificate
    /// cannot be checked against it, and has to show its certificate again.
    pub fn from_rustls(config: Arc<ServerConfig>) -> Self {
        GatewayTls { identities: Vec::new(), verifier: None, config, expires: None }
    }

    pub(crate) fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// When the first of the certificates that are shown here, or of their chains, is over; `None`:
    /// that is not known.
    #[cfg_attr(not(feature = "admin"), allow(dead_code))]
    pub(crate) fn expires(&self) -> Option<SystemTime> {
        self.expires
    }

    /// Whether a certificate that was shown before would be let in now. Arithmetic: not for the
    /// event loop.
    pub(crate) fn accepts(&self, shown: &Shown) -> bool {
        let (Some(verifier), Some((leaf, between))) = (&self.verifier, shown.chain.split_first())
        else {
            return false;
        };
        verifier.verify_client_cert(leaf, between, UnixTime::now()).is_ok()
    }

    /// When a chain that is valid now is valid no longer: its leaf, or, where this side knows its
    /// CA, what stands between the two.
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

/// Checks what devices show.
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

/// A certificate that let a device in: a credential, valid until it expires or its CA is replaced.
/// Two are the same by their bytes and listener.
pub(crate) struct Shown {
    /// The DNS names that it is for.
    names: Arc<[String]>,
    /// It, and those between it and its root, as they were shown.
    chain: Vec<CertificateDer<'static>>,
    key: ShownKey,
    expires: SystemTime,
}

/// The listener that a certificate was shown at, and its SHA-256.
pub(crate) type ShownKey = (usize, [u8; 32]);

impl Shown {
    /// What a handshake at this listener has accepted; `None`: no certificate was shown.
    pub(crate) fn of(
        chain: Option<&[CertificateDer<'_>]>,
        tls: &GatewayTls,
        listener: usize,
    ) -> Option<Arc<Self>> {
        let chain = chain.filter(|chain| !chain.is_empty())?;
        let leaf = chain.first()?;
        let mut digest = [0; 32];
        digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, leaf).as_ref());
        // The last second still counts. A date that nobody can read is none: then it is the CA's
        // word alone that ends.
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

/// Beyond every certificate's date, which has a year of four digits.
const FAR: Duration = Duration::from_secs(1 << 38);

/// A certificate's last second.
fn not_after(certificate: &CertificateDer<'_>) -> Option<UnixTime> {
    match wrong_date(certificate, UnixTime::since_unix_epoch(FAR)) {
        Some(WrongDate::Expired(not_after)) => Some(not_after),
        _ => None,
    }
}

enum WrongDate {
    Expired(UnixTime),
    NotYet(UnixTime),
}

/// How a certificate's dates exclude this time: webpki checks nothing before the dates.
fn wrong_date(certificate: &CertificateDer<'_>, now: UnixTime) -> Option<WrongDate> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    match parsed.verify_for_usage(&[], &[], &[], now, webpki::KeyUsage::client_auth(), None, None) {
        Err(webpki::Error::CertExpired { not_after, .. }) => Some(WrongDate::Expired(not_after)),
        Err(webpki::Error::CertNotValidYet { not_before, .. }) => {
            Some(WrongDate::NotYet(not_before))
        }
        _ => None,
    }
}

/// The DNS names of a certificate's subjectAltName, lower case, sorted, each once.
fn dns_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    let mut names: Vec<String> =
        certificate.valid_dns_names().map(str::to_ascii_lowercase).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// A star before one label (`*.lan`), in lower case, each once: no name to webpki, which tells it
/// only where it misses another one.
fn short_wildcards(certificate: &CertificateDer<'_>) -> Vec<String> {
    let missed = ServerName::IpAddress(Ipv4Addr::BROADCAST.into());
    let mismatch = webpki::EndEntityCert::try_from(certificate)
        .and_then(|parsed| parsed.verify_is_valid_for_subject_name(&missed));
    let Err(webpki::Error::CertNotValidForName(context)) = mismatch else { return Vec::new() };
    let presented = context.presented.iter().filter(|name| name.starts_with("DnsName("));
    let names = presented.map(|name| bare(name).to_ascii_lowercase());
    let mut short: Vec<String> = names
        .filter(|name| {
            let label = name.strip_prefix("*.").unwrap_or_default();
            !label.contains('.') && DnsName::try_from(label).is_ok()
        })
        .collect();
    short.sort_unstable();
    short.dedup();
    short
}

// --- the device's side ---

type Now = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// 32 bytes in base64.
const PIN_LENGTH: usize = 44;

/// How a device knows its gateway, and what it shows of itself.
///
/// The gateway's certificate is always checked: against the system's roots, or against
/// [`ca`](Self::ca) alone, for the URL's host and the time. A [`pin`](Self::pin) is a check of the
/// gateway's key: without a CA it stands in place of the chain, the name and the dates; with one,
/// both have to hold.
///
/// ```no_run
/// use reverse_http::Device;
/// use reverse_http::tls::DeviceTls;
/// let tls = DeviceTls::new().pin("sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")?;
/// let device = Device::builder("https://gw.example/lamp").tls(tls).build()?;
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone)]
pub struct DeviceTls {
    trusted: Option<Trusted>,
    pins: Vec<[u8; 32]>,
    identity: Option<Identity>,
    now: Now,
    floor: Option<SystemTime>,
    given: Option<Arc<ClientConfig>>,
}

impl fmt::Debug for DeviceTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceTls")
            .field("ca", &self.trusted.is_some())
            .field("pins", &self.pins.len())
            .finish_non_exhaustive()
    }
}

impl Default for DeviceTls {
    fn default() -> Self {
        DeviceTls {
            trusted: None,
            pins: Vec::new(),
            identity: None,
            now: Arc::new(SystemTime::now),
            floor: None,
            given: None,
        }
    }
}

impl DeviceTls {
    /// The system's roots, no certificate of its own.
    pub fn new() -> Self {
        DeviceTls::default()
    }

    /// Trusts these CA certificates (PEM, one or several) and not the system's roots. A gateway
    /// whose own self-signed certificate is exactly one of them is trusted, too, for the names and
    /// the time that it has. A certificate that a CA has issued is trusted through that CA alone.
    ///
    /// # Errors
    /// There is no certificate in it that can be used as a CA's.
    pub fn ca(mut self, ca: impl AsRef<[u8]>) -> Result<Self, Error> {
        self.trusted = Some(Trusted::of(ca.as_ref())?);
        Ok(self)
    }

    /// The gateway's key: SHA-256 of its SubjectPublicKeyInfo, `sha256/BASE64`, or `sha256//BASE64`
    /// as curl writes it. Several may be given, as for the time in which a key changes; one of them
    /// has to be the gateway's. A gateway that redirects to another has to have the same key there.
    ///
    /// # Errors
    /// It is none.
    pub fn pin(mut self, pin: impl AsRef<str>) -> Result<Self, Error> {
        let pin = pin.as_ref();
        // Of 64 digests one begins with a slash, too: what is longer by that has curl's.
        let bare = |rest| {
            str::strip_prefix(rest, '/').filter(|bare| bare.len() == PIN_LENGTH).unwrap_or(rest)
        };
        let digest = pin.strip_prefix("sha256/").map(bare);
        let digest = digest
            .and_then(|text| BASE64.decode(text).ok())
            .and_then(|bytes| bytes.try_into().ok());
        match digest {
            Some(digest) => self.pins.push(digest),
            None => {
                return Err(Error::usage(format!(
                    "pin {pin:?}: write sha256/ and the 44 characters of base64 that openssl x509 -in CERT -noout -pubkey | openssl pkey -pubin -outform DER | \
                     openssl dgst -sha256 -binary | base64 prints"
                )));
            }
        }
        Ok(self)
    }

    /// Shows this certificate to a gateway that asks for one.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// For a device that starts without a clock: no earlier time than this is taken for now.
    /// Without it, a device whose clock shows a time before 2026 waits for a right one before it
    /// dials, as long as there is a chain to check.
    pub fn clock_floor(mut self, floor: SystemTime) -> Self {
        self.floor = Some(floor);
        self
    }

    /// Another clock than the system's, for certificates' dates.
    pub fn clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.now = Arc::new(now);
        self
    }

    /// Somebody's own configuration of rustls, as it is; the rest of what is said here does not
    /// matter then.
    pub fn from_rustls(config: Arc<ClientConfig>) -> Self {
        DeviceTls { given: Some(config), ..DeviceTls::default() }
    }

    /// The configuration of rustls that a device with these settings uses, for a connection of
    /// one's own.
    ///
    /// # Errors
    /// The system has no roots, and no CA or key is given.
    pub fn into_rustls(self) -> Result<Arc<ClientConfig>, Error> {
        self.connector().map(|connector| connector.config)
    }

    /// What a failed handshake of a device means, and the remedy where one is known.
    pub fn explained(error: &rustls::Error) -> String {
        explained(error, Side::Device)
    }

    /// Reads the system's roots where they are wanted.
    ///
    /// # Errors
    /// There are none.
    pub(crate) fn connector(self) -> Result<Connector, Error> {
        let checks_chain = self.trusted.is_some() || self.pins.is_empty();
        self.connector_that(checks_chain)
    }

    fn connector_that(self, checks_chain: bool) -> Result<Connector, Error> {
        let whom = Whom { side: Side::Device, name: None };
        if let Some(config) = self.given {
            return Ok(Connector { config, clock: None, whom });
        }
        let clock = Clock { now: self.now, floor: self.floor };
        let provider = Arc::new(provider::default_provider());
        let chain = match (&self.trusted, checks_chain) {
            (_, false) => None,
            (Some(trusted), _) => Some(trusted.roots.clone()),
            (None, true) => Some(Arc::new(system_roots()?)),
        };
        let chain = chain.map(|roots| {
            WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build()
        });
        let chain = chain.transpose().map_err(unusable)?;
        let verifier = Verifier {
            chain,
            trusted: self.trusted,
            pins: self.pins,
            algorithms: provider.signature_verification_algorithms,
        };
        let builder = ClientConfig::builder_with_details(provider, Arc::new(clock.clone()));
        let builder = builder.with_safe_default_protocol_versions().map_err(unusable)?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match self.identity {
            Some(identity) => builder.with_client_cert_resolver(Arc::new(
                rustls::sign::SingleCertAndKey::from(identity.0),
            )),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::in_memory_sessions(8); // a device has one gateway
        Ok(Connector { config: Arc::new(config), clock: checks_chain.then_some(clock), whom })
    }
}

/// How a device knows its local server at `https://`.
///
/// The server's certificate is checked as a gateway's is ([`DeviceTls`]): against the system's
/// roots, or against [`ca`](Self::ca) alone, for the URL's host ([`server_name`](Self::server_name):
/// for another one) and the time; or by its key ([`pin`](Self::pin)). [`insecure`](Self::insecure)
/// checks nothing.
///
/// ```no_run
/// use reverse_http::Device;
/// use reverse_http::tls::LocalTls;
/// # fn read(_: &str) -> Vec<u8> { Vec::new() }
/// let tls = LocalTls::new().ca(read("nas.crt"))?.server_name("nas.internal")?;
/// let device = Device::builder("https://gw.example/nas").local_tls(tls).build()?;
/// device.forward_to("https://192.168.1.20:5001")?; // blocks
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct LocalTls {
    known: DeviceTls,
    name: Option<ServerName<'static>>,
    insecure: bool,
}

impl LocalTls {
    /// The system's roots, and the URL's host.
    pub fn new() -> Self {
        LocalTls::default()
    }

    /// Trusts these CA certificates (PEM, one or several) and not the system's roots; as
    /// [`DeviceTls::ca`].
    ///
    /// # Errors
    /// There is no certificate in it that can be used as a CA's.
    pub fn ca(mut self, ca: impl AsRef<[u8]>) -> Result<Self, Error> {
        self.known = self.known.ca(ca)?;
        Ok(self)
    }

    /// The server's key, `sha256/BASE64`; as [`DeviceTls::pin`].
    ///
    /// # Errors
    /// It is none.
    pub fn pin(mut self, pin: impl AsRef<str>) -> Result<Self, Error> {
        self.known = self.known.pin(pin)?;
        Ok(self)
    }

    /// The name that the server is asked for (SNI) and that its certificate has to be for, instead
    /// of the URL's host: a DNS name or an address. `Host` is not changed by it.
    ///
    /// # Errors
    /// It is neither.
    pub fn server_name(mut self, name: impl AsRef<str>) -> Result<Self, Error> {
        let name = name.as_ref();
        let parsed = ServerName::try_from(name.to_owned());
        self.name = Some(parsed.map_err(|_| {
            Error::usage(format!(
                "server name {name:?}: write a host as certificates have it, like nas.internal, without a port"
            ))
        })?);
        Ok(self)
    }

    /// For a device that starts without a clock; as [`DeviceTls::clock_floor`].
    pub fn clock_floor(mut self, floor: SystemTime) -> Self {
        self.known = self.known.clock_floor(floor);
        self
    }

    /// Takes every certificate of anybody: whoever can put itself between device and server reads
    /// and changes everything. For servers on the same machine or cable that cannot be given a
    /// certificate; a [`pin`](Self::pin) is as little work and safe.
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// # Errors
    /// The system has no roots, and no CA or key is given; nothing is to be checked, and something
    /// is.
    pub(crate) fn connector(self) -> Result<Connector, Error> {
        let LocalTls { known, name, insecure } = self;
        if insecure && (known.trusted.is_some() || !known.pins.is_empty()) {
            return Err(Error::usage(
                "a CA or a pin is given for the local server, and nothing of it is to be checked; give one or the other",
            ));
        }
        let checks_chain = !insecure && (known.trusted.is_some() || known.pins.is_empty());
        let connector = known.connector_that(checks_chain)?;
        Ok(Connector { whom: Whom { side: Side::Local, name }, ..connector })
    }
}

fn system_roots() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let why = found.errors.first().map_or_else(String::new, |e| format!(" ({e})"));
        return Err(Error::usage(format!(
            "this system has no root certificates{why}; install them (ca-certificates), or give the CA or the key of whom this device dials (--ca or --pin for the gateway, --to-ca or --to-pin for the local server)"
        )));
    }
    Ok(roots)
}

/// What a device's dials share.
#[derive(Debug)]
pub(crate) struct Connector {
    pub(crate) config: Arc<ClientConfig>,
    /// Where certificates' dates matter.
    clock: Option<Clock>,
    whom: Whom,
}

/// Whom a device dials.
#[derive(Clone, Debug)]
struct Whom {
    side: Side,
    /// Whom it asks for instead of the URL's host.
    name: Option<ServerName<'static>>,
}

impl Connector {
    /// Who tells what went wrong in its handshakes.
    pub(crate) fn side(&self) -> Side {
        self.whom.side
    }

    /// Whom a server at this host is asked for, and has to be.
    ///
    /// # Errors
    /// No certificate could be for it.
    pub(crate) fn server_name(&self, host: &str) -> Result<ServerName<'static>, Error> {
        self.whom.name.clone().map_or_else(|| self::host(host), Ok)
    }

    /// Whether certificates can be checked now: not as long as the clock shows a time before this
    /// code was written.
    pub(crate) fn has_time(&self) -> bool {
        self.clock.as_ref().is_none_or(|clock| {
            clock.floor.is_some() || (clock.now)() >= SystemTime::UNIX_EPOCH + CLOCK_FLOOR
        })
    }
}

#[derive(Clone)]
struct Clock {
    now: Now,
    floor: Option<SystemTime>,
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("floor", &self.floor).finish_non_exhaustive()
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = (self.now)();
        let now = self.floor.map_or(now, |floor| floor.max(now));
        now.duration_since(SystemTime::UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

/// The chain, the key, or both; the handshake's own signature always.
#[derive(Debug)]
struct Verifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// What --ca has; `None`: the system's roots.
    trusted: Option<Trusted>,
    pins: Vec<[u8; 32]>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.pins.is_empty() {
            let key = ParsedCertificate::try_from(leaf)?.subject_public_key_info();
            let digest = ring::digest::digest(&ring::digest::SHA256, &key);
            if !self.pins.iter().any(|pin| pin == digest.as_ref()) {
                return Err(CertificateError::ApplicationVerificationFailure.into());
            }
        }
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(leaf, between, name, ocsp, now) {
            Err(e) if self.trusted.as_ref().is_some_and(|trusted| trusted.has_itself(leaf, &e)) => {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Who tells what went wrong in a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// A device, of its gateway.
    Device,
    /// A device, of its local server.
    Local,
    Gateway,
}

impl Side {
    /// Whose certificate it checks, the option that says whom it trusts, and what else does.
    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Side::Device => {
                ("the gateway's certificate", "--ca", "give its CA (--ca) or pin its key (--pin)")
            }
            Side::Local => (
                "the local server's certificate",
                "--to-ca",
                "give its CA (--to-ca) or pin its key (--to-pin)",
            ),
            Side::Gateway => (
                "the device's certificate",
                "--devices-client-ca",
                "give its CA (--devices-client-ca), or issue one with that CA",
            ),
        }
    }
}

/// What went wrong in a handshake, with what to do about it where that is known.
pub(crate) fn explained(error: &rustls::Error, side: Side) -> String {
    use rustls::AlertDescription as Alert;
    let remedy = match error {
        rustls::Error::InvalidCertificate(why) => return refusal_of_certificate(why, side),
        rustls::Error::AlertReceived(Alert::CertificateRequired | Alert::HandshakeFailure)
            if side == Side::Local =>
        {
            "the local server wants something that was not shown: a certificate perhaps, and a device has none for it; or another name (--to-server-name)"
        }
        rustls::Error::AlertReceived(Alert::UnrecognisedName) if side == Side::Local => {
            "the local server does not know the name that it was asked for; give the one that it has (--to-server-name)"
        }
        rustls::Error::AlertReceived(Alert::CertificateRequired | Alert::HandshakeFailure) => {
            "the other side wants something that was not shown, a certificate perhaps (--cert and --key)"
        }
        rustls::Error::AlertReceived(Alert::CertificateExpired) => {
            "the other side does not accept the certificate that was shown: by its clock it has expired, or is not valid yet; renew it, or set the clocks"
        }
        rustls::Error::AlertReceived(Alert::UnknownCA) => {
            "the other side does not accept the certificate that was shown: no CA that it trusts has issued it; its log says more"
        }
        rustls::Error::AlertReceived(
            Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::DecryptError
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked,
        ) => "the other side does not accept the certificate that was shown; its log says why",
        rustls::Error::NoCertificatesPresented => {
            "no certificate was shown, and this side wants one; give the device --cert and --key"
        }
        rustls::Error::AlertReceived(Alert::AccessDenied) if side == Side::Gateway => {
            "the device's --pin is not the key of this certificate"
        }
        rustls::Error::InvalidMessage(_) => "what came is not TLS; check the URL's scheme and port",
        _ => return error.to_string(),
    };
    format!("{remedy} ({error})")
}

/// The rule that a certificate broke, and the remedy.
fn refusal_of_certificate(why: &CertificateError, side: Side) -> String {
    use CertificateError::*;
    let (whose, ca, trusts) = side.words();
    let names = match side {
        Side::Local => {
            "issue one with a subjectAltName for it, or ask for a name that it has (--to-server-name)"
        }
        _ => "issue one with a subjectAltName for it, or write a URL with a name that it has",
    };
    let text = match why {
        ExpiredContext { not_after, .. } => format!(
            "{whose} has expired, on {}; renew it, or set this machine's clock",
            date(*not_after)
        ),
        Expired => format!("{whose} has expired; renew it, or set this machine's clock"),
        NotValidYetContext { not_before, .. } => {
            let floor = if side == Side::Gateway { "" } else { ", or give --clock-floor" };
            format!(
                "{whose} is not valid before {}; set this machine's clock{floor}, or renew it if the clock is right",
                date(*not_before)
            )
        }
        NotValidYet => format!("{whose} is not valid yet; set this machine's clock"),
        UnknownIssuer | BadSignature => {
            format!("no CA that is trusted here has issued {whose}; {trusts}")
        }
        NotValidForNameContext { expected, presented } if presented.is_empty() => {
            format!(
                "{whose} is for another host than the URL's: it has no name at all (subjectAltName), {} is asked for; {names}",
                expected.to_str()
            )
        }
        NotValidForNameContext { expected, presented } => {
            let has: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
            format!(
                "{whose} is for another host than the URL's: for {}, {} is asked for; {names}",
                has.join(", "),
                expected.to_str()
            )
        }
        NotValidForName => format!("{whose} is for another host than the URL's; {names}"),
        ApplicationVerificationFailure => {
            let pin = if side == Side::Local { "--to-pin" } else { "--pin" };
            format!("the key of {whose} is none of those that are pinned ({pin})")
        }
        InvalidPurpose | InvalidPurposeContext { .. } => {
            let purpose = if side == Side::Gateway { "clientAuth" } else { "serverAuth" };
            format!("{whose} is for another purpose (extendedKeyUsage); issue one for {purpose}")
        }
        BadEncoding => format!("{whose} cannot be read; issue a new one"),
        _ => refusal_of_webpki(why, whose, ca),
    };
    format!("{text} ({why:?})")
}

fn refusal_of_webpki(why: &CertificateError, whose: &str, ca: &str) -> String {
    use webpki::Error::*;
    #[allow(deprecated, reason = "older names of the same")]
    match (refused_by_webpki(why), why) {
        (Some(CaUsedAsEndEntity), _) => format!(
            "{whose} is a CA's own (CA:TRUE), and not exactly one that {ca} has; put it into that file, or issue one for the host with CA:FALSE"
        ),
        (Some(EndEntityUsedAsCa), _) => format!(
            "{whose} was issued by one that is not a CA's (CA:FALSE); issue it with a CA's key"
        ),
        (Some(UnsupportedCertVersion), _) => {
            format!(
                "{whose} is of version 1; issue one of version 3 (openssl req -x509 -addext subjectAltName=DNS:HOST)"
            )
        }
        (Some(UnsupportedCriticalExtension), _) => {
            format!("{whose} has a critical extension that is not known here; issue one without it")
        }
        (_, CertificateError::UnhandledCriticalExtension) => {
            format!("{whose} has a critical extension that is not known here; issue one without it")
        }
        (
            _,
            CertificateError::UnsupportedSignatureAlgorithm
            | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. },
        ) => format!(
            "{whose} is signed in a way that is not taken; use ECDSA, Ed25519 or RSA from 2,048 bits on, with SHA-256 or longer"
        ),
        _ => format!("{whose} is not accepted"),
    }
}

/// A date as people write it. There is none behind the year 9999.
fn date(time: UnixTime) -> String {
    let last = 253_402_300_799; // 9999-12-31T23:59:59Z
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs().min(last)))
}

/// `DnsName("gw.example")` as webpki writes names, without its wrapping.
fn bare(name: &str) -> &str {
    name.split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'))
        .map_or(name, |inner| inner.trim_matches('"'))
}

/// A URL's host, as a certificate may name it.
pub(crate) fn host(name: &str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(name.to_owned()).map_err(|_| {
        Error::malformed(
            Fault::Caller,
            400,
            format!("{name:?} is no host that a certificate could be for"),
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_pin_may_begin_with_a_slash_of_its_own() {
        for first in [0x00, 0xfc, 0xff] {
            let mut digest = [7; 32];
            digest[0] = first; // 0xfc and 0xff: the base64 begins with /
            let text = BASE64.encode(digest);
            for pin in [format!("sha256/{text}"), format!("sha256//{text}")] {
                assert_eq!(DeviceTls::new().pin(&pin).unwrap().pins, [digest], "{pin}");
            }
            assert!(
                DeviceTls::new().pin(format!("sha256///{text}")).is_err()
                    && DeviceTls::new().pin(&text).is_err()
            );
        }
    }
}
