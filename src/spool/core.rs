//! The spool's state in memory, and what the writer thread is to do next. Pure: no I/O, time comes in as
//! an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::consumer::Consumer;
use super::cursor::{Cursor, SETTLED_MAX};
use super::ledger::{DropReason, Ledger, Outcome};
use super::linger::Linger;
use super::log::Appended;
use super::reader::{Chunk, Place};
use super::record;
use super::recovery::{Recovered, SegmentInfo};
use super::tail::{Frame, Tail};
use super::{AppendError, FullPolicy, Message, Options, Progress, Seq, Ticket};

/// Most bytes that may wait to be written; more is not taken until the disk has caught up.
const UNWRITTEN_BYTES_MAX: usize = 2 * 1024 * 1024;
/// As much waiting to be written is written at once, however long it may linger.
const COMMIT_BYTES: usize = 1024 * 1024;
/// Most bytes in one commit.
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of written messages kept in memory for the reader.
const CACHE_BYTES_MAX: usize = 512 * 1024;
/// How long a full disk is left alone before it is tried again.
const DISK_FULL_RETRY: Duration = Duration::from_secs(1);
/// The cursor is synced, and the ledger saved even if nothing on disk was settled, this often at the most.
const CURSOR_SYNC_INTERVAL: Duration = Duration::from_mins(1);

/// What the writer thread does next.
#[derive(Debug)]
pub(super) enum Job {
    /// Write and sync these records, then call [`Core::appended`] and [`Core::written`].
    Write {
        frames: Vec<Frame>,
        /// One more than the number of the last message looked at.
        through: Seq,
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
    Reclaim(Seq, SegmentInfo),
    /// Nothing before this time, or before somebody calls.
    Sleep(Option<Duration>),
    /// Save and sync the cursor and end.
    End(Cursor),
}

/// Where the next message to give out is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Memory,
    Disk(Place),
    Nothing,
}

/// What the writer thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    Awake,
    AsleepUntil(Instant),
    Asleep,
}

/// Whether there is room for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Enough,
    /// The disk has not caught up yet.
    DiskBusy,
    /// [`Options::bytes_max`] is reached, or the disk is full.
    Full,
}

/// The spool's state.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own; any combination of them can be"
)]
pub(super) struct Core {
    options: Options,
    tail: Tail,
    consumer: Consumer,
    /// How often the consumer went back.
    rewinds: u64,
    /// Every segment on disk, by its first number. The last one may be written to.
    segments: BTreeMap<Seq, SegmentInfo>,
    /// The last segment found at the start: nothing is added to it.
    found_last: Option<Seq>,
    /// Segments in which records could not be read; they are in the ledger already.
    damaged: BTreeSet<Seq>,
    disk_bytes: u64,
    /// One more than the highest number on disk or being written.
    disk_end: Seq,
    ledger: Ledger,
    linger: Linger,
    /// Something on disk was settled since the cursor was written.
    cursor_dirty: bool,
    /// The ledger as it was last written.
    ledger_saved: Ledger,
    cursor_synced: Instant,
    /// Set from a write that found the disk full to the next one that does not.
    disk_full: bool,
    /// Set while a full disk is left alone: when to try again.
    disk_full_until: Option<Instant>,
    /// A message found no room, and since then there has never been much.
    turned_away: bool,
    /// The oldest segment is to be given up, because somebody waits for room.
    reclaim: bool,
    closing: bool,
    failure: Option<String>,
    writer: Writer,
}

impl Core {
    pub(super) fn new(recovered: Recovered, options: Options, now: Instant) -> Self {
        let cursor = recovered.cursor;
        Core {
            options,
            tail: Tail::new(cursor.next_seq),
            consumer: Consumer::new(cursor.frontier, cursor.settled),
            rewinds: 0,
            found_last: recovered.segments.last_key_value().map(|(k, _)| *k),
            segments: recovered.segments,
            damaged: BTreeSet::new(),
            disk_bytes: recovered.report.disk_bytes,
            disk_end: recovered.disk_end,
            ledger: cursor.ledger,
            linger: Linger::new(options.linger),
            cursor_dirty: false,
            ledger_saved: cursor.ledger,
            cursor_synced: now,
            disk_full: false,
            disk_full_until: None,
            turned_away: false,
            reclaim: false,
            closing: false,
            failure: None,
            writer: Writer::Awake,
        }
    }

