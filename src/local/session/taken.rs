//! The `QoS` 2 messages that came from the client: which identifiers are taken until their PUBREL.

use super::Session;
use crate::local::acks::Awaits;
use crate::local::journal::Change;
use crate::local::limits::Limits;

/// What an entry of [`Session::taken`] takes, with its share of the table.
pub(super) const TAKEN_BYTES: usize = 96;

/// A `QoS` 2 message from the client, of which nothing is kept but this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::local) struct Taken {
    /// What has to be safe before its PUBREC.
    pub(in crate::local) awaits: Awaits,
    /// Whether it is in the journal.
    pub(in crate::local) is_kept: bool,
}

impl Session {
    /// The `QoS` 2 message that was taken under this identifier and is not yet released.
    pub(in crate::local) fn taken(&self, id: u16) -> Option<Taken> {
        self.taken.get(&id).copied()
    }

    /// Whether the client must release something before another `QoS` 2 PUBLISH is taken.
    pub(in crate::local) fn must_release(&self, limits: &Limits) -> bool {
        let is_memory_full = self.memory.kept_bytes() > limits.messages_bytes_max;
        self.taken.len() >= limits.unreleased_max.into()
            || (is_memory_full && self.taken.len() * TAKEN_BYTES >= limits.session_bytes_sure)
    }

    /// A `QoS` 2 PUBLISH was taken, and has gone where it had to. If it went only to places that the journal keeps, and so
    /// `stays_here`, the journal remembers it too: then a repetition after a restart is known. If it went to the spool, a
    /// repetition goes there once more, for the spool may have lost it.
    pub(in crate::local) fn take(&mut self, id: u16, stays_here: bool) {
        let taken = Taken {
            awaits: Awaits::default(),
            is_kept: stays_here && self.is_kept(),
        };
        if taken.is_kept {
            self.note(|key| Change::Taken(key, id));
        }
        self.remember(id, taken);
    }

    pub(super) fn remember(&mut self, id: u16, taken: Taken) {
        if self.taken.insert(id, taken).is_none() {
            self.memory.keep(TAKEN_BYTES);
        }
    }

    /// What was taken under this identifier waits for that.
    pub(in crate::local) fn took(&mut self, id: u16, awaits: Awaits) {
        if let Some(taken) = self.taken.get_mut(&id) {
            taken.awaits = awaits;
        }
    }

    /// PUBREL from the client. Returns whether something was taken under the identifier, and what PUBCOMP waits for;
    /// that is over for a client that waited for its PUBREC. If nothing was taken, it may have been released just
    /// before, and PUBCOMP says no less than the one that got lost.
    pub(in crate::local) fn pubrel(&mut self, id: u16) -> (bool, Awaits) {
        let Some(taken) = self.taken.remove(&id) else {
            return (false, self.finished);
        };
        self.memory.forget(TAKEN_BYTES);
        let mut awaits = taken.awaits;
        if taken.is_kept {
            awaits.journal = self
                .note(|key| Change::Finished(key, id))
                .or(awaits.journal);
        }
        self.finished = self.finished.and(awaits);
        (true, awaits)
    }
}
