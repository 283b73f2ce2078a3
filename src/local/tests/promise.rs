//! Is an acknowledgement sent exactly when the message is safe?

use super::spool::Mood;
use super::wire::{self, Connect, DUP, puback, pubcomp, publish, publish_with, pubrec, pubrel};
use super::*;
use crate::routes::PAYLOAD_BYTES_MAX;

#[tokio::test(start_paused = true)]
async fn a_puback_is_withheld_until_the_message_is_safe() {
    let bench = Bench::new();
    let mut client = bench.client("c").await;
    client.send(&publish(ROUTED, "one", 1, 1)).await;
    client.send(&publish(ROUTED, "two", 1, 2)).await;
    client.expect_nothing().await;
    assert_eq!(bench.spool.payloads(), ["one", "two"]);
    bench.spool.set_safe(1);
    client.expect(&puback(1)).await;
    client.expect_nothing().await;
    bench.spool.set_safe(2);
    client.expect(&puback(2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_pubrec_is_withheld_until_the_message_is_safe() {
    let bench = Bench::new();
    let mut client = bench.client("c").await;
    client.send(&publish(ROUTED, "one", 2, 7)).await;
    client.expect_nothing().await;
    bench.spool.set_safe(1);
    client.expect(&pubrec(7)).await;
    client.send(&pubrel(7)).await;
    client.expect(&pubcomp(7)).await;
}

#[tokio::test(start_paused = true)]
async fn what_stays_on_the_device_is_acknowledged_at_once_and_never_spooled() {
    let bench = Bench::new();
    let mut client = bench.client("c").await;
    client.send(&publish("local", "x", 1, 1)).await;
    client.expect(&puback(1)).await;
    assert!(bench.spool.stored().is_empty());
}

#[tokio::test(start_paused = true)]
async fn acknowledgements_leave_in_the_order_of_the_messages() {
    let bench = Bench::new();
    let mut client = bench.client("c").await;
    client.send(&publish(ROUTED, "one", 1, 1)).await;
    client.send(&publish("local", "two", 1, 2)).await;
    client.send(&publish(ROUTED, "three", 2, 3)).await;
    client.ping().await;
    client.expect_nothing().await;
    bench.spool.set_safe(2);
    client.expect(&puback(1)).await;
    client.expect(&puback(2)).await;
    client.expect(&pubrec(3)).await;
}

#[tokio::test(start_paused = true)]
async fn the_spool_gets_topic_payload_qos_and_retain_as_they_came() {
    let bench = Bench::new();
    let mut client = bench.client("c").await;
    client
        .send(&publish_with(wire::RETAIN, ROUTED, "päyload", 1, 1))
        .await;
    client.send(&publish(ROUTED, "", 0, 0)).await;
    client.ping().await;
    let stored = bench.spool.stored();
    assert_eq!((stored[0].qos, stored[0].retain), (1, true));
    assert_eq!((stored[1].qos, stored[1].retain), (0, false));
    assert_eq!(
        (stored[0].topic.as_str(), stored[1].topic.as_str()),
        (ROUTED, ROUTED)
    );
    assert_eq!(bench.spool.payloads(), ["päyload", ""]);
}

#[tokio::test(start_paused = true)]
async fn when_the_spool_is_full_nothing_is_taken_or_lost_and_no_keep_alive_kills() {
    let bench = Bench::new();
    let connect = Connect {
        keep_alive_s: 10,
        ..Connect::clean("c")
    };
    let mut client = bench.connect(connect).await;
    bench.spool.set(Mood::Full);
    client.send(&publish(ROUTED, "one", 1, 1)).await;
    client.send(&publish(ROUTED, "two", 2, 2)).await;
    client.expect_nothing().await;
    tokio::time::advance(Duration::from_secs(100)).await;
    client.expect_nothing().await;
    assert!(bench.spool.stored().is_empty());
    bench.spool.set(Mood::Takes);
    bench.spool.set_safe(2);
    client.expect(&puback(1)).await;
    client.expect(&pubrec(2)).await;
    assert_eq!(bench.spool.payloads(), ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_for_space_is_handed_to_local_subscribers_once() {
    let bench = Bench::new();
    let mut subscriber = bench.subscriber("s", "#", 0).await;
    let mut client = bench.client("c").await;
    bench.spool.set(Mood::Full);
    client.send(&publish(ROUTED, "one", 1, 1)).await;
    subscriber.expect_nothing().await;
    bench.spool.set(Mood::Takes);
    subscriber.expect(&publish(ROUTED, "one", 0, 0)).await;
    subscriber.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_while_the_spool_is_full_is_noticed() {
    let bench = Bench::new();
    let mut client = bench.client("c").await;
    bench.spool.set(Mood::Full);
    client
        .send(&publish(ROUTED, &"x".repeat(20_000), 1, 1))
        .await;
    client.expect_nothing().await;
    client.ended().await.unwrap();
    assert_eq!(bench.counters.clients.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_qos_0_message_is_dropped_and_counted_when_the_spool_is_full() {
    let bench = Bench::new();
    let mut subscriber = bench.subscriber("s", "#", 0).await;
    let mut client = bench.client("c").await;
    bench.spool.set(Mood::Full);
    client.send(&publish(ROUTED, "gone", 0, 0)).await;
    client.ping().await;
    assert_eq!(bench.counters.dropped_spool_full.get(), 1);
    subscriber.expect(&publish(ROUTED, "gone", 0, 0)).await;
}

#[tokio::test(start_paused = true)]
async fn a_repeated_qos_2_publish_is_spooled_and_delivered_once() {
    let bench = Bench::new();
    let mut subscriber = bench.subscriber("s", "#", 0).await;
    let mut client = bench.client("c").await;
    client.send(&publish(ROUTED, "one", 2, 5)).await;
    client.send(&publish_with(DUP, ROUTED, "one", 2, 5)).await;
    client.expect_nothing().await;
    bench.spool.set_safe(1);
    client.expect(&pubrec(5)).await;
    client.expect(&pubrec(5)).await;
    client.send(&pubrel(5)).await;
    client.expect(&pubcomp(5)).await;
    client.send(&publish(ROUTED, "two", 2, 5)).await;
    client.ping().await;
    assert_eq!(bench.spool.payloads(), ["one", "two"]);
    subscriber.expect(&publish(ROUTED, "one", 0, 0)).await;
    subscriber.expect(&publish(ROUTED, "two", 0, 0)).await;
    subscriber.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_qos_2_publish_repeated_on_a_new_connection_still_waits_for_the_first() {
    let bench = Bench::new();
    let mut client = bench.connect(Connect::persistent("c")).await;
    client.send(&publish(ROUTED, "one", 2, 5)).await;
    client.ping().await;
    client.ended().await.unwrap();
    let mut client = bench.connect(Connect::persistent("c")).await;
    client.send(&publish_with(DUP, ROUTED, "one", 2, 5)).await;
    client.expect_nothing().await;
    bench.spool.set_safe(1);
    client.expect(&pubrec(5)).await;
    assert_eq!(bench.spool.payloads(), ["one"]);
}

#[tokio::test(start_paused = true)]
async fn pubcomp_waits_for_the_spool_however_often_it_is_asked_for() {
    let bench = Bench::new();
    let mut client = bench.client("c").await;
    client.send(&publish(ROUTED, "x", 2, 1)).await;
    for _ in 0..2 {
        client.send(&pubrel(1)).await;
    }
    client.expect_nothing().await;
    bench.spool.set_safe(1);
    client.expect(&pubrec(1)).await;
    client.expect(&pubcomp(1)).await;
    client.expect(&pubcomp(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_pubrel_for_an_unknown_message_is_completed() {
    let bench = Bench::new();
    let mut client = bench.client("c").await;
    client.send(&pubrel(77)).await;
    client.expect(&pubcomp(77)).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_larger_than_the_cloud_takes_is_spooled_all_the_same() {
    let bench = Bench::new();
    let beyond = "x".repeat(PAYLOAD_BYTES_MAX + 1);
    let mut client = bench.client("c").await;
    client.send(&publish(ROUTED, &beyond, 1, 1)).await;
    client.ping().await;
    assert_eq!(bench.spool.payloads(), [beyond]);
}

#[tokio::test(start_paused = true)]
async fn a_message_too_large_for_the_spool_closes_only_its_sender() {
    let bench = Bench::new();
    let (mut client, mut other) = (bench.client("c").await, bench.client("o").await);
    bench.spool.set(Mood::TooLarge);
    client.send(&publish(ROUTED, "one", 1, 1)).await;
    client.expect_closed().await;
    client.ended().await.unwrap();
    other.ping().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_spool_ends_the_connection_without_an_acknowledgement() {
    let bench = Bench::new();
    let mut client = bench.client("c").await;
    bench.spool.set(Mood::Failed);
    client.send(&publish(ROUTED, "one", 1, 1)).await;
    client.expect_closed().await;
    assert!(matches!(client.ended().await, Err(LocalError::SpoolFailed)));
}

#[tokio::test(start_paused = true)]
async fn a_closed_watermark_ends_a_connection_that_is_owed_acknowledgements() {
    let bench = Bench::new();
    let mut client = bench.client("c").await;
    client.send(&publish(ROUTED, "one", 1, 1)).await;
    client.expect_nothing().await;
    bench.spool.close();
    client.expect_closed().await;
    assert!(matches!(client.ended().await, Err(LocalError::SpoolFailed)));
}

#[tokio::test(start_paused = true)]
async fn a_routed_topic_of_the_server_is_spooled_like_any_other() {
    let bench = Bench::routing("$routed", Limits::default());
    let mut client = bench.client("c").await;
    client.send(&publish("$other", "dropped", 1, 1)).await;
    client.expect(&puback(1)).await;
    client.send(&publish("$routed", "kept", 1, 2)).await;
    client.expect_nothing().await;
    assert_eq!(bench.spool.payloads(), ["kept"]);
}

#[tokio::test(start_paused = true)]
async fn stopping_waits_for_acknowledgements_owed_and_reads_nothing_more() {
    let bench = Bench::new();
    let mut client = bench.client_with_buffer("c", 4_096).await;
    client.send(&publish(ROUTED, "one", 1, 1)).await;
    client.ping().await;
    bench.shutdown.cancel();
    client.expect_nothing().await;
    let late = publish(ROUTED, &"late".repeat(2_000), 1, 2);
    let sent = timeout(Duration::from_millis(10), client.send(&late)).await;
    assert!(sent.is_err(), "still reading");
    bench.spool.set_safe(1);
    client.expect(&puback(1)).await;
    client.expect_closed().await;
    client.ended().await.unwrap();
    assert_eq!(bench.spool.payloads(), ["one"]);
}

#[tokio::test(start_paused = true)]
async fn stopping_does_not_wait_longer_than_its_grace() {
    let bench = Bench::new();
    let mut client = bench.client("c").await;
    client.send(&publish(ROUTED, "one", 1, 1)).await;
    client.ping().await;
    let start = Instant::now();
    bench.shutdown.cancel();
    client.expect_closed().await;
    assert_eq!(
        start.elapsed().as_secs(),
        Limits::default().shutdown_grace.as_secs()
    );
    client.ended().await.unwrap();
}
