//! The reader's side: lists, reads and removes letters, also while the relay runs.
//!
//! It makes nothing and locks nothing. A letter that the relay removes meanwhile is simply not there any more.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::letter::{self, FILE_BYTES_MAX, Header, SUFFIX};

/// Why letters cannot be read or removed.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// The system refused.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no such letter.
    #[error("there is no dead letter {id} in {}", path.display())]
    Unknown {
        /// What was asked for.
        id: String,
        /// The directory.
        path: PathBuf,
    },
    /// Several letters have this number.
    #[error("several dead letters have the number {id}: say which by its whole id: {}", ids.join(" "))]
    Ambiguous {
        /// What was asked for.
        id: String,
        /// Theirs.
        ids: Vec<String>,
    },
    /// It cannot be used.
    #[error("dead letter {id}: {what}")]
    Damaged {
        /// Which.
        id: String,
        /// What is wrong with it.
        what: String,
    },
}

/// A letter, not read yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its id: the name of its file without the ending.
    pub id: String,
}

impl Entry {
    /// The number it had in the spool, as its name says.
    fn seq(&self) -> Option<&str> {
        self.id.split('-').nth(1)
    }
}

/// A letter that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What is known of it.
    pub header: Header,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// The dead letters of a relay.
#[derive(Clone, Debug)]
pub struct Shelf {
    path: PathBuf,
}

impl Shelf {
    /// Those in `directory`. Touches nothing yet.
    pub fn new(directory: &Path) -> Self {
        Shelf {
            path: directory.to_owned(),
        }
    }

    /// All letters, in the order of arrival. No directory is no letters.
    pub fn entries(&self) -> Result<Vec<Entry>, ShelfError> {
        let failed = failed("list", &self.path);
        let directory = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            directory => directory.map_err(&failed)?,
        };
        let mut entries = Vec::new();
        for entry in directory {
            let name = entry.map_err(&failed)?.file_name();
            if let Some(id) = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)) {
                entries.push(Entry { id: id.to_owned() });
            }
        }
        entries.sort_unstable();
        Ok(entries)
    }

    /// The letters that `ids` name, each by its id or by its number in the spool.
    pub fn find(&self, ids: &[String]) -> Result<Vec<Entry>, ShelfError> {
        let entries = self.entries()?;
        let find = |id: &String| {
            let named = |entry: &&Entry| entry.id == *id || entry.seq() == Some(id);
            let mut found = entries.iter().filter(named);
            match (found.next(), found.next()) {
                (Some(entry), None) => Ok(entry.clone()),
                (None, _) => Err(ShelfError::Unknown {
                    id: id.clone(),
                    path: self.path.clone(),
                }),
                (Some(_), Some(_)) => Err(ShelfError::Ambiguous {
                    id: id.clone(),
                    ids: (entries.iter().filter(named))
                        .map(|entry| entry.id.clone())
                        .collect(),
                }),
            }
        };
        ids.iter().map(find).collect()
    }

    /// Reads a letter and checks it; `None` if it is there no more.
    pub fn read(&self, entry: &Entry) -> Result<Option<Opened>, ShelfError> {
        let path = self.file(entry);
        let mut bytes = Vec::new();
        // One byte more shows that it is too large.
        let limit = FILE_BYTES_MAX as u64 + 1;
        match File::open(&path).and_then(|file| file.take(limit).read_to_end(&mut bytes)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(failed("read", &path))?,
        };
        match letter::decode(&bytes) {
            Ok((header, payload)) => Ok(Some(Opened {
                header,
                payload: payload.to_owned(),
            })),
            Err(what) => Err(ShelfError::Damaged {
                id: entry.id.clone(),
                what,
            }),
        }
    }

    /// Removes a letter and says whether it was still there. Not durable before [`Shelf::sync`].
    pub fn remove(&self, entry: &Entry) -> Result<bool, ShelfError> {
        let path = self.file(entry);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(failed("remove", &path)(source)),
        }
    }

    /// Makes removals durable. Those that a power cut brings back are letters again, no loss.
    pub fn sync(&self) -> Result<(), ShelfError> {
        let synced = File::open(&self.path).and_then(|directory| directory.sync_all());
        synced.map_err(failed("sync", &self.path))
    }

    fn file(&self, entry: &Entry) -> PathBuf {
        self.path.join(format!("{}{SUFFIX}", entry.id))
    }
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> ShelfError {
    move |source| ShelfError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}
