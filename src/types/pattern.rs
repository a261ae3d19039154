//! Patterns of names, as in a shell: `*` stands for any characters, `?` for one.

/// Whether a name matches a pattern of `*` and `?`. The time is at most proportional to the product
/// of both lengths.
#[must_use]
pub fn fits(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.as_bytes(), name.as_bytes());
    // Where to continue when the text after the last `*` does not match.
    let mut again: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => return true,
            (Some((b'*', rest)), _) => {
                again = Some((rest, name));
                pattern = rest;
            }
            (Some((p, pattern_rest)), Some((n, name_rest))) if *p == b'?' || p == n => {
                pattern = pattern_rest;
                name = name_rest;
            }
            _ => match again {
                Some((after, [_, rest @ ..])) => {
                    again = Some((after, rest));
                    pattern = after;
                    name = rest;
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn patterns_fit_as_in_a_shell() {
        for (pattern, name, is_fit) in [
            ("*", "", true),
            ("*", "web01", true),
            ("web*", "web", true),
            ("web?", "web", false),
            ("web?", "web1", true),
            ("*01", "web0101", true),
            ("*a*b", "xaxbxb", true),
            ("*a*b", "xaxbx", false),
            ("", "x", false),
            ("w.b", "web", false),
        ] {
            assert_eq!(fits(pattern, name), is_fit, "{pattern} {name}");
        }
        let begun = std::time::Instant::now();
        assert!(!fits(&"*a".repeat(128), &"a".repeat(127)));
        assert!(!fits(&"*a".repeat(60), &"ab".repeat(128)) || begun.elapsed().as_secs() < 5);
    }
}
