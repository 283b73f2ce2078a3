//! The acknowledgements that one client is owed, in the order its PUBLISH packets came. Pure.
//!
//! Invariant: an acknowledgement that waits for a sequence number is not handed out before the
//! watermark has passed it, and none overtakes an earlier one (MQTT-4.6.0-2, -3): one for a message
//! that stays on the device waits behind one for the cloud.

use std::collections::VecDeque;

use super::packet::Reply;
use crate::spool::Seq;

/// What an entry counts towards the limit of unacknowledged bytes besides its message.
const OVERHEAD_BYTES: usize = 32;

/// An empty queue that has grown beyond this many entries gives its memory back.
const CAPACITY_KEPT: usize = 1_024;

struct Entry {
    reply: Reply,
    /// The message that must be safe first.
    awaits: Option<Seq>,
    cost_bytes: usize,
}

/// The queue of acknowledgements owed.
#[derive(Default)]
pub(super) struct Owed {
    queue: VecDeque<Entry>,
    bytes: usize,
}

impl Owed {
    /// Adds an acknowledgement that may leave when the message `awaits` is safe; at once if `None`,
    /// as soon as it is first in line.
    pub(super) fn owe(&mut self, reply: Reply, awaits: Option<Seq>, message_bytes: usize) {
        let cost_bytes = message_bytes + OVERHEAD_BYTES;
        self.bytes += cost_bytes;
        self.queue.push_back(Entry {
            reply,
            awaits,
            cost_bytes,
        });
    }

    /// The next acknowledgement that may leave when everything below `safe` is safe.
    pub(super) fn release(&mut self, safe: Seq) -> Option<Reply> {
        let front = self.queue.front()?;
        if front.awaits.is_some_and(|seq| seq >= safe) {
            return None;
        }
        let entry = self.queue.pop_front()?;
        self.bytes -= entry.cost_bytes;
        if self.queue.is_empty() && self.queue.capacity() > CAPACITY_KEPT {
            self.queue = VecDeque::new();
        }
        Some(entry.reply)
    }

    /// Whether nothing is owed.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes of the messages whose acknowledgement is owed, bookkeeping included.
    pub(super) fn unacknowledged_bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::packet::Ack;

    fn released(owed: &mut Owed, safe: Seq) -> Vec<Reply> {
        std::iter::from_fn(|| owed.release(safe)).collect()
    }

    #[test]
    fn an_acknowledgement_leaves_only_when_the_watermark_has_passed_its_message() {
        let mut owed = Owed::default();
        owed.owe(Reply::new(Ack::PubAck, 1), Some(7), 100);
        assert_eq!(released(&mut owed, 6), []);
        assert_eq!(released(&mut owed, 7), []);
        assert_eq!(released(&mut owed, 8), [Reply::new(Ack::PubAck, 1)]);
        assert!(owed.is_empty());
    }

    #[test]
    fn none_overtakes_an_earlier_one() {
        let mut owed = Owed::default();
        owed.owe(Reply::new(Ack::PubAck, 1), None, 0);
        owed.owe(Reply::new(Ack::PubRec, 2), Some(0), 0);
        owed.owe(Reply::new(Ack::PubAck, 3), None, 0);
        owed.owe(Reply::new(Ack::PubAck, 4), Some(1), 0);
        assert_eq!(released(&mut owed, 0), [Reply::new(Ack::PubAck, 1)]);
        assert_eq!(
            released(&mut owed, 1),
            [Reply::new(Ack::PubRec, 2), Reply::new(Ack::PubAck, 3)]
        );
        assert_eq!(released(&mut owed, 2), [Reply::new(Ack::PubAck, 4)]);
    }

    #[test]
    fn bytes_count_from_owing_to_release() {
        let mut owed = Owed::default();
        owed.owe(Reply::new(Ack::PubAck, 1), Some(0), 1_000);
        assert!(owed.unacknowledged_bytes() >= 1_000);
        owed.release(1);
        assert_eq!(owed.unacknowledged_bytes(), 0);
    }
}
