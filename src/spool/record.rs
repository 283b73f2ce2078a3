//! One message as bytes on disk. Pure: no I/O, no time.
//!
//! A record is written once and never changed. All integers are little-endian.
//!
//! ```text
//! offset  size  field
//!      0     2  magic, "CR"
//!      2     2  length F of the extra fields
//!      4     4  length N of everything after this 12-byte prefix
//!      8     4  CRC-32 (IEEE) of bytes 0..8 and 12..12+N
//!     12     8  sequence number
//!     20     8  time of arrival, milliseconds since the Unix epoch
//!     28     1  flags: bits 0-1 QoS, bit 2 retain, bit 3 the clock was set on arrival
//!     29     1  zero
//!     30     2  length T of the topic
//!     32     T  topic, UTF-8
//!  32+T     F  extra fields; a reader skips what it does not know
//! 32+T+F  rest  payload
//! ```
//!
//! An extra field is a byte that says which it is, two with the length of its value, and the value. There are two: 1, the
//! message's attributes, and 2, the [`Salt`]. A message without attributes has no field for them; version 0.1.0 knew of none.
//!
//! The checksum covers the lengths as well as the content, and lengths are checked against
//! [`RECORD_BYTES_MAX`] before anything is allocated or read.

mod salt;
mod search;

use crate::clock::Timestamp;

pub use self::salt::Salt;
pub use self::search::find_next;
use super::{Message, Seq};

/// Bytes before the part that the length in them counts.
pub(super) const PREFIX_BYTES: usize = 12;
/// Prefix plus the fixed fields: the size of a record with empty topic and payload.
pub(super) const HEADER_BYTES: usize = 32;
/// The largest record, in bytes. Twice what AWS IoT Core takes as payload, plus the longest topic
/// MQTT allows, rounded up.
pub const RECORD_BYTES_MAX: usize = 512 * 1024;

/// No number and no count is higher, so that counting on from any and adding them up never overflows.
pub(super) const SEQ_MAX: Seq = Seq::MAX >> 4;

const MAGIC: [u8; 2] = *b"CR";
const FLAG_QOS: u8 = 0b0011;
const FLAG_RETAIN: u8 = 0b0100;
const FLAG_CLOCK_SET: u8 = 0b1000;
/// The extra field that holds the attributes.
const FIELD_ATTRIBUTES: u8 = 1;
/// The extra field that holds the salt.
const FIELD_SALT: u8 = 2;
/// What an extra field has besides its value.
const FIELD_OVERHEAD_BYTES: usize = 1 + 2;
/// What the salt takes.
pub(super) const SALT_FIELD_BYTES: usize = FIELD_OVERHEAD_BYTES + Salt::BYTES;

/// A record found in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its sequence number.
    pub seq: Seq,
    /// What was published.
    pub message: Message<'a>,
    /// By which it is told from what a payload holds; older relays wrote none.
    pub salt: Option<Salt>,
}

/// What stands at the start of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A valid record of `len` bytes.
    Record {
        /// The record.
        record: Record<'a>,
        /// Its length in bytes, prefix included.
        len: usize,
    },
    /// Perhaps a record, but the buffer ends before it does: `needed` bytes would tell.
    Incomplete {
        /// Bytes from the start of the buffer.
        needed: usize,
    },
    /// Not a record.
    Corrupt,
}

/// The most bytes that topic, attributes and payload of one message can have together.
pub const MESSAGE_BYTES_MAX: usize = RECORD_BYTES_MAX - HEADER_BYTES - SALT_FIELD_BYTES;
/// The most bytes that the attributes of one message can have.
pub const ATTRIBUTES_BYTES_MAX: usize = u16::MAX as usize - FIELD_OVERHEAD_BYTES - SALT_FIELD_BYTES;

/// The bytes a message takes on disk, with a salt.
pub fn encoded_len(message: &Message<'_>) -> usize {
    let extra_len = extra_len(message) + SALT_FIELD_BYTES;
    HEADER_BYTES + message.topic.len() + extra_len + message.payload.len()
}

/// The bytes of the extra fields of a message, without a salt.
fn extra_len(message: &Message<'_>) -> usize {
    match message.attributes.len() {
        0 => 0,
        len => FIELD_OVERHEAD_BYTES + len,
    }
}

