//! Topic names and topic filters: which are valid, and which match (MQTT 4.7). Pure.

use super::limits::Limits;

/// Separates the levels of a topic.
const SEPARATOR: char = '/';

/// Whether a message may be published to `name`: not empty, no wildcard, no NUL, within the limits.
pub(super) fn is_valid_name(name: &str, limits: &Limits) -> bool {
    let mut levels = 1;
    for byte in name.bytes() {
        match byte {
            b'+' | b'#' | 0 => return false,
            b'/' => levels += 1,
            _ => {}
        }
    }
    !name.is_empty() && name.len() <= limits.topic_bytes_max && levels <= limits.topic_levels_max
}

/// Whether `filter` may be subscribed to: wildcards fill whole levels, `#` only the last, no NUL, no
/// shared subscription (an extension of MQTT 5), within the limits.
pub(super) fn is_valid_filter(filter: &str, limits: &Limits) -> bool {
    if filter.is_empty()
        || filter.len() > limits.topic_bytes_max
        || filter.contains('\0')
        || levels(filter).count() > limits.topic_levels_max
        || levels(filter).next() == Some("$share")
    {
        return false;
    }
    let mut levels = levels(filter).peekable();
    while let Some(level) = levels.next() {
        let last = levels.peek().is_none();
        let valid = match level {
            "+" => true,
            "#" => last,
            _ => !level.contains(['+', '#']),
        };
        if !valid {
            return false;
        }
    }
    true
}

/// The levels of a topic name or filter; an empty level counts (MQTT 4.7.3).
pub(super) fn levels(topic: &str) -> std::str::Split<'_, char> {
    topic.split(SEPARATOR)
}

/// Whether the topic belongs to the server, so that no leading wildcard matches it (MQTT-4.7.2-1).
pub(super) fn is_reserved(topic: &str) -> bool {
    topic.starts_with('$')
}

/// Whether a valid `filter` matches a valid topic `name`.
pub(super) fn matches(filter: &str, name: &str) -> bool {
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

#[cfg(test)]
/// The examples of MQTT 4.7.1 and 4.7.2, and what is around them.
pub(super) const CASES: &[(&str, &str, bool)] = &[
    ("sport/tennis/player1/#", "sport/tennis/player1", true),
    (
        "sport/tennis/player1/#",
        "sport/tennis/player1/ranking",
        true,
    ),
    (
        "sport/tennis/player1/#",
        "sport/tennis/player1/score/wimbledon",
        true,
    ),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_wildcards_nul_or_nothing_are_refused() {
        let limits = Limits::default();
        for name in ["", "+", "#", "a/+", "a/b#", "a\0b"] {
            assert!(!is_valid_name(name, &limits), "{name:?}");
        }
        for name in ["a", "/", "//", "a b", "é/日本", "$SYS/x", " "] {
            assert!(is_valid_name(name, &limits), "{name:?}");
        }
    }

    #[test]
    fn names_and_filters_beyond_the_limits_are_refused() {
        let limits = Limits {
            topic_bytes_max: 8,
            topic_levels_max: 3,
            ..Limits::default()
        };
        assert!(is_valid_name("a/b/c", &limits) && is_valid_filter("a/b/c", &limits));
        assert!(!is_valid_name("a/b/c/d", &limits) && !is_valid_filter("a/b/c/d", &limits));
        assert!(is_valid_name("12345678", &limits) && is_valid_filter("12345678", &limits));
        assert!(!is_valid_name("123456789", &limits) && !is_valid_filter("123456789", &limits));
    }

    #[test]
    fn filters_take_wildcards_only_as_whole_levels_and_hash_only_last() {
        let limits = Limits::default();
        for filter in [
            "#", "+", "a/#", "+/a/+", "/", "/+", "$SYS/#", "+/+/#", "é/+",
        ] {
            assert!(is_valid_filter(filter, &limits), "{filter:?}");
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
            assert!(!is_valid_filter(filter, &limits), "{filter:?}");
        }
    }

    #[test]
    fn matching_follows_the_standard() {
        for &(filter, name, expected) in CASES {
            assert_eq!(matches(filter, name), expected, "{filter} {name}");
        }
    }
}
