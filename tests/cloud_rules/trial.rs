//! A relay in a cloud whose rules and faults a test chooses, and what is to be said of both in the end.

use std::time::{Duration, Instant};

use cloud_relay_sandbox::cloud::{Breach, Counts, Faults, Rules};
use cloud_relay_sandbox::ledger::MessageId;
use cloud_relay_sandbox::publisher::Load;
use cloud_relay_sandbox::site::{PATIENCE, Site};

use crate::common::RELAY;
use crate::common::totals::Totals;

/// Messages of each rule, unless `CLOUD_RULES_MESSAGES` says otherwise.
const MESSAGES: u64 = 300;
/// Messages that a publisher sends ahead of their acknowledgements: enough to fill the window to the cloud, though
/// the relay may acknowledge them only when the cloud has.
const WINDOW: u16 = 1_000;
/// What a message may take on top of [`PATIENCE`]: a rule may let no more than a hundred through in ten seconds.
const PATIENCE_A_MESSAGE: Duration = Duration::from_millis(200);

pub(super) fn messages() -> u64 {
    std::env::var("CLOUD_RULES_MESSAGES").map_or(MESSAGES, |text| {
        text.parse()
            .expect("CLOUD_RULES_MESSAGES is a number of messages")
    })
}

/// A version of MQTT, as `CLOUD_MQTT_VERSION` has it.
pub(super) type Version = &'static str;
pub(super) const VERSIONS: [Version; 2] = ["5", "3.1.1"];

/// A relay in its cloud, and what is to be said of them in the end.
pub(super) struct Trial {
    name: &'static str,
    version: Version,
    pub(super) site: Site,
    pub(super) topic: String,
    pub(super) acked: Vec<MessageId>,
    began: Instant,
}

/// What is left of a [`Trial`] whose promise was kept.
pub(super) struct Ended {
    pub(super) in_order: bool,
    pub(super) counts: Counts,
    pub(super) breaches: Vec<Breach>,
    pub(super) site: Site,
}

impl Trial {
    /// A relay that speaks `version`, with `settings` besides, to a cloud that is as `set` makes it.
    pub(super) async fn begin(
        name: &'static str,
        version: Version,
        settings: &[(&str, &str)],
        set: impl FnOnce(&mut Rules, &mut Faults),
    ) -> Self {
        let site = Site::new(RELAY).await.unwrap();
        let (mut rules, mut faults) = (Rules::default(), Faults::default());
        set(&mut rules, &mut faults);
        site.cloud().set_rules(|all| *all = rules);
        site.cloud().set_faults(|all| *all = faults);
        let mut variables = site.environment_with([("CLOUD_MQTT_VERSION", version)]);
        let settings = settings.iter();
        variables.extend(settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        site.start_with(&variables).await.unwrap();
        Trial {
            name,
            version,
            site,
            topic: "sensors".to_owned(),
            acked: Vec::new(),
            began: Instant::now(),
        }
    }

    /// Publishes `count` messages of the default size.
    pub(super) async fn publish_small(&mut self, publisher: u32, count: u64) {
        let load = Load {
            window: WINDOW,
            ..Load::new(publisher, self.topic.clone(), count)
        };
        self.publish(&load).await;
    }

    /// Publishes `load`, all of which must be acknowledged.
    pub(super) async fn publish(&mut self, load: &Load) {
        let report = self.site.publish(load).await.unwrap();
        assert!(
            report.is_complete(load),
            "{}: {:?}",
            self.name,
            report.broken
        );
        self.acked.extend(report.acked);
    }

    /// Waits until all that was acknowledged is in the cloud.
    pub(super) async fn arrived(&self) {
        let count = u32::try_from(self.acked.len()).unwrap();
        let patience = PATIENCE + PATIENCE_A_MESSAGE * count;
        let arrived = self.site.cloud().wait_for_messages(&self.acked, patience);
        if let Err(error) = arrived.await {
            panic!("{error}\n{}", self.said());
        }
    }

    pub(super) async fn says(&self, words: &str, patience: Duration) {
        let said = self.site.relay().wait_for_log(words, patience).await;
        said.expect("the relay says so");
    }

    fn said(&self) -> String {
        let Trial { name, version, .. } = self;
        format!(
            "{name}, MQTT {version}:\n{}",
            self.site.relay().log().tail()
        )
    }

    /// Nothing is missing; with the cloud as it should be one more message passes; the ledger has all of them.
    pub(super) async fn end(mut self) -> Ended {
        self.arrived().await;
        let took = self.began.elapsed();
        let counts = self.site.cloud().counts();
        let breaches = self.site.cloud().breaches();
        self.site.cloud().set_rules(|all| *all = Rules::default());
        self.site.cloud().set_faults(|all| *all = Faults::default());
        self.publish_small(u32::MAX, 1).await;
        self.arrived().await;
        self.site.relay().terminate().await.unwrap();

        let totals = Totals::on_disk(self.site.relay().data_dir());
        let acked = self.acked.len() as u64;
        // a load that was cut short may have been taken without hearing of it
        let kept = totals.accepted >= acked && totals.dropped + totals.dead_lettered == 0;
        assert!(
            kept && totals.balances(),
            "{acked} of {totals:?}\n{}",
            self.said()
        );
        let v5 = if self.version == "5" {
            counts.connects
        } else {
            0
        };
        assert_eq!(counts.connects_v5, v5, "{}", self.said());
        let found = self.site.cloud().audit(&self.acked);
        eprintln!(
            "{:<44} MQTT {:<5} {acked:>6} messages in {:>6.1} s, missing {}, twice {}, connections {}, \
             acknowledgements lost {}, publishes lost {}, refused {}, at most {}/s",
            self.name,
            self.version,
            took.as_secs_f64(),
            found.missing.len(),
            counts.duplicates,
            counts.connects,
            counts.lost_pubacks,
            counts.lost_publishes,
            counts.refused_publishes,
            self.site.cloud().peaks().publishes,
        );
        Ended {
            in_order: found.is_complete_and_ordered(),
            counts,
            breaches,
            site: self.site,
        }
    }
}

/// `run` in both versions at the same time.
pub(super) async fn in_both<T>(run: impl AsyncFn(Version) -> T) -> [T; 2] {
    let [five, three] = VERSIONS;
    let (five, three) = tokio::join!(run(five), run(three));
    [five, three]
}

/// All messages through a cloud that is as `set` makes it, in both versions.
pub(super) async fn through(
    name: &'static str,
    settings: &[(&str, &str)],
    set: impl Fn(&mut Rules, &mut Faults),
) -> [Ended; 2] {
    in_both(async |version| {
        let mut trial = Trial::begin(name, version, settings, &set).await;
        trial.publish_small(1, messages()).await;
        trial.end().await
    })
    .await
}
