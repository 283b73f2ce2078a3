//! Keeps the retained messages on disk, so that they outlive the relay: a journal of their changes in
//! `DATA_DIR/broker/`, written by a thread of its own.
//!
//! Invariants: nobody waits for the disk, and nothing is written unless a retained message changes. What waits to be
//! written is at most one change a topic, or all retained messages once ([`pending`]). The journal is at most twice what
//! it says and 1 MiB; then it is written anew, beside the old one, and takes its place when it is durable.
//!
//! A change is written at once, so that it outlives a kill of the relay, and synced at most [`SYNC_AFTER`] later, so that
//! it outlives a power cut. A disk that refuses costs nothing but that: the messages stay in memory, it is said once, and
//! all of them are written when the disk takes them again.

mod disk;
mod journal;
mod pending;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use self::disk::Disk;
use self::journal::Kept;
use self::pending::Pending;
use super::limits::Limits;
use super::publisher::STATE_TOPIC;
use crate::spool::storage::{Directory, Storage};

/// How long a change may be written and not synced. A value that changes each second costs a sync in this time, not one
/// each second: flash is spared.
const SYNC_AFTER: Duration = Duration::from_secs(5);
/// How long to leave a disk alone that refused a write.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// The retained messages by topic.
pub(super) type Messages = BTreeMap<Box<str>, Kept>;

/// Where changes are handed in.
#[derive(Clone)]
pub(super) struct Desk {
    shared: Arc<Shared>,
    /// Topics that may wait. Beyond it, everything is written anew.
    topics_max: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    called: Condvar,
}

#[derive(Default)]
struct State {
    pending: Pending,
    closing: bool,
}

/// The thread that writes. Dropped without [`Keeper::close`], it ends after what waits is written.
pub struct Keeper {
    shared: Arc<Shared>,
    /// Closed when the thread has ended, with a word if all was well.
    ended: oneshot::Receiver<()>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keeper")
    }
}

/// What was found, and who keeps it from now on.
pub(super) struct Opened {
    pub(super) messages: Messages,
    pub(super) desk: Desk,
    pub(super) keeper: Keeper,
}

/// Opens the directory and reads what it has. `None`, and a word about it, if it cannot be used: then the retained
/// messages live in memory.
pub(super) fn open(directory: &Path, limits: &Limits) -> Option<Opened> {
    let opened = Directory::open(directory)
        .map_err(|error| error.to_string())
        .and_then(|storage| {
            start(Arc::new(storage), limits)
                .map_err(|error| format!("cannot read {}: {error}", directory.display()))
        });
    match opened {
        Ok(opened) => Some(opened),
        Err(error) => {
            tracing::warn!(
                "retained messages are kept in memory only until the next start: {error}"
            );
            None
        }
    }
}

fn start(storage: Arc<dyn Storage>, limits: &Limits) -> std::io::Result<Opened> {
    let disk = Disk::open(storage)?;
    let messages = disk.messages().clone();
    let shared = Arc::<Shared>::default();
    let (end, ended) = oneshot::channel();
    thread::Builder::new().name("retained".to_owned()).spawn({
        let shared = Arc::clone(&shared);
        move || {
            shared.run(disk);
            let _nobody_asks = end.send(());
        }
    })?;
    Ok(Opened {
        messages,
        desk: Desk {
            shared: Arc::clone(&shared),
            topics_max: limits.retained_messages_max.saturating_mul(2),
        },
        keeper: Keeper { shared, ended },
    })
}

impl Desk {
    /// The retained message of `topic` has changed to `kept`; `all` are those there are now. The relay's own state is
    /// not kept: it is told anew at each start.
    pub(super) fn changed(&self, topic: &str, kept: Option<&Kept>, all: &Messages) {
        if topic == STATE_TOPIC {
            return;
        }
        let mut state = self.shared.state();
        state.pending.change(topic, kept, all, self.topics_max);
        self.shared.called.notify_one();
    }
}

impl Keeper {
    /// Has everything written and synced, and ends the thread.
    pub async fn close(mut self) {
        self.ask_to_end();
        if (&mut self.ended).await.is_err() {
            tracing::error!("the retained messages' thread ended by a fault; please report it");
        }
    }

    fn ask_to_end(&self) {
        self.shared.state().closing = true;
        self.shared.called.notify_one();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.ask_to_end();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut disk: Disk) {
        loop {
            let (pending, closing) = self.wait(disk.alarm());
            disk.carry_out(pending, closing, Instant::now());
            if closing {
                return;
            }
        }
    }

    /// What waits, when something does, or the `alarm` rings, or it is time to end.
    fn wait(&self, alarm: Option<Instant>) -> (Pending, bool) {
        let mut state = self.state();
        loop {
            let left = alarm.map(|at| at.saturating_duration_since(Instant::now()));
            if !state.pending.is_empty() || state.closing || left == Some(Duration::ZERO) {
                return (std::mem::take(&mut state.pending), state.closing);
            }
            state = match left {
                None => self
                    .called
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    self.called
                        .wait_timeout(state, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }
}

#[cfg(test)]
#[path = "../tests/keeping.rs"]
mod tests;
