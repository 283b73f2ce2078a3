//! Sessions of the local broker: reads a script of what clients do, carries it out on the real broker over streams in
//! memory, and looks at all that comes back and at the broker's books.
//!
//! Time stands still while anything can happen, so that a script does the same each time.

mod client;
mod script;
mod spool;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use cloud_relay::local::fuzzing::{Bench, Holdings};
use cloud_relay::local::{Counters, Limits, Options};
use cloud_relay::routes::Routes;
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep};

use self::client::{Connection, Memory};
use self::spool::Spool;

/// What the payloads of messages for the cloud begin with in a client's memory.
const ROUTED: &[u8] = b"routed ";
/// The topic that goes to the cloud.
const ROUTED_TOPIC: &str = "a/c";
/// Client identifiers.
const CLIENTS: [&str; 3] = ["one", "two", "three"];
/// Connections at a time.
const SLOTS: usize = 4;
/// What a stream buffers.
const STREAM_BYTES: usize = 1_024;
/// Longer than any session that ends outlives its connection, and any will is delayed.
const LONG: Duration = Duration::from_secs(100);

/// How long a client that reads does something else. Less than the broker waits for a client that does not read.
const READ_PAUSE: Duration = Duration::from_secs(9);

/// Carries out one script.
pub(super) fn session(input: &[u8]) {
    fastrand::seed(0);
    let mut runtime = Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build();
    let runtime = runtime.expect("it needs nothing of the system");
    runtime.block_on(async {
        let mut world = World::new();
        script::play(&mut world, input).await;
        world.end().await;
    });
}

/// Small ones, so that short scripts reach them.
fn limits() -> Limits {
    Limits {
        packet_bytes_max: 1_000,
        topic_bytes_max: 20,
        topic_levels_max: 4,
        client_id_bytes_max: 30,
        unacknowledged_bytes_max: 300,
        write_buffer_bytes_max: 600,
        inflight_max: 3,
        unreleased_max: 5,
        topic_aliases_max: 2,
        session_bytes_max: 1_200,
        offline_bytes_max: 1_500,
        sessions_max: 2,
        filters_max: 4,
        filters_per_packet_max: 5,
        filter_levels_of_all_max: 10,
        retained_messages_max: 3,
        retained_bytes_max: 500,
        wills_waiting_max: 1,
        ..Limits::default()
    }
}

/// How the journal's disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Journal {
    /// What there is to write is written at once.
    Quick,
    /// It is written when the script says so.
    Slow,
    Failed,
}

/// The broker, and the clients that it has.
struct World {
    /// There, but for the moment of a restart.
    bench: Option<Bench<Spool>>,
    spool: Spool,
    journal: Journal,
    slots: [Option<Connection>; SLOTS],
    /// Connections that were lost, as long as the broker has them.
    lost: Vec<Connection>,
    memories: [Memory; CLIENTS.len()],
    connections: u64,
    messages: u32,
    /// Whether there may be sessions of clients with any name.
    is_wild: bool,
}

impl World {
    fn new() -> Self {
        let spool = Spool::new(0);
        let routes = Routes::new(ROUTED_TOPIC, "cloud");
        World {
            bench: Some(Bench::new(spool.clone(), routes, options())),
            spool,
            journal: Journal::Quick,
            slots: [None, None, None, None],
            lost: Vec::new(),
            memories: [(); CLIENTS.len()].map(|()| Memory::default()),
            connections: 0,
            messages: 0,
            is_wild: false,
        }
    }

    fn bench(&mut self) -> &mut Bench<Spool> {
        self.bench.as_mut().expect("there is one")
    }

    /// A new connection in a slot; the one that was there is lost.
    fn open(&mut self, slot: usize, client: Option<usize>, is_v5: bool) -> &mut Connection {
        self.lose(slot);
        self.connections += 1;
        let number = self.connections;
        let ends = self.bench().connect(STREAM_BYTES);
        let connection = Connection::new(number, client, is_v5, ends);
        self.slots[slot].insert(connection)
    }

    /// The connection of a slot is lost, without a word.
    fn lose(&mut self, slot: usize) {
        if let Some(mut connection) = self.slots[slot].take() {
            connection.lose();
            self.lost.push(connection);
        }
    }

    /// The connection of a slot, if it is open, and what its client remembers.
    fn client(&mut self, slot: usize) -> Option<(&mut Connection, Option<&mut Memory>)> {
        let connection = self.slots[slot].as_mut().filter(|one| one.is_open())?;
        let memory = connection.client.map(|client| &mut self.memories[client]);
        Some((connection, memory))
    }

