//! Names: long ones in UTF-16, short ones in code page 437, as bytes of UTF-8.
//!
//! # Invariants
//! Two different names on the volume stay different. Characters that are invalid in file names or not text
//! are written as `%u` and four upper-case hexadecimal digits: unpaired surrogates, control characters, the
//! slash, and the dots of the names `.` and `..`. A per cent sign is written so only where it could otherwise
//! be taken for such an escape.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::fmt::Write;

/// The upper half of code page 437.
const CODE_PAGE_437: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";
/// Flags of an entry whose short name, or its extension, is in lower case (Windows NT).
const SMALL_NAME: u8 = 0x08;
const SMALL_EXTENSION: u8 = 0x10;

fn escape(out: &mut String, unit: u16) {
    // Writing to a string never fails.
    let _ = write!(out, "%u{unit:04X}");
}

/// Whether the text behind a per cent sign looks like an escape.
fn looks_escaped(rest: &[u16]) -> bool {
    let digit = |unit: &u16| {
        char::from_u32(u32::from(*unit))
            .is_some_and(|c| c.is_ascii_digit() || ('A'..='F').contains(&c))
    };
    rest.first() == Some(&u16::from(b'u'))
        && rest
            .get(1..5)
            .is_some_and(|digits| digits.iter().all(digit))
}

/// Converts a name from UTF-16 units.
pub(super) fn from_units(units: &[u16]) -> Vec<u8> {
    let is_dots = matches!(units, [0x2e] | [0x2e, 0x2e]);
    let mut out = String::with_capacity(units.len());
    let mut at = 0usize;
    for decoded in char::decode_utf16(units.iter().copied()) {
        let rest = units.get(at.saturating_add(1)..).unwrap_or_default();
        let length = decoded.as_ref().map_or(1, |c| c.len_utf16());
        match decoded {
            Ok(c) if c.is_ascii_control() || c == '/' || is_dots => {
                escape(&mut out, units.get(at).copied().unwrap_or(0));
            }
            Ok('%') if looks_escaped(rest) => escape(&mut out, 0x25),
            Ok(c) => out.push(c),
            Err(half) => escape(&mut out, half.unpaired_surrogate()),
        }
        at = at.saturating_add(length);
    }
    out.into_bytes()
}

/// Converts the short name of an entry: 8 bytes and an extension of 3, padded with spaces; `flags` is byte 12
/// of the entry.
pub(super) fn from_short(bytes: [u8; 11], flags: u8) -> Vec<u8> {
    let (name, extension) = bytes.split_at(8);
    let mut text = part(name, flags & SMALL_NAME != 0, true);
    let extension = part(extension, flags & SMALL_EXTENSION != 0, false);
    if !extension.is_empty() {
        text.push('.');
        text.push_str(&extension);
    }
    let units: Vec<u16> = text.encode_utf16().collect();
    from_units(&units)
}

fn part(bytes: &[u8], is_small: bool, is_first: bool) -> String {
    let end = bytes.iter().rposition(|b| *b != b' ');
    let used = end.and_then(|end| bytes.get(..=end)).unwrap_or_default();
    let decode = |(n, byte): (usize, &u8)| {
        // A first byte of E5 would mean "deleted".
        let byte = if n == 0 && is_first && *byte == 5 {
            0xe5
        } else {
            *byte
        };
        let c = match byte.checked_sub(0x80) {
            None => char::from(byte),
            Some(high) => CODE_PAGE_437.chars().nth(high.into()).unwrap_or('?'),
        };
        let small = c.to_lowercase().next().filter(|_| is_small);
        small.unwrap_or(c)
    };
    used.iter().enumerate().map(decode).collect()
}

/// Converts a label: like a short name, but one text of 11 bytes.
pub(super) fn label(bytes: [u8; 11]) -> Option<String> {
    let text = part(&bytes, false, true);
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::{CODE_PAGE_437, from_short, from_units, label};

    fn long(text: &str) -> String {
        let units: Vec<u16> = text.encode_utf16().collect();
        String::from_utf8(from_units(&units)).unwrap()
    }

    #[test]
    fn long_names_are_text_and_what_is_none_is_escaped() {
        assert_eq!(CODE_PAGE_437.chars().count(), 128);
        assert_eq!(long("ünï ☃ 😀.txt"), "ünï ☃ 😀.txt");
        assert_eq!(long("a/b\n"), "a%u002Fb%u000A");
        assert_eq!(long("."), "%u002E");
        assert_eq!(long(".."), "%u002E%u002E");
        assert_eq!(long("..."), "...");
        assert_eq!(long("100% %u12 %u12ab"), "100% %u12 %u12ab");
        assert_eq!(long("%u002F 😀%u002F"), "%u0025u002F 😀%u0025u002F");
        assert_eq!(from_units(&[0x61, 0xd83d]), b"a%uD83D");
        assert_eq!(from_units(&[0xde00, 0x62]), b"%uDE00b");
    }

    #[test]
    fn short_names() {
        let short = |bytes, flags| String::from_utf8(from_short(bytes, flags)).unwrap();
        assert_eq!(short(*b"README  TXT", 0), "README.TXT");
        assert_eq!(short(*b"README  TXT", 8), "readme.TXT");
        assert_eq!(short(*b"README  TXT", 24), "readme.txt");
        assert_eq!(short(*b"NOEXT      ", 0), "NOEXT");
        assert_eq!(short(*b"A B     C  ", 0), "A B.C");
        assert_eq!(short(*b"\x05\x80\x81\xe1    \xfe  ", 0), "σÇüß.■");
        assert_eq!(short(*b"\x80          ", 8), "ç");
        assert_eq!(label(*b"MY LABEL   ").as_deref(), Some("MY LABEL"));
        assert_eq!(label([b' '; 11]), None);
    }
}
