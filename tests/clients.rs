//! Foreign MQTT clients as apps on the device: paho-mqtt (Python), MQTT.js (Node), and mosquitto's
//! command line clients, with and without a client id, in MQTT 3.1.1 and 5.
//!
//! The scripts in `tests/peers/` play each scene by themselves and end with an error if the broker
//! does anything that mosquitto would not.

mod common;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use cloud_relay_sandbox::process::Process;
use cloud_relay_sandbox::site::{PATIENCE, Site};

use common::{PYTHON, RELAY, ended_well, mosquitto_pub, mosquitto_sub, require_tools, run, start};

/// The scenes that need no partner.
const SCENES: [&str; 6] = ["qos", "retained", "will", "session", "takeover", "filters"];

/// Plays in MQTT 5, and has a scene of its own.
const IN_5: [&str; 2] = ["--mqtt", "5"];
const SCENES_OF_5: [&str; 7] = [
    "qos", "retained", "will", "session", "takeover", "filters", "five",
];

/// A scripted client.
#[derive(Clone, Copy, Debug)]
enum Client {
    Paho,
    MqttJs,
}

impl Client {
    /// The command that plays `scene` against `port`.
    fn command<'a>(self, port: &'a str, scene: &'a [&'a str]) -> (&'static str, Vec<&'a str>) {
        let (program, script) = match self {
            Client::Paho => (PYTHON, "tests/peers/paho_client.py"),
            Client::MqttJs => ("node", "tests/peers/mqttjs_client.mjs"),
        };
        (program, [&[script, port], scene].concat())
    }

    /// Plays a scene to its end; returns what the client printed.
    async fn play(self, site: &Site, scene: &[&str]) -> Vec<String> {
        let port = site.relay().listen_addr().port().to_string();
        let (program, arguments) = self.command(&port, scene);
        run(program, &arguments).await
    }

    /// Starts a subscriber and waits until it is subscribed.
    async fn subscriber(self, site: &Site, options: &[&str]) -> Process {
        let port = site.relay().listen_addr().port().to_string();
        let scene = [&["subscribe"], options].concat();
        let (program, arguments) = self.command(&port, &scene);
        let process = start(program, &arguments).await;
        let ready = process.wait_for_log("ready", PATIENCE).await;
        ready.expect("the subscriber is subscribed");
        process
    }
}

async fn site() -> Site {
    require_tools();
    Site::started(RELAY).await.expect("a site")
}

