//! MQTT 5: what messages carry, and how subscribers ask for them.

use super::wire::{
    DUP, RETAIN, puback, pubcomp, publish as publish4, publish_with as publish4_with, pubrec,
    pubrel,
};
use super::wire5::{
    Will, because, connect, disconnected, maximum_packet_size, message_expiry, publish,
    publish_with, receive_maximum, session_expiry, subscribe, subscription_id, topic_alias,
    unsuback, unsubscribe, will_delay,
};
use super::*;

/// Subscription options (MQTT 5, 3.8.3.1).
const NO_LOCAL: u8 = 0x04;
const AS_PUBLISHED: u8 = 0x08;
const IF_NEW: u8 = 0x10;
const WITHHOLD: u8 = 0x20;

/// What a reader is to find again.
fn for_readers() -> Vec<u8> {
    [
        wire5::payload_format(1),
        wire5::user_property("b", "1"),
        wire5::content_type("text/plain"),
        wire5::response_topic("answer/here"),
        wire5::user_property("a", "2"),
        wire5::correlation_data("42"),
        wire5::user_property("b", "1"),
    ]
    .concat()
}

#[tokio::test(start_paused = true)]
async fn properties_reach_subscribers_of_version_5_unchanged_and_others_without() {
    let bench = Bench::new();
    let mut five = bench.subscriber5("five", "a", 1).await;
    let mut four = bench.subscriber("four", "a", 1).await;
    let mut client = bench.client5("c").await;
    let properties = for_readers();
    client.send(&publish((1, 7), "a", &properties, "x")).await;
    client.expect(&puback(7)).await;
    five.expect(&publish((1, 1), "a", &properties, "x")).await;
    four.expect(&publish4("a", "x", 1, 1)).await;
    let mut client = bench.client("old").await;
    client.send(&publish4("a", "y", 0, 0)).await;
    five.expect(&publish((0, 0), "a", &[], "y")).await;
    four.expect(&publish4("a", "y", 0, 0)).await;
}

