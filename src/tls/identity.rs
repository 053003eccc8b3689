//! A certificate with its private key, which one side presents.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::ring as provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use super::certificate::{
    WrongDate, certificates_of, contains, date, dns_names, is_no_certificate, not_after,
    short_wildcards, wrong_date,
};
use crate::error::Error;

/// A certificate with its chain, and the private key that belongs to it.
///
/// ```
/// use reverse_http::tls::Identity;
/// let wrong = Identity::from_pem("no certificate", "no key").unwrap_err();
/// assert!(wrong.is_usage());
/// ```
#[derive(Clone, Debug)]
pub struct Identity(pub(super) Arc<CertifiedKey>);

impl Identity {
    /// Reads a certificate followed by its intermediate certificates, and a key in PKCS#8, PKCS#1
    /// or SEC1, all as PEM.
    ///
    /// # Errors
    /// There is no certificate or no key; one of the certificates is invalid; the key is encrypted,
    /// or does not match the certificate.
    pub fn from_pem(certificates: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Result<Self, Error> {
        let (certificates, key) = (certificates.as_ref(), key.as_ref());
        let chain = certificates_of(certificates)?;
        let key = match PrivateKeyDer::from_pem_slice(key) {
            Ok(key) => key,
            Err(_) if contains(key, b"ENCRYPTED") => {
                return Err(Error::usage(
                    "the key is encrypted, and there is no prompt for its password; decrypt it: openssl pkey -in KEY -out PLAIN",
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
        // No other side accepts such a chain.
        if let Some(n) = certified.cert.iter().skip(1).position(is_no_certificate) {
            return Err(Error::usage(format!("certificate {} of the chain cannot be read", n + 2)));
        }
        Ok(Identity(Arc::new(certified)))
    }

    /// Checks the dates of the certificate itself, but not of the intermediate ones.
    ///
    /// # Errors
    /// At that time it has expired, or is not valid yet; the text says since when, or from when.
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

    /// Returns true if the dates of the certificate itself include this time.
    pub(super) fn is_valid(&self, now: UnixTime) -> bool {
        self.0.cert.first().is_none_or(|leaf| wrong_date(leaf, now).is_none())
    }

    /// The DNS names of its subjectAltName, in lower case, sorted; `*.example` is left as it is.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let Some(leaf) = self.0.cert.first() else { return Vec::new() };
        let mut names = dns_names(leaf);
        names.extend(short_wildcards(leaf));
        names.sort_unstable();
        names
    }

    /// The last second of its validity; `None`: its date cannot be read.
    #[must_use]
    pub fn valid_until(&self) -> Option<SystemTime> {
        let until = not_after(self.0.cert.first()?)?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(until.as_secs()))
    }

    /// The same for it and its intermediate certificates: the first that expires counts.
    pub(super) fn expires(&self) -> Option<SystemTime> {
        let ends = self.0.cert.iter().filter_map(not_after).map(|end| end.as_secs());
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(ends.min()?))
    }
}
