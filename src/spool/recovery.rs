//! Opening a spool after whatever happened to it.
//!
//! Only two segments are read, whatever the backlog: the last one, to find where sound data ends, and
//! the one with the frontier in it, to count what is unsettled there. Where messages have flowed past some that wait,
//! those segments are read too in which there are both. A tail that was torn by a crash is
//! cut off. A damaged header is made anew if there are records behind it; else the segment is set aside under another name
//! and counted. An I/O error is returned.
//!
//! `find`: which segments there are; `scan`: what is in one; `count`: how many messages wait.

mod count;
mod find;
pub(super) mod scan;

use std::collections::BTreeMap;
use std::io;

use super::Seq;
use super::cursor::{Cursor, CursorFile};
use super::ledger::{DropReason, Ledger, Outcome};
use super::log::is_full;
use super::segment;
use super::storage::Storage;

use self::count::{unsettled, with_record_counts};
use self::find::find_segments;
use self::scan::scan;

/// What opening found, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Messages that wait for the cloud.
    pub spooled: u64,
    /// Bytes of the segments on disk.
    pub disk_bytes: u64,
    /// Bytes of an unfinished write that were cut off. They were never acknowledged.
    pub torn_bytes: u64,
    /// Segments whose damaged header was made anew, because there are sound records behind it.
    pub headers_mended: u64,
    /// Segments set aside because nothing in them can be read.
    pub segments_set_aside: u64,
    /// The ledger at the start.
    pub ledger: Ledger,
    /// Whether the cursor was damaged or lost, so that everything on disk is sent again.
    pub cursor_lost: bool,
}

/// Why a spool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refused.
    #[error(
        "DATA_DIR: cannot open the spool, because of its {file}: {source}; if the disk is failing, \
         `cloud-relay spool export` saves what can still be read"
    )]
    Io {
        /// Which file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// It was written by a program this one does not understand.
    #[error(
        "the spool's {file} has format version {version}, this program knows only version {}; \
         run the version that wrote it, or let that one drain it first",
        segment::FORMAT_VERSION
    )]
    Version {
        /// Which file.
        file: String,
        /// The version found.
        version: u16,
    },
    /// The spool cannot have its thread.
    #[error("cannot start the spool's writer thread: {0}; is the device out of memory?")]
    Thread(io::Error),
}

impl OpenError {
    pub(super) fn cursor(source: io::Error) -> Self {
        io_error("cursor file", source)
    }
}

/// What is known of a segment without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentInfo {
    /// Durable length, in bytes.
    pub(super) len: u64,
    /// Records written to it. Those of a segment behind it that is missing count as its own.
    pub(super) records: u64,
}

/// A spool as found on disk.
pub(super) struct Recovered {
    /// Every segment, by its first sequence number.
    pub(super) segments: BTreeMap<Seq, SegmentInfo>,
    /// What is settled, and the ledger with `spooled` counted anew.
    pub(super) cursor: Cursor,
    /// Records ever written to disk.
    pub(super) records_written: u64,
    /// One more than the highest number on disk.
    pub(super) disk_end: Seq,
    /// The segment with the frontier in it, if the ledger has its damage already.
    pub(super) damage_counted: Option<Seq>,
    pub(super) report: Recovery,
}

/// Opens what is there.
pub(super) fn recover(storage: &dyn Storage) -> Result<(Recovered, CursorFile), OpenError> {
    let (mut cursor_file, cursor) = CursorFile::open(storage).map_err(OpenError::cursor)?;
    let mut report = Recovery::default();
    let (mut found, uncounted) = find_segments(storage, &mut report)?;
    report.cursor_lost = cursor.is_none() && !found.is_empty();
    let before = cursor.clone();
    let mut cursor = cursor.unwrap_or_default();

    let mut records_written = 0;
    let mut disk_end = 0;
    if let Some((first_seq, last)) = found.last_entry().map(|e| (*e.key(), *e.get())) {
        let scanned = scan(storage, first_seq, last.len, None)?;
        report.torn_bytes += last.len - scanned.sound_len;
        cut_and_sync(storage, first_seq, last.len, scanned.sound_len)?;
        records_written = last.header.records_before + scanned.records();
        // One that is empty stays, for its name says where the one before it ends.
        disk_end = scanned.seqs.last().unwrap_or(&first_seq) + 1;
        if let Some(last) = found.get_mut(&first_seq) {
            last.len = scanned.sound_len;
        }
    }
    cursor.frontier = cursor.frontier.max(1);
    cursor.next_seq = cursor.next_seq.max(disk_end).max(cursor.frontier);
    // Or a message to come would count as settled.
    cursor.settled.remove_from(cursor.next_seq);
    cursor.settled.remove_before(cursor.frontier);

    let segments = with_record_counts(&found, records_written, disk_end);
    let (spooled, damage_counted) = unsettled(storage, &segments, disk_end, &cursor)?;
    // Segments put away are lost records, one each, where nothing tells their number. Of one between two
    // others the running counts tell it when the reader passes the gap.
    cursor.ledger.spooled = spooled + uncounted;
    let damaged = Outcome::Dropped(DropReason::Damaged);
    cursor.ledger.settle(damaged, uncounted);
    report.spooled = cursor.ledger.spooled;
    report.ledger = cursor.ledger;
    report.disk_bytes = segments.values().map(|info| info.len).sum();
    let is_durable = before.is_some_and(|before| before.is_stored_as(&cursor));
    // Both slots, if one is damaged: what is left of a torn write is not to be found again.
    let saves = if cursor_file.is_torn() {
        2
    } else {
        usize::from(!is_durable)
    };
    for _ in 0..saves {
        save(&mut cursor_file, &cursor)?;
    }
    storage
        .sync_directory()
        .map_err(|e| io_error("directory", e))?;
    let recovered = Recovered {
        segments,
        cursor,
        records_written,
        disk_end,
        damage_counted,
        report,
    };
    Ok((recovered, cursor_file))
}

/// Makes the cursor durable before any number is given: what a torn write left of a later one must not come
/// to light when those numbers are in use. A full disk has no room for numbers either.
fn save(cursor_file: &mut CursorFile, cursor: &Cursor) -> Result<(), OpenError> {
    match cursor_file.write(cursor).and_then(|()| cursor_file.sync()) {
        Err(e) if !is_full(&e) => Err(OpenError::cursor(e)),
        _ => Ok(()),
    }
}

/// Cuts a torn tail off and makes what is left durable: a process that crashed may have written it without
/// a sync, and what is counted and given out now must still be there after a power cut.
fn cut_and_sync(
    storage: &dyn Storage,
    first_seq: Seq,
    len: u64,
    sound_len: u64,
) -> Result<(), OpenError> {
    let name = segment::name(first_seq);
    storage
        .open(&name)
        .and_then(|file| {
            if sound_len < len {
                file.set_len(sound_len)?;
            }
            file.sync_data()
        })
        .map_err(|e| io_error(&name, e))
}

fn io_error(file: &str, source: io::Error) -> OpenError {
    OpenError::Io {
        file: file.to_owned(),
        source,
    }
}
