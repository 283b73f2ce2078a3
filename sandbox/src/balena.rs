//! balenaCloud and the Supervisor of one device, as far as one service can see them.
//!
//! Holds the device's variables, serves the Supervisor's HTTP API on loopback, and does to the
//! relay what a Supervisor does to a container when a variable changes: SIGTERM, a grace, SIGKILL,
//! and a new process with the new environment. A running process never sees a change.
//!
//! [`api`] is balenaCloud's own API over the same variables, for those who write them from outside.
//!
//! It knows no fleets, releases or volumes, and of update locks only that they can be scripted.

pub mod api;
mod supervisor;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;

use self::supervisor::Supervisor;
use crate::http::{Call, HttpServer, Reply};
use crate::process::{Environment, Stopped};
use crate::relay::{RelayError, RelayProcess, STOP_GRACE};

/// The key that the Supervisor's API asks for.
pub const SUPERVISOR_API_KEY: &str = "sandbox-supervisor-key";
/// Events that a slow follower may be behind before it misses some.
const FOLLOWER_LAG_MAX: usize = 256;

/// What can go wrong in the stand-in.
#[derive(Debug, thiserror::Error)]
pub enum BalenaError {
    /// No port for the API.
    #[error("cannot serve the Supervisor's API on 127.0.0.1: {source}")]
    Listen {
        /// The system's reason.
        source: std::io::Error,
    },
    /// The service did not start.
    #[error(transparent)]
    Service(#[from] RelayError),
    /// There is a service already.
    #[error("this Supervisor has a service already; it supervises one")]
    Supervising,
    /// Too few re-creations.
    #[error("the service was re-created {recreated} times, not {expected}, within {waited:?}")]
    TooFewRecreations {
        /// How many were waited for.
        expected: u64,
        /// How many there were.
        recreated: u64,
        /// How long was waited.
        waited: Duration,
    },
}

/// When a changed variable reaches the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Push {
    /// Each write at once: two variables mean two re-creations, the first with only one of them.
    #[default]
    EachWrite,
    /// Writes that come while a re-creation is under way are applied together.
    Together,
    /// Only when the update API is called: a device that balenaCloud cannot push to.
    OnUpdate,
}

/// How the stand-in starts.
#[derive(Clone, Debug)]
pub struct BalenaOptions {
    /// `BALENA_DEVICE_UUID`.
    pub device_uuid: String,
    /// `BALENA_SERVICE_NAME`.
    pub service_name: String,
    /// Variables that are set from the beginning.
    pub variables: Environment,
    /// When changes are pushed.
    pub push: Push,
    /// From SIGTERM to SIGKILL.
    pub stop_grace: Duration,
    /// Whether a service that ends by itself is started again (`restart: always`).
    pub restart_ended: bool,
}

impl BalenaOptions {
    /// A device without variables of its own.
    pub fn new(device_uuid: impl Into<String>) -> Self {
        BalenaOptions {
            device_uuid: device_uuid.into(),
            service_name: "cloud-relay".to_owned(),
            variables: Environment::new(),
            push: Push::default(),
            stop_grace: STOP_GRACE,
            restart_ended: true,
        }
    }
}

/// A call of the update API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdateCall {
    /// Its `force`.
    pub force: bool,
    /// The status it was answered with.
    pub status: u16,
}

/// What the Supervisor did.
#[derive(Clone, Debug)]
pub enum SupervisorEvent {
    /// A variable was written or removed in balenaCloud.
    Changed(String),
    /// The service was stopped for a change.
    Stopped(Stopped),
    /// The service ended by itself.
    Ended,
    /// The service was started, with these variables set by the owner or the cloud function.
    Started(Vec<String>),
    /// It could not be started.
    Failed(String),
}

impl fmt::Display for SupervisorEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SupervisorEvent::Changed(name) => write!(f, "variable {name} changed"),
            SupervisorEvent::Stopped(stopped) => write!(
                f,
                "service stopped by {} after {} ms",
                if stopped.killed { "SIGKILL" } else { "SIGTERM" },
                stopped.took.as_millis()
            ),
            SupervisorEvent::Ended => f.write_str("service ended by itself"),
            SupervisorEvent::Started(names) => {
                write!(f, "service started with {}", names.join(", "))
            }
            SupervisorEvent::Failed(why) => write!(f, "service cannot be started: {why}"),
        }
    }
}

