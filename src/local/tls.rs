//! The certificate that the local broker shows, and whose certificates it takes.
//!
//! The files are looked at again now and then, so that a renewed certificate needs no restart. Connections that are
//! open keep the old one. Files that cannot be used then are told of, and change nothing.

use std::fs::File;
use std::io::{self, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::roots::{self, RootsError};

/// How old what was read may be when a client comes. A file that was renewed is used after this at the latest.
const FILES_AGE_MAX: Duration = Duration::from_mins(10);

const CERT: &str = "LOCAL_MQTTS_CERT_PATH";
const KEY: &str = "LOCAL_MQTTS_KEY_PATH";
const CLIENT_CA: &str = "LOCAL_MQTTS_CLIENT_CA_PATH";

/// Where the local broker listens for TLS, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalTls {
    /// `LOCAL_MQTTS_LISTEN`.
    pub listen: SocketAddr,
    /// `LOCAL_MQTTS_CERT_PATH`.
    pub cert_path: PathBuf,
    /// `LOCAL_MQTTS_KEY_PATH`.
    pub key_path: PathBuf,
    /// `LOCAL_MQTTS_CLIENT_CA_PATH`: clients need a certificate of one of these.
    pub client_ca_path: Option<PathBuf>,
}

/// Why the files of the TLS listener cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsFilesError {
    /// A file cannot be read.
    #[error("{variable}: cannot read {}: {source}", path.display())]
    Unreadable {
        /// The variable that names it.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{variable}: {} holds no {what} in PEM form", path.display())]
    Empty {
        /// The variable that names it.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// Certificate and key do not fit each other, or are of a kind that is not taken.
    #[error("{CERT}, {KEY}: {} and {} cannot be used together: {source}", cert.display(), key.display())]
    Refused {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
    /// The file of the clients' authorities cannot be used.
    #[error(transparent)]
    ClientCa(#[from] RootsError),
    /// The clients' authorities cannot be used.
    #[error("{CLIENT_CA}: {source}")]
    Verifier {
        /// What rustls said.
        #[from]
        source: VerifierBuilderError,
    },
}

/// How to shake hands with clients.
#[derive(Debug)]
pub struct Tls {
    files: LocalTls,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    read: Instant,
}

impl Tls {
    /// Reads the files.
    pub fn new(files: LocalTls) -> Result<Self, TlsFilesError> {
        let current = Current {
            config: server_config(&files)?,
            read: Instant::now(),
        };
        Ok(Tls {
            files,
            current: Mutex::new(current),
        })
    }

    /// For the next client. Reads the files again if that was long ago, on a blocking thread.
    pub(super) async fn acceptor(self: &Arc<Self>) -> TlsAcceptor {
        if self.is_due() {
            let tls = Arc::clone(self);
            let renewed = tokio::task::spawn_blocking(move || server_config(&tls.files)).await;
            match renewed {
                Ok(Ok(config)) => self.lock().config = config,
                Ok(Err(error)) => tracing::warn!("the certificate in use is kept: {error}"),
                Err(error) => {
                    tracing::error!(%error, "reading LOCAL_MQTTS_CERT_PATH again ended by a fault; the certificate in use is kept; please report it");
                }
            }
        }
        TlsAcceptor::from(Arc::clone(&self.lock().config))
    }

    /// Whether the files are to be read again; then nobody else is told so.
    fn is_due(&self) -> bool {
        let now = Instant::now();
        let mut current = self.lock();
        let due = now >= current.read + FILES_AGE_MAX;
        if due {
            current.read = now;
        }
        due
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn server_config(files: &LocalTls) -> Result<Arc<ServerConfig>, TlsFilesError> {
    let chain = read(CERT, &files.cert_path, "certificate", |reader| {
        let chain: Vec<CertificateDer<'static>> =
            rustls_pemfile::certs(reader).collect::<Result<_, _>>()?;
        Ok((!chain.is_empty()).then_some(chain))
    })?;
    let key: PrivateKeyDer<'static> = read(KEY, &files.key_path, "private key", |reader| {
        rustls_pemfile::private_key(reader)
    })?;
    let refused = |source| TlsFilesError::Refused {
        cert: files.cert_path.clone(),
        key: files.key_path.clone(),
        source,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(refused)?;
    let builder = match &files.client_ca_path {
        Some(path) => {
            let roots = Arc::new(roots::read(CLIENT_CA, path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            builder.with_client_cert_verifier(verifier.build()?)
        }
        None => builder.with_no_client_auth(),
    };
    let config = builder.with_single_cert(chain, key).map_err(refused)?;
    Ok(Arc::new(config))
}

/// What `parse` finds in the file that `variable` names.
fn read<T>(
    variable: &'static str,
    path: &Path,
    what: &'static str,
    parse: impl FnOnce(&mut BufReader<File>) -> io::Result<Option<T>>,
) -> Result<T, TlsFilesError> {
    let path = path.to_owned();
    match File::open(&path).and_then(|file| parse(&mut BufReader::new(file))) {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(TlsFilesError::Empty {
            variable,
            path,
            what,
        }),
        Err(source) => Err(TlsFilesError::Unreadable {
            variable,
            path,
            source,
        }),
    }
}

#[cfg(test)]
#[path = "tests/tls.rs"]
pub(super) mod tests;
