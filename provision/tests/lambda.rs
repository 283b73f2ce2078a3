//! The program as AWS Lambda runs it: without arguments, fed by the runtime's API, with the events of a REST
//! API, of an HTTP API and of a function's own URL.

mod common;

use std::sync::Arc;

use cloud_relay_sandbox::balena::{Balena, BalenaOptions};
use cloud_relay_sandbox::process::Process;
use cloud_relay_sandbox::site::{PATIENCE, environment};
use serde_json::{Value, json};

use common::{PROVISION, Stage, foreign_environment, only_certificate, path, tool};

/// The device and the token of the events.
const UUID: &str = "5ce5d4f5a1b44d2b9f2f34a4dfa1c0de";
const TOKEN: &str = "0123456789abcdef+/=";

#[tokio::test]
async fn the_lambda_loop_answers_the_events_of_all_three_kinds() {
    let balena = Balena::start(BalenaOptions::new(UUID)).await;
    let balena = Arc::new(balena.expect("balenaCloud"));
    let stage = Stage::around(balena, None, [("PROVISION_TOKEN", TOKEN)]).await;

    let events = ["rest_api_v1", "http_api_v2", "function_url"];
    let events = events.map(|name| path(&format!("provision/tests/events/{name}.json")));
    let script = path("provision/tests/peers/runtime_api.py");
    let arguments = [&[script][..], &events].concat();
    let lambda = Process::new(tool("venv/bin/python"), arguments);
    lambda.start(&foreign_environment()).await.expect("starts");
    let line = lambda.wait_for_log("listening ", PATIENCE).await;
    let address = line.expect("it listens").replace("listening ", "");

    let mut all = stage.environment.clone();
    all.extend(environment([
        ("AWS_LAMBDA_RUNTIME_API", &address),
        ("AWS_LAMBDA_FUNCTION_NAME", "provision"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "provision"),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "provision"),
    ]));
    let function = Process::new(PROVISION, [""; 0]);
    function.start(&all).await.expect("the function starts");
    let status = lambda.wait_for_exit(PATIENCE).await.expect("it ends");
    assert!(status.success(), "{}", lambda.log().tail());

    let lines = lambda.log().lines();
    let answers: Vec<Value> = lines
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let exists = json!({"statusCode": 400, "body": "thing already exists"});
    let created = json!({"statusCode": 201, "body": "device created"});
    for (answer, expected) in answers.iter().zip([created, exists.clone(), exists]) {
        assert_eq!(answer["kind"], "response", "{answer}");
        for field in ["statusCode", "body"] {
            assert_eq!(answer["answer"][field], expected[field], "{answer}");
        }
        assert_eq!(answer["answer"]["isBase64Encoded"], false);
    }
    assert_eq!(answers.len(), 3);
    only_certificate(&stage.look().await, UUID);
}
