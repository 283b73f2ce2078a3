//! Every single-byte flip and every cut of every file of a small spool: it opens, loses only what was hit,
//! and counts it.
//!
//! Three segments with a dozen records each, a cursor with two slots, some messages settled out of order.
//! What cannot be seen is stated here: a *last* segment cut exactly between two records looks like one that
//! ended there, and a first segment of which nothing is left counts as one record.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::core::Next;
use super::super::ledger::Outcome;
use super::super::reader::Reader;
use super::super::record::{self, Decoded};
use super::super::segment::{HEADER_BYTES, OPENING_BYTES};
use super::super::{FullPolicy, Options, Seq, segment};
use super::message;
use super::model::Model;
use super::stepped::Stepped;
use super::storage::Storage;

const RECORDS: u64 = 36;
const SEGMENTS: usize = 3;

pub(super) fn options() -> Options {
    Options {
        free_bytes_min: 0,
        linger: Duration::ZERO,
        segment_bytes: 690,
        ..Options::default()
    }
}

/// The spool, and the numbers in it that are not settled.
fn small_spool() -> (Model, BTreeSet<Seq>) {
    let model = Model::default();
    let (mut stepped, _) = Stepped::open(Arc::new(model.clone()), options()).unwrap();
    for n in 0..RECORDS {
        stepped
            .spool
            .append(&message(n.to_string().as_bytes()))
            .unwrap();
        stepped.run();
    }
    let all: BTreeSet<Seq> = stepped.read_all().unwrap().iter().map(|d| d.seq).collect();
    let settled = [1, 2, 3, 6, 20];
    stepped.spool.settle(&settled, Outcome::Delivered);
    stepped.close().unwrap();
    assert_eq!(segment_names(&model).len(), SEGMENTS);
    let alive = all
        .into_iter()
        .filter(|seq| !settled.contains(seq))
        .collect();
    (model, alive)
}

/// What a damaged spool came to.
pub(super) struct Found {
    pub(super) seqs: Vec<Seq>,
    /// Counted in the ledger when all was settled.
    dropped: u64,
    torn_bytes: u64,
    pub(super) cursor_lost: bool,
}

