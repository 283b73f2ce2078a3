//! A dead letter as the bytes of a file, and the file's name. Pure.
//!
//! ```text
//! cloud-relay dead letter 1 1f3a9c2b    the format's version, and the CRC-32 (IEEE) of all that follows this line
//! {"seq":42,"topic":"sensors",…}        what is known of the message, as one line of JSON
//! …                                     the payload as it came
//! ```
//!
//! The name says when the message arrived, its number in the spool, and a checksum of what was published:
//! `1795421109000-42-1f3a9c2b.letter`. It depends on the message alone, so that writing it again after a crash makes
//! the same file; and a number that the spool gives twice, once for a message it never had to write, makes two.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::Timestamp;
use crate::spool::record::MESSAGE_BYTES_MAX;
use crate::spool::{Message, Seq};

/// What a dead letter's file name ends with.
pub(super) const SUFFIX: &str = ".letter";
/// The longest file, in bytes: one message, its topic a second time with JSON's escapes, its cloud topic and words.
pub(super) const FILE_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;

const MAGIC: &str = "cloud-relay dead letter 1 ";
/// Hexadecimal digits of a CRC-32.
const CRC_DIGITS: usize = 8;

/// What is known of a dead letter besides its payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Its number in the spool.
    pub seq: Seq,
    /// The local topic it was published to.
    pub topic: String,
    /// Where in the cloud it was to go.
    pub cloud_topic: String,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Whether the publisher set the retain flag.
    pub retain: bool,
    /// When it arrived, in milliseconds since the Unix epoch, as the clock stood...
    pub received_unix_ms: u64,
    /// ...and whether that had been set.
    pub received_clock_set: bool,
    /// When it became a dead letter, likewise.
    pub dead_lettered_unix_ms: u64,
    /// Whether the clock was set then.
    pub dead_lettered_clock_set: bool,
    /// The kind of reason, one stable word.
    pub why: String,
    /// The reason in words.
    pub reason: String,
    /// Its attributes, as base64; a letter from before there were any has none.
    #[serde(
        default,
        rename = "attributes_base64",
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "write_base64",
        deserialize_with = "read_base64"
    )]
    pub attributes: Vec<u8>,
    /// Length of the payload.
    pub payload_bytes: usize,
}

fn write_base64<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&STANDARD.encode(bytes))
}

fn read_base64<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(from)?;
    STANDARD.decode(text).map_err(serde::de::Error::custom)
}

/// Why the cloud never takes a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Its kind, one stable word.
    pub why: &'static str,
    /// In words.
    pub words: String,
}

/// A dead letter about to be written.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Its number in the spool.
    pub seq: Seq,
    /// Why it is one.
    pub reason: Reason,
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

impl Letter {
    /// Makes one of the message `seq`, which was to go to `cloud_topic`; `now` is the time.
    pub fn new(
        seq: Seq,
        message: &Message<'_>,
        cloud_topic: &str,
        reason: Reason,
        now: Timestamp,
    ) -> Self {
        let header = Header {
            seq,
            topic: message.topic.to_owned(),
            cloud_topic: cloud_topic.to_owned(),
            qos: message.qos,
            retain: message.retain,
            received_unix_ms: message.received.unix_ms,
            received_clock_set: message.received.clock_set,
            dead_lettered_unix_ms: now.unix_ms,
            dead_lettered_clock_set: now.clock_set,
            why: reason.why.to_owned(),
            reason: reason.words.clone(),
            attributes: message.attributes.to_vec(),
            payload_bytes: message.payload.len(),
        };
        Letter {
            seq,
            reason,
            name: name(seq, message),
            bytes: encode(&header, message.payload),
        }
    }

    /// Bytes that it will have on disk.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }
}

fn name(seq: Seq, message: &Message<'_>) -> String {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[message.qos, u8::from(message.retain)]);
    crc.update(message.topic.as_bytes());
    crc.update(&[0]);
    crc.update(message.payload);
    if !message.attributes.is_empty() {
        crc.update(&[0]);
        crc.update(message.attributes);
    }
    let (received, crc) = (message.received.unix_ms, crc.finalize());
    format!("{received:013}-{seq}-{crc:08x}{SUFFIX}")
}

fn encode(header: &Header, payload: &[u8]) -> Vec<u8> {
    let header = serde_json::to_vec(header)
        .expect("invariant: numbers, flags and text always serialise, with no line break");
    let mut crc = crc32fast::Hasher::new();
    for part in [&header, &b"\n"[..], payload] {
        crc.update(part);
    }
    let first = format!("{MAGIC}{:08x}\n", crc.finalize());
    [first.as_bytes(), &header, b"\n", payload].concat()
}

