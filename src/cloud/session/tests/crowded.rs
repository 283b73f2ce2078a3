//! What becomes of the others when many messages are refused.

use bytes::Bytes;

use super::bed::*;
use super::*;

#[tokio::test(start_paused = true)]
async fn however_many_messages_of_one_topic_are_held_another_that_was_denied_is_tried_again() {
    let mut bed = Bed::of_rules("x => site/x, y => site/y");
    for _ in 0..150 {
        bed.append_to("x", b"x");
    }
    for _ in 0..10 {
        bed.append_to("y", b"y");
    }
    let repaired = Instant::now() + MINUTE;
    let does = move |payload: &Bytes| match payload.as_ref() {
        b"y" if Instant::now() > repaired => Accept,
        _ => Refuse(0x87),
    };
    let accepted = bed.connection(MqttVersion::V5, 4 * MINUTE, does).await;
    assert_eq!(accepted, ["y"; 10]);
    assert_eq!(bed.ledger(), (10, 0, 150));
}

#[tokio::test(start_paused = true)]
async fn a_hundred_messages_that_are_refused_without_a_reason_do_not_stop_the_others() {
    for rules in ["bad => site/bad, sensors => site/data", "# => site/data"] {
        let mut bed = Bed::of_rules(rules);
        for _ in 0..250 {
            bed.append_to("bad", b"bad");
        }
        for _ in 0..250 {
            bed.append(b"good");
        }
        let does = |payload: &Bytes| match payload.as_ref() {
            b"bad" => Refuse(0x80),
            _ => Accept,
        };
        let more = (HOLD / 2, 1);
        let (before, accepted) = bed
            .connection_with_more(HOLD + 5 * MINUTE, more, does)
            .await;
        assert_eq!(
            (before.delivered, before.dead_lettered, before.spooled),
            (250, 0, 250),
            "{rules}"
        );
        assert_eq!(accepted, ["good"; 251]);
        let (_, letters, _) = bed.ledger();
        assert!(letters >= 100, "{letters}");
        assert_eq!(bed.letters()[0].why, "refused");
    }
}

#[tokio::test(start_paused = true)]
async fn when_those_that_are_held_are_convicted_for_another_reason_the_others_have_their_turn() {
    let mut bed = Bed::new(TOPIC);
    for _ in 0..150 {
        bed.append(b"bad");
    }
    let start = Instant::now();
    let does = |_: &Bytes| Refuse(if start.elapsed() < MINUTE { 0x87 } else { 0x99 });
    bed.connection(MqttVersion::V5, 4 * MINUTE, does).await;
    assert_eq!(bed.ledger(), (0, 150, 0));
}

#[tokio::test(start_paused = true)]
async fn only_who_holds_a_connection_up_is_convicted_before_his_time() {
    const AHEAD_MAX: u64 = 1_000;
    let rules = "denied => site/denied, late => site/late, sensors => site/data";
    let mut bed = Bed::of_rules(rules);
    bed.session.ahead_of_held_max = AHEAD_MAX;
    let first = [
        bed.append_to("sensors", b"refused"),
        bed.append_to("denied", b"denied"),
    ];
    for _ in 0..AHEAD_MAX / 2 {
        bed.append(b"good");
    }
    let after = [
        bed.append_to("late", b"denied"),
        bed.append_to("sensors", b"refused"),
    ];
    bed.append_to("sensors", b"too fast");
    let mut too_fast = 0;
    let does = |payload: &Bytes| match payload.as_ref() {
        b"denied" => Refuse(0x87),
        b"refused" => Refuse(0x80),
        b"too fast" if too_fast < 3 => {
            too_fast += 1;
            Refuse(0x97)
        }
        _ => Accept,
    };
    let more = (MINUTE, AHEAD_MAX / 2 + 10);
    let (before, accepted) = bed.connection_with_more(3 * MINUTE, more, does).await;
    assert_eq!(before.dead_lettered, 0);
    assert_eq!(accepted.len() as u64, AHEAD_MAX + 11);
    let convicted: Vec<Seq> = bed.letters().iter().map(|letter| letter.seq).collect();
    assert_eq!(convicted, first, "and not {after:?}");
    assert_eq!(bed.ledger().2, 2);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_poison_does_not_stop_the_others() {
    const COUNT: u64 = 1_500;
    let mut bed = Bed::new(TOPIC);
    for number in 0..COUNT {
        bed.append(format!("bad {number}").as_bytes());
        bed.append(format!("good {number}").as_bytes());
    }
    let does = |payload: &Bytes| {
        if payload.starts_with(b"bad") {
            Refuse(0x90)
        } else {
            Accept
        }
    };
    let accepted = bed.connection(MqttVersion::V5, MINUTE, does).await;
    assert_eq!(accepted.len() as u64, COUNT);
    assert_eq!(bed.ledger(), (COUNT, COUNT, 0));
    assert_eq!(bed.letters().len() as u64, COUNT);
}
