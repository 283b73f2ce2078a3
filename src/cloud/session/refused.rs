//! What becomes of a message that the cloud did not accept: it is held, left for later, or convicted.
//!
//! * Held: sent again, each with its own back-off, while the others flow on.
//! * Left for later (*passed over*): it stays in the spool and is forgotten here. For when so many of a denied topic
//!   are held that more would tell nothing new. Once the topic is accepted again, or its messages are convicted, the
//!   connection *returns* to the oldest unsettled message.
//! * Convicted: it becomes a dead letter.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinError;
use tokio::time::Instant;

use super::Link;
use super::post::Written;
use super::sending::Outgoing;
use crate::clock;
use crate::cloud::held::{Trouble, concerns_all};
use crate::cloud::packet::Rejection;
use crate::cloud::poison::{self, Facts, Why};
use crate::dead_letters::Letter;
use crate::spool::ledger::Outcome;
use crate::spool::{Delivery, Seq};

/// How far what is taken from the spool may be ahead of the oldest message that is held or passed over, in messages:
/// the spool remembers each of them, at about 40 bytes. Then what is held is convicted before its time, if others are
/// accepted; if none are, that is all that is looked at.
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
        let Some(message) = outgoing.delivery.message() else {
            return;
        };
        let topic = self
            .session
            .routes
            .target(message.topic)
            .unwrap_or_default();
        let denied = rejection == Rejection::NotAuthorized;
        if denied {
            self.session.denials.denied(&topic, now);
        }
        let refused_for = outgoing.refused_for(now);
        let denied_too_long = denied && self.session.denials.convicts(&topic, refused_for, now);
        if let Some(why) = poison::judge(rejection, denied_too_long) {
            self.convict(&outgoing, why, now);
            if denied {
                self.return_soon(now);
            }
            return;
        }
        if (self.session.refusal_told).is_none_or(|(told, _)| told != rejection) {
            self.session.refusal_told = Some((rejection, seq));
            tracing::warn!(
                "the cloud does not accept a message to {topic:?}: {rejection}{}; it is kept and sent again",
                advice(rejection)
            );
        }
        if denied && self.denied.is_full() {
            self.pass_over(seq);
            return;
        }
        self.hold(outgoing, rejection, now);
    }

    /// Keeps a message for another try, in a new packet.
    fn hold(&mut self, outgoing: Outgoing, rejection: Rejection, now: Instant) {
        let Outgoing { delivery, trouble } = outgoing;
        let (trouble, due) = Trouble::refused(trouble, rejection, now, fastrand::f64());
        if concerns_all(rejection) {
            self.paced_until = self.paced_until.max(Some(due));
        }
        let wait: Duration = due.saturating_duration_since(now);
        tracing::debug!(
            "message {} is sent again in {wait:.1?}: {rejection}",
            delivery.seq
        );
        let held = if rejection == Rejection::NotAuthorized {
            &mut self.denied
        } else {
            &mut self.held
        };
        let trouble = Some(trouble);
        held.hold(Outgoing { delivery, trouble }, due);
    }

    /// Notes that the cloud has accepted a message.
    pub(super) fn accepted(&mut self, outgoing: &Outgoing, now: Instant) {
        let seq = outgoing.delivery.seq;
        if (self.session.refusal_told).is_some_and(|(_, refused)| refused == seq) {
            self.session.refusal_told = None;
            tracing::info!("the cloud accepts what it had refused");
        }
        self.session.suspicion.answered(seq);
        let routes = &self.session.routes;
        let topic = || {
            let message = outgoing.delivery.message();
            let target = message.and_then(|message| routes.target(message.topic));
            target.unwrap_or_default()
        };
        let was_denied = self.session.denials.accepted(topic, now);
        if self.session.suspicion.try_again() || was_denied {
            self.return_soon(now);
        }
        self.acknowledged.push(seq);
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
            refused_for: outgoing.refused_for(now).max(denied_for),
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
            }
        }
        self.pending
            .extend(deliveries.into_iter().map(Outgoing::from));
    }

    /// Takes note of the end of a write to the dead letters.
    pub(super) fn posted(&mut self, written: Result<Written, JoinError>) {
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

    /// Leaves a message in the spool for later.
    pub(super) fn pass_over(&mut self, seq: Seq) {
        self.passed = Some(self.passed.map_or(seq, |passed| passed.min(seq)));
    }

    /// How far the connection is ahead of the oldest message that waits here, in whatever way.
    pub(super) fn ahead_of_held(&self) -> Seq {
        let held = (self.held.messages()).chain(self.denied.messages());
        let held = held.map(|held| held.delivery.seq);
        let unwritten = self.session.post.oldest();
        let oldest = held.chain(self.passed).chain(unwritten).min();
        oldest.map_or(0, |seq| self.taken_through.saturating_sub(seq))
    }

    /// Convicts what is held before its time when the connection can get no further ahead of it.
    pub(super) fn relieve(&mut self, now: Instant) {
        if self.ahead_of_held() < AHEAD_OF_HELD_MAX || !self.session.denials.others_accepted(now) {
            return;
        }
        if let Some(oldest) = self.held.take_first()
            && let Some(trouble) = &oldest.trouble
        {
            self.convict(&oldest, Why::Refused(trouble.rejection()), now);
        }
        self.session.denials.condemn_all();
        self.denied.make_due(now);
        self.return_soon(now);
    }

    /// Leaves a message in the spool that may be the one that ends connections.
    pub(super) fn set_aside(&mut self, seq: Seq, now: Instant) {
        self.pass_over(seq);
        self.return_by(now + ASIDE_FOR);
    }

    /// Goes back to what was passed over, if anything was, when it is time.
    fn return_soon(&mut self, now: Instant) {
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
        self.held.clear();
        self.denied.clear();
        self.pending.clear();
        self.passed = None;
        self.returning = false;
        self.returned = Some(now);
        self.session.suspicion.try_again();
        self.session.store.rewind();
        true
    }
}

impl Outgoing {
    /// How long it has been refused on this connection.
    fn refused_for(&self, now: Instant) -> Duration {
        let trouble = self.trouble.as_ref();
        trouble.map_or(Duration::ZERO, |trouble| trouble.refused_for(now))
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
