use super::*;
use crate::http::send;
use crate::process::Process;

const PATIENCE: Duration = Duration::from_secs(10);
/// Says what it sees and waits for SIGTERM.
const OBEDIENT: &str = "echo \"A=$A B=$B uuid=$BALENA_DEVICE_UUID\"; exec /bin/sleep 1000";
/// The same, deaf to SIGTERM.
const DEAF: &str = "trap '' TERM; echo \"A=$A\"; while :; do /bin/sleep 0.01; done";

fn toy(script: &str) -> Arc<RelayProcess> {
    let process = Process::new("/bin/sh", ["-c", script]);
    let listen = (std::net::Ipv4Addr::LOCALHOST, 0).into();
    Arc::new(RelayProcess::in_place_of_relay(process, listen).unwrap())
}

async fn supervised(options: BalenaOptions, script: &str) -> (Balena, Arc<RelayProcess>) {
    let balena = Balena::start(options).await.unwrap();
    let service = toy(script);
    balena.supervise(Arc::clone(&service)).await.unwrap();
    service.wait_for_log("A=", PATIENCE).await.unwrap();
    (balena, service)
}

#[tokio::test]
async fn two_writes_recreate_the_process_twice_and_first_with_only_one_of_them() {
    let (balena, service) = supervised(BalenaOptions::new("the-uuid"), OBEDIENT).await;
    balena.set_variable("A", "1");
    balena.set_variable("B", "2");
    balena.wait_for_recreations(2, PATIENCE).await.unwrap();
    service.wait_for_log("A=1 B=2", PATIENCE).await.unwrap();
    assert_eq!(
        service.log().lines().first().unwrap(),
        "A= B= uuid=the-uuid"
    );
    assert_eq!(balena.recreations(), 2);
}

#[tokio::test]
async fn variables_that_were_there_before_are_in_the_first_start() {
    let balena = Balena::start(BalenaOptions::new("the-uuid")).await.unwrap();
    balena.set_variable("A", "1");
    balena.set_variable("B", "2");
    let service = toy(OBEDIENT);
    balena.supervise(Arc::clone(&service)).await.unwrap();
    service.wait_for_log("A=1 B=2", PATIENCE).await.unwrap();
    balena.set_variable("A", "3");
    balena.wait_for_recreations(1, PATIENCE).await.unwrap();
    service.wait_for_log("A=3 B=2", PATIENCE).await.unwrap();
    assert_eq!(balena.recreations(), 1);
    let again = balena.supervise(service).await;
    assert!(matches!(again, Err(BalenaError::Supervising)));
}

#[tokio::test]
async fn a_process_that_ignores_sigterm_is_killed_and_recreated() {
    let options = BalenaOptions {
        stop_grace: Duration::from_millis(100),
        ..BalenaOptions::new("the-uuid")
    };
    let (balena, service) = supervised(options, DEAF).await;
    let mut events = balena.follow();
    balena.set_variable("A", "1");
    service.wait_for_log("A=1", PATIENCE).await.unwrap();
    let stopped = loop {
        if let SupervisorEvent::Stopped(stopped) = events.recv().await.unwrap() {
            break stopped;
        }
    };
    assert!(stopped.killed && stopped.took >= Duration::from_millis(100));
}

#[tokio::test]
async fn without_a_push_only_an_accepted_update_applies_the_variables() {
    let options = BalenaOptions {
        push: Push::OnUpdate,
        ..BalenaOptions::new("the-uuid")
    };
    let (balena, service) = supervised(options, OBEDIENT).await;
    balena.set_variable("A", "1");
    balena.script_update(423);
    balena.script_update(503);
    let addr = balena.server.addr;
    let head = format!("POST /v1/update HTTP/1.1\r\nAuthorization: Bearer {SUPERVISOR_API_KEY}");
    let (status, body) = send(addr, &head, r#"{"force":false}"#).await.unwrap();
    assert_eq!(status, 423);
    assert_eq!(
        body,
        r#"{"message":"Updates are locked","status":"failed"}"#
    );
    assert_eq!(send(addr, &head, "{}").await.unwrap().0, 503);
    assert_eq!(balena.recreations(), 0);
    let head = format!("POST /v1/update?apikey={SUPERVISOR_API_KEY} HTTP/1.1");
    assert_eq!(send(addr, &head, r#"{"force":true}"#).await.unwrap().0, 202);
    service.wait_for_log("A=1", PATIENCE).await.unwrap();
    let forced: Vec<bool> = balena.updates().iter().map(|update| update.force).collect();
    assert_eq!(forced, [false, false, true]);
}

#[tokio::test]
async fn the_api_asks_for_its_key_but_not_for_its_health() {
    let balena = Balena::start(BalenaOptions::new("the-uuid")).await.unwrap();
    let addr = balena.server.addr;
    for (request, status) in [
        ("GET /ping", 200),
        ("GET /v1/healthy", 200),
        ("GET /v1/device", 401),
        ("POST /v1/update", 401),
        ("POST /v1/update?apikey=wrong", 401),
        ("GET /v1/unknown", 404),
    ] {
        let answer = send(addr, &format!("{request} HTTP/1.1"), "")
            .await
            .unwrap();
        assert_eq!(answer.0, status, "{request}");
    }
    let head = format!("GET /v1/device?apikey={SUPERVISOR_API_KEY} HTTP/1.1");
    assert_eq!(send(addr, &head, "").await.unwrap().0, 200);
    assert!(balena.updates().is_empty());
}

#[tokio::test]
async fn a_service_that_ends_by_itself_is_started_again() {
    let (balena, service) = supervised(BalenaOptions::new("the-uuid"), OBEDIENT).await;
    service.kill_9().await.unwrap();
    service
        .log()
        .wait_for("A=", 1, PATIENCE)
        .await
        .expect("started again");
    assert_eq!(balena.recreations(), 0);
}
