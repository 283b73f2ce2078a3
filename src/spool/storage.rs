//! The file system, as the spool sees it: the seam at which tests inject power cuts and full disks.
//!
//! The only module of the spool that touches the file system. Nothing here decides anything.

use std::fmt;
use std::fs::{self, DirEntry, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod read_only;

pub use self::read_only::{ReadOnlyDirectory, ReadOnlyError};

/// Held by whoever uses the directory (`flock`). Empty.
const LOCK_FILE: &str = "lock";

/// A directory of files.
pub trait Storage: fmt::Debug + Send + Sync {
    /// Makes a new, empty file. It is an error if it exists.
    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;
    /// All files with their lengths in bytes, in no order.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;
    /// Renames a file, replacing what was there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_directory(&self) -> io::Result<()>;
    /// Bytes that can still be written on this file system by an ordinary user.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// A file of a [`Storage`].
pub trait StorageFile: fmt::Debug + Send + Sync {
    /// Writes all of `bytes` at `offset`.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Makes content and length durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
}

/// A real directory, held by one process at a time.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    _lock: File,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It is not there and cannot be made, or cannot be written to.
    #[error(
        "DATA_DIR: cannot {operation} {}: {source}; \
         mount a volume there that this process may write to",
        path.display()
    )]
    Unusable {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process holds it.
    #[error(
        "DATA_DIR: {} is in use by another running relay or by `cloud-relay spool`; \
         stop it or choose another directory",
        path.display()
    )]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
}

impl Directory {
    /// Makes the directory, and what is missing above it, and locks it until the value is dropped.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        make(path, &mut sync_directory)?;
        let lock_path = path.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|e| unusable("write to", &lock_path, e))?;
        match lock.try_lock() {
            Ok(()) => Ok(Directory {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(DirectoryError::InUse { path: lock_path }),
            Err(TryLockError::Error(e)) => Err(unusable("lock", &lock_path, e)),
        }
    }
}

fn unusable(operation: &'static str, path: &Path, source: io::Error) -> DirectoryError {
    DirectoryError::Unusable {
        operation,
        path: path.to_owned(),
        source,
    }
}

/// Makes a directory, and what is missing above it, each durable in its parent before anything is made in it. The place of
/// one that is there is made durable too: who made it may have been killed before that. Above `path` that is tried only,
/// for it may be a mount point in a file system that nobody may write to.
fn make(path: &Path, sync: &mut impl FnMut(&Path) -> io::Result<()>) -> Result<(), DirectoryError> {
    if !path.is_dir() {
        match path.parent() {
            Some(parent) if parent.is_dir() => drop(sync(&parent.join(".."))),
            Some(parent) if parent != Path::new("") => make(parent, sync)?,
            _ => {}
        }
        match fs::create_dir(path) {
            Err(error) if !path.is_dir() => return Err(unusable("create", path, error)),
            _ => {}
        }
    }
    let parent = path.join("..");
    sync(&parent).map_err(|e| unusable("sync", &parent, e))
}

fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn list(path: &Path) -> io::Result<Vec<(String, u64)>> {
    with_lengths(fs::read_dir(path)?)
}

/// One that another process removes meanwhile is not there: dead letters are, while the relay lists them.
fn with_lengths(
    entries: impl Iterator<Item = io::Result<DirEntry>>,
) -> io::Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string() {
            match entry.metadata() {
                Ok(metadata) => files.push((name, metadata.len())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(files)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl Storage for Directory {
    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .open(self.path.join(name))?;
        Ok(Arc::new(DiskFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path.join(name))?;
        Ok(Arc::new(DiskFile(file)))
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        list(&self.path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        sync_directory(&self.path)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        free_bytes(&self.path)
    }
}

#[derive(Debug)]
struct DiskFile(File);

impl StorageFile for DiskFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_directory_is_durable_before_anything_is_made_in_it() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path().canonicalize().unwrap();
        let path = base.join("a/b/c");
        let made = || (path.ancestors()).filter(|above| above.starts_with(&base) && above.is_dir());
        // What was synced, and how many of the four directories there were then.
        let mut synced = Vec::new();
        let mut sync = |parent: &Path| {
            synced.push((parent.canonicalize()?, made().count()));
            Ok(())
        };
        make(&path, &mut sync).unwrap();
        make(&path, &mut sync).unwrap();
        let parent = |directory: &str| base.join(directory).join("..").canonicalize().unwrap();
        let first = [
            (parent(""), 1),
            (parent("a"), 2),
            (parent("a/b"), 3),
            (parent("a/b/c"), 4),
        ];
        assert_eq!(synced[..4], first);
        assert_eq!(synced[4..], [(parent("a/b/c"), 4)]);
    }

    #[test]
    fn a_file_that_goes_while_its_directory_is_listed_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for name in ["goes", "stays"] {
            fs::write(path.join(name), name).unwrap();
        }
        let entries: Vec<_> = fs::read_dir(path).unwrap().collect();
        fs::remove_file(path.join("goes")).unwrap();
        let files = with_lengths(entries.into_iter()).unwrap();
        assert_eq!(files, [("stays".to_owned(), 5)]);
    }

    #[test]
    fn a_directory_whose_place_cannot_be_made_durable_is_not_used() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a/b");
        let mut fails = |parent: &Path| {
            let fails = parent.ends_with("a/..");
            if fails {
                Err(io::Error::from_raw_os_error(5))
            } else {
                Ok(())
            }
        };
        let error = make(&path, &mut fails).unwrap_err().to_string();
        assert!(error.contains("cannot sync"), "{error}");
        assert!(
            !path.exists(),
            "made in one that may be gone after a power cut"
        );
    }
}
