//! The egress: takes messages out of the spool and publishes them to the cloud.
//!
//! The way of an acknowledgement, which is the promise's second half:
//!
//! ```text
//!            ┌────────────────── 6. settle ──────────────────┐
//!            ▼                                               │
//!  spool ─1. next─► pending ─2. open─► window ─3. PUBLISH─► cloud
//!                                        ▲                   │
//!                                        └──5. seq ◄──4. PUBACK
//! ```
//!
//! 1. [`Store::next`] gives messages out in order; they stay in the spool.
//! 2. The [`window`] gives each a packet identifier, if fewer than its limit are unacknowledged and [`pacing`] finds
//!    room for it in the cloud's quotas.
//! 3. The connection writes them, many in one write.
//! 4. The cloud acknowledges, in any order.
//! 5. The window turns packet identifiers back into numbers.
//! 6. The spool settles them.
//!
//! A message that the cloud never takes ([`poison`], [`denials`], [`suspicion`]) is written to the dead letters and
//! then settled. Nothing else makes a message leave the spool.
//!
//! Every connection starts from the oldest unsettled message, with an empty window and a clean MQTT
//! session: the spool, not the session, owns redelivery.
//!
//! The MQTT client is our own loop over `rumqttc`'s packet codec: its event loop drops what is
//! unacknowledged when a session is not present, and hides which packet identifier a message got.

mod connect;
pub mod denials;
mod digest;
mod downlink;
mod drain;
pub mod errands;
mod expiry;
mod held;
mod lifetime;
mod negotiation;
pub mod pacing;
mod packet;
pub mod packing;
pub mod poison;
mod session;
mod status;
pub mod suspicion;
pub mod tls;
pub mod window;

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::clock;
use crate::clock_gate::{self, ClockGate};
use crate::credentials::Validity;
use crate::dead_letters::DeadLetters;
use crate::local::Publisher;
use crate::routes::Routes;
use crate::state::{State, StateBoard};
use crate::store::Store;

pub use self::packet::{MqttVersion, Rejection};

use self::connect::{ConnectError, Connection};
use self::negotiation::{Fallback, Negotiation};
use self::pacing::Quota;
use self::packing::Packing;
use self::session::{Aside, Ended, Lost, Session};

/// The first retry after the cloud refused or dropped us comes within this, but see [`CONNECT_INTERVAL`].
const RETRY_BASE: Duration = Duration::from_secs(1);
/// A CONNECT follows the one before it no sooner: AWS IoT Core takes one a second and client id.
const CONNECT_INTERVAL: Duration = Duration::from_secs(1);
/// Retries after the cloud refused us are at most this far apart.
const RETRY_MAX: Duration = Duration::from_mins(1);
/// Retries while the network does not lead to the cloud are at most this far apart: they cost the cloud
/// nothing, and the backlog waits for the first one that gets through.
const NETWORK_RETRY_MAX: Duration = Duration::from_secs(1);
/// A connection that lasted this long was good: the back-off starts over.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// One that had a message accepted was good after this time already. Shorter ones are what two clients with the
/// same client id do to each other: each new connection ends the other's.
const STABLE_WITH_PROGRESS_AFTER: Duration = Duration::from_secs(2);

/// The cloud to publish to.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Host name, also the server name in TLS.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// MQTT client identifier: the device UUID.
    pub client_id: String,
    /// Roots, certificate, key and ALPN.
    pub tls: Arc<ClientConfig>,
    /// When the device's certificate is valid, if that is known.
    pub validity: Option<Validity>,
    /// `CLOUD_MQTT_VERSION`: 3.1.1 is taken all the same if the cloud speaks nothing else.
    pub mqtt_version: MqttVersion,
    /// How much it takes.
    pub quota: Quota,
    /// How long a topic may be denied before its messages become dead letters.
    pub denied_hold: Duration,
    /// How messages travel together, where a route says that they may.
    pub packing: Packing,
    /// What it is for besides.
    pub extras: Extras,
}

/// Where messages come from, and where those go that the cloud never takes.
#[derive(Clone, Debug)]
pub struct Source {
    /// The spool.
    pub store: Store,
    /// Which cloud topic each has.
    pub routes: Arc<Routes>,
    /// What the cloud never takes.
    pub dead_letters: DeadLetters,
}

/// What a connection is for besides relaying.
#[derive(Clone, Debug)]
pub struct Extras {
    /// `CLOUD_SUBSCRIBE`: from the cloud's topics to local ones.
    pub subscriptions: Option<Routes>,
    /// `CLOUD_STATUS_TOPIC`.
    pub status_topic: Option<String>,
    /// How what comes from the cloud gets to the local clients.
    pub publisher: Publisher,
}

/// Keeps a connection to the cloud and drains the spool through it, until `shutdown`. Waits for the clock first.
pub async fn run(
    endpoint: Endpoint,
    source: Source,
    state: StateBoard,
    shutdown: CancellationToken,
) {
    let validity = endpoint.validity;
    let gate = ClockGate::new(validity.map(|validity| validity.from_unix_s));
    let opened = gate.wait(&state, clock::now);
    if shutdown.run_until_cancelled(opened).await.is_none() {
        return;
    }
    tokio::select! {
        () = keep_connected(endpoint, source, state, shutdown) => {}
        () = expiry::keep_warning(validity, clock::now) => {}
    }
}

