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

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use cloud_relay_sandbox::cloud::{Breach, Connections, Counts, Faults, Rules};
use cloud_relay_sandbox::ledger::MessageId;
use cloud_relay_sandbox::publisher::Load;
use cloud_relay_sandbox::relay::RelayProcess;
use cloud_relay_sandbox::site::{PATIENCE, Site};

use common::RELAY;
use common::totals::Totals;

/// Messages of each rule, unless `CLOUD_RULES_MESSAGES` says otherwise.
const MESSAGES: u64 = 300;
/// From so many on, rules are tried that take minutes however few messages there are.
const MESSAGES_IN_FULL: u64 = 5_000;
/// What a message may take on top of [`PATIENCE`]: a rule may let no more than a hundred through in ten seconds.
const PATIENCE_A_MESSAGE: Duration = Duration::from_millis(200);
/// A way that lets the window of 100 fill.
const ACK_DELAY: Duration = Duration::from_millis(20);
/// AWS's quotas, and the relay's default pace.
const PUBLISHES_PER_S: u32 = 100;
const BYTES_PER_S: u32 = 524_288;
/// How often each version is disconnected at random, in short and in full.
const DISCONNECTS: u64 = 3;
const DISCONNECTS_IN_FULL: u64 = 500;
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

fn messages() -> u64 {
    std::env::var("CLOUD_RULES_MESSAGES").map_or(MESSAGES, |text| {
        text.parse()
            .expect("CLOUD_RULES_MESSAGES is a number of messages")
    })
}

/// A version of MQTT, as `CLOUD_MQTT_VERSION` has it.
type Version = &'static str;
const VERSIONS: [Version; 2] = ["5", "3.1.1"];

/// A relay in its cloud, and what is to be said of them in the end.
struct Trial {
    name: &'static str,
    version: Version,
    site: Site,
    topic: String,
    acked: Vec<MessageId>,
    began: Instant,
}

/// What is left of a [`Trial`] whose promise was kept.
struct Ended {
    in_order: bool,
    counts: Counts,
    breaches: Vec<Breach>,
    site: Site,
}

impl Trial {
    /// A relay that speaks `version`, with `settings` besides, to a cloud that is as `set` makes it.
    async fn begin(
        name: &'static str,
        version: Version,
        settings: &[(&str, &str)],
        set: impl FnOnce(&mut Rules, &mut Faults),
    ) -> Self {
        let site = Site::new(RELAY).await.unwrap();
        let (mut rules, mut faults) = (Rules::default(), Faults::default());
        set(&mut rules, &mut faults);
        site.cloud().set_rules(|all| *all = rules);
        site.cloud().set_faults(|all| *all = faults);
        let mut variables = site.environment_with([("CLOUD_MQTT_VERSION", version)]);
        let settings = settings.iter().map(|(name, value)| (*name, *value));
        variables.extend(settings.map(|(name, value)| (name.to_owned(), value.to_owned())));
        site.start_with(&variables).await.unwrap();
        Trial {
            name,
            version,
            site,
            topic: "sensors".to_owned(),
            acked: Vec::new(),
            began: Instant::now(),
        }
    }

    /// Publishes `count` messages of the default size.
    async fn publish_small(&mut self, publisher: u32, count: u64) {
        let load = Load::new(publisher, self.topic.clone(), count);
        self.publish(&load).await;
    }

    /// Publishes `load`, all of which must be acknowledged.
    async fn publish(&mut self, load: &Load) {
        let report = self.site.publish(load).await.unwrap();
        assert!(
            report.is_complete(load),
            "{}: {:?}",
            self.name,
            report.broken
        );
        self.acked.extend(report.acked);
    }

    /// Waits until all that was acknowledged is in the cloud.
    async fn arrived(&self) {
        let count = u32::try_from(self.acked.len()).unwrap();
        let patience = PATIENCE + PATIENCE_A_MESSAGE * count;
        let arrived = self.site.cloud().wait_for_messages(&self.acked, patience);
        if let Err(error) = arrived.await {
            panic!("{error}\n{}", self.said());
        }
    }

    fn said(&self) -> String {
        let Trial { name, version, .. } = self;
        format!(
            "{name}, MQTT {version}:\n{}",
            self.site.relay().log().tail()
        )
    }

