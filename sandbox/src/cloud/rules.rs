//! What AWS refuses, each rule switchable. Pure.
//!
//! Figures are from AWS's page of endpoints and quotas, message broker section.

use std::fmt;

use super::wire::Publication;

/// Largest payload, bytes.
pub const PAYLOAD_BYTES_MAX: usize = 131_072;
/// Longest topic, bytes of UTF-8, the Basic Ingest prefix not counted.
pub const TOPIC_BYTES_MAX: usize = 256;
/// Most slashes in a topic, the Basic Ingest prefix not counted.
pub const TOPIC_SLASHES_MAX: usize = 7;
/// Most unacknowledged publishes of one connection.
pub const IN_FLIGHT_MAX: usize = 100;
/// The prefix that a rule's name and a slash follow in Basic Ingest topics.
const BASIC_INGEST: &str = "$aws/rules/";

/// What happens to a publish above [`Rules::in_flight_max`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverInFlight {
    /// The connection is closed.
    Disconnect,
    /// The publish is dropped without an acknowledgement.
    Ignore,
}

/// The rules; `None` or `false` switches one off. [`Rules::default`] is AWS's.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an independent switch, set by name"
)]
pub struct Rules {
    /// Largest payload, bytes; above it the connection is closed.
    pub payload_bytes_max: Option<usize>,
    /// Longest topic, bytes; above it the connection is closed.
    pub topic_bytes_max: Option<usize>,
    /// Most slashes in a topic; above it the connection is closed.
    pub topic_slashes_max: Option<usize>,
    /// A `QoS` 2 publish closes the connection.
    pub refuse_qos2: bool,
    /// A topic that starts with `$` closes the connection, unless it is a Basic Ingest topic.
    pub refuse_reserved_topics: bool,
    /// A topic that starts with one of these closes the connection, as a policy's denial does.
    pub denied_topic_prefixes: Vec<String>,
    /// Most unacknowledged publishes of one connection.
    pub in_flight_max: Option<usize>,
    /// What happens above it.
    pub over_in_flight: OverInFlight,
    /// Most publishes a second and connection; the excess is dropped without an acknowledgement.
    /// Off by default, so that a test of something else need not be paced: AWS's figure is 100.
    pub publish_rate_max: Option<u32>,
    /// A second connection with the same client id ends the first.
    pub one_session_per_client_id: bool,
    /// SUBSCRIBE closes the connection. If it does not, every filter is answered with failure
    /// (0x80): this server delivers to nobody.
    pub refuse_subscribe: bool,
    /// The client id must be the common name of the certificate. Off by default.
    pub client_id_is_common_name: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            payload_bytes_max: Some(PAYLOAD_BYTES_MAX),
            topic_bytes_max: Some(TOPIC_BYTES_MAX),
            topic_slashes_max: Some(TOPIC_SLASHES_MAX),
            refuse_qos2: true,
            refuse_reserved_topics: true,
            denied_topic_prefixes: Vec::new(),
            in_flight_max: Some(IN_FLIGHT_MAX),
            over_in_flight: OverInFlight::Disconnect,
            publish_rate_max: None,
            one_session_per_client_id: true,
            refuse_subscribe: true,
            client_id_is_common_name: false,
        }
    }
}

impl Rules {
    /// No rule at all: what a plain broker does.
    pub fn none() -> Self {
        Rules {
            payload_bytes_max: None,
            topic_bytes_max: None,
            topic_slashes_max: None,
            refuse_qos2: false,
            refuse_reserved_topics: false,
            denied_topic_prefixes: Vec::new(),
            in_flight_max: None,
            over_in_flight: OverInFlight::Ignore,
            publish_rate_max: None,
            one_session_per_client_id: false,
            refuse_subscribe: false,
            client_id_is_common_name: false,
        }
    }

    /// The rule that `publication` breaks, if any.
    pub(crate) fn breach(&self, publication: &Publication) -> Option<Breach> {
        let counted = without_basic_ingest(&publication.topic);
        if self.refuse_qos2 && publication.qos == 2 {
            return Some(Breach::Qos2);
        }
        if above(self.payload_bytes_max, publication.payload.len()) {
            return Some(Breach::PayloadTooLarge);
        }
        if above(self.topic_bytes_max, counted.len()) {
            return Some(Breach::TopicTooLong);
        }
        if above(self.topic_slashes_max, counted.matches('/').count()) {
            return Some(Breach::TooManySlashes);
        }
        let reserved =
            publication.topic.starts_with('$') && !publication.topic.starts_with(BASIC_INGEST);
        if self.refuse_reserved_topics && reserved {
            return Some(Breach::ReservedTopic);
        }
        let denied = |prefix: &String| publication.topic.starts_with(prefix.as_str());
        if self.denied_topic_prefixes.iter().any(denied) {
            return Some(Breach::DeniedTopic);
        }
        None
    }
}

