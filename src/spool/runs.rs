//! A set of numbers as runs without a gap. Pure.
//!
//! What flows past a message that waits is long stretches of numbers: each takes as much room as one number.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Seq;

/// The numbers. No run is empty, and between two there is at least one number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs {
    /// The end of each run by its start.
    ends: BTreeMap<Seq, Seq>,
}

impl Runs {
    /// Adds all numbers of `run`.
    pub(super) fn insert(&mut self, mut run: Range<Seq>) {
        if run.is_empty() {
            return;
        }
        // From behind, those that it overlaps or touches.
        while let Some((start, end)) = self.ends.range(..=run.end).next_back()
            && *end >= run.start
        {
            let (start, end) = (*start, *end);
            run = run.start.min(start)..run.end.max(end);
            self.ends.remove(&start);
        }
        self.ends.insert(run.start, run.end);
    }

    /// Removes all numbers below `seq`.
    pub(super) fn remove_before(&mut self, seq: Seq) {
        while let Some(first) = self.ends.first_entry()
            && *first.key() < seq
        {
            let end = first.remove();
            self.insert(seq..end);
        }
    }

    /// Removes all numbers from `seq` on.
    pub(super) fn remove_from(&mut self, seq: Seq) {
        self.ends.split_off(&seq);
        if let Some(mut last) = self.ends.last_entry() {
            let end = last.get_mut();
            *end = seq.min(*end);
        }
    }

    /// Whether `seq` is one of them.
    pub(super) fn contains(&self, seq: Seq) -> bool {
        self.covers(&(seq..seq + 1))
    }

    /// Whether all numbers of `range` are among them.
    pub(super) fn covers(&self, range: &Range<Seq>) -> bool {
        let last = self.ends.range(..=range.start).next_back();
        last.is_some_and(|(_, end)| *end >= range.end)
    }

    /// How many numbers of `range` are among them.
    pub(super) fn count_in(&self, range: &Range<Seq>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let before = self.ends.range(..range.start).next_back();
        (before.into_iter().chain(self.ends.range(range.clone())))
            .map(|(start, end)| (*end.min(&range.end)).saturating_sub(*start.max(&range.start)))
            .sum()
    }

    /// The runs, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Range<Seq>> {
        self.ends.iter().map(|(start, end)| *start..*end)
    }

    /// How many numbers they are.
    pub(super) fn count(&self) -> u64 {
        self.iter().map(|run| run.end - run.start).sum()
    }
}

impl FromIterator<Range<Seq>> for Runs {
    fn from_iter<I: IntoIterator<Item = Range<Seq>>>(ranges: I) -> Self {
        let mut runs = Runs::default();
        for run in ranges {
            runs.insert(run);
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_are_the_set_of_what_was_put_in(
            ranges in vec((0..60_u64, 0..9_u64), 0..20),
            (from, len) in (0..60_u64, 1..9_u64),
        ) {
            let ranges: Vec<_> = ranges.iter().map(|(start, len)| *start..start + len).collect();
            let mut set: BTreeSet<Seq> = ranges.iter().cloned().flatten().collect();
            let mut runs: Runs = ranges.into_iter().collect();
            let range = from..from + len;
            let inside = set.range(range.clone()).count() as u64;
            prop_assert_eq!(runs.count_in(&range), inside);
            prop_assert_eq!(runs.count_in(&(range.end..range.start)), 0);
            prop_assert_eq!(runs.covers(&range), inside == len);
            prop_assert_eq!(runs.contains(from), set.contains(&from));
            prop_assert_eq!(runs.count(), set.len() as u64);

            runs.remove_before(from);
            runs.remove_from(from + len);
            set.retain(|seq| range.contains(seq));
            prop_assert_eq!(runs.iter().flatten().collect::<BTreeSet<_>>(), set);
            let mut ends = runs.iter().map(|run| run.end).zip(runs.iter().skip(1));
            prop_assert!(ends.all(|(end, next)| end < next.start), "{:?}", runs);
        }
    }
}
