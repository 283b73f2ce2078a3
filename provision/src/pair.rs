//! Certificates and keys as text: whether two belong together. Pure.
//!
//! A device is provisioned only if the certificate that balenaCloud holds is one that AWS holds, and
//! the key is that certificate's. Nothing is verified beyond that: neither signatures nor dates.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use crate::secret::Secret;

/// A variable's value for a PEM text.
pub fn encode(pem: &str) -> String {
    STANDARD.encode(pem)
}

/// The PEM text of a variable's value, if it is one.
pub fn decode(value: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()
}

/// The first certificate of a PEM text.
pub fn certificate(pem: &str) -> Option<CertificateDer<'static>> {
    rustls_pemfile::certs(&mut pem.as_bytes()).next()?.ok()
}

/// Whether two PEM texts hold the same certificate.
pub fn same_certificate(one: &str, other: &str) -> bool {
    certificate(one).is_some_and(|one| certificate(other) == Some(one))
}

/// The id by which AWS knows a certificate: SHA-256 of its DER, in hexadecimal digits.
pub fn fingerprint(pem: &str) -> Option<String> {
    let digest = ring::digest::digest(&ring::digest::SHA256, &certificate(pem)?);
    let digits = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
    Some(digits.collect())
}

/// Whether `key` is the private key of the certificate.
pub fn is_key_of(key_pem: &Secret, certificate_pem: &str) -> bool {
    let key = rustls_pemfile::private_key(&mut key_pem.expose().as_bytes());
    let (Ok(Some(key)), Some(certificate)) = (key, certificate(certificate_pem)) else {
        return false;
    };
    let provider = rustls::crypto::ring::default_provider();
    let Ok(key) = provider.key_provider.load_private_key(key) else {
        return false;
    };
    CertifiedKey::new(vec![certificate], key)
        .keys_match()
        .is_ok()
}

/// Whether the certificate is for an RSA key, as all are whose key AWS has made. One that cannot be read
/// is taken for such a one.
pub fn is_rsa(certificate_pem: &str) -> bool {
    /// `rsaEncryption`, 1.2.840.113549.1.1.1, as DER.
    const RSA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";
    let Some(certificate) = certificate(certificate_pem) else {
        return true;
    };
    let Ok(parsed) = ParsedCertificate::try_from(&certificate) else {
        return true;
    };
    let public_key = parsed.subject_public_key_info();
    public_key.windows(RSA.len()).any(|window| window == RSA)
}

/// Whether the certificate is for the key that the CSR asks one for. DER has one way only to write
/// a public key, so it stands in the request byte by byte as in the certificate.
pub fn answers_csr(certificate_pem: &str, csr_pem: &str) -> bool {
    let Some(csr) = rustls_pemfile::csr(&mut csr_pem.as_bytes()).ok().flatten() else {
        return false;
    };
    let Some(certificate) = certificate(certificate_pem) else {
        return false;
    };
    let Ok(parsed) = ParsedCertificate::try_from(&certificate) else {
        return false;
    };
    let public_key = parsed.subject_public_key_info();
    csr.windows(public_key.len())
        .any(|window| window == public_key.as_ref())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn self_signed(key: &KeyPair) -> String {
        let params = CertificateParams::default();
        params.self_signed(key).unwrap().pem()
    }

    #[test]
    fn a_certificate_and_its_key_are_told_from_others() {
        let (one, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let certificate = self_signed(&one);
        assert!(is_key_of(&Secret::new(one.serialize_pem()), &certificate));
        assert!(!is_key_of(
            &Secret::new(other.serialize_pem()),
            &certificate
        ));
        for garbage in [
            "",
            "key",
            "-----BEGIN PRIVATE KEY-----\n\n-----END PRIVATE KEY-----",
        ] {
            assert!(!is_key_of(&Secret::new(garbage), &certificate));
            assert!(!is_key_of(&Secret::new(one.serialize_pem()), garbage));
        }
        assert!(same_certificate(
            &certificate,
            &format!("\n{certificate}\n")
        ));
        assert!(!same_certificate(&certificate, &self_signed(&one)));
        assert!(!same_certificate("", ""));
    }

    #[test]
    fn a_certificate_answers_the_request_that_was_made_with_its_key() {
        let (one, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let request = |key: &KeyPair| {
            let request = CertificateParams::default().serialize_request(key);
            request.unwrap().pem().unwrap()
        };
        assert!(answers_csr(&self_signed(&one), &request(&one)));
        assert!(!answers_csr(&self_signed(&one), &request(&other)));
        assert!(!answers_csr(&self_signed(&one), "csr"));
    }

    #[test]
    fn awss_key_format_is_read() {
        // what CreateKeysAndCertificate returns: RSA 2048, PKCS#1
        let certificate = include_str!("../../tests/fixtures/rsa2048-cert.pem");
        let key = include_str!("../../tests/fixtures/rsa2048-pkcs1.pem");
        assert!(is_key_of(&Secret::new(key), certificate));
        assert!(is_rsa(certificate));
        assert!(!is_rsa(&self_signed(&KeyPair::generate().unwrap())));
        assert!(is_rsa("unreadable"));
    }

    #[test]
    fn a_variables_value_is_base64_of_the_pem() {
        assert_eq!(encode("PEM"), "UEVN");
        assert_eq!(decode(" UEVN\n").as_deref(), Some("PEM"));
        assert_eq!(decode("PEM!"), None);
    }
}
