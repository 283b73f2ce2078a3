//! Reading one segment from end to end: which numbers are in it, and where sound data ends.

use super::{OpenError, io_error};
use crate::spool::Seq;
use crate::spool::record::{self, Decoded};
use crate::spool::segment::{self, Order};
use crate::spool::storage::Storage;

/// What a scan of one segment found.
#[derive(Debug, Default)]
pub(in crate::spool) struct Scan {
    pub(in crate::spool) seqs: Vec<Seq>,
    /// Stretches that are no records but have sound records behind them.
    pub(super) damaged_stretches: u64,
    /// Length up to the end of the last sound record.
    pub(super) sound_len: u64,
}

impl Scan {
    /// Records written to it, as far as can be told.
    pub(super) fn records(&self) -> u64 {
        self.seqs.len() as u64 + self.damaged_stretches
    }
}

/// Reads a whole segment, at most [`segment::LEN_MAX`] bytes. Every number in it is smaller
/// than `end`; the last segment has no end.
pub(in crate::spool) fn scan(
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
    let mut salt = None;
    let mut at = segment::HEADER_BYTES.min(bytes.len());
    scan.sound_len = at as u64;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        if let Decoded::Record { record, len } = record::decode(rest) {
            if order.admits(record.seq) {
                scan.seqs.push(record.seq);
            }
            salt = salt.or(record.salt);
            at += len;
            scan.sound_len = at as u64;
        } else if let Some(next) = record::find_next(&bytes, at + 1, salt) {
            scan.damaged_stretches += u64::from(!is_opening(&bytes, at, next));
            at = next;
        } else {
            return Ok(scan);
        }
    }
}

/// Whether the opening record stands at `at`, with the first message at `next`.
fn is_opening(bytes: &[u8], at: usize, next: usize) -> bool {
    let is_salted = |bytes| matches!(record::decode(bytes), Decoded::Record { record, .. } if record.salt.is_some());
    (at, next) == (segment::HEADER_BYTES, segment::OPENING_BYTES)
        && bytes.get(next..).is_some_and(is_salted)
}
