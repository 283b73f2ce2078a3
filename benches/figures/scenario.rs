//! What is measured, and under which load.
//!
//! Messages are 256 bytes long and published at `QoS` 1. Publishers and cloud run in this process, on the same
//! processors as the system: rates are of the whole, ratios of systems are what counts.

use crate::Outcome;
use crate::fan_out::{self, fan_out};
use crate::hostile::{self, ATTACKS, Attack, hostile};
use crate::kill::{self, kill};
use crate::outage::{self, backlog, outage};
use crate::paced::{Pace, paced};
use crate::page::{self, page};
use crate::report::Figure;
use crate::rest::{self, idle, start};
use crate::steady::{self, far, steady};
use crate::system::System;

/// A scenario.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scenario {
    /// As fast as it goes, the cloud being there.
    Steady { publishers: u32, messages: u64 },
    /// The same with a cloud that takes its time.
    Far,
    /// Fast enough to be busy, slow enough for every system: how long a message takes.
    Latency(Pace),
    /// A steady trickle: what it costs to be there.
    Online(Pace),
    /// The cloud goes, messages pile up, the cloud comes back.
    Outage,
    /// Messages pile up, and the system is started with them.
    Backlog { messages: u64 },
    /// It is killed while messages come in, in an outage or not.
    Kill { in_outage: bool },
    /// It is started, with nothing to do.
    Start,
    /// Nothing happens.
    Idle,
    /// Somebody looks at its page.
    Page,
    /// Many local clients get what goes to the cloud.
    FanOut,
    /// Some local clients mean no good.
    Hostile(Attack),
}

/// All of them but the attacks.
const PLAIN: [Scenario; 15] = [
    Scenario::Steady {
        publishers: 1,
        messages: 200_000,
    },
    Scenario::Steady {
        publishers: 8,
        messages: 200_000,
    },
    Scenario::Latency(Pace {
        rate: 500,
        seconds: 20,
        cloud_delay_ms: 0,
    }),
    Scenario::Outage,
    Scenario::Kill { in_outage: true },
    Scenario::Kill { in_outage: false },
    Scenario::Start,
    Scenario::Idle,
    Scenario::Far,
    Scenario::FanOut,
    Scenario::Online(Pace {
        rate: 100,
        seconds: 120,
        cloud_delay_ms: 0,
    }),
    Scenario::Online(Pace {
        rate: 100,
        seconds: 30,
        cloud_delay_ms: 80,
    }),
    Scenario::Backlog { messages: 50_000 },
    Scenario::Backlog {
        messages: 1_000_000,
    },
    Scenario::Page,
];

/// All of them, in the order in which they are run.
pub(crate) fn all() -> Vec<Scenario> {
    let attacks = ATTACKS.into_iter().map(Scenario::Hostile);
    PLAIN.into_iter().chain(attacks).collect()
}

impl Scenario {
    /// The name on the command line and in the lines of JSON; what is before the first dash names the whole kind.
    pub(crate) fn name(self) -> String {
        match self {
            Scenario::Steady { publishers, .. } => format!("steady-{publishers}"),
            Scenario::Far => "far".to_owned(),
            Scenario::Latency(_) => "latency".to_owned(),
            Scenario::Online(Pace {
                cloud_delay_ms: 0, ..
            }) => "online-near".to_owned(),
            Scenario::Online(_) => "online-far".to_owned(),
            Scenario::Outage => "outage".to_owned(),
            Scenario::Backlog { messages } => format!("backlog-{messages}"),
            Scenario::Kill { in_outage: true } => "kill-outage".to_owned(),
            Scenario::Kill { in_outage: false } => "kill-flow".to_owned(),
            Scenario::Start => "start".to_owned(),
            Scenario::Idle => "idle".to_owned(),
            Scenario::Page => "page".to_owned(),
            Scenario::FanOut => "fanout".to_owned(),
            Scenario::Hostile(attack) => format!("hostile-{}", attack.name()),
        }
    }

    /// Whether `asked` is its name or that of its kind.
    pub(crate) fn is_called(self, asked: &str) -> bool {
        let name = self.name();
        name == asked || name.split_once('-').is_some_and(|(kind, _)| kind == asked)
    }

