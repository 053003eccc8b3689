//! What all connections of the admin listener share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use crate::admin::operators::Operators;
use crate::admin::permits::Permits;
use crate::admin::settings::SetLogLevel;
use crate::admin::view::View;
use crate::limits::Limits;

/// How often a follower of events gets the totals.
pub(super) const PULSE: Duration = Duration::from_secs(2);

/// The state that all connections of the admin listener share.
pub(super) struct Context {
    pub(super) view: Arc<View>,
    pub(super) operators: Operators,
    pub(super) set_log_level: Option<SetLogLevel>,
    pub(super) limits: Limits,
    pub(super) stopped: Arc<AtomicBool>,
    pub(super) connections: Arc<Permits>,
    pub(super) followers: AtomicUsize,
}
