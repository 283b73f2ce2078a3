//! Makes a [`Snapshot`] from the handles that the relay's parts give out, and says once an hour what it saw.
//!
//! It only reads. Nothing else in this directory knows where a figure comes from.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::flow::Watcher;
use super::health::{self, Facts};
use super::heartbeat::Heartbeat;
use super::process;
use super::snapshot::{
    Books, Client, CloudLink, Health, Local, ProblemSeen, ProcessFigures, Setup, Snapshot, SpoolUse,
};
use crate::clock;
use crate::dead_letters::DeadLetters;
use crate::local::Counters;
use crate::logging;
use crate::spool;
use crate::spool::ledger::{DropReason, Ledger};
use crate::state::{State, StateBoard};
use crate::store::Store;

/// Clients that are named; all are counted.
const CLIENTS_LISTED_MAX: usize = 50;
/// How often the totals are told.
const TOTALS_INTERVAL: Duration = Duration::from_hours(1);
/// No estimate of a day is made from less than this.
const ESTIMATE_AFTER: Duration = Duration::from_mins(1);
/// A day, in seconds.
const DAY_S: u64 = 86_400;

/// Where everything is read from.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    pub(crate) setup: Setup,
    pub(crate) spool: spool::Options,
    pub(crate) store: Store,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) state: StateBoard,
    pub(crate) local: Arc<Counters>,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) log: logging::Memory,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Observer {
    sources: Sources,
    began: Instant,
    watcher: Watcher,
    /// What was judged last, and since when it is so.
    health: (Health, Instant),
    /// The totals told last, and when.
    told: (Ledger, Instant),
}

impl Observer {
    pub(super) fn new(sources: Sources) -> Self {
        let now = Instant::now();
        let ledger = sources.store.ledger();
        let health = (judge(&sources), now);
        Observer {
            began: now,
            watcher: Watcher::new(&ledger, now),
            health,
            told: (ledger, now),
            sources,
        }
    }

    /// Looks at what moves. To be called about once a second.
    pub(super) fn look(&mut self, now: Instant) {
        let ledger = self.sources.store.ledger();
        self.watcher.look(&ledger, now);
        self.note_health(now);
        if now.duration_since(self.told.1) >= TOTALS_INTERVAL {
            tell_totals(&ledger, &self.told.0, &self.sources.state.current());
            self.told = (ledger, now);
        }
    }

    /// Notes when what is to be said of the relay's health changes.
    fn note_health(&mut self, now: Instant) {
        let health = judge(&self.sources);
        if health.state != self.health.0.state {
            self.health.1 = now;
        }
        self.health.0 = health;
    }

    /// Everything as it is now, but the history.
    pub(super) fn snapshot(&mut self) -> Snapshot {
        let now = Instant::now();
        self.note_health(now);
        let Sources {
            setup,
            spool,
            store,
            dead_letters,
            state,
            local,
            log,
            ..
        } = &self.sources;
        let time = clock::now();
        let (health, since) = &self.health;
        let problems = log.problems().into_iter().map(|problem| ProblemSeen {
            text: problem.text,
            is_error: problem.is_error,
            count: problem.count,
            ago_s: now.duration_since(problem.last).as_secs(),
        });
        Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            taken_unix_ms: time.clock_set.then_some(time.unix_ms),
            uptime_s: now.duration_since(self.began).as_secs(),
            health: Health {
                since_s: now.duration_since(*since).as_secs(),
                ..health.clone()
            },
            setup: setup.clone(),
            ledger: books(&store.ledger()),
            dead_letters_removed: dead_letters.given_up(),
            spool: SpoolUse {
                used_bytes: store.used_bytes(),
                limit_bytes: spool.bytes_max,
                when_full: spool.full.to_string(),
            },
            flow: self.watcher.flow(),
            local: local_side(local, now),
            cloud: CloudLink {
                connected: state.current() == State::Connected,
                connections: state.connections_made(),
                connections_lost: state.connections_lost(),
            },
            process: cost(now.duration_since(self.began)),
            problems: problems.collect(),
            history: None,
        }
    }

    /// [`Observer::snapshot`] with the last hour.
    pub(super) fn whole_snapshot(&mut self) -> Snapshot {
        Snapshot {
            history: Some(self.watcher.history()),
            ..self.snapshot()
        }
    }
}

