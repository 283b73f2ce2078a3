//! Which topics a client may publish to and subscribe to, as mosquitto's `acl_file` has it. Pure.
//!
//! * `user NAME` begins the rules of a user. The rules before the first one are for clients without a user.
//! * `topic [read|write|readwrite|deny] FILTER` is a rule of that user.
//! * `pattern [read|write|readwrite|deny] FILTER` is one for everybody, wherever it stands; a level `%u` stands for the
//!   user's name, `%c` for the client identifier.
//!
//! A user's own rules come before the patterns; among each, those that deny before those that allow. What no rule
//! allows is denied.
//!
//! Invariant: a name with `+`, `#` or `/` is put into no pattern: it would let its client reach into other branches.
//!
//! Unlike mosquitto, which takes every subscription and looks at each delivery, a subscription is granted only if one
//! rule allows all that its filter can match and none denies any of it.

use std::collections::HashMap;
use std::sync::Arc;

use super::lines::LineError;
use crate::topic;

/// Most rules of a file.
const RULES_MAX: usize = 1_000;

const RULE_WANTED: &str = "is not `user NAME`, `topic [read|write|readwrite|deny] FILTER` or \
                           `pattern [read|write|readwrite|deny] FILTER`";

/// What a rule says of its filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grant {
    Read,
    Write,
    ReadWrite,
    Deny,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    grant: Grant,
    filter: String,
}

/// All rules of a file.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Of clients without a user.
    anonymous: Arc<[Rule]>,
    users: HashMap<String, Arc<[Rule]>>,
    patterns: Vec<Rule>,
}

/// What one client may do. [`Default`] allows everything.
#[derive(Clone, Debug, Default)]
pub(in crate::local) struct Rights(Option<Limited>);

#[derive(Clone, Debug)]
struct Limited {
    own: Arc<[Rule]>,
    /// Filled in for this client.
    patterns: Vec<Rule>,
}

impl Rules {
    /// Reads a file.
    pub(super) fn parse(text: &str) -> Result<Self, LineError> {
        let mut anonymous = Vec::new();
        let mut users: HashMap<String, Vec<Rule>> = HashMap::new();
        let mut patterns = Vec::new();
        let mut user: Option<String> = None;
        let mut count = 0;
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fault = |what| LineError::new(index, what);
            let (keyword, rest) = (line.split_once([' ', '\t'])).ok_or(fault(RULE_WANTED))?;
            let rest = rest.trim_start();
            count += 1;
            if count > RULES_MAX {
                return Err(fault("is one line too many: at most 1,000 are taken"));
            }
            match (keyword, &user) {
                ("user", _) => {
                    users.entry(rest.to_owned()).or_default();
                    user = Some(rest.to_owned());
                }
                ("topic", None) => anonymous.push(Rule::parse(rest).map_err(fault)?),
                ("topic", Some(user)) => {
                    let rule = Rule::parse(rest).map_err(fault)?;
                    users.entry(user.clone()).or_default().push(rule);
                }
                ("pattern", _) => {
                    let rule = Rule::parse(rest).map_err(fault)?;
                    patterns.push(rule.checked_as_pattern().map_err(fault)?);
                }
                _ => return Err(fault(RULE_WANTED)),
            }
        }
        Ok(Rules {
            anonymous: anonymous.into(),
            users: (users.into_iter())
                .map(|(user, rules)| (user, rules.into()))
                .collect(),
            patterns,
        })
    }

    /// Whether some rules are for users.
    pub(super) fn name_users(&self) -> bool {
        !self.users.is_empty()
    }

    /// What a client may do.
    pub(super) fn of(&self, user: Option<&str>, client_id: &str) -> Rights {
        let own = match user {
            Some(user) => self.users.get(user).cloned().unwrap_or_default(),
            None => Arc::clone(&self.anonymous),
        };
        let patterns = self.patterns.iter();
        Rights(Some(Limited {
            own,
            patterns: patterns
                .filter_map(|rule| rule.filled_in(user, client_id))
                .collect(),
        }))
    }
}

