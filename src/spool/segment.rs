//! A segment's name and header. Pure.
//!
//! A segment is a file of records in rising sequence order. Its name is the sequence number of its
//! first record, so a sorted listing is the order of arrival. Sequence numbers may have gaps: a message
//! that the cloud accepted before it was written is never written.
//!
//! ```text
//! offset  size  field
//!      0     8  magic, "CRELAYSP"
//!      8     2  format version
//!     10     2  length of this header
//!     12     4  CRC-32 (IEEE) of bytes 0..12 and 16..32
//!     16     8  sequence number of the first record
//!     24     8  records written to disk before this segment, since the spool was made
//! ```
//!
//! Behind the header stands an opening record, which is no message: its number is 0, which none has, and it brings the
//! salt of the records behind it ([`Salt`]). Relays that know of no salt pass over it, and theirs have none.
//!
//! The running count in the header tells how many records any older segment holds without reading
//! it: the difference of two headers. So the backlog is known at once after a start, and how many
//! records a damaged segment lost is known exactly.

use crate::clock::Timestamp;

use super::record::{self, RECORD_BYTES_MAX, SALT_FIELD_BYTES, SEQ_MAX, Salt};
use super::{Message, Seq};

/// Length of the header, in bytes.
pub(super) const HEADER_BYTES: usize = 32;
/// The number of the opening record.
pub(super) const OPENING_SEQ: Seq = 0;
/// Length of the header and the opening record, in bytes.
pub(super) const OPENING_BYTES: usize = HEADER_BYTES + record::HEADER_BYTES + SALT_FIELD_BYTES;
/// Size at which a segment is closed unless the options say otherwise, in bytes. Small, so that
/// space is given back soon and a start reads little; large enough that a new file is rare.
pub const SEGMENT_BYTES: u64 = 1024 * 1024;

/// The longest segment, in bytes: a record begins before the size at which a segment is closed.
pub(super) const LEN_MAX: u64 = SEGMENT_BYTES + RECORD_BYTES_MAX as u64;

const MAGIC: [u8; 8] = *b"CRELAYSP";
/// The format this version writes and reads.
pub const FORMAT_VERSION: u16 = 1;
const SUFFIX: &str = ".seg";

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Sequence number of the first record.
    pub(super) first_seq: Seq,
    /// Records written to disk before this segment, since the spool was made.
    pub(super) records_before: u64,
}

/// Which numbers can stand where in a segment: they rise, none is below the segment's first, none reaches the
/// next segment. A record with any other number is passed over, by everyone who reads the segment: it stands
/// inside a damaged record, say, or somebody put it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// The least number that can stand here.
    pub(super) from: Seq,
    /// One more than the greatest; `None` if nothing tells.
    pub(super) end: Option<Seq>,
}

impl Order {
    /// Whether a record numbered `seq` belongs here. If so, greater ones follow it.
    pub(super) fn admits(&mut self, seq: Seq) -> bool {
        let admitted = seq >= self.from && self.end.is_none_or(|end| seq < end);
        if admitted {
            self.from = seq + 1;
        }
        admitted
    }
}

/// Why a header cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// Too short, wrong magic or wrong checksum.
    Damaged,
    /// Sound, but of a version this program does not know.
    Version(u16),
}

/// The file name of the segment whose first record is `first_seq`.
pub(super) fn name(first_seq: Seq) -> String {
    format!("{first_seq:016x}{SUFFIX}")
}

/// The sequence number in a segment's file name, or `None` if the file is not a segment.
pub(super) fn first_seq(name: &str) -> Option<Seq> {
    let digits = name.strip_suffix(SUFFIX)?;
    if digits.len() != 16 {
        return None;
    }
    let first_seq = Seq::from_str_radix(digits, 16).ok()?;
    (first_seq < SEQ_MAX).then_some(first_seq)
}

