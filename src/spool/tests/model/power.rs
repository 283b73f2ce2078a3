//! What a power cut leaves of the unsynced.

use std::collections::BTreeMap;

use super::{Change, Entry, Inode, State};

/// The unit that is written whole or not at all, in bytes.
const SECTOR_BYTES: usize = 512;

impl State {
    /// Cuts the power and gives it back.
    pub(super) fn reboot(&mut self, rng: &mut fastrand::Rng) {
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

pub(super) fn overwrite(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
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
