//! One system in its setting: started, loaded and read out.

use std::collections::BTreeMap;
use std::time::Duration;

use cloud_relay_sandbox::ledger::MessageId;
use cloud_relay_sandbox::process::{Environment, Process};
use cloud_relay_sandbox::publisher::{Load, PublishError, Report, publish_load};
use cloud_relay_sandbox::relay::RelayProcess;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Outcome;
use crate::setting::Setting;
use crate::system::{System, TOPIC};
use crate::usage::Usage;

/// How long a system may take to listen, and to connect: mosquitto reads a whole backlog first.
const START_TIMEOUT: Duration = Duration::from_mins(1);
/// Pause between two looks whether a system listens: TCP has no event for it.
const LISTEN_RETRY_DELAY: Duration = Duration::from_millis(1);
/// When nothing has arrived for so long, nothing more will. What is missing then is counted as lost.
const STALL: Duration = Duration::from_secs(20);
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

/// What was published and acknowledged.
pub(crate) struct Published {
    /// The acknowledged messages.
    pub(crate) acked: Vec<MessageId>,
    /// From when each was due to its acknowledgement, if the load asked for it.
    pub(crate) latencies: Vec<Duration>,
    /// When the first message was due.
    pub(crate) began: Instant,
    /// Until the last acknowledgement.
    pub(crate) took: Duration,
    /// Why a publisher did not come to its end.
    broken: Option<PublishError>,
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
        let cloud = stage.setting.cloud();
        if !system.is_pipe() {
            cloud.wait_for_connects(1, START_TIMEOUT).await?;
        }
        let count = WARM_UP_MESSAGES.min(system.messages_max() / 10);
        stage
            .publish(vec![Load::new(WARM_UP_PUBLISHER, TOPIC, count)])
            .await?;
        stage.wait_for_arrivals(usize::try_from(count)?).await;
        Ok(stage)
    }

    /// Starts the system and waits until it listens.
    pub(crate) async fn start(&self) -> Outcome<()> {
        let began = Instant::now();
        self.system.start(&self.environment).await?;
        while TcpStream::connect(self.setting.listen()).await.is_err() {
            if !self.process().is_running() || began.elapsed() > START_TIMEOUT {
                let log = self.process().log().tail();
                return Err(format!("it does not listen; the last it said:\n{log}").into());
            }
            tokio::time::sleep(LISTEN_RETRY_DELAY).await;
        }
        Ok(())
    }

    /// Kills the system with SIGKILL.
    pub(crate) async fn kill_9(&self) -> Outcome<()> {
        Ok(self.system.kill_9().await?)
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
        Usage::of(self.process())
    }

    /// Publishes all loads at the same time; that each message is acknowledged is part of it.
    pub(crate) async fn publish(&self, loads: Vec<Load>) -> Outcome<Published> {
        let wanted: u64 = loads.iter().map(|load| load.count).sum();
        let published = self.publish_to_the_end(loads).await?;
        if let Some(broken) = published.broken {
            return Err(broken.into());
        }
        let acked = published.acked.len();
        if acked != usize::try_from(wanted)? {
            return Err(format!("{acked} of {wanted} messages were acknowledged").into());
        }
        Ok(published)
    }

    /// Publishes all loads at the same time, each as far as it comes.
    pub(crate) async fn publish_to_the_end(&self, loads: Vec<Load>) -> Outcome<Published> {
        let broker = self.setting.listen();
        let mut publishers = JoinSet::new();
        for load in loads {
            publishers.spawn(async move { publish_load(broker, &load).await });
        }
        let mut reports = Vec::new();
        while let Some(report) = publishers.join_next().await {
            reports.push(report??);
        }
        Ok(Published::from_reports(reports))
    }

    /// Waits until `count` different messages have arrived in the cloud since its start, or nothing new comes any
    /// more: a system may have lost some, or send the same ones for ever, which the figures tell.
    pub(crate) async fn wait_for_arrivals(&self, count: usize) {
        let cloud = self.setting.cloud();
        let (mut arrived, mut progressed) = (self.different(), Instant::now());
        while arrived < count {
            let waited = cloud.wait_for(count + self.duplicates(), STALL).await;
            let before = std::mem::replace(&mut arrived, self.different());
            if arrived > before {
                progressed = Instant::now();
            } else if waited.is_err() || progressed.elapsed() >= STALL {
                return self.stalled(count - arrived);
            }
        }
    }

    /// The same for certain messages: others, which nobody acknowledged, may arrive too.
    pub(crate) async fn wait_for_messages(&self, expected: &[MessageId]) {
        let cloud = self.setting.cloud();
        let mut missing = cloud.audit(expected).missing.len();
        while let Err(error) = cloud.wait_for_messages(expected, STALL).await {
            let before = std::mem::replace(&mut missing, error.missing.len());
            if missing == before {
                return self.stalled(missing);
            }
        }
    }

    fn duplicates(&self) -> usize {
        usize::try_from(self.setting.cloud().counts().duplicates).unwrap_or(usize::MAX)
    }

    /// How many different messages have arrived.
    fn different(&self) -> usize {
        let duplicates = self.duplicates();
        let arrived = self.setting.cloud().received_count();
        arrived.saturating_sub(duplicates)
    }

    fn stalled(&self, missing: usize) {
        eprintln!("    nothing new comes any more, and {missing} messages are missing");
        for (breach, times) in self.breaches() {
            eprintln!("    the cloud closed the connection {times} times: {breach}");
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
        let arrivals = self.setting.cloud().arrivals();
        let from = arrivals.get(from..).unwrap_or_default();
        from.iter().map(|arrival| arrival.at).collect()
    }
}

impl Published {
    fn from_reports(reports: Vec<Report>) -> Self {
        let now = Instant::now();
        let began = reports.iter().map(|report| report.began).min();
        let ended = reports
            .iter()
            .map(|report| report.began + report.took)
            .max();
        let began = began.unwrap_or(now);
        let mut published = Published {
            acked: Vec::new(),
            latencies: Vec::new(),
            began,
            took: ended.unwrap_or(now) - began,
            broken: None,
        };
        for report in reports {
            published.acked.extend(report.acked);
            published.latencies.extend(report.latencies);
            published.broken = published.broken.or(report.broken);
        }
        published
    }
}
