//! One client's session: what is on its way to the client, and which `QoS` 2 messages came from it.
//! Pure: it hands out packets, it sends none.
//!
//! Invariants: messages leave in the order they were offered; at most `Limits::inflight_max`, and no more than the
//! client's receive maximum, are unacknowledged by the client; a packet identifier is not used twice at a time; what is kept never
//! exceeds `Limits::session_bytes_max`, but for what a restart brought back. What a restart must not change is recorded
//! in the journal, if the session outlives its connection.

mod kept;
mod taken;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use self::taken::{TAKEN_BYTES, Taken};
use super::acks::Awaits;
use super::journal::{Change, Recorder};
use super::limits::Limits;
use super::link::Link;
use super::memory::Memory;
use super::packet::Will;
use super::publication::{Delivery, QoS};
use super::subscriptions::SessionKey;
use crate::spool::Seq;

/// An empty queue that has grown beyond this many messages gives its memory back.
const CAPACITY_KEPT: usize = 256;

/// How far the delivery of a sent message has come.
#[derive(Debug)]
enum Stage {
    /// PUBLISH sent, PUBACK or PUBREC awaited. Kept to be sent again.
    Sent(Delivery),
    /// PUBREL sent, or to be sent when this change is kept, after which it is the same after a restart; PUBCOMP awaited.
    Released(Option<Seq>),
}

/// A sent message that the client has not acknowledged.
#[derive(Debug)]
struct Flight {
    id: u16,
    stage: Stage,
}

/// A message that was not sent yet.
#[derive(Debug)]
struct Waiting {
    /// The identifier it will be sent with; 0 for `QoS` 0.
    id: u16,
    delivery: Delivery,
    /// Of `QoS` 2: the change that has to be kept before it is sent, so that the identifier means this message for ever.
    awaits: Option<Seq>,
    /// Whether it may have been sent before a restart.
    duplicate: bool,
}

/// A packet to send to the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    Publish {
        delivery: Delivery,
        /// 0 for `QoS` 0.
        id: u16,
        duplicate: bool,
    },
    PubRel(u16),
    /// No packet: a message that waited too long was let go.
    Expired,
}

/// What became of a message that was offered to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    Queued,
    /// `QoS` 0 and nobody there: the standard lets it go, and nobody counts it.
    NotConnected,
    /// The session is full.
    Dropped {
        qos: QoS,
        /// Whether it is the first of `QoS` 1 or 2 since the queue was empty.
        first: bool,
    },
}

/// One session.
pub(super) struct Session {
    pub(super) client_id: String,
    /// How long it outlives the connection, as in CONNECT.
    pub(super) expiry_s: u32,
    /// While the client is away: when the session ends, if ever.
    pub(super) ends: Option<Instant>,
    /// While the client is away: its will, and when it is published.
    pub(super) will: Option<(Instant, Will)>,
    /// There while the client is connected.
    link: Option<Arc<Link>>,
    /// The filters it is subscribed to, so that they can be removed.
    pub(super) filters: Vec<String>,
    /// The change by which its client came back. Until it is kept, nothing is sent that would come again after a restart
    /// without DUP.
    pub(super) returned: Option<Seq>,
    /// `QoS` 2 messages from the client, taken and not yet released, by packet identifier.
    taken: HashMap<u16, Taken>,
    /// What the PUBCOMPs wait for of all that was released.
    finished: Awaits,
    queue: VecDeque<Waiting>,
    /// In the order of sending.
    inflight: VecDeque<Flight>,
    /// How many of `inflight`, from the front, went out on this connection.
    sent_here: usize,
    /// How many messages the client takes without having acknowledged them.
    receive_max: u16,
    last_id: u16,
    /// Bytes in `queue` and `inflight`.
    bytes: usize,
    memory: Memory,
    full: bool,
    /// There if the session outlives its connection and the process.
    journal: Option<(SessionKey, Recorder)>,
}

impl Session {
    pub(super) fn new(client_id: &str, memory: Memory) -> Self {
        Session {
            client_id: client_id.to_owned(),
            expiry_s: 0,
            ends: None,
            will: None,
            link: None,
            filters: Vec::new(),
            taken: HashMap::new(),
            finished: Awaits::default(),
            returned: None,
            queue: VecDeque::new(),
            inflight: VecDeque::new(),
            sent_here: 0,
            receive_max: u16::MAX,
            last_id: 0,
            bytes: 0,
            memory,
            full: false,
            journal: None,
        }
    }

    /// Whether the next packet says what has to be in the journal before.
    pub(super) fn is_held_up(&self) -> bool {
        let awaits = match self.inflight.get(self.sent_here) {
            Some(flight) => match flight.stage {
                Stage::Sent(_) => None,
                Stage::Released(awaits) => awaits,
            },
            None => (self.queue.front().filter(|waiting| waiting.id > 0))
                .and_then(|waiting| waiting.awaits.max(self.returned)),
        };
        let recorder = self.journal.as_ref().map(|(_, recorder)| recorder);
        awaits
            .zip(recorder)
            .is_some_and(|(number, recorder)| !recorder.is_kept(number))
    }

