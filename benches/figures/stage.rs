//! One system in its setting: started, loaded and read out.

use std::collections::BTreeMap;
use std::time::Duration;

use cloud_relay_sandbox::ledger::{MessageId, audit};
use cloud_relay_sandbox::process::{Environment, Process};
use cloud_relay_sandbox::publisher::{Load, Report, publish_load};
use cloud_relay_sandbox::relay::RelayProcess;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Outcome;
use crate::setting::Setting;
use crate::system::{System, TOPIC};

/// How long a system may take to listen, and to connect: mosquitto reads a whole backlog first.
const START_TIMEOUT: Duration = Duration::from_mins(1);
/// How long is waited for messages to arrive, besides the time they need at [`ARRIVALS_PER_S_MIN`]. What is
/// missing then is counted as lost.
const ARRIVAL_PATIENCE: Duration = Duration::from_mins(1);
const ARRIVALS_PER_S_MIN: u64 = 5_000;
/// Messages sent before a measurement, so that buffers, pages and connections are there.
const WARM_UP_MESSAGES: u64 = 200;
/// The key of the publisher that warms up.
const WARM_UP_PUBLISHER: u32 = 0;

/// See the module.
pub(crate) struct Stage {
    // first, so that the process is gone before its directory goes
    system: RelayProcess,
    environment: Environment,
    setting: Setting,
}

/// What a process has used so far.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) write_bytes: u64,
}

/// What was published and acknowledged.
pub(crate) struct Published {
    /// The acknowledged messages.
    pub(crate) acked: Vec<MessageId>,
    /// From when each was due to its acknowledgement, sorted, if the load asked for it.
    pub(crate) latencies: Vec<Duration>,
    /// When it began.
    pub(crate) began: Instant,
    /// Until the last acknowledgement.
    pub(crate) took: Duration,
}

impl Stage {
    /// Sets everything up; the system is not started yet.
    pub(crate) async fn new(system: &dyn System) -> Outcome<Self> {
        let setting = Setting::new().await?;
        let program = system.program(&setting)?;
        let process = Process::new(program.path, program.arguments);
        Ok(Stage {
            system: RelayProcess::in_place_of_relay(process, setting.listen())?,
            environment: program.environment,
            setting,
        })
    }

    /// Sets everything up, starts the system and sends a few messages through it.
    pub(crate) async fn warmed_up(system: &dyn System) -> Outcome<Self> {
        let stage = Stage::new(system).await?;
        stage.start().await?;
        stage
            .setting
            .cloud()
            .wait_for_connects(1, START_TIMEOUT)
            .await?;
        let count = WARM_UP_MESSAGES.min(system.messages_max() / 10);
        stage
            .publish(vec![Load::new(WARM_UP_PUBLISHER, TOPIC, count)])
            .await?;
        stage.wait_for_arrivals(usize::try_from(count)?).await;
        Ok(stage)
    }

    /// Starts the system and waits until it listens.
    pub(crate) async fn start(&self) -> Outcome<()> {
        self.system.start(&self.environment).await?;
        Ok(self.system.wait_until_listening(START_TIMEOUT).await?)
    }

    /// Stops the system as a container is stopped.
    pub(crate) async fn stop(&self) -> Outcome<()> {
        let stopped = self.system.terminate().await?;
        if stopped.killed {
            eprintln!("    it had to be killed: it did not stop within its grace");
        }
        Ok(())
    }

    /// What is around the system.
    pub(crate) fn setting(&self) -> &Setting {
        &self.setting
    }

    /// The system's process.
    pub(crate) fn process(&self) -> &Process {
        self.system.process()
    }

    /// What the system has used so far.
    pub(crate) fn usage(&self) -> Outcome<Usage> {
        Ok(Usage {
            cpu_seconds: self.cpu_seconds()?,
            write_bytes: self.process().io_write_bytes()?,
        })
    }

