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
//! Some credentials without the others are normal, since balenaCloud pushes them one by one: then
//! nothing is sent, only waited for.
//!
//! Invariant: nothing secret is logged; `PROVISION_URL` may carry a token in its query.

mod http;
mod request;
mod supervisor;

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::config::{Config, CredentialVariables, Device, HttpUrl, Provider, Supervisor};
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
    /// Who can speed up their arrival.
    pub supervisor: Option<Supervisor>,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Settings {
            provider: config.provider,
            url: config.provisioning.clone(),
            device: config.device.clone(),
            credentials: config.credentials.clone(),
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
}

/// How the cloud function took a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Registered {
    Now,
    Before,
}

impl<T: Transport> Task<'_, T> {
    async fn work(&self) -> Infallible {
        if self.settings.credentials.some_present() {
            return self.await_remainder().await;
        }
        match self.registration() {
            Ok(registration) => self.provision(&registration).await,
            Err(state) => {
                self.state.set(state);
                pending().await
            }
        }
    }

    /// The request, or the state to be in when it cannot be made.
    fn registration(&self) -> Result<Registration<'_>, State> {
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
        let body = request::body(uuid, self.settings.device.service.as_deref());
        Ok(Registration { url, body })
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
                    tracing::info!("this device was registered before");
                    return Registered::Before;
                }
                Outcome::Refused { detail } => {
                    let reason = format!("PROVISION_URL {url}: {}", url.mask_in(&detail));
                    self.state.set(State::Misconfigured { reason });
                    refused.next_delay(fastrand::f64())
                }
                Outcome::Retry { detail, after } => {
                    let asked_for = after.unwrap_or_default().min(RETRY_AFTER_MAX);
                    let delay = failing.next_delay(fastrand::f64()).max(asked_for);
                    let detail = url.mask_in(&detail);
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
        match self.transport.post(&request).await {
            Ok(answer) => request::classify(self.settings.provider, &answer),
            Err(error) => Outcome::Retry {
                detail: error.to_string(),
                after: None,
            },
        }
    }

    /// Waits for what is still missing; there is nothing to register.
    async fn await_remainder(&self) -> Infallible {
        let missing = self.settings.credentials.missing.join(" and ");
        tracing::info!("{missing} is not here yet; balenaCloud pushes the credentials one by one");
        self.state.set(State::AwaitingCredentials);
        sleep(REMAINDER_PATIENCE).await;
        let minutes = REMAINDER_PATIENCE.as_secs() / 60;
        let remedy = match self.registration() {
            Ok(registration) => undo(&registration),
            Err(_) => "set it by hand".to_owned(),
        };
        self.state.set(State::Misconfigured {
            reason: format!(
                "{missing} has not come within {minutes} minutes, though other credentials are \
                 set; if it is not among the variables in balenaCloud, {remedy}"
            ),
        });
        let mut updates = Updates::new(self.transport, self.settings.supervisor.as_ref());
        updates.keep_asking(Duration::ZERO).await
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
        registration.body
    )
}

#[cfg(test)]
mod tests;