/// Writes `message` as the record numbered `seq`, or returns `None` if it is larger than
/// [`RECORD_BYTES_MAX`], its topic longer than 65,535 bytes or its attributes than [`ATTRIBUTES_BYTES_MAX`].
/// Without a `salt` it is as older relays wrote it.
pub fn encode(seq: Seq, message: &Message<'_>, salt: Option<Salt>) -> Option<Vec<u8>> {
    let salt_bytes = salt.map_or(0, |_| SALT_FIELD_BYTES);
    let len = encoded_len(message) - SALT_FIELD_BYTES + salt_bytes;
    if len > RECORD_BYTES_MAX || message.attributes.len() > ATTRIBUTES_BYTES_MAX {
        return None;
    }
    let topic_len = u16::try_from(message.topic.len()).ok()?;
    let extra_len = u16::try_from(extra_len(message) + salt_bytes).ok()?;
    let body_len = u32::try_from(len - PREFIX_BYTES).ok()?;
    let mut flags = message.qos & FLAG_QOS;
    if message.retain {
        flags |= FLAG_RETAIN;
    }
    if message.received.clock_set {
        flags |= FLAG_CLOCK_SET;
    }

    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&extra_len.to_le_bytes());
    bytes.extend_from_slice(&body_len.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&seq.to_le_bytes());
    bytes.extend_from_slice(&message.received.unix_ms.to_le_bytes());
    bytes.extend_from_slice(&[flags, 0]);
    bytes.extend_from_slice(&topic_len.to_le_bytes());
    bytes.extend_from_slice(message.topic.as_bytes());
    if !message.attributes.is_empty() {
        put_field(&mut bytes, FIELD_ATTRIBUTES, message.attributes)?;
    }
    if let Some(Salt(salt)) = salt {
        put_field(&mut bytes, FIELD_SALT, &salt)?;
    }
    bytes.extend_from_slice(message.payload);
    let crc = checksum(&bytes)?;
    bytes.get_mut(8..PREFIX_BYTES)?.copy_from_slice(&crc);
    Some(bytes)
}

fn put_field(bytes: &mut Vec<u8>, kind: u8, value: &[u8]) -> Option<()> {
    bytes.push(kind);
    bytes.extend_from_slice(&u16::try_from(value.len()).ok()?.to_le_bytes());
    bytes.extend_from_slice(value);
    Some(())
}

/// Reads what stands at the start of `bytes`.
pub fn decode(bytes: &[u8]) -> Decoded<'_> {
    decode_with(bytes, checksum)
}

/// The same with another way to come to the checksum of a frame.
fn decode_with(bytes: &[u8], checksum: impl FnOnce(&[u8]) -> Option<[u8; 4]>) -> Decoded<'_> {
    let Some(prefix) = bytes.first_chunk::<PREFIX_BYTES>() else {
        return if MAGIC.starts_with(bytes.get(..2).unwrap_or(bytes)) {
            Decoded::Incomplete {
                needed: PREFIX_BYTES,
            }
        } else {
            Decoded::Corrupt
        };
    };
    let [m0, m1, f0, f1, n0, n1, n2, n3, crc @ ..] = *prefix;
    let len = usize::try_from(u32::from_le_bytes([n0, n1, n2, n3]))
        .unwrap_or(usize::MAX)
        .saturating_add(PREFIX_BYTES);
    if [m0, m1] != MAGIC || !(HEADER_BYTES..=RECORD_BYTES_MAX).contains(&len) {
        return Decoded::Corrupt;
    }
    let Some(frame) = bytes.get(..len) else {
        return Decoded::Incomplete { needed: len };
    };
    if checksum(frame) != Some(crc) {
        return Decoded::Corrupt;
    }
    let extra_len = usize::from(u16::from_le_bytes([f0, f1]));
    match parse(frame, extra_len) {
        Some(record) => Decoded::Record { record, len },
        None => Decoded::Corrupt,
    }
}

