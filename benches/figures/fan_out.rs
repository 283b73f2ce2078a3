//! One publisher, many local subscribers: how fast the local broker hands on what is also on its way to the cloud.
//!
//! The subscribers take `QoS` 0 and only count bytes: every packet to them has the same size.

use std::net::SocketAddr;
use std::time::Duration;

use cloud_relay_sandbox::publisher::Load;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::Outcome;
use crate::measure::{Before, peak_memory, rates};
use crate::packets::{CLEAN, connect, subscribe};
use crate::report::{Figure, as_f64};
use crate::stage::Stage;
use crate::system::{System, TOPIC};

/// Local clients that are subscribed to the topic.
pub(crate) const SUBSCRIBERS: u32 = 50;
/// Messages published.
pub(crate) const MESSAGES: u64 = 20_000;
/// Size of every payload, bytes.
const PAYLOAD_BYTES: usize = 256;
/// Type and flags, two bytes of remaining length, the topic with its length, the payload (MQTT 3.3).
const PACKET_BYTES: u64 = (3 + 2 + TOPIC.len() + PAYLOAD_BYTES) as u64;
/// A subscriber that gets nothing for so long gets nothing more: the rest was dropped.
const SILENCE: Duration = Duration::from_secs(10);

/// Measures `system` once.
pub(crate) async fn fan_out(system: &dyn System) -> Outcome<Vec<Figure>> {
    let count = MESSAGES.min(system.messages_max());
    let stage = Stage::warmed_up(system).await?;
    let mut subscribers = JoinSet::new();
    for number in 0..SUBSCRIBERS {
        let stream = subscribed(stage.setting().listen(), number).await?;
        subscribers.spawn(read_all(stream, count * PACKET_BYTES));
    }
    let before = Before::now(&stage)?;
    let load = Load {
        payload_bytes: PAYLOAD_BYTES,
        ..Load::new(1, TOPIC, count)
    };
    let published = stage.publish(vec![load]).await?;
    let (mut bytes, mut last) = (0, published.began);
    while let Some(read) = subscribers.join_next().await {
        let (read, at) = read?;
        bytes += read;
        last = last.max(at);
    }
    let delivered = as_f64(bytes) / as_f64(PACKET_BYTES);
    let took = (last - published.began).as_secs_f64();
    stage
        .wait_for_arrivals(before.arrived + published.acked.len())
        .await;
    let cpu_seconds = (stage.usage()? - before.usage).cpu_seconds;
    let all = as_f64(count * u64::from(SUBSCRIBERS));
    let mut figures = vec![
        Figure::more("delivered locally/s", delivered / took),
        Figure::less("not delivered locally", all - delivered),
        Figure::less(
            "CPU s per 1,000,000 delivered",
            cpu_seconds / delivered * 1e6,
        ),
    ];
    figures.extend(rates(&stage, &before, &published));
    figures.push(peak_memory(&stage, "peak memory MiB")?);
    figures.extend(before.books(&stage, &published.acked));
    Ok(figures)
}

/// A client that is subscribed, by bare packets of MQTT 3.1.1.
async fn subscribed(broker: SocketAddr, number: u32) -> Outcome<TcpStream> {
    const CONNACK_AND_SUBACK_BYTES: usize = 4 + 5;
    let client_id = format!("sub{number:02}");
    let packets = [
        connect(&client_id, CLEAN, b""),
        subscribe(0, [TOPIC.to_owned()]),
    ];
    let mut stream = TcpStream::connect(broker).await?;
    stream.write_all(&packets.concat()).await?;
    let mut answer = [0; CONNACK_AND_SUBACK_BYTES];
    stream.read_exact(&mut answer).await?;
    if answer != [0x20, 2, 0, 0, 0x90, 3, 0, 1, 0] {
        return Err(format!("a subscriber is answered {answer:?}").into());
    }
    Ok(stream)
}

/// Reads `expected` bytes, or as many as come. Returns how many, and when the last of them came.
async fn read_all(mut stream: TcpStream, expected: u64) -> (u64, Instant) {
    let mut buffer = vec![0; 64 * 1024];
    let (mut bytes, mut last) = (0, Instant::now());
    while bytes < expected {
        let Ok(Ok(read @ 1..)) = timeout(SILENCE, stream.read(&mut buffer)).await else {
            break;
        };
        bytes += read as u64;
        last = Instant::now();
    }
    (bytes, last)
}
