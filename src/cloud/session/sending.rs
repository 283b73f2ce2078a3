//! What goes out next.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{Link, UNSENT_BYTES_MAX};
use crate::attributes::Attributes;
use crate::cloud::held::Trouble;
use crate::cloud::lifetime;
use crate::cloud::pacing::Verdict;
use crate::cloud::packet::{self, MqttVersion, PUBLISH_OVERHEAD_BYTES, Publish};
use crate::cloud::packing::Pack;
use crate::cloud::poison::{self, Why};
use crate::cloud::suspicion::Standing;
use crate::spool::ledger::{DropReason, Outcome};
use crate::spool::{Delivery, Message, Seq};

/// A message on its way.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) delivery: Delivery,
    /// Set once the cloud has refused it on this connection.
    pub(super) trouble: Option<Trouble>,
    /// The pack that it is the first message of.
    pub(super) pack: Option<Arc<Pack<Delivery>>>,
}

impl From<Delivery> for Outgoing {
    fn from(delivery: Delivery) -> Self {
        Outgoing {
            delivery,
            trouble: None,
            pack: None,
        }
    }
}

/// A message's time is over.
struct Expired;

/// What a PUBLISH says.
struct Content<'a> {
    topic: &'a str,
    payload: &'a [u8],
    attributes: Attributes<'a>,
    /// What is left of the time among them.
    expiry_s: Option<u32>,
}

impl Content<'_> {
    /// What counts against the quota of bytes.
    fn bytes(&self, version: MqttVersion) -> usize {
        let attributes = packet::attributes_bytes(version, self.attributes);
        self.topic.len() + attributes + self.payload.len()
    }
}

impl Outgoing {
    /// The numbers of all its messages, rising.
    pub(super) fn seqs(&self) -> impl Iterator<Item = Seq> {
        let pack = self.pack.as_deref();
        let others = pack
            .into_iter()
            .flat_map(|pack| pack.members.iter().skip(1));
        std::iter::once(self.delivery.seq).chain(others.map(|member| member.seq))
    }
}

