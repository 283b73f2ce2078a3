//! Topic names and topic filters: which are valid, which match (MQTT 3.1.1, section 4.7), and which AWS IoT Core
//! takes. The one place of these rules. Pure.
//!
//! What the local broker can afford to keep, which is less than MQTT allows, is in `local`; what is done with a
//! message whose topic is not legal is not decided here.

use thiserror::Error;

/// The longest topic that MQTT can carry, in bytes of UTF-8 (MQTT 3.1.1, section 1.5.3).
pub const MQTT_BYTES_MAX: usize = 65_535;
/// The longest topic that AWS IoT Core takes, in bytes of UTF-8 (message broker quotas).
pub const AWS_BYTES_MAX: usize = 256;
/// The most slashes in a topic that AWS IoT Core takes (message broker quotas).
pub const AWS_SLASHES_MAX: usize = 7;
/// What begins a topic of Basic Ingest: `$aws/rules/<rule>/…`. Neither it nor the rule's name counts towards
/// those two.
pub const BASIC_INGEST: &str = "$aws/rules/";

/// Separates the levels of a topic.
const SEPARATOR: char = '/';

/// What is wrong with a topic name or filter. `Display` says what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// Nothing at all.
    #[error("at least one character")]
    Empty,
    /// A NUL, which MQTT forbids, or another control character, which only confuses.
    #[error("no control characters")]
    Control,
    /// `+` or `#` in a topic name.
    #[error("no wildcards (+ and #): it is a topic name to publish to")]
    Wildcard,
    /// `+` or `#` beside other characters of a level, or `#` before the last level.
    #[error("wildcards only as whole levels, and # only as the last one")]
    MisplacedWildcard,
    /// `$share/…`, which is an extension of MQTT 5.
    #[error("no shared subscription ($share/…)")]
    Shared,
    /// Longer than MQTT can carry.
    #[error("at most {MQTT_BYTES_MAX} bytes")]
    TooLong,
    /// Longer than AWS takes.
    #[error("at most {AWS_BYTES_MAX} bytes, which is the limit of AWS IoT Core")]
    TooLongForAws,
    /// More levels than AWS takes.
    #[error("at most {AWS_SLASHES_MAX} slashes, which is the limit of AWS IoT Core")]
    TooManySlashes,
    /// `$…`, but no Basic Ingest.
    #[error("no $ at its start, which AWS reserves; only $aws/rules/<rule>/… may have it")]
    Reserved,
    /// Basic Ingest without a rule.
    #[error("the name of a rule after $aws/rules/")]
    NoRule,
}

/// Whether a message may be published to `name` by MQTT's rules.
pub fn check_name(name: &str) -> Result<(), Fault> {
    if name.is_empty() {
        Err(Fault::Empty)
    } else if name.contains('\0') {
        Err(Fault::Control)
    } else if name.contains(['+', '#']) {
        Err(Fault::Wildcard)
    } else if name.len() > MQTT_BYTES_MAX {
        Err(Fault::TooLong)
    } else {
        Ok(())
    }
}

/// Whether `filter` may be subscribed to by MQTT's rules.
pub fn check_filter(filter: &str) -> Result<(), Fault> {
    if filter.is_empty() {
        return Err(Fault::Empty);
    }
    if filter.contains('\0') {
        return Err(Fault::Control);
    }
    if filter.len() > MQTT_BYTES_MAX {
        return Err(Fault::TooLong);
    }
    let mut levels = levels(filter).peekable();
    if levels.peek() == Some(&"$share") {
        return Err(Fault::Shared);
    }
    while let Some(level) = levels.next() {
        let last = levels.peek().is_none();
        let valid = match level {
            "+" => true,
            "#" => last,
            _ => !level.contains(['+', '#']),
        };
        if !valid {
            return Err(Fault::MisplacedWildcard);
        }
    }
    Ok(())
}

/// Whether AWS IoT Core takes a message to `name`: it disconnects, or refuses, whoever breaks its rules.
pub fn check_aws(name: &str) -> Result<(), Fault> {
    check_name(name)?;
    check_aws_limits(name)?;
    check_aws_start(name)
}

/// The part of [`check_aws`] that counts.
pub fn check_aws_limits(name: &str) -> Result<(), Fault> {
    let counted = counted_by_aws(name);
    if counted.len() > AWS_BYTES_MAX {
        Err(Fault::TooLongForAws)
    } else if counted.matches(SEPARATOR).count() > AWS_SLASHES_MAX {
        Err(Fault::TooManySlashes)
    } else {
        Ok(())
    }
}

