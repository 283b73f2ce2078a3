//! Figures of single runs, their medians, and how they are shown: JSON lines and Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

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

/// One run as a line of JSON.
pub(crate) fn json_line(title: &str, system: &str, run: usize, figures: &[Figure]) -> Value {
    let figures: serde_json::Map<String, Value> = figures
        .iter()
        .map(|figure| (figure.name.to_owned(), json!(figure.value)))
        .collect();
    json!({ "scenario": title, "system": system, "run": run, "figures": figures })
}

/// All runs of one scenario.
#[derive(Default)]
pub(crate) struct Table {
    systems: Vec<String>,
    /// In the order in which they came up.
    rows: Vec<Figure>,
    values: BTreeMap<(&'static str, String), Vec<f64>>,
}

impl Table {
    /// Takes one run in.
    pub(crate) fn add(&mut self, system: &str, figures: &[Figure]) {
        if !self.systems.iter().any(|known| known == system) {
            self.systems.push(system.to_owned());
        }
        for figure in figures {
            if !self.rows.iter().any(|known| known.name == figure.name) {
                self.rows.push(*figure);
            }
            self.values
                .entry((figure.name, system.to_owned()))
                .or_default()
                .push(figure.value);
        }
    }

    /// Markdown: a row for each figure, a column for each system, medians over the runs.
    pub(crate) fn markdown(&self, title: &str) -> String {
        let mut text = format!("### {title}\n\n| Figure (better) |");
        let mut rule = "|---|".to_owned();
        for system in &self.systems {
            // writing to a string cannot fail
            write!(text, " {system} |").ok();
            rule.push_str("---:|");
        }
        let compared = [OURS, PEER].map(|name| self.systems.iter().any(|known| known == name));
        if compared == [true, true] {
            write!(text, " {OURS} ÷ {PEER} |").ok();
            rule.push_str("---:|");
        }
        write!(text, "\n{rule}\n").ok();
        for row in &self.rows {
            let arrow = if row.more_is_better { '↑' } else { '↓' };
            write!(text, "| {} {arrow} |", row.name).ok();
            for system in &self.systems {
                let cell = self.median(row.name, system).map_or("–".to_owned(), shown);
                write!(text, " {cell} |").ok();
            }
            if compared == [true, true] {
                write!(text, " {} |", self.ratio(row.name)).ok();
            }
            text.push('\n');
        }
        text
    }

    fn ratio(&self, name: &'static str) -> String {
        match (self.median(name, OURS), self.median(name, PEER)) {
            (Some(ours), Some(peer)) if peer != 0.0 => format!("{:.2}", ours / peer),
            _ => "–".to_owned(),
        }
    }

    fn median(&self, name: &'static str, system: &str) -> Option<f64> {
        let mut values = self.values.get(&(name, system.to_owned()))?.clone();
        values.sort_unstable_by(f64::total_cmp);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        if values.len() % 2 == 1 {
            return Some(upper);
        }
        Some(f64::midpoint(*values.get(middle.checked_sub(1)?)?, upper))
    }
}

/// Three figures that count.
fn shown(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        0.1.. => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}
