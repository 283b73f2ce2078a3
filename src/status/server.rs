//! HTTP: accepts, reads a request, answers it, closes. One request a connection keeps the books short. Who idles
//! makes room for who asks.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::answer::{answer, has_login};
use super::content::Content;
use super::door::Door;
use super::observer::Observer;
use super::page::Page;
use crate::guesses::Guesses;

/// How often what moves is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The most that a request's head may have, in bytes; the least that hyper can be told.
const HEAD_BYTES_MAX: usize = 8_192;
/// A connection error (too few file descriptors) is waited out for so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The limits of the server. [`Default`] holds the values the relay runs with; tests shrink them.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Connections at a time. One more has the oldest that is no live page closed.
    pub(super) connections_max: usize,
    /// Live pages at a time; fewer than connections, so that health can be asked for at any time. One more is
    /// told to come back.
    pub(super) live_max: usize,
    /// From the connection to the end of the answer. Then it is closed.
    pub(super) request_timeout: Duration,
    /// A live page is closed after this; browsers connect again by themselves.
    pub(super) live_timeout: Duration,
    /// How often a live page gets a look.
    pub(super) live_interval: Duration,
    /// The longest that an answer is held back for the wrong passwords of an address, the answer to a right one too. With
    /// the connections there may be, this is the limit of its guesses: 8 a second. `cloud-relay health` waits for longer.
    pub(super) answer_delay_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections_max: 16,
            live_max: 8,
            request_timeout: Duration::from_secs(10),
            live_timeout: Duration::from_mins(10),
            live_interval: Duration::from_secs(1),
            answer_delay_max: Duration::from_secs(2),
        }
    }
}

/// What every answer is made from. Cheap to clone.
#[derive(Clone)]
pub(super) struct Site(Arc<Inner>);

struct Inner {
    observer: Mutex<Observer>,
    guesses: Mutex<Guesses>,
    pub(super) door: Door,
    pub(super) page: Page,
    pub(super) live_places: Arc<Semaphore>,
    pub(super) limits: Limits,
}

impl Site {
    pub(super) fn new(observer: Observer, door: Door, limits: Limits) -> Self {
        Site(Arc::new(Inner {
            observer: Mutex::new(observer),
            guesses: Mutex::new(Guesses::new(limits.answer_delay_max)),
            door,
            page: Page::new(),
            live_places: Arc::new(Semaphore::new(limits.live_max)),
            limits,
        }))
    }

    /// Never held across an await.
    pub(super) fn observer(&self) -> MutexGuard<'_, Observer> {
        self.0
            .observer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long the answer to a login from `peer` is held back.
    pub(super) fn hold_back(&self, peer: SocketAddr, is_wrong: bool) -> Duration {
        let guesses = self.0.guesses.lock();
        let mut guesses = guesses.unwrap_or_else(PoisonError::into_inner);
        if is_wrong {
            tracing::warn!(%peer, "a wrong STATUS_PASSWORD was given to the status page");
            guesses.wrong(peer.ip(), Instant::now())
        } else {
            guesses.held(peer.ip(), Instant::now())
        }
    }

    pub(super) fn door(&self) -> &Door {
        &self.0.door
    }

    pub(super) fn page(&self) -> &Page {
        &self.0.page
    }

    pub(super) fn live_places(&self) -> Arc<Semaphore> {
        Arc::clone(&self.0.live_places)
    }

    pub(super) fn live_interval(&self) -> Duration {
        self.0.limits.live_interval
    }

    /// A snapshot as JSON.
    pub(super) fn json(&self, with_history: bool) -> String {
        let mut observer = self.observer();
        let snapshot = if with_history {
            observer.whole_snapshot()
        } else {
            observer.snapshot()
        };
        drop(observer);
        serde_json::to_string(&snapshot).unwrap_or_else(|error| {
            tracing::warn!("a snapshot cannot be written as JSON: {error}");
            "{}".to_owned()
        })
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").finish_non_exhaustive()
    }
}

/// Watches and, if there is a listener, serves, until `stop`.
pub(super) async fn run(
    listener: Option<StdListener>,
    door: Door,
    observer: Observer,
    limits: Limits,
    stop: CancellationToken,
) {
    let site = Site::new(observer, door, limits);
    let served = async {
        match listener.map(TcpListener::from_std) {
            Some(Ok(listener)) => serve(listener, &site).await,
            Some(Err(error)) => tracing::warn!("no status page: {error}"),
            None => {}
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = watch(&site) => {}
        () = served => {}
    }
}

async fn watch(site: &Site) {
    let mut looks = interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        site.observer().look(Instant::now());
    }
}

pub(super) async fn serve(listener: TcpListener, site: &Site) {
    let mut guests = Guests::default();
    loop {
        tokio::select! {
            () = guests.one_left() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    guests.make_room(site.0.limits.connections_max).await;
                    guests.admit(stream, peer, site);
                }
                Err(error) => {
                    tracing::debug!("the status page cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// The open connections. Those that ask nothing, or do not read their answer, have no claim: they make room for who
/// comes next, so that whatever idles here, health can be asked for.
#[derive(Default)]
struct Guests {
    tasks: JoinSet<()>,
    /// The oldest first. Some may have left.
    guests: VecDeque<Guest>,
}

struct Guest {
    task: AbortHandle,
    is_live: Arc<AtomicBool>,
}

impl Guests {
    fn admit(&mut self, stream: TcpStream, peer: SocketAddr, site: &Site) {
        let is_live = Arc::new(AtomicBool::new(false));
        let work = converse(stream, peer, site.clone(), Arc::clone(&is_live));
        let task = self.tasks.spawn(work);
        self.guests.push_back(Guest { task, is_live });
    }

    /// Resolves when a connection has ended. May be cancelled.
    async fn one_left(&mut self) {
        match self.tasks.join_next().await {
            Some(_ended) => self.guests.retain(|guest| !guest.task.is_finished()),
            None => std::future::pending().await,
        }
    }

    /// Sees to it that there are fewer than `most`.
    async fn make_room(&mut self, most: usize) {
        while self.tasks.len() >= most {
            let idle = |guest: &Guest| !guest.is_live.load(Ordering::Relaxed);
            if let Some(place) = self.guests.iter().position(idle)
                && let Some(guest) = self.guests.remove(place)
            {
                guest.task.abort();
            }
            self.one_left().await;
        }
    }
}

/// Serves one connection. Whatever goes wrong on it is the other side's to see.
async fn converse(stream: TcpStream, peer: SocketAddr, site: Site, is_live: Arc<AtomicBool>) {
    let Limits {
        request_timeout,
        live_timeout,
        ..
    } = site.0.limits;
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer(&request, &site);
        is_live.store(matches!(answer.body(), Content::Live(_)), Ordering::Relaxed);
        let is_wrong = answer.status() == StatusCode::UNAUTHORIZED;
        let delay = has_login(&request).then(|| site.hold_back(peer, is_wrong));
        async move {
            if let Some(delay) = delay {
                tokio::time::sleep(delay).await;
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(request_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut ended = timeout(request_timeout, connection.as_mut()).await;
    if ended.is_err() && is_live.load(Ordering::Relaxed) {
        ended = timeout(live_timeout, connection).await;
    }
    if let Ok(Err(error)) = ended {
        tracing::debug!("a connection to the status page broke: {error}");
    }
}
