//! Which addresses have connections, and how often they make new ones: so that one can take neither all places nor all
//! time. Pure.
//!
//! Programs on the device itself are not held to it: they share one address, and one of them would shut the others out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

use super::limits::Limits;

/// How many addresses are remembered: those that have connections, and those that had some a moment ago.
const ADDRESSES_MAX: usize = 1_024;

/// Why an address gets no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It makes new ones too often.
    TooOften,
    /// It has too many already.
    AddressHasMany,
    /// Too many are there in all, or too many addresses have some.
    TooMany,
}

#[derive(Debug)]
struct Caller {
    connections: usize,
    /// When its connections would be paid for, if each cost the time that `Limits::connects_per_s_max` gives it.
    paid: Instant,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Callers(HashMap<IpAddr, Caller>);

impl Callers {
    /// One more connection from `address`, which counts as `cost` ones.
    pub(super) fn admit(
        &mut self,
        address: IpAddr,
        cost: u32,
        limits: &Limits,
        now: Instant,
    ) -> Result<(), Refused> {
        let Some(address) = whose(address) else {
            return Ok(());
        };
        if !self.0.contains_key(&address) && self.0.len() >= ADDRESSES_MAX {
            self.0
                .retain(|_, caller| caller.connections > 0 || caller.paid > now);
            if self.0.len() >= ADDRESSES_MAX {
                return Err(Refused::TooMany);
            }
        }
        let caller = self.0.entry(address).or_insert(Caller {
            connections: 0,
            paid: now,
        });
        let each = Duration::from_secs(1) / limits.connects_per_s_max.max(1);
        let paid = caller.paid.max(now) + each * cost;
        if paid > now + each * limits.connects_burst_max {
            return Err(Refused::TooOften);
        }
        if caller.connections >= limits.address_connections_max {
            return Err(Refused::AddressHasMany);
        }
        caller.paid = paid;
        caller.connections += 1;
        Ok(())
    }

    /// One that was admitted has ended.
    pub(super) fn left(&mut self, address: IpAddr) {
        let caller = whose(address).and_then(|address| self.0.get_mut(&address));
        if let Some(caller) = caller {
            caller.connections = caller.connections.saturating_sub(1);
        }
    }
}

/// Who is behind an address; `None` for the device itself. An IPv6 host has a whole network of 64 bits.
fn whose(address: IpAddr) -> Option<IpAddr> {
    let address = address.to_canonical();
    match address {
        _ if address.is_loopback() => None,
        IpAddr::V4(_) => Some(address),
        IpAddr::V6(v6) => Some(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            connects_per_s_max: 10,
            connects_burst_max: 5,
            address_connections_max: 100,
            ..Limits::default()
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_may_connect_so_often_and_others_are_not_concerned() {
        let (mut callers, limits, start) = (Callers::default(), limits(), Instant::now());
        let mut admit = |text, cost, after_ms| {
            let now = start + Duration::from_millis(after_ms);
            callers.admit(address(text), cost, &limits, now).is_ok()
        };
        let burst: Vec<_> = (0..6).map(|_| admit("10.0.0.1", 1, 0)).collect();
        assert_eq!(burst, [true, true, true, true, true, false]);
        assert!(admit("10.0.0.2", 1, 0));
        assert!(admit("::ffff:10.0.0.3", 1, 0));
        assert!(!admit("::ffff:10.0.0.1", 1, 99), "the same host");
        assert!(admit("10.0.0.1", 1, 100));
        assert!(!admit("10.0.0.1", 1, 150));
        assert!(!admit("10.0.0.1", 2, 200), "one that costs more");
        assert!(admit("10.0.0.1", 2, 300));
    }

    #[test]
    fn the_hosts_of_one_network_of_ipv6_count_as_one_and_the_device_not_at_all() {
        let (mut callers, limits, now) = (Callers::default(), limits(), Instant::now());
        let mut admit = |text: &str| callers.admit(address(text), 1, &limits, now);
        for last in 1..=5 {
            assert_eq!(admit(&format!("2001:db8::{last}")), Ok(()));
        }
        assert_eq!(admit("2001:db8::6"), Err(Refused::TooOften));
        assert_eq!(admit("2001:db8:0:1::6"), Ok(()));
        for own in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            for _ in 0..10 {
                assert_eq!(admit(own), Ok(()));
            }
        }
    }

    #[test]
    fn an_address_has_only_so_many_connections_until_some_have_ended() {
        let limits = Limits {
            address_connections_max: 1,
            ..limits()
        };
        let (mut callers, now) = (Callers::default(), Instant::now());
        let one = address("10.0.0.1");
        assert_eq!(callers.admit(one, 1, &limits, now), Ok(()));
        let again = callers.admit(one, 1, &limits, now);
        assert_eq!(again, Err(Refused::AddressHasMany));
        callers.left(one);
        assert_eq!(callers.admit(one, 1, &limits, now), Ok(()));
    }

    #[test]
    fn many_addresses_take_no_more_memory_and_are_forgotten_in_time() {
        let (mut callers, limits, now) = (Callers::default(), limits(), Instant::now());
        let host = |number: u32| IpAddr::from(std::net::Ipv4Addr::from(0x0A00_0000 + number));
        for number in 0..1_024 {
            assert_eq!(callers.admit(host(number), 1, &limits, now), Ok(()));
            if number > 0 {
                callers.left(host(number));
            }
        }
        let more = callers.admit(host(9_999), 1, &limits, now);
        assert_eq!(more, Err(Refused::TooMany));
        let later = now + Duration::from_secs(1);
        assert_eq!(callers.admit(host(9_999), 1, &limits, later), Ok(()));
        assert_eq!(callers.0.len(), 2);
    }
}
