//! Poison in the middle of good messages: the good ones arrive, the poison ends in the dead letters with the reason,
//! and `cloud-relay dead-letters` shows, replays and drops it while the relay runs.

#![expect(
    clippy::unwrap_used,
    reason = "functions beside the tests may fail as the tests do"
)]

mod common;

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use cloud_relay_sandbox::cloud::Breach;
use cloud_relay_sandbox::ledger::MessageId;
use cloud_relay_sandbox::process::Environment;
use cloud_relay_sandbox::publisher::{Load, Publisher};
use cloud_relay_sandbox::site::{PATIENCE, Site};
use serde_json::Value;

use common::{RELAY, publish};

const LARGE_BYTES: usize = 204_800;
const LARGE_REASON: &str = "payload of 204800 bytes: AWS IoT Core takes at most 131072";
/// A topic that the policy does not allow.
const DENIED: &str = "secret/plans";
/// One with more slashes than AWS takes.
const DEEP: &str = "deep/1/2/3/4/5/6/7/8/9";
const DEEP_REASON: &str = "topic has 9 slashes: AWS IoT Core takes at most 7";
/// How long it may take to find out which message closes MQTT 3.1.1 connections: six of them and more, each backed off by a
/// random part of twice as much as the one before, from a second to a minute.
const FINDING: Duration = Duration::from_mins(5);
/// Everything goes where it came from.
const ROUTES: [(&str, &str); 2] = [
    ("PRODUCER_TOPIC", "sensors, secret/#, deep/#"),
    ("CLOUD_CONSUMER_TOPIC", "{topic}"),
];

