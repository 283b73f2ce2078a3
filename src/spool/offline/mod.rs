//! Looking at the spool of a stopped relay without changing a byte of it.
//!
//! [`Offline::open`] reads the cursor and the segments' headers; [`Offline::walk`] then streams one segment
//! and checks it on the way. The relay's own decoders do the reading. Invariants:
//!
//! * Nothing is written, created, renamed, cut or synced: the storage refuses it.
//! * Memory is bounded by one window of a file and a few bytes for each segment, whatever the backlog.
//! * While an [`Offline`] lives no relay can open the spool, and while a relay runs none can be made.
//!
//! It repairs nothing: the relay does that when it starts.

mod damage;
#[cfg(test)]
mod tests;
mod walk;

use std::io;
use std::path::{Path, PathBuf};

use super::Seq;
use super::aside;
use super::cursor::{self, Cursor, SLOT_BYTES, Slot};
use super::ledger::Ledger;
use super::segment::{self, HEADER_BYTES, Header, HeaderError};
use super::storage::{ReadOnlyDirectory, ReadOnlyError, Storage};

pub use self::damage::{Damage, DamageKind};
pub use self::walk::Found;

/// Why a spool cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// Its directory cannot be used.
    #[error(transparent)]
    Directory(#[from] ReadOnlyError),
    /// There is nothing in it.
    #[error("there is no spool in {}: no cursor and no segments", path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot read the spool's {file}: {source}")]
    Io {
        /// Which file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// It was written by a program this one does not understand.
    #[error(
        "the spool's {file} has format version {version}, this program knows only version {}; \
         use the `cloud-relay` that wrote it",
        segment::FORMAT_VERSION
    )]
    Version {
        /// Which file.
        file: String,
        /// The version found.
        version: u16,
    },
}

/// A file of records.
#[derive(Clone, Debug)]
pub struct Segment {
    name: String,
    first_seq: Seq,
    len: u64,
    set_aside: bool,
    /// Whether it is the one that the relay wrote to last: only there a write can be unfinished.
    is_last: bool,
    /// `None` if it cannot be read.
    header: Option<Header>,
    /// Every number in it that the relay would send is smaller: the first of the next segment that it reads.
    end_seq: Option<Seq>,
    /// How many records were written to it; `None` if the headers cannot tell.
    records_written: Option<u64>,
}

impl Segment {
    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len
    }

    /// Whether the relay found it damaged and put it aside: it does not send what is in it.
    pub fn is_set_aside(&self) -> bool {
        self.set_aside
    }
}

/// The spool of a stopped relay.
#[derive(Debug)]
pub struct Offline {
    storage: ReadOnlyDirectory,
    segments: Vec<Segment>,
    cursor: Option<Cursor>,
    cursor_damage: Vec<Damage>,
}

impl Offline {
    /// Opens the spool in the directory `path`, if there is one and no relay runs on it.
    pub fn open(path: &Path) -> Result<Self, OfflineError> {
        let storage = ReadOnlyDirectory::open(path)?;
        let files = storage.list().map_err(|e| io_error("directory", e))?;
        let segments = read_segments(&storage, &files)?;
        let has_cursor = files.iter().any(|(name, _)| name == cursor::FILE);
        if segments.is_empty() && !has_cursor {
            return Err(OfflineError::Empty {
                path: path.to_owned(),
            });
        }
        let slots = if has_cursor {
            let file = storage.open(cursor::FILE);
            file.and_then(|file| cursor::read_slots(file.as_ref()))
                .map_err(|e| io_error(cursor::FILE, e))?
        } else {
            [Slot::Blank, Slot::Blank]
        };
        let mut cursor_damage = damaged_slots(&slots);
        let cursor = cursor::newest(slots).map(|newest| newest.cursor);
        if cursor.is_none() && !segments.is_empty() {
            cursor_damage.push(Damage {
                file: cursor::FILE.to_owned(),
                offset: 0,
                len: 0,
                kind: DamageKind::CursorLost,
            });
        }
        Ok(Offline {
            storage,
            segments,
            cursor,
            cursor_damage,
        })
    }

