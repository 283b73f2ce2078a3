//! What becomes of a client's messages: spool, local subscribers, and what is owed for them.
//!
//! Nothing here waits. A full spool is said, and then nothing has happened.
//!
//! Invariant: a `QoS` 1 or 2 PUBLISH with a cloud route is appended before anything else happens, and
//! everything that acknowledges it goes through [`Owed`](super::acks::Owed) with its sequence number.

use tokio::time::Instant;

use super::acks::{Answer, Awaits};
use super::ending::End;
use super::inbound::{Client, Handled, found};
use super::packet::{Ack, Publish, Reason, Reply, Version};
use super::publication::QoS;
use super::publisher::STATE_TOPIC;
use super::server::Shared;
use super::topic;
use crate::clock::Timestamp;
use crate::spool::{AppendError, Message, Seq};
use crate::store::Ingress;

/// What became of a message that has a cloud route, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spooled {
    /// It is in the spool under this number.
    As(Seq),
    /// It has no cloud route, or it is of `QoS` 0 and there was no room.
    Not,
    Full,
}

impl<I: Ingress> Client<I> {
    pub(super) fn publish(
        &mut self,
        publish: &Publish<'_>,
        received: Timestamp,
    ) -> Result<Handled, End> {
        let alias_max = self.shared.limits.topic_aliases_max;
        let Ok(topic) = self.aliases.topic(publish, alias_max) else {
            return Err(End::Protocol(
                Reason::TopicAliasInvalid,
                "it used a topic alias that it has not set or may not set",
            ));
        };
        let publish = &Publish {
            topic: topic.as_deref().unwrap_or(publish.topic),
            ..*publish
        };
        if !topic::is_valid_name(publish.topic, &self.shared.limits) {
            return Err(End::Protocol(
                Reason::TopicNameInvalid,
                "it published to an invalid topic name",
            ));
        }
        self.aliases.learn(publish);
        if publish.qos == QoS::ExactlyOnce
            && let Some(taken) = self.with_session(|session| session.taken(publish.id))?
        {
            let pubrec = Reply::new(Ack::PubRec, publish.id);
            self.owed.owe(Answer::Reply(pubrec), taken.awaits, 0);
            return Ok(Handled::Done);
        }
        self.check_flow(publish.qos)?;
        if !self.rights.may_publish(publish.topic) {
            return self.deny(publish);
        }
        let spool = match self.shared.spool(publish, received)? {
            Spooled::As(seq) => Some(seq),
            Spooled::Not => None,
            Spooled::Full => return Ok(Handled::SpoolFull),
        };
        self.shared.counters.messages_received.add(1);
        let (wanted, awaits) = self.hand_out(publish, spool)?;
        self.fed_others |= wanted;
        let reason = if wanted || spool.is_some() {
            Reason::Success
        } else {
            Reason::NoMatchingSubscribers
        };
        let message_bytes = if awaits == Awaits::default() {
            0
        } else {
            publish.topic.len() + publish.properties.bytes().len() + publish.payload.len()
        };
        self.owe(publish, reason, awaits, message_bytes);
        Ok(Handled::Done)
    }

    /// Hands a message to the local subscribers. Returns whether anyone wants it, and what its acknowledgement awaits.
    fn hand_out(
        &mut self,
        publish: &Publish<'_>,
        spool: Option<Seq>,
    ) -> Result<(bool, Awaits), End> {
        let mut broker = self.shared.broker();
        let now = Instant::now();
        if publish.qos == QoS::ExactlyOnce {
            let own = (self.session, &self.link);
            let handed_out = broker.publish_once(publish, own, spool, now);
            return handed_out.ok_or(End::TakenOver);
        }
        let before = broker.changes();
        let wanted = broker.publish(publish, Some(self.session), now);
        let journal = broker.changed_since(before);
        Ok((wanted, Awaits { spool, journal }))
    }

    /// Refuses a message that the client may not publish. MQTT 3.1.1 has no word for it, and an acknowledgement would
    /// be a lie: the connection ends (MQTT-3.3.5-2).
    fn deny(&mut self, publish: &Publish<'_>) -> Result<Handled, End> {
        self.shared.counters.publishes_denied.add(1);
        (self.shared.access).denied(&self.id, "publish", publish.topic);
        if self.version == Version::V4 && publish.qos > QoS::AtMostOnce {
            return Err(End::NotAllowed);
        }
        self.owe(publish, Reason::NotAuthorized, Awaits::default(), 0);
        Ok(Handled::Done)
    }

    /// Owes the first acknowledgement of a PUBLISH.
    fn owe(&mut self, publish: &Publish<'_>, reason: Reason, awaits: Awaits, message_bytes: usize) {
        let ack = match publish.qos {
            QoS::AtMostOnce => return,
            QoS::AtLeastOnce => Ack::PubAck,
            QoS::ExactlyOnce => Ack::PubRec,
        };
        self.receiving += 1;
        let reply = Reply::because(ack, publish.id, reason);
        self.owed.owe(Answer::Reply(reply), awaits, message_bytes);
    }

    /// Whether the client keeps to the receive maximum it was told (MQTT5-3.3.4-7), and in MQTT 3.1.1 to what it can
    /// be allowed.
    fn check_flow(&self, qos: QoS) -> Result<(), End> {
        let limits = &self.shared.limits;
        let is_told = self.version == Version::V5;
        if is_told && qos > QoS::AtMostOnce && self.receiving >= limits.unreleased_max.into() {
            return Err(End::Protocol(
                Reason::ReceiveMaximumExceeded,
                "it has too many messages unacknowledged",
            ));
        }
        if qos == QoS::ExactlyOnce && self.with_session(|session| session.must_release(limits))? {
            return Err(End::Protocol(
                Reason::QuotaExceeded,
                "it has too many messages unreleased",
            ));
        }
        Ok(())
    }

    /// PUBCOMP says again that the message is taken, so a client that did not wait for its PUBREC
    /// waits for its PUBCOMP.
    pub(super) fn pubrel(&mut self, id: u16) -> Result<(), End> {
        let (known, awaits) = self.with_session(|session| session.pubrel(id))?;
        self.reply_when(Reply::because(Ack::PubComp, id, found(known)), awaits);
        Ok(())
    }
}

impl<I: Ingress> Shared<I> {
    /// Hands a message to the spool if its topic has a cloud route. One that the cloud will not take, too: it
    /// becomes a dead letter there. But none to [`STATE_TOPIC`].
    pub(super) fn spool(&self, publish: &Publish<'_>, received: Timestamp) -> Result<Spooled, End> {
        if publish.topic == STATE_TOPIC || !self.routes.has_route(publish.topic) {
            return Ok(Spooled::Not);
        }
        let message = Message {
            topic: publish.topic,
            attributes: &publish.properties.attributes(),
            payload: publish.payload,
            qos: publish.qos as u8,
            retain: publish.retain,
            received,
        };
        match self.ingress.append(&message) {
            Ok(seq) => Ok(Spooled::As(seq)),
            Err(AppendError::Full) if publish.qos == QoS::AtMostOnce => {
                self.counters.dropped_spool_full.add(1);
                Ok(Spooled::Not)
            }
            Err(AppendError::Full) => Ok(Spooled::Full),
            Err(
                error @ (AppendError::TooLarge { .. } | AppendError::AttributesTooLarge { .. }),
            ) => Err(End::TooLarge {
                topic: publish.topic.to_owned(),
                error,
            }),
            Err(AppendError::Failed) => Err(End::SpoolFailed),
        }
    }
}