/// A relay with `settings` besides its routes, whose policy does not allow [`DENIED`]; not started yet.
async fn site_that_denies(settings: &[(&str, &str)]) -> (Site, Environment) {
    let site = Site::new(RELAY).await.unwrap();
    site.cloud()
        .set_rules(|rules| rules.denied_topic_prefixes = vec!["secret/".to_owned()]);
    let mut environment = site.environment_with(ROUTES);
    let settings = settings.iter();
    environment.extend(settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    (site, environment)
}

async fn arrived(site: &Site, ids: &[MessageId]) {
    if let Err(error) = site.cloud().wait_for_messages(ids, FINDING).await {
        panic!("{error}\n{}", site.relay().log().tail());
    }
}

async fn logged(site: &Site, part: &str) {
    if let Err(error) = site.relay().wait_for_log(part, FINDING).await {
        panic!("{error}");
    }
}

/// `cloud-relay dead-letters` with `words`, as in the relay's container.
fn tool(site: &Site, words: &[&str]) -> Output {
    let relay = site.relay();
    Command::new(RELAY)
        .env_clear()
        .env("DATA_DIR", relay.data_dir())
        .env("LOCAL_MQTT_LISTEN", relay.listen_addr().to_string())
        .envs(ROUTES)
        .arg("dead-letters")
        .args(words)
        .output()
        .unwrap()
}

fn ok(output: Output) -> Vec<u8> {
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {complaints}", output.status);
    output.stdout
}

fn letters(site: &Site) -> Vec<Value> {
    let text = String::from_utf8(ok(tool(site, &["list", "--json"]))).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn count_letter_files(data_dir: &Path) -> u64 {
    let files = std::fs::read_dir(data_dir.join("dead-letters")).unwrap();
    let is_letter = |file: &std::io::Result<std::fs::DirEntry>| {
        let name = file.as_ref().unwrap().file_name();
        name.to_string_lossy().ends_with(".letter")
    };
    files.filter(is_letter).count() as u64
}

/// Waits for that many letters. A directory has no event that could be waited for without another crate.
async fn letters_written(site: &Site, count: u64) {
    let deadline = Instant::now() + PATIENCE;
    while count_letter_files(site.relay().data_dir()) < count {
        assert!(Instant::now() < deadline, "{}", site.relay().log().tail());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The relay is stopped, and its ledger's last line has `part`.
async fn stops_with(site: &Site, part: &str) {
    site.relay().terminate().await.unwrap();
    logged(site, "stopped").await;
    let lines = site.relay().log().lines();
    let last = lines.iter().rfind(|line| line.contains("stopped")).unwrap();
    assert!(last.contains(part), "{last}");
}

async fn poison_among_a_thousand(version: &str, denied_reason: &str) {
    let settings = [
        ("CLOUD_MQTT_VERSION", version),
        ("CLOUD_DENIED_HOLD_S", "1"),
    ];
    let (site, environment) = site_that_denies(&settings).await;
    site.start_with(&environment).await.unwrap();
    let mut good = publish(&site, &Load::new(1, "sensors", 500)).await;

    let large = vec![b'x'; LARGE_BYTES];
    let mut publisher = Publisher::connect(site.relay().listen_addr(), "large")
        .await
        .unwrap();
    publisher.publish("sensors", &large, 1).await.unwrap();
    publisher.publish(DEEP, b"deep", 1).await.unwrap();
    publish(&site, &Load::new(3, DENIED, 1)).await;
    let twice = Load {
        qos: 2,
        ..Load::new(2, "sensors", 1)
    };
    good.extend(publish(&site, &twice).await);
    let more = Load {
        first_seq: 500,
        ..Load::new(1, "sensors", 500)
    };
    good.extend(publish(&site, &more).await);

    arrived(&site, &good).await;
    logged(&site, LARGE_REASON).await;
    logged(&site, DEEP_REASON).await;
    logged(&site, denied_reason).await;
    let found = letters(&site);
    assert_eq!(found.len(), 3, "{found:?}");
    let about = |topic: &str| found.iter().find(|letter| letter["topic"] == topic);
    assert_eq!(about(DEEP).unwrap()["reason"], DEEP_REASON);
    let large_letter = about("sensors").unwrap();
    assert_eq!(large_letter["reason"], LARGE_REASON);
    assert_eq!(large_letter["payload_bytes"], LARGE_BYTES);
    assert_ne!(large_letter["received"], Value::Null);
    let denied_letter = about(DENIED).unwrap();
    let said = denied_letter["reason"].as_str().unwrap();
    assert!(said.contains(denied_reason), "{said}");
    for forbidden in [
        Breach::PayloadTooLarge,
        Breach::TooManySlashes,
        Breach::Qos2,
    ] {
        assert!(!site.cloud().breaches().contains(&forbidden));
    }

    use_the_tools(&site, large_letter, denied_letter, &large).await;
    stops_with(&site, "delivered=1002 spooled=0 dead_lettered=3").await;
}

/// Shows and drops the large letter, repairs the policy and replays the denied one: all while the relay runs.
async fn use_the_tools(site: &Site, large_letter: &Value, denied_letter: &Value, large: &[u8]) {
    let id = large_letter["id"].as_str().unwrap();
    assert_eq!(ok(tool(site, &["show", id, "--raw"])), large);
    ok(tool(site, &["drop", id]));

    site.cloud()
        .set_rules(|rules| rules.denied_topic_prefixes.clear());
    let seq = denied_letter["seq"].to_string();
    let output = ok(tool(site, &["replay", &seq]));
    assert_eq!(output, b"1 dead letters replayed\n");
    let denied = MessageId {
        publisher: 3,
        seq: 0,
    };
    arrived(site, &[denied]).await;
    let left = letters(site);
    let topics: Vec<&Value> = left.iter().map(|letter| &letter["topic"]).collect();
    assert_eq!(topics, [DEEP]);
}

#[tokio::test]
async fn poison_stops_nobody_and_is_kept_with_the_reason_in_mqtt_5() {
    poison_among_a_thousand("5", "not authorized (0x87) for").await;
}

#[tokio::test]
async fn poison_stops_nobody_and_is_kept_with_the_reason_in_mqtt_3_1_1() {
    poison_among_a_thousand("3.1.1", "closed the connection each time").await;
}

#[tokio::test]
async fn killed_again_and_again_no_letter_is_lost_or_doubled() {
    const LARGE: u64 = 20;
    const GOOD_BETWEEN: u64 = 50;
    let site = Site::new(RELAY).await.unwrap();
    site.cloud()
        .set_faults(|faults| faults.ack_delay = Duration::from_millis(5));
    site.cloud().stop().await.unwrap();
    site.start().await.unwrap();
    let mut good = Vec::new();
    for turn in 0..LARGE {
        let large = Load {
            payload_bytes: LARGE_BYTES,
            first_seq: turn,
            ..Load::new(2, "sensors", 1)
        };
        publish(&site, &large).await;
        let between = Load {
            first_seq: turn * GOOD_BETWEEN,
            ..Load::new(1, "sensors", GOOD_BETWEEN)
        };
        good.extend(publish(&site, &between).await);
    }
    site.cloud().resume().await.unwrap();
    for kill in 1..=6 {
        site.cloud().wait_for(kill * 150, PATIENCE).await.unwrap();
        site.relay().kill_9().await.unwrap();
        site.start().await.unwrap();
    }
    arrived(&site, &good).await;
    letters_written(&site, LARGE).await;
    stops_with(&site, &format!("spooled=0 dead_lettered={LARGE}")).await;
    assert_eq!(count_letter_files(site.relay().data_dir()), LARGE);
}

#[tokio::test]
async fn a_flood_of_denied_messages_does_not_stop_the_others() {
    const COUNT: u64 = 5_000;
    let (site, environment) = site_that_denies(&[("CLOUD_DENIED_HOLD_S", "0")]).await;
    site.cloud().stop().await.unwrap();
    site.start_with(&environment).await.unwrap();
    let good = Load::new(1, "sensors", COUNT);
    let denied = Load::new(2, DENIED, COUNT);
    let (good, _) = tokio::join!(publish(&site, &good), publish(&site, &denied));
    site.cloud().resume().await.unwrap();
    let began = Instant::now();
    arrived(&site, &good).await;
    println!("{COUNT} among as many denied: {:?}", began.elapsed());
    letters_written(&site, COUNT).await;
    println!("{COUNT} dead letters: {:?}", began.elapsed());
    stops_with(&site, &format!("spooled=0 dead_lettered={COUNT}")).await;
}
