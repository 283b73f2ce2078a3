//! Listening, accepting, and what all connections share. Which client does what is not its business.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::broker::Broker;
use super::connection;
use super::counters::Counters;
use super::journal::{self, Clocks, Keeper, Recorder};
use super::limits::Limits;
use super::publisher::Publisher;
use super::wills;
use crate::routes::Routes;
use crate::spool::storage::Storage;
use crate::store::Ingress;

/// Why the local broker cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Another program has the port.
    #[error(
        "LOCAL_MQTT_LISTEN: {address} is in use by another program; stop that one (often a mosquitto service) or choose another port"
    )]
    AddressInUse {
        /// The address that was to be listened on.
        address: SocketAddr,
    },
    /// The system does not let the broker listen.
    #[error("LOCAL_MQTT_LISTEN: cannot listen on {address}: {source}")]
    Listen {
        /// The address that was to be listened on.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// The spool has failed, so nothing can be acknowledged any more.
    #[error("the spool has failed: the local broker acknowledges nothing more and has closed")]
    SpoolFailed,
}

/// What a [`LocalBroker`] can be given.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The limits to keep.
    pub limits: Limits,
    /// Where to count. Keep a clone to read it.
    pub counters: Arc<Counters>,
}

/// The broker before it serves anybody, so that others can be given a [`Publisher`] to it.
#[derive(Debug)]
pub struct LocalBroker {
    broker: Arc<Mutex<Broker>>,
    limits: Limits,
    counters: Arc<Counters>,
    keeper: Option<Keeper>,
}

impl LocalBroker {
    /// A broker without sessions and retained messages, which keeps them in memory only.
    pub fn new(options: Options) -> Self {
        let Options { limits, counters } = options;
        let broker = Broker::new(limits.clone(), Arc::clone(&counters));
        LocalBroker {
            broker: Arc::new(Mutex::new(broker)),
            limits,
            counters,
            keeper: None,
        }
    }

    /// A broker with the persistent sessions and retained messages that are kept in `storage`, which keeps them there.
    /// Never fails: what cannot be read or kept is told, and the relay goes on without.
    pub fn kept_in(storage: Arc<dyn Storage>, options: Options) -> Self {
        let mut local = LocalBroker::new(options);
        let clocks = Clocks::read();
        let kept = match journal::read(&*storage, &clocks) {
            Ok(kept) => kept,
            Err(error) => {
                local.counters.journal_failures.add(1);
                tracing::warn!(
                    %error,
                    "DATA_DIR: cannot read the journal of the local broker; until the next start, local sessions and \
                     retained messages are in memory only"
                );
                return local;
            }
        };
        let recorder = Recorder::on(kept.is_some());
        let image = kept.unwrap_or_default();
        if let Some(version) = image.unknown_version {
            tracing::warn!(
                version,
                "the journal of the local broker is of a version that this program does not know; it is set aside as \
                 journal.damaged, and local sessions and retained messages begin anew"
            );
        }
        if image.damaged > 0 {
            local.counters.journal_damaged.add(image.damaged);
            tracing::warn!(
                places = image.damaged,
                "the journal of the local broker was damaged; a copy is set aside as journal.damaged"
            );
        }
        tracing::info!(
            sessions = image.sessions.len(),
            retained = image.retained.len(),
            torn_bytes = image.torn_bytes,
            "journal of the local broker opened"
        );
        (local.broker.lock())
            .unwrap_or_else(PoisonError::into_inner)
            .restore(image, recorder.clone(), clocks.now);
        let (broker, counters) = (Arc::clone(&local.broker), Arc::clone(&local.counters));
        match Keeper::start(storage, recorder, broker, counters) {
            Ok(keeper) => local.keeper = Some(keeper),
            Err(error) => tracing::warn!(
                %error,
                "cannot start the thread that keeps local sessions and retained messages; they are in memory only"
            ),
        }
        local
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
    pub(super) counters: Arc<Counters>,
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
            counters,
            keeper: _,
        } = broker;
        Shared {
            broker,
            ingress,
            routes,
            limits,
            counters,
            shutdown,
        }
    }

    /// The broker's state. Never held across an await. A task that panicked while it held the lock
    /// must not close the broker to everyone else.
    pub(super) fn broker(&self) -> MutexGuard<'_, Broker> {
        self.broker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens on `listen` (`LOCAL_MQTT_LISTEN`); port 0 lets the system choose.
