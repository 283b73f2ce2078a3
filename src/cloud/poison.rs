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

/// The longest topic AWS IoT Core takes, in bytes of UTF-8 (message broker quotas).
const TOPIC_BYTES_MAX: usize = 256;
/// The most slashes in a topic (message broker quotas).
const TOPIC_SLASHES_MAX: usize = 7;
/// What begins a topic of Basic Ingest; it and the rule's name behind it do not count towards those two.
const BASIC_INGEST: &str = "$aws/rules/";

/// Why a message is never accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
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
            Why::TooLarge => (
                "too-large",
                format!("payload of {bytes} bytes: AWS IoT Core takes at most {PAYLOAD_BYTES_MAX}"),
            ),
            Why::PacketTooLarge => (
                "packet-too-large",
                format!(
                    "payload of {bytes} bytes: with its topic more than the cloud says it takes"
                ),
            ),
            Why::TopicTooLong => (
                "topic-too-long",
                format!(
                    "topic of {} bytes: AWS IoT Core takes at most {TOPIC_BYTES_MAX}",
                    counted(topic).len()
                ),
            ),
            Why::TooManyLevels => (
                "too-many-slashes",
                format!(
                    "topic has {} slashes: AWS IoT Core takes at most {TOPIC_SLASHES_MAX}",
                    slashes(counted(topic))
                ),
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
    let counted = counted(cloud_topic);
    if payload_bytes > PAYLOAD_BYTES_MAX {
        Some(Why::TooLarge)
    } else if counted.len() > TOPIC_BYTES_MAX {
        Some(Why::TopicTooLong)
    } else if slashes(counted) > TOPIC_SLASHES_MAX {
        Some(Why::TooManyLevels)
    } else {
        None
    }
}

/// The part of a topic that AWS's quotas count.
fn counted(cloud_topic: &str) -> &str {
    match cloud_topic.strip_prefix(BASIC_INGEST) {
        Some(rest) => rest.split_once('/').map_or("", |(_rule, topic)| topic),
        None => cloud_topic,
    }
}

fn slashes(topic: &str) -> usize {
    topic.matches('/').count()
}

/// What to make of a refusal; `None` is to try again. `denied_too_long` says whether a policy had its time.
pub fn judge(rejection: Rejection, denied_too_long: bool) -> Option<Why> {
    match rejection {
        Rejection::TopicNameInvalid | Rejection::PayloadFormatInvalid => {
            Some(Why::Refused(rejection))
        }
        Rejection::NotAuthorized => denied_too_long.then_some(Why::Denied),
        Rejection::QuotaExceeded
        | Rejection::Unspecified
        | Rejection::ImplementationSpecific
        | Rejection::PacketIdentifierInUse => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clouds_rules_are_known_before_sending() {
        assert_eq!(forbidden("a/b", PAYLOAD_BYTES_MAX), None);
        assert_eq!(forbidden("a/b", PAYLOAD_BYTES_MAX + 1), Some(Why::TooLarge));
        let longest = "ä".repeat(TOPIC_BYTES_MAX / 2);
        assert_eq!(forbidden(&longest, 0), None);
        assert_eq!(
            forbidden(&format!("{longest}x"), 0),
            Some(Why::TopicTooLong)
        );
        let deepest = "/".repeat(TOPIC_SLASHES_MAX);
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
