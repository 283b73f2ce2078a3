//! Do local subscribers get what they subscribed to?

use super::wire::{
    self, Connect, DISCONNECT, RETAIN, puback, pubcomp, publish, publish_with, pubrec, pubrel,
    unsuback,
};
use super::*;

#[tokio::test(start_paused = true)]
async fn a_message_is_delivered_at_the_lower_of_both_qos() {
    for published in 0..=2 {
        for subscribed in 0..=2 {
            let bench = Bench::new();
            let mut subscriber = bench.subscriber("s", "a/+", subscribed).await;
            let mut client = bench.client("c").await;
            client.send(&publish("a/b", "x", published, 3)).await;
            let delivered = published.min(subscribed);
            subscriber.expect(&publish("a/b", "x", delivered, 1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn qos_2_is_completed_in_both_directions() {
    let bench = Bench::new();
    let mut subscriber = bench.subscriber("s", "a", 2).await;
    let mut client = bench.client("c").await;
    client.send(&publish("a", "x", 2, 3)).await;
    client.expect(&pubrec(3)).await;
    client.send(&pubrel(3)).await;
    client.expect(&pubcomp(3)).await;
    subscriber.expect(&publish("a", "x", 2, 1)).await;
    subscriber.send(&pubrec(1)).await;
    subscriber.expect(&pubrel(1)).await;
    subscriber.send(&pubcomp(1)).await;
    subscriber.ping().await;
}

#[tokio::test(start_paused = true)]
async fn invalid_filters_are_refused_one_by_one() {
    let bench = Bench::new();
    let mut client = bench.client("c").await;
    let filters = [("a#", 1), ("ok", 1), ("$share/g", 1), ("", 0), ("é/+", 2)];
    client.send(&wire::subscribe(4, &filters)).await;
    client
        .expect(&[0x90, 7, 0, 4, 0x80, 1, 0x80, 0x80, 2])
        .await;
}

#[tokio::test(start_paused = true)]
async fn after_unsubscribe_nothing_is_delivered() {
    let bench = Bench::new();
    let mut client = bench.subscriber("c", "a", 0).await;
    client.send(&publish("a", "1", 0, 0)).await;
    client.expect(&publish("a", "1", 0, 0)).await;
    client.send(&wire::unsubscribe(5, &["a", "never"])).await;
    client.expect(&unsuback(5)).await;
    client.send(&publish("a", "2", 0, 0)).await;
    client.ping().await;
}

#[tokio::test(start_paused = true)]
async fn an_unsubscribe_ends_what_it_spells_and_is_answered_in_any_case() {
    let bench = Bench::new();
    let mut client = bench.client("c").await;
    let filters = [("a/+", 0), ("b/#", 0), ("b/x", 0)];
    client.send(&wire::subscribe(1, &filters)).await;
    client.expect(&[0x90, 5, 0, 1, 0, 0, 0]).await;
    for (id, others) in [
        (2, &["a/b", "a/#", "#", "A/+", "b/y"][..]),
        (3, &["a#"]),
        (4, &["b/#", "never", "b/x"]),
    ] {
        client.send(&wire::unsubscribe(id, others)).await;
        client.expect(&unsuback(id)).await;
    }
    client.send(&publish("b/x", "gone", 0, 0)).await;
    client.send(&publish("a/b", "stays", 0, 0)).await;
    client.expect(&publish("a/b", "stays", 0, 0)).await;
    client.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_made_again_interrupts_nothing() {
    let bench = Bench::with(Limits {
        inflight_max: 1,
        ..Limits::default()
    });
    let mut subscriber = bench.subscriber("s", "a", 1).await;
    let mut client = bench.client("c").await;
    for payload in ["1", "2", "3"] {
        client.send(&publish("a", payload, 1, 1)).await;
        client.expect(&puback(1)).await;
    }
    subscriber.expect(&publish("a", "1", 1, 1)).await;
    subscriber.subscribe("a", 0).await;
    client.send(&publish("a", "4", 1, 1)).await;
    for (id, payload) in [(1, "2"), (2, "3")] {
        subscriber.send(&puback(id)).await;
        subscriber.expect(&publish("a", payload, 1, id + 1)).await;
    }
    subscriber.send(&puback(3)).await;
    subscriber.expect(&publish("a", "4", 0, 0)).await;
}

#[tokio::test(start_paused = true)]
async fn retained_messages_come_on_subscribe_and_only_then_with_the_flag() {
    let bench = Bench::new();
    let mut client = bench.client("c").await;
    let mut live = bench.subscriber("live", "#", 1).await;
    client.send(&publish_with(RETAIN, "a/1", "x", 1, 1)).await;
    client.expect(&puback(1)).await;
    live.expect(&publish("a/1", "x", 1, 1)).await;
    let mut late = bench.subscriber("late", "a/#", 0).await;
    late.expect(&publish_with(RETAIN, "a/1", "x", 0, 0)).await;
    late.subscribe("a/#", 2).await;
    late.expect(&publish_with(RETAIN, "a/1", "x", 1, 1)).await;
    client.send(&publish_with(RETAIN, "a/1", "", 0, 0)).await;
    client.ping().await;
    let mut later = bench.subscriber("later", "#", 0).await;
    later.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_retained_message_with_a_route_is_retained_and_spooled() {
    let bench = Bench::new();
    let mut client = bench.client("c").await;
    client.send(&publish_with(RETAIN, ROUTED, "x", 0, 0)).await;
    client.ping().await;
    assert_eq!(bench.spool.payloads(), ["x"]);
    let mut late = bench.subscriber("late", "+", 0).await;
    late.expect(&publish_with(RETAIN, ROUTED, "x", 0, 0)).await;
}

#[tokio::test(start_paused = true)]
async fn messages_to_server_topics_go_nowhere_and_topics_may_be_any_utf_8() {
    let bench = Bench::new();
    let mut client = bench.client("c").await;
    client
        .send(&wire::subscribe(4, &[("#", 0), ("$server/#", 0)]))
        .await;
    client.receive().await;
    client.send(&publish("$server/x", "no", 1, 1)).await;
    client.expect(&puback(1)).await;
    client.send(&publish("température/日本", "yes", 0, 0)).await;
    client
        .expect(&publish("température/日本", "yes", 0, 0))
        .await;
}

#[tokio::test(start_paused = true)]
async fn messages_to_the_relays_own_topic_go_nowhere_not_even_where_everything_is_routed() {
    let bench = Bench::routing("#", Limits::default());
    let mut client = bench.subscriber("c", "#", 1).await;
    client
        .send(&publish("cloud-relay/state", "forged", 1, 1))
        .await;
    client.expect(&puback(1)).await;
    client.send(&publish("a", "x", 0, 0)).await;
    client.expect(&publish("a", "x", 0, 0)).await;
    assert_eq!(bench.spool.payloads(), ["x"]);
}

#[tokio::test(start_paused = true)]
async fn a_will_is_published_unless_the_client_says_good_bye() {
    let bench = Bench::new();
    let mut subscriber = bench.subscriber("s", "wills/#", 1).await;
    let with_will = |id, payload| Connect {
        will: Some(("wills/w", payload, 1, true)),
        ..Connect::clean(id)
    };
    let mut polite = bench.connect(with_will("polite", "no")).await;
    polite.send(&DISCONNECT).await;
    polite.expect_closed().await;
    subscriber.expect_nothing().await;
    bench.client("no will").await.ended().await.unwrap();
    subscriber.expect_nothing().await;
    let rude = bench.connect(with_will("rude", "yes")).await;
    rude.ended().await.unwrap();
    subscriber.expect(&publish("wills/w", "yes", 1, 1)).await;
    let mut late = bench.subscriber("late", "#", 0).await;
    late.expect(&publish_with(RETAIN, "wills/w", "yes", 0, 0))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_routed_will_is_spooled_and_waits_for_space() {
    let bench = Bench::new();
    let connect = Connect {
        will: Some((ROUTED, "died", 1, false)),
        ..Connect::clean("c")
    };
    let client = bench.connect(connect).await;
    bench.spool.set(super::spool::Mood::Full);
    let ended = tokio::spawn(client.ended());
    let mut other = bench.client("o").await;
    other.expect_nothing().await;
    assert!(!ended.is_finished() && bench.spool.stored().is_empty());
    bench.spool.set(super::spool::Mood::Takes);
    ended.await.unwrap().unwrap();
    assert_eq!(bench.spool.payloads(), ["died"]);
}

#[tokio::test(start_paused = true)]
async fn stopping_publishes_no_will() {
    let bench = Bench::new();
    let connect = Connect {
        will: Some((ROUTED, "died", 1, false)),
        ..Connect::clean("c")
    };
    let client = bench.connect(connect).await;
    bench.shutdown.cancel();
    client.ended().await.unwrap();
    assert!(bench.spool.stored().is_empty());
}
