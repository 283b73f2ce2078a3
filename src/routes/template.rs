//! Topic templates: text with placeholders that a message's topic, or the device, fills in. Pure.
//!
//! | Placeholder | Stands for |
//! |---|---|
//! | `{topic}` | the message's topic |
//! | `{topic:N}` | its level N, counted from 1; nothing if it has fewer |
//! | `{topic:N..}` | its levels from N on; nothing if it has fewer |
//! | `{uuid}`, `{service}`, `{app}` | what balena calls device, service and fleet |
//!
//! `{pack:json}` or `{pack:lines}` at the end, perhaps after white space, is no part of the topic: it says that
//! messages may travel together.
//!
//! What balena knows is filled in when the template is parsed, so a message costs only what its own topic brings.
//! A level that a topic does not have is empty, so that the message goes somewhere rather than nowhere.

use std::fmt;

use thiserror::Error;

use super::Rulebook;
use crate::topic::{self, Fault};

/// The longest template, in bytes, before and after the names are filled in. A topic of AWS has 256.
pub const TEMPLATE_BYTES_MAX: usize = 1_024;

/// What this device is called; `None` is what nobody has said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names<'a> {
    /// `{uuid}`
    pub uuid: Option<&'a str>,
    /// `{service}`
    pub service: Option<&'a str>,
    /// `{app}`
    pub app: Option<&'a str>,
}

/// How messages travel together in one payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `{pack:json}`: as the elements of one JSON array.
    Json,
    /// `{pack:lines}`: as lines.
    Lines,
}

impl Form {
    const ALL: [Form; 2] = [Form::Json, Form::Lines];

    /// As it stands at the end of a template.
    fn placeholder(self) -> &'static str {
        match self {
            Form::Json => "{pack:json}",
            Form::Lines => "{pack:lines}",
        }
    }
}

/// What is wrong with a template. `Display` says what it should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TemplateFault {
    /// Too long to be a topic.
    #[error("a template of at most {TEMPLATE_BYTES_MAX} bytes")]
    TooLong,
    /// A brace without the other.
    #[error("a }} for every {{ and a {{ for every }}")]
    Brace,
    /// No such placeholder.
    #[error(
        "{{topic}}, {{topic:N}} or {{topic:N..}} with N from 1, {{uuid}}, {{service}} or {{app}} in place of {0:?}"
    )]
    Unknown(String),
    /// `{pack:…}` where it is not the last, or with an unknown form.
    #[error("{{pack:json}} or {{pack:lines}}, only once and at the very end")]
    Pack,
    /// A placeholder for what is not known.
    #[error("{variable} to be set, for {{{placeholder}}} stands for it")]
    Unset {
        /// Without its braces.
        placeholder: &'static str,
        /// What balena sets.
        variable: &'static str,
    },
    /// A level that no topic of the filter has.
    #[error("levels up to {levels} only, for the filter matches no topic with a level {level}")]
    NoSuchLevel {
        /// How many levels the topics have.
        levels: usize,
        /// The one asked for.
        level: usize,
    },
    /// Whatever fills it in, the topic is illegal.
    #[error("a topic with {0}")]
    Topic(#[from] Fault),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// The level with this index, from 0.
    Level(usize),
    /// The levels from this index on; from 0 it is the whole topic.
    LevelsFrom(usize),
}

/// A template, its names filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// No two texts are neighbours.
    pieces: Vec<Piece>,
    form: Option<Form>,
}

impl Template {
    /// The template that is always `topic`.
    pub fn fixed(topic: impl Into<String>) -> Self {
        Template {
            pieces: vec![Piece::Text(topic.into())],
            form: None,
        }
    }

