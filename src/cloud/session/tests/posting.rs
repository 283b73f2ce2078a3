//! The way of the convicted to the dead letters: a crash in between, and a disk that refuses.

use std::fs;

use tracing::Level;

use super::bed::*;
use super::*;
use crate::dead_letters::{Letter, Reason};
use crate::logging::capture::Captured;

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

#[tokio::test(start_paused = true)]
async fn that_a_letter_which_cannot_be_written_stops_the_others_in_the_end_is_told_once() {
    const AHEAD_MAX: u64 = 100;
    let (log, _guard) = Captured::start(Level::WARN);
    let mut bed = Bed::new(TOPIC);
    bed.session.ahead_of_held_max = AHEAD_MAX;
    fs::write(bed.letters_path(), b"in the way").unwrap();
    bed.append(&vec![b'x'; 204_800]);
    let more = (MINUTE, 3 * AHEAD_MAX);
    bed.connection_with_more(5 * MINUTE, more, |_| Accept).await;
    let (delivered, letters, spooled) = bed.ledger();
    assert_eq!((letters, delivered + spooled), (0, 3 * AHEAD_MAX + 1));
    assert!(spooled > 1, "{spooled}");
    let text = log.text();
    assert_eq!(
        text.matches("no new messages are sent").count(),
        1,
        "{text}"
    );
    fs::remove_file(bed.letters_path()).unwrap();
    bed.connection(MqttVersion::V5, 3 * MINUTE, |_| Accept)
        .await;
    assert_eq!(bed.ledger(), (3 * AHEAD_MAX, 1, 0));
}
