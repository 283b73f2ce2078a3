//! A spool under the script's control, which remembers what it was given.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use cloud_relay::spool::{AppendError, Message, Seq};
use cloud_relay::store::Ingress;
use tokio::sync::{Notify, watch};

#[derive(Clone)]
pub(super) struct Spool(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    space: Notify,
    safe: watch::Sender<Seq>,
}

#[derive(Default)]
struct State {
    next: Seq,
    is_full: bool,
    /// Whether messages may have payloads that others have.
    may_repeat: bool,
    /// The numbers under which each payload was taken.
    taken: HashMap<Vec<u8>, Vec<Seq>>,
}

impl Spool {
    /// A spool whose first message has this number, after a life that ended there.
    pub(super) fn new(next: Seq) -> Self {
        let state = State {
            next,
            ..State::default()
        };
        Spool(Arc::new(Inner {
            state: Mutex::new(state),
            space: Notify::new(),
            safe: watch::Sender::new(next),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("nothing panics meanwhile")
    }

    pub(super) fn set_full(&self, is_full: bool) {
        self.state().is_full = is_full;
        if !is_full {
            self.0.space.notify_waiters();
        }
    }

    /// So many more are safe.
    pub(super) fn sync(&self, count: Seq) {
        let next = self.state().next;
        self.0
            .safe
            .send_modify(|safe| *safe = next.min(safe.saturating_add(count)));
    }

    /// Whatever bytes are published now, too.
    pub(super) fn may_repeat(&self) {
        self.state().may_repeat = true;
    }

    /// The number of the message that comes next.
    pub(super) fn next(&self) -> Seq {
        self.state().next
    }

    pub(super) fn safe(&self) -> Seq {
        *self.0.safe.borrow()
    }

    /// How often this payload was taken, and whether all that is safe.
    pub(super) fn taken(&self, payload: &[u8]) -> (usize, bool) {
        let (state, safe) = (self.state(), self.safe());
        let seqs = state.taken.get(payload).map_or(&[][..], Vec::as_slice);
        let count = if state.may_repeat {
            seqs.len().min(1)
        } else {
            seqs.len()
        };
        (count, seqs.iter().all(|seq| *seq < safe))
    }
}

impl Ingress for Spool {
    fn append(&self, message: &Message<'_>) -> Result<Seq, AppendError> {
        let mut state = self.state();
        if state.is_full {
            return Err(AppendError::Full);
        }
        let seq = state.next;
        state.next += 1;
        state
            .taken
            .entry(message.payload.to_vec())
            .or_default()
            .push(seq);
        Ok(seq)
    }

    fn safe(&self) -> watch::Receiver<Seq> {
        self.0.safe.subscribe()
    }

    async fn space(&self) {
        self.0.space.notified().await;
    }
}
