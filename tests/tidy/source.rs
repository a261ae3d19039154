//! A source file as the rules see it: its text, and its code without comments and the content of literals.

use std::fmt;

/// Something that a rule found.
pub(crate) struct Violation {
    /// File and line.
    pub(crate) place: String,
    /// Short name of the rule.
    pub(crate) rule: &'static str,
    /// What to do about it.
    pub(crate) say: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: [{}] {}", self.place, self.rule, self.say)
    }
}

/// A file, its lines as they are and with comments and literals blanked (same number of lines).
pub(crate) struct Source {
    /// Path relative to the repository, with `/`.
    pub(crate) path: String,
    /// The lines as written.
    pub(crate) lines: Vec<String>,
    /// The lines with comments and what is inside literals left out.
    pub(crate) code: Vec<String>,
    /// Whether each line is compiled for tests only.
    tests: Vec<bool>,
}

impl Source {
    /// Takes a file's text.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let mut code: Vec<String> = strip(text).lines().map(str::to_owned).collect();
        // A comment at the very end leaves no line behind.
        code.resize(lines.len(), String::new());
        let tests = test_lines(&code);
        Self {
            path: path.to_owned(),
            lines,
            code,
            tests,
        }
    }

    /// Whether a line (from 0) belongs to unit or integration tests.
    pub(crate) fn is_test(&self, line: usize) -> bool {
        !self.path.starts_with("src/") || self.tests.get(line).copied().unwrap_or(false)
    }

    /// Whether the file lies below one of these prefixes.
    pub(crate) fn is_below(&self, prefixes: &[&str]) -> bool {
        prefixes.iter().any(|prefix| self.path.starts_with(prefix))
    }

    /// A violation at a line (from 0).
    pub(crate) fn violation(
        &self,
        line: usize,
        rule: &'static str,
        say: impl Into<String>,
    ) -> Violation {
        Violation {
            place: format!("{}:{}", self.path, line + 1),
            rule,
            say: say.into(),
        }
    }
}

/// Which lines belong to an item with `#[cfg(test)]`.
fn test_lines(code: &[String]) -> Vec<bool> {
    let mut tests = Vec::with_capacity(code.len());
    let mut lines = code.iter();
    while let Some(line) = lines.next() {
        let begins = line.trim() == "#[cfg(test)]";
        tests.push(begins);
        if !begins {
            continue;
        }
        // The item ends with its block, or with a semicolon outside of one.
        let mut depth = 0;
        for line in lines.by_ref() {
            tests.push(true);
            let count = |c: char| line.matches(c).count();
            depth = depth + count('{') - count('}').min(depth + count('{'));
            if depth == 0 && line.trim_end().ends_with([';', '}']) {
                break;
            }
        }
    }
    tests
}

/// Whether `word` stands in `code` as a whole word, at which byte offsets.
pub(crate) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).filter_map(move |(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let starts = word.chars().next().is_some_and(is_word);
        let ends = word.chars().next_back().is_some_and(is_word);
        let part = (starts && before.is_some_and(is_word)) || (ends && after.is_some_and(is_word));
        (!part).then_some(at)
    })
}

/// Leaves out comments and the content of string and character literals; keeps line breaks.
fn strip(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut out = String::new();
    let mut i = 0;
    while i < chars.len() {
        let c = at(i);
        let in_word = i > 0 && (at(i - 1).is_alphanumeric() || at(i - 1) == '_');
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            loop {
                if at(i) == '/' && at(i + 1) == '*' {
                    depth += 1;
                    i += 2;
                } else if at(i) == '*' && at(i + 1) == '/' {
                    depth -= 1;
                    i += 2;
                } else {
                    keep_break(at(i), &mut out);
                    i += 1;
                }
                if depth == 0 || i >= chars.len() {
                    break;
                }
            }
        } else if let Some(hashes) = raw_string(&chars, i).filter(|_| !in_word) {
            i = skip_raw(&chars, i, hashes, &mut out);
        } else if c == '"' {
            out.push('"');
            i += 1;
            while i < chars.len() && at(i) != '"' {
                keep_break(at(i), &mut out);
                i += if at(i) == '\\' { 2 } else { 1 };
                if at(i - 1) == '\n' && at(i - 2) == '\\' {
                    out.push('\n');
                }
            }
            out.push('"');
            i += 1;
        } else if c == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            // A character literal; a lifetime has neither.
            out.push_str("' '");
            i += if at(i + 1) == '\\' { 3 } else { 2 };
            while i < chars.len() && at(i) != '\'' {
                i += 1;
            }
            i += 1;
        } else {
            out.push(c);
            i += 1;
        }
    }
    out
}

fn keep_break(c: char, out: &mut String) {
    if c == '\n' {
        out.push('\n');
    }
}

/// The number of `#` when a raw string begins at `i` (`r"`, `r#"`, `br##"`).
fn raw_string(chars: &[char], i: usize) -> Option<usize> {
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let start = match (at(i), at(i + 1)) {
        ('r', _) => i + 1,
        ('b' | 'c', 'r') => i + 2,
        _ => return None,
    };
    let hashes = (start..).take_while(|n| at(*n) == '#').count();
    (at(start + hashes) == '"').then_some(hashes)
}

fn skip_raw(chars: &[char], mut i: usize, hashes: usize, out: &mut String) -> usize {
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    while at(i) != '"' {
        i += 1;
    }
    i += 1;
    out.push('"');
    while i < chars.len() {
        if at(i) == '"' && (1..=hashes).all(|n| at(i + n) == '#') {
            break;
        }
        keep_break(at(i), out);
        i += 1;
    }
    out.push('"');
    i + 1 + hashes
}

#[test]
fn comments_and_literals_are_left_out_and_lines_kept() {
    let text = "a // unsafe\nb \"un\\\"safe\" c\n/* x /* y */ \n z */ d 'u' '\\n' 'life\nr#\"un\"safe\"# e\nb\"x\\\ny\" f\n";
    let code = strip(text);
    assert_eq!(
        code,
        "a \nb \"\" c\n\n d ' ' ' ' 'life\n\"\" e\nb\"\n\" f\n"
    );
    assert_eq!(code.lines().count(), text.lines().count());
}

#[test]
fn words_are_whole() {
    assert_eq!(words("unsafe_code unsafe {", "unsafe").count(), 1);
    assert_eq!(words("use super::*;", "super::*").count(), 1);
}
