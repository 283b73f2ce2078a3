//! One child process: a clean environment, its log lines, its signals, its figures from `/proc`.
//!
//! A task owns the child and reaps it; everything else goes by process id and by watching for the
//! exit. The same [`Process`] may be started again and again: its log goes on. Whatever way it is
//! dropped, the child is killed. Linux only.

mod log;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use self::log::Log;

/// How long a killed process may take to be reaped. SIGKILL cannot be refused; a disk can be slow.
const REAP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to read on after the process has ended: a grandchild may hold its outputs open.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(500);

/// Environment variables, by name.
pub type Environment = BTreeMap<String, String>;

/// What can go wrong with a child process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program did not start.
    #[error("cannot start {}: {source}", program.display())]
    Start {
        /// The program's path.
        program: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The process does not run.
    #[error("{program} is not running; it ended with {status}\n{log}")]
    NotRunning {
        /// The program's path.
        program: String,
        /// How it ended, or that it never started.
        status: String,
        /// Its last log lines.
        log: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {waited:?}; the last log lines are:\n{log}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
        /// The last log lines.
        log: String,
    },
    /// A signal could not be sent.
    #[error("cannot send {signal} to process {pid}: {source}")]
    Signal {
        /// The signal's name.
        signal: &'static str,
        /// The process id.
        pid: i32,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A figure could not be read.
    #[error("cannot read {what} from {}: {why}", path.display())]
    Figure {
        /// Which figure.
        what: &'static str,
        /// The file under `/proc`.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// How a process was stopped.
#[derive(Clone, Copy, Debug)]
pub struct Stopped {
    /// Its exit status.
    pub status: ExitStatus,
    /// From the first signal to the exit.
    pub took: Duration,
    /// Whether the grace ran out and SIGKILL was needed.
    pub killed: bool,
}

/// The process as it runs, or as it ended.
#[derive(Clone)]
struct Run {
    pid: Pid,
    exit: watch::Receiver<Option<ExitStatus>>,
}

/// A program that is run as a child process, possibly many times.
pub struct Process {
    program: PathBuf,
    arguments: Vec<OsString>,
    stdin_open: bool,
    log: Log,
    run: watch::Sender<Option<Run>>,
    owner: Mutex<Option<JoinHandle<()>>>,
}

impl Process {
    /// A program that is not started yet.
    pub fn new(
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Self {
        Process {
            program: program.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            stdin_open: false,
            log: Log::default(),
            run: watch::Sender::new(None),
            owner: Mutex::new(None),
        }
    }

    /// Its standard input stays open, and empty, as long as it runs: for a program that ends when
    /// that does. Otherwise it is empty from the beginning.
    #[must_use]
    pub fn with_open_stdin(mut self) -> Self {
        self.stdin_open = true;
        self
    }

    /// Starts it with `environment` and nothing else. One that still runs is killed first.
    ///
    /// # Panics
    ///
    /// Never, unless a new child has no process id.
    pub async fn start(&self, environment: &Environment) -> Result<(), ProcessError> {
        if self.is_running() {
            self.kill_9().await?;
        }
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .envs(environment)
            .stdin(if self.stdin_open {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| ProcessError::Start {
                program: self.program.clone(),
                source,
            })?;
        let pid = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw)
            .expect("invariant: a child that nobody has waited for has an id");
        let outputs = self
            .log
            .clone()
            .collect_both(child.stdout.take(), child.stderr.take());
        let (exited, exit) = watch::channel(None);
        let owner = tokio::spawn(reap(child, outputs, exited));
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = Some(owner);
        self.run.send_replace(Some(Run { pid, exit }));
        Ok(())
    }

    /// The log over all starts.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The process id of the last start.
    pub fn pid(&self) -> Option<i32> {
        self.run
            .borrow()
            .as_ref()
            .map(|run| run.pid.as_raw_nonzero().get())
    }

    /// Whether it runs now.
    pub fn is_running(&self) -> bool {
        self.run
            .borrow()
            .as_ref()
            .is_some_and(|run| run.exit.borrow().is_none())
    }

    /// Waits for a log line with `part` in it, also among those already written.
    pub async fn wait_for_log(
        &self,
        part: &str,
        timeout: Duration,
    ) -> Result<String, ProcessError> {
        self.log.wait_for(part, 0, timeout).await
    }

    /// Waits until the process ends by itself.
    pub async fn wait_for_exit(&self, timeout: Duration) -> Result<ExitStatus, ProcessError> {
        let mut run = self.running_or_ended()?;
        let exit = tokio::time::timeout(timeout, run.exit.wait_for(Option::is_some)).await;
        match exit {
            Ok(Ok(status)) => Ok(status.expect("invariant: waited until there is a status")),
            Ok(Err(_)) | Err(_) => Err(ProcessError::Timeout {
                what: format!("the end of {}", self.program.display()),
                waited: timeout,
                log: self.log.tail(),
            }),
        }
    }

    /// SIGTERM, `grace`, then SIGKILL, as a container engine does.
    pub async fn terminate(&self, grace: Duration) -> Result<Stopped, ProcessError> {
        self.stop(Signal::TERM, "SIGTERM", grace).await
    }

    /// SIGINT, as Ctrl-C sends it, `grace`, then SIGKILL.
    pub async fn interrupt(&self, grace: Duration) -> Result<Stopped, ProcessError> {
        self.stop(Signal::INT, "SIGINT", grace).await
    }

    async fn stop(
        &self,
        signal: Signal,
        name: &'static str,
        grace: Duration,
    ) -> Result<Stopped, ProcessError> {
        let began = Instant::now();
        self.signal(signal, name)?;
        let (status, killed) = match self.wait_for_exit(grace).await {
            Ok(status) => (status, false),
            Err(_) => (self.kill_9().await?, true),
        };
        Ok(Stopped {
            status,
            took: began.elapsed(),
            killed,
        })
    }

    /// SIGKILL, and waits until the process is gone.
    pub async fn kill_9(&self) -> Result<ExitStatus, ProcessError> {
        self.signal(Signal::KILL, "SIGKILL")?;
        self.wait_for_exit(REAP_TIMEOUT).await
    }

    /// SIGSTOP: the process stands still, its sockets stay open.
    pub fn freeze(&self) -> Result<(), ProcessError> {
        self.signal(Signal::STOP, "SIGSTOP")
    }

    /// SIGCONT: ends [`Process::freeze`].
    pub fn thaw(&self) -> Result<(), ProcessError> {
        self.signal(Signal::CONT, "SIGCONT")
    }

    /// Resident memory, bytes (`VmRSS`).
    pub fn memory_rss_bytes(&self) -> Result<u64, ProcessError> {
        Ok(self.figure("status", "VmRSS:")? * 1024)
    }

    /// Largest resident memory so far, bytes (`VmHWM`).
    pub fn memory_peak_bytes(&self) -> Result<u64, ProcessError> {
        Ok(self.figure("status", "VmHWM:")? * 1024)
    }

    /// Bytes that the process caused to be written to storage (`write_bytes`; 0 on a tmpfs).
    pub fn io_write_bytes(&self) -> Result<u64, ProcessError> {
        self.figure("io", "write_bytes:")
    }

    /// Processor time used so far, user and system, seconds.
    pub fn cpu_seconds(&self) -> Result<f64, ProcessError> {
        let what = "utime and stime";
        let (path, text) = self.proc_file("stat", what)?;
        // fields 14 and 15 of proc_pid_stat(5); the name in field 2 may hold spaces
        let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks: Option<f64> = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u32>().ok().map(f64::from))
            .sum();
        let per_second = u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100);
        ticks
            .map(|ticks| ticks / f64::from(per_second))
            .ok_or_else(|| ProcessError::Figure {
                what,
                path,
                why: format!("unexpected text {text:?}"),
            })
    }

    fn figure(&self, file: &str, label: &'static str) -> Result<u64, ProcessError> {
        let (path, text) = self.proc_file(file, label)?;
        text.lines()
            .find_map(|line| line.strip_prefix(label))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .ok_or_else(|| ProcessError::Figure {
                what: label,
                path,
                why: "it is not there".to_owned(),
            })
    }

    fn proc_file(&self, file: &str, what: &'static str) -> Result<(PathBuf, String), ProcessError> {
        let run = self.running_or_ended()?;
        let path = Path::new("/proc")
            .join(run.pid.as_raw_nonzero().to_string())
            .join(file);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok((path, text)),
            Err(error) => Err(ProcessError::Figure {
                what,
                path,
                why: error.to_string(),
            }),
        }
    }

    /// The current run, if it has not ended.
    fn running_or_ended(&self) -> Result<Run, ProcessError> {
        self.run.borrow().clone().ok_or_else(|| self.not_running())
    }

    pub(crate) fn not_running(&self) -> ProcessError {
        let ended = self
            .run
            .borrow()
            .as_ref()
            .and_then(|run| *run.exit.borrow());
        ProcessError::NotRunning {
            program: self.program.display().to_string(),
            status: ended.map_or("no start yet".to_owned(), |status| status.to_string()),
            log: self.log.tail(),
        }
    }

    fn signal(&self, signal: Signal, name: &'static str) -> Result<(), ProcessError> {
        let run = self.running_or_ended()?;
        // the owner publishes the exit right after reaping, so the id is not another's by then
        if run.exit.borrow().is_some() {
            return Err(self.not_running());
        }
        kill_process(run.pid, signal).map_err(|error| ProcessError::Signal {
            signal: name,
            pid: run.pid.as_raw_nonzero().get(),
            source: error.into(),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "last log lines of {}:\n{}",
                self.program.display(),
                self.log.tail()
            );
        }
        if self.is_running() {
            // it may end at this very moment
            self.signal(Signal::KILL, "SIGKILL").ok();
        }
        if let Some(owner) = self
            .owner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            owner.abort();
        }
    }
}

/// Collects the output to its end, then the exit status.
async fn reap(
    mut child: Child,
    outputs: impl Future<Output = ()>,
    exited: watch::Sender<Option<ExitStatus>>,
) {
    // waiting for the child would close it
    let _stdin = child.stdin.take();
    let status = {
        tokio::pin!(outputs);
        tokio::select! {
            status = child.wait() => {
                // what the process wrote before its end is still in the pipes; a grandchild that
                // holds them open must not delay the news for ever
                tokio::time::timeout(LAST_WORDS_TIMEOUT, outputs).await.ok();
                status
            }
            () = &mut outputs => child.wait().await,
        }
    };
    if let Ok(status) = status {
        exited.send_replace(Some(status));
    }
}
