//! `$SYS`: what the broker tells of itself, to whom, and how often.

use std::collections::BTreeMap;

use tokio::time::{Duration, Instant, sleep};

use super::wire::{self, DISCONNECT, RETAIN, publish, publish_with};
use super::{Bench, TestClient};

const VALUES: usize = 15;

/// Topic and payload of a `QoS` 0 PUBLISH with these flags.
fn told(packet: &[u8], flags: u8) -> (String, String) {
    assert_eq!(packet[0], 0x30 | flags, "{packet:?}");
    let topic_len = usize::from(packet[3]);
    let (topic, payload) = packet[4..].split_at(topic_len);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(topic), text(payload))
}

async fn all(client: &mut TestClient, flags: u8) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    for _ in 0..VALUES {
        let (topic, value) = told(&client.receive().await, flags);
        let topic = topic.strip_prefix("$SYS/broker/").unwrap().to_owned();
        values.insert(topic, value);
    }
    client.expect_nothing().await;
    values
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_gets_the_values_at_once_as_retained_and_then_every_ten_seconds() {
    let bench = Bench::new();
    let began = Instant::now();
    let mut gone = bench.client("gone").await;
    gone.send(&DISCONNECT).await;
    gone.expect_closed().await;
    sleep(Duration::from_secs(7)).await;
    let mut app = bench.client("app").await;
    app.send(&publish_with(RETAIN, "kept", "x", 0, 0)).await;
    app.ping().await;

    let mut watcher = bench.subscriber("watcher", "$SYS/#", 0).await;
    let subscribed = Instant::now();
    let values = all(&mut watcher, RETAIN).await;
    for (topic, value) in [
        (
            "version",
            concat!("cloud-relay version ", env!("CARGO_PKG_VERSION")),
        ),
        ("uptime", "7 seconds"),
        ("clients/total", "2"),
        ("clients/connected", "2"),
        ("clients/disconnected", "0"),
        ("clients/maximum", "2"),
        // CONNECT, DISCONNECT; CONNECT, PUBLISH, PINGREQ; CONNECT, and of SUBSCRIBE the answer is not there yet
        ("messages/received", "6"),
        ("messages/sent", "4"),
        ("publish/messages/received", "1"),
        ("publish/messages/sent", "0"),
        ("publish/messages/dropped", "0"),
        ("subscriptions/count", "1"),
        ("retained messages/count", "1"),
    ] {
        assert_eq!(values[topic], value, "{topic}");
    }
    assert_ne!(values["bytes/received"], "0");
    assert_ne!(values["bytes/sent"], "0");

    for round in 1..4 {
        sleep(subscribed + round * Duration::from_secs(10) - Instant::now()).await;
        let values = all(&mut watcher, 0).await;
        let uptime_s = (Instant::now() - began).as_secs();
        assert_eq!(values["uptime"], format!("{uptime_s} seconds"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_broker_is_not_woken_for_values_that_nobody_wants() {
    let bench = Bench::new();
    let mut other = bench.subscriber("other", "#", 0).await;
    assert_eq!(bench.shared.broker().next_due(), None);
    let mut watcher = bench.client("watcher").await;
    watcher.subscribe("$SYS/broker/uptime", 0).await;
    told(&watcher.receive().await, RETAIN);
    watcher.ping().await;
    assert!(bench.shared.broker().next_due().is_some());
    watcher.send(&DISCONNECT).await;
    watcher.expect_closed().await;
    sleep(Duration::from_secs(11)).await;
    assert_eq!(bench.shared.broker().next_due(), None);
    other.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_group_that_shares_the_values_gets_each_once() {
    let bench = Bench::new();
    let filter = "$share/g/$SYS/broker/+";
    let mut one = bench.subscriber("one", filter, 0).await;
    let mut two = bench.subscriber("two", filter, 0).await;
    one.expect_nothing().await;
    sleep(Duration::from_secs(10)).await;
    let topics = [one.receive().await, two.receive().await].map(|packet| told(&packet, 0).0);
    assert_ne!(topics[0], topics[1]);
}

#[tokio::test(start_paused = true)]
async fn clients_cannot_publish_there_and_nothing_of_it_goes_to_the_cloud() {
    let bench = Bench::routing("#", super::Limits::default());
    let mut watcher = bench.subscriber("watcher", "$SYS/broker/version", 0).await;
    let (_, version) = told(&watcher.receive().await, RETAIN);
    let mut liar = bench.client("liar").await;
    for topic in ["$SYS/broker/version", "$SYS/lies"] {
        liar.send(&publish_with(RETAIN, topic, "9", 0, 0)).await;
        liar.send(&publish(topic, "9", 1, 1)).await;
        liar.expect(&wire::puback(1)).await;
    }
    watcher.expect_nothing().await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(told(&watcher.receive().await, 0).1, version);
    assert!(bench.spool.payloads().is_empty());
}
