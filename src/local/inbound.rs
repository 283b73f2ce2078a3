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

use super::acks::Owed;
use super::connection::End;
use super::packet::{self, Incoming, Publish, Reply};
use super::publication::QoS;
use super::server::Shared;
use super::session::{Link, Outgoing, Session, Taken};
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
    pub(super) id: String,
    pub(super) peer: SocketAddr,
    pub(super) session: SessionKey,
    pub(super) link: Arc<Link>,
    pub(super) safe: watch::Receiver<Seq>,
    pub(super) owed: Owed,
    /// Bytes to send.
    pub(super) out: BytesMut,
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
            Incoming::PubRec(id) => {
                self.with_session(|session| session.pubrec(id))?;
                packet::put_reply(&mut self.out, Reply::PubRel(id));
            }
            Incoming::PubComp(id) => self.with_session(|session| session.pubcomp(id))?,
            Incoming::PubRel(id) => self.pubrel(id)?,
            Incoming::Subscribe { id, filters } => {
                self.check_count(filters.len())?;
                let mut broker = self.shared.broker();
                let codes = broker.subscribe(self.session, &self.link, &filters);
                packet::put_suback(&mut self.out, id, &codes);
            }
            Incoming::Unsubscribe { id, filters } => {
                self.check_count(filters.len())?;
                let mut broker = self.shared.broker();
                broker.unsubscribe(self.session, &self.link, &filters);
                packet::put_reply(&mut self.out, Reply::UnsubAck(id));
            }
            Incoming::PingReq => packet::put_pingresp(&mut self.out),
            Incoming::Disconnect => return Err(End::Disconnected),
            Incoming::Connect(_) => return Err(End::Protocol("it sent a second CONNECT")), // MQTT-3.1.0-2
        }
        Ok(Handled::Done)
    }

    /// Whether one packet may name so many topic filters.
    fn check_count(&self, filters: usize) -> Result<(), End> {
        if filters > self.shared.limits.filters_per_packet_max {
            return Err(End::Protocol(
                "it named too many topic filters in one packet",
            ));
        }
        Ok(())
    }

    /// Puts the acknowledgements into `out` that may leave.
    pub(super) fn acknowledge(&mut self) {
        if self.owed.is_empty() {
            return;
        }
        let safe = *self.safe.borrow_and_update();
        while let Some(ack) = self.owed.release(safe) {
            packet::put_reply(&mut self.out, ack);
        }
    }

    /// Puts messages for the client into `out` while there is room.
    pub(super) fn deliver(&mut self) -> Result<(), End> {
        let limits = &self.shared.limits;
        let room_bytes = limits.write_buffer_bytes_max / 2;
        if self.out.len() >= room_bytes {
            return Ok(());
        }
        let mut broker = self.shared.broker();
        let session = broker.session(self.session, &self.link);
        let session = session.ok_or(End::TakenOver)?;
        let mut sent = 0;
        while self.out.len() < room_bytes {
            match session.next(limits) {
                None => break,
                Some(Outgoing::PubRel(id)) => packet::put_reply(&mut self.out, Reply::PubRel(id)),
                Some(Outgoing::Publish {
                    delivery,
                    id,
                    duplicate,
                }) => {
                    packet::put_publish(&mut self.out, &delivery, id, duplicate);
                    sent += 1;
                }
            }
        }
        self.shared.counters.messages_sent.add(sent);
        Ok(())
    }

    /// Whether so much is unacknowledged or unwritten that the client must not be read from.
    pub(super) fn is_congested(&self) -> bool {
        let limits = &self.shared.limits;
        self.owed.unacknowledged_bytes() >= limits.unacknowledged_bytes_max
            || self.out.len() >= limits.write_buffer_bytes_max
    }

    fn publish(&mut self, publish: &Publish<'_>, received: Timestamp) -> Result<Handled, End> {
        if !topic::is_valid_name(publish.topic, &self.shared.limits) {
            return Err(End::Protocol("it published to an invalid topic name"));
        }
        if publish.qos == QoS::ExactlyOnce
            && let Some(taken) = self.with_session(|session| session.taken(publish.id))?
        {
            self.owed.owe(Reply::PubRec(publish.id), taken.awaits, 0);
            return Ok(Handled::Done);
        }
        if publish.qos == QoS::ExactlyOnce
            && self.with_session(|session| session.must_release(&self.shared.limits))?
        {
            return Err(End::Protocol("it has too many QoS 2 messages unreleased"));
        }
        let awaits = match self.shared.spool(publish, received)? {
            Spooled::As(seq) => Some(seq),
            Spooled::Not => None,
            Spooled::Full => return Ok(Handled::SpoolFull),
        };
        let message_bytes = match awaits {
            Some(_) => publish.topic.len() + publish.payload.len(),
            None => 0,
        };
        match publish.qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self
                .owed
                .owe(Reply::PubAck(publish.id), awaits, message_bytes),
            QoS::ExactlyOnce => {
                self.with_session(|session| session.take(publish.id, Taken { awaits }))?;
                self.owed
                    .owe(Reply::PubRec(publish.id), awaits, message_bytes);
            }
        }
        self.shared.counters.messages_received.add(1);
        self.fed_others |= self.shared.fan_out(publish);
        Ok(Handled::Done)
    }

    /// PUBCOMP says again that the message is taken, so a client that did not wait for its PUBREC
    /// waits for its PUBCOMP.
    fn pubrel(&mut self, id: u16) -> Result<(), End> {
        let awaits = self.with_session(|session| session.pubrel(id))?;
        if awaits.is_some_and(|seq| seq >= *self.safe.borrow()) {
            self.owed.owe(Reply::PubComp(id), awaits, 0);
        } else {
            packet::put_reply(&mut self.out, Reply::PubComp(id));
        }
        Ok(())
    }

    fn with_session<T>(&self, change: impl FnOnce(&mut Session) -> T) -> Result<T, End> {
        let mut broker = self.shared.broker();
        let session = broker.session(self.session, &self.link);
        session.map(change).ok_or(End::TakenOver)
    }
}

impl<I: Ingress> Shared<I> {
    /// Hands a message to the spool if its topic has a cloud route. One that the cloud will not take, too: it
    /// becomes a dead letter there.
    pub(super) fn spool(&self, publish: &Publish<'_>, received: Timestamp) -> Result<Spooled, End> {
        if !self.routes.has_route(publish.topic) {
            return Ok(Spooled::Not);
        }
        let message = Message {
            topic: publish.topic,
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
            Err(AppendError::TooLarge {
                size_bytes,
                max_bytes,
            }) => Err(End::TooLarge {
                topic: publish.topic.to_owned(),
                size_bytes,
                max_bytes,
            }),
            Err(AppendError::Failed) => Err(End::SpoolFailed),
        }
    }

    /// Hands a message to the local subscribers. Returns whether there are any.
    pub(super) fn fan_out(&self, publish: &Publish<'_>) -> bool {
        let mut broker = self.broker();
        broker.publish(publish.topic, publish.payload, publish.qos, publish.retain)
    }
}
