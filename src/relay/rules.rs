//! What differs between the gateway's relay and the device's.

use std::sync::Arc;

use crate::limits::Limits;
use crate::proto::head::LineEnds;

/// What differs between the gateway's relay and the device's.
#[derive(Clone)]
pub(crate) struct Rules {
    pub(crate) limits: Arc<Limits>,
    /// The limits for responses of the upstream side: a device adds fields to a response that was
    /// within `limits`, a local server does not.
    pub(crate) answer_limits: Arc<Limits>,
    /// How line ends of the upstream side are read.
    pub(crate) ends: LineEnds,
    /// Pseudonym for `Via`.
    pub(crate) via: Option<Arc<str>>,
    /// Adds `Date` to answers without one.
    pub(crate) add_date: bool,
    /// The upstream side in error texts: `the device`, `the local server`.
    pub(crate) upstream_name: &'static str,
    /// A downstream side that has ended its direction may still wait for its answer, however long
    /// that takes, as a visitor may (RFC 9112 §9.6). If this is false, it counts as gone unless
    /// bytes move within `abandoned_timeout`.
    pub(crate) downstream_may_half_close: bool,
    /// The upstream connection is a link: its device has to be told that a tunnel has ended.
    pub(crate) upstream_is_link: bool,
}
