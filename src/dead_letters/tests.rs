//! Letters on real directories, and on a directory that can lose power or be full.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::clock::Timestamp;
use crate::spool::Seq;
use crate::spool::tests::message;
use crate::spool::tests::model::{Effect, Model, Operation, Trigger};

const LIMIT: u64 = 1 << 20;
const NOW: Timestamp = Timestamp {
    unix_ms: 1_795_421_200_000,
    clock_set: true,
};

fn letter_of(seq: Seq, payload: &[u8]) -> Letter {
    let mut message = message(payload);
    message.received.unix_ms += seq;
    let reason = Reason {
        why: "refused",
        words: "the cloud refused it".to_owned(),
    };
    Letter::new(seq, &message, "site/data", reason, NOW)
}

fn letter(seq: Seq) -> Letter {
    letter_of(seq, format!("payload {seq}").as_bytes())
}

fn letters(seqs: impl IntoIterator<Item = Seq>) -> Vec<Letter> {
    seqs.into_iter().map(letter).collect()
}

fn seqs(directory: &Path) -> Vec<Seq> {
    let shelf = Shelf::new(directory);
    let entries = shelf.entries().unwrap();
    let read = entries.iter().map(|entry| shelf.read(entry).unwrap());
    read.map(|opened| opened.unwrap().header.seq).collect()
}

fn on_model(model: &Model, bytes_max: u64) -> DeadLetters {
    let model = model.clone();
    DeadLetters::with_storage(bytes_max, move || Ok(Arc::new(model.clone())))
}

#[test]
fn what_is_put_can_be_listed_read_and_removed_while_the_relay_has_it_open() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join(DIRECTORY);
    let shelf = Shelf::new(&directory);
    assert_eq!(shelf.entries().unwrap(), []);
    let dead_letters = DeadLetters::new(directory.clone(), LIMIT);
    dead_letters.put(&letters([12, 7])).unwrap();
    assert_eq!(seqs(&directory), [7, 12]);
    let found = shelf.find(&["12".to_owned()]).unwrap();
    let opened = shelf.read(&found[0]).unwrap().unwrap();
    assert_eq!(opened.payload, b"payload 12");
    assert_eq!(opened.header.reason, "the cloud refused it");
    assert!(shelf.remove(&found[0]).unwrap());
    assert!(!shelf.remove(&found[0]).unwrap());
    assert_eq!(shelf.read(&found[0]).unwrap(), None);
    shelf.sync().unwrap();
    dead_letters.put(&letters([13])).unwrap();
    assert_eq!(seqs(&directory), [7, 13]);
}

#[test]
fn a_letter_is_found_by_its_number_or_its_id_and_two_with_one_number_by_id_only() {
    let dir = tempfile::tempdir().unwrap();
    let dead_letters = DeadLetters::new(dir.path().to_owned(), LIMIT);
    let twins = [letter_of(7, b"one"), letter_of(7, b"other"), letter(70)];
    dead_letters.put(&twins).unwrap();
    let shelf = Shelf::new(dir.path());
    let find = |id: &str| shelf.find(&[id.to_owned()]);
    assert!(matches!(find("8"), Err(ShelfError::Unknown { .. })));
    let Err(ShelfError::Ambiguous { ids, .. }) = find("7") else {
        panic!("7 is ambiguous");
    };
    assert_eq!(ids.len(), 2);
    assert_eq!(find(&ids[1]).unwrap()[0].id, ids[1]);
    assert_eq!(find("70").unwrap().len(), 1);
}

#[test]
fn the_same_message_again_makes_no_second_letter() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let dead_letters = DeadLetters::new(dir.path().to_owned(), LIMIT);
        dead_letters.put(&letters([7])).unwrap();
    }
    assert_eq!(seqs(dir.path()), [7]);
}

#[test]
fn a_start_clears_away_what_is_unfinished_and_counts_whole_blocks() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("1795421109000-9-00000000.letter.tmp"),
        b"half",
    )
    .unwrap();
    let dead_letters = DeadLetters::new(dir.path().to_owned(), LIMIT);
    assert_eq!(dead_letters.open().unwrap(), Waiting::default());
    dead_letters.put(&letters([1, 2])).unwrap();
    let waiting = Waiting {
        letters: 2,
        bytes: 8_192,
    };
    assert_eq!(dead_letters.open().unwrap(), waiting);
    let files = fs::read_dir(dir.path()).unwrap();
    let unfinished = files.filter(|file| {
        let name = file.as_ref().unwrap().file_name();
        name.to_string_lossy().ends_with(".tmp")
    });
    assert_eq!(unfinished.count(), 0);
}

