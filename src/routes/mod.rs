//! Which messages go on, and under which topic: rules of topic filters and templates, the first match wins. Pure.
//!
//! The same kind of table serves any direction: towards the cloud the topics are local and the results the cloud's.
//! A table is compiled once. Whether a topic has a route is decided without allocating anything; its
//! result is borrowed where it is fixed.
//!
//! Not here: what becomes of a message whose topic has no route, or whose result is illegal.

mod rule;
mod template;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

pub use self::rule::{RULES_MAX, Rule, RuleFault};
pub use self::template::{Form, Names, TEMPLATE_BYTES_MAX, Template, TemplateFault};
use crate::topic::{self, Fault};

/// The largest payload that can be relayed, in bytes: AWS IoT Core's quota (message broker limits). It
/// disconnects whoever sends more, so a larger message would hold up everything behind it for ever.
pub const PAYLOAD_BYTES_MAX: usize = 131_072;

/// Whose rules the resulting topics must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rulebook {
    /// AWS IoT Core's.
    Aws,
    /// Only those of MQTT.
    Mqtt,
}

impl Rulebook {
    /// Whether a message may be published to `topic`.
    pub fn check(self, topic: &str) -> Result<(), Fault> {
        match self {
            Rulebook::Aws => topic::check_aws(topic),
            Rulebook::Mqtt => topic::check_name(topic),
        }
    }
}

/// Where in a table something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a rule.
    Rule(Numbered),
    /// In the template for rules that have none of their own.
    Default,
    /// In that template, as it serves a certain rule.
    DefaultFor(Numbered),
}

/// A rule's number, counted from 1, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered(pub usize, pub String);

/// What is wrong with a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteError {
    /// Where.
    pub place: Place,
    /// What.
    pub fault: RuleFault,
}

/// One rule, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    filter: String,
    template: Template,
}

impl Route {
    /// Which topics it is for.
    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// The topic that every message goes to, if there is only one.
    pub fn fixed_target(&self) -> Option<&str> {
        self.template.as_fixed()
    }

    /// The topic that a message on `topic`, which matches the filter, goes to. It may be illegal.
    pub fn target(&self, topic: &str) -> Cow<'_, str> {
        match self.template.as_fixed() {
            Some(fixed) => Cow::Borrowed(fixed),
            None => Cow::Owned(self.template.expand(topic)),
        }
    }

    /// How its messages travel together, if they may.
    pub fn form(&self) -> Option<Form> {
        self.template.form()
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} => {}", self.filter, self.template)
    }
}

/// A table of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes(Vec<Route>);

impl Routes {
    /// One plain route, from the topic `from` to the topic `to`.
    pub fn new(from: impl Into<String>, to: impl Into<String>) -> Self {
        Routes(vec![Route {
            filter: from.into(),
            template: Template::fixed(to),
        }])
    }

    /// Compiles `rules`. Those without a template of their own use `default`. All faults are returned.
    pub fn parse(
        rules: &str,
        default: Option<&str>,
        names: Names<'_>,
        rulebook: Rulebook,
    ) -> Result<Self, Vec<RouteError>> {
        let mut errors = Vec::new();
        let default = default.map(|text| Template::parse(text, names));
        if let Some(Err(fault)) = &default {
            errors.push(RouteError {
                place: Place::Default,
                fault: fault.clone().into(),
            });
        }
        let mut routes = Vec::new();
        for (n, rule) in rule::split(rules).enumerate().take(RULES_MAX + 1) {
            let numbered = |text: &str| Numbered(n + 1, text.to_owned());
            let rule = match rule {
                Ok(rule) => rule,
                Err((text, fault)) => {
                    let place = Place::Rule(numbered(text));
                    errors.push(RouteError { place, fault });
                    continue;
                }
            };
            let place = match (rule.template, &default) {
                (None, Some(_)) => Place::DefaultFor(numbered(rule.text)),
                _ => Place::Rule(numbered(rule.text)),
            };
            let template = match (rule.template, &default) {
                (Some(own), _) => Template::parse(own, names).map_err(RuleFault::from),
                (None, Some(Ok(default))) => Ok(default.clone()),
                (None, Some(Err(_))) => continue, // told above, once
                (None, None) => Err(RuleFault::NoTemplate),
            };
            match template.and_then(|template| Ok(template.checked(rule.filter, rulebook)?)) {
                Ok(template) => routes.push(Route {
                    filter: rule.filter.to_owned(),
                    template,
                }),
                Err(fault) => errors.push(RouteError { place, fault }),
            }
        }
        if errors.is_empty() {
            Ok(Routes(routes))
        } else {
            Err(errors)
        }
    }

    /// Whether a message on `topic` has a route. One without stays where it is.
    pub fn has_route(&self, topic: &str) -> bool {
        self.find(topic).is_some()
    }

    /// The topic that a message on `topic` goes to, if it has a route. It may be illegal, for some topics.
    pub fn target(&self, topic: &str) -> Option<Cow<'_, str>> {
        self.find(topic).map(|(_, route)| route.target(topic))
    }

    /// The route of a message on `topic` and its number, counted from 1.
    pub fn find(&self, topic: &str) -> Option<(usize, &Route)> {
        let mut numbered = (1..).zip(&self.0);
        numbered.find(|(_, route)| topic::matches(&route.filter, topic))
    }

    /// Whether messages of any route may travel together.
    pub fn pack(&self) -> bool {
        self.0.iter().any(|route| route.form().is_some())
    }

    /// All of them, in order.
    pub fn as_slice(&self) -> &[Route] {
        &self.0
    }

    /// The templates of all of them, for a person who writes a policy.
    pub fn destinations(&self) -> String {
        let mut templates: Vec<_> = (self.0.iter())
            .map(|route| format!("{:?}", route.template.to_string()))
            .collect();
        templates.dedup();
        templates.join(", ")
    }
}

impl fmt::Display for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, route) in self.0.iter().enumerate() {
            let separator = if n == 0 { "" } else { ", " };
            write!(f, "{separator}{route}")?;
        }
        Ok(())
    }
}
