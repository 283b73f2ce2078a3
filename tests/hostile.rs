//! The real relay under attack from its own device: is it alive, are the others served, is the spool sound?
//!
//! Each attack is held while a client that behaves publishes. Run with `--nocapture` for the table.

mod common;

use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use cloud_relay_sandbox::ledger::MessageId;
use cloud_relay_sandbox::port::ReservedPort;
use cloud_relay_sandbox::process::Process;
use cloud_relay_sandbox::publisher::{Load, Publisher};
use cloud_relay_sandbox::relay::{RelayProcess, program};
use cloud_relay_sandbox::site::{PATIENCE, Site, environment};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use common::RELAY;

/// What the relay may have resident during these attacks: about three times what it has. Its limits allow more.
const RESIDENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Messages of the good client during each attack, and how many a second.
const GOOD_MESSAGES: u64 = 100;
const GOOD_RATE: f64 = 200.0;
/// What 99 of 100 PUBACKs may take: far more than they do, for a busy machine.
const PUBACK_P99_MAX: Duration = Duration::from_secs(5);
/// Connections at a time that the relay takes.
const CONNECTIONS_MAX: usize = 512;
/// Pause between two tries of a client that is not let in.
const RETRY_DELAY: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug)]
enum Attack {
    None,
    RandomBytes,
    ConnectAndReset,
    FloodOfConnects,
    SlowConnect,
    SlowPublish,
    NeverReads,
    ManyTopics,
    IdleConnections,
}

const ATTACKS: [Attack; 9] = [
    Attack::None,
    Attack::RandomBytes,
    Attack::ConnectAndReset,
    Attack::FloodOfConnects,
    Attack::SlowConnect,
    Attack::SlowPublish,
    Attack::NeverReads,
    Attack::ManyTopics,
    Attack::IdleConnections,
];

/// CONNECT of MQTT 3.1.1, clean session, no keep alive.
fn connect(client_id: &str) -> Vec<u8> {
    let len = u8::try_from(client_id.len()).expect("it is short");
    let head = [
        0x10,
        12 + len,
        0,
        4,
        b'M',
        b'Q',
        b'T',
        b'T',
        4,
        2,
        0,
        0,
        0,
        len,
    ];
    [&head, client_id.as_bytes()].concat()
}

/// A connection on which `bytes` were sent. That the relay closes it meanwhile is no fault.
async fn open(relay: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(relay).await.expect("the relay listens");
    match stream.write_all(bytes).await {
        Ok(()) => {}
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            ) => {}
        Err(e) => panic!("{e}"),
    }
    stream
}

impl Attack {
    /// Carries it out; it lasts until the connections are dropped.
    async fn begin(self, relay: SocketAddr) -> Vec<TcpStream> {
        let mut held = Vec::new();
        let mut random = fastrand::Rng::with_seed(8);
        match self {
            Attack::None => {}
            Attack::RandomBytes => {
                for _ in 0..200 {
                    let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
                        .take(1_000)
                        .collect();
                    held.push(open(relay, &bytes).await);
                }
            }
            Attack::ConnectAndReset => {
                for _ in 0..300 {
                    // Closed with the CONNACK unread, which TCP does by a reset.
                    let stream = open(relay, &connect("again")).await;
                    stream.readable().await.expect("an answer");
                }
            }
            Attack::FloodOfConnects => {
                for i in 0..400 {
                    held.push(open(relay, &connect(&format!("flood-{i}"))).await);
                }
            }
            Attack::SlowConnect => {
                for _ in 0..200 {
                    // The beginning of a CONNECT, and no more of it.
                    held.push(open(relay, &[0x10, 16, 0, 4, b'M']).await);
                }
            }
            Attack::SlowPublish => {
                for i in 0..200 {
                    // 200,000 bytes are announced, and a few come.
                    let publish = [
                        0x30, 0xC0, 0x9A, 0x0C, 0, 4, b's', b'l', b'o', b'w', 1, 2, 3,
                    ];
                    let bytes = [connect(&format!("slow-{i}")), publish.to_vec()].concat();
                    held.push(open(relay, &bytes).await);
                }
            }
            Attack::NeverReads => {
                for i in 0..20 {
                    let subscribe = [0x82, 6, 0, 1, 0, 1, b'#', 1];
                    let bytes = [connect(&format!("deaf-{i}")), subscribe.to_vec()].concat();
                    held.push(open(relay, &bytes).await);
                }
            }
            Attack::ManyTopics => {
                let mut bytes = connect("topics");
                for i in 0..2_000 {
                    // Retained, each on a topic of its own.
                    bytes.extend([0x31, 11, 0, 8]);
                    bytes.extend(format!("t/{i:06}x").as_bytes());
                }
                held.push(open(relay, &bytes).await);
            }
            Attack::IdleConnections => {
                for _ in 0..CONNECTIONS_MAX + 100 {
                    held.push(open(relay, &[]).await);
                }
            }
        }
        held
    }
}

