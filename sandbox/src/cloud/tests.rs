use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS,
    TlsConfiguration, Transport,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::*;
use crate::ca::{DeviceIdentity, KeyFormat};
use crate::ledger::{MessageId, audit};

const PATIENCE: Duration = Duration::from_secs(10);

/// A device with a rumqttc client; nothing happens unless it is polled.
struct Device {
    client: AsyncClient,
    events: EventLoop,
}

fn client_config(
    trusted: &CertificateAuthority,
    identity: Option<&DeviceIdentity>,
) -> rustls::ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.root_der().clone()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(crate::crypto_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let Some(identity) = identity else {
        return builder.with_no_client_auth();
    };
    let chain: Vec<CertificateDer<'static>> =
        rustls_pemfile::certs(&mut identity.certificate_pem.as_bytes())
            .map(Result::unwrap)
            .collect();
    let key: PrivateKeyDer<'static> =
        rustls_pemfile::private_key(&mut identity.private_key_pem.as_bytes())
            .unwrap()
            .unwrap();
    builder.with_client_auth_cert(chain, key).unwrap()
}

impl Device {
    fn new(cloud: &Cloud, client_id: &str, config: rustls::ClientConfig) -> Self {
        let mut options = MqttOptions::new(client_id, "localhost", cloud.port());
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(
            Arc::new(config),
        )));
        options.set_max_packet_size(1 << 20, 1 << 20);
        options.set_inflight(200);
        options.set_keep_alive(Duration::from_secs(5));
        let (client, events) = AsyncClient::new(options, 1_000);
        Device { client, events }
    }

    /// A device that `cloud` must accept.
    async fn connected(cloud: &Cloud, client_id: &str) -> Self {
        let authority = &cloud.hub.authority;
        let identity = authority.issue_device(client_id, KeyFormat::Pkcs8).unwrap();
        let mut device = Device::new(cloud, client_id, client_config(authority, Some(&identity)));
        device
            .until(|event| matches!(event, Event::Incoming(Packet::ConnAck(_))))
            .await
            .unwrap();
        device
    }

    /// Polls until an event of interest, an error, or [`PATIENCE`] ends.
    async fn until(
        &mut self,
        mut wanted: impl FnMut(&Event) -> bool,
    ) -> Result<Event, ConnectionError> {
        let poll = async {
            loop {
                let event = self.events.poll().await?;
                if wanted(&event) {
                    return Ok(event);
                }
            }
        };
        timeout(poll).await
    }

    async fn publish(&self, topic: &str, qos: QoS, payload: impl Into<Vec<u8>>) {
        self.client
            .publish(topic, qos, false, payload)
            .await
            .unwrap();
    }

    async fn next_puback(&mut self) -> Result<u16, ConnectionError> {
        match self
            .until(|event| matches!(event, Event::Incoming(Packet::PubAck(_))))
            .await?
        {
            Event::Incoming(Packet::PubAck(puback)) => Ok(puback.pkid),
            other => panic!("not a PUBACK: {other:?}"),
        }
    }

    async fn sent(&mut self) {
        self.until(|event| matches!(event, Event::Outgoing(Outgoing::Publish(_))))
            .await
            .unwrap();
    }

    /// Polls until the connection ends.
    async fn until_closed(&mut self) -> ConnectionError {
        self.until(|_| false).await.unwrap_err()
    }
}

async fn timeout<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("in time")
}

async fn cloud() -> Cloud {
    let authority = Arc::new(CertificateAuthority::new("sandbox root").unwrap());
    Cloud::start(CloudOptions::new(authority)).await.unwrap()
}

fn payloads(cloud: &Cloud) -> Vec<String> {
    let text = |message: Received| String::from_utf8(message.payload.to_vec()).unwrap();
    cloud.received().into_iter().map(text).collect()
}

#[tokio::test]
async fn a_device_with_a_certificate_publishes_and_the_books_show_it() {
    let cloud = cloud().await;
    let mut live = cloud.follow();
    let mut device = Device::connected(&cloud, "device-1").await;
    device.publish("a/b", QoS::AtLeastOnce, "hello").await;
    device.next_puback().await.unwrap();
    let received = cloud.received();
    assert_eq!(received.len(), 1);
    assert_eq!(
        (&*received[0].topic, &*received[0].client_id),
        ("a/b", "device-1")
    );
    assert_eq!(
        (&received[0].payload[..], received[0].qos),
        (&b"hello"[..], 1)
    );
    assert_eq!(live.recv().await.unwrap().payload, "hello");
    assert_eq!(cloud.client_ids(), ["device-1"]);
}

