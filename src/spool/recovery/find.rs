//! Which segments there are, by their headers. A header that is damaged is made anew if there are records behind it; a
//! segment that has none is put away.

use std::collections::BTreeMap;

use super::scan::scan;
use super::{OpenError, Recovery, io_error};
use crate::spool::Seq;
use crate::spool::aside::set_aside;
use crate::spool::segment::{self, Header, HeaderError};
use crate::spool::storage::Storage;

/// A segment whose header is sound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) len: u64,
    pub(super) header: Header,
}

/// Lists the segments and reads their headers. A damaged header is made anew if there are records behind it;
/// else the segment is put away. The second part of the answer counts those of which no running count tells
/// how many records they held.
pub(super) fn find_segments(
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
            let torn_at_birth = len <= segment::OPENING_BYTES as u64 && next.is_none();
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

fn header_of(storage: &dyn Storage, name: &str) -> Result<Result<Header, HeaderError>, OpenError> {
    let file = storage.open(name).map_err(|e| io_error(name, e))?;
    let mut bytes = [0; segment::HEADER_BYTES];
    let read = file.read_at(&mut bytes, 0).map_err(|e| io_error(name, e))?;
    Ok(Header::decode(bytes.get(..read).unwrap_or_default()))
}
