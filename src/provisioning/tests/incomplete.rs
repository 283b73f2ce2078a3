//! Credentials that are there in part, and keys that the device makes itself.

use super::*;

fn one_of_two() -> Settings {
    let mut settings = settings();
    settings.credentials.missing = vec!["AWS_PRIVATE_KEY"];
    settings
}

#[tokio::test(start_paused = true)]
async fn one_of_two_credentials_is_waited_for_and_then_completed_by_the_cloud_function() {
    let mut running = Running::start(one_of_two(), vec![answer(201, "device created")], vec![]);
    running.until("awaiting-credentials").await;
    running.nothing_for(REMAINDER_PATIENCE * 9 / 10).await;
    assert_eq!(running.state(), State::AwaitingCredentials);
    let post = running.next().await;
    assert_eq!(post.url, AWS_URL);
    let waited = post.at - running.started;
    assert_eq!(waited.as_secs(), REMAINDER_PATIENCE.as_secs());
    let update = running.next().await;
    assert!(update.is_update() && update.at - post.at >= PUSH_PATIENCE);
    assert_eq!(running.state(), State::AwaitingCredentials);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn delete_is_advised_only_when_the_function_knows_the_device_and_nothing_comes() {
    let mut settings = one_of_two();
    settings.supervisor = None;
    let (log, _guard) = Captured::start(Level::INFO);
    let known = vec![answer(400, KNOWN), answer(400, KNOWN)];
    let mut running = Running::start(settings, known, vec![]);
    running.next().await;
    running.nothing_for(CREDENTIALS_PATIENCE * 9 / 10).await;
    assert_eq!(running.state(), State::AwaitingCredentials);
    assert!(!log.text().contains("DELETE"));
    running.next().await;
    let state = running.until("misconfigured").await.to_string();
    assert!(state.contains("curl -X DELETE"), "{state}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_of_two_credentials_without_an_address_is_for_the_owner_to_complete() {
    let mut settings = one_of_two();
    settings.url = None;
    let mut running = Running::start(settings, vec![], vec![answer(202, "")]);
    let update = running.next().await;
    assert!(update.is_update() && update.at - running.started >= REMAINDER_PATIENCE);
    let state = running.state().to_string();
    assert!(
        state.contains("AWS_PRIVATE_KEY has not come within 5 minutes")
            && state.contains("set PROVISION_URL"),
        "{state}"
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_keeps_its_key_asks_for_a_certificate_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings();
    settings.key_dir = Some(dir.path().to_owned());
    settings.credentials.expected = &["AWS_CERT"];
    settings.credentials.missing = vec!["AWS_CERT"];
    let (log, _guard) = Captured::start(Level::TRACE);
    settings.supervisor = None;
    let provision = vec![answer(201, ""), answer(400, KNOWN)];
    let mut running = Running::start(settings, provision, vec![]);
    let post = running.next().await;
    let body: serde_json::Value = serde_json::from_str(&post.body).unwrap();
    let csr = body.get("csr").unwrap().as_str().unwrap();
    rcgen::CertificateSigningRequestParams::from_pem(csr).expect("a signed request");
    assert!(DeviceKey::load(dir.path()).unwrap().is_some());
    running.until("awaiting-credentials").await;
    // The request is a page of text, and no part of what undoes it.
    let state = running.until("misconfigured").await.to_string();
    assert!(
        state.contains(r#"-d '{"uuid":"c0ffee","balena_service":"relay"}'"#),
        "{state}"
    );
    running.stop().await;
    assert!(!log.text().contains("PRIVATE KEY"), "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_does_not_take_the_key_is_tried_again_and_nothing_is_sent_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let key_dir = dir.path().join("data");
    std::fs::write(&key_dir, "a file").unwrap();
    let mut settings = settings();
    settings.key_dir = Some(key_dir.clone());
    let mut running = Running::start(settings, vec![answer(201, "")], vec![]);
    let state = running.until("misconfigured").await.to_string();
    assert!(state.contains("device-key.pem"), "{state}");
    std::fs::remove_file(&key_dir).unwrap();
    let post = running.next().await;
    assert!(post.body.contains("CERTIFICATE REQUEST") && post.at - running.started >= KEY_RETRY);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_key_is_replaced_at_once_and_one_that_may_yet_come_is_waited_for() {
    for (patience, path) in [(Duration::ZERO, "lost"), (REMAINDER_PATIENCE, "foreign")] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(path);
        let error = match patience {
            Duration::ZERO => UnpairedError::Lost { path },
            _ => UnpairedError::Foreign { path },
        };
        let mut settings = settings();
        settings.credentials.missing = vec![];
        settings.key_dir = Some(dir.path().to_owned());
        settings.unpaired = Some(Unpaired::from(&error));
        let mut homeless = settings.clone();
        homeless.url = None;

        let mut running = Running::start(settings, vec![answer(201, "")], vec![]);
        let post = running.next().await;
        assert_eq!((post.at - running.started).as_secs(), patience.as_secs());
        assert!(post.body.contains("CERTIFICATE REQUEST"));
        running.stop().await;

        let running = Running::start(homeless, vec![], vec![]);
        let state = running.until("misconfigured").await.to_string();
        assert!(
            state.contains(&error.to_string()) && state.contains("set PROVISION_URL"),
            "{state}"
        );
        running.stop().await;
    }
}
