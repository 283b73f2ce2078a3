//! A device that speaks both versions and does only what it is told: no retries, no pings of its own.

use bytes::{BufMut, BytesMut};
use rumqttc::mqttbytes::{QoS, v4};
use rumqttc::v5::mqttbytes::QoS as QoS5;
use rumqttc::v5::mqttbytes::v5::{self, ConnectProperties};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::ca::{DeviceIdentity, KeyFormat};

/// What the cloud says. Reasons are zero in MQTT 3.1.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Connack { session_present: bool, code: u8 },
    Puback(u16, u8),
    Pubrec(u16, u8),
    Pubcomp(u16),
    Suback(Vec<u8>),
    Unsuback(Vec<u8>),
    Pingresp,
    Disconnect(u8),
    Closed,
}

/// How a device says CONNECT.
#[derive(Clone, Copy)]
pub(super) struct Greeting<'a> {
    pub(super) version: MqttVersion,
    pub(super) client_id: &'a str,
    pub(super) keep_alive_s: u16,
    pub(super) clean_start: bool,
    pub(super) session_expiry_s: Option<u32>,
}

impl<'a> Greeting<'a> {
    pub(super) fn new(version: MqttVersion, client_id: &'a str) -> Self {
        Greeting {
            version,
            client_id,
            keep_alive_s: 0,
            clean_start: true,
            session_expiry_s: None,
        }
    }

    fn write(self, out: &mut BytesMut) {
        match self.version {
            MqttVersion::V3_1_1 => {
                let mut connect = v4::Connect::new(self.client_id);
                connect.keep_alive = self.keep_alive_s;
                connect.clean_session = self.clean_start;
                connect.write(out).unwrap();
            }
            MqttVersion::V5 => {
                let properties = ConnectProperties {
                    session_expiry_interval: self.session_expiry_s,
                    ..ConnectProperties::new()
                };
                let connect = v5::Connect {
                    keep_alive: self.keep_alive_s,
                    client_id: self.client_id.to_owned(),
                    clean_start: self.clean_start,
                    properties: Some(properties),
                };
                connect.write(&None, &None, out).unwrap();
            }
        }
    }
}

pub(super) struct Device {
    version: MqttVersion,
    stream: TlsStream<TcpStream>,
    inbox: BytesMut,
    packet_id: u16,
}

