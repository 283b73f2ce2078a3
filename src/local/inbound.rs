//! What each packet of an admitted client does. Messages are `publishing`'s, and what leaves is `outbound`'s.
//!
//! Nothing here waits.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::watch;
use tokio::time::Instant;

use super::access::Rights;
use super::acks::Owed;
use super::aliases::Aliases;
use super::ending::End;
use super::large_packet::LargePacket;
use super::link::Link;
use super::packet::{self, Ack, Filter, Goodbye, Incoming, REFUSALS, Reason, Reply, Version};
use super::server::Shared;
use super::session::Session;
use super::shared::Path;
use super::subscriptions::SessionKey;
use super::topic;
use crate::clock::Timestamp;
use crate::spool::Seq;
use crate::store::Ingress;

/// Whether a packet was dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handled {
    Done,
    /// The spool is full: nothing happened, the same packet has to be handled again later.
    SpoolFull,
}

/// One admitted client.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they have nothing to do with each other"
)]
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
                self.answer(&packet, journal);
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
        self.answer(&packet, journal);
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

    pub(super) fn with_session<T>(&self, change: impl FnOnce(&mut Session) -> T) -> Result<T, End> {
        let mut broker = self.shared.broker();
        let session = broker.session(self.session, &self.link);
        session.map(change).ok_or(End::TakenOver)
    }
}

/// What the answer to an acknowledgement says of its packet identifier.
pub(super) fn found(known: bool) -> Reason {
    if known {
        Reason::Success
    } else {
        Reason::PacketIdNotFound
    }
}
