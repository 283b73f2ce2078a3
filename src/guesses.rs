//! Wrong passwords, by the address they come from: each is answered later than the one before, so that guessing takes
//! long. Pure. What is held back is the answer; whoever asks again meanwhile, and does not wait for it, learns nothing if
//! [`Guesses::held`] is kept to for right ones, too.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

const DELAY_MIN: Duration = Duration::from_millis(100);
/// Half of the time that a client has to connect.
const DELAY_MAX: Duration = Duration::from_secs(5);
/// An address that named no wrong password for so long begins anew.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(5);
/// How many addresses are remembered. One more takes the place of the one that was quiet longest.
const ADDRESSES_MAX: usize = 256;

/// The wrong ones of an address.
#[derive(Debug)]
struct Wrong {
    count: u32,
    last: Instant,
    /// How long the answer to the last is held back.
    delay: Duration,
}

#[derive(Debug)]
pub(crate) struct Guesses {
    delay_max: Duration,
    by_address: HashMap<IpAddr, Wrong>,
}

impl Default for Guesses {
    fn default() -> Self {
        Guesses::new(DELAY_MAX)
    }
}

impl Guesses {
    /// None so far. No answer will be held back for longer than `delay_max`.
    pub(crate) fn new(delay_max: Duration) -> Self {
        Guesses {
            delay_max,
            by_address: HashMap::new(),
        }
    }

    /// A wrong password came from `address`. Returns for how long its answer is held back.
    pub(crate) fn wrong(&mut self, address: IpAddr, now: Instant) -> Duration {
        if !self.by_address.contains_key(&address) && self.by_address.len() >= ADDRESSES_MAX {
            self.forget_one();
        }
        let wrong = self.by_address.entry(address).or_insert(Wrong {
            count: 0,
            last: now,
            delay: Duration::ZERO,
        });
        if now.duration_since(wrong.last) >= FORGOTTEN_AFTER {
            wrong.count = 0;
        }
        let factor = 2_u32.checked_pow(wrong.count).unwrap_or(u32::MAX);
        wrong.count = wrong.count.saturating_add(1);
        wrong.last = now;
        wrong.delay = DELAY_MIN.saturating_mul(factor).min(self.delay_max);
        wrong.delay
    }

    /// For how long the answer to the last wrong password of `address` is still held back.
    pub(crate) fn held(&self, address: IpAddr, now: Instant) -> Duration {
        let wrong = self.by_address.get(&address);
        wrong.map_or(Duration::ZERO, |wrong| {
            (wrong.last + wrong.delay).saturating_duration_since(now)
        })
    }

    fn forget_one(&mut self) {
        let quietest = self.by_address.iter().min_by_key(|(_, wrong)| wrong.last);
        if let Some(address) = quietest.map(|(address, _)| *address) {
            self.by_address.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from(number).into()
    }

    #[test]
    fn each_wrong_password_of_an_address_is_answered_later_until_it_has_been_quiet() {
        let (mut guesses, start) = (Guesses::default(), Instant::now());
        let delays: Vec<_> = (0..8).map(|_| guesses.wrong(address(1), start)).collect();
        let expected = [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000];
        assert_eq!(delays, expected.map(Duration::from_millis));
        assert_eq!(guesses.wrong(address(2), start), DELAY_MIN);
        let later = start + FORGOTTEN_AFTER;
        assert_eq!(guesses.wrong(address(1), later), DELAY_MIN);
        for _ in 0..100 {
            guesses.wrong(address(1), later);
        }
        assert_eq!(guesses.wrong(address(1), later), DELAY_MAX);
    }

    #[test]
    fn whoever_comes_back_from_there_waits_for_what_is_held_back_and_others_do_not() {
        let longest = Duration::from_millis(300);
        let (mut guesses, start) = (Guesses::new(longest), Instant::now());
        assert_eq!(guesses.held(address(1), start), Duration::ZERO);
        for _ in 0..3 {
            guesses.wrong(address(1), start);
        }
        assert_eq!(guesses.held(address(1), start), longest);
        let soon = start + Duration::from_millis(100);
        assert_eq!(guesses.held(address(1), soon), Duration::from_millis(200));
        assert_eq!(guesses.held(address(2), soon), Duration::ZERO);
        assert_eq!(guesses.held(address(1), start + longest), Duration::ZERO);
    }

    #[test]
    fn many_addresses_take_no_more_memory() {
        let (mut guesses, start) = (Guesses::default(), Instant::now());
        for number in 0..10_000 {
            let now = start + Duration::from_millis(number.into());
            guesses.wrong(address(number), now);
        }
        assert_eq!(guesses.by_address.len(), ADDRESSES_MAX);
        let now = start + Duration::from_secs(10);
        assert_eq!(guesses.wrong(address(9_999), now), 2 * DELAY_MIN);
    }
}
