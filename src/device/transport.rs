//! How the device is connected, and reports of changes.

use std::sync::atomic::Ordering::Relaxed;

use crate::close_reason::CloseReason;
use crate::device::counters::TRANSPORTS;
use crate::device::events::DeviceEventKind;
use crate::device::role::DeviceRole;
use crate::device::state::State;
use crate::engine::connections::Connections;
use crate::proto::turn::Transport;

/// After this many brief consecutive links, the gateway is assumed to end all links early.
pub(super) const BRIEF_MAX: usize = 10;

impl DeviceRole {
    /// Returns true if links usually end soon and the next ones are being dialled, so that the end
    /// of the last link is not reported.
    pub(super) fn comes_and_goes(&self) -> bool {
        self.signs.holds || self.tries.brief > BRIEF_MAX
    }

    /// Reports a change: the device is disconnected (`why`), or connected, or has another
    /// transport, through the gateway at `url`.
    pub(super) fn update_transport(
        &mut self,
        cx: &mut Connections<State>,
        url: &str,
        why: Option<&CloseReason>,
    ) {
        let is_held = self.comes_and_goes()
            && self.transport == Some(Transport::Turn)
            && self.shared.dialing.load(Relaxed) > 0;
        let transport = match (self.shared.links.load(Relaxed), self.polls_with()) {
            (0, None) if is_held => Some(Transport::Turn),
            (0, None) => None,
            (0, Some(encoding)) => Some(Transport::Comet(encoding)),
            _ => Some(Transport::Turn),
        };
        if transport == self.transport {
            return;
        }
        self.transport = transport;
        let place =
            transport.and_then(|transport| TRANSPORTS.iter().position(|known| *known == transport));
        self.shared.transport.store(place.map_or(0, |place| place as u8 + 1), Relaxed); // below TRANSPORTS.len()
        let gateway = self.current_gateway();
        let url = if url.is_empty() { &gateway.url.text } else { url };
        match transport {
            None => {
                let text = why.map_or(String::new(), |why| why.text.to_string());
                let because = why.map_or(String::new(), |why| format!(": {why}"));
                log_names!(
                    Info,
                    "disconnected {} from {}{because}",
                    gateway.name,
                    gateway.url.text
                );
                self.publish(
                    DeviceEventKind::Disconnected,
                    &gateway,
                    &gateway.url.text,
                    text,
                    why.map(|why| why.cause),
                );
                self.mode.end_swallowed(); // the next network path may be another
                self.begin_again(cx);
            }
            Some(Transport::Turn) => self.tell(
                DeviceEventKind::Connected,
                &gateway,
                url,
                format!("{} turn", self.plan.offer.dialect.token),
            ),
            Some(transport) => {
                self.tell(DeviceEventKind::Connected, &gateway, url, transport.to_string())
            }
        }
    }
}
