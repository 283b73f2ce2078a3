//! Which topic names may be configured. Pure.
//!
//! Each check returns the topic or says what is expected instead.

use crate::topic;

/// `PRODUCER_TOPIC`: one local topic name. `$…` is refused because no client may publish there.
pub(super) fn local(text: &str) -> Result<String, String> {
    if topic::has_wildcards(text) {
        return Err("one topic name; the wildcards + and # are not supported yet".to_owned());
    }
    if topic::is_reserved(text) {
        return Err(
            "a topic name that does not start with $, which is reserved for the broker".to_owned(),
        );
    }
    cloud(text)
}

/// `CLOUD_CONSUMER_TOPIC` by MQTT's own rules.
pub(super) fn cloud(text: &str) -> Result<String, String> {
    checked(text, topic::check_name)
}

/// `CLOUD_CONSUMER_TOPIC` by the rules of AWS.
pub(super) fn aws(text: &str) -> Result<String, String> {
    checked(text, topic::check_aws)
}

fn checked(text: &str, check: fn(&str) -> Result<(), topic::Fault>) -> Result<String, String> {
    let found = if text.chars().any(char::is_control) {
        Err(topic::Fault::Control)
    } else {
        check(text)
    };
    found.map_err(|fault| format!("a topic name with {fault}"))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

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
