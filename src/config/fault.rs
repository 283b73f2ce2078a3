//! Faults of the environment, gathered so that all are reported at once.

use std::fmt;

/// How much of a faulty value is shown. Less than what can be used of a key that was pasted into the wrong variable: one of
/// balenaCloud's API has 32 characters, and the first line of a base64-coded RSA key takes 42.
const FOUND_CHARS_MAX: usize = 20;

/// What `String::from_utf8_lossy` puts where bytes were not UTF-8.
const NOT_UTF8: char = '\u{FFFD}';

/// One variable that cannot be used as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The variable's name.
    pub variable: &'static str,
    /// The beginning of its value, or `None` where the value may hold a secret.
    found: Option<String>,
    /// What it should be.
    expected: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.found {
            Some(found) => write!(
                f,
                "{} is {found:?}: expected {}",
                self.variable, self.expected
            ),
            None => write!(
                f,
                "{} cannot be used (its value is not shown): expected {}",
                self.variable, self.expected
            ),
        }
    }
}

/// Every fault of the environment. `Display` prints one line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Fault>);

impl ConfigErrors {
    /// The faults, in the order in which the variables are read.
    pub fn faults(&self) -> &[Fault] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The beginning of a value, to be shown: without what may be the login before a URL's `@`, or the token behind its `?`.
pub(super) fn excerpt(value: &str) -> String {
    let harmless = match value.split_once('@') {
        Some((before, _)) => before.split_once("://").map_or("", |(scheme, _)| scheme),
        None => value.split('?').next().unwrap_or_default(),
    };
    let shown: String = harmless.chars().take(FOUND_CHARS_MAX).collect();
    let rest = if shown == value { "" } else { "…" };
    shown + rest
}

/// Reads values and gathers the faults.
#[derive(Debug, Default)]
pub(super) struct Reading {
    faults: Vec<Fault>,
}

impl Reading {
    /// The value as `parse` understands it; `None` if unset or faulty. `parse` fails with what it
    /// expected.
    pub(super) fn parse<T>(
        &mut self,
        variable: &'static str,
        value: Option<&str>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let shown = value.map(excerpt);
        self.parse_as(variable, value, shown, parse)
    }

    /// Like [`Reading::parse`], for values that hold or may hold a secret: a fault never shows them.
    pub(super) fn parse_hidden<T>(
        &mut self,
        variable: &'static str,
        value: Option<&str>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.parse_as(variable, value, None, parse)
    }

    fn parse_as<T>(
        &mut self,
        variable: &'static str,
        value: Option<&str>,
        found: Option<String>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = value?;
        let parsed = if value.contains(NOT_UTF8) {
            Err("text in UTF-8".to_owned())
        } else {
            parse(value)
        };
        parsed
            .map_err(|expected| {
                self.faults.push(Fault {
                    variable,
                    found,
                    expected,
                });
            })
            .ok()
    }

    /// Notes what was found wrong with a value that holds no secret.
    pub(super) fn fault(&mut self, variable: &'static str, value: &str, expected: String) {
        self.faults.push(Fault {
            variable,
            found: Some(excerpt(value)),
            expected,
        });
    }

    /// Hands `config` out if nothing was faulty.
    pub(super) fn finish<T>(self, config: T) -> Result<T, ConfigErrors> {
        if self.faults.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors(self.faults))
        }
    }
}
