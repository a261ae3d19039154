//! Tidy: the house rules as a test. Each rule is a function over a source file, and planted
//! violations test each rule.
//!
//! When a rule forbids something right, change the rule here and give the reason; do not work
//! around it.

mod banned;
mod circle;
mod floor;
mod ownership;
mod shape;
mod source;

use source::{Source, Violation};
use std::path::Path;

type Rule = fn(&Source) -> Vec<Violation>;

const RULES: [Rule; 4] = [floor::check, ownership::check, shape::check, banned::check];

fn sources(dir: &Path, root: &Path, found: &mut Vec<Source>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            // The fuzzing workspace has a target directory of its own.
            if path.file_name().is_none_or(|name| name != "target") {
                sources(&path, root, found);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).expect("a readable source file");
            let name = path.strip_prefix(root).expect("a path below the root");
            found.push(Source::new(&name.to_string_lossy(), &text));
        }
    }
}

#[test]
fn the_tree_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    for dir in ["src", "tests", "benches"] {
        sources(&root.join(dir), root, &mut all);
    }
    assert!(all.len() > 30, "only {} files were found", all.len());
    let violations: Vec<String> = all
        .iter()
        .flat_map(|source| RULES.iter().flat_map(move |rule| rule(source)))
        .chain(circle::check(&all))
        .map(|violation| violation.to_string())
        .collect();
    assert!(
        violations.is_empty(),
        "{} violations:\n{}",
        violations.len(),
        violations.join("\n")
    );
}

/// Asserts that `check` finds the rules named in `expected`, in order, in a planted file.
#[track_caller]
fn plant(check: Rule, path: &str, text: &str, expected: &[&str]) {
    let found: Vec<_> = check(&Source::new(path, text))
        .iter()
        .map(|violation| violation.rule)
        .collect();
    assert_eq!(found, expected, "{path}: {text}");
}
