//! A spool without its thread: the test decides when the writer does its next job.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::ledger::Ledger;
use super::super::writer::Disk;
use super::super::writer::{self, Step};
use super::super::{Delivery, OpenError, Options, Read, Recovery, Spool};
use super::storage::Storage;

/// More jobs than any test gives the writer; reaching it means that it goes round in a circle.
const STEPS_MAX: u32 = 100_000;
/// Longer than anything in the spool waits.
const LONG: Duration = Duration::from_hours(1);

/// An open spool and what its thread would own.
pub(super) struct Stepped {
    pub(super) spool: Spool,
    disk: Disk,
    /// How far the writer's clock is ahead.
    ahead: Duration,
}

impl Stepped {
    pub(super) fn open(
        storage: Arc<dyn Storage>,
        options: Options,
    ) -> Result<(Self, Recovery), OpenError> {
        let (spool, disk, recovery) = Spool::open_without_writer(storage, options, |_| {})?;
        let stepped = Stepped {
            spool,
            disk,
            ahead: Duration::ZERO,
        };
        Ok((stepped, recovery))
    }

    /// One job of the writer.
    pub(super) fn step(&mut self) -> Step {
        let now = Instant::now() + self.ahead;
        writer::step(&self.spool.shared, &mut self.disk, now)
    }

    /// One job of the writer, and what happens between its beginning and its end.
    pub(super) fn step_while(&mut self, meanwhile: impl FnOnce(&Self)) -> Step {
        let now = Instant::now() + self.ahead;
        let job = self.spool.shared.core().next_job(now);
        meanwhile(self);
        writer::finish(&self.spool.shared, &mut self.disk, job, now)
    }

    /// Every job that is due.
    pub(super) fn run(&mut self) {
        for _ in 0..STEPS_MAX {
            if self.step() != Step::Worked {
                return;
            }
        }
        panic!("the writer finds no end");
    }

    /// Every job, also those that may wait.
    pub(super) fn run_late(&mut self) {
        self.ahead += LONG;
        self.run();
    }

    /// What is there to read, one call's worth.
    pub(super) fn read(&self, count_max: usize) -> std::io::Result<Vec<Delivery>> {
        match self.spool.read(count_max, 4 * 1024) {
            Read::Deliveries(deliveries) => Ok(deliveries),
            Read::OnDisk(ticket) => self.spool.read_disk(ticket),
            Read::Empty => Ok(Vec::new()),
        }
    }

    /// Everything there is to read.
    pub(super) fn read_all(&self) -> std::io::Result<Vec<Delivery>> {
        let mut all = Vec::new();
        for _ in 0..STEPS_MAX {
            match self.spool.read(100, 64 * 1024) {
                Read::Deliveries(deliveries) => all.extend(deliveries),
                Read::OnDisk(ticket) => all.extend(self.spool.read_disk(ticket)?),
                Read::Empty => return Ok(all),
            }
        }
        panic!("reading finds no end");
    }

    /// What [`Spool::close`] does, in steps.
    pub(super) fn close(&mut self) -> Result<Ledger, String> {
        self.spool.shared.core().close();
        self.run_late();
        self.spool.close()
    }

    /// Bytes of messages in memory.
    pub(super) fn held_bytes(&self) -> usize {
        self.spool.shared.core().held_bytes()
    }

    /// Messages of which memory has anything.
    pub(super) fn held_count(&self) -> u64 {
        self.spool.shared.core().held_count()
    }
}
