//! The relay as a process: its own data directory and port, kept over its restarts.
//!
//! `CLOUD_RELAY_BIN` names a program to test in place of the one that cargo built: the relay of another
//! processor, or the one in the image.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::port::ReservedPort;
use crate::process::{Environment, Log, Process, ProcessError, Stopped};

/// What Docker and balena give a container between SIGTERM and SIGKILL.
pub const STOP_GRACE: Duration = Duration::from_secs(10);
/// Pause between two tries to connect to a port that does not listen yet: TCP has no event for it.
const CONNECT_RETRY_DELAY: Duration = Duration::from_millis(5);

/// What can go wrong with the relay.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// No data directory.
    #[error("cannot make a data directory for the relay under {}: {source}", parent.display())]
    DataDir {
        /// Where it was to be made.
        parent: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// No free port.
    #[error("cannot find a free port on 127.0.0.1 for LOCAL_MQTT_LISTEN: {source}")]
    Port {
        /// The system's reason.
        source: std::io::Error,
    },
}

/// What to run for the relay that cargo built as `built`: `CLOUD_RELAY_BIN` if that is set, else `built` itself.
pub fn program(built: impl Into<PathBuf>) -> PathBuf {
    std::env::var_os("CLOUD_RELAY_BIN").map_or_else(|| built.into(), PathBuf::from)
}

/// The relay. Dropping it kills the process and removes its data directory.
pub struct RelayProcess {
    // first, so that the process is gone before its directory goes
    process: Process,
    data_dir: TempDir,
    listen: SocketAddr,
    /// `STATUS_LISTEN`, if it is not left to the environment.
    status: Option<SocketAddr>,
    /// Keeps the ports from others while the process is down.
    _reserved: Vec<ReservedPort>,
}

impl RelayProcess {
    /// The relay at `program` (see [`program`]), with a new data directory and free ports, not started yet.
    pub fn new(program: impl Into<PathBuf>) -> Result<Self, RelayError> {
        let reserve = || ReservedPort::new().map_err(|source| RelayError::Port { source });
        let (mqtt, status) = (reserve()?, reserve()?);
        let relay = Self::listening_on(program, mqtt.addr())?;
        Ok(RelayProcess {
            status: Some(status.addr()),
            _reserved: vec![mqtt, status],
            ..relay
        })
    }

    /// The same on a port of the caller's choice.
    pub fn listening_on(
        program: impl Into<PathBuf>,
        listen: SocketAddr,
    ) -> Result<Self, RelayError> {
        let process = Process::new(self::program(program), std::iter::empty::<String>());
        Self::in_place_of_relay(process, listen)
    }

    /// The same with its status page at `status`.
    #[must_use]
    pub fn with_status(self, status: SocketAddr) -> Self {
        RelayProcess {
            status: Some(status),
            ..self
        }
    }

    /// Any other program, treated as if it were the relay.
    pub fn in_place_of_relay(process: Process, listen: SocketAddr) -> Result<Self, RelayError> {
        let parent = std::env::temp_dir();
        let data_dir = tempfile::Builder::new()
            .prefix("cloud-relay-data-")
            .tempdir_in(&parent)
            .map_err(|source| RelayError::DataDir { parent, source })?;
        Ok(RelayProcess {
            process,
            data_dir,
            listen,
            status: None,
            _reserved: Vec::new(),
        })
    }

    /// A relay that is running already, with `environment` besides its own two variables.
    pub async fn start_new(
        program: impl Into<PathBuf>,
        environment: &Environment,
    ) -> Result<Self, RelayError> {
        let relay = Self::new(program)?;
        relay.start(environment).await?;
        Ok(relay)
    }

    /// Starts it with `DATA_DIR`, `LOCAL_MQTT_LISTEN`, `STATUS_LISTEN` and `environment`, which wins, and nothing
    /// else. One that still runs is killed first: this is also the restart after a crash.
    pub async fn start(&self, environment: &Environment) -> Result<(), RelayError> {
        let mut all = Environment::from([
            ("DATA_DIR".to_owned(), self.data_dir().display().to_string()),
            ("LOCAL_MQTT_LISTEN".to_owned(), self.listen.to_string()),
        ]);
        if let Some(status) = self.status {
            all.insert("STATUS_LISTEN".to_owned(), status.to_string());
        }
        all.extend(environment.clone());
        if self.process.is_running() {
            self.kill_9().await?;
        }
        Ok(self.process.start(&all).await?)
    }

    /// The process, for its log, signals and figures.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The log over all starts.
    pub fn log(&self) -> &Log {
        self.process.log()
    }

    /// `DATA_DIR`.
    pub fn data_dir(&self) -> &Path {
        self.data_dir.path()
    }

    /// `LOCAL_MQTT_LISTEN`.
    pub fn listen_addr(&self) -> SocketAddr {
        self.listen
    }

    /// `STATUS_LISTEN`, for a relay made with [`RelayProcess::new`] or [`RelayProcess::with_status`].
    pub fn status_addr(&self) -> Option<SocketAddr> {
        self.status
    }

    /// Waits for a log line with `part` in it, also among those already written.
    pub async fn wait_for_log(&self, part: &str, timeout: Duration) -> Result<String, RelayError> {
        Ok(self.process.wait_for_log(part, timeout).await?)
    }

    /// Waits until the local port takes connections. Fails at once if the process has ended.
    pub async fn wait_until_listening(&self, timeout: Duration) -> Result<(), RelayError> {
        let began = Instant::now();
        while TcpStream::connect(self.listen).await.is_err() {
            if !self.process.is_running() {
                return Err(self.process.not_running().into());
            }
            if began.elapsed() > timeout {
                return Err(RelayError::Process(ProcessError::Timeout {
                    what: format!("listening on {}", self.listen),
                    waited: timeout,
                    log: self.log().tail(),
                }));
            }
            tokio::time::sleep(CONNECT_RETRY_DELAY).await;
        }
        Ok(())
    }

    /// SIGTERM and up to [`STOP_GRACE`], then SIGKILL.
    pub async fn terminate(&self) -> Result<Stopped, RelayError> {
        Ok(self.process.terminate(STOP_GRACE).await?)
    }

    /// SIGKILL. Returns when nothing listens any more: a container ends a moment after the process that
    /// stands for it.
    pub async fn kill_9(&self) -> Result<(), RelayError> {
        self.process.kill_9().await?;
        let began = Instant::now();
        while TcpStream::connect(self.listen).await.is_ok() {
            if began.elapsed() > STOP_GRACE {
                return Err(RelayError::Process(ProcessError::Timeout {
                    what: format!("the end of listening on {}", self.listen),
                    waited: STOP_GRACE,
                    log: self.log().tail(),
                }));
            }
            tokio::time::sleep(CONNECT_RETRY_DELAY).await;
        }
        Ok(())
    }
}
