//! An MQTT 3.1.1 publisher over plain TCP that knows exactly which payloads were acknowledged.
//!
//! [`Load`] publishes many messages through a window, fast; [`Publisher::publish`] publishes one and
//! waits for its acknowledgement. An acknowledgement is PUBACK at `QoS` 1, PUBREC at `QoS` 2 (from
//! then on the message is the broker's); at `QoS` 0 a message counts as acknowledged once it is
//! handed to the connection. A lost connection ends a load with a report, not with an error.

mod alarm;
mod course;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use rumqttc::mqttbytes::v4::{Connect, ConnectReturnCode, Packet};
use rumqttc::mqttbytes::{Error as CodecError, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::alarm::Alarm;
use self::course::{Course, Head, put_publish};
use crate::ledger::MessageId;

/// Bytes gathered before a write.
const WRITE_BYTES: usize = 64 * 1024;
/// How long a broker may take to answer CONNECT.
const CONNACK_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest packet a broker may send a publisher, bytes: acknowledgements are tiny.
const PACKET_BYTES_MAX: usize = 1_024;
/// Keep alive in CONNECT, seconds: none, the sandbox's publishers do not ping.
const KEEP_ALIVE_S: u16 = 0;

/// What can go wrong for a publisher.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// TCP or the socket.
    #[error("connection to the broker at {broker}: {source}")]
    Socket {
        /// The broker.
        broker: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The broker closed the connection.
    #[error("the broker at {broker} closed the connection")]
    Closed {
        /// The broker.
        broker: SocketAddr,
    },
    /// CONNECT was refused or not answered.
    #[error("the broker at {broker} did not accept CONNECT: {why}")]
    Refused {
        /// The broker.
        broker: SocketAddr,
        /// Its return code, or silence.
        why: String,
    },
    /// The broker does not follow MQTT.
    #[error("the broker at {broker} broke the protocol: {what}")]
    Protocol {
        /// The broker.
        broker: SocketAddr,
        /// What it did.
        what: String,
    },
    /// The messages of an open loop cannot be timed.
    #[error("cannot set a timer: {0}")]
    Timer(std::io::Error),
    /// A topic or payload that no packet can hold.
    #[error("a message of {bytes} bytes does not fit into an MQTT packet")]
    TooLarge {
        /// Topic and payload.
        bytes: usize,
    },
}

/// Many messages to publish.
#[derive(Clone, Debug)]
pub struct Load {
    /// The publisher's key in every payload; also names the client id.
    pub publisher: u32,
    /// The topic name.
    pub topic: String,
    /// 0, 1 or 2.
    pub qos: u8,
    /// How many messages.
    pub count: u64,
    /// The first message's count.
    pub first_seq: u64,
    /// Most unacknowledged messages; does not hold `QoS` 0 back.
    pub window: u16,
    /// Size of each payload, bytes; at least what the id takes (about 40).
    pub payload_bytes: usize,
    /// Messages a second in an open loop; `None` = as fast as the window lets.
    pub rate_per_second: Option<f64>,
    /// Whether [`Report::latencies`] is filled.
    pub record_latency: bool,
    /// Ends the load early, with a report.
    pub stop: CancellationToken,
}

impl Load {
    /// `count` messages of 256 bytes at `QoS` 1 with a window of 20.
    pub fn new(publisher: u32, topic: impl Into<String>, count: u64) -> Self {
        Load {
            publisher,
            topic: topic.into(),
            qos: 1,
            count,
            first_seq: 0,
            window: 20,
            payload_bytes: 256,
            rate_per_second: None,
            record_latency: false,
            stop: CancellationToken::new(),
        }
    }
}

/// What became of a [`Load`].
#[derive(Debug)]
pub struct Report {
    /// Messages written to the socket or about to be.
    pub sent: u64,
    /// The messages that were acknowledged, in order of acknowledgement.
    pub acked: Vec<MessageId>,
    /// From when each was due to its acknowledgement, in the order of `acked`, if asked for.
    pub latencies: Vec<Duration>,
    /// When the first message was due.
    pub began: Instant,
    /// From then to the end.
    pub took: Duration,
    /// Why it ended before every message was acknowledged; `None` if it did not, or was stopped.
    pub broken: Option<PublishError>,
}

impl Report {
    /// Whether each of `load`'s messages was acknowledged.
    pub fn is_complete(&self, load: &Load) -> bool {
        u64::try_from(self.acked.len()).is_ok_and(|acked| acked == load.count)
    }
}

/// Connects and publishes `load`. An error means that not even the connection was made.
pub async fn publish_load(broker: SocketAddr, load: &Load) -> Result<Report, PublishError> {
    let client_id = format!("publisher-{}", load.publisher);
    Publisher::connect(broker, &client_id)
        .await?
        .run(load)
        .await
}

/// A connected publisher.
pub struct Publisher {
    broker: SocketAddr,
    stream: TcpStream,
    inbox: BytesMut,
    out: BytesMut,
    packet_id: u16,
}

/// An acknowledgement that came in.
enum Answer {
    Acknowledged(u16),
    /// PUBCOMP: the packet identifier is free again.
    Completed(u16),
}

impl Publisher {
    /// Connects with a clean session.
    pub async fn connect(broker: SocketAddr, client_id: &str) -> Result<Self, PublishError> {
        let socket = |source| PublishError::Socket { broker, source };
        let stream = TcpStream::connect(broker).await.map_err(socket)?;
        stream.set_nodelay(true).map_err(socket)?;
        let mut publisher = Publisher {
            broker,
            stream,
            inbox: BytesMut::with_capacity(WRITE_BYTES),
            out: BytesMut::with_capacity(WRITE_BYTES),
            packet_id: 0,
        };
        let connect = Connect {
            protocol: Protocol::V4,
            keep_alive: KEEP_ALIVE_S,
            client_id: client_id.to_owned(),
            clean_session: true,
            last_will: None,
            login: None,
        };
        connect
            .write(&mut publisher.out)
            .map_err(|error| publisher.protocol(&error))?;
        publisher.flush().await?;
        match timeout(CONNACK_TIMEOUT, publisher.next_packet()).await {
            Ok(Ok(Packet::ConnAck(connack))) if connack.code == ConnectReturnCode::Success => {
                Ok(publisher)
            }
            Ok(Ok(other)) => Err(PublishError::Refused {
                broker,
                why: format!("{other:?}"),
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(PublishError::Refused {
                broker,
                why: format!("no CONNACK within {CONNACK_TIMEOUT:?}"),
            }),
        }
    }

    /// Publishes one message and returns when it is acknowledged. Without an answer it waits for
    /// ever: give it a timeout. After that, or an error, drop the publisher.
    pub async fn publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: u8,
    ) -> Result<(), PublishError> {
        self.packet_id = if self.packet_id == u16::MAX {
            1
        } else {
            self.packet_id + 1
        };
        let (packet_id, body) = (self.packet_id, [payload]);
        put_publish(
            &mut self.out,
            &Head {
                topic,
                qos,
                packet_id,
            },
            &body,
        )?;
        self.flush().await?;
        if qos == 0 {
            return Ok(());
        }
        loop {
            let packet = self.next_packet().await?;
            match (self.answer(&packet)?, qos) {
                (Some(Answer::Acknowledged(_)), 2) => self.flush().await?,
                (Some(Answer::Acknowledged(acked) | Answer::Completed(acked)), _)
                    if acked == packet_id =>
                {
                    return Ok(());
                }
                _ => {}
            }
        }
    }

    /// Publishes `load` and says what was acknowledged, even if the connection breaks.
    pub async fn run(mut self, load: &Load) -> Result<Report, PublishError> {
        let mut course = Course::new(load);
        let began = Instant::now();
        let broken = self.drive(load, &mut course).await.err();
        if let Some(PublishError::TooLarge { bytes }) = broken {
            return Err(PublishError::TooLarge { bytes });
        }
        Ok(Report {
            sent: course.sent,
            acked: course.acked,
            latencies: course.latencies,
            began,
            took: began.elapsed(),
            broken,
        })
    }

    async fn drive(&mut self, load: &Load, course: &mut Course<'_>) -> Result<(), PublishError> {
        let broker = self.broker;
        let socket = |source| PublishError::Socket { broker, source };
        let alarm = load.rate_per_second.map(|_| Alarm::new()).transpose();
        let alarm = alarm.map_err(PublishError::Timer)?;
        loop {
            let next_due = course.fill(Instant::now(), &mut self.out)?;
            if course.is_done() && self.out.is_empty() {
                return Ok(());
            }
            let due = async {
                match (&alarm, next_due) {
                    (Some(alarm), Some(due)) => alarm.ring(due).await,
                    _ => std::future::pending().await,
                }
            };
            let (mut reader, mut writer) = self.stream.split();
            tokio::select! {
                () = load.stop.cancelled() => return Ok(()),
                rung = due => rung.map_err(PublishError::Timer)?,
                written = writer.write_buf(&mut self.out), if !self.out.is_empty() => {
                    written.map_err(socket)?;
                }
                read = reader.read_buf(&mut self.inbox) => {
                    if read.map_err(socket)? == 0 {
                        return Err(PublishError::Closed { broker });
                    }
                    let now = Instant::now();
                    while let Some(packet) = self.parse()? {
                        match self.answer(&packet)? {
                            Some(Answer::Acknowledged(packet_id)) => course.acknowledged(packet_id, now),
                            Some(Answer::Completed(packet_id)) => course.completed(packet_id),
                            None => {}
                        }
                    }
                    self.inbox.reserve(WRITE_BYTES / 16);
                }
            }
        }
    }

    /// What a packet means for the messages; a PUBREL that it asks for is put into `out`.
    fn answer(&mut self, packet: &Packet) -> Result<Option<Answer>, PublishError> {
        match packet {
            Packet::PubAck(puback) => Ok(Some(Answer::Acknowledged(puback.pkid))),
            Packet::PubRec(pubrec) => {
                let [high, low] = pubrec.pkid.to_be_bytes();
                // PUBREL (MQTT 3.1.1, section 3.6)
                self.out.put_slice(&[0x62, 2, high, low]);
                Ok(Some(Answer::Acknowledged(pubrec.pkid)))
            }
            Packet::PubComp(pubcomp) => Ok(Some(Answer::Completed(pubcomp.pkid))),
            Packet::PingResp => Ok(None),
            other => Err(self.protocol(&format!("unexpected {other:?}"))),
        }
    }

    async fn next_packet(&mut self) -> Result<Packet, PublishError> {
        loop {
            if let Some(packet) = self.parse()? {
                return Ok(packet);
            }
            let broker = self.broker;
            match self.stream.read_buf(&mut self.inbox).await {
                Ok(0) => return Err(PublishError::Closed { broker }),
                Ok(_) => {}
                Err(source) => return Err(PublishError::Socket { broker, source }),
            }
        }
    }

    fn parse(&mut self) -> Result<Option<Packet>, PublishError> {
        match Packet::read(&mut self.inbox, PACKET_BYTES_MAX) {
            Ok(packet) => Ok(Some(packet)),
            Err(CodecError::InsufficientBytes(_)) => Ok(None),
            Err(error) => Err(self.protocol(&error)),
        }
    }

    async fn flush(&mut self) -> Result<(), PublishError> {
        let broker = self.broker;
        self.stream
            .write_all_buf(&mut self.out)
            .await
            .map_err(|source| PublishError::Socket { broker, source })
    }

    fn protocol(&self, what: &dyn std::fmt::Display) -> PublishError {
        PublishError::Protocol {
            broker: self.broker,
            what: what.to_string(),
        }
    }
}
