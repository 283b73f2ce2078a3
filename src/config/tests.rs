use super::*;

fn vars(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn config(pairs: &[(&str, &str)]) -> Config {
    Config::from_vars(vars(pairs)).expect("no faults")
}

fn faults(pairs: &[(&str, &str)]) -> ConfigErrors {
    Config::from_vars(vars(pairs)).expect_err("at least one fault")
}

fn aws(config: &Config) -> &AwsConfig {
    match &config.cloud {
        Some(CloudConfig::Aws(aws)) => aws,
        other => panic!("not AWS: {other:?}"),
    }
}

#[test]
fn an_empty_environment_gives_the_documented_defaults() {
    let config = config(&[]);
    assert_eq!(config.data_dir, PathBuf::from(DEFAULT_DATA_DIR));
    assert_eq!(config.log_level, Level::INFO);
    assert_eq!(config.local.listen.to_string(), DEFAULT_LOCAL_LISTEN);
    assert_eq!(config.log_format, Format::Plain);
    let listen = config.status.listen.map(|address| address.to_string());
    assert_eq!(listen.as_deref(), Some(DEFAULT_STATUS_LISTEN));
    assert_eq!(config.status.password, None);
    assert_eq!(config.routes, Routes::new("sensors", "sensors"));
    assert_eq!(config.provider, Provider::Aws);
    assert_eq!(
        config.device,
        Device {
            uuid: None,
            service: None,
            app: None,
        }
    );
    assert!(config.cloud.is_none() && config.provisioning.is_none() && config.supervisor.is_none());
    let Readiness::Unconfigured { missing } = config.readiness() else {
        panic!("configured")
    };
    for name in [
        "AWS_DATA_ENDPOINT",
        "PROVISION_URL",
        "AWS_CERT and AWS_PRIVATE_KEY",
    ] {
        assert!(missing.contains(name), "{missing}");
    }
}

#[test]
fn white_space_is_trimmed_and_empty_is_unset() {
    let config = config(&[
        ("PRODUCER_TOPIC", "  rooms/1\n"),
        ("CLOUD_CONSUMER_TOPIC", "   "),
        ("DATA_DIR", ""),
        ("AWS_CERT", " \t"),
    ]);
    assert_eq!(config.routes, Routes::new("rooms/1", "sensors"));
    assert_eq!(config.data_dir, PathBuf::from("/data"));
    assert!(config.credentials.missing.contains(&"AWS_CERT"));
}

#[test]
fn names_in_other_cases_are_not_ours_and_the_first_of_two_counts() {
    let config = config(&[
        ("data_dir", "/lower"),
        ("Data_Dir", "/mixed"),
        ("DATA_DIR", "/upper"),
        ("DATA_DIR", "/second"),
    ]);
    assert_eq!(config.data_dir, PathBuf::from("/upper"));
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
fn the_dead_letters_have_a_limit_and_what_is_denied_has_its_time() {
    let default = config(&[]);
    assert_eq!(default.dead_letters_bytes_max, 64 * 1024 * 1024);
    assert_eq!(default.denied_hold, Duration::from_mins(10));
    let set = config(&[
        ("DEAD_LETTERS_MAX_BYTES", "4194304"),
        ("CLOUD_DENIED_HOLD_S", "0"),
    ]);
    assert_eq!(set.dead_letters_bytes_max, 4 * 1024 * 1024);
    assert_eq!(set.denied_hold, Duration::ZERO);
    for part in ["DEAD_LETTERS_MAX_BYTES=4194304", "CLOUD_DENIED_HOLD_S=0"] {
        assert!(set.summary().contains(part), "{}", set.summary());
    }
}

#[test]
fn the_spools_limits_have_defaults_and_can_be_set() {
    assert_eq!(config(&[]).spool, spool::Options::default());
    let set = config(&[
        ("SPOOL_MAX_BYTES", "8388608"),
        ("SPOOL_MIN_FREE_BYTES", "0"),
        ("SPOOL_FULL", "Drop_Oldest"),
        ("SPOOL_LINGER_MS", "0"),
    ]);
    let expected = spool::Options {
        bytes_max: 8 << 20,
        free_bytes_min: 0,
        full: spool::FullPolicy::DropOldest,
        linger: Duration::ZERO,
        ..spool::Options::default()
    };
    assert_eq!(set.spool, expected);
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
fn rules_of_routes_know_the_device_and_the_older_names_work() {
    let routes = config(&[
        (
            "PRODUCER_TOPIC",
            "alarms => $aws/rules/{service}, sensors/#",
        ),
        ("CLOUD_CONSUMER_TOPIC", "{app}/{uuid}/{topic}"),
        ("RESIN_DEVICE_UUID", "c0ffee"),
        ("RESIN_SERVICE_NAME", "relay"),
        ("RESIN_APP_NAME", "greenhouse"),
    ])
    .routes;
    assert_eq!(
        routes.to_string(),
        "alarms -> $aws/rules/relay, sensors/# -> greenhouse/c0ffee/{topic}"
    );
}

#[test]
fn topics_of_other_clouds_keep_to_the_rules_of_mqtt_only() {
    let deep = "1/2/3/4/5/6/7/8/9";
    let routes = config(&[("CLOUD_PROVIDER", "AZURE"), ("CLOUD_CONSUMER_TOPIC", deep)]).routes;
    assert_eq!(routes, Routes::new("sensors", deep));
}

#[test]
fn clearblade_has_its_own_defaults_and_units() {
    let defaults = config(&[("CLOUD_PROVIDER", "GCP")]);
    assert_eq!(defaults.routes, Routes::new("sensors", "events"));
    let Some(CloudConfig::Gcp(gcp)) = &defaults.cloud else {
        panic!("not GCP")
    };
    assert_eq!(gcp.host, "mqtt.googleapis.com");
    assert_eq!(gcp.token_lifetime.as_secs(), 1_440 * 60);
    assert_eq!(gcp.renewal_start.as_secs(), 15 * 60);
    assert_eq!(gcp.connect_timeout.as_secs(), 30);

    let short = config(&[("CLOUD_PROVIDER", "GCP"), ("GCP_TOKEN_LIFETIME", "10")]);
    let Some(CloudConfig::Gcp(gcp)) = &short.cloud else {
        panic!("not GCP")
    };
    assert!(gcp.renewal_start < gcp.token_lifetime);
    let errors = faults(&[("GCP_TOKEN_LIFETIME", "10"), ("GCP_RENEWAL_START", "10")]);
    assert!(
        errors
            .to_string()
            .starts_with("GCP_RENEWAL_START is \"10\""),
        "{errors}"
    );
}

#[test]
fn balena_names_go_before_resin_names() {
    let both = config(&[
        ("BALENA_DEVICE_UUID", "new"),
        ("RESIN_DEVICE_UUID", "old"),
        ("RESIN_SERVICE_NAME", "relay"),
        ("RESIN_SUPERVISOR_ADDRESS", "http://127.0.0.1:48484"),
        ("BALENA_SUPERVISOR_API_KEY", "k"),
        ("SUPERVISOR_FORCE_UPDATE", "TRUE"),
    ]);
    assert_eq!(both.device.uuid.as_deref(), Some("new"));
    assert_eq!(both.device.service.as_deref(), Some("relay"));
    let supervisor = both.supervisor.expect("address and key are there");
    assert_eq!(supervisor.address.authority(), "127.0.0.1:48484");
    assert_eq!(supervisor.key.expose(), "k");
    assert!(supervisor.force_update);
    assert!(
        config(&[("BALENA_SUPERVISOR_ADDRESS", "http://127.0.0.1:1")])
            .supervisor
            .is_none()
    );
    assert!(
        faults(&[("RESIN_DEVICE_UUID", "a/b")])
            .to_string()
            .starts_with("RESIN_DEVICE_UUID is")
    );
}

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
        ("PRODUCER_TOPIC", "a, b/#/c => x", "of rule 2 (b/#/c => x)"),
        ("PRODUCER_TOPIC", "a => b/+", "no wildcards"),
        ("PRODUCER_TOPIC", "a => b => c", "one => only"),
        ("PRODUCER_TOPIC", "a,", "between any two commas"),
        ("PRODUCER_TOPIC", "a => {app}", "BALENA_APP_NAME to be set"),
        ("PRODUCER_TOPIC", "$SYS/x", "do not start with $"),
        ("PRODUCER_TOPIC", "a, $SYS/x", "\"$SYS/x\" does"),
        ("PRODUCER_TOPIC", "a => b {pack:xml}", "{pack:json} or"),
        ("PACK_MAX_BYTES", "131073", "bytes from 256 to 131072"),
        ("PACK_MAX_MS", "60001", "milliseconds from 0 to 60000"),
        ("CLOUD_CONSUMER_TOPIC", "{topic", "a } for every {"),
        (
            "CLOUD_CONSUMER_TOPIC",
            "{topic:2}",
            "rule 1 of PRODUCER_TOPIC: sensors",
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

/// Each variable that may hold a secret, with values that are good and that are bad.
const SECRET: &str = "hunter2hunter2";
const SECRET_BEARERS: &[(&str, &str)] = &[
    ("STATUS_PASSWORD", SECRET),
    ("STATUS_PASSWORD", "hunter2hunter2\u{FFFD}"),
    // Not a secret's place, but it sounds like one.
    ("PROVISION_KEY", SECRET),
    ("AWS_CERT", SECRET),
    ("AWS_CERT", "hunter2hunter2\u{FFFD}"),
    ("AWS_PRIVATE_KEY", SECRET),
    ("AWS_PRIVATE_KEY", "hunter2hunter2\u{FFFD}"),
    ("AZURE_CERT", SECRET),
    ("AZURE_PRIVATE_KEY", SECRET),
    ("GCP_PRIVATE_KEY", SECRET),
    ("GCP_PRIVATE_KEY", "hunter2hunter2\u{FFFD}"),
    ("BALENA_SUPERVISOR_API_KEY", SECRET),
    ("BALENA_SUPERVISOR_API_KEY", "hunter2hunter2\u{FFFD}"),
    (
        "BALENA_SUPERVISOR_ADDRESS",
        "http://x:hunter2hunter2@127.0.0.1/?apikey=hunter2hunter2",
    ),
    (
        "BALENA_SUPERVISOR_ADDRESS",
        "127.0.0.1?apikey=hunter2hunter2",
    ),
    (
        "PROVISION_URL",
        "https://x:hunter2hunter2@example.com/p?token=hunter2hunter2",
    ),
    ("PROVISION_URL", "example.com/p?token=hunter2hunter2"),
    ("PROVISION_URL", "ftp://hunter2hunter2@example.com"),
];

#[test]
fn no_secret_shows_in_any_error_debug_output_or_summary() {
    // Every pair of them together, alone and with a fault elsewhere, under every provider.
    for first in SECRET_BEARERS {
        for second in SECRET_BEARERS {
            for (other, value) in [
                ("CLOUD_PROVIDER", "AWS"),
                ("CLOUD_PROVIDER", "AZURE"),
                ("CLOUD_PROVIDER", "GCP"),
                ("AWS_PORT", "x"),
            ] {
                let hosts = [("AWS_DATA_ENDPOINT", "a.b"), ("AZURE_HUB_HOST", "c.d")];
                let pairs = [*first, *second, (other, value), hosts[0], hosts[1]];
                let shown = match Config::from_vars(vars(&pairs)) {
                    Ok(config) => {
                        format!("{config:?} {} {:?}", config.summary(), config.readiness())
                    }
                    Err(errors) => format!("{errors} {errors:?}"),
                };
                assert!(!shown.contains("hunter2"), "{first:?} {second:?}: {shown}");
            }
        }
    }
}

#[test]
fn a_key_pasted_into_the_wrong_variable_shows_only_its_header() {
    let header = "LS0tLS1CRUdJTiBSU0EgUFJJVkFURSBLRVktLS0tLQ";
    let pasted = format!("{header}{SECRET}");
    let text = faults(&[("AWS_PORT", pasted.as_str())]).to_string();
    assert!(!text.contains("hunter2") && text.contains('…'), "{text}");
}

#[test]
fn the_status_page_can_be_off_or_elsewhere_and_the_log_json() {
    let config = config(&[("STATUS_LISTEN", "OFF"), ("LOG_FORMAT", "JSON")]);
    assert_eq!(
        (config.status.listen, config.log_format),
        (None, Format::Json)
    );
    let summary = config.summary();
    assert!(summary.contains("STATUS_LISTEN=off ") && summary.contains("LOG_FORMAT=json "));
    for (name, value) in [
        ("STATUS_LISTEN", "9180"),
        ("STATUS_LISTEN", "no"),
        ("STATUS_LISTEN", "relay:9180"),
        ("LOG_FORMAT", "xml"),
    ] {
        let text = faults(&[(name, value)]).to_string();
        assert!(text.contains(name) && text.contains(value), "{text}");
    }
}

#[test]
fn the_summary_is_one_line_that_tells_secrets_only_as_set_or_unset() {
    let summary = config(&[
        ("AWS_DATA_ENDPOINT", "a.b"),
        ("AWS_CERT", SECRET),
        ("PROVISION_URL", "https://example.com/p?token=1"),
        ("BALENA_DEVICE_UUID", "c0ffee"),
    ])
    .summary();
    assert_eq!(summary.lines().count(), 1);
    for part in [
        "DATA_DIR=/data ",
        "device=c0ffee ",
        "provider=AWS ",
        "cloud=a.b:8883 roots=built-in ",
        "route=sensors -> sensors ",
        "AWS_CERT=set ",
        "AWS_PRIVATE_KEY=unset ",
        "PROVISION_URL=https://example.com/p?*** ",
        "supervisor=unset ",
    ] {
        assert!(summary.contains(part), "{part:?} not in {summary}");
    }
}

mod key_maker;
mod local;
