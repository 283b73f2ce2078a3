//! The thread that writes: it carries out what [`Core`](super::core::Core) decides, one job at a time,
//! and holds no lock while it does.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::aside::set_aside;
use super::core::Job;
use super::cursor::{Cursor, CursorFile};
use super::log::{self, Log, LogError};
use super::recovery::scan::scan;
use super::storage::Storage;
use super::tail::Frame;
use super::{Shared, segment};

/// What the thread owns.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) log: Log,
    pub(super) cursor_file: CursorFile,
    pub(super) storage: Arc<dyn Storage>,
}

/// What came of a job.
enum Done {
    Well,
    DiskFull,
}

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

/// Runs until the spool is closed or has failed. A panic is a failure like any other: nobody else would hear of it, and
/// what waits to be written would wait for ever.
pub(super) fn run(shared: &Shared, mut disk: Disk) {
    if catch_unwind(AssertUnwindSafe(|| work(shared, &mut disk))).is_err() {
        let defect = "its writer thread has panicked: a defect of this program";
        shared.core().fail(defect.to_owned());
        shared.show_progress();
    }
}

fn work(shared: &Shared, disk: &mut Disk) {
    loop {
        match step(shared, disk, Instant::now()) {
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
    finish(shared, disk, job, now)
}

/// The rest of a step. What the core says may be another thing by now.
pub(super) fn finish(shared: &Shared, disk: &mut Disk, job: Job, now: Instant) -> Step {
    if let Job::Sleep(alarm) = job {
        return Step::Idle(alarm);
    }
    let ends = matches!(job, Job::End(_));
    match carry_out(shared, disk, job) {
        Ok(Done::Well) => {}
        Ok(Done::DiskFull) => shared.core().disk_full(now),
        Err(e) => shared.core().fail(e.to_string()),
    }
    shared.show_progress();
    if ends { Step::Ended } else { Step::Worked }
}

fn carry_out(shared: &Shared, disk: &mut Disk, job: Job) -> Result<Done, LogError> {
    match job {
        Job::Write {
            frames,
            through,
            anew,
        } => {
            if anew {
                disk.log.close_segment();
            }
            let done = write(shared, disk, &frames)?;
            if matches!(done, Done::Well) {
                shared.core().written(through);
            }
            Ok(done)
        }
        Job::SaveCursor { cursor, sync } => save_cursor(disk, &cursor, sync),
        Job::Remove { segments, damaged } => {
            // After a power cut no more comes again than was settled since a segment was last removed.
            disk.cursor_file.sync().map_err(cursor_failed("sync"))?;
            for first_seq in damaged {
                set_aside(disk.storage.as_ref(), first_seq).map_err(|e| {
                    let name = segment::name(first_seq);
                    LogError::Failed(format!("cannot set aside {name}: {e}"))
                })?;
            }
            disk.log.remove(&segments)?;
            shared.core().removed(&segments);
            Ok(Done::Well)
        }
        Job::Reclaim(place) => {
            let (first_seq, end) = (place.first_seq, Some(place.end_seq));
            // A disk that cannot read it is no reason to keep what is given up anyway.
            let found = scan(disk.storage.as_ref(), first_seq, place.len, end);
            let sound = found.ok().map(|found| found.seqs);
            shared.core().reclaim(first_seq, sound.as_deref());
            Ok(Done::Well)
        }
        Job::End(_) if shared.core().failure().is_some() => Ok(Done::Well),
        Job::End(cursor) => save_cursor(disk, &cursor, true),
        Job::Sleep(_) => Ok(Done::Well),
    }
}

/// Makes `frames` durable, one segment after the other.
fn write(shared: &Shared, disk: &mut Disk, mut frames: &[Frame]) -> Result<Done, LogError> {
    let size: u64 = frames.iter().map(|(_, frame)| frame.len() as u64).sum();
    let floor = shared.core().options().free_bytes_min;
    let free = disk.storage.free_bytes();
    if free.is_ok_and(|free| free < floor.saturating_add(size)) {
        return Ok(Done::DiskFull);
    }
    while !frames.is_empty() {
        match disk.log.append(frames) {
            Ok(appended) => {
                shared.core().appended(appended, frames);
                frames = frames.get(appended.count..).unwrap_or_default();
            }
            Err(LogError::DiskFull(_)) => return Ok(Done::DiskFull),
            Err(failed) => return Err(failed),
        }
    }
    Ok(Done::Well)
}

/// Writes the cursor. A full disk is no reason to fail: the file has its full size from the first start with
/// room for it, until then a start sends everything again.
fn save_cursor(disk: &mut Disk, cursor: &Cursor, sync: bool) -> Result<Done, LogError> {
    match disk.cursor_file.write(cursor) {
        Ok(()) => {}
        Err(e) if log::is_full(&e) => return Ok(Done::Well),
        Err(e) => return Err(cursor_failed("write to")(e)),
    }
    if sync {
        disk.cursor_file.sync().map_err(cursor_failed("sync"))?;
    }
    Ok(Done::Well)
}

fn cursor_failed(operation: &'static str) -> impl Fn(io::Error) -> LogError {
    move |e| LogError::Failed(format!("cannot {operation} the cursor file: {e}"))
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