/// Whether `size` passes the limit, if there is one.
fn above(limit: Option<usize>, size: usize) -> bool {
    limit.is_some_and(|limit| size > limit)
}

/// The part of a topic that AWS counts: without `$aws/rules/<rule>/`.
fn without_basic_ingest(topic: &str) -> &str {
    topic
        .strip_prefix(BASIC_INGEST)
        .and_then(|rest| rest.split_once('/'))
        .map_or(topic, |(_rule, rest)| rest)
}

/// Why the server closed a connection on its own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Breach {
    /// A payload above the limit.
    PayloadTooLarge,
    /// A topic above the limit in bytes.
    TopicTooLong,
    /// A topic above the limit in slashes.
    TooManySlashes,
    /// `QoS` 2.
    Qos2,
    /// A topic under `$`.
    ReservedTopic,
    /// A topic that the policy denies.
    DeniedTopic,
    /// More unacknowledged publishes than allowed.
    InFlightExceeded,
    /// SUBSCRIBE, which the policy denies.
    Subscribe,
    /// A client id that is not the certificate's common name.
    ClientId,
    /// Another connection came with the same client id.
    TakenOver,
    /// Nothing was heard for one and a half times the keep alive (MQTT 3.1.1, section 3.1.2.10).
    KeepAlive,
    /// Bytes that are no MQTT 3.1.1.
    Malformed,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Breach::PayloadTooLarge => "the payload is too large",
            Breach::TopicTooLong => "the topic is too long",
            Breach::TooManySlashes => "the topic has too many slashes",
            Breach::Qos2 => "QoS 2 is not supported",
            Breach::ReservedTopic => "the topic is reserved",
            Breach::DeniedTopic => "the policy denies the topic",
            Breach::InFlightExceeded => "too many publishes are unacknowledged",
            Breach::Subscribe => "the policy denies subscribing",
            Breach::ClientId => "the client id is not the certificate's common name",
            Breach::TakenOver => "another connection came with the same client id",
            Breach::KeepAlive => "the keep alive ran out",
            Breach::Malformed => "what was received is not MQTT 3.1.1",
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn publication(topic: &str, payload_bytes: usize, qos: u8) -> Publication {
        Publication {
            topic: topic.to_owned(),
            payload: Bytes::from(vec![b'x'; payload_bytes]),
            packet_id: 1,
            qos,
            dup: false,
            retain: false,
        }
    }

    #[test]
    fn each_limit_is_met_exactly_and_broken_by_one_more() {
        let rules = Rules::default();
        assert_eq!(rules.breach(&publication("t", PAYLOAD_BYTES_MAX, 1)), None);
        assert_eq!(
            rules.breach(&publication("t", PAYLOAD_BYTES_MAX + 1, 1)),
            Some(Breach::PayloadTooLarge)
        );
        assert_eq!(rules.breach(&publication(&"t".repeat(256), 1, 1)), None);
        assert_eq!(
            rules.breach(&publication(&"t".repeat(257), 1, 1)),
            Some(Breach::TopicTooLong)
        );
        assert_eq!(rules.breach(&publication("1/2/3/4/5/6/7/8", 1, 1)), None);
        assert_eq!(
            rules.breach(&publication("1/2/3/4/5/6/7/8/9", 1, 1)),
            Some(Breach::TooManySlashes)
        );
        assert_eq!(rules.breach(&publication("t", 1, 2)), Some(Breach::Qos2));
    }

    #[test]
    fn basic_ingest_topics_are_allowed_and_their_prefix_is_not_counted() {
        let rules = Rules::default();
        assert_eq!(
            rules.breach(&publication("$aws/rules/r/1/2/3/4/5/6/7/8", 1, 1)),
            None
        );
        assert_eq!(
            rules.breach(&publication("$aws/things/x", 1, 1)),
            Some(Breach::ReservedTopic)
        );
    }

    #[test]
    fn denied_prefixes_are_denied_and_no_rules_deny_nothing() {
        let rules = Rules {
            denied_topic_prefixes: vec!["secret/".to_owned()],
            ..Rules::default()
        };
        assert_eq!(
            rules.breach(&publication("secret/1", 1, 1)),
            Some(Breach::DeniedTopic)
        );
        assert_eq!(rules.breach(&publication("secrets", 1, 1)), None);
        assert_eq!(
            Rules::none().breach(&publication("$a/1/2/3/4/5/6/7/8/9", 200_000, 2)),
            None
        );
    }
}
