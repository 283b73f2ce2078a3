//! `replay`: an ordinary client that publishes letters to the relay's local broker, at QoS 1.
//!
//! Invariant: a letter is removed only after its PUBACK, which the relay gives only when the message is safe again;
//! and only if its topic has a route, for without one the PUBACK would promise nothing. One that the relay refuses is kept,
//! and the others go on.
//!
//! It speaks the five packets of MQTT 5 that this takes. The retain flag is not set again: what is retained now is
//! newer. A message that may wait for a certain time only has all of it again.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::cli::mqtt::{self, Level, packet, put_length, put_text};
use crate::dead_letters::{Entry, Opened, Shelf, ShelfError};
use crate::local::LocalLogin;
use crate::routes::Routes;

use super::{LettersError, Verdict};

/// How long the relay may take to answer. A full spool answers when it has room.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// So many are published ahead of their acknowledgements.
const IN_FLIGHT_MAX: usize = 20;

const CONNACK: u8 = 0x20;
const PUBLISH_QOS1: u8 = 0x32;
const PUBACK: u8 = 0x40;
/// Reasons from this on are refusals (MQTT 5, 2.4).
const REFUSALS: u8 = 0x80;
const BAD_USER_NAME_OR_PASSWORD: u8 = 0x86;
const NOT_AUTHORIZED: u8 = 0x87;
/// The longest answer that is read, in bytes: those to what is sent here are short.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
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
        "the relay at {broker} refuses the login; set LOCAL_MQTT_USERNAME and LOCAL_MQTT_PASSWORD as the relay has \
         them; all dead letters are kept"
    )]
    LoginRefused { broker: SocketAddr },
    #[error(
        "the relay at {broker} refuses the connection with reason {reason:#04x}; all dead letters are kept"
    )]
    Refused { broker: SocketAddr, reason: u8 },
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
    let mut replay = Replay {
        shelf,
        stream: connect(broker, login)?,
        unacknowledged: VecDeque::new(),
        last_id: 0,
        replayed: 0,
        complaints,
        verdict: Verdict::All,
    };
    let result = chosen.iter().try_for_each(|entry| {
        let opened = match shelf.read(entry) {
            Ok(Some(opened)) => opened,
            Ok(None) => return Ok(()),
            Err(error @ ShelfError::Damaged { .. }) => {
                return replay.complain(&error);
            }
            Err(error) => return Err(error.into()),
        };
        let topic = &opened.header.topic;
        if !routes.has_route(topic) {
            return replay.complain(&format_args!(
                "{}: no route leads from {topic:?} to the cloud now ({routes}), so it is kept",
                entry.id
            ));
        }
        replay.publish(entry, &opened, broker)
    });
    let result = result.and_then(|()| replay.finish(broker));
    if replay.replayed > 0 {
        shelf.sync()?;
    }
    result?;
    writeln!(out, "{} dead letters replayed", replay.replayed)?;
    Ok(replay.verdict)
}

/// A connection, and what was published through it.
struct Replay<'a, W> {
    shelf: &'a Shelf,
    stream: TcpStream,
    unacknowledged: VecDeque<(u16, Entry)>,
    last_id: u16,
    replayed: u64,
    complaints: &'a mut W,
    verdict: Verdict,
}

impl<W: Write> Replay<'_, W> {
    /// Says why a letter is left.
    fn complain(&mut self, why: &dyn fmt::Display) -> Result<(), LettersError> {
        self.verdict = Verdict::Some;
        Ok(writeln!(self.complaints, "{why}")?)
    }

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
        let packet = publish_packet(opened, self.last_id);
        let sent = packet.and_then(|packet| self.stream.write_all(&packet));
        sent.map_err(|source| self.broken(broker, source))?;
        self.unacknowledged.push_back((self.last_id, entry.clone()));
        Ok(())
    }

    /// Waits for one acknowledgement.
    fn acknowledged(&mut self, broker: SocketAddr) -> Result<(), LettersError> {
        let answer = read_packet(&mut self.stream);
        let (kind, body) = answer.map_err(|source| self.broken(broker, source))?;
        // Without a reason it is a success (MQTT 5, 3.4.2.1).
        let (id, reason) = match (kind, body.as_slice()) {
            (PUBACK, [high, low]) => (u16::from_be_bytes([*high, *low]), 0),
            (PUBACK, [high, low, reason, ..]) => (u16::from_be_bytes([*high, *low]), *reason),
            _ => {
                let source = io::Error::other("it sent something else than an acknowledgement");
                return Err(self.broken(broker, source).into());
            }
        };
        let index = self.unacknowledged.iter().position(|(own, _)| *own == id);
        let entry = index.and_then(|index| self.unacknowledged.remove(index));
        let Some((_, entry)) = entry else {
            let source = io::Error::other("it acknowledged what was not sent");
            return Err(self.broken(broker, source).into());
        };
        match reason {
            ..REFUSALS => {
                self.shelf.remove(&entry)?;
                self.replayed += 1;
                Ok(())
            }
            NOT_AUTHORIZED => self.complain(&format_args!(
                "{}: the relay does not let this user publish it (LOCAL_MQTT_USERNAME, LOCAL_MQTT_ACL_FILE), so it \
                 is kept",
                entry.id
            )),
            REFUSALS.. => self.complain(&format_args!(
                "{}: the relay refuses it with reason {reason:#04x}, so it is kept",
                entry.id
            )),
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
fn connect(broker: SocketAddr, login: Option<&LocalLogin>) -> Result<TcpStream, ReplayError> {
    let asked = ask(broker, login);
    let (stream, reason) = asked.map_err(|source| ReplayError::NotListening { broker, source })?;
    match reason {
        0 => Ok(stream),
        BAD_USER_NAME_OR_PASSWORD | NOT_AUTHORIZED => Err(ReplayError::LoginRefused { broker }),
        reason => Err(ReplayError::Refused { broker, reason }),
    }
}

/// A connection, and the reason of its CONNACK.
fn ask(broker: SocketAddr, login: Option<&LocalLogin>) -> io::Result<(TcpStream, u8)> {
    let mut stream = TcpStream::connect_timeout(&broker, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_nodelay(true)?;
    let client_id = format!("dead-letters-{}", std::process::id());
    stream.write_all(&mqtt::connect(Level::V5, &client_id, login)?)?;
    let (kind, connack) = read_packet(&mut stream)?;
    match (kind, connack.as_slice()) {
        (CONNACK, [_, reason, ..]) => Ok((stream, *reason)),
        _ => Err(io::Error::other("it sent something else than CONNACK")),
    }
}

/// The first byte and the body of the next packet.
fn read_packet(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    let [first] = byte;
    let mut len = 0;
    for shift in [0, 7, 14, 21] {
        stream.read_exact(&mut byte)?;
        let [part] = byte;
        len |= usize::from(part & 0x7F) << shift;
        if part & 0x80 == 0 {
            break;
        }
    }
    if len > ANSWER_BYTES_MAX {
        let what = format!("it sent {len} bytes as an answer");
        return Err(io::Error::other(what));
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body)?;
    Ok((first, body))
}

fn publish_packet(opened: &Opened, id: u16) -> io::Result<Vec<u8>> {
    let Opened { header, payload } = opened;
    let mut head = Vec::new();
    put_text(&mut head, &header.topic)?;
    head.extend(id.to_be_bytes());
    put_length(&mut head, header.attributes.len())?;
    packet(PUBLISH_QOS1, &[&head, &header.attributes, payload])
}
