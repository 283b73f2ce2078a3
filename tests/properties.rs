//! What MQTT 5 lets a publisher say of a message besides its payload, on its way through the spool to the cloud, to the
//! dead letters and back to the device; and messages that are of use for a certain time only.

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cloud_relay_sandbox::cloud::PublishProperties;
use cloud_relay_sandbox::publisher::Load;
use cloud_relay_sandbox::site::{PATIENCE, Site, environment};
use serde_json::Value;

use common::mosquitto::{Key, MosquittoCloud};
use common::totals::Totals;
use common::{
    PYTHON, RELAY, ended_well, mosquitto_pub, mosquitto_sub, require_tools, run, started,
};

const PAHO: (&str, &str) = (PYTHON, "tests/peers/paho_client.py");
const MQTT_JS: (&str, &str) = ("node", "tests/peers/mqttjs_client.mjs");
/// What the scene `annotated` says of its message, in seconds, unless told otherwise.
const EXPIRY_S: u32 = 3_600;

/// A foreign client publishes one message with all properties to `topic`; it is acknowledged.
async fn annotated(client: (&str, &str), port: u16, topic: &str, expiry_s: u32) {
    annotated_times(1, client, port, topic, expiry_s).await;
}

/// So many of them.
async fn annotated_times(
    count: usize,
    client: (&str, &str),
    port: u16,
    topic: &str,
    expiry_s: u32,
) {
    let (program, script) = client;
    let (port, expiry, count) = (port.to_string(), expiry_s.to_string(), count.to_string());
    let scene = [script, &port, "annotated", "--mqtt", "5", "--count", &count];
    let options = ["--topic", topic, "--expiry", &expiry];
    run(program, &[&scene[..], &options].concat()).await;
}

async fn site(settings: [(&str, &str); 3]) -> Site {
    require_tools();
    let site = Site::new(RELAY).await.expect("a site");
    let environment = site.environment_with(settings);
    site.start_with(&environment).await.expect("it starts");
    site
}

/// MQTT 5, and topics that keep their names.
const OF_5: [(&str, &str); 3] = [
    ("CLOUD_MQTT_VERSION", "5"),
    ("PRODUCER_TOPIC", "sensors"),
    ("CLOUD_CONSUMER_TOPIC", "{topic}"),
];

async fn site_of_5() -> Site {
    site(OF_5).await
}

/// Starts the relay of [`site_of_5`] again.
async fn restart(site: &Site) {
    let environment = site.environment_with(OF_5);
    site.start_with(&environment).await.expect("it starts");
}

fn port(site: &Site) -> u16 {
    site.relay().listen_addr().port()
}

/// What arrived in the cloud, `count` messages after all: their properties.
async fn arrived(site: &Site, count: usize) -> Vec<Option<PublishProperties>> {
    if let Err(error) = site.cloud().wait_for(count, PATIENCE).await {
        panic!("{error}\n{}", site.relay().log().tail());
    }
    let received = site.cloud().received().into_iter();
    received
        .map(|message| message.properties.as_deref().cloned())
        .collect()
}

/// All that `annotated` says is there, and nothing else; its user properties are `user`, and of its time no more than
/// `waited_s` has passed.
fn check(found: Option<&PublishProperties>, user: [(&str, &str); 3], waited_s: u32) {
    let found = found.expect("it has properties");
    let expiry_s = found.message_expiry_s.expect("a time");
    let expected = PublishProperties {
        user_properties: user
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        content_type: Some("text/plain".to_owned()),
        message_expiry_s: found.message_expiry_s,
        payload_format: Some(1),
        response_topic: Some("answers".to_owned()),
        correlation_data: Some(vec![0, 255].into()),
        topic_alias: None,
    };
    assert_eq!(found, &expected);
    let range = EXPIRY_S - waited_s..=EXPIRY_S;
    assert!(range.contains(&expiry_s), "{expiry_s}");
}

const BY_PAHO: [(&str, &str); 3] = [("b", "1"), ("a", "2"), ("b", "1")];
/// It puts those of one name together.
const BY_MQTT_JS: [(&str, &str); 3] = [("b", "1"), ("b", "1"), ("a", "2")];

#[tokio::test]
async fn the_cloud_learns_what_foreign_publishers_say_of_their_messages() {
    let site = site_of_5().await;
    annotated(PAHO, port(&site), "sensors", EXPIRY_S).await;
    annotated(MQTT_JS, port(&site), "sensors", EXPIRY_S).await;
    mosquitto_pub(port(&site), &["-q", "1", "-t", "sensors", "-m", "plain"]).await;
    let found = arrived(&site, 3).await;
    let [paho, mqtt_js, plain] = found.as_slice() else {
        panic!("{found:?}");
    };
    let patience_s = u32::try_from(PATIENCE.as_secs()).expect("it is short");
    check(paho.as_ref(), BY_PAHO, patience_s);
    check(mqtt_js.as_ref(), BY_MQTT_JS, patience_s);
    assert_eq!(*plain, None);
}

