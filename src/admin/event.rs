//! An event in JSON, as the feed keeps it.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::gateway::GatewayEvent;
use crate::proto::turn::{Encoding, Transport};

/// One event, with its number.
pub(super) fn event(id: u64, event: &GatewayEvent) -> Value {
    json!({
        "id": id,
        "at": unix_seconds(event.at),
        "kind": event.kind.as_str(),
        "device": event.name,
        "reason": event.detail,
        "transport": event.transport.map(transport_name),
        "cause": event.cause.map(|cause| cause.as_str()),
        "missed": event.missed,
    })
}

pub(super) fn unix_seconds(at: SystemTime) -> f64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (since.as_secs_f64() * 1000.0).round() / 1000.0
}

/// A transport as JSON, metrics and pages name it.
pub(super) fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Turn => "upgrade",
        Transport::Comet(Encoding::Json) => "comet-json",
        Transport::Comet(_) => "comet-message",
    }
}
