//! Getting credentials for this device: the request to `PROVISION_URL`, then the wait for balenaCloud.
//!
//! A running process never sees new variables: balenaCloud stores the credentials, and the Supervisor
//! stops this container and makes a new one that has them. So [`run`] ends only by shutdown.
//!
//! ```text
//! no credentials ──POST──► registered ──────► wait 60 s ──┐
//!       ▲                  already exists ────────────────┴─► ask the Supervisor, ever more seldom
//!       └──────────────── after 10 minutes without credentials, POST again ◄──┘
//! ```
//!
//! The second POST costs nothing (the cloud function answers that the device exists) and is what
//! lets a device recover by itself: an old cloud function that failed half-way has registered the
//! device and lost its key for good. Only a DELETE undoes that, which is the owner's to send; the
//! next POST does the rest.
//!
//! Some credentials without the others are normal, since balenaCloud pushes them one by one: they
//! are waited for, and asked for only if they do not come. A new cloud function then completes them.
//!
//! With `PROVISION_KEY=device` the request carries a signing request for the device's own key, and
//! the credentials are a certificate alone. If that key is lost, the device registers with a new one.
//!
//! Invariant: nothing secret is logged; `PROVISION_URL` may carry a token in its query.

mod http;
mod request;
mod supervisor;

use std::convert::Infallible;
use std::future::pending;
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::config::{Config, CredentialVariables, Device, HttpUrl, KeyMaker, Provider, Supervisor};
use crate::credentials::{DeviceKey, UnpairedError};
use crate::state::{State, StateBoard};
use http::{Http, Request, Transport};
use request::Outcome;
use supervisor::Updates;

/// How long the cloud function may take: API Gateway gives up after 29 s, a cold start included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(40);
/// The longest wait before the second try.
const RETRY_BASE: Duration = Duration::from_secs(2);
/// The longest wait between two tries that fail for reasons that may pass.
const RETRY_CEILING: Duration = Duration::from_mins(5);
/// `Retry-After` is obeyed up to here.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);
/// The longest wait before trying again what the owner has to put right.
const REFUSED_BASE: Duration = Duration::from_mins(5);
/// The longest wait between two such tries.
const REFUSED_CEILING: Duration = Duration::from_hours(1);
/// How long balenaCloud's push is waited for before the Supervisor is asked.
const PUSH_PATIENCE: Duration = Duration::from_mins(1);
/// How long credentials are waited for before the request is sent again.
const CREDENTIALS_PATIENCE: Duration = Duration::from_mins(10);
/// How long the remaining credentials are waited for once some are there.
const REMAINDER_PATIENCE: Duration = Duration::from_mins(5);
/// How long after a disk that does not take the device's key is tried again.
const KEY_RETRY: Duration = Duration::from_mins(1);

/// What provisioning needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose cloud function is asked: they word their answers differently.
    pub provider: Provider,
    /// `PROVISION_URL`. Only needed while there are no credentials at all.
    pub url: Option<HttpUrl>,
    /// Who is to be registered.
    pub device: Device,
    /// Which credentials are missing.
    pub credentials: CredentialVariables,
    /// Where the device keeps its key, if it makes it itself.
    pub key_dir: Option<PathBuf>,
    /// Why the device's key and the certificate that is there do not do, if that is so.
    pub unpaired: Option<Unpaired>,
    /// Who can speed up their arrival.
    pub supervisor: Option<Supervisor>,
}

/// A certificate without its key.
#[derive(Clone, Debug)]
pub struct Unpaired {
    /// What is wrong, in words.
    reason: String,
    /// How long the key may yet come from an old cloud function. One that is lost does not.
    patience: Duration,
}

impl From<&UnpairedError> for Unpaired {
    fn from(error: &UnpairedError) -> Self {
        Unpaired {
            reason: error.to_string(),
            patience: match error {
                UnpairedError::Lost { .. } => Duration::ZERO,
                _ => REMAINDER_PATIENCE,
            },
        }
    }
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Settings {
            provider: config.provider,
            url: config.provisioning.clone(),
            device: config.device.clone(),
            credentials: config.credentials.clone(),
            key_dir: (config.key_maker == KeyMaker::Device).then(|| config.data_dir.clone()),
            unpaired: None,
            supervisor: config.supervisor.clone(),
        }
    }
}

