//! Opening a spool after whatever happened to it.
//!
//! Only two segments are read, whatever the backlog: the last one, to find where sound data ends, and
//! the one with the frontier in it, to count what is unsettled there. Where messages have flowed past some that wait,
//! those segments are read too in which there are both. A tail that was torn by a crash is
//! cut off. A segment whose header is damaged is set aside under another name and counted. An I/O error
//! is returned and nothing is changed.

use std::collections::BTreeMap;
use std::io;

use super::Seq;
use super::aside::set_aside;
use super::cursor::{Cursor, CursorFile};
use super::ledger::{DropReason, Ledger, Outcome};
use super::log::is_full;
use super::record::{self, Decoded};
use super::segment::{self, Header, HeaderError, Order};
use super::storage::Storage;

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

/// What a scan of one segment found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) seqs: Vec<Seq>,
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

/// A segment whose header is sound.
#[derive(Clone, Copy, Debug)]
struct Found {
    len: u64,
    header: Header,
}

/// Lists the segments and reads their headers. A damaged header is made anew if there are records behind it;
/// else the segment is put away. The second part of the answer counts those of which no running count tells
/// how many records they held.
fn find_segments(
    storage: &dyn Storage,
    report: &mut Recovery,
) -> Result<(BTreeMap<Seq, Found>, u64), OpenError> {
    let mut found = BTreeMap::new();
    let mut uncounted = 0;
    let mut headless = BTreeMap::new();
    for (name, len) in storage.list().map_err(|e| io_error("directory", e))? {
        let Some(first_seq) = segment::first_seq(&name) else {
            continue;
        };
        // What is behind that the relay has not written.
        let len = len.min(segment::LEN_MAX);
        match header_of(storage, &name)? {
            Ok(header) => drop(found.insert(first_seq, Found { len, header })),
            Err(HeaderError::Version(version)) => {
                return Err(OpenError::Version {
                    file: name,
                    version,
                });
            }
            Err(HeaderError::Damaged) => drop(headless.insert(first_seq, len)),
        }
    }
    // From behind: the next header tells best what this one said.
    for (first_seq, len) in headless.into_iter().rev() {
        let before = found.range(..first_seq).next_back();
        let next = found.range(first_seq..).next();
        let scanned = scan(storage, first_seq, len, next.map(|(next, _)| *next))?;
        if scanned.seqs.is_empty() {
            let torn_at_birth = len <= segment::HEADER_BYTES as u64 && next.is_none();
            uncounted += u64::from(!torn_at_birth && (next.is_none() || before.is_none()));
            put_away(storage, first_seq, torn_at_birth)?;
            if torn_at_birth {
                report.torn_bytes += len;
            } else {
                report.segments_set_aside += 1;
            }
            continue;
        }
        let records_before = match (next, before) {
            (Some((_, next)), _) => (next.header.records_before).saturating_sub(scanned.records()),
            (None, Some((before, info))) => {
                let records = scan(storage, *before, info.len, Some(first_seq))?.records();
                info.header.records_before.saturating_add(records)
            }
            (None, None) => 0,
        };
        let header = Header {
            first_seq,
            records_before,
        };
        write_header(storage, header)?;
        report.headers_mended += 1;
        found.insert(first_seq, Found { len, header });
    }
    Ok((found, uncounted))
}

/// Puts a segment away that has neither a header nor a sound record; for good, if it never had any.
fn put_away(storage: &dyn Storage, first_seq: Seq, for_good: bool) -> Result<(), OpenError> {
    let name = segment::name(first_seq);
    let done = if for_good {
        storage.remove(&name)
    } else {
        set_aside(storage, first_seq)
    };
    done.map_err(|e| io_error(&name, e))
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
        Err(e) if !is_full(&e) => Err(OpenError::cursor(e)),
        _ => Ok(()),
    }
}

/// Counts each segment's records by the running counts in the headers, but no more than there are numbers for.
fn with_record_counts(
    found: &BTreeMap<Seq, Found>,
    records_written: u64,
    disk_end: Seq,
) -> BTreeMap<Seq, SegmentInfo> {
    let begins = (found.iter()).map(|(first_seq, found)| (*first_seq, found.header.records_before));
    let ends = begins.clone().skip(1).chain([(disk_end, records_written)]);
    found
        .iter()
        .zip(ends)
        .map(|((first_seq, found), (end_seq, end))| {
            let records = end.saturating_sub(found.header.records_before);
            let info = SegmentInfo {
                len: found.len,
                records: records.min(end_seq.saturating_sub(*first_seq)),
            };
            (*first_seq, info)
        })
        .collect()
}

