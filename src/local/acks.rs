//! The acknowledgements that one client is owed, in the order its PUBLISH packets came. Pure.
//!
//! Invariant: an acknowledgement that waits for a sequence number is not handed out before the
//! watermark has passed it, and none overtakes an earlier one (MQTT-4.6.0-2, -3): one for a message
//! that stays on the device waits behind one for the cloud. So it is with PUBRELs among themselves (MQTT-4.6.0-4), and
//! with SUBACKs. But no kind waits for another: a spool without room holds up no subscription.

use std::collections::VecDeque;

use super::packet::{Ack, Reply};
use crate::spool::Seq;

/// An empty queue that has grown beyond this many entries gives its memory back.
const CAPACITY_KEPT: usize = 64;

/// What must be safe before an acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Awaits {
    /// In the spool.
    pub(super) spool: Option<Seq>,
    /// In the journal: the last change.
    pub(super) journal: Option<Seq>,
}

impl Awaits {
    /// What both wait for.
    pub(super) fn and(self, other: Awaits) -> Awaits {
        Awaits {
            spool: self.spool.max(other.spool),
            journal: self.journal.max(other.journal),
        }
    }

    pub(super) fn is_over(self, safe: Safe) -> bool {
        self.spool.is_none_or(|seq| seq < safe.spool)
            && self.journal.is_none_or(|number| number < safe.journal)
    }
}

impl From<Option<Seq>> for Awaits {
    fn from(spool: Option<Seq>) -> Self {
        Awaits {
            spool,
            journal: None,
        }
    }
}

/// The two watermarks: everything below is safe.
#[derive(Clone, Copy, Debug)]
pub(super) struct Safe {
    pub(super) spool: Seq,
    pub(super) journal: Seq,
}

/// What is owed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Reply(Reply),
    /// A packet that is encoded already: SUBACK or UNSUBACK.
    Encoded(Box<[u8]>),
}

impl Answer {
    /// Each kind is another bit.
    fn kind(&self) -> u8 {
        match self {
            Answer::Reply(_) if self.is_pubrel() => 1,
            Answer::Reply(_) => 2,
            Answer::Encoded(_) => 4,
        }
    }

    fn is_pubrel(&self) -> bool {
        matches!(self, Answer::Reply(reply) if reply.ack == Ack::PubRel)
    }
}

struct Entry {
    answer: Answer,
    awaits: Awaits,
    message_bytes: usize,
}

impl Entry {
    /// What it takes itself.
    fn bytes(&self) -> usize {
        let encoded = match &self.answer {
            Answer::Reply(_) => 0,
            Answer::Encoded(packet) => packet.len(),
        };
        size_of::<Entry>() + encoded
    }
}

/// The queue of acknowledgements owed.
#[derive(Default)]
pub(super) struct Owed {
    queue: VecDeque<Entry>,
    message_bytes: usize,
    own_bytes: usize,
}

impl Owed {
    /// Adds an acknowledgement that may leave when what it `awaits` is safe; if nothing, as soon as it is first in line.
    pub(super) fn owe(&mut self, answer: Answer, awaits: impl Into<Awaits>, message_bytes: usize) {
        let entry = Entry {
            answer,
            awaits: awaits.into(),
            message_bytes,
        };
        self.message_bytes += message_bytes;
        self.own_bytes += entry.bytes();
        self.queue.push_back(entry);
    }

    /// The next acknowledgement that may leave when everything below `safe` is safe.
    pub(super) fn release(&mut self, safe: Safe) -> Option<Answer> {
        let mut held_up = 0;
        let position = self.queue.iter().position(|entry| {
            let kind = entry.answer.kind();
            let is_due = held_up & kind == 0 && entry.awaits.is_over(safe);
            held_up |= kind;
            is_due
        })?;
        let entry = self.queue.remove(position)?;
        if self.queue.is_empty() && self.queue.capacity() > CAPACITY_KEPT {
            self.queue = VecDeque::new();
        }
        self.message_bytes -= entry.message_bytes;
        self.own_bytes -= entry.bytes();
        Some(entry.answer)
    }

    /// Whether a PUBREL is owed, which a later one must not overtake.
    pub(super) fn owes_pubrel(&self) -> bool {
        self.queue.iter().any(|entry| entry.answer.is_pubrel())
    }

    /// Whether nothing is owed.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes of the messages whose acknowledgement is owed.
    pub(super) fn unacknowledged_bytes(&self) -> usize {
        self.message_bytes
    }