/// Reads the fields of a frame whose checksum is right.
fn parse(frame: &[u8], extra_len: usize) -> Option<Record<'_>> {
    let (header, content) = frame.split_first_chunk::<HEADER_BYTES>()?;
    let (_, fields) = header.split_first_chunk::<PREFIX_BYTES>()?;
    let (seq, fields) = fields.split_first_chunk::<8>()?;
    let (unix_ms, fields) = fields.split_first_chunk::<8>()?;
    let &[flags, _, t0, t1] = fields else {
        return None;
    };
    let (topic, content) = content.split_at_checked(usize::from(u16::from_le_bytes([t0, t1])))?;
    let (extra, payload) = content.split_at_checked(extra_len)?;
    Some(Record {
        // The last number is none, for another must follow.
        seq: Some(u64::from_le_bytes(*seq)).filter(|seq| *seq < SEQ_MAX)?,
        message: Message {
            topic: std::str::from_utf8(topic).ok()?,
            attributes: field(FIELD_ATTRIBUTES, extra).unwrap_or_default(),
            payload,
            qos: flags & FLAG_QOS,
            retain: flags & FLAG_RETAIN != 0,
            received: Timestamp {
                unix_ms: u64::from_le_bytes(*unix_ms),
                clock_set: flags & FLAG_CLOCK_SET != 0,
            },
        },
        salt: field(FIELD_SALT, extra).and_then(|salt| Some(Salt(salt.try_into().ok()?))),
    })
}

/// The value of the first extra field of this kind. What is not a field ends them.
fn field(kind: u8, mut extra: &[u8]) -> Option<&[u8]> {
    loop {
        let (&[found, l0, l1], rest) = extra.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(u16::from_le_bytes([l0, l1]).into())?;
        if found == kind {
            return Some(value);
        }
        extra = rest;
    }
}

