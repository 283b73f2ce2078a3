//! The broker's state: sessions, subscriptions, retained messages, and what connecting, publishing,
//! subscribing, leaving and time do to them. Pure: no sockets, no spool, and time is an argument.
//!
//! Invariants: a client id has one session, a session at most one connection; everything in the
//! subscription tree belongs to a session that exists. Each operation for a client names its link, so
//! that a connection whose session was taken over can change nothing any more.

mod audit;
mod fan_out;
mod kept;
mod sys;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub use self::audit::Holdings;
use self::sys::Sys;
use super::counters::Counters;
use super::journal::{Change, Recorder};
use super::limits::Limits;
use super::link::Link;
use super::memory::Memory;
use super::packet::{Filter, Reason, RetainHandling, SESSION_FOR_EVER, Will};
use super::publication::{Delivery, QoS, Subscription};
use super::retained::Retained;
use super::session::{Offer, Session};
use super::shared::{Groups, Path};
use super::subscriptions::{Match, SessionKey, Subscriptions};
use super::topic;
use crate::spool::Seq;

/// See the module.
pub(super) struct Broker {
    limits: Limits,
    counters: Arc<Counters>,
    sessions: HashMap<SessionKey, Session>,
    by_client_id: HashMap<String, SessionKey>,
    /// Sessions of absent clients, the one that is away longest first.
    absent: Vec<SessionKey>,
    subscriptions: Subscriptions,
    groups: Groups,
    /// Bytes of all that is in `filters` of all sessions.
    filter_bytes: usize,
    retained: Retained,
    retained_full: bool,
    last_key: SessionKey,
    memory: Memory,
    sys: Sys,
    /// Wills that have become due, with their client ids.
    wills_due: Vec<(String, Will)>,
    /// Rings when [`Broker::next_due`] may have changed.
    bell: Arc<Notify>,
    recorder: Recorder,
    /// Used again for each publish.
    matched: Vec<Match>,
}

