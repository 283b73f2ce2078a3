//! Handing one message out: to the sessions that want it, to one of each group, and to the retained messages. Pure.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Broker, count_drop, ids_of};
use crate::local::acks::Awaits;
use crate::local::journal::Change;
use crate::local::link::Link;
use crate::local::memory::Memory;
use crate::local::packet::Publish;
use crate::local::publication::{Delivery, Publication, QoS};
use crate::local::publisher::STATE_TOPIC;
use crate::local::session::Offer;
use crate::local::subscriptions::{self, SessionKey, Wanted};
use crate::local::topic;
use crate::spool::Seq;

impl Broker {
    /// Offers a message to every session that wants it, and retains it if asked to. The topic name
    /// must be valid. Nothing is copied if nobody wants it. Topics that begin with `$`, and [`STATE_TOPIC`], belong to
    /// the server: a client's message to one goes nowhere. `publisher` is the session it comes from, if any.
    /// Returns whether any session wanted it.
    pub(in crate::local) fn publish(
        &mut self,
        publish: &Publish<'_>,
        publisher: Option<SessionKey>,
        now: Instant,
    ) -> bool {
        if topic::is_reserved(publish.topic) || publish.topic == STATE_TOPIC {
            return false;
        }
        self.publish_own(publish, publisher, now)
    }

    /// The same to whatever topic.
    pub(in crate::local) fn publish_own(
        &mut self,
        publish: &Publish<'_>,
        publisher: Option<SessionKey>,
        now: Instant,
    ) -> bool {
        let mut message = Message::new(publish, now);
        if publish.retain {
            self.retain(&mut message);
        }
        self.hand_out(&mut message, publisher)
    }

    /// The same for a message of `QoS` 2 from the connection at `link`, which is remembered until it is released. If it did
    /// not go to the spool, a kept session remembers it over a restart, too: the journal has it with all that it was
    /// queued for, or it is new. Returns also what its PUBREC has to wait for; `None` if the session is another
    /// connection's now.
    pub(in crate::local) fn publish_once(
        &mut self,
        publish: &Publish<'_>,
        (key, link): (SessionKey, &Arc<Link>),
        spool: Option<Seq>,
        now: Instant,
    ) -> Option<(bool, Awaits)> {
        let before = self.changes();
        let stays_here = spool.is_none();
        let is_kept = stays_here && self.session(key, link)?.is_kept();
        let held = is_kept.then(|| self.recorder.hold());
        if is_kept {
            self.session(key, link)?.note(Change::Taking);
        }
        let wanted = self.publish(publish, Some(key), now);
        let session = self.session(key, link)?;
        session.take(publish.id, stays_here);
        drop(held);
        let awaits = Awaits {
            spool,
            journal: self.changed_since(before),
        };
        self.session(key, link)?.took(publish.id, awaits);
        Some((wanted, awaits))
    }

    /// Offers a message to every session that wants it. Returns whether any does.
    pub(super) fn hand_out(
        &mut self,
        message: &mut Message<'_>,
        publisher: Option<SessionKey>,
    ) -> bool {
        let mut matched = std::mem::take(&mut self.matched);
        let topic = message.publish.topic;
        self.subscriptions.matching(topic, &mut matched);
        let mut anyone = false;
        for wanted in subscriptions::wanted(&matched, publisher) {
            anyone = true;
            self.deliver(message, wanted);
        }
        matched.clear();
        self.matched = matched;
        anyone
    }

    fn deliver(&mut self, message: &mut Message<'_>, wanted: Wanted) {
        let Some(session) = self.sessions.get_mut(&wanted.session) else {
            self.deliver_to_group(message, &wanted);
            return;
        };
        let delivery = message.delivery(
            &self.memory,
            wanted.qos,
            wanted.retain_as_published,
            wanted.ids,
        );
        let offer = session.offer(delivery, &self.limits);
        count_drop(offer, session, &self.counters);
    }

    /// Offers a message to one session of the group after the other until one takes it: to those that are connected
    /// first.
    fn deliver_to_group(&mut self, message: &mut Message<'_>, wanted: &Wanted) {
        let Some(group) = self.groups.get_mut(wanted.session) else {
            return;
        };
        let mut refused = None;
        for connected in [true, false] {
            for (key, subscription) in group.in_turn() {
                let Some(session) = self.sessions.get_mut(&key) else {
                    continue;
                };
                if session.is_connected() != connected {
                    continue;
                }
                let delivery = message.delivery(
                    &self.memory,
                    subscription.qos,
                    subscription.retain_as_published,
                    ids_of(subscription),
                );
                let offer = session.offer(delivery, &self.limits);
                if offer == Offer::Queued {
                    group.served(key);
                    return;
                }
                refused = refused.or(Some((key, offer)));
            }
        }
        if let Some((key, offer)) = refused
            && let Some(session) = self.sessions.get(&key)
        {
            count_drop(offer, session, &self.counters);
        }
    }

    fn retain(&mut self, message: &mut Message<'_>) {
        let Publish {
            topic,
            payload,
            qos,
            ..
        } = *message.publish;
        if payload.is_empty() {
            self.retained.clear(topic);
            return;
        }
        let publication = message.publication(&self.memory);
        let kept = self
            .retained
            .set(publication, qos, &self.limits, message.now);
        match kept {
            Ok(()) => self.retained_full = false,
            Err(_full) => {
                self.counters.dropped_retained.add(1);
                if !std::mem::replace(&mut self.retained_full, true) {
                    tracing::warn!(
                        topic,
                        messages_max = self.limits.retained_messages_max,
                        bytes_max = self.limits.retained_bytes_max,
                        "too many retained messages: those on further topics are passed on and not retained. To make room, \
                         publish empty retained messages to topics that need none"
                    );
                }
            }
        }
    }
}

/// A message that is being handed out: copied when the first one wants it.
pub(super) struct Message<'a> {
    publish: &'a Publish<'a>,
    now: Instant,
    shared: Option<Publication>,
}

impl<'a> Message<'a> {
    pub(super) fn new(publish: &'a Publish<'a>, now: Instant) -> Self {
        Message {
            publish,
            now,
            shared: None,
        }
    }

    fn publication(&mut self, memory: &Memory) -> Publication {
        let copy = || Publication::new(self.publish, self.now, memory);
        self.shared.get_or_insert_with(copy).clone()
    }

    fn delivery(
        &mut self,
        memory: &Memory,
        qos: QoS,
        retain_as_published: bool,
        ids: Box<[u32]>,
    ) -> Delivery {
        Delivery {
            publication: self.publication(memory),
            qos: qos.min(self.publish.qos),
            retain: retain_as_published && self.publish.retain,
            subscription_ids: ids,
        }
    }
}
