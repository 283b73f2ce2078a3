//! When a connection is given up, and what is said of it. The cloud is the other end of an in-memory stream,
//! and time is paused.

use tempfile::TempDir;
use tokio::io::{DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::clock;
use crate::spool::{Message, Options};
use crate::store::Ingress;

const PINGREQ: [u8; 2] = [0xC0, 0];
const PINGRESP: [u8; 2] = [0xD0, 0];
const DISCONNECT: [u8; 2] = [0xE0, 0];

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
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path(), Options::default()).unwrap();
        for _ in 0..count {
            let message = Message {
                topic: "sensors",
                payload: &vec![b'x'; payload_bytes],
                qos: 1,
                retain: false,
                received: clock::now(),
            };
            store.append(&message).unwrap();
        }
        let (cloud, stream) = duplex(1024 * 1024);
        let connection = Connection {
            stream,
            received: BytesMut::new(),
        };
        let routes = Arc::new(Routes::new("sensors", "site/data"));
        let mut session = Session::new(store.clone(), routes, Quota::default());
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

    async fn lost(self) -> (LostReason, bool) {
        match self.task.await.unwrap() {
            Ended::Lost { reason, progress } => (reason, progress),
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
    running.cloud.write_all(&[0x40, 2, 0, 1]).await.unwrap();
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
    running.cloud.write_all(&PINGRESP).await.unwrap();
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
        running.cloud.write_all(&[0x40, 2, 0, id]).await.unwrap();
    }
    running.cloud.write_all(&PINGRESP).await.unwrap();
    assert_eq!(running.read(2).await, PINGREQ);
    running.shutdown.cancel();
    assert_eq!(running.read(2).await, DISCONNECT);
    assert!(matches!(running.task.await, Ok(Ended::Shutdown)));
    assert_eq!(running.store.ledger().delivered, 4);
}
