//! Listening, accepting, and what all connections share. Which client does what is not its business.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::acceptor::{Acceptor, Door};
use super::access::{Access, AccessError};
use super::broker::Broker;
use super::counters::Counters;
use super::journal::{self, Keeper};
use super::limits::Limits;
use super::publisher::Publisher;
use super::tls::TlsFilesError;
use super::transport;
use super::wills;
use crate::routes::Routes;
use crate::store::Ingress;

/// Why the local broker cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Another program has the port.
    #[error(
        "{variable}: {address} is in use by another program; stop that one (often a mosquitto service) or choose another port"
    )]
    AddressInUse {
        /// The variable that names it.
        variable: &'static str,
        /// The address that was to be listened on.
        address: SocketAddr,
    },
    /// The system does not let the broker listen.
    #[error("{variable}: cannot listen on {address}: {source}")]
    Listen {
        /// The variable that names it.
        variable: &'static str,
        /// The address that was to be listened on.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// It cannot be said who may connect.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The TLS listener's files cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsFilesError),
    /// The spool has failed, so nothing can be acknowledged any more.
    #[error("the spool has failed: the local broker acknowledges nothing more and has closed")]
    SpoolFailed,
}

/// What a [`LocalBroker`] can be given.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The limits to keep.
    pub limits: Limits,
    /// Who may connect.
    pub access: Access,
    /// Where to count. Keep a clone to read it.
    pub counters: Arc<Counters>,
}

/// The broker before it serves anybody, so that others can be given a [`Publisher`] to it.
#[derive(Debug)]
pub struct LocalBroker {
    broker: Arc<Mutex<Broker>>,
    limits: Limits,
    access: Access,
    counters: Arc<Counters>,
    /// Keeps sessions and retained messages, if they are kept.
    keeper: Option<Keeper>,
}

impl LocalBroker {
    /// A broker without sessions and retained messages.
    pub fn new(options: Options) -> Self {
        let Options {
            limits,
            access,
            counters,
        } = options;
        let broker = Broker::new(limits.clone(), Arc::clone(&counters));
        LocalBroker {
            broker: Arc::new(Mutex::new(broker)),
            limits,
            access,
            counters,
            keeper: None,
        }
    }

    /// Takes over the persistent sessions and retained messages that `directory` has, and keeps them there until [`serve`]
    /// has ended. Never fails: what cannot be read or kept is told, and the relay goes on without.
    pub fn keep(&mut self, directory: &Path) {
        self.keeper = journal::keep(directory, &self.broker, &self.counters);
    }

    /// Its journal is kept by this thread, which is waited for.
    #[cfg(test)]
    pub(super) fn kept_by(&mut self, thread: std::thread::JoinHandle<()>) {
        self.keeper = Some(Keeper::of(thread));
    }

    /// One with the session of a client that is away and wants all there is. Its journal has on disk what it had recorded
    /// when the answer was last called.
    #[cfg(test)]
    pub(crate) fn with_absent_client() -> (Self, impl Fn()) {
        use super::broker::SessionRequest;
        use super::journal::{Image, Recorder};
        use super::packet::Filter;
        use super::publication::QoS;
        let this = LocalBroker::new(Options::default());
        let recorder = Recorder::on(false);
        {
            let (now, link) = (tokio::time::Instant::now(), Arc::default());
            let mut broker = this.broker.lock().unwrap_or_else(PoisonError::into_inner);
            broker.restore(Image::default(), recorder.clone(), now);
            let request = SessionRequest {
                client_id: "away",
                clean_start: true,
                expiry_s: 60,
                receive_max: u16::MAX,
            };
            let key = broker.connect(request, &link, now).session;
            broker.subscribe(key, &link, &[Filter::plain("#", QoS::AtLeastOnce)], now);
            broker.disconnect(key, &link, None, now);
        }
        (this, move || recorder.keep(recorder.next()))
    }

    /// A way to publish to its clients from within the relay, until `stopped`: then nobody gets it any more.
    pub fn publisher(&self, stopped: CancellationToken) -> Publisher {
        Publisher::new(
            Arc::clone(&self.broker),
            self.limits.clone(),
            Arc::clone(&self.counters),
            stopped,
        )
    }
}

