//! An AWS-IoT-like MQTT server over mutual TLS that keeps the books.
//!
//! ```text
//! TCP ─► TLS (device certificate) ─► CONNECT ─► read a batch ─► rules, faults ─► books ─► acks
//! ```
//!
//! Invariants: a message is in the books before its acknowledgement is written; [`Rules::default`]
//! is AWS's behaviour; a [`Faults::default`] server does nothing wrong. MQTT 3.1.1 and MQTT 5 are
//! spoken on the same port, by the protocol level in CONNECT.
//!
//! Publishes from clients are delivered to nobody over MQTT: whoever wants them follows them in process. What clients
//! subscribe to comes from [`Cloud::deliver`]. It retains nothing, but the books say what was to be; a will is in the
//! books like a message.

mod acks;
mod books;
mod breach;
mod connection;
mod faults;
mod mailboxes;
mod rate;
mod rules;
mod session;
mod sessions;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rustix::net::Shutdown;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, broadcast, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

pub use self::books::{Arrival, Bookkeeping, Counts, NotArrived, Received, TooFew};
pub use self::breach::Breach;
pub use self::faults::{Connections, Faults, GROUP_PATIENCE, PubackReason};
pub use self::rate::Peaks;
pub use self::rules::{
    BYTE_RATE_MAX, IN_FLIGHT_MAX, KEEP_ALIVE_S_MAX, OverInFlight, PACKET_BYTES_MAX,
    PAYLOAD_BYTES_MAX, PUBLISH_RATE_MAX, RefuseV5, Rules, TOPIC_ALIAS_MAX, TOPIC_BYTES_MAX,
    TOPIC_SLASHES_MAX,
};
pub use self::wire::{MqttVersion, PublishProperties};

use self::books::Books;
use self::mailboxes::Mailboxes;
use self::sessions::Sessions;
use crate::ca::{CaError, CertificateAuthority};
use crate::ledger::{Audit, MessageId};
use crate::port::ReservedPort;

