//! What goes out next.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::refused::AHEAD_OF_HELD_MAX;
use super::{Link, UNSENT_BYTES_MAX};
use crate::cloud::held::Trouble;
use crate::cloud::pacing::Verdict;
use crate::cloud::packet::{PUBLISH_OVERHEAD_BYTES, Publish};
use crate::cloud::poison::{self, Why};
use crate::cloud::suspicion::Standing;
use crate::spool::Delivery;

/// A message on its way.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) delivery: Delivery,
    /// Set once the cloud has refused it on this connection.
    pub(super) trouble: Option<Trouble>,
}

impl From<Delivery> for Outgoing {
    fn from(delivery: Delivery) -> Self {
        Outgoing {
            delivery,
            trouble: None,
        }
    }
}

impl<S: AsyncRead + AsyncWrite> Link<'_, S> {
    /// Whether more should be taken from the spool.
    pub(super) fn wants_more(&self) -> bool {
        self.pending.is_empty()
            && self.room() > 0
            && !self.returning
            && !self.held.is_full()
            && self.ahead_of_held() < AHEAD_OF_HELD_MAX
    }

    /// How many more messages may be sent now.
    fn room(&self) -> usize {
        let in_flight_max = self.session.suspicion.in_flight_max();
        let room = in_flight_max.saturating_sub(self.window.len());
        self.window.room().min(room)
    }

    /// Encodes what the window, the quotas and the socket have room for.
    pub(super) fn send_pending(&mut self) {
        let now = Instant::now();
        self.relieve(now);
        if self.returning {
            return;
        }
        let mut due = 0;
        for held in [&mut self.denied, &mut self.held] {
            while let Some(outgoing) = held.take_due(now) {
                self.pending.insert(due, outgoing);
                due += 1;
            }
        }
        while self.room() > 0
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
        if outgoing.trouble.is_none() && self.held.is_full() {
            return Err(outgoing);
        }
        let delivery = outgoing.delivery.clone();
        let Some(message) = delivery.message() else {
            return Ok(());
        };
        let target = self.session.routes.target(message.topic);
        let topic = target.as_deref().unwrap_or_default();
        let bytes = topic.len() + message.payload.len();
        let standing = self.session.suspicion.standing(delivery.seq);
        let why = match standing {
            Standing::Convicted => Some(Why::EndsConnections),
            _ if target.is_none() => Some(Why::NoRoute),
            _ => poison::forbidden(topic, message.payload.len())
                .or_else(|| self.exceeds_packet(bytes).then_some(Why::PacketTooLarge)),
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
        let is_new = outgoing.trouble.is_none();
        if is_new && self.denied.is_full() && self.session.denials.is_denied(topic) {
            self.session.suspicion.answered(delivery.seq);
            self.pass_over(delivery.seq);
            return Ok(());
        }
        match self.session.pacing.verdict(bytes, now) {
            Verdict::Go => {}
            Verdict::NotBefore(moment) => {
                self.paced_until = Some(moment);
                return Err(outgoing);
            }
            Verdict::AfterAcknowledgement => return Err(outgoing),
        }
        self.session.pacing.sent(bytes);
        self.session.drain.sent(bytes);
        Publish {
            topic,
            payload: message.payload,
            packet_id: self.window.open(outgoing, bytes, now),
            dup: delivery.seq <= self.session.sent_through,
        }
        .write(self.version, &mut self.unsent);
        self.session.sent_through = self.session.sent_through.max(delivery.seq);
        self.last_sent = now;
        Ok(())
    }

    /// Whether a message with so many bytes of topic and payload is larger than the cloud said it takes.
    fn exceeds_packet(&self, bytes: usize) -> bool {
        let packet_bytes_max = self.packet_bytes_max.unwrap_or(u32::MAX);
        u32::try_from(bytes + PUBLISH_OVERHEAD_BYTES).is_ok_and(|len| len > packet_bytes_max)
    }
}
