//! Builds the tasks, joins them, and owns the order of shutdown.
//!
//! Shutdown, all within [`SHUTDOWN_TIMEOUT`]: the local broker stops reading and hands out the
//! acknowledgements that become due; then the egress waits a moment for what is in flight and says
//! DISCONNECT; then the spool is synced and closed. The first task that fails starts the same order.

mod state_topic;
mod uplink;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cloud::Source;
use crate::config::{CloudConfig, Config, LocalWebSocket};
use crate::dead_letters::{self, DeadLetters};
use crate::local::{self, Access, Door, Limits, LocalBroker, LocalError, LocalTls, Tls};
use crate::logging;
use crate::provisioning::ProvisionError;
use crate::spool::ledger::Ledger;
use crate::spool::{self, Recovery};
use crate::state::{State, StateBoard};
use crate::status::{Heartbeat, Setup, Sources, Status};
use crate::store::{Store, StoreError};

/// The directory of what the local broker keeps, beside the spool.
const BROKER_DIRECTORY: &str = "broker";
/// A shutdown that takes longer is cut short. Half of what balena gives a container.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the relay could not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// `DATA_DIR` cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The local broker cannot listen or has ended.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The provisioning has ended.
    #[error(transparent)]
    Provisioning(#[from] ProvisionError),
    /// Nothing more can be made durable.
    #[error(
        "the spool has failed, nothing more is acknowledged: {0}; what was acknowledged is on disk. If it fails again \
         after a restart, the disk of DATA_DIR is failing"
    )]
    SpoolFailed(String),
    /// A task panicked: a defect in this program.
    #[error(
        "a task of the relay ended unexpectedly, which is a defect of this program: {0}; what was acknowledged is on disk"
    )]
    Task(#[from] JoinError),
    /// Shutdown was cut short. What was acknowledged is on disk all the same.
    #[error(
        "shutdown took longer than {} s and was cut short; what was acknowledged is on disk all the same",
        SHUTDOWN_TIMEOUT.as_secs()
    )]
    ShutdownTimeout,
}

/// The relay, ready to run: its directory is open and its port is taken.
#[derive(Debug)]
pub struct App {
    config: Config,
    store: Store,
    /// The ledger as this run found it.
    found: Ledger,
    dead_letters: DeadLetters,
    access: Access,
    broker_address: SocketAddr,
    doors: Vec<Door>,
    status: Status,
    log: logging::Memory,
}

/// A task of the relay, whose end is told once, however often it is asked for.
struct Task(Option<JoinHandle<Result<(), AppError>>>);

impl Task {
    fn spawn(work: impl Future<Output = Result<(), AppError>> + Send + 'static) -> Self {
        Task(Some(tokio::spawn(work)))
    }

    /// Waits for the task's end. May be cancelled; once it has returned, it returns `Ok` at once.
    async fn ended(&mut self) -> Result<(), AppError> {
        let Some(handle) = &mut self.0 else {
            return Ok(());
        };
        let ended = handle.await;
        self.0 = None;
        ended.map_err(AppError::from).flatten()
    }
}

impl App {
    /// Opens the spool and takes the local ports. What `log` remembers is shown on the status page.
    pub async fn build(config: Config, log: logging::Memory) -> Result<Self, AppError> {
        let directory = config.data_dir.join(spool::DIRECTORY);
        let (store, recovery) = Store::open(&directory, config.spool)?;
        log_recovery(&recovery);
        let dead_letters = open_dead_letters(&config);
        // First, so that whoever can connect to the broker can look at the relay too.
        let status = Status::bind(&config.status);
        let local = &config.local;
        let access = Access::new(local.login.as_ref(), local.password_file.as_deref());
        let access = access.and_then(|access| access.with_rules(local.acl_file.as_deref()));
        let access = access.map_err(LocalError::from)?;
        let mut doors = Vec::new();
        if let Some(tls) = &local.tls {
            let door = open_tls(tls).await?;
            let guarded = local.asks_for_login() || tls.client_ca_path.is_some();
            warn_if_open("LOCAL_MQTTS_LISTEN", tls.listen, guarded);
            doors.push(door);
        }
        if let Some(websocket) = &local.websocket {
            doors.push(open_websocket(websocket).await?);
            let listen = websocket.listen;
            warn_if_open("LOCAL_MQTT_WS_LISTEN", listen, local.asks_for_login());
        }
        // Last, so that whoever finds it open finds the others open too.
        let listener = local::bind("LOCAL_MQTT_LISTEN", local.listen).await?;
        let address = listener.local_addr().unwrap_or(local.listen);
        tracing::info!("accepting MQTT on {address}");
        warn_if_open("LOCAL_MQTT_LISTEN", address, local.asks_for_login());
        doors.push(Door::plain(listener));
        Ok(App {
            config,
            store,
            found: recovery.ledger,
            dead_letters,
            access,
            broker_address: address,
            doors,
            status,
            log,
        })
    }