/// Why provisioning cannot even begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProvisionError {
    /// The HTTP client cannot be built, which is a fault of this program.
    #[error("the HTTP client for PROVISION_URL cannot be built: {cause}")]
    Client {
        /// The library's words.
        cause: String,
    },
}

/// Provisions this device or waits for its credentials until `shutdown`; an open request is then
/// dropped at once, which the cloud function takes no harm from. Shows on `state` how far it has come.
pub async fn run(
    settings: Settings,
    state: StateBoard,
    shutdown: CancellationToken,
) -> Result<(), ProvisionError> {
    run_over(&Http::new()?, settings, state, shutdown).await;
    Ok(())
}

/// [`run`] over any transport.
async fn run_over<T: Transport>(
    transport: &T,
    settings: Settings,
    state: StateBoard,
    shutdown: CancellationToken,
) {
    let task = Task {
        transport,
        settings,
        state,
    };
    // The work never ends by itself, so there is no other outcome than being cancelled.
    let None::<Infallible> = shutdown.run_until_cancelled(task.work()).await;
}

struct Task<'a, T> {
    transport: &'a T,
    settings: Settings,
    state: StateBoard,
}

/// The request, ready to be sent.
struct Registration<'a> {
    url: &'a HttpUrl,
    body: String,
    /// Of the request that undoes it.
    undoing: String,
}

/// How the cloud function took a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Registered {
    Now,
    Before,
}