/// The part of [`check_aws`] that looks at the first levels.
fn check_aws_start(name: &str) -> Result<(), Fault> {
    match name.strip_prefix(BASIC_INGEST) {
        Some(rest) if levels(rest).next().is_none_or(str::is_empty) => Err(Fault::NoRule),
        None if is_reserved(name) => Err(Fault::Reserved),
        _ => Ok(()),
    }
}

/// The part of a topic that counts towards AWS's limits: without `$aws/rules/<rule>/`.
pub fn counted_by_aws(name: &str) -> &str {
    match name.strip_prefix(BASIC_INGEST) {
        Some(rest) => rest.split_once(SEPARATOR).map_or("", |(_rule, rest)| rest),
        None => name,
    }
}

/// The levels of a topic name or filter; an empty level counts (MQTT 4.7.3).
pub fn levels(topic: &str) -> std::str::Split<'_, char> {
    topic.split(SEPARATOR)
}

/// Whether the topic belongs to the server, so that no leading wildcard matches it (MQTT-4.7.2-1).
pub fn is_reserved(topic: &str) -> bool {
    topic.starts_with('$')
}

/// Whether `filter` matches more than the one topic that it spells.
pub fn has_wildcards(filter: &str) -> bool {
    filter.contains(['+', '#'])
}

/// Whether a valid `filter` matches a valid topic `name`. Allocates nothing.
pub fn matches(filter: &str, name: &str) -> bool {
    if is_reserved(name) && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut name_levels = levels(name);
    for level in levels(filter) {
        if level == "#" {
            return true;
        }
        match name_levels.next() {
            Some(_) if level == "+" => {}
            Some(name_level) if name_level == level => {}
            _ => return false,
        }
    }
    name_levels.next().is_none()
}

/// Whether a valid filter matches everything that another one, `inner`, matches. May say no where a
/// combination of levels amounts to the same, `+/#` and `#`.
pub fn covers(filter: &str, inner: &str) -> bool {
    if is_reserved(inner) && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut inner_levels = levels(inner);
    for level in levels(filter) {
        if level == "#" {
            return true;
        }
        match inner_levels.next() {
            Some("#") | None => return false,
            Some(_) if level == "+" => {}
            Some(inner_level) if inner_level == level => {}
            Some(_) => return false,
        }
    }
    inner_levels.next().is_none()
}

