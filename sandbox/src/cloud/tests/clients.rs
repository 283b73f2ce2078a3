//! Who may connect, and a client library of either version that finds what it expects.

use rumqttc::{MqttOptions, QoS, TlsConfiguration, Transport, v5};

use super::device::{Answer, Device, Greeting, client_config, own_config};
use super::*;
use crate::ca::KeyFormat;

#[tokio::test]
async fn a_foreign_certificate_and_no_certificate_are_refused() {
    for version in BOTH {
        let cloud = cloud().await;
        let foreign = CertificateAuthority::new("foreign root").unwrap();
        let identity = foreign.issue_device("device", KeyFormat::Pkcs8).unwrap();
        let trusted = &cloud.hub.authority;
        for config in [
            client_config(trusted, Some(&identity)),
            client_config(trusted, None),
        ] {
            let greeting = Greeting::new(version, "device");
            let mut device = Device::dial(&cloud, greeting, config).await.unwrap();
            assert_eq!(device.answer().await, Answer::Closed);
        }
        assert_eq!(cloud.counts().connects, 0);
        assert_eq!(cloud.counts().refused, 2, "{:?}", cloud.refusals());
    }
}

#[tokio::test]
async fn a_device_that_trusts_another_root_does_not_connect() {
    let cloud = cloud().await;
    let foreign = CertificateAuthority::new("foreign root").unwrap();
    let identity = cloud
        .hub
        .authority
        .issue_device("device", KeyFormat::Sec1)
        .unwrap();
    let config = client_config(&foreign, Some(&identity));
    let greeting = Greeting::new(MqttVersion::V5, "device");
    let dialled = Device::dial(&cloud, greeting, config).await;
    let error = dialled.err().expect("an error").to_string();
    assert!(error.contains("certificate"), "{error}");
}

fn transport(cloud: &Cloud) -> Transport {
    let config = Arc::new(own_config(cloud, "device"));
    Transport::tls_with_config(TlsConfiguration::Rustls(config))
}

#[tokio::test]
async fn a_v4_client_library_publishes_and_is_acknowledged() {
    let cloud = cloud().await;
    let mut options = MqttOptions::new("device", "localhost", cloud.port());
    options.set_transport(transport(&cloud));
    let (client, mut events) = rumqttc::AsyncClient::new(options, 10);
    client
        .publish("t", QoS::AtLeastOnce, false, "hello")
        .await
        .unwrap();
    in_time(async {
        let acked = rumqttc::Event::Incoming(rumqttc::Packet::PubAck(rumqttc::PubAck::new(1)));
        while events.poll().await.unwrap() != acked {}
    })
    .await;
    assert_eq!(payloads(&cloud), ["hello"]);
}

#[tokio::test]
async fn a_v5_client_library_finds_awss_connack_its_puback_and_the_words_of_a_disconnect() {
    use v5::mqttbytes::v5::{ConnAckProperties, Packet, PubAckReason};
    let cloud = cloud().await;
    cloud.set_rules(|rules| rules.denied_topic_prefixes = vec!["denied/".to_owned()]);
    let mut options = v5::MqttOptions::new("device", "localhost", cloud.port());
    options.set_transport(transport(&cloud));
    options.set_keep_alive(Duration::from_hours(1));
    options.set_session_expiry_interval(Some(60));
    let (client, mut events) = v5::AsyncClient::new(options, 10);
    let mut next = async || {
        loop {
            match in_time(events.poll()).await {
                Ok(v5::Event::Incoming(packet)) => return Ok(packet),
                Ok(v5::Event::Outgoing(_)) => {}
                Err(error) => return Err(error),
            }
        }
    };
    let Ok(Packet::ConnAck(connack)) = next().await else {
        panic!("no CONNACK")
    };
    let expected = ConnAckProperties {
        session_expiry_interval: Some(60),
        receive_max: Some(100),
        max_qos: Some(1),
        retain_available: Some(1),
        max_packet_size: Some(149_504),
        assigned_client_identifier: None,
        topic_alias_max: Some(8),
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: Some(1),
        subscription_identifiers_available: Some(0),
        shared_subscription_available: Some(1),
        server_keep_alive: Some(1_200),
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    };
    assert_eq!(connack.properties, Some(expected));
    for (topic, reason) in [
        ("t", PubAckReason::Success),
        ("denied/t", PubAckReason::NotAuthorized),
    ] {
        client
            .publish(topic, v5::mqttbytes::QoS::AtLeastOnce, false, "hello")
            .await
            .unwrap();
        let Ok(Packet::PubAck(puback)) = next().await else {
            panic!("no PUBACK")
        };
        assert_eq!(puback.reason, reason);
    }
    let _second = Device::connected(&cloud, MqttVersion::V5, "device").await;
    let error = next().await.unwrap_err().to_string();
    assert!(error.contains("SessionTakenOver"), "{error}");
    assert!(error.contains(Breach::TakenOver.text()), "{error}");
}
