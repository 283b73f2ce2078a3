//! The TLS side of a connection to the cloud: which roots it trusts and which certificate it shows.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;

use crate::credentials::Credentials;
use crate::roots::{self, RootsError};

/// The port on which AWS IoT Core shares HTTPS and needs ALPN to tell MQTT apart.
const HTTPS_PORT: u16 = 443;
/// The ALPN name for MQTT with client certificates on port 443 (AWS IoT Core developer guide).
const ALPN_AWS_MQTT: &[u8] = b"x-amzn-mqtt-ca";

/// Why no TLS configuration can be made. Trying again helps only where the roots are not written yet.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file of roots.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// rustls refuses the certificate or key.
    #[error(
        "the device's certificate (AWS_CERT) and its private key cannot be used for TLS: {0}; register the device anew"
    )]
    Refused(#[from] rustls::Error),
}

/// A TLS client that shows the device's certificate. It trusts the roots in `root_ca_path`, or the built-in
/// ones; on port 443 it asks for MQTT by ALPN.
pub fn client_config(
    credentials: &Credentials,
    root_ca_path: Option<&Path>,
    port: u16,
) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match root_ca_path {
        Some(path) => roots::read("AWS_ROOT_CA_PATH", path)?,
        None => roots::built_in(),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(credentials.chain(), credentials.private_key())?;
    if port == HTTPS_PORT {
        config.alpn_protocols = vec![ALPN_AWS_MQTT.to_vec()];
    }
    Ok(Arc::new(config))
}
