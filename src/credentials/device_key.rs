//! The key that a device makes for itself and never gives away (`PROVISION_KEY=device`).
//!
//! It is made once and kept in `DATA_DIR`, readable for the relay alone. It is on disk before a
//! certificate is asked for, so that no certificate is ever made for a key that a power cut takes.
//! What is there is never overwritten: a file that holds no key is for the owner to look at.
//!
//! Which key belongs to the certificate is decided by [`Credentials::of_device`]. Everything here
//! blocks for a moment: it reads, writes and syncs one small file.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rustls::pki_types::PrivateKeyDer;

use super::{CredentialNames, Credentials, CredentialsError, csr, read_private_key};
use crate::secret::Secret;

/// The key's file under `DATA_DIR`.
const FILE: &str = "device-key.pem";
/// Where it is written before it gets its name. One that is left of a power cut is written anew.
const FILE_NEW: &str = "device-key.pem.new";
/// Read and written by the relay's user only.
const MODE: u32 = 0o600;
/// Most that is read of the file, in bytes. A key takes about 240.
const BYTES_MAX: u64 = 16 * 1024;

/// How the errors of a pair name the key.
const NAMES: CredentialNames = CredentialNames {
    cert: CredentialNames::AWS.cert,
    private_key: "the device's own key (device-key.pem in DATA_DIR)",
};

/// The device's key. It has no `Debug` of its own that would show it.
#[derive(Clone, Debug)]
pub struct DeviceKey {
    pem: Secret,
}

/// Why there is no key to work with. Nothing of the key is in it.
#[derive(Debug, thiserror::Error)]
pub enum DeviceKeyError {
    /// The disk.
    #[error(
        "cannot {operation} the device's key {}: {source}; DATA_DIR must be a volume that the relay may write to",
        path.display()
    )]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file, or its directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// There is a file, but no P-256 key in it.
    #[error(
        "{} does not hold a P-256 key in PKCS#8; restore it, or remove it and restart the service, and the relay makes a new one and registers again",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The system has no randomness, or the library refuses its own key.
    #[error(
        "the cryptography library cannot make or use a P-256 key: restart the service, and report it if that does not help"
    )]
    Crypto,
}

/// Why there are no credentials though `AWS_CERT` is set.
#[derive(Debug, thiserror::Error)]
pub enum UnpairedError {
    /// Variables are missing.
    #[error("AWS_CERT and AWS_PRIVATE_KEY must both be set")]
    Unset,
    /// A value cannot be used, whatever else there is.
    #[error(transparent)]
    Value(#[from] CredentialsError),
    /// The device's key cannot be read.
    #[error(transparent)]
    Key(#[from] DeviceKeyError),
    /// Two keys, and both are of something else.
    #[error(
        "neither AWS_PRIVATE_KEY nor {} belongs to AWS_CERT; remove AWS_CERT and AWS_PRIVATE_KEY from the variables in balenaCloud, and the relay registers again",
        path.display()
    )]
    Neither {
        /// The file of the device's key.
        path: PathBuf,
    },
    /// One key, of something else, and the other is not there.
    #[error(
        "AWS_PRIVATE_KEY does not belong to AWS_CERT, and there is no {}: was the volume replaced? Remove AWS_CERT and AWS_PRIVATE_KEY from the variables in balenaCloud, and the relay registers again",
        path.display()
    )]
    StaleAndLost {
        /// Where the device's key would be.
        path: PathBuf,
    },
    /// No key at all.
    #[error(
        "AWS_CERT is set, but its key is lost: AWS_PRIVATE_KEY is not set and there is no {}; was the volume replaced?",
        path.display()
    )]
    Lost {
        /// Where the key would be.
        path: PathBuf,
    },
    /// The device's key is not the one that the certificate was made for.
    #[error("{} does not belong to AWS_CERT, and AWS_PRIVATE_KEY is not set", path.display())]
    Foreign {
        /// The file of the device's key.
        path: PathBuf,
    },
}

impl UnpairedError {
    /// Whether a new registration brings a certificate for the device's key.
    pub fn is_cured_by_registering(&self) -> bool {
        matches!(
            self,
            UnpairedError::Lost { .. } | UnpairedError::Foreign { .. }
        )
    }
}