    /// Relays until `stop` resolves or something fails.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), AppError> {
        let mut running = self.start();
        let ended = running.until(stop).await;
        if ended.is_ok() {
            tracing::info!("stopping");
        }
        let finished = tokio::time::timeout(SHUTDOWN_TIMEOUT, running.shut_down())
            .await
            .unwrap_or(Err(AppError::ShutdownTimeout));
        ended.and(finished)
    }

    /// Starts the tasks.
    fn start(self) -> Running {
        let state = StateBoard::new(State::Connecting);
        let routes = Arc::new(self.config.routes.clone());
        let stop_local = CancellationToken::new();
        let stop_uplink = CancellationToken::new();
        let stop_status = CancellationToken::new();

        let files_max = getrlimit(Resource::Nofile).current;
        let options = local::Options {
            access: self.access,
            limits: Limits::default().with_files(files_max),
            ..local::Options::default()
        };
        let heartbeat = Heartbeat::new(Instant::now());
        tokio::spawn(heartbeat.keep_beating(stop_status.clone()));
        let sources = Sources {
            setup: setup(&self.config, self.broker_address),
            spool: self.config.spool,
            store: self.store.clone(),
            dead_letters: self.dead_letters.clone(),
            state: state.clone(),
            local: Arc::clone(&options.counters),
            heartbeat,
            log: self.log,
        };
        self.status.start(sources, stop_status.clone());

        let mut broker = LocalBroker::new(options);
        broker.keep(&self.config.data_dir.join(BROKER_DIRECTORY));
        let publisher = broker.publisher(stop_local.clone());
        let local = Task::spawn({
            let (doors, store, routes) = (self.doors, self.store.clone(), Arc::clone(&routes));
            let stop = stop_local.clone();
            async move { Ok(local::serve(doors, store, routes, stop, broker).await?) }
        });
        let uplink = Task::spawn({
            let telling = state_topic::keep_telling(state.subscribe(), publisher.clone());
            let source = Source {
                store: self.store.clone(),
                routes,
                dead_letters: self.dead_letters,
            };
            let (config, stop) = (self.config, stop_uplink.clone());
            async move {
                let uplink = uplink::run(&config, publisher, source, state, stop);
                tokio::select! {
                    ended = uplink => ended,
                    never = telling => match never {},
                }
            }
        });
        Running {
            store: self.store,
            found: self.found,
            local,
            uplink,
            stop_local,
            stop_uplink,
            _stop_status: stop_status.drop_guard(),
        }
    }
}

/// The relay while it runs.
struct Running {
    store: Store,
    /// The ledger as this run found it.
    found: Ledger,
    local: Task,
    uplink: Task,
    stop_local: CancellationToken,
    stop_uplink: CancellationToken,
    /// The status page ends with the run, however that comes about.
    _stop_status: DropGuard,
}

impl Running {
    /// Resolves with `stop`, or with the first failure.
    async fn until(&mut self, stop: impl Future<Output = ()>) -> Result<(), AppError> {
        let ended = tokio::select! {
            // In order: the spool's own words say more than the broker's, which ends because of it.
            biased;
            failure = self.store.failed() => Err(AppError::SpoolFailed(failure)),
            () = stop => Ok(()),
            ended = self.local.ended() => ended,
            ended = self.uplink.ended() => ended,
        };
        // The broker sees that the spool has failed, perhaps first; the spool knows why.
        match ended {
            Err(AppError::Local(LocalError::SpoolFailed)) => {
                Err(AppError::SpoolFailed(self.store.failed().await))
            }
            other => other,
        }
    }

    /// Ends the tasks one after the other, then the spool.
    async fn shut_down(&mut self) -> Result<(), AppError> {
        self.stop_local.cancel();
        let local = self.local.ended().await;
        self.stop_uplink.cancel();
        let uplink = self.uplink.ended().await;
        let ledger = self.store.close().await.map_err(AppError::SpoolFailed)?;
        log_ledger(&self.found, &ledger);
        local.and(uplink)
    }
}

/// The door for TLS. Its files are read.
async fn open_tls(config: &LocalTls) -> Result<Door, LocalError> {
    let tls = Tls::new(config.clone())?;
    let listener = local::bind("LOCAL_MQTTS_LISTEN", config.listen).await?;
    let address = listener.local_addr().unwrap_or(config.listen);
    tracing::info!("accepting MQTT over TLS on {address}");
    Ok(Door::tls(listener, Arc::new(tls)))
}

