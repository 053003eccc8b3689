//! The credential in an `Authorization` field: the token of `Bearer`, or the password of `Basic`.

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Basic's base64, with and without its padding.
const BASIC: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A credential, as received.
pub(crate) enum Credential<'a> {
    /// The token of `Bearer` (RFC 6750 §2.1). Never empty.
    Bearer(&'a str),
    /// The password of `Basic` (RFC 7617 §2); the user is ignored.
    Basic(Vec<u8>),
}

impl<'a> Credential<'a> {
    /// Reads the values of all `Authorization` fields of a head. `None`: there is none, or more
    /// than one (which would be ambiguous), it is malformed, of another scheme, or its secret is
    /// empty or longer than `most` bytes.
    pub(crate) fn of(mut fields: impl Iterator<Item = &'a [u8]>, most: usize) -> Option<Self> {
        let (value, None) = (fields.next()?, fields.next()) else { return None };
        let blank = value.iter().position(|byte| *byte == b' ')?;
        let (scheme, rest) = value.split_at(blank);
        let rest = rest.trim_ascii();
        let fits = |secret: &[u8]| !secret.is_empty() && secret.len() <= most;
        if scheme.eq_ignore_ascii_case(b"bearer") {
            let bare =
                rest.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte));
            let token = std::str::from_utf8(rest).ok().filter(|_| bare && fits(rest))?;
            return Some(Credential::Bearer(token));
        }
        if !scheme.eq_ignore_ascii_case(b"basic")
            || rest.len() > most.saturating_mul(2).saturating_add(1024)
        {
            return None;
        }
        let mut password = BASIC.decode(rest).ok()?;
        let colon = password.iter().position(|byte| *byte == b':')?;
        password.drain(..=colon);
        fits(&password).then_some(Credential::Basic(password))
    }

    /// The bytes of the token or password.
    pub(crate) fn secret(&self) -> &[u8] {
        match self {
            Credential::Bearer(token) => token.as_bytes(),
            Credential::Basic(password) => password,
        }
    }
}
