//! The way of the convicted to the dead letters: a crash in between, and a disk that refuses.

use std::fs;

use super::bed::*;
use super::*;
use crate::dead_letters::{Letter, Reason};

#[tokio::test(start_paused = true)]
async fn after_a_crash_between_letter_and_settlement_there_is_one_letter_counted_once() {
    let mut bed = Bed::new(TOPIC);
    let payload = vec![b'x'; 204_800];
    let seq = bed.append(&payload);
    let reason = Reason {
        why: "too-large",
        words: "before the crash".to_owned(),
    };
    let letter = Letter::new(seq, &message(&payload), TOPIC, reason, clock::now());
    DeadLetters::new(bed.letters_path(), 1 << 30)
        .put(&[letter])
        .unwrap();
    assert_eq!((bed.ledger(), bed.letters().len()), ((0, 0, 1), 1));
    bed.connection(MqttVersion::V5, MINUTE, |_| Accept).await;
    assert_eq!((bed.ledger(), bed.letters().len()), ((0, 1, 0), 1));
}

#[tokio::test(start_paused = true)]
async fn while_the_disk_refuses_dead_letters_others_flow_and_later_they_are_written() {
    let mut bed = Bed::new(TOPIC);
    fs::write(bed.letters_path(), b"in the way").unwrap();
    bed.append(&vec![b'x'; 204_800]);
    bed.append(b"good");
    let accepted = bed.connection(MqttVersion::V5, MINUTE, |_| Accept).await;
    assert_eq!(accepted, ["good"]);
    assert_eq!(bed.ledger(), (1, 0, 1));
    fs::remove_file(bed.letters_path()).unwrap();
    bed.connection(MqttVersion::V5, 3 * MINUTE, |_| Accept)
        .await;
    assert_eq!(bed.ledger(), (1, 1, 0));
    assert_eq!(bed.letters().len(), 1);
}