    /// Understands `text`. What only goes wrong with certain filters is found by [`Template::checked`].
    pub fn parse(text: &str, names: Names<'_>) -> Result<Self, TemplateFault> {
        let (text, form) = split_form(text);
        if text.is_empty() {
            return Err(Fault::Empty.into());
        }
        let mut template = Template {
            pieces: Vec::new(),
            form,
        };
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (placeholder, behind) = after.split_once('}').ok_or(TemplateFault::Brace)?;
            template.push_text(before)?;
            match placeholder {
                "uuid" => template.push_text(named("uuid", "BALENA_DEVICE_UUID", names.uuid)?)?,
                "service" => {
                    template.push_text(named("service", "BALENA_SERVICE_NAME", names.service)?)?;
                }
                "app" => template.push_text(named("app", "BALENA_APP_NAME", names.app)?)?,
                _ if placeholder.starts_with("pack") => return Err(TemplateFault::Pack),
                _ => template.pieces.push(levels_of(placeholder)?),
            }
            rest = behind;
        }
        template.push_text(rest)?;
        Ok(template)
    }

    fn push_text(&mut self, text: &str) -> Result<(), TemplateFault> {
        if text.contains(['{', '}']) {
            return Err(TemplateFault::Brace);
        }
        if text.chars().any(char::is_control) {
            return Err(Fault::Control.into());
        }
        if topic::has_wildcards(text) {
            return Err(Fault::Wildcard.into());
        }
        match self.pieces.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Text(last)) => last.push_str(text),
            _ => self.pieces.push(Piece::Text(text.to_owned())),
        }
        let texts = self.pieces.iter().map(|piece| match piece {
            Piece::Text(text) => text.len(),
            Piece::Level(_) | Piece::LevelsFrom(_) => 0,
        });
        if texts.sum::<usize>() > TEMPLATE_BYTES_MAX || self.pieces.len() > TEMPLATE_BYTES_MAX {
            return Err(TemplateFault::TooLong);
        }
        Ok(())
    }

    /// The template as it serves messages that match `filter`: refused if it can only yield topics that
    /// `rulebook` forbids, and fixed if there is only one that it can yield.
    pub fn checked(self, filter: &str, rulebook: Rulebook) -> Result<Self, TemplateFault> {
        self.check_levels(filter)?;
        if let Some(topic) = self.as_fixed() {
            rulebook.check(topic)?;
            return Ok(self);
        }
        if !topic::has_wildcards(filter) {
            let topic = self.expand(filter);
            rulebook.check(&topic)?;
            return Ok(Template {
                form: self.form,
                ..Template::fixed(topic)
            });
        }
        if rulebook == Rulebook::Aws {
            self.check_start()?;
            topic::check_aws_limits(&self.expand(&smallest_topic(filter)))?;
        }
        Ok(self)
    }

    fn check_levels(&self, filter: &str) -> Result<(), TemplateFault> {
        if topic::levels(filter).next_back() == Some("#") {
            return Ok(());
        }
        let levels = topic::levels(filter).count();
        let beyond = self.pieces.iter().find_map(|piece| match piece {
            Piece::Level(index) | Piece::LevelsFrom(index) if *index >= levels => Some(index + 1),
            _ => None,
        });
        beyond.map_or(Ok(()), |level| {
            Err(TemplateFault::NoSuchLevel { levels, level })
        })
    }

    /// Whether what stands before the first placeholder may begin a topic of AWS.
    fn check_start(&self) -> Result<(), Fault> {
        let Some(Piece::Text(start)) = self.pieces.first() else {
            return Ok(());
        };
        match start.strip_prefix(topic::BASIC_INGEST) {
            Some(rest) if rest.starts_with('/') => Err(Fault::NoRule),
            None if topic::is_reserved(start) => Err(Fault::Reserved),
            _ => Ok(()),
        }
    }

    /// How messages travel together, if they may.
    pub fn form(&self) -> Option<Form> {
        self.form
    }

    /// The topic, if it is always the same.
    pub fn as_fixed(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The topic for a message on `topic`. It may be illegal, for some topics.
    pub fn expand(&self, topic: &str) -> String {
        let mut expanded = String::with_capacity(topic::AWS_BYTES_MAX);
        for piece in &self.pieces {
            expanded.push_str(match piece {
                Piece::Text(text) => text,
                Piece::Level(index) => topic::levels(topic).nth(*index).unwrap_or_default(),
                Piece::LevelsFrom(index) => {
                    topic.splitn(index + 1, '/').nth(*index).unwrap_or_default()
                }
            });
        }
        expanded
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => f.write_str(text)?,
                Piece::Level(index) => write!(f, "{{topic:{}}}", index + 1)?,
                Piece::LevelsFrom(0) => f.write_str("{topic}")?,
                Piece::LevelsFrom(index) => write!(f, "{{topic:{}..}}", index + 1)?,
            }
        }
        f.write_str(self.form.map_or("", Form::placeholder))
    }
}

/// Takes the form off the end of a template.
fn split_form(text: &str) -> (&str, Option<Form>) {
    let found = (Form::ALL.into_iter()).find_map(|form| {
        Some((
            text.strip_suffix(form.placeholder())?.trim_end(),
            Some(form),
        ))
    });
    found.unwrap_or((text, None))
}

