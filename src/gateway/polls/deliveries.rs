//! Events in delivery: which device has which event, since when, and which have to be sent again.
//! Pure data, no socket.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::connections::Id;
use crate::engine::random;
use crate::engine::slab::Key;
use crate::gateway::registry::{Owner, Registration};
use crate::proto::digits::{from_hex, hex};

/// The id of an event: 16 random bytes, in hexadecimal on the wire.
pub(crate) type MessageId = [u8; 16];

/// An event that was sent to a device, or is being sent.
pub(crate) struct Handed {
    pub(crate) key: Key,
    pub(crate) downstream: Id,
    pub(crate) name: Box<str>,
    /// The owner to which it was sent last.
    pub(crate) owner: Owner,
    pub(crate) registration: Arc<Registration>,
    /// When it has to be answered.
    pub(crate) until: Instant,
    /// It was written completely at least once: the device may be working on it.
    pub(crate) told: bool,
    /// It was sent a second time after a silence.
    pub(crate) repeated: bool,
    /// Its device counts as connected.
    pub(crate) present: bool,
}

/// A request that is being sent to a device as an event.
#[derive(Clone, Copy)]
pub(crate) struct Outgoing<'n> {
    pub(crate) event: MessageId,
    pub(crate) key: Key,
    pub(crate) downstream: Id,
    /// Its device.
    pub(crate) name: &'n str,
}

/// Whether an event is sent to a device for the first time or again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    First,
    Again,
    /// Again, after the device had closed the connection on which the event was sent.
    Back,
}

/// When an event has to be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Never,
    In(Duration),
    Now(MessageId),
}

/// Events in delivery.
#[derive(Default)]
pub(crate) struct Deliveries {
    handed: HashMap<MessageId, Handed>,
    /// When each was completely written, oldest first; answered ones are skipped.
    unanswered: VecDeque<(Instant, MessageId)>,
    /// The role's alarm for those is set.
    alarm: bool,
    random: Vec<u8>,
}

