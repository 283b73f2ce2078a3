//! The server over TCP, with clients that mean it well and others.

use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::thread;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::server;
use super::*;

/// For one thread.
fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

/// A server on its own thread, as the relay has it.
struct Served {
    address: SocketAddr,
    stop: CancellationToken,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn serve(parts: &Parts, limits: Limits) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let observer = Observer::new(parts.sources.clone());
    thread::spawn({
        let stop = stop.clone();
        move || {
            runtime().block_on(server::run(
                Some(listener),
                Door::new(None),
                observer,
                limits,
                stop,
            ));
        }
    });
    Served { address, stop }
}

/// Sends `text` and reads until the server closes.
async fn exchange(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset says as well as an end that it is over.
    let _ended = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

/// Long enough for an answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const GET_HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

/// A connection that has asked for a live page, and takes in little that it does not read.
async fn ask_live(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let request = b"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    stream.write_all(request).await.unwrap();
    stream
}

/// Whether it got a live page and not an error.
async fn is_live(stream: &mut TcpStream) -> bool {
    let mut beginning = *b"HTTP/1.1 ...";
    stream.read_exact(&mut beginning).await.unwrap();
    match &beginning {
        b"HTTP/1.1 200" => true,
        b"HTTP/1.1 503" => false,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn hostile_requests_get_an_error_or_nothing_and_the_next_is_served() {
    let parts = Parts::new();
    let limits = Limits {
        request_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    let served = serve(&parts, limits);
    let long = format!(
        "GET /{} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        "a".repeat(100_000)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n{}\r\n",
        "x: y\r\n".repeat(500)
    );
    let rude = [
        "\r\n",
        "GET",
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        "\u{16}\u{3}\u{1}\r\n\r\n",
        &long,
        &many,
    ];
    for text in rude {
        let answer = exchange(served.address, text).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{answer}"
        );
        let answer = exchange(served.address, GET_HEALTH).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn after_wrong_passwords_a_right_one_from_there_waits_too_and_nobody_else_does() {
    use crate::logging::capture::Captured;
    // What the fourth wrong one waits.
    const DELAY: Duration = Duration::from_millis(800);
    let (log, _guard) = Captured::start(tracing::Level::WARN);
    let parts = Parts::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let site = Site::new(
        Observer::new(parts.sources.clone()),
        Door::new(Some(Secret::new("open"))),
        Limits::default(),
    );
    // On this thread, whose log is caught.
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let server = tokio::spawn({
        let site = site.clone();
        async move { server::serve(listener, &site).await }
    });
    let login = |value: &str| format!("GET / HTTP/1.1\r\nHost: x\r\n{value}\r\n");
    let wrong = login("Authorization: Basic eDpzaHV0\r\n"); // x:shut
    let right = login("Authorization: Basic eDpvcGVu\r\n"); // x:open
    for _ in 0..3 {
        let answer = exchange(address, &wrong).await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    }
    let start = Instant::now();
    let guess = tokio::spawn(async move { exchange(address, &wrong).await });
    let held = |from: &str| site.hold_back(from.parse().unwrap(), false);
    let noted = async {
        while held("127.0.0.1:1").is_zero() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, noted).await.expect("it is held back");
    assert!(held("127.0.0.2:1").is_zero());
    let answer = exchange(address, &login("")).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let answer = exchange(address, &right).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(start.elapsed() >= DELAY, "{:?}", start.elapsed());
    assert!(guess.await.unwrap().starts_with("HTTP/1.1 401"));
    assert!(log.text().contains("STATUS_PASSWORD"), "{}", log.text());
    assert!(!log.text().contains("shut"), "{}", log.text());
    server.abort();
}

#[tokio::test]
async fn silent_connections_make_room_for_who_asks_and_live_pages_do_not() {
    let parts = Parts::new();
    let limits = Limits {
        connections_max: 4,
        live_max: 2,
        live_interval: Duration::from_millis(1),
        // Longer than this test may take: waiting for the time-out would fail it.
        request_timeout: Duration::from_hours(1),
        ..Limits::default()
    };
    let served = serve(&parts, limits);
    let mut live = ask_live(served.address).await;
    assert!(is_live(&mut live).await);
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(served.address).await.unwrap());
        let answer = timeout(PATIENCE, exchange(served.address, GET_HEALTH)).await;
        let answer = answer.expect("an answer without waiting for a time-out");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let mut nothing = Vec::new();
    let oldest = silent.first_mut().unwrap();
    assert_eq!(oldest.read_to_end(&mut nothing).await.unwrap_or(0), 0);
    let mut later = vec![0; 20_000];
    live.read_exact(&mut later).await.unwrap();
}

#[tokio::test]
async fn a_live_page_that_is_not_read_holds_up_nobody_piles_up_nothing_and_is_closed_in_the_end() {
    /// Of 100 kB each, more than the system's buffers take.
    const LOOKS: usize = 100;
    let mut parts = Parts::new();
    parts.sources.setup.route = "r".repeat(100_000);
    let limits = Limits {
        live_max: 1,
        live_interval: Duration::from_millis(1),
        request_timeout: Duration::from_millis(100),
        live_timeout: Duration::from_secs(1),
        ..Limits::default()
    };
    let served = serve(&parts, limits);
    let mut unread = ask_live(served.address).await;
    // Others are answered at once all the while, and its place is free when it is closed.
    let mut refused = 0;
    while !is_live(&mut ask_live(served.address).await).await {
        refused += 1;
    }
    assert!(refused > 0);
    let mut got = Vec::new();
    let _ended = unread.read_to_end(&mut got).await;
    let looks = String::from_utf8_lossy(&got).matches("data: ").count();
    assert!((1..LOOKS).contains(&looks), "{looks}");
}

#[test]
fn a_main_task_that_is_stuck_makes_health_fail_until_it_moves_again() {
    let mut parts = Parts::new();
    let minute_ago = Instant::now()
        .checked_sub(super::health::STUCK_AFTER)
        .unwrap();
    parts.sources.heartbeat = Heartbeat::new(minute_ago);
    let (block, blocked) = mpsc::channel::<()>();
    let heart = parts.sources.heartbeat.clone();
    let stop = CancellationToken::new();
    let main_task = thread::spawn({
        let stop = stop.clone();
        move || {
            runtime().block_on(async move {
                let beating = tokio::spawn(heart.keep_beating(stop));
                // What a defect would do: the runtime's only thread waits for something else.
                blocked.recv().unwrap();
                beating.await.unwrap();
            });
        }
    });
    let site = parts.site(None);
    let stuck = ask(&site, "GET", "/healthz");
    assert_eq!(stuck.status(), StatusCode::SERVICE_UNAVAILABLE);
    block.send(()).unwrap();
    while ask(&site, "GET", "/healthz").status() != StatusCode::OK {
        thread::yield_now();
    }
    stop.cancel();
    main_task.join().unwrap();
}