#[test]
fn a_damaged_letter_is_called_damaged_and_the_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let dead_letters = DeadLetters::new(dir.path().to_owned(), LIMIT);
    dead_letters.put(&letters([1, 2])).unwrap();
    let shelf = Shelf::new(dir.path());
    let entries = shelf.entries().unwrap();
    let path = dir.path().join(format!("{}.letter", entries[0].id));
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let error = shelf.read(&entries[0]).unwrap_err().to_string();
    assert!(
        error.contains(&entries[0].id) && error.contains("checksum"),
        "{error}"
    );
    assert!(shelf.read(&entries[1]).unwrap().is_some());
}

#[test]
fn when_full_the_oldest_go_and_are_counted_and_what_others_removed_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let dead_letters = DeadLetters::new(dir.path().to_owned(), 4 * 4_096);
    dead_letters.put(&letters(1..=4)).unwrap();
    assert_eq!(dead_letters.given_up(), 0);
    dead_letters.put(&letters([5, 6])).unwrap();
    assert_eq!(seqs(dir.path()), [3, 4, 5, 6]);
    assert_eq!(dead_letters.given_up(), 2);
    let shelf = Shelf::new(dir.path());
    for entry in shelf.find(&["5".to_owned(), "6".to_owned()]).unwrap() {
        shelf.remove(&entry).unwrap();
    }
    dead_letters.put(&letters([7, 8])).unwrap();
    assert_eq!(seqs(dir.path()), [3, 4, 7, 8]);
    assert_eq!(dead_letters.given_up(), 2);
}

#[test]
fn letters_that_have_no_room_together_take_each_others_and_never_more() {
    let dir = tempfile::tempdir().unwrap();
    let dead_letters = DeadLetters::new(dir.path().to_owned(), 4 * 4_096);
    dead_letters.put(&letters([1, 2])).unwrap();
    dead_letters.put(&letters(3..=8)).unwrap();
    assert_eq!(seqs(dir.path()), [5, 6, 7, 8]);
    assert_eq!(dead_letters.given_up(), 4);
}

#[test]
fn many_letters_share_one_sync_of_the_directory() {
    let model = Model::default();
    on_model(&model, LIMIT).put(&letters(1..=50)).unwrap();
    assert_eq!(model.done(Operation::SyncDirectory, ""), 1);
}

#[test]
fn whatever_the_power_does_what_was_put_is_there_whole_and_nothing_else() {
    let batch = letters(1..=3);
    let all_steps = {
        let model = Model::default();
        on_model(&model, LIMIT).put(&batch).unwrap();
        model.steps()
    };
    for step in 1..=all_steps + 1 {
        for seed in 0..20 {
            let model = Model::default();
            let dead_letters = on_model(&model, LIMIT);
            dead_letters.put(&letters([9])).unwrap();
            model.inject(Trigger::Step(step), Effect::PowerCut);
            let put = dead_letters.put(&batch);
            model.reboot(seed);
            check_sound(&model, &batch, put.is_ok());
            // As the relay does, for the spool still has them.
            on_model(&model, LIMIT).put(&batch).unwrap();
            check_sound(&model, &batch, true);
        }
    }
}

/// Every letter that is there is whole, letter 9 is, and `batch` is too, if `put`.
fn check_sound(model: &Model, batch: &[Letter], put: bool) {
    let mut expected = vec![letter(9)];
    expected.extend_from_slice(batch);
    for (index, letter) in expected.iter().enumerate() {
        match model.content(&letter.name) {
            Some(bytes) => assert_eq!(bytes, letter.bytes),
            None => assert!(index > 0 && !put, "{} is lost", letter.name),
        }
    }
}

#[test]
fn a_failure_at_any_step_is_an_error_and_the_next_try_succeeds() {
    let batch = letters(1..=2);
    for effect in [Effect::Eio, Effect::Enospc] {
        for step in 1.. {
            let model = Model::default();
            let dead_letters = on_model(&model, LIMIT);
            model.inject(Trigger::Step(step), effect);
            let put = dead_letters.put(&batch);
            if model.fired_as(effect) == 0 {
                assert!(step > 8, "{step}");
                break;
            }
            assert!(put.is_err(), "{step}");
            dead_letters.put(&batch).unwrap();
            for letter in &batch {
                assert_eq!(model.content(&letter.name).as_ref(), Some(&letter.bytes));
            }
            let bytes = batch.iter().map(Letter::len_bytes).sum::<usize>();
            assert_eq!(model.used_bytes(), bytes);
        }
    }
}

#[test]
fn a_disk_that_is_full_takes_nothing_and_is_left_as_it_was() {
    let model = Model::default();
    let dead_letters = on_model(&model, LIMIT);
    dead_letters.put(&letters([1])).unwrap();
    let used = model.used_bytes();
    model.set_capacity(Some(used + 10));
    let error = dead_letters.put(&letters([2])).unwrap_err().to_string();
    assert!(
        error.contains("cannot write") && error.contains("-2-"),
        "{error}"
    );
    assert_eq!(model.used_bytes(), used);
    model.set_capacity(None);
    dead_letters.put(&letters([2])).unwrap();
}
