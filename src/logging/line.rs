//! One event as one line, plain or JSON. Pure.

use std::fmt::{self, Write as _};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::Format;
use crate::clock::Timestamp;
use crate::printable::{escaped, is_harmful};

/// What the targets of this crate's own events start with.
const OUR_PREFIX: &str = "cloud_relay::";
/// How many of what is told there were: repetitions that are told together have the sum.
const COUNT_FIELD: &str = "count";
/// These fields tell repetitions of one fault apart, but not what happened.
const APART_FIELDS: [&str; 4] = ["peer", "seq", "last", COUNT_FIELD];

/// An event, its fields rendered.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) level: Level,
    /// The module that tells it.
    pub(super) module: String,
    message: String,
    fields: Vec<(&'static str, Shown)>,
}

/// A field's value: as the plain line shows it, and as JSON.
#[derive(Clone, Debug, PartialEq)]
struct Shown {
    plain: String,
    json: Value,
}

impl Line {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let metadata = event.metadata();
        let target = metadata.target();
        let mut line = Line {
            level: *metadata.level(),
            module: target.strip_prefix(OUR_PREFIX).unwrap_or(target).to_owned(),
            message: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut line);
        line
    }

    /// The same line with words added to its message.
    pub(super) fn with_note(mut self, note: &str) -> Self {
        self.message.push_str(note);
        self
    }

    /// What is the same in each repetition of one fault.
    pub(super) fn key(&self) -> String {
        self.words(|name| !APART_FIELDS.contains(&name))
    }

    /// The same line, with what `other` counted added to its count, if both have one.
    pub(super) fn counting(mut self, other: &Line) -> Self {
        let sum = self.count().zip(other.count()).map(|(a, b)| a + b);
        let count = self
            .fields
            .iter_mut()
            .find(|(name, _)| *name == COUNT_FIELD);
        if let (Some(sum), Some((_, shown))) = (sum, count) {
            *shown = Shown {
                plain: sum.to_string(),
                json: sum.into(),
            };
        }
        self
    }

    fn count(&self) -> Option<u64> {
        let count = self.fields.iter().find(|(name, _)| *name == COUNT_FIELD)?;
        count.1.json.as_u64()
    }

    /// Message and fields, on one line whatever is in them.
    pub(super) fn text(&self) -> String {
        escaped(&self.words(|_| true))
    }

    fn words(&self, wanted: impl Fn(&str) -> bool) -> String {
        let mut words = self.message.clone();
        for (name, value) in &self.fields {
            if wanted(name) {
                words.push_str(if words.is_empty() { "" } else { " " });
                words.push_str(name);
                words.push('=');
                words.push_str(&value.plain);
            }
        }
        words
    }

    /// The line as it is printed, with its line break. balena's log adds the time to a plain one.
    pub(super) fn render(&self, format: Format, time: Timestamp) -> String {
        match format {
            Format::Plain => format!("{} {}: {}\n", self.level, self.module, self.text()),
            Format::Json => self.json(time),
        }
    }

    fn json(&self, time: Timestamp) -> String {
        let mut object = Map::new();
        for (name, value) in &self.fields {
            object.insert((*name).to_owned(), value.json.clone());
        }
        // After the fields, so that none of them can take the place of these.
        object.insert("level".to_owned(), self.level.as_str().into());
        object.insert("module".to_owned(), self.module.as_str().into());
        object.insert("message".to_owned(), self.message.as_str().into());
        object.insert("time_unix_ms".to_owned(), time.unix_ms.into());
        let mut text = String::new();
        for character in Value::Object(object).to_string().chars() {
            if is_harmful(character) {
                // Inside of a string, as everything is that is not ASCII. Writing to a string cannot fail.
                let _infallible = write!(text, "\\u{:04x}", u32::from(character));
            } else {
                text.push(character);
            }
        }
        text.push('\n');
        text
    }

    fn record(&mut self, field: &Field, plain: String, json: Value) {
        self.fields.push((field.name(), Shown { plain, json }));
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a string cannot fail.
            let _infallible = write!(self.message, "{value:?}");
        } else {
            let plain = format!("{value:?}");
            self.record(field, plain.clone(), plain.into());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.record(field, format!("{value:?}"), value.into());
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record(field, value.to_string(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.record(field, value.to_string(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.record(field, value.to_string(), value.into());
    }
}
