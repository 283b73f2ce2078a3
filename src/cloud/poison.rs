//! Which messages the cloud never accepts, and how that is said. Pure.
//!
//! Three ways to a verdict, from the surest:
//! 1. The cloud's rules forbid it: known before it is sent ([`forbidden`]).
//! 2. The cloud refuses it and says why ([`judge`], MQTT 5).
//! 3. The connection ends whenever it is sent alone ([`super::suspicion`]; MQTT 3.1.1's only way to refuse).
//!
//! What is done with the convicted is not decided here.

use std::time::Duration;

use super::packet::Rejection;
use crate::dead_letters::Reason;
use crate::routes::PAYLOAD_BYTES_MAX;
use crate::topic::{self, Fault};

/// Why a message is never accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was spooled while the configuration had a route for its topic, and now there is none.
    NoRoute,
    /// The payload is larger than AWS takes.
    TooLarge,
    /// The packet is larger than the cloud said it takes.
    PacketTooLarge,
    /// The cloud topic is longer than AWS takes.
    TopicTooLong,
    /// The cloud topic has more slashes than AWS takes.
    TooManyLevels,
    /// The policy did not allow it for as long as the owner says to wait.
    Denied,
    /// The cloud topic is none, or one that AWS reserves.
    IllegalTopic(Fault),
    /// The cloud refuses it.
    Refused(Rejection),
    /// The connection ended each time it was sent alone.
    EndsConnections,
}

/// What is known of a message that is convicted.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Where it was to go.
    pub cloud_topic: &'a str,
    /// Length of its payload.
    pub payload_bytes: usize,
    /// How long it, or its topic, has been refused.
    pub refused_for: Duration,
}

impl Why {
    /// The reason that stands in the dead letter.
    pub fn reason(self, facts: &Facts<'_>) -> Reason {
        let (topic, bytes) = (facts.cloud_topic, facts.payload_bytes);
        let (why, words) = match self {
            Why::NoRoute => (
                "no-route",
                "no rule of PRODUCER_TOPIC matches its topic any more".to_owned(),
            ),
            Why::TooLarge => (
                "too-large",
                format!("payload of {bytes} bytes: AWS IoT Core takes at most {PAYLOAD_BYTES_MAX}"),
            ),
            Why::PacketTooLarge => (
                "packet-too-large",
                format!(
                    "payload of {bytes} bytes: with its topic and properties more than the cloud says it takes"
                ),
            ),
            Why::TopicTooLong => (
                "topic-too-long",
                format!(
                    "topic of {} bytes: AWS IoT Core takes at most {}",
                    topic::counted_by_aws(topic).len(),
                    topic::AWS_BYTES_MAX
                ),
            ),
            Why::TooManyLevels => (
                "too-many-slashes",
                format!(
                    "topic has {} slashes: AWS IoT Core takes at most {}",
                    topic::counted_by_aws(topic).matches('/').count(),
                    topic::AWS_SLASHES_MAX
                ),
            ),
            Why::IllegalTopic(fault) => (
                "illegal-topic",
                format!("topic {topic:?} cannot be published to; expected {fault}"),
            ),
            Why::Denied => (
                "denied",
                format!(
                    "not authorized (0x87) for {} s: does the policy allow iot:Publish to {topic:?}?",
                    facts.refused_for.as_secs()
                ),
            ),
            Why::Refused(rejection) => (
                "refused",
                format!("the cloud refuses it: {rejection}; its topic there is {topic:?}"),
            ),
            Why::EndsConnections => (
                "ends-connections",
                format!(
                    "the cloud closed the connection each time it was sent: does the policy allow iot:Publish \
                     to {topic:?}?"
                ),
            ),
        };
        Reason { why, words }
    }
}

/// Why AWS's rules forbid a message, if they do: known without sending it.
pub fn forbidden(cloud_topic: &str, payload_bytes: usize) -> Option<Why> {
    if payload_bytes > PAYLOAD_BYTES_MAX {
        return Some(Why::TooLarge);
    }
    topic::check_aws(cloud_topic)
        .err()
        .map(|fault| match fault {
            Fault::TooLong | Fault::TooLongForAws => Why::TopicTooLong,
            Fault::TooManySlashes => Why::TooManyLevels,
            fault => Why::IllegalTopic(fault),
        })
}

/// What to make of a refusal; `None` is to try again. `too_long` says whether it has had its time.
pub fn judge(rejection: Rejection, too_long: bool) -> Option<Why> {
    match rejection {
        Rejection::TopicNameInvalid | Rejection::PayloadFormatInvalid => {
            Some(Why::Refused(rejection))
        }
        Rejection::NotAuthorized => too_long.then_some(Why::Denied),
        Rejection::Unspecified
        | Rejection::ImplementationSpecific
        | Rejection::PacketIdentifierInUse => too_long.then_some(Why::Refused(rejection)),
        Rejection::QuotaExceeded => None,
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(judge(Rejection::NotAuthorized, false), None);
        assert_eq!(judge(Rejection::NotAuthorized, true), Some(Why::Denied));
        assert_eq!(judge(Rejection::QuotaExceeded, true), None);
        for rejection in [Rejection::TopicNameInvalid, Rejection::PayloadFormatInvalid] {
            assert_eq!(judge(rejection, false), Some(Why::Refused(rejection)));
        }
    }

    #[test]
    fn a_reason_has_the_figures_and_says_what_to_look_at() {
        let facts = Facts {
            cloud_topic: "$aws/rules/r/1/2/3/4/5/6/7/8/9",
            payload_bytes: 204_800,
            refused_for: Duration::from_mins(10),
        };
        for (why, words) in [
            (
                Why::TooLarge,
                "payload of 204800 bytes: AWS IoT Core takes at most 131072",
            ),
            (
                Why::TooManyLevels,
                "topic has 8 slashes: AWS IoT Core takes at most 7",
            ),
            (
                Why::Denied,
                "for 600 s: does the policy allow iot:Publish to",
            ),
            (Why::Refused(Rejection::TopicNameInvalid), "(0x90)"),
        ] {
            let reason = why.reason(&facts);
            assert!(reason.words.contains(words), "{reason:?}");
        }
    }
}
