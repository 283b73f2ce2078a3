//! A sensor that publishes once a second and keeps a message until it is acknowledged.

use std::net::SocketAddr;
use std::time::Duration;

use cloud_relay_sandbox::ledger::MessageId;
use cloud_relay_sandbox::publisher::{PublishError, Publisher};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::voice::{Speaker, Voice};

/// The sensor's topic, the relay's default `PRODUCER_TOPIC`.
pub(super) const TOPIC: &str = "sensors";
/// From one message to the next.
const PERIOD: Duration = Duration::from_secs(1);
/// How long an acknowledgement may take before the message is sent again on a new connection.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// From a failed try to the next.
const RETRY_DELAY: Duration = Duration::from_millis(250);
/// The sensor's key in its messages.
const PUBLISHER: u32 = 1;

/// The running sensor; dropping it stops it.
pub(super) struct Sensor {
    acked: watch::Receiver<Vec<MessageId>>,
    task: JoinHandle<()>,
}

impl Drop for Sensor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sensor {
    /// Starts publishing to the broker at `broker`.
    pub(super) fn start(broker: SocketAddr, voice: Voice) -> Self {
        let (acks, acked) = watch::channel(Vec::new());
        let task = tokio::spawn(run(broker, voice, acks));
        Sensor { acked, task }
    }

    /// The messages that were acknowledged so far.
    pub(super) fn acked(&self) -> Vec<MessageId> {
        self.acked.borrow().clone()
    }

    /// Waits until `count` messages have been acknowledged.
    pub(super) async fn wait_for_acked(
        &self,
        count: usize,
        patience: Duration,
    ) -> Result<(), String> {
        let mut acked = self.acked.clone();
        let enough = acked.wait_for(|acked| acked.len() >= count);
        match timeout(patience, enough).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(format!(
                "the relay acknowledged only {} of {count} messages of the sensor within {patience:?}",
                self.acked().len()
            )),
        }
    }
}

async fn run(broker: SocketAddr, voice: Voice, acks: watch::Sender<Vec<MessageId>>) {
    let mut publisher = None;
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for seq in 1_u32.. {
        ticks.tick().await;
        let id = MessageId {
            publisher: PUBLISHER,
            seq: seq.into(),
        };
        let payload = reading(id, seq);
        let began = Instant::now();
        let mut excused = false;
        while let Err(error) = publish(&mut publisher, broker, &payload).await {
            publisher = None;
            if !excused {
                voice.line(
                    Speaker::Sensor,
                    &format!("#{seq} not acknowledged yet ({error}); trying on"),
                );
                excused = true;
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
        let took = began.elapsed().as_millis();
        voice.line(
            Speaker::Sensor,
            &format!("#{seq} published and acknowledged after {took} ms"),
        );
        acks.send_modify(|acked| acked.push(id));
    }
}

/// Publishes one message on the open connection, or on a new one.
async fn publish(
    publisher: &mut Option<Publisher>,
    broker: SocketAddr,
    payload: &[u8],
) -> Result<(), PublishError> {
    let connected = match publisher {
        Some(connected) => connected,
        None => publisher.insert(Publisher::connect(broker, "demo-sensor").await?),
    };
    match timeout(ACK_TIMEOUT, connected.publish(TOPIC, payload, 1)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(PublishError::Protocol {
            broker,
            what: format!("no PUBACK within {ACK_TIMEOUT:?}"),
        }),
    }
}

/// A message: the id, and a temperature that goes up and down.
fn reading(id: MessageId, seq: u32) -> Vec<u8> {
    let temperature = 21.0 + (f64::from(seq) / 5.0).sin();
    let mut payload = Vec::new();
    id.write_to(&mut payload);
    payload.extend_from_slice(format!(",\"temperature\":{temperature:.1}}}").as_bytes());
    payload
}
