//! Where the journal is: a directory, which may not be usable yet, and the files in it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::change::Clocks;
use super::image::Image;
use super::keeper::SNAPSHOT_BYTES_MAX;
use crate::spool::storage::{Directory, Storage, StorageFile};

const JOURNAL: &str = "journal";
/// The next journal, until it is complete.
const FRESH: &str = "journal.new";
/// The last journal that could not be read, in part or at all, for whoever wants to look at it.
const DAMAGED: &str = "journal.damaged";
/// A longer journal was not written by the relay. It is not read, so that it cannot take all memory.
const JOURNAL_BYTES_MAX: u64 = 2 * SNAPSHOT_BYTES_MAX as u64 + 16 * 1024 * 1024;

type Open = dyn Fn() -> io::Result<Arc<dyn Storage>> + Send;

/// See the module.
pub(super) struct Place {
    open: Box<Open>,
    /// There since the directory could be opened.
    storage: Option<Arc<dyn Storage>>,
    /// The journal there is to be set aside when there is another one.
    is_damaged: bool,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

impl Place {
    /// A directory of the file system.
    pub(super) fn directory(path: PathBuf) -> Self {
        Place::new(move || {
            let directory = Directory::open(&path).map_err(io::Error::other)?;
            Ok(Arc::new(directory))
        })
    }

    /// What `open` opens.
    pub(super) fn new(open: impl Fn() -> io::Result<Arc<dyn Storage>> + Send + 'static) -> Self {
        Place {
            open: Box::new(open),
            storage: None,
            is_damaged: false,
        }
    }

    /// What the journal says; `None` if there is none. One that says nothing, or not all, is set aside by the next.
    pub(super) fn read(&mut self, clocks: &Clocks) -> io::Result<Option<Image>> {
        let read = self.try_read(clocks);
        self.is_damaged = match &read {
            Ok(None) => false,
            Ok(Some(image)) => image.damaged > 0 || image.unknown_version.is_some(),
            Err(_) => true,
        };
        read
    }

    fn try_read(&mut self, clocks: &Clocks) -> io::Result<Option<Image>> {
        let storage = self.storage()?;
        let files = storage.list()?;
        let find = |name| files.iter().find(|(file, _)| file == name);
        // The next one is complete if the last one was set aside already; otherwise it promised nothing.
        let Some((name, len)) = find(JOURNAL).or_else(|| find(FRESH)) else {
            return Ok(None);
        };
        if *len > JOURNAL_BYTES_MAX {
            let error = format!("it has {len} bytes, more than the relay would ever write");
            return Err(io::Error::other(error));
        }
        let mut bytes = vec![0; usize::try_from(*len).map_err(io::Error::other)?];
        let read = storage.open(name)?.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(Some(Image::replay(&bytes, clocks)))
    }

    /// A file for the next journal.
    pub(super) fn create(&mut self) -> io::Result<Arc<dyn StorageFile>> {
        let storage = self.storage()?;
        if has(&*storage, FRESH)? {
            storage.remove(FRESH)?;
        }
        storage.create(FRESH)
    }

    /// Makes it the journal. It is synced.
    pub(super) fn replace(&mut self) -> io::Result<()> {
        let storage = self.storage()?;
        if self.is_damaged && has(&*storage, JOURNAL)? {
            storage.sync_directory()?; // or there might be neither
            storage.rename(JOURNAL, DAMAGED)?;
        }
        self.is_damaged = false;
        storage.rename(FRESH, JOURNAL)?;
        storage.sync_directory()
    }

    fn storage(&mut self) -> io::Result<Arc<dyn Storage>> {
        let storage = match self.storage.take() {
            Some(storage) => storage,
            None => (self.open)()?,
        };
        Ok(Arc::clone(self.storage.insert(storage)))
    }
}

fn has(storage: &dyn Storage, name: &str) -> io::Result<bool> {
    Ok(storage.list()?.iter().any(|(file, _)| file == name))
}