async fn keep_connected(
    endpoint: Endpoint,
    source: Source,
    state: StateBoard,
    shutdown: CancellationToken,
) {
    let mut refused = Backoff::new(RETRY_BASE, RETRY_MAX);
    let mut unreachable = Backoff::new(RETRY_BASE, NETWORK_RETRY_MAX);
    let mut negotiation = Negotiation::new(endpoint.mqtt_version);
    let aside = Aside::new(&endpoint.extras);
    let mut session = Session::new(source, endpoint.quota, endpoint.denied_hold, aside)
        .with_packing(endpoint.packing);
    state.set(State::Connecting);
    let (host, port) = (&endpoint.host, endpoint.port);
    tracing::info!("connecting to {host} on port {port}");
    loop {
        let greeting = session.aside.greeting(&endpoint.client_id, Instant::now());
        let with_will = greeting.will.is_some();
        let connecting = connect::connect(&endpoint, negotiation.version(), greeting);
        let Some(connected) = shutdown.run_until_cancelled(connecting).await else {
            return;
        };
        note_version(&mut negotiation, &connected);
        if connected.as_ref().is_err_and(ConnectError::accuses_will) {
            session.aside.errands.refused_on_connect(with_will);
        }
        // The CONNECT, if there was one, was sent before now.
        let next_connect = Instant::now() + CONNECT_INTERVAL;
        let (state_now, delay) = match connected {
            Ok(connection) => {
                state.set(State::Connected);
                let since = Instant::now();
                let ended = session.run(connection, &shutdown).await;
                let Ended::Lost(lost) = ended else {
                    return;
                };
                unreachable.reset();
                let mut reason = lost.reason.to_string();
                if was_good(&lost, since.elapsed()) {
                    refused.reset();
                } else if lost.progress {
                    reason.push_str(ADVICE_SHORT_LIVED);
                }
                let pause = next_connect.saturating_duration_since(Instant::now());
                let delay = refused.next_delay(fastrand::f64()).max(pause);
                (State::Disconnected { reason }, delay)
            }
            Err(error) => {
                let delay = match error {
                    ConnectError::Unreachable { .. } => unreachable.next_delay(fastrand::f64()),
                    _ => refused.next_delay(fastrand::f64()).max(CONNECT_INTERVAL),
                };
                (why_not_connected(&error, endpoint.validity), delay)
            }
        };
        tracing::debug!("next try to reach the cloud in {delay:.1?}");
        state.set(state_now);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(delay) => {}
        }
    }
}

/// Learns from a try to connect which version the cloud speaks.
fn note_version(negotiation: &mut Negotiation, connected: &Result<Connection, ConnectError>) {
    match connected {
        Ok(connection) => {
            let version = connection.version;
            tracing::debug!("connected with MQTT {version}, {:?}", connection.terms);
            match negotiation.accepted() {
                Some(Fallback::Refused) => tracing::warn!(
                    "the cloud does not take the version of CLOUD_MQTT_VERSION: MQTT {version} is used"
                ),
                Some(Fallback::Closed) => tracing::warn!(
                    "the cloud closed connections of the version of CLOUD_MQTT_VERSION, so MQTT {version} is used: perhaps it \
                     does not speak the other, which the next connection tries again"
                ),
                None => {}
            }
        }
        Err(ConnectError::Version { .. }) => negotiation.refused(),
        Err(ConnectError::ClosedOnConnect { .. }) => negotiation.closed(),
        Err(_) => {}
    }
}

/// The state while `error` keeps us from the cloud.
fn why_not_connected(error: &ConnectError, validity: Option<Validity>) -> State {
    let mut reason = error.to_string();
    match error {
        ConnectError::ClockBehind { host } => return clock_gate::behind(host),
        ConnectError::Unreachable { .. } => {}
        _ => {
            let warning = validity.and_then(|validity| expiry::expired(validity, clock::now()));
            reason.extend(warning.map(|warning| format!("; {warning}")));
        }
    }
    State::Disconnected { reason }
}

/// What is added to the reason when a connection that worked did not last.
const ADVICE_SHORT_LIVED: &str =
    "; it had only just been made: does another client use this device's client id?";

/// Whether a connection that `lasted` so long and ended so tells that the next one is worth trying at once.
fn was_good(lost: &Lost, lasted: Duration) -> bool {
    let stood = lasted >= STABLE_AFTER || (lost.progress && lasted >= STABLE_WITH_PROGRESS_AFTER);
    lost.convicted || (stood && !lost.reason.is_take_over())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::session::LostReason;

    fn lost(reason: LostReason, progress: bool) -> Lost {
        Lost {
            reason,
            progress,
            convicted: false,
        }
    }

    #[test]
    fn two_clients_that_end_each_others_connections_back_off_and_a_link_that_drops_does_not() {
        let closed = |progress| lost(LostReason::Closed, progress);
        assert!(!was_good(&closed(true), Duration::from_millis(1_900)));
        assert!(was_good(&closed(true), Duration::from_secs(3)));
        assert!(!was_good(&closed(false), Duration::from_secs(3)));
        assert!(was_good(&closed(false), Duration::from_secs(30)));
        let taken_over = lost(LostReason::TakenOver, true);
        assert!(!was_good(&taken_over, Duration::from_secs(30)));
    }

    #[test]
    fn the_search_for_the_next_message_that_ends_connections_does_not_wait_for_the_last() {
        let found = Lost {
            convicted: true,
            ..lost(LostReason::Closed, false)
        };
        assert!(was_good(&found, Duration::from_secs(3)));
    }
}
