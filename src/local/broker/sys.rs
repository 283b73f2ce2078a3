//! `$SYS/broker/…`: what the broker tells local clients of itself, under mosquitto's names and in its words. Pure.
//!
//! A new subscription gets the values of that moment, as retained messages. After that they are told every
//! [`INTERVAL`] while anybody is subscribed to something under `$SYS`, and to nobody else: an idle device is not woken
//! for them. They are made when they are told, so that none is ever old, and none is among the retained messages.
//! They go to subscribers only, never to the spool, and clients cannot publish there.

use std::time::Duration;

use tokio::time::Instant;

use super::fan_out::Message;
use super::{Broker, count_drop, ids_of};
use crate::local::packet::{Filter, Publish};
use crate::local::publication::{Delivery, Publication, QoS};
use crate::local::subscriptions::SessionKey;
use crate::local::topic;

/// How often the values are told: mosquitto's `sys_interval`.
const INTERVAL: Duration = Duration::from_secs(10);
/// The first level of all these topics.
const ROOT: &str = "$SYS";

/// What is remembered for `$SYS`.
#[derive(Debug, Default)]
pub(super) struct Sys {
    /// When the broker began to serve.
    began: Option<Instant>,
    /// When the values are told next, while somebody wants them.
    pub(super) next: Option<Instant>,
    /// The most clients that were connected at a time.
    connected_max: usize,
}

impl Broker {
    /// To be called when a client has connected.
    pub(super) fn count_connected(&mut self) {
        self.sys.connected_max = self.sys.connected_max.max(self.connected());
    }

    fn connected(&self) -> usize {
        self.sessions.len().saturating_sub(self.absent.len())
    }

    /// Tells the values to whoever subscribed to them, if it is time.
    pub(super) fn tell_sys(&mut self, now: Instant) {
        self.sys.began.get_or_insert(now);
        if !self.subscriptions.has_branch(ROOT) {
            self.sys.next = None;
        } else if self.sys.next.is_none_or(|next| next <= now) {
            self.sys.next = Some(now + INTERVAL);
            for (topic, value) in self.sys_values(now) {
                let publish = Publish::plain(topic, value.as_bytes(), QoS::AtMostOnce, true);
                let mut message = Message::new(&publish, now);
                self.hand_out(&mut message, None);
            }
        }
    }

    /// To be called when a filter was subscribed to: has the values told from now on, if it is one for them.
    pub(super) fn want_sys(&mut self, filter: &str, now: Instant) {
        if topic::levels(filter).next() == Some(ROOT) && self.sys.next.is_none() {
            self.sys.next = Some(now + INTERVAL);
            self.bell.notify_one();
        }
    }

    /// Queues the values that match a subscription, as if they were retained messages.
    pub(super) fn send_sys(&mut self, key: SessionKey, filter: &Filter, now: Instant) {
        if topic::levels(&filter.path).next() != Some(ROOT) {
            return;
        }
        let values = self.sys_values(now);
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        for (topic, value) in values {
            if !topic::matches(&filter.path, topic) {
                continue;
            }
            let publish = Publish::plain(topic, value.as_bytes(), QoS::AtMostOnce, true);
            let delivery = Delivery {
                publication: Publication::new(&publish, now, &self.memory),
                qos: publish.qos,
                retain: true,
                subscription_ids: ids_of(filter.subscription),
            };
            let offer = session.offer(delivery, &self.limits);
            count_drop(offer, session, &self.counters);
        }
    }

    fn sys_values(&self, now: Instant) -> [(&'static str, String); 15] {
        let counters = &self.counters;
        let began = self.sys.began.unwrap_or(now);
        let uptime_s = now.duration_since(began).as_secs();
        let subscriptions: usize = (self.sessions.values())
            .map(|session| session.filters.len())
            .sum();
        let dropped = counters.dropped_slow_subscriber.get() + counters.dropped_session_full.get();
        let version = env!("CARGO_PKG_VERSION");
        [
            (
                "$SYS/broker/version",
                format!("cloud-relay version {version}"),
            ),
            ("$SYS/broker/uptime", format!("{uptime_s} seconds")),
            ("$SYS/broker/clients/total", self.sessions.len().to_string()),
            (
                "$SYS/broker/clients/connected",
                self.connected().to_string(),
            ),
            (
                "$SYS/broker/clients/disconnected",
                self.absent.len().to_string(),
            ),
            (
                "$SYS/broker/clients/maximum",
                self.sys.connected_max.to_string(),
            ),
            (
                "$SYS/broker/messages/received",
                counters.packets_received.get().to_string(),
            ),
            (
                "$SYS/broker/messages/sent",
                counters.packets_sent.get().to_string(),
            ),
            (
                "$SYS/broker/publish/messages/received",
                counters.messages_received.get().to_string(),
            ),
            (
                "$SYS/broker/publish/messages/sent",
                counters.messages_sent.get().to_string(),
            ),
            ("$SYS/broker/publish/messages/dropped", dropped.to_string()),
            (
                "$SYS/broker/bytes/received",
                counters.bytes_received.get().to_string(),
            ),
            (
                "$SYS/broker/bytes/sent",
                counters.bytes_sent.get().to_string(),
            ),
            ("$SYS/broker/subscriptions/count", subscriptions.to_string()),
            (
                "$SYS/broker/retained messages/count",
                self.retained.len().to_string(),
            ),
        ]
    }
}
