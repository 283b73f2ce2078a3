//! The relay's side: writes letters, many at a time, and keeps to the limit by removing the oldest.
//!
//! Others may remove letters meanwhile; what is used is then overestimated until it is counted again, which is done
//! before any letter is removed for want of room.
//!
//! `SPOOL_MIN_FREE_BYTES` does not count here: a letter is moved out of the spool, and if the spool is what fills the
//! disk, keeping it there would help nobody.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::letter::{Letter, SUFFIX};
use crate::spool::storage::{Directory, DirectoryError, Storage};

/// What a file takes on disk is a multiple of this, in bytes, as most file systems have it.
const BLOCK_BYTES: u64 = 4 * 1024;
/// What the name of a letter that is being written ends with.
const UNFINISHED_SUFFIX: &str = ".tmp";

/// Why dead letters cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// Their directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The system refused.
    #[error("DATA_DIR: cannot {operation} the dead letter {name}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

/// What there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Dead letters.
    pub letters: u64,
    /// What they take on disk, in bytes, whole blocks counted.
    pub bytes: u64,
}

/// The relay's handle to the dead letters. Cheap to clone.
#[derive(Clone)]
pub struct DeadLetters(Arc<Inner>);

struct Inner {
    open: Box<dyn Fn() -> Result<Arc<dyn Storage>, DirectoryError> + Send + Sync>,
    bytes_max: u64,
    /// Letters removed for want of room since the start. Not behind the lock, which is held while the disk works.
    given_up: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Opened when it is first needed, so that a disk which refuses does not keep the relay from starting.
    storage: Option<Arc<dyn Storage>>,
    /// At least what the letters take on disk, in bytes.
    bytes: u64,
}

impl DeadLetters {
    /// The dead letters in `directory`, which may take `bytes_max` bytes. Touches nothing yet.
    pub fn new(directory: PathBuf, bytes_max: u64) -> Self {
        Self::with_storage(bytes_max, move || {
            Ok(Arc::new(Directory::open(&directory)?))
        })
    }

    pub(super) fn with_storage(
        bytes_max: u64,
        open: impl Fn() -> Result<Arc<dyn Storage>, DirectoryError> + Send + Sync + 'static,
    ) -> Self {
        DeadLetters(Arc::new(Inner {
            open: Box::new(open),
            bytes_max,
            given_up: AtomicU64::new(0),
            state: Mutex::default(),
        }))
    }

    /// Clears away what a crash left unfinished, and counts. Blocks on the disk.
    pub fn open(&self) -> Result<Waiting, PutError> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let storage = self.0.storage(&mut state)?;
        state.count(storage.as_ref())
    }

    /// Letters removed for want of room since the start.
    pub fn given_up(&self) -> u64 {
        self.0.given_up.load(Ordering::Relaxed)
    }

    /// Makes `letters` durable. After an error none of them counts as written, though some may be: writing them
    /// again makes no second file. Blocks on the disk.
    pub fn put(&self, letters: &[Letter]) -> Result<(), PutError> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let storage = self.0.storage(&mut state)?;
        let size = |letter: &Letter| on_disk(letter.bytes.len() as u64);
        let all = letters.iter().map(size).sum();
        let is_too_much = all > self.0.bytes_max;
        if !is_too_much {
            self.0.make_room(&mut state, storage.as_ref(), all)?;
        }
        for letter in letters {
            if is_too_much {
                // Then they take each other's, too.
                self.0
                    .make_room(&mut state, storage.as_ref(), size(letter))?;
            }
            // Before it is there, so that a failure cannot leave it uncounted.
            state.bytes += size(letter);
            write(storage.as_ref(), letter)?;
        }
        storage
            .sync_directory()
            .map_err(failed("sync", "directory"))
    }
}

impl fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters").finish_non_exhaustive()
    }
}

impl Inner {
    fn storage(&self, state: &mut State) -> Result<Arc<dyn Storage>, PutError> {
        if let Some(storage) = &state.storage {
            return Ok(Arc::clone(storage));
        }
        let storage = (self.open)()?;
        state.count(storage.as_ref())?;
        state.storage = Some(Arc::clone(&storage));
        Ok(storage)
    }

    /// Removes the oldest letters until `need` bytes more fit.
    fn make_room(
        &self,
        state: &mut State,
        storage: &dyn Storage,
        need: u64,
    ) -> Result<(), PutError> {
        if state.bytes + need <= self.bytes_max {
            return Ok(());
        }
        state.count(storage)?;
        let mut letters = storage.list().map_err(failed("list", "directory"))?;
        letters.retain(|(name, _)| name.ends_with(SUFFIX));
        letters.sort_unstable();
        for (name, len) in letters {
            if state.bytes + need <= self.bytes_max {
                break;
            }
            if remove(storage, &name)? {
                self.given_up.fetch_add(1, Ordering::Relaxed);
            }
            state.bytes = state.bytes.saturating_sub(on_disk(len));
        }
        Ok(())
    }
}

impl State {
    /// Counts what there is, and removes what is unfinished.
    fn count(&mut self, storage: &dyn Storage) -> Result<Waiting, PutError> {
        let mut waiting = Waiting::default();
        for (name, len) in storage.list().map_err(failed("list", "directory"))? {
            if name.ends_with(UNFINISHED_SUFFIX) {
                remove(storage, &name)?;
            } else if name.ends_with(SUFFIX) {
                waiting.letters += 1;
                waiting.bytes += on_disk(len);
            }
        }
        self.bytes = waiting.bytes;
        Ok(waiting)
    }
}

/// Writes one letter and syncs it, not yet its name.
fn write(storage: &dyn Storage, letter: &Letter) -> Result<(), PutError> {
    let unfinished = format!("{}{UNFINISHED_SUFFIX}", letter.name);
    let written = storage.create(&unfinished).and_then(|file| {
        file.write_all_at(&letter.bytes, 0)?;
        file.sync_data()?;
        storage.rename(&unfinished, &letter.name)
    });
    written.map_err(|error| {
        // It is in the way of the next try, and on a full disk of everybody.
        if let Err(error) = remove(storage, &unfinished) {
            tracing::debug!("{error}");
        }
        failed("write", &letter.name)(error)
    })
}

/// Removes a file and says whether it was there.
fn remove(storage: &dyn Storage, name: &str) -> Result<bool, PutError> {
    match storage.remove(name) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove", name)(error)),
    }
}

fn failed(operation: &'static str, name: &str) -> impl FnOnce(io::Error) -> PutError {
    let name = name.to_owned();
    move |source| PutError::Io {
        operation,
        name,
        source,
    }
}

/// What a file of `len` bytes takes.
fn on_disk(len: u64) -> u64 {
    len.max(1).next_multiple_of(BLOCK_BYTES)
}
