//! Explains failed handshakes: the rule that was broken, and the remedy.

use rustls::CertificateError;

use super::certificate::{bare, date, refused_by_webpki};
use crate::setting::{
    CA, CLIENT_CA, CLOCK_FLOOR, IDENTITY, LOCAL_CA, LOCAL_NAME, LOCAL_PIN, PEERS_CA,
    PEERS_CLIENT_CA, PEERS_IDENTITY, PIN,
};

/// The side that explains a failed handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// A device that connects to its gateway.
    Device,
    /// A device that connects to its local server.
    Local,
    /// A gateway with its devices and visitors.
    Gateway,
    /// A gateway that connects to another one.
    OtherGateway,
    /// A gateway to which others connect.
    GatewayOfGateways,
}

impl Side {
    /// The certificate that it checks, the setting of its trust, and other remedies.
    fn words(self) -> (&'static str, &'static str, String) {
        match self {
            Side::Device => (
                "the gateway's certificate",
                CA,
                format!("give its CA ({CA}), or pin its key ({PIN})"),
            ),
            Side::Local => (
                "the local server's certificate",
                LOCAL_CA,
                format!("give its CA ({LOCAL_CA}), or pin its key ({LOCAL_PIN})"),
            ),
            Side::Gateway => (
                "the device's certificate",
                CLIENT_CA,
                format!("give its CA ({CLIENT_CA}), or issue one with that CA"),
            ),
            Side::OtherGateway => (
                "the other gateway's certificate",
                PEERS_CA,
                format!("give its CA ({PEERS_CA}), or issue one with that CA"),
            ),
            Side::GatewayOfGateways => (
                "the other gateway's certificate",
                PEERS_CLIENT_CA,
                format!("give its CA ({PEERS_CLIENT_CA}), or issue one with that CA"),
            ),
        }
    }

    /// The setting of the certificate that this side, or its client, presents.
    fn identity(self) -> &'static str {
        match self {
            Side::OtherGateway | Side::GatewayOfGateways => PEERS_IDENTITY,
            _ => IDENTITY,
        }
    }

    fn is_asked(self) -> bool {
        matches!(self, Side::Gateway | Side::GatewayOfGateways)
    }
}

/// Returns true if an alert means that the other side does not accept this side's certificate, or
/// has received none.
pub(crate) fn is_of_certificate(alert: rustls::AlertDescription) -> bool {
    use rustls::AlertDescription::*;
    matches!(
        alert,
        BadCertificate
            | CertificateExpired
            | CertificateRequired
            | CertificateRevoked
            | CertificateUnknown
            | UnknownCA
            | DecryptError // its CA has the name of another one, but another key
            | UnsupportedCertificate
    )
}

/// Explains a failed handshake, with a remedy if one is known.
pub(crate) fn explained(error: &rustls::Error, side: Side) -> String {
    use rustls::AlertDescription as Alert;
    let remedy = match error {
        rustls::Error::InvalidCertificate(why) => return refusal_of_certificate(why, side),
        rustls::Error::AlertReceived(Alert::CertificateRequired | Alert::HandshakeFailure)
            if side == Side::Local =>
        {
            &format!(
                "the local server wants something that was not shown: a certificate perhaps, and a device has none for it; or another name ({LOCAL_NAME})"
            )
        }
        rustls::Error::AlertReceived(Alert::UnrecognisedName) if side == Side::Local => &format!(
            "the local server does not know the name that it was asked for; give the one that it has ({LOCAL_NAME})"
        ),
        rustls::Error::AlertReceived(Alert::CertificateRequired | Alert::HandshakeFailure) => {
            &format!(
                "the other side wants something that was not shown, a certificate perhaps ({})",
                side.identity()
            )
        }
        rustls::Error::AlertReceived(Alert::CertificateExpired) => {
            "the other side does not accept the certificate that was shown: by its clock it has expired, or is not valid yet; renew it, or set the clocks"
        }
        rustls::Error::AlertReceived(
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::DecryptError
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked,
        ) if side == Side::OtherGateway => &format!(
            "the other gateway does not accept the certificate that was shown ({PEERS_IDENTITY}): its own setting has to have the CA that issued it ({PEERS_CLIENT_CA}); its log says more"
        ),
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
        rustls::Error::NoCertificatesPresented => &format!(
            "no certificate was shown, and this side wants one; give the {} one ({})",
            if side == Side::GatewayOfGateways { "other gateway" } else { "device" },
            side.identity()
        ),
        rustls::Error::AlertReceived(Alert::AccessDenied) if side == Side::Gateway => {
            &format!("the device has pinned another key than that of this certificate ({PIN})")
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
        Side::Local => &format!(
            "issue one with a subjectAltName for it, or ask for a name that it has ({LOCAL_NAME})"
        ),
        _ => "issue one with a subjectAltName for it, or write a URL with a name that it has",
    };
    let text = match why {
        ExpiredContext { not_after, .. } => format!(
            "{whose} has expired, on {}; renew it, or set this machine's clock",
            date(*not_after)
        ),
        Expired => format!("{whose} has expired; renew it, or set this machine's clock"),
        NotValidYetContext { not_before, .. } => {
            let floor = match side {
                Side::Device | Side::Local => format!(", or give an earliest time ({CLOCK_FLOOR})"),
                _ => String::new(),
            };
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
            let pin = match side {
                Side::Local => LOCAL_PIN,
                Side::OtherGateway => "DeviceTls::pin",
                _ => PIN,
            };
            format!("the key of {whose} is none of those that are pinned ({pin})")
        }
        InvalidPurpose | InvalidPurposeContext { .. } => {
            let purpose = if side.is_asked() { "clientAuth" } else { "serverAuth" };
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
            "{whose} is a CA's own (CA:TRUE), and not exactly one of those that are given ({ca}); give it there, or issue one for the host with CA:FALSE"
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