/// What all connections share.
pub(super) struct Shared<I> {
    broker: Arc<Mutex<Broker>>,
    pub(super) ingress: I,
    pub(super) routes: Arc<Routes>,
    pub(super) limits: Limits,
    pub(super) access: Access,
    pub(super) counters: Arc<Counters>,
    /// Places for packets that are larger than the buffers of their connections.
    pub(super) large_packets: Arc<Semaphore>,
    /// Places for connections over WebSocket.
    pub(super) websockets: Arc<Semaphore>,
    pub(super) shutdown: CancellationToken,
}

impl<I: Ingress> Shared<I> {
    pub(super) fn new(
        ingress: I,
        routes: Arc<Routes>,
        shutdown: CancellationToken,
        broker: LocalBroker,
    ) -> Self {
        let LocalBroker {
            broker,
            limits,
            access,
            counters,
            keeper: _,
        } = broker;
        let places = |count| Arc::new(Semaphore::new(count));
        let large_packets = places(limits.large_packets_max);
        let websockets = places(limits.websockets_max);
        Shared {
            broker,
            ingress,
            routes,
            limits,
            access,
            counters,
            large_packets,
            websockets,
            shutdown,
        }
    }

    /// The broker's state. Never held across an await. A task that panicked while it held the lock
    /// must not close the broker to everyone else.
    pub(super) fn broker(&self) -> MutexGuard<'_, Broker> {
        self.broker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens on `listen`, the value of `variable`; port 0 lets the system choose.
pub async fn bind(variable: &'static str, listen: SocketAddr) -> Result<TcpListener, LocalError> {
    TcpListener::bind(listen).await.map_err(|source| {
        let address = listen;
        if source.kind() == io::ErrorKind::AddrInUse {
            LocalError::AddressInUse { variable, address }
        } else {
            LocalError::Listen {
                variable,
                address,
                source,
            }
        }
    })
}

/// Serves clients until `shutdown`. Returns when every connection has ended, which is at once when the spool has failed,
/// and what is kept is written.
pub async fn serve<I: Ingress>(
    doors: Vec<Door>,
    ingress: I,
    routes: Arc<Routes>,
    shutdown: CancellationToken,
    mut broker: LocalBroker,
) -> Result<(), LocalError> {
    let keeper = broker.keeper.take();
    let served = serve_clients(doors, ingress, routes, shutdown, broker).await;
    // Dropped, it writes what is left: the disk, which may be the very one that has failed, is waited for where nobody
    // minds.
    let written = tokio::task::spawn_blocking(move || drop(keeper)).await;
    if written.is_err() {
        tracing::error!("the journal of the local broker ended by a fault; please report it");
    }
    served
}

async fn serve_clients<I: Ingress>(
    doors: Vec<Door>,
    ingress: I,
    routes: Arc<Routes>,
    shutdown: CancellationToken,
    broker: LocalBroker,
) -> Result<(), LocalError> {
    let mut safe = ingress.safe();
    let spool_closed = async move {
        // Resolves only when the channel closes: no watermark satisfies it.
        while safe.changed().await.is_ok() {}
    };
    let mut spool_closed = std::pin::pin!(spool_closed);
    let shared = Arc::new(Shared::new(ingress, routes, shutdown.clone(), broker));
    let mut connections = JoinSet::new();
    let mut keeping_time = std::pin::pin!(wills::keep_time(Arc::clone(&shared)));
    let mut acceptor = Acceptor::new(doors);
    loop {
        let served = connections.len();
        // Dropping the set on an error closes every connection.
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            () = &mut spool_closed => return Err(LocalError::SpoolFailed),
            Some(ended) = connections.join_next() => check(ended)?,
            kept = &mut keeping_time => { kept?; break }
            arrival = acceptor.arrival(served, &shared.limits, &shared.counters) => {
                connections.spawn(transport::serve(Arc::clone(&shared), arrival));
            }
        }
    }
    drop(acceptor);
    while let Some(ended) = connections.join_next().await {
        check(ended)?;
    }
    Ok(())
}

/// A connection that panicked is a bug, but it is one client's: the others are served on.
fn check(ended: Result<Result<(), LocalError>, JoinError>) -> Result<(), LocalError> {
    match ended {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(%error, "a connection ended by a fault of the broker; please report it");
            Ok(())
        }
    }
}
