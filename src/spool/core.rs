//! The spool's state in memory, and what the writer thread is to do next. Pure: no I/O, time comes in as
//! an argument.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::consumer::Consumer;
use super::cursor::{Cursor, CursorFile, SETTLED_MAX};
use super::ledger::{DropReason, Ledger, Outcome};
use super::log::{Appended, Log};
use super::reader::{Chunk, Place};
use super::record;
use super::recovery::Recovered;
use super::storage::Storage;
use super::tail::{Frame, Tail};
use super::{AppendError, Message, Options, Progress, Seq, Ticket};

/// Most bytes that may wait to be written; more is not taken until the disk has caught up.
const UNWRITTEN_BYTES_MAX: usize = 2 * 1024 * 1024;
/// As much waiting to be written is written at once, however long it may linger.
const COMMIT_BYTES: usize = 256 * 1024;
/// Most bytes in one commit.
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of written messages kept in memory for the reader.
const CACHE_BYTES_MAX: usize = 512 * 1024;
/// How long a QoS 0 message, which nobody waits for, may stay in memory only.
const QOS0_LINGER: Duration = Duration::from_secs(10);
/// How long a full disk is left alone before it is tried again.
const DISK_FULL_RETRY: Duration = Duration::from_secs(1);

/// What the writer thread owns.
pub(super) struct Disk {
    pub(super) log: Log,
    pub(super) cursor_file: CursorFile,
    pub(super) storage: Arc<dyn Storage>,
}

/// What the writer thread does next.
#[derive(Debug)]
pub(super) enum Job {
    /// Write and sync these records, then call [`Core::written`].
    Write {
        frames: Vec<Frame>,
        /// One more than the number of the last message looked at.
        through: Seq,
    },
    /// Write the cursor.
    SaveCursor(Cursor),
    /// Remove these segments, then call [`Core::removed`].
    Remove(Vec<Seq>),
    /// Nothing before this time, or before somebody calls.
    Sleep(Option<Duration>),
    /// Sync the cursor and end.
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

/// The spool's state.
#[derive(Debug)]
pub(super) struct Core {
    options: Options,
    tail: Tail,
    consumer: Consumer,
    /// How often the consumer went back.
    rewinds: u64,
    /// First number and durable length of every segment on disk. The last one is being written to.
    segments: BTreeMap<Seq, u64>,
    /// The last segment found at the start and the running count of records at its end.
    found_last: Option<(Seq, u64)>,
    /// One more than the highest number found at the start.
    found_end: Seq,
    /// The segment with the frontier in it at the start, if the ledger has its damage already.
    damage_counted: Option<Seq>,
    /// Damage that the reader has met and the frontier has not passed, by segment: how many records it
    /// cost and the number behind the segment. The ledger has it when the frontier has passed, so
    /// that the cursor says with one number what is settled and which damage is counted.
    damage: BTreeMap<Seq, (u64, Seq)>,
    disk_bytes: u64,
    /// One more than the highest number on disk or being written.
    disk_end: Seq,
    ledger: Ledger,
    keeping_up: bool,
    cursor_dirty: bool,
    disk_full_until: Option<Instant>,
    closing: bool,
    failure: Option<String>,
    writer: Writer,
}

impl Core {
    pub(super) fn new(
        mut recovered: Recovered,
        options: Options,
        storage: &Arc<dyn Storage>,
    ) -> (Self, Disk) {
        recovered.count_damage();
        let cursor = recovered.cursor;
        let core = Core {
            options,
            tail: Tail::new(cursor.next_seq),
            consumer: Consumer::new(cursor.frontier, cursor.settled),
            rewinds: 0,
            found_last: (recovered.segments.last_key_value())
                .map(|(last, _)| (*last, recovered.records_written)),
            found_end: recovered.disk_end,
            damage_counted: recovered.damage_counted,
            damage: BTreeMap::new(),
            disk_bytes: recovered.report.disk_bytes,
            segments: recovered.segments,
            disk_end: recovered.disk_end,
            ledger: cursor.ledger,
            keeping_up: false,
            // So that numbers are never given twice, the cursor is written once at every start.
            cursor_dirty: true,
            disk_full_until: None,
            closing: false,
            failure: None,
            writer: Writer::Awake,
        };
        let disk = Disk {
            log: Log::new(
                Arc::clone(storage),
                recovered.records_written,
                options.segment_bytes,
            ),
            cursor_file: recovered.cursor_file,
            storage: Arc::clone(storage),
        };
        (core, disk)
    }

