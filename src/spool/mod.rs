//! The spool: an append-only log that keeps every message until it is settled.
//!
//! ```text
//!  append ──► tail (memory) ──► writer thread ──► segments on disk
//!               │    │  one write and one fdatasync for all that wait
//!               │    └──────────► reader ◄──────────────┘
//!               │                   │ next, settle, rewind (one consumer)
//!               ▼                   ▼
//!          safe watermark       frontier ──► cursor file, old segments removed
//! ```
//!
//! * [`record`]: one message as bytes; [`segment`]: a file of records; `cursor`: what is settled. These three have the
//!   format, byte by byte, in little endian.
//! * `tail`, `consumer`, `runs`, `linger`, [`ledger`]: the state in memory, pure. `core` joins them and decides what the
//!   writer does next.
//! * `log`, `reader`, `recovery`, `aside`: the disk. [`storage`] is the only module that touches the file system.
//! * `writer`: the thread that carries out what `core` decides.
//! * [`offline`]: reading the spool of a stopped relay without changing a byte of it.
//!
//! Invariants:
//! * A message with a number below [`Progress::safe`] is on disk and synced, or settled.
//! * A record is written at most once and never changed; a settled one is never written.
//! * After a failed write or sync nothing more is written or acknowledged: the spool has *failed*.
//! * Memory does not depend on the backlog: the tail is bounded, readers stream from disk.
//! * Numbers rise by one per message; a number that is on disk is never given again.
//!
//! The spool knows no MQTT client, no tokio and no AWS: it stores topic, `QoS`, retain flag, attributes, payload
//! and time of arrival.

mod aside;
mod consumer;
mod core;
mod cursor;
pub mod ledger;
mod linger;
mod log;
pub mod offline;
mod options;
mod reader;
pub mod record;
mod recovery;
mod runs;
pub mod segment;
pub mod storage;
mod tail;
#[cfg(test)]
pub(crate) mod tests;
mod writer;

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;

use crate::clock::Timestamp;

use self::core::{Core, Next};
use self::ledger::{Ledger, Outcome};
use self::log::Log;
use self::reader::Reader;
use self::record::{Decoded, Record, Salt};
use self::storage::Storage;
use self::writer::Disk;

pub use self::options::{FullPolicy, Options};
pub use self::recovery::{OpenError, Recovery};

/// The directory of the spool under `DATA_DIR`.
pub const DIRECTORY: &str = "spool";

/// A message's number in the spool, in order of arrival.
pub type Seq = u64;

/// How a message was published, and what the spool keeps of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The local topic name it was published to, at most 65,535 bytes.
    pub topic: &'a str,
    /// What else it says of itself, at most [`record::ATTRIBUTES_BYTES_MAX`] bytes: opaque here.
    pub attributes: &'a [u8],
    /// The payload as it came.
    pub payload: &'a [u8],
    /// 0, 1 or 2.
    pub qos: u8,
    /// Whether the publisher set the retain flag.
    pub retain: bool,
    /// When it arrived.
    pub received: Timestamp,
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The spool is at its limit; nothing was taken. Withhold the acknowledgement, try again later.
    #[error("the spool is full")]
    Full,
    /// The message is larger than a record can be; it will never fit.
    #[error(
        "a message of {size_bytes} bytes is larger than the {max_bytes} bytes a record can hold"
    )]
    TooLarge {
        /// Topic, attributes and payload.
        size_bytes: usize,
        /// The most that they can have together.
        max_bytes: usize,
    },
    /// The same of its attributes alone.
    #[error(
        "a message with {size_bytes} bytes of attributes: a record can hold {max_bytes} of them"
    )]
    AttributesTooLarge {
        /// Theirs.
        size_bytes: usize,
        /// The most that they can have.
        max_bytes: usize,
    },
    /// The disk failed, so nothing more can be promised. The relay is about to stop.
    #[error("the spool has failed and takes nothing more")]
    Failed,
}

/// A message taken out of the spool. It stays in the spool until it is settled.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its number.
    pub seq: Seq,
    frame: Bytes,
}

