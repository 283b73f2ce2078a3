//! Which values are taken, and what is said of the others.

use super::*;
use crate::printable::is_harmful;

#[test]
fn every_bad_value_is_a_fault_that_names_its_variable_and_what_is_expected() {
    let long = "x".repeat(300);
    let cases: &[(&str, &str, &str)] = &[
        ("LOG_LEVEL", "verbose", "error, warn, info"),
        ("PROVISION_KEY", "tpm", "cloud or device"),
        ("SPOOL_MAX_BYTES", "4194303", "bytes from 4194304 to"),
        ("SPOOL_MIN_FREE_BYTES", "-1", "bytes from 0 to"),
        ("SPOOL_FULL", "drop", "block, drop_oldest or drop_newest"),
        ("SPOOL_LINGER_MS", "1s", "milliseconds from 0 to 10000"),
        ("DEAD_LETTERS_MAX_BYTES", "1000", "bytes from 4194304 to"),
        ("CLOUD_DENIED_HOLD_S", "10m", "seconds from 0 to 604800"),
        ("LOCAL_MQTT_LISTEN", ":1883", "127.0.0.1:1883"),
        ("LOCAL_MQTT_LISTEN", "1883", "0.0.0.0:1883"),
        ("LOCAL_MQTT_LISTEN", "broker:1883", "IP address"),
        ("LOCAL_MQTT_LISTEN", "localhost:99999", "a port"),
        ("PRODUCER_TOPIC", "sensors#", "only as whole levels"),
        (
            "PRODUCER_TOPIC",
            "a, b/#/c => x",
            "of rule 2 (\"b/#/c => x\")",
        ),
        ("PRODUCER_TOPIC", "a => b/+", "no wildcards"),
        ("PRODUCER_TOPIC", "a => b => c", "one => only"),
        ("PRODUCER_TOPIC", "a,", "between any two commas"),
        ("PRODUCER_TOPIC", "a => {app}", "BALENA_APP_NAME to be set"),
        ("PRODUCER_TOPIC", "$SYS/x", "do not start with $"),
        ("PRODUCER_TOPIC", "a, $SYS/x", "\"$SYS/x\" does"),
        ("PRODUCER_TOPIC", "a => b {pack:xml}", "{pack:json} or"),
        (
            "PRODUCER_TOPIC",
            "a {pack:json}",
            "only in the topic behind =>",
        ),
        (
            "PRODUCER_TOPIC",
            "a, b/{uuid}/#",
            "\"b/{uuid}/#\" has a brace",
        ),
        ("PRODUCER_TOPIC", "a -> b", "=> between filter and topic"),
        (
            "PRODUCER_TOPIC",
            "x,\na => b\nc => d",
            "(\"a => b\\nc => d\") one =>",
        ),
        (
            "PRODUCER_TOPIC",
            "a => {\u{1b}}",
            "in place of \"{\\u{1b}}\"",
        ),
        (
            "CLOUD_SUBSCRIBE",
            "x=>y,\na=>b\nc=>d",
            "(\"a=>b\\nc=>d\") one =>",
        ),
        ("PACK_MAX_BYTES", "131073", "bytes from 256 to 131072"),
        ("PACK_MAX_MS", "60001", "milliseconds from 0 to 60000"),
        ("CLOUD_CONSUMER_TOPIC", "{topic", "a } for every {"),
        (
            "CLOUD_CONSUMER_TOPIC",
            "{topic:2}",
            "rule 1 of PRODUCER_TOPIC: \"sensors\"",
        ),
        ("CLOUD_CONSUMER_TOPIC", "a/+", "wildcards"),
        ("CLOUD_CONSUMER_TOPIC", "1/2/3/4/5/6/7/8/9", "7 slashes"),
        ("CLOUD_CONSUMER_TOPIC", &long, "256 bytes"),
        ("CLOUD_CONSUMER_TOPIC", "$aws/things/x", "$aws/rules/"),
        ("CLOUD_PROVIDER", "IBM", "AWS, AZURE or GCP"),
        ("PROVISION_URL", "example.com/provision", "https://"),
        ("PROVISION_URL", "ftp://example.com", "https://"),
        ("AWS_DATA_ENDPOINT", "https://a.b", "bare host name"),
        ("AWS_DATA_ENDPOINT", "a.b:8883", "AWS_PORT"),
        ("AWS_DATA_ENDPOINT", "a b", "a host name"),
        ("AWS_PORT", "0", "1 to 65535"),
        ("AWS_PORT", "65536", "1 to 65535"),
        ("AWS_PORT", "mqtts", "a port number"),
        ("AZURE_HUB_HOST", "mqtts://a.b", "bare host name"),
        ("MESSAGING_HOST", "a.b/c", "bare host name"),
        ("GCP_TOKEN_LIFETIME", "1441", "minutes from 1 to 1440"),
        ("GCP_RENEWAL_START", "-1", "minutes before expiry"),
        ("CONNECT_TIMEOUT_SEC", "0", "seconds from 1 to 600"),
        ("BALENA_DEVICE_UUID", "a/b", "letters, digits"),
        ("BALENA_DEVICE_UUID", &long, "at most 128"),
        ("BALENA_SERVICE_NAME", "a\u{7}b", "control characters"),
        ("BALENA_SUPERVISOR_ADDRESS", "127.0.0.1:48484", "http://"),
        ("SUPERVISOR_FORCE_UPDATE", "yes", "1 or true"),
        ("DATA_DIR", "/d\u{FFFD}ta", "UTF-8"),
        ("AWS_CERT", "\u{FFFD}", "UTF-8"),
    ];
    for (name, value, expected) in cases {
        let errors = faults(&[(name, value)]);
        let text = errors.to_string();
        assert_eq!(errors.faults().len(), 1, "{name}={value}: {text}");
        assert_eq!(errors.faults()[0].variable, *name);
        assert!(
            text.starts_with(name) && text.contains(expected),
            "{name}={value}: {text}"
        );
        assert_eq!(text.lines().count(), 1, "{text:?}");
        assert!(!text.contains(is_harmful), "{text:?}");
        assert!(text.len() < 300, "{text}");
    }
}

