//! The broker's state: sessions, subscriptions, retained messages, and what connecting, publishing,
//! subscribing and leaving do to them. Pure: no sockets, no spool.
//!
//! Invariants: a client id has one session, a session at most one connection; everything in the
//! subscription tree belongs to a session that exists. Each operation for a client names its link, so
//! that a connection whose session was taken over can change nothing any more.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::counters::Counters;
use super::limits::Limits;
use super::packet::SUBSCRIPTION_REFUSED;
use super::publication::{Delivery, Publication, QoS};
use super::retained::Retained;
use super::session::{Link, Offer, Session};
use super::subscriptions::{SessionKey, Subscriptions};
use super::topic;

/// See the module.
pub(super) struct Broker {
    limits: Limits,
    counters: Arc<Counters>,
    sessions: HashMap<SessionKey, Session>,
    by_client_id: HashMap<String, SessionKey>,
    /// Sessions of absent clients, the one that is away longest first.
    absent: Vec<SessionKey>,
    subscriptions: Subscriptions,
    retained: Retained,
    retained_full: bool,
    last_key: SessionKey,
    session_bytes: Arc<AtomicUsize>,
    /// Used again for each publish.
    matched: Vec<(SessionKey, QoS)>,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Broker({} sessions)", self.sessions.len())
    }
}

/// What a connection gets for its CONNECT.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Connected {
    pub(super) session: SessionKey,
    pub(super) session_present: bool,
}

impl Broker {
    pub(super) fn new(limits: Limits, counters: Arc<Counters>) -> Self {
        Broker {
            limits,
            counters,
            sessions: HashMap::new(),
            by_client_id: HashMap::new(),
            absent: Vec::new(),
            subscriptions: Subscriptions::default(),
            retained: Retained::default(),
            retained_full: false,
            last_key: 0,
            session_bytes: Arc::default(),
            matched: Vec::new(),
        }
    }

    /// Whether the client id has a session.
    pub(super) fn knows(&self, client_id: &str) -> bool {
        self.by_client_id.contains_key(client_id)
    }

    /// Gives the connection at `link` its session: the kept one, or a new one. A previous connection
    /// of the same client id is told to close (MQTT-3.1.4-2).
    pub(super) fn connect(&mut self, client_id: &str, clean: bool, link: &Arc<Link>) -> Connected {
        if let Some(&key) = self.by_client_id.get(client_id) {
            if self.resume(key, clean, link) {
                return Connected {
                    session: key,
                    session_present: true,
                };
            }
            self.discard(key);
        }
        self.last_key += 1;
        let key = self.last_key;
        let mut session = Session::new(client_id, clean, Arc::clone(&self.session_bytes));
        session.attach(Arc::clone(link));
        self.sessions.insert(key, session);
        self.by_client_id.insert(client_id.to_owned(), key);
        Connected {
            session: key,
            session_present: false,
        }
    }

    /// Gives a kept session to the connection at `link`, and has its present one close. Returns false
    /// if the session ends here because one of the two is clean (MQTT-3.1.2-6).
    fn resume(&mut self, key: SessionKey, clean: bool, link: &Arc<Link>) -> bool {
        self.absent.retain(|absent| *absent != key);
        let Some(session) = self.sessions.get_mut(&key) else {
            return false;
        };
        if let Some(previous) = session.attach(Arc::clone(link)) {
            previous.take_over();
        }
        !clean && !session.clean
    }

    /// The connection at `link` has ended. A clean session ends with it, another is kept.
    pub(super) fn disconnect(&mut self, key: SessionKey, link: &Arc<Link>) {
        let Some(session) = self.session(key, link) else {
            return;
        };
        session.detach();
        if session.clean {
            self.discard(key);
            return;
        }
        self.absent.push(key);
        if self.absent.len() > self.limits.sessions_max {
            let oldest = self.absent.remove(0);
            if let Some(client_id) = self.discard(oldest) {
                self.counters.sessions_discarded.add(1);
                tracing::warn!(
                    client_id,
                    limit = self.limits.sessions_max,
                    "too many sessions are kept for absent clients; discarded the one absent longest"
                );
            }
        }
    }

    /// The session, if the connection at `link` still has it.
    pub(super) fn session(&mut self, key: SessionKey, link: &Arc<Link>) -> Option<&mut Session> {
        let session = self.sessions.get_mut(&key)?;
        session.is_linked_to(link).then_some(session)
    }

