//! What the environment comes to. Each file asks a question of it; here: the defaults, and whose name counts.

mod clouds;
mod faults;
mod key_maker;
mod local;
mod secrets;

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

#[test]
fn an_empty_environment_gives_the_documented_defaults() {
    let config = config(&[]);
    assert_eq!(config.data_dir, PathBuf::from(DEFAULT_DATA_DIR));
    assert_eq!(config.log_level, Level::INFO);
    assert_eq!(config.local.listen.to_string(), "127.0.0.1:1883");
    assert_eq!(config.log_format, Format::Plain);
    let listen = config.status.listen.map(|address| address.to_string());
    assert_eq!(listen.as_deref(), Some("127.0.0.1:9180"));
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
        "alarms => $aws/rules/relay, sensors/# => greenhouse/c0ffee/{topic}"
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

/// Each variable that is read, but for the older names of some.
fn names_of_variables() -> Vec<String> {
    let lines = include_str!("raw.rs").lines();
    let names = lines.filter_map(|line| Some(line.split_once(": Option<String>,")?.0));
    let names = names.filter_map(|name| name.split_whitespace().last());
    let names = names.map(str::to_ascii_uppercase);
    let names: Vec<_> = names.filter(|name| !name.starts_with("RESIN_")).collect();
    assert!(names.len() > 50, "{names:?}");
    names
}

#[test]
fn the_readme_names_every_variable() {
    let rows = include_str!("../../README.md").lines();
    let cells = rows.filter_map(|row| row.strip_prefix('|')?.split('|').next());
    let cells: String = cells.collect();
    for name in names_of_variables() {
        let documented = cells.contains(&format!("`{name}`"));
        assert!(documented, "{name} has no row in README.md, Variables");
    }
}

#[test]
fn the_summary_tells_of_every_variable() {
    /// What it tells in other words: who the device is, its cloud, its routes, and how to reach the Supervisor.
    const IN_OTHER_WORDS: [&str; 16] = [
        "PRODUCER_TOPIC",
        "CLOUD_CONSUMER_TOPIC",
        "CLOUD_PROVIDER",
        "AWS_DATA_ENDPOINT",
        "AWS_PORT",
        "AWS_ROOT_CA_PATH",
        "AZURE_HUB_HOST",
        "GCP_TOKEN_LIFETIME",
        "GCP_RENEWAL_START",
        "MESSAGING_HOST",
        "CONNECT_TIMEOUT_SEC",
        "BALENA_DEVICE_UUID",
        "BALENA_SERVICE_NAME",
        "BALENA_APP_NAME",
        "BALENA_SUPERVISOR_ADDRESS",
        "BALENA_SUPERVISOR_API_KEY",
    ];
    let set = [
        ("BALENA_SUPERVISOR_ADDRESS", "http://127.0.0.1:1"),
        ("BALENA_SUPERVISOR_API_KEY", "key"),
        ("LOCAL_MQTT_WS_LISTEN", "127.0.0.1:9001"),
        ("LOCAL_MQTTS_LISTEN", "127.0.0.1:8883"),
        ("LOCAL_MQTTS_CERT_PATH", "/cert"),
        ("LOCAL_MQTTS_KEY_PATH", "/key"),
    ];
    let summaries = ["AWS", "AZURE", "GCP"].map(|provider| {
        let provider = ("CLOUD_PROVIDER", provider);
        config(&[&set[..], &[provider]].concat()).summary()
    });
    let summaries = summaries.join(" ");
    let told = |name: &str| summaries.contains(&format!("{name}="));
    let names = names_of_variables();
    let untold = names.iter().filter(|name| !told(name));
    let untold: Vec<_> = untold.map(String::as_str).collect();
    assert_eq!(
        untold, IN_OTHER_WORDS,
        "src/config/summary.rs tells of what is set"
    );
}