/// The checksum of a frame, over all but the checksum itself.
pub(crate) fn checksum(frame: &[u8]) -> Option<[u8; 4]> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(frame.get(..8)?);
    hasher.update(frame.get(PREFIX_BYTES..)?);
    Some(hasher.finalize().to_le_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Message<'static> {
        Message {
            topic: "sensors",
            attributes: b"",
            payload: b"{\"t\":21}",
            qos: 1,
            retain: true,
            received: Timestamp {
                unix_ms: 1_790_000_000_123,
                clock_set: true,
            },
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let salt = Some(Salt::random());
        let bytes = encode(7, &sample(), salt).unwrap();
        assert_eq!(bytes.len(), encoded_len(&sample()));
        let (len, message) = (bytes.len(), sample());
        let seq = 7;
        let record = Record { seq, message, salt };
        assert_eq!(decode(&bytes), Decoded::Record { record, len });
    }

    #[test]
    fn a_number_that_no_other_can_follow_is_damage() {
        for (seq, is_record) in [(SEQ_MAX - 1, true), (SEQ_MAX, false), (Seq::MAX, false)] {
            let bytes = encode(seq, &sample(), None).unwrap();
            let decoded = decode(&bytes);
            assert_eq!(
                matches!(decoded, Decoded::Record { .. }),
                is_record,
                "{seq}"
            );
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = encode(7, &sample(), None).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(
                !matches!(decode(&bad), Decoded::Record { .. }),
                "bit {bit} went unnoticed"
            );
        }
    }

    #[test]
    fn every_cut_is_incomplete_and_says_how_much_is_needed() {
        let good = encode(7, &sample(), None).unwrap();
        for cut in 0..good.len() {
            let Decoded::Incomplete { needed } = decode(&good[..cut]) else {
                panic!("cut at {cut} is not incomplete");
            };
            assert!(needed > cut && needed <= good.len());
        }
    }

    /// A record whose extra fields are `extra`, as another version would write them.
    fn with_extra(extra: &[u8]) -> Vec<u8> {
        let mut bytes = encode(7, &sample(), None).unwrap();
        let at = HEADER_BYTES + sample().topic.len();
        bytes.splice(at..at, extra.iter().copied());
        let extra_len = u16::try_from(extra.len()).unwrap();
        bytes[2..4].copy_from_slice(&extra_len.to_le_bytes());
        let body_len = u32::try_from(bytes.len() - PREFIX_BYTES).unwrap();
        bytes[4..8].copy_from_slice(&body_len.to_le_bytes());
        let crc = checksum(&bytes).unwrap();
        bytes[8..12].copy_from_slice(&crc);
        bytes
    }

    #[test]
    fn attributes_are_found_among_extra_fields_and_other_fields_are_skipped() {
        for (extra, attributes) in [
            (&b"extra"[..], &b""[..]),
            (b"\x01\x02\x00ab", b"ab"),
            (b"\x02\x01\x00x\x01\x02\x00ab", b"ab"),
            (b"\x01\x02\x00ab\x09\x00\x00", b"ab"),
            (b"\x01\x03\x00ab", b""),
            (b"\x01\x00", b""),
        ] {
            let bytes = with_extra(extra);
            let Decoded::Record { record, .. } = decode(&bytes) else {
                panic!("not a record: {extra:?}");
            };
            let expected = Message {
                attributes,
                ..sample()
            };
            assert_eq!(record.message, expected);
        }
        let written = Message {
            attributes: b"ab",
            ..sample()
        };
        assert_eq!(
            encode(7, &written, None).unwrap(),
            with_extra(b"\x01\x02\x00ab")
        );
    }

    #[test]
    fn a_record_without_attributes_is_what_it_was_before_there_were_any() {
        let old = b"CR\x00\x00\x23\x00\x00\x00\xf0\x4d\x20\xfa\x07\x00\x00\x00\x00\x00\x00\x00\
            \x7b\x6c\x50\xc4\xa0\x01\x00\x00\x0d\x00\x07\x00sensors{\"t\":21}";
        assert_eq!(encode(7, &sample(), None).unwrap(), old);
    }

    #[test]
    fn attributes_have_their_own_limit() {
        let attributes = vec![0; ATTRIBUTES_BYTES_MAX + 1];
        let message = |attributes| Message {
            attributes,
            ..sample()
        };
        let (largest, larger) = (message(&attributes[1..]), message(&attributes));
        let bytes = encode(1, &largest, Some(Salt::random())).unwrap();
        assert_eq!(bytes.len(), encoded_len(&largest));
        assert!(
            matches!(decode(&bytes), Decoded::Record { record, .. } if record.message == largest)
        );
        assert_eq!(encode(1, &larger, None), None);
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_back_and_costs_what_was_said(
            topic in "\\PC{0,40}",
            attributes in proptest::collection::vec(any::<u8>(), 0..200),
            payload in proptest::collection::vec(any::<u8>(), 0..200),
            (qos, retain, clock_set) in (0_u8..3, any::<bool>(), any::<bool>()),
            (unix_ms, seq) in (any::<u64>(), 0..SEQ_MAX),
            salted in any::<bool>(),
        ) {
            let received = Timestamp { unix_ms, clock_set };
            let message = Message {
                topic: &topic,
                attributes: &attributes,
                payload: &payload,
                qos,
                retain,
                received,
            };
            let salt = salted.then(Salt::random);
            let bytes = encode(seq, &message, salt).unwrap();
            let unused = if salted { 0 } else { SALT_FIELD_BYTES };
            prop_assert_eq!(bytes.len() + unused, encoded_len(&message));
            let read = Decoded::Record {
                record: Record { seq, message, salt },
                len: bytes.len(),
            };
            prop_assert_eq!(decode(&bytes), read);
        }
    }

    #[test]
    fn a_length_beyond_the_maximum_is_corrupt_and_not_waited_for() {
        let mut bytes = encode(7, &sample(), None).unwrap();
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode(&bytes), Decoded::Corrupt);
    }

    #[test]
    fn a_message_larger_than_a_record_is_not_encoded() {
        let payload = vec![0; RECORD_BYTES_MAX];
        let message = Message {
            payload: &payload,
            ..sample()
        };
        assert_eq!(encode(1, &message, None), None);
    }

    #[test]
    fn the_next_valid_record_is_found_behind_damage() {
        let mut bytes = encode(1, &sample(), None).unwrap();
        let second = bytes.len();
        bytes.extend(encode(2, &sample(), None).unwrap());
        bytes[40] ^= 0xFF;
        assert_eq!(find_next(&bytes, 1, None), Some(second));
        assert_eq!(find_next(&bytes, second + 1, None), None);
    }
}
