//! The asynchronous face of the spool: what the local broker and the egress share.
//!
//! The spool itself is synchronous and knows no tokio. This module turns its progress into things
//! that can be awaited. Appending never blocks on the disk; reading may, and then runs where
//! blocking is allowed.

mod ages;
mod announcer;

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::ages::Ages;
use self::announcer::Announcer;
use crate::clock::{self, Timestamp};
use crate::spool::ledger::{Ledger, Outcome};
use crate::spool::storage::{Directory, DirectoryError};
use crate::spool::{
    AppendError, Delivery, Message, OpenError, Options, Progress, Read, Recovery, Seq, Spool,
};

/// Where the local broker puts messages that go to the cloud. [`Store`] is the real one; tests of
/// the broker bring their own.
pub trait Ingress: Clone + Send + Sync + 'static {
    /// Takes a message and returns its sequence number; numbers rise by one. It may be
    /// acknowledged to its sender once [`Ingress::safe`] has passed that number. Never blocks.
    fn append(&self, message: &Message<'_>) -> Result<Seq, AppendError>;

    /// Follows the watermark: every message with a *smaller* sequence number is synced to disk or
    /// accepted by the cloud. The channel closes when the spool has failed.
    fn safe(&self) -> watch::Receiver<Seq>;

    /// Resolves when, after [`AppendError::Full`], it is worth trying again.
    fn space(&self) -> impl Future<Output = ()> + Send;
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// What is in it cannot be used.
    #[error(transparent)]
    Spool(#[from] OpenError),
}

/// A handle to the spool. Cheap to clone; one consumer reads.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    spool: Spool,
    signals: Arc<Signals>,
    ages: Mutex<Ages>,
}

/// What can be awaited.
#[derive(Debug)]
struct Signals {
    /// The safe watermark; dropped, and so closed, once the spool has failed.
    safe: Mutex<Option<watch::Sender<Seq>>>,
    /// Something was appended.
    appended: Notify,
    /// The writer thread has moved something.
    moved: Notify,
    announcer: Mutex<Announcer>,
}

impl Signals {
    fn show(&self, progress: Progress) {
        let mut safe = self.safe.lock().unwrap_or_else(PoisonError::into_inner);
        if progress.failed {
            *safe = None;
        } else if let Some(safe) = safe.as_ref() {
            safe.send_if_modified(|shown| {
                let moved = progress.safe > *shown;
                *shown = progress.safe.max(*shown);
                moved
            });
        }
        drop(safe);
        self.announcer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .look(progress, Instant::now());
        self.moved.notify_waiters();
    }
}

impl Store {
    /// Opens the spool in `directory`, which is made if it is not there.
    pub fn open(directory: &Path, options: Options) -> Result<(Self, Recovery), StoreError> {
        let storage = Arc::new(Directory::open(directory)?);
        let signals = Arc::new(Signals {
            safe: Mutex::new(Some(watch::Sender::new(0))),
            appended: Notify::new(),
            moved: Notify::new(),
            announcer: Mutex::new(Announcer::new(options)),
        });
        let (spool, recovery) = Spool::open(storage, options, {
            let signals = Arc::clone(&signals);
            move |progress| signals.show(progress)
        })?;
        spool.show_progress();
        let ages = Mutex::new(Ages::new(Instant::now(), spool.progress().safe));
        let inner = Inner {
            spool,
            signals,
            ages,
        };
        Ok((Store(Arc::new(inner)), recovery))
    }

    /// The next messages, in order: up to `count_max`, about `bytes_max` bytes together. Waits until there
    /// are some. A call that is dropped before it returns may have taken messages with it: they are given
    /// out again after [`Store::rewind`].
    pub async fn next(&self, count_max: usize, bytes_max: usize) -> io::Result<Vec<Delivery>> {
        loop {
            let appended = self.0.signals.appended.notified();
            match self.0.spool.read(count_max, bytes_max) {
                Read::Deliveries(deliveries) => return Ok(deliveries),
                Read::Empty => appended.await,
                Read::OnDisk(ticket) => {
                    let store = self.clone();
                    let read = tokio::task::spawn_blocking(move || store.0.spool.read_disk(ticket));
                    let deliveries = read.await.map_err(io::Error::other)??;
                    if !deliveries.is_empty() {
                        return Ok(deliveries);
                    }
                }
            }
        }
    }

    /// Settles messages that were given out.
    pub fn settle(&self, seqs: &[Seq], outcome: Outcome) {
        self.0.spool.settle(seqs, outcome);
        self.0.spool.show_progress();
    }

    /// How long message `seq`, which arrived at `received` and has attributes, has waited; `None` if the clock does not
    /// tell.
    pub fn waited(&self, seq: Seq, received: Timestamp) -> Option<Duration> {
        // The clocks are read behind the lock: not before the message was noted.
        let ages = self.ages();
        ages.age((seq, received), (clock::now(), Instant::now()))
    }

    fn ages(&self) -> MutexGuard<'_, Ages> {
        self.0.ages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes back to the oldest unsettled message.
    pub fn rewind(&self) {
        self.0.spool.rewind();
    }

    /// Says whether the egress is connected.
    pub fn set_linked(&self, linked: bool) {
        self.0.spool.set_linked(linked);
    }

    /// The ledger as it stands.
    pub fn ledger(&self) -> Ledger {
        self.0.spool.ledger()
    }

    /// How far the spool is, and whether it has failed, or counts as full: it does for a while after it gave up messages.
    pub fn progress(&self) -> Progress {
        let progress = self.0.spool.progress();
        // Who looks does not wait for a log that nobody reads.
        let announcer = self.0.signals.announcer.try_lock();
        announcer.map_or(progress, |announcer| {
            announcer.counting_as_full(progress, Instant::now())
        })
    }