/// Counts the records that the reader will give out, and the damaged ones it will come to. Reads the
/// segment with the frontier in it and those of which a part is settled ahead of it.
/// Also says which segment's damage is in the ledger already, if that of the first one is.
fn unsettled(
    storage: &dyn Storage,
    segments: &BTreeMap<Seq, SegmentInfo>,
    disk_end: Seq,
    cursor: &Cursor,
) -> Result<(u64, Option<Seq>), OpenError> {
    let segment_of = |seq| segments.range(..=seq).next_back();
    let scan = |first_seq: Seq, len| {
        let next = segments.range(first_seq + 1..).next();
        scan(storage, first_seq, len, next.map(|(next, _)| *next))
    };
    // The oldest segment that can hold something unsettled: the one the frontier is in.
    let Some((first_seq, info)) =
        segment_of(cursor.frontier).or_else(|| segments.first_key_value())
    else {
        return Ok((0, None));
    };
    let here = scan(*first_seq, info.len)?;
    let lost = info.records.saturating_sub(here.seqs.len() as u64);
    let mut gone = (here.seqs.iter().filter(|seq| **seq < cursor.frontier)).count() as u64;
    // The frontier is behind the last sound record, and what is lost was lost before that one.
    let is_passed = here.seqs.last().is_some_and(|last| *last < cursor.frontier)
        && (lost, info.len) == (here.damaged_stretches, here.sound_len);
    let damage_counted = is_passed.then_some(*first_seq);
    if is_passed {
        gone += lost;
    }
    let mut here = Some(here.seqs);
    let ends = segments.range(first_seq + 1..).map(|(next, _)| *next);
    for ((first_seq, info), end) in segments.range(first_seq..).zip(ends.chain([disk_end])) {
        let here = here.take();
        let numbers = *first_seq..end;
        let settled = cursor.settled.count_in(&numbers);
        if settled == end.saturating_sub(*first_seq) {
            gone += info.records;
        } else if settled > 0 {
            let seqs = match here {
                Some(seqs) => seqs,
                None => scan(*first_seq, info.len)?.seqs,
            };
            let is_settled = |seq: &&Seq| cursor.settled.contains(**seq);
            gone += seqs.iter().filter(is_settled).count() as u64;
        }
    }
    let from_here: u64 = segments
        .range(first_seq..)
        .map(|(_, info)| info.records)
        .sum();
    Ok((from_here.saturating_sub(gone), damage_counted))
}

fn header_of(storage: &dyn Storage, name: &str) -> Result<Result<Header, HeaderError>, OpenError> {
    let file = storage.open(name).map_err(|e| io_error(name, e))?;
    let mut bytes = [0; segment::HEADER_BYTES];
    let read = file.read_at(&mut bytes, 0).map_err(|e| io_error(name, e))?;
    Ok(Header::decode(bytes.get(..read).unwrap_or_default()))
}

/// Reads a whole segment, at most [`segment::LEN_MAX`] bytes. Every number in it is smaller
/// than `end`; the last segment has no end.
pub(super) fn scan(
    storage: &dyn Storage,
    first_seq: Seq,
    len: u64,
    end: Option<Seq>,
) -> Result<Scan, OpenError> {
    let name = segment::name(first_seq);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    let read = storage
        .open(&name)
        .and_then(|file| file.read_at(&mut bytes, 0))
        .map_err(|e| io_error(&name, e))?;
    bytes.truncate(read);
    let mut order = Order {
        from: first_seq,
        end,
    };
    let mut scan = Scan::default();
    let mut at = segment::HEADER_BYTES.min(bytes.len());
    scan.sound_len = at as u64;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        if let Decoded::Record { record, len } = record::decode(rest) {
            if order.admits(record.seq) {
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

fn io_error(file: &str, source: io::Error) -> OpenError {
    OpenError::Io {
        file: file.to_owned(),
        source,
    }
}
