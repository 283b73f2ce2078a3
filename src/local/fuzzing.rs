//! What fuzzing sees of the local broker, which is private: the packet parser, which `benches/paths.rs` uses too, and a
//! broker without sockets. Nothing of the relay uses it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::DuplexStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use super::broker::Holdings;
use super::connection;
use super::journal::{Image, Recorder};
use super::packet::{Frame, Incoming, Version, frame, parse};
use super::publication::QoS;
use super::server::{LocalBroker, LocalError, Options, Shared};
use super::wills;
use crate::routes::Routes;
use crate::store::Ingress;

/// The remaining length that is let through.
pub const REMAINING_BYTES_MAX: usize = 64 * 1024;

/// A packet that was found at the beginning of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// How much of the buffer it takes.
    pub frame_bytes: usize,
    /// Whether it is one that a client may send.
    pub is_sound: bool,
    /// Of a PUBLISH that is sound: the bytes of topic, properties and payload.
    pub publish_bytes: Option<usize>,
    /// Whether a PUBLISH has a packet identifier exactly if its `QoS` has one.
    pub id_fits_qos: bool,
}

/// Reads the packet that `buffer` begins with, as the broker does; `Err` says that it would close the connection,
/// `Ok(None)` that it would wait for more.
///
/// # Errors
/// The text of the log.
pub fn first_packet(is_v5: bool, buffer: &[u8]) -> Result<Option<Found>, String> {
    let version = if is_v5 { Version::V5 } else { Version::V4 };
    let size = match frame(buffer, REMAINING_BYTES_MAX) {
        Ok(Frame::Complete(size)) => size,
        Ok(Frame::Missing(_)) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let bytes = buffer.get(..size).ok_or("a frame beyond the buffer")?;
    let incoming = parse(version, bytes);
    let mut found = Found {
        frame_bytes: size,
        is_sound: incoming.is_ok(),
        publish_bytes: None,
        id_fits_qos: true,
    };
    if let Ok(Incoming::Publish(publish)) = incoming {
        let parts = [
            publish.topic.as_bytes(),
            publish.properties.bytes(),
            publish.payload,
        ];
        found.publish_bytes = Some(parts.iter().map(|part| part.len()).sum());
        found.id_fits_qos = (publish.id != 0) == (publish.qos > QoS::AtMostOnce);
    }
    Ok(Some(found))
}

/// A broker whose clients come over streams in memory, and whose journal is on no disk: what it kept is told, and when.
/// It lives in a runtime of tokio.
pub struct Bench<I> {
    shared: Arc<Shared<I>>,
    recorder: Recorder,
    /// What the journal has.
    kept: Image,
    timekeeper: JoinHandle<Result<(), LocalError>>,
}

impl<I: Ingress> Bench<I> {
    /// A broker whose journal is empty.
    pub fn new(ingress: I, routes: Routes, options: Options) -> Self {
        Bench::restored(Image::default(), ingress, routes, options)
    }

    /// Ends as by SIGKILL, and begins anew with what the journal has.
    #[must_use]
    pub fn restart(mut self, ingress: I, options: Options) -> Self {
        self.timekeeper.abort();
        let routes = (*self.shared.routes).clone();
        Bench::restored(std::mem::take(&mut self.kept), ingress, routes, options)
    }

    fn restored(image: Image, ingress: I, routes: Routes, options: Options) -> Self {
        let recorder = Recorder::on(!image.sessions.is_empty());
        let broker = LocalBroker::new(options);
        let shutdown = CancellationToken::new();
        let shared = Arc::new(Shared::new(ingress, Arc::new(routes), shutdown, broker));
        let now = Instant::now();
        let left_out = (shared.broker()).restore(image, recorder.clone(), now);
        assert_eq!(left_out, 0, "what had room before has room again");
        let mut bench = Bench {
            timekeeper: tokio::spawn(wills::keep_time(Arc::clone(&shared))),
            kept: Image::default(),
            shared,
            recorder,
        };
        bench.sync_journal();
        bench
    }

    /// A client's end of a new connection, over a stream that buffers `buffer_bytes` each way; and the broker's end.
    pub fn connect(
        &self,
        buffer_bytes: usize,
    ) -> (DuplexStream, JoinHandle<Result<(), LocalError>>) {
        let (near, far) = tokio::io::duplex(buffer_bytes);
        let (reader, writer) = tokio::io::split(far);
        let peer = SocketAddr::from(([192, 0, 2, 1], 1));
        let connect_by = Instant::now() + self.shared.limits.connect_timeout;
        let shared = Arc::clone(&self.shared);
        let run = connection::run(shared, reader, writer, peer, connect_by);
        (near, tokio::spawn(run))
    }

    /// The journal is written afresh, and has everything. Returns whether it did not have it before.
    pub fn sync_journal(&mut self) -> bool {
        let broker = self.shared.broker();
        if *self.recorder.kept().borrow() == self.recorder.next() {
            return false;
        }
        let below = self.recorder.begin_afresh();
        let mut image = Image::default();
        for change in broker.snapshot() {
            image.apply(change);
        }
        drop(broker);
        self.kept = image;
        self.recorder.keep(below);
        true
    }

    /// The journal's disk fails: nothing waits for it any more, until it is written afresh.
    pub fn fail_journal(&self) {
        self.recorder.fail();
    }

    /// What the broker holds.
    ///
    /// # Panics
    /// If its books are wrong, or if it has stopped keeping the time.
    pub fn audit(&self) -> Holdings {
        assert!(!self.timekeeper.is_finished(), "nobody keeps the time");
        self.shared.broker().audit()
    }
}
