//! Figures of single runs, their medians and spread, and the table of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What the ratio column compares.
const OURS: &str = "relay";
const PEER: &str = "mosquitto";

/// One figure of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    /// What it is, with its unit.
    pub(crate) name: &'static str,
    /// How much.
    pub(crate) value: f64,
    /// Whether more is better.
    more_is_better: bool,
}

impl Figure {
    /// A figure that should be high.
    pub(crate) fn more(name: &'static str, value: f64) -> Self {
        Figure {
            name,
            value,
            more_is_better: true,
        }
    }

    /// A figure that should be low.
    pub(crate) fn less(name: &'static str, value: f64) -> Self {
        Figure {
            more_is_better: false,
            ..Figure::more(name, value)
        }
    }
}

/// A count as a number to reckon with.
#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 2^53, which no count here reaches"
)]
pub(crate) fn as_f64<N: TryInto<u64>>(count: N) -> f64 {
    count.try_into().map_or(f64::NAN, |count| count as f64)
}

/// Bytes in MiB.
pub(crate) fn mib(bytes: u64) -> f64 {
    as_f64(bytes) / (1024.0 * 1024.0)
}

/// All runs of one scenario.
#[derive(Default)]
pub(crate) struct Runs {
    /// In the order in which they came up.
    figures: Vec<Figure>,
    values: BTreeMap<(&'static str, String), Vec<f64>>,
}

impl Runs {
    /// Takes one run in.
    pub(crate) fn add(&mut self, system: &str, figures: &[Figure]) {
        for figure in figures {
            if !self.figures.iter().any(|known| known.name == figure.name) {
                self.figures.push(*figure);
            }
            self.values
                .entry((figure.name, system.to_owned()))
                .or_default()
                .push(figure.value);
        }
    }

    /// The values of a figure, sorted; none if the system has not got that far.
    fn sorted(&self, name: &'static str, system: &str) -> Vec<f64> {
        let values = self.values.get(&(name, system.to_owned()));
        let mut values = values.cloned().unwrap_or_default();
        values.sort_unstable_by(f64::total_cmp);
        values
    }
}

/// The table of all scenarios, in Markdown: a row for each figure, a column for each system.
pub(crate) struct Table {
    systems: Vec<String>,
    compares: bool,
}

impl Table {
    pub(crate) fn new(systems: Vec<String>) -> Self {
        let compares = [OURS, PEER]
            .iter()
            .all(|name| systems.iter().any(|known| known == name));
        Table { systems, compares }
    }

    /// The first two lines.
    pub(crate) fn head(&self) -> String {
        let ratio = self.compares.then(|| format!("{OURS} ÷ {PEER}"));
        let columns: Vec<&str> = (self.systems.iter())
            .chain(&ratio)
            .map(String::as_str)
            .collect();
        format!(
            "| Figure (better) | {} |\n|---|{}",
            columns.join(" | "),
            "---:|".repeat(columns.len())
        )
    }

    /// The lines of one scenario: medians and, of several runs, the least and the most.
    pub(crate) fn rows(&self, title: &str, runs: &Runs) -> String {
        let columns = self.systems.len() + usize::from(self.compares);
        let mut text = format!("| **{title}** |{}", " |".repeat(columns));
        for figure in &runs.figures {
            let values = |system: &str| runs.sorted(figure.name, system);
            let cells = self.systems.iter().map(|system| cell(&values(system)));
            let ratio = self.compares.then(|| ratio(&values(OURS), &values(PEER)));
            let cells: Vec<String> = cells.chain(ratio).collect();
            let arrow = if figure.more_is_better { '↑' } else { '↓' };
            // writing to a string cannot fail
            write!(
                text,
                "\n| {} {arrow} | {} |",
                figure.name,
                cells.join(" | ")
            )
            .ok();
        }
        text
    }
}

fn cell(sorted: &[f64]) -> String {
    match (sorted, median(sorted)) {
        ([least, .., most], Some(median)) if least < most => {
            format!("{} ({}–{})", shown(median), shown(*least), shown(*most))
        }
        (_, Some(median)) => shown(median),
        (_, None) => "–".to_owned(),
    }
}

fn ratio(ours: &[f64], peers: &[f64]) -> String {
    match (median(ours), median(peers)) {
        (Some(ours), Some(peer)) if peer != 0.0 => format!("{:.2}", ours / peer),
        _ => "–".to_owned(),
    }
}

pub(crate) fn median(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// Three figures that count; counts as they are.
pub(crate) fn shown(value: f64) -> String {
    match value.abs() {
        whole if whole.fract() == 0.0 => format!("{value:.0}"),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        0.1.. => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}