/// How long to wait after a failed accept (out of file descriptors, say) before the next.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// What can go wrong when the cloud starts.
#[derive(Debug, thiserror::Error)]
pub enum CloudError {
    /// No server certificate.
    #[error(transparent)]
    Certificate(#[from] CaError),
    /// The certificates do not make a TLS server.
    #[error("cannot set up TLS for the cloud: {0}")]
    Tls(String),
    /// The port is not to be had.
    #[error("cannot listen on {addr} for the cloud: {source}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// The server did not see the expected number of CONNECTs in time.
#[derive(Debug, thiserror::Error)]
#[error("only {connects} of {expected} connections were made to the cloud within {waited:?}")]
pub struct TooFewConnects {
    /// How many were waited for.
    pub expected: u64,
    /// How many there were.
    pub connects: u64,
    /// How long was waited.
    pub waited: Duration,
}

/// How a cloud starts.
#[derive(Clone, Debug)]
pub struct CloudOptions {
    /// Who issued the server's certificate and the devices'.
    pub authority: Arc<CertificateAuthority>,
    /// What is refused.
    pub rules: Rules,
    /// The port on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// How much of a message is kept.
    pub bookkeeping: Bookkeeping,
}

impl CloudOptions {
    /// AWS's rules on a free port.
    pub fn new(authority: Arc<CertificateAuthority>) -> Self {
        CloudOptions {
            authority,
            rules: Rules::default(),
            port: 0,
            bookkeeping: Bookkeeping::default(),
        }
    }
}

/// What all connections share.
struct Hub {
    authority: Arc<CertificateAuthority>,
    books: Books,
    sessions: Sessions,
    mailboxes: Mailboxes,
    rules: watch::Sender<Arc<Rules>>,
    faults: watch::Sender<Faults>,
    /// Publishes that came in, for faults that hit every n-th.
    publishes: AtomicU64,
}

/// The running cloud. Dropping it closes everything.
pub struct Cloud {
    hub: Arc<Hub>,
    acceptor: TlsAcceptor,
    /// Keeps the port from others during an outage.
    reserved: ReservedPort,
    accepting: Mutex<Option<Accepting>>,
}

/// The task that accepts; its connections end with it.
struct Accepting {
    task: JoinHandle<()>,
    listener: Arc<TcpListener>,
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cloud {
    /// Starts a cloud on 127.0.0.1.
    pub async fn start(options: CloudOptions) -> Result<Self, CloudError> {
        let acceptor = acceptor(&options.authority)?;
        let reserved = ReservedPort::at(options.port).map_err(|source| CloudError::Listen {
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, options.port)),
            source,
        })?;
        let listener = listen(reserved.addr()).await?;
        let hub = Arc::new(Hub {
            authority: options.authority,
            books: Books::new(options.bookkeeping),
            sessions: Sessions::default(),
            mailboxes: Mailboxes::default(),
            rules: watch::Sender::new(Arc::new(options.rules)),
            faults: watch::Sender::new(Faults::default()),
            publishes: AtomicU64::new(0),
        });
        let accepting = spawn_accepting(Arc::clone(&hub), listener, acceptor.clone());
        Ok(Cloud {
            hub,
            acceptor,
            reserved,
            accepting: Mutex::new(Some(accepting)),
        })
    }

    /// Where it listens, or listened before [`Cloud::stop`].
    pub fn addr(&self) -> SocketAddr {
        self.reserved.addr()
    }

    /// The port of [`Cloud::addr`], for `AWS_PORT`.
    pub fn port(&self) -> u16 {
        self.addr().port()
    }

    /// An outage: closes the port and every connection. The books stay.
    pub async fn stop(&self) -> Result<(), CloudError> {
        let mut accepting = self.accepting.lock().await;
        if let Some(mut accepting) = accepting.take() {
            accepting.task.abort();
            // the only error is the one just asked for
            (&mut accepting.task).await.ok();
            // closing is not enough: a child that is being forked holds a copy for a moment
            rustix::net::shutdown(&*accepting.listener, Shutdown::Both)
                .map_err(|error| self.unavailable(error.into()))?;
        }
        Ok(())
    }

    /// Ends an outage on the same port.
    pub async fn resume(&self) -> Result<(), CloudError> {
        let mut accepting = self.accepting.lock().await;
        if accepting.is_none() {
            let listener = listen(self.addr()).await?;
            *accepting = Some(spawn_accepting(
                Arc::clone(&self.hub),
                listener,
                self.acceptor.clone(),
            ));
        }
        Ok(())
    }

    fn unavailable(&self, source: std::io::Error) -> CloudError {
        let addr = self.addr();
        CloudError::Listen { addr, source }
    }

    /// Changes the faults; open connections follow at once.
    pub fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        self.hub.faults.send_modify(change);
    }

    /// Changes the rules; they hold for what is read from now on.
    pub fn set_rules(&self, change: impl FnOnce(&mut Rules)) {
        self.hub
            .rules
            .send_modify(|rules| change(Arc::make_mut(rules)));
    }

    /// Closes every connection now, without a word; says how many there were.
    pub fn drop_connections(&self) -> usize {
        self.hub.sessions.end_all()
    }

    /// The client ids that are connected now.
    pub fn client_ids(&self) -> Vec<String> {
        self.hub.sessions.client_ids()
    }

    /// Sends a message at `QoS` 1 to every client that is subscribed to `topic`, or keeps it for one whose session outlives
    /// its connection. Says to how many.
    pub fn deliver(&self, topic: &str, payload: &[u8]) -> usize {
        self.hub.mailboxes.deliver(topic, payload)
    }

    /// How many messages the client has acknowledged since the start.
    pub fn delivered(&self, client_id: &str) -> usize {
        self.hub.mailboxes.acknowledged(client_id)
    }

    /// What the client is subscribed to.
    pub fn subscriptions(&self, client_id: &str) -> Vec<String> {
        self.hub.mailboxes.filters(client_id)
    }

    /// Every message so far, in order of arrival; none if [`Bookkeeping::Ids`] are all that is kept.
    pub fn received(&self) -> Vec<Received> {
        self.hub.books.received()
    }