/// No topic that matches `filter` is shorter or has fewer slashes, nor has any level of one.
fn smallest_topic(filter: &str) -> String {
    let levels = topic::levels(filter).filter(|level| *level != "#");
    let levels: Vec<_> = levels
        .map(|level| if level == "+" { "" } else { level })
        .collect();
    levels.join("/")
}

fn named<'a>(
    placeholder: &'static str,
    variable: &'static str,
    value: Option<&'a str>,
) -> Result<&'a str, TemplateFault> {
    value.ok_or(TemplateFault::Unset {
        placeholder,
        variable,
    })
}

/// `topic`, `topic:N` or `topic:N..`.
fn levels_of(placeholder: &str) -> Result<Piece, TemplateFault> {
    let unknown = || TemplateFault::Unknown(shown(placeholder));
    let index = |number: &str| {
        let short = number.len() <= LEVEL_DIGITS_MAX;
        let digits = short && number.bytes().all(|byte| byte.is_ascii_digit());
        let level = digits.then(|| number.parse::<usize>().ok()).flatten();
        level
            .and_then(|level| level.checked_sub(1))
            .ok_or_else(unknown)
    };
    let level = match placeholder.strip_prefix("topic") {
        Some("") => return Ok(Piece::LevelsFrom(0)),
        Some(rest) => rest.strip_prefix(':').ok_or_else(unknown)?,
        None => return Err(unknown()),
    };
    match level.strip_suffix("..") {
        Some(from) => Ok(Piece::LevelsFrom(index(from)?)),
        None => Ok(Piece::Level(index(level)?)),
    }
}

/// The most digits of a level's number: a topic of MQTT has at most 65,536 levels.
const LEVEL_DIGITS_MAX: usize = 5;

/// How much of an unknown placeholder is shown, in characters.
const SHOWN_CHARS_MAX: usize = 20;

