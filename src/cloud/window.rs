//! The publishes that the cloud has not acknowledged yet. Pure.
//!
//! Packet identifiers are given in turn, and a slot is freed only when it is the oldest: so all identifiers in
//! use lie in one stretch no longer than the limit and cannot collide, and an acknowledgement is found by
//! subtraction. A message that was acknowledged out of turn is settled at once; only its slot waits.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Unacknowledged publishes at most: AWS IoT Core's quota per connection.
pub const IN_FLIGHT_MAX: usize = 100;
/// Unacknowledged bytes at most, so that a slow link is not filled for minutes ahead: one second of AWS IoT
/// Core's throughput quota of 512 KiB/s. One message is always allowed.
pub const IN_FLIGHT_BYTES_MAX: usize = 512 * 1024;
/// The cloud must acknowledge something within this time...
const PUBACK_TIMEOUT: Duration = Duration::from_secs(10);
/// ...and the time that what is in flight needs at this speed, bytes per second: a slow link is not a dead one.
const SLOWEST_LINK_BYTES_PER_S: u32 = 4 * 1024;
/// One acknowledgement that never comes, while others do, was lost after this time.
const LOST_PUBACK_TIMEOUT: Duration = Duration::from_mins(1);

/// The packet identifiers from this one on are never given by the window: SUBSCRIBE and what is not a message of the
/// spool have them.
pub const FIRST_ERRAND_PACKET_ID: u16 = u16::MAX - 15;
/// How many identifiers there are for messages, from 1 on.
const PACKET_IDS: u16 = FIRST_ERRAND_PACKET_ID - 1;

#[derive(Debug)]
struct Slot<T> {
    /// Taken out by the acknowledgement.
    message: Option<T>,
    bytes: usize,
    /// Bytes in flight when it was sent, its own included: it came behind all of them.
    bytes_through: usize,
    sent: Instant,
}

/// What an acknowledgement meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledged<T> {
    /// It is for this message.
    Message {
        /// What [`Window::open`] was given.
        message: T,
        /// Its size, as it was told.
        bytes: usize,
    },
    /// It was acknowledged before.
    Again,
    /// No message has this packet identifier.
    Unknown,
}

/// The in-flight window of one connection: of messages `T`, whatever they are.
#[derive(Debug)]
pub struct Window<T> {
    slots: VecDeque<Slot<T>>,
    /// Unacknowledged publishes at most, from 1 to [`IN_FLIGHT_MAX`].
    limit: usize,
    /// Packet identifier of the first slot; 1 to [`PACKET_IDS`].
    first_packet_id: u16,
    bytes: usize,
    last_acknowledged: Option<Instant>,
}

impl<T> Window<T> {
    /// An empty window for up to `limit` messages, as far as that is between 1 and [`IN_FLIGHT_MAX`].
    pub fn new(limit: usize) -> Self {
        Window {
            slots: VecDeque::with_capacity(IN_FLIGHT_MAX),
            limit: limit.clamp(1, IN_FLIGHT_MAX),
            first_packet_id: 1,
            bytes: 0,
            last_acknowledged: None,
        }
    }

    /// How many more messages may be sent now.
    pub fn room(&self) -> usize {
        if self.bytes >= IN_FLIGHT_BYTES_MAX {
            return 0;
        }
        self.limit.saturating_sub(self.slots.len())
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Places taken: unacknowledged publishes, and those acknowledged behind one that is not.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The messages in flight, in the order in which they were sent.
    pub fn messages(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.message.as_ref())
    }

    /// Takes `message` of `bytes` bytes and returns its packet identifier. Not to be called without
    /// [`Window::room`].
    pub fn open(&mut self, message: T, bytes: usize, now: Instant) -> u16 {
        let packet_id = nth_packet_id(self.first_packet_id, self.slots.len());
        self.bytes += bytes;
        self.slots.push_back(Slot {
            message: Some(message),
            bytes,
            bytes_through: self.bytes,
            sent: now,
        });
        packet_id
    }

    /// Notes the acknowledgement of `packet_id`.
    pub fn acknowledge(&mut self, packet_id: u16, now: Instant) -> Acknowledged<T> {
        let index = distance(self.first_packet_id, packet_id);
        let Some(slot) = self
            .slots
            .get_mut(index)
            .filter(|_| (1..=PACKET_IDS).contains(&packet_id))
        else {
            return Acknowledged::Unknown;
        };
        let Some(message) = slot.message.take() else {
            return Acknowledged::Again;
        };
        let bytes = slot.bytes;
        self.bytes -= bytes;
        self.last_acknowledged = Some(now);
        while (self.slots.front()).is_some_and(|slot| slot.message.is_none()) {
            self.slots.pop_front();
            self.first_packet_id = nth_packet_id(self.first_packet_id, 1);
        }
        Acknowledged::Message { message, bytes }
    }

    /// How long the slowest link that is put up with takes for what is in flight.
    pub fn slow_link_time(&self) -> Duration {
        slow_link_time(self.bytes)
    }

    /// When the connection is to be given up unless an acknowledgement comes first.
    pub fn deadline(&self) -> Option<Instant> {
        let oldest = self.slots.front()?;
        let progress = self
            .last_acknowledged
            .map_or(oldest.sent, |at| at.max(oldest.sent));
        let silent = progress + PUBACK_TIMEOUT + self.slow_link_time();
        let lost = oldest.sent + LOST_PUBACK_TIMEOUT + slow_link_time(oldest.bytes_through);
        Some(silent.min(lost))
    }
}

