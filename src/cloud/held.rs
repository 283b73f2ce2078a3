//! Messages that the cloud did not accept, waiting for their next try. Pure.
//!
//! They stay in the spool, unsettled, so nothing is lost when a connection ends and these are forgotten: the next
//! one gets them again. Only how long each has been refused is remembered ([`Troubles`]).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::packet::Rejection;
use crate::backoff::Backoff;
use crate::spool::Seq;

/// So many messages are held at most. Further ones that are refused stay in the spool for later.
const HELD_MAX: usize = 100;
/// No more are held while they take so much memory, in bytes.
const HELD_BYTES_MAX: usize = 2 * 1024 * 1024;
/// So many troubles are remembered: of all that are held, in flight and in line.
const TROUBLES_MAX: usize = 4 * HELD_MAX;
/// The first retry of a message comes within this.
const RETRY_BASE: Duration = Duration::from_secs(1);
/// Further ones are at most this far apart. A policy takes minutes to spread.
const RETRY_MAX: Duration = Duration::from_mins(1);

/// What happened to one message so far.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    backoff: Backoff,
    since: Instant,
    rejection: Rejection,
}

impl Trouble {
    /// Counts a refusal and says when to try again. With `random`, see [`Backoff::next_delay`].
    pub(super) fn refused(
        so_far: Option<Trouble>,
        rejection: Rejection,
        now: Instant,
        random: f64,
    ) -> (Self, Instant) {
        let mut trouble = so_far.unwrap_or(Trouble {
            backoff: Backoff::new(RETRY_BASE, RETRY_MAX),
            since: now,
            rejection,
        });
        if trouble.refused_for(now).is_none() {
            trouble.since = now;
        }
        trouble.rejection = rejection;
        let due = now + trouble.backoff.next_delay(random);
        (trouble, due)
    }

    /// How long it has been refused; `None` if only the rate was.
    pub(super) fn refused_for(&self, now: Instant) -> Option<Duration> {
        (!concerns_all(self.rejection)).then(|| now.duration_since(self.since))
    }
}

/// The troubles of messages that are not held now, but are still in the spool.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    by_seq: BTreeMap<Seq, Trouble>,
}

impl Troubles {
    /// Remembers one. The newest message's is forgotten when there are too many.
    pub(super) fn remember(&mut self, seq: Seq, trouble: Trouble) {
        self.by_seq.insert(seq, trouble);
        if self.by_seq.len() > TROUBLES_MAX {
            self.by_seq.pop_last();
        }
    }

    /// Gives out the one of the message `seq`.
    pub(super) fn take(&mut self, seq: Seq) -> Option<Trouble> {
        self.by_seq.remove(&seq)
    }

    /// Forgets those of messages before `seq`: they have left the spool.
    pub(super) fn forget_before(&mut self, seq: Seq) {
        self.by_seq = self.by_seq.split_off(&seq);
    }
}

#[derive(Debug)]
struct Waiting<T> {
    due: Instant,
    topic: String,
    message: T,
    /// How much memory the message takes.
    bytes: usize,
}

/// The messages `T` that wait.
#[derive(Debug)]
pub(super) struct Held<T> {
    /// In the order in which they were held.
    waiting: Vec<Waiting<T>>,
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Held {
            waiting: Vec::new(),
        }
    }
}

impl<T> Held<T> {
    /// Keeps `message`, which takes `bytes` bytes, for the cloud topic `topic` until `due`.
    pub(super) fn hold(&mut self, topic: String, (message, bytes): (T, usize), due: Instant) {
        self.waiting.push(Waiting {
            due,
            topic,
            message,
            bytes,
        });
    }

    /// Whether no more should be held.
    pub(super) fn is_full(&self) -> bool {
        let bytes = self.waiting.iter().map(|one| one.bytes + one.topic.len());
        self.waiting.len() >= HELD_MAX || bytes.sum::<usize>() >= HELD_BYTES_MAX
    }

    /// Whether one for `topic` waits: its tries tell how things stand with the topic.
    pub(super) fn has(&self, topic: &str) -> bool {
        self.waiting.iter().any(|waiting| waiting.topic == topic)
    }

    /// Takes out the last one of a topic that has others here, if `topic` has none: so each topic that is refused goes
    /// on being tried.
    pub(super) fn make_room_for(&mut self, topic: &str) -> Option<T> {
        if self.has(topic) {
            return None;
        }
        let of_many = |one: &Waiting<T>| {
            let same = self.waiting.iter().filter(|other| other.topic == one.topic);
            same.count() > 1
        };
        let index = self.waiting.iter().rposition(of_many)?;
        Some(self.waiting.remove(index).message)
    }