impl<S: AsyncRead + AsyncWrite> Link<'_, S> {
    /// Whether more should be taken from the spool.
    pub(super) fn wants_more(&self, now: Instant) -> bool {
        self.pending.is_empty()
            && self.room(now) > 0
            && !self.returning
            && self.ahead_of_held() < self.session.ahead_of_held_max
    }

    /// Before this moment nothing is sent: the connection has to show first that it stands.
    pub(super) fn calm_until(&self) -> Instant {
        self.connected + self.session.suspicion.calm()
    }

    /// How many more messages may be sent now.
    fn room(&self, now: Instant) -> usize {
        if now < self.calm_until() {
            return 0;
        }
        let in_flight_max = self.session.suspicion.in_flight_max();
        let room = in_flight_max.saturating_sub(self.window.len());
        self.window.room().min(room)
    }

    /// Encodes what the window, the quotas and the socket have room for.
    pub(super) fn send_pending(&mut self, now: Instant) {
        self.relieve(now);
        if self.returning {
            return;
        }
        self.close_due_packs(now);
        let mut due = 0;
        while let Some(outgoing) = self.held.take_due(now) {
            self.pending.insert(due, outgoing);
            due += 1;
        }
        while self.room(now) > 0
            && self.unsent.len() < UNSENT_BYTES_MAX
            && self.paced_until.is_none_or(|moment| moment <= now)
            && let Some(outgoing) = self.pending.pop_front()
        {
            if let Err(back) = self.send_one(outgoing, now) {
                self.pending.push_front(back);
                break;
            }
        }
    }

    /// Encodes `outgoing`, deals with it otherwise, or gives it back if it has to wait.
    fn send_one(&mut self, outgoing: Outgoing, now: Instant) -> Result<(), Outgoing> {
        // So many are refused, and none accepted: it is not single messages that are. New ones are tried one at a time.
        let is_surplus = outgoing.trouble.is_none() && self.held.is_full();
        if is_surplus && !self.window.is_empty() && !self.session.denials.others_accepted(now) {
            return Err(outgoing);
        }
        if let Some(pack) = outgoing.pack.clone() {
            let content = Content {
                topic: &pack.topic,
                payload: &pack.payload,
                attributes: Attributes::default(),
                expiry_s: None,
            };
            return self.publish(outgoing, &content, now);
        }
        let delivery = outgoing.delivery.clone();
        let Some(message) = delivery.message() else {
            return Ok(());
        };
        let Ok(expiry_s) = self.expiry_s(delivery.seq, &message) else {
            self.drop_expired(&outgoing, now);
            return Ok(());
        };
        let routes = Arc::clone(&self.session.routes);
        let target = routes.target(message.topic);
        let topic = target.as_deref().unwrap_or_default();
        let content = Content {
            topic,
            payload: message.payload,
            attributes: Attributes::new(message.attributes),
            expiry_s,
        };
        let standing = self.session.suspicion.standing(delivery.seq);
        let why = match standing {
            Standing::Convicted => Some(Why::EndsConnections),
            _ if target.is_none() => Some(Why::NoRoute),
            _ => poison::forbidden(topic, message.payload.len())
                .or_else(|| self.exceeds_packet(&content).then_some(Why::PacketTooLarge)),
        };
        if let Some(why) = why {
            if self.session.post.is_full() && !self.session.post.is_failing() {
                return Err(outgoing);
            }
            self.convict(&outgoing, why, now);
            return Ok(());
        }
        if standing == Standing::Aside {
            self.set_aside(delivery.seq, now);
            return Ok(());
        }
        if is_surplus && self.session.denials.is_denied(topic) && self.held.has(topic) {
            self.session.suspicion.answered(delivery.seq);
            self.pass_over_denied(delivery.seq, now);
            return Ok(());
        }
        self.publish(outgoing, &content, now)
    }

    /// Encodes a message or a pack, or gives it back if the quotas make it wait.
    fn publish(
        &mut self,
        outgoing: Outgoing,
        content: &Content<'_>,
        now: Instant,
    ) -> Result<(), Outgoing> {
        let bytes = content.bytes(self.version);
        match self.session.pacing.verdict(bytes, now) {
            Verdict::Go => {}
            Verdict::NotBefore(moment) => {
                self.paced_until = Some(moment);
                return Err(outgoing);
            }
            Verdict::AfterAcknowledgement => return Err(outgoing),
        }
        self.session.pacing.sent(bytes);
        self.session.drain.sent(outgoing.seqs().count(), bytes);
        // Messages that were sent before may be in a pack, but it is another packet.
        let dup = outgoing.pack.is_none() && outgoing.delivery.seq <= self.session.sent_through;
        let last = outgoing.seqs().last().unwrap_or_default();
        Publish {
            topic: content.topic,
            payload: content.payload,
            attributes: content.attributes,
            expiry_s: content.expiry_s,
            packet_id: self.window.open(outgoing, bytes, now),
            dup,
        }
        .write(self.version, &mut self.unsent);
        self.session.sent_through = self.session.sent_through.max(last);
        self.last_sent = now;
        Ok(())
    }

    /// What is left of the time that a message may wait, if it has such a time; an error if it has expired.
    fn expiry_s(&self, seq: Seq, message: &Message<'_>) -> Result<Option<u32>, Expired> {
        let Some(expiry_s) = Attributes::new(message.attributes).expiry_s() else {
            return Ok(None);
        };
        let waited = self.session.store.waited(seq, message.received);
        lifetime::left_s(expiry_s, waited).map(Some).ok_or(Expired)
    }

    /// Gives up a message by its publisher's own rule. One that was held made others be passed over: it is their turn.
    fn drop_expired(&mut self, outgoing: &Outgoing, now: Instant) {
        let seq = outgoing.delivery.seq;
        let expired = Outcome::Dropped(DropReason::Expired);
        self.session.store.settle(&[seq], expired);
        self.session.suspicion.answered(seq);
        self.session.tell_of_backlog();
        if outgoing.trouble.is_some() {
            self.return_soon(now);
        }
    }

    /// Whether a message is larger than the cloud said it takes.
    fn exceeds_packet(&self, content: &Content<'_>) -> bool {
        let packet_bytes_max = self.packet_bytes_max.unwrap_or(u32::MAX);
        let attributes = packet::attributes_bytes(self.version, content.attributes);
        // The overhead has the one byte that says that there are none.
        let bytes = content.bytes(self.version) + packet::length_bytes(attributes) - 1;
        u32::try_from(bytes + PUBLISH_OVERHEAD_BYTES).is_ok_and(|len| len > packet_bytes_max)
    }
}
