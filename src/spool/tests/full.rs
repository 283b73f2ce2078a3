//! What happens at the limit, by policy.

use std::sync::atomic::{AtomicU64, Ordering};

use super::model::Model;
use super::stepped::Stepped;
use super::*;
use crate::spool::core::Next;
use crate::spool::reader::Reader;
use crate::spool::{AppendError, Progress};

on_both_storages! {
    block_takes_nothing_more_and_goes_on_when_it_has_drained;
    drop_newest_acknowledges_and_counts_what_it_gives_up;
    drop_oldest_gives_up_a_segment_and_counts_what_was_in_it;
    drop_oldest_gives_up_even_what_was_given_out;
}

const PAYLOAD: &[u8] = &[7; 100_000];

fn open_small(bed: &Bed, full: FullPolicy) -> Spool {
    let options = Options {
        bytes_max: 4 * 1024 * 1024,
        full,
        ..Options::default()
    };
    open_with(bed, options).spool
}

/// Appends until nothing is taken any more; returns how many were taken.
fn fill(spool: &Spool) -> u64 {
    let mut taken = 0;
    loop {
        match spool.append(&message(PAYLOAD)) {
            Ok(seq) => wait_until_safe(spool, seq),
            Err(AppendError::Full) => return taken,
            Err(e) => panic!("{e}"),
        }
        taken += 1;
    }
}

fn block_takes_nothing_more_and_goes_on_when_it_has_drained(bed: &Bed) {
    let spool = open_small(bed, FullPolicy::Block);
    let taken = fill(&spool);
    assert_eq!(taken, 41);
    assert!(!spool.has_space());
    assert_eq!(drain(&spool) as u64, taken);
    wait_for_space(&spool);
    spool.append(&message(PAYLOAD)).unwrap();
    let ledger = spool.ledger();
    assert_eq!(
        (ledger.delivered, ledger.spooled, ledger.dropped()),
        (taken, 1, 0)
    );
}

fn drop_newest_acknowledges_and_counts_what_it_gives_up(bed: &Bed) {
    let spool = open_small(bed, FullPolicy::DropNewest);
    for _ in 0..100 {
        let seq = spool.append(&message(PAYLOAD)).unwrap();
        wait_until_safe(&spool, seq);
    }
    let ledger = spool.ledger();
    assert_eq!((ledger.accepted(), ledger.spooled), (100, 41));
    assert_eq!(ledger.dropped_full, 59);
    assert_eq!(drain(&spool), 41);
}

fn drop_oldest_gives_up_a_segment_and_counts_what_was_in_it(bed: &Bed) {
    let spool = open_small(bed, FullPolicy::DropOldest);
    let mut last = 0;
    for n in 0..100_u32 {
        let payload = [&n.to_le_bytes(), PAYLOAD].concat();
        last = loop {
            match spool.append(&message(&payload)) {
                Ok(seq) => break seq,
                Err(AppendError::Full) => wait_for_space(&spool),
                Err(e) => panic!("{e}"),
            }
        };
        wait_until_safe(&spool, last);
    }
    let ledger = spool.ledger();
    assert_eq!(ledger.accepted(), 100);
    assert!(
        ledger.dropped_full > 0 && ledger.dropped_damaged == 0,
        "{ledger:?}"
    );
    spool.close().unwrap();
    drop(spool);

    let Opened { spool, recovery } = open(bed);
    assert_eq!(recovery.ledger, ledger);
    let Read::OnDisk(ticket) = spool.read(1, 1) else {
        panic!("expected a backlog on disk");
    };
    let first = spool.read_disk(ticket).unwrap().remove(0);
    assert_eq!(first.seq, last + 1 - ledger.spooled, "the newest are there");
}