#[tokio::test]
async fn properties_survive_an_outage_and_kill_9_and_the_time_in_the_spool_counts() {
    let site = site_of_5().await;
    site.cloud().stop().await.expect("it stops");
    annotated(PAHO, port(&site), "sensors", EXPIRY_S).await;
    site.relay().kill_9().await.expect("it is killed");
    // The time under test.
    tokio::time::sleep(Duration::from_secs(2)).await;
    restart(&site).await;
    site.cloud().resume().await.expect("it resumes");
    let found = arrived(&site, 1).await;
    let found = found.first().and_then(Option::as_ref);
    check(found, BY_PAHO, EXPIRY_S / 2);
    let expiry_s = found.and_then(|found| found.message_expiry_s);
    assert!(
        expiry_s.is_some_and(|left| left <= EXPIRY_S - 2),
        "{expiry_s:?}"
    );
}

#[tokio::test]
async fn over_mqtt_3_1_1_the_message_goes_without_them() {
    let site = site([
        ("CLOUD_MQTT_VERSION", "3.1.1"),
        ("PRODUCER_TOPIC", "sensors"),
        ("CLOUD_CONSUMER_TOPIC", "{topic}"),
    ])
    .await;
    annotated(PAHO, port(&site), "sensors", EXPIRY_S).await;
    assert_eq!(arrived(&site, 1).await, [None]);
    let received = site.cloud().received();
    let payloads: Vec<&[u8]> = received.iter().map(|one| &one.payload[..]).collect();
    assert_eq!(payloads, [b"message 0"]);
}

/// A message that has expired in an outage is dropped and counted, and others are sent; `killed` in between.
async fn expires(killed: bool) {
    let site = site_of_5().await;
    site.cloud().stop().await.expect("it stops");
    annotated(PAHO, port(&site), "sensors", 1).await;
    mosquitto_pub(port(&site), &["-q", "1", "-t", "sensors", "-m", "lasting"]).await;
    annotated(MQTT_JS, port(&site), "sensors", EXPIRY_S).await;
    if killed {
        site.relay().kill_9().await.expect("it is killed");
    }
    // The time under test.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    if killed {
        restart(&site).await;
    }
    site.cloud().resume().await.expect("it resumes");
    let found = arrived(&site, 2).await;
    assert_eq!(found.first(), Some(&None), "the one that lasts");
    check(
        found.get(1).and_then(Option::as_ref),
        BY_MQTT_JS,
        EXPIRY_S / 2,
    );
    let told = "1 messages dropped: they waited longer than their publishers said";
    let said = site.relay().wait_for_log(told, PATIENCE).await;
    said.expect("it is told");
    site.relay().terminate().await.expect("it stops");
    let expected = Totals {
        accepted: 3,
        delivered: 2,
        spooled: 0,
        dead_lettered: 0,
        dropped: 1,
    };
    assert_eq!(Totals::on_disk(site.relay().data_dir()), expected);
    assert_eq!(Totals::of_all_runs(&site.relay().log().lines()), expected);
    assert_eq!(site.cloud().received_count(), 2);
    let inspected = spool_tool(site.relay().data_dir(), "inspect");
    assert!(inspected.contains("expired 1"), "{inspected}");
}

#[tokio::test]
async fn a_message_that_expires_in_an_outage_is_dropped_and_counted() {
    expires(false).await;
}

#[tokio::test]
async fn a_message_that_expires_while_the_relay_is_dead_is_dropped_and_counted() {
    expires(true).await;
}

