//! A directory in memory that can lose power: the spool's [`Storage`] as the kernel keeps it, and what
//! of it would be found after a power cut.
//!
//! Each file has what the process sees and the changes to it since it was last synced. A power cut
//! ([`Model::reboot`]) keeps what was synced and, of each later change, nothing, all, a prefix or some of
//! its sectors, as a seed decides; with the directory it is the same for each creation, renaming and
//! removal. This is weaker than what ext4 does (which keeps the order of directory changes), so what
//! holds here holds there. A crash of the process alone needs no call: the kernel keeps everything.
//!
//! [`Fault`]s are injected at the seam, at the n-th operation of a kind or of all.
//!
//! What it does not model: sectors that change after they were synced, and reads that lie.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::storage::{Storage, StorageFile};

/// The unit that is written whole or not at all, in bytes.
const SECTOR_BYTES: usize = 512;

/// An operation at the seam.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Create,
    Open,
    List,
    Rename,
    Remove,
    SyncDirectory,
    FreeBytes,
    Write,
    Read,
    SyncData,
    SetLen,
}

impl Operation {
    /// Each of them.
    pub(crate) const ALL: [Operation; 11] = [
        Operation::Create,
        Operation::Open,
        Operation::List,
        Operation::Rename,
        Operation::Remove,
        Operation::SyncDirectory,
        Operation::FreeBytes,
        Operation::Write,
        Operation::Read,
        Operation::SyncData,
        Operation::SetLen,
    ];
}

/// What happens at a faulty operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The power goes: the operation may or may not have reached the flash, all later ones fail.
    PowerCut,
    /// `EIO`: of a write a part is done, a sync makes nothing durable, all else does nothing.
    Eio,
    /// `ENOSPC`: of a write a part is done, all else does nothing.
    Enospc,
}

impl Effect {
    /// Each of them.
    pub(crate) const ALL: [Effect; 3] = [Effect::PowerCut, Effect::Eio, Effect::Enospc];
}

/// When it happens, counted from the injection; 1 is the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// At the n-th operation of this kind.
    Nth(Operation, u32),
    /// At the n-th operation of this kind on this file.
    On(Operation, &'static str, u32),
    /// At the n-th operation of any kind.
    Step(u32),
}

/// Something that goes wrong once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) trigger: Trigger,
    pub(crate) effect: Effect,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    seen: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Entry {
    Made(String, u64),
    Renamed(String, String),
    Removed(String),
}

#[derive(Clone, Default)]
struct State {
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    unsynced_names: Vec<Entry>,
    inodes: BTreeMap<u64, Inode>,
    capacity_bytes: Option<usize>,
    faults: Vec<Fault>,
    fired: Vec<Effect>,
    off: bool,
    steps: u32,
    /// Operations that succeeded, by file.
    done: BTreeMap<(Operation, String), u32>,
}

/// A directory in memory. Clones are the same directory.
#[derive(Clone, Default)]
pub(crate) struct Model(Arc<Mutex<State>>);

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").finish_non_exhaustive()
    }
}

impl Model {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A directory of its own with the same content and history.
    pub(crate) fn copy(&self) -> Self {
        Model(Arc::new(Mutex::new(self.state().clone())))
    }

    /// Lets something go wrong.
    pub(crate) fn inject(&self, trigger: Trigger, effect: Effect) {
        let proved = Effect::ALL.contains(&effect);
        assert!(
            proved,
            "{effect:?} is missing in Effect::ALL, so nothing proves that it happens"
        );
        self.state().faults.push(Fault { trigger, effect });
    }

    /// How many faults with this effect have happened.
    pub(crate) fn fired_as(&self, effect: Effect) -> usize {
        let fired = &self.state().fired;
        fired.iter().filter(|fired| **fired == effect).count()
    }

    /// Takes back the faults that have not happened.
    pub(crate) fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Whether the power is off.
    pub(crate) fn is_off(&self) -> bool {
        self.state().off
    }

    /// How many operations there were.
    pub(crate) fn steps(&self) -> u32 {
        self.state().steps
    }

