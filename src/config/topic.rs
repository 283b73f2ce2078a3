//! Which topic names may be configured. Pure.
//!
//! Each check returns the topic or says what is expected instead.

/// The longest topic name MQTT can carry, in bytes (MQTT 3.1.1, section 1.5.3).
const MQTT_TOPIC_BYTES_MAX: usize = 65_535;
/// The longest topic AWS takes, in bytes of UTF-8 (AWS message broker quotas).
const AWS_TOPIC_BYTES_MAX: usize = 256;
/// The most slashes in a topic that AWS takes (the same quotas).
const AWS_TOPIC_SLASHES_MAX: usize = 7;
/// Where Basic Ingest topics start: `$aws/rules/<rule>/…`. Prefix and rule count towards neither quota.
const AWS_BASIC_INGEST: &str = "$aws/rules/";

/// `PRODUCER_TOPIC`: one local topic name. `$…` is refused because no client may publish there.
pub(super) fn local(topic: &str) -> Result<String, String> {
    if topic.contains(['+', '#']) {
        return Err("one topic name; the wildcards + and # are not supported yet".to_owned());
    }
    if topic.starts_with('$') {
        return Err(
            "a topic name that does not start with $, which is reserved for the broker".to_owned(),
        );
    }
    cloud(topic)
}

/// `CLOUD_CONSUMER_TOPIC` by MQTT's own rules.
pub(super) fn cloud(topic: &str) -> Result<String, String> {
    if topic.contains(['+', '#']) {
        return Err("a topic name to publish to, without the wildcards + and #".to_owned());
    }
    if topic.chars().any(char::is_control) {
        return Err("a topic name without control characters".to_owned());
    }
    if topic.len() > MQTT_TOPIC_BYTES_MAX {
        return Err(format!(
            "a topic name of at most {MQTT_TOPIC_BYTES_MAX} bytes"
        ));
    }
    Ok(topic.to_owned())
}

/// `CLOUD_CONSUMER_TOPIC` by the rules of AWS, which disconnects whoever breaks them.
pub(super) fn aws(topic: &str) -> Result<String, String> {
    let counted = match topic.strip_prefix(AWS_BASIC_INGEST) {
        Some(rest) => {
            let (rule, counted) = rest.split_once('/').unwrap_or((rest, ""));
            if rule.is_empty() {
                return Err("the name of a rule after $aws/rules/".to_owned());
            }
            counted
        }
        None if topic.starts_with('$') => {
            return Err("a topic name that does not start with $, which AWS reserves; only $aws/rules/<rule>/… may".to_owned());
        }
        None => topic,
    };
    if counted.len() > AWS_TOPIC_BYTES_MAX {
        return Err(format!(
            "a topic name of at most {AWS_TOPIC_BYTES_MAX} bytes, which is the limit of AWS IoT Core"
        ));
    }
    if counted.matches('/').count() > AWS_TOPIC_SLASHES_MAX {
        return Err(format!(
            "a topic name with at most {AWS_TOPIC_SLASHES_MAX} slashes, which is the limit of AWS IoT Core"
        ));
    }
    cloud(topic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aws_limits_are_met_exactly() {
        assert!(aws(&"a".repeat(256)).is_ok());
        assert!(aws(&"a".repeat(257)).is_err());
        assert!(aws("1/2/3/4/5/6/7/8").is_ok());
        assert!(aws("1/2/3/4/5/6/7/8/9").is_err());
        assert!(aws(&"ü".repeat(128)).is_ok());
        assert!(aws(&"ü".repeat(129)).is_err());
    }

    #[test]
    fn the_basic_ingest_prefix_counts_towards_no_limit() {
        assert!(aws("$aws/rules/store/1/2/3/4/5/6/7/8").is_ok());
        assert!(aws("$aws/rules/store/1/2/3/4/5/6/7/8/9").is_err());
        assert!(aws(&format!("$aws/rules/store/{}", "a".repeat(256))).is_ok());
        assert!(aws("$aws/rules/store").is_ok());
        for bad in [
            "$aws/rules/",
            "$aws/rules//x",
            "$aws/things/x/shadow/update",
            "$SYS/x",
            "$aws/rules/r/+",
        ] {
            assert!(aws(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_local_topic_is_one_name_that_clients_may_publish_to() {
        for good in ["sensors", "a/b", "/", "ümläut", "with space"] {
            assert_eq!(local(good).as_deref(), Ok(good));
        }
        for bad in ["sensors/#", "+/x", "$SYS/x", "a\tb"] {
            assert!(local(bad).is_err(), "{bad}");
        }
        assert!(
            local("sensors/#")
                .unwrap_err()
                .contains("not supported yet")
        );
    }
}
