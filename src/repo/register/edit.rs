//! Edits of the register's text, which leave everything else in it as it is: comments, the order, unknown keys.
//!
//! # Invariants
//! The edited text is parsed again, and differs from the text before in the intended value alone. What cannot be edited so (an inline
//! array, for example) is refused.

use std::ops::Range;

use toml::{Table, Value};

use super::Registered;
use crate::error::{Error, Result};
use crate::types::{RepositoryId, RepositoryName};

const KEY: &str = "repository";

fn parse(text: &str) -> Result<Table> {
    let parsed: Result<Table, _> = text.parse();
    parsed.map_err(|e| Error::invalid(format!("the file cannot be read: {}", e.message())))
}

fn by_hand() -> Error {
    Error::invalid("the file is written in a form that cannot be edited safely")
        .advise("change it with an editor")
}

/// A string as TOML writes it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The entries of a parsed file.
fn entries(table: &mut Table) -> Option<&mut Vec<Value>> {
    table.get_mut(KEY).and_then(Value::as_array_mut)
}

/// The position of the entry of a name.
fn position(table: &Table, name: &RepositoryName) -> Option<usize> {
    let all = table.get(KEY).and_then(Value::as_array)?;
    let is_it = |value: &Value| {
        let found = value.get("name").and_then(Value::as_str);
        found.is_some_and(|found| found.eq_ignore_ascii_case(name.as_str()))
    };
    all.iter().position(is_it)
}

/// The text, if it says `expected`.
fn checked(text: String, expected: &Table) -> Result<String> {
    match parse(&text) {
        Ok(found) if found == *expected => Ok(text),
        _ => Err(by_hand()),
    }
}

/// The header that a line is, without blanks and comment: `[[repository]]`.
fn header(line: &str) -> Option<String> {
    let line = line.trim_start();
    if !line.starts_with('[') {
        return None;
    }
    let end = line.rfind(']')?;
    let header = line.get(..=end)?;
    Some(header.chars().filter(|c| !c.is_whitespace()).collect())
}

/// Where the block of the n-th entry is: its header, and what belongs to it, up to its last line that is neither blank nor a comment.
fn block(text: &str, n: usize) -> Option<Range<usize>> {
    let (mut at, mut count) = (0, 0);
    let (mut start, mut end) = (None, 0);
    for line in text.split_inclusive('\n') {
        let next = at + line.len();
        if let Some(header) = header(line) {
            let is_below =
                header.starts_with("[repository.") || header.starts_with("[[repository.");
            if start.is_some() && !is_below {
                break;
            }
            if header == "[[repository]]" {
                count += 1;
                if count == n + 1 {
                    start = Some(at);
                }
            }
        }
        let content = line.trim();
        if start.is_some() && !content.is_empty() && !content.starts_with('#') {
            end = next;
        }
        at = next;
    }
    start.map(|start| start..end)
}

/// The text with one more entry.
///
/// # Errors
/// `InvalidInput` when the path is not UTF-8, or the file cannot be edited.
pub(super) fn append(text: &str, entry: &Registered) -> Result<String> {
    let path = entry.path.to_str().ok_or_else(|| {
        Error::invalid("the path is not UTF-8, as the file must be").at_path(&entry.path)
    })?;
    let mut expected = parse(text)?;
    let mut added = Table::new();
    let mut lines = String::from("[[repository]]\n");
    let mut put = |key: &str, value: Value, text: String| {
        added.insert(key.to_owned(), value);
        lines.push_str(&format!("{key} = {text}\n"));
    };
    let mut string = |key: &str, text: &str| put(key, Value::from(text), quoted(text));
    string("name", entry.name.as_str());
    string("id", &entry.id.to_string());
    string("path", path);
    if let Some(media) = &entry.media {
        string("media", media);
    }
    if entry.offsite {
        put("offsite", Value::from(true), "true".to_owned());
    }
    let all = expected
        .entry(KEY)
        .or_insert_with(|| Value::Array(Vec::new()));
    all.as_array_mut()
        .ok_or_else(by_hand)?
        .push(Value::Table(added));
    let gap = match text {
        "" => "",
        text if text.ends_with('\n') => "\n",
        _ => "\n\n",
    };
    checked(format!("{text}{gap}{lines}"), &expected)
}

/// The text without the entry of a name.
///
/// # Errors
/// `InvalidInput` when the file cannot be edited.
pub(super) fn remove(text: &str, name: &RepositoryName) -> Result<String> {
    let mut expected = parse(text)?;
    let n = position(&expected, name).ok_or_else(by_hand)?;
    let all = entries(&mut expected).ok_or_else(by_hand)?;
    all.remove(n);
    if all.is_empty() {
        expected.remove(KEY);
    }
    let range = block(text, n).ok_or_else(by_hand)?;
    let (before, after) = (text.get(..range.start), text.get(range.end..));
    let (mut before, after) = before.zip(after).ok_or_else(by_hand)?;
    // The blank line that was between this entry and the one before it.
    if before.ends_with("\n\n") && (after.is_empty() || after.starts_with('\n')) {
        before = before.get(..before.len() - 1).ok_or_else(by_hand)?;
    }
    checked(format!("{before}{after}"), &expected)
}

