//! Clients that mean no good, or are broken, at full size: is a client that behaves served as before, and what does it
//! cost to hold the others?
//!
//! The attack begins when the good client is connected, and is held until that one has published all. Every attacker is
//! bare bytes on a socket.

use std::net::SocketAddr;
use std::time::Duration;

use cloud_relay_sandbox::publisher::{Load, Publisher};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::Outcome;
use crate::measure::{Before, PAYLOAD_BYTES, in_ms, peak_memory, quantile};
use crate::packets::{CLEAN, WILL, binary, connect, packet, subscribe, text};
use crate::report::{Figure, as_f64};
use crate::stage::Stage;
use crate::system::{System, TOPIC};

/// The good client's messages a second, and for how long.
pub(crate) const RATE: u32 = 200;
pub(crate) const SECONDS: u32 = 20;
/// How long it is alone before the attack begins.
const ALONE: Duration = Duration::from_secs(1);
/// Attackers that connect at the same time.
const AT_A_TIME: usize = 16;
/// What a system may take to let a new client in when the attack is over.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an attacker waits for an answer, or for its bytes to be taken.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What the attackers do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attack {
    /// Nothing: what the good client gets in peace.
    None,
    /// Random bytes.
    Garbage,
    /// CONNECT with one client identifier, and a reset with the CONNACK unread.
    Resets,
    /// CONNECT with ever new client identifiers for sessions that last, and gone.
    Identifiers,
    /// Connected, and nothing more.
    Connects,
    /// A TCP connection, and nothing more.
    Idle,
    /// Half a CONNECT.
    SlowConnects,
    /// All of a PUBLISH of 250,000 bytes but the last one.
    SlowPublishes,
    /// Subscribed to everything, and never read from, while there is much to read.
    Deaf,
    /// Retained messages, each on a topic of its own.
    Topics,
    /// As many topic filters as there is room for.
    Filters,
    /// Wills of 60,000 bytes.
    Wills,
}

pub(crate) const ATTACKS: [Attack; 12] = [
    Attack::None,
    Attack::Garbage,
    Attack::Resets,
    Attack::Identifiers,
    Attack::Connects,
    Attack::Idle,
    Attack::SlowConnects,
    Attack::SlowPublishes,
    Attack::Deaf,
    Attack::Topics,
    Attack::Filters,
    Attack::Wills,
];

impl Attack {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Attack::None => "none",
            Attack::Garbage => "garbage",
            Attack::Resets => "resets",
            Attack::Identifiers => "identifiers",
            Attack::Connects => "connects",
            Attack::Idle => "idle",
            Attack::SlowConnects => "slow_connects",
            Attack::SlowPublishes => "slow_publishes",
            Attack::Deaf => "deaf",
            Attack::Topics => "topics",
            Attack::Filters => "filters",
            Attack::Wills => "wills",
        }
    }

    /// What the attackers do, for the table.
    pub(crate) fn title(self) -> String {
        let what = match self {
            Attack::None => return "nobody attacks".to_owned(),
            Attack::Garbage => "send 1,000 random bytes each",
            Attack::Resets => "connect with one client identifier and reset the connection",
            Attack::Identifiers => "open a lasting session each, and leave",
            Attack::Connects => "connect and stay",
            Attack::Idle => "open a TCP connection and stay silent",
            Attack::SlowConnects => "send half a CONNECT",
            Attack::SlowPublishes => "send a message of 250,000 bytes but its last one",
            Attack::Deaf => "subscribe to everything, 16 KiB a message, and read nothing",
            Attack::Topics => "retain a message on 1,000 topics each",
            Attack::Filters => "subscribe to 250 topic filters each",
            Attack::Wills => "have a will of 60,000 bytes",
        };
        format!("{} attackers {what}", self.attackers())
    }

    fn attackers(self) -> usize {
        match self {
            Attack::None => 0,
            Attack::Garbage | Attack::Connects | Attack::Idle | Attack::SlowConnects => 10_000,
            Attack::Resets | Attack::Identifiers => 100_000,
            Attack::SlowPublishes | Attack::Filters | Attack::Wills => 500,
            Attack::Deaf | Attack::Topics => 100,
        }
    }

    /// What attacker number `nth` sends.
    fn bytes(self, nth: usize) -> Vec<u8> {
        let id = format!("attacker-{nth:06}");
        match self {
            Attack::None | Attack::Idle => Vec::new(),
            Attack::Garbage => {
                let mut random = fastrand::Rng::with_seed(nth as u64);
                std::iter::repeat_with(|| random.u8(..))
                    .take(1_000)
                    .collect()
            }
            Attack::Resets => connect("again", CLEAN, b""),
            Attack::Identifiers => connect(&id, 0, b""),
            Attack::Connects => connect(&id, CLEAN, b""),
            Attack::SlowConnects => connect(&id, CLEAN, b"").into_iter().take(8).collect(),
            Attack::SlowPublishes => {
                let mut bytes = connect(&id, CLEAN, b"");
                let mut publish = packet(0x30, &[text("slow"), vec![b'x'; 250_000]].concat());
                publish.pop();
                bytes.extend(publish);
                bytes
            }
            Attack::Deaf => [connect(&id, CLEAN, b""), subscribe(1, ["#".to_owned()])].concat(),
            Attack::Topics => {
                let mut bytes = connect(&id, CLEAN, b"");
                for topic in 0..1_000 {
                    let body = [text(&format!("retained/{nth}/{topic}")), vec![b'x'; 20]].concat();
                    bytes.extend(packet(0x31, &body));
                }
                bytes
            }
            Attack::Filters => {
                let filters = (0..250).map(|number| format!("filter/{nth}/{number}/+/#"));
                [connect(&id, CLEAN, b""), subscribe(1, filters)].concat()
            }
            Attack::Wills => {
                let will = [text("will"), binary(&vec![b'x'; 60_000])].concat();
                connect(&id, CLEAN | WILL, &will)
            }
        }
    }

    /// Whether an attacker leaves when it was answered.
    fn leaves(self) -> bool {
        matches!(self, Attack::Resets | Attack::Identifiers)
    }

    /// Sends as attacker number `nth`. Returns the connection if it is to be held. That it is closed meanwhile, or not
    /// taken, is the system's good right.
    async fn attack(self, broker: SocketAddr, nth: usize) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(broker).await.ok()?;
        let bytes = self.bytes(nth);
        let sent = timeout(ANSWER_TIMEOUT, stream.write_all(&bytes)).await;
        if self.leaves() {
            let mut connack = [0; 4];
            if matches!(self, Attack::Identifiers) {
                timeout(ANSWER_TIMEOUT, stream.read_exact(&mut connack))
                    .await
                    .ok();
            } else {
                timeout(ANSWER_TIMEOUT, stream.readable()).await.ok();
            }
            // no port waits for its time, of which there are fewer than attackers
            stream.set_zero_linger().ok();
            return None;
        }
        matches!(sent, Ok(Ok(()))).then_some(stream)
    }
}

