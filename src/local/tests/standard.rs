//! Statements of the standard that no other test happens to prove; `tests/conformance/` says which.

use super::wire::{
    Connect, DUP, RETAIN, puback, pubcomp, publish, publish_with, pubrec, pubrel, unsuback,
};
use super::*;

#[tokio::test(start_paused = true)]
async fn topics_are_compared_byte_by_byte_a_byte_order_mark_included() {
    let bench = Bench::new();
    let mut client = bench.client("c").await;
    client.subscribe("\u{e9}", 0).await;
    client.subscribe("\u{feff}a", 0).await;
    for other in ["e\u{301}", "a", "\u{c9}"] {
        client.send(&publish(other, "no", 0, 0)).await;
    }
    for own in ["\u{e9}", "\u{feff}a"] {
        client.send(&publish(own, "yes", 0, 0)).await;
        client.expect(&publish(own, "yes", 0, 0)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_acknowledged_identifier_comes_again_as_a_new_message_whatever_its_dup() {
    let bench = Bench::new();
    let mut subscriber = bench.subscriber("s", "a", 0).await;
    let mut client = bench.client("c").await;
    for payload in ["one", "two"] {
        client.send(&publish_with(DUP, "a", payload, 1, 1)).await;
        client.expect(&puback(1)).await;
        subscriber.expect(&publish("a", payload, 0, 0)).await;
    }
    for payload in ["three", "four"] {
        client.send(&publish_with(DUP, "a", payload, 2, 2)).await;
        client.expect(&pubrec(2)).await;
        client.send(&pubrel(2)).await;
        client.expect(&pubcomp(2)).await;
        subscriber.expect(&publish("a", payload, 0, 0)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_publishers_dup_is_not_passed_on() {
    let bench = Bench::new();
    let mut subscriber = bench.subscriber("s", "a", 1).await;
    let mut client = bench.client("c").await;
    client.send(&publish_with(DUP, "a", "x", 1, 9)).await;
    subscriber.expect(&publish("a", "x", 1, 1)).await;
}

#[tokio::test(start_paused = true)]
async fn client_identifiers_of_up_to_23_letters_and_digits_are_taken() {
    const IDENTIFIERS: [&str; 4] = [
        "0",
        "0123456789abcdefghijklm",
        "nopqrstuvwxyzABCDEFGHIJ",
        "KLMNOPQRSTUVWXYZ",
    ];
    let bench = Bench::new();
    for id in IDENTIFIERS {
        bench.client(id).await;
        bench.client5(id).await;
    }
}

#[tokio::test(start_paused = true)]
async fn pubrels_leave_in_the_order_of_the_pubrecs() {
    let bench = Bench::new();
    let mut subscriber = bench.subscriber("s", "a", 2).await;
    let mut client = bench.client("c").await;
    for (id, payload) in [(1, "1"), (2, "2"), (3, "3")] {
        client.send(&publish("a", payload, 2, id)).await;
        subscriber.expect(&publish("a", payload, 2, id)).await;
    }
    let pubrecs = [pubrec(2), pubrec(3), pubrec(1)];
    subscriber.send(&pubrecs.concat()).await;
    for id in [2, 3, 1] {
        subscriber.expect(&pubrel(id)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_on_its_way_is_finished_after_unsubscribe() {
    let bench = Bench::new();
    let mut subscriber = bench.connect(Connect::persistent("s")).await;
    subscriber.subscribe("a", 2).await;
    let mut client = bench.client("c").await;
    client.send(&publish("a", "x", 2, 1)).await;
    subscriber.expect(&publish("a", "x", 2, 1)).await;
    subscriber.send(&wire::unsubscribe(3, &["a"])).await;
    subscriber.expect(&unsuback(3)).await;
    subscriber.ended().await.unwrap();
    let mut subscriber = bench.connect(Connect::persistent("s")).await;
    subscriber.expect(&publish_with(DUP, "a", "x", 2, 1)).await;
    subscriber.send(&pubrec(1)).await;
    subscriber.expect(&pubrel(1)).await;
    subscriber.send(&pubcomp(1)).await;
    subscriber.ping().await;
}

#[tokio::test(start_paused = true)]
async fn a_retained_message_outlives_its_session_and_changes_only_with_another() {
    let bench = Bench::new();
    let mut client = bench.client("c").await;
    client.send(&publish_with(RETAIN, "a", "kept", 1, 1)).await;
    client.send(&publish("a", "passing", 0, 0)).await;
    client.send(&publish("a", "", 0, 0)).await;
    client.expect(&puback(1)).await;
    client.ping().await;
    client.ended().await.unwrap();
    let mut late = bench.subscriber("late", "a", 2).await;
    late.expect(&publish_with(RETAIN, "a", "kept", 1, 1)).await;
    let mut client = bench.client("c").await;
    client.send(&publish_with(RETAIN, "a", "next", 0, 0)).await;
    late.expect(&publish("a", "next", 0, 0)).await;
    let mut other = bench.subscriber("other", "a", 2).await;
    other.expect(&publish_with(RETAIN, "a", "next", 0, 0)).await;
    client.send(&publish_with(RETAIN, "a", "", 0, 0)).await;
    late.expect(&publish("a", "", 0, 0)).await;
    let mut later = bench.subscriber("later", "a", 2).await;
    later.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_refused_connect_is_not_heard() {
    let bench = Bench::new();
    let nameless = Connect::persistent("").bytes();
    let of_6 = Connect::clean("c").bytes_as("MQTT", 6);
    let refused_5 = wire5::connect("c", true, &wire5::receive_maximum(0), None);
    for refused in [nameless, of_6, refused_5] {
        let mut client = bench.open();
        let more = publish(ROUTED, "x", 1, 1);
        client.send(&[refused, more].concat()).await;
        let connack = client.receive().await;
        assert!(connack[0] == 0x20 && connack[2] == 0 && connack[3] > 0);
        client.expect_closed().await;
    }
    assert!(bench.spool.stored().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_will_is_of_qos_0_to_2_and_retained_only_if_it_says_so() {
    let bench = Bench::new();
    let mut watcher = bench.subscriber("w", "wills", 2).await;
    for qos in 0..=2 {
        let mortal = Connect {
            will: Some(("wills", "x", qos, false)),
            ..Connect::clean("c")
        };
        bench.connect(mortal).await.ended().await.unwrap();
        let received = watcher.receive().await;
        assert_eq!(received[0], 0x30 | qos << 1);
    }
    let mut late = bench.subscriber("late", "wills", 0).await;
    late.expect_nothing().await;
    let impossible = Connect {
        will: Some(("wills", "x", 3, false)),
        ..Connect::clean("c")
    };
    let mut client = bench.open();
    client.send(&impossible.bytes()).await;
    client.expect_closed().await;
}

#[tokio::test(start_paused = true)]
async fn an_expired_message_that_was_sent_before_is_sent_again() {
    let bench = Bench::new();
    let keep = wire5::connect("s", false, &wire5::session_expiry(100), None);
    let mut subscriber = bench.connect5(&keep).await.0;
    subscriber.subscribe5(&[], "a", 2).await;
    let mut client = bench.client5("c").await;
    let brief = wire5::message_expiry(10);
    client.send(&wire5::publish((2, 1), "a", &brief, "x")).await;
    subscriber
        .expect(&wire5::publish((2, 1), "a", &brief, "x"))
        .await;
    subscriber.ended().await.unwrap();
    tokio::time::advance(Duration::from_secs(20)).await;
    let mut subscriber = bench.connect5(&keep).await.0;
    let gone = wire5::message_expiry(0);
    subscriber
        .expect(&wire5::publish_with(DUP, (2, 1), "a", &gone, "x"))
        .await;
}
