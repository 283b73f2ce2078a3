//! A timer to the microsecond. tokio's rounds up to the millisecond, and whoever measures latencies from when a message
//! was due would measure that.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// See the module.
pub(super) struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    #[expect(
        deprecated,
        reason = "what replaces it is unsafe to call; an OwnedFd is the descriptor that it says"
    )]
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Alarm(AsyncFd::new(timer)?))
    }

    /// Waits until `due`. One that is dropped before is forgotten by the next.
    pub(super) async fn ring(&self, due: Instant) -> io::Result<()> {
        // zero would turn the timer off
        let left = (due - Instant::now()).max(Duration::from_nanos(1));
        let once = Itimerspec {
            it_interval: Timespec::try_from(Duration::ZERO).map_err(io::Error::other)?,
            it_value: Timespec::try_from(left).map_err(io::Error::other)?,
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            // what was ready may have been an earlier alarm
            let rung = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut [0; 8])?));
            if let Ok(rung) = rung {
                return rung.map(drop);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_alarm_rings_when_it_is_due_and_not_for_one_that_was_given_up() {
        let alarm = Alarm::new().unwrap();
        let began = Instant::now();
        let (soon, later) = (
            began + Duration::from_millis(2),
            began + Duration::from_millis(30),
        );
        tokio::select! {
            biased;
            rung = alarm.ring(soon) => panic!("it is not polled twice: {rung:?}"),
            () = std::future::ready(()) => {}
        }
        alarm.ring(later).await.unwrap();
        assert!(Instant::now() >= later);
        alarm.ring(began).await.unwrap();
    }
}
