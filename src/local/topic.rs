//! Which topics the local broker takes: what MQTT allows, within the broker's own limits. Pure.

pub(super) use crate::topic::{is_reserved, levels, matches};

use super::limits::Limits;
use crate::topic;

/// Whether a client may publish to `name`.
pub(super) fn is_valid_name(name: &str, limits: &Limits) -> bool {
    is_within(name, limits) && topic::check_name(name).is_ok()
}

/// Whether a client may subscribe to `filter`.
pub(super) fn is_valid_filter(filter: &str, limits: &Limits) -> bool {
    is_within(filter, limits) && topic::check_filter(filter).is_ok()
}

fn is_within(topic: &str, limits: &Limits) -> bool {
    topic.len() <= limits.topic_bytes_max && levels(topic).count() <= limits.topic_levels_max
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_filters_beyond_the_limits_are_refused() {
        let limits = Limits {
            topic_bytes_max: 8,
            topic_levels_max: 3,
            ..Limits::default()
        };
        assert!(is_valid_name("a/b/c", &limits) && is_valid_filter("a/b/c", &limits));
        assert!(!is_valid_name("a/b/c/d", &limits) && !is_valid_filter("a/b/c/d", &limits));
        assert!(is_valid_name("12345678", &limits) && is_valid_filter("12345678", &limits));
        assert!(!is_valid_name("123456789", &limits) && !is_valid_filter("123456789", &limits));
    }

    #[test]
    fn what_mqtt_forbids_is_refused() {
        let limits = Limits::default();
        assert!(is_valid_filter("a/+", &limits) && !is_valid_name("a/+", &limits));
        assert!(!is_valid_filter("a+", &limits) && !is_valid_name("", &limits));
    }
}
