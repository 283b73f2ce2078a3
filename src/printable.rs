//! Text that somebody else chose, on one line of a log or a terminal. Pure.

/// Whether a character breaks the line, drives the terminal, or turns round what is shown beside it: control
/// characters, Unicode's line and paragraph separators, and its marks of direction.
pub(crate) fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}')
        || matches!(character, '\u{061C}' | '\u{200E}' | '\u{200F}')
        || matches!(character, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// `text` with such characters as escapes.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if is_harmful(character) {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_a_line_or_turn_it_round_is_escaped_and_nothing_else() {
        assert_eq!(
            escaped("a\nb\u{1b}[31m\u{2028}\u{202e}c"),
            "a\\nb\\u{1b}[31m\\u{2028}\\u{202e}c"
        );
        for plain in ["21.5 °C", "Grüße, 日本", "a\"b\\c"] {
            assert_eq!(escaped(plain), plain);
        }
    }
}
