//! `docs/alerts.yml`, as promtool runs it.

use std::collections::BTreeSet;
use std::process::Command;

use crate::kit::need::has;
use crate::page::{all, read};

const TESTS: [&str; 2] = [
    "tests/metrics/alerts.test.yml",
    "tests/metrics/alerts-of-weeks.test.yml",
];

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{arguments:?}: {out}{err}");
}

#[test]
fn promtool_runs_the_alerts() {
    if !has("promtool") {
        return;
    }
    promtool(&["check", "rules", "docs/alerts.yml"]);
    promtool(&[&["test", "rules"], &TESTS[..]].concat());
}

/// The words after `prefix` at the beginning of a line.
fn words(text: &str, prefix: &str) -> BTreeSet<String> {
    let lines = text
        .lines()
        .map(|line| line.trim().trim_start_matches("- "));
    let found = lines.filter_map(|line| line.strip_prefix(prefix));
    found.map(|word| word.trim().to_owned()).collect()
}

#[test]
fn each_alert_is_tested_both_ways_and_names_metrics_that_there_are() {
    let rules = read("docs/alerts.yml");
    let alerts = words(&rules, "alert:");
    let tests = TESTS.map(read).concat();
    assert!(alerts.len() > 10, "{alerts:?}");
    let blocks: Vec<&str> = tests.split("alertname:").skip(1).collect();
    for alert in &alerts {
        let of_alert = || {
            blocks
                .iter()
                .filter(|block| block.split_whitespace().next() == Some(alert))
        };
        let fires = |block: &&&str| block.contains("exp_labels");
        assert!(of_alert().any(|block| fires(&block)), "{alert} never fires");
        assert!(
            of_alert().any(|block| !fires(&block)),
            "{alert} always fires"
        );
    }
    let page = read("docs/metrics.md");
    for alert in &alerts {
        assert!(
            page.contains(&format!("`{alert}`")),
            "docs/metrics.md: {alert}"
        );
    }
    let known: BTreeSet<String> = all()
        .iter()
        .flat_map(|family| {
            let name = family.name;
            ["", "_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}"))
        })
        .collect();
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let named = rules.split(|c| !is_part(c));
    for name in named.filter(|word| word.starts_with("restorefs_")) {
        assert!(known.contains(name), "docs/alerts.yml: there is no {name}");
    }
}
