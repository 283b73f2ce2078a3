//! The read cursor and the ledger on disk.
//!
//! The file `cursor` has two slots. One is synced and is left alone, the other one is written to; a
//! sync changes their parts. So a write torn by a power cut leaves the synced one. A write is due
//! whenever a record that is on disk was settled; it reaches the flash when the system writes it back,
//! at the latest when it is synced. A cursor that is behind costs duplicates, never a loss.
//!
//! ```text
//! offset  size  field of a slot
//!      0     8  magic, "CRCURSOR"
//!      8     4  CRC-32 (IEEE) of bytes 12 to the end of the slot
//!     12     4  number S of entries in the list at the end
//!     16     8  generation: the slot with the higher one counts
//!     24     8  frontier: every record with a smaller number is settled
//!     32     8  the next sequence number to be given
//!     40    32  ledger: delivered, dead-lettered, dropped as damaged, dropped when full
//!     72    8S  numbers at or above the frontier that are settled too
//!   4088     8  ledger: dropped as expired
//! ```
//!
//! The last number came later. A slot from before has zeros there, or the end of a list that is as long as lists can be:
//! then it is read as that. A relay from before takes no notice of the number and loses that count, and nothing else.

use std::io;
use std::sync::Arc;

use super::Seq;
use super::ledger::Ledger;
use super::record::SEQ_MAX;
use super::storage::{Storage, StorageFile};

/// The file's name.
pub(super) const FILE: &str = "cursor";
const MAGIC: [u8; 8] = *b"CRCURSOR";
/// Size of a slot, in bytes: one page, the unit in which the system writes back.
pub(super) const SLOT_BYTES: usize = 4096;
const FIXED_BYTES: usize = 72;
const EXPIRED_AT: usize = SLOT_BYTES - 8;
/// How many numbers fit in a slot's list. The in-flight window is far smaller, but more can flow past a message that
/// waits, such as one of a topic that is denied: a start sends again what is not in the list, and counts it again.
pub(super) const SETTLED_MAX: usize = (EXPIRED_AT - FIXED_BYTES) / 8;

/// What has been settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Every record with a smaller number is settled.
    pub(super) frontier: Seq,
    /// The next sequence number to be given.
    pub(super) next_seq: Seq,
    /// Numbers at or above the frontier that are settled too; at most [`SETTLED_MAX`] are kept.
    pub(super) settled: Vec<Seq>,
    /// The ledger. Its `spooled` is not stored: a start counts what is on disk.
    pub(super) ledger: Ledger,
}

impl Cursor {
    /// Whether both are the same on disk, where the number of spooled messages is not.
    pub(super) fn is_stored_as(&self, other: &Cursor) -> bool {
        let mut own = self.clone();
        own.ledger.spooled = other.ledger.spooled;
        own == *other
    }
}

/// The file that holds the cursor.
#[derive(Debug)]
pub(super) struct CursorFile {
    file: Arc<dyn StorageFile>,
    generation: u64,
    /// The slot to write to: not the one that is synced.
    slot: u64,
    written: bool,
    /// A slot was found damaged, perhaps by a write that was torn.
    torn: bool,
}

impl CursorFile {
    /// Opens the file and reads the newer sound slot; `None` if there is none.
    pub(super) fn open(storage: &dyn Storage) -> io::Result<(Self, Option<Cursor>)> {
        let exists = storage.list()?.iter().any(|(name, _)| name == FILE);
        let file = if exists {
            storage.open(FILE)?
        } else {
            storage.create(FILE)?
        };
        let slots = read_slots(file.as_ref())?;
        let torn = slots.contains(&Slot::Damaged);
        let best = newest(slots);
        if best.is_some() {
            // A process that crashed may have written it without a sync, and the other slot is next.
            file.sync_data()?;
        }
        let cursor_file = CursorFile {
            file,
            generation: best.as_ref().map_or(0, |best| best.generation),
            slot: best.as_ref().map_or(0, |best| 1 - best.slot),
            written: false,
            torn,
        };
        Ok((cursor_file, best.map(|best| best.cursor)))
    }

    /// Whether something of a torn write was found: the rest of it, had it been written, might say more.
    pub(super) fn is_torn(&self) -> bool {
        self.torn
    }

    /// Writes the cursor into the slot that is not synced. Survives a crash of the process;
    /// [`CursorFile::sync`] makes it survive a power cut.
    pub(super) fn write(&mut self, cursor: &Cursor) -> io::Result<()> {
        self.generation += 1;
        self.written = false;
        let offset = self.slot * SLOT_BYTES as u64;
        self.file
            .write_all_at(&encode(self.generation, cursor), offset)?;
        self.written = true;
        Ok(())
    }