pub(super) fn open_damaged(model: &Model, what: &str) -> Found {
    let (mut stepped, recovery) =
        Stepped::open(Arc::new(model.clone()), options()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let deliveries = stepped.read_all().unwrap_or_else(|e| panic!("{what}: {e}"));
    for delivery in &deliveries {
        let payload = (delivery.seq - 1).to_string();
        assert_eq!(
            delivery.message().unwrap(),
            message(payload.as_bytes()),
            "{what}"
        );
    }
    let seqs: Vec<Seq> = deliveries.iter().map(|d| d.seq).collect();
    assert!(
        seqs.windows(2).all(|pair| pair[0] < pair[1]),
        "{what}: {seqs:?}"
    );
    stepped.spool.settle(&seqs, Outcome::Delivered);
    stepped.run();
    let ledger = stepped.spool.ledger();
    assert_eq!(ledger.spooled, 0, "{what}: {ledger:?}");
    stepped.close().unwrap();
    Found {
        seqs,
        dropped: ledger.dropped_damaged,
        torn_bytes: recovery.torn_bytes,
        cursor_lost: recovery.cursor_lost,
    }
}

/// Where the records of a segment are: number, first and last byte.
fn records(content: &[u8]) -> Vec<(Seq, std::ops::Range<usize>)> {
    let mut at = OPENING_BYTES;
    let mut records = Vec::new();
    while let Decoded::Record { record, len } = record::decode(&content[at..]) {
        records.push((record.seq, at..at + len));
        at += len;
    }
    assert_eq!(at, content.len());
    records
}

fn segment_names(model: &Model) -> Vec<String> {
    let files = model.list().unwrap().into_iter().map(|(name, _)| name);
    files
        .filter(|name| segment::first_seq(name).is_some())
        .collect()
}

#[test]
fn any_flipped_byte_of_a_segment_costs_at_most_its_record_and_is_counted() {
    let (spool, alive) = small_spool();
    for name in segment_names(&spool) {
        let content = spool.content(&name).unwrap();
        let records = records(&content);
        for at in 0..content.len() {
            let what = format!("{name} byte {at}");
            let model = spool.copy();
            let mut bad = content.clone();
            bad[at] ^= 1 << (at % 8);
            model.put(&name, bad);
            let hit = records.iter().find(|(_, range)| range.contains(&at));
            let mut expected = alive.clone();
            let costs = hit.is_some_and(|(seq, _)| expected.remove(seq));

            let found = open_damaged(&model, &what);
            assert!(
                found.seqs.iter().copied().eq(expected),
                "{what}: {:?}",
                found.seqs
            );
            if costs {
                assert!(
                    found.dropped == 1 || found.torn_bytes > 0,
                    "{what} is not counted"
                );
            } else {
                // A record that rotted after it was settled may be counted, never more.
                assert!(found.dropped <= u64::from(hit.is_some()), "{what}");
            }
        }
    }
}

#[test]
fn any_cut_of_a_segment_costs_only_what_was_cut_off_and_is_counted() {
    let (spool, alive) = small_spool();
    let names = segment_names(&spool);
    for name in &names {
        let content = spool.content(name).unwrap();
        let records = records(&content);
        let is_first = Some(name) == names.first();
        let is_last = Some(name) == names.last();
        for len in 0..content.len() {
            let what = format!("{name} cut to {len}");
            let model = spool.copy();
            model.put(name, content[..len].to_vec());
            let cut: BTreeSet<Seq> = (records.iter().filter(|(_, range)| range.end > len))
                .map(|(seq, _)| *seq)
                .collect();
            let lost = alive.intersection(&cut).count() as u64;
            let expected = alive.difference(&cut).copied();

            let found = open_damaged(&model, &what);
            assert!(
                found.seqs.iter().copied().eq(expected),
                "{what}: {:?}",
                found.seqs
            );
            let between_records = [HEADER_BYTES, OPENING_BYTES].contains(&len)
                || records.iter().any(|(_, range)| range.end == len);
            if is_last {
                let counted = found.torn_bytes > 0 || found.dropped > 0;
                assert!(
                    counted || between_records || len == 0,
                    "{what} is not counted"
                );
            } else if is_first && len < HEADER_BYTES {
                assert_eq!(found.dropped, 1, "{what}");
            } else {
                assert!(found.dropped >= lost, "{what}: {} of {lost}", found.dropped);
                assert!(
                    found.dropped <= cut.len() as u64,
                    "{what}: {}",
                    found.dropped
                );
            }
        }
    }
}

#[test]
fn any_damage_to_the_cursor_costs_duplicates_only() {
    let (spool, alive) = small_spool();
    let content = spool.content("cursor").unwrap();
    let flips = (0..content.len()).map(|at| {
        let mut bad = content.clone();
        bad[at] ^= 1 << (at % 8);
        (format!("cursor byte {at}"), bad)
    });
    let cuts =
        (0..content.len()).map(|len| (format!("cursor cut to {len}"), content[..len].to_vec()));
    let both_slots = std::iter::once(("no sound slot".to_owned(), vec![0xFF; content.len()]));
    let mut lost_cursors = 0;
    for (what, bad) in flips.chain(cuts).chain(both_slots) {
        let model = spool.copy();
        model.put("cursor", bad);
        let found = open_damaged(&model, &what);
        let seqs: BTreeSet<Seq> = found.seqs.iter().copied().collect();
        assert!(seqs.is_superset(&alive), "{what}: {seqs:?}");
        assert!(seqs.iter().all(|seq| (1..=RECORDS).contains(seq)), "{what}");
        assert_eq!(found.dropped, 0, "{what}");
        lost_cursors += usize::from(found.cursor_lost);
    }
    assert!(lost_cursors >= 1 && lost_cursors < content.len());
}

/// Appends messages until the last one is `last`, each as large as makes 18 of them a segment and 8 of them all that
/// memory keeps of those that are written.
fn append_large(stepped: &mut Stepped, last: Seq) {
    let payload = vec![7; 60_000];
    while stepped.spool.append(&message(&payload)).unwrap() < last {}
    stepped.run();
}

/// Changes a byte in each of these records of the first segment under the spool's feet.
fn spoil(model: &Model, seqs: &[Seq]) {
    let name = segment::name(1);
    let file = model.open(&name).unwrap();
    for (seq, place) in records(&model.content(&name).unwrap()) {
        if seqs.contains(&seq) {
            file.write_all_at(&[8], place.end as u64 - 1).unwrap();
        }
    }
}

fn read_and_settle(stepped: &mut Stepped) -> Vec<Seq> {
    let seqs: Vec<Seq> = (stepped.read_all().unwrap().iter().map(|d| d.seq)).collect();
    stepped.spool.settle(&seqs, Outcome::Delivered);
    stepped.run();
    seqs
}

#[test]
fn what_rots_in_the_segment_that_is_written_to_is_counted_once() {
    let options = Options {
        segment_bytes: segment::SEGMENT_BYTES,
        ..options()
    };
    for (first, is_closed) in [(15, false), (15, true), (22, false)] {
        let what = format!("{first} {is_closed}");
        let model = Model::default();
        let open = || Stepped::open(Arc::new(model.clone()), options).unwrap().0;
        let mut stepped = open();
        append_large(&mut stepped, first);
        spoil(&model, &[3]);
        let mut seqs = read_and_settle(&mut stepped);
        if is_closed {
            stepped.close().unwrap();
            stepped = open();
        }
        append_large(&mut stepped, 25);
        seqs.extend(read_and_settle(&mut stepped));
        assert!(
            seqs.iter().copied().eq((1..=25).filter(|seq| *seq != 3)),
            "{what}: {seqs:?}"
        );
        for _ in 0..2 {
            let ledger = stepped.spool.ledger();
            let counts = (ledger.delivered, ledger.dropped_damaged, ledger.spooled);
            assert_eq!(counts, (24, 1, 0), "{what}");
            stepped.close().unwrap();
            stepped = open();
        }
    }
}

#[test]
fn damage_here_and_there_is_counted_though_memory_has_the_end_of_the_segment() {
    let options = Options {
        segment_bytes: segment::SEGMENT_BYTES,
        ..options()
    };
    let model = Model::default();
    let mut stepped = Stepped::open(Arc::new(model.clone()), options).unwrap().0;
    append_large(&mut stepped, 22);
    spoil(&model, &[3, 7, 16]);
    let delivered = read_and_settle(&mut stepped).len() as u64;
    let ledger = stepped.spool.ledger();
    let counts = (ledger.delivered, ledger.dropped_damaged, ledger.spooled);
    assert_eq!(counts, (delivered, 22 - delivered, 0));
    assert!((2..=3).contains(&ledger.dropped_damaged), "{ledger:?}");
}

#[test]
fn damage_met_while_a_write_runs_over_into_the_next_segment_is_counted_before_its_own_is_removed() {
    let options = Options {
        segment_bytes: segment::SEGMENT_BYTES,
        ..options()
    };
    let model = Model::default();
    let mut stepped = Stepped::open(Arc::new(model.clone()), options).unwrap().0;
    append_large(&mut stepped, 15);
    spoil(&model, &[3]);
    let payload = vec![7; 60_000];
    while stepped.spool.append(&message(&payload)).unwrap() < 25 {}
    let mut seqs = Vec::new();
    stepped.step_while(|stepped| {
        let read = stepped.read_all().unwrap();
        seqs.extend(read.iter().map(|delivery| delivery.seq));
    });
    assert_eq!(segment_names(&model).len(), 2);
    assert!(
        seqs.iter().copied().eq((1..=25).filter(|seq| *seq != 3)),
        "{seqs:?}"
    );
    let of_the_first = seqs.partition_point(|seq| *seq <= 18);
    let (first, rest) = seqs.split_at(of_the_first);
    stepped.spool.settle(first, Outcome::Delivered);
    stepped.run();
    assert_eq!(segment_names(&model).len(), 1);
    let ledger = stepped.spool.ledger();
    assert_eq!((ledger.dropped_damaged, ledger.spooled), (1, 7));
    stepped.spool.settle(rest, Outcome::Delivered);
    let ledger = stepped.close().unwrap();
    assert_eq!(
        (ledger.delivered, ledger.dropped_damaged, ledger.spooled),
        (24, 1, 0)
    );
}

#[test]
fn damage_read_before_its_segment_was_given_up_is_counted_once() {
    let options = Options {
        segment_bytes: segment::SEGMENT_BYTES,
        bytes_max: 4 * segment::SEGMENT_BYTES,
        full: FullPolicy::DropOldest,
        ..options()
    };
    let model = Model::default();
    let storage: Arc<dyn Storage> = Arc::new(model.clone());
    let mut stepped = Stepped::open(Arc::clone(&storage), options).unwrap().0;
    append_large(&mut stepped, 15);
    spoil(&model, &[3]);
    let payload = vec![7; 60_000];
    while stepped.spool.append(&message(&payload)).unwrap() < 25 {}
    let mut read = None;
    stepped.step_while(|stepped| {
        let Next::Disk(place) = stepped.spool.shared.core().next() else {
            panic!("expected a backlog on disk");
        };
        let mut reader = Reader::new(storage);
        let mut chunks = (1..).map(|from| reader.read(place, from).unwrap());
        let last = chunks.find(|chunk| chunk.end);
        read = last.map(|chunk| (place, chunk));
    });
    while stepped.spool.append(&message(&payload)).is_ok() {
        stepped.run();
    }
    stepped.run();
    let before = stepped.spool.ledger();
    assert_eq!((before.dropped_full, before.dropped_damaged), (17, 1));
    let (place, chunk) = read.unwrap();
    assert_eq!(chunk.lost, 1);
    let now = Instant::now();
    let given_out = stepped.spool.shared.core().take_chunk(place, chunk, now);
    assert_eq!(given_out, []);
    assert_eq!(read_and_settle(&mut stepped).len() as u64, before.spooled);
    let ledger = stepped.spool.ledger();
    assert_eq!((ledger.dropped_damaged, ledger.spooled), (1, 0));
}
