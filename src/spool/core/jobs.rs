//! What the writer thread is to do next, and what it has done.

use std::time::{Duration, Instant};

use super::{CACHE_BYTES_MAX, Core, Room};
use crate::spool::cursor::{Cursor, RUNS_MAX};
use crate::spool::ledger::{DropReason, Outcome};
use crate::spool::log::Appended;
use crate::spool::reader::Place;
use crate::spool::record;
use crate::spool::recovery::SegmentInfo;
use crate::spool::tail::Frame;
use crate::spool::{FullPolicy, Seq};

/// As much waiting to be written is written at once, however long it may linger.
const COMMIT_BYTES: usize = 1024 * 1024;
/// Most bytes in one commit.
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// How long a full disk is left alone before it is tried again.
const DISK_FULL_RETRY: Duration = Duration::from_secs(1);
/// The cursor is synced, and the ledger saved even if nothing on disk was settled, this often at the most.
const CURSOR_SYNC_INTERVAL: Duration = Duration::from_mins(1);

/// What the writer thread does next.
#[derive(Debug)]
pub(in crate::spool) enum Job {
    /// Write and sync these records, then call [`Core::appended`] and [`Core::written`].
    Write {
        frames: Vec<Frame>,
        /// One more than the number of the last message looked at.
        through: Seq,
        /// Into a new segment.
        anew: bool,
    },
    /// Write the cursor, and sync it if so told.
    SaveCursor { cursor: Cursor, sync: bool },
    /// Remove these segments, then call [`Core::removed`].
    Remove {
        segments: Vec<Seq>,
        /// Those of them in which records could not be read: to be set aside instead.
        damaged: Vec<Seq>,
    },
    /// Count what is unsettled in this segment, the oldest, and call [`Core::reclaim`].
    Reclaim(Place),
    /// Nothing before this time, or before somebody calls.
    Sleep(Option<Duration>),
    /// Save and sync the cursor and end.
    End(Cursor),
}

/// What the writer thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    Awake,
    AsleepUntil(Instant),
    Asleep,
}

impl Core {
    /// Decides what the writer thread does next.
    pub(in crate::spool) fn next_job(&mut self, now: Instant) -> Job {
        self.writer = Writer::Awake;
        if self.failure.is_some() {
            return Job::End(self.cursor());
        }
        if self.disk_full_until.is_some_and(|until| now >= until) {
            self.disk_full_until = None;
        }
        // Before the cursor is saved that says that the frontier has passed it.
        self.count_damage();
        let due = self.write_due(now);
        if due.is_some_and(|due| due <= now) {
            return self.write(now);
        }
        let ledger_due =
            (self.ledger != self.ledger_saved).then(|| self.cursor_synced + CURSOR_SYNC_INTERVAL);
        if self.cursor_dirty || ledger_due.is_some_and(|due| due <= now) {
            return self.save_cursor(now);
        }
        let settled = self.settled_segments();
        if !settled.is_empty() {
            let is_damaged = |seq: &&Seq| self.damaged.contains(*seq);
            return Job::Remove {
                damaged: settled.iter().filter(is_damaged).copied().collect(),
                segments: settled,
            };
        }
        if let Some(oldest) = self.to_reclaim() {
            return Job::Reclaim(oldest);
        }
        if self.closing && (self.tail.due().is_none() || self.disk_full_until.is_some()) {
            return Job::End(self.cursor());
        }
        let alarms = [due, self.disk_full_until, ledger_due];
        let alarm = alarms.into_iter().flatten().min();
        self.writer = alarm.map_or(Writer::Asleep, Writer::AsleepUntil);
        Job::Sleep(alarm.map(|at| at.saturating_duration_since(now)))
    }

    fn write(&mut self, now: Instant) -> Job {
        if self.tail.due().is_some_and(|due| due <= now) {
            self.linger.waited_in_vain();
        }
        let (frames, through) = self.tail.unwritten(BATCH_BYTES_MAX);
        self.disk_end = self.disk_end.max(through);
        Job::Write {
            frames,
            through,
            anew: self.last_is_closed(),
        }
    }

    fn save_cursor(&mut self, now: Instant) -> Job {
        self.cursor_dirty = false;
        self.ledger_saved = self.ledger;
        let sync = now >= self.cursor_synced + CURSOR_SYNC_INTERVAL;
        if sync {
            self.cursor_synced = now;
        }
        Job::SaveCursor {
            cursor: self.cursor(),
            sync,
        }
    }

    /// When the next write is due, if there is anything to write.
    fn write_due(&self, now: Instant) -> Option<Instant> {
        if self.disk_full_until.is_some() {
            return None;
        }
        let due = self.tail.due()?;
        Some(
            if self.closing || self.tail.unwritten_bytes() >= COMMIT_BYTES {
                now
            } else {
                due
            },
        )
    }

    /// Whether the writer thread is to sleep, as far as anybody knows.
    pub(in crate::spool) fn is_sleeping(&self) -> bool {
        self.writer != Writer::Awake
    }

    /// Whether the writer thread sleeps longer than it should.
    pub(in crate::spool) fn should_wake_writer(&mut self) -> bool {
        let may_write = self.disk_full_until.is_none();
        let due = self.tail.due().filter(|_| may_write);
        let sooner = match self.writer {
            Writer::Awake => return false,
            Writer::AsleepUntil(alarm) => due.is_some_and(|due| due < alarm),
            Writer::Asleep => due.is_some() || self.ledger != self.ledger_saved,
        };
        let wake = sooner
            || self.closing
            || self.cursor_dirty
            || self.to_reclaim().is_some()
            || (may_write && self.tail.unwritten_bytes() >= COMMIT_BYTES)
            || self.failure.is_some();
        if wake {
            self.writer = Writer::Awake;
        }
        wake
    }

