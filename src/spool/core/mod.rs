//! The spool's state in memory, and what the writer thread is to do next. Pure: no I/O, time comes in as
//! an argument.

mod jobs;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bytes::Bytes;

pub(in crate::spool) use self::jobs::Job;
use self::jobs::Writer;
use crate::spool::consumer::Consumer;
use crate::spool::ledger::{DropReason, Ledger, Outcome};
use crate::spool::linger::Linger;
use crate::spool::reader::{Chunk, Place};
use crate::spool::record::{self, Salt};
use crate::spool::recovery::{Recovered, SegmentInfo};
use crate::spool::tail::{Frame, Tail};
use crate::spool::{AppendError, FullPolicy, Message, Options, Progress, Seq, Ticket};

/// Most bytes that may wait to be written; more is not taken until the disk has caught up.
const UNWRITTEN_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of written messages kept in memory for the reader.
const CACHE_BYTES_MAX: usize = 512 * 1024;

/// Where the next message to give out is.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::spool) enum Next {
    Memory,
    Disk(Place),
    Nothing,
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

/// A segment to which nothing is added though there is none behind it.
#[derive(Clone, Copy, Debug)]
struct Closed {
    first_seq: Seq,
    /// Every number in it is smaller.
    end_seq: Seq,
}

/// The spool's state.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own; any combination of them can be"
)]
pub(in crate::spool) struct Core {
    options: Options,
    salt: Salt,
    tail: Tail,
    consumer: Consumer,
    /// How often the consumer went back.
    rewinds: u64,
    /// Every segment on disk, by its first number. The last one may be written to.
    segments: BTreeMap<Seq, SegmentInfo>,
    /// The last segment, if nothing is added to it: it was found at the start, or is damaged.
    closed: Option<Closed>,
    /// The segment with the frontier in it at the start, if the ledger has its damage already.
    damage_counted: Option<Seq>,
    /// Segments in which records could not be read.
    damaged: BTreeSet<Seq>,
    /// How many records cannot be read, by segment, where the reader has met damage and the frontier has not passed the
    /// segment. The ledger has it when the frontier has passed, so that the cursor says with one
    /// number what is settled and which damage is counted.
    lost: BTreeMap<Seq, u64>,
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
    closing: bool,
    failure: Option<String>,
    writer: Writer,
}

impl Core {
    pub(in crate::spool) fn new(
        recovered: Recovered,
        options: Options,
        salt: Salt,
        now: Instant,
    ) -> Self {
        let cursor = recovered.cursor;
        Core {
            options,
            salt,
            tail: Tail::new(cursor.next_seq),
            consumer: Consumer::new(cursor.frontier, cursor.settled),
            rewinds: 0,
            closed: (recovered.segments.last_key_value()).map(|(first_seq, _)| Closed {
                first_seq: *first_seq,
                end_seq: recovered.disk_end,
            }),
            damage_counted: recovered.damage_counted,
            segments: recovered.segments,
            damaged: BTreeSet::new(),
            lost: BTreeMap::new(),
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
            closing: false,
            failure: None,
            writer: Writer::Awake,
        }
    }

    pub(in crate::spool) fn append(
        &mut self,
        message: &Message<'_>,
        now: Instant,
    ) -> Result<Seq, AppendError> {
        if self.failure.is_some() || self.closing {
            return Err(AppendError::Failed);
        }
        let seq = self.tail.next_seq();
        if seq >= record::SEQ_MAX {
            // Not by counting: a record or a cursor says a number that no relay gets to. What is taken now could not
            // be read back.
            self.fail(format!(
                "its numbers are used up, for somebody or something has put the number {} into it: when the cloud has \
                 taken all, remove the spool's directory",
                seq.saturating_sub(1)
            ));
            return Err(AppendError::Failed);
        }
        let room = self.room(record::encoded_len(message));
        self.turned_away = room == Room::Full || (self.turned_away && !self.has_space());
        let waiting = seq - self.consumer.position();
        let linger = self.linger.allowance(message.qos, waiting);
        // While a full disk is left alone, one that cannot linger would only wait for the next failure.
        let hopeless = self.disk_full_until.is_some() && linger.is_zero();
        match (room, self.options.full) {
            (Room::Enough, FullPolicy::DropNewest) if hopeless => return Ok(self.give_up(now)),
            (Room::Full, FullPolicy::DropNewest) => return Ok(self.give_up(now)),
            (Room::Enough, _) => {}
            _ => return Err(AppendError::Full),
        }
        let frame =
            record::encode(seq, message, Some(self.salt)).ok_or_else(|| too_large(message))?;
        self.tail.push(Bytes::from(frame), now + linger);
        self.ledger.accept();
        Ok(seq)
    }

