//! The snapshot as `OpenMetrics` text, which Prometheus and its kin scrape. Pure.
//!
//! Counters of the ledger count since the spool was made; the others since the relay started.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::snapshot::{Local, Snapshot};

/// What the text is, as `OpenMetrics` 1.0 asks for.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;

/// Registers figures under their names.
struct Book(Registry);

impl Book {
    fn count(&mut self, name: &str, help: &str, value: u64) {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        self.0.register(name, help, counter);
    }

    fn count_bytes(&mut self, name: &str, help: &str, value: u64) {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        self.0.register_with_unit(name, help, Unit::Bytes, counter);
    }

    fn count_by(&mut self, name: &str, help: &str, label: &'static str, values: &[(&str, u64)]) {
        let family = Family::<Labels, Counter>::default();
        for (name, value) in values {
            family
                .get_or_create(&vec![(label, (*name).to_owned())])
                .inc_by(*value);
        }
        self.0.register(name, help, family);
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<Unit>, value: u64) {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        match unit {
            Some(unit) => self.0.register_with_unit(name, help, unit, gauge),
            None => self.0.register(name, help, gauge),
        }
    }

    fn one(&mut self, name: &str, help: &str, labels: &Labels) {
        let family = Family::<Labels, Gauge>::default();
        family.get_or_create(labels).set(1);
        self.0.register(name, help, family);
    }
}

/// The whole text, with its end mark.
pub(super) fn render(snapshot: &Snapshot) -> String {
    let mut book = Book(Registry::with_prefix("cloud_relay"));
    describe(&mut book, snapshot);
    messages(&mut book, snapshot);
    deliveries(&mut book, &snapshot.local);
    refusals(&mut book, &snapshot.local);
    costs(&mut book, snapshot);
    let mut text = String::new();
    match encode(&mut text, &book.0) {
        Ok(()) => text,
        Err(error) => {
            tracing::warn!("the metrics cannot be written: {error}");
            "# EOF\n".to_owned()
        }
    }
}

fn describe(book: &mut Book, snapshot: &Snapshot) {
    let Snapshot { health, cloud, .. } = snapshot;
    let version = vec![("version", snapshot.version.clone())];
    book.one("build_info", "The version that runs; always 1", &version);
    let state = vec![("state", health.state.clone())];
    book.one(
        "state",
        "What the relay is doing; always 1, under the state's name",
        &state,
    );
    book.gauge(
        "healthy",
        "1 if what is published is accepted and kept, else 0",
        None,
        u64::from(health.ok),
    );
    book.gauge(
        "state_age",
        "Time in this state",
        Some(Unit::Seconds),
        health.since_s,
    );
    book.gauge(
        "uptime",
        "Time since the relay started",
        Some(Unit::Seconds),
        snapshot.uptime_s,
    );
    book.gauge(
        "cloud_connected",
        "1 while the cloud is connected, else 0",
        None,
        u64::from(cloud.connected),
    );
    book.count(
        "cloud_connections",
        "Connections that the cloud accepted",
        cloud.connections,
    );
    book.count(
        "cloud_connections_lost",
        "Connections to the cloud that were lost",
        cloud.connections_lost,
    );
    if let Some(expires) = snapshot.setup.certificate_expires_unix_s {
        let help = "When the device's certificate expires, in Unix time";
        book.gauge(
            "certificate_expiry_timestamp",
            help,
            Some(Unit::Seconds),
            expires,
        );
    }
}

fn messages(book: &mut Book, snapshot: &Snapshot) {
    let ledger = &snapshot.ledger;
    book.count(
        "messages_accepted",
        "Messages taken into the spool",
        ledger.accepted,
    );
    book.count(
        "messages_delivered",
        "Messages that the cloud accepted",
        ledger.delivered,
    );
    book.count(
        "messages_dead_lettered",
        "Messages moved to the dead letters",
        ledger.dead_lettered,
    );
    book.count(
        "dead_letters_removed",
        "Dead letters removed because DEAD_LETTERS_MAX_BYTES was reached",
        snapshot.dead_letters_removed,
    );
    let dropped = [
        ("full", ledger.dropped_full),
        ("damaged", ledger.dropped_damaged),
        ("expired", ledger.dropped_expired),
    ];
    book.count_by(
        "messages_dropped",
        "Messages of the spool that were given up",
        "reason",
        &dropped,
    );
    book.gauge(
        "spool_messages",
        "Messages that wait for the cloud",
        None,
        ledger.spooled,
    );
    book.gauge(
        "spool_used",
        "Size of the spool",
        Some(Unit::Bytes),
        snapshot.spool.used_bytes,
    );
    book.gauge(
        "spool_limit",
        "SPOOL_MAX_BYTES",
        Some(Unit::Bytes),
        snapshot.spool.limit_bytes,
    );
}