impl Delivery {
    /// What was published. `None` cannot happen for a delivery that the spool made: its frame was checked.
    pub fn message(&self) -> Option<Message<'_>> {
        match record::decode(&self.frame) {
            Decoded::Record {
                record: Record { message, .. },
                ..
            } => Some(message),
            _ => None,
        }
    }

    /// The same, for who keeps it for long: it shares no memory with the others that it was read with.
    #[must_use]
    pub fn detached(&self) -> Self {
        Delivery {
            seq: self.seq,
            frame: Bytes::copy_from_slice(&self.frame),
        }
    }

    /// How much memory a detached one takes, in bytes.
    pub fn kept_bytes(&self) -> usize {
        size_of::<Self>() + self.frame.len()
    }
}

/// What there is to read.
#[derive(Debug)]
pub enum Read {
    /// The next messages, in order.
    Deliveries(Vec<Delivery>),
    /// There are more, but they must be read from disk: call [`Spool::read_disk`] with this.
    OnDisk(Ticket),
    /// Everything has been given out.
    Empty,
}

/// Leave to read from disk, void after the next [`Spool::rewind`]: what a read finds that was begun before
/// it is not given out, or messages would be skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// How far the spool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Every message with a smaller number is synced to disk or settled.
    pub safe: Seq,
    /// A message was turned away because [`Options::bytes_max`] is reached, and there is no room yet.
    pub full: bool,
    /// The disk has no room, or less than [`Options::free_bytes_min`]. It is tried again every second.
    pub disk_full: bool,
    /// Messages given up so far because there was no room.
    pub dropped_full: u64,
    /// Messages given up so far because they could not be read back.
    pub dropped_damaged: u64,
    /// Messages given up so far because they had expired.
    pub dropped_expired: u64,
    /// The spool has failed; see [`Spool::failure`].
    pub failed: bool,
}

struct Shared {
    core: Mutex<Core>,
    /// Wakes the writer thread.
    wake: Condvar,
    reader: Mutex<Reader>,
    /// Told whenever the writer thread has moved something. By one at a time, so that nobody is told what was after
    /// what is.
    on_progress: Mutex<Box<dyn Fn(Progress) + Send>>,
}

/// An open spool. Any number of threads may append; one consumer reads and settles.
pub struct Spool {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Spool {
    /// Opens the spool in `storage`, whatever state it is in, and starts its writer thread, which calls
    /// `on_progress` whenever something may have changed: space and failure as well as the progress itself.
    pub fn open(
        storage: Arc<dyn Storage>,
        options: Options,
        on_progress: impl Fn(Progress) + Send + 'static,
    ) -> Result<(Self, Recovery), OpenError> {
        let (spool, disk, report) = Self::open_without_writer(storage, options, on_progress)?;
        let shared = Arc::clone(&spool.shared);
        let writer = std::thread::Builder::new()
            .name("spool".to_owned())
            .spawn(move || writer::run(&shared, disk))
            .map_err(OpenError::Thread)?;
        *spool.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(writer);
        Ok((spool, report))
    }

    /// The same without the thread: what it would do, [`writer::step`] does with the returned [`Disk`].
    fn open_without_writer(
        storage: Arc<dyn Storage>,
        options: Options,
        on_progress: impl Fn(Progress) + Send + 'static,
    ) -> Result<(Self, Disk, Recovery), OpenError> {
        let (recovered, cursor_file) = recovery::recover(storage.as_ref())?;
        let report = recovered.report;
        let salt = Salt::random();
        let disk = Disk {
            log: Log::new(
                Arc::clone(&storage),
                recovered.records_written,
                options.segment_bytes,
                salt,
            ),
            cursor_file,
            storage: Arc::clone(&storage),
        };
        let core = Core::new(recovered, options, salt, Instant::now());
        let spool = Spool {
            shared: Arc::new(Shared {
                core: Mutex::new(core),
                wake: Condvar::new(),
                reader: Mutex::new(Reader::new(storage)),
                on_progress: Mutex::new(Box::new(on_progress)),
            }),
            writer: Mutex::new(None),
        };
        Ok((spool, disk, report))
    }

    /// Takes a message. It may be acknowledged once [`Progress::safe`] has passed the returned number. Does
    /// no I/O.
    pub fn append(&self, message: &Message<'_>) -> Result<Seq, AppendError> {
        let mut core = self.shared.core();
        let result = core.append(message, Instant::now());
        self.shared.wake_writer(core);
        result
    }

