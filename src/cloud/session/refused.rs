//! What becomes of a message that the cloud did not accept: it is held, left for later, or convicted.
//!
//! * Held: sent again, each with its own back-off, while the others flow on. If it is the rate that was refused, all
//!   wait, and it goes back to its place in the line.
//! * Left for later (*passed over*): it stays in the spool and is forgotten here. For when so many are held that more
//!   would tell nothing new; of each topic one is. Once one is accepted that was refused, or convicted, the connection
//!   *returns* to the oldest unsettled message.
//! * Convicted: it becomes a dead letter.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::post::Written;
use super::sending::Outgoing;
use super::{Link, LostReason, Session};
use crate::clock;
use crate::cloud::held::{Trouble, concerns_all};
use crate::cloud::packet::Rejection;
use crate::cloud::poison::{self, Facts, Why};
use crate::cloud::window::IN_FLIGHT_MAX;
use crate::dead_letters::Letter;
use crate::spool::ledger::Outcome;
use crate::spool::{Delivery, Seq};

/// How far what is taken from the spool may be ahead of the oldest message that is held or passed over, in messages:
/// the spool remembers each gap that is left between those that are settled. Then the oldest that are held have one more
/// try before they are convicted, if others are accepted; if none are, or the dead letters cannot be written, that is all
/// that is looked at.
pub(super) const AHEAD_OF_HELD_MAX: Seq = 100_000;
/// A connection returns no sooner than this after it did.
const RETURN_INTERVAL: Duration = Duration::from_secs(5);
/// A message that is set aside is tried again after this, if the connection lasts so long: then there may be nothing
/// else to try.
const ASIDE_FOR: Duration = Duration::from_mins(1);

