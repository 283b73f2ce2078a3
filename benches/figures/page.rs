//! What it costs the relay to be looked at: memory and processor time with its page closed and with it open, idle and
//! under a trickle of messages.
//!
//! To the relay a browser with the page open is a reader of its live feed, and so is what looks here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cloud_relay_sandbox::publisher::Load;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::Outcome;
use crate::measure::memory;
use crate::report::{Figure, as_f64};
use crate::rest::SETTLING;
use crate::stage::Stage;
use crate::system::{System, TOPIC};

/// Messages a second, where there are any.
pub(crate) const RATE: u32 = 100;
/// How long each of the four is looked at, seconds.
pub(crate) const SECONDS: u32 = 20;

/// Measures `system` once.
pub(crate) async fn page(system: &dyn System) -> Outcome<Vec<Figure>> {
    let stage = Stage::warmed_up(system).await?;
    tokio::time::sleep(SETTLING).await;
    let mut figures = vec![
        Figure::less("closed, idle: CPU s per min", idle(&stage).await?),
        Figure::less("closed, 100/s: CPU s per min", busy(&stage, 1).await?),
        memory(&stage, "closed: memory MiB")?,
    ];
    let feed = Feed::open(stage.setting().status()).await?;
    figures.extend([
        Figure::less("open, idle: CPU s per min", idle(&stage).await?),
        Figure::less("open, 100/s: CPU s per min", busy(&stage, 2).await?),
        memory(&stage, "open: memory MiB")?,
    ]);
    figures.push(Figure::less("feed bytes per s", feed.bytes_per_s()));
    Ok(figures)
}

/// A reader of the live feed.
struct Feed {
    bytes: Arc<AtomicU64>,
    began: Instant,
}

impl Feed {
    async fn open(address: SocketAddr) -> Outcome<Self> {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET /api/events HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let bytes = Arc::new(AtomicU64::new(0));
        tokio::spawn({
            let bytes = Arc::clone(&bytes);
            async move {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    bytes.fetch_add(read as u64, Ordering::Relaxed);
                }
            }
        });
        Ok(Feed {
            bytes,
            began: Instant::now(),
        })
    }

    fn bytes_per_s(&self) -> f64 {
        as_f64(self.bytes.load(Ordering::Relaxed)) / self.began.elapsed().as_secs_f64()
    }
}

/// Processor seconds a minute while nothing happens.
async fn idle(stage: &Stage) -> Outcome<f64> {
    let (before, began) = (stage.usage()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(SECONDS.into())).await;
    let used = stage.usage()? - before;
    Ok(used.cpu_seconds / began.elapsed().as_secs_f64() * 60.0)
}

/// Processor seconds a minute at [`RATE`].
async fn busy(stage: &Stage, publisher: u32) -> Outcome<f64> {
    let load = Load {
        rate_per_second: Some(RATE.into()),
        ..Load::new(publisher, TOPIC, u64::from(RATE * SECONDS))
    };
    let (before, began) = (stage.usage()?, Instant::now());
    stage.publish(vec![load]).await?;
    let used = stage.usage()? - before;
    Ok(used.cpu_seconds / began.elapsed().as_secs_f64() * 60.0)
}
