//! What an error, `Debug` or the summary shows of a secret: nothing.

use super::*;

const SECRET: &str = "hunter2hunter2";
/// Each variable that may hold a secret, with values that are good and that are bad.
const SECRET_BEARERS: &[(&str, &str)] = &[
    ("STATUS_PASSWORD", SECRET),
    ("STATUS_PASSWORD", "hunter2hunter2\u{FFFD}"),
    // No secret: without it the password is a fault.
    ("LOCAL_MQTT_USERNAME", "someone"),
    ("LOCAL_MQTT_PASSWORD", SECRET),
    ("LOCAL_MQTT_PASSWORD", "hunter2hunter2\u{FFFD}"),
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
fn a_token_pasted_into_the_wrong_variable_is_not_shown_whole() {
    let token = format!("0123456789abcdef012{SECRET}");
    for (value, shown) in [
        (token.as_str(), "\"0123456789abcdef012h…\""),
        ("https://a.b/p?token=hunter2", "\"https://a.b/p…\""),
        ("https://me:hunter2@a.b", "\"https…\""),
        ("hunter2@a.b?c", "\"…\""),
    ] {
        for variable in ["AWS_PORT", "LOCAL_MQTT_LISTEN"] {
            let text = faults(&[(variable, value)]).to_string();
            assert!(text.contains(shown) && !text.contains("hunter2"), "{text}");
        }
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
        "route=sensors => sensors ",
        "AWS_CERT=set ",
        "AWS_PRIVATE_KEY=unset ",
        "PROVISION_URL=https://example.com/p?*** ",
        "supervisor=unset",
    ] {
        assert!(summary.contains(part), "{part:?} not in {summary}");
    }
}
