//! Every limit of the local broker, with its unit and what happens when it is reached.
//!
//! They bound the memory that clients can make the broker hold. They are not settings of the
//! owner; tests shrink them.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The limits of one broker. [`Default`] holds the values the relay runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at the same time: half of the 1,024 file descriptors a process usually may have, and of what this
    /// one may have if that is less. The spool needs the others: it cannot go on without a new file.
    /// One more is accepted and closed at once, and counted.
    pub connections_max: usize,
    /// Connections over WebSocket among them, each of which may hold a frame as large as a packet besides its buffers.
    pub websockets_max: usize,
    /// Connections at the same time from one address that is not the device's own. One more is closed at once, and
    /// counted like one beyond `connections_max`.
    pub address_connections_max: usize,
    /// Connections that such an address may make in a second, in the long run; one over TLS counts as five. One more
    /// is closed at once, and counted.
    pub connects_per_s_max: u32,
    /// How many it may make at once, after a while without.
    pub connects_burst_max: u32,
    /// How long a client may take from the TCP connection to a complete CONNECT. Then it is closed.
    pub connect_timeout: Duration,
    /// The largest "remaining length" of a packet (MQTT 2.2.3), in bytes. A client that announces
    /// more is closed before anything is allocated. AWS takes payloads of up to 128 KiB, so twice
    /// that leaves room for local use.
    pub packet_bytes_max: usize,
    /// The longest topic name or topic filter, in bytes, with what `$share` adds. A PUBLISH beyond it closes the connection,
    /// a subscription beyond it is refused with 0x80. (AWS takes 256 bytes, MQTT 65,535.)
    pub topic_bytes_max: usize,
    /// The most levels of a topic name or filter; treated like `topic_bytes_max`. As mosquitto.
    pub topic_levels_max: usize,
    /// The longest client identifier, in bytes. Beyond it: CONNACK 0x02. MQTT 3.1.3.1 asks for 23.
    pub client_id_bytes_max: usize,
    /// Bytes of one client's messages that are on their way to disk or cloud and not acknowledged
    /// yet. When reached, the client is not read from until some are acknowledged.
    pub unacknowledged_bytes_max: usize,
    /// Bytes that the acknowledgements take which one client is owed, for whatever it sent. When reached, the client is not
    /// read from until some have left.
    pub owed_bytes_max: usize,
    /// Bytes read from one client and not handled yet. A larger packet needs a place of `large_packets_max`.
    pub buffer_bytes_max: usize,
    /// Packets at a time that are larger than the buffers of their connections, on their way in or out. One more waits,
    /// and so does its client.
    pub large_packets_max: usize,
    /// How long a packet may take from its first byte to its last while the client is read from. Then it is closed.
    pub packet_timeout: Duration,
    /// Bytes that wait to be written to one client. Deliveries stop being encoded at half of it, and a message larger
    /// than that needs a place of `large_packets_max`; when acknowledgements fill the rest, the client is not read from
    /// until it reads.
    pub write_buffer_bytes_max: usize,
    /// How long a client may accept no byte while there is something to write. Then it is closed.
    pub write_timeout: Duration,
    /// How long a connection that is being closed may take for its last bytes.
    pub close_timeout: Duration,
    /// How long after a stop was asked for a connection waits for acknowledgements it owes.
    pub shutdown_grace: Duration,
    /// How long a will for the cloud waits for room in the spool. Then it is dropped and counted.
    pub will_patience: Duration,
    /// Delayed wills that wait for room in the spool. One more is dropped and counted.
    pub wills_waiting_max: usize,
    /// `QoS` 1 and 2 messages sent to one client and not acknowledged by it. The rest waits in its
    /// queue. As mosquitto.
    pub inflight_max: usize,
    /// `QoS` 2 messages from one client that it has not released with PUBREL; each is remembered, so that a
    /// repetition is known. One more closes the connection. Clients send a few dozen ahead at most. Clients of
    /// MQTT 5 are told of it as the receive maximum, which counts `QoS` 1 as well.
    pub unreleased_max: u16,
    /// Topic aliases that one client of MQTT 5 may set, each of up to `topic_bytes_max`. It is told; a higher one
    /// closes the connection. As mosquitto.
    pub topic_aliases_max: u16,
    /// The longest keep alive of a client of MQTT 5, in seconds. One that asks for more, or for none, is told to use
    /// this, so that a device that died gives its place back.
    pub keep_alive_s_max: u16,
    /// Bytes of messages kept for one session, sent or waiting. Beyond it, new ones are dropped for
    /// that session and counted; others are not slowed.
    pub session_bytes_max: usize,
    /// Bytes of messages and wills kept for all clients together, each message counted once. Above it, a session gets
    /// no more messages than `session_bytes_sure`, and a client with a larger will is refused (CONNACK 3, 0x97).
    pub messages_bytes_max: usize,
    /// Bytes of messages that each session may keep, whatever others keep; each that it needs to remember of `QoS` 2
    /// counts as well.
    pub session_bytes_sure: usize,
    /// Bytes of messages kept for all sessions together, a message for each, above which nothing more is queued for a
    /// session whose client is away. Connected clients have `session_bytes_max` of their own.
    pub offline_bytes_max: usize,
    /// Sessions kept for clients that are away. One more discards the one that is away longest.
    pub sessions_max: usize,
    /// Topic filters of one session. One more is refused with 0x80 in SUBACK.
    pub filters_max: usize,
    /// Topic filters in one SUBSCRIBE or UNSUBSCRIBE. One more closes the connection: each may cost a look at
    /// every retained message and every filter of the session, and a packet has room for 87,000.
    pub filters_per_packet_max: usize,
    /// Distinct levels of all sessions' topic filters together, each about half a KiB of memory. A filter
    /// beyond it is refused with 0x80 in SUBACK.
    pub filter_levels_of_all_max: usize,
    /// Bytes of all sessions' topic filters together. A filter beyond it is refused with 0x80 in SUBACK.
    pub filter_bytes_of_all_max: usize,
    /// Retained messages. A further topic is forwarded but not retained, and counted.
    pub retained_messages_max: usize,
    /// Bytes of retained messages, topics included; treated like `retained_messages_max`.
    pub retained_bytes_max: usize,
    /// How long to accept nothing after the system refused a connection (out of file descriptors).
    pub accept_pause: Duration,
}

