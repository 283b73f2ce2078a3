//! What the cloud has for its clients: subscriptions, and messages that wait for an acknowledgement. A mailbox outlives
//! its connection if the client's session does.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// A message for a client.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    /// It was sent before, on another connection.
    pub(crate) dup: bool,
}

#[derive(Default)]
struct Mailbox {
    filters: Vec<String>,
    waiting: VecDeque<Letter>,
    /// Sent, by packet identifier.
    unacknowledged: BTreeMap<u16, Letter>,
    last_packet_id: u16,
    acknowledged: usize,
    bell: Arc<Notify>,
}

/// All of them, by client id.
#[derive(Default)]
pub(crate) struct Mailboxes(Mutex<HashMap<String, Mailbox>>);

impl Mailboxes {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Mailbox>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the client's mailbox, the one it had if its session is `present`. Returns what rings for new messages.
    pub(crate) fn open(&self, client_id: &str, present: bool) -> Arc<Notify> {
        let mut all = self.all();
        let mailbox = all.entry(client_id.to_owned()).or_default();
        let bell = Arc::new(Notify::new());
        let kept = std::mem::take(mailbox);
        if present {
            let sent = kept.unacknowledged.into_values();
            let again = sent.map(|letter| Letter {
                dup: true,
                ..letter
            });
            mailbox.waiting = again.chain(kept.waiting).collect();
            mailbox.filters = kept.filters;
        }
        mailbox.acknowledged = kept.acknowledged;
        mailbox.bell = Arc::clone(&bell);
        bell.notify_one();
        bell
    }

    /// Subscribes the client to `filters`.
    pub(crate) fn subscribe(&self, client_id: &str, filters: Vec<String>) {
        if let Some(mailbox) = self.all().get_mut(client_id) {
            mailbox.filters.retain(|own| !filters.contains(own));
            mailbox.filters.extend(filters);
        }
    }

    /// The filters that the client is subscribed to.
    pub(crate) fn filters(&self, client_id: &str) -> Vec<String> {
        let all = self.all();
        all.get(client_id)
            .map(|mailbox| mailbox.filters.clone())
            .unwrap_or_default()
    }

    /// Puts a message into every mailbox that wants it; says into how many.
    pub(crate) fn deliver(&self, topic: &str, payload: &[u8]) -> usize {
        let mut count = 0;
        for mailbox in self.all().values_mut() {
            if mailbox.filters.iter().any(|filter| matches(filter, topic)) {
                mailbox.waiting.push_back(Letter {
                    topic: topic.to_owned(),
                    payload: Bytes::copy_from_slice(payload),
                    dup: false,
                });
                mailbox.bell.notify_one();
                count += 1;
            }
        }
        count
    }

    /// The next message to send, with its packet identifier.
    pub(crate) fn next(&self, client_id: &str) -> Option<(u16, Letter)> {
        let mut all = self.all();
        let mailbox = all.get_mut(client_id)?;
        let letter = mailbox.waiting.pop_front()?;
        mailbox.last_packet_id = mailbox.last_packet_id.checked_add(1).unwrap_or(1);
        mailbox
            .unacknowledged
            .insert(mailbox.last_packet_id, letter.clone());
        Some((mailbox.last_packet_id, letter))
    }

    /// Notes a PUBACK. Returns whether a message waited for it.
    pub(crate) fn acknowledge(&self, client_id: &str, packet_id: u16) -> bool {
        let mut all = self.all();
        let Some(mailbox) = all.get_mut(client_id) else {
            return false;
        };
        let known = mailbox.unacknowledged.remove(&packet_id).is_some();
        mailbox.acknowledged += usize::from(known);
        known
    }

    /// How many messages the client has acknowledged.
    pub(crate) fn acknowledged(&self, client_id: &str) -> usize {
        self.all()
            .get(client_id)
            .map_or(0, |mailbox| mailbox.acknowledged)
    }
}

/// Whether `filter` matches the topic `name` (MQTT 3.1.1, section 4.7).
fn matches(filter: &str, name: &str) -> bool {
    let mut levels = name.split('/');
    for level in filter.split('/') {
        match (level, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (level, Some(found)) if level == found => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_was_not_acknowledged_comes_again_with_dup_if_the_session_is_present() {
        let mailboxes = Mailboxes::default();
        mailboxes.open("device", false);
        mailboxes.subscribe("device", vec!["a/+".to_owned(), "b/#".to_owned()]);
        assert_eq!(mailboxes.deliver("a/1", b"first"), 1);
        assert_eq!(mailboxes.deliver("a/1/2", b"nobody"), 0);
        assert_eq!(mailboxes.deliver("b", b"second"), 1);
        let (first, letter) = mailboxes.next("device").unwrap();
        assert!(!letter.dup);
        let (second, _) = mailboxes.next("device").unwrap();
        assert!(
            mailboxes.acknowledge("device", second) && !mailboxes.acknowledge("device", second)
        );
        mailboxes.open("device", true);
        let (_, again) = mailboxes.next("device").unwrap();
        assert!(again.dup && again.topic == "a/1" && first != second);
        assert!(mailboxes.next("device").is_none());
        mailboxes.open("device", false);
        assert!(mailboxes.filters("device").is_empty() && mailboxes.next("device").is_none());
    }
}
