//! A slot of the cursor's file, as bytes.
//!
//! ```text
//! offset  size  field of a slot
//!      0     8  magic, "CRCURSOR"
//!      8     4  CRC-32 (IEEE) of bytes 12 to the end of the slot
//!     12     4  0 (or S, below)
//!     16     8  generation: the slot with the higher one counts
//!     24     8  frontier: every record with a smaller number is settled
//!     32     8  the next sequence number to be given
//!     40    32  ledger: delivered, dead-lettered, dropped as damaged, dropped when full
//!     72        numbers at or above the frontier that are settled too, as runs: how many are left out from where
//!               the last one ended, or from the frontier, and how many are in it, both as LEB128; of none is the end
//!   4088     8  ledger: dropped as expired
//! ```
//!
//! What came later:
//!
//! * The runs. A slot from before has, at 72, S single numbers of 8 bytes, and is read as that. A relay from before takes
//!   a slot of today for one without a list: it sends again, and counts again, what is settled above the frontier.
//! * The number at the end. A slot from before has zeros there, or the end of a list that is as long as lists can be: then
//!   it is read as that. A relay from before takes no notice of the number and loses that count, and nothing else.

use std::io;

use super::Cursor;
use crate::spool::Seq;
use crate::spool::ledger::Ledger;
use crate::spool::record::SEQ_MAX;
use crate::spool::runs::Runs;
use crate::spool::storage::StorageFile;

const MAGIC: [u8; 8] = *b"CRCURSOR";
/// Size of a slot, in bytes: one page, the unit in which the system writes back.
pub(in crate::spool) const SLOT_BYTES: usize = 4096;
const FIXED_BYTES: usize = 72;
const EXPIRED_AT: usize = SLOT_BYTES - 8;
/// Most runs that fit into a slot: the shortest have two bytes. There are as many as messages wait between those that are
/// settled; where they do not fit, a start sends again what is in the others, and counts it again.
pub(in crate::spool) const RUNS_MAX: usize = (EXPIRED_AT - FIXED_BYTES) / 2;
/// How many numbers fit into the list of a slot that has no number at the end.
const LIST_MAX: usize = (EXPIRED_AT - FIXED_BYTES) / 8;

/// What stands in one of the two slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::spool) enum Slot {
    /// Never written: zeros, or behind the end of the file.
    Blank,
    /// Not a slot, though something was written.
    Damaged,
    /// A generation and its cursor.
    Sound(u64, Cursor),
}

/// Reads both slots, in the order in which they stand.
pub(in crate::spool) fn read_slots(file: &dyn StorageFile) -> io::Result<[Slot; 2]> {
    let mut slots = [Slot::Blank, Slot::Blank];
    for (slot, offset) in slots.iter_mut().zip([0, SLOT_BYTES as u64]) {
        let mut bytes = vec![0; SLOT_BYTES];
        let read = file.read_at(&mut bytes, offset)?;
        bytes.truncate(read);
        *slot = match decode(&bytes) {
            Some((generation, cursor)) => Slot::Sound(generation, cursor),
            None if bytes.iter().all(|byte| *byte == 0) => Slot::Blank,
            None => Slot::Damaged,
        };
    }
    Ok(slots)
}

/// The slot that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::spool) struct Newest {
    /// 0 or 1.
    pub(in crate::spool) slot: u64,
    pub(in crate::spool) generation: u64,
    pub(in crate::spool) cursor: Cursor,
}

/// The slot that counts, if one is sound.
pub(in crate::spool) fn newest(slots: [Slot; 2]) -> Option<Newest> {
    (0..)
        .zip(slots)
        .filter_map(|(slot, found)| match found {
            Slot::Sound(generation, cursor) => Some(Newest {
                slot,
                generation,
                cursor,
            }),
            Slot::Blank | Slot::Damaged => None,
        })
        .max_by_key(|newest| newest.generation)
}