    /// Notes that the first `appended.count` of `frames` are on disk.
    pub(in crate::spool) fn appended(&mut self, appended: Appended, frames: &[Frame]) {
        let info = self
            .segments
            .entry(appended.segment)
            .or_insert(SegmentInfo { len: 0, records: 0 });
        self.disk_full = false;
        self.disk_bytes += appended.len - info.len;
        info.len = appended.len;
        info.records += appended.count as u64;
        let last = appended.count.checked_sub(1).and_then(|i| frames.get(i));
        if let Some((last, _)) = last {
            self.written(last + 1);
        }
    }

    /// Notes that everything before `through` is on disk or settled.
    pub(in crate::spool) fn written(&mut self, through: Seq) {
        self.tail.written(through);
        self.tail.evict(self.consumer.position(), CACHE_BYTES_MAX);
    }

    /// Bytes of messages held in memory, for tests of the bound.
    #[cfg(test)]
    pub(in crate::spool) fn held_bytes(&self) -> usize {
        self.tail.held_bytes()
    }

    /// Messages of which anything is held in memory, be it only that they are settled.
    #[cfg(test)]
    pub(in crate::spool) fn held_count(&self) -> u64 {
        self.tail.next_seq() - self.tail.first_seq()
    }

    /// Notes that the disk is full: it is left alone for a while, and what the owner chose to give up for
    /// it is given up: the oldest by [`Core::to_reclaim`].
    pub(in crate::spool) fn disk_full(&mut self, now: Instant) {
        self.disk_full = true;
        self.disk_full_until = Some(now + DISK_FULL_RETRY);
        match self.options.full {
            FullPolicy::Block | FullPolicy::DropOldest => {}
            FullPolicy::DropNewest => {
                for seq in self.tail.unwritten_seqs() {
                    self.consumer.settle(seq);
                    self.tail.settle(seq);
                    self.ledger.settle(Outcome::Dropped(DropReason::Full), 1);
                    self.cursor_dirty = true;
                }
                self.tail.evict(self.consumer.position(), CACHE_BYTES_MAX);
            }
        }
    }

    /// Notes that segments are gone.
    pub(in crate::spool) fn removed(&mut self, segments: &[Seq]) {
        for first_seq in segments {
            let info = self.segments.remove(first_seq);
            self.disk_bytes -= info.map_or(0, |info| info.len);
            self.damaged.remove(first_seq);
        }
        self.disk_full_until = None;
    }

    /// The oldest segment, unless it is the only one, if it is to be given up because there is no room. One may not be
    /// enough, for it may be small, and the limit may have been lowered; so this goes on until there is room for whoever
    /// was turned away.
    fn to_reclaim(&self) -> Option<Place> {
        let is_full = self.room(record::RECORD_BYTES_MAX) == Room::Full;
        let is_waited_for = self.turned_away && is_full && !self.closing;
        if self.options.full != FullPolicy::DropOldest
            || !(is_waited_for || self.disk_full_until.is_some())
        {
            return None;
        }
        let (first_seq, _) = self.segments.first_key_value()?;
        self.place(*first_seq).filter(|place| place.next.is_some())
    }

    /// Gives up what is unsettled in the oldest segment; `sound` are the numbers that can be read in it, `None` if the
    /// disk does not tell: then it is counted by what was written. It is removed next, like every settled segment.
    pub(in crate::spool) fn reclaim(&mut self, first_seq: Seq, sound: Option<&[Seq]>) {
        let Some(place) = self.place(first_seq) else {
            return;
        };
        let Some(next) = place.next else {
            return;
        };
        let frontier = self.consumer.frontier();
        let (unsettled, lost) = if let Some(sound) = sound {
            let unsettled = sound.iter().filter(|seq| !self.consumer.is_settled(**seq));
            let lost = place.records.saturating_sub(sound.len() as u64);
            (unsettled.count() as u64, lost)
        } else {
            let settled = self.consumer.settled().count_in(&(frontier..next));
            let left = next.saturating_sub(frontier).saturating_sub(settled);
            (left.min(place.records), 0)
        };
        self.ledger
            .settle(Outcome::Dropped(DropReason::Full), unsettled);
        if self.damage_counted != Some(first_seq) && frontier < place.end_seq {
            // Whether the reader has met the damage or not.
            self.ledger
                .settle(Outcome::Dropped(DropReason::Damaged), lost);
        }
        self.lost.remove(&first_seq);
        self.consumer.abandon_before(next);
        self.cursor_dirty = true;
    }

    /// The segments that have nothing unsettled in them. The last one is never among them.
    fn settled_segments(&self) -> Vec<Seq> {
        let frontier = self.consumer.frontier();
        let later = self.segments.keys().skip(1);
        self.segments
            .keys()
            .zip(later)
            .take_while(|(_, next)| **next <= frontier)
            .map(|(first_seq, _)| *first_seq)
            .collect()
    }

    fn cursor(&self) -> Cursor {
        Cursor {
            frontier: self.consumer.frontier(),
            next_seq: self.tail.next_seq(),
            settled: self.consumer.settled().iter().take(RUNS_MAX).collect(),
            ledger: self.ledger,
        }
    }
}