    /// Makes the last write durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.written) {
            self.file.sync_data()?;
            self.slot = 1 - self.slot;
        }
        Ok(())
    }
}

/// What stands in one of the two slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Never written: zeros, or behind the end of the file.
    Blank,
    /// Not a slot, though something was written.
    Damaged,
    /// A generation and its cursor.
    Sound(u64, Cursor),
}

/// Reads both slots, in the order in which they stand.
pub(super) fn read_slots(file: &dyn StorageFile) -> io::Result<[Slot; 2]> {
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
pub(super) struct Newest {
    /// 0 or 1.
    pub(super) slot: u64,
    pub(super) generation: u64,
    pub(super) cursor: Cursor,
}

/// The slot that counts, if one is sound.
pub(super) fn newest(slots: [Slot; 2]) -> Option<Newest> {
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

fn encode(generation: u64, cursor: &Cursor) -> Vec<u8> {
    let settled: Vec<Seq> = cursor.settled.iter().copied().take(SETTLED_MAX).collect();
    let count = u32::try_from(settled.len()).unwrap_or(u32::MAX);
    let mut body = Vec::with_capacity(SLOT_BYTES);
    body.extend_from_slice(&count.to_le_bytes());
    let ledger = &cursor.ledger;
    for field in [
        generation,
        cursor.frontier,
        cursor.next_seq,
        ledger.delivered,
        ledger.dead_lettered,
        ledger.dropped_damaged,
        ledger.dropped_full,
    ]
    .iter()
    .chain(&settled)
    {
        body.extend_from_slice(&field.to_le_bytes());
    }
    body.resize(EXPIRED_AT - 12, 0);
    body.extend_from_slice(&ledger.dropped_expired.to_le_bytes());
    let mut slot = Vec::with_capacity(SLOT_BYTES);
    slot.extend_from_slice(&MAGIC);
    slot.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    slot.extend_from_slice(&body);
    slot
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
    let has_expired = count <= SETTLED_MAX;
    let expired = slot.last_chunk().filter(|_| has_expired);
    let generation = fields.next()?;
    let cursor = Cursor {
        frontier: fields.next()?,
        next_seq: fields.next()?,
        ledger: Ledger {
            delivered: fields.next()?,
            dead_lettered: fields.next()?,
            dropped_damaged: fields.next()?,
            dropped_full: fields.next()?,
            dropped_expired: expired.map_or(0, |bytes| u64::from_le_bytes(*bytes)),
            spooled: 0,
        },
        settled: fields.take(count).collect(),
    };
    let ledger = &cursor.ledger;
    let numbers = [
        generation,
        cursor.frontier,
        cursor.next_seq,
        ledger.delivered,
        ledger.dead_lettered,
        ledger.dropped_damaged,
        ledger.dropped_full,
        ledger.dropped_expired,
    ];
    let sound = numbers.iter().all(|number| *number <= SEQ_MAX);
    sound.then_some((generation, cursor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Cursor {
        Cursor {
            frontier: 10,
            next_seq: 20,
            settled: vec![12, 15],
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

    #[test]
    fn a_slot_from_before_messages_expired_is_read() {
        let mut body = encode(5, &sample()).split_off(12);
        let at = body.len() - 8;
        body[at..].fill(0);
        let mut expected = sample();
        expected.ledger.dropped_expired = 0;
        assert_eq!(decode(&slot(&body)), Some((5, expected.clone())));

        // The longest list that there was reached to the end of the slot.
        let longest: Vec<Seq> = (100..=100 + SETTLED_MAX as u64).collect();
        let count = u32::try_from(longest.len()).unwrap();
        body[..4].copy_from_slice(&count.to_le_bytes());
        let numbers: Vec<u8> = longest.iter().flat_map(|seq| seq.to_le_bytes()).collect();
        body[FIXED_BYTES - 12..].copy_from_slice(&numbers);
        expected.settled = longest;
        assert_eq!(decode(&slot(&body)), Some((5, expected)));
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
    fn a_list_that_is_too_long_is_cut_and_costs_only_duplicates() {
        let mut cursor = sample();
        cursor.settled = (100..100 + SETTLED_MAX as u64 + 50).collect();
        let (_, read) = decode(&encode(1, &cursor)).unwrap();
        assert_eq!(read.settled, cursor.settled[..SETTLED_MAX]);
    }
}
