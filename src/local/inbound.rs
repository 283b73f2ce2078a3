//! What each packet of an admitted client does: to the spool, to the broker, to its acknowledgements.
//!
//! Nothing here waits. What is to be sent is put into `out`; what may not be sent yet is owed.
//!
//! Invariant: a `QoS` 1 or 2 PUBLISH with a cloud route is appended before anything else happens, and
//! everything that acknowledges it goes through [`Owed`] with its sequence number.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::watch;
use tokio::time::Instant;

use super::access::Rights;
use super::acks::{Answer, Awaits, Owed, Safe};
use super::aliases::Aliases;
use super::ending::End;
use super::large_packet::LargePacket;
use super::packet::{
    self, Ack, Filter, Goodbye, Incoming, Publish, REFUSALS, Reason, Reply, Version,
};
use super::publication::QoS;
use super::publisher::STATE_TOPIC;
use super::server::Shared;
use super::session::{Link, Outgoing, Session};
use super::shared::Path;
use super::subscriptions::SessionKey;
use super::topic;
use crate::clock::Timestamp;
use crate::spool::{AppendError, Message, Seq};
use crate::store::Ingress;

/// Whether a packet was dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handled {
    Done,
    /// The spool is full: nothing happened, the same packet has to be handled again later.
    SpoolFull,
}

/// What became of a message that has a cloud route, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spooled {
    /// It is in the spool under this number.
    As(Seq),
    /// It has no cloud route, or it is of `QoS` 0 and there was no room.
    Not,
    Full,
}

/// One admitted client.
pub(super) struct Client<I> {
    pub(super) shared: Arc<Shared<I>>,
    pub(super) version: Version,
    /// The largest packet that the client takes.
    pub(super) packet_bytes_max: u32,
    /// Whether its CONNECT wanted the session to end with the connection.
    pub(super) ends_with_connection: bool,
    pub(super) id: String,
    pub(super) peer: SocketAddr,
    pub(super) rights: Rights,
    pub(super) session: SessionKey,
    pub(super) link: Arc<Link>,
    pub(super) safe: watch::Receiver<Seq>,
    /// The watermark of the journal.
    pub(super) kept: watch::Receiver<Seq>,
    /// Whether a message for the client waits for it.
    pub(super) is_held_up: bool,
    pub(super) owed: Owed,
    /// `QoS` 1 and 2 messages whose last acknowledgement has not left.
    pub(super) receiving: usize,
    pub(super) aliases: Aliases,
    /// Bytes to send.
    pub(super) out: BytesMut,
    /// Room for one that is larger than the buffers.
    pub(super) large_packet: LargePacket,
    /// Whether a message for the client waits for it.
    pub(super) large_waits: bool,
    /// Whether other sessions were given something since this was last cleared.
    pub(super) fed_others: bool,
}

impl<I: Ingress> Client<I> {
    /// Deals with one packet. `received` is when it came.
    pub(super) fn handle(
        &mut self,
        packet: Incoming<'_>,
        received: Timestamp,
    ) -> Result<Handled, End> {
        match packet {
            Incoming::Publish(publish) => return self.publish(&publish, received),
            Incoming::PubAck(id) => self.with_session(|session| session.puback(id))?,
            Incoming::PubRec { id, refused: true } => {
                self.with_session(|session| session.refused(id))?;
            }
            Incoming::PubRec { id, refused: false } => {
                let awaits = self.with_session(|session| session.pubrec(id))?;
                let pubrel = Reply::because(Ack::PubRel, id, found(awaits.is_some()));
                self.reply_when(pubrel, awaits.unwrap_or_default());
            }
            Incoming::PubComp(id) => self.with_session(|session| session.pubcomp(id))?,
            Incoming::PubRel(id) => self.pubrel(id)?,
            Incoming::Subscribe { id, filters } => self.subscribe(id, &filters)?,
            Incoming::Unsubscribe { id, filters } => {
                self.check_count(filters.len())?;
                let mut broker = self.shared.broker();
                let before = broker.changes();
                let codes = broker.unsubscribe(self.session, &self.link, &filters);
                let journal = broker.changed_since(before);
                drop(broker);
                let mut packet = BytesMut::new();
                packet::put_unsuback(&mut packet, self.version, id, &codes);
                self.answer(packet, journal);
            }
            Incoming::PingReq => {
                packet::put_pingresp(&mut self.out);
                self.shared.counters.packets_sent.add(1);
            }
            Incoming::Disconnect(goodbye) => return Err(self.goodbye(goodbye)),
            Incoming::Connect(_) => {
                // MQTT-3.1.0-2
                return Err(End::Protocol(
                    Reason::ProtocolError,
                    "it sent a second CONNECT",
                ));
            }
        }
        Ok(Handled::Done)
    }