#[tokio::test]
async fn waiting_for_messages_ends_when_all_have_arrived_and_names_what_has_not() {
    let cloud = cloud().await;
    let mut device = Device::connected(&cloud, "device-1").await;
    let ids = [1, 2].map(|seq| MessageId { publisher: 7, seq });
    let [first, second] = ids;
    device
        .publish("t", QoS::AtLeastOnce, r#"{"publisher":7,"seq":2}"#)
        .await;
    device.next_puback().await.unwrap();
    cloud.wait_for_messages(&[second], PATIENCE).await.unwrap();
    let missing = cloud
        .wait_for_messages(&ids, Duration::from_millis(1))
        .await
        .unwrap_err();
    assert_eq!((missing.missing, missing.expected), (vec![first], 2));
    assert_eq!(cloud.audit(&ids).missing, [first]);
}

#[tokio::test]
async fn a_foreign_certificate_and_no_certificate_are_refused() {
    let cloud = cloud().await;
    let foreign = CertificateAuthority::new("foreign root").unwrap();
    let identity = foreign.issue_device("device-1", KeyFormat::Pkcs8).unwrap();
    let trusted = &cloud.hub.authority;
    for config in [
        client_config(trusted, Some(&identity)),
        client_config(trusted, None),
    ] {
        Device::new(&cloud, "device-1", config).until_closed().await;
    }
    assert_eq!(cloud.counts().connects, 0);
    assert_eq!(cloud.counts().refused, 2, "{:?}", cloud.refusals());
}

#[tokio::test]
async fn a_device_that_trusts_another_root_does_not_connect() {
    let cloud = cloud().await;
    let foreign = CertificateAuthority::new("foreign root").unwrap();
    let identity = cloud
        .hub
        .authority
        .issue_device("device-1", KeyFormat::Sec1)
        .unwrap();
    let mut device = Device::new(&cloud, "device-1", client_config(&foreign, Some(&identity)));
    assert!(matches!(
        device.until_closed().await,
        ConnectionError::Tls(_)
    ));
}

#[tokio::test]
async fn each_broken_rule_closes_the_connection_and_is_written_down() {
    let cloud = cloud().await;
    cloud.set_rules(|rules| rules.denied_topic_prefixes = vec!["denied/".to_owned()]);
    let big = vec![b'x'; PAYLOAD_BYTES_MAX + 1];
    let cases = [
        ("t", QoS::AtLeastOnce, big, Breach::PayloadTooLarge),
        (
            "1/2/3/4/5/6/7/8/9",
            QoS::AtLeastOnce,
            vec![],
            Breach::TooManySlashes,
        ),
        ("t", QoS::ExactlyOnce, vec![], Breach::Qos2),
        ("denied/t", QoS::AtLeastOnce, vec![], Breach::DeniedTopic),
    ];
    for (number, (topic, qos, payload, breach)) in cases.into_iter().enumerate() {
        let mut device = Device::connected(&cloud, &format!("device-{number}")).await;
        device.publish("good", QoS::AtLeastOnce, "before").await;
        device.publish(topic, qos, payload).await;
        device.until_closed().await;
        assert_eq!(cloud.breaches().last(), Some(&breach));
        assert_eq!(
            cloud.received_count(),
            number + 1,
            "what came before {breach} is kept"
        );
    }
}

#[tokio::test]
async fn subscribing_closes_the_connection_unless_it_is_allowed() {
    let cloud = cloud().await;
    let mut device = Device::connected(&cloud, "device-1").await;
    device
        .client
        .subscribe("t", QoS::AtLeastOnce)
        .await
        .unwrap();
    device.until_closed().await;
    assert_eq!(cloud.breaches(), [Breach::Subscribe]);

    cloud.set_rules(|rules| rules.refuse_subscribe = false);
    let mut device = Device::connected(&cloud, "device-2").await;
    device
        .client
        .subscribe("t", QoS::AtLeastOnce)
        .await
        .unwrap();
    device
        .until(|event| matches!(event, Event::Incoming(Packet::SubAck(_))))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_second_connection_with_the_same_client_id_ends_the_first() {
    let cloud = cloud().await;
    let mut first = Device::connected(&cloud, "device-1").await;
    let _second = Device::connected(&cloud, "device-1").await;
    first.until_closed().await;
    assert_eq!(cloud.breaches(), [Breach::TakenOver]);
    assert_eq!(cloud.client_ids(), ["device-1"]);
}

#[tokio::test]
async fn a_client_id_that_is_not_the_common_name_is_refused_when_that_is_the_rule() {
    let cloud = cloud().await;
    cloud.set_rules(|rules| rules.client_id_is_common_name = true);
    let authority = &cloud.hub.authority;
    let identity = authority
        .issue_device("device-1", KeyFormat::Pkcs8)
        .unwrap();
    let mut impostor = Device::new(&cloud, "other", client_config(authority, Some(&identity)));
    assert!(matches!(
        impostor.until_closed().await,
        ConnectionError::ConnectionRefused(_)
    ));
    assert_eq!(cloud.breaches(), [Breach::ClientId]);
    Device::connected(&cloud, "device-1").await;
}

#[tokio::test]
async fn held_acks_come_after_their_release_and_too_many_close_the_connection() {
    let cloud = cloud().await;
    cloud.set_faults(|faults| faults.hold_acks = true);
    let mut device = Device::connected(&cloud, "device-1").await;
    for number in 0..IN_FLIGHT_MAX {
        device
            .publish("t", QoS::AtLeastOnce, number.to_string())
            .await;
        device.sent().await;
    }
    cloud.wait_for(IN_FLIGHT_MAX, PATIENCE).await.unwrap();
    cloud.set_faults(|faults| faults.hold_acks = false);
    for number in 1..=IN_FLIGHT_MAX {
        assert_eq!(usize::from(device.next_puback().await.unwrap()), number);
    }
    cloud.set_faults(|faults| faults.hold_acks = true);
    for number in 0..=IN_FLIGHT_MAX {
        device
            .publish("t", QoS::AtLeastOnce, format!("more {number}"))
            .await;
    }
    device.until_closed().await;
    assert_eq!(cloud.breaches(), [Breach::InFlightExceeded]);
}

#[tokio::test]
async fn a_delayed_ack_comes_no_sooner_than_told() {
    let cloud = cloud().await;
    let delay = Duration::from_millis(100);
    cloud.set_faults(|faults| faults.ack_delay = delay);
    let mut device = Device::connected(&cloud, "device-1").await;
    let began = std::time::Instant::now();
    device.publish("t", QoS::AtLeastOnce, "slow").await;
    device.next_puback().await.unwrap();
    assert!(began.elapsed() >= delay);
}

#[tokio::test]
async fn acks_come_in_reversed_groups() {
    let cloud = cloud().await;
    cloud.set_faults(|faults| {
        faults.reverse_acks_in_groups_of = NonZeroU32::new(3);
        faults.hold_acks = true;
    });
    let mut device = Device::connected(&cloud, "device-1").await;
    for number in 0..3 {
        device
            .publish("t", QoS::AtLeastOnce, number.to_string())
            .await;
        device.sent().await;
    }
    cloud.wait_for(3, PATIENCE).await.unwrap();
    cloud.set_faults(|faults| faults.hold_acks = false);
    let mut acked = Vec::new();
    for _ in 0..3 {
        acked.push(device.next_puback().await.unwrap());
    }
    assert_eq!(acked, [3, 2, 1]);
}

#[tokio::test]
async fn every_nth_publish_and_every_nth_puback_are_lost() {
    let cloud = cloud().await;
    cloud.set_faults(|faults| {
        faults.lose_every_nth_publish = NonZeroU32::new(2);
        faults.lose_every_nth_puback = NonZeroU32::new(3);
    });
    let mut device = Device::connected(&cloud, "device-1").await;
    for number in 1..=5 {
        device
            .publish("t", QoS::AtLeastOnce, number.to_string())
            .await;
    }
    assert_eq!(device.next_puback().await.unwrap(), 1);
    assert_eq!(device.next_puback().await.unwrap(), 5);
    assert_eq!(payloads(&cloud), ["1", "3", "5"]);
    let counts = cloud.counts();
    assert_eq!((counts.lost_publishes, counts.lost_pubacks), (2, 1));
}

#[tokio::test]
async fn publishes_above_the_rate_are_dropped_silently() {
    let cloud = cloud().await;
    cloud.set_rules(|rules| rules.publish_rate_max = Some(2));
    let mut device = Device::connected(&cloud, "device-1").await;
    for number in 1..=10 {
        device
            .publish("t", QoS::AtLeastOnce, number.to_string())
            .await;
        device.sent().await;
    }
    device.client.disconnect().await.unwrap();
    device.until_closed().await;
    let counts = cloud.counts();
    assert_eq!(counts.messages + counts.lost_publishes, 10);
    assert!(counts.lost_publishes >= 4, "{counts:?}");
}

#[tokio::test]
async fn refused_and_closed_connections_are_counted_and_work_again_afterwards() {
    let cloud = cloud().await;
    let identity = cloud
        .hub
        .authority
        .issue_device("device-1", KeyFormat::Pkcs8)
        .unwrap();
    for connections in [Connections::Close, Connections::RefuseConnack] {
        cloud.set_faults(|faults| faults.connections = connections);
        let config = client_config(&cloud.hub.authority, Some(&identity));
        Device::new(&cloud, "device-1", config).until_closed().await;
    }
    assert_eq!((cloud.counts().connects, cloud.counts().refused), (0, 2));
    cloud.set_faults(|faults| *faults = Faults::default());
    Device::connected(&cloud, "device-1").await;
}

#[tokio::test]
async fn a_frozen_cloud_answers_nothing_until_it_thaws() {
    let cloud = cloud().await;
    let mut device = Device::connected(&cloud, "device-1").await;
    cloud.set_faults(|faults| faults.connections = Connections::Freeze);
    let identity = cloud
        .hub
        .authority
        .issue_device("device-2", KeyFormat::Pkcs8)
        .unwrap();
    let config = client_config(&cloud.hub.authority, Some(&identity));
    let mut newcomer = Device::new(&cloud, "device-2", config);
    device.publish("t", QoS::AtLeastOnce, "cold").await;
    let silence = Duration::from_millis(200);
    tokio::time::timeout(silence, device.next_puback())
        .await
        .unwrap_err();
    tokio::time::timeout(silence, newcomer.until(|_| true))
        .await
        .unwrap_err();
    assert_eq!(cloud.received_count(), 0);
    assert_eq!(cloud.counts().refused, 0);
    cloud.set_faults(|faults| faults.connections = Connections::Accept);
    device.next_puback().await.unwrap();
    assert_eq!(payloads(&cloud), ["cold"]);
}

#[tokio::test]
async fn a_missing_pingresp_is_noticed_by_the_client() {
    let cloud = cloud().await;
    cloud.set_faults(|faults| faults.no_pingresp = true);
    let authority = &cloud.hub.authority;
    let identity = authority
        .issue_device("device-1", KeyFormat::Pkcs8)
        .unwrap();
    let mut device = Device::new(
        &cloud,
        "device-1",
        client_config(authority, Some(&identity)),
    );
    device
        .events
        .mqtt_options
        .set_keep_alive(Duration::from_secs(1));
    device
        .until(|event| matches!(event, Event::Outgoing(Outgoing::PingReq)))
        .await
        .unwrap();
    let answered = device
        .until(|event| matches!(event, Event::Incoming(Packet::PingResp)))
        .await;
    assert!(answered.is_err(), "{answered:?}");
}

#[tokio::test]
async fn connections_are_kicked_at_once_and_in_an_interval() {
    let cloud = cloud().await;
    let mut device = Device::connected(&cloud, "device-1").await;
    assert_eq!(cloud.drop_connections(), 1);
    device.until_closed().await;
    cloud.set_faults(|faults| faults.kick_every = Some(Duration::from_millis(50)));
    Device::connected(&cloud, "device-1")
        .await
        .until_closed()
        .await;
    assert_eq!(cloud.breaches(), []);
}

#[tokio::test]
async fn an_outage_closes_everything_and_ends_on_the_same_port_with_the_same_books() {
    let cloud = cloud().await;
    let mut device = Device::connected(&cloud, "device-1").await;
    device.publish("t", QoS::AtLeastOnce, "before").await;
    device.next_puback().await.unwrap();
    let port = cloud.port();
    cloud.stop().await.unwrap();
    cloud.stop().await.unwrap();
    device.until_closed().await;
    assert!(tokio::net::TcpStream::connect(cloud.addr()).await.is_err());
    cloud.resume().await.unwrap();
    cloud.resume().await.unwrap();
    assert_eq!(cloud.port(), port);
    let mut device = Device::connected(&cloud, "device-1").await;
    device.publish("t", QoS::AtLeastOnce, "after").await;
    device.next_puback().await.unwrap();
    assert_eq!(payloads(&cloud), ["before", "after"]);
    cloud.wait_for_connects(2, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn the_books_find_a_lost_a_repeated_and_a_disordered_message() {
    let cloud = cloud().await;
    let ids = [1, 2, 3, 4].map(|seq| MessageId { publisher: 1, seq });
    let mut device = Device::connected(&cloud, "device-1").await;
    for at in [0, 2, 1, 0] {
        let mut payload = Vec::new();
        ids[at].write_to(&mut payload);
        device.publish("t", QoS::AtLeastOnce, payload).await;
        device.next_puback().await.unwrap();
    }
    let received = cloud.received();
    let found = audit(ids, received.iter().map(|message| &message.payload[..]));
    assert_eq!(found.missing, [ids[3]]);
    assert_eq!(found.duplicates, [(ids[0], 2)]);
    assert_eq!(found.out_of_order, [ids[1]]);
    assert_eq!(cloud.counts().duplicates, 1);
    let too_few = cloud
        .wait_for(5, Duration::from_millis(10))
        .await
        .unwrap_err();
    assert_eq!((too_few.expected, too_few.arrived), (5, 4));
}