/// The door for browsers.
async fn open_websocket(config: &LocalWebSocket) -> Result<Door, LocalError> {
    let listener = local::bind("LOCAL_MQTT_WS_LISTEN", config.listen).await?;
    let address = listener.local_addr().unwrap_or(config.listen);
    tracing::info!("accepting MQTT over WebSocket on {address}");
    Ok(Door::websocket(listener, config.origins.clone()))
}

/// Said on every start, for nobody reads the first log of a device for ever.
fn warn_if_open(variable: &str, address: SocketAddr, guarded: bool) {
    if !address.ip().is_loopback() && !guarded {
        tracing::warn!(
            "{variable}={address} lets in everyone on every network it is on; set LOCAL_MQTT_USERNAME and \
             LOCAL_MQTT_PASSWORD"
        );
    }
}

/// What of the configuration the status page shows.
fn setup(config: &Config, broker: SocketAddr) -> Setup {
    let credentials = match &config.cloud {
        Some(CloudConfig::Aws(aws)) => uplink::aws_credentials(aws, config).ok(),
        _ => None,
    };
    let validity = credentials.and_then(|credentials| credentials.validity());
    Setup {
        device: config.device.uuid.clone(),
        broker: broker.to_string(),
        route: config.routes.to_string(),
        provider: config.provider.name().to_owned(),
        cloud: config.cloud.as_ref().map(ToString::to_string),
        certificate_expires_unix_s: validity.map(|validity| validity.until_unix_s),
    }
}

fn log_recovery(recovery: &Recovery) {
    if recovery.cursor_lost {
        tracing::warn!(
            "the spool's cursor was damaged: everything in the spool is sent, some of it again"
        );
    }
    if recovery.segments_set_aside > 0 {
        tracing::warn!(
            "{} segments of the spool cannot be read and were set aside as *.damaged: their messages are lost, and \
             counted; is the disk of DATA_DIR failing?",
            recovery.segments_set_aside
        );
    }
    if recovery.headers_mended > 0 {
        tracing::warn!(
            "{} segments of the spool had a damaged header, which was made anew; what can be read in them is sent",
            recovery.headers_mended
        );
    }
    tracing::info!(
        spooled = recovery.spooled,
        disk_bytes = recovery.disk_bytes,
        torn_bytes = recovery.torn_bytes,
        "spool opened"
    );
}

/// Tells what this run did, then what all runs did.
fn log_ledger(found: &Ledger, ledger: &Ledger) {
    let run = ledger.since(found);
    tracing::info!(
        found = found.spooled,
        accepted = run.accepted().saturating_sub(found.spooled),
        delivered = run.delivered,
        spooled = run.spooled,
        dead_lettered = run.dead_lettered,
        dropped = run.dropped(),
        "this run"
    );
    tracing::info!(
        accepted = ledger.accepted(),
        delivered = ledger.delivered,
        spooled = ledger.spooled,
        dead_lettered = ledger.dead_lettered,
        dropped = ledger.dropped(),
        "stopped; all runs together"
    );
}

/// The dead letters, and a word if there are any. A disk that refuses here will be asked again when one is written.
fn open_dead_letters(config: &Config) -> DeadLetters {
    let directory = config.data_dir.join(dead_letters::DIRECTORY);
    let dead_letters = DeadLetters::new(directory, config.dead_letters_bytes_max);
    match dead_letters.open() {
        Ok(waiting) if waiting.letters > 0 => tracing::info!(
            letters = waiting.letters,
            disk_bytes = waiting.bytes,
            "dead letters wait for you: `cloud-relay dead-letters list` shows why"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!("{error}"),
    }
    dead_letters
}

/// Resolves when the process is told to end, by SIGTERM or SIGINT.
pub fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_error_of_a_task_that_ended_unseen_is_told_and_only_once() {
        let mut task = Task::spawn(async { Err(AppError::SpoolFailed("broken".to_owned())) });
        while !task.0.as_ref().is_some_and(JoinHandle::is_finished) {
            tokio::task::yield_now().await;
        }
        assert!(matches!(task.ended().await, Err(AppError::SpoolFailed(_))));
        assert!(task.ended().await.is_ok());
    }

    #[tokio::test]
    async fn a_task_that_panics_is_an_error() {
        let mut task = Task::spawn(async { panic!("a defect") });
        assert!(matches!(task.ended().await, Err(AppError::Task(_))));
    }
}