fn judge(sources: &Sources) -> Health {
    health::judge(&Facts {
        state: &sources.state.current(),
        progress: sources.store.progress(),
        full: sources.spool.full,
        main_task_age: sources.heartbeat.age(),
    })
}

fn books(ledger: &Ledger) -> Books {
    Books {
        accepted: ledger.accepted(),
        delivered: ledger.delivered,
        dead_lettered: ledger.dead_lettered,
        dropped_full: ledger.dropped_for(DropReason::Full),
        dropped_damaged: ledger.dropped_for(DropReason::Damaged),
        dropped_expired: ledger.dropped_for(DropReason::Expired),
        spooled: ledger.spooled,
    }
}

fn local_side(counters: &Counters, now: Instant) -> Local {
    let list = counters.clients.list(CLIENTS_LISTED_MAX).into_iter();
    let dropped = [
        ("spool_full", &counters.dropped_spool_full),
        ("will", &counters.dropped_will),
        ("slow_subscriber", &counters.dropped_slow_subscriber),
        ("session_full", &counters.dropped_session_full),
        ("not_retained", &counters.dropped_retained),
        ("expired", &counters.dropped_expired),
        ("packet_too_large", &counters.dropped_packet_too_large),
        ("from_cloud", &counters.dropped_from_cloud),
    ];
    Local {
        clients: u64::try_from(counters.clients.count()).unwrap_or(u64::MAX),
        list: list
            .map(|client| Client {
                id: client.id,
                peer: client.peer.to_string(),
                connected_s: now.duration_since(client.since).as_secs(),
            })
            .collect(),
        messages_received: counters.messages_received.get(),
        messages_sent: counters.messages_sent.get(),
        messages_from_cloud: counters.messages_from_cloud.get(),
        sessions_discarded: counters.sessions_discarded.get(),
        journal_failures: counters.journal_failures.get(),
        journal_damaged: counters.journal_damaged.get(),
        connections_refused: counters.connections_refused.get(),
        connects_too_often: counters.connects_too_often.get(),
        logins_failed: counters.logins_failed.get(),
        publishes_denied: counters.publishes_denied.get(),
        subscriptions_denied: counters.subscriptions_denied.get(),
        handshakes_failed: counters.handshakes_failed.get(),
        connect_timeouts: counters.connect_timeouts.get(),
        packet_timeouts: counters.packet_timeouts.get(),
        write_timeouts: counters.write_timeouts.get(),
        packets_too_large: counters.packets_too_large.get(),
        protocol_errors: counters.protocol_errors.get(),
        reads_paused: counters.reads_paused.get(),
        filters_refused: counters.filters_refused.get(),
        dropped: dropped
            .map(|(reason, count)| (reason.to_owned(), count.get()))
            .into(),
    }
}

fn cost(uptime: Duration) -> ProcessFigures {
    let written_bytes = process::written_bytes();
    ProcessFigures {
        memory_bytes: process::memory_bytes(),
        written_bytes,
        written_bytes_a_day: written_bytes
            .filter(|_| uptime >= ESTIMATE_AFTER)
            .map(|bytes| bytes.saturating_mul(DAY_S) / uptime.as_secs().max(1)),
    }
}

/// The line of the hour.
fn tell_totals(ledger: &Ledger, before: &Ledger, state: &State) {
    tracing::info!(
        state = state.name(),
        accepted = ledger.accepted() - before.accepted(),
        delivered = ledger.delivered - before.delivered,
        spooled = ledger.spooled,
        dead_lettered = ledger.dead_lettered - before.dead_lettered,
        dropped = ledger.dropped() - before.dropped(),
        "the last hour"
    );
}
