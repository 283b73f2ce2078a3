//! Reading one segment from end to end, and checking it on the way.
//!
//! A window of bounded size moves over the file, so memory does not depend on how long it is, be it a
//! segment or not. Where there is no record, the walk goes on with the next sound one, as the relay does, and
//! like the relay it passes over a record whose number belongs elsewhere.

use std::io;
use std::sync::Arc;

use crate::spool::Seq;
use crate::spool::record::{self, Decoded, RECORD_BYTES_MAX, Record, Salt};
use crate::spool::segment::{HEADER_BYTES, OPENING_BYTES, OPENING_SEQ, Order};
use crate::spool::storage::{Storage as _, StorageFile};

use super::{Damage, DamageKind, Offline, OfflineError, Segment};

/// How much of a file is in memory at once, in bytes: two records of the largest size, so that moving on
/// over one costs no second read.
const WINDOW_BYTES: usize = 2 * RECORD_BYTES_MAX;

/// What a walk meets, in the order of the file.
#[derive(Debug)]
pub enum Found<'a> {
    /// A sound record.
    Record {
        /// The record.
        record: Record<'a>,
        /// Its length on disk, in bytes.
        len: u64,
        /// Whether the message has left the spool, as far as the cursor says.
        settled: bool,
    },
    /// Something that is not as the relay wrote it.
    Damage(Damage),
}

impl Offline {
    /// Reads every byte of a segment and shows `visit` what there is. Returns how many records that were
    /// written to it cannot be read: by the running counts where both are known, else one for each
    /// damaged stretch.
    pub fn walk<E: From<OfflineError>>(
        &self,
        segment: &Segment,
        mut visit: impl FnMut(Found<'_>) -> Result<(), E>,
    ) -> Result<u64, E> {
        let io_error = |source| OfflineError::Io {
            file: segment.name.clone(),
            source,
        };
        let mut window = Window::new(self.storage.open(&segment.name).map_err(io_error)?);
        let mut check = Check::new(segment);
        if let Some(damage) = check.header() {
            visit(Found::Damage(damage))?;
        }
        let (mut at, mut salt) = (HEADER_BYTES as u64, None);
        loop {
            let bytes = window.at(at).map_err(io_error)?;
            if bytes.is_empty() {
                break;
            }
            match record::decode(bytes) {
                Decoded::Record { record, len } => {
                    let len = len as u64;
                    salt = salt.or(record.salt);
                    if record.seq == OPENING_SEQ {
                        at += len;
                        continue;
                    }
                    visit(match check.record(record.seq, at, len) {
                        Some(damage) => Found::Damage(damage),
                        None => Found::Record {
                            record,
                            len,
                            settled: self.is_settled(record.seq),
                        },
                    })?;
                    at += len;
                }
                decoded => {
                    let incomplete = matches!(decoded, Decoded::Incomplete { .. });
                    let sound = window.next_sound(at + 1, salt).map_err(io_error)?;
                    let end = sound.unwrap_or(segment.len.max(at + 1));
                    let torn = incomplete && sound.is_none();
                    visit(Found::Damage(check.stretch(torn, at, end - at)))?;
                    at = end;
                }
            }
        }
        if let Some(damage) = check.count() {
            visit(Found::Damage(damage))?;
        }
        Ok(check.lost())
    }
}

/// What has been seen of a segment, against what must be true of it.
struct Check<'a> {
    segment: &'a Segment,
    order: Order,
    records: u64,
    /// Damaged stretches that are not a torn tail.
    stretches: u64,
}

impl<'a> Check<'a> {
    fn new(segment: &'a Segment) -> Self {
        Check {
            segment,
            order: Order {
                from: segment.first_seq,
                end: segment.end_seq,
            },
            records: 0,
            stretches: 0,
        }
    }

    fn damage(&self, kind: DamageKind, offset: u64, len: u64) -> Damage {
        Damage {
            file: self.segment.name.clone(),
            offset,
            len,
            kind,
        }
    }

