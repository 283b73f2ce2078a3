//! How fast messages may leave, so that no quota is exceeded where it counts: in the cloud. Pure.
//!
//! A quota says how much may *arrive* within any one second, and when a message arrives is not known here: some
//! time between its sending and its acknowledgement. So a message uses up quota from the moment it is sent until one
//! second after its acknowledgement, and a message goes only if the quota has room for it.
//!
//! Invariant: within any one second no more than the quota arrives, however unevenly the network delivers. For let
//! a message arrive at `a`; whatever arrived in the second before `a` and was sent before it was, when it was sent,
//! unacknowledged or acknowledged less than a second ago, and so was counted.
//!
//! A bucket that refills would allow twice its contents in a bad second, and a stalled link would deliver two
//! seconds' worth at once. The price of certainty: the lasting rate is the quota divided by one second plus the
//! round trip; with 80 ms, 92 of 100.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use tokio::time::Instant;

/// The time that quotas speak of.
const QUOTA_PERIOD: Duration = Duration::from_secs(1);
/// Acknowledgements within this time are remembered as one, so that no more than a hundred are remembered.
const REMEMBERED_TOGETHER: Duration = Duration::from_millis(10);
/// `CLOUD_PUBLISH_RATE`: AWS IoT Core's quota of publishes a second and connection.
const PUBLISHES_PER_S: NonZeroU64 = NonZeroU64::new(100).expect("invariant: not zero");
/// `CLOUD_BYTE_RATE`: AWS IoT Core's quota of 512 KiB a second and connection.
const BYTES_PER_S: NonZeroU64 = NonZeroU64::new(512 * 1024).expect("invariant: not zero");

/// What may be sent. `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Messages a second.
    pub publishes_per_s: Option<NonZeroU64>,
    /// Bytes of topic, attributes and payload a second. A message larger than this goes alone.
    pub bytes_per_s: Option<NonZeroU64>,
}

impl Default for Quota {
    fn default() -> Self {
        Quota {
            publishes_per_s: Some(PUBLISHES_PER_S),
            bytes_per_s: Some(BYTES_PER_S),
        }
    }
}

impl Quota {
    /// How long so many publishes with so many bytes take at least; zero without a limit.
    pub fn time_for(&self, publishes: u64, bytes: u64) -> Duration {
        let seconds = |amount: u64, rate: Option<NonZeroU64>| rate.map_or(0, |rate| amount / rate);
        let by_count = seconds(publishes, self.publishes_per_s);
        let by_bytes = seconds(bytes, self.bytes_per_s);
        Duration::from_secs(by_count.max(by_bytes))
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |rate: Option<NonZeroU64>| rate.map_or(0, NonZeroU64::get);
        write!(
            f,
            "CLOUD_PUBLISH_RATE={} CLOUD_BYTE_RATE={}",
            number(self.publishes_per_s),
            number(self.bytes_per_s)
        )
    }
}

/// Whether a message may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Now.
    Go,
    /// Not before this moment.
    NotBefore(Instant),
    /// Not before something that is in flight is acknowledged.
    AfterAcknowledgement,
}

/// What of the quotas is used up. It outlives a connection.
#[derive(Debug)]
pub struct Pacing {
    publishes: Option<Meter>,
    bytes: Option<Meter>,
}

impl Pacing {
    /// Nothing is used up.
    pub fn new(quota: Quota) -> Self {
        Pacing {
            publishes: quota.publishes_per_s.map(Meter::new),
            bytes: quota.bytes_per_s.map(Meter::new),
        }
    }

    /// Whether a message of `bytes` bytes may be sent.
    pub fn verdict(&mut self, bytes: usize, now: Instant) -> Verdict {
        let verdict = |meter: &mut Option<Meter>, amount| {
            meter
                .as_mut()
                .map_or(Verdict::Go, |meter| meter.verdict(amount, now))
        };
        let by_count = verdict(&mut self.publishes, 1);
        let by_bytes = verdict(&mut self.bytes, amount(bytes));
        match (by_count, by_bytes) {
            (Verdict::Go, other) | (other, Verdict::Go) => other,
            (Verdict::NotBefore(one), Verdict::NotBefore(other)) => {
                Verdict::NotBefore(one.max(other))
            }
            _ => Verdict::AfterAcknowledgement,
        }
    }

    /// Notes that a message of `bytes` bytes was sent.
    pub fn sent(&mut self, bytes: usize) {
        for (meter, amount) in self.meters(bytes) {
            meter.in_flight += amount;
        }
    }

    /// Notes that a message of `bytes` bytes was acknowledged, in whatever way.
    pub fn acknowledged(&mut self, bytes: usize, now: Instant) {
        for (meter, amount) in self.meters(bytes) {
            meter.arrived(amount, now);
        }
    }

    /// Notes that the connection has ended: what was in flight has arrived or never will.
    pub fn connection_ended(&mut self, now: Instant) {
        for (meter, _) in self.meters(0) {
            meter.arrived(meter.in_flight, now);
        }
    }

    /// The meters, each with what a message of `bytes` bytes counts there.
    fn meters(&mut self, bytes: usize) -> impl Iterator<Item = (&mut Meter, u64)> {
        let publishes = self.publishes.iter_mut().map(|meter| (meter, 1));
        let bytes = self.bytes.iter_mut().map(move |m| (m, amount(bytes)));
        publishes.chain(bytes)
    }
}

fn amount(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// One quota.
#[derive(Debug)]
struct Meter {
    quota: u64,
    /// Sent and not acknowledged.
    in_flight: u64,
    /// Acknowledged less than [`QUOTA_PERIOD`] ago, oldest first.
    recent: VecDeque<Arrived>,
    recent_sum: u64,
}

/// What was acknowledged within [`REMEMBERED_TOGETHER`].
#[derive(Debug)]
struct Arrived {
    since: Instant,
    amount: u64,
}

impl Arrived {
    /// When it no longer counts.
    fn expires(&self) -> Instant {
        self.since + REMEMBERED_TOGETHER + QUOTA_PERIOD
    }
}

impl Meter {
    fn new(quota: NonZeroU64) -> Self {
        Meter {
            quota: quota.get(),
            in_flight: 0,
            recent: VecDeque::new(),
            recent_sum: 0,
        }
    }

    /// Whether `amount` more fits when `used` is used up. What is larger than the quota needs all of it.
    fn fits(&self, used: u64, amount: u64) -> bool {
        used.saturating_add(amount) <= self.quota || used == 0
    }

    fn verdict(&mut self, amount: u64, now: Instant) -> Verdict {
        while let Some(oldest) = self.recent.front()
            && oldest.expires() <= now
        {
            self.recent_sum -= oldest.amount;
            self.recent.pop_front();
        }
        let mut used = self.in_flight + self.recent_sum;
        if self.fits(used, amount) {
            return Verdict::Go;
        }
        for arrived in &self.recent {
            used -= arrived.amount;
            if self.fits(used, amount) {
                return Verdict::NotBefore(arrived.expires());
            }
        }
        Verdict::AfterAcknowledgement
    }

    fn arrived(&mut self, amount: u64, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(amount);
        self.recent_sum += amount;
        match self.recent.back_mut() {
            Some(last) if now < last.since + REMEMBERED_TOGETHER => last.amount += amount,
            _ if amount == 0 => {}
            _ => self.recent.push_back(Arrived { since: now, amount }),
        }
    }
}

#[cfg(test)]
mod tests;