    pub(super) fn append(
        &mut self,
        message: &Message<'_>,
        now: Instant,
    ) -> Result<Seq, AppendError> {
        if self.failure.is_some() || self.closing {
            return Err(AppendError::Failed);
        }
        let seq = self.tail.next_seq();
        let room = self.room(record::encoded_len(message));
        self.turned_away = room == Room::Full || (self.turned_away && !self.has_space());
        match (room, self.options.full) {
            (Room::Enough, _) => {}
            (Room::Full, FullPolicy::DropNewest) => {
                self.tail.push_settled(now);
                self.ledger.accept();
                self.ledger.settle(Outcome::Dropped(DropReason::Full), 1);
                return Ok(seq);
            }
            (Room::Full, FullPolicy::DropOldest) => {
                self.reclaim = true;
                return Err(AppendError::Full);
            }
            _ => return Err(AppendError::Full),
        }
        let frame = record::encode(seq, message).ok_or(AppendError::TooLarge {
            size_bytes: message.topic.len() + message.payload.len(),
            max_bytes: record::MESSAGE_BYTES_MAX,
        })?;
        let waiting = seq - self.consumer.position();
        let linger = self.linger.allowance(message.qos, waiting);
        self.tail.push(Bytes::from(frame), now + linger);
        self.ledger.accept();
        Ok(seq)
    }

    fn room(&self, len: usize) -> Room {
        let unwritten = self.tail.unwritten_bytes() + len;
        if self.disk_bytes + unwritten as u64 > self.options.bytes_max {
            Room::Full
        } else if unwritten <= UNWRITTEN_BYTES_MAX {
            Room::Enough
        } else if self.disk_full_until.is_some() {
            Room::Full
        } else {
            Room::DiskBusy
        }
    }

