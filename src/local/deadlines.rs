//! When a connection has to be given up: keep alive, writing, stopping. Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

use super::limits::Limits;

/// Why a connection's time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    KeepAlive,
    Packet,
    Write,
    Stop,
}

/// The deadlines of one connection.
#[derive(Debug)]
pub(super) struct Deadlines {
    /// One and a half times the keep alive (MQTT-3.1.2-24); `None` if the client switched it off.
    silence_max: Option<Duration>,
    packet_timeout: Duration,
    write_timeout: Duration,
    /// When the client last sent something or was begun to be read from; `None` while it is not read
    /// from, as it cannot be blamed for silence then.
    heard: Option<Instant>,
    /// Since when a part of a packet is there, and the rest is read.
    incomplete: Option<Instant>,
    /// Since when nothing was written although there was something to write.
    stuck: Option<Instant>,
    stop: Option<Instant>,
}

impl Deadlines {
    pub(super) fn new(keep_alive_s: u16, limits: &Limits, now: Instant) -> Self {
        let keep_alive = Duration::from_secs(keep_alive_s.into());
        Deadlines {
            silence_max: (keep_alive_s > 0).then_some(keep_alive * 3 / 2),
            packet_timeout: limits.packet_timeout,
            write_timeout: limits.write_timeout,
            heard: Some(now),
            incomplete: None,
            stuck: None,
            stop: None,
        }
    }

    /// The client sent something.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = Some(now);
    }

    /// Whether the client is read from now, and what it sends is handled.
    pub(super) fn listening(&mut self, listening: bool, now: Instant) {
        if listening {
            self.heard.get_or_insert(now);
        } else {
            self.heard = None;
            self.incomplete = None;
        }
    }

    /// Part of a packet is there. It is another one than before if that was `completed`.
    pub(super) fn incomplete(&mut self, completed: bool, now: Instant) {
        if completed {
            self.incomplete = None;
        }
        self.incomplete.get_or_insert(now);
    }

    /// No part of a packet is there.
    pub(super) fn complete(&mut self) {
        self.incomplete = None;
    }

    /// Bytes were written; `more` wait.
    pub(super) fn wrote(&mut self, more: bool, now: Instant) {
        self.stuck = more.then_some(now);
    }

    /// Bytes wait to be written.
    pub(super) fn must_write(&mut self, now: Instant) {
        self.stuck.get_or_insert(now);
    }

    /// The connection is to end at `at` at the latest.
    pub(super) fn stop_at(&mut self, at: Instant) {
        self.stop = Some(at);
    }

    /// What is due first, and when.
    pub(super) fn next(&self) -> Option<(Instant, Expired)> {
        let silence = self.heard.zip(self.silence_max);
        let silence = silence.map(|(heard, max)| (heard + max, Expired::KeepAlive));
        let write = self
            .stuck
            .map(|since| (since + self.write_timeout, Expired::Write));
        let packet = self
            .incomplete
            .map(|since| (since + self.packet_timeout, Expired::Packet));
        let stop = self.stop.map(|at| (at, Expired::Stop));
        let all = [silence, packet, write, stop].into_iter().flatten();
        all.min_by_key(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_client_is_given_up_after_one_and_a_half_keep_alives() {
        let start = Instant::now();
        let mut deadlines = Deadlines::new(10, &Limits::default(), start);
        let due = |seconds| Some((start + Duration::from_secs(seconds), Expired::KeepAlive));
        assert_eq!(deadlines.next(), due(15));
        deadlines.heard(start + Duration::from_secs(4));
        assert_eq!(deadlines.next(), due(19));
        deadlines.listening(false, start + Duration::from_secs(5));
        assert_eq!(deadlines.next(), None);
        deadlines.listening(true, start + Duration::from_secs(100));
        deadlines.listening(true, start + Duration::from_secs(101));
        assert_eq!(deadlines.next(), due(115));
        assert_eq!(Deadlines::new(0, &Limits::default(), start).next(), None);
    }

    #[test]
    fn a_packet_that_does_not_end_is_given_up_but_not_while_nobody_reads_it() {
        let start = Instant::now();
        let limits = Limits::default();
        let mut deadlines = Deadlines::new(0, &limits, start);
        let after = |seconds| start + Duration::from_secs(seconds);
        let due = |seconds| Some((after(seconds) + limits.packet_timeout, Expired::Packet));
        deadlines.incomplete(false, after(1));
        deadlines.incomplete(false, after(2));
        assert_eq!(deadlines.next(), due(1));
        deadlines.incomplete(true, after(3));
        assert_eq!(deadlines.next(), due(3));
        deadlines.listening(false, after(4));
        assert_eq!(deadlines.next(), None);
        deadlines.incomplete(false, after(5));
        deadlines.complete();
        assert_eq!(deadlines.next(), None);
    }

    #[test]
    fn writing_is_given_up_only_without_progress() {
        let start = Instant::now();
        let limits = Limits::default();
        let mut deadlines = Deadlines::new(0, &limits, start);
        let later = start + Duration::from_secs(1);
        deadlines.must_write(start);
        deadlines.must_write(later);
        assert_eq!(
            deadlines.next(),
            Some((start + limits.write_timeout, Expired::Write))
        );
        deadlines.wrote(true, later);
        assert_eq!(
            deadlines.next(),
            Some((later + limits.write_timeout, Expired::Write))
        );
        deadlines.wrote(false, later);
        assert_eq!(deadlines.next(), None);
    }
}
