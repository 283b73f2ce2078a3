//! Each of AWS's rules and each thing that a cloud or the way to it can do wrong, one at a time, in both versions of
//! MQTT: nothing that was acknowledged is missing at the end, nothing is stuck, and the ledger balances.
//!
//! Prints one line of figures for each rule and version (`cargo test --test cloud_rules -- --nocapture`).
//! `CLOUD_RULES_MESSAGES` says how many messages each of them has to survive; with 5,000 or more the rules that take
//! minutes are tried in full.

#![expect(
    clippy::unwrap_used,
    reason = "a test whose setting cannot be made fails"
)]

mod common;
#[path = "cloud_rules/trial.rs"]
mod trial;

use std::num::NonZeroU32;
use std::time::Duration;

use cloud_relay_sandbox::cloud::{Breach, Connections, Faults, Rules};
use cloud_relay_sandbox::publisher::Load;
use cloud_relay_sandbox::relay::RelayProcess;
use cloud_relay_sandbox::site::PATIENCE;

use common::RELAY;
use trial::{Trial, VERSIONS, in_both, messages, through};

/// From so many on, rules are tried that take minutes however few messages there are.
const MESSAGES_IN_FULL: u64 = 5_000;
/// A way that lets the window of 100 fill.
const ACK_DELAY: Duration = Duration::from_millis(20);
/// A mobile network's round trip: the window of 100 lets 1,250 messages a second through it.
const ROUND_TRIP: Duration = Duration::from_millis(80);
/// AWS's quotas, and the relay's default pace.
const PUBLISHES_PER_S: u32 = 100;
const BYTES_PER_S: u32 = 524_288;
/// One disconnect at a random moment, in each version, for so many messages.
const MESSAGES_A_DISCONNECT: u64 = 100;
/// How long a connection lasts at the most until then: after less than two seconds the relay backs off.
const CONNECTION_MAX: Duration = Duration::from_secs(4);
/// Messages a second meanwhile.
const LOAD_DURING_DISCONNECTS: f64 = 50.0;
/// How much more memory the relay may have in the second half of the disconnects.
const MEMORY_GROWTH_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// A keep alive that is soon over, yet long enough for the relay to miss an answer before the cloud misses a ping.
const KEEP_ALIVE_S: u16 = 8;
/// The largest payload that AWS takes, and a topic with the most bytes and slashes.
const PAYLOAD_BYTES_MAX: usize = 131_072;
const TOPIC_BYTES_MAX: usize = 256;

/// A topic as long as AWS takes it, with as many slashes.
fn longest_topic() -> String {
    let mut topic = "a/b/c/d/e/f/g/".to_owned();
    topic.push_str(&"h".repeat(TOPIC_BYTES_MAX - topic.len()));
    topic
}

#[tokio::test]
async fn the_largest_payload_and_the_longest_topic_that_aws_takes_pass_among_others() {
    let topic = longest_topic();
    let settings = [
        ("PRODUCER_TOPIC", topic.as_str()),
        ("CLOUD_CONSUMER_TOPIC", topic.as_str()),
    ];
    for version in VERSIONS {
        let mut trial = Trial::begin(
            "size and slashes at the limit",
            version,
            &settings,
            |_, _| {},
        )
        .await;
        trial.topic.clone_from(&topic);
        trial.publish_small(1, messages()).await;
        let large = Load {
            payload_bytes: PAYLOAD_BYTES_MAX,
            ..Load::new(2, topic.clone(), messages() / 20)
        };
        trial.publish(&large).await;
        trial.publish_small(3, messages()).await;
        let ended = trial.end().await;
        assert!(ended.in_order);
        assert_eq!((ended.breaches, ended.counts.connects), (Vec::new(), 1));
    }
}

#[tokio::test]
async fn qos_2_messages_reach_a_cloud_that_refuses_qos_2() {
    for version in VERSIONS {
        let mut trial = Trial::begin("QoS 2", version, &[], |_, _| {}).await;
        let load = Load {
            qos: 2,
            ..Load::new(1, "sensors", messages())
        };
        trial.publish(&load).await;
        let ended = trial.end().await;
        assert!(ended.in_order);
        assert_eq!((ended.breaches, ended.counts.connects), (Vec::new(), 1));
        let received = ended.site.cloud().received();
        assert!(received.iter().all(|message| message.qos == 1));
    }
}

#[tokio::test]
async fn a_topic_that_the_policy_denies_for_a_while_is_kept_until_it_is_allowed() {
    let denied = |rules: &mut Rules, _: &mut Faults| {
        rules.denied_topic_prefixes = vec!["sens".to_owned()];
    };
    for version in VERSIONS {
        let mut trial = Trial::begin("denied, then allowed", version, &[], denied).await;
        trial.publish_small(1, messages()).await;
        let told = "does the policy allow";
        trial.says(told, PATIENCE).await;
        let cloud = trial.site.cloud();
        cloud.set_rules(|rules| rules.denied_topic_prefixes.clear());
        trial.end().await;
    }
}