fn slow_link_time(bytes: usize) -> Duration {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    Duration::from_secs(u64::from(bytes / SLOWEST_LINK_BYTES_PER_S))
}

/// The identifier `n` places behind `first`, wrapping from [`PACKET_IDS`] to 1.
fn nth_packet_id(first: u16, n: usize) -> u16 {
    let zero_based = (usize::from(first) - 1 + n) % usize::from(PACKET_IDS);
    u16::try_from(zero_based + 1).unwrap_or(1)
}

/// How many places `packet_id` is behind `first`.
fn distance(first: u16, packet_id: u16) -> usize {
    let ids = usize::from(PACKET_IDS);
    (usize::from(packet_id) + ids - usize::from(first)) % ids
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Instant {
        Instant::now()
    }

    fn message(message: u64) -> Acknowledged<u64> {
        Acknowledged::Message { message, bytes: 1 }
    }

    #[test]
    fn an_acknowledgement_finds_its_message_in_any_order() {
        let mut window = Window::new(IN_FLIGHT_MAX);
        let ids: Vec<u16> = (10..14).map(|seq| window.open(seq, 1, now())).collect();
        assert_eq!(ids, [1, 2, 3, 4]);
        assert_eq!(window.acknowledge(3, now()), message(12));
        assert_eq!(window.acknowledge(3, now()), Acknowledged::Again);
        assert_eq!(window.acknowledge(1, now()), message(10));
        assert_eq!(window.acknowledge(1, now()), Acknowledged::Unknown);
        assert_eq!(window.acknowledge(5, now()), Acknowledged::Unknown);
        assert_eq!(window.acknowledge(0, now()), Acknowledged::Unknown);
        for errand in [FIRST_ERRAND_PACKET_ID, u16::MAX] {
            let known = window.acknowledge(errand, now());
            assert_eq!(known, Acknowledged::Unknown);
        }
        assert_eq!(window.acknowledge(2, now()), message(11));
        assert_eq!(window.acknowledge(4, now()), message(13));
        assert!(window.is_empty());
    }

    #[test]
    fn no_more_than_the_limit_is_in_flight_and_only_the_oldest_makes_room() {
        let mut window = Window::new(IN_FLIGHT_MAX);
        for seq in 0..IN_FLIGHT_MAX as u64 {
            assert!(window.room() > 0);
            window.open(seq, 1, now());
        }
        assert_eq!(window.room(), 0);
        window.acknowledge(2, now());
        assert_eq!(window.room(), 0);
        window.acknowledge(1, now());
        assert_eq!(window.room(), 2);
    }

    #[test]
    fn bytes_are_limited_too_but_one_message_always_goes() {
        let mut window = Window::new(IN_FLIGHT_MAX);
        assert!(window.room() > 0);
        let id = window.open(1, 2 * IN_FLIGHT_BYTES_MAX, now());
        assert_eq!(window.room(), 0);
        window.acknowledge(id, now());
        assert_eq!(window.room(), IN_FLIGHT_MAX);
    }

    #[test]
    fn identifiers_wrap_around_zero_and_never_collide() {
        let mut window = Window::new(IN_FLIGHT_MAX);
        let held = window.open(0, 1, now());
        window.acknowledge(held, now());
        for seq in 1..200_000 {
            let older = window.open(seq, 1, now());
            let newer = window.open(seq + 1_000_000, 1, now());
            assert!(older != 0 && newer != 0 && older != newer);
            assert!(older.max(newer) < FIRST_ERRAND_PACKET_ID);
            assert_eq!(window.acknowledge(newer, now()), message(seq + 1_000_000));
            assert_eq!(window.acknowledge(older, now()), message(seq));
        }
    }

    #[test]
    fn silence_ends_the_connection_and_every_acknowledgement_gives_more_time() {
        let mut window = Window::new(IN_FLIGHT_MAX);
        let start = now();
        assert_eq!(window.deadline(), None);
        window.open(1, 1, start);
        let second = window.open(2, 1, start);
        assert_eq!(window.deadline(), Some(start + PUBACK_TIMEOUT));
        let later = start + Duration::from_secs(9);
        window.acknowledge(second, later);
        assert_eq!(window.deadline(), Some(later + PUBACK_TIMEOUT));
        let much_later = start + Duration::from_secs(55);
        let third = window.open(3, 1, much_later);
        window.acknowledge(third, much_later);
        assert_eq!(window.deadline(), Some(start + LOST_PUBACK_TIMEOUT));
    }

    #[test]
    fn much_in_flight_is_given_the_time_a_slow_link_needs() {
        let mut window = Window::new(IN_FLIGHT_MAX);
        let start = now();
        window.open(1, 128 * 1024, start);
        assert_eq!(
            window.deadline(),
            Some(start + PUBACK_TIMEOUT + Duration::from_secs(32))
        );
    }

    #[test]
    fn a_message_at_the_end_of_a_full_window_is_given_the_time_of_all_before_it() {
        let mut window = Window::new(IN_FLIGHT_MAX);
        let start = now();
        let ids: Vec<u16> = (0..4)
            .map(|seq| window.open(seq, 128 * 1024, start))
            .collect();
        let later = start + Duration::from_secs(100);
        for id in &ids[..3] {
            window.acknowledge(*id, later);
        }
        assert_eq!(
            window.deadline(),
            Some(later + PUBACK_TIMEOUT + Duration::from_secs(32))
        );
    }
}
