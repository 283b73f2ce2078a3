//! Changes to the retained messages as bytes on disk, and back. Pure: no I/O, and time is an argument.
//!
//! A journal is a header, then frames. A frame is written once and never changed. All integers are little-endian.
//!
//! ```text
//! offset  size  field
//!      0     2  magic, "CB"
//!      2     1  kind: 1 sets a retained message, 2 clears one
//!      3     1  zero
//!      4     4  length N of everything after this 12-byte prefix
//!      8     4  CRC-32 (IEEE) of bytes 0..8 and 12..12+N, as in the spool's records
//! to clear: the topic, UTF-8
//! to set:
//!     12     1  flags: bits 0-1 QoS, bit 2 it expires, bit 3 the clock was set when this was written
//!     13     8  milliseconds until it expires, as of when this was written
//!     21     8  when this was written, milliseconds since the Unix epoch
//!     29     4  length T of the topic
//!     33     4  length P of the properties
//!     37     T  topic, UTF-8
//!   37+T     P  properties of MQTT 5, encoded
//! 37+T+P  rest  payload
//! ```

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::local::publication::{Publication, QoS};
use crate::spool::record::checksum;

/// A retained message.
pub(super) type Kept = (Publication, QoS);

/// What a journal begins with: what it is, and the version of its format.
pub(super) const HEADER: [u8; 8] = *b"CRBK\x01\0\0\0";
/// The largest frame, in bytes: twice the largest packet of the local broker.
const FRAME_BYTES_MAX: usize = 512 * 1024;
/// Places behind damage that look like a frame and are tried. Beyond it, the rest is given up: a payload made of such
/// places must not make a start slow.
const TRIES_MAX: usize = 256;
/// A journal may be larger than twice what it says by this, in bytes, before it is written anew.
const FLOOR_BYTES: u64 = 1024 * 1024;

const PREFIX_BYTES: usize = 12;
const FIXED_BYTES: usize = PREFIX_BYTES + 25;
const MAGIC: [u8; 2] = *b"CB";
const SET: u8 = 1;
const CLEAR: u8 = 2;
const FLAG_QOS: u8 = 0b0011;
const FLAG_EXPIRES: u8 = 0b0100;
const FLAG_CLOCK_SET: u8 = 0b1000;

/// Both clocks, read together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) wall: Timestamp,
}

/// A change read from a journal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change<'a> {
    Set(&'a str, Kept),
    Clear(&'a str),
}

/// What a journal was like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// It is no journal that this version knows.
    pub(super) foreign: bool,
    /// Places with damage in its middle.
    pub(super) damaged: usize,
    /// Bytes at its end that are no frame.
    pub(super) torn_bytes: usize,
}

/// Appends the frame that sets or clears the retained message of `topic`.
pub(super) fn encode(out: &mut Vec<u8>, topic: &str, kept: Option<&Kept>, now: Now) {
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[if kept.is_some() { SET } else { CLEAR }, 0]);
    out.extend_from_slice(&[0; 8]);
    if let Some((publication, qos)) = kept {
        let left = publication
            .expires()
            .map(|at| at.saturating_duration_since(now.instant));
        let mut flags = *qos as u8;
        if left.is_some() {
            flags |= FLAG_EXPIRES;
        }
        if now.wall.clock_set {
            flags |= FLAG_CLOCK_SET;
        }
        let left_ms = u64::try_from(left.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        out.push(flags);
        out.extend_from_slice(&left_ms.to_le_bytes());
        out.extend_from_slice(&now.wall.unix_ms.to_le_bytes());
        out.extend_from_slice(&len_of(topic.as_bytes()));
        out.extend_from_slice(&len_of(publication.properties()));
        out.extend_from_slice(topic.as_bytes());
        out.extend_from_slice(publication.properties());
        out.extend_from_slice(publication.parts().1);
    } else {
        out.extend_from_slice(topic.as_bytes());
    }
    let Some(frame) = out.get_mut(start..) else {
        return;
    };
    let body_len = len_of(frame.get(PREFIX_BYTES..).unwrap_or_default());
    if let Some(field) = frame.get_mut(4..8) {
        field.copy_from_slice(&body_len);
    }
    let crc = checksum(frame).unwrap_or_default();
    if let Some(field) = frame.get_mut(8..PREFIX_BYTES) {
        field.copy_from_slice(&crc);
    }
}

/// The bytes that setting a retained message takes.
pub(super) fn set_len(topic: &str, publication: &Publication) -> u64 {
    let content = publication.properties().len() + publication.parts().1.len();
    (FIXED_BYTES + topic.len() + content) as u64
}

