//! Escapes foreign text (of guests, peers, agents, repositories from elsewhere) for terminals and
//! logs.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a character has an effect other than being visible: control characters (C0, DEL, C1),
/// those that change the direction of text (Unicode Standard Annex #9), and those that end a line
/// or a paragraph.
#[must_use]
pub fn is_unprintable(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
}

/// The text on one line, with invisible characters escaped as in Rust, so that it cannot affect a
/// terminal or the text beside it.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |out, letter| out.extend(letter.escape_default()))
}

/// Escapes JSON text in the same way; line feeds between its values stay. The JSON keeps its
/// meaning (RFC 8259, section 7).
#[must_use]
pub fn printable_json(text: &str) -> Cow<'_, str> {
    escaped(text, |out, letter| match letter {
        '\n' => out.push('\n'),
        letter => {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    })
}

fn escaped(text: &str, escape: impl Fn(&mut String, char)) -> Cow<'_, str> {
    if !text.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        if is_unprintable(letter) {
            escape(&mut out, letter);
        } else {
            out.push(letter);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::{printable, printable_json};

    #[test]
    fn what_has_power_over_a_terminal_is_escaped() {
        assert_eq!(printable("a\u{e9} \\ b"), "a\u{e9} \\ b");
        assert_eq!(
            printable("\u{1b}]0;x\u{7}\n\u{9b}1m\u{7f}"),
            "\\u{1b}]0;x\\u{7}\\n\\u{9b}1m\\u{7f}"
        );
        assert_eq!(printable("gpj\u{202e}.sh"), "gpj\\u{202e}.sh");
    }

    #[test]
    fn json_says_the_same_as_before() {
        let value = serde_json::json!({"a": "\u{9b}1m\u{202e}\u{1b}\n\u{e9}", "b": ["\u{7f}"]});
        let text = serde_json::to_string_pretty(&value).unwrap();
        let shown = printable_json(&text);
        assert!(!shown.contains(|c: char| c != '\n' && super::is_unprintable(c)));
        assert!(
            shown.contains("\\u009b1m\\u202e\\u001b\\n\u{e9}"),
            "{shown}"
        );
        let back: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(back, value);
    }
}
