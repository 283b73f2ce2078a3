//! Which messages go to the cloud and under which topic, by the real program and its rules.

mod common;

use std::process::{Command, Output};

use cloud_relay_sandbox::publisher::Publisher;
use cloud_relay_sandbox::site::{DEVICE_UUID, PATIENCE, Site};

use common::RELAY;

/// Rules that use every kind of target.
const RULES: (&str, &str) = (
    "PRODUCER_TOPIC",
    "alarms/# => $aws/rules/alarms/{topic:2..}, rooms/+/co2 => site/{uuid}/air/{topic:2}, rooms/#, plain",
);
const DEFAULT: (&str, &str) = ("CLOUD_CONSUMER_TOPIC", "fleet/{app}/{topic}");
const APP: (&str, &str) = ("RESIN_APP_NAME", "greenhouse");

/// The program with `arguments` in an environment of `variables`.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(RELAY);
    command.env_clear().envs(variables.iter().copied());
    command
        .args(arguments)
        .output()
        .expect("the program starts")
}

fn lines(bytes: &[u8]) -> Vec<&str> {
    let text = std::str::from_utf8(bytes).expect("text");
    text.lines().collect()
}

#[tokio::test]
async fn each_message_goes_where_the_first_rule_that_matches_sends_it_and_the_rest_stays() {
    let site = Site::new(RELAY).await.unwrap();
    let environment = site.environment_with([RULES, DEFAULT, APP]);
    site.start_with(&environment).await.unwrap();
    let air = format!("site/{DEVICE_UUID}/air/7");
    let sent = [
        ("alarms/hall/fire", Some("$aws/rules/alarms/hall/fire")),
        ("alarm", None),
        ("rooms/7/co2", Some(air.as_str())),
        ("rooms/7/co2/raw", Some("fleet/greenhouse/rooms/7/co2/raw")),
        ("rooms", Some("fleet/greenhouse/rooms")),
        ("Rooms/7", None),
        ("sensors", None),
        ("plai", None),
        ("plain/1", None),
        ("/plain", None),
        ("$SYS/rooms", None),
        ("plain", Some("fleet/greenhouse/plain")),
    ];
    let mut publisher = Publisher::connect(site.relay().listen_addr(), "p")
        .await
        .unwrap();
    for (topic, _) in sent {
        publisher.publish(topic, topic.as_bytes(), 1).await.unwrap();
    }
    let expected: Vec<_> = (sent.iter())
        .filter_map(|(topic, target)| Some((topic.as_bytes().to_vec(), (*target)?.to_owned())))
        .collect();
    site.cloud()
        .wait_for(expected.len(), PATIENCE)
        .await
        .unwrap();
    // a stop sends what there is to send, and counts what was spooled
    site.relay().terminate().await.unwrap();
    let received = site.cloud().received();
    let received: Vec<_> = (received.iter())
        .map(|message| (message.payload.to_vec(), message.topic.to_string()))
        .collect();
    assert_eq!(received, expected);
    assert!(
        site.cloud().breaches().is_empty(),
        "{:?}",
        site.cloud().breaches()
    );
    let log = site.relay().log().tail();
    assert!(log.contains("accepted=5"), "{log}");
}

#[tokio::test]
async fn rules_that_were_changed_apply_to_what_was_spooled_before() {
    let site = Site::new(RELAY).await.unwrap();
    site.cloud().stop().await.unwrap();
    let before = site.environment_with([("PRODUCER_TOPIC", "rooms/# => old/{topic}")]);
    site.start_with(&before).await.unwrap();
    let mut publisher = Publisher::connect(site.relay().listen_addr(), "p")
        .await
        .unwrap();
    for topic in ["rooms/1", "rooms/2"] {
        publisher.publish(topic, topic.as_bytes(), 1).await.unwrap();
    }
    site.relay().kill_9().await.unwrap();

    site.cloud().resume().await.unwrap();
    let after = site.environment_with([("PRODUCER_TOPIC", "rooms/1 => one, # => new/{topic:2}")]);
    site.start_with(&after).await.unwrap();
    site.cloud().wait_for(2, PATIENCE).await.unwrap();
    let received = site.cloud().received();
    let topics: Vec<_> = received.iter().map(|message| &*message.topic).collect();
    assert_eq!(topics, ["one", "new/2"]);
}

