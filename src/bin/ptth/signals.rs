//! Signals: which ones the command handles, and the line about its state that one of them asks for.

use reverse_http::CloseCounts;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

/// The signals that this process handles.
pub(crate) const SIGNALS: [i32; 4] = [SIGTERM, SIGINT, SIGHUP, SIGUSR1];

/// A second SIGTERM or SIGINT ends the process at once.
pub(crate) fn exit_on_second(mut signals: Signals) {
    std::thread::spawn(move || {
        if signals.forever().any(|signal| matches!(signal, SIGTERM | SIGINT)) {
            std::process::exit(1);
        }
    });
}

pub(crate) fn ends_of(ends: &CloseCounts) -> String {
    let told: Vec<String> = ends
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(end, count)| format!("{end} {count}"))
        .collect();
    if told.is_empty() { "none".to_owned() } else { told.join(", ") }
}
