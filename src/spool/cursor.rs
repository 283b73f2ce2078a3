//! The read cursor and the ledger on disk.
//!
//! The file `cursor` has two slots. One is synced and is left alone, the other one is written to; a
//! sync changes their parts. So a write torn by a power cut leaves the synced one. A write is due
//! whenever a record that is on disk was settled; it reaches the flash when the system writes it back,
//! at the latest when it is synced. A cursor that is behind costs duplicates, never a loss. [`slot`] has the bytes.

mod slot;

use std::io;
use std::sync::Arc;

use super::Seq;
use super::ledger::Ledger;
use super::runs::Runs;
use super::storage::{Storage, StorageFile};

use self::slot::encode;
pub(super) use self::slot::{RUNS_MAX, SLOT_BYTES, Slot, newest, read_slots};

/// The file's name.
pub(super) const FILE: &str = "cursor";

/// What has been settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Every record with a smaller number is settled.
    pub(super) frontier: Seq,
    /// The next sequence number to be given.
    pub(super) next_seq: Seq,
    /// Numbers at or above the frontier that are settled too; at most [`RUNS_MAX`] runs are kept.
    pub(super) settled: Runs,
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
