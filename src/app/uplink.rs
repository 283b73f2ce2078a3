//! What leads to the cloud: which task it is depends on what the configuration has. How the tasks end together is not
//! decided here.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::AppError;
use crate::clock;
use crate::clock_gate::ClockGate;
use crate::cloud::tls::{self, TlsError};
use crate::cloud::{self, Endpoint, Extras, Source};
use crate::config::{AwsConfig, CloudConfig, Config, KeyMaker, Readiness};
use crate::credentials::{CredentialNames, Credentials, DeviceKeyError, UnpairedError};
use crate::local::Publisher;
use crate::provisioning;
use crate::state::{State, StateBoard};

/// How long after a file that could not be used it is tried again.
const FILE_RETRY: Duration = Duration::from_mins(1);

/// What leads to the cloud: depending on the configuration, nothing, provisioning or the egress.
pub(super) async fn run(
    config: &Config,
    publisher: Publisher,
    source: Source,
    state: StateBoard,
    shutdown: CancellationToken,
) -> Result<(), AppError> {
    let stuck = match config.readiness() {
        Readiness::NeedsCredentials => match key_left_behind(config) {
            Some(reason) => State::Misconfigured { reason },
            None => return provision(config, None, state, shutdown).await,
        },
        Readiness::Unconfigured { missing } => State::Unconfigured { missing },
        Readiness::Ready => loop {
            match endpoint(config, publisher.clone()) {
                Ok(endpoint) => {
                    cloud::run(endpoint, source, state, shutdown).await;
                    return Ok(());
                }
                Err(NoEndpoint::Unpaired(error)) if error.is_cured_by_registering() => {
                    return provision(config, Some(&error), state, shutdown).await;
                }
                Err(error) if error.may_pass() => {
                    let reason = format!("{error}; tried again every minute");
                    state.set(State::Misconfigured { reason });
                    if (shutdown.run_until_cancelled(sleep(FILE_RETRY)).await).is_none() {
                        return Ok(());
                    }
                }
                Err(error) => {
                    let reason = error.to_string();
                    break State::Misconfigured { reason };
                }
            }
        },
    };
    state.set(stuck);
    shutdown.cancelled().await;
    Ok(())
}

/// What to say of a certificate for the device's own key where the cloud function is to make the key. That one only
/// answers that the device exists.
fn key_left_behind(config: &Config) -> Option<String> {
    let aws = match &config.cloud {
        Some(CloudConfig::Aws(aws)) if config.key_maker == KeyMaker::Cloud => aws,
        _ => return None,
    };
    let (Some(cert), None) = (&aws.cert, &aws.private_key) else {
        return None;
    };
    let own = Credentials::of_device(cert, None, &config.data_dir).ok()?;
    Some(format!(
        "PROVISION_KEY is \"cloud\", but AWS_CERT belongs to {}: set PROVISION_KEY=device, or remove AWS_CERT from the \
         variables in balenaCloud to register anew",
        own.key_name()
    ))
}

/// Asks for credentials, once the clock is right enough for TLS.
async fn provision(
    config: &Config,
    unpaired: Option<&UnpairedError>,
    state: StateBoard,
    shutdown: CancellationToken,
) -> Result<(), AppError> {
    let opened = ClockGate::new(None).wait(&state, clock::now);
    if shutdown.run_until_cancelled(opened).await.is_none() {
        return Ok(());
    }
    let settings = provisioning::Settings {
        unpaired: unpaired.map(Into::into),
        ..provisioning::Settings::from(config)
    };
    Ok(provisioning::run(settings, state, shutdown).await?)
}

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
enum NoEndpoint {
    /// Another cloud.
    #[error("CLOUD_PROVIDER: this version relays to AWS only, not to {0}; messages are kept")]
    Provider(&'static str),
    /// Certificate and key do not do.
    #[error(transparent)]
    Unpaired(#[from] UnpairedError),
    /// The roots.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl NoEndpoint {
    /// Whether it may pass by itself: a process never sees its variables change, but it does see files change.
    fn may_pass(&self) -> bool {
        matches!(
            self,
            NoEndpoint::Unpaired(UnpairedError::Key(DeviceKeyError::Io { .. }))
                | NoEndpoint::Tls(TlsError::Roots(_))
        )
    }
}

/// The cloud's endpoint.
fn endpoint(config: &Config, publisher: Publisher) -> Result<Endpoint, NoEndpoint> {
    match &config.cloud {
        Some(CloudConfig::Aws(aws)) => aws_endpoint(aws, config, publisher),
        _ => Err(NoEndpoint::Provider(config.provider.name())),
    }
}

/// Certificate and key, as far as the configuration has them.
pub(super) fn aws_credentials(
    aws: &AwsConfig,
    config: &Config,
) -> Result<Credentials, UnpairedError> {
    match (&aws.cert, &aws.private_key) {
        (Some(cert), key) if config.key_maker == KeyMaker::Device => {
            Credentials::of_device(cert, key.as_ref(), &config.data_dir)
        }
        (Some(cert), Some(key)) => Ok(Credentials::from_base64_pem(
            cert,
            key,
            CredentialNames::AWS,
        )?),
        _ => Err(UnpairedError::Unset),
    }
}

fn aws_endpoint(
    aws: &AwsConfig,
    config: &Config,
    publisher: Publisher,
) -> Result<Endpoint, NoEndpoint> {
    let credentials = aws_credentials(aws, config)?;
    let tls = tls::client_config(&credentials, aws.root_ca_path.as_deref(), aws.port)?;
    let names = CredentialNames::AWS;
    if config.key_maker == KeyMaker::Device && credentials.key_name() == names.private_key {
        tracing::warn!(
            "PROVISION_KEY is \"device\", but {key} belongs to {cert} and is used: the cloud function made it, and \
             balenaCloud has it. For a key that never leaves the device, let PROVISION_URL lead to a cloud function that \
             takes a signing request, and remove {cert} and {key}",
            key = names.private_key,
            cert = names.cert,
        );
    }
    Ok(Endpoint {
        host: aws.endpoint.clone(),
        port: aws.port,
        client_id: config.device.uuid.clone().unwrap_or_default(),
        tls,
        validity: credentials.validity(),
        mqtt_version: config.mqtt_version,
        quota: config.quota,
        denied_hold: config.denied_hold,
        packing: config.packing,
        extras: Extras {
            subscriptions: config.subscriptions.clone(),
            status_topic: config.status_topic.clone(),
            publisher,
        },
    })
}

#[cfg(test)]
mod tests;
