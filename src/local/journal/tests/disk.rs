//! A disk that is full or fails, and how long the journal becomes.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::spool::record::Salt;
use crate::spool::storage::Directory;
use crate::spool::tests::model::{Effect, Operation, Trigger};

#[test]
fn a_full_disk_holds_nobody_up_and_is_counted() {
    let model = Model::default();
    let storage: Arc<dyn Storage> = Arc::new(model.clone());
    model.set_capacity(Some(0));
    let kept = open(&storage).away();
    kept.settle();
    assert_eq!(kept.counters.journal_failures.get(), 1);
    let before = kept.keeper.recorder.next();
    kept.publish("a", "x", QoS::AtLeastOnce, false);
    let after = kept.keeper.recorder.next();
    assert_eq!(after, before, "nothing waits while the disk fails");
    drop(kept.keeper);
}

#[test]
fn when_the_disk_has_room_again_everything_is_written() {
    let model = Model::default();
    let storage: Arc<dyn Storage> = Arc::new(model.clone());
    model.set_capacity(Some(0));
    let kept = open_retrying(place(&storage), Duration::from_millis(1)).away();
    kept.publish("a", "while it was full", QoS::AtLeastOnce, false);
    wait_until(|| kept.counters.journal_failures.get() > 0);
    model.set_capacity(None);
    wait_until(|| model.content("journal").is_some());
    kept.publish("a", "later", QoS::AtLeastOnce, false);
    drop(kept);
    assert_eq!(payloads(&model), ["while it was full", "later"]);
}

#[test]
fn a_disk_that_has_room_again_is_found_out_at_the_stop_at_the_latest() {
    let model = Model::default();
    let storage: Arc<dyn Storage> = Arc::new(model.clone());
    model.set_capacity(Some(0));
    let kept = open(&storage);
    kept.retain("a", "while it was full", QoS::AtLeastOnce);
    wait_until(|| kept.counters.journal_failures.get() > 0);
    model.set_capacity(None);
    drop(kept);
    assert_eq!(retained(&read(&model)), [("a", "while it was full")]);
}

#[test]
fn what_was_kept_before_the_directory_was_unusable_does_not_come_back() {
    let model = Model::default();
    let storage: Arc<dyn Storage> = Arc::new(model.clone());
    let kept = open(&storage);
    for topic in ["changed", "cleared"] {
        kept.retain(topic, "old", QoS::AtLeastOnce);
    }
    drop(kept);
    let is_usable = Arc::new(AtomicBool::new(false));
    let place = {
        let (storage, is_usable) = (Arc::clone(&storage), Arc::clone(&is_usable));
        Place::new(move || {
            let usable = is_usable.load(Ordering::Acquire);
            let error = || io::Error::other("it cannot be opened");
            usable.then(|| Arc::clone(&storage)).ok_or_else(error)
        })
    };
    let kept = open_retrying(place, Duration::from_millis(1));
    kept.retain("changed", "new", QoS::AtLeastOnce);
    kept.retain("cleared", "", QoS::AtLeastOnce);
    wait_until(|| kept.counters.journal_failures.get() > 1);
    assert_eq!(retained(&read(&model)).len(), 2, "the old ones");
    is_usable.store(true, Ordering::Release);
    wait_until(|| model.content("journal.damaged").is_some());
    drop(kept);
    assert_eq!(retained(&read(&model)), [("changed", "new")]);
}

/// A journal of three retained messages.
fn three(directory: &Path) -> Vec<u8> {
    let storage: Arc<dyn Storage> = Arc::new(Directory::open(directory).unwrap());
    let kept = open(&storage);
    for topic in ["a", "b", "c"] {
        kept.retain(topic, "= payload", QoS::AtLeastOnce);
    }
    drop(kept);
    fs::read(directory.join("journal")).unwrap()
}

fn flip_the_second(journal: &mut [u8]) {
    let at = journal.windows(10).position(|bytes| bytes == b"b= payload");
    journal[at.unwrap()] ^= 0x80;
}

#[test]
fn damage_is_set_aside_and_counted_and_the_rest_goes_on() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(Damage, &[&str]); 3] = [
        (|bytes| flip_the_second(bytes), &["a", "c"]),
        (|bytes| bytes.fill(0), &[]),
        (
            |bytes| {
                let version = Change::Version(99).encode(0, &clocks(1), Salt::random());
                *bytes = version.unwrap();
            },
            &[],
        ),
    ];
    for (damage, left) in damages {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = three(directory.path());
        damage(&mut bytes);
        fs::write(directory.path().join("journal"), &bytes).unwrap();
        for damaged in [1, 0] {
            let storage: Arc<dyn Storage> = Arc::new(Directory::open(directory.path()).unwrap());
            let kept = open(&storage);
            assert_eq!(kept.counters.journal_damaged.get(), damaged);
            drop(kept);
            let image = place(&storage).read(&clocks(1)).unwrap().unwrap();
            let topics = retained(&image).into_iter().map(|(topic, _)| topic);
            assert_eq!(topics.collect::<Vec<_>>(), left);
        }
        let aside = fs::read(directory.path().join("journal.damaged"));
        assert_eq!(aside.unwrap(), bytes);
    }
}

