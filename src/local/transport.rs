//! What lies between a socket and MQTT: nothing, TLS, or WebSocket. Its beginning is done here, within the connect time-out.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::acceptor::Arrival;
use super::connection;
use super::origins::Origins;
use super::server::{LocalError, Shared};
use super::tls::Tls;
use super::websocket;
use crate::store::Ingress;

/// How the clients of one door speak.
#[derive(Clone, Debug)]
pub(super) enum Transport {
    Tcp,
    Tls(Arc<Tls>),
    WebSocket(Arc<Origins>),
}

/// Serves one client from its first byte on.
pub(super) async fn serve<I: Ingress>(
    shared: Arc<Shared<I>>,
    arrival: Arrival,
) -> Result<(), LocalError> {
    let Arrival {
        transport,
        mut stream,
        peer,
        place: _place,
    } = arrival;
    let connect_by = Instant::now() + shared.limits.connect_timeout;
    // Packets are written in batches, so waiting for more (Nagle) would only add delay.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
    }
    match transport {
        Transport::Tcp => {
            let (reader, writer) = stream.split();
            connection::run(shared, reader, writer, peer, connect_by).await
        }
        Transport::Tls(tls) => {
            let handshake = async { tls.acceptor().await.accept(stream).await };
            let Some(stream) = begin(&shared, handshake, peer, connect_by).await else {
                return Ok(());
            };
            let (reader, writer) = tokio::io::split(stream);
            connection::run(shared, reader, writer, peer, connect_by).await
        }
        Transport::WebSocket(origins) => {
            let Ok(_place) = Arc::clone(&shared.websockets).try_acquire_owned() else {
                shared.counters.connections_refused.add(1);
                tracing::debug!(%peer, "too many WebSocket connections; one is closed");
                return Ok(());
            };
            let handshake = websocket::accept(stream, &origins, &shared.limits, &shared.counters);
            let Some(stream) = begin(&shared, handshake, peer, connect_by).await else {
                return Ok(());
            };
            let (reader, writer) = tokio::io::split(stream);
            connection::run(shared, reader, writer, peer, connect_by).await
        }
    }
}

/// The stream that `handshake` leads to, unless it fails, takes too long, or the relay stops.
async fn begin<I, S>(
    shared: &Shared<I>,
    handshake: impl Future<Output = io::Result<S>>,
    peer: SocketAddr,
    connect_by: Instant,
) -> Option<S> {
    let begun = tokio::select! {
        () = shared.shutdown.cancelled() => return None,
        begun = timeout_at(connect_by, handshake) => begun,
    };
    let error = match begun {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => error,
        Err(_elapsed) => io::ErrorKind::TimedOut.into(),
    };
    shared.counters.handshakes_failed.add(1);
    // One that says nothing and goes is a probe of the port.
    if error.kind() == io::ErrorKind::UnexpectedEof {
        tracing::debug!(%peer, %error, "a connection did not become a client's");
    } else {
        tracing::info!(%peer, %error, "a connection did not become a client's: its handshake failed");
    }
    None
}
