use base64::prelude::BASE64_STANDARD;
use rcgen::{CertificateParams, KeyPair};

use super::*;

/// A throw-away pair of the shape AWS hands out; see `tests/fixtures/README.md`.
const RSA_CERT: &str = include_str!("../../tests/fixtures/rsa2048-cert.pem");
const RSA_KEY_PKCS1: &str = include_str!("../../tests/fixtures/rsa2048-pkcs1.pem");

fn base64(pem: &str) -> Secret {
    Secret::new(BASE64_STANDARD.encode(pem))
}

/// A fresh P-256 certificate and its PKCS#8 key.
fn p256() -> (String, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["device".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    (cert.pem(), key)
}

/// The SEC1 structure within a P-256 PKCS#8 key, as PEM. It is a sequence whose first field is
/// version 1, followed by the octet string of the key.
fn sec1(key: &KeyPair) -> String {
    let der = key.serialize_der();
    let version = der
        .windows(4)
        .position(|bytes| bytes == [0x02, 0x01, 0x01, 0x04])
        .unwrap();
    pem("EC PRIVATE KEY", &der[version - 2..])
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = BASE64_STANDARD.encode(der);
    let lines: Vec<&str> = body
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

fn load(cert: &Secret, key: &Secret) -> Result<Credentials, CredentialsError> {
    Credentials::from_base64_pem(cert, key, CredentialNames::AWS)
}

/// What `load` says about a pair it does not take.
fn complaint(cert: &Secret, key: &Secret) -> String {
    load(cert, key).unwrap_err().to_string()
}

#[test]
fn pkcs1_pkcs8_and_sec1_keys_load() {
    let (cert, key) = p256();
    for (cert, key) in [
        (RSA_CERT, RSA_KEY_PKCS1.to_owned()),
        (&cert, key.serialize_pem()),
        (&cert, sec1(&key)),
    ] {
        let credentials = load(&base64(cert), &base64(&key)).unwrap();
        assert_eq!(credentials.chain().len(), 1);
    }
}

#[test]
fn a_tls_client_can_be_built_from_them() {
    let credentials = load(&base64(RSA_CERT), &base64(RSA_KEY_PKCS1)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_client_auth_cert(credentials.chain(), credentials.private_key())
        .unwrap();
}

#[test]
fn the_whole_chain_is_kept_in_order() {
    let (other, _) = p256();
    let credentials = load(
        &base64(&format!("{RSA_CERT}{other}")),
        &base64(RSA_KEY_PKCS1),
    )
    .unwrap();
    let first = load(&base64(RSA_CERT), &base64(RSA_KEY_PKCS1))
        .unwrap()
        .chain();
    assert_eq!(credentials.chain().len(), 2);
    assert_eq!(credentials.chain().first(), first.first());
}

#[test]
fn line_breaks_spaces_and_missing_padding_in_the_base64_do_not_matter() {
    let key = base64(RSA_KEY_PKCS1);
    for cert in [
        RSA_CERT.to_owned(),
        format!("{RSA_CERT}\n"),
        format!("{RSA_CERT}\n\n"),
    ] {
        let encoded = BASE64_STANDARD.encode(cert);
        let bare = encoded.trim_end_matches('=');
        let (first, rest) = bare.split_at(76);
        let broken = format!(" {first}\r\n{rest} ");
        assert!(load(&Secret::new(bare), &key).is_ok());
        assert!(load(&Secret::new(broken), &key).is_ok());
    }
}

#[test]
fn pem_text_itself_is_taken_with_real_or_written_out_line_breaks() {
    let written_out = RSA_KEY_PKCS1.replace('\n', "\\n");
    assert!(load(&Secret::new(RSA_CERT), &Secret::new(written_out)).is_ok());
}

#[test]
fn every_fault_names_the_variable_to_look_at() {
    let (cert, key) = (base64(RSA_CERT), base64(RSA_KEY_PKCS1));
    let (cut, _) = RSA_CERT.split_at(RSA_CERT.len() / 2);
    let flat = Secret::new(RSA_CERT.replace('\n', " "));
    let nonsense_cert = base64(&pem("CERTIFICATE", b"nonsense"));
    let nonsense_key = base64(&pem("PRIVATE KEY", b"nonsense"));
    let cases = [
        (
            complaint(&Secret::new("%%%"), &key),
            "AWS_CERT does not decode as base64",
        ),
        (
            complaint(&cert, &Secret::new("%%%")),
            "AWS_PRIVATE_KEY does not decode as base64",
        ),
        (
            complaint(&key, &key),
            "AWS_CERT holds a private key; expected a certificate",
        ),
        (
            complaint(&cert, &cert),
            "AWS_PRIVATE_KEY holds a certificate; expected a private key",
        ),
        (
            complaint(&base64("hello"), &key),
            "AWS_CERT holds something that is not PEM",
        ),
        (
            complaint(&base64(cut), &key),
            "AWS_CERT holds damaged PEM text",
        ),
        (complaint(&flat, &key), "AWS_CERT holds damaged PEM text"),
        (
            complaint(&nonsense_cert, &key),
            "AWS_CERT holds a damaged certificate",
        ),
        (
            complaint(&cert, &nonsense_key),
            "AWS_PRIVATE_KEY holds a damaged private key",
        ),
        (
            complaint(&cert, &base64(&p256().1.serialize_pem())),
            "AWS_PRIVATE_KEY does not belong to AWS_CERT",
        ),
        (
            complaint(&base64(&p256().0), &key),
            "AWS_PRIVATE_KEY does not belong to AWS_CERT",
        ),
    ];
    for (text, expected) in cases {
        assert!(
            text.starts_with(expected),
            "{text:?}, expected {expected:?}"
        );
        assert_eq!(text.lines().count(), 1);
    }
}

#[test]
fn a_certificate_of_version_1_is_called_so_and_not_damaged() {
    /// `version [0] EXPLICIT INTEGER 2`, which stands for version 3 (RFC 5280, section 4.1).
    const VERSION_3: [u8; 5] = [0xA0, 0x03, 0x02, 0x01, 0x02];
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec![]).unwrap().self_signed(&key);
    let mut der = cert.unwrap().der().to_vec();
    let version = der.windows(5).position(|bytes| bytes == VERSION_3).unwrap();
    der[version + 4] = 0;
    let text = complaint(
        &base64(&pem("CERTIFICATE", &der)),
        &base64(&key.serialize_pem()),
    );
    assert!(
        text.starts_with(
            "AWS_CERT holds a certificate that TLS cannot use (UnsupportedCertVersion)"
        ) && text.contains("version 3"),
        "{text}"
    );
}

#[test]
fn an_encrypted_key_is_called_encrypted_in_both_forms() {
    let pkcs8 =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIFNTBf\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let pkcs1 = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nMIIF\n-----END RSA PRIVATE KEY-----\n";
    for key in [pkcs8, pkcs1] {
        let text = complaint(&base64(RSA_CERT), &base64(key));
        assert!(
            text.starts_with("AWS_PRIVATE_KEY holds an encrypted private key"),
            "{text}"
        );
    }
}

#[test]
fn no_part_of_the_key_shows_in_debug_output_or_errors() {
    let credentials = load(&base64(RSA_CERT), &base64(RSA_KEY_PKCS1)).unwrap();
    let line = RSA_KEY_PKCS1.lines().nth(3).unwrap();
    assert!(!format!("{credentials:?}").contains(line));
    for cut in [100, 400, 800] {
        let error = load(&base64(RSA_CERT), &base64(RSA_KEY_PKCS1.split_at(cut).0)).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(line));
    }
}
