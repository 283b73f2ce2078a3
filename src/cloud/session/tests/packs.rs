//! What becomes of packs: accepted, refused, and with one message in them that the cloud does not take.

use std::future::poll_fn;

use bytes::Bytes;

use super::bed::{Bed, Does, parse, take_packet};
use super::*;

/// Long enough for any pack to be closed and answered.
const TIME: Duration = Duration::from_secs(30);
/// Reason codes of PUBACK.
const QUOTA_EXCEEDED: u8 = 0x97;
const PAYLOAD_FORMAT_INVALID: u8 = 0x99;
const TOPIC_NAME_INVALID: u8 = 0x90;

fn bed() -> Bed {
    let rules = "sensors => site/data {pack:json}";
    Bed::of_rules(rules)
}

/// Messages `0` to `9`, of which the sixth is "bad".
fn with_a_bad_one(bed: &Bed) {
    for n in 0..10 {
        let payload = if n == 5 {
            "\"bad\"".to_owned()
        } else {
            n.to_string()
        };
        bed.append(payload.as_bytes());
    }
}

/// Accepts all but what is bad.
fn but_the_bad(does: Does) -> impl FnMut(&Bytes) -> Does {
    move |payload| {
        let is_bad = payload.windows(3).any(|part| part == b"bad");
        if is_bad { does } else { Does::Accept }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pack_is_settled_as_a_whole() {
    let mut bed = bed();
    for payload in ["1", "{\"a\":2}", "no json", "4"] {
        bed.append(payload.as_bytes());
    }
    let accepted = bed
        .connection(MqttVersion::V5, TIME, |_| Does::Accept)
        .await;
    assert_eq!(accepted, ["[1,{\"a\":2}]", "no json", "[4]"]);
    assert_eq!(bed.ledger(), (4, 0, 0));
    assert_eq!(bed.session.savings.saved, 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_never_acknowledged_stays_in_the_spool_and_is_packed_again() {
    let mut bed = bed();
    bed.append(b"1");
    bed.append(b"2");
    let mut closed = 0;
    let accepted = bed
        .connection(MqttVersion::V5, TIME, |_| {
            closed += 1;
            Does::Close
        })
        .await;
    assert_eq!((accepted.len(), closed, bed.ledger()), (0, 1, (0, 0, 2)));
    bed.append(b"3");
    bed.append(b"4");
    let accepted = bed
        .connection(MqttVersion::V5, TIME, |_| Does::Accept)
        .await;
    // Those of the pack that may have ended the connection go alone.
    assert_eq!(accepted, ["1", "2", "[3,4]"]);
    assert_eq!(bed.ledger(), (4, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_pack_that_comes_too_fast_is_sent_again_as_it_was() {
    let mut bed = bed();
    bed.append(b"1");
    bed.append(b"2");
    let mut tries = 0;
    let accepted = bed
        .connection(MqttVersion::V5, TIME, |_| {
            tries += 1;
            if tries <= 2 {
                Does::Refuse(QUOTA_EXCEEDED)
            } else {
                Does::Accept
            }
        })
        .await;
    assert_eq!((accepted, tries), (vec![Bytes::from("[1,2]")], 3));
    assert_eq!(bed.ledger(), (2, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_comes_too_fast_stays_before_the_later_ones_of_its_topic_though_an_older_pack_is_in_line()
 {
    let rules = "sensors => site/data {pack:json}, plain => site/plain";
    let mut bed = Bed::of_rules(rules);
    bed.append(b"1");
    for payload in [b"a", b"b", b"c"] {
        bed.append_to("plain", payload);
    }
    let (mut cloud, stream) = duplex(1024 * 1024);
    let connection = Connection {
        stream,
        version: MqttVersion::V5,
        terms: Terms {
            receive_max: 2,
            ..Terms::default()
        },
        received: BytesMut::new(),
        with_will: false,
    };
    let stop = CancellationToken::new();
    let serve = async {
        let mut received = BytesMut::new();
        let mut sent = Vec::new();
        while sent.len() < 5 {
            while let Some(mut packet) = take_packet(&mut received) {
                let [_, id, payload] = parse(MqttVersion::V5, &mut packet);
                sent.push(payload);
                if sent.len() == 2 {
                    // Until the pack is in line, behind "c".
                    sleep(Duration::from_secs(5)).await;
                    let refusal = [0x40, 3, 0, 2, QUOTA_EXCEEDED];
                    cloud.write_all(&refusal).await.unwrap();
                    cloud.write_all(&[0x40, 2, 0, 1]).await.unwrap();
                } else if sent.len() > 2 {
                    cloud.write_all(&[0x40, 2, 0, id[0]]).await.unwrap();
                }
            }
            if sent.len() < 5 {
                cloud.read_buf(&mut received).await.unwrap();
            }
        }
        drop(cloud);
        sent
    };
    let (_, sent) = tokio::join!(bed.session.run(connection, &stop), serve);
    assert_eq!(sent, ["a", "b", "b", "c", "[1]"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_pack_is_taken_apart_and_only_its_bad_message_becomes_a_dead_letter() {
    for reason in [PAYLOAD_FORMAT_INVALID, TOPIC_NAME_INVALID] {
        let mut bed = bed();
        with_a_bad_one(&bed);
        let accepted = bed
            .connection(MqttVersion::V5, TIME, but_the_bad(Does::Refuse(reason)))
            .await;
        let expected: Vec<_> = (0..10).filter(|n| *n != 5).map(|n| n.to_string()).collect();
        assert_eq!(accepted, expected);
        assert_eq!(bed.ledger(), (9, 1, 0));
        assert_eq!(bed.letters()[0].payload_bytes, 5);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pack_that_ends_connections_is_taken_apart_and_only_its_bad_message_becomes_a_dead_letter()
 {
    let mut bed = bed();
    with_a_bad_one(&bed);
    let mut accepted = Vec::new();
    for _ in 0..30 {
        let more = bed
            .connection(MqttVersion::V311, TIME, but_the_bad(Does::Close))
            .await;
        accepted.extend(more);
        if bed.ledger().2 == 0 {
            break;
        }
    }
    assert_eq!(bed.ledger(), (9, 1, 0));
    assert_eq!(bed.letters()[0].payload_bytes, 5);
    accepted.sort_unstable();
    let expected: Vec<_> = (0..10).filter(|n| *n != 5).map(|n| n.to_string()).collect();
    assert_eq!(accepted, expected);
}

#[tokio::test(start_paused = true)]
async fn a_denied_pack_is_taken_apart_however_much_flows_beside_it() {
    let rules = "bad => site/bad {pack:json}, sensors => site/data";
    let mut bed = Bed::of_rules(rules);
    for _ in 0..3 {
        bed.append_to("bad", b"\"bad\"");
    }
    let store = bed.store.clone();
    let flow = tokio::spawn(async move {
        loop {
            store.append(&message(b"good")).unwrap();
            sleep(Duration::from_millis(50)).await;
        }
    });
    for _ in 0..50 {
        bed.connection(MqttVersion::V311, TIME, but_the_bad(Does::Close))
            .await;
        if bed.ledger().1 == 3 {
            break;
        }
    }
    flow.abort();
    assert_eq!(bed.ledger().1, 3);
    bed.connection(MqttVersion::V311, TIME, |_| Does::Accept)
        .await;
    assert_eq!(bed.ledger().2, 0);
}

#[tokio::test(start_paused = true)]
async fn a_pack_that_is_due_while_an_errand_has_right_of_way_costs_no_turns() {
    const POLLS_MAX: u32 = 1_000;
    let mut bed = bed();
    bed.session.aside = Aside::new(&extras().0);
    bed.append(b"1");
    let (mut cloud, stream) = duplex(1024 * 1024);
    let connection = Connection {
        stream,
        version: MqttVersion::V311,
        terms: Terms::default(),
        received: BytesMut::new(),
        with_will: false,
    };
    let stop = CancellationToken::new();
    let start = Instant::now();
    let mut run = std::pin::pin!(bed.session.run(connection, &stop));
    let mut polls = 0;
    let run = poll_fn(move |context| {
        polls += 1;
        assert!(polls < POLLS_MAX, "it turns without a pause");
        run.as_mut().poll(context)
    });
    let mut received = vec![0; SUBSCRIBE.len() + publish_len("[1]".len())];
    let read = async {
        cloud.read_exact(&mut received).await.unwrap();
        cloud.shutdown().await.unwrap();
        start.elapsed()
    };
    let (_, time) = tokio::join!(run, read);
    assert_eq!(time.as_secs(), 10, "when the errand was given up");
}
