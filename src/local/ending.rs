//! Why a connection ended, and what follows: what the client is told, whether its will is published, what is counted
//! and logged. Pure, but for the log.

use std::io;
use std::net::SocketAddr;

use super::counters::Counters;
use super::packet::{PacketError, Reason};
use crate::spool::AppendError;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("it said good-bye")]
    Disconnected,
    #[error("it said good-bye and asked for its will")]
    DisconnectedWithWill,
    #[error("it closed the connection without DISCONNECT")]
    Closed,
    #[error("the relay is stopping")]
    Stopped,
    #[error("another connection came with the same client identifier")]
    TakenOver,
    #[error("it was silent for more than one and a half times its keep alive")]
    KeepAlive,
    #[error("it did not send CONNECT in time")]
    ConnectTimeout,
    #[error("it did not send the rest of a packet in time")]
    PacketTimeout,
    #[error("it did not read what was sent to it")]
    WriteTimeout,
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Packet(#[from] PacketError),
    #[error("{1}")]
    Protocol(Reason, &'static str),
    #[error("it has no user name, or a wrong user name or password")]
    LoginRefused(Reason),
    #[error("its message, or its will, is to a topic that it may not publish to")]
    NotAllowed,
    #[error("its message to {topic:?} does not fit into the spool: {error}")]
    TooLarge { topic: String, error: AppendError },
    #[error("the spool has failed")]
    SpoolFailed,
}

impl End {
    /// Whether the client's will is published: always, except when the client said good-bye
    /// (MQTT-3.1.2-8, -10), and when it is the relay that leaves.
    pub(super) fn is_abnormal(&self) -> bool {
        !matches!(self, End::Disconnected | End::Stopped | End::SpoolFailed)
    }

    /// What a client of MQTT 5 is told, if the broker ends the connection.
    pub(super) fn reason(&self) -> Option<Reason> {
        match self {
            End::Disconnected
            | End::DisconnectedWithWill
            | End::Closed
            | End::ConnectTimeout
            | End::PacketTimeout
            | End::WriteTimeout
            | End::Io(_)
            | End::SpoolFailed => None,
            End::Stopped => Some(Reason::ShuttingDown),
            End::TakenOver => Some(Reason::SessionTakenOver),
            End::KeepAlive => Some(Reason::KeepAliveTimeout),
            End::Packet(error) => Some(error.reason()),
            End::Protocol(reason, _) | End::LoginRefused(reason) => Some(*reason),
            End::NotAllowed => Some(Reason::NotAuthorized),
            End::TooLarge { .. } => Some(Reason::QuotaExceeded),
        }
    }

    /// Whether it makes sense to send what is left.
    pub(super) fn can_flush(&self) -> bool {
        !matches!(
            self,
            End::Closed | End::WriteTimeout | End::Io(_) | End::SpoolFailed
        )
    }

    /// Counts an end that a limit or a broken rule brought about.
    pub(super) fn count(&self, counters: &Counters) {
        match self {
            End::ConnectTimeout => counters.connect_timeouts.add(1),
            End::PacketTimeout => counters.packet_timeouts.add(1),
            End::WriteTimeout => counters.write_timeouts.add(1),
            End::Packet(PacketError::TooLarge { .. }) => counters.packets_too_large.add(1),
            End::Packet(_) | End::Protocol(..) => counters.protocol_errors.add(1),
            _ => {}
        }
    }

    pub(super) fn log(&self, client_id: &str, peer: SocketAddr) {
        match self {
            // Denials are told by `access`.
            End::Disconnected
            | End::DisconnectedWithWill
            | End::Closed
            | End::Stopped
            | End::NotAllowed => {
                tracing::debug!(client_id, %peer, "client left: {self}");
            }
            End::TakenOver
            | End::KeepAlive
            | End::ConnectTimeout
            | End::PacketTimeout
            | End::WriteTimeout
            | End::Io(_) => {
                tracing::info!(client_id, %peer, "connection closed: {self}");
            }
            End::Packet(_)
            | End::Protocol(..)
            | End::LoginRefused(_)
            | End::TooLarge { .. }
            | End::SpoolFailed => {
                tracing::warn!(client_id, %peer, "connection closed: {self}");
            }
        }
    }

    /// A connection that says nothing and goes is a probe of the port (a health check, a port scan), and
    /// those come for ever.
    pub(super) fn log_before_connect(&self, peer: SocketAddr) {
        match self {
            // Failed logins and denials are summed up by `access`.
            End::Closed | End::Io(_) | End::Stopped | End::LoginRefused(_) | End::NotAllowed => {
                tracing::debug!(%peer, "a connection did not become a client's: {self}");
            }
            _ => tracing::info!(%peer, "a connection did not become a client's: {self}"),
        }
    }
}
