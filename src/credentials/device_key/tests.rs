use std::os::unix::fs::PermissionsExt as _;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer,
    KeyPair as RcgenKey,
};
use tempfile::TempDir;

use super::*;

/// What a cloud answers to a signing request.
fn certificate_for(csr: &str) -> Secret {
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::new(root, RcgenKey::generate().unwrap());
    let request = CertificateSigningRequestParams::from_pem(csr).unwrap();
    Secret::new(request.signed_by(&issuer).unwrap().pem())
}

/// A certificate and its key, as an old cloud function makes them.
fn made_elsewhere() -> (Secret, Secret) {
    let key = RcgenKey::generate().unwrap();
    let certificate = CertificateParams::default().self_signed(&key).unwrap();
    (
        Secret::new(certificate.pem()),
        Secret::new(key.serialize_pem()),
    )
}

#[test]
fn a_key_is_made_once_and_only_its_owner_can_read_it() {
    let dir = TempDir::new().unwrap();
    assert!(DeviceKey::load(dir.path()).unwrap().is_none());
    fs::write(dir.path().join(FILE_NEW), "half a k").unwrap();
    let made = DeviceKey::load_or_create(dir.path()).unwrap();
    let again = DeviceKey::load_or_create(dir.path()).unwrap();
    assert_eq!(made.pem, again.pem);
    let permissions = fs::metadata(dir.path().join(FILE)).unwrap().permissions();
    assert_eq!(permissions.mode() & 0o777, MODE);
    assert!(!dir.path().join(FILE_NEW).exists());
    assert!(!format!("{made:?}").contains("PRIVATE"));
}

#[test]
fn a_signing_request_names_the_device_and_is_signed_by_its_key() {
    let dir = TempDir::new().unwrap();
    let key = DeviceKey::load_or_create(dir.path()).unwrap();
    for uuid in ["c", &"c0ffee00".repeat(4), &"x".repeat(128)] {
        let csr = key.csr(uuid).unwrap();
        // reading it checks the signature
        let request = CertificateSigningRequestParams::from_pem(&csr).unwrap();
        let name = &request.params.distinguished_name;
        let expected = rcgen::DnValue::Utf8String(uuid.to_owned());
        assert_eq!(name.get(&rcgen::DnType::CommonName), Some(&expected));
        Credentials::of_device(&certificate_for(&csr), None, dir.path()).unwrap();
    }
}

#[test]
fn a_file_that_holds_no_key_is_left_alone_and_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(FILE);
    let other = RcgenKey::generate().unwrap().serialize_pem();
    let cut = other.get(..80).unwrap();
    for content in [b"".as_slice(), cut.as_bytes(), b"\xff\xfe"] {
        fs::write(&path, content).unwrap();
        let error = DeviceKey::load_or_create(dir.path()).unwrap_err();
        assert!(matches!(error, DeviceKeyError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("device-key.pem"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}

#[test]
fn a_directory_that_takes_no_file_is_an_error_that_names_the_file() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = DeviceKey::load_or_create(&file).unwrap_err().to_string();
    assert!(error.contains("file/device-key.pem"), "{error}");
}

#[test]
fn the_key_from_the_cloud_wins_if_it_belongs_to_the_certificate() {
    let dir = TempDir::new().unwrap();
    let own = DeviceKey::load_or_create(dir.path()).unwrap();
    let own_cert = certificate_for(&own.csr("c0ffee").unwrap());
    let (cert, key) = made_elsewhere();
    let (_, stale) = made_elsewhere();
    let garbage = Secret::new("%");
    let of = |cert, key| Credentials::of_device(cert, key, dir.path());

    let given = of(&cert, Some(&key)).unwrap();
    assert_ne!(given.private_key().secret_der(), own_der(&own));
    assert_eq!(given.key_name(), "AWS_PRIVATE_KEY");
    for given in [None, Some(&stale), Some(&garbage)] {
        let used = of(&own_cert, given).unwrap();
        assert_eq!(used.private_key().secret_der(), own_der(&own));
        assert_eq!(used.key_name(), NAMES.private_key);
    }
    let neither = of(&cert, Some(&stale)).unwrap_err();
    assert!(matches!(neither, UnpairedError::Neither { .. }));
    let foreign = of(&cert, None).unwrap_err();
    assert!(matches!(foreign, UnpairedError::Foreign { .. }));
    assert!(foreign.is_cured_by_registering() && !neither.is_cured_by_registering());
}

fn own_der(key: &DeviceKey) -> Vec<u8> {
    let key = read_private_key(&key.pem, NAMES.private_key).unwrap();
    key.secret_der().to_vec()
}

#[test]
fn a_lost_key_and_a_damaged_certificate_are_told_apart() {
    let dir = TempDir::new().unwrap();
    let (cert, _) = made_elsewhere();
    let lost = Credentials::of_device(&cert, None, dir.path()).unwrap_err();
    assert!(lost.to_string().contains("was the volume replaced?"));
    assert!(lost.is_cured_by_registering());
    let (_, stale) = made_elsewhere();
    let stale = Credentials::of_device(&cert, Some(&stale), dir.path()).unwrap_err();
    let text = stale.to_string();
    for part in [
        "AWS_PRIVATE_KEY does not belong to AWS_CERT",
        "there is no",
        "device-key.pem",
        "Remove AWS_CERT and AWS_PRIVATE_KEY",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!stale.is_cured_by_registering());
    DeviceKey::load_or_create(dir.path()).unwrap();
    let damaged = Credentials::of_device(&Secret::new("%"), None, dir.path()).unwrap_err();
    assert!(damaged.to_string().starts_with("AWS_CERT"), "{damaged}");
    assert!(!damaged.is_cured_by_registering());
}
