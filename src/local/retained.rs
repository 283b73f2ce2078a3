//! The retained message of each topic (MQTT 3.3.1.3). Each change is handed to whoever keeps them on disk, who does not
//! let it wait.

use tokio::time::Instant;

use super::keeping::{Desk, Messages};
use super::limits::Limits;
use super::publication::{Publication, QoS};
use super::topic;

/// All retained messages, by topic name.
#[derive(Default)]
pub(super) struct Retained {
    messages: Messages,
    bytes: usize,
    /// `None` if they are in memory only.
    desk: Option<Desk>,
}

/// A retained message was not kept because of `Limits::retained_messages_max` or `_bytes_max`. The
/// topic's previous one is gone as well: an outdated value would be worse than none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Retained {
    /// Those that were kept, as far as the limits let them, and where changes are handed in from now on. Returns how
    /// many the limits kept out.
    pub(super) fn restore(
        &mut self,
        messages: Messages,
        desk: Desk,
        limits: &Limits,
        now: Instant,
    ) -> usize {
        self.desk = Some(desk);
        let mut left_out = 0;
        for (name, (publication, qos)) in messages {
            self.insert(&name, (publication, qos));
            if self.is_full(limits) {
                self.forget_expired(now);
            }
            if self.is_full(limits) {
                self.clear(&name);
                left_out += 1;
            }
        }
        left_out
    }

    /// Forgets the retained message of `name`.
    pub(super) fn clear(&mut self, name: &str) {
        if let Some((old, _)) = self.messages.remove(name) {
            self.bytes -= old.cost_bytes();
            self.tell(name);
        }
    }

    /// Keeps a message as the retained one of `name`.
    pub(super) fn set(
        &mut self,
        name: &str,
        publication: Publication,
        qos: QoS,
        limits: &Limits,
        now: Instant,
    ) -> Result<(), Full> {
        let message = (publication, qos);
        if self.messages.get(name) == Some(&message) {
            return Ok(()); // and nothing is written
        }
        let is_new = self.insert(name, message);
        if self.is_full(limits) {
            self.forget_expired(now);
        }
        let is_full = self.is_full(limits);
        if is_full && let Some((message, _)) = self.messages.remove(name) {
            self.bytes -= message.cost_bytes();
        }
        if !(is_full && is_new) {
            self.tell(name);
        }
        if is_full { Err(Full) } else { Ok(()) }
    }

    /// Returns whether the topic had none.
    fn insert(&mut self, name: &str, message: (Publication, QoS)) -> bool {
        self.bytes += message.0.cost_bytes();
        let old = self.messages.insert(name.into(), message);
        if let Some((old, _)) = &old {
            self.bytes -= old.cost_bytes();
        }
        old.is_none()
    }

    fn is_full(&self, limits: &Limits) -> bool {
        self.messages.len() > limits.retained_messages_max || self.bytes > limits.retained_bytes_max
    }

    fn tell(&self, name: &str) {
        if let Some(desk) = &self.desk {
            desk.changed(name, self.messages.get(name), &self.messages);
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Bytes kept, counted afresh. Panics if the books are wrong; for tests and fuzzing.
    pub(super) fn audit(&self) -> usize {
        let messages = self.messages.values();
        let bytes = messages.map(|(publication, _)| publication.cost_bytes());
        assert_eq!(
            self.bytes,
            bytes.sum::<usize>(),
            "the bytes of retained messages"
        );
        self.bytes
    }

    /// The retained messages that match `filter` and have not expired, by topic name.
    pub(super) fn matching<'a>(
        &'a self,
        filter: &'a str,
        now: Instant,
    ) -> impl Iterator<Item = &'a (Publication, QoS)> {
        self.messages
            .iter()
            .filter(move |(name, _)| topic::matches(filter, name))
            .map(|(_, message)| message)
            .filter(move |(publication, _)| !publication.has_expired(now))
    }

    fn forget_expired(&mut self, now: Instant) {
        let mut names = Vec::new();
        for (name, (publication, _)) in &self.messages {
            if publication.has_expired(now) {
                names.push(name.clone());
            }
        }
        for name in names {
            self.clear(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::memory::Memory;
    use crate::local::packet::Publish;

    fn payloads(retained: &Retained, filter: &str) -> Vec<Vec<u8>> {
        let matching = retained.matching(filter, Instant::now());
        matching
            .map(|(message, _)| message.parts().1.to_vec())
            .collect()
    }

    fn set(retained: &mut Retained, name: &str, payload: &[u8], limits: &Limits) -> bool {
        let (qos, now) = (QoS::AtMostOnce, Instant::now());
        let message = Publication::new(
            &Publish::plain(name, payload, qos, true),
            now,
            &Memory::default(),
        );
        retained.set(name, message, qos, limits, now).is_ok()
    }

    #[test]
    fn the_latest_message_of_each_topic_is_kept_until_cleared() {
        let (mut retained, limits) = (Retained::default(), Limits::default());
        assert!(set(&mut retained, "a/1", b"old", &limits));
        assert!(set(&mut retained, "a/2", b"two", &limits));
        assert!(set(&mut retained, "a/1", b"new", &limits));
        assert_eq!(payloads(&retained, "a/+"), [b"new", b"two"]);
        retained.clear("a/1");
        retained.clear("never/there");
        assert_eq!(payloads(&retained, "#"), [b"two"]);
        retained.clear("a/2");
        assert_eq!(retained.bytes, 0);
    }

    #[test]
    fn beyond_either_limit_a_topic_has_no_retained_message() {
        let limits = Limits {
            retained_messages_max: 2,
            retained_bytes_max: 300,
            ..Limits::default()
        };
        let mut retained = Retained::default();
        assert!(set(&mut retained, "a", b"1", &limits) && set(&mut retained, "b", b"1", &limits));
        assert!(
            !set(&mut retained, "c", b"1", &limits),
            "two topics are the limit"
        );
        assert!(
            set(&mut retained, "a", b"2", &limits),
            "replacing needs no room"
        );
        assert!(
            !set(&mut retained, "a", &[0; 300], &limits),
            "too many bytes"
        );
        assert_eq!(payloads(&retained, "#"), [b"1"]);
    }
}
