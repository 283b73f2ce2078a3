//! The books: every message that arrived, in order, and the counts of everything else.
//!
//! A message is in the books before its acknowledgement is sent, so whoever saw the acknowledgement
//! will find the message. The books only grow.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::breach::Breach;
use super::rate::{PeakMeter, Peaks, Traffic};
use super::wire::{MqttVersion, PublishProperties};
use crate::ledger::{Audit, MessageId, audit};

/// Messages that a slow follower may be behind before it misses some.
const FOLLOWER_LAG_MAX: usize = 4_096;

/// How much of a message is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bookkeeping {
    /// All of it.
    #[default]
    Messages,
    /// Its id and time, some 40 bytes: enough for counts, waits and audits of a million messages, and faster.
    /// [`Cloud::received`](super::Cloud::received) stays empty. What has an id is a duplicate by its id.
    Ids,
}

/// A message that arrived in the cloud.
#[derive(Clone, Debug)]
pub struct Received {
    /// Place in the order of arrival over all connections, from 0.
    pub order: usize,
    /// Who sent it.
    pub client_id: Arc<str>,
    /// The topic name.
    pub topic: Arc<str>,
    /// The payload. It may share its memory with its neighbours.
    pub payload: Bytes,
    /// 0, 1 or 2.
    pub qos: u8,
    /// The DUP flag.
    pub dup: bool,
    /// The RETAIN flag.
    pub retain: bool,
    /// The version of MQTT that it came in.
    pub version: MqttVersion,
    /// Its MQTT 5 properties; `None` if there are none.
    pub properties: Option<Arc<PublishProperties>>,
    /// When it arrived; messages that were read together share one instant.
    pub at: Instant,
}

/// When a message that has an id arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Which message.
    pub id: MessageId,
    /// When; messages that were read together share one instant.
    pub at: Instant,
}

/// What was counted since the cloud was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// TCP connections.
    pub tcp_connections: u64,
    /// CONNECTs that were accepted.
    pub connects: u64,
    /// Those of them in MQTT 5.
    pub connects_v5: u64,
    /// Connections refused before or at CONNECT: certificate, client id or fault.
    pub refused: u64,
    /// Messages in the books.
    pub messages: u64,
    /// Messages whose payload had arrived before.
    pub duplicates: u64,
    /// Publishes lost on purpose or dropped by a rule, without an acknowledgement.
    pub lost_publishes: u64,
    /// Publishes that were not taken and whose acknowledgement says so, with a reason from 0x80 on.
    pub refused_publishes: u64,
    /// Acknowledgements lost on purpose.
    pub lost_pubacks: u64,
}

/// Too few messages arrived in time.
#[derive(Debug, thiserror::Error)]
#[error("only {arrived} of {expected} messages arrived in the cloud within {waited:?}")]
pub struct TooFew {
    /// How many were waited for.
    pub expected: usize,
    /// How many were there at the end.
    pub arrived: usize,
    /// How long was waited.
    pub waited: Duration,
}

/// Messages did not arrive in time.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} of {expected} messages did not arrive in the cloud within {waited:?}, {first} is the first",
    missing.len()
)]
pub struct NotArrived {
    /// How many were waited for.
    pub expected: usize,
    /// Those that did not arrive.
    pub missing: Vec<MessageId>,
    /// The first of them.
    pub first: MessageId,
    /// How long was waited.
    pub waited: Duration,
}

#[derive(Default)]
struct Pages {
    /// How many messages arrived, duplicates counted.
    arrived: usize,
    /// The messages, unless only ids are kept.
    messages: Vec<Received>,
    /// All messages that have an id, in order of arrival.
    arrivals: Vec<Arrival>,
    /// 64-bit hashes: a false match among a million payloads has odds of 1 in 30 million.
    payloads: HashSet<u64>,
    duplicates: u64,
    connects_v5: u64,
    /// When each client last said CONNECT.
    last_connect: HashMap<String, Instant>,
    connect_gap_min: Option<Duration>,
    /// How often each reason from 0x80 on was given to a publish.
    publish_refusals: BTreeMap<u8, u64>,
    breaches: Vec<Breach>,
    refusals: Vec<String>,
    meter: PeakMeter,
}

