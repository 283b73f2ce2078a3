//! What AWS refuses, each rule switchable. Pure.
//!
//! Figures are from AWS's page of endpoints and quotas, message broker section. What follows from
//! a broken rule depends on the protocol: MQTT 3.1.1 knows only closing the connection, MQTT 5
//! has reasons, on PUBACK where the connection can go on and on DISCONNECT where it cannot.

use std::time::Duration;

use super::breach::{Breach, reason};
use super::wire::{Hello, MqttVersion, Offer, Publication};

/// Largest payload, bytes.
pub const PAYLOAD_BYTES_MAX: usize = 131_072;
/// Largest packet that AWS's MQTT 5 CONNACK allows, bytes: more than a payload may have.
pub const PACKET_BYTES_MAX: u32 = 149_504;
/// Longest topic, bytes of UTF-8, the Basic Ingest prefix not counted.
pub const TOPIC_BYTES_MAX: usize = 256;
/// Most slashes in a topic, the Basic Ingest prefix not counted.
pub const TOPIC_SLASHES_MAX: usize = 7;
/// Most unacknowledged publishes of one connection.
pub const IN_FLIGHT_MAX: usize = 100;
/// Highest topic alias (MQTT 5).
pub const TOPIC_ALIAS_MAX: u16 = 8;
/// Longest keep alive, seconds.
pub const KEEP_ALIVE_S_MAX: u16 = 1_200;
/// Publishes a second and connection, for [`Rules::publish_rate_max`].
pub const PUBLISH_RATE_MAX: u32 = 100;
/// Bytes a second and connection, for [`Rules::byte_rate_max`].
pub const BYTE_RATE_MAX: u32 = 524_288;
/// How long a session outlives its connection if the client does not say.
const SESSION_EXPIRY: Duration = Duration::from_hours(1);
/// The longest a session outlives its connection.
const SESSION_EXPIRY_MAX: Duration = Duration::from_hours(7 * 24);
/// The prefix that a rule's name and a slash follow in Basic Ingest topics.
const BASIC_INGEST: &str = "$aws/rules/";

/// What happens to a publish above [`Rules::in_flight_max`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverInFlight {
    /// The connection is closed; in MQTT 5 with DISCONNECT 0x93.
    Disconnect,
    /// The publish is dropped without an acknowledgement.
    Ignore,
}

/// How a CONNECT of MQTT 5 is refused by a server that does not speak it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefuseV5 {
    /// With an MQTT 5 CONNACK, 0x84.
    Connack,
    /// With an MQTT 3.1.1 CONNACK, return code 1: as a server does that never heard of MQTT 5.
    OldConnack,
    /// By closing, without a word.
    Close,
}

/// The rules; `None` or `false` switches one off. [`Rules::default`] is AWS's.
///
/// Where a field says that the connection is closed, MQTT 5 closes it with a DISCONNECT.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an independent switch, set by name"
)]
pub struct Rules {
    /// Largest payload, bytes; above it the connection is closed (0x97).
    pub payload_bytes_max: Option<usize>,
    /// Largest packet in MQTT 5, bytes, told in CONNACK; above it the connection is closed (0x95).
    pub packet_bytes_max: Option<u32>,
    /// Longest topic, bytes; see [`Rules::refuse_by_puback`] for what is above it (0x90).
    pub topic_bytes_max: Option<usize>,
    /// Most slashes in a topic; see [`Rules::refuse_by_puback`] for what is above it (0x90).
    pub topic_slashes_max: Option<usize>,
    /// A `QoS` 2 publish closes the connection (0x9B).
    pub refuse_qos2: bool,
    /// A topic that starts with `$` is refused, unless it is a Basic Ingest topic; see
    /// [`Rules::refuse_by_puback`] (0x90).
    pub refuse_reserved_topics: bool,
    /// A topic that starts with one of these is refused, as by a policy; see
    /// [`Rules::refuse_by_puback`] (0x87).
    pub denied_topic_prefixes: Vec<String>,
    /// A payload that starts with one of these is refused as a denied topic is. AWS has no such rule; it lets some
    /// messages of one topic be refused.
    pub denied_payload_prefixes: Vec<Vec<u8>>,
    /// In MQTT 5 a `QoS` 1 publish with a bad or denied topic gets a PUBACK with the reason and
    /// the connection goes on. Otherwise, and always in MQTT 3.1.1 and at `QoS` 0, it is closed.
    pub refuse_by_puback: bool,
    /// Topic prefixes and the reason that PUBACK gives for them in MQTT 5; from 0x80 on the
    /// message is not taken. MQTT 3.1.1 knows no reasons and takes the message.
    pub puback_reasons: Vec<(String, u8)>,
    /// Most unacknowledged publishes of one connection.
    pub in_flight_max: Option<usize>,
    /// What happens above it.
    pub over_in_flight: OverInFlight,
    /// Most publishes of a connection in any one second; the excess is dropped without an
    /// acknowledgement, or gets PUBACK 0x97 in MQTT 5. Off by default, so that a test of something
    /// else need not be paced: AWS's figure is [`PUBLISH_RATE_MAX`].
    pub publish_rate_max: Option<u32>,
    /// Most bytes a second and connection; the excess is read later. Off by default: AWS's figure
    /// is [`BYTE_RATE_MAX`].
    pub byte_rate_max: Option<u32>,
    /// Highest topic alias in MQTT 5; above it the connection is closed (0x94).
    pub topic_alias_max: u16,
    /// Longest keep alive, seconds; one above it counts as this, and MQTT 5 says so in CONNACK.
    pub keep_alive_s_max: Option<u16>,
    /// A second connection with the same client id ends the first (0x8E).
    pub one_session_per_client_id: bool,
    /// SUBSCRIBE closes the connection, or is answered with 0x87 in MQTT 5.
    pub refuse_subscribe: bool,
    /// The client id must be the common name of the certificate. Off by default.
    pub client_id_is_common_name: bool,
    /// MQTT 5 is not spoken.
    pub refuse_v5: Option<RefuseV5>,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            payload_bytes_max: Some(PAYLOAD_BYTES_MAX),
            packet_bytes_max: Some(PACKET_BYTES_MAX),
            topic_bytes_max: Some(TOPIC_BYTES_MAX),
            topic_slashes_max: Some(TOPIC_SLASHES_MAX),
            refuse_qos2: true,
            refuse_reserved_topics: true,
            denied_topic_prefixes: Vec::new(),
            denied_payload_prefixes: Vec::new(),
            refuse_by_puback: true,
            puback_reasons: Vec::new(),
            in_flight_max: Some(IN_FLIGHT_MAX),
            over_in_flight: OverInFlight::Disconnect,
            publish_rate_max: None,
            byte_rate_max: None,
            topic_alias_max: TOPIC_ALIAS_MAX,
            keep_alive_s_max: Some(KEEP_ALIVE_S_MAX),
            one_session_per_client_id: true,
            refuse_subscribe: true,
            client_id_is_common_name: false,
            refuse_v5: None,
        }
    }
}

