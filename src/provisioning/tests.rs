//! The task over a scripted transport in paused time, and its shutdown over a real socket.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::Level;

use super::http::{Answer, HttpError};
use super::*;
use crate::logging::capture::Captured;
use crate::secret::Secret;

const AWS_URL: &str = "https://example.com/provision?token=t0k3nt0k3n";
const KNOWN: &str = "thing already exists";

/// What never comes within this (paused) time never comes.
const FOR_EVER: Duration = Duration::from_hours(24);

/// One request as the task sent it.
#[derive(Debug)]
struct Seen {
    at: Instant,
    url: String,
    bearer: Option<String>,
    body: String,
}

impl Seen {
    fn is_update(&self) -> bool {
        self.url.ends_with("/v1/update")
    }
}

type Reply = Result<Answer, HttpError>;

/// Answers from two lists; a request that finds its list empty hangs.
struct Script {
    seen: mpsc::UnboundedSender<Seen>,
    provision: Mutex<VecDeque<Reply>>,
    update: Mutex<VecDeque<Reply>>,
}

impl Transport for Script {
    async fn post(&self, request: &Request<'_>) -> Reply {
        let seen = Seen {
            at: Instant::now(),
            url: request.url.expose().to_owned(),
            bearer: request.bearer.map(|key| key.expose().to_owned()),
            body: request.body.to_owned(),
        };
        let list = if seen.is_update() {
            &self.update
        } else {
            &self.provision
        };
        let reply = list.lock().unwrap().pop_front();
        self.seen.send(seen).unwrap();
        match reply {
            Some(reply) => reply,
            None => pending().await,
        }
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the scripts mix answers and failures"
)]
fn answer(status: u16, body: &str) -> Reply {
    Ok(Answer {
        status,
        retry_after: None,
        body: body.to_owned(),
    })
}

fn unresolved() -> Reply {
    Err(HttpError::Unresolved {
        authority: "example.com:443".to_owned(),
    })
}

/// A running task and what can be seen of it.
struct Running {
    seen: mpsc::UnboundedReceiver<Seen>,
    state: StateBoard,
    started: Instant,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(settings: Settings, provision: Vec<Reply>, update: Vec<Reply>) -> Self {
        let (sender, seen) = mpsc::unbounded_channel();
        let script = Script {
            seen: sender,
            provision: Mutex::new(provision.into()),
            update: Mutex::new(update.into()),
        };
        let state = StateBoard::new(State::Connecting);
        let shutdown = CancellationToken::new();
        let (board, token) = (state.clone(), shutdown.clone());
        let task = tokio::spawn(async move { run_over(&script, settings, board, token).await });
        Running {
            seen,
            state,
            started: Instant::now(),
            shutdown,
            task,
        }
    }

    /// The next request.
    async fn next(&mut self) -> Seen {
        let seen = timeout(FOR_EVER, self.seen.recv()).await;
        seen.expect("a request is sent")
            .expect("the task is running")
    }

    fn state(&self) -> State {
        self.state.subscribe().borrow().clone()
    }

    /// Waits for the state to be `name` and returns it.
    async fn until(&self, name: &str) -> State {
        let mut watched = self.state.subscribe();
        let reached = timeout(FOR_EVER, watched.wait_for(|state| state.name() == name)).await;
        reached.expect("the state is reached").unwrap().clone()
    }

