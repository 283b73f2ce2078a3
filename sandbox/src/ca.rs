//! A certificate authority: a root, server certificates for this machine, device certificates.
//!
//! Like the registry of AWS it remembers the device certificates that it issued, which is how
//! the cloud stand-in learns a certificate's common name. Keys are ECDSA P-256: `ring` makes no RSA
//! keys. Not meant to protect anything.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Characters in a line of PEM (RFC 7468, section 2).
const PEM_LINE_CHARS: usize = 64;

/// What can go wrong in the authority.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A certificate or key could not be made.
    #[error("cannot make {what}: {source}")]
    Make {
        /// Which certificate or key.
        what: String,
        /// The generator's reason.
        source: rcgen::Error,
    },
    /// A key is not of the shape that its converter knows.
    #[error("the key of {common_name} is not a P-256 key in PKCS#8 and cannot be written as SEC1")]
    NotP256 {
        /// Whose key.
        common_name: String,
    },
    /// The root or its key could not be written.
    #[error("cannot write the root certificate or its key to {}: {source}", path.display())]
    WriteRoot {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// How a private key is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyFormat {
    /// `BEGIN PRIVATE KEY`.
    #[default]
    Pkcs8,
    /// `BEGIN EC PRIVATE KEY` (RFC 5915).
    Sec1,
}

/// A device's certificate and private key.
#[derive(Clone)]
pub struct DeviceIdentity {
    /// The certificate as PEM.
    pub certificate_pem: String,
    /// The private key as PEM.
    pub private_key_pem: String,
}

impl DeviceIdentity {
    /// The certificate as `AWS_CERT` holds it: base64 of the PEM text.
    pub fn certificate_base64(&self) -> String {
        STANDARD.encode(&self.certificate_pem)
    }

    /// The key as `AWS_PRIVATE_KEY` holds it: base64 of the PEM text.
    pub fn private_key_base64(&self) -> String {
        STANDARD.encode(&self.private_key_pem)
    }
}

impl fmt::Debug for DeviceIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceIdentity").finish_non_exhaustive()
    }
}

/// What came of a signing request.
#[derive(Clone, Debug)]
pub struct SignedRequest {
    /// The certificate as PEM.
    pub certificate_pem: String,
    /// The key that it is for, as DER.
    pub public_key: Vec<u8>,
}

/// A server's certificate and private key, ready for rustls.
#[derive(Debug)]
pub struct ServerIdentity {
    /// The server's certificate.
    pub certificate: CertificateDer<'static>,
    /// Its key. `Debug` of this type prints no key.
    pub private_key: PrivateKeyDer<'static>,
}

/// A certificate authority. Two of them do not trust each other.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    root_der: CertificateDer<'static>,
    root_pem: String,
    issued: Mutex<Vec<(CertificateDer<'static>, String)>>,
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .finish_non_exhaustive()
    }
}

impl CertificateAuthority {
    /// A new authority whose root is called `name`.
    pub fn new(name: &str) -> Result<Self, CaError> {
        let make = |source| CaError::Make {
            what: format!("the root certificate of {name}"),
            source,
        };
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(make)?;
        let root = params.self_signed(&key).map_err(make)?;
        Ok(CertificateAuthority {
            root_der: root.der().clone(),
            root_pem: root.pem(),
            issuer: Issuer::new(params, key),
            issued: Mutex::default(),
        })
    }

