//! What fuzzing and `benches/paths.rs` see of the packet parser, which is private. Nothing of the relay uses it.

use super::packet::{Frame, Incoming, Version, frame, parse};
use super::publication::QoS;

/// The remaining length that is let through.
pub const REMAINING_BYTES_MAX: usize = 64 * 1024;

/// A packet that was found at the beginning of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// How much of the buffer it takes.
    pub frame_bytes: usize,
    /// Whether it is one that a client may send.
    pub is_sound: bool,
    /// Of a PUBLISH that is sound: the bytes of topic, properties and payload.
    pub publish_bytes: Option<usize>,
    /// Whether a PUBLISH has a packet identifier exactly if its `QoS` has one.
    pub id_fits_qos: bool,
}

/// Reads the packet that `buffer` begins with, as the broker does; `Err` says that it would close the connection,
/// `Ok(None)` that it would wait for more.
///
/// # Errors
/// The text of the log.
pub fn first_packet(is_v5: bool, buffer: &[u8]) -> Result<Option<Found>, String> {
    let version = if is_v5 { Version::V5 } else { Version::V4 };
    let size = match frame(buffer, REMAINING_BYTES_MAX) {
        Ok(Frame::Complete(size)) => size,
        Ok(Frame::Missing(_)) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let bytes = buffer.get(..size).ok_or("a frame beyond the buffer")?;
    let incoming = parse(version, bytes);
    let mut found = Found {
        frame_bytes: size,
        is_sound: incoming.is_ok(),
        publish_bytes: None,
        id_fits_qos: true,
    };
    if let Ok(Incoming::Publish(publish)) = incoming {
        let parts = [
            publish.topic.as_bytes(),
            publish.properties.bytes(),
            publish.payload,
        ];
        found.publish_bytes = Some(parts.iter().map(|part| part.len()).sum());
        found.id_fits_qos = (publish.id != 0) == (publish.qos > QoS::AtMostOnce);
    }
    Ok(Some(found))
}