impl Limits {
    /// The same for a process that may have `files_max` files open, sockets included; `None` is any number.
    #[must_use]
    pub fn with_files(mut self, files_max: Option<u64>) -> Self {
        let half = files_max.and_then(|files| usize::try_from(files / 2).ok());
        self.connections_max = self.connections_max.min(half.unwrap_or(usize::MAX));
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections_max: 512,
            websockets_max: 64,
            address_connections_max: 256,
            connects_per_s_max: 50,
            connects_burst_max: 200,
            connect_timeout: Duration::from_secs(10),
            packet_bytes_max: 256 * KIB,
            topic_bytes_max: KIB,
            topic_levels_max: 200,
            client_id_bytes_max: 512,
            unacknowledged_bytes_max: MIB,
            owed_bytes_max: 24 * KIB,
            buffer_bytes_max: 32 * KIB,
            large_packets_max: 32,
            packet_timeout: Duration::from_mins(1),
            write_buffer_bytes_max: 32 * KIB,
            write_timeout: Duration::from_secs(20),
            close_timeout: Duration::from_secs(1),
            shutdown_grace: Duration::from_secs(2),
            will_patience: Duration::from_secs(30),
            wills_waiting_max: 256,
            inflight_max: 20,
            unreleased_max: 1_024,
            topic_aliases_max: 10,
            keep_alive_s_max: 3_600,
            session_bytes_max: MIB,
            messages_bytes_max: 24 * MIB,
            session_bytes_sure: 16 * KIB,
            offline_bytes_max: 8 * MIB,
            sessions_max: 256,
            filters_max: 256,
            filters_per_packet_max: 256,
            filter_levels_of_all_max: 16_384,
            filter_bytes_of_all_max: 4 * MIB,
            retained_messages_max: 4_096,
            retained_bytes_max: 2 * MIB,
            accept_pause: Duration::from_millis(200),
        }
    }
}
