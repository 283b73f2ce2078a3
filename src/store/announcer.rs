//! Tells the log when the spool is full, when it has room again, and what it had to give up.

use std::time::Duration;

use tokio::time::Instant;

use crate::spool::{FullPolicy, Options, Progress};

/// Messages given up are summed up for this long, and for this long after the last one the spool, or the disk, counts as
/// full: room that was made by giving up messages is gone in a moment.
const DROPS_INTERVAL: Duration = Duration::from_mins(1);

/// What has been told so far.
#[derive(Debug)]
pub(super) struct Announcer {
    options: Options,
    /// What was seen last, full for as long as it counts as that.
    seen: Option<Progress>,
    /// Until when it does.
    full_until: Option<Instant>,
    disk_full_until: Option<Instant>,
    /// The numbers of messages given up that were told last, and when.
    summed: Option<Progress>,
    drops_told: Option<Instant>,
}

impl Announcer {
    pub(super) fn new(options: Options) -> Self {
        Announcer {
            options,
            seen: None,
            full_until: None,
            disk_full_until: None,
            summed: None,
            drops_told: None,
        }
    }

    /// The same `progress`, but full for as long as it counts as that.
    pub(super) fn counting_as_full(&self, progress: Progress, now: Instant) -> Progress {
        Progress {
            full: progress.full || self.full_until > Some(now),
            disk_full: progress.disk_full || self.disk_full_until > Some(now),
            ..progress
        }
    }

    /// Tells what is new in `progress`.
    pub(super) fn look(&mut self, progress: Progress, now: Instant) {
        let (Some(seen), Some(summed)) = (self.seen, self.summed) else {
            // What was given up in an earlier life was told then.
            (self.seen, self.summed) = (Some(progress), Some(progress));
            return;
        };
        if progress.dropped_full > seen.dropped_full {
            let for_disk = progress.disk_full || (seen.disk_full && !progress.full);
            let until = if for_disk {
                &mut self.disk_full_until
            } else {
                &mut self.full_until
            };
            *until = Some(now + DROPS_INTERVAL);
        }
        let progress = self.counting_as_full(progress, now);
        if progress.full != seen.full {
            self.tell_full(progress.full);
        }
        if progress.disk_full != seen.disk_full {
            self.tell_disk_full(progress.disk_full);
        }
        self.seen = Some(progress);
        if (self.drops_told).is_none_or(|at| now.duration_since(at) >= DROPS_INTERVAL)
            && self.tell_drops(&summed, &progress)
        {
            self.summed = Some(progress);
            self.drops_told = Some(now);
        }
    }

    /// Tells how many messages were given up meanwhile. Returns whether there were any.
    fn tell_drops(&self, before: &Progress, now: &Progress) -> bool {
        let full = now.dropped_full - before.dropped_full;
        let damaged = now.dropped_damaged - before.dropped_damaged;
        let expired = now.dropped_expired - before.dropped_expired;
        if full > 0 {
            tracing::warn!(
                count = full,
                "messages given up because the spool is full (SPOOL_FULL={})",
                self.options.full
            );
        }
        if damaged > 0 {
            tracing::warn!(
                count = damaged,
                "messages given up: they cannot be read back from the disk of DATA_DIR; is it failing?"
            );
        }
        if expired > 0 {
            tracing::info!(
                "{expired} messages dropped: they waited longer than their publishers said (message expiry)"
            );
        }
        full + damaged + expired > 0
    }

    fn tell_full(&self, full: bool) {
        if full {
            tracing::warn!(
                "the spool has reached SPOOL_MAX_BYTES={}: {}. Get the cloud connected, so that it drains, or raise \
                 SPOOL_MAX_BYTES",
                self.options.bytes_max,
                self.consequence()
            );
        } else {
            tracing::info!("the spool has room again");
        }
    }

    fn tell_disk_full(&self, full: bool) {
        if full {
            tracing::warn!(
                "the disk is full, or has less than SPOOL_MIN_FREE_BYTES={} left: {}. Free space on the device, or lower \
                 SPOOL_MIN_FREE_BYTES if it leaves too much to others",
                self.options.free_bytes_min,
                self.consequence()
            );
        } else {
            tracing::info!("the disk has room again");
        }
    }