/// Measures `system` once.
pub(crate) async fn hostile(system: &dyn System, attack: Attack) -> Outcome<Vec<Figure>> {
    let stage = Stage::warmed_up(system).await?;
    let broker = stage.setting().listen();
    let before = Before::now(&stage)?;
    let load = Load {
        payload_bytes: if matches!(attack, Attack::Deaf) {
            16 * 1024
        } else {
            PAYLOAD_BYTES
        },
        rate_per_second: Some(f64::from(RATE)),
        record_latency: true,
        window: u16::MAX,
        ..Load::new(1, TOPIC, u64::from(RATE * SECONDS))
    };
    let attacking = async {
        sleep(ALONE).await;
        let began = Instant::now();
        let held = held(attack, broker).await;
        (held, began.elapsed())
    };
    let loads = vec![load];
    let (published, (held, attack_took)) = tokio::join!(stage.publish_to_the_end(loads), attacking);
    let published = published?;
    let used = stage.usage()? - before.usage;
    drop(held);
    let newcomer = let_in(broker).await;
    stage.wait_for_messages(&published.acked).await;
    let mut latencies = published.latencies.clone();
    latencies.sort_unstable();
    let latency = |name, permille| {
        let latency = quantile(&latencies, permille);
        latency.map(|latency| Figure::less(name, in_ms(latency)))
    };
    let unacknowledged = as_f64(u64::from(RATE * SECONDS)) - as_f64(published.acked.len());
    let mut figures = vec![Figure::less("not acknowledged", unacknowledged)];
    figures.extend(latency("PUBACK p50 ms", 500));
    figures.extend(latency("PUBACK p99 ms", 990));
    figures.extend(latency("PUBACK max ms", 1_000));
    figures.push(peak_memory(&stage, "peak memory MiB")?);
    figures.push(Figure::less("CPU s", used.cpu_seconds));
    figures.push(Figure::less(
        "(the attack takes, s)",
        attack_took.as_secs_f64(),
    ));
    figures
        .extend(newcomer.map(|took| Figure::less("a new client is let in after, ms", in_ms(took))));
    figures.extend(before.books(&stage, &published.acked));
    Ok(figures)
}

/// Carries the attack out. Returns the connections that are held.
async fn held(attack: Attack, broker: SocketAddr) -> Vec<TcpStream> {
    let mut attackers = JoinSet::new();
    for first in 0..AT_A_TIME {
        attackers.spawn(async move {
            let mut held = Vec::new();
            for nth in (first..attack.attackers()).step_by(AT_A_TIME) {
                held.extend(attack.attack(broker, nth).await);
            }
            held
        });
    }
    attackers.join_all().await.into_iter().flatten().collect()
}

/// How long a new client waits until it is let in; `None` if it is not.
async fn let_in(broker: SocketAddr) -> Option<Duration> {
    /// Pause between two tries.
    const RETRY_DELAY: Duration = Duration::from_millis(5);
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let connecting = Publisher::connect(broker, "newcomer");
        if let Ok(Ok(_)) = timeout(PATIENCE, connecting).await {
            return Some(began.elapsed());
        }
        sleep(RETRY_DELAY).await;
    }
    None
}