pub(super) fn encode(generation: u64, cursor: &Cursor) -> Vec<u8> {
    let mut body = Vec::with_capacity(SLOT_BYTES);
    body.extend_from_slice(&0_u32.to_le_bytes());
    for number in numbers(generation, cursor) {
        body.extend_from_slice(&number.to_le_bytes());
    }
    let mut from = cursor.frontier;
    for run in cursor.settled.iter() {
        let len = body.len();
        push_leb128(&mut body, run.start.saturating_sub(from));
        push_leb128(&mut body, run.end - run.start);
        if body.len() > EXPIRED_AT - 12 {
            body.truncate(len);
            break;
        }
        from = run.end;
    }
    body.resize(EXPIRED_AT - 12, 0);
    body.extend_from_slice(&cursor.ledger.dropped_expired.to_le_bytes());
    let mut slot = Vec::with_capacity(SLOT_BYTES);
    slot.extend_from_slice(&MAGIC);
    slot.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    slot.extend_from_slice(&body);
    slot
}

/// The numbers in front of the runs, in the order in which they stand.
fn numbers(generation: u64, cursor: &Cursor) -> [u64; 7] {
    let ledger = &cursor.ledger;
    [
        generation,
        cursor.frontier,
        cursor.next_seq,
        ledger.delivered,
        ledger.dead_lettered,
        ledger.dropped_damaged,
        ledger.dropped_full,
    ]
}

fn push_leb128(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            return bytes.push(low);
        }
        bytes.push(low | 0x80);
    }
}

/// The number at the start of `bytes`, and what is behind it; `None` if it has no end or is no number that can be.
fn split_leb128(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (last, _) = (bytes.iter().enumerate()).find(|(_, byte)| **byte < 0x80)?;
    let (number, rest) = bytes.split_at_checked(last + 1)?;
    let number = number.iter().rev().try_fold(0_u64, |number, byte| {
        (number <= SEQ_MAX >> 7).then_some(number << 7 | u64::from(byte & 0x7F))
    })?;
    Some((number, rest))
}

/// The runs in `bytes`, where the first one is at `from` or behind it.
fn read_runs(mut bytes: &[u8], mut from: Seq) -> Option<Runs> {
    let mut runs = Runs::default();
    while !bytes.is_empty() {
        let (gap, rest) = split_leb128(bytes)?;
        let Some((len, rest)) = split_leb128(rest).filter(|(len, _)| *len > 0) else {
            break;
        };
        let start = from.checked_add(gap)?;
        from = start.checked_add(len)?;
        if from > SEQ_MAX {
            return None;
        }
        runs.insert(start..from);
        bytes = rest;
    }
    Some(runs)
}