#[tokio::test]
async fn the_ledger_counts_what_expires_once_however_often_the_relay_is_killed() {
    const LASTING: u64 = 300;
    const EXPIRING: usize = 300;
    let site = site_of_5().await;
    site.cloud()
        .set_faults(|faults| faults.ack_delay = Duration::from_millis(20));
    site.cloud().stop().await.expect("it stops");
    let mut acked = Vec::new();
    for publisher in 0..3 {
        let load = Load::new(publisher, "sensors", LASTING / 3);
        acked.extend(site.publish(&load).await.expect("it connects").acked);
        annotated_times(EXPIRING / 3, PAHO, port(&site), "sensors", 1).await;
    }
    // The time under test.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    site.cloud().resume().await.expect("it resumes");
    for _ in 0..4 {
        let wanted = site.cloud().received_count() + 50;
        let arrived = site.cloud().wait_for(wanted, PATIENCE).await;
        arrived.expect("it goes on");
        site.relay().kill_9().await.expect("it is killed");
        let totals = Totals::on_disk(site.relay().data_dir());
        assert!(totals.balances(), "{totals:?}");
        assert!(totals.dropped <= EXPIRING as u64, "{totals:?}");
        restart(&site).await;
    }
    site.arrived(&acked).await.expect("they arrive");
    let last = Load::new(99, "sensors", 1);
    let last = site.publish(&last).await.expect("it connects").acked;
    // Order is kept: behind this one nothing is left.
    site.arrived(&last).await.expect("it arrives");
    site.relay().terminate().await.expect("it stops");
    let expected = Totals {
        accepted: LASTING + 1 + EXPIRING as u64,
        delivered: LASTING + 1,
        spooled: 0,
        dead_lettered: 0,
        dropped: EXPIRING as u64,
    };
    assert_eq!(Totals::on_disk(site.relay().data_dir()), expected);
}