/// What passes between local clients, and what is kept for them.
fn deliveries(book: &mut Book, local: &Local) {
    book.gauge(
        "local_clients",
        "Local clients that are connected",
        None,
        local.clients,
    );
    book.count(
        "local_messages_received",
        "PUBLISH packets from local clients",
        local.messages_received,
    );
    book.count(
        "local_messages_sent",
        "PUBLISH packets to local clients",
        local.messages_sent,
    );
    book.count(
        "local_messages_from_cloud",
        "Messages from the cloud that local clients were given",
        local.messages_from_cloud,
    );
    book.count(
        "local_sessions_discarded",
        "Sessions of absent clients that were given up for others",
        local.sessions_discarded,
    );
    book.count(
        "local_journal_failures",
        "Failed attempts to read or write the journal of local sessions and retained messages",
        local.journal_failures,
    );
    book.count(
        "local_journal_damaged",
        "Damaged places in the journal of local sessions and retained messages that the start skipped",
        local.journal_damaged,
    );
    let dropped: Vec<_> = local
        .dropped
        .iter()
        .map(|(reason, count)| (reason.as_str(), *count))
        .collect();
    book.count_by(
        "local_messages_dropped",
        "Messages that a local client was not given, that were not retained, or not taken for the cloud at QoS 0 or as a will",
        "reason",
        &dropped,
    );
}

/// Local connections that a limit or a missing login ended.
fn refusals(book: &mut Book, local: &Local) {
    book.count(
        "local_connections_refused",
        "Local connections beyond the limit",
        local.connections_refused,
    );
    book.count(
        "local_connects_too_often",
        "Local connections closed because their address makes too many",
        local.connects_too_often,
    );
    book.count(
        "local_logins_failed",
        "Local clients without user name, or with a wrong user name or password",
        local.logins_failed,
    );
    book.count(
        "local_publishes_denied",
        "Messages of local clients that LOCAL_MQTT_ACL_FILE does not allow, wills among them",
        local.publishes_denied,
    );
    book.count(
        "local_subscriptions_denied",
        "Topic filters of local clients that LOCAL_MQTT_ACL_FILE does not allow",
        local.subscriptions_denied,
    );
    book.count(
        "local_handshakes_failed",
        "Local connections whose handshake (TLS, WebSocket) failed or took too long",
        local.handshakes_failed,
    );
    book.count(
        "local_connect_timeouts",
        "Local connections without a CONNECT in time",
        local.connect_timeouts,
    );
    book.count(
        "local_packet_timeouts",
        "Local clients that did not send the rest of a packet in time",
        local.packet_timeouts,
    );
    book.count(
        "local_write_timeouts",
        "Local clients that took nothing for too long",
        local.write_timeouts,
    );
    book.count(
        "local_packets_too_large",
        "Local clients closed for announcing a packet, or a WebSocket message, beyond the limit",
        local.packets_too_large,
    );
    book.count(
        "local_protocol_errors",
        "Local connections closed for what their client sent",
        local.protocol_errors,
    );
    book.count(
        "local_reads_paused",
        "Times that a local client was not read from until its messages were safe or it took what it was owed",
        local.reads_paused,
    );
    book.count(
        "local_filters_refused",
        "Topic filters of local clients refused: not valid, or beyond a limit",
        local.filters_refused,
    );
}

fn costs(book: &mut Book, snapshot: &Snapshot) {
    if let Some(bytes) = snapshot.process.memory_bytes {
        book.gauge(
            "resident_memory",
            "Memory of the process",
            Some(Unit::Bytes),
            bytes,
        );
    }
    if let Some(bytes) = snapshot.process.written_bytes {
        book.count_bytes("disk_written", "Written to disk by the process", bytes);
    }
}
