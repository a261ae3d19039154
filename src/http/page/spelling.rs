//! Text of guests in pages: what cannot be seen, or would turn the text around it, is spelled out.

use maud::{Markup, html};

use crate::types::printable::is_unprintable;

/// A piece of foreign text.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    /// As it is.
    Plain(String),
    /// A character or byte that is spelled.
    Strange(String),
}

fn is_strange(c: char) -> bool {
    is_unprintable(c) || matches!(c, '\u{200b}'..='\u{200d}' | '\u{2060}')
}

/// A character as people write it: `\x1b`, `U+202E`.
fn spell(c: char) -> String {
    match u32::from(c) {
        code @ ..0x80 => format!("\\x{code:02x}"),
        code => format!("U+{code:04X}"),
    }
}

fn pieces(bytes: &[u8], keeps: fn(char) -> bool) -> Vec<Piece> {
    let mut all = Vec::new();
    let mut plain = String::new();
    let mut strange = |plain: &mut String, text: String| {
        if !plain.is_empty() {
            all.push(Piece::Plain(std::mem::take(plain)));
        }
        all.push(Piece::Strange(text));
    };
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match is_strange(c) && !keeps(c) {
                true => strange(&mut plain, spell(c)),
                false => plain.push(c),
            }
        }
        for byte in chunk.invalid() {
            strange(&mut plain, format!("\\x{byte:02x}"));
        }
    }
    if !plain.is_empty() {
        all.push(Piece::Plain(plain));
    }
    all
}

fn show(pieces: &[Piece]) -> Markup {
    html! {
        @for piece in pieces {
            @match piece {
                Piece::Plain(text) => (text),
                Piece::Strange(text) => span.strange { (text) },
            }
        }
    }
}

/// A name, kept apart from the direction of the text around it.
pub(super) fn name(bytes: &[u8]) -> Markup {
    html! { bdi { (show(&pieces(bytes, |_| false))) } }
}

/// Lines of a text: ends of lines and tabs stay.
pub(super) fn text(text: &str) -> Markup {
    show(&pieces(text.as_bytes(), |c| {
        matches!(c, '\n' | '\r' | '\t')
    }))
}

/// A name without markup, for titles and labels.
pub(super) fn plain(bytes: &[u8]) -> String {
    let all = pieces(bytes, |_| false);
    let texts = all.iter().map(|piece| match piece {
        Piece::Plain(text) | Piece::Strange(text) => text.as_str(),
    });
    texts.collect()
}

#[cfg(test)]
mod tests {
    use super::{name, plain, text};

    #[test]
    fn what_cannot_be_seen_is_spelled() {
        for (bytes, expected) in [
            (&b"passwd"[..], "passwd"),
            (b"\x1b[31m", "\\x1b[31m"),
            ("gpj\u{202e}.sh".as_bytes(), "gpjU+202E.sh"),
            (
                "\u{2066}a\u{200f}\u{200b}".as_bytes(),
                "U+2066aU+200FU+200B",
            ),
            (b"a\xff\xe2\x28", "a\\xff\\xe2("),
            ("Gr\u{fc}\u{df}e".as_bytes(), "Gr\u{fc}\u{df}e"),
        ] {
            assert_eq!(plain(bytes), expected);
        }
    }

    #[test]
    fn names_are_text_and_never_markup() {
        assert_eq!(
            name(b"<script>\n\xff").into_string(),
            "<bdi>&lt;script&gt;<span class=\"strange\">\\x0a</span><span class=\"strange\">\\xff</span></bdi>"
        );
        assert_eq!(text("a\n\tb").into_string(), "a\n\tb");
    }
}