    /// Takes a message, counts it and does not keep it. Returns its number.
    fn give_up(&mut self, now: Instant) -> Seq {
        let seq = self.tail.next_seq();
        self.tail.push_settled(now);
        // Nothing is left in front of it as a cache for the reader: what is given up must not gather in
        // memory behind that.
        self.tail.evict(self.consumer.position(), 0);
        self.ledger.accept();
        self.ledger.settle(Outcome::Dropped(DropReason::Full), 1);
        self.cursor_dirty = true;
        seq
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
    pub(in crate::spool) fn has_space(&self) -> bool {
        self.room(record::RECORD_BYTES_MAX) == Room::Enough
    }

    pub(in crate::spool) fn progress(&self) -> Progress {
        Progress {
            safe: self.tail.safe(),
            full: self.turned_away && !self.has_space(),
            disk_full: self.disk_full,
            dropped_full: self.ledger.dropped_full,
            dropped_damaged: self.ledger.dropped_damaged,
            dropped_expired: self.ledger.dropped_expired,
            failed: self.failure.is_some(),
        }
    }

    /// Bytes that count against [`Options::bytes_max`]: on disk and waiting to be written.
    pub(in crate::spool) fn used_bytes(&self) -> u64 {
        self.disk_bytes + self.tail.unwritten_bytes() as u64
    }

    pub(in crate::spool) fn options(&self) -> Options {
        self.options
    }

    pub(in crate::spool) fn ledger(&self) -> Ledger {
        self.ledger
    }

    pub(in crate::spool) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    pub(in crate::spool) fn fail(&mut self, failure: String) {
        self.failure.get_or_insert(failure);
    }

    pub(in crate::spool) fn close(&mut self) {
        self.closing = true;
    }

    pub(in crate::spool) fn set_linked(&mut self, linked: bool, now: Instant) {
        if self.linger.set_linked(linked) {
            self.tail.hurry(now);
        }
    }

    /// Where the next message to give out is.
    pub(in crate::spool) fn next(&self) -> Next {
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
        let info = self.segments.get(&first_seq)?;
        let mut behind = self.segments.range(first_seq + 1..);
        let next = behind.next().map(|(next, _)| *next);
        let closed = self.closed.filter(|closed| closed.first_seq == first_seq);
        // The write in hand when it was closed may have run over into the next one.
        let ends = [next, closed.map(|closed| closed.end_seq)];
        let end_seq = ends.into_iter().flatten().min();
        Some(Place {
            first_seq,
            len: info.len,
            next,
            end_seq: end_seq.unwrap_or(self.disk_end),
            records: info.records,
        })
    }

    pub(in crate::spool) fn position(&self) -> Seq {
        self.consumer.position()
    }

    /// Gives out messages that are in memory.
    pub(in crate::spool) fn read_memory(
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
    pub(in crate::spool) fn take_chunk(
        &mut self,
        place: Place,
        chunk: Chunk,
        now: Instant,
    ) -> Vec<Frame> {
        // As it is now: it may have been closed or given up while it was read.
        let end_seq = self
            .place(place.first_seq)
            .map_or(place.first_seq, |now| now.end_seq.min(place.end_seq));
        let numbers = place.first_seq..end_seq;
        let passed_before =
            self.damage_counted == Some(place.first_seq) || self.consumer.is_all_settled(&numbers);
        let frames = self.give_out(chunk.frames, now);
        if chunk.end {
            if chunk.lost > 0 && !passed_before {
                self.note_damage(place.first_seq, chunk.lost);
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

    /// Notes that so many records of a segment are lost. Nothing is added to it any more: who reads on may never come to
    /// its end, and would not know what else is lost.
    fn note_damage(&mut self, first_seq: Seq, lost: u64) {
        self.damaged.insert(first_seq);
        self.lost.insert(first_seq, lost);
        if self.is_last(first_seq) && !self.last_is_closed() {
            let end_seq = self.disk_end;
            self.closed = Some(Closed { first_seq, end_seq });
        }
        // It is to be counted, perhaps at once.
        self.cursor_dirty = true;
    }

    fn is_last(&self, first_seq: Seq) -> bool {
        self.segments
            .last_key_value()
            .is_some_and(|(last, _)| *last == first_seq)
    }

    /// Whether what is written next needs a new segment.
    fn last_is_closed(&self) -> bool {
        self.closed
            .is_some_and(|closed| self.is_last(closed.first_seq))
    }

    /// Counts the damage that the frontier has passed.
    fn count_damage(&mut self) {
        let frontier = self.consumer.frontier();
        while let Some((first_seq, lost)) = self.lost.first_key_value()
            && (self.place(*first_seq)).is_none_or(|place| place.end_seq <= frontier)
        {
            let damaged = Outcome::Dropped(DropReason::Damaged);
            self.ledger.settle(damaged, *lost);
            self.lost.pop_first();
            self.cursor_dirty = true;
        }
    }

    fn give_out(&mut self, frames: Vec<Frame>, now: Instant) -> Vec<Frame> {
        frames
            .into_iter()
            .filter(|(seq, _)| self.consumer.deliver(*seq, now))
            .collect()
    }

    pub(in crate::spool) fn settle(&mut self, seq: Seq, outcome: Outcome, now: Instant) {
        let on_disk = seq < self.disk_end;
        if let Some(given_out) = self.consumer.settle(seq) {
            self.linger
                .settled_after(now.saturating_duration_since(given_out));
            self.ledger.settle(outcome, 1);
            self.tail.settle(seq);
            self.tail.evict(self.consumer.position(), CACHE_BYTES_MAX);
            self.cursor_dirty |= on_disk;
            self.count_damage();
        }
    }

    pub(in crate::spool) fn rewind(&mut self) {
        self.consumer.rewind();
        self.rewinds += 1;
    }

    pub(in crate::spool) fn ticket(&self) -> Ticket {
        Ticket(self.rewinds)
    }
}

/// Why a message does not fit into a record.
fn too_large(message: &Message<'_>) -> AppendError {
    let attributes = message.attributes.len();
    if attributes > record::ATTRIBUTES_BYTES_MAX {
        return AppendError::AttributesTooLarge {
            size_bytes: attributes,
            max_bytes: record::ATTRIBUTES_BYTES_MAX,
        };
    }
    AppendError::TooLarge {
        size_bytes: message.topic.len() + attributes + message.payload.len(),
        max_bytes: record::MESSAGE_BYTES_MAX,
    }
}