    pub(super) fn append(
        &mut self,
        message: &Message<'_>,
        now: Instant,
    ) -> Result<Seq, AppendError> {
        if self.failure.is_some() || self.closing {
            return Err(AppendError::Failed);
        }
        if !self.has_space(record::encoded_len(message)) {
            return Err(AppendError::Full);
        }
        let seq = self.tail.next_seq();
        let frame = record::encode(seq, message).ok_or(AppendError::TooLarge {
            size_bytes: message.topic.len() + message.payload.len(),
        })?;
        let linger = match (message.qos, self.keeping_up) {
            (0, _) => QOS0_LINGER,
            (_, true) => self.options.linger,
            (_, false) => Duration::ZERO,
        };
        self.tail.push(Bytes::from(frame), now + linger);
        self.ledger.accept();
        Ok(seq)
    }

    /// Whether a record of `len` bytes would be taken.
    pub(super) fn has_space(&self, len: usize) -> bool {
        let unwritten = self.tail.unwritten_bytes() + len;
        unwritten <= UNWRITTEN_BYTES_MAX
            && self.disk_bytes + unwritten as u64 <= self.options.bytes_max
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            safe: self.tail.safe(),
            failed: self.failure.is_some(),
        }
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

    pub(super) fn set_keeping_up(&mut self, keeping_up: bool, now: Instant) {
        if self.keeping_up && !keeping_up {
            self.tail.hurry(now);
        }
        self.keeping_up = keeping_up;
    }

    /// Where the next message to give out is.
    pub(super) fn next(&self) -> Next {
        let position = self.consumer.position();
        if position >= self.tail.first_seq() {
            return if position < self.tail.next_seq() {
                Next::Memory
            } else {
                Next::Nothing
            };
        }
        let first_seq = self
            .segments
            .range(..=position)
            .next_back()
            .or_else(|| self.segments.range(position..).next())
            .map(|(first_seq, _)| *first_seq);
        match first_seq.and_then(|first_seq| self.place(first_seq)) {
            Some(place) if place.next.is_some() || self.disk_end > position => Next::Disk(place),
            // What lies between was settled and never written.
            _ if self.tail.first_seq() < self.tail.next_seq() => Next::Memory,
            _ => Next::Nothing,
        }
    }

    fn place(&self, first_seq: Seq) -> Option<Place> {
        let mut from = self.segments.range(first_seq..);
        let (_, len) = from.next()?;
        Some(Place {
            first_seq,
            len: *len,
            next: from.next().map(|(next, _)| *next),
            records_end: (self.found_last.filter(|(last, _)| *last == first_seq))
                .map(|(_, records_end)| records_end),
        })
    }

    pub(super) fn position(&self) -> Seq {
        self.consumer.position()
    }

    /// Gives out messages that are in memory.
    pub(super) fn read_memory(&mut self, count_max: usize, bytes_max: usize) -> Vec<Frame> {
        let position = self.consumer.position().max(self.tail.first_seq());
        self.consumer.skip_to(position);
        let frames = self.tail.read(position, count_max.max(1), bytes_max.max(1));
        if frames.is_empty() {
            // All that is left was settled before a rewind.
            self.consumer.skip_to(self.tail.next_seq());
        }
        let frames = self.give_out(frames);
        self.tail.evict(self.consumer.position(), CACHE_BYTES_MAX);
        frames
    }