pub(super) fn client_config(
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

/// The configuration of a device with a certificate of the cloud's own authority.
pub(super) fn own_config(cloud: &Cloud, common_name: &str) -> rustls::ClientConfig {
    let authority = &cloud.hub.authority;
    let identity = authority
        .issue_device(common_name, KeyFormat::Pkcs8)
        .unwrap();
    client_config(authority, Some(&identity))
}

impl Device {
    /// Says CONNECT with `config` and waits for nothing.
    pub(super) async fn dial(
        cloud: &Cloud,
        greeting: Greeting<'_>,
        config: rustls::ClientConfig,
    ) -> std::io::Result<Self> {
        let tcp = TcpStream::connect(cloud.addr()).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await?;
        let mut device = Device {
            version: greeting.version,
            stream,
            inbox: BytesMut::new(),
            packet_id: 0,
        };
        let mut out = BytesMut::new();
        greeting.write(&mut out);
        // a server that refuses may be gone already: the answer tells
        device.stream.write_all(&out).await.ok();
        Ok(device)
    }

    /// Says CONNECT with a good certificate; the answer is not checked.
    pub(super) async fn greeted(cloud: &Cloud, greeting: Greeting<'_>) -> (Self, Answer) {
        let config = own_config(cloud, greeting.client_id);
        let mut device = Device::dial(cloud, greeting, config).await.unwrap();
        let answer = device.answer().await;
        (device, answer)
    }

    /// A device that `cloud` must accept.
    pub(super) async fn connected(cloud: &Cloud, version: MqttVersion, client_id: &str) -> Self {
        let (device, answer) = Device::greeted(cloud, Greeting::new(version, client_id)).await;
        assert!(
            matches!(answer, Answer::Connack { code: 0, .. }),
            "{answer:?}"
        );
        device
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Publishes and says with which packet identifier.
    pub(super) async fn publish(
        &mut self,
        topic: &str,
        qos: u8,
        payload: impl Into<Vec<u8>>,
    ) -> u16 {
        self.publish_with(topic, qos, payload, None).await
    }

    pub(super) async fn publish_with(
        &mut self,
        topic: &str,
        qos: u8,
        payload: impl Into<Vec<u8>>,
        properties: Option<v5::PublishProperties>,
    ) -> u16 {
        let mut out = BytesMut::new();
        self.packet_id += 1;
        match self.version {
            MqttVersion::V3_1_1 => {
                let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(qos)];
                let mut publish = v4::Publish::new(topic, qos, payload);
                publish.pkid = self.packet_id;
                publish.write(&mut out).unwrap();
            }
            MqttVersion::V5 => {
                let qos =
                    [QoS5::AtMostOnce, QoS5::AtLeastOnce, QoS5::ExactlyOnce][usize::from(qos)];
                let payload: Vec<u8> = payload.into();
                let mut publish = v5::Publish::new(topic, qos, payload, properties);
                publish.pkid = self.packet_id;
                publish.write(&mut out).unwrap();
            }
        }
        // a server that refuses may have closed already: the answer tells
        self.stream.write_all(&out).await.ok();
        self.packet_id
    }

    /// SUBSCRIBE to one filter, with an identifier if there is one to send (MQTT 5).
    pub(super) async fn subscribe(&mut self, filter: &str, identifier: Option<usize>) {
        let mut out = BytesMut::new();
        match self.version {
            MqttVersion::V3_1_1 => {
                let mut subscribe = v4::Subscribe::new(filter, QoS::AtLeastOnce);
                subscribe.pkid = 1;
                subscribe.write(&mut out).unwrap();
            }
            MqttVersion::V5 => {
                let properties = v5::SubscribeProperties {
                    id: identifier,
                    user_properties: Vec::new(),
                };
                let filter = v5::Filter::new(filter, QoS5::AtLeastOnce);
                let mut subscribe = v5::Subscribe::new(filter, Some(properties));
                subscribe.pkid = 1;
                subscribe.write(&mut out).unwrap();
            }
        }
        self.send(&out).await;
    }

    /// The next thing that the cloud says.
    pub(super) async fn answer(&mut self) -> Answer {
        in_time(self.next()).await
    }

    /// Nothing is said for a while.
    pub(super) async fn hears_nothing(&mut self) {
        let silence = Duration::from_millis(100);
        if let Ok(answer) = tokio::time::timeout(silence, self.next()).await {
            panic!("{answer:?}");
        }
    }

    /// The connection is closed next: with this DISCONNECT in MQTT 5, without a word in 3.1.1.
    pub(super) async fn is_closed_with(&mut self, reason: u8) {
        if self.version == MqttVersion::V5 {
            assert_eq!(self.answer().await, Answer::Disconnect(reason));
        }
        assert_eq!(self.answer().await, Answer::Closed);
    }

    /// Acknowledged at once, the message taken.
    pub(super) async fn is_acknowledged(&mut self, packet_id: u16) {
        assert_eq!(self.answer().await, Answer::Puback(packet_id, 0));
    }

    /// Keeps what was read if it is dropped half way.
    async fn next(&mut self) -> Answer {
        loop {
            if let Some(answer) = self.take() {
                return answer;
            }
            match self.stream.read_buf(&mut self.inbox).await {
                Ok(0) | Err(_) => return Answer::Closed,
                Ok(_) => {}
            }
        }
    }

    /// By hand, so that every code is seen as it was sent. The cloud's answers are short.
    fn take(&mut self) -> Option<Answer> {
        let length = usize::from(*self.inbox.get(1)?);
        assert!(length < 128, "a short packet");
        if self.inbox.len() < 2 + length {
            return None;
        }
        let packet = self.inbox.split_to(2 + length);
        let body = &packet[2..];
        let id = || u16::from_be_bytes([body[0], body[1]]);
        let code = || body.get(2).copied().unwrap_or(0);
        // MQTT 5 puts the length of the properties, always zero here, before the codes
        let codes_at = if self.version == MqttVersion::V5 {
            3
        } else {
            2
        };
        Some(match packet[0] {
            0x20 => Answer::Connack {
                session_present: body[0] == 1,
                code: body[1],
            },
            0x40 => Answer::Puback(id(), code()),
            0x50 => Answer::Pubrec(id(), code()),
            0x70 => Answer::Pubcomp(id()),
            0x90 => Answer::Suback(body[codes_at..].to_vec()),
            0xb0 => Answer::Unsuback(body.get(codes_at..).unwrap_or_default().to_vec()),
            0xd0 => Answer::Pingresp,
            0xe0 => Answer::Disconnect(body[0]),
            other => panic!("unexpected packet type {other:#x}"),
        })
    }
}

/// UNSUBSCRIBE from `t` with packet identifier 1.
pub(super) fn unsubscribe(version: MqttVersion) -> BytesMut {
    let mut out = BytesMut::new();
    match version {
        MqttVersion::V3_1_1 => out.put_slice(&[0xa2, 5, 0, 1, 0, 1, b't']),
        MqttVersion::V5 => out.put_slice(&[0xa2, 6, 0, 1, 0, 0, 1, b't']),
    }
    out
}
