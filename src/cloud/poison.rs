//! Which messages can never be accepted, and which one keeps ending the connection. Pure.
//!
//! Three ways to a verdict, from the surest:
//! 1. The cloud's rules forbid it: known before it is sent ([`forbidden`]).
//! 2. The cloud refuses it and says why ([`judge`], MQTT 5).
//! 3. The connection ends, without a word, whenever it is sent ([`Suspicion`]; MQTT 3.1.1's only way to refuse).
//!
//! A network that drops must not convict anybody: for the third way a message has to be in flight *alone*, several
//! times in a row. What is done with the convicted is not decided here.

use std::collections::BTreeSet;
use std::time::Duration;

use super::packet::Rejection;
use super::window::IN_FLIGHT_MAX;
use crate::routes::PAYLOAD_BYTES_MAX;
use crate::spool::Seq;
use crate::topic::{self, Fault};

/// A message that is not authorised is tried again for this long: a policy takes minutes to spread.
pub const DENIED_FOR: Duration = Duration::from_mins(10);
/// This many ends of a connection in a row, with one message alone in flight, convict it.
pub const PROOFS: u32 = 3;

/// Why a message cannot be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The payload is larger than the cloud takes.
    TooLarge,
    /// The cloud topic is longer than the cloud takes.
    TopicTooLong,
    /// The cloud topic has more slashes than the cloud takes.
    TooManyLevels,
    /// The policy did not allow it for [`DENIED_FOR`].
    Denied,
    /// Its topic is none, or one that AWS reserves.
    InvalidTopicName,
    /// The cloud refused it for good, for another reason.
    Refused,
    /// The connection ended [`PROOFS`] times when it was sent alone.
    EndsConnections,
}

/// Why the cloud's rules forbid a message, if they do: known without sending it.
pub fn forbidden(cloud_topic: &str, payload_bytes: usize) -> Option<Why> {
    if payload_bytes > PAYLOAD_BYTES_MAX {
        return Some(Why::TooLarge);
    }
    match topic::check_aws(cloud_topic) {
        Ok(()) => None,
        Err(Fault::TooLong | Fault::TooLongForAws) => Some(Why::TopicTooLong),
        Err(Fault::TooManySlashes) => Some(Why::TooManyLevels),
        Err(_) => Some(Why::InvalidTopicName),
    }
}

/// What to make of a refusal of a message that has been refused for `refused_for`: `None` is to try it again.
pub fn judge(rejection: Rejection, refused_for: Duration) -> Option<Why> {
    match rejection {
        Rejection::TopicNameInvalid => Some(Why::InvalidTopicName),
        Rejection::PacketTooLarge => Some(Why::TooLarge),
        Rejection::PayloadFormatInvalid => Some(Why::Refused),
        Rejection::NotAuthorized => (refused_for >= DENIED_FOR).then_some(Why::Denied),
        Rejection::QuotaExceeded
        | Rejection::Unspecified
        | Rejection::ImplementationSpecific
        | Rejection::PacketIdentifierInUse => None,
    }
}

/// Finds the message that ends connections. It outlives them.
///
/// A connection that ends without a word and without an acknowledgement makes all in flight suspects. From then on
/// one message is in flight at a time, until each suspect is accepted or one is convicted.
#[derive(Debug, Default)]
pub struct Suspicion {
    suspects: BTreeSet<Seq>,
    /// The message that was alone in flight when the last connection ended, and how often in a row.
    alone: Option<(Seq, u32)>,
}

impl Suspicion {
    /// How many messages may be in flight.
    pub fn in_flight_max(&self) -> usize {
        if self.suspects.is_empty() {
            IN_FLIGHT_MAX
        } else {
            1
        }
    }

    /// Notes that the cloud has answered for `seq`, whatever the answer: it does not end connections.
    pub fn answered(&mut self, seq: Seq) {
        self.suspects.remove(&seq);
        if self.alone.is_some_and(|(alone, _)| alone == seq) {
            self.alone = None;
        }
    }