    /// Gives out what was read from the segment at `place`.
    pub(super) fn take_chunk(&mut self, place: Place, chunk: Chunk) -> Vec<Frame> {
        let end_seq = match self.found_last {
            Some((last, _)) if last == place.first_seq => self.found_end,
            _ => place.next.unwrap_or(self.disk_end),
        };
        let passed_before =
            self.damage_counted == Some(place.first_seq) || self.consumer.frontier() >= end_seq;
        let frames = self.give_out(chunk.frames);
        if chunk.end {
            if chunk.lost > 0 && !passed_before {
                self.damage.insert(place.first_seq, (chunk.lost, end_seq));
            }
            if let Some(next) = place.next {
                self.consumer.skip_to(next);
            } else if self.place(place.first_seq) == Some(place) {
                // Nothing was added meanwhile: what is not in memory was settled or cannot be read.
                self.consumer.skip_to(self.tail.first_seq());
            }
            self.count_damage();
        }
        frames
    }

    /// Counts the damage that the frontier has passed.
    fn count_damage(&mut self) {
        let frontier = self.consumer.frontier();
        while let Some(first) = self.damage.first_entry() {
            let (lost, end_seq) = *first.get();
            if end_seq > frontier {
                return;
            }
            first.remove();
            self.cursor_dirty = true;
            self.ledger
                .settle(Outcome::Dropped(DropReason::Damaged), lost);
        }
    }

    fn give_out(&mut self, frames: Vec<Frame>) -> Vec<Frame> {
        frames
            .into_iter()
            .filter(|(seq, _)| self.consumer.deliver(*seq))
            .collect()
    }

    pub(super) fn settle(&mut self, seq: Seq, outcome: Outcome) {
        let on_disk = seq < self.disk_end;
        if self.consumer.settle(seq, on_disk) {
            self.ledger.settle(outcome, 1);
            self.tail.settle(seq);
            self.tail.evict(self.consumer.position(), CACHE_BYTES_MAX);
            self.cursor_dirty |= on_disk;
            self.count_damage();
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
            let (frames, through) = self.tail.unwritten(BATCH_BYTES_MAX);
            self.disk_end = self.disk_end.max(through);
            return Job::Write { frames, through };
        }
        if std::mem::take(&mut self.cursor_dirty) {
            return Job::SaveCursor(self.cursor());
        }
        let settled = self.settled_segments();
        if !settled.is_empty() {
            return Job::Remove(settled);
        }
        if self.closing && (self.tail.due().is_none() || self.disk_full_until.is_some()) {
            return Job::End(self.cursor());
        }
        let alarm = due.or(self.disk_full_until);
        self.writer = alarm.map_or(Writer::Asleep, Writer::AsleepUntil);
        Job::Sleep(alarm.map(|at| at.saturating_duration_since(now)))
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
        let due = self.tail.due().filter(|_| self.disk_full_until.is_none());
        let sooner = match self.writer {
            Writer::Awake => return false,
            Writer::AsleepUntil(alarm) => due.is_some_and(|due| due < alarm),
            Writer::Asleep => due.is_some(),
        };
        let wake = self.closing
            || self.cursor_dirty
            || sooner
            || (self.tail.unwritten_bytes() >= COMMIT_BYTES && self.disk_full_until.is_none())
            || self.failure.is_some();
        if wake {
            self.writer = Writer::Awake;
        }
        wake
    }

    /// Notes what is on disk now. Of a write, `count` of the `frames` are.
    pub(super) fn appended(&mut self, appended: Appended, frames: &[Frame]) {
        let known = self.segments.insert(appended.segment, appended.len);
        self.disk_bytes += appended.len - known.unwrap_or(0);
        if let Some((last, _)) = appended
            .count
            .checked_sub(1)
            .and_then(|last| frames.get(last))
        {
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

    /// Notes that the disk is full: it is left alone for a while.
    pub(super) fn disk_full(&mut self, now: Instant) {
        self.disk_full_until = Some(now + DISK_FULL_RETRY);
    }

    /// Notes that segments are gone.
    pub(super) fn removed(&mut self, segments: &[Seq]) {
        for first_seq in segments {
            self.disk_bytes -= self.segments.remove(first_seq).unwrap_or(0);
        }
        self.disk_full_until = None;
    }

    /// Bytes of the file system that must stay free.
    pub(super) fn free_bytes_min(&self) -> u64 {
        self.options.free_bytes_min
    }

    /// The segments that have nothing unsettled in them. The one being written to is never among them.
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
