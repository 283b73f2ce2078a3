//! The broker seen from its clients, split by question. Clients talk over in-memory streams and time is
//! paused: it advances only when nothing can happen any more, so that waiting for "nothing" is exact.

mod access;
mod delivery;
mod filters;
mod handshakes;
mod hostile;
mod kept;
mod killers;
mod limits;
mod listening;
mod promise;
mod reconnect;
mod spool;
mod standard;
mod sys;
mod v5_connections;
mod v5_messages;
mod v5_standard;
mod websocket;
mod wire;
mod wire5;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::access::Access;
use super::connection;
use super::counters::Counters;
use super::limits::Limits;
use super::server::{LocalBroker, LocalError, Options, Shared};
use super::wills;
use crate::routes::Routes;
use spool::FakeSpool;
use wire::Connect;

/// The local topic that goes to the cloud.
const ROUTED: &str = "sensors";

/// A broker without a listener.
struct Bench {
    shared: Arc<Shared<FakeSpool>>,
    spool: FakeSpool,
    counters: Arc<Counters>,
    shutdown: CancellationToken,
}

impl Bench {
    fn new() -> Self {
        Bench::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        Bench::routing(ROUTED, limits)
    }

    fn routing(topic: &str, limits: Limits) -> Self {
        Bench::guarded(topic, limits, Access::default())
    }

    fn guarded(topic: &str, limits: Limits, access: Access) -> Self {
        let (spool, shutdown) = (FakeSpool::new(), CancellationToken::new());
        let counters = Arc::new(Counters::default());
        let options = Options {
            limits,
            access,
            counters: Arc::clone(&counters),
        };
        let routes = Arc::new(Routes::new(topic, "cloud"));
        let broker = LocalBroker::new(options);
        let shared = Shared::new(spool.clone(), routes, shutdown.clone(), broker);
        let shared = Arc::new(shared);
        tokio::spawn(wills::keep_time(Arc::clone(&shared)));
        Bench {
            shared,
            spool,
            counters,
            shutdown,
        }
    }

    /// A connection that has sent nothing, over a stream that buffers `buffer_bytes` each way.
    fn open_with_buffer(&self, buffer_bytes: usize) -> TestClient {
        let (near, far) = tokio::io::duplex(buffer_bytes);
        let (reader, writer) = tokio::io::split(far);
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let connect_by = Instant::now() + self.shared.limits.connect_timeout;
        let shared = Arc::clone(&self.shared);
        let run = connection::run(shared, reader, writer, peer, connect_by);
        TestClient {
            stream: near,
            task: tokio::spawn(run),
        }
    }

    fn open(&self) -> TestClient {
        self.open_with_buffer(1024 * 1024)
    }

    async fn connect(&self, connect: Connect<'_>) -> TestClient {
        let mut client = self.open();
        client.send(&connect.bytes()).await;
        let connack = client.receive().await;
        assert_eq!((connack[0], connack[3]), (0x20, 0), "CONNACK {connack:?}");
        client
    }

    /// A client with a clean session and no keep alive.
    async fn client(&self, id: &str) -> TestClient {
        self.connect(Connect::clean(id)).await
    }

    /// The same over a stream that buffers so much each way.
    async fn client_with_buffer(&self, id: &str, buffer_bytes: usize) -> TestClient {
        let mut client = self.open_with_buffer(buffer_bytes);
        client.send(&Connect::clean(id).bytes()).await;
        client.expect(&[0x20, 2, 0, 0]).await;
        client
    }

    /// A client that is subscribed to `filter`.
    async fn subscriber(&self, id: &str, filter: &str, qos: u8) -> TestClient {
        let mut client = self.client(id).await;
        client.subscribe(filter, qos).await;
        client
    }
}

/// MQTT 5.
impl Bench {
    /// Connects with these bytes, and expects to be let in. Returns the CONNACK too.
    async fn connect5(&self, connect: &[u8]) -> (TestClient, Vec<u8>) {
        let mut client = self.open();
        client.send(connect).await;
        let connack = client.receive().await;
        assert_eq!((connack[0], connack[3]), (0x20, 0), "CONNACK {connack:?}");
        (client, connack)
    }

    /// A client whose session ends with the connection.
    async fn client5(&self, id: &str) -> TestClient {
        self.connect5(&wire5::connect(id, true, &[], None)).await.0
    }

    /// A client that is subscribed to `filter` with these options.
    async fn subscriber5(&self, id: &str, filter: &str, options: u8) -> TestClient {
        let mut client = self.client5(id).await;
        client.subscribe5(&[], filter, options).await;
        client
    }
}

/// The client's end of a connection.
struct TestClient {
    stream: DuplexStream,
    task: JoinHandle<Result<(), LocalError>>,
}

impl TestClient {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next packet. Panics if none can come any more.
    async fn receive(&mut self) -> Vec<u8> {
        let packet = timeout(Duration::from_millis(10), read_packet(&mut self.stream)).await;
        packet
            .expect("no packet came")
            .expect("the connection was closed")
    }

    async fn expect(&mut self, packet: &[u8]) {
        assert_eq!(self.receive().await, packet);
    }

    /// The next packet, which may take hours, is this.
    async fn expect_in_time(&mut self, packet: &[u8]) {
        let next = timeout(Duration::from_hours(9), read_packet(&mut self.stream)).await;
        assert_eq!(next.expect("no packet came").as_deref(), Some(packet));
    }

    /// Everything has come to rest and no byte has come.
    async fn expect_nothing(&mut self) {
        let packet = timeout(Duration::from_millis(10), read_packet(&mut self.stream)).await;
        assert!(packet.is_err(), "expected nothing, got {packet:?}");
    }

    /// The broker closes the connection without another packet.
    async fn expect_closed(&mut self) {
        let packet = timeout(Duration::from_hours(1), read_packet(&mut self.stream)).await;
        assert_eq!(packet.expect("the connection stays open"), None);
    }

    async fn subscribe(&mut self, filter: &str, qos: u8) {
        self.send(&wire::subscribe(9, &[(filter, qos)])).await;
        self.expect(&[0x90, 3, 0, 9, qos]).await;
    }

    /// Subscribes in MQTT 5.
    async fn subscribe5(&mut self, properties: &[u8], filter: &str, options: u8) {
        let subscribe = wire5::subscribe(9, properties, &[(filter, options)]);
        self.send(&subscribe).await;
        self.expect(&wire5::suback(9, &[options & 0b11])).await;
    }

    /// The client has been served up to here: an answer to a ping comes next.
    async fn ping(&mut self) {
        self.send(&wire::PINGREQ).await;
        self.expect(&wire::PINGRESP).await;
    }

    /// The task's result once the connection has ended.
    async fn ended(self) -> Result<(), LocalError> {
        drop(self.stream);
        let ended = timeout(Duration::from_hours(1), self.task).await;
        ended
            .expect("the connection goes on")
            .expect("the connection panicked")
    }
}

/// One packet, `None` at the end of the stream.
async fn read_packet(stream: &mut DuplexStream) -> Option<Vec<u8>> {
    let mut packet = vec![stream.read_u8().await.ok()?];
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = stream.read_u8().await.ok()?;
        packet.push(byte);
        length |= usize::from(byte & 0x7F) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let header = packet.len();
    packet.resize(header + length, 0);
    stream.read_exact(&mut packet[header..]).await.ok()?;
    Some(packet)
}