/// What stands in the dead letters of `site`, as text.
fn dead_letters(site: &Site) -> Vec<String> {
    let directory = site.relay().data_dir().join("dead-letters");
    let files = std::fs::read_dir(directory).expect("a directory");
    let paths = files.map(|file| file.expect("a file").path());
    let letters = paths.filter(|path| path.extension().is_some_and(|end| end == "letter"));
    letters
        .map(|path| std::fs::read_to_string(path).expect("text"))
        .collect()
}

#[tokio::test]
async fn what_no_rule_matches_any_more_and_what_has_no_legal_topic_become_dead_letters() {
    let site = Site::new(RELAY).await.unwrap();
    site.cloud().stop().await.unwrap();
    site.start_with(&site.environment_with([("PRODUCER_TOPIC", "#")]))
        .await
        .unwrap();
    let mut publisher = Publisher::connect(site.relay().listen_addr(), "p")
        .await
        .unwrap();
    for topic in ["a/1", "b/2", "a/3/4/5/6/7/8/9/10", "a/11"] {
        publisher.publish(topic, topic.as_bytes(), 1).await.unwrap();
    }
    site.relay().kill_9().await.unwrap();

    site.cloud().resume().await.unwrap();
    let after = site.environment_with([("PRODUCER_TOPIC", "a/# => {topic}")]);
    site.start_with(&after).await.unwrap();
    site.cloud().wait_for(2, PATIENCE).await.unwrap();
    site.relay().terminate().await.unwrap();
    let received = site.cloud().received();
    let topics: Vec<_> = received.iter().map(|message| &*message.topic).collect();
    assert_eq!(topics, ["a/1", "a/11"]);
    let letters = dead_letters(&site);
    assert_eq!(letters.len(), 2, "{letters:?}");
    for (payload, reason) in [
        ("b/2", "no-route"),
        ("a/3/4/5/6/7/8/9/10", "too-many-slashes"),
    ] {
        let named = |letter: &&String| letter.contains(reason) && letter.ends_with(payload);
        assert_eq!(letters.iter().filter(named).count(), 1, "{letters:?}");
    }
}

#[test]
fn the_program_explains_its_rules_without_a_relay() {
    let uuid = ("BALENA_DEVICE_UUID", "c0ffee");
    let variables = [RULES, DEFAULT, APP, uuid, ("AWS_PORT", "faulty")];
    let table = run(&["routes"], &variables);
    assert!(table.status.success(), "{table:?}");
    assert_eq!(
        lines(&table.stdout),
        [
            "1  alarms/# => $aws/rules/alarms/{topic:2..}",
            "2  rooms/+/co2 => site/c0ffee/air/{topic:2}",
            "3  rooms/# => fleet/greenhouse/{topic}",
            "4  plain => fleet/greenhouse/plain",
        ]
    );
    let explained = run(&["routes", "explain", "rooms/7/co2", "sensors"], &variables);
    assert!(explained.status.success(), "{explained:?}");
    assert_eq!(
        lines(&explained.stdout),
        [
            "rooms/7/co2: goes to site/c0ffee/air/7 by rule 2 (rooms/+/co2 => site/c0ffee/air/{topic:2})",
            "sensors: stays on the device: no rule matches",
        ]
    );
    let plain = run(&["routes", "explain", "sensors"], &[]);
    assert_eq!(
        lines(&plain.stdout),
        ["sensors: goes to sensors by rule 1 (sensors => sensors)"]
    );
}

#[test]
fn rules_that_cannot_work_end_the_program_with_the_rule_and_the_remedy() {
    let rules = ("PRODUCER_TOPIC", "a => $aws/things/x, b/+ => {topic:3}, c");
    let default = ("CLOUD_CONSUMER_TOPIC", "{app}/c");
    for arguments in [&[][..], &["routes"], &["routes", "explain", "a"]] {
        let output = run(arguments, &[rules, default]);
        assert_eq!(output.status.code(), Some(64), "{output:?}");
        let found = lines(&output.stderr);
        assert_eq!(found.len(), 3, "{found:?}");
        for (line, parts) in found.iter().zip([
            ["CLOUD_CONSUMER_TOPIC", "BALENA_APP_NAME to be set"],
            [r#"rule 1 ("a => $aws/things/x")"#, "only $aws/rules/"],
            [r#"rule 2 ("b/+ => {topic:3}")"#, "levels up to 2 only"],
        ]) {
            assert!(parts.iter().all(|part| line.contains(part)), "{line}");
        }
    }
}