#[tokio::test]
async fn two_relays_of_one_identity_take_over_from_each_other_and_lose_nothing() {
    for version in VERSIONS {
        let mut trial = Trial::begin("take-over", version, &[], |_, _| {}).await;
        let twin = trial
            .site
            .environment_with([("CLOUD_MQTT_VERSION", version)]);
        let twin = RelayProcess::start_new(RELAY, &twin).await.unwrap();
        for round in 0..3 {
            trial.publish_small(round, messages() / 3).await;
            let connects = trial.site.cloud().counts().connects;
            let next = trial.site.cloud().wait_for_connects(connects + 1, PATIENCE);
            next.await.unwrap();
        }
        twin.kill_9().await.unwrap();
        let ended = trial.end().await;
        assert!(ended.breaches.contains(&Breach::TakenOver));
    }
}

#[tokio::test]
async fn the_window_fills_and_is_never_exceeded() {
    let late = |_: &mut Rules, faults: &mut Faults| faults.ack_delay = ROUND_TRIP;
    for ended in through("in-flight limit of 100, 80 ms round trip", &[], late).await {
        assert_eq!((ended.breaches, ended.counts.connects), (Vec::new(), 1));
        assert_eq!(ended.counts.duplicates, 0);
    }
    // MQTT 3.1.1 has no word for a limit
    let narrow = |rules: &mut Rules, faults: &mut Faults| {
        rules.in_flight_max = Some(7);
        faults.ack_delay = ACK_DELAY;
    };
    let mut trial = Trial::begin("in-flight limit of 7", "5", &[], narrow).await;
    trial.publish_small(1, messages()).await;
    let ended = trial.end().await;
    assert_eq!((ended.breaches, ended.counts.connects), (Vec::new(), 1));
}

#[tokio::test]
async fn at_the_default_pace_no_quota_is_tripped() {
    let quotas = |rules: &mut Rules, faults: &mut Faults| {
        rules.publish_rate_max = Some(PUBLISHES_PER_S);
        rules.byte_rate_max = Some(BYTES_PER_S);
        faults.ack_delay = ACK_DELAY;
    };
    let pace = [("CLOUD_PUBLISH_RATE", ""), ("CLOUD_BYTE_RATE", "")];
    for ended in through("quotas, paced", &pace, quotas).await {
        let counts = ended.counts;
        assert_eq!((ended.breaches, counts.connects), (Vec::new(), 1));
        let tripped = (counts.lost_publishes, counts.refused_publishes);
        assert_eq!((tripped, counts.duplicates), ((0, 0), 0), "{counts:?}");
        let log = ended.site.relay().log().lines().join("\n");
        assert!(!log.contains("WARN"), "{log}");
    }
}

#[tokio::test]
async fn a_quota_that_is_tripped_for_want_of_a_pace_loses_nothing() {
    let quota = |rules: &mut Rules, _: &mut Faults| rules.publish_rate_max = Some(PUBLISHES_PER_S);
    in_both(async |version| {
        let mut trial = Trial::begin("quota, not paced", version, &[], quota).await;
        // in MQTT 3.1.1 a hundred pass in ten seconds, until the relay notices that the others are not acknowledged
        trial.publish_small(1, messages() / 2).await;
        let counts = trial.end().await.counts;
        let (refused, discarded) = (counts.refused_publishes > 0, counts.lost_publishes > 0);
        assert_eq!((refused, discarded), (version == "5", version != "5"));
    })
    .await;
}

#[tokio::test]
async fn acknowledgements_that_come_late_and_out_of_order_make_nothing_come_twice() {
    let mixed = |_: &mut Rules, faults: &mut Faults| {
        faults.ack_delay = ACK_DELAY;
        faults.reverse_acks_in_groups_of = NonZeroU32::new(7);
    };
    for ended in through("acknowledgements late and reversed", &[], mixed).await {
        assert!(ended.in_order);
        assert_eq!((ended.counts.duplicates, ended.counts.connects), (0, 1));
    }
}

#[tokio::test]
async fn a_cloud_that_loses_acknowledgements_gets_the_messages_again() {
    let lossy =
        |_: &mut Rules, faults: &mut Faults| faults.lose_every_nth_puback = NonZeroU32::new(211);
    in_both(async |version| {
        let mut trial = Trial::begin("acknowledgements lost", version, &[], lossy).await;
        trial.publish_small(1, messages()).await;
        // the one without its PUBACK is sent on another connection
        let cloud = trial.site.cloud();
        cloud.wait_for_connects(2, PATIENCE).await.unwrap();
        let ended = trial.end().await;
        assert!(ended.counts.lost_pubacks > 0 && ended.in_order);
        let received = ended.site.cloud().received();
        assert!(
            received.iter().any(|message| message.dup),
            "repeated without DUP"
        );
    })
    .await;
}

