//! The TLS side of a connection to the cloud: which roots it trusts and which certificate it shows.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use crate::credentials::Credentials;

/// The port on which AWS IoT Core shares HTTPS and needs ALPN to tell MQTT apart.
const HTTPS_PORT: u16 = 443;
/// The ALPN name for MQTT with client certificates on port 443 (AWS IoT Core developer guide).
const ALPN_AWS_MQTT: &[u8] = b"x-amzn-mqtt-ca";

/// Why no TLS configuration can be made. Trying again does not help.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file of roots cannot be read.
    #[error("{variable}: cannot read {}: {source}", path.display())]
    RootsUnreadable {
        /// The variable that names it.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file of roots holds none.
    #[error(
        "{variable}: {} holds no certificate in PEM form; \
         give the file with the roots to trust, or leave the variable unset",
        path.display()
    )]
    NoRoots {
        /// The variable that names it.
        variable: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A certificate in the file of roots cannot be used.
    #[error("{variable}: a certificate in {} cannot be used as a root: {source}", path.display())]
    BadRoot {
        /// The variable that names it.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
    /// rustls refuses the certificate or key.
    #[error("the device's certificate and key cannot be used for TLS: {0}")]
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
        Some(path) => read_roots("AWS_ROOT_CA_PATH", path)?,
        None => built_in_roots(),
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

/// Mozilla's roots; the Amazon Root CAs are among them.
pub fn built_in_roots() -> RootCertStore {
    RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    }
}

/// The certificates of a PEM file, as roots. `variable` names the file in errors.
pub(crate) fn read_roots(variable: &'static str, path: &Path) -> Result<RootCertStore, TlsError> {
    let unreadable = |source| TlsError::RootsUnreadable {
        variable,
        path: path.to_owned(),
        source,
    };
    let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
    let mut roots = RootCertStore::empty();
    for certificate in rustls_pemfile::certs(&mut reader) {
        let certificate = certificate.map_err(unreadable)?;
        roots.add(certificate).map_err(|source| TlsError::BadRoot {
            variable,
            path: path.to_owned(),
            source,
        })?;
    }
    if roots.is_empty() {
        return Err(TlsError::NoRoots {
            variable,
            path: path.to_owned(),
        });
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_faulty_file_of_roots_is_named_and_not_taken_for_the_devices_certificate() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roots.pem");
        let complaint = || {
            read_roots("AWS_ROOT_CA_PATH", &path)
                .unwrap_err()
                .to_string()
        };
        assert!(complaint().starts_with("AWS_ROOT_CA_PATH: cannot read"));
        std::fs::write(&path, "no PEM").unwrap();
        assert!(complaint().contains("roots.pem holds no certificate"));
        let nonsense = "-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, nonsense).unwrap();
        let text = complaint();
        assert!(
            text.starts_with("AWS_ROOT_CA_PATH") && text.contains("roots.pem"),
            "{text}"
        );
    }
}