    /// Offers a message to every session that wants it, and retains it if asked to. The topic name
    /// must be valid. Nothing is copied if nobody wants it. Topics that begin with `$` belong to the
    /// server: a client's message to one goes nowhere.
    /// Returns whether any session wanted it.
    pub(super) fn publish(&mut self, name: &str, payload: &[u8], qos: QoS, retain: bool) -> bool {
        if topic::is_reserved(name) {
            return false;
        }
        let mut shared: Option<Publication> = None;
        if retain {
            self.retain(name, payload, qos, &mut shared);
        }
        let mut matched = std::mem::take(&mut self.matched);
        self.subscriptions.matching(name, &mut matched);
        let wanted = !matched.is_empty();
        for (key, subscribed) in matched.drain(..) {
            let Some(session) = self.sessions.get_mut(&key) else {
                continue;
            };
            let publication = shared.get_or_insert_with(|| Publication::new(name, payload));
            let delivery = Delivery {
                publication: publication.clone(),
                qos: qos.min(subscribed),
                retain: false,
            };
            let offer = session.offer(delivery, &self.limits);
            count_drop(offer, session, &self.counters);
        }
        self.matched = matched;
        wanted
    }

    /// Subscribes, and queues the matching retained messages. Returns a SUBACK code for each filter.
    pub(super) fn subscribe(
        &mut self,
        key: SessionKey,
        link: &Arc<Link>,
        filters: &[(String, QoS)],
    ) -> Vec<u8> {
        let codes = filters.iter().map(|(filter, qos)| {
            if self.subscribe_one(key, link, filter, *qos) {
                *qos as u8
            } else {
                SUBSCRIPTION_REFUSED
            }
        });
        codes.collect()
    }

    /// Removes subscriptions; those that are not there do not matter.
    pub(super) fn unsubscribe(&mut self, key: SessionKey, link: &Arc<Link>, filters: &[String]) {
        let Some(session) = self.session(key, link) else {
            return;
        };
        session.filters.retain(|own| !filters.contains(own));
        for filter in filters {
            self.subscriptions.remove(filter, key);
        }
    }

    fn subscribe_one(&mut self, key: SessionKey, link: &Arc<Link>, filter: &str, qos: QoS) -> bool {
        if !topic::is_valid_filter(filter, &self.limits) {
            return false;
        }
        let levels_max = self.limits.filter_levels_of_all_max;
        if self.subscriptions.would_exceed(levels_max, filter) {
            return false;
        }
        let Some(session) = self.sessions.get_mut(&key) else {
            return false;
        };
        if !session.is_linked_to(link) {
            return false;
        }
        if !session.filters.iter().any(|own| own == filter) {
            if session.filters.len() >= self.limits.filters_max {
                return false;
            }
            session.filters.push(filter.to_owned());
        }
        self.subscriptions.insert(filter, key, qos);
        for (publication, retained_qos) in self.retained.matching(filter) {
            let delivery = Delivery {
                publication: publication.clone(),
                qos: qos.min(*retained_qos),
                retain: true,
            };
            let offer = session.offer(delivery, &self.limits);
            count_drop(offer, session, &self.counters);
        }
        true
    }

    fn retain(&mut self, name: &str, payload: &[u8], qos: QoS, shared: &mut Option<Publication>) {
        if payload.is_empty() {
            self.retained.clear(name);
            return;
        }
        let publication = shared.insert(Publication::new(name, payload)).clone();
        match self.retained.set(name, publication, qos, &self.limits) {
            Ok(()) => self.retained_full = false,
            Err(_full) => {
                self.counters.dropped_retained.add(1);
                if !std::mem::replace(&mut self.retained_full, true) {
                    tracing::warn!(
                        topic = name,
                        messages_max = self.limits.retained_messages_max,
                        bytes_max = self.limits.retained_bytes_max,
                        "too many retained messages; this topic keeps none"
                    );
                }
            }
        }
    }

    /// Removes a session with all that belongs to it. Returns its client id.
    fn discard(&mut self, key: SessionKey) -> Option<String> {
        let mut session = self.sessions.remove(&key)?;
        for filter in &session.filters {
            self.subscriptions.remove(filter, key);
        }
        let client_id = std::mem::take(&mut session.client_id);
        self.by_client_id.remove(&client_id);
        Some(client_id)
    }
}

fn count_drop(offer: Offer, session: &Session, counters: &Counters) {
    match offer {
        Offer::Queued | Offer::NotConnected => {}
        Offer::Dropped {
            qos: QoS::AtMostOnce,
            ..
        } => counters.dropped_slow_subscriber.add(1),
        Offer::Dropped { first, .. } => {
            counters.dropped_session_full.add(1);
            if first {
                tracing::warn!(
                    client_id = session.client_id,
                    connected = session.is_connected(),
                    "a subscriber does not keep up; local deliveries to it are dropped until its queue is empty"
                );
            }
        }
    }
}

#[cfg(test)]
#[path = "tests/broker.rs"]
mod tests;
