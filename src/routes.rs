//! Which local topics go to the cloud, and under which topic they arrive there. Pure.

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
}
