//! How the demo speaks: numbered steps, and indented lines of who does what. Colour on a terminal only.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// No colour (ECMA-48 SGR).
const PLAIN: &str = "0";

/// Who speaks in an indented line.
#[derive(Clone, Copy, Debug)]
pub(super) enum Speaker {
    Relay,
    Sensor,
    Cloud,
    Endpoint,
    Supervisor,
}

impl Speaker {
    /// Name, and ANSI colour (ECMA-48 SGR).
    fn look(self) -> (&'static str, &'static str) {
        match self {
            Speaker::Relay => ("relay", "2"),
            Speaker::Sensor => ("sensor", "36"),
            Speaker::Cloud => ("cloud", "32"),
            Speaker::Endpoint => ("endpoint", "35"),
            Speaker::Supervisor => ("supervisor", "33"),
        }
    }
}

/// The voice. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Voice {
    colour: bool,
    step: Arc<AtomicU32>,
}

impl Voice {
    pub(super) fn new() -> Self {
        Voice {
            colour: std::io::stdout().is_terminal(),
            step: Arc::default(),
        }
    }

    /// The next numbered step.
    pub(super) fn step(&self, text: &str) {
        let number = self.step.fetch_add(1, Ordering::Relaxed) + 1;
        println!("\n{}", self.painted("1", &format!("{number}. {text}")));
    }

    /// A line of the story's teller.
    pub(super) fn tell(&self, text: &str) {
        println!("   {}", self.painted(PLAIN, text));
    }

    /// A line of one of the parties.
    pub(super) fn line(&self, speaker: Speaker, text: &str) {
        let (name, colour) = speaker.look();
        println!(
            "   {}",
            self.painted(colour, &format!("{name:>10} | {text}"))
        );
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.colour && colour != PLAIN {
            format!("\u{1b}[{colour}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}