/// What `cloud-relay spool` with `verb` prints of a stopped relay's directory.
fn spool_tool(data_dir: &Path, verb: &str) -> String {
    let output = Command::new(RELAY)
        .args(["spool", verb, "--data-dir"])
        .arg(data_dir)
        .env_clear()
        .output()
        .expect("the relay's program starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("it is UTF-8")
}

/// What `cloud-relay dead-letters` with `words` prints, beside the running relay.
fn letters_tool(site: &Site, words: &[&str]) -> String {
    let relay = site.relay();
    let output = Command::new(RELAY)
        .arg("dead-letters")
        .args(words)
        .env_clear()
        .env("DATA_DIR", relay.data_dir())
        .env("LOCAL_MQTT_LISTEN", relay.listen_addr().to_string())
        .env("PRODUCER_TOPIC", "sensors,secret/#")
        .env("CLOUD_CONSUMER_TOPIC", "{topic}")
        .output()
        .expect("the relay's program starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("it is UTF-8")
}

#[tokio::test]
async fn a_dead_letter_shows_its_properties_and_has_them_again_when_it_is_replayed() {
    let site = Site::new(RELAY).await.expect("a site");
    site.cloud()
        .set_rules(|rules| rules.denied_topic_prefixes = vec!["secret/".to_owned()]);
    let environment = site.environment_with([
        ("CLOUD_MQTT_VERSION", "5"),
        ("CLOUD_DENIED_HOLD_S", "0"),
        ("PRODUCER_TOPIC", "sensors,secret/#"),
        ("CLOUD_CONSUMER_TOPIC", "{topic}"),
    ]);
    site.start_with(&environment).await.expect("it starts");
    // Something is accepted, so that the other one is at fault.
    mosquitto_pub(port(&site), &["-q", "1", "-t", "sensors", "-m", "plain"]).await;
    annotated(PAHO, port(&site), "secret/plans", EXPIRY_S).await;
    let said = site.relay().wait_for_log("a dead letter", PATIENCE).await;
    said.expect("it becomes a dead letter");

    let line = letters_tool(&site, &["list", "--json"]);
    let letter: Value = serde_json::from_str(&line).expect("a line of JSON");
    let properties = &letter["properties"];
    assert_eq!(properties["message_expiry_s"], EXPIRY_S);
    assert_eq!(properties["content_type"], "text/plain");
    let user = serde_json::json!([["b", "1"], ["a", "2"], ["b", "1"]]);
    assert_eq!(properties["user_properties"], user);
    let id = letter["id"].as_str().expect("an id");
    let shown = letters_tool(&site, &["show", id]);
    assert!(shown.contains("\nproperties     {"), "{shown}");

    site.cloud()
        .set_rules(|rules| rules.denied_topic_prefixes.clear());
    let replayed = letters_tool(&site, &["replay", "--all"]);
    assert_eq!(replayed, "1 dead letters replayed\n");
    let found = arrived(&site, 2).await;
    check(found.last().and_then(Option::as_ref), BY_PAHO, EXPIRY_S / 2);
}

#[tokio::test]
async fn export_shows_the_properties_of_what_waits() {
    let site = site_of_5().await;
    site.cloud().stop().await.expect("it stops");
    annotated(PAHO, port(&site), "sensors", EXPIRY_S).await;
    mosquitto_pub(port(&site), &["-q", "1", "-t", "sensors", "-m", "plain"]).await;
    site.relay().terminate().await.expect("it stops");
    let exported = spool_tool(site.relay().data_dir(), "export");
    let lines: Vec<Value> = (exported.lines())
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let [annotated, plain] = lines.as_slice() else {
        panic!("{exported}");
    };
    assert_eq!(annotated["payload"], "message 0");
    assert_eq!(annotated["properties"]["response_topic"], "answers");
    assert_eq!(annotated["properties"]["correlation_data_base64"], "AP8=");
    assert_eq!(plain.get("properties"), None);
}

/// Copies a spool that is kept with the tests to where a relay looks for it.
fn put_spool(name: &str, data_dir: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let to = data_dir.join("spool");
    std::fs::create_dir_all(&to).expect("a directory");
    for file in std::fs::read_dir(from.join(name)).expect("the fixture") {
        let file = file.expect("a listed file");
        std::fs::copy(file.path(), to.join(file.file_name())).expect("the file is copied");
    }
}

#[tokio::test]
async fn the_spool_of_a_relay_that_knew_no_properties_is_relayed() {
    let site = Site::new(RELAY).await.expect("a site");
    put_spool("spool-before-attributes", site.relay().data_dir());
    restart(&site).await;
    assert_eq!(arrived(&site, 3).await, [None, None, None]);
    let received = site.cloud().received();
    let payloads: Vec<&[u8]> = received.iter().map(|one| &one.payload[..]).collect();
    assert_eq!(payloads, [b"21.5", b"21.6", b"21.7"]);
}

#[test]
fn a_spool_keeps_its_properties_though_an_older_relay_wrote_into_it() {
    let directory = tempfile::tempdir().expect("a directory");
    put_spool("spool-with-attributes", directory.path());
    let exported = spool_tool(directory.path(), "export");
    let lines = exported.lines();
    let lines: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let content_types: Vec<Option<&str>> = (lines.iter())
        .map(|line| line["properties"]["content_type"].as_str())
        .collect();
    let text = Some("text/plain");
    assert_eq!(content_types, [text, text, None, None]);
    let last = lines.last().map(|line| &line["payload"]);
    assert_eq!(last, Some(&Value::from("from-old")));
}

/// All that Debian's subscriber can print of a message, and the number of messages after which it ends.
const FORMAT: [&str; 6] = ["-V", "5", "-F", "says %P|%C|%D|%E|%F|%R|%p", "-C", "1"];
/// The same message as Debian's publisher sends it.
const SAYS: [&str; 24] = [
    "-V",
    "5",
    "-q",
    "1",
    "-D",
    "publish",
    "content-type",
    "text/plain",
    "-D",
    "publish",
    "user-property",
    "b",
    "1",
    "-D",
    "publish",
    "user-property",
    "a",
    "2",
    "-D",
    "publish",
    "response-topic",
    "answers",
    "-m",
    "on",
];

/// What a subscriber printed of the message.
async fn printed(subscriber: &cloud_relay_sandbox::process::Process) -> String {
    let printed = ended_well(subscriber).await;
    let line = printed.iter().find(|line| line.contains("says "));
    line.unwrap_or_else(|| panic!("{printed:?}")).clone()
}

#[tokio::test]
async fn mosquitto_as_the_cloud_sees_what_paho_says() {
    require_tools();
    let cloud = MosquittoCloud::start().await;
    let variables = cloud.relay_environment(Key::RsaPkcs8).await;
    let watch = [&FORMAT[..], &["-q", "1", "-t", "sensors"]].concat();
    let subscriber = cloud.subscriber(&watch).await;
    let relay = started(&variables).await;
    annotated(PAHO, relay.listen_addr().port(), "sensors", EXPIRY_S).await;
    let line = printed(&subscriber).await;
    for part in ["b:1", "a:2", "|text/plain|", "|1|answers|message 0"] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

#[tokio::test]
async fn a_local_subscriber_learns_what_the_cloud_says_of_its_message() {
    let cloud = MosquittoCloud::start().await;
    let mut variables = cloud.relay_environment(Key::RsaPkcs8).await;
    variables.extend(environment([("CLOUD_SUBSCRIBE", "commands => commands")]));
    let relay = started(&variables).await;
    let port = relay.listen_addr().port();
    let watch = [&FORMAT[..], &["-q", "1", "-t", "commands"]].concat();
    let subscriber = mosquitto_sub(port, &watch).await;
    // Its first message goes behind its subscription.
    let behind = cloud
        .subscriber(&["-q", "1", "-t", "sensors", "-C", "1"])
        .await;
    mosquitto_pub(port, &["-q", "1", "-t", "sensors", "-m", "x"]).await;
    ended_well(&behind).await;
    cloud
        .publish(&[&SAYS[..], &["-t", "commands"]].concat())
        .await;
    let line = printed(&subscriber).await;
    assert!(line.contains("says b:1 a:2|text/plain|"), "{line}");
    assert!(line.ends_with("|answers|on"), "{line}");
}