    /// Nothing is missing; with the cloud as it should be one more message passes; the ledger has all of them.
    async fn end(mut self) -> Ended {
        self.arrived().await;
        let took = self.began.elapsed();
        let counts = self.site.cloud().counts();
        let breaches = self.site.cloud().breaches();
        self.site.cloud().set_rules(|all| *all = Rules::default());
        self.site.cloud().set_faults(|all| *all = Faults::default());
        self.publish_small(u32::MAX, 1).await;
        self.arrived().await;
        self.site.relay().terminate().await.unwrap();

        let totals = Totals::on_disk(self.site.relay().data_dir());
        let acked = self.acked.len() as u64;
        // a load that was cut short may have been taken without hearing of it
        let kept = totals.accepted >= acked && totals.dropped + totals.dead_lettered == 0;
        assert!(
            kept && totals.balances(),
            "{acked} of {totals:?}\n{}",
            self.said()
        );
        let v5 = if self.version == "5" {
            counts.connects
        } else {
            0
        };
        assert_eq!(counts.connects_v5, v5, "{}", self.said());
        let found = self.site.cloud().audit(&self.acked);
        eprintln!(
            "{:<44} MQTT {:<5} {acked:>6} messages in {:>6.1} s, missing {}, twice {}, connections {}, \
             acknowledgements lost {}, publishes lost {}, refused {}, at most {}/s",
            self.name,
            self.version,
            took.as_secs_f64(),
            found.missing.len(),
            counts.duplicates,
            counts.connects,
            counts.lost_pubacks,
            counts.lost_publishes,
            counts.refused_publishes,
            self.site.cloud().peaks().publishes,
        );
        Ended {
            in_order: found.is_complete_and_ordered(),
            counts,
            breaches,
            site: self.site,
        }
    }
}

/// `run` in both versions at the same time.
async fn in_both<T>(run: impl AsyncFn(Version) -> T) -> [T; 2] {
    let [five, three] = VERSIONS;
    let (five, three) = tokio::join!(run(five), run(three));
    [five, three]
}

/// All messages through a cloud that is as `set` makes it, in both versions.
async fn through(
    name: &'static str,
    settings: &[(&str, &str)],
    set: impl Fn(&mut Rules, &mut Faults),
) -> [Ended; 2] {
    in_both(async |version| {
        let mut trial = Trial::begin(name, version, settings, &set).await;
        trial.publish_small(1, messages()).await;
        trial.end().await
    })
    .await
}

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
        trial
            .site
            .relay()
            .wait_for_log(told, PATIENCE)
            .await
            .unwrap();
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
    let late = |_: &mut Rules, faults: &mut Faults| faults.ack_delay = ACK_DELAY;
    for ended in through("in-flight limit of 100", &[], late).await {
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
        faults.kick_every = Some(Duration::from_millis(30));
        faults.lose_sessions = true;
        // slow enough that each connection ends amid a flow
        faults.ack_delay = ACK_DELAY;
    };
    for ended in through("disconnected every 30 ms, sessions lost", &[], restless).await {
        assert!(
            ended.in_order && ended.counts.connects > 1,
            "{:?}",
            ended.counts
        );
    }
}

#[tokio::test]
async fn disconnects_at_random_moments_lose_nothing_and_take_no_memory() {
    let disconnects = if messages() < MESSAGES_IN_FULL {
        DISCONNECTS
    } else {
        DISCONNECTS_IN_FULL
    };
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
        trial
            .site
            .relay()
            .wait_for_log(told, PATIENCE)
            .await
            .unwrap();
        let cloud = trial.site.cloud();
        cloud.set_faults(|faults| faults.connections = Connections::Accept);
        let ended = trial.end().await;
        assert!(ended.counts.connects > 1 && ended.in_order);
    })
    .await;
}

#[tokio::test]
async fn a_cloud_that_answers_no_ping_is_left_for_another_connection() {
    // AWS tells a shorter keep alive in MQTT 5 only; at our own it takes a minute until a ping is missed
    let silent = |rules: &mut Rules, faults: &mut Faults| {
        rules.keep_alive_s_max = Some(KEEP_ALIVE_S);
        faults.no_pingresp = true;
    };
    in_both(async |version| {
        if version != "5" && messages() < MESSAGES_IN_FULL {
            return;
        }
        let mut trial = Trial::begin("no PINGRESP", version, &[], silent).await;
        trial.publish_small(1, messages()).await;
        let told = "disconnected: the cloud did not answer a ping";
        let patience = 2 * PATIENCE;
        trial
            .site
            .relay()
            .wait_for_log(told, patience)
            .await
            .unwrap();
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
