//! The device's certificate and private key, as they come from the environment.
//!
//! [`Credentials::from_base64_pem`] decodes both, checks that they belong together, and names the
//! faulty variable in every error. A value that is PEM text already (with line breaks, or with `\n`
//! written out) is taken as well. When the certificate is valid is told and not checked, and
//! whether the cloud knows it is not known here. A key that the device made itself: `device_key`.

mod csr;
mod device_key;
mod validity;

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rustls::CertificateError;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls_pemfile::Item;

pub use self::device_key::{DeviceKey, DeviceKeyError, UnpairedError};
pub use self::validity::Validity;

use crate::secret::Secret;

/// Standard base64; padding may be missing, as some tools leave it out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What every PEM section starts with.
const PEM_BEGIN: &str = "-----BEGIN ";

/// Which variables the values came from, for the errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CredentialNames {
    /// Where the certificate came from.
    pub cert: &'static str,
    /// Where the private key came from.
    pub private_key: &'static str,
}

impl CredentialNames {
    /// The variables for AWS.
    pub const AWS: Self = CredentialNames {
        cert: "AWS_CERT",
        private_key: "AWS_PRIVATE_KEY",
    };
}

/// A certificate chain and its private key. `Debug` shows neither.
#[derive(Clone)]
pub struct Credentials(Arc<CertifiedParts>);

struct CertifiedParts {
    chain: Vec<CertificateDer<'static>>,
    private_key: PrivateKeyDer<'static>,
    key_name: &'static str,
}

/// Why certificate and key cannot be used. Nothing of the values themselves is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// Neither base64 nor PEM.
    #[error(
        "{variable} does not decode as base64; expected the base64 of a PEM file (base64 -w0 FILE)"
    )]
    NotBase64 {
        /// The faulty variable.
        variable: &'static str,
    },
    /// It decodes, but to something else.
    #[error("{variable} holds {found}; expected {expected} in PEM form")]
    WrongContent {
        /// The faulty variable.
        variable: &'static str,
        /// What is in it.
        found: &'static str,
        /// What should be.
        expected: &'static str,
    },
    /// The key needs a pass phrase, which nobody can type on a device.
    #[error(
        "{variable} holds an encrypted private key; expected one without a pass phrase (openssl pkey -in FILE)"
    )]
    Encrypted {
        /// The faulty variable.
        variable: &'static str,
    },
    /// It is a certificate, but not one that TLS can use, such as one of X.509 version 1.
    #[error(
        "{variable} holds a certificate that TLS cannot use ({cause}); expected one of X.509 version 3, as AWS IoT Core makes them"
    )]
    UnusableCertificate {
        /// The faulty variable.
        variable: &'static str,
        /// The TLS library's words.
        cause: String,
    },
    /// The certificate's bytes are no X.509 certificate.
    #[error("{variable} holds a damaged certificate; was it cut off?")]
    DamagedCertificate {
        /// The faulty variable.
        variable: &'static str,
    },
    /// The key's bytes are no key, or of a kind that TLS cannot use.
    #[error(
        "{variable} holds a damaged private key or one of an unknown kind; expected RSA (2048 bits or more), ECDSA P-256 or P-384, or Ed25519"
    )]
    UnusableKey {
        /// The faulty variable.
        variable: &'static str,
    },
    /// Both are fine, but not a pair.
    #[error("{private_key} does not belong to {cert}; set both from the same registration")]
    Mismatch {
        /// Where the certificate came from.
        cert: &'static str,
        /// Where the key came from.
        private_key: &'static str,
    },
}

impl Credentials {
    /// Decodes `cert` and `private_key` and checks that they are a pair. The key may be PKCS#1
    /// (what AWS makes), PKCS#8 or SEC1; certificates after the first are the chain.
    pub fn from_base64_pem(
        cert: &Secret,
        private_key: &Secret,
        names: CredentialNames,
    ) -> Result<Self, CredentialsError> {
        let chain = read_chain(cert, names.cert)?;
        let private_key = read_private_key(private_key, names.private_key)?;
        check_pair(&chain, &private_key, names)?;
        Ok(Credentials(Arc::new(CertifiedParts {
            chain,
            private_key,
            key_name: names.private_key,
        })))
    }

