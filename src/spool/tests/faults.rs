//! A disk that fails or is full. Every fault the model knows is proved to happen, and what the spool makes
//! of it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::super::cursor::{SLOT_BYTES, Slot, read_slots};
use super::super::ledger::Outcome;
use super::super::{AppendError, FullPolicy, OpenError, Options, Progress, Spool};
use super::message;
use super::model::{Effect, Model, Operation, Trigger};
use super::stepped::Stepped;
use super::storage::Storage;

fn options() -> Options {
    Options {
        free_bytes_min: 0,
        linger: Duration::ZERO,
        segment_bytes: 1_000,
        ..Options::default()
    }
}

fn open(model: &Model) -> Stepped {
    Stepped::open(Arc::new(model.clone()), options()).unwrap().0
}

fn open_dropping_newest(model: &Model, bytes_max: u64) -> Stepped {
    let options = Options {
        bytes_max,
        full: FullPolicy::DropNewest,
        ..options()
    };
    Stepped::open(Arc::new(model.clone()), options).unwrap().0
}

fn append(stepped: &Stepped, count: usize) {
    for n in 0..count {
        stepped
            .spool
            .append(&message(n.to_string().as_bytes()))
            .unwrap();
    }
}

/// Does one operation of the kind.
fn operate(model: &Model, operation: Operation) -> io::Result<()> {
    let file = model.open("there");
    match operation {
        Operation::Create => model.create("new").map(drop),
        Operation::Open => file.map(drop),
        Operation::List => model.list().map(drop),
        Operation::Rename => model.rename("there", "elsewhere"),
        Operation::Remove => model.remove("there"),
        Operation::SyncDirectory => model.sync_directory(),
        Operation::FreeBytes => model.free_bytes().map(drop),
        Operation::Write => file?.write_all_at(b"1234", 4),
        Operation::Read => file?.read_at(&mut [0; 4], 0).map(drop),
        Operation::SyncData => file?.sync_data(),
        Operation::SetLen => file?.set_len(1),
    }
}

#[test]
fn every_fault_happens_at_every_operation() {
    for operation in Operation::ALL {
        for effect in Effect::ALL {
            let what = format!("{effect:?} at {operation:?}");
            let model = Model::default();
            model.put("there", b"content".to_vec());
            operate(&model.copy(), operation).unwrap_or_else(|e| panic!("{operation:?}: {e}"));
            model.inject(Trigger::Nth(operation, 1), effect);
            let error = operate(&model, operation).expect_err(&what);
            assert_eq!(model.fired_as(effect), 1, "{what}");
            assert_eq!(model.is_off(), effect == Effect::PowerCut, "{what}");
            match effect {
                Effect::PowerCut => assert!(model.list().is_err(), "{what}"),
                Effect::Eio => assert_eq!(error.raw_os_error(), Some(5), "{what}"),
                Effect::Enospc => assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{what}"),
            }
        }
    }
}

#[test]
fn after_a_failed_sync_nothing_more_is_acknowledged_or_written() {
    for (operation, file, named) in [
        (
            Operation::SyncData,
            "0000000000000001.seg",
            "0000000000000001.seg",
        ),
        (Operation::SyncDirectory, "", "directory"),
        (
            Operation::Write,
            "0000000000000001.seg",
            "0000000000000001.seg",
        ),
        (
            Operation::Create,
            "0000000000000001.seg",
            "0000000000000001.seg",
        ),
    ] {
        let model = Model::default();
        let mut stepped = open(&model);
        append(&stepped, 3);
        let safe = stepped.spool.progress().safe;
        model.inject(Trigger::On(operation, file, 1), Effect::Eio);
        stepped.run_late();
        assert_eq!(model.fired_as(Effect::Eio), 1, "{operation:?}");
        let written = model.done(Operation::Write, "0000000000000001.seg");

        let progress = stepped.spool.progress();
        assert!(progress.failed, "{operation:?}");
        assert_eq!(progress.safe, safe, "{operation:?}");
        let failure = stepped.spool.failure().unwrap();
        assert!(failure.contains(named), "{failure}");
        let refused = stepped.spool.append(&message(b"more"));
        assert!(matches!(refused, Err(AppendError::Failed)), "{refused:?}");
        stepped.run_late();
        assert_eq!(stepped.spool.progress().safe, safe, "{operation:?}");
        assert_eq!(
            model.done(Operation::Write, "0000000000000001.seg"),
            written
        );
        assert_eq!(stepped.close().unwrap_err(), failure);
    }
}