    /// Checks that nothing is sent for `quiet`.
    async fn nothing_for(&mut self, quiet: Duration) {
        if let Ok(seen) = timeout(quiet, self.seen.recv()).await {
            panic!("unexpected request {seen:?}");
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

fn settings() -> Settings {
    let supervisor = Supervisor {
        address: HttpUrl::parse("http://127.0.0.1:48484").unwrap(),
        key: Secret::new("sup3rvisor"),
        force_update: false,
    };
    Settings {
        provider: Provider::Aws,
        url: Some(HttpUrl::parse(AWS_URL).unwrap()),
        device: Device {
            uuid: Some("c0ffee".to_owned()),
            service: Some("relay".to_owned()),
            app: None,
        },
        credentials: CredentialVariables {
            expected: &["AWS_CERT", "AWS_PRIVATE_KEY"],
            missing: vec!["AWS_CERT", "AWS_PRIVATE_KEY"],
        },
        key_dir: None,
        unpaired: None,
        supervisor: Some(supervisor),
    }
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test(start_paused = true)]
async fn after_a_201_the_supervisor_is_asked_only_if_the_push_does_not_come() {
    let mut running = Running::start(
        settings(),
        vec![answer(201, "device created")],
        vec![answer(202, "OK"), answer(204, "")],
    );
    let post = running.next().await;
    assert_eq!((post.url.as_str(), post.at), (AWS_URL, running.started));
    assert_eq!(post.body, r#"{"uuid":"c0ffee","balena_service":"relay"}"#);
    running.until("awaiting-credentials").await;
    running.nothing_for(PUSH_PATIENCE * 9 / 10).await;
    let update = running.next().await;
    assert_eq!(update.url, "http://127.0.0.1:48484/v1/update");
    assert_eq!(update.bearer.as_deref(), Some("sup3rvisor"));
    assert_eq!(update.body, r#"{"force":false}"#);
    assert_eq!((update.at - post.at).as_secs(), PUSH_PATIENCE.as_secs());
    let again = running.next().await;
    assert!(
        again.is_update() && again.at - update.at <= MINUTE + SECOND,
        "{again:?}"
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn plain_http_through_networks_of_others_is_warned_of_and_the_token_is_not_told() {
    for (url, warned) in [
        ("http://example.com/provision?token=t0k3nt0k3n", true),
        ("http://127.0.0.1/provision?token=t0k3nt0k3n", false),
        (AWS_URL, false),
    ] {
        let (captured, _guard) = Captured::start(Level::WARN);
        let settings = Settings {
            url: Some(HttpUrl::parse(url).unwrap()),
            ..settings()
        };
        let mut running = Running::start(settings, vec![answer(201, "device created")], vec![]);
        running.next().await;
        running.stop().await;
        let told = captured.text();
        let warning = "http://example.com/provision?*** is plain http";
        assert_eq!(told.contains(warning), warned, "{told}");
        assert!(!told.contains("t0k3n"), "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_exists_has_the_supervisor_asked_at_once_and_by_force_only_if_told() {
    let mut settings = settings();
    settings.supervisor.as_mut().unwrap().force_update = true;
    let mut running = Running::start(settings, vec![answer(400, KNOWN)], vec![answer(202, "")]);
    let post = running.next().await;
    let update = running.next().await;
    assert!(update.is_update() && update.at - post.at < SECOND);
    assert_eq!(update.body, r#"{"force":true}"#);
    assert_eq!(running.state(), State::AwaitingCredentials);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_retried_with_growing_jittered_delays() {
    let provision = (0..12).map(|n| {
        if n % 2 == 0 {
            unresolved()
        } else {
            answer(503, "busy")
        }
    });
    let mut running = Running::start(settings(), provision.collect(), vec![]);
    let mut before = running.next().await;
    for n in 0..12 {
        let post = running.next().await;
        let bound = RETRY_BASE.saturating_mul(1 << n).min(RETRY_CEILING);
        let delay = post.at - before.at;
        assert!(!post.is_update());
        // Timers tick in milliseconds.
        let tick = Duration::from_millis(2);
        assert!(
            delay + tick >= bound / 10 && delay <= bound + tick,
            "{n}: {delay:?} of {bound:?}"
        );
        before = post;
    }
    let state = running.state().to_string();
    assert!(
        state.starts_with("disconnected: PROVISION_URL https://example.com/provision?*** cannot")
            && state.ends_with("it answers 503: busy"),
        "{state}"
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_network_that_stays_down_is_told_of_once() {
    let (log, _guard) = Captured::start(Level::INFO);
    let down = (0..20).map(|_| unresolved());
    let provision = down.chain([answer(201, "device created")]).collect();
    let mut running = Running::start(settings(), provision, vec![]);
    for _ in 0..21 {
        running.next().await;
    }
    running.until("awaiting-credentials").await;
    running.stop().await;
    let text = log.text();
    assert_eq!(text.matches("cannot be resolved").count(), 1, "{text}");
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_obeyed_up_to_a_limit() {
    let busy = |seconds| {
        let retry_after = Some(Duration::from_secs(seconds));
        Ok(Answer {
            status: 429,
            retry_after,
            body: String::new(),
        })
    };
    let mut running = Running::start(settings(), vec![busy(100), busy(1_000_000)], vec![]);
    let first = running.next().await;
    let second = running.next().await;
    assert_eq!((second.at - first.at).as_secs(), 100);
    let third = running.next().await;
    assert_eq!((third.at - second.at).as_secs(), RETRY_AFTER_MAX.as_secs());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_shown_with_its_text_and_retried_slowly() {
    let refusal = answer(
        400,
        "Device not found: /provision?token=t0k3nt0k3n\nstack trace",
    );
    let mut running = Running::start(
        settings(),
        vec![refusal, answer(201, "device created")],
        vec![],
    );
    let first = running.next().await;
    let State::Misconfigured { reason } = running.until("misconfigured").await else {
        panic!("{:?}", running.state())
    };
    assert_eq!(
        reason,
        "PROVISION_URL https://example.com/provision?***: it refuses this device (400): \
         Device not found: /provision?***"
    );
    let after = running.next().await.at - first.at;
    assert!(
        after >= REFUSED_BASE / 10 && after <= REFUSED_BASE + SECOND,
        "{after:?}"
    );
    running.until("awaiting-credentials").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_key_is_explained_once_and_healed_by_the_next_post_after_a_delete() {
    let (log, _guard) = Captured::start(Level::INFO);
    let mut settings = settings();
    settings.supervisor = None;
    let provision = vec![
        answer(400, KNOWN),
        answer(400, KNOWN),
        answer(400, KNOWN),
        answer(201, "device created"),
    ];
    let mut running = Running::start(settings, provision, vec![]);
    running.next().await;
    running.until("awaiting-credentials").await;
    for round in 1..=2 {
        let after = running.next().await.at - running.started;
        assert_eq!(after.as_secs(), round * CREDENTIALS_PATIENCE.as_secs());
        let State::Misconfigured { reason } = running.until("misconfigured").await else {
            panic!("{:?}", running.state())
        };
        assert!(
            reason.contains("curl -X DELETE") && reason.contains("\"$PROVISION_URL\""),
            "{reason}"
        );
        assert!(
            reason.contains(r#"{"uuid":"c0ffee","balena_service":"relay"}"#),
            "{reason}"
        );
    }
    running.next().await;
    running.until("awaiting-credentials").await;
    running.stop().await;

    let text = log.text();
    assert_eq!(text.matches("curl -X DELETE").count(), 1, "{text}");
    assert_eq!(
        text.matches("io.balena.features.supervisor-api").count(),
        1,
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_supervisor_is_asked_ever_more_seldom_but_never_given_up_on() {
    let known = (0..100).map(|_| answer(400, KNOWN)).collect();
    let updates = (0..100).map(|n| match n % 4 {
        0 => answer(202, ""),
        1 => answer(423, r#"{"status":"failed","message":"Updates are locked"}"#),
        2 => answer(503, "not ready for sup3rvisor"),
        _ => answer(401, "Unauthorized"),
    });
    let (log, _guard) = Captured::start(Level::INFO);
    let mut running = Running::start(settings(), known, updates.collect());
    let mut asked = Vec::new();
    while asked.len() < 12 {
        let seen = running.next().await;
        if seen.is_update() {
            asked.push(seen.at);
        }
    }
    running.stop().await;
    for (n, pair) in asked.windows(2).enumerate() {
        let bound = MINUTE.saturating_mul(1 << n).min(15 * MINUTE);
        let gap = pair[1] - pair[0];
        let expected = bound / 10..=bound + SECOND;
        assert!(expected.contains(&gap), "{n}: {gap:?} of {bound:?}");
    }
    let text = log.text();
    for part in [
        "asked the Supervisor to look for an update",
        "a service holds an update lock",
        "it answers 503: not ready for ***",
        "does not take BALENA_SUPERVISOR_API_KEY (401)",
    ] {
        assert!(text.contains(part), "{part:?} not in {text}");
    }
    assert!(!text.contains("sup3rvisor"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn without_a_uuid_or_an_address_nothing_is_sent_and_the_variable_is_named() {
    let mut nameless = settings();
    nameless.device.uuid = None;
    let mut homeless = settings();
    homeless.url = None;
    for (settings, state, variable) in [
        (nameless, "misconfigured", "BALENA_DEVICE_UUID"),
        (homeless, "unconfigured", "PROVISION_URL"),
    ] {
        let mut running = Running::start(settings, vec![], vec![]);
        assert!(running.until(state).await.to_string().contains(variable));
        running.nothing_for(60 * MINUTE).await;
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_token_in_the_address_never_reaches_the_log() {
    let echo = "no route for /provision?token=t0k3nt0k3n";
    // An excerpt that is cut in the middle of the token would show its first half.
    let long_echo = format!("{}t0k3nt0k3n", "x".repeat(195));
    let provision = vec![
        answer(500, echo),
        answer(403, echo),
        answer(302, echo),
        answer(500, &long_echo),
        answer(403, &long_echo),
        answer(429, "token t0k3nt0k3n is used up"),
        Err(HttpError::Broken {
            authority: "example.com:443".to_owned(),
            cause: echo.to_owned(),
        }),
        answer(400, KNOWN),
        answer(400, KNOWN),
    ];
    let (log, _guard) = Captured::start(Level::TRACE);
    let mut running = Running::start(settings(), provision, vec![answer(500, "")]);
    for _ in 0..10 {
        running.next().await;
    }
    running.until("misconfigured").await;
    running.stop().await;
    let text = log.text();
    assert!(text.contains("no route for /provision?***"), "{text}");
    assert!(!text.contains("t0k3n"), "{text}");
}

#[tokio::test]
async fn shutdown_drops_an_open_request_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut settings = settings();
    settings.url = Some(HttpUrl::parse(&format!("http://{address}/provision")).unwrap());
    let state = StateBoard::new(State::Connecting);
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(run(settings, state.clone(), shutdown.clone()));

    let (mut stream, _) = listener.accept().await.unwrap();
    let request = http::tests::read_request(&mut stream).await;
    assert!(request.starts_with("POST /provision HTTP/1.1\r\n"));
    shutdown.cancel();
    assert_eq!(task.await.unwrap(), Ok(()));
    assert_eq!(
        stream.read(&mut [0; 1]).await.unwrap(),
        0,
        "the connection is closed"
    );
    assert_eq!(*state.subscribe().borrow(), State::Provisioning);
}

#[test]
fn settings_follow_the_configuration() {
    let vars = [
        ("PROVISION_URL", "https://example.com/p"),
        ("AWS_CERT", "x"),
        ("BALENA_DEVICE_UUID", "c0ffee"),
    ];
    let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let settings = Settings::from(&Config::from_vars(vars).unwrap());
    assert_eq!(settings.device.uuid.as_deref(), Some("c0ffee"));
    assert_eq!(settings.credentials.missing, ["AWS_PRIVATE_KEY"]);
    assert!(settings.url.is_some() && settings.supervisor.is_none());
}

mod incomplete;
