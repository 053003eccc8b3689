//! Options that do nothing beside another one. They break nothing, and a file of options may be meant
//! for several processes: so they are told of, and not refused.

#[cfg(feature = "cli")]
use reverse_http::TurnMode;

use crate::arguments::{DeviceArgs, Polling};
use crate::config::Merged;
#[cfg(feature = "cli")]
use crate::gateway_arguments::GatewayArgs;

/// Tells of a gateway's.
#[cfg(feature = "cli")]
pub(crate) fn of_gateway(args: &GatewayArgs, merged: &Merged) {
    if args.heartbeat.is_zero() {
        tell(merged, &["heartbeat-timeout"], "--heartbeat 0s: no heartbeat is sent");
    }
    let holds_offers = args.turn.iter().any(|(_, mode)| *mode == TurnMode::OnDemand);
    if matches!(args.fallback, Polling::Never) && !holds_offers {
        tell(merged, &["poll-hold"], "--fallback never: no poll is taken");
    }
}

/// Tells of a device's.
pub(crate) fn of_device(args: &DeviceArgs, merged: &Merged) {
    if matches!(args.fallback, Polling::Never) {
        let of_polls = ["polls", "comet", "turn-retry", "doubt-after"];
        tell(merged, &of_polls, "--fallback never: the device does not poll");
    }
}

/// A line of the log for each of these options that is given.
fn tell(merged: &Merged, options: &[&str], beside: &str) {
    for option in options.iter().filter(|option| merged.is_given(option)) {
        log::warn!("--{option} does nothing beside {beside}");
    }
}
