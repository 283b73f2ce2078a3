use std::time::Duration;

use serde_json::Value;

use super::capture::Captured;
use super::*;
use crate::printable::is_harmful;

#[test]
fn an_event_is_one_plain_line_with_its_fields() {
    let (log, _guard) = Captured::start(Level::INFO);
    tracing::info!(state = "connected", attempts = 2, "up");
    assert_eq!(
        log.text(),
        "INFO logging::tests: up state=\"connected\" attempts=2\n"
    );
}

#[test]
fn line_breaks_and_control_characters_are_escaped() {
    let (log, _guard) = Captured::start(Level::INFO);
    tracing::warn!(
        topic = "x\ny",
        "first\nsecond \u{1b}[31mred\r \u{2028}WARN \u{202e}third"
    );
    let text = log.text();
    assert_eq!(text.lines().count(), 1, "{text:?}");
    assert!(!text.trim_end().chars().any(char::is_control), "{text:?}");
    assert!(text.contains("first\\nsecond"), "{text:?}");
    assert!(text.contains("\\u{2028}WARN \\u{202e}third"), "{text:?}");
}

#[test]
fn other_crates_are_quieter_than_ours() {
    let (log, _guard) = Captured::start(Level::TRACE);
    tracing::trace!("ours");
    tracing::debug!(target: "hyper::proto", "header value");
    tracing::info!(target: "rumqttd", "started");
    assert_eq!(
        log.text(),
        "TRACE logging::tests: ours\nINFO rumqttd: started\n"
    );
}

#[test]
fn at_error_level_only_errors_show() {
    let (log, _guard) = Captured::start(Level::ERROR);
    tracing::warn!(target: "rumqttd", "odd");
    tracing::error!("ours");
    assert_eq!(log.text(), "ERROR logging::tests: ours\n");
}

#[test]
fn a_line_of_json_keeps_numbers_and_cannot_be_broken_by_a_value() {
    const HARMFUL: &str = "\u{1b}\u{7f}\u{85}\u{9b}\u{61c}\u{200f}\u{2028}\u{202e}\u{2069}";
    let captured = Captured::default();
    let (subscriber, _) = subscriber(Level::INFO, Format::Json, captured.clone());
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!(
            attempts = 2,
            ok = true,
            topic = "x\n\"y",
            level = "none",
            title = HARMFUL,
            "up{HARMFUL}"
        );
    });
    let text = captured.text();
    assert_eq!(text.lines().count(), 1, "{text:?}");
    assert!(!text.trim_end().contains(is_harmful), "{text:?}");
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["attempts"], 2);
    assert_eq!(line["ok"], true);
    assert_eq!(line["topic"], "x\n\"y");
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["title"], HARMFUL);
    assert_eq!(line["message"], format!("up{HARMFUL}"));
    assert!(line["time_unix_ms"].as_u64().is_some());
}

fn fail(peer: u16, reason: &str) {
    tracing::warn!(peer, "failed: {reason}");
}

#[tokio::test(start_paused = true)]
async fn a_warning_that_repeats_is_counted_and_told_again_after_ten_minutes() {
    let (log, _guard) = Captured::start(Level::INFO);
    fail(1, "a");
    fail(2, "b");
    for _ in 0..12 {
        fail(3, "a");
    }
    assert_eq!(log.text().lines().count(), 2, "{}", log.text());
    tokio::time::advance(Duration::from_mins(10)).await;
    fail(4, "a");
    let text = log.text();
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(
        text.contains("failed: a (12 more in 10 min) peer=3\n"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_repeated_warning_counts_is_summed_up_and_it_is_one_problem() {
    let (subscriber, memory) = subscriber(Level::INFO, Format::Plain, std::io::sink);
    let _guard = tracing::subscriber::set_default(subscriber);
    fail(1, "kept in mind");
    give_up_for(60).await;
    let problems = memory.problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert_eq!((problems[0].count, problems[1].count), (60, 1));

    let (log, _guard) = Captured::start(Level::INFO);
    give_up_for(21).await;
    assert_eq!(
        log.text(),
        "WARN logging::tests: given up count=1 seq=7\n\
         WARN logging::tests: given up (9 more in 10 min) count=54 seq=70\n\
         WARN logging::tests: given up count=11 seq=77\n\
         WARN logging::tests: given up (9 more in 10 min) count=144 seq=140\n\
         WARN logging::tests: given up count=21 seq=147\n"
    );
}

async fn give_up_for(minutes: u64) {
    for count in 1..=minutes {
        tracing::warn!(count, seq = 7 * count, "given up");
        tokio::time::advance(Duration::from_mins(1)).await;
    }
}

#[test]
fn good_news_makes_the_warnings_of_its_module_new_again_and_tells_what_was_held() {
    let (log, _guard) = Captured::start(Level::INFO);
    for _ in 0..3 {
        tracing::warn!(target: "cloud_relay::state", "disconnected");
    }
    tracing::info!(target: "cloud_relay::store", "the spool has room again");
    tracing::warn!(target: "cloud_relay::state", "disconnected");
    tracing::info!(target: "cloud_relay::state", "connected");
    tracing::warn!(target: "cloud_relay::state", "disconnected");
    assert_eq!(
        log.text(),
        "WARN state: disconnected\n\
         INFO store: the spool has room again\n\
         WARN state: disconnected (3 more in 1 min)\n\
         INFO state: connected\n\
         WARN state: disconnected\n"
    );
}

#[test]
fn the_last_problems_are_kept_each_once_with_its_count_and_no_control_characters() {
    let (subscriber, memory) = subscriber(Level::INFO, Format::Plain, std::io::sink);
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!("all is well");
        fail(1, "a\u{1b}[31m");
        for n in 0..40 {
            fail(2, &format!("long {n} {}", "x".repeat(5_000)));
            fail(3, "again");
        }
        tracing::error!("the end");
    });
    let problems = memory.problems();
    assert_eq!(problems.len(), 12);
    assert!(problems[0].is_error && problems[0].text == "the end");
    assert_eq!(
        (problems[1].text.as_str(), problems[1].count),
        ("failed: again peer=3", 40)
    );
    assert!(
        problems
            .iter()
            .all(|problem| problem.text.chars().count() <= 600)
    );
    assert!(
        problems
            .iter()
            .all(|problem| !problem.text.contains("well"))
    );
}