    /// How many operations of this kind on this file succeeded.
    pub(crate) fn done(&self, operation: Operation, file: &str) -> u32 {
        let done = &self.state().done;
        done.get(&(operation, file.to_owned()))
            .copied()
            .unwrap_or(0)
    }

    /// Whether any operation of this kind succeeded.
    pub(crate) fn done_any(&self, operation: Operation) -> bool {
        self.state().done.keys().any(|(done, _)| *done == operation)
    }

    /// Gives the disk a size, or none. What is on it already stays.
    pub(crate) fn set_capacity(&self, bytes: Option<usize>) {
        self.state().capacity_bytes = bytes;
    }

    /// What is on the disk, in bytes.
    pub(crate) fn used_bytes(&self) -> usize {
        self.state().used_bytes()
    }

    /// A file as the process sees it.
    pub(crate) fn content(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let id = state.names.get(name)?;
        state.inodes.get(id).map(|inode| inode.seen.clone())
    }

    /// Makes a file with this content, synced.
    pub(crate) fn put(&self, name: &str, content: Vec<u8>) {
        let mut state = self.state();
        let id = state.new_inode();
        state.names.insert(name.to_owned(), id);
        state.durable_names.insert(name.to_owned(), id);
        state.inodes.insert(
            id,
            Inode {
                seen: content.clone(),
                durable: content,
                unsynced: Vec::new(),
            },
        );
    }

    /// Cuts the power and gives it back. `seed` decides what of the unsynced survives.
    pub(crate) fn reboot(&self, seed: u64) {
        self.state().reboot(&mut fastrand::Rng::with_seed(seed));
    }
}

impl State {
    fn used_bytes(&self) -> usize {
        let inodes = self.names.values().filter_map(|id| self.inodes.get(id));
        inodes.map(|inode| inode.seen.len()).sum()
    }

    fn new_inode(&self) -> u64 {
        self.inodes.last_key_value().map_or(0, |(id, _)| id + 1)
    }

    /// Counts an operation and says whether something goes wrong with it.
    fn begin(&mut self, operation: Operation, file: &str) -> io::Result<Option<Effect>> {
        if self.off {
            return Err(io::Error::other("the power is off"));
        }
        self.steps += 1;
        let mut effect = None;
        for fault in &mut self.faults {
            let left = match &mut fault.trigger {
                Trigger::Nth(on, left) if *on == operation => left,
                Trigger::On(on, name, left) if *on == operation && *name == file => left,
                Trigger::Step(left) => left,
                _ => continue,
            };
            *left -= 1;
            if *left == 0 && effect != Some(Effect::PowerCut) {
                effect = Some(fault.effect);
            }
        }
        self.faults.retain(|fault| {
            !matches!(
                fault.trigger,
                Trigger::Nth(_, 0) | Trigger::On(_, _, 0) | Trigger::Step(0)
            )
        });
        if let Some(effect) = effect {
            self.fired.push(effect);
            self.off = effect == Effect::PowerCut;
        }
        Ok(effect)
    }