#[test]
fn drop_oldest_gives_up_segments_until_there_is_room_and_no_more() {
    let storage: Arc<dyn Storage> = Arc::new(Model::default());
    let open = |mib: u64| {
        let options = Options {
            bytes_max: mib * 1024 * 1024,
            full: FullPolicy::DropOldest,
            linger: Duration::ZERO,
            ..Options::default()
        };
        Stepped::open(Arc::clone(&storage), options).unwrap().0
    };
    let fill = |stepped: &mut Stepped| {
        while stepped.spool.append(&message(PAYLOAD)).is_ok() {
            stepped.run();
        }
        let accepted = stepped.spool.ledger().accepted();
        stepped.run();
        assert!(stepped.spool.has_space());
        let ledger = stepped.spool.ledger();
        assert_eq!(ledger.accepted(), accepted);
        ledger
    };
    // Each start begins a segment, however small the last one is.
    for _ in 0..3 {
        let mut stepped = open(8);
        stepped.spool.append(&message(b"small")).unwrap();
        stepped.close().unwrap();
    }
    let mut stepped = open(8);
    let ledger = fill(&mut stepped);
    assert_eq!(
        ledger.dropped_full,
        3 + 11,
        "three small segments and a large one"
    );
    stepped.close().unwrap();
    drop(stepped);
    // The owner has lowered the limit.
    let mut stepped = open(4);
    let ledger = fill(&mut stepped);
    assert_eq!(
        ledger.spooled,
        6 + 2 * 11,
        "with a segment more there is no room"
    );
    // Nobody is given the room of a spool that closes.
    while stepped.spool.append(&message(PAYLOAD)).is_ok() {}
    let before = stepped.spool.ledger();
    assert_eq!(stepped.close().unwrap(), before);
}

fn drop_oldest_gives_up_even_what_was_given_out(bed: &Bed) {
    let spool = open_small(bed, FullPolicy::DropOldest);
    let first = spool.append(&message(PAYLOAD)).unwrap();
    wait_until_safe(&spool, first);
    let Read::Deliveries(given_out) = spool.read(1, 1) else {
        panic!("expected a message in memory");
    };
    fill(&spool);
    wait_for_space(&spool);
    let before = spool.ledger();
    spool.settle(&[given_out[0].seq], Outcome::Delivered);
    assert_eq!(spool.ledger(), before, "it is counted once, as dropped");
    let accepted = before.accepted();
    drain(&spool);
    let ledger = spool.ledger();
    assert_eq!((ledger.accepted(), ledger.spooled), (accepted, 0));
}

#[test]
fn a_disk_read_begun_before_its_segment_was_given_up_gives_nothing_out() {
    let storage: Arc<dyn Storage> = Arc::new(Model::default());
    let options = Options {
        bytes_max: 3_000,
        free_bytes_min: 0,
        segment_bytes: 1_000,
        full: FullPolicy::DropOldest,
        linger: Duration::ZERO,
    };
    let (mut stepped, _) = Stepped::open(Arc::clone(&storage), options).unwrap();
    while stepped.spool.append(&message(b"x")).is_ok() {
        stepped.run();
    }
    stepped.close().unwrap();
    drop(stepped);

    let (mut stepped, _) = Stepped::open(Arc::clone(&storage), options).unwrap();
    let Next::Disk(place) = stepped.spool.shared.core().next() else {
        panic!("expected a backlog on disk");
    };
    let chunk = Reader::new(storage).read(place, 1).unwrap();
    assert!(!chunk.frames.is_empty());
    while stepped.spool.append(&message(b"x")).is_ok() {}
    stepped.run();
    let before = stepped.spool.ledger();
    assert!(before.dropped_full > 0, "{before:?}");

    let now = Instant::now();
    let given_out = stepped.spool.shared.core().take_chunk(place, chunk, now);
    assert_eq!(given_out, [], "they are counted as given up");
    let left = stepped.read_all().unwrap();
    assert_eq!(left.len() as u64, before.spooled);
    let seqs: Vec<Seq> = left.iter().map(|delivery| delivery.seq).collect();
    stepped.spool.settle(&seqs, Outcome::Delivered);
    let ledger = stepped.spool.ledger();
    assert_eq!((ledger.delivered, ledger.spooled), (before.spooled, 0));
}

#[test]
fn nobody_is_told_of_fewer_messages_given_up_after_more() {
    const ROUNDS: u32 = 20_000;
    let options = Options {
        bytes_max: 0,
        full: FullPolicy::DropNewest,
        ..Options::default()
    };
    let told = AtomicU64::new(0);
    let on_progress = move |progress: Progress| {
        let before = told.swap(progress.dropped_full, Ordering::Relaxed);
        assert!(before <= progress.dropped_full, "{before} before");
    };
    let (spool, _) = Spool::open(Arc::new(Model::default()), options, on_progress).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    spool.append(&message(b"x")).unwrap();
                    spool.show_progress();
                }
            });
        }
    });
    assert_eq!(spool.ledger().dropped_full, u64::from(2 * ROUNDS));
}