    /// When each message that has an id arrived, in order, whatever is kept of it.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.hub.books.arrivals()
    }

    /// How many messages arrived so far, duplicates counted.
    pub fn received_count(&self) -> usize {
        self.hub.books.len()
    }

    /// The counters.
    pub fn counts(&self) -> Counts {
        self.hub.books.counts()
    }

    /// Why connections were closed or refused by a rule, in order. A publish that got a PUBACK with
    /// a reason is in [`Cloud::publish_refusals`] instead.
    pub fn breaches(&self) -> Vec<Breach> {
        self.hub.books.breaches()
    }

    /// How often a publish was not taken, by the reason that its acknowledgement gave (MQTT 5).
    pub fn publish_refusals(&self) -> BTreeMap<u8, u64> {
        self.hub.books.publish_refusals()
    }

    /// The most that came in any one second, since the start or [`Cloud::reset_peaks`].
    pub fn peaks(&self) -> Peaks {
        self.hub.books.peaks()
    }

    /// The shortest time between two CONNECTs of one client id, refused ones counted; `None` if none
    /// said it twice. AWS allows one a second.
    pub fn connect_gap_min(&self) -> Option<Duration> {
        self.hub.books.connect_gap_min()
    }

    /// Starts to measure [`Cloud::peaks`] anew.
    pub fn reset_peaks(&self) {
        self.hub.books.reset_peaks();
    }

    /// Why connections were refused, in order.
    pub fn refusals(&self) -> Vec<String> {
        self.hub.books.refusals()
    }

    /// The messages from now on, as they arrive. A slow follower misses the oldest.
    pub fn follow(&self) -> broadcast::Receiver<Received> {
        self.hub.books.follow()
    }

    /// Waits until `expected` messages, duplicates counted, have arrived since the start.
    pub async fn wait_for(&self, expected: usize, timeout: Duration) -> Result<(), TooFew> {
        self.hub.books.wait_for(expected, timeout).await
    }

    /// Waits until each of `expected` has arrived, in whatever order and however often.
    pub async fn wait_for_messages(
        &self,
        expected: &[MessageId],
        timeout: Duration,
    ) -> Result<(), NotArrived> {
        self.hub.books.wait_for_messages(expected, timeout).await
    }

    /// Compares `expected` with what has arrived so far.
    pub fn audit(&self, expected: &[MessageId]) -> Audit {
        self.hub.books.audit(expected)
    }

    /// Waits until `expected` CONNECTs have been accepted since the start.
    pub async fn wait_for_connects(
        &self,
        expected: u64,
        timeout: Duration,
    ) -> Result<(), TooFewConnects> {
        let mut connects = self.hub.books.connects();
        let enough = connects.wait_for(|connects| *connects >= expected);
        if matches!(tokio::time::timeout(timeout, enough).await, Ok(Ok(_))) {
            return Ok(());
        }
        Err(TooFewConnects {
            expected,
            connects: self.counts().connects,
            waited: timeout,
        })
    }
}

/// A TLS server that asks for a certificate of this authority.
fn acceptor(authority: &CertificateAuthority) -> Result<TlsAcceptor, CloudError> {
    let tls = |error: &dyn std::fmt::Display| CloudError::Tls(error.to_string());
    let identity = authority.issue_server()?;
    let mut roots = RootCertStore::empty();
    roots
        .add(authority.root_der().clone())
        .map_err(|error| tls(&error))?;
    let provider = crate::crypto_provider();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| tls(&error))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| tls(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![identity.certificate], identity.private_key)
        .map_err(|error| tls(&error))?;
    // AWS's name for MQTT with client certificates on port 443; a client need not ask for any
    config.alpn_protocols = vec![b"x-amzn-mqtt-ca".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn listen(addr: SocketAddr) -> Result<TcpListener, CloudError> {
    TcpListener::bind(addr)
        .await
        .map_err(|source| CloudError::Listen { addr, source })
}

fn spawn_accepting(hub: Arc<Hub>, listener: TcpListener, acceptor: TlsAcceptor) -> Accepting {
    let listener = Arc::new(listener);
    let accepting = Arc::clone(&listener);
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = accepting.accept() => match accepted {
                    Ok((tcp, _)) => {
                        connections.spawn(connection::serve(Arc::clone(&hub), tcp, acceptor.clone()));
                    }
                    Err(error) => {
                        hub.books.refuse(format!("cannot accept a connection: {error}"));
                        tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                    }
                },
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
    });
    Accepting { task, listener }
}
