//! How many bytes clients make the broker keep, counted where they are allocated and where they are freed. Pure.
//!
//! A message that waits for many clients is kept once and counted once: its bytes count as long as anybody has them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// The counts of one broker.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    kept: AtomicUsize,
    of_sessions: AtomicUsize,
}

impl Memory {
    /// Bytes of messages that wait for clients, of wills, and of what there is to know of them.
    pub(super) fn kept_bytes(&self) -> usize {
        self.0.kept.load(Ordering::Relaxed)
    }

    /// What all sessions are charged together: a message counts for each that it waits for.
    pub(super) fn of_sessions_bytes(&self) -> usize {
        self.0.of_sessions.load(Ordering::Relaxed)
    }

    /// These bytes, counted until the last clone of them is dropped.
    pub(super) fn counted(&self, bytes: Vec<u8>) -> Bytes {
        self.keep(bytes.len());
        let memory = self.clone();
        Bytes::from_owner(Counted { bytes, memory })
    }

    /// So much more is kept.
    pub(super) fn keep(&self, bytes: usize) {
        self.0.kept.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So much less is.
    pub(super) fn forget(&self, bytes: usize) {
        self.0.kept.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A session is charged so much more.
    pub(super) fn charge(&self, bytes: usize) {
        self.0.of_sessions.fetch_add(bytes, Ordering::Relaxed);
    }

    /// It is charged so much less.
    pub(super) fn give_back(&self, bytes: usize) {
        self.0.of_sessions.fetch_sub(bytes, Ordering::Relaxed);
    }
}

struct Counted {
    bytes: Vec<u8>,
    memory: Memory,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.memory.forget(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_once_until_nobody_has_them() {
        let memory = Memory::default();
        let one = memory.counted(vec![7; 100]);
        let (other, part) = (one.clone(), one.slice(10..20));
        assert_eq!((memory.kept_bytes(), &*part), (100, &[7; 10][..]));
        drop((one, other));
        assert_eq!(memory.kept_bytes(), 100);
        drop(part);
        assert_eq!(memory.kept_bytes(), 0);
    }
}