    /// The root certificate as PEM.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// The root certificate as DER.
    pub fn root_der(&self) -> &CertificateDer<'static> {
        &self.root_der
    }

    /// Writes the root as PEM to `path`, the file for `AWS_ROOT_CA_PATH`.
    pub fn write_root(&self, path: &Path) -> Result<(), CaError> {
        std::fs::write(path, &self.root_pem).map_err(|source| CaError::WriteRoot {
            path: path.to_owned(),
            source,
        })
    }

    /// Writes certificate and key as `root.pem` and `root.key` into a directory, for another program to
    /// issue certificates in this authority's name.
    pub fn write_issuer(&self, directory: &Path) -> Result<(), CaError> {
        self.write_root(&directory.join("root.pem"))?;
        let path = directory.join("root.key");
        let key = self.issuer.key().serialize_pem();
        std::fs::write(&path, key).map_err(|source| CaError::WriteRoot { path, source })
    }

    /// Learns that a certificate, as base64 of its PEM, is the device's of this name. It is trusted only
    /// if it was issued in this authority's name; text that is no certificate is passed over.
    pub fn recognise(&self, certificate_base64: &str, common_name: &str) {
        let pem = STANDARD.decode(certificate_base64).unwrap_or_default();
        let certificates = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
        let known = certificates.map(|certificate| (certificate, common_name.to_owned()));
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.extend(known);
    }

    /// A server certificate for `localhost` and 127.0.0.1.
    pub fn issue_server(&self) -> Result<ServerIdentity, CaError> {
        let make = |source| CaError::Make {
            what: "the server certificate".to_owned(),
            source,
        };
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).map_err(make)?;
        params
            .subject_alt_names
            .push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        params
            .distinguished_name
            .push(DnType::CommonName, "localhost");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(make)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(make)?;
        Ok(ServerIdentity {
            certificate: certificate.der().clone(),
            private_key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    }

    /// A device certificate for `common_name`, usually the device UUID.
    pub fn issue_device(
        &self,
        common_name: &str,
        format: KeyFormat,
    ) -> Result<DeviceIdentity, CaError> {
        let params = CertificateParams::default();
        self.issue_device_with(common_name, format, params)
    }

    /// The same, valid only from and until the given times.
    pub fn issue_device_valid(
        &self,
        common_name: &str,
        valid: Range<SystemTime>,
    ) -> Result<DeviceIdentity, CaError> {
        let mut params = CertificateParams::default();
        params.not_before = valid.start.into();
        params.not_after = valid.end.into();
        self.issue_device_with(common_name, KeyFormat::Pkcs8, params)
    }

    /// A device certificate for the key of a signing request (PEM), whose signature is checked.
    pub fn sign_request(&self, common_name: &str, csr: &str) -> Result<SignedRequest, CaError> {
        let make = |source| CaError::Make {
            what: format!("a certificate from the signing request of {common_name}"),
            source,
        };
        let request = CertificateSigningRequestParams::from_pem(csr).map_err(make)?;
        let certificate = request.signed_by(&self.issuer).map_err(make)?;
        self.issued
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((certificate.der().clone(), common_name.to_owned()));
        Ok(SignedRequest {
            certificate_pem: certificate.pem(),
            public_key: request.public_key.der_bytes().to_vec(),
        })
    }

    fn issue_device_with(
        &self,
        common_name: &str,
        format: KeyFormat,
        mut params: CertificateParams,
    ) -> Result<DeviceIdentity, CaError> {
        let make = |source| CaError::Make {
            what: format!("the device certificate of {common_name}"),
            source,
        };
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().map_err(make)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(make)?;
        self.issued
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((certificate.der().clone(), common_name.to_owned()));
        let private_key_pem = match format {
            KeyFormat::Pkcs8 => key.serialize_pem(),
            KeyFormat::Sec1 => sec1_pem(&key).ok_or_else(|| CaError::NotP256 {
                common_name: common_name.to_owned(),
            })?,
        };
        Ok(DeviceIdentity {
            certificate_pem: certificate.pem(),
            private_key_pem,
        })
    }

    /// The common name of a device certificate that this authority issued.
    pub fn common_name_of(&self, certificate: &CertificateDer<'_>) -> Option<String> {
        self.issued
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .find(|(issued, _)| issued == certificate)
            .map(|(_, common_name)| common_name.clone())
    }
}

