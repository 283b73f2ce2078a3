//! Plain single lines on stdout, where balenaOS picks them up.
//!
//! One event is one line: control characters in it, line breaks too, are written as escapes. No
//! colours, and no time stamp, for balena's log adds its own. Other crates' records show from `warn`
//! up, from `info` up when ours are at `debug` or `trace`: what they print below that is not known to
//! be free of secrets.

use std::fmt;

use tracing::level_filters::LevelFilter;
use tracing::subscriber::SetGlobalDefaultError;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;

/// What the targets of this crate's own events start with.
const OUR_TARGET: &str = "cloud_relay";

/// Sends this process's log to stdout from now on. Fails if that was done before.
pub fn init(level: Level) -> Result<(), SetGlobalDefaultError> {
    tracing::subscriber::set_global_default(subscriber(level, std::io::stdout))
}

/// A subscriber that writes to `writer`.
pub fn subscriber<W>(level: Level, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let others = if level > Level::INFO {
        Level::INFO
    } else {
        level.min(Level::WARN)
    };
    let filter = Targets::new()
        .with_target(OUR_TARGET, level)
        .with_default(LevelFilter::from_level(others));
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(writer)
        .event_format(SingleLine);
    tracing_subscriber::registry().with(filter).with(lines)
}

/// `LEVEL module: message name=value`, always one line.
struct SingleLine;

impl<S, N> FormatEvent<S, N> for SingleLine
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = String::new();
        context.format_fields(Writer::new(&mut fields), event)?;
        let metadata = event.metadata();
        let target = metadata.target();
        let module = target.strip_prefix("cloud_relay::").unwrap_or(target);
        write!(writer, "{} {module}: ", metadata.level())?;
        for character in fields.chars() {
            if character.is_control() {
                write!(writer, "{}", character.escape_default())?;
            } else {
                writer.write_char(character)?;
            }
        }
        writer.write_char('\n')
    }
}

#[cfg(test)]
pub(crate) mod capture {
    //! Catches what a test logs, as the container would print it.

    use std::io;
    use std::sync::{Arc, Mutex, Once, PoisonError};

    use tracing::Level;
    use tracing::subscriber::DefaultGuard;
    use tracing_subscriber::fmt::MakeWriter;

    /// The text logged by this thread since [`Captured::start`].
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        /// Captures until the guard is dropped.
        pub(crate) fn start(level: Level) -> (Self, DefaultGuard) {
            keep_events_alive();
            let captured = Captured::default();
            let guard =
                tracing::subscriber::set_default(super::subscriber(level, captured.clone()));
            (captured, guard)
        }

        /// Everything so far.
        pub(crate) fn text(&self) -> String {
            let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            String::from_utf8_lossy(&bytes).into_owned()
        }
    }

    /// While there is only one subscriber, tracing asks whichever thread meets an event first whether
    /// anybody wants it, and remembers a test's "no" for all threads. A second subscriber, there for
    /// good, keeps it from doing so.
    fn keep_events_alive() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let everything = super::subscriber(Level::TRACE, io::sink);
            tracing::subscriber::set_global_default(everything)
                .expect("invariant: no test sets the global subscriber");
        });
    }

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'w> MakeWriter<'w> for Captured {
        type Writer = Captured;

        fn make_writer(&'w self) -> Captured {
            self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::capture::Captured;
    use super::*;

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
        tracing::warn!(topic = "x\ny", "first\nsecond \u{1b}[31mred\r");
        let text = log.text();
        assert_eq!(text.lines().count(), 1, "{text:?}");
        assert!(!text.trim_end().chars().any(char::is_control), "{text:?}");
        assert!(text.contains("first\\nsecond"), "{text:?}");
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
}
