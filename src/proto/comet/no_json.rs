//! In place of JSON where the crate is built without the feature `comet`: every message in it is
//! refused.
use crate::error::Refusal;
use crate::limits::Limits;
use crate::proto::comet::text::{Answer, Event};

fn absent() -> Refusal {
    Refusal::new(415, "this build has no JSON (feature comet); use message/http")
}

/// As with the feature `comet`; here always refused.
///
/// # Errors
/// 415, always.
pub fn event_to_json(_: &mut Vec<u8>, _: &str, _: &[u8], _: &Limits) -> Result<(), Refusal> {
    Err(absent())
}

pub(crate) fn write_event(
    _: &mut Vec<u8>,
    _: &str,
    _: &[u8],
    _: &Limits,
    _: impl FnOnce(usize) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    Err(absent())
}

/// As with the feature `comet`; here always refused.
///
/// # Errors
/// 415, always.
pub fn event_json_length(_: &str, _: &[u8], _: &Limits) -> Result<usize, Refusal> {
    Err(absent())
}

/// As with the feature `comet`; here always refused.
///
/// # Errors
/// 415, always.
pub fn event_from_json(_: &[u8], _: Option<&str>, _: &Limits) -> Result<Option<Event>, Refusal> {
    Err(absent())
}

/// As with the feature `comet`; here always refused.
///
/// # Errors
/// 415, always.
pub fn answer_to_json(
    _: &mut Vec<u8>,
    _: &str,
    _: &str,
    _: &[u8],
    _: bool,
    _: &Limits,
) -> Result<(), Refusal> {
    Err(absent())
}

/// As with the feature `comet`; here always refused.
///
/// # Errors
/// 415, always.
pub fn answer_from_json(_: &[u8], _: Option<&str>, _: &Limits) -> Result<Option<Answer>, Refusal> {
    Err(absent())
}
