//! The broker's books, counted afresh: for tests and fuzzing. Nothing of the relay uses it.

use super::Broker;
use crate::local::shared::Path;

/// What a broker holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Sessions, and those of them whose client is away.
    pub sessions: usize,
    /// See `sessions`.
    pub absent: usize,
    /// Topic filters of all sessions.
    pub filters: usize,
    /// Nodes of the tree of topic filters.
    pub nodes: usize,
    /// Groups that share a subscription.
    pub groups: usize,
    /// Bytes of messages kept for all sessions.
    pub session_bytes: usize,
    /// Bytes of messages kept for the session that has most.
    pub session_bytes_most: usize,
    /// Bytes kept for clients in all, a message that several wait for once.
    pub kept_bytes: usize,
    /// Bytes of topic filters.
    pub filter_bytes: usize,
    /// Retained messages.
    pub retained: usize,
    /// Their bytes.
    pub retained_bytes: usize,
    /// Wills that are due and were not taken.
    pub wills_due: usize,
}

impl Broker {
    /// Counts everything. Panics if anything contradicts what the broker believes.
    pub(in crate::local) fn audit(&self) -> Holdings {
        let mut held = Holdings {
            sessions: self.sessions.len(),
            absent: self.absent.len(),
            groups: self.groups.audit(),
            retained: self.retained.len(),
            retained_bytes: self.retained.audit(),
            kept_bytes: self.memory.kept_bytes(),
            wills_due: self.wills_due.len(),
            ..Holdings::default()
        };
        let mut unshared = 0;
        for (key, session) in &self.sessions {
            let bytes = session.audit();
            held.session_bytes += bytes;
            held.session_bytes_most = held.session_bytes_most.max(bytes);
            held.filters += session.filters.len();
            assert_eq!(self.by_client_id.get(&session.client_id), Some(key));
            let is_absent = self.absent.contains(key);
            assert_eq!(is_absent, !session.is_connected(), "{}", session.client_id);
            for path in &session.filters {
                let is_shared = Path::new(path).is_some_and(|path| path.is_shared);
                unshared += usize::from(!is_shared);
                held.filter_bytes += path.len();
                assert!(self.subscription(*key, path).is_some(), "{path}");
            }
        }
        assert_eq!(self.by_client_id.len(), held.sessions);
        let of_sessions = self.memory.of_sessions_bytes();
        assert_eq!(of_sessions, held.session_bytes, "the bytes of all sessions");
        assert_eq!(self.filter_bytes, held.filter_bytes);
        let (subscriptions, nodes) = self.subscriptions.audit();
        assert_eq!(subscriptions, unshared + held.groups, "the tree");
        held.nodes = nodes;
        held
    }
}
