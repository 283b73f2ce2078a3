//! The journal's file, and what it says. Owned by the thread that writes.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::journal::{self, Change, Findings, Now};
use super::pending::Pending;
use super::{Messages, RETRY_AFTER, SYNC_AFTER};
use crate::clock;
use crate::spool::storage::{Storage, StorageFile};

const JOURNAL: &str = "retained";
/// The next journal, until it is complete.
const NEXT: &str = "retained.new";
/// The last one with damage, for whoever wants to look at it.
const DAMAGED: &str = "retained.damaged";
/// A larger journal was not written by the relay; it is set aside. In bytes.
const JOURNAL_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// See the module.
pub(super) struct Disk {
    storage: Arc<dyn Storage>,
    /// `None` if there is no journal that can be appended to.
    file: Option<Arc<dyn StorageFile>>,
    len: u64,
    /// What the journal is to say.
    messages: Messages,
    /// When what was written has to be synced.
    sync_at: Option<Instant>,
    /// When a disk that refused is to be asked again.
    retry_at: Option<Instant>,
    /// The file under the journal's name is to be set aside.
    is_damaged: bool,
}

impl Disk {
    /// Reads the journal, if there is one. Damage is told and set aside; only what cannot be read is an error.
    pub(super) fn open(storage: Arc<dyn Storage>) -> io::Result<Self> {
        let mut disk = Disk {
            storage,
            file: None,
            len: 0,
            messages: Messages::new(),
            sync_at: None,
            retry_at: None,
            is_damaged: false,
        };
        let files = disk.storage.list()?;
        let find = |name| files.iter().find(|(file, _)| file == name);
        // The next journal is complete where the last one was moved away already.
        let Some((name, len)) = find(JOURNAL).or_else(|| find(NEXT)) else {
            return Ok(disk);
        };
        let file = disk.storage.open(name)?;
        let findings = if *len > JOURNAL_BYTES_MAX {
            Findings {
                foreign: true,
                ..Findings::default()
            }
        } else {
            disk.replay(&*file, *len)?
        };
        disk.is_damaged = name == JOURNAL && (findings.foreign || findings.damaged > 0);
        if disk.is_damaged {
            tracing::warn!(
                places = findings.damaged,
                "the journal of the retained messages was damaged; it is set aside as broker/{DAMAGED}, and what could be read goes on"
            );
        }
        if findings == Findings::default() && name == JOURNAL {
            disk.file = Some(file);
            disk.len = *len;
        } else {
            disk.write_anew(Instant::now());
        }
        tracing::info!(
            messages = disk.messages.len(),
            torn_bytes = findings.torn_bytes,
            "retained messages restored"
        );
        Ok(disk)
    }

    fn replay(&mut self, file: &dyn StorageFile, len: u64) -> io::Result<Findings> {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        let messages = &mut self.messages;
        let now = now();
        let findings = journal::replay(&bytes, now, |change| match change {
            Change::Set(topic, kept) => {
                messages.insert(topic.into(), kept);
            }
            Change::Clear(topic) => {
                messages.remove(topic);
            }
        });
        messages.retain(|_, (publication, _)| !publication.has_expired(now.instant));
        Ok(findings)
    }

    /// The retained messages as the journal has them.
    pub(super) fn messages(&self) -> &Messages {
        &self.messages
    }

    /// When there is something to do though nothing changes.
    pub(super) fn alarm(&self) -> Option<Instant> {
        [self.sync_at, self.retry_at].into_iter().flatten().min()
    }

    /// Writes what waits, and syncs what is due, or everything if this is the `last` time.
    pub(super) fn carry_out(&mut self, pending: Pending, last: bool, at: Instant) {
        let mut frames = Vec::new();
        let mut anew = false;
        match pending {
            Pending::Changes(changes) => {
                let now = now();
                for (topic, kept) in changes {
                    journal::encode(&mut frames, &topic, kept.as_ref(), now);
                    match kept {
                        Some(kept) => self.messages.insert(topic, kept),
                        None => self.messages.remove(&topic),
                    };
                }
            }
            Pending::Whole(messages) => {
                self.messages = messages;
                anew = true;
            }
        }
        if let Some(retry_at) = self.retry_at {
            if last || retry_at <= at {
                self.write_anew(at);
            }
            return;
        }
        if anew || (!frames.is_empty() && self.is_to_be_written_anew(frames.len())) {
            self.write_anew(at);
        } else if !frames.is_empty() {
            self.append(&frames, at);
        }
        if self.sync_at.is_some_and(|due| last || due <= at) {
            self.sync(at);
        }
    }

    fn is_to_be_written_anew(&self, more: usize) -> bool {
        let live = self.messages.iter();
        let live = live.map(|(topic, (publication, _))| journal::set_len(topic, publication));
        self.file.is_none() || journal::is_wasteful(self.len + more as u64, live.sum())
    }

    fn append(&mut self, frames: &[u8], at: Instant) {
        let Some(file) = &self.file else { return };
        match file.write_all_at(frames, self.len) {
            Ok(()) => {
                self.len += frames.len() as u64;
                self.sync_at.get_or_insert(at + SYNC_AFTER);
            }
            Err(error) => self.refused(&error, at),
        }
    }

    fn sync(&mut self, at: Instant) {
        self.sync_at = None;
        if let Some(Err(error)) = self.file.as_ref().map(|file| file.sync_data()) {
            self.refused(&error, at);
        }
    }

    fn write_anew(&mut self, at: Instant) {
        match self.try_write_anew() {
            Ok(()) => {
                self.sync_at = None;
                if self.retry_at.take().is_some() {
                    tracing::info!("retained messages are kept on disk again");
                }
            }
            Err(error) => self.refused(&error, at),
        }
    }

    fn try_write_anew(&mut self) -> io::Result<()> {
        let mut bytes = journal::HEADER.to_vec();
        let now = now();
        for (topic, kept) in &self.messages {
            journal::encode(&mut bytes, topic, Some(kept), now);
        }
        match self.storage.remove(NEXT) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.storage.create(NEXT)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_data()?;
        if self.is_damaged {
            self.storage.rename(JOURNAL, DAMAGED)?;
            self.is_damaged = false;
        }
        self.storage.rename(NEXT, JOURNAL)?;
        self.storage.sync_directory()?;
        self.file = Some(file);
        self.len = bytes.len() as u64;
        Ok(())
    }

    /// The end of the file is unknown now: it is written anew when the disk is asked again.
    fn refused(&mut self, error: &io::Error, at: Instant) {
        self.file = None;
        self.sync_at = None;
        if self.retry_at.replace(at + RETRY_AFTER).is_none() {
            tracing::warn!(
                %error,
                "cannot write the retained messages to DATA_DIR/broker: they are kept in memory until the disk takes them again"
            );
        }
    }
}

fn now() -> Now {
    Now {
        instant: tokio::time::Instant::now(),
        wall: clock::now(),
    }
}