impl Rule {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (grant, filter) = match text.split_once([' ', '\t']) {
            None => (Grant::ReadWrite, text),
            Some((word, filter)) => {
                let grant = match word {
                    "read" => Grant::Read,
                    "write" => Grant::Write,
                    "readwrite" => Grant::ReadWrite,
                    "deny" => Grant::Deny,
                    _ => return Err("allows something that is not read, write, readwrite or deny"),
                };
                (grant, filter.trim_start())
            }
        };
        topic::check_filter(filter).map_err(|_| "has a topic filter that MQTT does not allow")?;
        Ok(Rule {
            grant,
            filter: filter.to_owned(),
        })
    }

    fn checked_as_pattern(self) -> Result<Self, &'static str> {
        let is_whole = |level: &str| {
            ["%u", "%c"]
                .iter()
                .all(|name| level == *name || !level.contains(name))
        };
        if topic::levels(&self.filter).all(is_whole) {
            Ok(self)
        } else {
            Err("has %u or %c beside other characters of a level; it must be a whole level")
        }
    }

    /// The rule that a pattern makes for a client; none if a name it needs is not there or cannot be a level.
    fn filled_in(&self, user: Option<&str>, client_id: &str) -> Option<Rule> {
        let as_level = |name: &'_ str| !name.is_empty() && !name.contains(['+', '#', '/']);
        let levels = topic::levels(&self.filter).map(|level| match level {
            "%u" => user.filter(|user| as_level(user)),
            "%c" => Some(client_id).filter(|id| as_level(id)),
            level => Some(level),
        });
        let levels: Vec<&str> = levels.collect::<Option<_>>()?;
        Some(Rule {
            grant: self.grant,
            filter: levels.join("/"),
        })
    }
}

impl Rights {
    /// Whether the client may publish to a topic.
    pub(in crate::local) fn may_publish(&self, name: &str) -> bool {
        self.allow(
            [Grant::Write, Grant::ReadWrite],
            |allowed| topic::matches(allowed, name),
            |denied| topic::matches(denied, name),
        )
    }

    /// Whether the client may subscribe to a topic filter: read all that it can match.
    pub(in crate::local) fn may_subscribe(&self, filter: &str) -> bool {
        self.allow(
            [Grant::Read, Grant::ReadWrite],
            |allowed| topic::covers(allowed, filter),
            |denied| topic::overlap(denied, filter),
        )
    }