    /// Where the private key is from: the name it was read under.
    pub fn key_name(&self) -> &'static str {
        self.0.key_name
    }

    /// The certificate, then whatever completes its chain.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.0.chain.clone()
    }

    /// When the device's certificate is valid, if that can be told.
    pub fn validity(&self) -> Option<Validity> {
        self.0.chain.first().and_then(validity::of)
    }

    /// The private key, for `rustls::ConfigBuilder::with_client_auth_cert`.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        self.0.private_key.clone_key()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Credentials({} certificates, key ***)",
            self.0.chain.len()
        )
    }
}

fn read_chain(
    value: &Secret,
    variable: &'static str,
) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    const EXPECTED: &str = "a certificate";
    let items = read_items(value, variable, EXPECTED)?;
    let found = describe(items.first());
    let chain: Vec<_> = items
        .into_iter()
        .filter_map(|item| match item {
            Item::X509Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    if chain.is_empty() {
        return Err(CredentialsError::WrongContent {
            variable,
            found,
            expected: EXPECTED,
        });
    }
    Ok(chain)
}

fn read_private_key(
    value: &Secret,
    variable: &'static str,
) -> Result<PrivateKeyDer<'static>, CredentialsError> {
    const EXPECTED: &str = "a private key";
    let items = read_items(value, variable, EXPECTED)?;
    let found = describe(items.first());
    let key = items.into_iter().find_map(|item| match item {
        Item::Pkcs1Key(key) => Some(PrivateKeyDer::Pkcs1(key)),
        Item::Pkcs8Key(key) => Some(PrivateKeyDer::Pkcs8(key)),
        Item::Sec1Key(key) => Some(PrivateKeyDer::Sec1(key)),
        _ => None,
    });
    key.ok_or(CredentialsError::WrongContent {
        variable,
        found,
        expected: EXPECTED,
    })
}

/// The PEM sections in `value`.
fn read_items(
    value: &Secret,
    variable: &'static str,
    expected: &'static str,
) -> Result<Vec<Item>, CredentialsError> {
    let pem = decode(value).ok_or(CredentialsError::NotBase64 { variable })?;
    // Both ways to encrypt a key, PKCS#8's and the older header line, carry this word.
    if contains(&pem, b"ENCRYPTED") {
        return Err(CredentialsError::Encrypted { variable });
    }
    let damaged = if contains(&pem, PEM_BEGIN.as_bytes()) {
        "damaged PEM text (cut off, or its line breaks are lost)"
    } else {
        "something that is not PEM text"
    };
    let wrong = |found| CredentialsError::WrongContent {
        variable,
        found,
        expected,
    };
    let items: Vec<Item> = rustls_pemfile::read_all(&mut pem.as_slice())
        .collect::<Result<_, _>>()
        .map_err(|_| wrong(damaged))?;
    if items.is_empty() {
        return Err(wrong(damaged));
    }
    Ok(items)
}

/// The PEM text behind `value`: itself if it is PEM already, else what its base64 stands for.
fn decode(value: &Secret) -> Option<Vec<u8>> {
    let text = value.expose();
    if text.contains(PEM_BEGIN) {
        return Some(text.replace("\\n", "\n").into_bytes());
    }
    let compact: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    BASE64.decode(compact).ok()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

fn describe(item: Option<&Item>) -> &'static str {
    match item {
        Some(Item::X509Certificate(_)) => "a certificate",
        Some(Item::Pkcs1Key(_) | Item::Pkcs8Key(_) | Item::Sec1Key(_)) => "a private key",
        Some(Item::SubjectPublicKeyInfo(_)) => "a public key",
        Some(Item::Csr(_)) => "a certificate signing request",
        Some(Item::Crl(_)) => "a revocation list",
        _ => "PEM text of another kind",
    }
}

fn check_pair(
    chain: &[CertificateDer<'static>],
    private_key: &PrivateKeyDer<'static>,
    names: CredentialNames,
) -> Result<(), CredentialsError> {
    let provider: CryptoProvider = rustls::crypto::ring::default_provider();
    let signing_key = provider
        .key_provider
        .load_private_key(private_key.clone_key())
        .map_err(|_| CredentialsError::UnusableKey {
            variable: names.private_key,
        })?;
    match CertifiedKey::new(chain.to_vec(), signing_key).keys_match() {
        Ok(()) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(CredentialsError::Mismatch {
            cert: names.cert,
            private_key: names.private_key,
        }),
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(cause))) => {
            Err(CredentialsError::UnusableCertificate {
                variable: names.cert,
                cause: cause.to_string(),
            })
        }
        Err(_) => Err(CredentialsError::DamagedCertificate {
            variable: names.cert,
        }),
    }
}

#[cfg(test)]
mod tests;
