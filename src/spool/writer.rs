//! The thread that writes: it carries out what [`Core`](super::core::Core) decides, one job at a time,
//! and holds no lock while it does.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::core::{Disk, Job};
use super::log::LogError;
use super::tail::Frame;
use super::{Seq, Shared};

/// What one step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A job is done, or has failed.
    Worked,
    /// There is nothing to do before this time, or before somebody calls.
    Idle(Option<Duration>),
    /// The spool is closed or has failed: there is nothing more to do.
    Ended,
}

/// Runs until the spool is closed or has failed.
pub(super) fn run(shared: &Shared, mut disk: Disk) {
    loop {
        match step(shared, &mut disk, Instant::now()) {
            Step::Worked => {}
            Step::Idle(alarm) => sleep(shared, alarm),
            Step::Ended => return,
        }
    }
}

/// Carries out the next job. The thread does nothing else, so whoever calls this instead of
/// starting the thread decides what happens when.
pub(super) fn step(shared: &Shared, disk: &mut Disk, now: Instant) -> Step {
    let job = shared.core().next_job(now);
    let ends = matches!(job, Job::End(_));
    let result = match job {
        Job::Write { frames, through } => write(shared, disk, &frames).inspect(|full| {
            if !full {
                shared.core().written(through);
            }
        }),
        Job::SaveCursor(cursor) => disk
            .cursor_file
            .write(&cursor)
            .map(|()| false)
            .or_else(|e| cursor_failed("write to", e)),
        Job::Remove(segments) => remove(shared, disk, &segments),
        Job::Sleep(alarm) => return Step::Idle(alarm),
        Job::End(cursor) => disk
            .cursor_file
            .write(&cursor)
            .and_then(|()| disk.cursor_file.sync())
            .map(|()| false)
            .map_err(|source| LogError::Failed {
                operation: "save",
                file: "the cursor file".to_owned(),
                source,
            }),
    };
    match result {
        Ok(false) => {}
        Ok(true) => shared.core().disk_full(now),
        Err(e) => shared.core().fail(e.to_string()),
    }
    shared.show_progress();
    if ends { Step::Ended } else { Step::Worked }
}

/// Makes `frames` durable, one segment after the other. `true` if the disk is too full for all of them.
fn write(shared: &Shared, disk: &mut Disk, mut frames: &[Frame]) -> Result<bool, LogError> {
    let size: u64 = frames.iter().map(|(_, frame)| frame.len() as u64).sum();
    let floor = shared.core().free_bytes_min();
    if disk
        .storage
        .free_bytes()
        .is_ok_and(|free| free < floor.saturating_add(size))
    {
        return Ok(true);
    }
    while !frames.is_empty() {
        match disk.log.append(frames) {
            Ok(appended) => {
                shared.core().appended(appended, frames);
                frames = frames.get(appended.count..).unwrap_or_default();
            }
            Err(LogError::DiskFull(_)) => return Ok(true),
            Err(failed) => return Err(failed),
        }
    }
    Ok(false)
}

/// Removes settled segments. The cursor is synced before: after a power cut no more comes again than what
/// was settled since a segment was last removed.
fn remove(shared: &Shared, disk: &mut Disk, segments: &[Seq]) -> Result<bool, LogError> {
    if let Err(e) = disk.cursor_file.sync() {
        return cursor_failed("sync", e);
    }
    disk.log.remove(segments)?;
    shared.core().removed(segments);
    Ok(false)
}

/// Sleeps until the alarm or until somebody calls. The core may have changed since it chose to sleep: then
/// it is no longer marked as sleeping and there is nothing to wait for.
fn sleep(shared: &Shared, alarm: Option<Duration>) {
    let core = shared.core();
    if !core.is_sleeping() {
        return;
    }
    match alarm {
        Some(alarm) => drop(
            shared
                .wake
                .wait_timeout(core, alarm)
                .unwrap_or_else(PoisonError::into_inner),
        ),
        None => drop(
            shared
                .wake
                .wait(core)
                .unwrap_or_else(PoisonError::into_inner),
        ),
    }
}

fn cursor_failed(operation: &'static str, source: std::io::Error) -> Result<bool, LogError> {
    if source.kind() == std::io::ErrorKind::StorageFull {
        // The slots exist after the first write, so this is the first one: it is tried again at the end.
        return Ok(true);
    }
    Err(LogError::Failed {
        operation,
        file: "the cursor file".to_owned(),
        source,
    })
}
