//! What subscriptions, retained messages and kept sessions may cost, each and together.

use super::wire::{Connect, RETAIN, publish_with, subscribe, unsuback, unsubscribe};
use super::*;

#[tokio::test(start_paused = true)]
async fn a_packet_that_names_too_many_filters_closes() {
    let bench = Bench::with(Limits {
        filters_per_packet_max: 2,
        ..Limits::default()
    });
    let mut client = bench.client("c").await;
    let two = subscribe(1, &[("#", 0), ("#", 0)]);
    client.send(&two).await;
    client.expect(&[0x90, 4, 0, 1, 0, 0]).await;
    let three = subscribe(2, &[("#", 0), ("#", 0), ("#", 0)]);
    client.send(&three).await;
    client.expect_closed().await;
    let mut client = bench.client("c").await;
    client.send(&unsubscribe(3, &["a", "a", "a"])).await;
    client.expect_closed().await;
    assert_eq!(bench.counters.protocol_errors.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn filters_retained_messages_and_kept_sessions_are_limited() {
    let bench = Bench::with(Limits {
        filters_max: 2,
        retained_messages_max: 1,
        sessions_max: 1,
        ..Limits::default()
    });
    let mut client = bench.client("c").await;
    let filters = [("a", 0), ("b", 0), ("a", 1), ("c", 0)];
    client.send(&subscribe(1, &filters)).await;
    client.expect(&[0x90, 6, 0, 1, 0, 0, 1, 0x80]).await;
    assert_eq!(bench.counters.filters_refused.get(), 1);
    client.send(&publish_with(RETAIN, "x", "1", 0, 0)).await;
    client.send(&publish_with(RETAIN, "y", "2", 0, 0)).await;
    client.ping().await;
    assert_eq!(bench.counters.dropped_retained.get(), 1);
    for id in ["p1", "p2"] {
        let client = bench.connect(Connect::persistent(id)).await;
        client.ended().await.unwrap();
    }
    assert_eq!(bench.counters.sessions_discarded.get(), 1);
    for (id, present) in [("p2", 1), ("p1", 0)] {
        let mut client = bench.open();
        client.send(&Connect::persistent(id).bytes()).await;
        client.expect(&[0x20, 2, present, 0]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_filters_of_all_sessions_together_are_limited() {
    let bench = Bench::with(Limits {
        filter_levels_of_all_max: 3,
        ..Limits::default()
    });
    let mut first = bench.client("first").await;
    let filters = [("a/b/c", 1), ("a/b/d", 1), ("a/#", 1)];
    first.send(&subscribe(1, &filters)).await;
    first.expect(&[0x90, 5, 0, 1, 1, 0x80, 1]).await;
    let mut second = bench.client("second").await;
    let filters = [("a/b/c", 1), ("e", 1)];
    second.send(&subscribe(2, &filters)).await;
    second.expect(&[0x90, 4, 0, 2, 1, 0x80]).await;
    assert_eq!(bench.counters.filters_refused.get(), 2);
    first.ended().await.unwrap();
    second.send(&unsubscribe(3, &["a/b/c"])).await;
    second.expect(&unsuback(3)).await;
    second.subscribe("e", 1).await;
}

#[tokio::test(start_paused = true)]
async fn between_two_subscriptions_of_a_client_others_have_their_turn() {
    let bench = Bench::new();
    let mut client = bench.client("c").await;
    let subscribe = |id: u16| subscribe(id, &[(&format!("a/{id}"), 1)]);
    let packets: Vec<_> = (1..=8).map(subscribe).collect();
    client.send(&packets.concat()).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&8) {
        tokio::task::yield_now().await;
        seen.push(bench.shared.broker().filters("c").count());
    }
    seen.dedup();
    assert!(seen.ends_with(&[1, 2, 3, 4, 5, 6, 7, 8]), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn the_name_of_a_group_counts_in_the_length_of_its_topic_filter() {
    let bench = Bench::new();
    let mut client = bench.client("c").await;
    let path = |bytes: usize| format!("$share/{}/a", "g".repeat(bytes - "$share//a".len()));
    let (longest, longer) = (path(1_024), path(1_025));
    client
        .send(&subscribe(1, &[(&longest, 1), (&longer, 1)]))
        .await;
    client.expect(&[0x90, 4, 0, 1, 1, 0x80]).await;
    assert_eq!(bench.counters.filters_refused.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_bytes_of_all_filters_together_are_limited() {
    let bench = Bench::with(Limits {
        filter_bytes_of_all_max: 5,
        ..Limits::default()
    });
    let mut first = bench.client("first").await;
    let filters = [("a/b", 1), ("a/b", 0), ("c/d", 1), ("cd", 1)];
    first.send(&subscribe(1, &filters)).await;
    first.expect(&[0x90, 6, 0, 1, 1, 0, 0x80, 1]).await;
    let mut second = bench.client("second").await;
    second.send(&subscribe(2, &[("e", 1)])).await;
    second.expect(&[0x90, 3, 0, 2, 0x80]).await;
    first.send(&unsubscribe(3, &["cd"])).await;
    first.expect(&unsuback(3)).await;
    second.subscribe("ef", 1).await;
    first.ended().await.unwrap();
    second.subscribe("gh", 1).await;
}
