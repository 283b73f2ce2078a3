//! When a connection is given up, and what is said of it. The cloud is the other end of an in-memory stream,
//! and time is paused.

mod attributes;
mod bed;
mod closed;
mod crowded;
mod errands;
mod packs;
mod posting;
mod refused;

use tempfile::TempDir;
use tokio::io::{DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::clock;
use crate::cloud::Extras;
use crate::cloud::packet::Terms;
use crate::dead_letters::DeadLetters;
use crate::local::{self, LocalBroker};
use crate::routes::{Names, Rulebook};
use crate::spool::tests::message;
use crate::spool::{Message, Options};
use crate::store::Ingress;

/// With our own keep alive.
const PING_AFTER: Duration = ping_after(KEEP_ALIVE_S);
const PINGREQ: [u8; 2] = [0xC0, 0];
const PINGRESP: [u8; 2] = [0xD0, 0];
const DISCONNECT: [u8; 2] = [0xE0, 0];

/// A connection that the cloud has accepted on these terms, and the cloud's end of it.
fn connection(version: MqttVersion, terms: Terms) -> (Connection<DuplexStream>, DuplexStream) {
    let (cloud, stream) = duplex(1024 * 1024);
    let connection = Connection {
        stream,
        version,
        terms,
        received: BytesMut::new(),
        with_will: false,
    };
    (connection, cloud)
}

/// A session at work, and the cloud's end of its connection.
struct Running {
    cloud: DuplexStream,
    store: Store,
    shutdown: CancellationToken,
    task: JoinHandle<Ended>,
    _directory: TempDir,
}

impl Running {
    /// Sends `count` messages with payloads of `payload_bytes` each.
    fn start(count: usize, payload_bytes: usize) -> Self {
        Self::start_with(MqttVersion::V311, Terms::default(), count, payload_bytes)
    }

    /// The same with another version and other terms.
    fn start_with(version: MqttVersion, terms: Terms, count: usize, payload_bytes: usize) -> Self {
        Self::start_aside(version, terms, (count, payload_bytes), Aside::default())
    }

    /// With messages of one byte, and with extras.
    fn start_for(version: MqttVersion, count: usize, extras: &Extras) -> Self {
        Self::start_aside(version, Terms::default(), (count, 1), Aside::new(extras))
    }

    fn start_aside(
        version: MqttVersion,
        terms: Terms,
        (count, payload_bytes): (usize, usize),
        aside: Aside,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path(), Options::default()).unwrap();
        let payload = vec![b'x'; payload_bytes];
        for _ in 0..count {
            let message = Message {
                received: clock::now(),
                ..message(&payload)
            };
            store.append(&message).unwrap();
        }
        let (connection, cloud) = connection(version, terms);
        let source = Source {
            store: store.clone(),
            routes: Arc::new(Routes::new("sensors", "site/data")),
            dead_letters: DeadLetters::new(directory.path().join("letters"), 1 << 30),
        };
        let mut session = Session::new(source, Quota::default(), Duration::from_mins(10), aside);
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        Running {
            cloud,
            store,
            shutdown,
            task: tokio::spawn(async move { session.run(connection, &token).await }),
            _directory: directory,
        }
    }

    /// The session's next bytes.
    async fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.cloud.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    /// The cloud says this.
    async fn send(&mut self, bytes: &[u8]) {
        self.cloud.write_all(bytes).await.unwrap();
    }

    async fn lost(self) -> (LostReason, bool) {
        match self.task.await.unwrap() {
            Ended::Lost(lost) => (lost.reason, lost.progress),
            Ended::Shutdown => panic!("the connection was not lost"),
        }
    }
}

/// Bytes of a PUBLISH to `site/data`.
fn publish_len(payload_bytes: usize) -> usize {
    let remaining = 2 + "site/data".len() + 2 + payload_bytes;
    let length_bytes = match remaining {
        0..=127 => 1,
        128..=16_383 => 2,
        _ => 3,
    };
    1 + length_bytes + remaining
}

