//! What the broker counts, for whoever reports it. Counting never fails, and never waits for a reader.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// One number that many tasks change and anyone may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
}

/// A client that is connected.
#[derive(Clone, Debug)]
pub struct ConnectedClient {
    /// Its client identifier: whatever it chose.
    pub id: String,
    /// Where it connects from.
    pub peer: SocketAddr,
    /// Since when.
    pub since: Instant,
}

/// The clients that are connected, in the order in which they came: at most `Limits::connections_max`.
#[derive(Debug, Default)]
pub struct Clients(Mutex<BTreeMap<u64, ConnectedClient>>);

impl Clients {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, ConnectedClient>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// The first `count_max` of them.
    pub fn list(&self, count_max: usize) -> Vec<ConnectedClient> {
        self.lock().values().take(count_max).cloned().collect()
    }

    /// Adds one, for as long as the answer lives.
    pub(super) fn add(&self, id: &str, peer: SocketAddr) -> Present<'_> {
        let client = ConnectedClient {
            id: id.to_owned(),
            peer,
            since: Instant::now(),
        };
        let mut clients = self.lock();
        let key = clients.last_key_value().map_or(0, |(last, _)| last + 1);
        clients.insert(key, client);
        Present { all: self, key }
    }
}

/// See [`Clients::add`].
#[derive(Debug)]
pub(super) struct Present<'a> {
    all: &'a Clients,
    key: u64,
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.all.lock().remove(&self.key);
    }
}

/// The broker's counters. They only rise, but for `clients`.
#[derive(Debug, Default)]
pub struct Counters {
    /// Clients that are connected now.
    pub clients: Clients,
    /// Connections closed at once because `Limits::connections_max`, `address_connections_max` or `websockets_max` was
    /// reached.
    pub connections_refused: Counter,
    /// Connections closed at once because their address made more than `Limits::connects_per_s_max`.
    pub connects_too_often: Counter,
    /// Clients that were refused for their user name or password, or because they named none.
    pub logins_failed: Counter,
    /// Messages that their clients may not publish (`LOCAL_MQTT_ACL_FILE`), wills among them.
    pub publishes_denied: Counter,
    /// Topic filters that clients may not subscribe to (`LOCAL_MQTT_ACL_FILE`).
    pub subscriptions_denied: Counter,
    /// Connections whose handshake (TLS, WebSocket) failed or took too long.
    pub handshakes_failed: Counter,
    /// Connections closed because no CONNECT came within `Limits::connect_timeout`.
    pub connect_timeouts: Counter,
    /// Clients closed because a packet did not end within `Limits::packet_timeout`.
    pub packet_timeouts: Counter,
    /// Clients closed because they took nothing for `Limits::write_timeout`.
    pub write_timeouts: Counter,
    /// Clients closed because they announced a packet above `Limits::packet_bytes_max`, or a WebSocket message
    /// larger than that and a buffer.
    pub packets_too_large: Counter,
    /// Connections closed for what their client sent: it is malformed, breaks the protocol, or is beyond a limit that
    /// has no counter of its own.
    pub protocol_errors: Counter,
    /// Times that a client was not read from any more for a while: its messages were on their way to disk or cloud, up
    /// to `Limits::unacknowledged_bytes_max`, or waited for room in the spool or among the large packets, or it was owed
    /// more than `Limits::owed_bytes_max`, or did not take it.
    pub reads_paused: Counter,
    /// Topic filters refused because they are none, or because of `Limits::filters_max`, `Limits::topic_bytes_max`,
    /// `Limits::topic_levels_max` or `Limits::filter_levels_of_all_max`.
    pub filters_refused: Counter,
    /// Packets of every kind from clients.
    pub packets_received: Counter,
    /// Bytes that were read from clients.
    pub bytes_received: Counter,
    /// Packets of every kind that were made for clients.
    pub packets_sent: Counter,
    /// Bytes that were written to clients.
    pub bytes_sent: Counter,
    /// PUBLISH packets taken from clients; a repeated `QoS` 2 one counts once.
    pub messages_received: Counter,
    /// PUBLISH packets sent to clients, repetitions included.
    pub messages_sent: Counter,
    /// `QoS` 0 messages for the cloud that came while the spool was full.
    pub dropped_spool_full: Counter,
    /// Will messages for the cloud that the spool would not take.
    pub dropped_will: Counter,
    /// `QoS` 0 messages not delivered to a subscriber that was too slow.
    pub dropped_slow_subscriber: Counter,
    /// `QoS` 1 and 2 messages not delivered because the session held its limit already.
    pub dropped_session_full: Counter,
    /// Messages not delivered to a subscriber because they expired (MQTT 5) before it could take them.
    pub dropped_expired: Counter,
    /// Messages not delivered to a subscriber of MQTT 5 that takes no packets of their size.
    pub dropped_packet_too_large: Counter,
    /// Messages not retained because the limits of retained messages were reached.
    pub dropped_retained: Counter,
    /// Messages from the cloud that were handed to the local clients.
    pub messages_from_cloud: Counter,
    /// Messages from the cloud that no rule of `CLOUD_SUBSCRIBE` leads to a valid local topic.
    pub dropped_from_cloud: Counter,
    /// Sessions of absent clients discarded because `Limits::sessions_max` was reached.
    pub sessions_discarded: Counter,
    /// Failed attempts to read or write the journal of sessions and retained messages.
    pub journal_failures: Counter,
    /// Places in the journal that a start found damaged and skipped.
    pub journal_damaged: Counter,
}
