//! Finding the next record behind damage. Pure.
//!
//! What stands there may look like the beginnings of many long records, by chance or by the will of whoever published it,
//! and each would have half a megabyte summed up. When that was done in vain a few times, sums are made that serve all.

use crc32fast::Hasher;

use super::{Decoded, MAGIC, PREFIX_BYTES, RECORD_BYTES_MAX, Salt, checksum, decode_with};

/// How many bytes are summed up for single records before sums are made for all.
const DIRECT_BYTES_MAX: usize = 4 * RECORD_BYTES_MAX;
/// How far apart the sums are.
const STEP_BYTES: usize = 1024;

/// Where, at or after `from`, the next valid record starts: of those with this salt, if one is given.
pub fn find_next(bytes: &[u8], from: usize, salt: Option<Salt>) -> Option<usize> {
    find(bytes, from, salt, DIRECT_BYTES_MAX)
}

fn find(bytes: &[u8], from: usize, salt: Option<Salt>, direct_bytes_max: usize) -> Option<usize> {
    let (mut at, mut direct_bytes, mut sums) = (from, 0, None);
    loop {
        let rest = bytes.get(at..)?;
        let step = rest.windows(MAGIC.len()).position(|w| w == MAGIC)?;
        at += step;
        let decoded = decode_with(bytes.get(at..)?, |frame| {
            if direct_bytes < direct_bytes_max {
                direct_bytes += frame.len();
                return checksum(frame);
            }
            let sums = sums.get_or_insert_with(|| Sums::new(bytes));
            sums.of_frame(at, frame.len())
        });
        if let Decoded::Record { record, .. } = decoded
            && (salt.is_none() || salt == record.salt)
        {
            return Some(at);
        }
        at += 1;
    }
}

/// The sums of all beginnings of some bytes, as far as they end at a step.
struct Sums<'a> {
    bytes: &'a [u8],
    marks: Vec<u32>,
}

impl<'a> Sums<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut hasher = Hasher::new();
        let mut marks = vec![0];
        for step in bytes.chunks_exact(STEP_BYTES) {
            hasher.update(step);
            marks.push(hasher.clone().finalize());
        }
        Sums { bytes, marks }
    }

    /// What [`checksum`] says of the `len` bytes from `at` on.
    fn of_frame(&self, at: usize, len: usize) -> Option<[u8; 4]> {
        let mut hasher = Hasher::new();
        hasher.update(self.bytes.get(at..)?.get(..8)?);
        let (body, end) = (at + PREFIX_BYTES, at + len);
        let sum = self.between(body, end)?;
        hasher.combine(&Hasher::new_with_initial_len(sum, (end - body) as u64));
        Some(hasher.finalize().to_le_bytes())
    }

    /// The sum of `begin..end`: that of all until `end`, without what the bytes before `begin` have to do with it.
    fn between(&self, begin: usize, end: usize) -> Option<u32> {
        let mut before = Hasher::new_with_initial(self.until(begin)?);
        before.combine(&Hasher::new_with_initial_len(0, (end - begin) as u64));
        Some(before.finalize() ^ self.until(end)?)
    }

    fn until(&self, end: usize) -> Option<u32> {
        let mark = end / STEP_BYTES;
        let mut hasher = Hasher::new_with_initial(*self.marks.get(mark)?);
        hasher.update(self.bytes.get(mark * STEP_BYTES..end)?);
        Some(hasher.finalize())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{HEADER_BYTES, encode};
    use super::*;
    use crate::spool::tests::message;

    /// Beginnings of records of `len` bytes, one after the other.
    fn lures(count: usize, len: u32) -> Vec<u8> {
        let body_len = len - u32::try_from(PREFIX_BYTES).unwrap();
        let lure = [&b"CR\0\0"[..], &body_len.to_le_bytes(), &[0; 24]].concat();
        assert_eq!(lure.len(), HEADER_BYTES);
        lure.repeat(count)
    }

    #[test]
    fn a_record_behind_many_lures_is_found() {
        let mut bytes = lures(16_000, 500_000);
        let behind = bytes.len();
        bytes.extend(encode(7, &message(b"there"), None).unwrap());
        bytes.extend(lures(16_000, 500_000));
        assert_eq!(find_next(&bytes, 1, None), Some(behind));
        assert_eq!(find_next(&bytes, behind + 1, None), None);
    }

    proptest! {
        #[test]
        fn sums_for_all_say_what_single_sums_say(
            before in 0..3_000_usize,
            payload in proptest::collection::vec(any::<u8>(), 0..3_000),
            flip in any::<Option<prop::sample::Index>>(),
            from in 0..200_usize,
        ) {
            let mut bytes = lures(before / 100, 2_500);
            bytes.extend(vec![b'C'; before]);
            bytes.extend(encode(7, &message(&payload), None).unwrap());
            bytes.extend(lures(3, 100));
            if let Some(flip) = flip {
                let at = flip.index(bytes.len());
                bytes[at] ^= 1;
            }
            prop_assert_eq!(find(&bytes, from, None, 0), find(&bytes, from, None, usize::MAX));
        }
    }
}
