//! `provision serve` between curl, moto and balenaCloud's API, the latter checked with balena's own SDK.

mod common;

use cloud_relay_provision::pair::{decode, is_key_of};
use cloud_relay_provision::secret::Secret;
use cloud_relay_sandbox::site::{DEVICE_UUID, PATIENCE};

use common::{Stage, is_empty, only_certificate, run};

const SERVICE: &str = "cloud-relay";

/// What is stored for the relay's service is the certificate in AWS, and its key.
async fn assert_complete(stage: &Stage) {
    let pem = only_certificate(&stage.look().await, DEVICE_UUID);
    let variable = |name| stage.api.service_variable(name).and_then(|v| decode(&v));
    assert_eq!(variable("AWS_CERT").as_deref(), Some(pem.as_str()));
    let key = variable("AWS_PRIVATE_KEY").expect("a key");
    assert!(key.starts_with("-----BEGIN RSA PRIVATE KEY-----"));
    assert!(is_key_of(&Secret::new(key), &pem));
}

#[tokio::test]
async fn the_old_blocks_requests_and_the_old_script_are_answered_to_the_letter() {
    let stage = Stage::start([("ALLOW_DELETE", "1"), ("ALLOW_TEST", "1")]).await;
    let created = (201, "device created".to_owned());
    let exists = (400, "thing already exists".to_owned());
    let deleted = (200, "device deleted".to_owned());

    let post = async || stage.old_block("POST", DEVICE_UUID, SERVICE).await;
    assert_eq!(post().await, created);
    assert_complete(&stage).await;
    assert_eq!(post().await, exists);

    // tools/test-remote.sh of the old function, unchanged from npm
    let script = "node/node_modules/aws-iot-provision/tools/test-remote.sh";
    let script = common::tool(script).display().to_string();
    let says = async |arguments: &[&str], expected: &(u16, String)| {
        let all = [&[script.as_str()], arguments, &[&stage.url]].concat();
        let output = run("bash", &all).await.join("\n");
        assert!(output.contains(&expected.1), "{output}");
        assert!(output.contains(&format!("HTTP/1.1 {}", expected.0)));
    };
    says(&["-u", DEVICE_UUID, "-s", SERVICE, "POST"], &exists).await;
    says(&["-u", DEVICE_UUID, "-s", SERVICE, "DELETE"], &deleted).await;
    assert!(is_empty(&stage.look().await));
    assert_eq!(stage.api.service_variable("AWS_CERT"), None);
    assert_eq!(stage.api.service_variable("AWS_PRIVATE_KEY"), None);
    says(&["-u", DEVICE_UUID, "-s", SERVICE, "DELETE"], &deleted).await;

    // without UUID: the test Thing, and balenaCloud hears nothing
    let requests = stage.api.requests().len();
    says(&["POST"], &created).await;
    only_certificate(&stage.look().await, "test-provision");
    says(&["POST"], &exists).await;
    says(&["DELETE"], &deleted).await;
    assert!(is_empty(&stage.look().await));
    assert_eq!(stage.api.requests().len(), requests);

    let log = stage.process.log().lines().join("\n");
    assert!(log.contains("device created"), "{log}");
    for secret in ["PRIVATE KEY", "LS0tLS1", "sandbox-balena-key"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[tokio::test]
async fn balenas_own_sdk_reads_what_was_written_and_writes_what_is_read() {
    let stage = Stage::start([]).await;
    let read = async |service| {
        let name = "AWS_CERT";
        stage.balena_sdk(service, &["get", name]).await
    };
    // for a service
    assert!(read(SERVICE).await.is_null());
    let created = stage.old_block("POST", DEVICE_UUID, SERVICE).await;
    assert_eq!(created.0, 201, "{created:?}");
    let value = read(SERVICE).await;
    assert_eq!(
        value.as_str(),
        stage.api.service_variable("AWS_CERT").as_deref()
    );
    assert!(read("-").await.is_null());

    // the SDK takes the key away, then puts nonsense in its place: each time the device is completed anew
    let remove = ["remove", "AWS_PRIVATE_KEY"];
    let spoil = ["set", "AWS_PRIVATE_KEY", "nonsense"];
    for call in [&remove[..], &spoil] {
        stage.balena_sdk(SERVICE, call).await;
        let again = stage.old_block("POST", DEVICE_UUID, SERVICE).await;
        assert_eq!(again, (201, "device created".to_owned()));
        assert_complete(&stage).await;
    }

    // for the whole device: not as long as the service works with it
    let refused = stage.old_block("POST", DEVICE_UUID, "").await;
    assert_eq!(refused.0, 409, "{refused:?}");
    assert!(refused.1.contains("registered for service \"cloud-relay\""));
    assert_complete(&stage).await;
    for name in ["AWS_CERT", "AWS_PRIVATE_KEY"] {
        stage.balena_sdk(SERVICE, &["remove", name]).await;
    }
    let created = stage.old_block("POST", DEVICE_UUID, "").await;
    assert_eq!(created.0, 201, "{created:?}");
    let pem = only_certificate(&stage.look().await, DEVICE_UUID);
    let value = read("-").await;
    let value = value.as_str().expect("a value");
    assert_eq!(decode(value), Some(pem));
    let again = stage.old_block("POST", DEVICE_UUID, "").await;
    assert_eq!(again, (400, "thing already exists".to_owned()));
}

#[tokio::test]
async fn what_may_not_be_asked_is_refused_and_changes_nothing() {
    let token = "0123456789abcdef";
    let stage = Stage::start([("PROVISION_TOKEN", token), ("FLEETS", "acme/weather")]).await;
    let good = format!(r#"{{"uuid":"{DEVICE_UUID}","balena_service":"{SERVICE}"}}"#);
    let with_token = format!("{}?token={token}", stage.url);
    let wrong = format!("{}?token={}", stage.url, token.to_uppercase());
    let prefix = good.replace(DEVICE_UUID, DEVICE_UUID.get(..7).expect("digits"));
    let wrong_service = good.replace(SERVICE, "relay");
    let unknown = good.replace(DEVICE_UUID, &"0".repeat(32));
    let huge = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(huge.path(), vec![b'x'; 1 << 20]).expect("written");
    let huge = format!("@{}", huge.path().display());
    for (what, url, method, body, status) in [
        ("no token", &stage.url, "POST", &good, 401),
        ("a wrong token", &wrong, "POST", &good, 401),
        ("a UUID's beginning", &with_token, "POST", &prefix, 400),
        ("a wrong service", &with_token, "POST", &wrong_service, 400),
        ("an unknown device", &with_token, "POST", &unknown, 400),
        ("no JSON", &with_token, "POST", &"hello".to_owned(), 400),
        ("1 MB", &with_token, "POST", &huge, 413),
        ("DELETE", &with_token, "DELETE", &good, 403),
        ("the test Thing", &with_token, "POST", &"{}".to_owned(), 403),
    ] {
        let data = ["-X", method, "--data-binary", body, url];
        let answer = stage.curl(&data).await;
        println!("{what:<20} {} {}", answer.0, answer.1);
        assert_eq!(answer.0, status, "{what}: {answer:?}");
    }
    assert!(is_empty(&stage.look().await));
    let header = format!("X-Provision-Token: {token}");
    let allowed = stage.curl(&["-H", &header, "-d", &good, &stage.url]).await;
    assert_eq!(allowed, (201, "device created".to_owned()));
    let log = stage.process.log().lines().join("\n");
    assert!(!log.contains(token) && !log.contains(&token.to_uppercase()));
}

#[tokio::test]
async fn a_busy_balena_cloud_is_asked_again_and_its_wish_for_a_long_pause_is_handed_on() {
    let stage = Stage::start([]).await;
    stage.api.script(429, Some("1"));
    stage.api.script(503, None);
    let created = stage.old_block("POST", DEVICE_UUID, SERVICE).await;
    assert_eq!(created, (201, "device created".to_owned()));
    assert_complete(&stage).await;

    stage.api.script(429, Some("3600"));
    let body = format!(r#"{{"uuid":"{DEVICE_UUID}"}}"#);
    let (status, text) = stage.curl(&["-i", "-d", &body, &stage.url]).await;
    assert_eq!(status, 500);
    assert!(text.contains("retry-after: 3600"), "{text}");

    stage.api.script(401, None);
    let login = stage.old_block("POST", DEVICE_UUID, SERVICE).await;
    assert_eq!(login.0, 400);
    assert!(login.1.contains("BALENA_API_KEY"), "{login:?}");
}

#[tokio::test]
async fn a_device_that_hangs_up_is_registered_all_the_same() {
    let stage = Stage::start([]).await;
    // keeps the function busy for longer than the client waits
    stage.api.script(429, Some("3"));
    let body = format!(r#"{{"uuid":"{DEVICE_UUID}","balena_service":"{SERVICE}"}}"#);
    let impatient = format!("! curl --silent --max-time 1 -d '{body}' {}", stage.url);
    run("bash", &["-c", &impatient]).await;
    let done = stage.process.wait_for_log("device created", PATIENCE);
    done.await.expect("it goes on");
    assert_complete(&stage).await;
}

#[tokio::test]
async fn two_requests_at_once_leave_one_valid_credential() {
    let stage = Stage::start([]).await;
    let post = || stage.old_block("POST", DEVICE_UUID, SERVICE);
    let (one, other, third) = tokio::join!(post(), post(), post());
    println!("{one:?} {other:?} {third:?}");
    for answer in [one, other, third] {
        assert!(matches!(answer.0, 201 | 400), "{answer:?}");
    }
    assert_complete(&stage).await;
}

#[tokio::test]
async fn a_device_that_keeps_its_key_gets_a_certificate_for_it() {
    let stage = Stage::start([]).await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str| directory.path().join(name).display().to_string();
    let (key, csr) = (file("key.pem"), file("csr.pem"));
    let make = [
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ];
    let to = [
        "-nodes",
        "-subj",
        "/CN=device",
        "-keyout",
        &key,
        "-out",
        &csr,
    ];
    run("openssl", &[&make[..], &to].concat()).await;
    let csr = std::fs::read_to_string(csr).expect("a CSR");
    let body = serde_json::json!({"uuid": DEVICE_UUID, "balena_service": SERVICE, "csr": csr});
    let body = body.to_string();
    let post = async || stage.curl(&["-d", &body, &stage.url]).await;
    assert_eq!(post().await, (201, "device created".to_owned()));
    let pem = only_certificate(&stage.look().await, DEVICE_UUID);
    let stored = stage.api.service_variable("AWS_CERT").expect("stored");
    assert_eq!(decode(&stored).as_deref(), Some(pem.as_str()));
    assert_eq!(stage.api.service_variable("AWS_PRIVATE_KEY"), None);
    let key = std::fs::read_to_string(key).expect("a key");
    assert!(is_key_of(&Secret::new(key), &pem));
    assert_eq!(post().await, (400, "thing already exists".to_owned()));
}
