//! `list` and `show`.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::cli::properties::Shown;
use crate::dead_letters::{Entry, Header, Opened, Shelf, ShelfError};
use crate::printable::{escaped, is_harmful};
use crate::rfc3339;

use super::{LettersError, Verdict};

/// A letter as one line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    seq: u64,
    topic: &'a str,
    cloud_topic: &'a str,
    qos: u8,
    retain: bool,
    /// RFC 3339, or null where the clock was not set.
    received: Option<String>,
    /// As the clock stood, right or not.
    received_unix_ms: u64,
    dead_lettered: Option<String>,
    dead_lettered_unix_ms: u64,
    why: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<Shown<'a>>,
    payload_bytes: usize,
}

fn received(header: &Header) -> Option<String> {
    time(header.received_unix_ms, header.received_clock_set)
}

fn dead_lettered(header: &Header) -> Option<String> {
    time(header.dead_lettered_unix_ms, header.dead_lettered_clock_set)
}

fn time(unix_ms: u64, clock_set: bool) -> Option<String> {
    clock_set.then(|| rfc3339::utc(unix_ms)).flatten()
}

fn or_unset(time: Option<String>) -> String {
    time.unwrap_or_else(|| "clock not set".to_owned())
}

/// Writes one line for each letter.
pub(super) fn list(
    shelf: &Shelf,
    json: bool,
    out: &mut impl Write,
    complaints: &mut impl Write,
) -> Result<Verdict, LettersError> {
    let mut verdict = Verdict::All;
    let entries = shelf.entries()?;
    if entries.is_empty() && !json {
        writeln!(out, "no dead letters")?;
    }
    for entry in entries {
        match shelf.read(&entry) {
            Ok(Some(Opened { header, .. })) if json => write_json(&entry, &header, out)?,
            Ok(Some(Opened { header, .. })) => writeln!(
                out,
                "{}  {}  {:?}  {} bytes  {}",
                entry.id,
                or_unset(received(&header)),
                header.topic,
                header.payload_bytes,
                escaped(&header.reason)
            )?,
            Ok(None) => {}
            Err(error @ ShelfError::Damaged { .. }) => {
                writeln!(complaints, "{error}")?;
                verdict = Verdict::Some;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(verdict)
}

fn write_json(entry: &Entry, header: &Header, out: &mut impl Write) -> io::Result<()> {
    let line = Line {
        id: &entry.id,
        seq: header.seq,
        topic: &header.topic,
        cloud_topic: &header.cloud_topic,
        qos: header.qos,
        retain: header.retain,
        received: received(header),
        received_unix_ms: header.received_unix_ms,
        dead_lettered: dead_lettered(header),
        dead_lettered_unix_ms: header.dead_lettered_unix_ms,
        why: &header.why,
        reason: &header.reason,
        properties: Shown::of(&header.attributes),
        payload_bytes: header.payload_bytes,
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}

/// Writes one letter: what is known of it and its payload, or with `raw` the payload alone.
pub(super) fn show(
    shelf: &Shelf,
    id: &str,
    raw: bool,
    out: &mut impl Write,
) -> Result<Verdict, LettersError> {
    for entry in shelf.find(&[id.to_owned()])? {
        let Some(Opened { header, payload }) = shelf.read(&entry)? else {
            continue;
        };
        if raw {
            out.write_all(&payload)?;
            continue;
        }
        writeln!(out, "id             {}", entry.id)?;
        writeln!(out, "reason         {}", escaped(&header.reason))?;
        writeln!(out, "topic          {:?}", header.topic)?;
        writeln!(out, "cloud topic    {:?}", header.cloud_topic)?;
        writeln!(out, "QoS            {}", header.qos)?;
        writeln!(out, "retain         {}", header.retain)?;
        writeln!(out, "arrived        {}", or_unset(received(&header)))?;
        writeln!(out, "dead letter    {}", or_unset(dead_lettered(&header)))?;
        if let Some(properties) = Shown::of(&header.attributes) {
            writeln!(out, "properties     {properties}")?;
        }
        match std::str::from_utf8(&payload) {
            Ok(text) if text.chars().all(is_harmless) => {
                writeln!(out, "payload        {} bytes\n\n{text}", payload.len())?;
            }
            _ => {
                let text = STANDARD.encode(&payload);
                writeln!(
                    out,
                    "payload        {} bytes, as base64\n\n{text}",
                    payload.len()
                )?;
            }
        }
    }
    Ok(Verdict::All)
}

/// Whether a terminal just shows it.
fn is_harmless(character: char) -> bool {
    !is_harmful(character) || matches!(character, '\n' | '\r' | '\t')
}