#[tokio::test(start_paused = true)]
async fn a_close_instead_of_the_first_acknowledgement_points_at_the_policy() {
    let mut running = Running::start(1, 1);
    running.read(publish_len(1)).await;
    running.cloud.shutdown().await.unwrap();
    let (reason, progress) = running.lost().await;
    assert!(!progress);
    let text = reason.to_string();
    assert!(text.contains("iot:Publish to \"site/data\""), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_close_after_an_acknowledgement_is_a_close() {
    let mut running = Running::start(2, 1);
    running.read(2 * publish_len(1)).await;
    running.send(&[0x40, 2, 0, 1]).await;
    running.cloud.shutdown().await.unwrap();
    let store = running.store.clone();
    let (reason, progress) = running.lost().await;
    assert!(progress && matches!(reason, LostReason::Closed), "{reason}");
    let ledger = store.ledger();
    assert_eq!((ledger.delivered, ledger.spooled), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_cloud_that_falls_silent_is_noticed_by_its_missing_pong() {
    let mut running = Running::start(0, 0);
    let start = Instant::now();
    assert_eq!(running.read(2).await, PINGREQ);
    assert_eq!(start.elapsed().as_secs(), PING_AFTER.as_secs());
    running.send(&PINGRESP).await;
    assert_eq!(running.read(2).await, PINGREQ);
    let (reason, _) = running.lost().await;
    assert!(matches!(reason, LostReason::NoPong), "{reason}");
    let expected = 2 * PING_AFTER + PINGRESP_TIMEOUT;
    assert_eq!(start.elapsed().as_secs(), expected.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_pong_may_wait_behind_what_a_slow_link_carries() {
    const PAYLOAD_BYTES: usize = 120 * 1024;
    let mut running = Running::start(4, PAYLOAD_BYTES);
    running.read(4 * publish_len(PAYLOAD_BYTES)).await;
    assert_eq!(running.read(2).await, PINGREQ);
    for id in 1..=4 {
        // The pace of a link that carries 5 KiB/s.
        sleep(Duration::from_secs(24)).await;
        running.send(&[0x40, 2, 0, id]).await;
    }
    running.send(&PINGRESP).await;
    assert_eq!(running.read(2).await, PINGREQ);
    running.shutdown.cancel();
    assert_eq!(running.read(2).await, DISCONNECT);
    assert!(matches!(running.task.await, Ok(Ended::Shutdown)));
    assert_eq!(running.store.ledger().delivered, 4);
}

/// A PUBLISH of MQTT 5 has one byte more: no properties.
fn publish5_len(payload_bytes: usize) -> usize {
    publish_len(payload_bytes) + 1
}

/// The packet identifier of a PUBLISH of MQTT 5 with a payload of one byte.
fn packet_id(publish: &[u8]) -> u8 {
    publish[publish.len() - 3]
}

fn start5(terms: Terms, count: usize) -> Running {
    Running::start_with(MqttVersion::V5, terms, count, 1)
}

#[tokio::test(start_paused = true)]
async fn a_refused_message_is_sent_again_on_the_same_connection_while_the_others_flow() {
    let mut running = start5(Terms::default(), 3);
    for id in 1..=3 {
        assert_eq!(packet_id(&running.read(publish5_len(1)).await), id);
    }
    let start = Instant::now();
    for puback in [
        &[0x40, 3, 0, 1, 0x87][..],
        &[0x40, 2, 0, 2],
        &[0x40, 2, 0, 3],
    ] {
        running.send(puback).await;
    }
    assert_eq!(packet_id(&running.read(publish5_len(1)).await), 4);
    assert!(
        start.elapsed() >= Duration::from_millis(100),
        "it was backed off"
    );
    let ledger = running.store.ledger();
    assert_eq!((ledger.delivered, ledger.spooled), (2, 1));
    running.send(&[0x40, 2, 0, 4]).await;
    running.shutdown.cancel();
    assert_eq!(running.read(2).await, DISCONNECT);
    assert!(matches!(running.task.await, Ok(Ended::Shutdown)));
    assert_eq!(running.store.ledger().delivered, 3);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_refused_for_long_keeps_the_connection_alive() {
    let mut running = start5(Terms::default(), 1);
    let start = Instant::now();
    for id in 1..=20 {
        let mut publish = running.read(2).await;
        while publish == PINGREQ {
            running.send(&PINGRESP).await;
            publish = running.read(2).await;
        }
        let rest = running.read(publish5_len(1) - 2).await;
        assert_eq!(packet_id(&rest), id);
        running.send(&[0x40, 3, 0, id, 0x80]).await;
    }
    assert!(
        start.elapsed() > Duration::from_mins(1),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(running.store.ledger().spooled, 1);
    assert!(!running.task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn when_the_rate_is_refused_everything_waits_a_moment() {
    let terms = Terms {
        receive_max: 1,
        ..Terms::default()
    };
    let mut running = start5(terms, 2);
    running.read(publish5_len(1)).await;
    let start = Instant::now();
    running.send(&[0x40, 3, 0, 1, 0x97]).await;
    assert_eq!(packet_id(&running.read(publish5_len(1)).await), 2);
    assert!(start.elapsed() >= Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn no_more_is_in_flight_than_the_cloud_receives() {
    let terms = Terms {
        receive_max: 2,
        ..Terms::default()
    };
    let mut running = start5(terms, 3);
    running.read(2 * publish5_len(1)).await;
    let more = tokio::time::timeout(Duration::from_secs(5), running.read(1)).await;
    assert!(more.is_err(), "{more:?}");
    running.send(&[0x40, 2, 0, 1]).await;
    assert_eq!(packet_id(&running.read(publish5_len(1)).await), 3);
}

#[tokio::test(start_paused = true)]
async fn the_keep_alive_that_the_cloud_wants_is_kept() {
    let terms = Terms {
        keep_alive_s: Some(8),
        ..Terms::default()
    };
    let mut running = start5(terms, 0);
    let start = Instant::now();
    assert_eq!(running.read(2).await, PINGREQ);
    assert_eq!(start.elapsed().as_secs(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_says_why_and_a_take_over_is_recognised() {
    let mut running = start5(Terms::default(), 0);
    running.send(&[0xE0, 1, 0x8E]).await;
    let (reason, _) = running.lost().await;
    assert!(reason.is_take_over(), "{reason}");
    let mut running = start5(Terms::default(), 0);
    running.send(&[0xE0, 1, 0x97]).await;
    let (reason, _) = running.lost().await;
    assert_eq!(
        reason.to_string(),
        "the cloud ended the connection: quota exceeded"
    );
}

#[tokio::test(start_paused = true)]
async fn a_quota_ends_a_burst_and_goes_on_a_second_after_the_acknowledgements() {
    const QUOTA: usize = 100;
    let mut running = Running::start(QUOTA + 1, 1);
    running.read(QUOTA * publish_len(1)).await;
    for id in 1..=100 {
        running.send(&[0x40, 2, 0, id]).await;
    }
    let start = Instant::now();
    running.read(publish_len(1)).await;
    let waited = start.elapsed();
    assert!(
        waited > Duration::from_secs(1) && waited < Duration::from_millis(1_050),
        "{waited:?}"
    );
}

/// Extras of a device that subscribes to `cmd/#`, and says whether it is online on `status`.
fn extras() -> (Extras, CancellationToken) {
    extras_for(&LocalBroker::new(local::Options::default()))
}

fn extras_for(broker: &LocalBroker) -> (Extras, CancellationToken) {
    let stopped = CancellationToken::new();
    let names = Names::default();
    let extras = Extras {
        subscriptions: Routes::parse("cmd/#=>local/{topic:2..}", None, names, Rulebook::Mqtt).ok(),
        status_topic: Some("status".to_owned()),
        publisher: broker.publisher(stopped.clone()),
    };
    (extras, stopped)
}

const SUBSCRIBE: [u8; 12] = [0x82, 10, 0xFF, 0xFE, 0, 5, b'c', b'm', b'd', b'/', b'#', 1];
const SUBACK: [u8; 5] = [0x90, 3, 0xFF, 0xFE, 1];

/// A PUBLISH of `x` to `cmd/1`.
fn command(packet_id: u8) -> [u8; 12] {
    let [c, m, d] = *b"cmd";
    [0x32, 10, 0, 5, c, m, d, b'/', b'1', 0, packet_id, b'x']
}

#[tokio::test(start_paused = true)]
async fn messages_wait_for_the_subscription_only_and_go_on_when_it_is_not_answered() {
    let mut running = Running::start_for(MqttVersion::V311, 1, &extras().0);
    let start = Instant::now();
    assert_eq!(running.read(SUBSCRIBE.len()).await, SUBSCRIBE);
    let publish = running.read(publish_len(1)).await;
    assert_eq!(publish.first(), Some(&0x32));
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_command_is_acknowledged_and_never_goes_into_the_spool() {
    let mut running = Running::start_for(MqttVersion::V311, 1, &extras().0);
    running.read(SUBSCRIBE.len()).await;
    running.send(&SUBACK).await;
    running.read(publish_len(1)).await;
    running.send(&command(9)).await;
    assert_eq!(running.read(4).await, [0x40, 2, 0, 9]);
    assert_eq!(
        running.store.ledger().accepted(),
        1,
        "the one that was there"
    );
}

#[tokio::test(start_paused = true)]
async fn a_command_for_a_local_session_is_acknowledged_when_it_is_on_disk_and_in_order() {
    for stops in [false, true] {
        let (broker, sync) = LocalBroker::with_absent_client();
        let (extras, _) = extras_for(&broker);
        let mut running = Running::start_for(MqttVersion::V311, 0, &extras);
        running.read(SUBSCRIBE.len()).await;
        running.send(&SUBACK).await;
        let elsewhere = [0x32, 6, 0, 1, b'x', 0, 10, b'x'];
        for command in [&command(9)[..], &elsewhere] {
            running.send(command).await;
        }
        let early = tokio::time::timeout(Duration::from_secs(1), running.cloud.read_u8()).await;
        assert!(early.is_err(), "{early:?}");
        if stops {
            running.shutdown.cancel();
            sleep(Duration::from_millis(500)).await;
        }
        sync();
        assert_eq!(running.read(8).await, [0x40, 2, 0, 9, 0x40, 2, 0, 10]);
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_local_broker_stops_a_command_is_left_with_the_cloud() {
    let (extras, stopped) = extras();
    let mut running = Running::start_for(MqttVersion::V311, 0, &extras);
    running.read(SUBSCRIBE.len()).await;
    running.send(&SUBACK).await;
    stopped.cancel();
    running.send(&command(9)).await;
    assert_eq!(running.read(2).await, PINGREQ, "and no PUBACK before it");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_was_not_subscribed_to_ends_the_connection() {
    let mut running = Running::start(0, 0);
    running.send(&command(9)).await;
    let (reason, _) = running.lost().await;
    assert!(
        matches!(reason, LostReason::Unexpected("PUBLISH")),
        "{reason}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_close_instead_of_suback_is_put_down_to_the_subscription_and_not_to_a_message() {
    let mut running = Running::start_for(MqttVersion::V311, 1, &extras().0);
    running.read(SUBSCRIBE.len()).await;
    running.cloud.shutdown().await.unwrap();
    let (reason, progress) = running.lost().await;
    assert!(!progress);
    let text = reason.to_string();
    assert!(
        text.contains("subscription to cmd/#") && text.contains("iot:Subscribe"),
        "{text}"
    );
}