/// The text with another id in the entry of a name.
///
/// # Errors
/// `InvalidInput` when the file cannot be edited.
pub(super) fn set_id(text: &str, name: &RepositoryName, id: RepositoryId) -> Result<String> {
    let mut expected = parse(text)?;
    let n = position(&expected, name).ok_or_else(by_hand)?;
    let all = entries(&mut expected).ok_or_else(by_hand)?;
    let value = all.get_mut(n).and_then(|entry| entry.get_mut("id"));
    let value = value.ok_or_else(by_hand)?;
    let old = value.as_str().ok_or_else(by_hand)?.to_owned();
    *value = Value::from(id.to_string());
    let range = block(text, n).ok_or_else(by_hand)?;
    let (before, after) = (text.get(..range.start), text.get(range.end..));
    let (before, after) = before.zip(after).ok_or_else(by_hand)?;
    let block = text.get(range).ok_or_else(by_hand)?;
    let block = block.replacen(&old, &id.to_string(), 1);
    checked(format!("{before}{block}{after}"), &expected)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{append, remove, set_id};
    use crate::repo::register::Registered;
    use crate::repo::register::file::parse;
    use crate::types::{RepositoryId, RepositoryName};

    fn entry(name: &str, path: &str) -> Registered {
        Registered {
            name: RepositoryName::new(name).unwrap(),
            id: RepositoryId::random(),
            path: path.into(),
            media: Some("nas \"two\"\\".to_owned()),
            offsite: name == "b",
            file: "/f".into(),
        }
    }

    #[test]
    fn what_is_added_is_read_again_and_what_is_removed_leaves_the_rest() {
        let mut text = "# mine\ncolour = \"blue\"\n".to_owned();
        let begun = text.clone();
        let all = [
            entry("a", "/x y/\u{e4}"),
            entry("b", "/b\"\\\t"),
            entry("c", "/c"),
        ];
        for one in &all {
            text = append(&text, one).unwrap();
        }
        assert_eq!(parse(&text, Path::new("/f")).unwrap(), all);
        text = text.replace(
            "[[repository]]\nname = \"b\"",
            "# the far one\n[[repository]] # b\nfuture = [\n 1 ]\nname = \"b\"",
        );
        let id = RepositoryId::random();
        let renewed = set_id(&text, &all[1].name, id).unwrap();
        assert_eq!(
            renewed,
            text.replace(&all[1].id.to_string(), &id.to_string())
        );
        let without = remove(&text, &all[1].name).unwrap();
        assert!(
            without.contains("# the far one") && !without.contains("future"),
            "{without}"
        );
        assert_eq!(
            parse(&without, Path::new("/f")).unwrap(),
            [all[0].clone(), all[2].clone()]
        );
        let mut text = without.replace("# the far one\n", "");
        for one in [&all[2], &all[0]] {
            text = remove(&text, &one.name).unwrap();
        }
        assert_eq!(text.trim_end(), begun.trim_end());
    }

    #[test]
    fn what_is_written_otherwise_is_refused_and_never_spoilt() {
        let id = RepositoryId::random();
        let name = RepositoryName::new("a").unwrap();
        for text in [
            format!("repository = [{{name = \"a\", id = \"{id}\", path = \"/a\"}}]\n"),
            // A header within a string is none.
            format!(
                "x = \"\"\"\n[[repository]]\n\"\"\"\n[[repository]]\nname = \"a\"\nid = \"{id}\"\npath = \"/a\"\n"
            ),
        ] {
            assert_eq!(parse(&text, Path::new("/f")).unwrap().len(), 1);
            assert!(remove(&text, &name).is_err(), "{text}");
            assert!(
                set_id(&text, &name, RepositoryId::random()).is_err(),
                "{text}"
            );
        }
        let inline = format!("repository = [{{name = \"a\", id = \"{id}\", path = \"/a\"}}]\n");
        assert!(append(&inline, &entry("b", "/b")).is_err());
    }

    #[test]
    fn mistakes_are_named() {
        let id = RepositoryId::random();
        let one = |name: &str, id: &str, path: &str| {
            format!("[[repository]]\nname = \"{name}\"\nid = \"{id}\"\npath = \"{path}\"\n")
        };
        let id = id.to_string();
        for (text, part) in [
            (one("a b", &id, "/a"), "a b"),
            (one("a", "7", "/a"), "not a UUID"),
            (one("a", &id, "a"), "not absolute"),
            (one("a", &id, "/a") + &one("A", &id, "/b"), "twice"),
            ("\n[[repository]\n".to_owned(), "line 2"),
            ("[[repository]]\nname = \"a\"\n".to_owned(), "id"),
        ] {
            let error = parse(&text, Path::new("/f")).unwrap_err().report();
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
