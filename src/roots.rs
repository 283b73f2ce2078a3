//! Which certificates a TLS peer's is traced back to: those of a PEM file, or the built-in ones.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use rustls::RootCertStore;

/// Most that is read of the file, in bytes. Mozilla's roots take a quarter of it.
const BYTES_MAX: u64 = 1024 * 1024;

/// Why a file of roots cannot be used. Trying again helps if whoever writes it has not finished.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// It cannot be read.
    #[error("{variable}: cannot read {}: {source}", path.display())]
    Unreadable {
        /// The variable that names it.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is cut off or damaged.
    #[error("{variable}: {} is no PEM: {source}", path.display())]
    NoPem {
        /// The variable that names it.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// What the reader of PEM said.
        source: io::Error,
    },
    /// It holds none.
    #[error(
        "{variable}: {} holds no certificate in PEM form; \
         give the file with the roots to trust, or leave the variable unset",
        path.display()
    )]
    Empty {
        /// The variable that names it.
        variable: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A certificate in it cannot be used.
    #[error("{variable}: a certificate in {} cannot be used as a root: {source}", path.display())]
    BadRoot {
        /// The variable that names it.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
}

/// Mozilla's roots; the Amazon Root CAs are among them.
pub(crate) fn built_in() -> RootCertStore {
    RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    }
}

/// The certificates of a PEM file. `variable` names the file in errors.
pub(crate) fn read(variable: &'static str, path: &Path) -> Result<RootCertStore, RootsError> {
    let unreadable = |source| RootsError::Unreadable {
        variable,
        path: path.to_owned(),
        source,
    };
    let mut pem = Vec::new();
    File::open(path)
        .and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut pem))
        .map_err(unreadable)?;
    if pem.len() as u64 > BYTES_MAX {
        let too_large = io::Error::new(ErrorKind::FileTooLarge, "it has more than 1 MiB");
        return Err(unreadable(too_large));
    }
    let mut roots = RootCertStore::empty();
    for certificate in rustls_pemfile::certs(&mut pem.as_slice()) {
        let certificate = certificate.map_err(|source| RootsError::NoPem {
            variable,
            path: path.to_owned(),
            source,
        })?;
        roots
            .add(certificate)
            .map_err(|source| RootsError::BadRoot {
                variable,
                path: path.to_owned(),
                source,
            })?;
    }
    if roots.is_empty() {
        return Err(RootsError::Empty {
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
        let complaint = || read("AWS_ROOT_CA_PATH", &path).unwrap_err().to_string();
        assert!(complaint().starts_with("AWS_ROOT_CA_PATH: cannot read"));
        std::fs::write(&path, "no PEM").unwrap();
        assert!(complaint().contains("roots.pem holds no certificate"));
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nbm9u").unwrap();
        assert!(complaint().contains("roots.pem is no PEM: "));
        let large = File::create(&path).unwrap();
        large.set_len(BYTES_MAX + 1).unwrap();
        assert!(complaint().ends_with("roots.pem: it has more than 1 MiB"));
        let nonsense = "-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, nonsense).unwrap();
        let text = complaint();
        assert!(
            text.starts_with("AWS_ROOT_CA_PATH") && text.contains("roots.pem"),
            "{text}"
        );
    }
}