    /// Lets happen what can happen, and looks at it.
    async fn settle(&mut self) {
        let pump = |slots: &mut [Option<Connection>]| {
            let connections = slots.iter_mut().flatten();
            connections.fold(false, |moved, one| one.pump() | moved)
        };
        pump(&mut self.slots);
        loop {
            // Returns when nothing can go on any more.
            sleep(Duration::from_millis(1)).await;
            let moved = pump(&mut self.slots);
            let synced = self.journal == Journal::Quick && self.bench().sync_journal();
            if !moved && !synced {
                break;
            }
        }
        for connection in self.slots.iter_mut().flatten() {
            let mut memory = connection.client.map(|client| &mut self.memories[client]);
            connection.check(&self.spool, limits().inflight_max, &mut memory);
            connection.has_ended().await;
        }
        for mut connection in std::mem::take(&mut self.lost) {
            if !connection.has_ended().await {
                self.lost.push(connection);
            }
        }
        self.audit();
    }

    /// Time passes, and clients read meanwhile, as far as they do.
    async fn wait(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.settle().await;
            sleep(READ_PAUSE.min(until.saturating_duration_since(Instant::now()))).await;
        }
    }

    fn audit(&mut self) -> Holdings {
        let held = self.bench().audit();
        let limits = limits();
        assert!(held.session_bytes_most <= limits.session_bytes_max);
        assert!(held.sessions <= limits.sessions_max + SLOTS);
        assert!(held.filters <= held.sessions * limits.filters_max);
        assert!(held.nodes <= limits.filter_levels_of_all_max);
        assert!(held.retained <= limits.retained_messages_max);
        assert!(held.retained_bytes <= limits.retained_bytes_max);
        assert_eq!(held.wills_due, 0);
        held
    }

    fn fail_journal(&mut self) {
        self.bench().fail_journal();
        self.journal = Journal::Failed;
    }

    /// The relay is killed, and starts again.
    async fn restart(&mut self) {
        let slots = self.slots.iter_mut().filter_map(Option::take);
        slots.chain(self.lost.drain(..)).for_each(Connection::kill);
        // Those that were killed let go of the broker.
        tokio::task::yield_now().await;
        for memory in &mut self.memories {
            memory.forget(self.journal == Journal::Failed);
        }
        self.spool = Spool::new(self.spool.safe());
        let (bench, spool) = (self.bench.take(), self.spool.clone());
        self.bench = bench.map(|bench| bench.restart(spool, options()));
        self.journal = Journal::Quick;
    }

    /// Nothing holds anybody up: whatever is owed must come. Then all clients leave, and nothing may remain.
    async fn end(&mut self) {
        self.settle().await;
        self.heal().await;
        for connection in self.slots.iter().flatten() {
            connection.check_at_rest();
        }
        // Clients that acknowledge everything get everything.
        for slot in 0..SLOTS {
            while let Some((connection, memory)) = self.client(slot)
                && let Some((kind, id)) = connection.next_ack(false)
            {
                connection.send(&wire::ack(kind, id, None));
                connection.acknowledged((kind, id, false), memory);
                self.heal().await;
            }
        }
        for slot in 0..SLOTS {
            self.lose(slot);
        }
        self.heal().await;
        for client in 0..CLIENTS.len() {
            self.open(0, Some(client), false)
                .send(&clean_connect(client));
            self.heal().await;
            self.lose(0);
        }
        self.heal().await;
        self.wait(LONG).await;
        self.settle().await;
        assert!(self.lost.is_empty(), "connections that do not end");
        let held = self.audit();
        let nothing = Holdings {
            retained: held.retained,
            retained_bytes: held.retained_bytes,
            ..Holdings::default()
        };
        assert!(
            self.is_wild || held == nothing,
            "all clients have left: {held:?}"
        );
    }

    /// Spool and journal are well, and everybody reads.
    async fn heal(&mut self) {
        self.spool.set_full(false);
        self.journal = Journal::Quick;
        for connection in self.slots.iter_mut().flatten() {
            connection.reads_again();
        }
        self.settle().await;
        loop {
            let before = self.progress();
            self.spool.sync(u64::MAX);
            self.settle().await;
            if self.progress() == before {
                return;
            }
        }
    }

    /// How far everybody is.
    fn progress(&self) -> (u64, usize) {
        let connections = self.slots.iter().flatten();
        let bytes = connections.map(|connection| connection.moved_bytes);
        (self.spool.next(), bytes.sum())
    }
}

fn options() -> Options {
    Options {
        limits: limits(),
        counters: Arc::new(Counters::default()),
        ..Options::default()
    }
}

/// A CONNECT of MQTT 3.1.1 with which the client's session ends.
fn clean_connect(client: usize) -> Vec<u8> {
    let id = wire::text(CLIENTS[client].as_bytes());
    let body = [&wire::text(b"MQTT")[..], &[4, 0b10, 0, 0], &id].concat();
    wire::packet(0x10, &body)
}
