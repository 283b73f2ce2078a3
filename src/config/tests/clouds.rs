//! Which cloud it is, what it is told, and when it is ready to be connected to.

use super::*;

fn aws(config: &Config) -> &AwsConfig {
    match &config.cloud {
        Some(CloudConfig::Aws(aws)) => aws,
        other => panic!("not AWS: {other:?}"),
    }
}

#[test]
fn the_provider_is_named_or_follows_from_what_is_set() {
    let detected = |pairs: &[(&str, &str)]| config(pairs).provider;
    assert_eq!(
        detected(&[("CLOUD_PROVIDER", "azure"), ("AWS_DATA_ENDPOINT", "a.b")]),
        Provider::Azure
    );
    assert_eq!(detected(&[("CLOUD_PROVIDER", "ClearBlade")]), Provider::Gcp);
    assert_eq!(
        detected(&[("AWS_DATA_ENDPOINT", "a.b"), ("AZURE_HUB_HOST", "c.d")]),
        Provider::Aws
    );
    assert_eq!(detected(&[("AZURE_HUB_HOST", "c.d")]), Provider::Azure);
    let google = [("PROVISION_URL", "https://x.cloudfunctions.net/provision")];
    assert_eq!(detected(&google), Provider::Gcp);
    assert_eq!(
        detected(&[("PROVISION_URL", "https://example.com/provision")]),
        Provider::Aws
    );
}

#[test]
fn every_variable_of_aws_arrives_where_it_belongs() {
    let config = config(&[
        ("AWS_DATA_ENDPOINT", "abc-ats.iot.eu-west-1.amazonaws.com"),
        ("AWS_PORT", "443"),
        ("AWS_ROOT_CA_PATH", "/etc/ca.pem"),
        ("AWS_CERT", "Y2VydA=="),
        ("AWS_PRIVATE_KEY", "a2V5"),
        ("BALENA_DEVICE_UUID", "c0ffee"),
        ("BALENA_SERVICE_NAME", "relay"),
        ("LOG_LEVEL", "Debug"),
        ("LOCAL_MQTT_LISTEN", "0.0.0.0:0"),
    ]);
    let expected = AwsConfig {
        endpoint: "abc-ats.iot.eu-west-1.amazonaws.com".to_owned(),
        port: 443,
        root_ca_path: Some(PathBuf::from("/etc/ca.pem")),
        cert: Some(Secret::new("Y2VydA==")),
        private_key: Some(Secret::new("a2V5")),
    };
    assert_eq!(*aws(&config), expected);
    assert_eq!(config.device.uuid.as_deref(), Some("c0ffee"));
    assert_eq!(config.device.service.as_deref(), Some("relay"));
    assert_eq!(config.log_level, Level::DEBUG);
    assert_eq!(config.local.listen.to_string(), "0.0.0.0:0");
    assert_eq!(config.readiness(), Readiness::Ready);
}

#[test]
fn mqtt_is_spoken_in_version_5_unless_told_otherwise() {
    assert_eq!(config(&[]).mqtt_version, MqttVersion::V5);
    let old = config(&[("CLOUD_MQTT_VERSION", "3.1.1")]);
    assert_eq!(old.mqtt_version, MqttVersion::V311);
    assert!(old.summary().contains("CLOUD_MQTT_VERSION=3.1.1"));
    let text = faults(&[("CLOUD_MQTT_VERSION", "4")]).to_string();
    assert!(
        text.contains("CLOUD_MQTT_VERSION") && text.contains("5 or 3.1.1"),
        "{text}"
    );
}

#[test]
fn the_clouds_quotas_have_defaults_and_zero_lifts_them() {
    assert_eq!(
        config(&[]).quota.to_string(),
        "CLOUD_PUBLISH_RATE=100 CLOUD_BYTE_RATE=524288"
    );
    let set = config(&[("CLOUD_PUBLISH_RATE", "0"), ("CLOUD_BYTE_RATE", "1000")]).quota;
    assert_eq!(
        (set.publishes_per_s, set.bytes_per_s),
        (None, NonZeroU64::new(1_000))
    );
    let text = faults(&[("CLOUD_PUBLISH_RATE", "-1"), ("CLOUD_BYTE_RATE", "1.5")]).to_string();
    assert!(
        text.contains("CLOUD_PUBLISH_RATE") && text.contains("CLOUD_BYTE_RATE"),
        "{text}"
    );
}

#[test]
fn topics_of_other_clouds_keep_to_the_rules_of_mqtt_only() {
    let deep = "1/2/3/4/5/6/7/8/9";
    let routes = config(&[("CLOUD_PROVIDER", "AZURE"), ("CLOUD_CONSUMER_TOPIC", deep)]).routes;
    assert_eq!(routes, Routes::new("sensors", deep));
}

#[test]
fn clearblade_has_its_own_defaults_and_limits() {
    let defaults = config(&[("CLOUD_PROVIDER", "GCP")]);
    assert_eq!(defaults.routes, Routes::new("sensors", "events"));
    let host = CloudConfig::Gcp("mqtt.googleapis.com".to_owned());
    assert_eq!(defaults.cloud, Some(host));
    // What follows a short lifetime down unless it is set is no fault.
    config(&[("GCP_TOKEN_LIFETIME", "10")]);
    let errors = faults(&[("GCP_TOKEN_LIFETIME", "10"), ("GCP_RENEWAL_START", "10")]);
    assert!(
        errors
            .to_string()
            .starts_with("GCP_RENEWAL_START is \"10\""),
        "{errors}"
    );
}

#[test]
fn readiness_follows_what_is_there() {
    let cloud = ("AWS_DATA_ENDPOINT", "a.b");
    let url = ("PROVISION_URL", "https://example.com/p");
    let (cert, key) = (("AWS_CERT", "c"), ("AWS_PRIVATE_KEY", "k"));
    let uuid = ("BALENA_DEVICE_UUID", "c0ffee");
    let readiness = |pairs: &[(&str, &str)]| config(pairs).readiness();
    let missing = |pairs: &[(&str, &str)]| match readiness(pairs) {
        Readiness::Unconfigured { missing } => missing,
        other => panic!("{other:?}"),
    };
    assert_eq!(readiness(&[cloud, cert, key, uuid]), Readiness::Ready);
    assert_eq!(readiness(&[cloud, url]), Readiness::NeedsCredentials);
    assert_eq!(readiness(&[url]), Readiness::NeedsCredentials);
    assert_eq!(readiness(&[cloud, cert]), Readiness::NeedsCredentials);
    assert_eq!(readiness(&[cloud, key, url]), Readiness::NeedsCredentials);
    assert!(missing(&[cloud]).starts_with("set PROVISION_URL"));
    assert!(!missing(&[cloud]).contains("AWS_DATA_ENDPOINT"));
    assert!(missing(&[cert, key, uuid]).starts_with("set AWS_DATA_ENDPOINT"));
    assert!(missing(&[cloud, cert, key]).starts_with("BALENA_DEVICE_UUID"));
    let azure = ("AZURE_HUB_HOST", "a.b");
    assert!(missing(&[azure]).contains("AZURE_CERT and AZURE_PRIVATE_KEY"));
}