impl Rules {
    /// No rule at all: what a plain broker does.
    pub fn none() -> Self {
        Rules {
            payload_bytes_max: None,
            packet_bytes_max: None,
            topic_bytes_max: None,
            topic_slashes_max: None,
            refuse_qos2: false,
            refuse_reserved_topics: false,
            in_flight_max: None,
            over_in_flight: OverInFlight::Ignore,
            topic_alias_max: u16::MAX,
            keep_alive_s_max: None,
            one_session_per_client_id: false,
            refuse_subscribe: false,
            ..Rules::default()
        }
    }

    /// What CONNACK of MQTT 5 tells this client.
    pub(crate) fn offer(&self, hello: &Hello) -> Offer {
        let expiry = session_expiry(hello).as_secs();
        let asked = hello.keep_alive.as_secs();
        Offer {
            session_expiry_s: u32::try_from(expiry).unwrap_or(u32::MAX),
            receive_max: self
                .in_flight_max
                .map(|most| u16::try_from(most).unwrap_or(u16::MAX)),
            qos_max: self.refuse_qos2.then_some(1),
            packet_bytes_max: self.packet_bytes_max,
            topic_alias_max: self.topic_alias_max,
            server_keep_alive_s: self
                .keep_alive_s_max
                .filter(|most| asked > u64::from(*most)),
        }
    }

    /// The keep alive that is enforced; zero means none.
    pub(crate) fn keep_alive(&self, hello: &Hello) -> Duration {
        let most = self
            .keep_alive_s_max
            .map_or(Duration::MAX, |seconds| Duration::from_secs(seconds.into()));
        hello.keep_alive.min(most)
    }

    /// The rule that `publication`, its alias resolved, breaks, if any.
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
        let denied_payload = |prefix: &Vec<u8>| publication.payload.starts_with(prefix);
        if self.denied_topic_prefixes.iter().any(denied)
            || self.denied_payload_prefixes.iter().any(denied_payload)
        {
            return Some(Breach::DeniedTopic);
        }
        None
    }

    /// The reason that a PUBACK gives for `breach`, if the connection goes on after it.
    pub(crate) fn puback_for(&self, breach: Breach, version: MqttVersion, qos: u8) -> Option<u8> {
        let answerable = matches!(
            breach,
            Breach::TopicTooLong
                | Breach::TooManySlashes
                | Breach::ReservedTopic
                | Breach::DeniedTopic
        );
        (answerable && self.refuse_by_puback && version == MqttVersion::V5 && qos > 0)
            .then(|| breach.reason())
    }

    /// The reason that [`Rules::puback_reasons`] gives for a topic, success if none.
    pub(crate) fn puback_reason(&self, topic: &str) -> u8 {
        self.puback_reasons
            .iter()
            .find(|(prefix, _)| topic.starts_with(prefix.as_str()))
            .map_or(reason::SUCCESS, |(_, reason)| *reason)
    }
}

/// How long a session is kept after its connection.
pub(crate) fn session_expiry(hello: &Hello) -> Duration {
    match hello.session_expiry {
        Some(asked) => asked.min(SESSION_EXPIRY_MAX),
        None if hello.clean_start => Duration::ZERO,
        None => SESSION_EXPIRY,
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
            properties: None,
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
        let payloads = Rules {
            denied_payload_prefixes: vec![b"xx".to_vec()],
            ..Rules::default()
        };
        assert_eq!(payloads.breach(&publication("t", 1, 1)), None);
        assert_eq!(
            payloads.breach(&publication("t", 2, 1)),
            Some(Breach::DeniedTopic)
        );
        assert_eq!(
            Rules::none().breach(&publication("$a/1/2/3/4/5/6/7/8/9", 200_000, 2)),
            None
        );
    }
}
