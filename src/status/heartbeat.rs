//! The main task's sign of life, which another thread can read.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// How often the main task gives its sign of life.
const INTERVAL: Duration = Duration::from_secs(1);

/// When the main task last moved. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Heartbeat {
    since: Instant,
    /// Milliseconds after `since`.
    last: Arc<AtomicU64>,
}

impl Heartbeat {
    /// Counts from `since`, as if the main task had moved then.
    pub(crate) fn new(since: Instant) -> Self {
        Heartbeat {
            since,
            last: Arc::default(),
        }
    }

    /// Beats for as long as the runtime that runs it gets round to it.
    pub(crate) fn keep_beating(&self, stop: CancellationToken) -> impl Future<Output = ()> + use<> {
        let heart = self.clone();
        async move {
            while !stop.is_cancelled() {
                heart.last.store(heart.elapsed_ms(), Ordering::Relaxed);
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(INTERVAL) => {}
                }
            }
        }
    }

    /// How long ago the last sign of life was.
    pub(super) fn age(&self) -> Duration {
        let last = self.last.load(Ordering::Relaxed);
        Duration::from_millis(self.elapsed_ms().saturating_sub(last))
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