fn decode(slot: &[u8]) -> Option<(u64, Cursor)> {
    if slot.len() != SLOT_BYTES {
        return None;
    }
    let (magic, rest) = slot.split_first_chunk::<8>()?;
    let (crc, body) = rest.split_first_chunk::<4>()?;
    if *magic != MAGIC || crc32fast::hash(body).to_le_bytes() != *crc {
        return None;
    }
    let (count, fields) = body.split_first_chunk::<4>()?;
    let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
    let mut fields = fields
        .chunks_exact(8)
        .filter_map(|chunk| Some(u64::from_le_bytes(*chunk.first_chunk()?)));
    let expired = slot.last_chunk().filter(|_| count <= LIST_MAX);
    let generation = fields.next()?;
    let frontier = fields.next()?;
    let cursor = Cursor {
        frontier,
        next_seq: fields.next()?,
        ledger: Ledger {
            delivered: fields.next()?,
            dead_lettered: fields.next()?,
            dropped_damaged: fields.next()?,
            dropped_full: fields.next()?,
            dropped_expired: expired.map_or(0, |bytes| u64::from_le_bytes(*bytes)),
            spooled: 0,
        },
        settled: if count == 0 {
            read_runs(slot.get(FIXED_BYTES..EXPIRED_AT)?, frontier)?
        } else {
            let list = fields.take(count).filter(|seq| *seq < SEQ_MAX);
            list.map(|seq| seq..seq + 1).collect()
        },
    };
    let sound = numbers(generation, &cursor)
        .into_iter()
        .chain([cursor.ledger.dropped_expired])
        .all(|number| number <= SEQ_MAX);
    sound.then_some((generation, cursor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Cursor {
        Cursor {
            frontier: 10,
            next_seq: 20,
            settled: [12..14, 15..400].into_iter().collect(),
            ledger: Ledger {
                delivered: 9,
                dead_lettered: 1,
                dropped_damaged: 2,
                dropped_full: 3,
                dropped_expired: 4,
                spooled: 0,
            },
        }
    }

    /// A slot with `body` behind its checksum.
    fn slot(body: &[u8]) -> Vec<u8> {
        [&MAGIC[..], &crc32fast::hash(body).to_le_bytes(), body].concat()
    }

    /// The same, with `list` as slots had it before there were runs, and no count of what expired.
    fn slot_from_before(list: &[Seq]) -> (Vec<u8>, Cursor) {
        let mut body = encode(5, &sample()).split_off(12);
        body[FIXED_BYTES - 12..].fill(0);
        let count = u32::try_from(list.len()).unwrap();
        body[..4].copy_from_slice(&count.to_le_bytes());
        let numbers: Vec<u8> = list.iter().flat_map(|seq| seq.to_le_bytes()).collect();
        body[FIXED_BYTES - 12..][..numbers.len()].copy_from_slice(&numbers);
        let mut expected = sample();
        expected.ledger.dropped_expired = 0;
        expected.settled = list.iter().map(|seq| *seq..seq + 1).collect();
        (slot(&body), expected)
    }

    #[test]
    fn a_slot_from_before_there_were_runs_or_messages_expired_is_read() {
        // The longest list that there was reached to the end of the slot.
        let longest: Vec<Seq> = (100..=100 + LIST_MAX as u64).collect();
        for list in [&[][..], &[12, 13, 15], &longest] {
            let (slot, expected) = slot_from_before(list);
            assert_eq!(decode(&slot), Some((5, expected)), "{list:?}");
        }
    }

    #[test]
    fn a_slot_reads_back_and_every_flipped_bit_is_noticed() {
        let good = encode(5, &sample());
        assert_eq!(decode(&good), Some((5, sample())));
        for bit in (0..good.len() * 8).step_by(7) {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bad), None, "bit {bit}");
        }
    }

    #[test]
    fn what_flowed_past_a_message_takes_the_room_of_one_run() {
        let mut cursor = sample();
        let slot = encode(1, &cursor);
        assert_eq!(slot[12..16], [0; 4], "no list, to a relay from before");
        cursor.settled = [11..100_000, 100_001..SEQ_MAX].into_iter().collect();
        assert_eq!(decode(&encode(1, &cursor)), Some((1, cursor)));
    }

    #[test]
    fn runs_that_are_too_many_are_cut_and_cost_only_duplicates() {
        let mut cursor = sample();
        let runs: Vec<_> = (0..)
            .map(|n| 11 + 2 * n..12 + 2 * n)
            .take(RUNS_MAX + 9)
            .collect();
        cursor.settled = runs.iter().cloned().collect();
        let (_, read) = decode(&encode(1, &cursor)).unwrap();
        assert!(read.settled.iter().eq(runs.iter().take(RUNS_MAX).cloned()));
        // None is cut in two: the last one here has four bytes, and there is room for two.
        cursor.settled.remove_from(runs[RUNS_MAX - 1].start);
        cursor.settled.insert(9_000..9_999);
        let (_, read) = decode(&encode(1, &cursor)).unwrap();
        assert!(
            read.settled
                .iter()
                .eq(runs.iter().take(RUNS_MAX - 1).cloned())
        );
        assert_eq!(read.ledger, cursor.ledger);
    }

    #[test]
    fn runs_that_cannot_be_are_no_slot() {
        let mut body = encode(5, &sample()).split_off(12);
        let runs = FIXED_BYTES - 12;
        for bad in [
            [0xFF; 20],
            [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 1]
                .repeat(2)
                .try_into()
                .unwrap(),
        ] {
            body[runs..runs + 20].copy_from_slice(&bad);
            assert_eq!(decode(&slot(&body)), None, "{bad:?}");
        }
    }
}