/// Writes a P-256 key as RFC 5915 `ECPrivateKey`, with curve and public key, as OpenSSL does.
fn sec1_pem(key: &KeyPair) -> Option<String> {
    // version 1, then the private key as an OCTET STRING of 32 bytes
    const VERSION_AND_KEY: [u8; 5] = [0x02, 0x01, 0x01, 0x04, 0x20];
    // [0] { OBJECT IDENTIFIER prime256v1 }, then [1] { BIT STRING of an uncompressed point }
    const CURVE: [u8; 12] = [
        0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
    ];
    const PUBLIC_KEY: [u8; 5] = [0xa1, 0x44, 0x03, 0x42, 0x00];
    const POINT_BYTES: usize = 65;

    let pkcs8 = key.serialize_der();
    let at = pkcs8
        .windows(VERSION_AND_KEY.len())
        .position(|window| window == VERSION_AND_KEY)?;
    let version_and_key = pkcs8.get(at..at + VERSION_AND_KEY.len() + 32)?;
    let point = key.public_key_raw();
    if point.len() != POINT_BYTES {
        return None;
    }
    let body = [version_and_key, &CURVE, &PUBLIC_KEY, point].concat();
    let mut der = vec![0x30, u8::try_from(body.len()).ok()?];
    der.extend_from_slice(&body);
    Some(pem("EC PRIVATE KEY", &der))
}

/// `der` as PEM with `label`.
fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for (at, character) in text.chars().enumerate() {
        if at > 0 && at % PEM_LINE_CHARS == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem + &format!("\n-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads_with_ring(identity: &DeviceIdentity) -> bool {
        let key = rustls_pemfile::private_key(&mut identity.private_key_pem.as_bytes())
            .unwrap()
            .unwrap();
        let certificate = rustls_pemfile::certs(&mut identity.certificate_pem.as_bytes())
            .next()
            .unwrap()
            .unwrap();
        let signing_key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
        rustls::sign::CertifiedKey::new(vec![certificate], signing_key)
            .keys_match()
            .is_ok()
    }

    #[test]
    fn both_key_formats_load_and_match_their_certificate() {
        let ca = CertificateAuthority::new("root").unwrap();
        let pkcs8 = ca.issue_device("a", KeyFormat::Pkcs8).unwrap();
        let sec1 = ca.issue_device("b", KeyFormat::Sec1).unwrap();
        assert!(
            pkcs8
                .private_key_pem
                .starts_with("-----BEGIN PRIVATE KEY-----")
        );
        assert!(
            sec1.private_key_pem
                .starts_with("-----BEGIN EC PRIVATE KEY-----")
        );
        assert!(loads_with_ring(&pkcs8));
        assert!(loads_with_ring(&sec1));
    }

    #[test]
    fn base64_of_an_identity_decodes_to_its_pem() {
        let ca = CertificateAuthority::new("root").unwrap();
        let device = ca.issue_device("a", KeyFormat::Pkcs8).unwrap();
        let decoded = STANDARD.decode(device.certificate_base64()).unwrap();
        assert_eq!(decoded, device.certificate_pem.as_bytes());
        let decoded = STANDARD.decode(device.private_key_base64()).unwrap();
        assert_eq!(decoded, device.private_key_pem.as_bytes());
    }

    #[test]
    fn only_issued_certificates_have_a_known_common_name() {
        let ca = CertificateAuthority::new("root").unwrap();
        let foreign = CertificateAuthority::new("foreign").unwrap();
        let device = ca.issue_device("the-device", KeyFormat::Pkcs8).unwrap();
        let certificate = rustls_pemfile::certs(&mut device.certificate_pem.as_bytes())
            .next()
            .unwrap()
            .unwrap();
        assert_eq!(
            ca.common_name_of(&certificate).as_deref(),
            Some("the-device")
        );
        assert_eq!(foreign.common_name_of(&certificate), None);
    }

    #[test]
    fn debug_of_an_identity_shows_no_key() {
        let ca = CertificateAuthority::new("root").unwrap();
        let device = ca.issue_device("a", KeyFormat::Pkcs8).unwrap();
        assert!(!format!("{device:?}").contains("PRIVATE"));
    }
}
