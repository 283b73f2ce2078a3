//! The seam: the model as the spool sees it.

use std::io;
use std::sync::Arc;

use super::super::storage::{Storage, StorageFile};
use super::power::overwrite;
use super::{Change, Effect, Entry, Inode, Model, Operation, State};

fn no_such_file() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Storage for Model {
    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let mut state = self.state();
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = state.new_inode();
        state.change(Operation::Create, name, |state| {
            state.inodes.insert(id, Inode::default());
            state.names.insert(name.to_owned(), id);
            let made = Entry::Made(name.to_owned(), id);
            state.unsynced_names.push(made);
        })?;
        Ok(self.file(name, id))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let mut state = self.state();
        let id = state.names.get(name).copied().ok_or_else(no_such_file)?;
        state.change(Operation::Open, name, |_| {})?;
        Ok(self.file(name, id))
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut state = self.state();
        state.change(Operation::List, "", |_| {})?;
        let len = |id| state.inodes.get(id).map_or(0, |inode| inode.seen.len());
        let files = state
            .names
            .iter()
            .map(|(n, id)| (n.clone(), len(id) as u64));
        Ok(files.collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let id = state.names.get(from).copied().ok_or_else(no_such_file)?;
        state.change(Operation::Rename, from, |state| {
            state.names.remove(from);
            state.names.insert(to.to_owned(), id);
            let renamed = Entry::Renamed(from.to_owned(), to.to_owned());
            state.unsynced_names.push(renamed);
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        if !state.names.contains_key(name) {
            return Err(no_such_file());
        }
        state.change(Operation::Remove, name, |state| {
            state.names.remove(name);
            state.unsynced_names.push(Entry::Removed(name.to_owned()));
        })
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        let effect = state.begin(Operation::SyncDirectory, "")?;
        if effect.is_none() {
            state.durable_names = state.names.clone();
            state.unsynced_names.clear();
        }
        state.end(effect, Operation::SyncDirectory, "")
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let mut state = self.state();
        state.change(Operation::FreeBytes, "", |_| {})?;
        let capacity = state
            .capacity_bytes
            .map(|c| c.saturating_sub(state.used_bytes()));
        Ok(capacity.map_or(u64::MAX, |free| free as u64))
    }
}

impl Model {
    fn file(&self, name: &str, id: u64) -> Arc<dyn StorageFile> {
        Arc::new(ModelFile {
            model: self.clone(),
            name: name.to_owned(),
            id,
        })
    }
}

/// A file of a [`Model`].
#[derive(Debug)]
struct ModelFile {
    model: Model,
    name: String,
    id: u64,
}

impl ModelFile {
    fn with<T>(&self, act: impl FnOnce(&mut State, &mut Inode) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.model.state();
        let mut inode = state.inodes.remove(&self.id).ok_or_else(no_such_file)?;
        let result = act(&mut state, &mut inode);
        state.inodes.insert(self.id, inode);
        result
    }
}

fn to_usize(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

impl StorageFile for ModelFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = to_usize(offset);
        self.with(|state, inode| {
            let mut effect = state.begin(Operation::Write, &self.name)?;
            let mut fits = bytes.len();
            if matches!(effect, Some(Effect::Eio | Effect::Enospc)) {
                fits /= 2;
            }
            if let Some(capacity) = state.capacity_bytes {
                let free = capacity.saturating_sub(state.used_bytes() + inode.seen.len());
                let grown = (offset + fits).saturating_sub(inode.seen.len());
                if grown > free {
                    fits = fits.saturating_sub(grown - free);
                    effect = effect.or(Some(Effect::Enospc));
                }
            }
            let (written, _) = bytes.split_at(fits);
            overwrite(&mut inode.seen, offset, written);
            inode.unsynced.push(Change::Write {
                offset,
                bytes: written.to_vec(),
            });
            state.end(effect, Operation::Write, &self.name)
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|state, inode| {
            state.change(Operation::Read, &self.name, |_| {})?;
            let rest = inode.seen.get(to_usize(offset)..).unwrap_or_default();
            let read = rest.len().min(buffer.len());
            let (to, from) = (buffer.split_at_mut(read).0, rest.split_at(read).0);
            to.copy_from_slice(from);
            Ok(read)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state, inode| {
            let effect = state.begin(Operation::SyncData, &self.name)?;
            if effect.is_none() {
                inode.durable.clone_from(&inode.seen);
                inode.unsynced.clear();
            }
            state.end(effect, Operation::SyncData, &self.name)
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|state, inode| {
            state.change(Operation::SetLen, &self.name, |_| {
                inode.seen.resize(to_usize(len), 0);
                inode.unsynced.push(Change::SetLen(to_usize(len)));
            })
        })
    }
}