    /// How far the spool is.
    pub fn progress(&self) -> Progress {
        self.shared.core().progress()
    }

    /// Calls `on_progress` with how far the spool is.
    pub fn show_progress(&self) {
        self.shared.show_progress();
    }

    /// Whether [`Spool::append`] would take a message, however large.
    pub fn has_space(&self) -> bool {
        self.shared.core().has_space()
    }

    /// Why the spool has failed, if it has.
    pub fn failure(&self) -> Option<String> {
        self.shared.core().failure().map(str::to_owned)
    }

    /// The ledger as it stands.
    pub fn ledger(&self) -> Ledger {
        self.shared.core().ledger()
    }

    /// Bytes that count against [`Options::bytes_max`].
    pub fn used_bytes(&self) -> u64 {
        self.shared.core().used_bytes()
    }

    /// Says whether the consumer has a connection to the cloud: only then may messages linger in memory.
    pub fn set_linked(&self, linked: bool) {
        let mut core = self.shared.core();
        core.set_linked(linked, Instant::now());
        self.shared.wake_writer(core);
    }

    /// Gives out up to `count_max` further messages, about `bytes_max` bytes together. Does no I/O.
    pub fn read(&self, count_max: usize, bytes_max: usize) -> Read {
        let mut core = self.shared.core();
        loop {
            match core.next() {
                Next::Memory => {
                    let frames = core.read_memory(count_max, bytes_max, Instant::now());
                    if !frames.is_empty() {
                        return Read::Deliveries(deliveries(frames));
                    }
                }
                Next::Disk(_) => return Read::OnDisk(core.ticket()),
                Next::Nothing => return Read::Empty,
            }
        }
    }

    /// Gives out the next messages that are on disk; none if there are none, or if `ticket` is void.
    /// Blocks on the disk. How many it gives depends on their size: one piece of a segment.
    pub fn read_disk(&self, ticket: Ticket) -> io::Result<Vec<Delivery>> {
        let mut reader = self
            .shared
            .reader
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            let (place, from) = {
                let core = self.shared.core();
                match core.next() {
                    Next::Disk(place) if core.ticket() == ticket => (place, core.position()),
                    _ => return Ok(Vec::new()),
                }
            };
            let chunk = reader.read(place, from)?;
            let mut core = self.shared.core();
            if core.ticket() != ticket {
                return Ok(Vec::new());
            }
            let frames = core.take_chunk(place, chunk, Instant::now());
            self.shared.wake_writer(core);
            if !frames.is_empty() {
                return Ok(deliveries(frames));
            }
        }
    }

    /// Settles messages that were given out.
    pub fn settle(&self, seqs: &[Seq], outcome: Outcome) {
        let now = Instant::now();
        let mut core = self.shared.core();
        for seq in seqs {
            core.settle(*seq, outcome, now);
        }
        self.shared.wake_writer(core);
    }

    /// Goes back to the oldest unsettled message: everything unsettled is given out again.
    pub fn rewind(&self) {
        self.shared.core().rewind();
    }

    /// Writes everything that waits, syncs the cursor and ends the writer thread. Nothing is taken any
    /// more. Returns the failure if the spool has failed.
    pub fn close(&self) -> Result<Ledger, String> {
        self.stop();
        let core = self.shared.core();
        match core.failure() {
            Some(failure) => Err(failure.to_owned()),
            None => Ok(core.ledger()),
        }
    }

    fn stop(&self) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = writer.take() {
            let mut core = self.shared.core();
            core.close();
            self.shared.wake_writer(core);
            // A panic has been noted by the thread itself.
            drop(writer.join());
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.stop();
    }
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").finish_non_exhaustive()
    }
}

impl Shared {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show_progress(&self) {
        let on_progress = self
            .on_progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let progress = self.core().progress();
        on_progress(progress);
    }

    /// Wakes the writer thread if it sleeps longer than it should. Takes the lock, to be let go before.
    fn wake_writer(&self, mut core: MutexGuard<'_, Core>) {
        let wake = core.should_wake_writer();
        drop(core);
        if wake {
            self.wake.notify_one();
        }
    }
}

fn deliveries(frames: Vec<tail::Frame>) -> Vec<Delivery> {
    frames
        .into_iter()
        .map(|(seq, frame)| Delivery { seq, frame })
        .collect()
}
