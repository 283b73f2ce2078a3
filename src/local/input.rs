//! What was read from one client and not handled yet, in a buffer no larger than need be. Pure.
//!
//! Invariant: it takes at most `Limits::buffer_bytes_max`, unless there is room for a large packet.

use bytes::{Buf, BytesMut};

/// How much is read at least, for a quiet client. One that keeps filling its buffer is read from in larger pieces.
const READ_BYTES_MIN: usize = 2 * 1024;

/// See the module.
pub(super) struct Input {
    bytes: BytesMut,
    /// How large the memory is that `bytes` is in.
    allocated_bytes: usize,
    /// How much to read next time.
    read_bytes: usize,
    bytes_max: usize,
}

impl Input {
    /// With what came behind CONNECT. It is copied, so that the CONNECT is not kept.
    pub(super) fn new(rest: &[u8], bytes_max: usize) -> Self {
        Input {
            bytes: BytesMut::from(rest),
            allocated_bytes: rest.len(),
            read_bytes: READ_BYTES_MIN,
            bytes_max,
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where to read to, after [`Input::grow`].
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// So many bytes at the front were handled.
    pub(super) fn handled(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    /// Whether a packet of which so many bytes are missing fits only where there is room for large ones.
    pub(super) fn is_large_with(&self, missing: usize) -> bool {
        self.bytes.len() + missing > self.bytes_max
    }

    /// Whether it takes more than the usual now.
    pub(super) fn is_large(&self) -> bool {
        self.allocated_bytes > self.bytes_max
    }

    /// Makes room for `missing` bytes, and for more if that is usual.
    pub(super) fn grow(&mut self, missing: usize) {
        let len = self.bytes.len();
        let usual = self.read_bytes.min(self.bytes_max.saturating_sub(len));
        let more = missing.max(usual).max(1);
        if self.bytes.capacity() - len >= more || self.bytes.try_reclaim(more) {
            return;
        }
        self.move_to(len + more);
    }

    /// Gives back what the usual does not need, if it can.
    pub(super) fn shrink(&mut self) {
        if self.is_large() && self.bytes.len() <= self.bytes_max {
            self.move_to(self.bytes.len());
        }
    }

    fn move_to(&mut self, bytes: usize) {
        let mut moved = BytesMut::with_capacity(bytes);
        moved.extend_from_slice(&self.bytes);
        (self.bytes, self.allocated_bytes) = (moved, bytes);
    }

    /// So many bytes came: whether there is much to read decides how much is read next time.
    pub(super) fn was_read(&mut self, count: usize) {
        let filled = self.bytes.len() == self.bytes.capacity();
        self.read_bytes = if filled {
            (self.read_bytes * 2).min(self.bytes_max)
        } else if count < self.read_bytes / 4 {
            (self.read_bytes / 2).max(READ_BYTES_MIN)
        } else {
            self.read_bytes
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(input: &mut Input) -> usize {
        let count = input.bytes.capacity() - input.bytes.len();
        input.bytes.resize(input.bytes.capacity(), 7);
        input.was_read(count);
        count
    }

    #[test]
    fn it_grows_with_what_comes_and_never_beyond_the_limit() {
        let mut input = Input::new(b"", 10_000);
        let mut read = Vec::new();
        for _ in 0..5 {
            input.grow(1);
            read.push(fill(&mut input));
            input.handled(input.bytes.len() - 1);
        }
        assert_eq!(read[..2], [2_048, 4_096]);
        assert!(read[4] < 10_000 && !input.is_large(), "{read:?}");
        input.grow(9_999);
        assert!(!input.is_large() && !input.is_large_with(9_999) && input.is_large_with(10_000));
    }

    #[test]
    fn a_large_packet_gets_what_it_needs_and_it_is_given_back() {
        let mut input = Input::new(&[1; 10], 100);
        input.grow(200);
        assert!(input.is_large());
        assert_eq!(fill(&mut input), 200);
        input.shrink();
        assert!(input.is_large(), "it is needed");
        input.handled(205);
        input.shrink();
        assert!(!input.is_large());
        assert_eq!(input.bytes(), [7; 5]);
    }
}
