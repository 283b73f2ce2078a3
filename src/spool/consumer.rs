//! What the one reader has been given and what of it is settled. Pure.
//!
//! The *frontier* is the oldest message given out and not settled, or, if there is none, the reading
//! position: everything before it is settled. Messages may be settled in any order.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::Seq;

/// Whether a message is settled, and if so whether its record is on disk all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    No,
    InMemory,
    OnDisk,
}

#[derive(Clone, Copy, Debug)]
struct Outstanding {
    seq: Seq,
    settled: Settled,
    given_out: Instant,
}

/// The state of the one reader.
#[derive(Debug)]
pub(super) struct Consumer {
    /// The next number to look for.
    position: Seq,
    /// Given out, in order of sequence; the first one is not settled.
    outstanding: VecDeque<Outstanding>,
    /// At or behind the position, settled earlier: not to be given out again.
    settled_ahead: BTreeMap<Seq, Settled>,
}

impl Consumer {
    /// A reader that begins at `frontier` and leaves out `settled`.
    pub(super) fn new(frontier: Seq, settled: impl IntoIterator<Item = Seq>) -> Self {
        Consumer {
            position: frontier,
            outstanding: VecDeque::new(),
            settled_ahead: settled
                .into_iter()
                .filter(|seq| *seq >= frontier)
                .map(|seq| (seq, Settled::OnDisk))
                .collect(),
        }
    }

    /// The next number to look for.
    pub(super) fn position(&self) -> Seq {
        self.position
    }

    /// Every message with a smaller number is settled.
    pub(super) fn frontier(&self) -> Seq {
        self.outstanding.front().map_or(self.position, |o| o.seq)
    }

    /// The settled numbers at or above the frontier whose records are on disk, in order: what a
    /// start has to leave out.
    pub(super) fn settled_on_disk(&self) -> impl Iterator<Item = Seq> {
        let ahead = self.settled_ahead.iter().map(|(seq, s)| (*seq, *s));
        self.outstanding
            .iter()
            .map(|o| (o.seq, o.settled))
            .chain(ahead)
            .filter(|(_, settled)| *settled == Settled::OnDisk)
            .map(|(seq, _)| seq)
    }

    /// Notes that `seq` is being given out; `false` if it must not be: it was settled before, or given up while it was
    /// read.
    pub(super) fn deliver(&mut self, seq: Seq, now: Instant) -> bool {
        if seq < self.position {
            return false;
        }
        self.position = seq + 1;
        let settled = self.settled_ahead.remove(&seq).unwrap_or(Settled::No);
        self.outstanding.push_back(Outstanding {
            seq,
            settled,
            given_out: now,
        });
        self.drop_settled();
        settled == Settled::No
    }

    /// Moves the position forward over numbers that hold nothing.
    pub(super) fn skip_to(&mut self, position: Seq) {
        self.position = self.position.max(position);
        self.settled_ahead = self.settled_ahead.split_off(&self.position);
    }

    /// Settles a message that was given out; `on_disk` says where its record is. Returns when it was given
    /// out, or `None` if it was not, or was settled already.
    pub(super) fn settle(&mut self, seq: Seq, on_disk: bool) -> Option<Instant> {
        let index = (self.outstanding)
            .binary_search_by_key(&seq, |o| o.seq)
            .ok()?;
        let entry = self.outstanding.get_mut(index)?;
        let given_out = (entry.settled == Settled::No).then_some(entry.given_out);
        if given_out.is_some() {
            entry.settled = if on_disk {
                Settled::OnDisk
            } else {
                Settled::InMemory
            };
        }
        self.drop_settled();
        given_out
    }

    /// Whether `seq` was settled.
    pub(super) fn is_settled(&self, seq: Seq) -> bool {
        seq < self.frontier()
            || self.settled_ahead.contains_key(&seq)
            || self
                .outstanding
                .binary_search_by_key(&seq, |o| o.seq)
                .is_ok_and(|i| (self.outstanding.get(i)).is_some_and(|o| o.settled != Settled::No))
    }

