//! The spool as a whole.
//!
//! * `settling`, `reopening`, `storages`: one contract suite over a real directory and over the [`model`].
//! * `random`, `power_cuts`: the [`promise`] under random sequences, and under a power cut at every
//!   operation, in steps that the test decides ([`stepped`]).
//! * `damage`: every flipped byte and every cut. `forged`: what no relay has written. `faults`: a disk that fails or is full.

mod damage;
mod faults;
mod forged;
mod full;
pub(crate) mod model;
mod power_cuts;
mod promise;
mod random;
mod reopening;
mod settling;
mod stepped;
mod storages;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use self::model::Model;
use super::ledger::Outcome;
use super::storage::{self, Directory, Storage};
use super::{FullPolicy, Message, Options, Read, Recovery, Seq, Spool, segment};
use crate::clock::Timestamp;

/// A storage to try the spool on.
enum Bed {
    Directory(TempDir),
    Model(Model),
}

impl Bed {
    fn directory() -> Self {
        Bed::Directory(tempfile::tempdir().unwrap())
    }

    fn model() -> Self {
        Bed::Model(Model::default())
    }

    fn storage(&self) -> Arc<dyn Storage> {
        match self {
            Bed::Directory(dir) => Arc::new(Directory::open(dir.path()).unwrap()),
            Bed::Model(model) => Arc::new(model.clone()),
        }
    }

    fn content(&self, name: &str) -> Vec<u8> {
        match self {
            Bed::Directory(dir) => fs::read(dir.path().join(name)).unwrap(),
            Bed::Model(model) => model.content(name).unwrap(),
        }
    }

    fn put(&self, name: &str, content: &[u8]) {
        match self {
            Bed::Directory(dir) => fs::write(dir.path().join(name), content).unwrap(),
            Bed::Model(model) => model.put(name, content.to_vec()),
        }
    }

    fn remove(&self, name: &str) {
        match self {
            Bed::Directory(dir) => fs::remove_file(dir.path().join(name)).unwrap(),
            Bed::Model(model) => model.remove(name).unwrap(),
        }
    }

    /// The names of the segments, oldest first.
    fn segments(&self) -> Vec<String> {
        let mut names: Vec<String> = match self {
            Bed::Directory(dir) => fs::read_dir(dir.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect(),
            Bed::Model(model) => (model.list().unwrap().into_iter())
                .map(|(name, _)| name)
                .collect(),
        };
        names.retain(|name| segment::first_seq(name).is_some());
        names.sort();
        names
    }
}

/// Makes two tests of each function: one on a real directory, one on the model, which so is shown to be
/// like the real one.
macro_rules! on_both_storages {
    ($($name:ident;)*) => {
        mod on_a_directory {
            $(#[test]
            fn $name() {
                super::$name(&super::super::Bed::directory());
            })*
        }
        mod on_the_model {
            $(#[test]
            fn $name() {
                super::$name(&super::super::Bed::model());
            })*
        }
    };
}
use on_both_storages;

/// An open spool and what opening it reported.
struct Opened {
    spool: Spool,
    recovery: Recovery,
}

fn open(bed: &Bed) -> Opened {
    open_with(bed, Options::default())
}

fn open_with(bed: &Bed, options: Options) -> Opened {
    let (spool, recovery) = Spool::open(bed.storage(), options, |_| {}).unwrap();
    Opened { spool, recovery }
}

/// A message like any other, also for the tests of those who hand messages to the spool. It came at
/// 2026-11-23T08:05:09Z.
pub(crate) fn message(payload: &[u8]) -> Message<'_> {
    Message {
        topic: "sensors",
        attributes: b"",
        payload,
        qos: 1,
        retain: false,
        received: Timestamp {
            unix_ms: 1_795_421_109_000,
            clock_set: true,
        },
    }
}

fn append(spool: &Spool, numbers: std::ops::Range<u32>) -> Seq {
    let mut last = 0;
    for n in numbers {
        let payload = n.to_string();
        loop {
            match spool.append(&message(payload.as_bytes())) {
                Ok(seq) => break last = seq,
                Err(super::AppendError::Full) => std::thread::yield_now(),
                Err(e) => panic!("{e}"),
            }
        }
    }
    last
}

/// Waits until everything up to `seq` may be acknowledged.
fn wait_until_safe(spool: &Spool, seq: Seq) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while spool.progress().safe <= seq {
        assert!(Instant::now() < deadline, "not safe after 30 s");
        std::thread::yield_now();
    }
}

/// Everything there is to read now, as numbers and payloads.
fn read_all(spool: &Spool) -> Vec<(Seq, u32)> {
    let mut all = Vec::new();
    loop {
        let deliveries = match spool.read(100, 64 * 1024) {
            Read::Deliveries(deliveries) => deliveries,
            Read::OnDisk(ticket) => spool.read_disk(ticket).unwrap(),
            Read::Empty => return all,
        };
        for delivery in deliveries {
            let payload = std::str::from_utf8(delivery.message().unwrap().payload)
                .unwrap()
                .parse()
                .unwrap();
            all.push((delivery.seq, payload));
        }
    }
}

/// Reads and settles until there is nothing to read.
fn drain(spool: &Spool) -> usize {
    let mut drained = 0;
    loop {
        let deliveries = match spool.read(100, 64 * 1024) {
            Read::Deliveries(deliveries) => deliveries,
            Read::OnDisk(ticket) => spool.read_disk(ticket).unwrap(),
            Read::Empty => return drained,
        };
        let seqs: Vec<Seq> = deliveries.iter().map(|d| d.seq).collect();
        spool.settle(&seqs, Outcome::Delivered);
        drained += seqs.len();
    }
}

/// Waits until a message of any size would be taken.
fn wait_for_space(spool: &Spool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !spool.has_space() {
        assert!(Instant::now() < deadline, "no space after 30 s");
        std::thread::yield_now();
    }
}

fn settle(spool: &Spool, read: &[(Seq, u32)]) {
    let seqs: Vec<Seq> = read.iter().map(|(seq, _)| *seq).collect();
    spool.settle(&seqs, Outcome::Delivered);
}

fn payloads(read: &[(Seq, u32)]) -> Vec<u32> {
    read.iter().map(|(_, payload)| *payload).collect()
}