pub async fn bind(listen: SocketAddr) -> Result<TcpListener, LocalError> {
    TcpListener::bind(listen).await.map_err(|source| {
        let address = listen;
        if source.kind() == io::ErrorKind::AddrInUse {
            LocalError::AddressInUse { address }
        } else {
            LocalError::Listen { address, source }
        }
    })
}

/// Serves clients until `shutdown`. Returns when every connection has ended; an error as soon as the spool has
/// failed.
pub async fn serve<I: Ingress>(
    listener: TcpListener,
    ingress: I,
    routes: Arc<Routes>,
    shutdown: CancellationToken,
    mut broker: LocalBroker,
) -> Result<(), LocalError> {
    let keeper = broker.keeper.take();
    let mut safe = ingress.safe();
    let spool_closed = async move {
        // Resolves only when the channel closes: no watermark satisfies it.
        while safe.changed().await.is_ok() {}
    };
    let mut spool_closed = std::pin::pin!(spool_closed);
    let shared = Arc::new(Shared::new(ingress, routes, shutdown.clone(), broker));
    let mut connections = JoinSet::new();
    let mut keeping_time = std::pin::pin!(wills::keep_time(Arc::clone(&shared)));
    let mut acceptor = Acceptor::default();
    loop {
        // Dropping the set on an error closes every connection.
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            () = &mut spool_closed => return Err(LocalError::SpoolFailed),
            Some(ended) = connections.join_next() => check(ended)?,
            kept = &mut keeping_time => { kept?; break }
            (stream, peer) = acceptor.accept(&listener, &shared.limits) => {
                if connections.len() >= shared.limits.connections_max {
                    acceptor.refuse(peer, &shared.counters, &shared.limits);
                } else {
                    acceptor.refusing = false;
                    connections.spawn(serve_client(Arc::clone(&shared), stream, peer));
                }
            }
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        check(ended)?;
    }
    // Dropped, it writes what is left: the disk is waited for where nobody minds.
    if tokio::task::spawn_blocking(move || drop(keeper))
        .await
        .is_err()
    {
        tracing::error!("the journal of the local broker ended by a fault; please report it");
    }
    Ok(())
}

async fn serve_client<I: Ingress>(
    shared: Arc<Shared<I>>,
    mut stream: TcpStream,
    peer: SocketAddr,
) -> Result<(), LocalError> {
    // Packets are written in batches, so waiting for more (Nagle) would only add delay.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
    }
    let (reader, writer) = stream.split();
    connection::run(shared, reader, writer, peer).await
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

/// Accepts connections, and tells of a burst of refusals once.
#[derive(Default)]
struct Acceptor {
    failing: bool,
    refusing: bool,
}

impl Acceptor {
    /// The next connection. Errors (usually too few file descriptors) pass: they are waited out.
    async fn accept(&mut self, listener: &TcpListener, limits: &Limits) -> (TcpStream, SocketAddr) {
        loop {
            match listener.accept().await {
                Ok(accepted) => {
                    self.failing = false;
                    return accepted;
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!(%error, "cannot accept a connection; trying on");
                    }
                    sleep(limits.accept_pause).await;
                }
            }
        }
    }

    fn refuse(&mut self, peer: SocketAddr, counters: &Counters, limits: &Limits) {
        counters.connections_refused.add(1);
        if !std::mem::replace(&mut self.refusing, true) {
            let limit = limits.connections_max;
            tracing::warn!(%peer, limit, "too many connections; refusing until some end");
        }
    }
}