    fn subscribe(&mut self, id: u16, filters: &[Filter]) -> Result<(), End> {
        self.check_count(filters.len())?;
        let mut broker = self.shared.broker();
        let before = broker.changes();
        let (now, mut codes) = (Instant::now(), Vec::with_capacity(filters.len()));
        for filter in filters {
            if self.may_subscribe(filter) {
                let filter = std::slice::from_ref(filter);
                codes.extend(broker.subscribe(self.session, &self.link, filter, now));
            } else {
                codes.push(Reason::NotAuthorized.code());
            }
        }
        let journal = broker.changed_since(before);
        drop(broker);
        let refused = (codes.iter())
            .filter(|code| **code >= REFUSALS && **code != Reason::NotAuthorized.code());
        let refused = u64::try_from(refused.count()).unwrap_or(u64::MAX);
        self.shared.counters.filters_refused.add(refused);
        let mut packet = BytesMut::new();
        packet::put_suback(&mut packet, self.version, id, &codes);
        self.answer(packet, journal);
        Ok(())
    }

    /// Whether the client may read all that a filter can match. One that is no filter is left to the broker to refuse.
    fn may_subscribe(&self, filter: &Filter) -> bool {
        let path = Path::new(&filter.path).map(|path| path.filter);
        let path = path.filter(|path| topic::is_valid_filter(path, &self.shared.limits));
        let Some(denied) = path.filter(|path| !self.rights.may_subscribe(path)) else {
            return true;
        };
        self.shared.counters.subscriptions_denied.add(1);
        (self.shared.access).denied(&self.id, "subscribe", denied);
        false
    }

    /// The end of a connection that the client ends in order.
    fn goodbye(&self, goodbye: Goodbye) -> End {
        if let Some(expiry_s) = goodbye.session_expiry_s {
            if expiry_s > 0 && self.ends_with_connection {
                return End::Protocol(
                    Reason::ProtocolError, // MQTT5-3.14.2-2
                    "it wanted its session kept at its end, and not at its beginning",
                );
            }
            if let Err(end) = self.with_session(|session| session.expiry_s = expiry_s) {
                return end;
            }
        }
        if goodbye.with_will {
            End::DisconnectedWithWill
        } else {
            End::Disconnected
        }
    }

    /// Whether one packet may name so many topic filters.
    fn check_count(&self, filters: usize) -> Result<(), End> {
        /// What SUBACK and UNSUBACK have besides a code for each.
        const OVERHEAD_BYTES: usize = 8;
        if filters > self.shared.limits.filters_per_packet_max {
            return Err(End::Protocol(
                Reason::QuotaExceeded,
                "it named too many topic filters in one packet",
            ));
        }
        let answer = u32::try_from(filters + OVERHEAD_BYTES);
        if answer.is_ok_and(|bytes| bytes > self.packet_bytes_max) {
            return Err(End::Protocol(
                Reason::PacketTooLarge,
                "it named more topic filters in one packet than it takes codes in the answer",
            ));
        }
        Ok(())
    }

    /// Puts an acknowledgement into `out`.
    fn reply(&mut self, reply: Reply) {
        if reply.is_last() {
            self.receiving = self.receiving.saturating_sub(1);
        }
        packet::put_reply(&mut self.out, self.version, reply);
        self.shared.counters.packets_sent.add(1);
    }

    /// Sends SUBACK or UNSUBACK when the journal has what it says; in order with others if it has to wait.
    fn answer(&mut self, packet: BytesMut, journal: Option<Seq>) {
        if journal.is_some() {
            let awaits = Awaits {
                spool: None,
                journal,
            };
            let bytes = packet.len();
            (self.owed).owe(Answer::Encoded(packet.freeze()), awaits, bytes);
        } else {
            self.out.extend_from_slice(&packet);
            self.shared.counters.packets_sent.add(1);
        }
    }

    /// Sends an acknowledgement, when what it says is safe.
    fn reply_when(&mut self, reply: Reply, awaits: Awaits) {
        let safe = Safe {
            spool: *self.safe.borrow(),
            journal: *self.kept.borrow(),
        };
        if awaits.is_over(safe) {
            self.reply(reply);
        } else {
            self.owed.owe(Answer::Reply(reply), awaits, 0);
        }
    }

