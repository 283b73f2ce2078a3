//! Sessions of the local broker: reads a script of what clients do, carries it out on the real broker over streams in
//! memory, and looks at all that comes back and at the broker's books.
//!
//! Time stands still while anything can happen, so that a script does the same each time.

mod client;
mod memory;
mod script;
mod spool;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cloud_relay::local::fuzzing::{Bench, Holdings};
use cloud_relay::local::{Counters, Limits, Options};
use cloud_relay::routes::Routes;
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep};

use self::client::Connection;
use self::memory::Memory;
use self::spool::Spool;

/// The topic that goes to the cloud.
const ROUTED_TOPIC: &str = "a/c";
/// Client identifiers.
const CLIENTS: [&str; WITNESS + 1] = ["one", "two", "three", "witness"];
/// The client that the script does not direct: it subscribes to everything, reads all the time and acknowledges at
/// once, and its session is kept.
const WITNESS: usize = 3;
/// Connections at a time, besides that of the witness.
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
        buffer_bytes_max: 200,
        large_packets_max: 1,
        write_buffer_bytes_max: 400,
        inflight_max: 3,
        unreleased_max: 5,
        topic_aliases_max: 2,
        session_bytes_max: 1_200,
        messages_bytes_max: 2_500,
        session_bytes_sure: 300,
        offline_bytes_max: 1_500,
        sessions_max: 2,
        filters_max: 4,
        filters_per_packet_max: 5,
        filter_levels_of_all_max: 10,
        filter_bytes_of_all_max: 50,
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
    /// The last one is the witness's.
    slots: [Option<Connection>; SLOTS + 1],
    /// Connections that were lost, as long as the broker has them.
    lost: Vec<Connection>,
    memories: [Memory; CLIENTS.len()],
    connections: u64,
    messages: u32,
    /// Whether there may be sessions of clients with any name.
    is_wild: bool,
    counters: Arc<Counters>,
    /// How often the witness has read each payload.
    read: BTreeMap<Vec<u8>, usize>,
    /// The payloads it must read, for they were acknowledged when it was there.
    promised: Vec<Vec<u8>>,
    /// Whether a session has been full, and so the witness may not get everything; whether the broker was killed, and
    /// so it may get something twice.
    may_miss: bool,
    may_repeat: bool,
}

