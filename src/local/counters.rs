//! What the broker counts, for whoever reports it. Counting never blocks and never fails.

use std::sync::atomic::{AtomicU64, Ordering};

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

    pub(super) fn subtract(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }
}

/// The broker's counters. All but `clients_connected` only rise.
#[derive(Debug, Default)]
pub struct Counters {
    /// Clients that are connected now.
    pub clients_connected: Counter,
    /// Connections closed at once because `Limits::connections_max` was reached.
    pub connections_refused: Counter,
    /// PUBLISH packets taken from clients; a repeated `QoS` 2 one counts once.
    pub messages_received: Counter,
    /// Messages handed to the spool.
    pub messages_spooled: Counter,
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
}