    fn allow(
        &self,
        grants: [Grant; 2],
        is_allowed_by: impl Fn(&str) -> bool,
        is_denied_by: impl Fn(&str) -> bool,
    ) -> bool {
        let Some(limited) = &self.0 else {
            return true;
        };
        for rules in [&limited.own[..], &limited.patterns] {
            let denies = |rule: &Rule| rule.grant == Grant::Deny && is_denied_by(&rule.filter);
            if rules.iter().any(denies) {
                return false;
            }
            let allows = |rule: &Rule| grants.contains(&rule.grant) && is_allowed_by(&rule.filter);
            if rules.iter().any(allows) {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# who may do what
topic read public/#

user sensor
topic write sensors/+/data
topic deny sensors/secret/data
topic write commands with spaces/x

user panel
topic read sensors/#
topic readwrite panel/#
topic read $SYS/#

pattern write status/%c/#
pattern readwrite home/%u/+
pattern deny home/%u/locked
user sensor
topic read late
";

    fn rights(user: Option<&str>, client_id: &str) -> Rights {
        Rules::parse(FILE).unwrap().of(user, client_id)
    }

    #[test]
    #[rustfmt::skip]
    fn publishing_is_allowed_as_mosquitto_says() {
        for (user, id, name, allowed) in [
            (None, "c", "public/x", false),
            (None, "c", "status/c/x", true),
            (None, "c", "status/d/x", false),
            (None, "c", "home/c/x", false),
            (Some("sensor"), "c", "sensors/a/data", true),
            (Some("sensor"), "c", "sensors/secret/data", false),
            (Some("sensor"), "c", "sensors/a/b/data", false),
            (Some("sensor"), "c", "commands with spaces/x", true),
            (Some("sensor"), "c", "late", false),
            (Some("sensor"), "c", "home/sensor/lamp", true),
            (Some("sensor"), "c", "home/sensor/locked", false),
            (Some("sensor"), "c", "home/panel/lamp", false),
            (Some("panel"), "c", "sensors/a/data", false),
            (Some("panel"), "c", "panel/a", true),
            (Some("panel"), "c", "$SYS/x", false),
            (Some("unlisted"), "c", "panel/a", false),
            (Some("unlisted"), "c", "home/unlisted/x", true),
            // Names that would reach into other branches.
            (Some("+"), "c", "home/x/lamp", false),
            (None, "#", "status/x/y", false),
            (None, "a/b", "status/a/b/x", false),
        ] {
            assert_eq!(rights(user, id).may_publish(name), allowed, "{user:?} {id} {name}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn a_subscription_needs_one_rule_for_all_that_it_can_match_and_none_against_any_of_it() {
        for (user, filter, allowed) in [
            (None, "public/a/+", true),
            (None, "public", true),
            (None, "#", false),
            (Some("panel"), "sensors/#", true),
            (Some("panel"), "sensors/+/data", true),
            (Some("panel"), "+/#", false),
            (Some("panel"), "$SYS/broker/#", true),
            (Some("panel"), "public/a", false),
            (Some("panel"), "home/panel/+", false),
            (Some("panel"), "home/panel/lamp", true),
            (Some("sensor"), "sensors/a/data", false),
            (Some("sensor"), "late", true),
            (Some("sensor"), "status/c/x", false),
        ] {
            assert_eq!(rights(user, "c").may_subscribe(filter), allowed, "{user:?} {filter}");
        }
    }

    #[test]
    fn a_topic_without_a_word_may_be_read_and_written_and_a_user_s_own_rules_come_first() {
        let rules = Rules::parse("user a\ntopic x\ntopic read y z\npattern deny #\n");
        let rights = rules.unwrap().of(Some("a"), "c");
        assert!(rights.may_publish("x") && rights.may_subscribe("x"));
        assert!(rights.may_subscribe("y z") && !rights.may_publish("y z"));
        assert!(!rights.may_publish("other"));
    }

    #[test]
    fn without_rules_everything_is_allowed_and_by_an_empty_file_nothing() {
        assert!(Rights::default().may_publish("a") && Rights::default().may_subscribe("#"));
        let nothing = Rules::parse("# nobody\n").unwrap().of(None, "c");
        assert!(!nothing.may_publish("a") && !nothing.may_subscribe("a"));
    }

    #[test]
    fn a_faulty_line_is_named_by_its_number() {
        for (line, part) in [
            ("topic", "is not `user NAME`"),
            ("user", "is not `user NAME`"),
            ("topics read a", "is not `user NAME`"),
            ("topic Read a", "read, write, readwrite or deny"),
            ("topic read a/#/b", "filter"),
            ("topic a+", "filter"),
            ("pattern write sensors-%c/x", "whole level"),
            ("pattern %u%c", "whole level"),
        ] {
            let said = Rules::parse(&format!("# x\n\n{line}\n"))
                .unwrap_err()
                .to_string();
            assert!(said.starts_with("line 3 ") && said.contains(part), "{said}");
        }
        let many = "topic a\n".repeat(RULES_MAX + 1);
        let said = Rules::parse(&many).unwrap_err().to_string();
        assert!(said.starts_with("line 1001 "), "{said}");
    }
}
