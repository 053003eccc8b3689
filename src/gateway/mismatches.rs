//! The answer and the log line if another gateway refuses hops although the directory names it. The
//! operator has to correct that.

use crate::proto::peer::Miss;
use crate::setting::{ADVERTISE, PEER_SECRET};
#[cfg(feature = "tls")]
use crate::setting::{PEERS_CLIENT_CA, PEERS_IDENTITY};

/// Why a gateway refuses hops.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    /// The text for visitors.
    pub(super) told: &'static str,
    /// The text for the log: the problem with the gateway at the directory's URL, and the remedy.
    pub(super) logged: String,
}

impl Mismatch {
    /// `has_secret` means that this gateway sends one; `alert` is the text with which its
    /// certificate was refused. `None` if the other gateway accepts hops, and only does not have
    /// the device.
    pub(super) fn of(miss: Miss, has_secret: bool, alert: &str) -> Option<Self> {
        let (told, logged) = match miss {
            Miss::Unknown | Miss::Away => return None,
            Miss::Stranger if has_secret => (
                "the gateway that has the device does not take this one's secret; give both the same",
                format!("it does not take this one's secret; give both the same ({PEER_SECRET})"),
            ),
            Miss::Stranger => (
                "the gateway that has the device wants a secret, and this one shows none",
                format!("it wants a secret, and this one shows none; give it one ({PEER_SECRET})"),
            ),
            Miss::Foreign(status) => (
                "what the directory names is not the port of a gateway for others",
                format!(
                    "what the directory names answered {status}, and is not the port of a gateway for others; correct the directory, or that gateway's own URL ({ADVERTISE}); ptth cluster check says which port it is"
                ),
            ),
            Miss::Untrusted => (
                "the gateway that has the device does not take this one's certificate",
                untrusted(alert),
            ),
        };
        Some(Mismatch { told, logged })
    }
}

#[cfg(feature = "tls")]
fn untrusted(alert: &str) -> String {
    format!(
        "it does not take this one's certificate: {alert}; its {PEERS_CLIENT_CA} has to have the CA of this one's certificate ({PEERS_IDENTITY})"
    )
}

#[cfg(not(feature = "tls"))]
fn untrusted(alert: &str) -> String {
    alert.to_owned() // without TLS there is no certificate
}