#[test]
fn good_values_at_the_limits_are_taken() {
    let cases: &[(&str, &str)] = &[
        ("LOCAL_MQTT_LISTEN", "localhost:1884"),
        ("LOCAL_MQTT_LISTEN", "[::1]:1883"),
        ("AWS_PORT", "65535"),
        ("AWS_DATA_ENDPOINT", "127.0.0.1"),
        ("AWS_DATA_ENDPOINT", "::1"),
        ("AWS_DATA_ENDPOINT", "localhost"),
        ("CLOUD_CONSUMER_TOPIC", "$aws/rules/store/1/2/3/4/5/6/7/8"),
        ("GCP_RENEWAL_START", "0"),
        ("SUPERVISOR_FORCE_UPDATE", "0"),
        ("BALENA_DEVICE_UUID", "test-provision"),
    ];
    for (name, value) in cases {
        if let Err(errors) = Config::from_vars(vars(&[(name, value)])) {
            panic!("{name}={value}: {errors}");
        }
    }
}

#[test]
fn five_bad_variables_at_once_are_all_reported_one_on_each_line() {
    let errors = faults(&[
        ("AWS_PORT", "0"),
        ("LOG_LEVEL", "loud"),
        ("PRODUCER_TOPIC", "a#"),
        ("PROVISION_URL", "nowhere"),
        ("LOCAL_MQTT_LISTEN", "anywhere"),
    ]);
    let text = errors.to_string();
    assert_eq!(text.lines().count(), 5, "{text}");
    for name in [
        "AWS_PORT",
        "LOG_LEVEL",
        "PRODUCER_TOPIC",
        "PROVISION_URL",
        "LOCAL_MQTT_LISTEN",
    ] {
        assert_eq!(
            text.lines().filter(|line| line.starts_with(name)).count(),
            1,
            "{text}"
        );
    }
}
