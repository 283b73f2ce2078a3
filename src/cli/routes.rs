//! `cloud-relay routes`: what the relay's settings make of a topic, without a relay.
//!
//! Results are lines on stdout, one for each rule or topic. Nothing is read but the environment.

use std::process::ExitCode;

use super::{EXIT_USAGE, print};
use crate::config::Config;
use crate::local::STATE_TOPIC;
use crate::routes::{Routes, Rulebook};
use crate::topic;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutesCommand {
    /// The whole table.
    Table,
    /// What becomes of messages on these topics.
    Explain(Vec<String>),
}

impl RoutesCommand {
    /// Answers on stdout; faults of the environment are on stderr.
    pub fn run(&self) -> ExitCode {
        match Config::routes_from_env() {
            Ok((routes, rulebook)) => print(&self.answer(&routes, rulebook)),
            Err(errors) => {
                eprintln!("{errors}");
                ExitCode::from(EXIT_USAGE)
            }
        }
    }

    fn answer(&self, routes: &Routes, rulebook: Rulebook) -> String {
        let mut lines: Vec<String> = match self {
            RoutesCommand::Table => (1..)
                .zip(routes.as_slice())
                .map(|(number, route)| format!("{number}  {route}"))
                .collect(),
            RoutesCommand::Explain(topics) => (topics.iter())
                .map(|topic| format!("{topic}: {}", explain(topic, routes, rulebook)))
                .collect(),
        };
        lines.push(String::new());
        lines.join("\n")
    }
}

/// What becomes of a message on `topic`.
fn explain(topic: &str, routes: &Routes, rulebook: Rulebook) -> String {
    if let Err(fault) = topic::check_name(topic) {
        return format!("nobody can publish to it; a topic has {fault}");
    }
    if topic::is_reserved(topic) {
        return "goes nowhere: topics that start with $ are the broker's own".to_owned();
    }
    if topic == STATE_TOPIC {
        return "goes nowhere: only the relay publishes to it".to_owned();
    }
    let Some((number, route)) = routes.find(topic) else {
        return "stays on the device: no rule matches".to_owned();
    };
    let target = route.target(topic);
    match rulebook.check(&target) {
        Ok(()) => format!("goes to {target} by rule {number} ({route})"),
        Err(fault) => format!(
            "becomes a dead letter: rule {number} ({route}) leads to {target}, and a topic there has {fault}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::Names;

    fn answer(command: &RoutesCommand) -> String {
        let rules = "alarms => $aws/rules/alarms, a/# => site/{topic:2..}, +/deep/# => {topic}, +/state => site/data";
        let routes = Routes::parse(rules, None, Names::default(), Rulebook::Aws).unwrap();
        command.answer(&routes, Rulebook::Aws)
    }

    #[test]
    fn the_table_has_a_numbered_line_for_each_rule() {
        assert_eq!(
            answer(&RoutesCommand::Table),
            "1  alarms => $aws/rules/alarms\n\
             2  a/# => site/{topic:2..}\n\
             3  +/deep/# => {topic}\n\
             4  +/state => site/data\n"
        );
    }

    #[test]
    fn each_topic_is_explained_on_its_line() {
        let topics = [
            STATE_TOPIC,
            "alarms",
            "a/b/c",
            "x/deep/3/4/5/6/7/8/9",
            "x",
            "$SYS/a",
            "a/#",
        ];
        let text = answer(&RoutesCommand::Explain(topics.map(str::to_owned).to_vec()));
        let expected = [
            "cloud-relay/state: goes nowhere: only the relay publishes to it",
            "alarms: goes to $aws/rules/alarms by rule 1 (alarms => $aws/rules/alarms)",
            "a/b/c: goes to site/b/c by rule 2 (a/# => site/{topic:2..})",
            "x/deep/3/4/5/6/7/8/9: becomes a dead letter: rule 3 (+/deep/# => {topic}) leads to \
             x/deep/3/4/5/6/7/8/9, and a topic there has at most 7 slashes, which is the limit of AWS IoT Core",
            "x: stays on the device: no rule matches",
            "$SYS/a: goes nowhere: topics that start with $ are the broker's own",
            "a/#: nobody can publish to it; a topic has no wildcards (+ and #): it is a topic name to publish to",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }
}
