//! Opening a spool after whatever happened to it.
//!
//! Only two segments are read, whatever the backlog: the last one, to find where sound data ends, and
//! the one with the frontier in it, to count what is unsettled there. A tail that was torn by a crash is
//! cut off. A segment whose header is damaged is set aside under another name and counted. An I/O error
//! is returned and nothing is changed.

use std::collections::BTreeMap;
use std::io;

use super::Seq;
use super::cursor::{Cursor, CursorFile};
use super::ledger::{DropReason, Outcome};
use super::record::{self, Decoded};
use super::segment::{self, Header, HeaderError};
use super::storage::Storage;

/// Appended to the name of a segment whose header is damaged.
pub(super) const SET_ASIDE_SUFFIX: &str = ".damaged";

/// What opening found, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Messages that wait for the cloud.
    pub spooled: u64,
    /// Bytes of the segments on disk.
    pub disk_bytes: u64,
    /// Bytes of an unfinished write that were cut off. They were never acknowledged.
    pub torn_bytes: u64,
    /// Segments set aside because their header is damaged.
    pub segments_set_aside: u64,
    /// Whether the cursor was damaged or lost, so that everything on disk is sent again.
    pub cursor_lost: bool,
}

/// Why a spool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
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
    #[error("cannot start the spool's writer thread: {0}")]
    Thread(io::Error),
}

/// A spool as found on disk.
pub(super) struct Recovered {
    /// First sequence number and length in bytes of every segment.
    pub(super) segments: BTreeMap<Seq, u64>,
    /// What is settled, and the ledger with `spooled` counted anew.
    pub(super) cursor: Cursor,
    pub(super) cursor_file: CursorFile,
    /// Records ever written to disk.
    pub(super) records_written: u64,
    /// One more than the highest number on disk.
    pub(super) disk_end: Seq,
    pub(super) report: Recovery,
}

/// What a scan of one segment found.
#[derive(Debug, Default)]
struct Scan {
    seqs: Vec<Seq>,
    /// Stretches that are no records but have sound records behind them.
    damaged_stretches: u64,
    /// Length up to the end of the last sound record.
    sound_len: u64,
}

/// Opens what is there.
pub(super) fn recover(storage: &dyn Storage) -> Result<Recovered, OpenError> {
    let (cursor_file, cursor) =
        CursorFile::open(storage).map_err(|e| io_error("cursor file", e))?;
    let mut report = Recovery::default();
    let mut segments = BTreeMap::new();
    let mut headers = BTreeMap::new();
    for (name, len) in storage.list().map_err(|e| io_error("directory", e))? {
        let Some(first_seq) = segment::first_seq(&name) else {
            continue;
        };
        match header_of(storage, &name)? {
            Ok(header) => {
                segments.insert(first_seq, len);
                headers.insert(first_seq, header);
            }
            Err(HeaderError::Version(version)) => {
                return Err(OpenError::Version {
                    file: name,
                    version,
                });
            }
            Err(HeaderError::Damaged) if len <= segment::HEADER_BYTES as u64 => {
                // Torn at birth: it never held a record.
                report.torn_bytes += len;
                storage.remove(&name).map_err(|e| io_error(&name, e))?;
            }
            Err(HeaderError::Damaged) => {
                report.segments_set_aside += 1;
                storage
                    .rename(&name, &format!("{name}{SET_ASIDE_SUFFIX}"))
                    .map_err(|e| io_error(&name, e))?;
            }
        }
    }
    report.cursor_lost = cursor.is_none() && !segments.is_empty();
    let mut cursor = cursor.unwrap_or_default();

    let mut records_written = 0;
    let mut disk_end = 0;
    if let Some((first_seq, len)) = segments.last_key_value().map(|(k, v)| (*k, *v)) {
        let last = scan(storage, first_seq, len)?;
        report.torn_bytes += len - last.sound_len;
        cut(storage, first_seq, len, last.sound_len)?;
        segments.insert(first_seq, last.sound_len);
        let before = headers.get(&first_seq).map_or(0, |h| h.records_before);
        records_written = before + last.seqs.len() as u64 + last.damaged_stretches;
        disk_end = last.seqs.last().map_or(first_seq, |seq| seq + 1);
        if last.seqs.is_empty() {
            remove_empty(storage, first_seq)?;
            segments.remove(&first_seq);
        }
    }
    cursor.next_seq = cursor.next_seq.max(disk_end).max(1);
    cursor.frontier = cursor.frontier.max(1);
    let spooled = unsettled(storage, &segments, &headers, &cursor, records_written)?;
    cursor.ledger.spooled = spooled;
    report.spooled = spooled;
    report.disk_bytes = segments.values().sum();
    storage
        .sync_directory()
        .map_err(|e| io_error("directory", e))?;
    Ok(Recovered {
        segments,
        cursor,
        cursor_file,
        records_written,
        disk_end,
        report,
    })
}

