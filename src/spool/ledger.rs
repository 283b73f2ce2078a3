//! The count of what became of every message. Pure.
//!
//! `accepted = delivered + dead_lettered + dropped + spooled`, always: `accepted` is not stored but
//! is that sum, and every record that is on disk and not settled is counted anew at each start.
//!
//! What a crash does to it:
//!
//! * **Exact** after `kill -9` and after a power cut: every message that reached the disk. It is in exactly one
//!   counter, and once, for the ledger and the cursor are saved by one write: a message whose settlement was not
//!   saved is still `spooled`, comes again, and is counted when it is settled again. So `delivered` never
//!   exceeds the different messages that the cloud acknowledged; what the cloud got twice is counted once.
//! * **Bounded**: messages settled in memory and never written, which are those the cloud took while they
//!   lingered, `QoS` 0 among them, those that expired there, and those that `drop_newest` gave up. A crash takes the last of them out of
//!   `accepted` and of their counter alike: `kill -9` those settled since the cursor was last written, at most a
//!   minute ago; a power cut those since it last reached the flash, which is when the relay syncs it, once a
//!   minute while it changes, or when the system writes it back. What `drop_newest` gives up is written without
//!   waiting for that minute, so that `kill -9` costs only what the writer thread had not come to.
//! * **Twice**: of what had flowed past messages that still wait, what is behind the 2,008 runs, fewer if they are long, that a
//!   cursor has room for. It is sent again after any restart, and counted again.
//! * **Not counted**: messages that a crash found neither written nor settled. They were never acknowledged.
//! * `dropped_damaged` is exact where the headers of two segments tell how many records were between them; at
//!   the end of the last segment, and in a first one without a header, one for each stretch that cannot be read.

/// Why a message was given up, each by a rule or an event the owner can read about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The record could not be read back from the disk.
    Damaged,
    /// The spool was full and `SPOOL_FULL` says to drop.
    Full,
    /// It waited longer than its publisher said it was of use.
    Expired,
}

impl DropReason {
    /// Every reason, for reports.
    pub const ALL: [DropReason; 3] = [DropReason::Damaged, DropReason::Full, DropReason::Expired];

    /// The reason's stable name, as used in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::Damaged => "damaged",
            DropReason::Full => "full",
            DropReason::Expired => "expired",
        }
    }
}

/// What became of a message that leaves the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The cloud accepted it.
    Delivered,
    /// It is kept among the dead letters.
    DeadLettered,
    /// It was given up.
    Dropped(DropReason),
}

/// Messages that have left the spool, since it was made, and those still in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Accepted by the cloud.
    pub delivered: u64,
    /// Moved to the dead letters.
    pub dead_lettered: u64,
    /// Given up because their record could not be read back.
    pub dropped_damaged: u64,
    /// Given up because the spool was full.
    pub dropped_full: u64,
    /// Given up because they had expired.
    pub dropped_expired: u64,
    /// Still in the spool.
    pub spooled: u64,
}

impl Ledger {
    /// Every message the spool ever took.
    pub fn accepted(&self) -> u64 {
        self.delivered + self.dead_lettered + self.dropped() + self.spooled
    }

    /// Every message that was given up, for whatever reason.
    pub fn dropped(&self) -> u64 {
        DropReason::ALL.iter().map(|r| self.dropped_for(*r)).sum()
    }

    /// Messages given up for one reason.
    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        match reason {
            DropReason::Damaged => self.dropped_damaged,
            DropReason::Full => self.dropped_full,
            DropReason::Expired => self.dropped_expired,
        }
    }

    /// What was counted since the ledger stood at `found`. Its [`Ledger::accepted`] are the messages that were
    /// spooled then and those taken since.
    #[must_use]
    pub fn since(&self, found: &Ledger) -> Ledger {
        Ledger {
            delivered: self.delivered.saturating_sub(found.delivered),
            dead_lettered: self.dead_lettered.saturating_sub(found.dead_lettered),
            dropped_damaged: self.dropped_damaged.saturating_sub(found.dropped_damaged),
            dropped_full: self.dropped_full.saturating_sub(found.dropped_full),
            dropped_expired: self.dropped_expired.saturating_sub(found.dropped_expired),
            spooled: self.spooled,
        }
    }

    /// Counts a message in.
    pub(super) fn accept(&mut self) {
        self.spooled += 1;
    }

    /// Counts `count` spooled messages out.
    pub(super) fn settle(&mut self, outcome: Outcome, count: u64) {
        let count = count.min(self.spooled);
        self.spooled -= count;
        *match outcome {
            Outcome::Delivered => &mut self.delivered,
            Outcome::DeadLettered => &mut self.dead_lettered,
            Outcome::Dropped(DropReason::Damaged) => &mut self.dropped_damaged,
            Outcome::Dropped(DropReason::Full) => &mut self.dropped_full,
            Outcome::Dropped(DropReason::Expired) => &mut self.dropped_expired,
        } += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_balances_whatever_happens() {
        let mut ledger = Ledger::default();
        for _ in 0..10 {
            ledger.accept();
        }
        ledger.settle(Outcome::Delivered, 3);
        ledger.settle(Outcome::DeadLettered, 1);
        for reason in DropReason::ALL {
            ledger.settle(Outcome::Dropped(reason), 1);
            assert_eq!(ledger.dropped_for(reason), 1, "{}", reason.name());
        }
        assert_eq!(
            (ledger.accepted(), ledger.spooled, ledger.dropped()),
            (10, 3, 3)
        );
    }

    #[test]
    fn a_run_accounts_for_what_it_found_and_what_it_took() {
        let found = Ledger {
            delivered: 100,
            spooled: 5,
            ..Ledger::default()
        };
        let mut ledger = found;
        for _ in 0..3 {
            ledger.accept();
        }
        ledger.settle(Outcome::Delivered, 6);
        let run = ledger.since(&found);
        assert_eq!((run.accepted(), run.delivered, run.spooled), (5 + 3, 6, 2));
    }

    #[test]
    fn no_more_is_settled_than_was_spooled() {
        let mut ledger = Ledger::default();
        ledger.accept();
        ledger.settle(Outcome::Dropped(DropReason::Damaged), 5);
        assert_eq!((ledger.accepted(), ledger.dropped_damaged), (1, 1));
    }
}
