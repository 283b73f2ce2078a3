//! Catches what a test logs, as the container would print it.

use std::io;
use std::sync::{Arc, Mutex, Once, PoisonError};

use tracing::Level;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

use super::Format;

/// The text logged by this thread since [`Captured::start`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    /// Captures until the guard is dropped.
    pub(crate) fn start(level: Level) -> (Self, DefaultGuard) {
        keep_events_alive();
        let captured = Captured::default();
        let guard = tracing::subscriber::set_default(
            super::subscriber(level, Format::Plain, captured.clone()).0,
        );
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
        let everything = super::subscriber(Level::TRACE, Format::Plain, io::sink).0;
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