    /// Notes that a connection ended without a word while `in_flight` were unacknowledged; `progress` says whether
    /// it had brought an acknowledgement. Returns the message that is convicted by it, which is no suspect any more.
    pub fn connection_ended(
        &mut self,
        in_flight: impl IntoIterator<Item = Seq>,
        progress: bool,
    ) -> Option<Seq> {
        let in_flight: BTreeSet<Seq> = in_flight.into_iter().collect();
        let seq = *in_flight.first()?;
        if self.suspects.is_empty() {
            if !progress {
                self.suspects = in_flight;
            }
            return None;
        }
        if in_flight.len() > 1 {
            return None;
        }
        let proofs = match self.alone {
            Some((alone, proofs)) if alone == seq => proofs + 1,
            _ => 1,
        };
        self.alone = Some((seq, proofs));
        if proofs < PROOFS {
            return None;
        }
        self.answered(seq);
        Some(seq)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_clouds_rules_are_known_before_sending() {
        assert_eq!(forbidden("a/b", PAYLOAD_BYTES_MAX), None);
        assert_eq!(forbidden("a/b", PAYLOAD_BYTES_MAX + 1), Some(Why::TooLarge));
        let longest = "ä".repeat(topic::AWS_BYTES_MAX / 2);
        assert_eq!(forbidden(&longest, 0), None);
        assert_eq!(
            forbidden(&format!("{longest}x"), 0),
            Some(Why::TopicTooLong)
        );
        let deepest = "/".repeat(topic::AWS_SLASHES_MAX);
        assert_eq!(forbidden(&deepest, 0), None);
        assert_eq!(
            forbidden(&format!("{deepest}/"), 0),
            Some(Why::TooManyLevels)
        );
        let ingest = |topic: &str| forbidden(&format!("$aws/rules/rule/{topic}"), 0);
        assert_eq!(ingest(&longest), None);
        assert_eq!(ingest(&deepest), None);
        assert_eq!(ingest(&format!("{deepest}/")), Some(Why::TooManyLevels));
    }

    #[test]
    fn a_denied_message_is_given_the_time_a_policy_needs_and_a_quota_is_never_held_against_one() {
        let soon = DENIED_FOR.checked_sub(Duration::from_secs(1)).unwrap();
        assert_eq!(judge(Rejection::NotAuthorized, soon), None);
        assert_eq!(
            judge(Rejection::NotAuthorized, DENIED_FOR),
            Some(Why::Denied)
        );
        assert_eq!(judge(Rejection::QuotaExceeded, DENIED_FOR * 1_000), None);
        assert_eq!(
            judge(Rejection::TopicNameInvalid, Duration::ZERO),
            Some(Why::InvalidTopicName)
        );
        assert_eq!(
            judge(Rejection::PayloadFormatInvalid, Duration::ZERO),
            Some(Why::Refused)
        );
    }

    #[test]
    fn a_connection_that_brought_something_accuses_nobody() {
        let mut suspicion = Suspicion::default();
        for _ in 0..10 {
            assert_eq!(suspicion.connection_ended(1..50, true), None);
            assert_eq!(suspicion.in_flight_max(), IN_FLIGHT_MAX);
        }
        assert_eq!(suspicion.connection_ended([], false), None);
        assert_eq!(suspicion.in_flight_max(), IN_FLIGHT_MAX);
    }

    #[test]
    fn ends_with_different_messages_alone_in_flight_convict_none() {
        let mut suspicion = Suspicion::default();
        suspicion.connection_ended(1..=9, false);
        for seq in [1, 1, 2, 2, 3, 3] {
            assert_eq!(suspicion.connection_ended([seq], false), None, "{seq}");
        }
        suspicion.answered(3);
        assert_eq!(suspicion.connection_ended([3], false), None);
    }

    /// Sends `0..count` over connections that end whenever one of `poisons` is sent, as the cloud of MQTT 3.1.1
    /// does. Returns what was accepted, what was convicted and how many connections it took.
    fn drain(count: Seq, poisons: &BTreeSet<Seq>) -> (Vec<Seq>, Vec<Seq>, u32) {
        let mut suspicion = Suspicion::default();
        let mut left: Vec<Seq> = (0..count).collect();
        let (mut accepted, mut convicted, mut connections) = (Vec::new(), Vec::new(), 0);
        while !left.is_empty() {
            connections += 1;
            let mut progress = false;
            loop {
                let in_flight: Vec<Seq> =
                    (left.iter().copied().take(suspicion.in_flight_max())).collect();
                let Some(first) = in_flight.first().copied() else {
                    break;
                };
                if poisons.contains(&first) {
                    if let Some(seq) = suspicion.connection_ended(in_flight, progress) {
                        convicted.push(seq);
                        left.retain(|one| *one != seq);
                    }
                    break;
                }
                suspicion.answered(first);
                progress = true;
                accepted.push(first);
                left.remove(0);
            }
            assert!(connections < 1_000, "stuck with {left:?}");
        }
        (accepted, convicted, connections)
    }

    proptest! {
        #[test]
        fn the_guilty_are_convicted_and_everybody_else_is_accepted(
            count in 1_u64..400,
            poisons in prop::collection::btree_set(0_u64..400, 0..6),
        ) {
            let guilty: BTreeSet<Seq> = poisons.into_iter().filter(|seq| *seq < count).collect();
            let (accepted, convicted, connections) = drain(count, &guilty);
            let innocent: Vec<Seq> = (0..count).filter(|seq| !guilty.contains(seq)).collect();
            prop_assert_eq!(accepted, innocent);
            prop_assert_eq!(convicted, guilty.iter().copied().collect::<Vec<_>>());
            let each = PROOFS + 2;
            prop_assert!(connections <= 1 + each * u32::try_from(guilty.len()).unwrap());
        }
    }
}
