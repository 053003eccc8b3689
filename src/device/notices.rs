//! Lines of the log that a program may rather tell in its own words: how the device is connected, and
//! why it ends. They are all in this file, so that a logger can leave its target out
//! (`reverse_http::device::notices`), as that of the command does.

use crate::device::events::DeviceEventKind;
use crate::error::Error;

/// What a change of the way in looks like in the log. `url`: the gateway's; `detail`: how.
pub(super) fn changed(kind: DeviceEventKind, name: &str, url: &str, detail: &str) {
    match kind {
        DeviceEventKind::Connected => log_names!(Info, "connected {name} via {url} ({detail})"),
        DeviceEventKind::Waiting => {
            log_names!(
                Info,
                "waiting {name} via {url}: the gateway holds the offer until somebody asks"
            );
        }
        _ => {} // where it happens, more is known
    }
}

pub(super) fn ended(error: &Error) {
    log::error!("the device ends: {error}");
}