    fn header(&mut self) -> Option<Damage> {
        let segment = self.segment;
        let header_len = segment.len.min(HEADER_BYTES as u64);
        if segment.set_aside {
            return Some(self.damage(DamageKind::SetAside, 0, segment.len));
        }
        match segment.header {
            Some(header) if header.first_seq == segment.first_seq => None,
            Some(header) => {
                let first_seq = header.first_seq;
                Some(self.damage(DamageKind::Misnamed { first_seq }, 0, header_len))
            }
            // It never held a record.
            None if segment.is_last && segment.len <= OPENING_BYTES as u64 => {
                Some(self.damage(DamageKind::Torn, 0, header_len))
            }
            None => Some(self.damage(DamageKind::Header, 0, header_len)),
        }
    }

    /// What is wrong with a record here that is numbered `seq`; the relay passes over it.
    fn record(&mut self, seq: Seq, offset: u64, len: u64) -> Option<Damage> {
        let Order { from, end: to } = self.order;
        if self.order.admits(seq) {
            self.records += 1;
            return None;
        }
        Some(self.damage(DamageKind::Order { seq, from, to }, offset, len))
    }

    fn stretch(&mut self, torn: bool, offset: u64, len: u64) -> Damage {
        if torn && self.segment.is_last {
            return self.damage(DamageKind::Torn, offset, len);
        }
        self.stretches += 1;
        self.damage(DamageKind::Record, offset, len)
    }

    fn count(&self) -> Option<Damage> {
        let (written, readable) = (self.segment.records_written?, self.records);
        let kind = DamageKind::Count { written, readable };
        (written != readable).then(|| self.damage(kind, self.segment.len, 0))
    }

    fn lost(&self) -> u64 {
        match self.segment.records_written {
            Some(written) => written.saturating_sub(self.records),
            None => self.stretches,
        }
    }
}

/// A part of a file, moved forward only.
struct Window {
    file: Arc<dyn StorageFile>,
    begin: u64,
    bytes: Vec<u8>,
    reaches_end: bool,
}

impl Window {
    fn new(file: Arc<dyn StorageFile>) -> Self {
        Window {
            file,
            begin: 0,
            bytes: Vec::new(),
            reaches_end: false,
        }
    }

    /// What stands at `offset`: as much as the largest record, or everything up to the end of the file.
    fn at(&mut self, offset: u64) -> io::Result<&[u8]> {
        let enough = self
            .held(offset)
            .is_some_and(|held| self.reaches_end || held.len() >= RECORD_BYTES_MAX);
        if !enough {
            self.bytes.resize(WINDOW_BYTES, 0);
            let read = self.file.read_at(&mut self.bytes, offset)?;
            self.bytes.truncate(read);
            self.begin = offset;
            self.reaches_end = read < WINDOW_BYTES;
        }
        Ok(self.held(offset).unwrap_or_default())
    }

    fn held(&self, offset: u64) -> Option<&[u8]> {
        let skipped = usize::try_from(offset.checked_sub(self.begin)?).ok()?;
        self.bytes.get(skipped..)
    }

    /// Where, at or after `from`, the next sound record starts; see [`record::find_next`].
    fn next_sound(&mut self, from: u64, salt: Option<Salt>) -> io::Result<Option<u64>> {
        let mut at = from;
        loop {
            let bytes = self.at(at)?;
            let len = bytes.len();
            let found = record::find_next(bytes, 0, salt);
            // Behind this place a record may reach out of the window and be overlooked.
            let certain = len.saturating_sub(RECORD_BYTES_MAX);
            match found {
                Some(sound) if self.reaches_end || sound <= certain => {
                    return Ok(Some(at + sound as u64));
                }
                _ if self.reaches_end => return Ok(None),
                _ => at += certain as u64 + 1,
            }
        }
    }
}
