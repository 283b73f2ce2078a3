//! The broker's end of the line to one connection: a bell, and what became of its session.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// The broker's end of the line to one connection. A new connection has a new link.
#[derive(Debug, Default)]
pub(super) struct Link {
    bell: Notify,
    taken_over: AtomicBool,
    session_ended: AtomicBool,
}

impl Link {
    /// Resolves when there may be something to send, or the session was taken over.
    pub(super) async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Whether another connection has the session now.
    pub(super) fn is_taken_over(&self) -> bool {
        self.taken_over.load(Ordering::Acquire)
    }

    /// Whether the session did not go on with that connection.
    pub(super) fn has_session_ended(&self) -> bool {
        self.session_ended.load(Ordering::Acquire)
    }

    pub(super) fn take_over(&self, session_ended: bool) {
        self.session_ended.store(session_ended, Ordering::Release);
        self.taken_over.store(true, Ordering::Release);
        self.bell.notify_one();
    }

    pub(super) fn ring(&self) {
        self.bell.notify_one();
    }
}