impl<T: Transport> Task<'_, T> {
    async fn work(&self) -> Infallible {
        if let Some(unpaired) = &self.settings.unpaired {
            tracing::warn!("{}", unpaired.reason);
            if self.settings.url.is_some() {
                tracing::info!(
                    "unless AWS_PRIVATE_KEY comes, a certificate for a key of the device's own is \
                     asked for in {} minutes",
                    unpaired.patience.as_secs() / 60
                );
            }
            self.await_remainder(unpaired.patience).await;
        } else if self.settings.credentials.some_present() {
            let missing = self.missing();
            tracing::info!(
                "{missing} is not here yet; balenaCloud pushes the credentials one by one"
            );
            self.await_remainder(REMAINDER_PATIENCE).await;
        }
        match self.registration().await {
            Ok(registration) => self.provision(&registration).await,
            Err(state) => {
                self.state.set(self.at_a_loss().unwrap_or(state));
                if !self.settings.credentials.some_present() {
                    return pending().await;
                }
                let mut updates = Updates::new(self.transport, self.settings.supervisor.as_ref());
                updates.keep_asking(Duration::ZERO).await
            }
        }
    }

    /// The request, or the state to be in when it cannot be made.
    async fn registration(&self) -> Result<Registration<'_>, State> {
        let Some(url) = &self.settings.url else {
            let missing = "set PROVISION_URL to the address of the cloud function".to_owned();
            return Err(State::Unconfigured { missing });
        };
        let Some(uuid) = &self.settings.device.uuid else {
            let reason = "BALENA_DEVICE_UUID is not set, so this device cannot be registered; \
                          balena sets it in every container"
                .to_owned();
            return Err(State::Misconfigured { reason });
        };
        if url.is_exposed() {
            tracing::warn!(
                "PROVISION_URL {url} is plain http: whoever is on the way can read its token and this device's request, \
                 and answer in place of the cloud function; use https"
            );
        }
        let service = self.settings.device.service.as_deref();
        let csr = self.csr(uuid).await;
        Ok(Registration {
            url,
            body: request::body(uuid, service, csr.as_deref()),
            undoing: request::body(uuid, service, None),
        })
    }

    /// The signing request of a device that makes its key itself; the key is on disk by then.
    async fn csr(&self, uuid: &str) -> Option<String> {
        let key_dir = self.settings.key_dir.as_ref()?;
        loop {
            let (key_dir, uuid) = (key_dir.clone(), uuid.to_owned());
            let made = spawn_blocking(move || DeviceKey::load_or_create(&key_dir)?.csr(&uuid));
            let reason = match made.await {
                Ok(Ok(csr)) => return Some(csr),
                Ok(Err(error)) => error.to_string(),
                Err(error) => format!("the device's key could not be made: {error}"),
            };
            self.state.set(State::Misconfigured { reason });
            sleep(KEY_RETRY).await;
        }
    }

    /// Registers, waits for credentials, and registers again if they do not come.
    async fn provision(&self, registration: &Registration<'_>) -> Infallible {
        let mut updates = Updates::new(self.transport, self.settings.supervisor.as_ref());
        let mut waited = false;
        self.state.set(State::Provisioning);
        loop {
            let registered = self.register(registration).await;
            let first_ask = match registered {
                Registered::Now => PUSH_PATIENCE,
                Registered::Before => Duration::ZERO,
            };
            self.state
                .set(if registered == Registered::Before && waited {
                    State::Misconfigured {
                        reason: lost_key(registration),
                    }
                } else {
                    State::AwaitingCredentials
                });
            let Err(_elapsed) = timeout(CREDENTIALS_PATIENCE, updates.keep_asking(first_ask)).await;
            waited = true;
        }
    }

    /// Sends the request until the device is registered.
    async fn register(&self, registration: &Registration<'_>) -> Registered {
        let url = registration.url;
        let mut failing = Backoff::new(RETRY_BASE, RETRY_CEILING);
        let mut refused = Backoff::new(REFUSED_BASE, REFUSED_CEILING);
        loop {
            let delay = match self.ask(registration).await {
                Outcome::Registered => {
                    tracing::info!("this device is registered; its credentials are on their way");
                    return Registered::Now;
                }
                Outcome::AlreadyRegistered => {
                    tracing::info!(
                        "this device was registered before; its credentials are waited for"
                    );
                    return Registered::Before;
                }
                Outcome::Refused { detail } => {
                    let reason = format!("PROVISION_URL {url}: {detail}");
                    self.state.set(State::Misconfigured { reason });
                    refused.next_delay(fastrand::f64())
                }
                Outcome::Retry { detail, after } => {
                    let asked_for = after.unwrap_or_default().min(RETRY_AFTER_MAX);
                    let delay = failing.next_delay(fastrand::f64()).max(asked_for);
                    let reason =
                        format!("PROVISION_URL {url} cannot register this device yet: {detail}");
                    self.state.set(State::Disconnected { reason });
                    tracing::debug!("next try to register in {delay:.0?}");
                    delay
                }
            };
            sleep(delay).await;
        }
    }

    async fn ask(&self, registration: &Registration<'_>) -> Outcome {
        let request = Request {
            url: registration.url,
            bearer: None,
            body: &registration.body,
            timeout: REQUEST_TIMEOUT,
        };
        let mask = |text: &str| request.url.mask_in(text);
        match self.transport.post(&request).await {
            Ok(answer) => request::classify(self.settings.provider, &answer, mask),
            Err(error) => Outcome::Retry {
                detail: mask(&error.to_string()),
                after: None,
            },
        }
    }

    /// The names of the variables that are missing.
    fn missing(&self) -> String {
        self.settings.credentials.missing.join(" and ")
    }

    /// Waits for what may be on its way.
    async fn await_remainder(&self, patience: Duration) {
        self.state.set(State::AwaitingCredentials);
        sleep(patience).await;
    }

    /// What to say of credentials that are incomplete, when they cannot be asked for.
    fn at_a_loss(&self) -> Option<State> {
        const REMEDY: &str = "set PROVISION_URL, so that the relay can ask for the rest";
        if self.settings.url.is_some() {
            return None; // something else is missing
        }
        let reason = match &self.settings.unpaired {
            Some(unpaired) => format!("{}; {REMEDY}", unpaired.reason),
            None if self.settings.credentials.some_present() => format!(
                "{} has not come within {} minutes, though other credentials are set; {REMEDY}, or \
                 set it by hand",
                self.missing(),
                REMAINDER_PATIENCE.as_secs() / 60,
            ),
            None => return None,
        };
        Some(State::Misconfigured { reason })
    }
}

/// What to say when the cloud keeps answering that the device exists, and no credentials come.
fn lost_key(registration: &Registration<'_>) -> String {
    format!(
        "the cloud function says that this device exists, but no credentials have come within {} \
         minutes; if they are not among the variables in balenaCloud, the function failed half-way \
         and the key was never stored: {}",
        CREDENTIALS_PATIENCE.as_secs() / 60,
        undo(registration)
    )
}

/// How to start over. The address is not spelt out: it may carry a token.
fn undo(registration: &Registration<'_>) -> String {
    format!(
        "undo the registration with curl -X DELETE -H 'Content-Type: application/json' -d '{}' \
         \"$PROVISION_URL\", and the relay registers again by itself",
        registration.undoing
    )
}

#[cfg(test)]
mod tests;