    /// Puts the acknowledgements into `out` that may leave.
    pub(super) fn acknowledge(&mut self) {
        if self.owed.is_empty() {
            return;
        }
        let safe = Safe {
            spool: *self.safe.borrow_and_update(),
            journal: *self.kept.borrow_and_update(),
        };
        let out_bytes_max = self.shared.limits.write_buffer_bytes_max;
        while self.out.len() < out_bytes_max
            && let Some(answer) = self.owed.release(safe)
        {
            match answer {
                Answer::Reply(reply) => self.reply(reply),
                Answer::Encoded(packet) => {
                    self.out.extend_from_slice(&packet);
                    self.shared.counters.packets_sent.add(1);
                }
            }
        }
    }

    /// Puts messages for the client into `out` while there is room.
    pub(super) fn deliver(&mut self) -> Result<(), End> {
        let limits = &self.shared.limits;
        let room_bytes = limits.write_buffer_bytes_max / 2;
        self.large_waits = false;
        if self.out.len() >= room_bytes {
            return Ok(());
        }
        let mut broker = self.shared.broker();
        let session = broker.session(self.session, &self.link);
        let session = session.ok_or(End::TakenOver)?;
        let receiver = (self.version, self.packet_bytes_max);
        let (mut sent, mut released, mut expired, mut too_large) = (0, 0, 0, 0);
        let now = Instant::now();
        while self.out.len() < room_bytes {
            if session.next_bytes() > room_bytes && !self.large_packet.has_room() {
                self.large_waits = true;
                break;
            }
            match session.next(limits, now) {
                None => break,
                Some(Outgoing::Expired) => expired += 1,
                Some(Outgoing::PubRel(id)) => {
                    let pubrel = Reply::new(Ack::PubRel, id);
                    packet::put_reply(&mut self.out, self.version, pubrel);
                    released += 1;
                }
                Some(Outgoing::Publish {
                    delivery,
                    id,
                    duplicate,
                }) => {
                    let number = (id, duplicate);
                    if packet::put_publish(&mut self.out, receiver, &delivery, number, now) {
                        sent += 1;
                    } else {
                        session.give_up(id);
                        too_large += 1;
                    }
                }
            }
        }
        self.is_held_up = session.is_held_up();
        let counters = &self.shared.counters;
        counters.messages_sent.add(sent);
        counters.packets_sent.add(sent + released);
        counters.dropped_expired.add(expired);
        counters.dropped_packet_too_large.add(too_large);
        Ok(())
    }

    /// Whether `out` takes more memory than usual.
    pub(super) fn is_out_large(&self) -> bool {
        self.out.capacity() > 2 * self.shared.limits.write_buffer_bytes_max
    }

    /// Whether so much is unacknowledged or unwritten that the client must not be read from.
    pub(super) fn is_congested(&self) -> bool {
        let limits = &self.shared.limits;
        self.owed.unacknowledged_bytes() >= limits.unacknowledged_bytes_max
            || self.out.len() >= limits.write_buffer_bytes_max
    }

    fn publish(&mut self, publish: &Publish<'_>, received: Timestamp) -> Result<Handled, End> {
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
        let exceeded = qos == QoS::ExactlyOnce
            && self.with_session(|session| session.must_release(limits))?
            || qos > QoS::AtMostOnce
                && self.version == Version::V5
                && self.receiving >= limits.unreleased_max.into();
        if exceeded {
            return Err(End::Protocol(
                Reason::ReceiveMaximumExceeded,
                "it has too many messages unreleased or unacknowledged",
            ));
        }
        Ok(())
    }

    /// PUBCOMP says again that the message is taken, so a client that did not wait for its PUBREC
    /// waits for its PUBCOMP.
    fn pubrel(&mut self, id: u16) -> Result<(), End> {
        let (known, awaits) = self.with_session(|session| session.pubrel(id))?;
        self.reply_when(Reply::because(Ack::PubComp, id, found(known)), awaits);
        Ok(())
    }

    /// Changes the session. Returns the last change that this made to the journal, too.
    fn recording<T>(
        &self,
        change: impl FnOnce(&mut Session) -> T,
    ) -> Result<(T, Option<Seq>), End> {
        let mut broker = self.shared.broker();
        let before = broker.changes();
        let session = broker.session(self.session, &self.link);
        let changed = session.map(change).ok_or(End::TakenOver)?;
        Ok((changed, broker.changed_since(before)))
    }

    fn with_session<T>(&self, change: impl FnOnce(&mut Session) -> T) -> Result<T, End> {
        let mut broker = self.shared.broker();
        let session = broker.session(self.session, &self.link);
        session.map(change).ok_or(End::TakenOver)
    }
}

/// What the answer to an acknowledgement says of its packet identifier.
fn found(known: bool) -> Reason {
    if known {
        Reason::Success
    } else {
        Reason::PacketIdNotFound
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
            Ok(seq) => {
                self.counters.messages_spooled.add(1);
                Ok(Spooled::As(seq))
            }
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
