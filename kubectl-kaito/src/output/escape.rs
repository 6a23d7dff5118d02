//! Makes foreign text harmless for a terminal. Everything from a cluster, a registry or a file passes here.

use std::fmt::Write;

/// Escapes control characters and bidirectional overrides; newline and tab stay.
#[must_use]
pub fn multiline(text: &str) -> String {
    escape(text, Breaks::Keep)
}

/// Escapes control characters and bidirectional overrides; newlines and tabs become spaces.
#[must_use]
pub fn single_line(text: &str) -> String {
    escape(text, Breaks::ToSpace)
}

#[derive(Clone, Copy, PartialEq)]
enum Breaks {
    Keep,
    ToSpace,
}

fn escape(text: &str, breaks: Breaks) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\t' if breaks == Breaks::Keep => escaped.push(character),
            '\n' | '\t' => escaped.push(' '),
            '\u{1b}' => escaped.push_str("^["),
            '\r' => escaped.push_str("\\r"),
            _ if is_dangerous(character) => {
                // Writing to a String cannot fail.
                let _ = write!(escaped, "\\u{{{:x}}}", u32::from(character));
            }
            _ => escaped.push(character),
        }
    }
    escaped
}

/// Control characters (C0, DEL, C1), bidirectional marks, embeddings, overrides and isolates, line and paragraph
/// separators.
fn is_dangerous(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}')
}

#[cfg(test)]
mod tests {
    use super::{multiline, single_line};

    #[test]
    fn escape_sequences_and_overrides_lose_their_power() {
        assert_eq!(
            multiline("a\u{1b}[2J\r\nb\u{7}\u{202e}\u{9b}"),
            "a^[[2J\\r\nb\\u{7}\\u{202e}\\u{9b}"
        );
        assert_eq!(single_line("a\tb\nc"), "a b c");
    }

    #[test]
    fn ordinary_text_in_any_script_is_unchanged() {
        assert_eq!(multiline("模型 ≤ 80 GiB, naïve"), "模型 ≤ 80 GiB, naïve");
    }
}
