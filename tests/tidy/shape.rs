//! Shape of files: a header, a bounded length, no lines that run off the screen.

use crate::source::{Source, Violation, words};

/// LIMIT: lines of a file (STYLE: split before 500).
const LINES_MAX: usize = 800;
/// LIMIT: characters of a line, what is inside literals not counted.
const COLUMNS_MAX: usize = 140;

/// Checks the shape of a file.
pub(crate) fn check(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    if !source
        .lines
        .first()
        .is_some_and(|line| line.starts_with("//! "))
    {
        violations.push(source.violation(
            0,
            "header",
            "begin with `//! ` and the file's purpose in one line",
        ));
    }
    if source.lines.len() > LINES_MAX {
        let say = format!(
            "{} lines; split it, {LINES_MAX} are allowed",
            source.lines.len()
        );
        violations.push(source.violation(LINES_MAX, "length", say));
    }
    for (n, (line, code)) in source.lines.iter().zip(&source.code).enumerate() {
        let columns = line.chars().count();
        let literal = code.contains('"');
        // A literal may be long: then only what is outside it counts.
        if columns > COLUMNS_MAX && (!literal || code.chars().count() > COLUMNS_MAX) {
            violations.push(source.violation(
                n,
                "columns",
                format!("{columns} characters, {COLUMNS_MAX} are allowed"),
            ));
        }
        if words(code, "super::*").next().is_some() {
            violations.push(source.violation(n, "glob", "name the imports: `use super::{A, B}`"));
        }
    }
    violations
}

#[test]
fn planted() {
    use crate::plant;
    let long = "x".repeat(141);
    plant(check, "src/a.rs", "fn main() {}", &["header"]);
    plant(check, "src/a.rs", "", &["header"]);
    plant(check, "src/a.rs", &format!("//! {long}"), &["columns"]);
    plant(check, "src/a.rs", &format!("//! x\n{long}"), &["columns"]);
    plant(
        check,
        "src/a.rs",
        &format!("//! x\n\"\"{long}"),
        &["columns"],
    );
    plant(
        check,
        "src/a.rs",
        &format!("//! x\nlet x = \"{long}\";"),
        &[],
    );
    plant(
        check,
        "src/a.rs",
        &format!("//! x{}", "\n".repeat(801)),
        &["length"],
    );
    plant(
        check,
        "src/a.rs",
        "//! x\n#[cfg(test)]\nmod tests { use super::*; }",
        &["glob"],
    );
    plant(check, "src/a.rs", "//! x\nuse super::{A, B};", &[]);
}