impl World {
    fn new() -> Self {
        let spool = Spool::new(0);
        let routes = Routes::new(ROUTED_TOPIC, "cloud");
        let counters = Arc::default();
        World {
            bench: Some(Bench::new(spool.clone(), routes, options(&counters))),
            spool,
            journal: Journal::Quick,
            slots: [None, None, None, None, None],
            lost: Vec::new(),
            memories: [(); CLIENTS.len()].map(|()| Memory::default()),
            connections: 0,
            messages: 0,
            is_wild: false,
            counters,
            read: BTreeMap::new(),
            promised: Vec::new(),
            may_miss: false,
            may_repeat: false,
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
        loop {
            self.run().await;
            for connection in self.slots.iter_mut().flatten() {
                let mut memory = connection.client.map(|client| &mut self.memories[client]);
                connection.check(&self.spool, limits().inflight_max, &mut memory);
                connection.has_ended().await;
            }
            self.keep_promises();
            if !self.acknowledge(SLOTS) {
                break;
            }
        }
        for mut connection in std::mem::take(&mut self.lost) {
            if !connection.has_ended().await {
                self.lost.push(connection);
            }
        }
        self.audit();
    }

    /// Returns when nothing can go on any more.
    async fn run(&mut self) {
        let pump = |slots: &mut [Option<Connection>]| {
            let connections = slots.iter_mut().flatten();
            connections.fold(false, |moved, one| one.pump() | moved)
        };
        pump(&mut self.slots);
        loop {
            sleep(Duration::from_millis(1)).await; // time passes only when there is nothing else to do
            let moved = pump(&mut self.slots);
            let synced = self.journal == Journal::Quick && self.bench().sync_journal();
            if !moved && !synced {
                break;
            }
        }
    }

    /// Sends an acknowledgement of everything that has come to a slot's client. Returns whether there was anything.
    fn acknowledge(&mut self, slot: usize) -> bool {
        let Some((connection, mut memory)) = self.client(slot) else {
            return false;
        };
        let mut any = false;
        while let Some((kind, id)) = connection.next_ack(false) {
            connection.send(&wire::ack(kind, id, None));
            connection.has_acknowledged((kind, id, false), memory.as_deref_mut());
            any = true;
        }
        any
    }

    fn has_witness(&self) -> bool {
        self.slots[SLOTS].is_some()
    }

    /// The witness is there from now on.
    async fn call_witness(&mut self) {
        if self.has_witness() {
            return;
        }
        self.journal = Journal::Quick;
        self.settle().await;
        let (connection, memory) = self.open_witness();
        connection.may_receive(b"#", Some(memory));
        let subscribe = [&[0, 1], &*wire::text(b"#"), &[2]].concat();
        connection.send(&wire::packet(0x82, &subscribe));
        connection.expect_codes(true, 1, 1);
        self.settle().await;
    }

    fn open_witness(&mut self) -> (&mut Connection, &mut Memory) {
        self.open(SLOTS, Some(WITNESS), false)
            .send(&connect(WITNESS, 0));
        let (connection, memory) = self.client(SLOTS).expect("it is open");
        (connection, memory.expect("it has a name"))
    }

    /// Takes note of what the witness has read, and of what was acknowledged. While the journal is out of order,
    /// nothing is promised.
    fn keep_promises(&mut self) {
        for connection in self.slots.iter_mut().flatten() {
            let acknowledged = std::mem::take(&mut connection.acknowledged);
            let read = std::mem::take(&mut connection.read);
            if self.journal != Journal::Failed {
                self.promised.extend(acknowledged);
            }
            if connection.client == Some(WITNESS) {
                for payload in read {
                    *self.read.entry(payload).or_default() += 1;
                }
            }
        }
        self.may_miss |= self.counters.dropped_session_full.get() > 0;
    }

    /// An acknowledged message is never lost.
    fn check_promises(&self) {
        if self.is_wild {
            return;
        }
        for payload in &self.promised {
            let times = self.read.get(payload).copied().unwrap_or(0);
            let text = String::from_utf8_lossy(payload);
            assert!(
                times > 0 || self.may_miss,
                "{text} was acknowledged, and is lost"
            );
            assert!(times <= 1 || self.may_repeat, "{text} came {times} times");
        }
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
        assert!(held.sessions <= limits.sessions_max + SLOTS + 1);
        assert!(held.filters <= held.sessions * limits.filters_max);
        assert!(held.filter_bytes <= limits.filter_bytes_of_all_max);
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
        for memory in &mut self.memories {
            memory.forget(self.journal == Journal::Failed);
        }
        let had_witness = self.has_witness();
        let slots = self.slots.iter_mut().filter_map(Option::take);
        slots.chain(self.lost.drain(..)).for_each(Connection::kill);
        // Those that were killed let go of the broker.
        tokio::task::yield_now().await;
        self.spool = Spool::new(self.spool.safe());
        self.counters = Arc::default();
        self.may_repeat = true;
        let (bench, spool) = (self.bench.take(), self.spool.clone());
        self.bench = bench.map(|bench| bench.restart(spool, options(&self.counters)));
        self.journal = Journal::Quick;
        if had_witness {
            // Before anybody else comes, who might take the place of its session.
            self.open_witness();
            self.settle().await;
        }
    }

    /// Nothing holds anybody up: whatever is owed must come. Then all clients leave, and nothing may remain.
    async fn end(&mut self) {
        self.settle().await;
        self.heal().await;
        for connection in self.slots.iter().flatten() {
            connection.check_at_rest();
        }
        // Clients that acknowledge everything get everything.
        while (0..SLOTS).any(|slot| self.acknowledge(slot)) {
            self.heal().await;
        }
        self.check_promises();
        for slot in 0..=SLOTS {
            self.lose(slot);
        }
        self.heal().await;
        for client in 0..CLIENTS.len() {
            self.open(client, Some(client), false)
                .send(&connect(client, 0b10));
        }
        self.heal().await;
        for slot in 0..CLIENTS.len() {
            self.lose(slot);
        }
        self.heal().await;
        if self.audit().sessions > 0 {
            self.wait(LONG).await;
            self.settle().await;
        }
        let connection = self.open(0, Some(0), false);
        connection.send(&connect(0, 0b10));
        for topic in script::TOPICS {
            connection.send(&wire::packet(0x31, &wire::text(topic))); // nothing is retained any more
        }
        self.heal().await;
        self.lose(0);
        self.heal().await;
        assert!(self.lost.is_empty(), "connections that do not end");
        let held = self.audit();
        let is_over = held == Holdings::default();
        assert!(self.is_wild || is_over, "all clients have left: {held:?}");
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

fn options(counters: &Arc<Counters>) -> Options {
    Options {
        limits: limits(),
        counters: Arc::clone(counters),
        ..Options::default()
    }
}

/// A CONNECT of MQTT 3.1.1 with these flags.
fn connect(client: usize, flags: u8) -> Vec<u8> {
    let id = wire::text(CLIENTS[client].as_bytes());
    let body = [&wire::text(b"MQTT")[..], &[4, flags, 0, 0], &id].concat();
    wire::packet(0x10, &body)
}
