//! What is published on the device arrives in the cloud: through the sandbox's cloud, and through a
//! foreign one, Debian's mosquitto over mutual TLS.

mod common;

use std::sync::Arc;

use cloud_relay::cloud::tls::client_config;
use cloud_relay::credentials::{CredentialNames, Credentials};
use cloud_relay::secret::Secret;
use cloud_relay_sandbox::ca::{CertificateAuthority, KeyFormat};
use cloud_relay_sandbox::ledger::{MessageId, audit};
use cloud_relay_sandbox::publisher::{Load, Publisher, publish_load};
use cloud_relay_sandbox::relay::RelayProcess;
use cloud_relay_sandbox::site::{PATIENCE, Site};

use tokio_rustls::{TlsAcceptor, TlsConnector};

use common::mosquitto::{Key, MosquittoCloud};
use common::{RELAY, started};

/// Room for a TLS handshake between two ends in memory.
const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;
/// Messages of each of the two publishers of the big run.
const EACH: u64 = 5_000;

/// Two publishers at once; the ids of what they got acknowledged, which is everything.
async fn publish_two(relay: &RelayProcess, topic: &str) -> Vec<MessageId> {
    let loads = [1, 2].map(|publisher| Load::new(publisher, topic, EACH));
    let [first, second] = &loads;
    let broker = relay.listen_addr();
    let (one, two) = tokio::join!(publish_load(broker, first), publish_load(broker, second));
    let mut acked = Vec::new();
    for (report, load) in [one, two].into_iter().zip(&loads) {
        let report = report.expect("the publisher connects");
        assert!(report.is_complete(load), "{:?}", report.broken);
        acked.extend(report.acked);
    }
    acked
}

#[tokio::test]
async fn mosquitto_gets_ten_thousand_messages_of_two_publishers_complete_and_in_order() {
    let cloud = MosquittoCloud::start().await;
    let environment = cloud.relay_environment(Key::RsaPkcs8).await;
    let count = (2 * EACH).to_string();
    let subscriber = cloud
        .subscriber(&["-q", "1", "-t", "sensors", "-C", &count])
        .await;
    let relay = started(&environment).await;

    let acked = publish_two(&relay, "sensors").await;

    let printed = common::ended_well(&subscriber).await;
    let payloads = printed.iter().filter(|line| line.starts_with('{'));
    let found = audit(acked, payloads.map(String::as_bytes));
    assert!(found.is_exact(), "{found}");
    assert_eq!(found.arrived, 10_000);
}

#[tokio::test]
async fn the_cloud_gets_ten_thousand_messages_of_two_publishers_complete_and_in_order() {
    let site = Site::started(RELAY).await.unwrap();
    let acked = publish_two(site.relay(), "sensors").await;
    site.arrived(&acked).await.unwrap();
    let found = site.cloud().audit(&acked);
    assert!(found.is_exact(), "{found}");
    assert_eq!(found.arrived, 10_000);
    assert!(
        site.cloud().breaches().is_empty(),
        "{:?}",
        site.cloud().breaches()
    );
}

#[tokio::test]
async fn keys_in_pkcs1_pkcs8_and_sec1_all_connect() {
    let cloud = MosquittoCloud::start().await;
    for key in [Key::RsaPkcs1, Key::RsaPkcs8, Key::EcSec1] {
        let environment = cloud.relay_environment(key).await;
        let subscriber = cloud
            .subscriber(&["-q", "1", "-t", "sensors", "-C", "1"])
            .await;
        let relay = started(&environment).await;
        let payload = format!(r#"{{"temperature": 21.5, "unit": "°C", "note": "a \"{key:?}\""}}"#);
        let port = relay.listen_addr().port();
        common::mosquitto_pub(port, &["-q", "1", "-t", "sensors", "-m", &payload]).await;
        let printed = common::ended_well(&subscriber).await;
        assert!(printed.contains(&payload), "{key:?}: {printed:?}");
    }
}

#[tokio::test]
async fn every_qos_arrives_at_qos_1_under_the_cloud_topic_and_without_the_retain_flag() {
    let site = Site::new(RELAY).await.unwrap();
    let changes = [
        ("PRODUCER_TOPIC", "lab/°C"),
        ("CLOUD_CONSUMER_TOPIC", "fleet/lab"),
    ];
    site.start_with(&site.environment_with(changes))
        .await
        .unwrap();
    let port = site.relay().listen_addr().port();
    for qos in ["0", "1", "2"] {
        common::mosquitto_pub(port, &["-q", qos, "-r", "-t", "lab/°C", "-m", qos]).await;
    }
    site.cloud().wait_for(3, PATIENCE).await.unwrap();
    let received = site.cloud().received();
    let mut payloads: Vec<&[u8]> = received.iter().map(|message| &*message.payload).collect();
    payloads.sort_unstable();
    assert_eq!(payloads, [b"0", b"1", b"2"]);
    for message in &received {
        assert_eq!(&*message.topic, "fleet/lab");
        assert_eq!(
            (message.qos, message.retain, message.dup),
            (1, false, false)
        );
    }
}

#[tokio::test]
async fn payloads_of_any_bytes_and_sizes_arrive_as_they_were() {
    let site = Site::started(RELAY).await.unwrap();
    let every_byte: Vec<u8> = (0..=255).collect();
    // AWS's largest payload
    let largest = vec![0xa5; cloud_relay_sandbox::cloud::PAYLOAD_BYTES_MAX];
    let payloads: [&[u8]; 4] = [b"", b"\0", &every_byte, &largest];
    let mut publisher = Publisher::connect(site.relay().listen_addr(), "bytes")
        .await
        .unwrap();
    for payload in payloads {
        publisher.publish("sensors", payload, 1).await.unwrap();
    }
    site.cloud()
        .wait_for(payloads.len(), PATIENCE)
        .await
        .unwrap();
    let received = site.cloud().received();
    for (message, payload) in received.iter().zip(payloads) {
        assert!(message.payload == payload, "{} bytes", payload.len());
    }
}

/// Not the real program: port 443 is the only one with ALPN, and an ordinary user may not listen there.
#[tokio::test]
async fn only_on_port_443_mqtt_is_asked_for_by_alpn() {
    let authority = CertificateAuthority::new("ALPN root").unwrap();
    let root = tempfile::NamedTempFile::new().unwrap();
    authority.write_root(root.path()).unwrap();
    let device = authority.issue_device("device", KeyFormat::Sec1).unwrap();
    let [cert, key] = [device.certificate_base64(), device.private_key_base64()].map(Secret::new);
    let credentials = Credentials::from_base64_pem(&cert, &key, CredentialNames::AWS).unwrap();

    let server = authority.issue_server().unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![server.certificate], server.private_key)
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"x-amzn-mqtt-ca".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));

    for (port, expected) in [(443, Some(&b"x-amzn-mqtt-ca"[..])), (8883, None)] {
        let client = client_config(&credentials, Some(root.path()), port).unwrap();
        let (near, far) = tokio::io::duplex(HANDSHAKE_BYTES_MAX);
        let name = "localhost".try_into().unwrap();
        let connect = TlsConnector::from(client).connect(name, near);
        let (connected, accepted) = tokio::join!(connect, acceptor.accept(far));
        connected.unwrap();
        let accepted = accepted.unwrap();
        assert_eq!(
            accepted.get_ref().1.alpn_protocol(),
            expected,
            "port {port}"
        );
    }
}
