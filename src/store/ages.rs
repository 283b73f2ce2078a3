//! How long messages have waited. Pure.
//!
//! A message says when it arrived by the wall clock, and a Raspberry Pi sets that clock long after it has started. So for
//! messages of this process's life it is remembered how far the wall clock was from the steady one when they arrived:
//! their age does not depend on what the clock did since. Of the others, the age is what the wall clock says, if it was
//! set on their arrival, is set now, and has not gone backwards; otherwise it is not known.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::spool::Seq;

/// A clock that is put right by less than this is one that is being adjusted.
const STEP_MS_MIN: u64 = 1_000;
/// So many steps are remembered; of messages from before the oldest the age is not known.
const STEPS_MAX: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Ages {
    start: Instant,
    /// The first message of this life.
    first: Seq,
    steps: VecDeque<Step>,
}

/// From message `from` on, the wall clock stood at `start_unix_ms` when this life began.
#[derive(Clone, Copy, Debug)]
struct Step {
    from: Seq,
    start_unix_ms: i64,
}

impl Ages {
    /// Of a life that begins `now`, and whose first message is `first`.
    pub(super) fn new(now: Instant, first: Seq) -> Self {
        Ages {
            start: now,
            first,
            steps: VecDeque::new(),
        }
    }

    /// Notes that message `seq`, which arrived at `received` by the wall clock, is taken. The clock is not asked again:
    /// it may have been set in between.
    pub(super) fn note(&mut self, seq: Seq, received: Timestamp, now: Instant) {
        let start_unix_ms = signed(received.unix_ms) - self.steady_ms(now);
        let stands = (self.steps.back())
            .is_some_and(|last| last.start_unix_ms.abs_diff(start_unix_ms) < STEP_MS_MIN);
        if stands {
            return;
        }
        if self.steps.len() >= STEPS_MAX {
            self.steps.pop_front();
        }
        self.steps.push_back(Step {
            from: seq,
            start_unix_ms,
        });
    }

    /// How long message `seq`, which arrived at `received`, has waited; `None` if that cannot be known.
    pub(super) fn age(
        &self,
        (seq, received): (Seq, Timestamp),
        (wall, now): (Timestamp, Instant),
    ) -> Option<Duration> {
        let steps = self.steps.iter();
        let waited_ms = match steps.rev().find(|step| step.from <= seq) {
            Some(step) => {
                let arrived_ms = signed(received.unix_ms) - step.start_unix_ms;
                self.steady_ms(now) - arrived_ms
            }
            None if seq < self.first && received.clock_set && wall.clock_set => {
                signed(wall.unix_ms) - signed(received.unix_ms)
            }
            None => return None,
        };
        u64::try_from(waited_ms).ok().map(Duration::from_millis)
    }

    /// Since this life began.
    fn steady_ms(&self, now: Instant) -> i64 {
        let since = now.saturating_duration_since(self.start).as_millis();
        i64::try_from(since).unwrap_or(i64::MAX / 4)
    }
}

/// A wall clock far beyond all dates is as good as one at its end.
fn signed(unix_ms: u64) -> i64 {
    i64::try_from(unix_ms).unwrap_or(i64::MAX).min(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(unix_s: u64, clock_set: bool) -> Timestamp {
        Timestamp {
            unix_ms: unix_s * 1_000,
            clock_set,
        }
    }

    fn seconds(age: Option<Duration>) -> Option<u64> {
        age.map(|age| age.as_secs())
    }

    #[test]
    fn within_one_life_the_age_is_right_whatever_the_clock_does() {
        let start = Instant::now();
        let after = |s| start + Duration::from_secs(s);
        let mut ages = Ages::new(start, 0);
        // Not set, then set, then put back.
        for (seq, wall, s) in [
            (10, at(100, false), 5),
            (11, at(9_000, true), 20),
            (12, at(7_000, true), 30),
        ] {
            ages.note(seq, wall, after(s));
        }
        let now = (at(50, false), after(60));
        assert_eq!(seconds(ages.age((10, at(100, false)), now)), Some(55));
        assert_eq!(seconds(ages.age((11, at(9_000, true)), now)), Some(40));
        assert_eq!(seconds(ages.age((12, at(7_000, true)), now)), Some(30));
        assert_eq!(ages.steps.len(), 3);
    }

    #[test]
    fn of_an_earlier_life_the_wall_clock_tells_if_it_can_be_believed() {
        let start = Instant::now();
        let mut ages = Ages::new(start, 100);
        ages.note(100, at(9_000, true), start);
        let age = |received, wall| seconds(ages.age((7, received), (wall, start)));
        assert_eq!(age(at(1_000, true), at(1_300, true)), Some(300));
        assert_eq!(age(at(1_000, false), at(1_300, true)), None);
        assert_eq!(age(at(1_000, true), at(1_300, false)), None);
        assert_eq!(
            age(at(1_000, true), at(900, true)),
            None,
            "it went backwards"
        );
    }

    #[test]
    fn a_clock_that_is_adjusted_makes_no_steps_and_steps_are_bounded() {
        let start = Instant::now();
        let mut ages = Ages::new(start, 0);
        for seq in 0..100 {
            let wall = Timestamp {
                unix_ms: 1_000_000 + seq % 900,
                clock_set: true,
            };
            ages.note(seq, wall, start);
        }
        assert_eq!(ages.steps.len(), 1);
        for seq in 100..1_000 {
            ages.note(seq, at(seq * 10, true), start);
        }
        assert_eq!(ages.steps.len(), STEPS_MAX);
        // Since it arrived, the clock has gone forward by hours.
        let forgotten = (500, at(5_000, true));
        assert_eq!(ages.age(forgotten, (at(9_990, true), start)), None);
    }
}