#[test]
fn a_journal_longer_than_any_is_set_aside_unread() {
    let directory = tempfile::tempdir().unwrap();
    three(directory.path());
    let path = directory.path().join("journal");
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(1 << 30).unwrap();
    let storage: Arc<dyn Storage> = Arc::new(Directory::open(directory.path()).unwrap());
    let kept = open(&storage);
    assert_eq!(kept.counters.journal_failures.get(), 1);
    kept.retain("d", "later", QoS::AtLeastOnce);
    drop(kept);
    let image = place(&storage).read(&clocks(1)).unwrap().unwrap();
    assert_eq!(retained(&image), [("d", "later")]);
    let aside = fs::metadata(directory.path().join("journal.damaged"));
    assert_eq!(aside.unwrap().len(), 1 << 30);
}

#[test]
fn a_power_cut_while_damage_is_set_aside_costs_nothing_more() {
    let directory = tempfile::tempdir().unwrap();
    let mut bytes = three(directory.path());
    flip_the_second(&mut bytes);
    for operation in [
        Operation::Rename,
        Operation::SyncDirectory,
        Operation::SyncData,
    ] {
        for nth in 1..=2 {
            for seed in 0..16 {
                let model = Model::default();
                let file = model.create("journal").unwrap();
                file.write_all_at(&bytes, 0).unwrap();
                file.sync_data().unwrap();
                model.sync_directory().unwrap();
                model.inject(Trigger::Nth(operation, nth), Effect::PowerCut);
                let storage: Arc<dyn Storage> = Arc::new(model.clone());
                drop(open(&storage));
                model.clear_faults();
                model.reboot(seed);
                let image = read(&model);
                let left = [("a", "= payload"), ("c", "= payload")];
                assert_eq!(retained(&image), left, "{operation:?} {nth} {seed}");
            }
        }
    }
}

#[test]
fn a_journal_that_has_grown_is_written_afresh() {
    const TIMES: u32 = 1_000;
    let payload = "x".repeat(4_096);
    let model = Model::default();
    let storage: Arc<dyn Storage> = Arc::new(model.clone());
    let kept = open(&storage).away();
    let link = Arc::<Link>::default();
    let (session, _) = kept.connect(&link);
    let mut longest = 0;
    for _ in 0..TIMES {
        kept.publish("a", &payload, QoS::AtLeastOnce, false);
        kept.settle();
        let (id, ..) = kept.next(session, &link).unwrap();
        let mut broker = kept.broker.lock().unwrap();
        broker.session(session, &link).unwrap().puback(id);
        longest = longest.max(model.content("journal").map_or(0, |bytes| bytes.len()));
    }
    kept.publish("a", "the last", QoS::AtLeastOnce, false);
    drop(kept);
    assert!(longest < 1_100_000, "{longest} bytes");
    assert!(longest > 500_000, "not each time: {longest} bytes");
    assert_eq!(payloads(&model), ["the last"]);
}

#[test]
fn nobody_waits_for_changes_that_the_memory_had_no_room_for() {
    let model = Model::default();
    let storage: Arc<dyn Storage> = Arc::new(model.clone());
    let kept = open(&storage).away();
    kept.publish("a", "x", QoS::AtLeastOnce, false);
    {
        // The keeper cannot look at the broker meanwhile.
        let _broker = kept.broker.lock().unwrap();
        for _ in 0..100 {
            let delivery = delivery(&"x".repeat(200_000));
            (kept.keeper.recorder.record(Change::Queued(99, 1, delivery))).expect("a number");
        }
    }
    kept.settle();
    drop(kept);
    assert_eq!(payloads(&model), ["x"]);
}

#[test]
fn whatever_fails_what_was_kept_is_there_in_order() {
    for nth in 1..=3 {
        for operation in [
            Operation::Write,
            Operation::SyncData,
            Operation::Rename,
            Operation::SyncDirectory,
            Operation::Create,
        ] {
            for effect in [Effect::Eio, Effect::Enospc, Effect::PowerCut] {
                keeps_its_word(Trigger::Nth(operation, nth), effect);
            }
        }
    }
}

fn keeps_its_word(trigger: Trigger, effect: Effect) {
    for seed in 0..8 {
        let model = Model::default();
        let storage: Arc<dyn Storage> = Arc::new(model.clone());
        model.inject(trigger, effect);
        let kept = open(&storage).away();
        let mut promised = 0;
        for count in 0..5_usize {
            kept.retain("a", &count.to_string(), QoS::AtLeastOnce);
            kept.settle();
            if kept.counters.journal_failures.get() == 0 {
                promised = count + 1;
            }
        }
        drop(kept);
        model.clear_faults();
        model.reboot(seed);
        // The retained one of each message is written first.
        let image = read(&model);
        let found = payloads_of(read(&model));
        let promised_is_kept = (0..promised).all(|n| found.contains(&n.to_string()));
        assert!(
            promised_is_kept,
            "{trigger:?} {effect:?} {seed}: {found:?} of {promised}"
        );
        if image.damaged > 0 {
            // Of the last write, which nobody was told of, what comes later is there without what comes before.
            assert_eq!((effect, image.damaged), (Effect::PowerCut, 1));
            continue;
        }
        let last = retained(&image).first().map(|(_, payload)| payload.parse());
        let kept_through = last.map_or(0, |last: Result<usize, _>| last.unwrap() + 1);
        assert!(
            kept_through == found.len() || kept_through == found.len() + 1,
            "{trigger:?} {effect:?} {seed}: {kept_through} of {found:?}"
        );
        let in_order = found
            .iter()
            .enumerate()
            .all(|(at, payload)| *payload == at.to_string());
        assert!(in_order, "{trigger:?} {effect:?} {seed}: {found:?}");
    }
}