/// Whether a journal of `len` bytes that says what `live` bytes could say is to be written anew.
pub(super) fn is_wasteful(len: u64, live: u64) -> bool {
    len > live.saturating_mul(2).saturating_add(FLOOR_BYTES)
}

/// Reads a journal, and hands out each change in order. Damage costs the frames it hits, and no other.
pub(super) fn replay<'a>(bytes: &'a [u8], now: Now, mut apply: impl FnMut(Change<'a>)) -> Findings {
    let mut findings = Findings::default();
    let Some(mut rest) = bytes.strip_prefix(&HEADER) else {
        // A header that is cut short is that of a journal nothing was written to.
        findings.foreign = !HEADER.starts_with(bytes);
        findings.torn_bytes = bytes.len();
        return findings;
    };
    let mut tries = TRIES_MAX;
    while !rest.is_empty() {
        if let Some((change, after)) = decode(rest, now) {
            apply(change);
            rest = after;
        } else if let Some(next) = find_next(rest, now, &mut tries) {
            findings.damaged += 1;
            rest = next;
        } else {
            findings.torn_bytes = rest.len();
            break;
        }
    }
    findings
}

fn find_next<'a>(bytes: &'a [u8], now: Now, tries: &mut usize) -> Option<&'a [u8]> {
    let mut rest = bytes.get(1..)?;
    loop {
        let step = rest.windows(MAGIC.len()).position(|two| two == MAGIC)?;
        rest = rest.get(step..)?;
        *tries = tries.checked_sub(1)?;
        if decode(rest, now).is_some() {
            return Some(rest);
        }
        rest = rest.get(1..)?;
    }
}

/// The change at the start of `bytes`, and what comes behind it.
fn decode(bytes: &[u8], now: Now) -> Option<(Change<'_>, &[u8])> {
    let &[m0, m1, kind, zero, n0, n1, n2, n3, c0, c1, c2, c3] =
        bytes.first_chunk::<PREFIX_BYTES>()?;
    let len = usize::try_from(u32::from_le_bytes([n0, n1, n2, n3])).ok()? + PREFIX_BYTES;
    if [m0, m1] != MAGIC || zero != 0 || len > FRAME_BYTES_MAX {
        return None;
    }
    let (frame, after) = bytes.split_at_checked(len)?;
    if checksum(frame)? != [c0, c1, c2, c3] {
        return None;
    }
    let body = frame.get(PREFIX_BYTES..)?;
    let change = match kind {
        SET => decode_set(body, now)?,
        CLEAR => Change::Clear(std::str::from_utf8(body).ok()?),
        _ => return None,
    };
    Some((change, after))
}

fn decode_set(body: &[u8], now: Now) -> Option<Change<'_>> {
    let (&flags, body) = body.split_first()?;
    let (left_ms, body) = body.split_first_chunk()?;
    let (written_ms, body) = body.split_first_chunk()?;
    let (topic_len, body) = body.split_first_chunk()?;
    let (properties_len, body) = body.split_first_chunk()?;
    let len = |bytes: &[u8; 4]| usize::try_from(u32::from_le_bytes(*bytes)).ok();
    let (topic, body) = body.split_at_checked(len(topic_len)?)?;
    let (properties, payload) = body.split_at_checked(len(properties_len)?)?;
    let topic = std::str::from_utf8(topic).ok()?;
    let expires = if flags & FLAG_EXPIRES == 0 {
        None
    } else {
        let written = Timestamp {
            unix_ms: u64::from_le_bytes(*written_ms),
            clock_set: flags & FLAG_CLOCK_SET != 0,
        };
        let left = left_after(u64::from_le_bytes(*left_ms), written, now.wall);
        Some(now.instant.checked_add(left)?)
    };
    let publication = Publication::restored(topic, properties, payload, expires);
    Some(Change::Set(
        topic,
        (publication, QoS::from_bits(flags & FLAG_QOS)?),
    ))
}

/// What is left of a message's time. The time between is counted if both clocks can be believed; otherwise, and if
/// the clock went back, it is not: the message lives longer, never shorter, than it should.
fn left_after(left_ms: u64, written: Timestamp, now: Timestamp) -> Duration {
    let between_ms = if written.clock_set && now.clock_set {
        now.unix_ms.saturating_sub(written.unix_ms)
    } else {
        0
    };
    Duration::from_millis(left_ms.saturating_sub(between_ms))
}

fn len_of(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()
}

#[cfg(test)]
#[path = "../tests/journal.rs"]
mod tests;
