//! Messages that travel together: fewer publishes, nothing lost, whatever happens to the relay.

mod common;

use std::collections::BTreeSet;

use cloud_relay_sandbox::cloud::Received;
use cloud_relay_sandbox::ledger::{MessageId, audit};
use cloud_relay_sandbox::publisher::{Load, Publisher};
use cloud_relay_sandbox::site::{PATIENCE, Site};
use tokio::sync::broadcast::Receiver;

use common::{RELAY, publish};

/// Messages are packed as lines.
const LINES: (&str, &str) = ("PRODUCER_TOPIC", "sensors => sensors {pack:lines}");
/// How often the relay is killed.
const KILLS: u32 = 5;
/// Packs that arrive between two kills.
const PACKS: usize = 20;

/// The messages in what the cloud got.
fn lines(received: &[Received]) -> Vec<&[u8]> {
    let payloads = received.iter().map(|message| &*message.payload);
    payloads
        .flat_map(|payload| payload.split(|byte| *byte == b'\n'))
        .collect()
}

/// Follows what arrives until all of `expected` have.
async fn all_arrived(site: &Site, mut news: Receiver<Received>, expected: &[MessageId]) {
    let mut missing: BTreeSet<MessageId> = expected.iter().copied().collect();
    let mut strike = |received: &[Received]| {
        for id in lines(received).into_iter().filter_map(MessageId::of) {
            missing.remove(&id);
        }
        missing.is_empty()
    };
    let arrive = async {
        let mut done = strike(&site.cloud().received());
        while !done {
            // What was missed is in the books.
            done = match news.recv().await {
                Ok(message) => strike(&[message]),
                Err(_) => strike(&site.cloud().received()),
            };
        }
    };
    let arrived = tokio::time::timeout(PATIENCE, arrive).await;
    assert!(arrived.is_ok(), "some have not arrived in {PATIENCE:?}");
}

#[tokio::test]
async fn small_messages_arrive_together_in_their_order_and_what_is_saved_is_told() {
    let site = Site::new(RELAY).await.unwrap();
    let changes = [
        (
            "PRODUCER_TOPIC",
            "a => a {pack:json}, b => b {pack:lines}, c",
        ),
        ("CLOUD_CONSUMER_TOPIC", "c"),
        ("PACK_MAX_MS", "200"),
    ];
    site.start_with(&site.environment_with(changes))
        .await
        .unwrap();
    let mut publisher = Publisher::connect(site.relay().listen_addr(), "p")
        .await
        .unwrap();
    let mut expected = [Vec::new(), Vec::new(), Vec::new()];
    for n in 0..100 {
        for (topic, expected) in ["a", "b", "c"].into_iter().zip(&mut expected) {
            let payload = format!("{{\"{topic}\":{n}}}");
            publisher
                .publish(topic, payload.as_bytes(), 0)
                .await
                .unwrap();
            expected.push(payload);
        }
    }
    // The last message of each topic is in the last pack of it.
    let mut news = site.cloud().follow();
    let mut missing: BTreeSet<_> = (expected.iter().filter_map(|all| all.last())).collect();
    let all = async {
        loop {
            for message in site.cloud().received() {
                let text = String::from_utf8_lossy(&message.payload).into_owned();
                missing.retain(|last| !text.contains(last.as_str()));
            }
            if missing.is_empty() {
                break;
            }
            news.recv().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap();
    site.relay().terminate().await.unwrap();

    let received = site.cloud().received();
    let of = |topic: &str| {
        let payloads = received.iter().filter(|message| &*message.topic == topic);
        let texts = payloads.map(|message| String::from_utf8(message.payload.to_vec()).unwrap());
        texts.collect::<Vec<_>>()
    };
    let [a, b, c] = &expected;
    let arrays = of("a");
    let inner: Vec<_> = arrays
        .iter()
        .map(|text| text.trim_matches(['[', ']']))
        .collect();
    assert_eq!(inner.join(","), a.join(","));
    assert_eq!(of("b").join("\n"), b.join("\n"));
    assert_eq!(&of("c"), c);
    let packs = arrays.len() + of("b").len();
    assert!(packs <= 100, "{packs} packs for 200 messages");
    let log = site.relay().log().tail();
    let told = format!(
        "packs={packs} messages=200 billed_messages_saved={}",
        200 - packs
    );
    assert!(log.contains(&told), "{told}: {log}");
}

#[tokio::test]
async fn kill_9_loses_nothing_acknowledged_that_was_packed_or_about_to_be() {
    let site = Site::new(RELAY).await.unwrap();
    let environment = site.environment_with([LINES, ("PACK_MAX_MS", "20")]);
    let mut acked = Vec::new();
    for round in 0..KILLS {
        site.start_with(&environment).await.unwrap();
        let wanted = site.cloud().received_count() + PACKS;
        let kill = async {
            site.cloud().wait_for(wanted, PATIENCE).await.unwrap();
            site.relay().kill_9().await.unwrap();
        };
        let load = Load::new(round, "sensors", 10_000_000);
        let (report, ()) = tokio::join!(site.publish(&load), kill);
        acked.extend(report.unwrap().acked);
    }
    let news = site.cloud().follow();
    site.start_with(&environment).await.unwrap();
    all_arrived(&site, news, &acked).await;
    let received = site.cloud().received();
    let found = audit(acked.iter().copied(), lines(&received));
    assert!(found.is_complete_and_ordered(), "{found}");
    assert!(
        received.len() < acked.len() / 2,
        "{} publishes for {} messages",
        received.len(),
        acked.len()
    );
}

#[tokio::test]
async fn a_backlog_drains_in_packs_and_each_message_once() {
    let site = Site::new(RELAY).await.unwrap();
    site.cloud().stop().await.unwrap();
    let environment = site.environment_with([LINES]);
    site.start_with(&environment).await.unwrap();
    let acked = publish(&site, &Load::new(1, "sensors", 5_000)).await;
    let news = site.cloud().follow();
    site.cloud().resume().await.unwrap();
    all_arrived(&site, news, &acked).await;
    let received = site.cloud().received();
    let found = audit(acked.iter().copied(), lines(&received));
    assert!(found.is_exact(), "{found}");
    // 256 bytes each: 19 are just under 5,000.
    assert!(received.len() <= 5_000 / 19 + 2, "{}", received.len());
}
