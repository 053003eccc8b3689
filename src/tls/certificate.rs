//! The names and dates of certificates, and the certificates of a file.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, ServerName, UnixTime};
use rustls::{CertificateError, RootCertStore};

use crate::error::{Error, Fault};

pub(super) fn certificates_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err(Error::usage("there is no certificate in it (-----BEGIN CERTIFICATE-----)"))
        }
        Ok(found) => Ok(found),
        Err(e) => Err(Error::usage(format!("the certificates are no PEM: {e}"))),
    }
}

pub(super) fn contains(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|window| window == what)
}

/// The contents of a file of CA certificates: roots, and the certificates themselves.
#[derive(Clone, Debug)]
pub(super) struct Trusted {
    pub(super) roots: Arc<RootCertStore>,
    given: Arc<[CertificateDer<'static>]>,
}

impl Trusted {
    pub(super) fn of(pem: &[u8]) -> Result<Self, Error> {
        let given = certificates_of(pem)?;
        let mut roots = RootCertStore::empty();
        for certificate in &given {
            roots.add(certificate.clone()).map_err(|e| {
                Error::usage(format!("one of the CA's certificates cannot be used: {e}"))
            })?;
        }
        Ok(Trusted { roots: Arc::new(roots), given: given.into() })
    }

    /// Returns true if a certificate was refused only because it is a CA's own, and is one of those
    /// in the file: `openssl req -x509` makes such certificates, and putting one into the file
    /// means trusting it. Its dates were checked before.
    pub(super) fn has_itself(&self, leaf: &CertificateDer<'_>, refused: &rustls::Error) -> bool {
        is_ca_as_leaf(refused) && self.given.iter().any(|given| given == leaf)
    }
}

/// The error of webpki, if rustls has no own error for it.
pub(super) fn refused_by_webpki(error: &CertificateError) -> Option<&webpki::Error> {
    let CertificateError::Other(other) = error else { return None };
    other.0.downcast_ref()
}

pub(super) fn is_ca_as_leaf(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(why) = error else { return false };
    matches!(refused_by_webpki(why), Some(webpki::Error::CaUsedAsEndEntity))
}

/// A time after every certificate's date, whose year has four digits.
pub(super) const FAR: Duration = Duration::from_secs(1 << 38);

/// A certificate's last second.
pub(super) fn not_after(certificate: &CertificateDer<'_>) -> Option<UnixTime> {
    match wrong_date(certificate, UnixTime::since_unix_epoch(FAR)) {
        Some(WrongDate::Expired(not_after)) => Some(not_after),
        _ => None,
    }
}

pub(super) enum WrongDate {
    Expired(UnixTime),
    NotYet(UnixTime),
}

/// Returns true if these bytes are not a certificate. The other side checks further requirements on
/// a chain.
pub(super) fn is_no_certificate(bytes: &CertificateDer<'_>) -> bool {
    use webpki::Error::{BadDer, TrailingData};
    matches!(webpki::anchor_from_trusted_cert(bytes), Err(BadDer | TrailingData(_)))
}

/// How a certificate's dates exclude this time. webpki checks the dates first.
pub(super) fn wrong_date(certificate: &CertificateDer<'_>, now: UnixTime) -> Option<WrongDate> {
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
pub(super) fn dns_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    let mut names: Vec<String> =
        certificate.valid_dns_names().map(str::to_ascii_lowercase).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Names with a star before a single label (`*.lan`), in lower case, each once. webpki does not
/// accept such names, and reports them only if it misses another one.
pub(super) fn short_wildcards(certificate: &CertificateDer<'_>) -> Vec<String> {
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

/// A date for people. The last year is 9999.
pub(super) fn date(time: UnixTime) -> String {
    let last = 253_402_300_799; // 9999-12-31T23:59:59Z
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs().min(last)))
}

/// Removes the wrapping of webpki's names: `DnsName("gw.example")`.
pub(super) fn bare(name: &str) -> &str {
    name.split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'))
        .map_or(name, |inner| inner.trim_matches('"'))
}

/// A URL's host, in the form of a certificate's name.
pub(crate) fn host(name: &str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(name.to_owned()).map_err(|_| {
        Error::malformed(
            Fault::Caller,
            400,
            format!("{name:?} is no host that a certificate could be for"),
        )
    })
}
