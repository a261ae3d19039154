//! Copies that policies owe: made once, asked for again, and not believed.

use serde_json::{Value, json};

use crate::merge::back_up;
use crate::policy::{add, note_copies, place, run, status};

/// The state of a point says that there was a copy; the other repository knows whether there is one.
#[test]
fn copies_are_asked_for_again_and_not_believed() {
    let place = place();
    back_up(&place, 0, 2, &[]);
    std::fs::remove_dir_all(place.path("off")).unwrap();
    place.ok(&["repo", "remove", "offsite"]);
    let copied = std::process::Command::new("cp")
        .args(["-a", "repo", "off"])
        .current_dir(place.dir.path())
        .status();
    assert!(copied.unwrap().success());
    place.ok(&["repo", "new-id", "./off"]);
    place.ok(&[
        "repo",
        "add",
        "offsite",
        "off",
        "--media",
        "nas",
        "--offsite",
    ]);
    add(&place, "nightly --vms web* --copy-to offsite");
    note_copies(&place, "web01");
    let amount = |more: &[&str]| {
        let mut args = vec!["status", "--json"];
        args.extend(more);
        let health: Value = serde_json::from_slice(&place.run(&args).stdout).unwrap();
        let one = &health["policies"][0];
        (
            one["copies"]["copies"].as_u64().unwrap(),
            one["copies_due"].as_u64().unwrap(),
        )
    };
    assert_eq!(amount(&[]), (2, 0));
    assert_eq!(amount(&["--check"]), (2, 0));
    place.ok(&["-r", "offsite", "forget", "web01@p01"]);
    assert_eq!(amount(&[]), (2, 0));
    assert_eq!(amount(&["--check"]), (1, 1));
    // Another VM of that name is no copy, and neither is a repository that is away.
    place.ok(&["-r", "offsite", "forget", "web01", "--all"]);
    place.ok(&[
        "-r",
        "offsite",
        "backup",
        "web01",
        "vda=a.raw",
        "--point",
        "p01",
    ]);
    assert_eq!(amount(&["--check"]), (1, 2));
    std::fs::rename(place.path("off"), place.path("away")).unwrap();
    let text = String::from_utf8(place.run(&["status", "--check"]).stdout).unwrap();
    assert!(
        text.contains("failed: offsite has confirmed no copy: "),
        "{text}"
    );
    assert_eq!(amount(&["--check"]), (1, 2));
}

/// Copies are made once: what the other repository has forgotten by rules of its own is not sent to it again, and counts as copied.
#[test]
fn points_are_copied_once_whatever_the_other_repository_keeps() {
    let place = place();
    back_up(&place, 0, 3, &[]);
    add(&place, "nightly --vms web* --copy-to offsite --keep-last 2");
    let (actions, code) = run(&place, &[]);
    assert_eq!(code, Some(0), "{actions:?}");
    assert_eq!(actions.last().unwrap(), "copy web01 done");
    let there = || place.json(&["-r", "offsite", "ls", "web01"]);
    assert_eq!(there().as_array().unwrap().len(), 3);
    // What was copied may go now.
    let (actions, _) = run(&place, &[]);
    assert!(
        actions.contains(&"forget web01 done".to_owned()),
        "{actions:?}"
    );
    assert_eq!(place.json(&["ls", "web01"]).as_array().unwrap().len(), 2);
    place.ok(&["-r", "offsite", "forget", "web01", "--keep-last", "1"]);
    let (actions, code) = run(&place, &[]);
    assert!(
        !actions.iter().any(|one| one.starts_with("copy")),
        "{actions:?}"
    );
    assert_eq!(code, Some(0));
    back_up(&place, 3, 1, &[]);
    let (actions, code) = run(&place, &[]);
    assert!(
        actions.contains(&"copy web01 done".to_owned()),
        "{actions:?}"
    );
    assert_eq!(code, Some(0), "{actions:?}");
    let names = there();
    let names: Vec<&str> = names
        .as_array()
        .unwrap()
        .iter()
        .map(|point| point["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["p02", "p03"]);
    let standing = &status(&place).0["policies"][0];
    assert_eq!(standing["copies"]["copies"], 2, "{standing}");
    let checked = place.run(&["status", "--check", "--json"]);
    assert_eq!(checked.status.code(), Some(0));
    let checked: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!(checked["copies"][0]["lost"], json!([]), "{checked}");
}