    fn consequence(&self) -> &'static str {
        match self.options.full {
            FullPolicy::Block => {
                "messages are not acknowledged until there is room (SPOOL_FULL=block)"
            }
            FullPolicy::DropOldest => "the oldest messages are given up (SPOOL_FULL=drop_oldest)",
            FullPolicy::DropNewest => "new messages are given up (SPOOL_FULL=drop_newest)",
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;
    use crate::logging::capture::Captured;

    const CALM: Progress = Progress {
        safe: 0,
        full: false,
        disk_full: false,
        dropped_full: 5,
        dropped_damaged: 0,
        dropped_expired: 0,
        failed: false,
    };

    fn lines(steps: &[(Progress, u64)]) -> Vec<String> {
        let (captured, _guard) = Captured::start(Level::INFO);
        let start = Instant::now();
        let mut announcer = Announcer::new(Options::default());
        for (progress, seconds) in steps {
            announcer.look(*progress, start + Duration::from_secs(*seconds));
        }
        captured.text().lines().map(str::to_owned).collect()
    }

    #[test]
    fn being_full_is_told_once_with_its_consequence_and_so_is_the_end_of_it() {
        let full = Progress { full: true, ..CALM };
        let told = lines(&[(CALM, 0), (full, 1), (full, 2), (CALM, 3), (CALM, 4)]);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("SPOOL_MAX_BYTES=268435456") && told[0].contains("block"));
        assert!(told[0].contains("raise SPOOL_MAX_BYTES"), "{told:?}");
        assert!(told[1].contains("room again"));
    }

    #[test]
    fn while_messages_are_given_up_for_room_it_counts_as_full() {
        let mut steps = vec![(CALM, 0)];
        let mut progress = CALM;
        for round in 1..=10 {
            // Each segment that is given up makes room for a moment.
            (progress.full, progress.disk_full) = (round <= 5, round > 5);
            steps.push((progress, 10 * round));
            progress.dropped_full += 1_000;
            steps.push((progress, 10 * round));
            (progress.full, progress.disk_full) = (false, false);
            steps.push((progress, 10 * round + 1));
        }
        steps.extend([(progress, 159), (progress, 160), (progress, 200)]);
        let told = lines(&steps);
        let changes = told
            .iter()
            .filter(|line| !line.contains("given up because"));
        let changes: Vec<_> = changes.collect();
        assert_eq!(changes.len(), 4, "{told:?}");
        assert!(changes[0].contains("SPOOL_MAX_BYTES") && changes[1].contains("the disk is full"));
        assert!(changes[2].contains("the spool has room again"), "{told:?}");
        assert!(changes[3].contains("the disk has room again"), "{told:?}");
    }

    #[test]
    fn drops_are_summed_up_and_those_of_an_earlier_life_are_not_told_again() {
        let dropped = |dropped_full| Progress {
            dropped_full,
            ..CALM
        };
        let disk_full = Progress {
            disk_full: true,
            ..dropped(100)
        };
        let told = lines(&[
            (CALM, 0),
            (dropped(6), 1),
            (dropped(7), 2),
            (dropped(100), 30),
            (dropped(100), 61),
            (dropped(100), 200),
            (disk_full, 201),
            (dropped(100), 202),
        ]);
        let given_up: Vec<_> = (told.iter())
            .filter(|line| line.contains("given up because"))
            .collect();
        assert_eq!(given_up.len(), 2, "{told:?}");
        assert!(given_up[0].ends_with("count=1"), "{told:?}");
        // What repeats is held back until there is good news.
        assert!(given_up[1].ends_with("count=94"), "{told:?}");
    }

    #[test]
    fn what_expires_is_told_and_is_no_warning() {
        let (captured, guard) = Captured::start(Level::WARN);
        let expired = Progress {
            dropped_expired: 3,
            ..CALM
        };
        let mut announcer = Announcer::new(Options::default());
        announcer.look(CALM, Instant::now());
        announcer.look(expired, Instant::now());
        assert_eq!(captured.text(), "");
        drop(guard);
        let told = lines(&[(CALM, 0), (expired, 1), (expired, 90)]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("3 messages dropped"), "{told:?}");
    }

    #[test]
    fn a_full_disk_is_told_apart_from_a_full_spool() {
        let full = Progress {
            disk_full: true,
            ..CALM
        };
        let told = lines(&[(CALM, 0), (full, 1), (CALM, 2)]);
        assert!(
            told[0].contains("SPOOL_MIN_FREE_BYTES=16777216"),
            "{told:?}"
        );
        assert!(told[0].contains("Free space"), "{told:?}");
    }
}