/// What is known in the cloud and to the API.
struct Account {
    variables: Environment,
    update_answers: VecDeque<u16>,
    updates: Vec<UpdateCall>,
}

struct Shared {
    options: BalenaOptions,
    account: Mutex<Account>,
    /// The variables that the Supervisor shall apply, in order.
    targets: mpsc::UnboundedSender<Environment>,
    recreated: watch::Sender<u64>,
    events: broadcast::Sender<SupervisorEvent>,
}

/// The stand-in. Dropping it ends the API and the supervision; the process belongs to its owner.
pub struct Balena {
    shared: Arc<Shared>,
    server: HttpServer,
    targets: Mutex<Option<mpsc::UnboundedReceiver<Environment>>>,
    supervision: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Balena {
    fn drop(&mut self) {
        if let Some(task) = self.take_supervision() {
            task.abort();
        }
    }
}

impl Balena {
    /// Starts the API on a free port of 127.0.0.1.
    pub async fn start(options: BalenaOptions) -> Result<Self, BalenaError> {
        let (targets, pending) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            account: Mutex::new(Account {
                variables: options.variables.clone(),
                update_answers: VecDeque::new(),
                updates: Vec::new(),
            }),
            options,
            targets,
            recreated: watch::Sender::new(0),
            events: broadcast::Sender::new(FOLLOWER_LAG_MAX),
        });
        let api = Arc::clone(&shared);
        let server = HttpServer::start(move |call| {
            let reply = api.answer(&call);
            async move { reply }
        })
        .await
        .map_err(|source| BalenaError::Listen { source })?;
        Ok(Balena {
            shared,
            server,
            targets: Mutex::new(Some(pending)),
            supervision: Mutex::new(None),
        })
    }

    /// `BALENA_SUPERVISOR_ADDRESS`.
    pub fn supervisor_address(&self) -> String {
        format!("http://{}", self.server.addr)
    }

    /// The device's UUID.
    pub fn device_uuid(&self) -> &str {
        &self.shared.options.device_uuid
    }

    /// The environment that the service would be started with now.
    pub fn environment(&self) -> Environment {
        let variables = self.shared.account().variables.clone();
        complete(&self.shared.options, &self.supervisor_address(), variables)
    }

    /// The variables as they are in balenaCloud.
    pub fn variables(&self) -> Environment {
        self.shared.account().variables.clone()
    }

    /// Writes a variable, as the cloud function or the owner does.
    pub fn set_variable(&self, name: &str, value: &str) {
        self.shared.change(name, |variables| {
            variables.insert(name.to_owned(), value.to_owned());
        });
    }

    /// Removes a variable.
    pub fn remove_variable(&self, name: &str) {
        self.shared.change(name, |variables| {
            variables.remove(name);
        });
    }

    /// The status of the next call of the update API that has no other; 202 without a script.
    pub fn script_update(&self, status: u16) {
        self.shared.account().update_answers.push_back(status);
    }

    /// The calls of the update API with the right key, in order.
    pub fn updates(&self) -> Vec<UpdateCall> {
        self.shared.account().updates.clone()
    }

    /// What the Supervisor does from now on.
    pub fn follow(&self) -> broadcast::Receiver<SupervisorEvent> {
        self.shared.events.subscribe()
    }

    /// Starts `service` and from now on re-creates it when the variables change.
    /// One service, once.
    pub async fn supervise(&self, service: Arc<RelayProcess>) -> Result<(), BalenaError> {
        let mut targets = self
            .targets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .ok_or(BalenaError::Supervising)?;
        let variables = {
            let account = self.shared.account();
            // what was written up to now is in the first start
            while targets.try_recv().is_ok() {}
            account.variables.clone()
        };
        let environment = complete(
            &self.shared.options,
            &self.supervisor_address(),
            variables.clone(),
        );
        service.start(&environment).await?;
        self.shared.tell(SupervisorEvent::Started(
            variables.keys().cloned().collect(),
        ));
        let supervisor = Supervisor {
            // weak: the API and the variables go when the stand-in is dropped
            shared: Arc::downgrade(&self.shared),
            options: self.shared.options.clone(),
            address: self.supervisor_address(),
            service,
            applied: variables,
        };
        let task = tokio::spawn(supervisor.run(targets));
        *self
            .supervision
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(())
    }

    /// Ends the supervision: from now on the service is the caller's alone.
    pub async fn end_supervision(&self) {
        let task = self.take_supervision();
        if let Some(task) = task {
            task.abort();
            // the only error is the one just asked for
            task.await.ok();
        }
    }

    fn take_supervision(&self) -> Option<JoinHandle<()>> {
        self.supervision
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// How often the service was re-created because of a change.
    pub fn recreations(&self) -> u64 {
        *self.shared.recreated.borrow()
    }

    /// Waits until the service has been re-created `expected` times since the start.
    pub async fn wait_for_recreations(
        &self,
        expected: u64,
        timeout: Duration,
    ) -> Result<(), BalenaError> {
        let mut recreated = self.shared.recreated.subscribe();
        let enough = recreated.wait_for(|recreated| *recreated >= expected);
        if matches!(tokio::time::timeout(timeout, enough).await, Ok(Ok(_))) {
            return Ok(());
        }
        Err(BalenaError::TooFewRecreations {
            expected,
            recreated: self.recreations(),
            waited: timeout,
        })
    }
}

