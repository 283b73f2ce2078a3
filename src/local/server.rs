//! Listening, accepting, and what all connections share. Which client does what is not its business.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::broker::Broker;
use super::connection;
use super::counters::Counters;
use super::keeping::{self, Keeper};
use super::limits::Limits;
use super::publisher::Publisher;
use super::wills;
use crate::routes::Routes;
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
}

impl LocalBroker {
    /// A broker without sessions and retained messages.
    pub fn new(options: Options) -> Self {
        let Options { limits, counters } = options;
        let broker = Broker::new(limits.clone(), Arc::clone(&counters));
        LocalBroker {
            broker: Arc::new(Mutex::new(broker)),
            limits,
            counters,
        }
    }

    /// A broker with the retained messages that `directory` has, which keeps them there. Close the keeper after the
    /// broker has ended. There is none if the directory cannot be used; that has been told then.
    pub fn open(options: Options, directory: &Path) -> (Self, Option<Keeper>) {
        let opened = keeping::open(directory, &options.limits);
        let this = LocalBroker::new(options);
        let keeper = opened.map(|opened| {
            let mut broker = this.broker.lock().unwrap_or_else(PoisonError::into_inner);
            let left_out = broker.restore(opened.messages, opened.desk, Instant::now());
            if left_out > 0 {
                this.counters.dropped_retained.add(left_out as u64);
                tracing::warn!(
                    left_out,
                    "more retained messages were kept than there is room for"
                );
            }
            opened.keeper
        });
        (this, keeper)
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
