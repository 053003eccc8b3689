//! Options that have no effect together with another one. They do no harm, and a configuration file
//! may be meant for several processes; so they are reported and not refused.

#[cfg(feature = "cli")]
use reverse_http::TurnMode;

use crate::arguments::{DeviceArgs, Polling};
use crate::config::Merged;
#[cfg(feature = "cli")]
use crate::gateway_arguments::GatewayArgs;

/// Reports those of a gateway.
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

/// Reports those of a device.
pub(crate) fn of_device(args: &DeviceArgs, merged: &Merged) {
    if matches!(args.fallback, Polling::Never) {
        let of_polls = ["polls", "comet", "turn-retry", "doubt-after"];
        tell(merged, &of_polls, "--fallback never: the device does not poll");
    }
}

/// Logs a line for each of these options that is given.
fn tell(merged: &Merged, options: &[&str], beside: &str) {
    for option in options.iter().filter(|option| merged.is_given(option)) {
        log::warn!("--{option} does nothing beside {beside}");
    }
}
