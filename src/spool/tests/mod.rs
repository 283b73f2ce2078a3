//! The spool as a whole, over a real directory.

mod damage;
mod faults;
mod model;
mod power_cuts;
mod promise;
mod random;
mod reopening;
mod settling;
mod stepped;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ledger::Outcome;
use super::storage::{self, Directory};
use super::{Message, Options, Read, Recovery, Seq, Spool};
use crate::clock::Timestamp;

/// An open spool and what opening it reported.
struct Opened {
    spool: Spool,
    recovery: Recovery,
}

fn open(path: &Path) -> Opened {
    open_with(path, Options::default())
}

fn open_with(path: &Path, options: Options) -> Opened {
    let storage = Arc::new(Directory::open(path).unwrap());
    let (spool, recovery) = Spool::open(storage, options, |_| {}).unwrap();
    Opened { spool, recovery }
}

fn message(payload: &[u8]) -> Message<'_> {
    Message {
        topic: "sensors",
        payload,
        qos: 1,
        retain: false,
        received: Timestamp {
            unix_ms: 1_790_000_000_000,
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

fn settle(spool: &Spool, read: &[(Seq, u32)]) {
    let seqs: Vec<Seq> = read.iter().map(|(seq, _)| *seq).collect();
    spool.settle(&seqs, Outcome::Delivered);
}

fn payloads(read: &[(Seq, u32)]) -> Vec<u32> {
    read.iter().map(|(_, payload)| *payload).collect()
}

/// The segments' files, oldest first.
fn segments(path: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "seg"))
        .collect();
    files.sort();
    files
}
