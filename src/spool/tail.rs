//! The newest messages, in memory. Pure.
//!
//! Entries are contiguous in sequence. A message stays here until it is written to disk or settled;
//! afterwards it is kept only as a cache for the reader. The *safe* watermark is the first
//! message that is neither written nor settled: everything before it may be acknowledged, everything
//! from it on is unwritten.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::Seq;

/// A message and its encoded record.
pub(super) type Frame = (Seq, Bytes);

#[derive(Debug)]
struct Entry {
    frame: Bytes,
    settled: bool,
    /// When this message must be written at the latest.
    due: Instant,
}

/// The newest messages.
#[derive(Debug)]
pub(super) struct Tail {
    first_seq: Seq,
    entries: VecDeque<Entry>,
    safe: Seq,
    held_bytes: usize,
    unwritten_bytes: usize,
}

impl Tail {
    /// An empty tail whose first message will be numbered `next_seq`.
    pub(super) fn new(next_seq: Seq) -> Self {
        Tail {
            first_seq: next_seq,
            entries: VecDeque::new(),
            safe: next_seq,
            held_bytes: 0,
            unwritten_bytes: 0,
        }
    }

    /// The number of the oldest message still held, or of the next one.
    pub(super) fn first_seq(&self) -> Seq {
        self.first_seq
    }

    /// The number the next message gets.
    pub(super) fn next_seq(&self) -> Seq {
        self.first_seq + self.entries.len() as u64
    }

    /// Every message with a smaller number is written or settled.
    pub(super) fn safe(&self) -> Seq {
        self.safe
    }

    /// Bytes of records that are neither written nor settled.
    pub(super) fn unwritten_bytes(&self) -> usize {
        self.unwritten_bytes
    }

    /// Bytes of all records held.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Takes the record numbered [`Tail::next_seq`], to be written by `due`, and with it what is before it
    /// and unwritten: records are written in order, so the oldest is never due later than one behind it.
    pub(super) fn push(&mut self, frame: Bytes, due: Instant) {
        let unwritten = self.index(self.safe).unwrap_or(0).min(self.entries.len());
        let later = |entry: &&mut Entry| entry.due > due;
        for entry in (self.entries.range_mut(unwritten..).rev()).take_while(later) {
            entry.due = due;
        }
        self.held_bytes += frame.len();
        self.unwritten_bytes += frame.len();
        self.entries.push_back(Entry {
            frame,
            settled: false,
            due,
        });
    }

    /// Takes the number [`Tail::next_seq`] for a message that is not kept.
    pub(super) fn push_settled(&mut self, now: Instant) {
        self.entries.push_back(Entry {
            frame: Bytes::new(),
            settled: true,
            due: now,
        });
        self.advance_safe();
    }

    /// The numbers of all messages that are neither written nor settled.
    pub(super) fn unwritten_seqs(&self) -> Vec<Seq> {
        self.from(self.safe)
            .filter(|(_, entry)| !entry.settled)
            .map(|(seq, _)| seq)
            .collect()
    }

    /// When the oldest unwritten message must be written, if there is one.
    pub(super) fn due(&self) -> Option<Instant> {
        self.entry(self.safe).map(|entry| entry.due)
    }

    /// Makes everything unwritten due by `now`.
    pub(super) fn hurry(&mut self, now: Instant) {
        let skip = self.index(self.safe).unwrap_or(0).min(self.entries.len());
        for entry in self.entries.range_mut(skip..) {
            entry.due = entry.due.min(now);
        }
    }

    /// The unwritten records from the safe watermark on, about `bytes_max` at the most, and the number
    /// behind the last message looked at.
    pub(super) fn unwritten(&self, bytes_max: usize) -> (Vec<Frame>, Seq) {
        let mut frames = Vec::new();
        let mut bytes = 0;
        let mut through = self.safe;
        for (seq, entry) in self.from(self.safe) {
            if bytes >= bytes_max {
                break;
            }
            through = seq + 1;
            if !entry.settled {
                bytes += entry.frame.len();
                frames.push((seq, entry.frame.clone()));
            }
        }
        (frames, through)
    }

    /// Notes that every unsettled record before `through` is on disk.
    pub(super) fn written(&mut self, through: Seq) {
        let written: usize = self
            .from(self.safe)
            .take_while(|(seq, _)| *seq < through)
            .filter(|(_, entry)| !entry.settled)
            .map(|(_, entry)| entry.frame.len())
            .sum();
        self.unwritten_bytes -= written;
        self.safe = self.safe.max(through);
        self.advance_safe();
    }