/// What 99 of 100 took at most.
fn p99(mut latencies: Vec<Duration>) -> Duration {
    latencies.sort_unstable();
    let at = latencies.len() * 99 / 100;
    latencies.get(at).copied().expect("there are some")
}

/// Connects as soon as the relay lets it in.
async fn let_in(relay: SocketAddr, client_id: &str) -> Publisher {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Publisher::connect(relay, client_id).await {
            Ok(publisher) => return publisher,
            Err(e) => assert!(Instant::now() < deadline, "{client_id} is kept out: {e}"),
        }
        sleep(RETRY_DELAY).await;
    }
}

/// Stops the relay and checks what it left.
async fn stop_and_verify(relay: &RelayProcess) {
    relay.terminate().await.expect("it stops");
    let verify = Command::new(program(RELAY))
        .env_clear()
        .args(["spool", "verify", "--data-dir"])
        .arg(relay.data_dir())
        .output()
        .expect("the program starts");
    assert!(verify.status.success(), "{verify:?}");
}

#[tokio::test]
async fn no_attack_from_the_device_ends_the_relay_or_keeps_others_from_being_served() {
    let site = Site::started(RELAY).await.unwrap();
    let relay = site.relay();
    let mut acked: Vec<MessageId> = Vec::new();
    for (number, attack) in (1..).zip(ATTACKS) {
        let good = let_in(relay.listen_addr(), "good").await;
        let held = attack.begin(relay.listen_addr()).await;
        let load = Load {
            rate_per_second: Some(GOOD_RATE),
            record_latency: true,
            ..Load::new(number, "sensors", GOOD_MESSAGES)
        };
        let report = good.run(&load).await.unwrap();
        assert!(report.is_complete(&load), "{attack:?}: {:?}", report.broken);
        let resident_bytes = relay.process().memory_rss_bytes().unwrap();
        let p99 = p99(report.latencies);
        println!(
            "{attack:?}: {} KiB resident, PUBACK p99 {p99:?}",
            resident_bytes / 1024
        );
        assert!(p99 <= PUBACK_P99_MAX, "{attack:?}: {p99:?}");
        assert!(
            resident_bytes <= RESIDENT_BYTES_MAX,
            "{attack:?}: {resident_bytes} bytes"
        );
        acked.extend(report.acked);
        drop(held);
    }
    drop(let_in(relay.listen_addr(), "newcomer").await);
    site.arrived(&acked).await.unwrap();
    stop_and_verify(relay).await;
}

#[tokio::test]
async fn clients_leave_files_for_the_spool_and_are_let_in_when_others_have_left() {
    const SCRIPT: &str = "ulimit -n 64; exec \"$0\"";
    let port = ReservedPort::new().unwrap();
    let relay = program(RELAY).display().to_string();
    let process = Process::new("/bin/sh", ["-c", SCRIPT, &relay].map(str::to_owned));
    let relay = RelayProcess::in_place_of_relay(process, port.addr()).unwrap();
    relay
        .start(&environment([("STATUS_LISTEN", "off")]))
        .await
        .unwrap();
    relay.wait_until_listening(PATIENCE).await.unwrap();
    let mut good = let_in(port.addr(), "good").await;

    let mut held = Vec::new();
    for i in 0..100 {
        held.push(open(port.addr(), &connect(&format!("flood-{i}"))).await);
    }
    relay
        .wait_for_log("too many connections", PATIENCE)
        .await
        .unwrap();
    for i in 0..50 {
        good.publish("sensors", format!("{i}").as_bytes(), 1)
            .await
            .unwrap();
    }
    drop(held);
    let mut newcomer = let_in(port.addr(), "newcomer").await;
    newcomer.publish("sensors", b"at last", 1).await.unwrap();
    stop_and_verify(&relay).await;
}
