//! Messages in the words of C.
//!
//! The library names a setting by its method in Rust and by the command's option. A program in C
//! has neither, so this file rewrites errors and log lines.

/// The library's words, and those that replace them.
const WORDS: [(&str, &str); 24] = [
    ("DeviceBuilder::bearer_token, or --token-file and PTTH_TOKEN", "ptth_options_token"),
    ("DeviceBuilder::redirect_host, or --redirect-hosts", "ptth_options_redirect_host"),
    (
        "DeviceBuilder::proxy_credentials, or instead of --proxy the environment, like http_proxy=http://USER:PASSWORD@HOST:PORT",
        "ptth_options_proxy_credentials",
    ),
    ("DeviceBuilder::whole_target", "ptth_options_whole_target"),
    ("DeviceBuilder::fallback, or --fallback", "ptth_options_fallback"),
    ("DeviceBuilder::max_retries, or --max-retries", "ptth_options_max_retries"),
    ("DeviceBuilder::links, or --links", "ptth_options_links"),
    ("DeviceBuilder::polls, or --polls", "ptth_options_polls"),
    ("DeviceTls::clock_floor, or --clock-floor", "ptth_options_clock_floor"),
    ("DeviceTls::ca, or --ca", "ptth_options_ca"),
    ("DeviceTls::pin, or --pin", "ptth_options_pin"),
    ("DeviceTls::identity, or --cert and --key", "ptth_options_identity"),
    // Settings that a program in C does not have.
    ("DeviceBuilder::request_fields, or --set-field", NONE),
    ("DeviceBuilder::origin, or --origin", NONE),
    ("DeviceBuilder::dialect, or --dialect", NONE),
    ("LocalTls::ca, or --to-ca", NONE),
    ("LocalTls::pin, or --to-pin", NONE),
    ("LocalTls::server_name, or --to-server-name", NONE),
    (", of other gateways (DeviceTls::ca, or --peers-ca)", ""),
    // Limits that options set.
    ("limits: handlers_max", "ptth_options_handlers: the number"),
    (
        "limits: backoff_min is longer than backoff_max",
        "ptth_options_backoff: the first pause is longer than the longest",
    ),
    ("limits: backoff_min", "ptth_options_backoff: the first pause"),
    ("limits: backoff_max", "ptth_options_backoff: the longest pause"),
    (" (str::trim)", ""),
];

const NONE: &str = "not from C";

pub(crate) fn in_c(text: String) -> String {
    WORDS.iter().fold(text, |text, (theirs, ours)| match text.contains(theirs) {
        true => text.replace(theirs, ours),
        false => text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each setting that a device's messages may name (src/setting.rs) has its word here.
    #[test]
    fn no_message_names_a_method_or_an_option() {
        let settings = include_str!("../../src/setting.rs");
        let of_devices: Vec<_> = settings
            .split('"')
            .skip(1)
            .step_by(2)
            .filter(|name| name.starts_with("Device") || name.starts_with("LocalTls"))
            .collect();
        assert!(of_devices.len() > 12, "{of_devices:?}");
        for name in of_devices {
            if name.contains("--peers") {
                continue; // of gateways
            }
            let said = in_c(format!("it cannot work ({name})"));
            assert!(!said.contains("::") && !said.contains("--"), "{said}");
        }
    }
}