    /// The error of an operation with `effect`; without one it is counted as done.
    fn end(&mut self, effect: Option<Effect>, operation: Operation, file: &str) -> io::Result<()> {
        match effect {
            None => {
                *self.done.entry((operation, file.to_owned())).or_default() += 1;
                Ok(())
            }
            Some(Effect::PowerCut) => Err(io::Error::other("the power went off")),
            Some(Effect::Eio) => Err(io::Error::from_raw_os_error(5)),
            Some(Effect::Enospc) => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    /// An operation that changes no file: all or nothing.
    fn change(
        &mut self,
        operation: Operation,
        name: &str,
        change: impl FnOnce(&mut Self),
    ) -> io::Result<()> {
        let effect = self.begin(operation, name)?;
        if matches!(effect, None | Some(Effect::PowerCut)) {
            change(self);
        }
        self.end(effect, operation, name)
    }

    fn reboot(&mut self, rng: &mut fastrand::Rng) {
        let survival = Survival::choose(rng);
        let mut names = self.durable_names.clone();
        let entries = std::mem::take(&mut self.unsynced_names);
        let kept = survival.prefix(entries.len(), rng);
        for (at, entry) in entries.into_iter().enumerate() {
            if survival.keeps(at, kept, rng) {
                entry.apply(&mut names);
            }
        }
        let mut inodes = BTreeMap::new();
        for id in names.values() {
            if let Some(inode) = self.inodes.get(id) {
                let content = inode.survive(survival, rng);
                inodes.insert(
                    *id,
                    Inode {
                        seen: content.clone(),
                        durable: content,
                        unsynced: Vec::new(),
                    },
                );
            }
        }
        self.names.clone_from(&names);
        self.durable_names = names;
        self.inodes = inodes;
        self.faults.clear();
        self.off = false;
    }
}

/// How much of the unsynced survives a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Survival {
    Nothing,
    Everything,
    /// What was done first.
    Prefix,
    /// Any of it, in any state.
    Mixed,
}

impl Survival {
    fn choose(rng: &mut fastrand::Rng) -> Self {
        match rng.u8(..6) {
            0 => Survival::Nothing,
            1 => Survival::Everything,
            2 => Survival::Prefix,
            _ => Survival::Mixed,
        }
    }

    fn prefix(self, len: usize, rng: &mut fastrand::Rng) -> usize {
        if self == Survival::Prefix {
            rng.usize(..=len)
        } else {
            len
        }
    }

    fn keeps(self, at: usize, prefix: usize, rng: &mut fastrand::Rng) -> bool {
        match self {
            Survival::Nothing => false,
            Survival::Everything => true,
            Survival::Prefix => at < prefix,
            Survival::Mixed => rng.bool(),
        }
    }
}

impl Entry {
    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            Entry::Made(name, id) => drop(names.insert(name, id)),
            Entry::Removed(name) => drop(names.remove(&name)),
            Entry::Renamed(from, to) => {
                if let Some(id) = names.remove(&from) {
                    names.insert(to, id);
                }
            }
        }
    }
}

impl Inode {
    fn survive(&self, survival: Survival, rng: &mut fastrand::Rng) -> Vec<u8> {
        let mut content = self.durable.clone();
        let kept = survival.prefix(self.unsynced.len(), rng);
        for (at, change) in self.unsynced.iter().enumerate() {
            match change {
                Change::Write { offset, bytes } if survival == Survival::Mixed => {
                    tear(&mut content, *offset, bytes, rng);
                }
                _ if !survival.keeps(at, kept, rng) => {}
                Change::Write { offset, bytes } => overwrite(&mut content, *offset, bytes),
                Change::SetLen(len) => content.resize(*len, 0),
            }
        }
        if survival == Survival::Mixed && rng.u8(..4) == 0 {
            // The length reached the flash, the data behind it did not.
            content.resize(content.len().max(self.seen.len()), 0);
        }
        content
    }
}

fn overwrite(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    content.resize(content.len().max(end), 0);
    if let Some(place) = content.get_mut(offset..end) {
        place.copy_from_slice(bytes);
    }
}

/// Writes nothing, all, a prefix or some sectors of `bytes`.
fn tear(content: &mut Vec<u8>, offset: usize, bytes: &[u8], rng: &mut fastrand::Rng) {
    match rng.u8(..4) {
        0 => {}
        1 => overwrite(content, offset, bytes),
        2 => {
            let (prefix, _) = bytes.split_at(rng.usize(..=bytes.len()));
            overwrite(content, offset, prefix);
        }
        _ => {
            let mut at = offset;
            let mut rest = bytes;
            while !rest.is_empty() {
                let in_sector = (SECTOR_BYTES - at % SECTOR_BYTES).min(rest.len());
                let (sector, behind) = rest.split_at(in_sector);
                if rng.bool() {
                    overwrite(content, at, sector);
                }
                at += in_sector;
                rest = behind;
            }
        }
    }
}

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