    /// To the nanosecond, which the clock ticks of `/proc/PID/stat` are too coarse for; without threads
    /// that have ended.
    fn cpu_seconds(&self) -> Outcome<f64> {
        let pid = self.process().pid().ok_or("the system is not running")?;
        let mut nanoseconds = 0;
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let figures = std::fs::read_to_string(task?.path().join("schedstat"))?;
            let spent = figures.split_whitespace().next().unwrap_or_default();
            nanoseconds += spent.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds).as_secs_f64())
    }

    /// Publishes all loads at the same time.
    pub(crate) async fn publish(&self, loads: Vec<Load>) -> Outcome<Published> {
        let broker = self.setting.listen();
        let began = Instant::now();
        let mut publishers = JoinSet::new();
        let asked: u64 = loads.iter().map(|load| load.count).sum();
        for load in loads {
            publishers.spawn(async move { publish_load(broker, &load).await });
        }
        let mut published = Published {
            acked: Vec::new(),
            latencies: Vec::new(),
            began,
            took: Duration::ZERO,
        };
        while let Some(report) = publishers.join_next().await {
            let Report {
                acked,
                latencies,
                broken,
                ..
            } = report??;
            if let Some(broken) = broken {
                return Err(broken.into());
            }
            published.acked.extend(acked);
            published.latencies.extend(latencies);
        }
        if published.acked.len() != usize::try_from(asked)? {
            return Err(format!(
                "{} of {asked} messages were acknowledged",
                published.acked.len()
            )
            .into());
        }
        published.took = began.elapsed();
        published.latencies.sort_unstable();
        Ok(published)
    }

    /// Waits until `count` different messages have arrived in the cloud since its start. Gives up in the
    /// end: a system may have lost some, or be too slow, which the figures tell.
    pub(crate) async fn wait_for_arrivals(&self, count: usize) {
        let cloud = self.setting.cloud();
        let patience = ARRIVAL_PATIENCE
            + Duration::from_secs(u64::try_from(count).unwrap_or(u64::MAX) / ARRIVALS_PER_S_MIN);
        let give_up = Instant::now() + patience;
        loop {
            let duplicates = cloud.counts().duplicates;
            let all = count + usize::try_from(duplicates).unwrap_or(usize::MAX);
            let left = give_up.saturating_duration_since(Instant::now());
            if let Err(error) = cloud.wait_for(all, left).await {
                eprintln!("    {duplicates} or more arrived twice, and {error}");
                for (breach, times) in self.breaches() {
                    eprintln!("    the cloud closed the connection {times} times: {breach}");
                }
                return;
            }
            if cloud.counts().duplicates == duplicates {
                return;
            }
        }
    }

    /// Why the cloud closed connections, and how often.
    fn breaches(&self) -> BTreeMap<String, usize> {
        let mut times = BTreeMap::new();
        for breach in self.setting.cloud().breaches() {
            *times.entry(breach.to_string()).or_default() += 1;
        }
        times
    }

    /// When the messages from number `from` on arrived, in order.
    pub(crate) fn arrivals(&self, from: usize) -> Vec<Instant> {
        let received = self.setting.cloud().received();
        received
            .iter()
            .skip(from)
            .map(|message| message.at)
            .collect()
    }

    /// How many of the acknowledged messages have never arrived in the cloud.
    pub(crate) fn lost(&self, published: &Published) -> usize {
        let received = self.setting.cloud().received();
        let payloads = received.iter().map(|message| message.payload.as_ref());
        audit(published.acked.iter().copied(), payloads)
            .missing
            .len()
    }
}

impl Published {
    /// The `nth` of a hundred parts of the latencies, milliseconds; `None` if there are none.
    pub(crate) fn latency_ms(&self, percent: usize) -> Option<f64> {
        let last = self.latencies.len().checked_sub(1)?;
        let latency = self.latencies.get(last * percent / 100)?;
        Some(latency.as_secs_f64() * 1_000.0)
    }
}
