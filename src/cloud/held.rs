//! Messages that the cloud did not accept, waiting for their next try. Pure.
//!
//! They stay in the spool, unsettled, so nothing is lost when a connection ends and these are forgotten: the next
//! one gets them again.

use std::time::Duration;

use tokio::time::Instant;

use super::packet::Rejection;
use crate::backoff::Backoff;

/// So many messages are held at most. Of those that were denied, further ones stay in the spool for later; while so
/// many were refused otherwise, nothing new is taken: then it is not single messages that are refused.
const HELD_MAX: usize = 100;
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
        trouble.rejection = rejection;
        let due = now + trouble.backoff.next_delay(random);
        (trouble, due)
    }

    /// Why, the last time.
    pub(super) fn rejection(&self) -> Rejection {
        self.rejection
    }

    /// How long it has been refused.
    pub(super) fn refused_for(&self, now: Instant) -> Duration {
        now.duration_since(self.since)
    }
}

/// The messages `T` that wait.
#[derive(Debug)]
pub(super) struct Held<T> {
    waiting: Vec<(Instant, T)>,
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Held {
            waiting: Vec::new(),
        }
    }
}

impl<T> Held<T> {
    /// Keeps `message` until `due`.
    pub(super) fn hold(&mut self, message: T, due: Instant) {
        self.waiting.push((due, message));
    }

    /// Whether nothing new should be sent.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= HELD_MAX
    }

    /// All of them.
    pub(super) fn messages(&self) -> impl Iterator<Item = &T> {
        self.waiting.iter().map(|(_, message)| message)
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.iter().map(|(due, _)| *due).min()
    }

    /// Forgets them.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }

    /// Takes out the message that was held first.
    pub(super) fn take_first(&mut self) -> Option<T> {
        (!self.waiting.is_empty()).then(|| self.waiting.remove(0).1)
    }

    /// Lets the next try of all be now.
    pub(super) fn make_due(&mut self, now: Instant) {
        for (due, _) in &mut self.waiting {
            *due = now.min(*due);
        }
    }

    /// Takes out a message that is due, the one that was held first.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<T> {
        let index = self.waiting.iter().position(|(due, _)| *due <= now)?;
        Some(self.waiting.remove(index).1)
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
            held.hold(message, now + Duration::from_secs(seconds));
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
        let (mut trouble, due) = Trouble::refused(None, Rejection::Unspecified, now, 1.0);
        assert_eq!(due, now + RETRY_BASE);
        let mut last = due;
        for _ in 0..10 {
            (trouble, last) = Trouble::refused(Some(trouble), Rejection::NotAuthorized, now, 1.0);
        }
        assert_eq!(last, now + RETRY_MAX);
        assert_eq!(trouble.rejection(), Rejection::NotAuthorized);
        assert_eq!(trouble.refused_for(now + RETRY_MAX), RETRY_MAX);
    }

    #[test]
    fn it_is_full_at_its_limit() {
        let mut held = Held::default();
        for count in 0..HELD_MAX {
            assert!(!held.is_full(), "{count}");
            held.hold((), Instant::now());
        }
        assert!(held.is_full());
    }
}