impl DeviceKey {
    /// The key that is there, if there is one.
    pub fn load(data_dir: &Path) -> Result<Option<Self>, DeviceKeyError> {
        let path = data_dir.join(FILE);
        let mut pem = String::new();
        let read = File::open(&path).and_then(|file| file.take(BYTES_MAX).read_to_string(&mut pem));
        let key = DeviceKey {
            pem: Secret::new(pem),
        };
        match read {
            Ok(_) if key.pair().is_some() => Ok(Some(key)),
            Ok(_) => Err(DeviceKeyError::Damaged { path }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                Err(DeviceKeyError::Damaged { path })
            }
            Err(source) => Err(DeviceKeyError::Io {
                operation: "read",
                path,
                source,
            }),
        }
    }

    /// The key that is there, or a new one, which is durable when this returns.
    pub fn load_or_create(data_dir: &Path) -> Result<Self, DeviceKeyError> {
        if let Some(key) = Self::load(data_dir)? {
            return Ok(key);
        }
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
                .map_err(|_| DeviceKeyError::Crypto)?;
        let pem = Secret::new(csr::armour("PRIVATE KEY", document.as_ref()));
        store(data_dir, &pem).map_err(|source| DeviceKeyError::Io {
            operation: "store",
            path: data_dir.join(FILE),
            source,
        })?;
        Ok(DeviceKey { pem })
    }

    /// A signing request for this key, as PEM.
    pub fn csr(&self, common_name: &str) -> Result<String, DeviceKeyError> {
        let pair = self.pair().ok_or(DeviceKeyError::Crypto)?;
        csr::pem(common_name, pair.public_key().as_ref(), |info| {
            let signature = pair.sign(&SystemRandom::new(), info);
            signature.map(|signature| signature.as_ref().to_vec())
        })
        .map_err(|_| DeviceKeyError::Crypto)
    }

    fn pair(&self) -> Option<EcdsaKeyPair> {
        let Ok(PrivateKeyDer::Pkcs8(der)) = read_private_key(&self.pem, NAMES.private_key) else {
            return None;
        };
        let der = der.secret_pkcs8_der();
        let random = SystemRandom::new();
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &random).ok()
    }
}

impl Credentials {
    /// The credentials of a device that keeps its key: `AWS_PRIVATE_KEY` if it belongs to the
    /// certificate, as an old cloud function sets it, else the key in `data_dir` if that does.
    pub fn of_device(
        cert: &Secret,
        private_key: Option<&Secret>,
        data_dir: &Path,
    ) -> Result<Self, UnpairedError> {
        let given = private_key
            .map(|key| Credentials::from_base64_pem(cert, key, CredentialNames::AWS))
            .transpose();
        if let Ok(Some(credentials)) = given {
            return Ok(credentials);
        }
        let own = DeviceKey::load(data_dir)?
            .map(|key| Credentials::from_base64_pem(cert, &key.pem, NAMES))
            .transpose();
        let path = data_dir.join(FILE);
        match (given, own) {
            (_, Ok(Some(credentials))) => Ok(credentials),
            (Err(CredentialsError::Mismatch { .. }), Err(CredentialsError::Mismatch { .. })) => {
                Err(UnpairedError::Neither { path })
            }
            (Err(CredentialsError::Mismatch { .. }), Ok(None)) => {
                Err(UnpairedError::StaleAndLost { path })
            }
            (Ok(_), Ok(None)) => Err(UnpairedError::Lost { path }),
            (Ok(_), Err(CredentialsError::Mismatch { .. })) => Err(UnpairedError::Foreign { path }),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error.into()),
        }
    }
}

/// Writes the file whole under another name, syncs it, gives it its name, and syncs that.
fn store(data_dir: &Path, pem: &Secret) -> io::Result<()> {
    DirBuilder::new().recursive(true).create(data_dir)?;
    let new = data_dir.join(FILE_NEW);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(&new)?;
    file.write_all(pem.expose().as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, data_dir.join(FILE))?;
    File::open(data_dir)?.sync_all()
}

#[cfg(test)]
mod tests;