/// Reads a file's bytes: its header and its payload, or what is wrong with it.
pub(super) fn decode(bytes: &[u8]) -> Result<(Header, &[u8]), String> {
    let damaged = |what: &str| Err(format!("it is damaged: {what}"));
    let Some(rest) = bytes.strip_prefix(MAGIC.as_bytes()) else {
        return damaged("it does not begin as a dead letter of this version does");
    };
    let Some((crc, rest)) = rest.split_at_checked(CRC_DIGITS) else {
        return damaged("it ends too soon");
    };
    let crc = std::str::from_utf8(crc).map(|crc| u32::from_str_radix(crc, 16));
    let Some(rest) = rest.strip_prefix(b"\n") else {
        return damaged("it ends too soon");
    };
    if crc != Ok(Ok(crc32fast::hash(rest))) {
        return damaged("its checksum is wrong");
    }
    let mut parts = rest.splitn(2, |byte| *byte == b'\n');
    let (Some(header), Some(payload)) = (parts.next(), parts.next()) else {
        return damaged("it has no header");
    };
    match serde_json::from_slice::<Header>(header) {
        Ok(header) if header.payload_bytes == payload.len() => Ok((header, payload)),
        Ok(_) => damaged("its payload has another length than its header says"),
        Err(error) => damaged(&format!("its header: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spool::record::ATTRIBUTES_BYTES_MAX;

    const MESSAGE: Message<'_> = Message {
        topic: "sensors/\"é\n",
        attributes: b"\x01\x01\xFF",
        payload: b"21.5\n\xFF",
        qos: 2,
        retain: true,
        received: Timestamp {
            unix_ms: 1_795_421_109_000,
            clock_set: true,
        },
    };
    const NOW: Timestamp = Timestamp {
        unix_ms: 42,
        clock_set: false,
    };

    fn letter(seq: Seq, message: &Message<'_>) -> Letter {
        let reason = Reason {
            why: "denied",
            words: "not authorised".to_owned(),
        };
        Letter::new(seq, message, "site/data", reason, NOW)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let letter = letter(7, &MESSAGE);
        let (header, payload) = decode(&letter.bytes).unwrap();
        assert_eq!(payload, MESSAGE.payload);
        assert_eq!((header.seq, header.qos, header.retain), (7, 2, true));
        assert_eq!(header.topic, MESSAGE.topic);
        assert_eq!(header.attributes, MESSAGE.attributes);
        assert_eq!(header.cloud_topic, "site/data");
        assert_eq!(
            (header.why.as_str(), header.received_clock_set),
            ("denied", true)
        );
    }

    #[test]
    fn the_name_follows_from_the_message_and_tells_messages_with_one_number_apart() {
        let name = letter(7, &MESSAGE).name;
        assert_eq!(name, letter(7, &MESSAGE).name);
        assert!(name.starts_with("1795421109000-7-") && name.ends_with(SUFFIX));
        let other = Message {
            payload: b"21.6",
            ..MESSAGE
        };
        assert_ne!(name, letter(7, &other).name);
        let other = Message {
            attributes: b"\x01\x00",
            ..MESSAGE
        };
        assert_ne!(name, letter(7, &other).name);
    }

    #[test]
    fn a_letter_from_before_messages_had_attributes_is_read() {
        let header = r#"{"seq":7,"topic":"t","cloud_topic":"c","qos":1,"retain":false,"received_unix_ms":1,"received_clock_set":false,"dead_lettered_unix_ms":2,"dead_lettered_clock_set":false,"why":"denied","reason":"no","payload_bytes":1}"#;
        let rest = format!("{header}\nx");
        let crc = crc32fast::hash(rest.as_bytes());
        let file = format!("{MAGIC}{crc:08x}\n{rest}");
        let (header, payload) = decode(file.as_bytes()).unwrap();
        assert_eq!((header.attributes.len(), payload), (0, &b"x"[..]));
        let plain = Message {
            attributes: b"",
            ..MESSAGE
        };
        let written = letter(7, &plain).bytes;
        assert!(!String::from_utf8_lossy(&written).contains("attributes"));
    }

    #[test]
    fn the_largest_message_fits_into_a_file() {
        let topic = "\u{1}".repeat(65_535);
        let attributes = vec![0; ATTRIBUTES_BYTES_MAX];
        let payload = vec![0; MESSAGE_BYTES_MAX - topic.len() - attributes.len()];
        let largest = Message {
            topic: &topic,
            attributes: &attributes,
            payload: &payload,
            ..MESSAGE
        };
        let len = letter(1, &largest).len_bytes();
        assert!(len < FILE_BYTES_MAX, "{len}");
    }

    proptest! {
        #[test]
        fn a_letter_cut_anywhere_or_with_any_byte_changed_is_damaged(
            at in any::<prop::sample::Index>(),
            change in 1_u8..,
        ) {
            let sound = letter(7, &MESSAGE).bytes;
            let index = at.index(sound.len());
            prop_assert!(decode(&sound[..index]).is_err());
            let mut changed = sound.clone();
            changed[index] ^= change;
            // The checksum's own digits have a second way to be written.
            prop_assume!(!changed.eq_ignore_ascii_case(&sound));
            prop_assert!(decode(&changed).is_err());
        }
    }
}