#[tokio::test(start_paused = true)]
async fn a_retained_message_and_a_will_keep_their_properties() {
    let bench = Bench::new();
    let properties = for_readers();
    let mut client = bench.client5("c").await;
    let kept = publish_with(RETAIN, (0, 0), "a", &properties, "x");
    client.send(&kept).await;
    client.ping().await;
    let mut reader = bench.subscriber5("r", "#", 0).await;
    reader.expect(&kept).await;
    let with_delay = [&wire5::will_delay(0)[..], &properties].concat();
    let will = wire5::Will {
        topic: "wills",
        payload: "died",
        properties: &with_delay,
    };
    let mortal = bench.connect5(&connect("m", true, &[], Some(will))).await.0;
    mortal.ended().await.unwrap();
    reader
        .expect(&publish((0, 0), "wills", &properties, "died"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_message_expires_in_a_queue_and_what_is_left_of_its_time_is_told() {
    let bench = Bench::new();
    let keep = connect("s", false, &session_expiry(1_000), None);
    let mut away = bench.connect5(&keep).await.0;
    away.subscribe5(&[], "a", 1).await;
    away.ended().await.unwrap();
    let mut client = bench.client5("c").await;
    for (id, expiry) in [(1, 10), (2, 30)] {
        client
            .send(&publish((1, id), "a", &message_expiry(expiry), "x"))
            .await;
        client.expect(&puback(id)).await;
    }
    tokio::time::advance(Duration::from_secs(10)).await;
    let mut back = bench.connect5(&keep).await.0;
    back.expect(&publish((1, 2), "a", &message_expiry(20), "x"))
        .await;
    back.expect_nothing().await;
    assert_eq!(bench.counters.dropped_expired.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_retained_message_expires_too() {
    let bench = Bench::with(Limits {
        retained_messages_max: 1,
        ..Limits::default()
    });
    let mut client = bench.client5("c").await;
    let brief = publish_with(RETAIN, (0, 0), "a", &message_expiry(10), "x");
    client.send(&brief).await;
    client.ping().await;
    tokio::time::advance(Duration::from_secs(9)).await;
    let mut early = bench.subscriber("early", "a", 0).await;
    early.expect(&publish4_with(RETAIN, "a", "x", 0, 0)).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    let mut late = bench.subscriber("late", "a", 0).await;
    late.expect_nothing().await;
    // It makes room, although nobody cleared it.
    client
        .send(&publish_with(RETAIN, (0, 0), "b", &[], "y"))
        .await;
    client.ping().await;
    assert_eq!(bench.counters.dropped_retained.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_alias_stands_for_the_topic_it_was_last_set_to_on_this_connection() {
    let bench = Bench::new();
    let mut subscriber = bench.subscriber("s", "#", 0).await;
    let mut client = bench.client5("c").await;
    let one = topic_alias(1);
    for (topic, alias, arrives_under) in [
        ("a", &one, "a"),
        ("", &one, "a"),
        ("b", &topic_alias(10), "b"),
        ("", &one, "a"),
        ("c", &one, "c"),
        ("", &one, "c"),
    ] {
        client.send(&publish((0, 0), topic, alias, "x")).await;
        subscriber.expect(&publish4(arrives_under, "x", 0, 0)).await;
    }
    client.ended().await.unwrap();
    let mut client = bench.client5("c").await;
    client.send(&publish((0, 0), "", &one, "x")).await;
    client.expect(&disconnected(0x94)).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_cloud_is_to_know_is_spooled_as_it_came_and_what_is_about_the_connection_is_not() {
    let bench = Bench::new();
    let mut client = bench.client5("c").await;
    let kept = [for_readers(), message_expiry(60)].concat();
    let with_alias = [for_readers(), topic_alias(1), message_expiry(60)].concat();
    for (qos, properties) in [(0, &kept), (1, &with_alias), (2, &kept)] {
        client
            .send(&publish((qos, 7), ROUTED, properties, "x"))
            .await;
    }
    client.send(&publish((0, 0), ROUTED, &[], "x")).await;
    client.ping().await;
    let mut old = bench.client("old").await;
    old.send(&publish4(ROUTED, "x", 0, 0)).await;
    old.ping().await;
    let delayed = [will_delay(0), kept.clone()].concat();
    let will = Will {
        topic: ROUTED,
        payload: "died",
        properties: &delayed,
    };
    let mortal = bench.connect5(&connect("m", true, &[], Some(will))).await.0;
    mortal.ended().await.unwrap();
    while bench.spool.stored().len() < 6 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let stored = bench.spool.stored();
    let attributes: Vec<&[u8]> = stored.iter().map(|one| &one.attributes[..]).collect();
    assert_eq!(attributes, [&kept[..], &kept, &kept, b"", b"", &kept]);
}

#[tokio::test(start_paused = true)]
async fn a_message_for_the_cloud_may_come_under_an_alias_and_waits_for_the_spool_like_any() {
    let bench = Bench::new();
    let mut client = bench.client5("c").await;
    bench.spool.set(spool::Mood::Full);
    client
        .send(&publish((1, 1), ROUTED, &topic_alias(1), "one"))
        .await;
    client
        .send(&publish((2, 2), "", &topic_alias(1), "two"))
        .await;
    client.expect_nothing().await;
    bench.spool.set(spool::Mood::Takes);
    client.expect_nothing().await;
    assert_eq!(bench.spool.payloads(), ["one", "two"]);
    bench.spool.set_safe(2);
    client.expect(&puback(1)).await;
    client.expect(&pubrec(2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_sends_no_more_than_the_receive_maximum_and_each_acknowledgement_makes_room() {
    let bench = Bench::with(Limits {
        unreleased_max: 2,
        ..Limits::default()
    });
    let mut client = bench.client5("c").await;
    let send = |qos, id| publish((qos, id), ROUTED, &[], "x");
    client.send(&send(1, 1)).await;
    client.send(&send(2, 2)).await;
    client.expect_nothing().await;
    bench.spool.set_safe(2);
    client.expect(&puback(1)).await;
    client.expect(&pubrec(2)).await;
    client.send(&send(1, 3)).await;
    client.send(&pubrel(2)).await;
    client.expect(&pubcomp(2)).await;
    client.send(&send(1, 4)).await;
    client.expect_nothing().await;
    client.send(&send(1, 5)).await;
    client.expect(&disconnected(0x93)).await;
    assert_eq!(bench.spool.payloads().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_client_gets_no_more_than_its_receive_maximum_also_when_it_comes_back() {
    let bench = Bench::new();
    let keep = |max| {
        let properties = [session_expiry(100), receive_maximum(max)].concat();
        connect("s", false, &properties, None)
    };
    let mut subscriber = bench.connect5(&keep(2)).await.0;
    subscriber.subscribe5(&[], "a", 1).await;
    let mut client = bench.client5("c").await;
    for id in 1..=3 {
        client.send(&publish((1, id), "a", &[], "x")).await;
        client.expect(&puback(id)).await;
    }
    for id in 1..=2 {
        subscriber.expect(&publish((1, id), "a", &[], "x")).await;
    }
    subscriber.expect_nothing().await;
    subscriber.ended().await.unwrap();
    let mut subscriber = bench.connect5(&keep(1)).await.0;
    for (id, flags) in [(1, DUP), (2, DUP), (3, 0)] {
        subscriber
            .expect(&publish_with(flags, (1, id), "a", &[], "x"))
            .await;
        subscriber.expect_nothing().await;
        subscriber.send(&because(0x40, id, 0x80)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_packet_larger_than_a_client_takes_is_not_sent_to_it() {
    let bench = Bench::new();
    let small = connect("s", true, &maximum_packet_size(100), None);
    let mut subscriber = bench.connect5(&small).await.0;
    subscriber.subscribe5(&[], "a", 2).await;
    let mut client = bench.client5("c").await;
    let fits = 100 - publish((1, 1), "a", &[], "").len();
    for (nth, len) in [fits + 1, fits].into_iter().enumerate() {
        let id = u16::try_from(nth).unwrap() + 1;
        client
            .send(&publish((1, id), "a", &[], &"x".repeat(len)))
            .await;
        client.expect(&puback(id)).await;
    }
    let received = subscriber.receive().await;
    assert_eq!(received.len(), 100);
    subscriber.expect_nothing().await;
    assert_eq!(bench.counters.dropped_packet_too_large.get(), 1);
    let many = [("a", 0); 93];
    subscriber.send(&subscribe(1, &[], &many)).await;
    subscriber.expect(&disconnected(0x95)).await;
}

#[tokio::test(start_paused = true)]
async fn acknowledgements_say_that_nobody_listens_or_that_an_identifier_is_unknown() {
    let bench = Bench::new();
    let mut client = bench.client5("c").await;
    client.send(&publish((1, 1), "a", &[], "x")).await;
    client.expect(&because(0x40, 1, 0x10)).await;
    client.send(&publish((2, 2), "a", &[], "x")).await;
    client.expect(&because(0x50, 2, 0x10)).await;
    client.send(&pubrel(2)).await;
    client.expect(&pubcomp(2)).await;
    client.send(&pubrel(2)).await;
    client.expect(&because(0x70, 2, 0x92)).await;
    client.send(&pubrec(9)).await;
    client.expect(&because(0x62, 9, 0x92)).await;
    client.send(&because(0x50, 9, 0x80)).await;
    client.ping().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_by_the_subscriber_ends_the_delivery() {
    let bench = Bench::with(Limits {
        inflight_max: 1,
        ..Limits::default()
    });
    let mut subscriber = bench.subscriber5("s", "a", 2).await;
    let mut client = bench.client5("c").await;
    for id in [1, 2] {
        client.send(&publish((2, id), "a", &[], "x")).await;
        client.expect(&pubrec(id)).await;
        subscriber.expect(&publish((2, id), "a", &[], "x")).await;
        subscriber.send(&because(0x50, id, 0x97)).await;
        subscriber.expect_nothing().await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_local_spares_a_client_its_own_messages_and_only_those() {
    let bench = Bench::new();
    let mut client = bench.subscriber5("c", "a", NO_LOCAL).await;
    client.send(&publish((0, 0), "a", &[], "own")).await;
    client.expect_nothing().await;
    let mut other = bench.client("o").await;
    other.send(&publish4("a", "other", 0, 0)).await;
    client.expect(&publish((0, 0), "a", &[], "other")).await;
    // Another filter of the same client that does not ask for it.
    client.subscribe5(&[], "+", 0).await;
    client.send(&publish((0, 0), "a", &[], "own")).await;
    client.expect(&publish((0, 0), "a", &[], "own")).await;
    client.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn the_retain_flag_stays_as_published_if_asked_for() {
    let bench = Bench::new();
    let mut keeps = bench.subscriber5("k", "a", AS_PUBLISHED).await;
    let mut plain = bench.subscriber5("p", "a", 0).await;
    let mut client = bench.client5("c").await;
    for flags in [RETAIN, 0] {
        client
            .send(&publish_with(flags, (0, 0), "a", &[], "x"))
            .await;
        keeps
            .expect(&publish_with(flags, (0, 0), "a", &[], "x"))
            .await;
        plain.expect(&publish((0, 0), "a", &[], "x")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn retained_messages_come_always_or_with_a_new_subscription_or_never() {
    let bench = Bench::new();
    let mut client = bench.client5("c").await;
    let kept = publish_with(RETAIN, (0, 0), "a", &[], "x");
    client.send(&kept).await;
    client.ping().await;
    let mut reader = bench.client5("r").await;
    for (options, comes) in [
        (WITHHOLD, false),
        (IF_NEW, false),
        (0, true),
        (0, true),
        (IF_NEW, false),
    ] {
        reader.subscribe5(&[], "a", options).await;
        if comes {
            reader.expect(&kept).await;
        }
        reader.expect_nothing().await;
    }
    reader.subscribe5(&[], "+", IF_NEW).await;
    reader.expect(&kept).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_carries_the_identifiers_of_all_subscriptions_it_is_sent_for() {
    let bench = Bench::new();
    let mut reader = bench.client5("r").await;
    let (one, two) = (subscription_id(1), subscription_id(2));
    reader.subscribe5(&one, "a", 0).await;
    reader.subscribe5(&[], "+", 1).await;
    reader.subscribe5(&two, "#", 2).await;
    let mut client = bench.client5("c").await;
    client
        .send(&publish_with(RETAIN, (1, 1), "a", &[], "x"))
        .await;
    let received = reader.receive().await;
    let possible = [[&one[..], &two].concat(), [&two[..], &one].concat()];
    let possible = possible.map(|ids| publish((1, 1), "a", &ids, "x"));
    assert!(possible.contains(&received), "{received:?}");
    // A subscription that is made again has the identifier it then has.
    reader.subscribe5(&[], "#", WITHHOLD).await;
    client.send(&publish((0, 0), "b/c", &[], "x")).await;
    reader.expect(&publish((0, 0), "b/c", &[], "x")).await;
    reader.subscribe5(&two, "a", 0).await;
    reader
        .expect(&publish_with(RETAIN, (0, 0), "a", &two, "x"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn subscribing_and_unsubscribing_are_answered_filter_by_filter() {
    let bench = Bench::with(Limits {
        filters_max: 3,
        ..Limits::default()
    });
    let mut client = bench.client5("c").await;
    let filters = [
        ("a", 2),
        ("a/#/b", 0),
        ("$share/x", 0),
        ("$share/g/b#", 0),
        ("$share/g/b", 1),
        ("c", 0),
        ("d", 0),
    ];
    client.send(&subscribe(1, &[], &filters)).await;
    let codes = [2, 0x8F, 0x8F, 0x8F, 1, 0, 0x97];
    client.expect(&wire5::suback(1, &codes)).await;
    client
        .send(&unsubscribe(2, &["a", "a", "d", "$share/g/b", "b"]))
        .await;
    client.expect(&unsuback(2, &[0, 0x11, 0x11, 0, 0x11])).await;
}

#[tokio::test(start_paused = true)]
async fn a_shared_subscription_gives_each_message_to_one_member_in_turn() {
    let bench = Bench::new();
    let mut one = bench.subscriber5("1", "$share/g/a/+", 1).await;
    let mut two = bench.subscriber("2", "$share/g/a/+", 0).await;
    let mut other = bench.subscriber5("3", "$share/h/a/+", 0).await;
    let mut all = bench.subscriber5("4", "a/b", 0).await;
    let mut client = bench.client5("c").await;
    for payload in ["1", "2", "3", "4"] {
        client
            .send(&publish_with(RETAIN, (1, 1), "a/b", &[], payload))
            .await;
        client.expect(&puback(1)).await;
    }
    for (id, payload) in [(1, "1"), (2, "3")] {
        one.expect(&publish((1, id), "a/b", &[], payload)).await;
    }
    for payload in ["2", "4"] {
        two.expect(&publish4("a/b", payload, 0, 0)).await;
    }
    for payload in ["1", "2", "3", "4"] {
        other.expect(&publish((0, 0), "a/b", &[], payload)).await;
        all.expect(&publish((0, 0), "a/b", &[], payload)).await;
    }
    // No retained message for those who come later, and nothing for those who have left.
    let mut late = bench.subscriber5("5", "$share/g/a/+", 0).await;
    late.expect_nothing().await;
    one.ended().await.unwrap();
    two.send(&wire::unsubscribe(1, &["$share/g/a/+"])).await;
    two.expect(&wire::unsuback(1)).await;
    for payload in ["5", "6"] {
        client.send(&publish((0, 0), "a/b", &[], payload)).await;
        late.expect(&publish((0, 0), "a/b", &[], payload)).await;
    }
    two.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_shared_message_goes_to_an_absent_member_only_if_no_other_takes_it() {
    let bench = Bench::new();
    let keep = connect("away", false, &session_expiry(100), None);
    let mut away = bench.connect5(&keep).await.0;
    away.subscribe5(&[], "$share/g/a", 1).await;
    away.ended().await.unwrap();
    let mut here = bench.subscriber5("here", "$share/g/a", 1).await;
    let mut client = bench.client5("c").await;
    for id in 1..=2 {
        client.send(&publish((1, id), "a", &[], "x")).await;
        here.expect(&publish((1, id), "a", &[], "x")).await;
    }
    here.ended().await.unwrap();
    client.send(&publish((1, 3), "a", &[], "kept")).await;
    client.expect(&puback(1)).await;
    client.expect(&puback(2)).await;
    client.expect(&puback(3)).await;
    let mut away = bench.connect5(&keep).await.0;
    away.expect(&publish((1, 1), "a", &[], "kept")).await;
}
