//! Log lines that a program may want to replace by its own messages: how the device is connected,
//! and why it ends. They are all in this file, so that a logger can exclude their target
//! (`reverse_http::device::notices`), as the command's logger does.

use crate::device::events::DeviceEventKind;
use crate::error::Error;

/// Logs a change of the connection to the gateway at `url`; `detail` is the transport or the
/// reason.
pub(super) fn changed(kind: DeviceEventKind, name: &str, url: &str, detail: &str) {
    match kind {
        DeviceEventKind::Connected => log_names!(Info, "connected {name} via {url} ({detail})"),
        DeviceEventKind::Waiting => {
            log_names!(
                Info,
                "waiting {name} via {url}: the gateway holds the offer until there is a request"
            );
        }
        _ => {} // the code at the cause logs more details
    }
}

pub(super) fn ended(error: &Error) {
    log::error!("the device ends: {error}");
}