#[tokio::test]
async fn a_cloud_that_loses_messages_gets_them_in_the_end() {
    let lossy =
        |_: &mut Rules, faults: &mut Faults| faults.lose_every_nth_publish = NonZeroU32::new(211);
    for ended in through("messages lost", &[], lossy).await {
        assert!(ended.counts.lost_publishes > 0);
    }
}

#[tokio::test]
async fn a_cloud_that_ends_every_connection_and_forgets_its_session_gets_everything() {
    let restless = |_: &mut Rules, faults: &mut Faults| {
        // time for a few round trips, on a busy machine too; all messages take several times as long
        faults.kick_every = Some(Duration::from_millis(2 * messages()));
        faults.ack_delay = ROUND_TRIP;
        faults.lose_sessions = true;
    };
    in_both(async |version| {
        let name = "disconnected often, sessions lost";
        let mut trial = Trial::begin(name, version, &[], restless).await;
        trial.publish_small(1, 5 * messages()).await;
        let ended = trial.end().await;
        assert!(ended.in_order && ended.counts.connects > 1);
    })
    .await;
}

#[tokio::test]
async fn disconnects_at_random_moments_lose_nothing_and_take_no_memory() {
    let disconnects = messages() / MESSAGES_A_DISCONNECT;
    in_both(async |version| {
        let mut trial = Trial::begin("disconnects at random", version, &[], |_, _| {}).await;
        let load = Load {
            rate_per_second: Some(LOAD_DURING_DISCONNECTS),
            ..Load::new(1, "sensors", u64::from(u32::MAX))
        };
        let mut memory_bytes = Vec::new();
        let disconnect = async {
            for disconnect in 1..=disconnects {
                let cloud = trial.site.cloud();
                cloud.wait_for_connects(disconnect, PATIENCE).await.unwrap();
                // not to wait for something: this is the random moment
                tokio::time::sleep(CONNECTION_MAX.mul_f64(fastrand::f64())).await;
                cloud.drop_connections();
                memory_bytes.push(trial.site.relay().process().memory_rss_bytes().unwrap());
            }
            load.stop.cancel();
        };
        let (report, ()) = tokio::join!(trial.site.publish(&load), disconnect);
        let report = report.unwrap();
        assert!(report.broken.is_none(), "{:?}", report.broken);
        trial.acked.extend(report.acked);
        let ended = trial.end().await;
        assert!(ended.in_order);

        let (early, late) = memory_bytes.split_at(memory_bytes.len() / 2);
        let (early, late) = (early.iter().max().unwrap(), late.iter().max().unwrap());
        eprintln!("memory at most {early} bytes in the first half, {late} in the second");
        assert!(late.saturating_sub(*early) < MEMORY_GROWTH_BYTES_MAX);
    })
    .await;
}

#[tokio::test]
async fn a_frozen_cloud_is_noticed_and_its_connection_replaced() {
    in_both(async |version| {
        let mut trial = Trial::begin("frozen", version, &[], |_, _| {}).await;
        trial.publish_small(1, messages()).await;
        trial.arrived().await;
        let cloud = trial.site.cloud();
        cloud.set_faults(|faults| faults.connections = Connections::Freeze);
        trial.publish_small(2, messages()).await;
        let told = "disconnected: the cloud stopped acknowledging";
        trial.says(told, PATIENCE).await;
        let cloud = trial.site.cloud();
        cloud.set_faults(|faults| faults.connections = Connections::Accept);
        let ended = trial.end().await;
        assert!(ended.counts.connects > 1 && ended.in_order);
    })
    .await;
}

#[tokio::test]
async fn a_cloud_that_answers_no_ping_is_left_for_another_connection() {
    in_both(async |version| {
        // a cloud tells a shorter keep alive in MQTT 5 only; at our own it takes a minute until a ping is missed
        let told = version == "5";
        if !told && messages() < MESSAGES_IN_FULL {
            return;
        }
        let silent = |rules: &mut Rules, faults: &mut Faults| {
            if told {
                rules.keep_alive_s_max = Some(KEEP_ALIVE_S);
            }
            faults.no_pingresp = true;
        };
        let mut trial = Trial::begin("no PINGRESP", version, &[], silent).await;
        trial.publish_small(1, messages()).await;
        let said = "disconnected: the cloud did not answer a ping";
        let patience = 2 * PATIENCE;
        trial.says(said, patience).await;
        trial.publish_small(2, messages()).await;
        trial
            .site
            .cloud()
            .wait_for_connects(2, PATIENCE)
            .await
            .unwrap();
        let ended = trial.end().await;
        assert!(ended.in_order);
    })
    .await;
}
