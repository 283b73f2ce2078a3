//! What becomes of a message that the cloud refuses, or that its rules forbid.

use bytes::Bytes;
use tracing::Level;

use super::bed::*;
use super::*;
use crate::logging::capture::Captured;

#[tokio::test(start_paused = true)]
async fn what_the_rules_forbid_is_not_sent_but_kept_with_the_reason_and_the_others_flow() {
    for version in VERSIONS {
        let mut bed = Bed::new(TOPIC);
        bed.append(b"one");
        bed.append(&vec![b'x'; 204_800]);
        bed.append(b"two");
        let accepted = bed.connection(version, MINUTE, |_| Accept).await;
        assert_eq!(accepted, ["one", "two"]);
        assert_eq!(bed.ledger(), (2, 1, 0));
        let letters = bed.letters();
        assert_eq!((letters.len(), letters[0].seq), (1, 2));
        assert_eq!(
            letters[0].reason,
            "payload of 204800 bytes: AWS IoT Core takes at most 131072"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_cloud_topic_with_too_many_slashes_is_never_tried() {
    for version in VERSIONS {
        let mut bed = Bed::new("0/1/2/3/4/5/6/7/8/9");
        bed.append(b"one");
        let accepted = bed.connection(version, MINUTE, |_| Accept).await;
        assert_eq!(accepted.len(), 0);
        assert_eq!(bed.ledger(), (0, 1, 0));
        assert!(bed.letters()[0].reason.contains("topic has 9 slashes"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_cloud_refuses_for_good_is_a_dead_letter_at_once() {
    for reason in [0x90, 0x99] {
        let mut bed = Bed::new(TOPIC);
        bed.append(b"bad");
        bed.append(b"good");
        let does = |payload: &Bytes| match payload.as_ref() {
            b"bad" => Refuse(reason),
            _ => Accept,
        };
        bed.connection(MqttVersion::V5, MINUTE, does).await;
        assert_eq!(bed.ledger(), (1, 1, 0));
        let letter = &bed.letters()[0];
        let said = format!("({reason:#x})");
        assert!(letter.reason.contains(&said), "{letter:?}");
        assert_eq!(
            (letter.why.as_str(), letter.cloud_topic.as_str()),
            ("refused", TOPIC)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_denied_message_is_held_for_its_time_and_is_a_dead_letter_then_if_others_are_accepted() {
    let mut bed = Bed::new(TOPIC);
    bed.append(b"bad");
    let does = |payload: &Bytes| match payload.as_ref() {
        b"bad" => Refuse(0x87),
        _ => Accept,
    };
    let more = (HOLD / 2, 1);
    let (before, accepted) = bed
        .connection_with_more(HOLD + 2 * MINUTE, more, does)
        .await;
    assert_eq!((before.spooled, before.dead_lettered), (1, 0));
    assert_eq!(accepted, ["good"]);
    assert_eq!(bed.ledger(), (1, 1, 0));
    let letter = &bed.letters()[0];
    assert_eq!(letter.why, "denied");
    assert!(
        letter.reason.contains("iot:Publish to \"site/data\""),
        "{letter:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn while_everything_is_refused_nothing_is_convicted_and_then_everything_arrives_once() {
    const COUNT: usize = 1_000;
    for reason in [0x87, 0x80, 0x97] {
        let (log, _guard) = Captured::start(Level::WARN);
        let mut bed = Bed::new(TOPIC);
        for number in 0..COUNT {
            bed.append(number.to_string().as_bytes());
        }
        let repaired = Instant::now() + 30 * HOLD;
        let does = move |_: &Bytes| {
            if Instant::now() < repaired {
                Refuse(reason)
            } else {
                Accept
            }
        };
        let accepted = bed.connection(MqttVersion::V5, 31 * HOLD, does).await;
        let mut numbers: Vec<usize> = (accepted.iter())
            .map(|payload| std::str::from_utf8(payload).unwrap().parse().unwrap())
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..COUNT).collect::<Vec<_>>(), "{reason:#x}");
        assert_eq!(bed.ledger(), (1_000, 0, 0));
        let text = log.text();
        let told = text.matches("the cloud denies everything").count();
        assert_eq!(told, usize::from(reason == 0x87), "{text}");
    }
}