    /// Notes that `seq` is settled, if it is held here: its bytes are let go.
    pub(super) fn settle(&mut self, seq: Seq) {
        let safe = self.safe;
        let Some(entry) = self.entry_mut(seq).filter(|entry| !entry.settled) else {
            return;
        };
        entry.settled = true;
        let len = std::mem::take(&mut entry.frame).len();
        self.held_bytes -= len;
        if seq >= safe {
            self.unwritten_bytes -= len;
            self.advance_safe();
        }
    }

    /// Up to `count_max` unsettled records from `from` on, about `bytes_max` together.
    pub(super) fn read(&self, from: Seq, count_max: usize, bytes_max: usize) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut bytes = 0;
        for (seq, entry) in self.from(from) {
            if frames.len() >= count_max || bytes >= bytes_max {
                break;
            }
            if !entry.settled {
                bytes += entry.frame.len();
                frames.push((seq, entry.frame.clone()));
            }
        }
        frames
    }

    /// Lets go of what is safe and either settled, already read (before `position`) or more than
    /// `cache_bytes_max`.
    pub(super) fn evict(&mut self, position: Seq, cache_bytes_max: usize) {
        while let Some(entry) = self.entries.front() {
            let unneeded =
                entry.settled || self.first_seq < position || self.held_bytes > cache_bytes_max;
            if self.first_seq >= self.safe || !unneeded {
                break;
            }
            self.held_bytes -= entry.frame.len();
            self.entries.pop_front();
            self.first_seq += 1;
        }
        if self.entries.is_empty() && self.entries.capacity() > IDLE_CAPACITY {
            self.entries = VecDeque::new();
        }
    }

    fn advance_safe(&mut self) {
        while self.entry(self.safe).is_some_and(|entry| entry.settled) {
            self.safe += 1;
        }
    }

    fn index(&self, seq: Seq) -> Option<usize> {
        usize::try_from(seq.checked_sub(self.first_seq)?).ok()
    }

    fn entry(&self, seq: Seq) -> Option<&Entry> {
        self.entries.get(self.index(seq)?)
    }

    fn entry_mut(&mut self, seq: Seq) -> Option<&mut Entry> {
        let index = self.index(seq)?;
        self.entries.get_mut(index)
    }

    fn from(&self, seq: Seq) -> impl Iterator<Item = (Seq, &Entry)> {
        let start = seq.max(self.first_seq);
        let skip = self
            .index(start)
            .unwrap_or(usize::MAX)
            .min(self.entries.len());
        (start..).zip(self.entries.range(skip..))
    }
}

/// Entries' room kept while idle; more is given back.
const IDLE_CAPACITY: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn tail_of(count: u8) -> Tail {
        let mut tail = Tail::new(100);
        for n in 0..count {
            tail.push(Bytes::from(vec![n; 10]), Instant::now());
        }
        tail
    }

    fn seqs(frames: &[Frame]) -> Vec<Seq> {
        frames.iter().map(|(seq, _)| *seq).collect()
    }

    #[test]
    fn writing_moves_the_safe_watermark() {
        let mut tail = tail_of(5);
        let (frames, through) = tail.unwritten(25);
        assert_eq!((seqs(&frames), through), (vec![100, 101, 102], 103));
        tail.written(through);
        assert_eq!((tail.safe(), tail.unwritten_bytes()), (103, 20));
    }

    #[test]
    fn a_message_settled_before_it_was_written_is_never_written() {
        let mut tail = tail_of(3);
        tail.settle(101);
        assert_eq!(tail.safe(), 100, "100 is neither written nor settled");
        let (frames, through) = tail.unwritten(1_000);
        assert_eq!((seqs(&frames), through), (vec![100, 102], 103));
        tail.settle(100);
        assert_eq!((tail.safe(), tail.unwritten_bytes()), (102, 10));
    }

    #[test]
    fn a_message_settled_while_it_is_written_is_counted_once() {
        let mut tail = tail_of(3);
        let (_, through) = tail.unwritten(1_000);
        tail.settle(101);
        tail.written(through);
        tail.settle(101);
        tail.settle(102);
        assert_eq!((tail.safe(), tail.unwritten_bytes()), (103, 0));
    }

    #[test]
    fn nothing_unsafe_is_evicted_and_settled_messages_are_not_read() {
        let mut tail = tail_of(4);
        tail.settle(101);
        tail.evict(104, 0);
        assert_eq!(tail.first_seq(), 100);
        assert_eq!(seqs(&tail.read(0, 10, 1_000)), [100, 102, 103]);
        tail.written(102);
        tail.evict(0, 1_000);
        assert_eq!(tail.first_seq(), 100, "still a cache for the reader");
        tail.evict(101, 1_000);
        assert_eq!(tail.first_seq(), 102);
        assert_eq!(seqs(&tail.read(102, 1, 1_000)), [102]);
        assert_eq!(tail.next_seq(), 104);
    }
}