/// What a client wants of its session.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionRequest<'a> {
    pub(super) client_id: &'a str,
    pub(super) clean_start: bool,
    /// How long it outlives the connection.
    pub(super) expiry_s: u32,
    pub(super) receive_max: u16,
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
            groups: Groups::default(),
            filter_bytes: 0,
            retained: Retained::default(),
            retained_full: false,
            last_key: 0,
            memory: Memory::default(),
            sys: Sys::default(),
            wills_due: Vec::new(),
            bell: Arc::default(),
            recorder: Recorder::default(),
            matched: Vec::new(),
        }
    }

    /// What clients make it keep.
    pub(super) fn memory(&self) -> Memory {
        self.memory.clone()
    }

    /// Whether the client id has a session.
    pub(super) fn knows(&self, client_id: &str) -> bool {
        self.by_client_id.contains_key(client_id)
    }

    /// The topic filters of a client's session, without what `$share` adds.
    pub(super) fn filters(&self, client_id: &str) -> impl Iterator<Item = &str> {
        let session = self.session_of(client_id).into_iter();
        let filters = session.flat_map(|session| &session.filters);
        filters.filter_map(|path| Some(Path::new(path)?.filter))
    }

    /// The topics of the messages that a client's session has for it.
    pub(super) fn topics(&self, client_id: &str) -> impl Iterator<Item = &str> {
        let session = self.session_of(client_id).into_iter();
        let deliveries = session.flat_map(Session::deliveries);
        deliveries.map(|delivery| delivery.publication.topic())
    }

    fn session_of(&self, client_id: &str) -> Option<&Session> {
        let key = self.by_client_id.get(client_id)?;
        self.sessions.get(key)
    }

    /// Gives the connection at `link` its session: the kept one, or a new one. A previous connection
    /// of the same client id is told to close (MQTT-3.1.4-2).
    pub(super) fn connect(
        &mut self,
        request: SessionRequest<'_>,
        link: &Arc<Link>,
        now: Instant,
    ) -> Connected {
        self.expire(now);
        if let Some(&key) = self.by_client_id.get(request.client_id) {
            if self.resume(key, request, link) {
                self.count_connected();
                return Connected {
                    session: key,
                    session_present: true,
                };
            }
            self.discard(key);
        }
        let key = self.new_key();
        let mut session = Session::new(request.client_id, self.memory.clone());
        session.expiry_s = request.expiry_s;
        session.attach(Arc::clone(link), request.receive_max);
        if session.expiry_s > 0 {
            session.keep(key, &self.recorder);
            session.note(|key| Change::Opened(key, request.client_id.to_owned(), request.expiry_s));
        }
        self.sessions.insert(key, session);
        self.by_client_id.insert(request.client_id.to_owned(), key);
        self.limit_absent(); // a restart may have brought back more, and each one may bring some more
        self.count_connected();
        Connected {
            session: key,
            session_present: false,
        }
    }

    /// Gives a kept session to the connection at `link`, and has its present one close. Returns false
    /// if the session ends here: because the client starts anew, or because it was to end with its
    /// connection (MQTT-3.1.2-6).
    fn resume(&mut self, key: SessionKey, request: SessionRequest<'_>, link: &Arc<Link>) -> bool {
        let Some(session) = self.sessions.get_mut(&key) else {
            return false;
        };
        let goes_on = !request.clean_start && session.expiry_s > 0;
        if goes_on {
            self.absent.retain(|absent| *absent != key);
            session.expiry_s = request.expiry_s;
            if request.expiry_s > 0 {
                session.returned = session.note(|key| Change::Returned(key, request.expiry_s));
            } else {
                session.keep_no_more();
            }
        }
        let will = session.will.take(); // if the session goes on, it is not published (MQTT5-3.1.3-9)
        if let Some(previous) = session.attach(Arc::clone(link), request.receive_max) {
            previous.take_over(!goes_on);
        }
        if !goes_on {
            session.will = will; // it goes with the session
        }
        goes_on
    }

    /// The connection at `link` has ended. The session ends with it, or is kept. Returns the `will` if it is to be
    /// published now; later, if its time comes, [`Broker::expire`] does.
    pub(super) fn disconnect(
        &mut self,
        key: SessionKey,
        link: &Arc<Link>,
        will: Option<Will>,
        now: Instant,
    ) -> Option<Will> {
        let Some(session) = self.session(key, link) else {
            // The client is back: only the will of a session that has ended is still published.
            return will.filter(|will| will.delay_s == 0 || link.has_session_ended());
        };
        session.detach();
        if session.expiry_s == 0 {
            self.discard(key);
            return will;
        }
        let after = |seconds: u32| now + Duration::from_secs(seconds.into());
        let expiry_s = session.expiry_s;
        session.ends = (expiry_s < SESSION_FOR_EVER).then(|| after(expiry_s));
        session.note(|key| Change::Left(key, expiry_s, session.ends));
        let (later, at_once) = match will {
            Some(will) if will.delay_s > 0 => (Some(will), None),
            will => (None, will),
        };
        // Or when the session ends, if that is earlier: it takes its will with it.
        session.will = later.map(|will| (after(will.delay_s), will));
        self.absent.push(key);
        self.bell.notify_one();
        self.limit_absent();
        at_once
    }

    fn limit_absent(&mut self) {
        if self.absent.len() <= self.limits.sessions_max {
            return;
        }
        if let Some(&oldest) = self.absent.first()
            && let Some(client_id) = self.discard(oldest)
        {
            self.counters.sessions_discarded.add(1);
            tracing::warn!(
                client_id,
                limit = self.limits.sessions_max,
                "too many sessions are kept for absent clients; discarded the one absent longest"
            );
        }
    }

    /// Ends the sessions whose time is over (MQTT5-4.1.0-2), finds the wills that are due, and tells `$SYS`.
    pub(super) fn expire(&mut self, now: Instant) {
        self.tell_sys(now);
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        for key in self.absent.clone() {
            let Some(session) = self.sessions.get_mut(&key) else {
                continue;
            };
            if due(session.ends) {
                self.discard(key);
            } else if due(session.will.as_ref().map(|(at, _)| *at))
                && let Some((_, will)) = session.will.take()
            {
                self.wills_due.push((session.client_id.clone(), will));
                self.bell.notify_one();
            }
        }
    }

    /// The wills that have become due, with their client ids.
    pub(super) fn take_wills(&mut self) -> Vec<(String, Will)> {
        std::mem::take(&mut self.wills_due)
    }

    /// When [`Broker::expire`] has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let sessions = self.absent.iter().filter_map(|key| self.sessions.get(key));
        let dues = sessions.flat_map(|session| {
            let will = session.will.as_ref().map(|(at, _)| *at);
            [session.ends, will].into_iter().flatten()
        });
        dues.chain(self.sys.next).min()
    }

    /// Rings when [`Broker::next_due`] may be earlier than it was, and when there are wills to take.
    pub(super) fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }

    /// How far the journal is recorded.
    pub(super) fn changes(&self) -> Seq {
        self.recorder.next()
    }

    /// The last change that was recorded since `before`, which [`Broker::changes`] said.
    pub(super) fn changed_since(&self, before: Seq) -> Option<Seq> {
        let next = self.recorder.next();
        (next > before).then(|| next - 1)
    }

    /// The watermark of the journal.
    pub(super) fn kept(&self) -> watch::Receiver<Seq> {
        self.recorder.kept()
    }

    /// The session, if the connection at `link` still has it.
    pub(super) fn session(&mut self, key: SessionKey, link: &Arc<Link>) -> Option<&mut Session> {
        let session = self.sessions.get_mut(&key)?;
        session.is_linked_to(link).then_some(session)
    }

    /// Subscribes, and queues the matching retained messages. Returns a SUBACK code for each filter: the `QoS`, or a
    /// reason.
    pub(super) fn subscribe(
        &mut self,
        key: SessionKey,
        link: &Arc<Link>,
        filters: &[Filter],
        now: Instant,
    ) -> Vec<u8> {
        let codes = filters
            .iter()
            .map(|filter| match self.subscribe_one(key, link, filter, now) {
                Ok(()) => filter.subscription.qos as u8,
                Err(reason) => reason.code(),
            });
        codes.collect()
    }

    /// Removes subscriptions. Returns an UNSUBACK code for each.
    pub(super) fn unsubscribe(
        &mut self,
        key: SessionKey,
        link: &Arc<Link>,
        filters: &[String],
    ) -> Vec<u8> {
        let mut codes = Vec::with_capacity(filters.len());
        for filter in filters {
            let Some(session) = self.session(key, link) else {
                break;
            };
            let before = session.filters.len();
            session.filters.retain(|own| own != filter);
            let reason = if session.filters.len() < before {
                session.note(|key| Change::Unsubscribed(key, filter.clone()));
                self.remove_filter(filter, key);
                Reason::Success
            } else {
                Reason::NoSubscriptionExisted
            };
            codes.push(reason.code());
        }
        codes
    }

    fn subscribe_one(
        &mut self,
        key: SessionKey,
        link: &Arc<Link>,
        filter: &Filter,
        now: Instant,
    ) -> Result<(), Reason> {
        let path = Path::new(&filter.path).ok_or(Reason::FilterInvalid)?;
        let is_too_long = filter.path.len() > self.limits.topic_bytes_max;
        if is_too_long || !topic::is_valid_filter(path.filter, &self.limits) {
            return Err(Reason::FilterInvalid);
        }
        let levels_max = self.limits.filter_levels_of_all_max;
        if self.subscriptions.would_exceed(levels_max, path.filter) {
            return Err(Reason::QuotaExceeded);
        }
        let filters_max = self.limits.filters_max;
        let bytes_left = (self.limits.filter_bytes_of_all_max).saturating_sub(self.filter_bytes);
        let session = self.session(key, link).ok_or(Reason::SessionTakenOver)?;
        let is_new = !session.filters.contains(&filter.path);
        if is_new {
            if session.filters.len() >= filters_max || filter.path.len() > bytes_left {
                return Err(Reason::QuotaExceeded);
            }
            session.filters.push(filter.path.clone());
        }
        session.note(|key| Change::Subscribed(key, filter.path.clone(), filter.subscription));
        if is_new {
            self.filter_bytes += filter.path.len();
        }
        self.want_sys(path.filter, now);
        if path.is_shared {
            let fresh = self.new_key();
            let member = (key, filter.subscription);
            let group = self.groups.join(&filter.path, member, fresh);
            self.subscriptions
                .insert(path.filter, group, filter.subscription);
            return Ok(()); // without retained messages (MQTT 5, 4.8.2)
        }
        self.subscriptions
            .insert(path.filter, key, filter.subscription);
        match filter.retained {
            RetainHandling::Send => self.send_retained(key, filter, now),
            RetainHandling::SendIfNew if is_new => self.send_retained(key, filter, now),
            RetainHandling::SendIfNew | RetainHandling::Withhold => {}
        }
        Ok(())
    }

    fn send_retained(&mut self, key: SessionKey, filter: &Filter, now: Instant) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        for (publication, retained_qos) in self.retained.matching(&filter.path, now) {
            let delivery = Delivery {
                publication: publication.clone(),
                qos: filter.subscription.qos.min(retained_qos),
                retain: true,
                subscription_ids: ids_of(filter.subscription),
            };
            let offer = session.offer(delivery, &self.limits);
            count_drop(offer, session, &self.counters);
        }
        self.send_sys(key, filter, now);
    }

    /// Removes a session with all that belongs to it; its will, if it waits, is due. Returns its client id.
    fn discard(&mut self, key: SessionKey) -> Option<String> {
        let mut session = self.sessions.remove(&key)?;
        session.note(Change::Ended);
        self.absent.retain(|absent| *absent != key);
        for filter in &session.filters {
            self.remove_filter(filter, key);
        }
        let client_id = std::mem::take(&mut session.client_id);
        self.by_client_id.remove(&client_id);
        if let Some((_, will)) = session.will.take() {
            self.wills_due.push((client_id.clone(), will));
            self.bell.notify_one();
        }
        Some(client_id)
    }

    fn remove_filter(&mut self, path: &str, key: SessionKey) {
        self.filter_bytes -= path.len();
        match Path::new(path) {
            Some(Path {
                filter,
                is_shared: true,
            }) => {
                if let Some(group) = self.groups.leave(path, key) {
                    self.subscriptions.remove(filter, group);
                }
            }
            _ => self.subscriptions.remove(path, key),
        }
    }

    fn new_key(&mut self) -> SessionKey {
        self.last_key += 1;
        self.last_key
    }
}

fn ids_of(subscription: Subscription) -> Box<[u32]> {
    match subscription.id {
        0 => Box::default(),
        id => Box::new([id]),
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

#[cfg(test)]
#[path = "tests/model/mod.rs"]
mod model;