impl Header {
    /// The header as bytes.
    pub(super) fn encode(self) -> Vec<u8> {
        let header_len = u16::try_from(HEADER_BYTES).unwrap_or(u16::MAX);
        let mut start = Vec::with_capacity(HEADER_BYTES);
        start.extend_from_slice(&MAGIC);
        start.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        start.extend_from_slice(&header_len.to_le_bytes());
        let counts = [
            self.first_seq.to_le_bytes(),
            self.records_before.to_le_bytes(),
        ]
        .concat();
        let crc = checksum(&start, &counts);
        start.extend_from_slice(&crc);
        start.extend_from_slice(&counts);
        start
    }

    /// What a segment begins with: the header, and the opening record with the `salt`.
    pub(super) fn open(self, salt: Salt) -> Vec<u8> {
        let mut bytes = self.encode();
        let nothing = Message {
            topic: "",
            attributes: &[],
            payload: &[],
            qos: 0,
            retain: false,
            received: Timestamp {
                unix_ms: 0,
                clock_set: false,
            },
        };
        bytes.extend(record::encode(OPENING_SEQ, &nothing, Some(salt)).unwrap_or_default());
        bytes
    }

    /// Reads a header from the start of `bytes`.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let fields = || {
            let (start, rest) = bytes.split_first_chunk::<12>()?;
            let (crc, rest) = rest.split_first_chunk::<4>()?;
            let (counts, _) = rest.split_first_chunk::<16>()?;
            let (first_seq, records_before) = counts.split_first_chunk::<8>()?;
            let sound = start.starts_with(&MAGIC) && checksum(start, counts) == *crc;
            sound.then_some((*start, *first_seq, records_before.first_chunk().copied()?))
        };
        let (start, first_seq, records_before) = fields().ok_or(HeaderError::Damaged)?;
        let [.., v0, v1, _, _] = start;
        let version = u16::from_le_bytes([v0, v1]);
        if version != FORMAT_VERSION {
            return Err(HeaderError::Version(version));
        }
        let header = Header {
            first_seq: u64::from_le_bytes(first_seq),
            records_before: u64::from_le_bytes(records_before),
        };
        if header.first_seq.max(header.records_before) > SEQ_MAX {
            return Err(HeaderError::Damaged);
        }
        Ok(header)
    }
}

fn checksum(start: &[u8], counts: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(start);
    hasher.update(counts);
    hasher.finalize().to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        first_seq: 0x0102_0304_0506,
        records_before: 99,
    };

    #[test]
    fn a_header_reads_back_and_every_flipped_bit_is_noticed() {
        let good = HEADER.encode();
        assert_eq!(good.len(), HEADER_BYTES);
        assert_eq!(Header::decode(&good), Ok(HEADER));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bad), Err(HeaderError::Damaged), "bit {bit}");
        }
    }

    #[test]
    fn only_rising_numbers_of_the_segment_itself_belong_into_it() {
        let mut order = Order {
            from: 10,
            end: Some(20),
        };
        let admitted: Vec<Seq> = [9, 10, 10, 25, 13, 12, 19, 20]
            .into_iter()
            .filter(|seq| order.admits(*seq))
            .collect();
        assert_eq!(admitted, [10, 13, 19]);
        order.end = None;
        assert!(order.admits(20) && !order.admits(20));
    }

    #[test]
    fn another_version_is_told_apart_from_damage() {
        let mut bytes = HEADER.encode();
        bytes[8] = 9;
        let crc = checksum(&bytes[..12], &bytes[16..]);
        bytes[12..16].copy_from_slice(&crc);
        assert_eq!(Header::decode(&bytes), Err(HeaderError::Version(9)));
    }

    #[test]
    fn names_sort_in_order_of_arrival_and_read_back() {
        assert!(name(9) < name(10) && name(0xFFFF) < name(0x1_0000));
        assert_eq!(first_seq(&name(77)), Some(77));
        assert_eq!(first_seq("lock"), None);
        assert_eq!(first_seq("12.seg"), None);
    }
}
