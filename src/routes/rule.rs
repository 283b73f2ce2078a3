//! The text of a set of rules: `filter, filter=>template, …`. Pure; knows no direction.

use thiserror::Error;

use super::template::TemplateFault;
use crate::topic::{self, Fault};

/// The most rules of one variable: each message is compared with them in turn.
pub const RULES_MAX: usize = 64;
/// Between two rules.
const SEPARATOR: char = ',';
/// Between a rule's filter and its template.
const ARROW: &str = "=>";
/// What is written in its place by mistake. Without the spaces it may be part of a topic.
const LIKE_ARROW: &str = " -> ";

/// One rule as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule<'a> {
    /// All of it, without the white space around it.
    pub text: &'a str,
    /// Which topics it is for: a valid topic filter.
    pub filter: &'a str,
    /// Its own template, if it has one.
    pub template: Option<&'a str>,
}

/// What is wrong with a rule. `Display` says what it should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RuleFault {
    /// Nothing between two commas.
    #[error("a topic filter between any two commas")]
    Empty,
    /// More than [`RULES_MAX`].
    #[error("at most {RULES_MAX} rules")]
    TooMany,
    /// `a=>b=>c`.
    #[error("one => only, and a comma before the next rule")]
    Arrows,
    /// `a -> b`.
    #[error("=> between filter and topic, not ->")]
    Arrow,
    /// A filter without a template where there is none for all.
    #[error("a => and a topic behind the filter")]
    NoTemplate,
    /// The filter is none.
    #[error("a topic filter with {0}")]
    Filter(#[from] Fault),
    /// The template.
    #[error(transparent)]
    Template(#[from] TemplateFault),
}

/// Takes `text` apart, rule by rule.
pub(super) fn split(text: &str) -> impl Iterator<Item = Result<Rule<'_>, (&str, RuleFault)>> {
    text.split(SEPARATOR).enumerate().map(|(n, text)| {
        let text = text.trim();
        if n >= RULES_MAX {
            return Err((text, RuleFault::TooMany));
        }
        parse(text).map_err(|fault| (text, fault))
    })
}

fn parse(text: &str) -> Result<Rule<'_>, RuleFault> {
    if text.is_empty() {
        return Err(RuleFault::Empty);
    }
    if text.contains(LIKE_ARROW) {
        return Err(RuleFault::Arrow);
    }
    let (filter, template) = match text.split_once(ARROW) {
        Some((_, template)) if template.contains(ARROW) => return Err(RuleFault::Arrows),
        Some((filter, template)) => (filter.trim(), Some(template.trim())),
        None => (text, None),
    };
    if filter.chars().any(char::is_control) {
        return Err(Fault::Control.into());
    }
    topic::check_filter(filter)?;
    Ok(Rule {
        text,
        filter,
        template,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Vec<(&str, Option<&str>)> {
        let rules = split(text).map(|rule| rule.unwrap());
        rules.map(|rule| (rule.filter, rule.template)).collect()
    }

    fn fault(text: &str) -> RuleFault {
        split(text).find_map(Result::err).unwrap().1
    }

    #[test]
    fn rules_are_separated_by_commas_and_white_space_around_them_does_not_matter() {
        assert_eq!(rules("sensors"), [("sensors", None)]);
        assert_eq!(
            rules(" sensors/# =>site/{topic} ,\n alarms=> $aws/rules/alarms, with space"),
            [
                ("sensors/#", Some("site/{topic}")),
                ("alarms", Some("$aws/rules/alarms")),
                ("with space", None)
            ]
        );
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        assert_eq!(fault("a,,b"), RuleFault::Empty);
        assert_eq!(fault("a,"), RuleFault::Empty);
        assert_eq!(fault("a=>b=>c"), RuleFault::Arrows);
        assert_eq!(fault("a -> b"), RuleFault::Arrow);
        assert_eq!(rules("a->b"), [("a->b", None)]);
        assert_eq!(fault("=>b"), RuleFault::Filter(Fault::Empty));
        assert_eq!(fault("a, b+"), RuleFault::Filter(Fault::MisplacedWildcard));
        assert_eq!(fault("a\tb"), RuleFault::Filter(Fault::Control));
        let many = vec!["a"; RULES_MAX].join(",");
        assert_eq!(rules(&many).len(), RULES_MAX);
        assert_eq!(fault(&format!("{many},a")), RuleFault::TooMany);
    }
}