    /// The directory it is in.
    pub fn path(&self) -> &Path {
        self.storage.path()
    }

    /// Every segment, oldest first, those set aside too.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// What is wrong with the cursor.
    pub fn cursor_damage(&self) -> &[Damage] {
        &self.cursor_damage
    }

    /// Every message with a smaller number has left the spool; `None` if no cursor can be read.
    pub fn frontier(&self) -> Option<Seq> {
        self.cursor.as_ref().map(|cursor| cursor.frontier)
    }

    /// How many messages at or above the frontier have left the spool, as far as the cursor says.
    pub fn settled_ahead(&self) -> u64 {
        self.cursor
            .as_ref()
            .map_or(0, |cursor| cursor.settled.count())
    }

    /// Whether the message numbered `seq` has left the spool, as far as the cursor says.
    pub fn is_settled(&self, seq: Seq) -> bool {
        let cursor = self.cursor.as_ref();
        cursor.is_some_and(|cursor| seq < cursor.frontier || cursor.settled.contains(seq))
    }

    /// The ledger as the cursor has it, with `spooled` messages on disk that have not left the spool.
    pub fn ledger(&self, spooled: u64) -> Ledger {
        Ledger {
            spooled,
            ..self
                .cursor
                .as_ref()
                .map_or_else(Ledger::default, |c| c.ledger)
        }
    }
}

/// The segments in order, each with what the next one's header says about it.
fn read_segments(
    storage: &dyn Storage,
    files: &[(String, u64)],
) -> Result<Vec<Segment>, OfflineError> {
    let mut segments = Vec::new();
    for (name, len) in files {
        let own_name = name.strip_suffix(aside::SUFFIX);
        let Some(first_seq) = segment::first_seq(own_name.unwrap_or(name)) else {
            continue;
        };
        segments.push(Segment {
            name: name.clone(),
            first_seq,
            len: *len,
            set_aside: own_name.is_some(),
            is_last: false,
            header: read_header(storage, name)?,
            end_seq: None,
            records_written: None,
        });
    }
    segments.sort_by(|a, b| (a.first_seq, &a.name).cmp(&(b.first_seq, &b.name)));
    let mut next: Option<Segment> = None;
    let mut next_read_seq = None;
    for segment in segments.iter_mut().rev() {
        segment.end_seq = next_read_seq;
        if !segment.set_aside {
            segment.is_last = next_read_seq.is_none();
            next_read_seq = Some(segment.first_seq);
        }
        // Behind one that was set aside others may be gone.
        if let Some(next) = next
            && !segment.set_aside
        {
            segment.records_written = (segment.header.zip(next.header))
                .map(|(own, next)| next.records_before.saturating_sub(own.records_before));
        }
        next = Some(segment.clone());
    }
    Ok(segments)
}

fn read_header(storage: &dyn Storage, name: &str) -> Result<Option<Header>, OfflineError> {
    let mut bytes = [0; HEADER_BYTES];
    let read = storage
        .open(name)
        .and_then(|file| file.read_at(&mut bytes, 0))
        .map_err(|e| io_error(name, e))?;
    match Header::decode(bytes.get(..read).unwrap_or_default()) {
        Ok(header) => Ok(Some(header)),
        Err(HeaderError::Damaged) => Ok(None),
        Err(HeaderError::Version(version)) => Err(OfflineError::Version {
            file: name.to_owned(),
            version,
        }),
    }
}

fn damaged_slots(slots: &[Slot; 2]) -> Vec<Damage> {
    let len = SLOT_BYTES as u64;
    (slots.iter().zip([0, len]))
        .filter(|(slot, _)| **slot == Slot::Damaged)
        .map(|(_, offset)| Damage {
            file: cursor::FILE.to_owned(),
            offset,
            len,
            kind: DamageKind::CursorSlot,
        })
        .collect()
}

fn io_error(file: &str, source: io::Error) -> OfflineError {
    OfflineError::Io {
        file: file.to_owned(),
        source,
    }
}
