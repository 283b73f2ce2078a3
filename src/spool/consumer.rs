//! What the one reader has been given and what of it is settled. Pure.
//!
//! The *frontier* is the oldest message given out and not settled, or, if there is none, the reading
//! position: everything before it is settled. Messages may be settled in any order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use super::Seq;
use super::runs::Runs;

/// The state of the one reader. Its memory is that of what is unsettled, and of the gaps that leaves.
#[derive(Debug)]
pub(super) struct Consumer {
    /// The next number to look for.
    position: Seq,
    /// Given out and not settled, and when.
    outstanding: BTreeMap<Seq, Instant>,
    /// Settled, at or above the frontier: not to be given out again.
    settled: Runs,
}

impl Consumer {
    /// A reader that begins at `frontier` and leaves out `settled`.
    pub(super) fn new(frontier: Seq, mut settled: Runs) -> Self {
        settled.remove_before(frontier);
        Consumer {
            position: frontier,
            outstanding: BTreeMap::new(),
            settled,
        }
    }

    /// The next number to look for.
    pub(super) fn position(&self) -> Seq {
        self.position
    }

    /// Every message with a smaller number is settled.
    pub(super) fn frontier(&self) -> Seq {
        let oldest = self.outstanding.first_key_value();
        oldest.map_or(self.position, |(seq, _)| *seq)
    }

    /// The settled numbers at or above the frontier, whether their records are on disk or were never written: what a start
    /// has to leave out.
    pub(super) fn settled(&self) -> &Runs {
        &self.settled
    }

    /// Notes that `seq` is being given out; `false` if it must not be: it was settled before, or given up while it was
    /// read.
    pub(super) fn deliver(&mut self, seq: Seq, now: Instant) -> bool {
        if seq < self.position {
            return false;
        }
        self.position = seq + 1;
        let unsettled = !self.settled.contains(seq);
        if unsettled {
            self.outstanding.insert(seq, now);
        }
        self.settled.remove_before(self.frontier());
        unsettled
    }

    /// Moves the position forward over numbers that hold nothing.
    pub(super) fn skip_to(&mut self, position: Seq) {
        self.position = self.position.max(position);
        self.settled.remove_before(self.frontier());
    }

    /// Settles a message that was given out. Returns when it was given out, or `None` if it was not, or was settled
    /// already.
    pub(super) fn settle(&mut self, seq: Seq) -> Option<Instant> {
        let given_out = self.outstanding.remove(&seq)?;
        self.settled.insert(seq..seq + 1);
        self.settled.remove_before(self.frontier());
        Some(given_out)
    }

    /// Whether `seq` was settled.
    pub(super) fn is_settled(&self, seq: Seq) -> bool {
        self.is_all_settled(&(seq..seq + 1))
    }

    /// Whether all numbers of `range` were settled.
    pub(super) fn is_all_settled(&self, range: &Range<Seq>) -> bool {
        range.end <= self.frontier() || self.settled.covers(range)
    }

    /// Gives up everything before `seq`, given out or not.
    pub(super) fn abandon_before(&mut self, seq: Seq) {
        self.outstanding = self.outstanding.split_off(&seq);
        self.skip_to(seq);
    }

    /// Goes back to the oldest unsettled message: everything unsettled will be given out again.
    pub(super) fn rewind(&mut self) {
        self.position = self.frontier();
        self.outstanding.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn the_frontier_is_the_oldest_unsettled() {
        let mut consumer = Consumer::new(10, Runs::default());
        for seq in [10, 12, 15] {
            assert!(consumer.deliver(seq, now()));
        }
        assert!(consumer.settle(12).is_some());
        assert_eq!(consumer.frontier(), 10);
        assert!(consumer.settle(10).is_some());
        assert_eq!(consumer.frontier(), 15);
        assert!(consumer.settle(15).is_some());
        assert_eq!(consumer.frontier(), 16);
    }

    #[test]
    fn settling_twice_or_something_unknown_is_noticed() {
        let mut consumer = Consumer::new(1, Runs::default());
        consumer.deliver(1, now());
        consumer.deliver(2, now());
        assert!(consumer.settle(2).is_some());
        assert!(consumer.settle(2).is_none());
        assert!(consumer.settle(7).is_none());
    }

    #[test]
    fn a_rewind_gives_out_only_the_unsettled_again_however_often() {
        let mut consumer = Consumer::new(1, Runs::default());
        for seq in 1..=4 {
            consumer.deliver(seq, now());
        }
        consumer.settle(3);
        for _ in 0..3 {
            consumer.rewind();
            assert_eq!(consumer.position(), 1);
            let given: Vec<Seq> = (1..=4)
                .filter(|seq| consumer.deliver(*seq, now()))
                .collect();
            assert_eq!(given, [1, 2, 4]);
            assert!(consumer.settled().iter().eq(std::iter::once(3..4)));
        }
    }

    #[test]
    fn what_flows_past_one_that_waits_takes_no_memory_for_each() {
        let mut consumer = Consumer::new(1, Runs::default());
        for seq in 1..=100_000 {
            consumer.deliver(seq, now());
            if seq != 1 {
                consumer.settle(seq);
            }
        }
        for _ in 0..2 {
            assert!(consumer.outstanding.len() <= 1);
            assert!(consumer.settled().iter().eq(std::iter::once(2..100_001)));
            consumer.rewind();
        }
    }

    #[test]
    fn a_start_leaves_out_what_was_settled_before() {
        let mut consumer = Consumer::new(5, [3..4, 6..7].into_iter().collect());
        assert!(consumer.deliver(5, now()));
        assert!(!consumer.deliver(6, now()));
        consumer.settle(5);
        assert_eq!(consumer.frontier(), 7);
        consumer.skip_to(20);
        assert_eq!(consumer.frontier(), 20);
    }

    #[test]
    fn what_is_given_up_is_neither_given_out_nor_waited_for() {
        let mut consumer = Consumer::new(1, Runs::default());
        for seq in 1..=4 {
            consumer.deliver(seq, now());
        }
        consumer.settle(4);
        consumer.abandon_before(3);
        assert_eq!(consumer.frontier(), 3);
        assert!(consumer.settle(2).is_none());
        assert!(consumer.is_settled(2) && !consumer.is_settled(3) && consumer.is_settled(4));
        consumer.abandon_before(10);
        assert_eq!((consumer.frontier(), consumer.position()), (10, 10));
    }
}
