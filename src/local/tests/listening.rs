//! Does the listener start, refuse, stop and fail as it should? Over real sockets, in real time.

use std::net::Ipv4Addr;

use tokio::net::{TcpListener, TcpStream};

use super::spool::Mood;
use super::wire::{Connect, PINGREQ, puback, publish};
use super::*;
use crate::local::{Door, LocalBroker, bind, serve};

/// How long anything may take that should happen at once.
pub(super) const SOON: Duration = Duration::from_secs(20);

const VARIABLE: &str = "LOCAL_MQTT_LISTEN";

pub(super) struct Served {
    pub(super) address: SocketAddr,
    spool: FakeSpool,
    pub(super) counters: Arc<Counters>,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), LocalError>>,
}

async fn listener() -> TcpListener {
    bind(VARIABLE, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .await
        .unwrap()
}

async fn served(limits: Limits) -> Served {
    served_at(Door::plain, limits).await
}

/// A broker whose only door is `door`.
pub(super) async fn served_at(door: impl FnOnce(TcpListener) -> Door, limits: Limits) -> Served {
    served_with(door, limits, |_| {}).await
}

async fn served_with(
    door: impl FnOnce(TcpListener) -> Door,
    limits: Limits,
    prepare: impl FnOnce(&mut LocalBroker),
) -> Served {
    let listener = listener().await;
    let address = listener.local_addr().unwrap();
    let (spool, shutdown) = (FakeSpool::new(), CancellationToken::new());
    let counters = Arc::new(Counters::default());
    let options = Options {
        limits,
        counters: Arc::clone(&counters),
        ..Options::default()
    };
    let routes = Arc::new(Routes::new(ROUTED, "cloud"));
    let mut broker = LocalBroker::new(options);
    prepare(&mut broker);
    let serving = serve(
        vec![door(listener)],
        spool.clone(),
        routes,
        shutdown.clone(),
        broker,
    );
    Served {
        address,
        spool,
        counters,
        shutdown,
        task: tokio::spawn(serving),
    }
}

impl Served {
    async fn connect(&self, id: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(&Connect::clean(id).bytes()).await.unwrap();
        expect(&mut stream, &[0x20, 2, 0, 0]).await;
        stream
    }
}

async fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    timeout(SOON, stream.read_exact(&mut read))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(read, bytes);
}

/// The stream ends, whether politely or not.
async fn expect_end(stream: &mut TcpStream) {
    let end = timeout(SOON, stream.read(&mut [0])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_variable() {
    let taken = listener().await;
    let address = taken.local_addr().unwrap();
    let error = bind(VARIABLE, address).await.unwrap_err();
    assert!(matches!(error, LocalError::AddressInUse { .. }));
    let words = error.to_string();
    assert!(
        words.contains("LOCAL_MQTT_LISTEN") && words.contains(&address.to_string()),
        "{words}"
    );
}

#[tokio::test]
async fn stopping_sends_what_is_owed_ends_all_connections_and_closes_the_port() {
    let served = served(Limits::default()).await;
    let mut client = served.connect("c").await;
    client.write_all(&publish(ROUTED, "x", 1, 1)).await.unwrap();
    client.write_all(&PINGREQ).await.unwrap();
    expect(&mut client, &[0xD0, 0]).await;
    served.shutdown.cancel();
    served.spool.set_safe(1);
    expect(&mut client, &puback(1)).await;
    expect_end(&mut client).await;
    timeout(SOON, served.task).await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(served.address).await.is_err());
}

#[tokio::test]
async fn a_failed_append_ends_the_server_with_an_error() {
    let served = served(Limits::default()).await;
    let mut client = served.connect("c").await;
    let mut idle = served.connect("idle").await;
    served.spool.set(Mood::Failed);
    client.write_all(&publish(ROUTED, "x", 0, 0)).await.unwrap();
    let result = timeout(SOON, served.task).await.unwrap().unwrap();
    assert!(matches!(result, Err(LocalError::SpoolFailed)));
    expect_end(&mut client).await;
    expect_end(&mut idle).await;
}

#[tokio::test]
async fn a_closed_watermark_ends_an_idle_server_with_an_error() {
    let served = served(Limits::default()).await;
    served.connect("idle").await;
    served.spool.close();
    let result = timeout(SOON, served.task).await.unwrap().unwrap();
    assert!(matches!(result, Err(LocalError::SpoolFailed)));
}

#[tokio::test]
async fn a_journal_whose_disk_hangs_holds_up_nobody_when_the_spool_has_failed() {
    let (answer, disk) = std::sync::mpsc::channel();
    let keeper =
        std::thread::spawn(move || disk.recv_timeout(Duration::from_secs(2)).unwrap_or(()));
    let served = served_with(Door::plain, Limits::default(), |broker| {
        broker.kept_by(keeper);
    })
    .await;
    let mut client = served.connect("c").await;
    served.spool.close();
    expect_end(&mut client).await;
    answer.send(()).expect("the disk still hangs");
    let result = timeout(SOON, served.task).await.unwrap().unwrap();
    assert!(matches!(result, Err(LocalError::SpoolFailed)));
}

#[tokio::test]
async fn one_connection_too_many_is_refused_and_a_free_place_is_given_again() {
    let served = served(Limits {
        connections_max: 1,
        ..Limits::default()
    })
    .await;
    let mut first = served.connect("first").await;
    let mut second = TcpStream::connect(served.address).await.unwrap();
    expect_end(&mut second).await;
    assert_eq!(served.counters.connections_refused.get(), 1);
    first.write_all(&super::wire::DISCONNECT).await.unwrap();
    expect_end(&mut first).await;
    // The place is free when the task has ended, which is not seen from here: ask until it is.
    let admitted = async {
        loop {
            let mut stream = TcpStream::connect(served.address).await.unwrap();
            let sent = stream.write_all(&Connect::clean("third").bytes()).await;
            if sent.is_ok() && stream.read_u8().await.is_ok() {
                return;
            }
        }
    };
    timeout(SOON, admitted).await.unwrap();
}