    /// All of them.
    pub(super) fn messages(&self) -> impl Iterator<Item = &T> {
        self.waiting.iter().map(|waiting| &waiting.message)
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.due).min()
    }

    /// Takes all out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> {
        self.waiting.drain(..).map(|waiting| waiting.message)
    }

    /// Lets the next try of those be now for which `which` holds. Returns their topics.
    pub(super) fn hurry(&mut self, now: Instant, which: impl Fn(&T) -> bool) -> Vec<&str> {
        let chosen = self
            .waiting
            .iter_mut()
            .filter(|waiting| which(&waiting.message));
        let hurried = chosen.map(|waiting| {
            waiting.due = waiting.due.min(now);
            waiting.topic.as_str()
        });
        hurried.collect()
    }

    /// Takes out a message that is due, the one that was held first.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<T> {
        let index = self.waiting.iter().position(|waiting| waiting.due <= now)?;
        Some(self.waiting.remove(index).message)
    }
}

/// Whether a refusal is about all messages, and not about this one: then all of them wait.
pub(super) fn concerns_all(rejection: Rejection) -> bool {
    rejection == Rejection::QuotaExceeded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_message_comes_back_when_it_is_due_and_not_before() {
        let now = Instant::now();
        let mut held = Held::default();
        assert_eq!(held.next_due(), None);
        for (message, seconds) in [('a', 3), ('b', 1), ('c', 2)] {
            held.hold(
                String::new(),
                (message, 1),
                now + Duration::from_secs(seconds),
            );
        }
        assert_eq!(held.next_due(), Some(now + Duration::from_secs(1)));
        assert_eq!(held.take_due(now), None);
        let later = now + Duration::from_secs(2);
        assert_eq!(held.take_due(later), Some('b'));
        assert_eq!(held.take_due(later), Some('c'));
        assert_eq!(held.take_due(later), None);
        assert_eq!(held.next_due(), Some(now + Duration::from_secs(3)));
    }

    #[test]
    fn retries_of_one_message_get_further_apart_up_to_a_limit() {
        let now = Instant::now();
        let (mut trouble, due) = Trouble::refused(None, Rejection::QuotaExceeded, now, 1.0);
        assert_eq!(due, now + RETRY_BASE);
        assert_eq!(trouble.refused_for(now), None);
        let mut last = due;
        let start = now + RETRY_MAX;
        for _ in 0..10 {
            (trouble, last) = Trouble::refused(Some(trouble), Rejection::NotAuthorized, start, 1.0);
        }
        assert_eq!(last, start + RETRY_MAX);
        assert_eq!(trouble.refused_for(last), Some(RETRY_MAX));
    }

    fn full(topic: impl Fn(usize) -> String) -> Held<usize> {
        let mut held = Held::default();
        for count in 0..HELD_MAX {
            assert!(!held.is_full(), "{count}");
            held.hold(topic(count), (count, 1), Instant::now());
        }
        assert!(held.is_full());
        held
    }

    #[test]
    fn a_topic_with_many_makes_room_for_one_with_none_until_each_has_one() {
        let mut held = full(|_| "a".to_owned());
        assert_eq!(held.make_room_for("a"), None);
        for (count, other) in ["b", "c"].into_iter().enumerate() {
            assert_eq!(held.make_room_for(other), Some(HELD_MAX - 1 - count));
            held.hold(other.to_owned(), (0, 1), Instant::now());
            assert_eq!(held.make_room_for(other), None);
        }
        assert_eq!(full(|count| count.to_string()).make_room_for("b"), None);
    }

    #[test]
    fn large_messages_fill_it_sooner() {
        const LARGE: usize = 196 * 1024;
        let mut held = Held::default();
        while !held.is_full() {
            held.hold(
                "a".to_owned(),
                (held.messages().count(), LARGE),
                Instant::now(),
            );
        }
        let count = held.messages().count();
        assert_eq!(count, HELD_BYTES_MAX.div_ceil(LARGE));
        assert_eq!(held.make_room_for("b"), Some(count - 1));
        assert!(!held.is_full());
    }

    #[test]
    fn a_bounded_number_of_troubles_is_remembered_until_the_message_is_seen_or_gone() {
        let (trouble, _) = Trouble::refused(None, Rejection::Unspecified, Instant::now(), 1.0);
        let mut troubles = Troubles::default();
        for seq in 0..2_000 {
            troubles.remember(seq, trouble.clone());
        }
        assert_eq!(troubles.by_seq.len(), TROUBLES_MAX);
        assert!(troubles.take(1).is_some() && troubles.take(1).is_none());
        troubles.forget_before(10);
        assert!(troubles.take(9).is_none() && troubles.take(10).is_some());
    }

    #[test]
    fn only_those_that_are_meant_are_hurried() {
        let now = Instant::now();
        let mut held = Held::default();
        for (topic, message) in [("a", 1), ("b", 2), ("c", 3)] {
            held.hold(topic.to_owned(), (message, 1), now + RETRY_MAX);
        }
        assert_eq!(held.hurry(now, |message| *message < 3), ["a", "b"]);
        assert_eq!((held.take_due(now), held.take_due(now)), (Some(1), Some(2)));
        assert_eq!(held.take_due(now), None);
    }
}
