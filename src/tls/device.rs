//! A device's side: verification of its gateway and its local server, and its own certificate.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring as provider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use super::certificate::{Trusted, host};
use super::failure::{Side, explained};
use super::identity::Identity;
use super::setup::{ALPN, unusable};
use crate::error::Error;
use crate::setting::{CA, LOCAL_CA, LOCAL_PIN, PEERS_CA, PIN};

/// A device whose clock shows an earlier time has no clock yet: 2026-01-01T00:00:00Z, before which
/// this code did not exist.
const CLOCK_FLOOR: Duration = Duration::from_secs(1_767_225_600);
type Now = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// 32 bytes in base64.
const PIN_LENGTH: usize = 44;

/// How a device verifies its gateway, and the device's own certificate.
///
/// The gateway's certificate is always verified: against the system's roots, or only against
/// [`ca`](Self::ca), for the URL's host and the current time. A [`pin`](Self::pin) verifies the
/// gateway's key: without a CA it replaces the verification of chain, name and dates; with a CA,
/// both have to succeed.
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
    /// The system's roots, and no certificate for the device.
    #[must_use]
    pub fn new() -> Self {
        DeviceTls::default()
    }

    /// Trusts these CA certificates (PEM, one or several) instead of the system's roots. A gateway
    /// whose self-signed certificate is one of them is trusted, too, for its names and its period
    /// of validity. A certificate that was issued by a CA is trusted only through that CA.
    ///
    /// # Errors
    /// It contains no certificate that can be used as that of a CA.
    pub fn ca(mut self, ca: impl AsRef<[u8]>) -> Result<Self, Error> {
        self.trusted = Some(Trusted::of(ca.as_ref())?);
        Ok(self)
    }

    /// Requires the gateway to have this key: the SHA-256 of its SubjectPublicKeyInfo, as
    /// `sha256/BASE64`, or `sha256//BASE64` as in curl. Several may be given (for the time in which
    /// a key changes, say); one of them has to match. If a gateway redirects to another, the key of
    /// that has to match, too.
    ///
    /// # Errors
    /// The pin is malformed.
    pub fn pin(mut self, pin: impl AsRef<str>) -> Result<Self, Error> {
        let pin = pin.as_ref();
        // One of 64 digests also begins with a slash: if the text is longer by one, the first slash
        // is curl's.
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

    /// Presents this certificate to a gateway that asks for one.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// For a device that starts without a clock: the current time is taken to be no earlier than
    /// this. Without it, a device whose clock shows a time before 2026 waits until the clock is set
    /// before it dials, if there is a chain to verify.
    #[must_use]
    pub fn clock_floor(mut self, floor: SystemTime) -> Self {
        self.floor = Some(floor);
        self
    }

    /// Uses another clock than the system's for the dates of certificates.
    pub fn clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.now = Arc::new(now);
        self
    }

    /// Uses a program's own rustls configuration unchanged; all other settings are ignored.
    #[must_use]
    pub fn from_rustls(config: Arc<ClientConfig>) -> Self {
        DeviceTls { given: Some(config), ..DeviceTls::default() }
    }

    /// Returns the rustls configuration of a device with these settings, for a program's own
    /// connections.
    ///
    /// # Errors
    /// The system has no roots, and neither a CA nor a pin was given.
    pub fn into_rustls(self) -> Result<Arc<ClientConfig>, Error> {
        self.connector().map(|connector| connector.config)
    }

    /// Explains a failed handshake of a device, with a remedy if one is known. `None`: it is not an
    /// error of TLS.
    #[must_use]
    pub fn explained(error: &io::Error) -> Option<String> {
        let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        Some(explained(inner, Side::Device))
    }

    /// The same for a gateway that connects to another one.
    #[must_use]
    pub fn explained_between_gateways(error: &io::Error) -> Option<String> {
        let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        Some(explained(inner, Side::OtherGateway))
    }

    /// Reads the system's roots if they are needed.
    ///
    /// # Errors
    /// The system has no roots.
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

/// How a device verifies its local server at `https://`.
///
/// The server's certificate is verified like that of a gateway ([`DeviceTls`]): against the
/// system's roots, or only against [`ca`](Self::ca), for the URL's host (or
/// [`server_name`](Self::server_name)) and the current time; or by its key ([`pin`](Self::pin)).
/// [`insecure`](Self::insecure) verifies nothing.
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
    #[must_use]
    pub fn new() -> Self {
        LocalTls::default()
    }

    /// Trusts these CA certificates (PEM, one or several) instead of the system's roots; see
    /// [`DeviceTls::ca`].
    ///
    /// # Errors
    /// There is no certificate in it that can be used as a CA's.
    pub fn ca(mut self, ca: impl AsRef<[u8]>) -> Result<Self, Error> {
        self.known = self.known.ca(ca)?;
        Ok(self)
    }

    /// Requires the server to have this key, `sha256/BASE64`; see [`DeviceTls::pin`].
    ///
    /// # Errors
    /// The pin is malformed.
    pub fn pin(mut self, pin: impl AsRef<str>) -> Result<Self, Error> {
        self.known = self.known.pin(pin)?;
        Ok(self)
    }

    /// The name to ask the server for (SNI), for which its certificate has to be valid, instead of
    /// the URL's host: a DNS name or an address. It does not change `Host`.
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

    /// For a device that starts without a clock; see [`DeviceTls::clock_floor`].
    #[must_use]
    pub fn clock_floor(mut self, floor: SystemTime) -> Self {
        self.known = self.known.clock_floor(floor);
        self
    }

    /// Accepts every certificate: an attacker between device and server can read and change
    /// everything. Use it only for servers on the same machine or cable that cannot have a suitable
    /// certificate; a [`pin`](Self::pin) is as little work, and safe.
    #[must_use]
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// # Errors
    /// The system has no roots, and no CA or key is given; `insecure` is combined with a CA or a
    /// key.
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
            "this system has no root certificates{why}; install them (ca-certificates), or give the CA or the key of whom is dialled: of a device's gateway ({CA}; {PIN}), of its local server ({LOCAL_CA}; {LOCAL_PIN}), of other gateways ({PEERS_CA})"
        )));
    }
    Ok(roots)
}

/// The TLS settings that a device's dials share.
#[derive(Debug)]
pub(crate) struct Connector {
    pub(crate) config: Arc<ClientConfig>,
    /// The clock, if certificates' dates are checked.
    clock: Option<Clock>,
    whom: Whom,
}

/// The gateways that a device dials.
#[derive(Clone, Debug)]
struct Whom {
    side: Side,
    /// The name to request instead of the URL's host.
    name: Option<ServerName<'static>>,
}

impl Connector {
    /// The side, for explaining failed handshakes.
    pub(crate) fn side(&self) -> Side {
        self.whom.side
    }

    /// The same for a gateway that connects to others.
    pub(crate) fn of_gateway(mut self) -> Self {
        self.whom.side = Side::OtherGateway;
        self
    }

    /// The name that is requested from a server at this host, and that it has to prove.
    ///
    /// # Errors
    /// No certificate can be valid for it.
    pub(crate) fn server_name(&self, host: &str) -> Result<ServerName<'static>, Error> {
        self.whom.name.clone().map_or_else(|| self::host(host), Ok)
    }

    /// Returns true if certificates can be checked now. Returns false while the clock shows a time
    /// before this code was written.
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

/// Verifies the chain, the key, or both, and always the handshake's signature.
#[derive(Debug)]
struct Verifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// The given CAs. `None` for the system's roots.
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