    /// A new connection takes the session over, with a receive maximum of its own; what was in flight will be sent
    /// again. Returns the previous connection's link, if there is one.
    pub(super) fn attach(&mut self, link: Arc<Link>, receive_max: u16) -> Option<Arc<Link>> {
        self.sent_here = 0;
        self.receive_max = receive_max;
        self.ends = None;
        if !self.inflight.is_empty() || !self.queue.is_empty() {
            link.ring();
        }
        self.link.replace(link)
    }

    /// The client has left. `QoS` 0 messages that were not sent leave with it.
    pub(super) fn detach(&mut self) {
        self.link = None;
        let queue = std::mem::take(&mut self.queue);
        for waiting in queue {
            if waiting.id == 0 {
                self.give_back(&waiting.delivery);
            } else {
                self.queue.push_back(waiting);
            }
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    pub(super) fn is_linked_to(&self, link: &Arc<Link>) -> bool {
        self.link.as_ref().is_some_and(|own| Arc::ptr_eq(own, link))
    }

    /// Takes a message for the client, if there is room.
    pub(super) fn offer(&mut self, delivery: Delivery, limits: &Limits) -> Offer {
        if self.link.is_none() && delivery.qos == QoS::AtMostOnce {
            return Offer::NotConnected;
        }
        if !self.has_room_for(&delivery, limits) {
            let qos = delivery.qos;
            let first = qos > QoS::AtMostOnce && !std::mem::replace(&mut self.full, true);
            return Offer::Dropped { qos, first };
        }
        self.charge(&delivery);
        let id = match delivery.qos {
            QoS::AtMostOnce => 0,
            QoS::AtLeastOnce | QoS::ExactlyOnce => self.free_id(),
        };
        let mut awaits = None;
        if id > 0
            && let Some((key, recorder)) = &self.journal
        {
            let number = recorder.record(Change::Queued(*key, id, delivery.clone()));
            awaits = number.filter(|_| delivery.qos == QoS::ExactlyOnce);
        }
        self.queue.push_back(Waiting {
            id,
            delivery,
            awaits,
            duplicate: false,
        });
        if let Some(link) = &self.link {
            link.ring();
        }
        Offer::Queued
    }

    fn has_room_for(&self, delivery: &Delivery, limits: &Limits) -> bool {
        let with = self.bytes + delivery.cost_bytes();
        // The message itself is counted already.
        let is_memory_full =
            self.memory.kept_bytes() + delivery.own_bytes() > limits.messages_bytes_max;
        let of_all = self.memory.of_sessions_bytes() + delivery.cost_bytes();
        with <= limits.session_bytes_max
            && (with <= limits.session_bytes_sure || !is_memory_full)
            && (self.link.is_some() || of_all <= limits.offline_bytes_max)
    }

    /// How large the message is that [`Session::next`] may hand out next; 0 if there is none.
    pub(super) fn next_bytes(&self) -> usize {
        let delivery = match self.inflight.get(self.sent_here) {
            Some(flight) => match &flight.stage {
                Stage::Sent(delivery) => Some(delivery),
                Stage::Released(_) => None,
            },
            None => self.queue.front().map(|waiting| &waiting.delivery),
        };
        delivery.map_or(0, |delivery| delivery.publication.len())
    }

    /// The next packet for the client, or `None` if it has to acknowledge first or nothing waits.
    pub(super) fn next(&mut self, limits: &Limits, now: Instant) -> Option<Outgoing> {
        let inflight_max = limits.inflight_max.min(self.receive_max.into());
        if let Some(flight) = self.inflight.get(self.sent_here) {
            let is_full = matches!(flight.stage, Stage::Sent(_)) && self.sent_here >= inflight_max;
            if is_full || self.is_held_up() {
                return None;
            }
            self.sent_here += 1;
            return Some(match &flight.stage {
                Stage::Sent(delivery) => Outgoing::Publish {
                    delivery: delivery.clone(),
                    id: flight.id,
                    duplicate: true,
                },
                Stage::Released(_) => Outgoing::PubRel(flight.id),
            });
        }
        let next = self.queue.front()?;
        if (next.id > 0 && self.inflight.len() >= inflight_max) || self.is_held_up() {
            return None;
        }
        let Waiting {
            id,
            delivery,
            duplicate,
            ..
        } = self.queue.pop_front()?;
        if self.queue.is_empty() {
            self.full = false;
            if self.queue.capacity() > CAPACITY_KEPT {
                self.queue = VecDeque::new();
            }
        }
        if delivery.publication.has_expired(now) {
            self.give_back(&delivery);
            if id > 0 {
                self.note(|key| Change::Settled(key, id));
            }
            return Some(Outgoing::Expired);
        }
        if id == 0 {
            self.give_back(&delivery);
        } else {
            let stage = Stage::Sent(delivery.clone());
            self.inflight.push_back(Flight { id, stage });
            self.sent_here += 1;
            self.note(|key| Change::Sent(key, id));
        }
        Some(Outgoing::Publish {
            delivery,
            id,
            duplicate,
        })
    }

    /// PUBACK from the client. Unknown identifiers are ignored, as everywhere.
    pub(super) fn puback(&mut self, id: u16) {
        self.finish(
            id,
            |stage| matches!(stage, Stage::Sent(delivery) if delivery.qos == QoS::AtLeastOnce),
        );
    }

    /// PUBREC from the client. PUBREL is to be sent whether or not the identifier is known, so that
    /// the client can finish. Returns what that waits for, if it is known.
    pub(super) fn pubrec(&mut self, id: u16) -> Option<Awaits> {
        let flight = self.inflight.iter().find(|flight| flight.id == id)?;
        let journal = match &flight.stage {
            Stage::Released(awaits) => *awaits,
            Stage::Sent(delivery) if delivery.qos == QoS::ExactlyOnce => self.release(id),
            Stage::Sent(_) => return None,
        };
        Some(Awaits {
            spool: None,
            journal,
        })
    }

    fn release(&mut self, id: u16) -> Option<Seq> {
        let awaits = self.note(|key| Change::Released(key, id));
        let flight = self.inflight.iter_mut().find(|flight| flight.id == id)?;
        let stage = std::mem::replace(&mut flight.stage, Stage::Released(awaits));
        if let Stage::Sent(delivery) = stage {
            self.give_back(&delivery);
        }
        awaits
    }

    /// PUBREC with a refusal from the client: that was the message's end.
    pub(super) fn refused(&mut self, id: u16) {
        self.finish(
            id,
            |stage| matches!(stage, Stage::Sent(delivery) if delivery.qos == QoS::ExactlyOnce),
        );
    }

    /// The message just handed out under this identifier cannot be sent; it is treated as if it had been
    /// (MQTT5-3.1.2-25).
    pub(super) fn give_up(&mut self, id: u16) {
        self.finish(id, |stage| matches!(stage, Stage::Sent(_)));
    }

    /// PUBCOMP from the client.
    pub(super) fn pubcomp(&mut self, id: u16) {
        self.finish(id, |stage| matches!(stage, Stage::Released(_)));
    }

    fn finish(&mut self, id: u16, is_due: impl Fn(&Stage) -> bool) {
        let position = self.inflight.iter().position(|flight| flight.id == id);
        let Some(position) = position else { return };
        if !self
            .inflight
            .get(position)
            .is_some_and(|flight| is_due(&flight.stage))
        {
            return;
        }
        if position < self.sent_here {
            self.sent_here -= 1;
        }
        if let Some(Flight {
            stage: Stage::Sent(delivery),
            ..
        }) = self.inflight.remove(position)
        {
            self.give_back(&delivery);
        }
        self.note(|key| Change::Settled(key, id));
    }

    /// The messages that the client has not acknowledged, sent or not.
    pub(super) fn deliveries(&self) -> impl Iterator<Item = &Delivery> {
        let inflight = self.inflight.iter();
        let sent = inflight.filter_map(|flight| match &flight.stage {
            Stage::Sent(delivery) => Some(delivery),
            Stage::Released(_) => None,
        });
        sent.chain(self.queue.iter().map(|waiting| &waiting.delivery))
    }

    /// What was not sent yet.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Delivery> {
        self.queue.iter().map(|waiting| &waiting.delivery)
    }

    /// Bytes kept, counted afresh. Panics if the session's books are wrong; for tests and fuzzing.
    pub(super) fn audit(&self) -> usize {
        let bytes = self.deliveries().map(Delivery::cost_bytes).sum::<usize>();
        assert_eq!(self.bytes, bytes, "the bytes of {}", self.client_id);
        assert!(self.sent_here <= self.inflight.len());
        let waiting = self.queue.iter().map(|waiting| waiting.id);
        let ids = waiting.chain(self.inflight.iter().map(|flight| flight.id));
        let mut ids: Vec<u16> = ids.filter(|id| *id > 0).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "an identifier has two messages");
        bytes
    }

    fn charge(&mut self, delivery: &Delivery) {
        let cost = delivery.cost_bytes();
        self.bytes += cost;
        self.memory.charge(cost);
        self.memory.keep(delivery.own_bytes());
    }

    fn give_back(&mut self, delivery: &Delivery) {
        let cost = delivery.cost_bytes();
        self.bytes -= cost;
        self.memory.give_back(cost);
        self.memory.forget(delivery.own_bytes());
    }

    /// The next identifier that is not in flight; there always is one, as few are in flight. Those that wait have the
    /// last ones that were given, and `Limits::session_bytes_max` has room for fewer than there are.
    fn free_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.inflight.iter().any(|flight| flight.id == self.last_id) {
                return self.last_id;
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for waiting in std::mem::take(&mut self.queue) {
            self.give_back(&waiting.delivery);
        }
        for flight in std::mem::take(&mut self.inflight) {
            if let Stage::Sent(delivery) = flight.stage {
                self.give_back(&delivery);
            }
        }
        self.memory.forget(self.taken.len() * TAKEN_BYTES);
    }
}

#[cfg(test)]
#[path = "tests/session.rs"]
mod tests;