/// Whether some topic is matched by both of these valid filters.
pub fn overlap(one: &str, other: &str) -> bool {
    let is_wild = |filter: &str| filter.starts_with(['+', '#']);
    if is_reserved(one) && is_wild(other) || is_reserved(other) && is_wild(one) {
        return false;
    }
    let (mut ones, mut others) = (levels(one), levels(other));
    loop {
        match (ones.next(), others.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(one), Some(other)) if one == other || one == "+" || other == "+" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The examples of MQTT 4.7.1 and 4.7.2, and what is around them: filter, name, whether they match.
    #[rustfmt::skip]
    pub(crate) const CASES: &[(&str, &str, bool)] = &[
        ("sport/tennis/player1/#", "sport/tennis/player1", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
        ("sport/tennis/player1/#", "sport/tennis/player10", false),
        ("sport/#", "sport", true),
        ("sport/tennis/+", "sport/tennis/player1", true),
        ("sport/tennis/+", "sport/tennis/player1/ranking", false),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("+/+", "/finance", true),
        ("/+", "/finance", true),
        ("+", "/finance", false),
        ("#", "$SYS/a", false),
        ("+/a", "$SYS/a", false),
        ("$SYS/#", "$SYS/a", true),
        ("$SYS/+", "$SYS/a", true),
        ("#", "a/b/c", true),
        ("#", "/", true),
        ("a/+/c", "a//c", true),
        ("a/+/#", "a", false),
        ("a/+/#", "a/b", true),
        ("a/b", "a/b", true),
        ("a/b", "a/b/", false),
        ("a/b", "a/B", false),
        ("é/+", "é/x", true),
    ];

    #[test]
    fn names_with_wildcards_nul_or_nothing_are_refused() {
        for name in ["", "+", "#", "a/+", "a/b#", "a\0b"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["a", "/", "//", "a b", "é/日本", "$SYS/x", " "] {
            assert_eq!(check_name(name), Ok(()), "{name:?}");
        }
    }

    #[test]
    fn filters_take_wildcards_only_as_whole_levels_and_hash_only_last() {
        for filter in [
            "#", "+", "a/#", "+/a/+", "/", "/+", "$SYS/#", "+/+/#", "é/+",
        ] {
            assert_eq!(check_filter(filter), Ok(()), "{filter:?}");
        }
        for filter in [
            "",
            "a#",
            "#/a",
            "a/#/b",
            "a+",
            "+a/b",
            "a/b+/c",
            "$share/g/a",
            "a\0",
        ] {
            assert!(check_filter(filter).is_err(), "{filter:?}");
        }
    }

    #[test]
    fn matching_follows_the_standard() {
        for &(filter, name, expected) in CASES {
            assert_eq!(matches(filter, name), expected, "{filter} {name}");
        }
    }

    #[test]
    fn names_and_filters_longer_than_a_packet_can_carry_are_refused() {
        let longest = "a".repeat(MQTT_BYTES_MAX);
        assert_eq!(check_name(&longest), Ok(()));
        assert_eq!(check_filter(&longest), Ok(()));
        let longer = "a".repeat(MQTT_BYTES_MAX + 1);
        assert_eq!(check_name(&longer), Err(Fault::TooLong));
        assert_eq!(check_filter(&longer), Err(Fault::TooLong));
    }

    #[test]
    fn the_limits_of_aws_are_met_exactly() {
        assert_eq!(check_aws(&"a".repeat(256)), Ok(()));
        assert_eq!(check_aws(&"a".repeat(257)), Err(Fault::TooLongForAws));
        assert_eq!(check_aws("1/2/3/4/5/6/7/8"), Ok(()));
        assert_eq!(check_aws("1/2/3/4/5/6/7/8/9"), Err(Fault::TooManySlashes));
        assert_eq!(check_aws(&"ü".repeat(128)), Ok(()));
        assert_eq!(check_aws(&"ü".repeat(129)), Err(Fault::TooLongForAws));
    }

    #[test]
    fn the_prefix_of_basic_ingest_counts_towards_no_limit() {
        let ingest = |rest: &str| check_aws(&format!("$aws/rules/{rest}"));
        assert_eq!(ingest("store/1/2/3/4/5/6/7/8"), Ok(()));
        assert_eq!(
            ingest("store/1/2/3/4/5/6/7/8/9"),
            Err(Fault::TooManySlashes)
        );
        assert_eq!(ingest(&format!("store/{}", "a".repeat(256))), Ok(()));
        assert_eq!(ingest("store"), Ok(()));
        assert_eq!(ingest(""), Err(Fault::NoRule));
        assert_eq!(ingest("/x"), Err(Fault::NoRule));
        assert_eq!(ingest("r/+"), Err(Fault::Wildcard));
    }

    #[test]
    fn what_begins_with_a_dollar_is_reserved_but_for_basic_ingest() {
        for name in ["$aws/things/x/shadow/update", "$SYS/x", "$", "$aws/rules"] {
            assert_eq!(check_aws(name), Err(Fault::Reserved), "{name}");
        }
        assert_eq!(check_aws("a/$aws"), Ok(()));
    }

    /// All filters and names of up to three levels from a small alphabet.
    fn all_of(levels: &[&str]) -> Vec<String> {
        let mut all: Vec<String> = levels.iter().map(|level| (*level).to_owned()).collect();
        for start in [0, levels.len()] {
            let longer = all[start..].iter();
            let longer =
                longer.flat_map(|first| levels.iter().map(move |l| format!("{first}/{l}")));
            let longer: Vec<String> = longer.collect();
            all.extend(longer);
        }
        all
    }

    #[test]
    fn covering_and_overlapping_are_what_matching_says() {
        // Among them the empty one, which is no name, and which `/#` matches and `+` as well.
        let names = all_of(&["a", "b", "$x", ""]);
        let mut filters = all_of(&["a", "$x", "", "+", "#"]);
        filters.retain(|filter| check_filter(filter).is_ok());
        for one in &filters {
            for other in &filters {
                let of_other: Vec<_> = names.iter().filter(|name| matches(other, name)).collect();
                if covers(one, other) {
                    let all = of_other.iter().all(|name| matches(one, name));
                    assert!(all, "{one} does not cover {other}");
                }
                let both = of_other.iter().any(|name| matches(one, name));
                assert_eq!(overlap(one, other), both, "{one} {other}");
            }
        }
        for (filter, inner) in [("a/#", "a"), ("#", "+/a"), ("a/+", "a/+"), ("+/#", "a/#")] {
            assert!(covers(filter, inner), "{filter} {inner}");
        }
    }
}
