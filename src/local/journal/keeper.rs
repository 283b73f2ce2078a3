//! The thread that keeps the journal on disk.
//!
//! The journal is only ever appended to. When it is longer than twice what the last snapshot took, plus a floor, a
//! snapshot of the broker is written beside it and renamed over it; so it is after each start and after each failure.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::change::{Change, Clocks, VERSION};
use super::place::Place;
use super::recorder::{Recorder, Work};
use crate::local::broker::Broker;
use crate::local::counters::Counters;
use crate::spool::Seq;
use crate::spool::record::Salt;
use crate::spool::storage::StorageFile;

/// A journal is not written afresh below this, in bytes.
const FLOOR_BYTES: u64 = 1024 * 1024;
/// How much is written at once while a snapshot is written.
const CHUNK_BYTES: usize = 256 * 1024;
/// Sessions and retained messages that cost more than this, in bytes, are not written: that is as if the disk were full.
pub(super) const SNAPSHOT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The running thread. Ends it, and waits for what is left to be written, when dropped.
#[derive(Debug)]
pub(in crate::local) struct Keeper {
    pub(super) recorder: Recorder,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread.
    pub(super) fn start(
        place: Place,
        recorder: Recorder,
        broker: Arc<Mutex<Broker>>,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let mut journal = Journal {
            place,
            recorder: recorder.clone(),
            broker,
            counters,
            salt: Salt::random(),
            open: None,
            is_failing: false,
        };
        // Should the thread not start, dropping the journal has nobody wait for it.
        let thread = std::thread::Builder::new()
            .name("broker-journal".to_owned())
            .spawn(move || journal.run())?;
        Ok(Keeper {
            recorder,
            thread: Some(thread),
        })
    }
}

#[cfg(test)]
impl Keeper {
    /// One that keeps nothing, and whose thread is this one.
    pub(in crate::local) fn of(thread: JoinHandle<()>) -> Self {
        Keeper {
            recorder: Recorder::default(),
            thread: Some(thread),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.recorder.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the journal of the local broker ended by a fault; please report it");
        }
    }
}

/// The journal that is being appended to.
struct Open {
    file: Arc<dyn StorageFile>,
    len: u64,
    /// How long it was when it was fresh.
    fresh_len: u64,
}

struct Journal {
    place: Place,
    recorder: Recorder,
    broker: Arc<Mutex<Broker>>,
    counters: Arc<Counters>,
    salt: Salt,
    open: Option<Open>,
    is_failing: bool,
}

/// Whatever happens to the thread, nobody waits for it in vain.
impl Drop for Journal {
    fn drop(&mut self) {
        self.recorder.fail();
    }
}

impl Journal {
    fn run(&mut self) {
        loop {
            let done = match self.recorder.work() {
                Work::Close => return,
                Work::Append(changes, number) => self.append(&changes, number),
                Work::Afresh => self.write_afresh(),
            };
            match done {
                Ok(()) if std::mem::take(&mut self.is_failing) => {
                    tracing::info!("the journal of the local broker is written again");
                }
                Ok(()) => {}
                Err(error) => self.failed(&error),
            }
        }
    }

    fn failed(&mut self, error: &io::Error) {
        self.open = None;
        // In this order: whoever is let go by the failure finds it counted.
        self.counters.journal_failures.add(1);
        self.recorder.fail();
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(
                %error,
                "DATA_DIR: cannot write the journal of the local broker; until it can be written, local sessions \
                 and retained messages are in memory only, and acknowledgements do not wait for it"
            );
        }
    }

    fn append(&mut self, changes: &[(Seq, Change)], number: Seq) -> io::Result<()> {
        let Some(open) = &mut self.open else {
            return self.write_afresh();
        };
        let clocks = Clocks::read();
        let mut bytes = Vec::new();
        for (number, change) in changes {
            bytes.extend(encoded(change, *number, &clocks, self.salt)?);
        }
        open.file.write_all_at(&bytes, open.len)?;
        open.file.sync_data()?;
        open.len += bytes.len() as u64;
        self.recorder.keep(number);
        if open.len > open.fresh_len * 2 + FLOOR_BYTES {
            self.recorder.demand_afresh();
        }
        Ok(())
    }

    /// Writes what the broker holds now, and makes it the journal.
    fn write_afresh(&mut self) -> io::Result<()> {
        self.open = None;
        let (changes, number) = {
            let broker = self.broker.lock().unwrap_or_else(PoisonError::into_inner);
            (broker.snapshot(), self.recorder.begin_afresh())
        };
        if changes.iter().map(Change::cost_bytes).sum::<usize>() > SNAPSHOT_BYTES_MAX {
            return Err(io::Error::other(
                "local sessions and retained messages are larger than 64 MiB",
            ));
        }
        let file = self.place.create()?;
        let clocks = Clocks::read();
        let mut len = 0;
        let mut chunk = encoded(&Change::Version(VERSION), number, &clocks, self.salt)?;
        for change in &changes {
            chunk.extend(encoded(change, number, &clocks, self.salt)?);
            if chunk.len() >= CHUNK_BYTES {
                file.write_all_at(&chunk, len)?;
                len += chunk.len() as u64;
                chunk.clear();
            }
        }
        file.write_all_at(&chunk, len)?;
        len += chunk.len() as u64;
        file.sync_data()?;
        self.place.replace()?;
        self.open = Some(Open {
            file,
            len,
            fresh_len: len,
        });
        self.recorder.keep(number);
        Ok(())
    }
}

fn encoded(change: &Change, number: Seq, clocks: &Clocks, salt: Salt) -> io::Result<Vec<u8>> {
    let too_large = || io::Error::other("a change is larger than a record");
    change.encode(number, clocks, salt).ok_or_else(too_large)
}