    /// Whether a record of any size would be taken.
    pub(super) fn has_space(&self) -> bool {
        self.room(record::RECORD_BYTES_MAX) == Room::Enough
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            safe: self.tail.safe(),
            full: self.turned_away && !self.has_space(),
            disk_full: self.disk_full,
            dropped_full: self.ledger.dropped_full,
            dropped_damaged: self.ledger.dropped_damaged,
            failed: self.failure.is_some(),
        }
    }

    pub(super) fn options(&self) -> Options {
        self.options
    }

    pub(super) fn ledger(&self) -> Ledger {
        self.ledger
    }

    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    pub(super) fn fail(&mut self, failure: String) {
        self.failure.get_or_insert(failure);
    }

    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    pub(super) fn set_linked(&mut self, linked: bool, now: Instant) {
        if self.linger.set_linked(linked) {
            self.tail.hurry(now);
        }
    }

    /// Where the next message to give out is.
    pub(super) fn next(&self) -> Next {
        let position = self.consumer.position();
        if position < self.tail.first_seq() {
            let first_seq = (self.segments.range(..=position).next_back())
                .or_else(|| self.segments.range(position..).next())
                .map(|(first_seq, _)| *first_seq);
            match first_seq.and_then(|first_seq| self.place(first_seq)) {
                Some(place) if place.next.is_some() || self.disk_end > position => {
                    return Next::Disk(place);
                }
                // What lies between was settled and never written.
                _ => {}
            }
        }
        if position < self.tail.next_seq() {
            Next::Memory
        } else {
            Next::Nothing
        }
    }

    fn place(&self, first_seq: Seq) -> Option<Place> {
        let mut from = self.segments.range(first_seq..);
        let (_, info) = from.next()?;
        let next = from.next().map(|(next, _)| *next);
        let complete = next.is_some() || self.found_last == Some(first_seq);
        Some(Place {
            first_seq,
            len: info.len,
            next,
            records: complete.then_some(info.records),
        })
    }

    pub(super) fn position(&self) -> Seq {
        self.consumer.position()
    }

    /// Gives out messages that are in memory.
    pub(super) fn read_memory(
        &mut self,
        count_max: usize,
        bytes_max: usize,
        now: Instant,
    ) -> Vec<Frame> {
        let position = self.consumer.position().max(self.tail.first_seq());
        self.consumer.skip_to(position);
        let frames = self.tail.read(position, count_max.max(1), bytes_max.max(1));
        if frames.is_empty() {
            // All that is left was settled before a rewind.
            self.consumer.skip_to(self.tail.next_seq());
        }
        let frames = self.give_out(frames, now);
        self.tail.evict(self.consumer.position(), CACHE_BYTES_MAX);
        frames
    }

    /// Gives out what was read from the segment at `place`.
    pub(super) fn take_chunk(&mut self, place: Place, chunk: Chunk, now: Instant) -> Vec<Frame> {
        let frames = self.give_out(chunk.frames, now);
        if chunk.end {
            // It may have been read before, and its damage counted.
            if chunk.lost > 0 && self.damaged.insert(place.first_seq) {
                self.ledger
                    .settle(Outcome::Dropped(DropReason::Damaged), chunk.lost);
            }
            if let Some(next) = place.next {
                self.consumer.skip_to(next);
            } else if self.place(place.first_seq) == Some(place) {
                // Nothing was added meanwhile: what is not in memory was settled or cannot be read.
                self.consumer.skip_to(self.tail.first_seq());
            }
        }
        frames
    }

    fn give_out(&mut self, frames: Vec<Frame>, now: Instant) -> Vec<Frame> {
        frames
            .into_iter()
            .filter(|(seq, _)| self.consumer.deliver(*seq, now))
            .collect()
    }

    pub(super) fn settle(&mut self, seq: Seq, outcome: Outcome, now: Instant) {
        let on_disk = seq < self.disk_end;
        if let Some(given_out) = self.consumer.settle(seq, on_disk) {
            self.linger
                .settled_after(now.saturating_duration_since(given_out));
            self.ledger.settle(outcome, 1);
            self.tail.settle(seq);
            self.tail.evict(self.consumer.position(), CACHE_BYTES_MAX);
            self.cursor_dirty |= on_disk;
        }
    }

    pub(super) fn rewind(&mut self) {
        self.consumer.rewind();
        self.rewinds += 1;
    }

    pub(super) fn ticket(&self) -> Ticket {
        Ticket(self.rewinds)
    }

    /// Decides what the writer thread does next.
    pub(super) fn next_job(&mut self, now: Instant) -> Job {
        self.writer = Writer::Awake;
        if self.failure.is_some() {
            return Job::End(self.cursor());
        }
        if self.disk_full_until.is_some_and(|until| now >= until) {
            self.disk_full_until = None;
        }
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
        if std::mem::take(&mut self.reclaim)
            && let Some((first_seq, info)) = self.oldest_complete()
        {
            return Job::Reclaim(first_seq, info);
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
        Job::Write { frames, through }
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
    pub(super) fn is_sleeping(&self) -> bool {
        self.writer != Writer::Awake
    }

    /// Whether the writer thread sleeps longer than it should.
    pub(super) fn should_wake_writer(&mut self) -> bool {
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
            || self.reclaim
            || (may_write && self.tail.unwritten_bytes() >= COMMIT_BYTES)
            || self.failure.is_some();
        if wake {
            self.writer = Writer::Awake;
        }
        wake
    }

    /// Notes that the first `appended.count` of `frames` are on disk.
    pub(super) fn appended(&mut self, appended: Appended, frames: &[Frame]) {
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
    pub(super) fn written(&mut self, through: Seq) {
        self.tail.written(through);
        self.tail.evict(self.consumer.position(), CACHE_BYTES_MAX);
    }

    /// Bytes of messages held in memory, for tests of the bound.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.tail.held_bytes()
    }

    /// Notes that the disk is full: it is left alone for a while, and what the owner chose to give up for
    /// it is given up.
    pub(super) fn disk_full(&mut self, now: Instant) {
        self.disk_full = true;
        self.disk_full_until = Some(now + DISK_FULL_RETRY);
        match self.options.full {
            FullPolicy::Block => {}
            FullPolicy::DropOldest => self.reclaim = true,
            FullPolicy::DropNewest => {
                for seq in self.tail.unwritten_seqs() {
                    self.consumer.settle(seq, false);
                    self.tail.settle(seq);
                    self.ledger.settle(Outcome::Dropped(DropReason::Full), 1);
                }
                self.tail.evict(self.consumer.position(), CACHE_BYTES_MAX);
            }
        }
    }

    /// Notes that segments are gone.
    pub(super) fn removed(&mut self, segments: &[Seq]) {
        for first_seq in segments {
            let info = self.segments.remove(first_seq);
            self.disk_bytes -= info.map_or(0, |info| info.len);
            self.damaged.remove(first_seq);
        }
        self.disk_full_until = None;
    }

    /// The oldest segment, unless it is the only one or is settled already.
    fn oldest_complete(&self) -> Option<(Seq, SegmentInfo)> {
        let mut segments = self.segments.iter();
        let (first_seq, info) = segments.next()?;
        segments.next()?;
        Some((*first_seq, *info))
    }

    /// Gives up what is unsettled in the oldest segment; `sound` are the numbers that can be read in it.
    /// It is removed next, like every settled segment.
    pub(super) fn reclaim(&mut self, first_seq: Seq, sound: &[Seq]) {
        let Some(place) = self.place(first_seq) else {
            return;
        };
        let (Some(next), Some(written)) = (place.next, place.records) else {
            return;
        };
        let unsettled = sound.iter().filter(|seq| !self.consumer.is_settled(**seq));
        let unsettled = unsettled.count() as u64;
        self.ledger
            .settle(Outcome::Dropped(DropReason::Full), unsettled);
        if self.damaged.insert(first_seq) {
            let lost = written.saturating_sub(sound.len() as u64);
            self.ledger
                .settle(Outcome::Dropped(DropReason::Damaged), lost);
        }
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
            settled: self.consumer.settled_on_disk().take(SETTLED_MAX).collect(),
            ledger: self.ledger,
        }
    }
}
