//! Opening a spool after whatever happened to it.
//!
//! Only two segments are read, whatever the backlog: the last one, to find where sound data ends, and
//! the one with the frontier in it, to count what is unsettled there. A tail that was torn by a crash is
//! cut off. A damaged header is made anew, or, if there is no sound record behind it, the segment is set
//! aside under another name and counted. An I/O error is returned.

use std::collections::BTreeMap;
use std::io;

use super::Seq;
use super::cursor::{Cursor, CursorFile};
use super::ledger::{DropReason, Outcome};
use super::record::{self, Decoded};
use super::segment::{self, Header, HeaderError};
use super::storage::Storage;

/// Appended to the name of a segment whose header is damaged.
const SET_ASIDE_SUFFIX: &str = ".damaged";

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
    /// Segments put away of which no running count tells how many records they held.
    pub(super) uncounted: u64,
    /// The segment with the frontier in it, if the ledger has its damage already.
    pub(super) damage_counted: Option<Seq>,
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

impl Scan {
    /// Records written to it, as far as can be told.
    fn records(&self) -> u64 {
        self.seqs.len() as u64 + self.damaged_stretches
    }
}

/// Opens what is there.
pub(super) fn recover(storage: &dyn Storage) -> Result<Recovered, OpenError> {
    let (mut cursor_file, cursor) =
        CursorFile::open(storage).map_err(|e| io_error("cursor file", e))?;
    let mut report = Recovery::default();
    let Segments {
        lens: mut segments,
        headers,
        uncounted,
    } = open_segments(storage, &mut report)?;
    report.cursor_lost = cursor.is_none() && !segments.is_empty();
    let mut cursor = cursor.unwrap_or_default();

    let mut records_written = 0;
    let mut disk_end = 0;
    if let Some((first_seq, len)) = segments.last_key_value().map(|(k, v)| (*k, *v)) {
        let last = scan(storage, first_seq, len)?;
        report.torn_bytes += len - last.sound_len;
        cut_and_sync(storage, first_seq, len, last.sound_len)?;
        segments.insert(first_seq, last.sound_len);
        let before = headers.get(&first_seq).map_or(0, |h| h.records_before);
        records_written = before + last.records();
        disk_end = last.seqs.last().map_or(first_seq, |seq| seq + 1);
        if last.seqs.is_empty() {
            remove_empty(storage, first_seq)?;
            segments.remove(&first_seq);
        }
    }
    cursor.next_seq = cursor.next_seq.max(disk_end).max(1);
    cursor.frontier = cursor.frontier.max(1);
    let found = Found {
        segments: &segments,
        headers: &headers,
        records_written,
    };
    let (spooled, damage_counted) = unsettled(storage, &found, &cursor)?;
    cursor.ledger.spooled = spooled;
    report.spooled = spooled;
    report.disk_bytes = segments.values().sum();
    save(&mut cursor_file, &cursor)?;
    storage
        .sync_directory()
        .map_err(|e| io_error("directory", e))?;
    Ok(Recovered {
        segments,
        cursor,
        cursor_file,
        records_written,
        disk_end,
        uncounted,
        damage_counted,
        report,
    })
}

/// Lists the segments and reads their headers. A damaged header is made anew if there are records behind it.
fn open_segments(storage: &dyn Storage, report: &mut Recovery) -> Result<Segments, OpenError> {
    let mut segments = BTreeMap::new();
    let mut headers = BTreeMap::new();
    let mut headless = BTreeMap::new();
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
            Err(HeaderError::Damaged) => drop(headless.insert(first_seq, len)),
        }
    }
    let mut found = Segments {
        lens: segments,
        headers,
        uncounted: 0,
    };
    // From behind: the next header tells best what this one said.
    for (first_seq, len) in headless.into_iter().rev() {
        found.mend(storage, first_seq, len, report)?;
    }
    Ok(found)
}

/// The segments that can be read.
struct Segments {
    /// Their lengths in bytes.
    lens: BTreeMap<Seq, u64>,
    headers: BTreeMap<Seq, Header>,
    /// Segments put away of which no running count tells how many records they held.
    uncounted: u64,
}