    /// Bytes that the acknowledgements take themselves.
    pub(super) fn own_bytes(&self) -> usize {
        self.own_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn safe(spool: Seq) -> Safe {
        Safe { spool, journal: 0 }
    }

    fn released(owed: &mut Owed, spool: Seq) -> Vec<Reply> {
        let answers = std::iter::from_fn(|| owed.release(safe(spool)));
        let replies = answers.map(|answer| match answer {
            Answer::Reply(reply) => reply,
            Answer::Encoded(_) => panic!("nothing encoded is owed"),
        });
        replies.collect()
    }

    #[test]
    fn what_went_to_both_waits_for_both() {
        let mut owed = Owed::default();
        let awaits = Awaits {
            spool: Some(7),
            journal: Some(3),
        };
        owed.owe(Answer::Reply(Reply::new(Ack::PubAck, 1)), awaits, 100);
        for (spool, journal) in [(8, 3), (7, 4), (0, 0)] {
            assert_eq!(owed.release(Safe { spool, journal }), None);
        }
        let (spool, journal) = (8, 4);
        assert!(owed.release(Safe { spool, journal }).is_some());
    }

    #[test]
    fn an_acknowledgement_leaves_only_when_the_watermark_has_passed_its_message() {
        let mut owed = Owed::default();
        owed.owe(Answer::Reply(Reply::new(Ack::PubAck, 1)), Some(7), 100);
        assert_eq!(released(&mut owed, 6), []);
        assert_eq!(released(&mut owed, 7), []);
        assert_eq!(released(&mut owed, 8), [Reply::new(Ack::PubAck, 1)]);
        assert!(owed.is_empty());
    }

    #[test]
    fn none_overtakes_an_earlier_one() {
        let mut owed = Owed::default();
        owed.owe(Answer::Reply(Reply::new(Ack::PubAck, 1)), None, 0);
        owed.owe(Answer::Reply(Reply::new(Ack::PubRec, 2)), Some(0), 0);
        owed.owe(Answer::Reply(Reply::new(Ack::PubAck, 3)), None, 0);
        owed.owe(Answer::Reply(Reply::new(Ack::PubAck, 4)), Some(1), 0);
        assert_eq!(released(&mut owed, 0), [Reply::new(Ack::PubAck, 1)]);
        assert_eq!(
            released(&mut owed, 1),
            [Reply::new(Ack::PubRec, 2), Reply::new(Ack::PubAck, 3)]
        );
        assert_eq!(released(&mut owed, 2), [Reply::new(Ack::PubAck, 4)]);
    }

    #[test]
    fn each_kind_waits_only_for_its_own() {
        let mut owed = Owed::default();
        let journal = |number| Awaits {
            spool: None,
            journal: Some(number),
        };
        let pubrel = |id| Answer::Reply(Reply::new(Ack::PubRel, id));
        let suback = || Answer::Encoded(b"SUBACK"[..].into());
        owed.owe(Answer::Reply(Reply::new(Ack::PubAck, 1)), Some(7), 100);
        owed.owe(pubrel(1), journal(1), 0);
        owed.owe(suback(), journal(0), 0);
        owed.owe(pubrel(2), None, 0);
        let mut release = |spool, journal| owed.release(Safe { spool, journal });
        assert_eq!(release(7, 0), None);
        assert_eq!(release(7, 1), Some(suback()));
        assert_eq!(release(7, 1), None);
        assert_eq!(release(7, 2), Some(pubrel(1)));
        assert_eq!(release(7, 2), Some(pubrel(2)));
        assert_eq!(release(7, 2), None);
        assert!(release(8, 2).is_some());
        assert!(owed.is_empty());
    }

    #[test]
    fn bytes_count_from_owing_to_release() {
        let mut owed = Owed::default();
        owed.owe(Answer::Reply(Reply::new(Ack::PubAck, 1)), Some(0), 1_000);
        assert!(owed.unacknowledged_bytes() >= 1_000);
        owed.release(safe(1));
        assert_eq!(owed.unacknowledged_bytes(), 0);
    }

    #[test]
    fn what_acknowledgements_take_counts_from_owing_to_release() {
        let mut owed = Owed::default();
        let mut owe = |answer| {
            let before = owed.own_bytes();
            owed.owe(answer, None, 0);
            owed.own_bytes() - before
        };
        let reply = owe(Answer::Reply(Reply::new(Ack::PubRel, 1)));
        let suback = owe(Answer::Encoded([0; 200].into()));
        assert!(reply >= size_of::<(Answer, Awaits)>() && suback == reply + 200);
        while owed.release(safe(0)).is_some() {}
        assert_eq!(owed.own_bytes(), 0);
    }
}
