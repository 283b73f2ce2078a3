//! What was changed and is not on disk yet, and how far the disk is. Changes are recorded under the broker's lock.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::change::Change;
use crate::spool::Seq;

/// Changes that wait in memory, in bytes. Beyond it they are let go, and the journal is written afresh instead.
pub(super) const PENDING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long nothing is tried after the disk has failed.
const RETRY_PAUSE: Duration = Duration::from_secs(10);

/// The watermark when nothing has to wait.
const NOTHING_WAITS: Seq = Seq::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// There is no journal.
    Off,
    Collecting,
    /// The journal has to be written afresh: changes are counted and not collected.
    Afresh,
    /// The disk has failed, and is tried again at that time.
    Failing(Instant),
}

#[derive(Debug)]
struct State {
    mode: Mode,
    pending: Vec<(Seq, Change)>,
    pending_bytes: usize,
    /// When they have to be written.
    due: Option<Instant>,
    /// What waits is not complete, and may not be written yet.
    held: bool,
    next: Seq,
    closing: bool,
}

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::local) struct Recorder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    wake: Condvar,
    retry_pause: Duration,
    kept: watch::Sender<Seq>,
}

/// What the keeper is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Append these, after which everything below the number is kept.
    Append(Vec<(Seq, Change)>, Seq),
    /// Write the journal afresh.
    Afresh,
    /// Everything is done, and the broker has stopped.
    Close,
}

impl Default for Recorder {
    /// One that keeps nothing.
    fn default() -> Self {
        Recorder::new(Mode::Off, RETRY_PAUSE)
    }
}

impl Recorder {
    fn new(mode: Mode, retry_pause: Duration) -> Self {
        Recorder(Arc::new(Inner {
            state: Mutex::new(State {
                mode,
                pending: Vec::new(),
                pending_bytes: 0,
                due: None,
                held: false,
                next: 0,
                closing: false,
            }),
            wake: Condvar::new(),
            retry_pause,
            kept: watch::Sender::new(if mode == Mode::Off { NOTHING_WAITS } else { 0 }),
        }))
    }

    /// One for a journal that has to be written afresh first if there `is_something`.
    pub(in crate::local) fn on(is_something: bool) -> Self {
        Recorder::retrying(is_something, RETRY_PAUSE)
    }

    /// The same, which tries again after this pause when the disk has failed.
    pub(super) fn retrying(is_something: bool, retry_pause: Duration) -> Self {
        let mode = if is_something {
            Mode::Afresh
        } else {
            Mode::Collecting
        };
        Recorder::new(mode, retry_pause)
    }

    /// Whether there is a journal.
    pub(in crate::local) fn is_on(&self) -> bool {
        self.state().mode != Mode::Off
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The watermark: everything below is kept, or nothing has to wait.
    pub(in crate::local) fn kept(&self) -> watch::Receiver<Seq> {
        self.0.kept.subscribe()
    }

    /// The number of the next change. It stands still while nothing is recorded.
    pub(in crate::local) fn next(&self) -> Seq {
        self.state().next
    }

    /// Whether the change with this number is kept, or need not be.
    pub(in crate::local) fn is_kept(&self, number: Seq) -> bool {
        number < *self.0.kept.borrow()
    }

    /// Records a change. Returns its number, if it has one to wait for.
    pub(in crate::local) fn record(&self, change: Change) -> Option<Seq> {
        let mut state = self.state();
        let number = state.next;
        match state.mode {
            Mode::Off | Mode::Failing(_) => return None,
            Mode::Afresh => {
                state.next += 1;
                return Some(number);
            }
            Mode::Collecting => state.next += 1,
        }
        let due = Instant::now() + change.patience();
        let is_news = state.due.is_none_or(|already| due < already);
        if is_news {
            state.due = Some(due);
        }
        state.pending_bytes += change.cost_bytes();
        state.pending.push((number, change));
        if state.pending_bytes > PENDING_BYTES_MAX {
            state.forget();
            state.mode = Mode::Afresh;
        }
        let is_news = is_news || state.mode == Mode::Afresh;
        drop(state);
        if is_news {
            self.0.wake.notify_one();
        }
        Some(number)
    }

    /// What is recorded until the answer is dropped is synced together, so that all of it is kept when any of it is. To
    /// be dropped before the broker's lock is.
    pub(in crate::local) fn hold(&self) -> Held {
        self.state().held = true;
        Held(self.clone())
    }

    /// Waits for work.
    pub(super) fn work(&self) -> Work {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            let until = match state.mode {
                Mode::Afresh => return Work::Afresh,
                Mode::Failing(at) if at <= now => return Work::Afresh,
                Mode::Failing(at) => Some(at),
                Mode::Off | Mode::Collecting => state.due,
            };
            let is_due = state.closing || until.is_some_and(|until| until <= now);
            if !state.pending.is_empty() && is_due && !state.held {
                let pending = std::mem::take(&mut state.pending);
                state.forget();
                return Work::Append(pending, state.next);
            }
            if state.closing && !state.held {
                return Work::Close;
            }
            let wake = &self.0.wake;
            state = match until {
                _ if state.held => wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                None => wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let waited = wake.wait_timeout(state, until.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// A snapshot is being taken, under the broker's lock: what waits is in it. Returns the number below which
    /// everything is in it.
    pub(in crate::local) fn begin_afresh(&self) -> Seq {
        let mut state = self.state();
        state.forget();
        state.mode = Mode::Collecting;
        state.next
    }

    /// Everything below `number` is synced.
    pub(in crate::local) fn keep(&self, number: Seq) {
        self.0.kept.send_replace(number);
    }

    /// The journal has to be written afresh.
    pub(super) fn demand_afresh(&self) {
        let mut state = self.state();
        state.forget();
        state.mode = Mode::Afresh;
    }

    /// The disk has failed: nothing waits for it until it was written afresh.
    pub(in crate::local) fn fail(&self) {
        let mut state = self.state();
        state.forget();
        state.mode = Mode::Failing(Instant::now() + self.0.retry_pause);
        self.0.kept.send_replace(NOTHING_WAITS);
    }

    /// No more work will come. A disk that has failed is asked once more.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closing = true;
        if let Mode::Failing(at) = &mut state.mode {
            *at = Instant::now();
        }
        drop(state);
        self.0.wake.notify_one();
    }
}

/// See [`Recorder::hold`].
#[derive(Debug)]
pub(in crate::local) struct Held(Recorder);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.state().held = false;
        self.0.0.wake.notify_one();
    }
}

impl State {
    fn forget(&mut self) {
        self.pending = Vec::new();
        self.pending_bytes = 0;
        self.due = None;
    }
}
