//! What ordinary clients do and rumqttd 0.20's own listener dies of, or loses data by. (A port that is taken and a
//! PUBACK that comes too early are the others: see `listening` and `promise`.)

use super::wire::{Connect, puback, publish};
use super::*;

#[tokio::test(start_paused = true)]
async fn a_topic_that_begins_with_a_letter_beyond_ascii_is_a_topic_like_any_other() {
    let bench = Bench::new();
    let mut subscriber = bench.subscriber("s", "é/+", 1).await;
    let mut client = bench.client("c").await;
    for topic in ["é/1", "日/1", "é/日"] {
        client.send(&publish(topic, "x", 1, 1)).await;
        client.expect(&puback(1)).await;
    }
    subscriber.expect(&publish("é/1", "x", 1, 1)).await;
    subscriber.expect(&publish("é/日", "x", 1, 2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_id_of_special_characters_may_come_again_and_again() {
    let bench = Bench::new();
    for id in ["+", "#", "$SYS", "a/b", "a+#/$"] {
        for _ in 0..3 {
            let first = bench.client(id).await;
            let mut second = bench.client(id).await;
            second.ping().await;
            drop(first.stream);
        }
    }
    let mut other = bench.client("other").await;
    other.ping().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_connects_and_breaks_off_a_thousand_times_harms_nobody() {
    let bench = Bench::new();
    let mut witness = bench.client("witness").await;
    for _ in 0..1_000 {
        let mut hasty = bench.open();
        hasty.send(&Connect::clean("hasty").bytes()).await;
        hasty.ended().await.unwrap();
    }
    witness.ping().await;
    assert_eq!(bench.counters.clients.count(), 1);
    let mut again = bench.client("hasty").await;
    again.ping().await;
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_stalls_keeps_the_oldest_messages_and_what_it_loses_is_counted() {
    let bench = Bench::with(Limits {
        session_bytes_max: 10_000,
        inflight_max: 1,
        ..Limits::default()
    });
    let mut stalled = bench.subscriber("s", "a", 1).await;
    let mut client = bench.client("c").await;
    for number in 0..1_000 {
        client.send(&publish("a", &number.to_string(), 1, 1)).await;
        client.expect(&puback(1)).await;
    }
    let dropped = bench.counters.dropped_session_full.get();
    assert!(dropped > 0);
    for number in 0..1_000 - dropped {
        let id = u16::try_from(number + 1).unwrap();
        stalled
            .expect(&publish("a", &number.to_string(), 1, id))
            .await;
        stalled.send(&puback(id)).await;
    }
    stalled.expect_nothing().await;
}