/// Each scene by itself, then publishing at each `QoS` to the topic that goes to the cloud.
async fn plays_everything(client: Client, scenes: &[&str], version: &[&str]) {
    let site = site().await;
    for scene in scenes {
        let printed = client.play(&site, &[&[*scene], version].concat()).await;
        let said = format!(r#""scene": "{scene}""#);
        let said_compactly = said.replace(' ', "");
        let told = |line: &String| line.contains(&said) || line.contains(&said_compactly);
        assert!(printed.iter().any(told), "{scene}: {printed:?}");
    }
    assert_eq!(
        site.cloud().received_count(),
        0,
        "these topics have no route"
    );
    for (nth, qos) in ["0", "1", "2"].into_iter().enumerate() {
        let publish = ["publish", "--qos", qos, "--count", "100"];
        client.play(&site, &[&publish, version].concat()).await;
        let arrived = site.cloud().wait_for(100 * (nth + 1), PATIENCE).await;
        arrived.expect("what was published at this QoS arrives");
    }
    let received = site.cloud().received();
    for messages in received.chunks(100) {
        let payloads = messages
            .iter()
            .map(|message| String::from_utf8_lossy(&message.payload));
        let wanted = (0..100).map(|number| format!("message {number}"));
        assert!(payloads.eq(wanted), "order at one QoS");
    }
}

#[tokio::test]
async fn paho_plays_every_scene_and_its_messages_reach_the_cloud() {
    plays_everything(Client::Paho, &SCENES, &[]).await;
}

#[tokio::test]
async fn mqttjs_plays_every_scene_and_its_messages_reach_the_cloud() {
    plays_everything(Client::MqttJs, &SCENES, &[]).await;
}

#[tokio::test]
async fn paho_plays_every_scene_in_mqtt_5_and_its_messages_reach_the_cloud() {
    plays_everything(Client::Paho, &SCENES_OF_5, &IN_5).await;
}

#[tokio::test]
async fn mqttjs_plays_every_scene_in_mqtt_5_and_its_messages_reach_the_cloud() {
    plays_everything(Client::MqttJs, &SCENES_OF_5, &IN_5).await;
}

/// Plays a stream at `QoS` 2 in both directions, and kills the relay with `kill -9` again and again meanwhile.
async fn streams_over_kill_9(site: &Site, client: Client, options: &[&str]) {
    const COUNT: &str = "300";
    let port = site.relay().listen_addr().port().to_string();
    let kills = ["heard 20", "heard 100", "heard 150", "heard 230"];
    let count = kills.len().to_string();
    let scene = [
        "stream",
        "--qos",
        "2",
        "--count",
        COUNT,
        "--comebacks",
        &count,
    ];
    let scene = [&scene, options].concat();
    let (program, arguments) = client.command(&port, &scene);
    let process = start(program, &arguments).await;
    for heard in kills {
        let told = process.wait_for_log(heard, PATIENCE).await;
        told.expect("the stream flows");
        site.relay().kill_9().await.expect("it dies");
        site.start().await.expect("it is back");
    }
    ended_well(&process).await;
}

#[tokio::test]
async fn what_stays_on_the_device_comes_once_and_in_order_at_qos_2_over_kill_9() {
    let site = site().await;
    for client in [Client::Paho, Client::MqttJs] {
        streams_over_kill_9(&site, client, &["--topic", "jobs"]).await;
    }
    let five = [&["--topic", "jobs/5"], &IN_5[..]].concat();
    streams_over_kill_9(&site, Client::Paho, &five).await;
    assert_eq!(site.cloud().received_count(), 0);
}

#[tokio::test]
async fn what_goes_to_the_cloud_at_qos_2_is_complete_there_and_here_over_kill_9() {
    let site = site().await;
    let options = ["--topic", "sensors", "--repeats"];
    streams_over_kill_9(&site, Client::Paho, &options).await;
    let wanted = (0..300).map(|number| format!("message {number}").into_bytes());
    let mut missing: HashSet<Vec<u8>> = wanted.collect();
    let deadline = Instant::now() + PATIENCE;
    while !missing.is_empty() {
        assert!(Instant::now() < deadline, "{} are missing", missing.len());
        for message in site.cloud().received() {
            missing.remove(&message.payload[..]);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn clients_of_both_versions_hear_each_other() {
    let site = site().await;
    let (five, four) = (&IN_5[..], &[][..]);
    for (speaks, hears) in [(five, four), (four, five)] {
        let subscribe = ["--qos", "2", "--count", "5"];
        let subscriber = Client::MqttJs
            .subscriber(&site, &[&subscribe, hears].concat())
            .await;
        let publish = ["publish", "--qos", "2", "--count", "5"];
        Client::Paho.play(&site, &[&publish, speaks].concat()).await;
        let printed = ended_well(&subscriber).await.join("\n");
        for number in 0..5 {
            let payload = format!("message {number}");
            assert!(printed.contains(&payload), "{speaks:?} {printed}");
        }
    }
    site.cloud().wait_for(10, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn mosquitto_clients_pass_properties_of_mqtt_5_on() {
    let site = Site::started(RELAY).await.unwrap();
    let port = site.relay().listen_addr().port();
    let subscribe = [
        "-V",
        "5",
        "-t",
        "a",
        "-q",
        "2",
        "-C",
        "1",
        "-F",
        "%C %R %D %P %p",
    ];
    let subscriber = mosquitto_sub(port, &subscribe).await;
    let properties = [
        ["content-type", "text"],
        ["response-topic", "answers"],
        ["correlation-data", "42"],
    ];
    let mut publish = vec!["-V", "5", "-t", "a", "-q", "2", "-m", "x"];
    for property in &properties {
        publish.extend(["-D", "publish"]);
        publish.extend(property);
    }
    publish.extend(["-D", "publish", "user-property", "name", "value"]);
    mosquitto_pub(port, &publish).await;
    let printed = ended_well(&subscriber).await;
    let wanted = "text answers 42 name:value x";
    assert_eq!(payloads(&printed, &[wanted]), [wanted]);
}

#[tokio::test]
async fn paho_and_mqttjs_hear_each_other_on_the_topic_that_goes_to_the_cloud() {
    let site = site().await;
    for (speaker, listener) in [
        (Client::Paho, Client::MqttJs),
        (Client::MqttJs, Client::Paho),
    ] {
        for qos in ["0", "1", "2"] {
            let options = ["--qos", qos, "--count", "5", "--client-id", "listener"];
            let subscriber = listener.subscriber(&site, &options).await;
            let options = [
                "publish",
                "--qos",
                qos,
                "--count",
                "5",
                "--client-id",
                "speaker",
            ];
            speaker.play(&site, &options).await;
            let printed = ended_well(&subscriber).await.join("\n");
            for number in 0..5 {
                let payload = format!("message {number}");
                assert!(
                    printed.contains(&payload),
                    "{speaker:?} at {qos}: {printed}"
                );
            }
        }
    }
    site.cloud().wait_for(30, PATIENCE).await.unwrap();
}

/// The payloads in the output of a subscriber that prints debug lines too.
fn payloads<'a>(printed: &'a [String], wanted: &[&str]) -> Vec<&'a str> {
    let lines = printed.iter().map(String::as_str);
    lines.filter(|line| wanted.contains(line)).collect()
}

#[tokio::test]
async fn mosquitto_clients_work_with_and_without_a_client_id() {
    let site = Site::started(RELAY).await.unwrap();
    let port = site.relay().listen_addr().port();
    let identities: [(&[&str], &[&str]); 3] = [
        (&[], &[]),
        (&["-i", "sub"], &["-i", "pub"]),
        (&["-I", "sub-"], &["-I", "pub-"]),
    ];
    for (sub_id, pub_id) in identities {
        for qos in ["0", "1", "2"] {
            let subscriber = mosquitto_sub(
                port,
                &[&["-t", "a/+/c", "-q", qos, "-C", "2"], sub_id].concat(),
            )
            .await;
            for payload in ["first", "second"] {
                let publish = ["-t", "a/b/c", "-q", qos, "-m", payload];
                mosquitto_pub(port, &[&publish, pub_id].concat()).await;
            }
            let printed = ended_well(&subscriber).await;
            let wanted = ["first", "second"];
            assert_eq!(
                payloads(&printed, &wanted),
                wanted,
                "{sub_id:?} at QoS {qos}"
            );
        }
    }
}

#[tokio::test]
async fn mosquitto_sub_gets_retained_messages_and_the_will_of_a_client_that_dies() {
    let site = Site::started(RELAY).await.unwrap();
    let port = site.relay().listen_addr().port();
    mosquitto_pub(port, &["-t", "state", "-q", "1", "-r", "-m", "kept"]).await;
    let late = mosquitto_sub(
        port,
        &["-t", "state", "-q", "1", "-C", "1", "--retained-only"],
    )
    .await;
    assert_eq!(payloads(&ended_well(&late).await, &["kept"]), ["kept"]);

    let watcher = mosquitto_sub(port, &["-t", "wills", "-q", "1", "-C", "1"]).await;
    let will = [
        "--will-topic",
        "wills",
        "--will-payload",
        "died",
        "--will-qos",
        "1",
    ];
    let mortal = mosquitto_sub(port, &[&["-t", "anything"], &will[..]].concat()).await;
    mortal.kill_9().await.unwrap();
    assert_eq!(payloads(&ended_well(&watcher).await, &["died"]), ["died"]);
}

#[tokio::test]
async fn a_persistent_session_of_mosquitto_sub_gets_what_came_while_it_was_away() {
    let site = Site::started(RELAY).await.unwrap();
    let port = site.relay().listen_addr().port();
    let session = ["-i", "keeper", "-c", "-t", "sensors", "-q", "1"];
    let first = mosquitto_sub(port, &session).await;
    first.kill_9().await.unwrap();
    for payload in ["one", "two"] {
        mosquitto_pub(port, &["-t", "sensors", "-q", "1", "-m", payload]).await;
    }
    // it hears them before it could subscribe again
    let port = port.to_string();
    let again = [&["-p", &port, "-C", "2"], &session[..]].concat();
    assert_eq!(run("mosquitto_sub", &again).await, ["one", "two"]);
    site.cloud().wait_for(2, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn mosquitto_sub_gets_the_values_of_the_broker_under_mosquittos_names() {
    const TOPICS: &str = include_str!("peers/sys_topics");
    let site = Site::started(RELAY).await.unwrap();
    let port = site.relay().listen_addr().port();
    let count = TOPICS.lines().count().to_string();
    let format = ["-F", "is: %r|%t|%p", "-C", &count];
    let watcher = mosquitto_sub(port, &[&["-t", "$SYS/#"], &format[..]].concat()).await;
    let printed = ended_well(&watcher).await;
    let mut told: Vec<&str> = (printed.iter())
        .filter_map(|line| line.strip_prefix("is: 1|"))
        .collect();
    told.sort_unstable();
    for (line, wanted) in told.iter().zip(TOPICS.lines()) {
        let (topic, value) = line.split_once('|').unwrap();
        assert_eq!(topic, wanted);
        let number = match topic {
            "$SYS/broker/version" => value.strip_prefix("cloud-relay version 0.").unwrap(),
            "$SYS/broker/uptime" => value.strip_suffix(" seconds").unwrap(),
            _ => value,
        };
        assert!(number.parse::<f64>().is_ok(), "{line}");
    }
    assert_eq!(told.len(), TOPICS.lines().count(), "{printed:?}");
    assert_eq!(site.cloud().received_count(), 0);
}
