//! The local broker's doors.

use super::*;

#[test]
fn a_local_user_has_a_name_and_a_password_or_is_a_fault_that_shows_neither_password() {
    let user = ("LOCAL_MQTT_USERNAME", "app");
    let password = ("LOCAL_MQTT_PASSWORD", "geheim");
    let config = config(&[user, password]);
    assert_eq!(config.local.login.as_ref().unwrap().user, "app");
    let summary = config.summary();
    let line = "LOCAL_MQTT_USERNAME=app LOCAL_MQTT_PASSWORD=set LOCAL_MQTT_PASSWORD_FILE=unset LOCAL_MQTT_ACL_FILE=unset";
    assert!(summary.contains(line), "{summary}");
    assert!(!summary.contains("geheim") && !format!("{config:?}").contains("geheim"));
    for (alone, other) in [(user, password), (password, user)] {
        let said = faults(&[alone]).to_string();
        assert!(said.starts_with(alone.0), "{said}");
        assert!(
            said.contains(&format!("{} to be set as well", other.0)),
            "{said}"
        );
        assert!(!said.contains("geheim"), "{said}");
    }
}

#[test]
fn tls_for_local_clients_needs_its_address_certificate_and_key() {
    let read = |names: &[&str]| {
        let value = |name: &&str| match *name {
            "LOCAL_MQTTS_LISTEN" => "0.0.0.0:8883",
            _ => "/data/x.pem",
        };
        let vars = names
            .iter()
            .map(|name| ((*name).to_owned(), value(name).to_owned()));
        Config::from_vars(vars).map(|config| config.summary())
    };
    let (listen, cert, key) = (
        "LOCAL_MQTTS_LISTEN",
        "LOCAL_MQTTS_CERT_PATH",
        "LOCAL_MQTTS_KEY_PATH",
    );
    let summary = read(&[listen, cert, key]).unwrap();
    let line = "LOCAL_MQTTS_LISTEN=0.0.0.0:8883 LOCAL_MQTTS_CERT_PATH=/data/x.pem";
    assert!(summary.contains(line), "{summary}");
    for (names, part) in [
        (&[listen, cert][..], "LOCAL_MQTTS_KEY_PATH to be set"),
        (&[listen], "LOCAL_MQTTS_CERT_PATH and"),
        (&[cert, key], "LOCAL_MQTTS_LISTEN to be set"),
        (
            &["LOCAL_MQTTS_CLIENT_CA_PATH"],
            "LOCAL_MQTTS_LISTEN to be set",
        ),
    ] {
        let said = read(names).unwrap_err().to_string();
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn origins_belong_to_a_listener_for_websocket() {
    let listen = ("LOCAL_MQTT_WS_LISTEN", "0.0.0.0:9001");
    let origins = ("LOCAL_MQTT_WS_ORIGINS", "https://panel.example");
    let summary = |vars: &[(&str, &str)]| config(vars).summary();
    assert!(summary(&[listen]).contains("LOCAL_MQTT_WS_ORIGINS=own"));
    assert!(summary(&[listen, origins]).contains("ORIGINS=https://panel.example"));
    let said = |vars: &[(&str, &str)]| faults(vars).to_string();
    assert!(said(&[origins]).contains("LOCAL_MQTT_WS_LISTEN to be set as well"));
    assert!(said(&[listen, ("LOCAL_MQTT_WS_ORIGINS", "panel")]).contains("comma-separated"));
}