    /// Bytes that count against `SPOOL_MAX_BYTES`.
    pub fn used_bytes(&self) -> u64 {
        self.0.spool.used_bytes()
    }

    /// Resolves when the spool has failed, with the reason.
    pub async fn failed(&self) -> String {
        loop {
            let moved = self.0.signals.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if let Some(failure) = self.0.spool.failure() {
                return failure;
            }
            moved.await;
        }
    }

    /// Writes and syncs everything. To be called when nobody appends any more; the handle is dead afterwards.
    pub async fn close(&self) -> Result<Ledger, String> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || store.0.spool.close())
            .await
            .unwrap_or_else(|e| Err(e.to_string()))
    }
}

impl Ingress for Store {
    fn append(&self, message: &Message<'_>) -> Result<Seq, AppendError> {
        // Held until it is noted, for the egress may have the message at once and ask.
        let ages = (!message.attributes.is_empty()).then(|| self.ages());
        let seq = self.0.spool.append(message)?;
        if let Some(mut ages) = ages {
            ages.note(seq, message.received, Instant::now());
        }
        self.0.signals.appended.notify_one();
        if self.0.spool.progress().safe > seq {
            // `drop_newest` has given it up, so that the writer thread will have nothing to tell of it.
            self.0.spool.show_progress();
        }
        Ok(seq)
    }

    fn safe(&self) -> watch::Receiver<Seq> {
        let safe = &self.0.signals.safe;
        match safe.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(safe) => safe.subscribe(),
            None => watch::channel(0).1,
        }
    }

    async fn space(&self) {
        loop {
            let moved = self.0.signals.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if self.0.spool.has_space() || self.0.spool.failure().is_some() {
                return;
            }
            moved.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::{self, FullPolicy};

    #[tokio::test]
    async fn what_drop_newest_gives_up_is_acknowledged_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            bytes_max: 0,
            full: FullPolicy::DropNewest,
            ..Options::default()
        };
        let (store, _) = Store::open(directory.path(), options).unwrap();
        let safe = store.safe();
        for _ in 0..2 {
            let seq = store.append(&spool::tests::message(b"x")).unwrap();
            assert!(*safe.borrow() > seq);
        }
    }

    #[tokio::test]
    async fn room_that_was_made_by_giving_up_messages_is_no_end_of_being_full() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            bytes_max: 4 * 1024 * 1024,
            full: FullPolicy::DropOldest,
            ..Options::default()
        };
        let (store, _) = Store::open(directory.path(), options).unwrap();
        let mut safe = store.safe();
        let payload = vec![7; 100_000];
        let message = spool::tests::message(&payload);
        assert!(!store.progress().full);
        while let Ok(seq) = store.append(&message) {
            safe.wait_for(|safe| *safe > seq).await.unwrap();
        }
        store.space().await;
        assert!(store.ledger().dropped_full > 0 && !store.0.spool.progress().full);
        assert!(store.progress().full);
    }

    /// One with attributes, as those have that can expire.
    fn message(received: Timestamp) -> Message<'static> {
        Message {
            attributes: b"some",
            received,
            ..spool::tests::message(b"x")
        }
    }

    #[test]
    fn a_clock_that_is_set_between_the_arrival_of_a_message_and_its_taking_makes_it_no_older() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path(), Options::default()).unwrap();
        let now = clock::now();
        for ahead_ms in [3_600_000, 0] {
            let message = message(Timestamp {
                unix_ms: now.unix_ms - ahead_ms,
                ..now
            });
            let seq = store.append(&message).unwrap();
            let waited = store.waited(seq, message.received).unwrap();
            assert!(waited < Duration::from_mins(10), "{waited:?}");
        }
    }

    #[test]
    fn who_is_given_a_message_can_ask_at_once_how_long_it_has_waited() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path(), Options::default()).unwrap();
        let message = message(clock::now());
        for round in 0..500 {
            // As if this were the first one of a life: nothing is known before it is noted.
            *store.ages() = Ages::new(Instant::now(), 0);
            std::thread::scope(|scope| {
                scope.spawn(|| store.append(&message).unwrap());
                let delivery = loop {
                    if let Read::Deliveries(mut taken) = store.0.spool.read(1, 1)
                        && let Some(delivery) = taken.pop()
                    {
                        break delivery;
                    }
                };
                let waited = store.waited(delivery.seq, message.received);
                assert!(waited.is_some(), "round {round}");
                store.settle(&[delivery.seq], Outcome::Delivered);
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn how_long_a_message_has_waited_is_known_in_its_life_and_after_it_by_a_clock_that_was_set()
     {
        let directory = tempfile::tempdir().unwrap();
        let now = clock::now();
        let earlier = Timestamp {
            unix_ms: now.unix_ms - 60_000,
            ..now
        };
        let unset = Timestamp {
            unix_ms: 60_000,
            clock_set: false,
        };
        let open = || Store::open(directory.path(), Options::default()).unwrap().0;
        let store = open();
        let message = message(clock::now());
        let seq = store.append(&message).unwrap();
        tokio::time::advance(Duration::from_secs(100)).await;
        let waited = store.waited(seq, message.received).unwrap();
        assert_eq!(waited.as_secs(), 100, "the wall clock says none of it");
        store.close().await.unwrap();
        drop(store);

        let store = open();
        let waited = store.waited(seq, earlier).unwrap();
        assert!(waited >= Duration::from_mins(1), "{waited:?}");
        assert_eq!(store.waited(seq, unset), None);
    }
}
