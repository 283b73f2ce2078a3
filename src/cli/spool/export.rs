//! `export`: messages as JSON lines, in the order in which they arrived.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::cli::properties::Shown;
use crate::rfc3339;
use crate::spool::offline::{Damage, Found, Offline, Segment};
use crate::spool::record::Record;

use super::{ToolError, Verdict};

/// A message as one line.
#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    topic: &'a str,
    qos: u8,
    retain: bool,
    /// RFC 3339, or null where the clock was not set.
    received: Option<String>,
    /// As the clock stood, right or not.
    received_unix_ms: u64,
    /// What MQTT 5 let the publisher say of it, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<Shown<'a>>,
    /// If it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    /// If it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    /// With `--all` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    settled: Option<bool>,
    /// Present and true if the segment was put aside, so that the relay does not send the message.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    set_aside: bool,
}

impl<'a> Line<'a> {
    fn new(record: &Record<'a>, segment: &Segment, settled: Option<bool>) -> Self {
        let message = &record.message;
        let received = message.received;
        let payload = std::str::from_utf8(message.payload);
        Line {
            seq: record.seq,
            topic: message.topic,
            qos: message.qos,
            retain: message.retain,
            received: (received.clock_set)
                .then(|| rfc3339::utc(received.unix_ms))
                .flatten(),
            received_unix_ms: received.unix_ms,
            properties: Shown::of(message.attributes),
            payload: payload.ok(),
            payload_base64: (payload.is_err()).then(|| STANDARD.encode(message.payload)),
            settled,
            set_aside: segment.is_set_aside(),
        }
    }
}

/// Writes the messages to `out` and what cannot be read to `complaints`.
pub(super) fn export(
    spool: &Offline,
    all: bool,
    out: &mut impl Write,
    complaints: &mut impl Write,
) -> Result<Verdict, ToolError> {
    let mut verdict = Verdict::Sound;
    let mut complain = |damage: &Damage| -> Result<(), ToolError> {
        if !damage.kind.is_torn() {
            verdict = Verdict::Damaged;
        }
        Ok(writeln!(complaints, "{damage}")?)
    };
    for damage in spool.cursor_damage() {
        complain(damage)?;
    }
    let segments = spool.segments().iter();
    for segment in segments.filter(|segment| all || !segment.is_set_aside()) {
        spool.walk(segment, |found| match found {
            Found::Record {
                record, settled, ..
            } if all || !settled => {
                write_line(&Line::new(&record, segment, all.then_some(settled)), out)
            }
            Found::Record { .. } => Ok(()),
            Found::Damage(damage) => complain(&damage),
        })?;
    }
    Ok(verdict)
}

fn write_line(line: &Line<'_>, out: &mut impl Write) -> Result<(), ToolError> {
    serde_json::to_writer(&mut *out, line).map_err(io::Error::from)?;
    Ok(out.write_all(b"\n")?)
}