impl<S: AsyncRead + AsyncWrite> Link<'_, S> {
    /// Deals with a message that the cloud did not accept. The others flow on, unless it is the rate that was
    /// refused.
    pub(super) fn refused(&mut self, outgoing: Outgoing, rejection: Rejection, now: Instant) {
        let seq = outgoing.delivery.seq;
        self.session.suspicion.answered(seq);
        let topic = self.topic(&outgoing);
        if concerns_all(rejection) {
            self.tell_refusal(seq, &topic, rejection);
            self.put_back(outgoing, rejection, now);
            return;
        }
        if let Some(pack) = &outgoing.pack {
            self.unpack(pack);
            return;
        }
        let denied = rejection == Rejection::NotAuthorized;
        if denied {
            self.session.denials.denied(&topic, now);
        }
        let denials = &self.session.denials;
        // A policy has its time. Who is refused without a reason has all the time, unless there was no room for others.
        let crowded = self.passed.is_some() || self.returned.is_some();
        let is_timed = denied || crowded || denials.is_condemned(&topic);
        let too_long = is_timed
            && denials.convicts(&topic, outgoing.refused_for(now).unwrap_or_default(), now);
        if let Some(why) = poison::judge(rejection, too_long) {
            self.convict(&outgoing, why, now);
            if too_long || outgoing.trouble.is_some() {
                self.return_soon(now);
            }
            return;
        }
        self.tell_refusal(seq, &topic, rejection);
        while self.held.is_full() {
            let other = self.held.make_room_for(&topic);
            let left = other.as_ref().map_or(seq, |other| other.delivery.seq);
            if denied {
                self.pass_over_denied(left, now);
            } else {
                self.pass_over(left);
            }
            let Some(other) = other else {
                return;
            };
            self.session.remember(other);
        }
        self.hold(outgoing, topic, rejection, now);
    }

    /// The cloud topic of a message or a pack.
    fn topic(&self, outgoing: &Outgoing) -> String {
        if let Some(pack) = &outgoing.pack {
            return pack.topic.clone();
        }
        let message = outgoing.delivery.message();
        let target = message.and_then(|message| self.session.routes.target(message.topic));
        target.unwrap_or_default().into_owned()
    }

    /// Tells of a refusal, if it is not of the kind that was told last.
    fn tell_refusal(&mut self, seq: Seq, topic: &str, rejection: Rejection) {
        if (self.session.refusal_told).is_none_or(|(told, _)| told != rejection) {
            self.session.refusal_told = Some((rejection, seq));
            tracing::warn!(
                "the cloud does not accept a message to {topic:?}: {rejection}{}; it is kept and sent again",
                advice(rejection)
            );
        }
    }

    /// Lets everything wait, and puts a message that it is not the fault of back to its place in the line.
    fn put_back(&mut self, outgoing: Outgoing, rejection: Rejection, now: Instant) {
        let (outgoing, due) = outgoing.troubled(rejection, now);
        self.paced_until = self.paced_until.max(Some(due));
        let seq = outgoing.delivery.seq;
        // The line is not sorted: a pack stands where it was closed, and its number is that of its first message.
        let later = self.pending.iter().position(|next| next.delivery.seq > seq);
        let index = later.unwrap_or(self.pending.len());
        self.pending.insert(index, outgoing);
    }

    /// Keeps a message for another try, in a new packet.
    fn hold(&mut self, outgoing: Outgoing, topic: String, rejection: Rejection, now: Instant) {
        let (outgoing, due) = outgoing.troubled(rejection, now);
        let wait: Duration = due.saturating_duration_since(now);
        tracing::debug!(
            "message {} is sent again in {wait:.1?}: {rejection}",
            outgoing.delivery.seq
        );
        let kept = Outgoing {
            delivery: outgoing.delivery.detached(),
            ..outgoing
        };
        let bytes = kept.delivery.kept_bytes();
        self.held.hold(topic, (kept, bytes), due);
    }

    /// Notes that the cloud has accepted a message.
    pub(super) fn accepted(&mut self, outgoing: &Outgoing, now: Instant) {
        for seq in outgoing.seqs() {
            if (self.session.refusal_told).is_some_and(|(_, refused)| refused == seq) {
                self.session.refusal_told = None;
                tracing::info!("the cloud accepts what it had refused");
            }
            self.session.suspicion.answered(seq);
            self.acknowledged.push(seq);
        }
        if let Some(pack) = &outgoing.pack
            && self.session.savings.note(pack, now)
        {
            self.session.savings.tell();
        }
        self.session.outage_told = false;
        let routes = &self.session.routes;
        let topic = || {
            let message = outgoing.delivery.message();
            let target = message.and_then(|message| routes.target(message.topic));
            target.unwrap_or_default()
        };
        let was_denied = self.session.denials.accepted(topic, now);
        let was_refused = outgoing.refused_for(now).is_some();
        if self.session.suspicion.try_again() || was_denied || was_refused {
            self.return_soon(now);
        }
    }

    /// Sends a message to the dead letters. What they cannot take now stays in the spool for later.
    pub(super) fn convict(&mut self, outgoing: &Outgoing, why: Why, now: Instant) {
        let seq = outgoing.delivery.seq;
        let Some(message) = outgoing.delivery.message() else {
            return;
        };
        if self.session.post.is_full() && self.session.post.is_failing() {
            self.pass_over(seq);
            return;
        }
        let topic = self
            .session
            .routes
            .target(message.topic)
            .unwrap_or_default();
        let denied_for = self.session.denials.denied_for(&topic, now);
        let reason = why.reason(&Facts {
            cloud_topic: &topic,
            payload_bytes: message.payload.len(),
            refused_for: outgoing
                .refused_for(now)
                .unwrap_or_default()
                .max(denied_for),
        });
        let letter = Letter::new(seq, &message, &topic, reason, clock::now());
        self.session.post.add(letter);
    }

    /// Takes messages that come from the spool. If none waits here, everything before them has left it.
    pub(super) fn taken(&mut self, deliveries: Vec<Delivery>) {
        if let (Some(first), Some(last)) = (deliveries.first(), deliveries.last()) {
            self.taken_through = self.taken_through.max(last.seq);
            if self.window.is_empty() && self.pending.is_empty() && self.ahead_of_held() == 0 {
                self.session.suspicion.forget_before(first.seq);
                self.session.troubles.forget_before(first.seq);
            }
        }
        let now = Instant::now();
        for delivery in deliveries {
            self.enqueue(delivery, now);
        }
    }

    /// Takes note of the end of a write to the dead letters.
    pub(super) fn posted(&mut self, written: Written) {
        let now = Instant::now();
        let was_failing = self.session.post.is_failing();
        let letters = self.session.post.note(written, now, fastrand::f64());
        if letters.is_empty() {
            return;
        }
        let seqs: Vec<Seq> = letters.iter().map(|letter| letter.seq).collect();
        self.session.store.settle(&seqs, Outcome::DeadLettered);
        for seq in seqs {
            self.session.suspicion.answered(seq);
        }
        if was_failing {
            self.return_soon(now);
        }
    }

    /// Notes who can have ended the connection. Says whether a message is convicted of it.
    pub(super) fn suspect(&mut self, reason: &LostReason) -> bool {
        if self.window.is_empty() {
            self.session.suspicion.ended_idle();
        }
        if !reason.accuses() {
            return false;
        }
        // One at least: each end brings the pack that is to blame nearer to its turn, however much flows beside it.
        let apart = if self.progress { 1 } else { IN_FLIGHT_MAX };
        let packs = self.window.messages().filter_map(|one| one.pack.as_ref());
        (packs.take(apart)).for_each(|pack| self.session.alone_through(pack));
        let first = self.window.messages().next();
        if first.is_some_and(|first| first.pack.is_some()) {
            return false;
        }
        let alone = self.window.messages().filter(|one| one.pack.is_none());
        let in_flight = alone.map(|message| message.delivery.seq);
        let others_accepted = self.session.denials.others_accepted(Instant::now());
        let suspicion = &mut self.session.suspicion;
        let before = suspicion.in_flight_max();
        let convicted = suspicion.connection_ended(in_flight, self.progress, others_accepted);
        if suspicion.in_flight_max() < before {
            tracing::info!(
                "connections end and nothing is acknowledged: messages are sent one at a time, to find the one \
                 that the cloud does not take"
            );
        }
        convicted.is_some()
    }

    /// Waits for the write to the dead letters that is under way, and forgets what else is on its way there: the
    /// next connection gets it again.
    pub(super) async fn finish_posting(&mut self) {
        if self.session.post.is_writing() {
            let written = self.session.post.written().await;
            self.posted(written);
        }
        self.session.post.clear();
    }

    /// Forgets what waits here and in line, for it comes from the spool again, but not how long it has been refused.
    pub(super) fn forget_held(&mut self) {
        let waiting = self.held.drain().chain(self.pending.drain(..));
        let in_flight = self.window.messages().cloned();
        for outgoing in waiting.chain(in_flight) {
            self.session.remember(outgoing);
        }
    }

    /// Leaves a message in the spool for later.
    pub(super) fn pass_over(&mut self, seq: Seq) {
        self.passed = Some(self.passed.map_or(seq, |passed| passed.min(seq)));
    }

    /// How far the connection is ahead of the oldest message that waits here, in whatever way.
    pub(super) fn ahead_of_held(&self) -> Seq {
        let held = self.held.messages().map(|held| held.delivery.seq);
        let unwritten = self.session.post.oldest();
        let packing = self.packer.firsts().map(|first| first.seq);
        let oldest = held
            .chain(self.passed)
            .chain(unwritten)
            .chain(packing)
            .min();
        oldest.map_or(0, |seq| self.taken_through.saturating_sub(seq))
    }

    /// When the connection can get no further ahead of what is held: cuts the time of the messages short that it is so
    /// far ahead of.
    pub(super) fn relieve(&mut self, now: Instant) {
        if self.returning || self.ahead_of_held() < self.session.ahead_of_held_max {
            return;
        }
        let through = self
            .taken_through
            .saturating_sub(self.session.ahead_of_held_max);
        let unwritten = self.session.post.oldest();
        if unwritten.is_some_and(|seq| seq <= through) {
            self.session.post.tell_that_others_wait();
        }
        if !self.session.denials.others_accepted(now) {
            return;
        }
        let topics = (self.held).hurry(now, |held| held.delivery.seq <= through);
        for topic in topics {
            self.session.denials.condemn(topic, now);
        }
        if self.passed.is_some_and(|passed| passed <= through) {
            self.return_soon(now);
        }
    }

    /// Leaves a message of a denied topic in the spool, and says once if the cloud accepts nothing at all.
    pub(super) fn pass_over_denied(&mut self, seq: Seq, now: Instant) {
        self.pass_over(seq);
        let outage = !self.session.denials.others_accepted(now);
        if outage && !std::mem::replace(&mut self.session.outage_told, true) {
            tracing::warn!(
                "the cloud denies everything: is a policy that allows iot:Publish attached to the certificate? \
                 All messages are kept until it accepts some"
            );
        }
    }

    /// Leaves a message in the spool that may be the one that ends connections.
    pub(super) fn set_aside(&mut self, seq: Seq, now: Instant) {
        self.pass_over(seq);
        self.return_by(now + ASIDE_FOR);
    }

    /// Goes back to what was passed over, if anything was, when it is time.
    pub(super) fn return_soon(&mut self, now: Instant) {
        let next = self.returned.map(|returned| returned + RETURN_INTERVAL);
        self.return_by(next.map_or(now, |next| next.max(now)));
    }

    fn return_by(&mut self, at: Instant) {
        if self.passed.is_some() && !self.returning {
            self.return_at = Some(self.return_at.map_or(at, |earlier| earlier.min(at)));
        }
    }

    /// Goes back to the oldest unsettled message, if that is due and nothing is on its way. Says whether it did.
    pub(super) fn go_back(&mut self, now: Instant) -> bool {
        if self.return_at.is_some_and(|at| at <= now) {
            self.return_at = None;
            self.returning = true;
        }
        if !self.returning || !self.window.is_empty() || !self.session.post.is_idle() {
            return false;
        }
        self.session.post.clear();
        self.forget_held();
        self.packer.clear();
        self.passed = None;
        self.returning = false;
        self.returned = Some(now);
        self.session.suspicion.try_again();
        self.session.store.rewind();
        true
    }
}

impl Session {
    /// Remembers how long a message has been refused that is to be forgotten otherwise.
    fn remember(&mut self, outgoing: Outgoing) {
        if let (Some(trouble), None) = (outgoing.trouble, outgoing.pack) {
            self.troubles.remember(outgoing.delivery.seq, trouble);
        }
    }
}

impl Outgoing {
    /// Counts a refusal, and says when to try again.
    fn troubled(self, rejection: Rejection, now: Instant) -> (Self, Instant) {
        let (trouble, due) = Trouble::refused(self.trouble, rejection, now, fastrand::f64());
        let trouble = Some(trouble);
        (Outgoing { trouble, ..self }, due)
    }

    /// How long it has been refused, if it has.
    fn refused_for(&self, now: Instant) -> Option<Duration> {
        self.trouble.as_ref()?.refused_for(now)
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