impl Deliveries {
    pub(crate) fn are_in_hand(&self) -> bool {
        !self.handed.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn in_hand(&self) -> usize {
        self.handed.len()
    }

    pub(crate) fn get(&self, event: &MessageId) -> Option<&Handed> {
        self.handed.get(event)
    }

    /// An event is sent to a device, for the first time or again. Returns which, for the registry.
    pub(crate) fn hand(&mut self, event: MessageId, handed: Handed) -> Given {
        match self.handed.entry(event) {
            Entry::Vacant(vacant) => {
                vacant.insert(handed);
                Given::First
            }
            Entry::Occupied(known) => {
                let known = known.into_mut();
                (known.owner, known.registration) = (handed.owner, handed.registration);
                match std::mem::replace(&mut known.present, true) {
                    true => Given::Again,
                    false => Given::Back,
                }
            }
        }
    }

    /// Removes an event that was answered, or whose caller has left.
    pub(crate) fn take(&mut self, event: &MessageId) -> Option<Handed> {
        let taken = self.handed.remove(event)?;
        while self.unanswered.front().is_some_and(|(_, id)| !self.handed.contains_key(id)) {
            self.unanswered.pop_front();
        }
        Some(taken)
    }

    /// An event was completely written. With `later` it is checked again. Returns true if an alarm
    /// has to be set for that.
    pub(crate) fn written(&mut self, event: MessageId, now: Instant, later: bool) -> bool {
        let Some(handed) = self.handed.get_mut(&event) else { return false };
        handed.told = true;
        if later {
            self.unanswered.push_back((now, event));
        }
        later && !std::mem::replace(&mut self.alarm, true)
    }

    /// The device has closed the connection on which it received this event. Returns its name, if
    /// it counted as connected because of the event.
    pub(crate) fn desert(&mut self, event: &MessageId) -> Option<&str> {
        let handed = self.handed.get_mut(event)?;
        std::mem::take(&mut handed.present).then_some(&*handed.name)
    }

    pub(crate) fn alarm_over(&mut self) {
        self.alarm = false;
    }

    /// The next event that was written this long ago, and not sent again since.
    pub(crate) fn next_due(&mut self, now: Instant, after: Duration) -> Due {
        while let Some((at, event)) = self.unanswered.front().copied() {
            let rest = after.saturating_sub(now.saturating_duration_since(at));
            if !rest.is_zero() {
                self.alarm = true;
                return Due::In(rest);
            }
            self.unanswered.pop_front();
            if self.handed.get(&event).is_some_and(|handed| !handed.repeated) {
                return Due::Now(event);
            }
        }
        Due::Never
    }

    /// An event is sent a second time after a silence.
    pub(crate) fn repeat(&mut self, event: &MessageId) {
        self.handed.get_mut(event).into_iter().for_each(|handed| handed.repeated = true);
    }

    /// The events that match, in an order that does not depend on the hash table, so that a
    /// simulated run can be repeated.
    pub(crate) fn those(&self, like: impl Fn(&Handed) -> bool) -> Vec<MessageId> {
        let found = self.handed.iter().filter(|(_, handed)| like(handed));
        let mut found: Vec<MessageId> = found.map(|(id, _)| *id).collect();
        found.sort_unstable();
        found
    }

    /// Returns true if this event was sent to a device with this registration (protocol.md §2.1,
    /// *identity*).
    pub(crate) fn is_for(
        &self,
        event: &MessageId,
        registration: &Registration,
        owner: &Owner,
    ) -> bool {
        let mine = |handed: &Handed| {
            handed.owner == *owner && registration.names().any(|name| **name == *handed.name)
        };
        self.handed.get(event).is_some_and(mine)
    }

    pub(crate) fn draw_id(&mut self) -> Option<MessageId> {
        if self.random.is_empty() {
            let mut bytes = vec![0; 1024];
            if let Err(e) = random::fill(&mut bytes) {
                log::error!("no message id can be drawn: {e}");
                return None;
            }
            self.random = bytes;
        }
        let id = *self.random.last_chunk::<16>()?;
        self.random.truncate(self.random.len() - 16);
        Some(id)
    }
}

/// Parses one of our ids from the wire.
pub(crate) fn read_id(text: &str) -> Option<MessageId> {
    from_hex(text.as_bytes()).filter(|_| !text.bytes().any(|digit| digit.is_ascii_uppercase()))
}

pub(crate) fn id_text(id: &MessageId) -> String {
    hex(id)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::engine::slab::Slab;
    use crate::gateway::registry::Registry;
    use crate::limits::Limits;
    use crate::proto::turn::Transport;

    #[test]
    fn only_ids_of_our_own_form_are_read() {
        let id = [0x0F; 16];
        assert_eq!(read_id(&id_text(&id)), Some(id));
        for text in [
            "",
            "xxx",
            &"0F".repeat(16),
            &"0f".repeat(15),
            &"0f".repeat(17),
            &"0g".repeat(16),
            &"é".repeat(16),
        ] {
            assert_eq!(read_id(text), None, "{text}");
        }
    }

    fn handed(now: Instant) -> Handed {
        let (limits, key) = (Arc::new(Limits::default()), Slab::new().insert(()));
        let owner = Owner {
            credential: None,
            session: None,
            token: None,
            certificate: None,
            airplay: false,
        };
        let claimed = Registry::alone(limits, false)
            .claim(&["lamp".to_owned()], &owner, Transport::Turn, now)
            .unwrap();
        Handed {
            key,
            downstream: key,
            name: "lamp".into(),
            owner,
            registration: claimed.registration,
            until: now,
            told: false,
            repeated: false,
            present: true,
        }
    }

    #[test]
    fn an_event_is_due_once_after_a_silence_and_never_when_it_is_answered() {
        let (mut deliveries, now) = (Deliveries::default(), Instant::now());
        let (first, second, after) = ([1; 16], [2; 16], Duration::from_secs(10));
        for event in [first, second] {
            assert_eq!(deliveries.hand(event, handed(now)), Given::First);
        }
        assert!(deliveries.written(first, now, true), "an alarm is to be set");
        assert!(!deliveries.written(second, now + after / 2, true), "one is enough");
        assert_eq!(deliveries.next_due(now, after), Due::In(after));
        assert_eq!(deliveries.next_due(now + after, after), Due::Now(first));
        deliveries.repeat(&first);
        assert_eq!(deliveries.next_due(now + after, after), Due::In(after / 2));
        assert!(!deliveries.written(first, now + after, true));
        assert!(deliveries.take(&second).is_some() && deliveries.take(&second).is_none());
        assert_eq!(deliveries.next_due(now + 9 * after, after), Due::Never, "once and no more");
        assert!(deliveries.take(&first).is_some() && !deliveries.are_in_hand());
    }

    #[test]
    fn a_device_that_left_counts_as_connected_again_when_it_is_given_the_event_again() {
        let (mut deliveries, now) = (Deliveries::default(), Instant::now());
        let event = [1; 16];
        deliveries.hand(event, handed(now));
        assert_eq!(deliveries.hand(event, handed(now)), Given::Again);
        assert_eq!(deliveries.desert(&event), Some("lamp"));
        assert_eq!(deliveries.desert(&event), None, "it left before");
        assert_eq!(deliveries.hand(event, handed(now)), Given::Back);
        assert!(deliveries.those(|handed| handed.present).contains(&event));
    }

    #[test]
    fn ids_differ() {
        let mut events = Deliveries::default();
        let ids: std::collections::HashSet<MessageId> =
            (0..1000).map(|_| events.draw_id().unwrap()).collect();
        assert_eq!(ids.len(), 1000);
    }
}
