//! A directory that cannot be changed through this program: for looking at a stopped relay's spool.
//!
//! Every file is opened for reading only and every change is refused, so that code written for the live
//! spool can be run on it. The lock is taken *shared*: several tools may look at once, a relay is kept out
//! meanwhile, and a running relay keeps the tools out. Nothing is created, the lock file neither: where
//! it is missing, as in a copied directory, nobody can hold it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{DiskFile, Storage, StorageFile};

/// A real directory, for reading, kept from a relay until the value is dropped.
#[derive(Debug)]
pub struct ReadOnlyDirectory {
    path: PathBuf,
    _lock: Option<File>,
}

/// Why a directory cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ReadOnlyError {
    /// There is no such directory.
    #[error(
        "there is no directory {}; name the directory it is in with --data-dir or DATA_DIR",
        path.display()
    )]
    Missing {
        /// What was looked for.
        path: PathBuf,
    },
    /// A relay runs on it.
    #[error(
        "{} is in use by a running relay; stop the relay, then try again",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
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
}

impl ReadOnlyDirectory {
    /// Opens the directory unless a relay runs on it.
    pub fn open(path: &Path) -> Result<Self, ReadOnlyError> {
        let io = |operation, path: &Path, source| ReadOnlyError::Io {
            operation,
            path: path.to_owned(),
            source,
        };
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {}
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io("look at", path, e)),
            _ => {
                return Err(ReadOnlyError::Missing {
                    path: path.to_owned(),
                });
            }
        }
        let lock_path = path.join(super::LOCK_FILE);
        let lock = match File::open(&lock_path) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(io("open", &lock_path, e)),
        };
        match lock.as_ref().map(File::try_lock_shared) {
            None | Some(Ok(())) => Ok(ReadOnlyDirectory {
                path: path.to_owned(),
                _lock: lock,
            }),
            Some(Err(TryLockError::WouldBlock)) => Err(ReadOnlyError::InUse {
                path: path.to_owned(),
            }),
            Some(Err(TryLockError::Error(e))) => Err(io("lock", &lock_path, e)),
        }
    }

    /// The directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Storage for ReadOnlyDirectory {
    fn create(&self, _: &str) -> io::Result<Arc<dyn StorageFile>> {
        refused()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let file = File::open(self.path.join(name))?;
        Ok(Arc::new(ReadOnlyFile(DiskFile(file))))
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        super::list(&self.path)
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        refused()
    }

    fn sync_directory(&self) -> io::Result<()> {
        refused()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        super::free_bytes(&self.path)
    }
}

#[derive(Debug)]
struct ReadOnlyFile(DiskFile);

impl StorageFile for ReadOnlyFile {
    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        refused()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        refused()
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        refused()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Directory;
    use super::*;

    #[test]
    fn every_change_is_refused_and_reading_works() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), b"content").unwrap();
        let read_only = ReadOnlyDirectory::open(dir.path()).unwrap();
        let file = read_only.open("file").unwrap();
        let mut buffer = [0; 7];
        assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 7);
        assert_eq!(&buffer, b"content");
        let refusals = [
            read_only.create("new").map(|_| ()),
            read_only.rename("file", "other"),
            read_only.remove("file"),
            read_only.sync_directory(),
            file.write_all_at(b"x", 0),
            file.sync_data(),
            file.set_len(0),
        ];
        for refusal in refusals {
            assert_eq!(
                refusal.unwrap_err().kind(),
                io::ErrorKind::ReadOnlyFilesystem
            );
        }
        assert_eq!(
            read_only.list().unwrap(),
            [("file".to_owned(), 7)],
            "no lock file was made"
        );
    }

    #[test]
    fn tools_share_the_directory_and_a_relay_excludes_them_and_is_excluded() {
        let dir = tempfile::tempdir().unwrap();
        let relay = Directory::open(dir.path()).unwrap();
        let error = ReadOnlyDirectory::open(dir.path()).unwrap_err();
        assert!(matches!(error, ReadOnlyError::InUse { .. }), "{error}");
        drop(relay);
        let first = ReadOnlyDirectory::open(dir.path()).unwrap();
        let second = ReadOnlyDirectory::open(dir.path()).unwrap();
        assert!(Directory::open(dir.path()).is_err());
        drop((first, second));
        Directory::open(dir.path()).unwrap();
    }
}
