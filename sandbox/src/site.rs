//! One relay that has its credentials, its cloud and their authority: where most tests begin.
//!
//! The cloud runs from the start; the relay is started by [`Site::start`], or with another
//! environment through [`Site::relay`].

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use crate::ca::{CaError, CertificateAuthority, DeviceIdentity, KeyFormat};
use crate::cloud::{Cloud, CloudError, CloudOptions, NotArrived};
use crate::ledger::MessageId;
use crate::process::Environment;
use crate::publisher::{Load, PublishError, Report, publish_load};
use crate::relay::{RelayError, RelayProcess};

/// The device that the site's relay runs on.
pub const DEVICE_UUID: &str = "0c57d3e8a9f14b6d8e7f6a5b4c3d2e1f";
/// How long anything may take that should take moments. Long, for a busy machine and a relay under emulation.
pub const PATIENCE: Duration = Duration::from_mins(3);

/// What can go wrong on a site.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// The authority.
    #[error(transparent)]
    Authority(#[from] CaError),
    /// The cloud.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// The relay.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// No directory.
    #[error("cannot make a directory for the root certificate: {0}")]
    Directory(std::io::Error),
}

/// See the module. Dropping it kills the relay and closes the cloud.
pub struct Site {
    // first, so that the process is gone before its files go
    relay: Arc<RelayProcess>,
    cloud: Cloud,
    authority: Arc<CertificateAuthority>,
    identity: DeviceIdentity,
    directory: TempDir,
}

impl Site {
    /// A running cloud, and the relay at `program`, not started yet.
    pub async fn new(program: &str) -> Result<Self, SiteError> {
        let authority = Arc::new(CertificateAuthority::new("Site root")?);
        let directory = tempfile::Builder::new()
            .prefix("cloud-relay-site-")
            .tempdir()
            .map_err(SiteError::Directory)?;
        authority.write_root(&directory.path().join("root.pem"))?;
        Ok(Site {
            relay: Arc::new(RelayProcess::new(program)?),
            cloud: Cloud::start(CloudOptions::new(Arc::clone(&authority))).await?,
            identity: authority.issue_device(DEVICE_UUID, KeyFormat::Pkcs8)?,
            authority,
            directory,
        })
    }

    /// The same, and the relay is running and takes connections.
    pub async fn started(program: &str) -> Result<Self, SiteError> {
        let site = Site::new(program).await?;
        site.start().await?;
        Ok(site)
    }

    /// The relay.
    pub fn relay(&self) -> &Arc<RelayProcess> {
        &self.relay
    }

    /// The cloud.
    pub fn cloud(&self) -> &Cloud {
        &self.cloud
    }

    /// Who issued the certificates of cloud and device.
    pub fn authority(&self) -> &Arc<CertificateAuthority> {
        &self.authority
    }

    /// The device's certificate and key.
    pub fn identity(&self) -> &DeviceIdentity {
        &self.identity
    }

    /// The owner's variables: where the cloud is, without credentials. There is no limit to the rate, for most
    /// tests send more than a cloud's quota allows.
    pub fn settings(&self) -> Environment {
        let root = self.directory.path().join("root.pem");
        environment([
            ("AWS_DATA_ENDPOINT", "localhost"),
            ("AWS_PORT", &self.cloud.port().to_string()),
            ("AWS_ROOT_CA_PATH", &root.display().to_string()),
            ("CLOUD_PUBLISH_RATE", "0"),
            ("CLOUD_BYTE_RATE", "0"),
        ])
    }

    /// Everything the relay needs to connect.
    pub fn environment(&self) -> Environment {
        let mut all = self.settings();
        all.extend(environment([
            ("BALENA_DEVICE_UUID", DEVICE_UUID),
            ("AWS_CERT", &self.identity.certificate_base64()),
            ("AWS_PRIVATE_KEY", &self.identity.private_key_base64()),
        ]));
        all
    }

    /// [`Site::environment`] with `changes`.
    pub fn environment_with<const N: usize>(&self, changes: [(&str, &str); N]) -> Environment {
        let mut all = self.environment();
        all.extend(environment(changes));
        all
    }

    /// Starts the relay, or kills and restarts it, and waits until it takes connections.
    pub async fn start(&self) -> Result<(), SiteError> {
        self.start_with(&self.environment()).await
    }

    /// [`Site::start`] with another environment.
    pub async fn start_with(&self, environment: &Environment) -> Result<(), SiteError> {
        self.relay.start(environment).await?;
        Ok(self.relay.wait_until_listening(PATIENCE).await?)
    }

    /// Publishes `load` to the relay.
    pub async fn publish(&self, load: &Load) -> Result<Report, PublishError> {
        publish_load(self.relay.listen_addr(), load).await
    }

    /// Waits until each of `expected` is in the cloud.
    pub async fn arrived(&self, expected: &[MessageId]) -> Result<(), NotArrived> {
        self.cloud.wait_for_messages(expected, PATIENCE).await
    }
}

/// Pairs as an environment.
pub fn environment<const N: usize>(pairs: [(&str, &str); N]) -> Environment {
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}