/// See the module.
pub(crate) struct Books {
    keep: Bookkeeping,
    pages: Mutex<Pages>,
    hasher: RandomState,
    arrived: watch::Sender<usize>,
    connected: watch::Sender<u64>,
    live: broadcast::Sender<Received>,
    tcp_connections: AtomicU64,
    lost_publishes: AtomicU64,
    lost_pubacks: AtomicU64,
}

impl Books {
    pub(crate) fn new(keep: Bookkeeping) -> Self {
        Books {
            keep,
            pages: Mutex::default(),
            hasher: RandomState::new(),
            arrived: watch::Sender::new(0),
            connected: watch::Sender::new(0),
            live: broadcast::Sender::new(FOLLOWER_LAG_MAX),
            tcp_connections: AtomicU64::new(0),
            lost_publishes: AtomicU64::new(0),
            lost_pubacks: AtomicU64::new(0),
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a batch down and empties it. [`Received::order`] is set here.
    pub(crate) fn record(&self, batch: &mut Vec<Received>) {
        if batch.is_empty() {
            return;
        }
        let marks: Vec<(u64, Option<MessageId>)> = batch
            .iter()
            .map(|message| {
                let id = MessageId::of(&message.payload);
                let hash = match (self.keep, id) {
                    (Bookkeeping::Ids, Some(id)) => self.hasher.hash_one(id),
                    _ => self.hasher.hash_one(&message.payload),
                };
                (hash, id)
            })
            .collect();
        let followed = self.live.receiver_count() > 0;
        let mut pages = self.pages();
        for (mut message, (hash, id)) in batch.drain(..).zip(marks) {
            message.order = pages.arrived;
            pages.arrived += 1;
            let at = message.at;
            pages.arrivals.extend(id.map(|id| Arrival { id, at }));
            if !pages.payloads.insert(hash) {
                pages.duplicates += 1;
            }
            if followed {
                // fails only if the last follower has just left
                self.live.send(message.clone()).ok();
            }
            if self.keep == Bookkeeping::Messages {
                pages.messages.push(message);
            }
        }
        // under the lock, so that the count never goes backwards
        self.arrived.send_replace(pages.arrived);
    }

    /// Takes what a connection sent, whatever became of it.
    pub(crate) fn traffic(&self, now: Instant, traffic: Traffic) {
        if traffic.publishes > 0 {
            self.pages().meter.add(now, traffic);
        }
    }

    pub(crate) fn peaks(&self) -> Peaks {
        self.pages().meter.peaks()
    }

    /// Starts to measure anew.
    pub(crate) fn reset_peaks(&self) {
        self.pages().meter = PeakMeter::default();
    }

    pub(crate) fn tcp_connection(&self) {
        self.tcp_connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a CONNECT, whatever will be answered.
    pub(crate) fn connect_request(&self, client_id: &str, now: Instant) {
        let mut pages = self.pages();
        if let Some(last) = pages.last_connect.insert(client_id.to_owned(), now) {
            let gap = now - last;
            pages.connect_gap_min = Some(pages.connect_gap_min.map_or(gap, |min| min.min(gap)));
        }
    }

    pub(crate) fn connect_gap_min(&self) -> Option<Duration> {
        self.pages().connect_gap_min
    }

    pub(crate) fn connect(&self, version: MqttVersion) {
        if version == MqttVersion::V5 {
            self.pages().connects_v5 += 1;
        }
        self.connected.send_modify(|connects| *connects += 1);
    }

    pub(crate) fn refuse(&self, why: String) {
        self.pages().refusals.push(why);
    }

    pub(crate) fn lost_publish(&self) {
        self.lost_publishes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refuse_publish(&self, reason: u8) {
        *self.pages().publish_refusals.entry(reason).or_default() += 1;
    }

    pub(crate) fn publish_refusals(&self) -> BTreeMap<u8, u64> {
        self.pages().publish_refusals.clone()
    }

    pub(crate) fn lost_puback(&self) {
        self.lost_pubacks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn breach(&self, breach: Breach) {
        self.pages().breaches.push(breach);
    }

    pub(crate) fn breaches(&self) -> Vec<Breach> {
        self.pages().breaches.clone()
    }

    pub(crate) fn refusals(&self) -> Vec<String> {
        self.pages().refusals.clone()
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.pages().messages.clone()
    }

    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.pages().arrivals.clone()
    }

    pub(crate) fn len(&self) -> usize {
        *self.arrived.borrow()
    }

    pub(crate) fn counts(&self) -> Counts {
        let pages = self.pages();
        Counts {
            tcp_connections: self.tcp_connections.load(Ordering::Relaxed),
            connects: *self.connected.borrow(),
            connects_v5: pages.connects_v5,
            refused: u64::try_from(pages.refusals.len()).unwrap_or(u64::MAX),
            messages: u64::try_from(pages.arrived).unwrap_or(u64::MAX),
            refused_publishes: pages.publish_refusals.values().sum(),
            duplicates: pages.duplicates,
            lost_publishes: self.lost_publishes.load(Ordering::Relaxed),
            lost_pubacks: self.lost_pubacks.load(Ordering::Relaxed),
        }
    }

    /// Compares `expected` with what has arrived so far.
    pub(crate) fn audit(&self, expected: &[MessageId]) -> Audit {
        let (arrivals, foreign) = {
            let pages = self.pages();
            (pages.arrivals.clone(), pages.arrived - pages.arrivals.len())
        };
        let mut payloads = Vec::new();
        for Arrival { id, .. } in arrivals {
            id.write_to(&mut payloads);
            payloads.push(b'}');
        }
        // the only closing brace of a payload is its last byte
        let arrived = payloads.split_inclusive(|byte| *byte == b'}');
        let mut found = audit(expected.iter().copied(), arrived);
        found.foreign += foreign;
        found
    }

    pub(crate) fn follow(&self) -> broadcast::Receiver<Received> {
        self.live.subscribe()
    }

    pub(crate) fn connects(&self) -> watch::Receiver<u64> {
        self.connected.subscribe()
    }

    pub(crate) async fn wait_for(&self, expected: usize, timeout: Duration) -> Result<(), TooFew> {
        let mut arrived = self.arrived.subscribe();
        let enough = arrived.wait_for(|arrived| *arrived >= expected);
        match tokio::time::timeout(timeout, enough).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(TooFew {
                expected,
                arrived: self.len(),
                waited: timeout,
            }),
        }
    }

    pub(crate) async fn wait_for_messages(
        &self,
        expected: &[MessageId],
        timeout: Duration,
    ) -> Result<(), NotArrived> {
        let mut missing: BTreeSet<MessageId> = expected.iter().copied().collect();
        let mut arrived = self.arrived.subscribe();
        let (mut seen, mut read) = (0, 0);
        let all = async {
            while !missing.is_empty() {
                if arrived.wait_for(|arrived| *arrived > seen).await.is_err() {
                    break;
                }
                let pages = self.pages();
                for arrival in pages.arrivals.iter().skip(read) {
                    missing.remove(&arrival.id);
                }
                (seen, read) = (pages.arrived, pages.arrivals.len());
            }
        };
        // what matters is what is missing afterwards
        tokio::time::timeout(timeout, all).await.ok();
        match missing.first().copied() {
            None => Ok(()),
            Some(first) => Err(NotArrived {
                expected: expected.len(),
                missing: missing.into_iter().collect(),
                first,
                waited: timeout,
            }),
        }
    }
}
