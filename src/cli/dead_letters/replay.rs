//! `replay`: an ordinary client that publishes letters to the relay's local broker, at QoS 1.
//!
//! Invariant: a letter is removed only after its PUBACK, which the relay gives only when the message is safe again;
//! and only if its topic has a route, for without one the PUBACK would promise nothing.
//!
//! It speaks the five packets of MQTT 3.1.1 that this takes. The retain flag is not set again: what is retained now
//! is newer.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::cli::mqtt::{self, packet, put_text};
use crate::config::LocalLogin;
use crate::dead_letters::{Entry, Opened, Shelf, ShelfError};
use crate::routes::Routes;

use super::{LettersError, Verdict};

/// How long the relay may take to answer. A full spool answers when it has room.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// So many are published ahead of their acknowledgements.
const IN_FLIGHT_MAX: usize = 20;

const CONNACK: [u8; 2] = [0x20, 2];
const PUBLISH_QOS1: u8 = 0x32;
const PUBACK: [u8; 2] = [0x40, 2];
const DISCONNECT: [u8; 2] = [0xE0, 0];

/// Why letters cannot be published. Those that are left stay dead letters.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplayError {
    #[error(
        "no relay takes connections at {broker}: {source}; start it, or name its address with --broker \
         (otherwise it is LOCAL_MQTT_LISTEN)"
    )]
    NotListening {
        broker: SocketAddr,
        source: io::Error,
    },
    #[error(
        "the relay at {broker} acknowledged nothing for {} s: its log says whether the spool is full; \
         {replayed} dead letters were replayed, the others are kept",
        ANSWER_TIMEOUT.as_secs()
    )]
    NoAnswer { broker: SocketAddr, replayed: u64 },
    #[error(
        "the connection to the relay at {broker} failed: {source}; {replayed} dead letters were replayed, \
         the others are kept"
    )]
    Broken {
        broker: SocketAddr,
        source: io::Error,
        replayed: u64,
    },
}

/// Publishes `chosen` to `broker`, and removes each when it is acknowledged.
pub(super) fn replay(
    shelf: &Shelf,
    chosen: &[Entry],
    (broker, login): (SocketAddr, Option<&LocalLogin>),
    routes: &Routes,
    (out, complaints): (&mut impl Write, &mut impl Write),
) -> Result<Verdict, LettersError> {
    let stream =
        connect(broker, login).map_err(|source| ReplayError::NotListening { broker, source })?;
    let mut replay = Replay {
        shelf,
        stream,
        unacknowledged: VecDeque::new(),
        last_id: 0,
        replayed: 0,
    };
    let mut verdict = Verdict::All;
    let result = chosen.iter().try_for_each(|entry| {
        let opened = match shelf.read(entry) {
            Ok(Some(opened)) => opened,
            Ok(None) => return Ok(()),
            Err(error @ ShelfError::Damaged { .. }) => {
                verdict = Verdict::Some;
                return Ok(writeln!(complaints, "{error}")?);
            }
            Err(error) => return Err(error.into()),
        };
        let topic = &opened.header.topic;
        if !routes.has_route(topic) {
            verdict = Verdict::Some;
            return Ok(writeln!(
                complaints,
                "{}: no route leads from {topic:?} to the cloud now ({routes}), so it is kept",
                entry.id
            )?);
        }
        replay.publish(entry, &opened, broker)
    });
    let result = result.and_then(|()| replay.finish(broker));
    if replay.replayed > 0 {
        shelf.sync()?;
    }
    result?;
    writeln!(out, "{} dead letters replayed", replay.replayed)?;
    Ok(verdict)
}

/// A connection, and what was published through it.
struct Replay<'a> {
    shelf: &'a Shelf,
    stream: TcpStream,
    unacknowledged: VecDeque<(u16, Entry)>,
    last_id: u16,
    replayed: u64,
}

impl Replay<'_> {
    fn publish(
        &mut self,
        entry: &Entry,
        opened: &Opened,
        broker: SocketAddr,
    ) -> Result<(), LettersError> {
        while self.unacknowledged.len() >= IN_FLIGHT_MAX {
            self.acknowledged(broker)?;
        }
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        let packet = publish_packet(&opened.header.topic, self.last_id, &opened.payload);
        let sent = packet.and_then(|packet| self.stream.write_all(&packet));
        sent.map_err(|source| self.broken(broker, source))?;
        self.unacknowledged.push_back((self.last_id, entry.clone()));
        Ok(())
    }

    /// Waits for one acknowledgement.
    fn acknowledged(&mut self, broker: SocketAddr) -> Result<(), LettersError> {
        let mut packet = [0; 4];
        (self.stream.read_exact(&mut packet)).map_err(|source| self.broken(broker, source))?;
        let [kind, length, high, low] = packet;
        let id = u16::from_be_bytes([high, low]);
        let index = self.unacknowledged.iter().position(|(own, _)| *own == id);
        let entry = index.and_then(|index| self.unacknowledged.remove(index));
        match entry {
            Some((_, entry)) if [kind, length] == PUBACK => {
                self.shelf.remove(&entry)?;
                self.replayed += 1;
                Ok(())
            }
            _ => {
                let source = io::Error::other("it sent something else than an acknowledgement");
                Err(self.broken(broker, source).into())
            }
        }
    }

    /// Waits for what is left, and says good-bye.
    fn finish(&mut self, broker: SocketAddr) -> Result<(), LettersError> {
        while !self.unacknowledged.is_empty() {
            self.acknowledged(broker)?;
        }
        // Everything is acknowledged: that the good-bye does not arrive changes nothing.
        if let Err(error) = self.stream.write_all(&DISCONNECT) {
            tracing::debug!("the relay was gone before DISCONNECT: {error}");
        }
        Ok(())
    }

    fn broken(&self, broker: SocketAddr, source: io::Error) -> ReplayError {
        let replayed = self.replayed;
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                ReplayError::NoAnswer { broker, replayed }
            }
            _ => ReplayError::Broken {
                broker,
                source,
                replayed,
            },
        }
    }
}

/// A connection with a clean session, accepted.
fn connect(broker: SocketAddr, login: Option<&LocalLogin>) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&broker, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_nodelay(true)?;
    let client_id = format!("dead-letters-{}", std::process::id());
    stream.write_all(&mqtt::connect(&client_id, login)?)?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack)?;
    match connack {
        [kind, length, _, 0] if [kind, length] == CONNACK => Ok(stream),
        [kind, length, _, 4 | 5] if [kind, length] == CONNACK => Err(io::Error::other(
            "it refuses the login; set LOCAL_MQTT_USERNAME and LOCAL_MQTT_PASSWORD to one of its users",
        )),
        _ => Err(io::Error::other("it refuses the connection")),
    }
}

fn publish_packet(topic: &str, id: u16, payload: &[u8]) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    put_text(&mut head, topic)?;
    head.extend(id.to_be_bytes());
    packet(PUBLISH_QOS1, &[&head, payload])
}
