//! Which local topics go to the cloud, what they may carry, and under which topic they arrive there. Pure.

use std::fmt;

/// The largest payload that can be relayed, in bytes: AWS IoT Core's quota (message broker limits). It
/// disconnects whoever sends more, so a larger message would hold up everything behind it for ever.
pub const PAYLOAD_BYTES_MAX: usize = 131_072;

/// The relay's route: one local topic to one cloud topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    producer_topic: String,
    cloud_topic: String,
}

impl Routes {
    /// A route from the local `producer_topic` (`PRODUCER_TOPIC`) to `cloud_topic`
    /// (`CLOUD_CONSUMER_TOPIC`).
    pub fn new(producer_topic: impl Into<String>, cloud_topic: impl Into<String>) -> Self {
        Routes {
            producer_topic: producer_topic.into(),
            cloud_topic: cloud_topic.into(),
        }
    }

    /// The cloud topic for a message on the local topic `topic`, or `None` if it stays local and
    /// is never spooled.
    pub fn cloud_topic(&self, topic: &str) -> Option<&str> {
        (topic == self.producer_topic).then_some(self.cloud_topic.as_str())
    }

    /// The cloud topic that messages arrive under.
    pub fn destination(&self) -> &str {
        &self.cloud_topic
    }

    /// The cloud topic for a message that was spooled on the local topic `topic`, perhaps under another
    /// configuration: it was acknowledged, so it must arrive, and goes where messages go now.
    pub fn spooled_cloud_topic(&self, topic: &str) -> &str {
        self.cloud_topic(topic).unwrap_or(&self.cloud_topic)
    }
}

impl fmt::Display for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.producer_topic, self.cloud_topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_producer_topic_goes_to_the_cloud() {
        let routes = Routes::new("sensors", "site/data");
        assert_eq!(routes.cloud_topic("sensors"), Some("site/data"));
        assert_eq!(routes.cloud_topic("sensors/1"), None);
    }

    #[test]
    fn what_was_spooled_under_an_earlier_route_still_arrives() {
        let routes = Routes::new("sensors", "site/data");
        assert_eq!(routes.spooled_cloud_topic("old"), "site/data");
    }
}