/// Counts the records at or behind the frontier that are not settled, damaged ones included.
fn unsettled(
    storage: &dyn Storage,
    segments: &BTreeMap<Seq, u64>,
    headers: &BTreeMap<Seq, Header>,
    cursor: &Cursor,
    records_written: u64,
) -> Result<u64, OpenError> {
    // The oldest segment that can hold something unsettled: the one the frontier is in.
    let Some((first_seq, len)) = segments
        .range(..=cursor.frontier)
        .next_back()
        .or_else(|| segments.first_key_value())
    else {
        return Ok(0);
    };
    let before = headers.get(first_seq).map_or(0, |h| h.records_before);
    let seqs = scan(storage, *first_seq, *len)?.seqs;
    let settled_here = if seqs.last().is_none_or(|last| *last < cursor.frontier) {
        // All of it, damaged records included.
        let next = segments.range(first_seq + 1..).next();
        let end = next.and_then(|(next, _)| headers.get(next));
        end.map_or(records_written, |h| h.records_before)
            .saturating_sub(before)
    } else {
        seqs.iter().filter(|seq| **seq < cursor.frontier).count() as u64
    };
    let last_seq = cursor.next_seq;
    let settled_ahead = cursor
        .settled
        .iter()
        .filter(|seq| (cursor.frontier..last_seq).contains(seq))
        .count() as u64;
    Ok(records_written
        .saturating_sub(before)
        .saturating_sub(settled_here)
        .saturating_sub(settled_ahead))
}

fn header_of(storage: &dyn Storage, name: &str) -> Result<Result<Header, HeaderError>, OpenError> {
    let file = storage.open(name).map_err(|e| io_error(name, e))?;
    let mut bytes = [0; segment::HEADER_BYTES];
    let read = file.read_at(&mut bytes, 0).map_err(|e| io_error(name, e))?;
    Ok(Header::decode(bytes.get(..read).unwrap_or_default()))
}

/// Reads a whole segment, at most [`segment::SEGMENT_BYTES`] and one record.
fn scan(storage: &dyn Storage, first_seq: Seq, len: u64) -> Result<Scan, OpenError> {
    let name = segment::name(first_seq);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    let read = storage
        .open(&name)
        .and_then(|file| file.read_at(&mut bytes, 0))
        .map_err(|e| io_error(&name, e))?;
    bytes.truncate(read);
    let mut scan = Scan::default();
    let mut at = segment::HEADER_BYTES.min(bytes.len());
    scan.sound_len = at as u64;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        if let Decoded::Record { record, len } = record::decode(rest) {
            scan.seqs.push(record.seq);
            at += len;
            scan.sound_len = at as u64;
        } else if let Some(next) = record::find_next(&bytes, at + 1) {
            scan.damaged_stretches += 1;
            at = next;
        } else {
            return Ok(scan);
        }
    }
}

fn cut(storage: &dyn Storage, first_seq: Seq, len: u64, sound_len: u64) -> Result<(), OpenError> {
    if sound_len == len {
        return Ok(());
    }
    let name = segment::name(first_seq);
    storage
        .open(&name)
        .and_then(|file| {
            file.set_len(sound_len)?;
            file.sync_data()
        })
        .map_err(|e| io_error(&name, e))
}

fn remove_empty(storage: &dyn Storage, first_seq: Seq) -> Result<(), OpenError> {
    let name = segment::name(first_seq);
    storage.remove(&name).map_err(|e| io_error(&name, e))
}

fn io_error(file: &str, source: io::Error) -> OpenError {
    OpenError::Io {
        file: file.to_owned(),
        source,
    }
}

impl Recovered {
    /// Counts segments that were set aside as lost records. Their number is in no header that can be
    /// read, so each counts as one at least; the exact count follows from the running counts when
    /// the reader passes the gap.
    pub(super) fn count_damage(&mut self) {
        let lost = self.report.segments_set_aside;
        self.cursor.ledger.spooled += lost;
        self.cursor
            .ledger
            .settle(Outcome::Dropped(DropReason::Damaged), lost);
    }
}
