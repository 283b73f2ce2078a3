use lambda_http::request::from_str;

use super::*;
use crate::iot::Status;
use crate::provisioning::tests::world::{Fault, POLICY, UUID, World, parties};
use crate::secret::Secret;

const TOKEN: &str = "0123456789abcdef+/=";

fn function(world: &World, access: Access) -> Function<World, World> {
    Function {
        parties: parties(world),
        access,
    }
}

fn everything_allowed() -> Access {
    Access {
        delete: true,
        test: true,
        ..Access::default()
    }
}

fn request(method: &str, uri: &str, body: &str) -> Request<Vec<u8>> {
    let request = Request::builder().method(method).uri(uri);
    request.body(body.as_bytes().to_vec()).unwrap()
}

fn body(uuid: &str, service: &str) -> String {
    format!(r#"{{"uuid": "{uuid}", "balena_service": "{service}"}}"#)
}

async fn answer<I: Iot, B: Balena>(
    function: &Function<I, B>,
    request: Request<Vec<u8>>,
) -> (u16, String) {
    let answer = function.answer(request).await;
    (answer.status().as_u16(), answer.into_body())
}

#[tokio::test(start_paused = true)]
async fn the_answers_that_devices_rely_on_are_the_contracts_to_the_letter() {
    let world = World::default();
    let function = function(&world, everything_allowed());
    let body = body(UUID, "cloud-relay");
    for (method, expected) in [
        ("POST", (201, "device created")),
        ("POST", (400, "thing already exists")),
        ("DELETE", (200, "device deleted")),
        ("DELETE", (200, "device deleted")),
        ("POST", (201, "device created")),
    ] {
        let (status, text) = answer(&function, request(method, "/", &body)).await;
        assert_eq!((status, text.as_str()), expected, "{method}");
    }
    assert_eq!(world.state().wrongs(None), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_three_kinds_of_events_are_understood_with_the_token_in_the_query() {
    for event in [
        include_str!("../../tests/events/rest_api_v1.json"),
        include_str!("../../tests/events/http_api_v2.json"),
        include_str!("../../tests/events/function_url.json"),
    ] {
        let world = World::default();
        let access = |token: &str| Access {
            token: Some(Secret::new(token)),
            ..Access::default()
        };
        let event = || from_str(event).unwrap().map(|body| body.to_vec());
        let refused = answer(&function(&world, access("another token")), event()).await;
        assert_eq!(refused.0, 401, "{refused:?}");
        assert!(world.state().calls.is_empty());
        let created = answer(&function(&world, access(TOKEN)), event()).await;
        assert_eq!(created, (201, "device created".to_owned()));
        assert_eq!(world.state().wrongs(None), [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_token_may_travel_in_a_header() {
    let world = World::default();
    let access = Access {
        token: Some(Secret::new(TOKEN)),
        ..Access::default()
    };
    let function = function(&world, access);
    let body = body(UUID, "cloud-relay");
    let mut with_header = request("POST", "/", &body);
    let headers = with_header.headers_mut();
    headers.insert(TOKEN_HEADER, TOKEN.parse().unwrap());
    assert_eq!(answer(&function, with_header).await.0, 201);
    assert_eq!(answer(&function, request("POST", "/", &body)).await.0, 401);
    // who has no token learns nothing about the function, not even that a body is bad
    assert_eq!(answer(&function, request("PUT", "/", "{")).await.0, 401);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_fulfilled_is_answered_in_a_sentence_and_changes_nothing() {
    let world = World::default();
    let function = function(&world, Access::default());
    let unknown = UUID.replace('5', "6");
    let cases = [
        ("GET", "{}".to_owned(), 400, "use POST"),
        ("POST", String::new(), 400, "the body must be JSON"),
        ("POST", body(UUID.get(..7).unwrap(), ""), 400, "full UUID"),
        ("POST", body(&unknown, ""), 400, "knows no device"),
        ("POST", body(UUID, "relay"), 400, "no service \"relay\""),
        ("POST", body(UUID, "new"), 500, "not installed"),
        ("POST", body("", ""), 403, "ALLOW_TEST"),
        ("DELETE", body(UUID, "cloud-relay"), 403, "ALLOW_DELETE"),
        ("POST", " ".repeat(1 << 20), 413, "longer than 16384 bytes"),
    ];
    for (method, body, status, part) in cases {
        let (found, text) = answer(&function, request(method, "/", &body)).await;
        assert_eq!(found, status, "{method} {text}");
        assert!(text.contains(part), "{method} {text}");
    }
    let access = Access {
        fleets: vec!["acme/other".to_owned()],
        ..everything_allowed()
    };
    let guarded = super::tests::function(&world, access);
    for method in ["POST", "DELETE"] {
        let answer = answer(&guarded, request(method, "/", &body(UUID, ""))).await;
        assert_eq!(answer.0, 403, "{answer:?}");
    }
    let state = world.state();
    assert!(state.is_empty());
    let changed = |call: &&str| !call.starts_with("GET");
    assert!(!state.calls.iter().any(changed), "{:?}", state.calls);
}

#[tokio::test(start_paused = true)]
async fn devices_that_are_gone_from_balena_cloud_can_still_be_deleted() {
    let world = World::default();
    let function = function(&world, everything_allowed());
    let gone = UUID.replace('5', "6");
    {
        let mut state = world.state();
        state.things.insert(gone.clone());
        let made = state.make_with_key(Status::Active).0;
        let entry = state.entry(&made.id);
        entry.things.insert(gone.clone());
        entry.policies.insert(POLICY.to_owned());
    }
    let deleted = answer(&function, request("DELETE", "/", &body(&gone, "any"))).await;
    assert_eq!(deleted, (200, "device deleted".to_owned()));
    assert!(world.state().is_empty());
}

#[tokio::test(start_paused = true)]
async fn where_fleets_are_listed_a_device_of_an_unknown_fleet_is_not_deleted() {
    let world = World::default();
    let access = Access {
        fleets: vec!["acme/weather".to_owned()],
        ..everything_allowed()
    };
    let gone = body(&UUID.replace('5', "6"), "any");
    let refused = answer(&function(&world, access), request("DELETE", "/", &gone)).await;
    assert_eq!(refused.0, 403, "{refused:?}");
    assert!(refused.1.contains("FLEETS"), "{refused:?}");
    assert_eq!(world.state().calls, ["GET device"]);
}

#[tokio::test(start_paused = true)]
async fn a_fault_is_a_500_that_names_the_call() {
    let world = World::default();
    let function = function(&world, Access::default());
    world.state().fault = Some((6, Fault::Before));
    let body = body(UUID, "cloud-relay");
    let (status, text) = answer(&function, request("POST", "/", &body)).await;
    assert_eq!(status, 500);
    let expected = "AWS IoT: CreateKeysAndCertificate";
    assert!(text.starts_with(expected), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_request_is_answered_before_api_gateway_gives_up() {
    let world = World::default();
    world.state().delays_ms = vec![(4000, 0)];
    let function = function(&world, Access::default());
    let began = tokio::time::Instant::now();
    let body = body(UUID, "cloud-relay");
    let (status, text) = answer(&function, request("POST", "/", &body)).await;
    assert_eq!(status, 500, "{text}");
    assert!(text.contains("took longer"), "{text}");
    assert_eq!(began.elapsed(), REQUEST_TIMEOUT);
}

#[test]
fn balena_clouds_refusals_keep_their_status_and_its_wish_for_a_pause() {
    let failure = |kind| {
        Failure::from(BalenaError {
            operation: "looking up the device",
            kind,
        })
    };
    assert_eq!(failure(BalenaErrorKind::Login).status(), 400);
    let retry_after = Some(Duration::from_mins(1));
    let busy = failure(BalenaErrorKind::Busy {
        status: 429,
        retry_after,
    });
    assert_eq!((busy.status(), busy.retry_after()), (500, retry_after));
    let answer = response(busy.status(), busy.to_string(), busy.retry_after());
    assert_eq!(answer.headers().get(header::RETRY_AFTER).unwrap(), "60");
}
