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

mod faults;
mod power;
mod seam;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use self::faults::{Effect, Fault, Operation, Trigger};

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
}
