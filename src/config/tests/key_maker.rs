//! `PROVISION_KEY`.

use super::*;

#[test]
fn a_device_that_keeps_its_key_is_ready_with_the_certificate_alone() {
    let device = ("PROVISION_KEY", "Device");
    let url = ("PROVISION_URL", "https://example.com/p");
    let (cert, key) = (("AWS_CERT", "c"), ("AWS_PRIVATE_KEY", "k"));
    let known = [("AWS_DATA_ENDPOINT", "a.b"), ("BALENA_DEVICE_UUID", "c0")];
    let readiness = |pairs: &[(&str, &str)]| config(&[&known, pairs].concat()).readiness();
    assert_eq!(readiness(&[device, cert]), Readiness::Ready);
    assert_eq!(readiness(&[device, cert, key]), Readiness::Ready);
    assert_eq!(readiness(&[device, url]), Readiness::NeedsCredentials);
    assert_eq!(readiness(&[device, key, url]), Readiness::NeedsCredentials);
    assert_eq!(readiness(&[cert]), Readiness::NeedsCredentials);
    let Readiness::Unconfigured { missing } = readiness(&[device]) else {
        panic!("a certificate is needed")
    };
    assert!(missing.ends_with("or AWS_CERT"), "{missing}");
}

#[test]
fn only_awss_cloud_function_takes_a_key_of_the_devices_own() {
    let azure = ("CLOUD_PROVIDER", "AZURE");
    let errors = faults(&[azure, ("PROVISION_KEY", "device")]).to_string();
    assert!(errors.contains("works with AWS only"), "{errors}");
    let config = config(&[azure, ("PROVISION_KEY", "cloud")]);
    assert_eq!(config.key_maker, KeyMaker::Cloud);
}
