//! The local MQTT broker: MQTT 5, 3.1.1 and 3.1 for the apps on the device.
//!
//! ```text
//!            ┌──────────────── connection (one task a client) ────────────────┐
//! app ──TCP──► read buffer ──► packet ──► inbound ──────► Ingress::append     │
//!            │                              │  └────────► broker::publish ────┼─► other sessions
//!            │                              ▼                                 │   (and their bells)
//! app ◄─TCP──┤ write buffer ◄── acks (owed, in order) ◄── watermark `safe`    │
//!            │      ▲────────── session (deliveries) ◄─── own bell            │
//!            └────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Invariants:
//! * A `QoS` 1 or 2 PUBLISH to a topic with a cloud route is answered with PUBACK or PUBREC (and
//!   PUBCOMP) only when the watermark says that the spool has it safe. When the spool is full, the client
//!   is not read from; when the spool has failed, nothing is acknowledged and [`serve`] returns an error.
//! * What persistent sessions and retained messages must survive a restart is in the `journal`, and what puts it there is
//!   acknowledged when it is synced; a disk that fails holds nobody up.
//! * One client never slows another: queues are bounded by bytes, writing has a time-out.
//! * Whatever bytes a client sends cost at most its own connection.
//!
//! What it does not do: no enhanced authentication, no topic aliases towards clients. A delayed will does not survive a restart.
//! A stop of the relay publishes no wills: the clients have not died, and will be back when the relay is.
//!
//! `topic`, `publication`, `acks`, `session`, `subscriptions`, `shared`, `retained`, `origins` and `broker` are pure;
//! `packet` is the only module that knows the codec; `access` knows who may connect; `handshake`, `inbound`, `publishing`,
//! `outbound`, `connection`, `wills`, `tls`, `websocket`, `transport`, `acceptor` and `server` do the I/O with clients,
//! `journal` has sessions and retained messages on disk.

mod acceptor;
mod access;
mod acks;
mod aliases;
mod broker;
mod callers;
mod connection;
mod counters;
mod deadlines;
mod ending;
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod inbound;
mod input;
mod journal;
mod large_packet;
mod limits;
mod link;
mod memory;
mod origins;
mod outbound;
mod packet;
mod publication;
mod publisher;
mod publishing;
mod retained;
mod server;
mod session;
mod shared;
mod subscriptions;
mod tls;
mod topic;
mod transport;
mod websocket;
mod wills;

#[cfg(test)]
mod tests;

pub use acceptor::Door;
pub use access::{Access, AccessError, LocalLogin};
pub use counters::{Clients, ConnectedClient, Counter, Counters};
pub use limits::Limits;
pub use origins::Origins;
pub use publisher::{Delivered, FromCloud, Publisher, STATE_TOPIC};
pub use server::{LocalBroker, LocalError, Options, bind, serve};
pub use tls::{LocalTls, Tls, TlsFilesError};