impl Segments {
    /// Makes the header of a segment anew, or puts the segment away if nothing in it can be read.
    fn mend(
        &mut self,
        storage: &dyn Storage,
        first_seq: Seq,
        len: u64,
        report: &mut Recovery,
    ) -> Result<(), OpenError> {
        let next = self
            .headers
            .range(first_seq..)
            .next()
            .map(|(_, next)| *next);
        let before = self.lens.range(..first_seq).next_back();
        let found = scan(storage, first_seq, len)?;
        if found.seqs.is_empty() {
            let torn_at_birth = len <= segment::HEADER_BYTES as u64 && next.is_none();
            if torn_at_birth {
                report.torn_bytes += len;
                let name = segment::name(first_seq);
                return storage.remove(&name).map_err(|e| io_error(&name, e));
            }
            report.segments_set_aside += 1;
            self.uncounted += u64::from(next.is_none() || before.is_none());
            return set_aside(storage, first_seq);
        }
        let records_before = match (next, before) {
            (Some(next), _) => next.records_before.saturating_sub(found.records()),
            (None, Some((before, len))) => {
                let records = scan(storage, *before, *len)?.records();
                let header = self.headers.get(before);
                header
                    .map_or(0, |h| h.records_before)
                    .saturating_add(records)
            }
            (None, None) => 0,
        };
        let header = Header {
            first_seq,
            records_before,
        };
        write_header(storage, header)?;
        report.headers_mended += 1;
        self.lens.insert(first_seq, len);
        self.headers.insert(first_seq, header);
        Ok(())
    }
}

/// Puts a segment away that has neither a header nor a sound record.
fn set_aside(storage: &dyn Storage, first_seq: Seq) -> Result<(), OpenError> {
    let name = segment::name(first_seq);
    storage
        .rename(&name, &format!("{name}{SET_ASIDE_SUFFIX}"))
        .map_err(|e| io_error(&name, e))
}

fn write_header(storage: &dyn Storage, header: Header) -> Result<(), OpenError> {
    let name = segment::name(header.first_seq);
    storage
        .open(&name)
        .and_then(|file| {
            file.write_all_at(&header.encode(), 0)?;
            file.sync_data()
        })
        .map_err(|e| io_error(&name, e))
}

/// Makes the cursor durable before any number is given: what a torn write left of a later one must not come
/// to light when those numbers are in use. A full disk has no room for numbers either.
fn save(cursor_file: &mut CursorFile, cursor: &Cursor) -> Result<(), OpenError> {
    match cursor_file.write(cursor).and_then(|()| cursor_file.sync()) {
        Err(e) if e.kind() != io::ErrorKind::StorageFull => Err(io_error("cursor file", e)),
        _ => Ok(()),
    }
}

/// The segments that can be read, and what their headers say.
struct Found<'a> {
    segments: &'a BTreeMap<Seq, u64>,
    headers: &'a BTreeMap<Seq, Header>,
    records_written: u64,
}

/// Counts the records that the reader will give out, and the damaged ones it will come to. Reads the
/// segment with the frontier in it and those with numbers that are settled ahead of it, a window's worth.
/// Also says which segment's damage is in the ledger already, if that of the first one is.
fn unsettled(
    storage: &dyn Storage,
    found: &Found<'_>,
    cursor: &Cursor,
) -> Result<(u64, Option<Seq>), OpenError> {
    let segment_of = |seq| found.segments.range(..=seq).next_back();
    // The oldest segment that can hold something unsettled: the one the frontier is in.
    let Some((first_seq, len)) =
        segment_of(cursor.frontier).or_else(|| found.segments.first_key_value())
    else {
        return Ok((0, None));
    };
    let before = |seq| found.headers.get(seq).map_or(0, |h| h.records_before);
    let next = found.segments.range(first_seq + 1..).next();
    let end = next.map_or(found.records_written, |(next, _)| before(next));
    let here = scan(storage, *first_seq, *len)?;
    let sound = here.seqs.len() as u64;
    let lost = end.saturating_sub(before(first_seq)).saturating_sub(sound);

    let mut gone = (here.seqs.iter().filter(|seq| **seq < cursor.frontier)).count() as u64;
    // The frontier is behind the last sound record, and what is lost was lost before that one.
    let is_passed = here.seqs.last().is_some_and(|last| *last < cursor.frontier)
        && (lost, *len) == (here.damaged_stretches, here.sound_len);
    let damage_counted = is_passed.then_some(*first_seq);
    if is_passed {
        gone += lost;
    }
    let mut scanned = (*first_seq, here.seqs);
    for settled in cursor.settled.iter().filter(|s| **s >= cursor.frontier) {
        let Some((first_seq, len)) = segment_of(*settled) else {
            continue;
        };
        if scanned.0 != *first_seq {
            scanned = (*first_seq, scan(storage, *first_seq, *len)?.seqs);
        }
        gone += u64::from(scanned.1.contains(settled));
    }
    let from_here = found.records_written.saturating_sub(before(first_seq));
    Ok((from_here.saturating_sub(gone), damage_counted))
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
            // One that does not rise is no record of this place.
            if scan.seqs.last().is_none_or(|last| *last < record.seq) {
                scan.seqs.push(record.seq);
            }
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
    /// Counts segments that were put away as lost records, one each, where nothing tells their number.
    /// Of one between two others the running counts tell it when the reader passes the gap.
    pub(super) fn count_damage(&mut self) {
        let ledger = &mut self.cursor.ledger;
        ledger.spooled += self.uncounted;
        ledger.settle(Outcome::Dropped(DropReason::Damaged), self.uncounted);
    }
}
