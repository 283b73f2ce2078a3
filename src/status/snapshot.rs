//! What the relay shows of itself, as plain data. The page, the metrics, the health answer and
//! `cloud-relay status` are all made from it. No secret is in it.

use serde::{Deserialize, Serialize};

/// One look at the relay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// The relay's version.
    pub(crate) version: String,
    /// When it was taken; absent while the device's clock is not set.
    pub(crate) taken_unix_ms: Option<u64>,
    pub(crate) uptime_s: u64,
    pub(crate) health: Health,
    pub(crate) setup: Setup,
    pub(crate) ledger: Books,
    /// Dead letters removed since the start, because `DEAD_LETTERS_MAX_BYTES` was reached.
    #[serde(default)]
    pub(crate) dead_letters_removed: u64,
    pub(crate) spool: SpoolUse,
    pub(crate) flow: Flow,
    pub(crate) local: Local,
    pub(crate) cloud: CloudLink,
    pub(crate) process: ProcessFigures,
    /// The latest first.
    pub(crate) problems: Vec<ProblemSeen>,
    /// The last hour; not in every answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) history: Option<History>,
}

/// Whether data is accepted and safe, and what the relay is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Health {
    /// Whether what is published now is accepted and kept.
    pub(crate) ok: bool,
    /// A stable name.
    pub(crate) state: String,
    /// For how long.
    pub(crate) since_s: u64,
    /// What is the case, in words.
    pub(crate) reason: String,
    /// What to do about it, if there is anything.
    pub(crate) remedy: Option<String>,
}

/// The configuration, as far as it helps whoever looks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) device: Option<String>,
    /// Where apps publish to.
    pub(crate) broker: String,
    pub(crate) route: String,
    /// Which cloud, and where.
    pub(crate) provider: String,
    pub(crate) cloud: Option<String>,
    /// When the device's certificate expires.
    pub(crate) certificate_expires_unix_s: Option<u64>,
}

/// The ledger: `accepted = delivered + dead_lettered + dropped_full + dropped_damaged + dropped_expired +
/// spooled`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Books {
    pub(crate) accepted: u64,
    pub(crate) delivered: u64,
    pub(crate) dead_lettered: u64,
    pub(crate) dropped_full: u64,
    pub(crate) dropped_damaged: u64,
    pub(crate) dropped_expired: u64,
    pub(crate) spooled: u64,
}

/// How full the spool is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SpoolUse {
    pub(crate) used_bytes: u64,
    pub(crate) limit_bytes: u64,
    /// `SPOOL_FULL`.
    pub(crate) when_full: String,
}

/// What moves now: means over the last seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "units are last in names")]
pub(crate) struct Flow {
    pub(crate) accepted_per_s: f64,
    pub(crate) delivered_per_s: f64,
    /// When the spool is empty if it goes on like this; absent if it does not shrink.
    pub(crate) drained_after_s: Option<u64>,
}

/// The local side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Local {
    pub(crate) clients: u64,
    /// The first of them.
    pub(crate) list: Vec<Client>,
    pub(crate) messages_received: u64,
    pub(crate) messages_sent: u64,
    pub(crate) messages_from_cloud: u64,
    pub(crate) connections_refused: u64,
    #[serde(default)]
    pub(crate) connects_too_often: u64,
    pub(crate) logins_failed: u64,
    pub(crate) publishes_denied: u64,
    pub(crate) subscriptions_denied: u64,
    pub(crate) handshakes_failed: u64,
    pub(crate) connect_timeouts: u64,
    #[serde(default)]
    pub(crate) packet_timeouts: u64,
    pub(crate) write_timeouts: u64,
    pub(crate) packets_too_large: u64,
    #[serde(default)]
    pub(crate) protocol_errors: u64,
    #[serde(default)]
    pub(crate) reads_paused: u64,
    pub(crate) filters_refused: u64,
    /// Sessions of absent clients that were given up for others.
    pub(crate) sessions_discarded: u64,
    /// Failed attempts to read or write the journal of sessions and retained messages.
    #[serde(default)]
    pub(crate) journal_failures: u64,
    /// Damaged places in it that the start skipped.
    #[serde(default)]
    pub(crate) journal_damaged: u64,
    /// Messages that a local client was not given, that were not retained, or not taken for the cloud at `QoS` 0 or as a
    /// will, by why. What a client was not given may have been acknowledged to its publisher.
    pub(crate) dropped: Vec<(String, u64)>,
}

/// A local client. Id and address are what it says they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Client {
    pub(crate) id: String,
    pub(crate) peer: String,
    pub(crate) connected_s: u64,
}

/// The connection to the cloud.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct CloudLink {
    pub(crate) connected: bool,
    pub(crate) connections: u64,
    pub(crate) connections_lost: u64,
}

/// What the process costs; absent where the system does not tell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProcessFigures {
    pub(crate) memory_bytes: Option<u64>,
    /// Written to disk since the start.
    pub(crate) written_bytes: Option<u64>,
    /// The same a day, if it goes on like this.
    pub(crate) written_bytes_a_day: Option<u64>,
}

/// A warning or an error of the log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProblemSeen {
    pub(crate) text: String,
    pub(crate) is_error: bool,
    pub(crate) count: u64,
    /// How long ago it came last.
    pub(crate) ago_s: u64,
}

/// The last hour, oldest first: messages in each step, and what waited at its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct History {
    pub(crate) step_s: u64,
    pub(crate) accepted: Vec<u32>,
    pub(crate) delivered: Vec<u32>,
    pub(crate) spooled: Vec<u32>,
}
