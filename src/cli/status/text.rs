//! A snapshot as a person reads it in a terminal. Pure. Every row is one line, whatever a client chose as its id.

use std::fmt::Write as _;

use crate::printable::escaped;
use crate::status::Snapshot;

/// Client ids that are shown.
const CLIENTS_MAX: usize = 10;
/// Problems that are shown.
const PROBLEMS_MAX: usize = 5;

/// Names in a column, what belongs to them beside it.
struct Sheet(String);

impl Sheet {
    fn row(&mut self, name: &str, text: impl AsRef<str>) {
        // Writing to a string cannot fail.
        let _infallible = writeln!(self.0, "{name:<12}{}", escaped(text.as_ref()));
    }
}

/// Everything but the history.
pub(super) fn render(snapshot: &Snapshot) -> String {
    let mut sheet = Sheet(String::new());
    state(&mut sheet, snapshot);
    flow(&mut sheet, snapshot);
    clients(&mut sheet, snapshot);
    costs(&mut sheet, snapshot);
    problems(&mut sheet, snapshot);
    sheet.0
}

fn state(sheet: &mut Sheet, snapshot: &Snapshot) {
    let health = &snapshot.health;
    let safe = if health.ok {
        "data is accepted and safe"
    } else {
        "DATA IS NOT SAFE"
    };
    sheet.row(
        "state",
        format!("{}, for {}; {safe}", health.state, span(health.since_s)),
    );
    sheet.row("", &health.reason);
    if let Some(remedy) = &health.remedy {
        sheet.row("what to do", remedy);
    }
}

fn flow(sheet: &mut Sheet, snapshot: &Snapshot) {
    let Snapshot {
        ledger,
        flow,
        spool,
        setup,
        ..
    } = snapshot;
    let to = setup.cloud.as_deref().unwrap_or("not set");
    sheet.row(
        "route",
        format!("{}, from {} to {to}", setup.route, setup.broker),
    );
    sheet.row("in", format!("{:.1} messages/s", flow.accepted_per_s));
    sheet.row("out", format!("{:.1} messages/s", flow.delivered_per_s));
    let drained = flow
        .drained_after_s
        .map(|seconds| format!(", drained in about {}", span(seconds)));
    sheet.row(
        "waiting",
        format!(
            "{} messages, {} of {}{}",
            ledger.spooled,
            size(spool.used_bytes),
            size(spool.limit_bytes),
            drained.unwrap_or_default()
        ),
    );
    sheet.row(
        "ledger",
        format!(
            "{} accepted = {} delivered + {} waiting + {} dead letters + {} dropped",
            ledger.accepted,
            ledger.delivered,
            ledger.spooled,
            ledger.dead_lettered,
            ledger.dropped_full + ledger.dropped_damaged + ledger.dropped_expired
        ),
    );
}

fn clients(sheet: &mut Sheet, snapshot: &Snapshot) {
    let local = &snapshot.local;
    let shown = local.list.iter().take(CLIENTS_MAX);
    let names: Vec<&str> = shown.map(|client| client.id.as_str()).collect();
    let more = if names.len() < usize::try_from(local.clients).unwrap_or(usize::MAX) {
        ", …"
    } else {
        ""
    };
    sheet.row(
        "clients",
        format!("{}: {}{more}", local.clients, names.join(", ")),
    );
}

fn costs(sheet: &mut Sheet, snapshot: &Snapshot) {
    let process = &snapshot.process;
    if let Some(bytes) = process.memory_bytes {
        sheet.row("memory", size(bytes));
    }
    if let Some(bytes) = process.written_bytes {
        let a_day = process.written_bytes_a_day;
        let a_day = a_day.map(|bytes| format!(", {} a day at this rate", size(bytes)));
        sheet.row(
            "flash",
            format!("{} written{}", size(bytes), a_day.unwrap_or_default()),
        );
    }
    sheet.row(
        "version",
        format!("{}, up for {}", snapshot.version, span(snapshot.uptime_s)),
    );
}

fn problems(sheet: &mut Sheet, snapshot: &Snapshot) {
    for (n, problem) in snapshot.problems.iter().take(PROBLEMS_MAX).enumerate() {
        let times = if problem.count > 1 {
            format!(" ({} times)", problem.count)
        } else {
            String::new()
        };
        sheet.row(
            if n == 0 { "last trouble" } else { "" },
            format!(" {} ago: {}{times}", span(problem.ago_s), problem.text),
        );
    }
}

/// A time in its two largest units.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    if days > 0 {
        format!("{days} d {} h", hours % 24)
    } else if hours > 0 {
        format!("{hours} h {} min", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes} min {} s", seconds % 60)
    } else {
        format!("{seconds} s")
    }
}

/// A number of bytes in the unit that suits it.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    // In tenths, so that no fraction is needed.
    let mut tenths = bytes.saturating_mul(10) / 1_024;
    for unit in UNITS {
        if tenths < 10_240 {
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
        tenths /= 1_024;
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_a_person_asks_for_is_there_and_no_client_drives_the_terminal() {
        let mut snapshot = Snapshot::default();
        snapshot.health.state = "disconnected".to_owned();
        snapshot.setup.cloud = Some("what is no relay\u{1b}[2J".to_owned());
        snapshot.health.reason = "no route".to_owned();
        snapshot.health.remedy = Some("wait".to_owned());
        snapshot.health.since_s = 3_700;
        snapshot.ledger.accepted = 12;
        snapshot.ledger.delivered = 10;
        snapshot.ledger.spooled = 2;
        snapshot.flow.drained_after_s = Some(61);
        snapshot.local.clients = 2;
        snapshot.local.list.push(crate::status::Client {
            id: "a\u{1b}[31m\nb\u{202e}".to_owned(),
            ..Default::default()
        });
        let text = render(&snapshot);
        for part in [
            "disconnected, for 1 h 1 min; DATA IS NOT SAFE",
            "no route",
            "what to do  wait",
            "12 accepted = 10 delivered + 2 waiting",
            "drained in about 1 min 1 s",
            "2: a\\u{1b}[31m\\nb\\u{202e}, …",
        ] {
            assert!(text.contains(part), "{part:?} not in\n{text}");
        }
        assert!(
            !text.chars().any(|c| c.is_control() && c != '\n'),
            "{text:?}"
        );
    }

    #[test]
    fn sizes_and_times_have_the_unit_that_suits_them() {
        assert_eq!(size(1_023), "1023 B");
        assert_eq!(size(1_536), "1.5 KiB");
        assert_eq!(size(268_435_456), "256.0 MiB");
        assert_eq!(
            (span(59).as_str(), span(90_000).as_str()),
            ("59 s", "1 d 1 h")
        );
    }
}
