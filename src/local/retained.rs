//! The retained message of each topic (MQTT 3.3.1.3). Pure.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::limits::Limits;
use super::publication::{Publication, QoS};
use super::topic;

/// All retained messages, by topic name.
#[derive(Default)]
pub(super) struct Retained {
    messages: BTreeMap<Box<str>, (Publication, QoS)>,
    bytes: usize,
}

/// A retained message was not kept because of `Limits::retained_messages_max` or `_bytes_max`. The
/// topic's previous one is gone as well: an outdated value would be worse than none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Retained {
    /// Forgets the retained message of `name`. Returns whether there was one.
    pub(super) fn clear(&mut self, name: &str) -> bool {
        let removed = self.messages.remove(name);
        if let Some((old, _)) = &removed {
            self.bytes -= old.cost_bytes();
        }
        removed.is_some()
    }

    /// Keeps a message that a restart has brought back.
    pub(super) fn restore(&mut self, name: &str, publication: Publication, qos: QoS) {
        self.clear(name);
        self.bytes += publication.cost_bytes();
        self.messages.insert(name.into(), (publication, qos));
    }

    /// All of them, by topic name.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &(Publication, QoS))> {
        self.messages
            .iter()
            .map(|(name, message)| (&**name, message))
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
        self.clear(name);
        let cost = publication.cost_bytes();
        let is_full = |retained: &Self| {
            retained.messages.len() >= limits.retained_messages_max
                || retained.bytes + cost > limits.retained_bytes_max
        };
        if is_full(self) {
            self.forget_expired(now);
        }
        if is_full(self) {
            return Err(Full);
        }
        self.bytes += cost;
        self.messages.insert(name.into(), (publication, qos));
        Ok(())
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
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
        let bytes = &mut self.bytes;
        self.messages.retain(|_, (publication, _)| {
            let stays = !publication.has_expired(now);
            if !stays {
                *bytes -= publication.cost_bytes();
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::packet::Publish;

    fn payloads(retained: &Retained, filter: &str) -> Vec<Vec<u8>> {
        let matching = retained.matching(filter, Instant::now());
        matching
            .map(|(message, _)| message.parts().1.to_vec())
            .collect()
    }

    fn set(retained: &mut Retained, name: &str, payload: &[u8], limits: &Limits) -> bool {
        let (qos, now) = (QoS::AtMostOnce, Instant::now());
        let message = Publication::new(&Publish::plain(name, payload, qos, true), now);
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
