//! Wrong passwords, by the address they come from: each is answered later than the one before, so that guessing takes
//! long. Pure. A right one is never held up.

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

#[derive(Debug, Default)]
pub(super) struct Guesses(HashMap<IpAddr, (u32, Instant)>);

impl Guesses {
    /// A wrong password came from `address`. Returns for how long its answer is held back.
    pub(super) fn wrong(&mut self, address: IpAddr, now: Instant) -> Duration {
        if !self.0.contains_key(&address) && self.0.len() >= ADDRESSES_MAX {
            self.forget_one();
        }
        let (count, last) = self.0.entry(address).or_insert((0, now));
        if now.duration_since(*last) >= FORGOTTEN_AFTER {
            *count = 0;
        }
        let doublings = std::mem::replace(count, count.saturating_add(1));
        *last = now;
        let factor = 2_u32.checked_pow(doublings).unwrap_or(u32::MAX);
        DELAY_MIN.saturating_mul(factor).min(DELAY_MAX)
    }

    fn forget_one(&mut self) {
        let quietest = self.0.iter().min_by_key(|(_, (_, last))| *last);
        if let Some(address) = quietest.map(|(address, _)| *address) {
            self.0.remove(&address);
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
    fn many_addresses_take_no_more_memory() {
        let (mut guesses, start) = (Guesses::default(), Instant::now());
        for number in 0..10_000 {
            let now = start + Duration::from_millis(number.into());
            guesses.wrong(address(number), now);
        }
        assert_eq!(guesses.0.len(), ADDRESSES_MAX);
        let now = start + Duration::from_secs(10);
        assert_eq!(guesses.wrong(address(9_999), now), 2 * DELAY_MIN);
    }
}
