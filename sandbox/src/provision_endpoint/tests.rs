use super::*;
use crate::balena::BalenaOptions;
use crate::http::send;

const PATIENCE: Duration = Duration::from_secs(10);
const POST: &str =
    "POST /provision HTTP/1.1\r\nContent-Type: application/json\r\nCache-Control: no-cache";
const BODY: &str = r#"{"uuid":"the-uuid","balena_service":"cloud-relay"}"#;

async fn endpoint() -> (ProvisionEndpoint, Arc<Balena>) {
    let options = EndpointOptions {
        authority: Arc::new(CertificateAuthority::new("root").unwrap()),
        balena: Arc::new(Balena::start(BalenaOptions::new("the-uuid")).await.unwrap()),
        key_format: KeyFormat::Sec1,
        pause_between_variables: Duration::ZERO,
    };
    let balena = Arc::clone(&options.balena);
    (ProvisionEndpoint::start(options).await.unwrap(), balena)
}

async fn post(endpoint: &ProvisionEndpoint, body: &str) -> Option<(u16, String)> {
    send(endpoint.server.addr, POST, body).await
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "compared with what `post` returns"
)]
fn answer(status: u16, body: &str) -> Option<(u16, String)> {
    Some((status, body.to_owned()))
}

#[tokio::test]
async fn a_device_is_created_once_and_deleted() {
    let (endpoint, balena) = endpoint().await;
    assert_eq!(post(&endpoint, BODY).await, answer(201, "device created"));
    let names: Vec<String> = balena.variables().into_keys().collect();
    assert_eq!(names, ["AWS_CERT", "AWS_PRIVATE_KEY"]);
    assert_eq!(
        post(&endpoint, BODY).await,
        answer(400, "thing already exists")
    );
    let delete = POST.replace("POST", "DELETE");
    let deleted = send(endpoint.server.addr, &delete, BODY).await;
    assert_eq!(deleted, answer(200, "device deleted"));
    assert!(balena.variables().is_empty() && endpoint.things().is_empty());
    let requests = endpoint.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(requests[0].body, BODY);
    assert_eq!(requests[0].header("cache-control"), Some("no-cache"));
    assert_eq!(requests[2].method, "DELETE");
}

#[tokio::test]
async fn bad_bodies_and_unknown_devices_are_400_and_a_test_leaves_balena_alone() {
    let (endpoint, balena) = endpoint().await;
    assert_eq!(post(&endpoint, "not json").await.unwrap().0, 400);
    assert_eq!(post(&endpoint, r#"{"uuid":"other"}"#).await.unwrap().0, 400);
    assert_eq!(
        post(&endpoint, r#"{"uuid":""}"#).await,
        answer(201, "device created")
    );
    assert_eq!(endpoint.things(), ["test-provision"]);
    assert!(balena.variables().is_empty());
}

#[tokio::test]
async fn scripted_answers_come_in_order_and_then_the_work_is_done() {
    let (endpoint, balena) = endpoint().await;
    endpoint.script(Answer::respond(500, "broken"));
    endpoint.script(Answer::Respond {
        status: 429,
        body: "slow down".to_owned(),
        delay: Duration::from_millis(1),
        retry_after: Some("7".to_owned()),
    });
    endpoint.script(Answer::Close);
    assert_eq!(post(&endpoint, BODY).await, answer(500, "broken"));
    assert_eq!(
        post(&endpoint, BODY).await,
        answer(429, "retry-after: 7\nslow down")
    );
    assert_eq!(post(&endpoint, BODY).await, None);
    assert!(balena.variables().is_empty());
    assert_eq!(post(&endpoint, BODY).await, answer(201, "device created"));
    endpoint.wait_for_requests(4, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_and_a_client_that_leaves_do_not_undo_the_work() {
    let (endpoint, balena) = endpoint().await;
    endpoint.script(Answer::WorkAndClose);
    assert_eq!(post(&endpoint, BODY).await, None);
    assert_eq!(balena.variables().len(), 2);
    endpoint.script(Answer::Hang);
    let silence = Duration::from_millis(100);
    tokio::time::timeout(silence, post(&endpoint, BODY))
        .await
        .unwrap_err();
    assert_eq!(endpoint.requests().len(), 2);
}

#[tokio::test]
async fn the_second_variable_is_written_even_if_the_client_left_after_the_first() {
    let authority = Arc::new(CertificateAuthority::new("root").unwrap());
    let balena = Arc::new(Balena::start(BalenaOptions::new("the-uuid")).await.unwrap());
    let mut events = balena.follow();
    let options = EndpointOptions {
        authority,
        balena: Arc::clone(&balena),
        key_format: KeyFormat::Pkcs8,
        pause_between_variables: Duration::from_millis(100),
    };
    let endpoint = ProvisionEndpoint::start(options).await.unwrap();
    tokio::select! {
        answered = post(&endpoint, BODY) => panic!("too early: {answered:?}"),
        first = events.recv() => assert!(first.unwrap().to_string().contains("AWS_CERT")),
    }
    let second = tokio::time::timeout(PATIENCE, events.recv()).await;
    assert!(
        second
            .unwrap()
            .unwrap()
            .to_string()
            .contains("AWS_PRIVATE_KEY")
    );
    assert_eq!(balena.variables().len(), 2);
}

#[tokio::test]
async fn a_signing_request_gets_a_certificate_and_no_key_and_another_key_another_certificate() {
    let (endpoint, balena) = endpoint().await;
    let request = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let csr = rcgen::CertificateParams::default().serialize_request(&key);
        let csr = csr.unwrap().pem().unwrap();
        serde_json::json!({"uuid": "the-uuid", "csr": csr}).to_string()
    };
    let (one, other) = (request(), request());
    for (body, status) in [(&one, 201), (&one, 400), (&other, 201), (&one, 201)] {
        assert_eq!(post(&endpoint, body).await.unwrap().0, status);
        let names: Vec<String> = balena.variables().into_keys().collect();
        assert_eq!(names, ["AWS_CERT"]);
    }
    endpoint.ignore_csr();
    let known = answer(400, "thing already exists");
    assert_eq!(post(&endpoint, &other).await, known);
    let bad = r#"{"uuid":"the-uuid","csr":"x"}"#;
    assert_eq!(post(&endpoint, bad).await, known);
}