    /// Gives up everything before `seq`, given out or not.
    pub(super) fn abandon_before(&mut self, seq: Seq) {
        self.outstanding.retain(|o| o.seq >= seq);
        self.skip_to(seq);
        self.drop_settled();
    }

    /// Goes back to the oldest unsettled message: everything unsettled will be given out again.
    pub(super) fn rewind(&mut self) {
        self.position = self.frontier();
        let settled = self
            .outstanding
            .drain(..)
            .filter(|o| o.settled != Settled::No);
        self.settled_ahead
            .extend(settled.map(|o| (o.seq, o.settled)));
    }

    fn drop_settled(&mut self) {
        while (self.outstanding.front()).is_some_and(|o| o.settled != Settled::No) {
            self.outstanding.pop_front();
        }
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
        let mut consumer = Consumer::new(10, []);
        for seq in [10, 12, 15] {
            assert!(consumer.deliver(seq, now()));
        }
        assert!(consumer.settle(12, true).is_some());
        assert_eq!(consumer.frontier(), 10);
        assert!(consumer.settle(10, true).is_some());
        assert_eq!(consumer.frontier(), 15);
        assert!(consumer.settle(15, true).is_some());
        assert_eq!(consumer.frontier(), 16);
    }

    #[test]
    fn settling_twice_or_something_unknown_is_noticed() {
        let mut consumer = Consumer::new(1, []);
        consumer.deliver(1, now());
        consumer.deliver(2, now());
        assert!(consumer.settle(2, true).is_some());
        assert!(consumer.settle(2, true).is_none());
        assert!(consumer.settle(7, true).is_none());
    }

    #[test]
    fn a_rewind_gives_out_only_the_unsettled_again_however_often() {
        let mut consumer = Consumer::new(1, []);
        for seq in 1..=4 {
            consumer.deliver(seq, now());
        }
        consumer.settle(3, true);
        for _ in 0..3 {
            consumer.rewind();
            assert_eq!(consumer.position(), 1);
            let given: Vec<Seq> = (1..=4)
                .filter(|seq| consumer.deliver(*seq, now()))
                .collect();
            assert_eq!(given, [1, 2, 4]);
            assert_eq!(consumer.settled_on_disk().collect::<Vec<_>>(), [3]);
        }
    }

    #[test]
    fn what_was_settled_in_memory_need_not_be_left_out_by_a_start() {
        let mut consumer = Consumer::new(1, []);
        for seq in 1..=3 {
            consumer.deliver(seq, now());
        }
        consumer.settle(2, false);
        consumer.settle(3, true);
        assert_eq!(consumer.settled_on_disk().collect::<Vec<_>>(), [3]);
        consumer.rewind();
        assert_eq!(consumer.settled_on_disk().collect::<Vec<_>>(), [3]);
        let given: Vec<Seq> = (1..=3)
            .filter(|seq| consumer.deliver(*seq, now()))
            .collect();
        assert_eq!(given, [1]);
    }

    #[test]
    fn a_start_leaves_out_what_was_settled_before() {
        let mut consumer = Consumer::new(5, [3, 6]);
        assert!(consumer.deliver(5, now()));
        assert!(!consumer.deliver(6, now()));
        consumer.settle(5, true);
        assert_eq!(consumer.frontier(), 7);
        consumer.skip_to(20);
        assert_eq!(consumer.frontier(), 20);
    }

    #[test]
    fn what_is_given_up_is_neither_given_out_nor_waited_for() {
        let mut consumer = Consumer::new(1, []);
        for seq in 1..=4 {
            consumer.deliver(seq, now());
        }
        consumer.settle(4, true);
        consumer.abandon_before(3);
        assert_eq!(consumer.frontier(), 3);
        assert!(consumer.settle(2, true).is_none());
        assert!(consumer.is_settled(2) && !consumer.is_settled(3) && consumer.is_settled(4));
        consumer.abandon_before(10);
        assert_eq!((consumer.frontier(), consumer.position()), (10, 10));
    }
}