fn shown(placeholder: &str) -> String {
    let beginning: String = placeholder.chars().take(SHOWN_CHARS_MAX).collect();
    format!("{{{beginning}}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names<'_> = Names {
        uuid: Some("c0ffee"),
        service: Some("relay"),
        app: Some("greenhouse"),
    };

    fn parse(text: &str) -> Template {
        Template::parse(text, NAMES).unwrap()
    }

    #[test]
    fn placeholders_are_filled_in() {
        for (template, topic, expected) in [
            ("data", "a/b", "data"),
            ("{topic}", "a/b/c", "a/b/c"),
            (
                "site/{uuid}/{service}/{app}/{topic}",
                "a/b",
                "site/c0ffee/relay/greenhouse/a/b",
            ),
            ("x/{topic:1}", "a/b/c", "x/a"),
            ("x/{topic:3}/{topic:1}", "a/b/c", "x/c/a"),
            ("x/{topic:2..}", "a/b/c", "x/b/c"),
            ("{topic:1..}", "/b", "/b"),
            ("{topic:2}", "é/°C", "°C"),
        ] {
            assert_eq!(parse(template).expand(topic), expected, "{template}");
        }
    }

    #[test]
    fn a_template_is_shown_with_its_names_filled_in() {
        let shown = parse("{uuid}/{topic}/{topic:2}/{topic:3..}").to_string();
        assert_eq!(shown, "c0ffee/{topic}/{topic:2}/{topic:3..}");
    }

    #[test]
    fn a_form_at_the_end_is_no_part_of_the_topic() {
        for (text, form) in [
            ("a/{topic}", None),
            ("a/{topic}{pack:json}", Some(Form::Json)),
            ("a/{topic} {pack:lines}", Some(Form::Lines)),
        ] {
            let template = parse(text);
            assert_eq!(
                (template.expand("b").as_str(), template.form()),
                ("a/b", form)
            );
            let fixed = template.checked("b", Rulebook::Aws).unwrap();
            assert_eq!((fixed.as_fixed(), fixed.form()), (Some("a/b"), form));
        }
        assert_eq!(parse("a {pack:json}").to_string(), "a{pack:json}");
    }

    #[test]
    fn a_level_that_a_topic_does_not_have_is_empty() {
        assert_eq!(parse("x/{topic:2}").expand("a"), "x/");
        assert_eq!(parse("x/{topic:2..}").expand("a"), "x/");
        assert_eq!(parse("x/{topic:99999..}").expand("a/b"), "x/");
    }

    #[test]
    fn without_placeholders_of_the_topic_a_template_is_fixed() {
        assert_eq!(parse("a/{uuid}/b").as_fixed(), Some("a/c0ffee/b"));
        assert_eq!(parse("a/{topic:1}").as_fixed(), None);
        let checked = parse("x/{topic:2}").checked("a/b", Rulebook::Aws).unwrap();
        assert_eq!(checked.as_fixed(), Some("x/b"));
    }

    #[test]
    fn what_is_no_template_is_refused_with_what_it_should_be() {
        for (text, part) in [
            ("", "at least one character"),
            ("a/{topic", "a } for every {"),
            ("a/topic}", "a { for every }"),
            ("{{topic}}", "in place of \"{{topic}\""),
            ("{topic:0}", "N from 1"),
            ("{topic:+1}", "N from 1"),
            ("{topic:1..2}", "N from 1"),
            ("{topic:123456}", "N from 1"),
            ("{topics}", "in place of \"{topics}\""),
            ("{}", "in place of \"{}\""),
            ("a/+/{topic}", "no wildcards"),
            ("a/#", "no wildcards"),
            ("a\tb", "no control characters"),
            ("{pack:json}", "at least one character"),
            ("a{pack:json}/b", "at the very end"),
            ("a{pack:json}{pack:lines}", "at the very end"),
            ("a{pack:xml}", "{pack:json} or {pack:lines}"),
        ] {
            let text = Template::parse(text, NAMES).unwrap_err().to_string();
            assert!(text.contains(part), "{text}");
        }
        let long = "a".repeat(TEMPLATE_BYTES_MAX + 1);
        assert_eq!(Template::parse(&long, NAMES), Err(TemplateFault::TooLong));
        let many = "{topic}".repeat(TEMPLATE_BYTES_MAX + 1);
        assert_eq!(Template::parse(&many, NAMES), Err(TemplateFault::TooLong));
    }

    #[test]
    fn a_name_that_nobody_has_set_or_that_is_no_part_of_a_topic_is_refused() {
        for (text, variable) in [
            ("{uuid}", "BALENA_DEVICE_UUID"),
            ("{service}", "BALENA_SERVICE_NAME"),
            ("{app}", "BALENA_APP_NAME"),
        ] {
            let fault = Template::parse(text, Names::default()).unwrap_err();
            assert!(fault.to_string().starts_with(variable), "{fault}");
        }
        let names = Names {
            app: Some("a+b"),
            ..NAMES
        };
        let fault = Template::parse("{app}", names);
        assert_eq!(fault, Err(Fault::Wildcard.into()));
    }

    #[test]
    fn a_template_that_can_only_yield_illegal_topics_is_refused() {
        let check = |template: &str, filter: &str| parse(template).checked(filter, Rulebook::Aws);
        for (template, filter, part) in [
            ("1/2/3/4/5/6/7/8/{topic}", "#", "7 slashes"),
            ("1/2/3/4/5/6/{topic}", "a/+/c", "7 slashes"),
            ("1/2/3/4/5/6/{topic}", "a/b/c/#", "7 slashes"),
            ("{topic}", "a/b/c/d/e/f/g/h/i", "7 slashes"),
            ("$aws/things/{topic}", "#", "only $aws/rules/"),
            ("$aws/{topic}", "rules/#", "only $aws/rules/"),
            ("$aws/rules//{topic}", "#", "name of a rule"),
            ("x/{topic:3}", "a/+", "levels up to 2"),
            ("x/{topic:3..}", "a/b", "levels up to 2"),
        ] {
            let text = check(template, filter).unwrap_err().to_string();
            assert!(text.contains(part), "{template} {filter}: {text}");
        }
        let long = format!("{}/{{topic}}", "a".repeat(255));
        assert!(check(&long, "+").is_ok() && check(&long, "+/b").is_err());
        for (template, filter) in [
            ("1/2/3/4/5/6/{topic}", "a/b/#"),
            ("$aws/rules/store/1/2/3/4/5/6/7/{topic}", "+"),
            ("$aws/rules/{topic}", "#"),
            ("x/{topic:3}", "a/#"),
            ("{topic:2..}", "+/#"),
        ] {
            assert!(check(template, filter).is_ok(), "{template} {filter}");
        }
    }

    #[test]
    fn elsewhere_only_the_rules_of_mqtt_hold() {
        let check = |template: &str, filter: &str| parse(template).checked(filter, Rulebook::Mqtt);
        assert!(check("1/2/3/4/5/6/7/8/{topic}", "#").is_ok());
        assert!(check("$x/{topic}", "#").is_ok());
        assert!(check("{topic:3}", "a/b").is_err());
    }
}
