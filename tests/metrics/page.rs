//! `docs/metrics.md` and the code name the same metrics.

use std::collections::BTreeMap;
use std::path::Path;

use restorefs::metrics::{Family, families};
use restorefs::service::exposition::FAMILIES;

pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// All families of the code.
pub(crate) fn all() -> Vec<&'static Family> {
    let mut all = families();
    all.extend(FAMILIES);
    all
}

/// A row of the page.
fn row(family: &Family) -> String {
    let labels: Vec<String> = family.labels.iter().map(|l| format!("`{l}`")).collect();
    let (name, kind, help) = (family.name, family.kind.as_str(), family.help);
    format!("| `{name}` | {kind} | {} | {help} |", labels.join(", "))
}

#[test]
fn the_page_has_each_metric_and_no_other() {
    let page = read("docs/metrics.md");
    let rows = page.lines().filter_map(|line| {
        let name = line.strip_prefix("| `restorefs_")?.split('`').next()?;
        Some((format!("restorefs_{name}"), line.to_owned()))
    });
    let rows: Vec<(String, String)> = rows.collect();
    let known: BTreeMap<String, String> = rows.iter().cloned().collect();
    assert_eq!(known.len(), rows.len(), "a metric has two rows");
    let expected = all()
        .into_iter()
        .map(|family| (family.name.to_owned(), row(family)));
    let expected: BTreeMap<String, String> = expected.collect();
    for (name, row) in &expected {
        assert_eq!(known.get(name), Some(row), "docs/metrics.md, {name}");
    }
    for name in known.keys() {
        assert!(
            expected.contains_key(name),
            "docs/metrics.md: there is no {name}"
        );
    }
}

#[test]
fn names_and_labels_are_what_prometheus_recommends() {
    for family in all() {
        let name = family.name;
        assert!(name.starts_with("restorefs_"), "{name}");
        let is_counter = family.kind == restorefs::metrics::Kind::Counter;
        assert_eq!(name.ends_with("_total"), is_counter, "{name}");
        assert!(family.help.ends_with('.'), "{name}");
        let is_of_vm = name.starts_with("restorefs_vm_");
        assert_eq!(family.labels.contains(&"vm"), is_of_vm, "{name}");
    }
}
