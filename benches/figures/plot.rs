//! The figures that matter most as a picture, for the README: lines of JSON into SVG.
//!
//! Each panel has its own scale, from zero. Colours follow the reader's choice of dark or light.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::Outcome;
use crate::report::{median, shown};

/// The first argument that asks for a picture in place of a measurement.
pub(crate) const ARGUMENT: &str = "--plot";

/// The systems that are shown, and what they are called.
const SYSTEMS: [(&str, &str); 3] = [
    ("relay", "Cloud Relay"),
    ("mosquitto", "mosquitto bridge"),
    ("mosquitto-sync", "… saving on change"),
];

/// A panel: what it is called, its scenario and its figure.
struct Panel(&'static str, &'static str, &'static str);

const PANELS: [Panel; 8] = [
    Panel(
        "Messages/s, 1 publisher",
        "steady-1",
        "relay/s (in the cloud)",
    ),
    Panel(
        "Messages/s, 8 publishers",
        "steady-8",
        "relay/s (in the cloud)",
    ),
    Panel(
        "CPU seconds for 100,000 messages",
        "steady-1",
        "CPU s per 100k",
    ),
    Panel(
        "Way to the cloud at 500/s: p99, ms",
        "latency",
        "in the cloud p99 ms",
    ),
    Panel("Lost by kill -9 in an outage", "kill-outage", "lost acked"),
    Panel(
        "Written to disk at 100/s, bytes/message",
        "online-near",
        "disk bytes per message",
    ),
    Panel(
        "Memory with 50,000 stored, MiB",
        "backlog-50000",
        "memory with the backlog MiB",
    ),
    Panel(
        "Start to first message in the cloud, ms",
        "start",
        "start to first relayed, ms",
    ),
];

// all in pixels
const PANEL_WIDTH: usize = 420;
const PANEL_HEIGHT: usize = 110;
const COLUMNS: usize = 2;
const MARGIN: usize = 16;
const LINE_HEIGHT: usize = 24;
const BAR_HEIGHT: usize = 16;
const NAME_WIDTH: usize = 164;
const BAR_WIDTH_MAX: f64 = 176.0;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}.h{font-weight:600}.s{fill:#59636e}\
.relay{fill:#1a7f64}.other{fill:#afb8c1}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9198a1}.relay{fill:#3fb68e}.other{fill:#57606a}}";

/// Values of all runs, by scenario, system and figure.
type Values = BTreeMap<(String, String, String), Vec<f64>>;

/// Reads lines of JSON and writes the picture.
pub(crate) fn run(arguments: &[String]) -> Outcome<()> {
    let [lines, picture] = arguments else {
        return Err(format!("{ARGUMENT} needs two files: lines of JSON, and the picture").into());
    };
    let values = read(&std::fs::read_to_string(lines)?)?;
    std::fs::write(picture, svg(&values))?;
    Ok(())
}

fn read(lines: &str) -> Outcome<Values> {
    let mut values = Values::new();
    for line in lines.lines() {
        let run: Value = serde_json::from_str(line)?;
        let text = |field: &str| run.get(field).and_then(Value::as_str).map(str::to_owned);
        let (scenario, system) = text("scenario").zip(text("system")).ok_or(line)?;
        let figures = run.get("figures").and_then(Value::as_object).ok_or(line)?;
        for (name, value) in figures {
            values
                .entry((scenario.clone(), system.clone(), name.clone()))
                .or_default()
                .push(value.as_f64().ok_or(line)?);
        }
    }
    for runs in values.values_mut() {
        runs.sort_unstable_by(f64::total_cmp);
    }
    Ok(values)
}

fn svg(values: &Values) -> String {
    let width = COLUMNS * PANEL_WIDTH + MARGIN;
    let height = PANELS.len().div_ceil(COLUMNS) * PANEL_HEIGHT + 2 * MARGIN;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n\
         <title>Cloud Relay beside mosquitto</title>\n<style>{STYLE}</style>\n"
    );
    for (nth, panel) in PANELS.iter().enumerate() {
        let left = MARGIN + nth % COLUMNS * PANEL_WIDTH;
        let top = MARGIN + nth / COLUMNS * PANEL_HEIGHT;
        draw(&mut text, panel, values, (left, top));
    }
    let most = values.values().map(Vec::len).max().unwrap_or_default();
    let note = format!(
        "256-byte messages, QoS 1, cloud over mutual TLS, all on one machine. Medians of up to {most} runs."
    );
    let baseline = height - MARGIN / 2;
    writeln!(
        text,
        "<text class=\"s\" x=\"{MARGIN}\" y=\"{baseline}\">{note}</text>\n</svg>"
    )
    .ok();
    text
}

/// Draws a panel with its corner at `left` and `top`.
fn draw(text: &mut String, panel: &Panel, values: &Values, (left, top): (usize, usize)) {
    let Panel(title, scenario, figure) = panel;
    let bars = SYSTEMS.map(|(system, name)| {
        let key = (*scenario).to_owned();
        let runs = values.get(&(key, system.to_owned(), (*figure).to_owned()));
        (system, name, runs.and_then(|runs| median(runs)))
    });
    let longest = bars
        .iter()
        .filter_map(|(.., value)| *value)
        .fold(f64::MIN_POSITIVE, f64::max);
    // writing to a string cannot fail
    writeln!(
        text,
        "<text class=\"h\" x=\"{left}\" y=\"{}\">{title}</text>",
        top + 14
    )
    .ok();
    for (nth, (system, name, value)) in bars.into_iter().enumerate() {
        let y = top + LINE_HEIGHT * (nth + 1);
        // nothing is shown of what was not measured, and a little of what is zero
        let length = value.map_or(0.0, |value| (value / longest * BAR_WIDTH_MAX).max(1.0));
        let x = left + NAME_WIDTH;
        let class = if system == "relay" { "relay" } else { "other" };
        let baseline = y + 13;
        let shown = value.map_or("–".to_owned(), in_thousands);
        writeln!(
            text,
            "<text class=\"s\" x=\"{left}\" y=\"{baseline}\">{name}</text>"
        )
        .ok();
        writeln!(
            text,
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR_HEIGHT}\" rx=\"2\"/>"
        )
        .ok();
        let after = length + 6.0;
        writeln!(
            text,
            "<text transform=\"translate({after:.1})\" x=\"{x}\" y=\"{baseline}\">{shown}</text>"
        )
        .ok();
    }
}

/// Three figures that count, and commas between thousands.
fn in_thousands(value: f64) -> String {
    if value < 1_000.0 {
        return shown(value);
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
