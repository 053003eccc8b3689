//! Secrets that an operator gives. There can be several, so that they can be changed: the first is
//! used, and the others are still accepted.

use std::ops::RangeInclusive;

use crate::error::Error;

/// The most secrets of a kind at once.
pub(super) const SECRETS_MAX: usize = 8;

/// The name and the length of a kind of secrets.
pub(super) struct Kind {
    pub(super) noun: &'static str,
    pub(super) of: &'static str,
    pub(super) bytes: RangeInclusive<usize>,
}

/// # Errors
/// There is none, or too many; one that is too short or too long, or not visible ASCII.
pub(super) fn checked<S: AsRef<str>>(
    kind: &Kind,
    secrets: impl IntoIterator<Item = S>,
) -> Result<Vec<String>, Error> {
    let Kind { noun, of, bytes } = kind;
    let secrets: Vec<String> = secrets.into_iter().map(|s| s.as_ref().to_owned()).collect();
    let is_valid = |secret: &String| {
        bytes.contains(&secret.len()) && secret.bytes().all(|byte| byte.is_ascii_graphic())
    };
    match secrets.len() {
        1..=SECRETS_MAX if secrets.iter().all(is_valid) => Ok(secrets),
        1..=SECRETS_MAX => Err(Error::usage(format!(
            "a {noun} of {of} has {} to {} characters, visible ASCII without blanks",
            bytes.start(),
            bytes.end()
        ))),
        0 => Err(Error::usage(format!("there is no {noun}; 1 to {SECRETS_MAX} work"))),
        n => Err(Error::usage(format!("there are {n} {noun}s; 1 to {SECRETS_MAX} work"))),
    }
}