#[test]
fn a_writer_thread_that_panics_is_a_failure_that_is_told_at_once() {
    let told = Arc::new(AtomicBool::new(false));
    let on_progress = {
        let told = Arc::clone(&told);
        move |progress: Progress| {
            assert!(progress.failed, "a defect");
            told.store(true, Ordering::Release);
        }
    };
    let model = Arc::new(Model::default());
    let (spool, _) = Spool::open(model, options(), on_progress).unwrap();
    spool.append(&message(b"x")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !told.load(Ordering::Acquire) {
        assert!(Instant::now() < deadline, "nobody was told within 30 s");
        std::thread::yield_now();
    }
    let refused = spool.append(&message(b"more"));
    assert!(matches!(refused, Err(AppendError::Failed)), "{refused:?}");
    assert!(spool.close().unwrap_err().contains("panicked"));
}

#[test]
fn an_error_on_reading_is_returned_and_is_not_taken_for_damage() {
    let model = Model::default();
    let mut stepped = open(&model);
    append(&stepped, 40);
    stepped.close().unwrap();
    let reads = {
        let counting = model.copy();
        drop(open(&counting));
        (counting.steps() - model.steps()).min(20)
    };
    assert!(reads > 10);

    let mut stepped = open(&model);
    model.inject(Trigger::Nth(Operation::Read, 1), Effect::Eio);
    let error = stepped.read_all().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
    stepped.spool.rewind();
    assert_eq!(stepped.read_all().unwrap().len(), 40);
    assert_eq!(stepped.spool.ledger().dropped(), 0);
    assert!(!stepped.spool.progress().failed);
    stepped.close().unwrap();

    for step in 1..=reads {
        let again = model.copy();
        again.inject(Trigger::Step(step), Effect::Eio);
        match Stepped::open(Arc::new(again.clone()), options()) {
            Err(OpenError::Io { file, source }) => {
                assert_eq!(source.raw_os_error(), Some(5), "{file}");
            }
            other => panic!("step {step}: {:?}", other.map(|(_, recovery)| recovery)),
        }
        let stepped = open(&again);
        assert_eq!(
            stepped.read_all().unwrap().len(),
            40,
            "after an error at step {step}"
        );
        assert_eq!(stepped.spool.ledger().dropped(), 0);
    }
}

#[test]
fn a_full_disk_withholds_acknowledgements_and_flow_resumes_when_there_is_room() {
    let model = Model::default();
    let mut stepped = open(&model);
    append(&stepped, 30);
    stepped.run();
    let safe = stepped.spool.progress().safe;
    model.set_capacity(Some(model.used_bytes() + 10));
    append(&stepped, 5);
    stepped.run();
    stepped.run_late();
    assert_eq!(stepped.spool.progress().safe, safe, "nothing is promised");
    assert!(
        !stepped.spool.progress().failed,
        "{:?}",
        stepped.spool.failure()
    );

    // What the cloud accepts makes room, in memory at once and on disk segment by segment.
    let deliveries = stepped.read_all().unwrap();
    assert_eq!(deliveries.len(), 35);
    let seqs: Vec<_> = deliveries.iter().take(30).map(|d| d.seq).collect();
    stepped.spool.settle(&seqs, Outcome::Delivered);
    stepped.run_late();
    assert_eq!(stepped.spool.progress().safe, safe + 5);
    assert!(stepped.spool.has_space());
    assert_eq!(stepped.close().unwrap().spooled, 5);
}

#[test]
fn on_a_full_disk_drop_newest_keeps_nobody_waiting_for_the_next_try() {
    let model = Model::default();
    let mut stepped = open_dropping_newest(&model, u64::MAX);
    append(&stepped, 3);
    stepped.run();
    model.set_capacity(Some(model.used_bytes()));
    append(&stepped, 1);
    stepped.run();
    for dropped in 1..5 {
        assert_eq!(stepped.spool.progress().safe, 4 + dropped);
        assert_eq!(stepped.spool.ledger().dropped_full, dropped);
        append(&stepped, 1);
    }
    model.set_capacity(None);
    stepped.run_late();
    append(&stepped, 1);
    stepped.run();
    assert_eq!(stepped.read_all().unwrap().len(), 4);
    assert_eq!(stepped.close().unwrap().spooled, 4);
}

#[test]
fn what_drop_newest_gives_up_takes_no_memory_and_its_count_survives_a_crash() {
    let model = Model::default();
    let mut stepped = open_dropping_newest(&model, 200);
    append(&stepped, 1_000);
    stepped.run();
    append(&stepped, 1_000);
    stepped.run();
    let ledger = stepped.spool.ledger();
    assert!((1..10).contains(&ledger.spooled), "{ledger:?}");
    assert_eq!(ledger.dropped_full, 2_000 - ledger.spooled);
    assert!(stepped.held_count() < 10, "{}", stepped.held_count());

    // Not closed: the process is killed.
    let again = open(&model.copy());
    assert_eq!(again.spool.ledger(), ledger);
    assert_eq!(again.read_all().unwrap().len() as u64, ledger.spooled);
}

#[test]
fn a_write_that_finds_the_disk_full_half_way_leaves_nothing_behind() {
    for created in [true, false] {
        let model = Model::default();
        let mut stepped = open(&model);
        if !created {
            append(&stepped, 2);
            stepped.run();
        }
        let before = model.content("0000000000000001.seg");
        append(&stepped, 3);
        let segment = Trigger::On(Operation::Write, "0000000000000001.seg", 1);
        model.inject(segment, Effect::Enospc);
        stepped.run();
        assert_eq!(model.fired_as(Effect::Enospc), 1);
        assert_eq!(model.content("0000000000000001.seg"), before);
        stepped.run_late();
        let all = if created { 3 } else { 5 };
        assert_eq!(stepped.spool.progress().safe, all + 1);
        drop(stepped);
        assert_eq!(open(&model).read_all().unwrap().len() as u64, all);
    }
}

#[test]
fn a_damaged_segment_is_removed_where_there_is_no_room_to_set_it_aside() {
    let model = Model::default();
    let mut stepped = open(&model);
    append(&stepped, 40);
    stepped.close().unwrap();
    let name = "0000000000000001.seg";
    let mut content = model.content(name).unwrap();
    content[100] ^= 1;
    model.put(name, content);

    let mut stepped = open(&model);
    let seqs: Vec<_> = (stepped.read_all().unwrap().iter().map(|d| d.seq)).collect();
    stepped.spool.settle(&seqs, Outcome::Delivered);
    model.inject(Trigger::Nth(Operation::Rename, 1), Effect::Enospc);
    stepped.run();
    assert_eq!(model.fired_as(Effect::Enospc), 1);
    assert_eq!(model.content(name), None);
    assert_eq!(stepped.close().unwrap().dropped_damaged, 1);
}

#[test]
fn drop_oldest_gives_up_a_segment_that_cannot_even_be_read() {
    let options = Options {
        bytes_max: 3_000,
        full: FullPolicy::DropOldest,
        ..options()
    };
    for settled in [&[][..], &[1, 2, 3]] {
        let model = Model::default();
        let mut stepped = Stepped::open(Arc::new(model.clone()), options).unwrap().0;
        while stepped.spool.append(&message(b"x")).is_ok() {
            stepped.step();
        }
        stepped.read(settled.len()).unwrap();
        stepped.spool.settle(settled, Outcome::Delivered);
        let before = stepped.spool.ledger();
        model.inject(Trigger::Nth(Operation::Read, 1), Effect::Eio);
        stepped.run();
        assert_eq!(model.fired_as(Effect::Eio), 1);
        assert_eq!(stepped.spool.failure(), None);
        stepped.spool.append(&message(b"x")).unwrap();
        let left = stepped.read_all().unwrap().len() as u64;
        let ledger = stepped.spool.ledger();
        assert_eq!(
            (ledger.accepted(), ledger.spooled),
            (before.accepted() + 1, left)
        );
        assert!(ledger.dropped_full > 0, "{ledger:?}");
    }
}

#[test]
fn a_spool_opens_on_a_full_disk() {
    let model = Model::default();
    let mut stepped = open(&model);
    append(&stepped, 10);
    stepped.close().unwrap();
    model.set_capacity(Some(model.used_bytes()));
    assert_eq!(open(&model).read_all().unwrap().len(), 10);

    let empty = Model::default();
    empty.set_capacity(Some(0));
    let mut stepped = open(&empty);
    append(&stepped, 1);
    stepped.run_late();
    assert!(
        !stepped.spool.progress().failed,
        "{:?}",
        stepped.spool.failure()
    );
    empty.set_capacity(None);
    stepped.run_late();
    assert_eq!(stepped.spool.progress().safe, 2);
}

#[test]
fn a_start_after_an_orderly_stop_writes_nothing() {
    let model = Model::default();
    let (spool, _) = Spool::open(Arc::new(model.clone()), options(), |_| {}).unwrap();
    spool.append(&message(b"1")).unwrap();
    spool.close().unwrap();
    drop(spool);
    model.inject(Trigger::Nth(Operation::Write, 1), Effect::Eio);
    let mut stepped = open(&model);
    assert_eq!(model.fired_as(Effect::Eio), 0);
    append(&stepped, 1);
    stepped.run();
    assert_eq!(
        model.fired_as(Effect::Eio),
        1,
        "the next write is a message's"
    );
}

#[test]
fn what_is_left_of_a_torn_cursor_is_written_over_before_numbers_are_given() {
    let model = Model::default();
    drop(open(&model).close());
    let orderly = model.content("cursor").unwrap();
    let torn = |slot: usize| {
        let mut content = orderly.clone();
        content.resize(2 * SLOT_BYTES, 0);
        content[slot * SLOT_BYTES + 20] ^= 1;
        model.put("cursor", content);
        drop(open(&model));
        let file = model.open("cursor").unwrap();
        read_slots(file.as_ref()).unwrap()
    };
    for slot in [0, 1] {
        assert!(!torn(slot).contains(&Slot::Damaged), "slot {slot}");
    }
}

#[test]
fn damaged_cursor_slots_are_both_written_over_once() {
    for (slots, found) in [
        ([1, 1], "both"),
        ([1, 0], "the first"),
        ([0, 1], "the second"),
    ] {
        let model = Model::default();
        let mut stepped = open(&model);
        append(&stepped, 1);
        stepped.run();
        drop(stepped);
        model.put("cursor", slots.map(|byte| [byte; SLOT_BYTES]).concat());
        assert_eq!(open(&model).read_all().unwrap().len(), 1);
        let file = model.open("cursor").unwrap();
        let slots = read_slots(file.as_ref()).unwrap();
        assert!(!slots.contains(&Slot::Damaged), "{found}: {slots:?}");
        let done = model.done(Operation::Write, "cursor");
        drop(open(&model));
        assert_eq!(model.done(Operation::Write, "cursor"), done, "{found}");
    }
}
