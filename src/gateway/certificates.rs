//! The names that a device's certificate allows: those of its subjectAltName.
//!
//! `lamp` allows the device name `lamp`; `lamp.example` the IETF origins of that host;
//! `*.lamps.example` those of the hosts one label below it.

use crate::gateway::offer::{Grant, Offer, Reject};
use crate::proto::turn::Name;

impl Offer {
    /// Whether the certificate, if one was shown, allows every name that is offered.
    pub(super) fn check_certificate(&self) -> Result<(), Reject> {
        let Some(allowed) = &self.certificate else { return Ok(()) };
        match self
            .names()
            .iter()
            .all(|name| allowed.names().iter().any(|entry| allows(entry, name)))
        {
            true => Ok(()),
            false => Err(Reject::new(403, "the device's certificate is not for this name")),
        }
    }

    /// The device's identity from its certificate, unless `grant` has one. It consists of the
    /// names, so that a renewed certificate belongs to the same device.
    pub(super) fn identified(&self, grant: Grant) -> Grant {
        match &self.certificate {
            Some(shown) if grant.credential.is_none() => {
                grant.to(format!("certificate for {}", shown.names().join(",")))
            }
            _ => grant,
        }
    }
}

/// `entry` is in lower case, as names are.
fn allows(entry: &str, name: &Name) -> bool {
    match name {
        Name::Label(label) => entry == label,
        Name::Origin { host, .. } => match entry.strip_prefix("*.") {
            Some(domain) => host
                .split_once('.')
                .is_some_and(|(first, rest)| !first.is_empty() && rest == domain),
            None => entry.contains('.') && entry == host,
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn an_entry_allows_one_name_one_host_or_one_level_of_hosts() {
        let label = |text| Name::label(text).unwrap();
        let origin = |text| Name::origin(text).unwrap();
        for (entry, name) in [
            ("lamp", label("lamp")),
            ("lamp.example", origin("https://lamp.example")),
            ("lamp.example", origin("http://lamp.example:8080")),
            ("*.lamps.example", origin("https://a.lamps.example")),
        ] {
            assert!(allows(entry, &name), "{entry} {name}");
        }
        for (entry, name) in [
            ("lamp", label("lamps")),
            ("lamp.example", label("lamp")),
            ("*", label("lamp")),
            ("*.example", label("lamp")),
            ("lamp", origin("https://lamp")),
            ("lamp.example", origin("https://x.lamp.example")),
            ("*.lamps.example", origin("https://lamps.example")),
            ("*.lamps.example", origin("https://a.b.lamps.example")),
            ("l*.lamps.example", origin("https://la.lamps.example")),
        ] {
            assert!(!allows(entry, &name), "{entry} {name}");
        }
    }
}
