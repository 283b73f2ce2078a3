//! How many messages wait, without reading all of them.

use std::collections::BTreeMap;

use super::find::Found;
use super::scan::scan;
use super::{OpenError, SegmentInfo};
use crate::spool::Seq;
use crate::spool::cursor::Cursor;
use crate::spool::storage::Storage;

/// Counts each segment's records by the running counts in the headers, but no more than there are numbers for.
pub(super) fn with_record_counts(
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
pub(super) fn unsettled(
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