    /// What it is, for the table.
    pub(crate) fn title(self) -> String {
        match self {
            Scenario::Steady {
                publishers,
                messages,
            } => format!("{publishers} publisher(s), window 20, {messages} messages at full speed"),
            Scenario::Far => format!(
                "{} publishers, window 20, {} messages, the cloud acknowledges after {} ms",
                steady::FAR_PUBLISHERS,
                steady::FAR_MESSAGES,
                steady::FAR.as_millis()
            ),
            Scenario::Latency(pace) | Scenario::Online(pace) => format!(
                "{} messages/s for {} s, the cloud acknowledges after {} ms",
                pace.rate, pace.seconds, pace.cloud_delay_ms
            ),
            Scenario::Outage => format!(
                "no cloud, {} messages of {} publishers; then the cloud is back",
                outage::MESSAGES,
                outage::PUBLISHERS
            ),
            Scenario::Backlog { messages } => {
                format!("started with {messages} messages of an outage")
            }
            Scenario::Kill { in_outage } => format!(
                "{} messages/s, killed {} times after {} s, {}",
                kill::RATE,
                kill::KILLS,
                kill::FLOW.as_secs(),
                if in_outage {
                    "no cloud"
                } else {
                    "the cloud being there"
                }
            ),
            Scenario::Start => format!("{} starts without a backlog, medians", rest::STARTS),
            Scenario::Idle => format!("connected, {} s", rest::IDLE.as_secs()),
            Scenario::Page => format!(
                "its page closed and open, idle and at {} messages/s, {} s each",
                page::RATE,
                page::SECONDS
            ),
            Scenario::FanOut => format!(
                "1 publisher, window 20, {} messages to {} local subscribers",
                fan_out::MESSAGES,
                fan_out::SUBSCRIBERS
            ),
            Scenario::Hostile(attack) => format!(
                "{}, while one client publishes {} messages/s for {} s",
                attack.title(),
                hostile::RATE,
                hostile::SECONDS
            ),
        }
    }

    /// The same with this many messages, if it is one of those that may be longer.
    pub(crate) fn with_messages(self, messages: u64) -> Self {
        match self {
            Scenario::Steady { publishers, .. } => Scenario::Steady {
                publishers,
                messages,
            },
            other => other,
        }
    }

    /// Whether it takes minutes, so that a run of everything does it once.
    pub(crate) fn is_long(self) -> bool {
        matches!(
            self,
            Scenario::Online(_)
                | Scenario::Idle
                | Scenario::Backlog { .. }
                | Scenario::Page
                | Scenario::Hostile(_)
        )
    }

    /// Whether it says anything about `system`.
    pub(crate) fn suits(self, system: &dyn System) -> bool {
        match self {
            Scenario::Steady { .. } | Scenario::Latency(_) => true,
            Scenario::Backlog { messages } => {
                !system.is_pipe() && system.messages_max() >= messages
            }
            Scenario::Page => system.has_page(),
            Scenario::Far
            | Scenario::Online(_)
            | Scenario::Outage
            | Scenario::Kill { .. }
            | Scenario::Start
            | Scenario::Idle
            | Scenario::FanOut => !system.is_pipe(),
            Scenario::Hostile(_) => {
                let messages = u64::from(hostile::RATE * hostile::SECONDS);
                !system.is_pipe() && system.messages_max() >= messages
            }
        }
    }

    /// Measures `system` once.
    pub(crate) async fn run(self, system: &dyn System) -> Outcome<Vec<Figure>> {
        match self {
            Scenario::Steady {
                publishers,
                messages,
            } => steady(system, publishers, messages).await,
            Scenario::Far => far(system).await,
            Scenario::Latency(pace) | Scenario::Online(pace) => paced(system, pace).await,
            Scenario::Outage => outage(system).await,
            Scenario::Backlog { messages } => backlog(system, messages).await,
            Scenario::Kill { in_outage } => kill(system, in_outage).await,
            Scenario::Start => start(system).await,
            Scenario::Idle => idle(system).await,
            Scenario::Page => page(system).await,
            Scenario::FanOut => fan_out(system).await,
            Scenario::Hostile(attack) => hostile(system, attack).await,
        }
    }
}
