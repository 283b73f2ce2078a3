//! What a process has used, read from `/proc`. Linux only.
//!
//! Of threads that have ended, processor time is known to the clock tick, and context switches are not known.

use std::ops::Sub;
use std::path::PathBuf;
use std::time::Duration;

use cloud_relay_sandbox::process::Process;

use crate::Outcome;

/// What a process has used so far, or between two looks.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    /// Bytes it caused to be written to a disk.
    pub(crate) write_bytes: u64,
    /// Voluntary and involuntary.
    pub(crate) context_switches: u64,
}

impl Usage {
    /// What `process` has used so far.
    pub(crate) fn of(process: &Process) -> Outcome<Self> {
        let pid = process.pid().ok_or("the system is not running")?;
        let tasks = Tasks::of(&pid.to_string())?;
        Ok(Usage {
            // the threads' own times are to the nanosecond, the process's has those that ended too
            cpu_seconds: tasks.cpu_seconds.max(process.cpu_seconds()?),
            write_bytes: process.io_write_bytes()?,
            context_switches: tasks.context_switches,
        })
    }

    /// Processor seconds this process has used so far: publishers and cloud.
    pub(crate) fn own_cpu_seconds() -> Outcome<f64> {
        Ok(Tasks::of("self")?.cpu_seconds)
    }
}

impl Sub for Usage {
    type Output = Usage;

    fn sub(self, earlier: Usage) -> Usage {
        Usage {
            cpu_seconds: (self.cpu_seconds - earlier.cpu_seconds).max(0.0),
            write_bytes: self.write_bytes.saturating_sub(earlier.write_bytes),
            context_switches: self
                .context_switches
                .saturating_sub(earlier.context_switches),
        }
    }
}

/// The sums over the threads that live.
struct Tasks {
    cpu_seconds: f64,
    context_switches: u64,
}

impl Tasks {
    fn of(process: &str) -> Outcome<Self> {
        let (mut nanoseconds, mut context_switches) = (0, 0);
        for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
            // one that ends between the listing and the reading is one that has ended
            if let Some((spent, switches)) = task_figures(&task?.path()) {
                nanoseconds += spent;
                context_switches += switches;
            }
        }
        Ok(Tasks {
            cpu_seconds: Duration::from_nanos(nanoseconds).as_secs_f64(),
            context_switches,
        })
    }
}

/// Nanoseconds on a processor and context switches of the thread whose directory is `task`.
fn task_figures(task: &std::path::Path) -> Option<(u64, u64)> {
    let read = |name: &str| -> Option<String> {
        let path: PathBuf = task.join(name);
        std::fs::read_to_string(path).ok()
    };
    let nanoseconds = read("schedstat")?.split_whitespace().next()?.parse().ok()?;
    let switches = read("status")?
        .lines()
        .filter_map(|line| line.split_once("ctxt_switches:"))
        .filter_map(|(_, count)| count.trim().parse::<u64>().ok())
        .sum();
    Some((nanoseconds, switches))
}