/// The service's whole environment: the owner's variables, then what balena always sets.
fn complete(options: &BalenaOptions, address: &str, mut variables: Environment) -> Environment {
    let always = [
        ("BALENA_DEVICE_UUID", options.device_uuid.as_str()),
        ("BALENA_SERVICE_NAME", options.service_name.as_str()),
        ("BALENA_SUPERVISOR_ADDRESS", address),
        ("BALENA_SUPERVISOR_API_KEY", SUPERVISOR_API_KEY),
    ];
    variables.extend(always.map(|(name, value)| (name.to_owned(), value.to_owned())));
    variables
}

/// The body of a call of the update API.
#[derive(Default, Deserialize)]
struct UpdateBody {
    #[serde(default)]
    force: bool,
}

impl Shared {
    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: SupervisorEvent) {
        // fails only if nobody follows
        self.events.send(event).ok();
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Environment)) {
        let mut account = self.account();
        change(&mut account.variables);
        self.tell(SupervisorEvent::Changed(name.to_owned()));
        if self.options.push != Push::OnUpdate {
            self.push(&account);
        }
    }

    fn push(&self, account: &Account) {
        // fails only if the supervision has ended: then nothing is re-created
        self.targets.send(account.variables.clone()).ok();
    }

    fn answer(&self, call: &Call) -> Reply {
        let bearer = format!("Bearer {SUPERVISOR_API_KEY}");
        let parameter = format!("apikey={SUPERVISOR_API_KEY}");
        let authorised = call.header("authorization") == Some(&bearer)
            || call.query.split('&').any(|pair| pair == parameter);
        match (call.method.as_str(), call.path.as_str()) {
            ("GET", "/ping" | "/v1/healthy") => Reply::text(200, "OK"),
            ("GET", "/v1/device") | ("POST", "/v1/update") if !authorised => {
                failed(401, "Unauthorized")
            }
            ("GET", "/v1/device") => Reply::text(
                200,
                r#"{"status":"Idle","update_pending":false,"update_failed":false,"update_downloaded":false}"#,
            ),
            ("POST", "/v1/update") => self.update(call),
            _ => failed(404, "Not Found"),
        }
    }

    fn update(&self, call: &Call) -> Reply {
        let body: UpdateBody = match serde_json::from_slice(&call.body) {
            Ok(body) => body,
            Err(_) if call.body.is_empty() => UpdateBody::default(),
            Err(error) => return failed(400, &format!("the body is not JSON: {error}")),
        };
        let mut account = self.account();
        let status = account.update_answers.pop_front().unwrap_or(202);
        let force = body.force;
        account.updates.push(UpdateCall { force, status });
        match status {
            200..300 => {
                self.push(&account);
                Reply::text(status, "")
            }
            423 => failed(423, "Updates are locked"),
            _ => failed(status, "scripted"),
        }
    }
}

/// A refusal, worded as the Supervisor words it.
fn failed(status: u16, message: &str) -> Reply {
    let body = serde_json::json!({"status": "failed", "message": message});
    Reply::text(status, body.to_string())
}
