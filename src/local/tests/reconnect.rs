//! What survives a connection, and what a second connection does to the first?

use super::wire::{
    self, Connect, DISCONNECT, DUP, puback, pubcomp, publish, publish_with, pubrec, pubrel,
};
use super::*;

/// Connects and returns whether a session was present.
async fn reconnect(bench: &Bench, connect: Connect<'_>) -> (TestClient, bool) {
    let mut client = bench.open();
    client.send(&connect.bytes()).await;
    let connack = client.receive().await;
    assert_eq!((connack[0], connack[3]), (0x20, 0));
    (client, connack[2] == 1)
}

#[tokio::test(start_paused = true)]
async fn session_present_tells_whether_a_session_was_kept() {
    let bench = Bench::new();
    let (persistent, clean) = (Connect::persistent("c"), Connect::clean("c"));
    for (connect, expected) in [
        (persistent, false),
        (persistent, true),
        (clean, false),
        (persistent, false),
        (persistent, true),
    ] {
        let (client, present) = reconnect(&bench, connect).await;
        assert_eq!(present, expected);
        client.ended().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_identifier_that_begins_like_a_given_one_is_its_client_s_own() {
    let bench = Bench::new();
    let mut lights = bench.connect(Connect::persistent("auto-lights")).await;
    lights.subscribe("a", 1).await;
    lights.send(&DISCONNECT).await;
    lights.ended().await.unwrap();
    let mut client = bench.client("c").await;
    client.send(&publish("a", "on", 1, 1)).await;
    client.expect(&puback(1)).await;
    let (mut lights, present) = reconnect(&bench, Connect::persistent("auto-lights")).await;
    assert!(present);
    lights.expect(&publish("a", "on", 1, 1)).await;
    let (_again, present) = reconnect(&bench, Connect::persistent("auto-lights")).await;
    assert!(present);
    lights.expect_closed().await;
}

#[tokio::test(start_paused = true)]
async fn an_absent_client_finds_its_qos_1_and_2_messages_in_order() {
    let bench = Bench::new();
    let mut subscriber = bench.connect(Connect::persistent("s")).await;
    subscriber.subscribe("a", 2).await;
    subscriber.send(&DISCONNECT).await;
    subscriber.ended().await.unwrap();
    let mut client = bench.client("c").await;
    for (payload, qos) in [("zero", 0), ("one", 1), ("two", 2)] {
        client.send(&publish("a", payload, qos, 1)).await;
    }
    client.receive().await;
    client.receive().await;
    let (mut subscriber, present) = reconnect(&bench, Connect::persistent("s")).await;
    assert!(present);
    subscriber.expect(&publish("a", "one", 1, 1)).await;
    subscriber.expect(&publish("a", "two", 2, 2)).await;
    subscriber.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_not_acknowledged_is_sent_again_at_the_stage_it_had_reached() {
    let bench = Bench::new();
    let mut subscriber = bench.connect(Connect::persistent("s")).await;
    subscriber.subscribe("a", 2).await;
    let mut client = bench.client("c").await;
    for (payload, qos) in [("1", 1), ("2", 2), ("3", 2), ("4", 1)] {
        client.send(&publish("a", payload, qos, 1)).await;
        client.receive().await;
        client.send(&pubrel(1)).await;
        client.expect(&pubcomp(1)).await;
        subscriber.receive().await;
    }
    subscriber.send(&pubrec(2)).await;
    subscriber.expect(&pubrel(2)).await;
    subscriber.send(&puback(4)).await;
    subscriber.ping().await;
    subscriber.ended().await.unwrap();
    let (mut subscriber, _) = reconnect(&bench, Connect::persistent("s")).await;
    subscriber.expect(&publish_with(DUP, "a", "1", 1, 1)).await;
    subscriber.expect(&pubrel(2)).await;
    subscriber.expect(&publish_with(DUP, "a", "3", 2, 3)).await;
    subscriber
        .send(&[puback(1), pubcomp(2), pubrec(3)].concat())
        .await;
    subscriber.expect(&pubrel(3)).await;
    subscriber.send(&pubcomp(3)).await;
    client.send(&publish("a", "5", 1, 1)).await;
    subscriber.expect(&publish("a", "5", 1, 5)).await;
}

#[tokio::test(start_paused = true)]
async fn a_clean_session_leaves_nothing_behind() {
    let bench = Bench::new();
    let subscriber = bench.subscriber("s", "#", 1).await;
    subscriber.ended().await.unwrap();
    let mut client = bench.client("c").await;
    client.send(&publish("a", "x", 1, 1)).await;
    client.expect(&puback(1)).await;
    let mut subscriber = bench.connect(Connect::persistent("s")).await;
    subscriber.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_connection_takes_the_session_over_and_the_first_ones_will_is_published() {
    let bench = Bench::new();
    let mut watcher = bench.subscriber("w", "wills", 0).await;
    let first = Connect {
        will: Some(("wills", "first", 0, false)),
        ..Connect::persistent("c")
    };
    let mut old = bench.connect(first).await;
    old.subscribe("a", 1).await;
    let (mut new, present) = reconnect(&bench, Connect::persistent("c")).await;
    assert!(present);
    old.expect_closed().await;
    watcher.expect(&publish("wills", "first", 0, 0)).await;
    old.ended().await.unwrap();
    watcher.send(&publish("a", "x", 1, 1)).await;
    new.expect(&publish("a", "x", 1, 1)).await;
    assert_eq!(bench.counters.clients.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn clients_without_an_identifier_get_one_each_if_their_session_is_clean() {
    let bench = Bench::new();
    let mut first = bench.client("").await;
    let mut second = bench.client("").await;
    first.ping().await;
    second.ping().await;
    let mut rejected = bench.open();
    rejected.send(&Connect::persistent("").bytes()).await;
    rejected.expect(&[0x20, 2, 0, 2]).await;
    rejected.expect_closed().await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_3_1_is_served_and_other_protocols_are_refused_in_the_words_of_the_nearest_version() {
    let bench = Bench::new();
    let mut old = bench.open();
    old.send(&Connect::clean("old").bytes_as("MQIsdp", 3)).await;
    old.expect(&[0x20, 2, 0, 0]).await;
    old.ping().await;
    for (level, refusal) in [
        (0, &[0x20, 2, 0, 1][..]),
        (3, &[0x20, 2, 0, 1]),
        (0x84, &[0x20, 2, 0, 1]),
        (6, &[0x20, 3, 0, 0x84, 0]),
    ] {
        let mut client = bench.open();
        client
            .send(&Connect::clean("c").bytes_as("MQTT", level))
            .await;
        client.expect(refusal).await;
        client.expect_closed().await;
    }
}

#[tokio::test(start_paused = true)]
async fn packets_behind_connect_in_the_same_segment_are_handled() {
    let bench = Bench::new();
    let mut client = bench.open();
    let connect = Connect::clean("c").bytes();
    let publish = publish(ROUTED, "x", 0, 0);
    let all = [connect.as_slice(), &publish, &wire::PINGREQ, &DISCONNECT];
    client.send(&all.concat()).await;
    client.expect(&[0x20, 2, 0, 0]).await;
    client.expect(&wire::PINGRESP).await;
    client.expect_closed().await;
    assert_eq!(bench.spool.payloads(), ["x"]);
}
