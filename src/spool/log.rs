//! The writing side of the disk: records are appended to the active segment and synced.
//!
//! Owned by the writer thread. After an error other than a full disk nothing is known about what is
//! on the flash, so the caller must not write again; [`LogError`] says which it was.

use std::io;
use std::sync::Arc;

use super::Seq;
use super::record::Salt;
use super::segment::{self, Header};
use super::storage::{Storage, StorageFile};
use super::tail::Frame;

/// Why records could not be made durable.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    /// The disk is full. Nothing of this call is on disk; it may be tried again.
    #[error("the disk is full: {0}")]
    DiskFull(io::Error),
    /// A write or sync failed, in words. It must not be tried again.
    #[error("{0}")]
    Failed(String),
}

/// What one call of [`Log::append`] made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Appended {
    /// How many of the given records.
    pub(super) count: usize,
    /// The segment they are in.
    pub(super) segment: Seq,
    /// That segment's length now, in bytes.
    pub(super) len: u64,
}

#[derive(Debug)]
struct Active {
    first_seq: Seq,
    file: Arc<dyn StorageFile>,
    len: u64,
}

/// The active segment and the running count of records.
#[derive(Debug)]
pub(super) struct Log {
    storage: Arc<dyn Storage>,
    active: Option<Active>,
    records_written: u64,
    segment_bytes: u64,
    salt: Salt,
    buffer: Vec<u8>,
}

impl Log {
    /// A log that will begin a new segment; `records_written` is the running count so far,
    /// `segment_bytes` the size at which a segment is closed, at most [`segment::SEGMENT_BYTES`]; the records to come have
    /// this `salt`.
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        records_written: u64,
        segment_bytes: u64,
        salt: Salt,
    ) -> Self {
        Log {
            storage,
            active: None,
            records_written,
            segment_bytes: segment_bytes.min(segment::SEGMENT_BYTES),
            salt,
            buffer: Vec::new(),
        }
    }

    /// Lets what is appended next begin a new segment.
    pub(super) fn close_segment(&mut self) {
        self.active = None;
    }

    /// Appends as many of `frames` as belong into one segment, in one write, and syncs.
    pub(super) fn append(&mut self, frames: &[Frame]) -> Result<Appended, LogError> {
        let Some((first_seq, _)) = frames.first() else {
            return Ok(Appended {
                count: 0,
                segment: 0,
                len: 0,
            });
        };
        let mut active = self.active.take().filter(|a| a.len < self.segment_bytes);
        self.buffer.clear();
        if active.is_none() {
            let header = Header {
                first_seq: *first_seq,
                records_before: self.records_written,
            };
            self.buffer.extend_from_slice(&header.open(self.salt));
        }
        let begin = active.as_ref().map_or(0, |a| a.len);
        let mut count = 0;
        for (_, frame) in frames {
            if begin + self.buffer.len() as u64 >= self.segment_bytes {
                break;
            }
            self.buffer.extend_from_slice(frame);
            count += 1;
        }

        let created = active.is_none();
        let active = match active.take() {
            Some(active) => active,
            None => self.create(*first_seq)?,
        };
        let result = self.write(&active, created);
        match result {
            Ok(()) => {
                let appended = Appended {
                    count,
                    segment: active.first_seq,
                    len: active.len + self.buffer.len() as u64,
                };
                self.records_written += count as u64;
                self.active = Some(Active {
                    len: appended.len,
                    ..active
                });
                self.trim_buffer();
                Ok(appended)
            }
            Err(LogError::DiskFull(full)) => {
                self.undo(active, created)?;
                Err(LogError::DiskFull(full))
            }
            Err(failed) => Err(failed),
        }
    }

    /// Removes segments, all of whose records are settled. One after the other, oldest first, each made
    /// durable: a power cut must not leave a gap, whose records a start would count as damaged.
    pub(super) fn remove(&mut self, segments: &[Seq]) -> Result<(), LogError> {
        for first_seq in segments {
            let name = segment::name(*first_seq);
            match self.storage.remove(&name) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &name, &e));
                }
                _ => self
                    .storage
                    .sync_directory()
                    .map_err(|e| failed("sync", "the spool's directory", &e))?,
            }
        }
        Ok(())
    }

    fn create(&self, first_seq: Seq) -> Result<Active, LogError> {
        let name = segment::name(first_seq);
        match self.storage.create(&name) {
            Ok(file) => Ok(Active {
                first_seq,
                file,
                len: 0,
            }),
            Err(e) if is_full(&e) => Err(LogError::DiskFull(e)),
            Err(e) => Err(failed("create", &name, &e)),
        }
    }

    fn write(&self, active: &Active, created: bool) -> Result<(), LogError> {
        let name = || segment::name(active.first_seq);
        if let Err(e) = active.file.write_all_at(&self.buffer, active.len) {
            return Err(if is_full(&e) {
                LogError::DiskFull(e)
            } else {
                failed("write to", &name(), &e)
            });
        }
        active
            .file
            .sync_data()
            .map_err(|e| failed("sync", &name(), &e))?;
        if created {
            self.storage
                .sync_directory()
                .map_err(|e| failed("sync", "the spool's directory", &e))?;
        }
        Ok(())
    }

    /// Takes back a write that the disk had no room for.
    fn undo(&mut self, active: Active, created: bool) -> Result<(), LogError> {
        let name = segment::name(active.first_seq);
        if created {
            return self
                .storage
                .remove(&name)
                .map_err(|e| failed("remove", &name, &e));
        }
        active
            .file
            .set_len(active.len)
            .map_err(|e| failed("cut", &name, &e))?;
        self.active = Some(active);
        Ok(())
    }

    /// Gives memory back after a burst.
    fn trim_buffer(&mut self) {
        if self.buffer.capacity() > BUFFER_KEPT_BYTES {
            self.buffer = Vec::new();
        }
    }
}

/// How large a write buffer is kept between writes, in bytes.
const BUFFER_KEPT_BYTES: usize = 128 * 1024;

/// Whether an error only says that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn failed(operation: &'static str, file: &str, source: &io::Error) -> LogError {
    LogError::Failed(format!("cannot {operation} {file}: {source}"))
}
