//! The server as a whole, over a real spool: here its answers, without sockets.

mod served;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper::{Request, Response, StatusCode};
use serde_json::Value;
use tempfile::TempDir;

use super::answer::answer;
use super::content::Content;
use super::door::Door;
use super::observer::Observer;
use super::server::{Limits, Site};
use super::*;
use crate::clock;
use crate::dead_letters::{DeadLetters, Letter, Reason};
use crate::local::Counters;
use crate::logging;
use crate::secret::Secret;
use crate::spool::ledger::{DropReason, Outcome};
use crate::spool::tests::message;
use crate::spool::{self, Message};
use crate::state::{State, StateBoard};
use crate::store::{Ingress as _, Store};

/// A relay's parts without the relay.
struct Parts {
    sources: Sources,
    _directory: TempDir,
}

impl Parts {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = spool::Options::default();
        let (store, _) = Store::open(directory.path(), options).unwrap();
        Parts {
            sources: Sources {
                setup: Setup::default(),
                spool: options,
                store,
                dead_letters: DeadLetters::new(directory.path().join("letters"), 4_096),
                state: StateBoard::new(State::Connecting),
                local: Arc::new(Counters::default()),
                heartbeat: Heartbeat::new(Instant::now()),
                log: logging::Memory::default(),
            },
            _directory: directory,
        }
    }

    fn site(&self, password: Option<&str>) -> Site {
        let door = Door::new(password.map(Secret::new));
        let limits = Limits {
            live_max: 1,
            ..Limits::default()
        };
        Site::new(Observer::new(self.sources.clone()), door, limits)
    }

    fn publish(&self) {
        let message = Message {
            received: clock::now(),
            ..message(b"21.5")
        };
        self.sources.store.append(&message).unwrap();
    }
}

fn ask(site: &Site, method: &str, path: &str) -> Response<Content> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "127.0.0.1:9180");
    answer(&request.body(()).unwrap(), site)
}

async fn body(response: Response<Content>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.into()).unwrap()
}

async fn json(site: &Site, path: &str) -> Value {
    serde_json::from_str(&body(ask(site, "GET", path)).await).unwrap()
}

#[tokio::test]
async fn all_answers_show_the_same_relay() {
    let parts = Parts::new();
    let site = parts.site(None);
    parts.publish();
    parts.sources.state.set(State::Connected);

    let status = json(&site, "/api/status").await;
    assert_eq!(status["health"]["state"], "connected");
    assert_eq!(status["ledger"]["accepted"], 1);
    assert_eq!(status["ledger"]["spooled"], 1);
    assert_eq!(status["history"]["step_s"], 10);
    assert_eq!(json(&site, "/healthz").await, status["health"]);
    let metrics = body(ask(&site, "GET", "/metrics")).await;
    for line in [
        "cloud_relay_messages_accepted_total 1",
        "cloud_relay_spool_messages 1",
        "cloud_relay_state{state=\"connected\"} 1",
        "cloud_relay_messages_dropped_total{reason=\"full\"} 0",
        "cloud_relay_healthy 1",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line} not in\n{metrics}"
        );
    }
    assert!(metrics.ends_with("# EOF\n"));
    let page = ask(&site, "GET", "/");
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
}

#[tokio::test]
async fn what_expired_is_shown_by_itself() {
    let parts = Parts::new();
    let site = parts.site(None);
    parts.publish();
    let store = &parts.sources.store;
    let deliveries = store.next(1, 1).await.unwrap();
    store.settle(&[deliveries[0].seq], Outcome::Dropped(DropReason::Expired));
    let status = json(&site, "/api/status").await;
    assert_eq!(status["ledger"]["accepted"], 1);
    assert_eq!(status["ledger"]["dropped_expired"], 1);
    let metrics = body(ask(&site, "GET", "/metrics")).await;
    let line = "cloud_relay_messages_dropped_total{reason=\"expired\"} 1";
    assert!(metrics.lines().any(|found| found == line), "{metrics}");
}

#[tokio::test]
async fn dead_letters_that_made_room_for_others_are_counted() {
    let parts = Parts::new();
    let site = parts.site(None);
    for seq in 1..=3 {
        let reason = Reason {
            why: "refused",
            words: String::new(),
        };
        let letter = Letter::new(seq, &message(b"x"), "site/data", reason, clock::now());
        parts.sources.dead_letters.put(&[letter]).unwrap();
    }
    let status = json(&site, "/api/status").await;
    assert_eq!(status["dead_letters_removed"], 2);
    let metrics = body(ask(&site, "GET", "/metrics")).await;
    let line = "cloud_relay_dead_letters_removed_total 2";
    assert!(metrics.lines().any(|found| found == line), "{metrics}");
}

