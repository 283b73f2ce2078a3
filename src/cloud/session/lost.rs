//! Why a connection was given up, in words for the device's owner.

use std::io;

use crate::cloud::packet::{Closing, Malformed};

/// Why a connection was given up.
#[derive(Debug, thiserror::Error)]
pub(in crate::cloud) enum LostReason {
    #[error("the cloud closed the connection")]
    Closed,
    #[error(
        "the cloud closed the connection instead of accepting a message: does the policy allow \
         iot:Publish to {0}, and has no other client this device's client id?"
    )]
    ClosedOnPublish(String),
    #[error("the cloud closed the connection{said} instead of taking {errand}")]
    ClosedOnErrand {
        /// What it said, in brackets, if anything.
        said: String,
        errand: String,
    },
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    #[error(
        "another client has connected with this device's client id (session taken over, 0x8E); \
         only one may use it"
    )]
    TakenOver,
    #[error(
        "the cloud ended the connection: not authorized (0x87); is the certificate active, and does its policy \
         allow iot:Publish to every topic that is relayed to?"
    )]
    NotAuthorized,
    #[error("the cloud ended the connection: {0}")]
    Told(String),
    #[error("the cloud ended the connection: {0}")]
    Faulted(String),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the cloud sent {0}, which was not asked for")]
    Unexpected(&'static str),
    #[error("the cloud stopped acknowledging")]
    NoAcknowledgement,
    #[error("the cloud did not answer a ping")]
    NoPong,
    #[error("the connection is made anew, to give the cloud the will of CLOUD_STATUS_TOPIC")]
    WillNeeded,
    #[error("cannot read from the spool: {0}; messages are kept. Is the disk of DATA_DIR failing?")]
    Spool(io::Error),
}

impl LostReason {
    /// Whether another client with our client id has ended the connection. Connecting again would end its.
    pub(in crate::cloud) fn is_take_over(&self) -> bool {
        matches!(self, LostReason::TakenOver)
    }

    /// Whether it can have ended because of a message that was in flight: it was closed without a word, or with
    /// one that is about what we sent. A network that breaks, or that falls silent, accuses nobody.
    pub(in crate::cloud) fn accuses(&self) -> bool {
        matches!(
            self,
            LostReason::Closed
                | LostReason::ClosedOnPublish(_)
                | LostReason::NotAuthorized
                | LostReason::Faulted(_)
        )
    }

    /// Whether the cloud has ended the connection for a reason that it keeps to itself, or that what was sent gave it.
    pub(super) fn is_the_clouds_doing(&self) -> bool {
        matches!(
            self,
            LostReason::Closed
                | LostReason::NotAuthorized
                | LostReason::Told(_)
                | LostReason::Faulted(_)
        )
    }

    /// The same reason, when it was `errand` that the cloud had to answer.
    pub(super) fn on_errand(&self, errand: String) -> Self {
        let said = match self {
            LostReason::Told(words) | LostReason::Faulted(words) => format!(" ({words})"),
            _ => String::new(),
        };
        LostReason::ClosedOnErrand { said, errand }
    }
}

impl From<Closing> for LostReason {
    fn from(closing: Closing) -> Self {
        match closing {
            Closing::TakenOver => LostReason::TakenOver,
            Closing::NotAuthorized => LostReason::NotAuthorized,
            Closing::Because(words) => LostReason::Told(words),
            Closing::Faulted(words) => LostReason::Faulted(words),
        }
    }
}

impl From<io::Error> for LostReason {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => LostReason::Closed,
            _ => LostReason::Broken(error),
        }
    }
}
