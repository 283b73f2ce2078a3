//! What goes out next, and what becomes of a message that the cloud did not accept.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{Link, UNSENT_BYTES_MAX};
use crate::cloud::held::{Trouble, concerns_all};
use crate::cloud::pacing::Verdict;
use crate::cloud::packet::{PUBLISH_OVERHEAD_BYTES, Publish, Rejection};
use crate::spool::{Delivery, Seq};

/// How far what is sent may be ahead of the oldest message that is held, in messages: the spool remembers each of
/// them, at about 40 bytes.
const AHEAD_OF_HELD_MAX: Seq = 100_000;

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
        let oldest_held = self.held.messages().map(|held| held.delivery.seq).min();
        let ahead = oldest_held.map_or(0, |seq| self.session.sent_through.saturating_sub(seq));
        self.pending.is_empty()
            && self.window.room() > 0
            && !self.held.is_full()
            && ahead < AHEAD_OF_HELD_MAX
    }

    /// Encodes what the window, the quotas and the socket have room for.
    pub(super) fn send_pending(&mut self) {
        let now = Instant::now();
        let mut due = 0;
        while let Some(outgoing) = self.held.take_due(now) {
            self.pending.insert(due, outgoing);
            due += 1;
        }
        while self.window.room() > 0
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

    /// Encodes `outgoing`, or gives it back if it has to wait.
    fn send_one(&mut self, outgoing: Outgoing, now: Instant) -> Result<(), Outgoing> {
        if outgoing.trouble.is_none() && self.held.is_full() {
            return Err(outgoing);
        }
        let delivery = outgoing.delivery.clone();
        let Some(message) = delivery.message() else {
            return Ok(());
        };
        let topic = self.session.routes.spooled_target(message.topic);
        let bytes = topic.len() + message.payload.len();
        let packet_bytes_max = self.packet_bytes_max.unwrap_or(u32::MAX);
        if u32::try_from(bytes + PUBLISH_OVERHEAD_BYTES).is_ok_and(|len| len > packet_bytes_max) {
            self.hold(outgoing, Rejection::PacketTooLarge, now);
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
            topic: &topic,
            payload: message.payload,
            packet_id: self.window.open(outgoing, bytes, now),
            dup: delivery.seq <= self.session.sent_through,
        }
        .write(self.version, &mut self.unsent);
        self.session.sent_through = self.session.sent_through.max(delivery.seq);
        self.last_sent = now;
        Ok(())
    }

    /// Keeps a message that the cloud did not accept for another try, in a new packet. The others flow on, unless
    /// it is the rate that was refused.
    pub(super) fn hold(&mut self, outgoing: Outgoing, rejection: Rejection, now: Instant) {
        let Outgoing { delivery, trouble } = outgoing;
        let (trouble, due) = Trouble::refused(trouble, now, fastrand::f64());
        if (self.session.refusal_told).is_none_or(|(told, _)| told != rejection) {
            self.session.refusal_told = Some((rejection, delivery.seq));
            let topic = (delivery.message()).map_or("", |message| message.topic);
            let topic = self.session.routes.spooled_target(topic);
            tracing::warn!(
                "the cloud does not accept a message to {topic:?}: {rejection}{}; it is kept and sent again",
                advice(rejection)
            );
        }
        if concerns_all(rejection) {
            self.paced_until = self.paced_until.max(Some(due));
        }
        let wait: Duration = due.saturating_duration_since(now);
        tracing::debug!(
            "message {} is sent again in {wait:.1?}: {rejection}",
            delivery.seq
        );
        let trouble = Some(trouble);
        self.held.hold(Outgoing { delivery, trouble }, due);
    }

    /// Notes that the cloud has accepted a message.
    pub(super) fn accepted(&mut self, outgoing: &Outgoing) {
        let seq = outgoing.delivery.seq;
        if (self.session.refusal_told).is_some_and(|(_, refused)| refused == seq) {
            self.session.refusal_told = None;
            tracing::info!("the cloud accepts what it had refused");
        }
        self.acknowledged.push(seq);
    }
}

/// What the owner can do about a refusal.
fn advice(rejection: Rejection) -> &'static str {
    match rejection {
        Rejection::NotAuthorized => " (does the policy allow iot:Publish to it?)",
        Rejection::QuotaExceeded => " (are CLOUD_PUBLISH_RATE and CLOUD_BYTE_RATE too high?)",
        _ => "",
    }
}
