//! Describes the certificates that a gateway presents, without verifying them.

use std::sync::Arc;

use reverse_http::text::spelled_out;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

use crate::wire::Wire;

/// One line for each certificate, the leaf first.
///
/// # Errors
/// There was no handshake.
pub(super) fn shown(wire: Wire, host: &str) -> Result<Vec<String>, String> {
    let provider = Arc::new(ring::default_provider());
    let looks = Looks(provider.signature_verification_algorithms);
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(looks))
        .with_no_client_auth();
    let certificates = wire.secure(Arc::new(config), host)?.certificates();
    Ok(certificates.iter().enumerate().map(|(number, der)| described(number, der)).collect())
}

/// Accepts every certificate: nothing is sent over this connection.
#[derive(Debug)]
struct Looks(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Looks {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

fn described(number: usize, der: &[u8]) -> String {
    let Some(read) = Certificate::read(der) else {
        return format!("{number}: a certificate that cannot be read");
    };
    let names = webpki::EndEntityCert::try_from(&CertificateDer::from(der.to_vec()))
        .map(|leaf| leaf.valid_dns_names().collect::<Vec<_>>().join(", "))
        .unwrap_or_default();
    let names = if names.is_empty() { String::new() } else { format!(" for {names}") };
    let by = match read.subject == read.issuer {
        true => "issued by itself".to_owned(),
        false => format!("issued by {}", read.issuer),
    };
    format!("{number}: {}{names}; {by}; valid from {} to {}", read.subject, read.from, read.to)
}

/// The parts of a certificate for its line (RFC 5280 §4.1).
struct Certificate {
    subject: String,
    issuer: String,
    from: String,
    to: String,
}

impl Certificate {
    fn read(der: &[u8]) -> Option<Self> {
        const VERSION: u8 = 0xA0;
        let (_, whole, _) = element(der)?;
        let (_, mut rest, _) = element(whole)?;
        let mut next = || {
            let (tag, content, behind) = element(rest)?;
            rest = behind;
            Some((tag, content))
        };
        if next()?.0 == VERSION {
            next()?; // the serial number
        }
        next()?; // the algorithm of the signature
        let (_, issuer) = next()?;
        let (_, validity) = next()?;
        let (_, subject) = next()?;
        let (from_tag, from, behind) = element(validity)?;
        let (to_tag, to, _) = element(behind)?;
        Some(Certificate {
            subject: name(subject),
            issuer: name(issuer),
            from: date(from_tag, from)?,
            to: date(to_tag, to)?,
        })
    }
}

/// The tag and content of the first element, and the bytes after it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7F => (usize::from(first), rest),
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, behind) = rest.split_at_checked(length)?;
    Some((tag, content, behind))
}

/// The common name, else the organisation.
fn name(mut der: &[u8]) -> String {
    const COMMON_NAME: &[u8] = &[0x55, 4, 3];
    const ORGANISATION: &[u8] = &[0x55, 4, 10];
    let mut found = [None, None];
    while let Some((_, set, behind)) = element(der) {
        der = behind;
        let pair = element(set).and_then(|(_, pair, _)| {
            let (_, kind, value) = element(pair)?;
            Some((kind, element(value)?.1))
        });
        match pair {
            Some((COMMON_NAME, value)) => found[0] = Some(value),
            Some((ORGANISATION, value)) => found[1] = Some(value),
            _ => {}
        }
    }
    match found[0].or(found[1]) {
        Some(text) => format!("\"{}\"", spelled_out(&String::from_utf8_lossy(text))),
        None => "a name of its own kind".to_owned(),
    }
}

/// UTCTime or GeneralizedTime, as a date.
fn date(tag: u8, text: &[u8]) -> Option<String> {
    const UTC_TIME: u8 = 0x17;
    let text = std::str::from_utf8(text).ok().filter(|text| text.is_ascii())?;
    let (century, rest) = match tag {
        UTC_TIME => (if text.get(..2)? < "50" { "20" } else { "19" }, text),
        _ => text.split_at_checked(2)?,
    };
    Some(format!("{century}{}-{}-{}", rest.get(..2)?, rest.get(2..4)?, rest.get(4..6)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_certificates_are_read_without_a_panic() {
        for der in [&b""[..], b"\x30", b"\x30\x84\xFF\xFF\xFF\xFF", b"\x30\x05\x30\x03\xA0\x01\x00"]
        {
            assert!(Certificate::read(der).is_none());
        }
    }

    #[test]
    fn both_forms_of_a_date_are_read() {
        assert_eq!(date(0x17, b"491231235959Z").as_deref(), Some("2049-12-31"));
        assert_eq!(date(0x17, b"500101000000Z").as_deref(), Some("1950-01-01"));
        assert_eq!(date(0x18, b"20500101000000Z").as_deref(), Some("2050-01-01"));
        assert_eq!(date(0x18, b"20"), None);
    }
}