#[tokio::test]
async fn nothing_can_be_changed_and_unknown_paths_are_told_what_there_is() {
    let parts = Parts::new();
    let site = parts.site(None);
    for path in ["/", "/healthz", "/metrics", "/api/status", "/api/events"] {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
            let answer = ask(&site, method, path);
            assert_eq!(
                answer.status(),
                StatusCode::METHOD_NOT_ALLOWED,
                "{method} {path}"
            );
            assert_eq!(answer.headers()["allow"], "GET, HEAD");
        }
        assert_eq!(ask(&site, "HEAD", path).status(), StatusCode::OK, "{path}");
    }
    let lost = ask(&site, "GET", "/../etc/passwd");
    assert_eq!(lost.status(), StatusCode::NOT_FOUND);
    assert!(body(lost).await.contains("/healthz"));
}

#[tokio::test]
async fn every_answer_forbids_what_a_browser_might_do_with_it() {
    let parts = Parts::new();
    let site = parts.site(None);
    for path in ["/", "/healthz", "/metrics", "/api/status", "/nowhere"] {
        let answer = ask(&site, "GET", path);
        let headers = answer.headers();
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(headers["cache-control"], "no-store", "{path}");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{path}");
        assert!(policy.contains("frame-ancestors 'none'"), "{path}");
    }
}

#[tokio::test]
async fn a_strangers_name_and_a_missing_password_open_nothing() {
    let parts = Parts::new();
    let strange = Request::get("/healthz")
        .header("host", "evil.example")
        .body(())
        .unwrap();
    assert_eq!(
        answer(&strange, &parts.site(None)).status(),
        StatusCode::MISDIRECTED_REQUEST
    );

    let locked = parts.site(Some("open"));
    for path in [
        "/",
        "/healthz",
        "/metrics",
        "/api/status",
        "/api/events",
        "/nowhere",
    ] {
        let refused = ask(&locked, "GET", path);
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert!(refused.headers().contains_key("www-authenticate"), "{path}");
    }
    let login = Request::get("/healthz").header("authorization", "Basic eDpvcGVu"); // x:open
    assert_eq!(
        answer(&login.body(()).unwrap(), &locked).status(),
        StatusCode::OK
    );
}

#[tokio::test(start_paused = true)]
async fn a_live_page_gets_a_look_each_second_the_first_with_the_history_and_there_are_not_too_many()
{
    let parts = Parts::new();
    let site = parts.site(None);
    let mut live = ask(&site, "GET", "/api/events");
    assert_eq!(live.headers()["content-type"], "text/event-stream");
    for look in 0..21 {
        let frame = live.body_mut().frame().await.unwrap().unwrap();
        let event = String::from_utf8(frame.into_data().unwrap().into()).unwrap();
        assert!(event.ends_with("\n\n"), "{event}");
        let data = event
            .lines()
            .find_map(|line| line.strip_prefix("data: "))
            .unwrap();
        let snapshot: Snapshot = serde_json::from_str(data).unwrap();
        assert_eq!(snapshot.history.is_some(), look % 10 == 0, "{look}");
    }
    for method in ["GET", "HEAD"] {
        let refused = ask(&site, method, "/api/events");
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    drop(live);
    for method in ["HEAD", "GET"] {
        let answer = ask(&site, method, "/api/events");
        assert_eq!(answer.status(), StatusCode::OK);
    }
}

#[test]
fn the_hours_totals_are_one_line() {
    use crate::logging::capture::Captured;
    let (log, _guard) = Captured::start(tracing::Level::INFO);
    let parts = Parts::new();
    let mut observer = Observer::new(parts.sources.clone());
    parts.publish();
    let now = tokio::time::Instant::now();
    for minutes in [1, 59, 61, 119, 122] {
        observer.look(now + Duration::from_mins(minutes));
    }
    let text = log.text();
    let hours: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("the last hour"))
        .collect();
    assert_eq!(hours.len(), 2, "{text}");
    assert!(
        hours[0].contains("state=\"connecting\" accepted=1 delivered=0 spooled=1"),
        "{text}"
    );
    assert!(hours[1].contains("accepted=0"), "{text}");
}
