//! Policies, end to end: what they say, what a run does, and what `status` says of them.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use restorefs::clock::SystemClock;
use restorefs::repo::sidecar::Unknown;
use restorefs::repo::sidecar::copied::PointCopy;
use restorefs::repo::{Owner, Repository};
use serde_json::{Value, json};

use crate::kit::place::Place;
use crate::kit::wait::eventually;
use crate::merge::back_up;

/// A repository with a command that backs up the disk `a.raw`, and another repository `offsite`.
pub(crate) fn place() -> Place {
    let place = Place::new();
    place.disk("a.raw", 96, 3);
    place.ok(&["init", "./off"]);
    place.ok(&["repo", "add", "main", "repo", "--media", "disk"]);
    place.ok(&[
        "repo",
        "add",
        "offsite",
        "off",
        "--media",
        "nas",
        "--offsite",
    ]);
    let program = env!("CARGO_BIN_EXE_restorefs");
    script(
        &place,
        "backup-vm",
        &format!("exec {program} --wait 30s backup \"$RESTOREFS_VM\" vda=a.raw\n"),
    );
    place
}

pub(crate) fn script(place: &Place, name: &str, text: &str) {
    let path = place.path(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// `policy add` with these words, which are split at spaces.
pub(crate) fn add(place: &Place, words: &str) -> String {
    let mut args = vec!["policy", "add"];
    args.extend(words.split(' '));
    place.ok(&args)
}

/// The actions of a run as `backup web01 done`, and its exit code.
pub(crate) fn run(place: &Place, more: &[&str]) -> (Vec<String>, Option<i32>) {
    let mut args = vec!["policy", "run", "--json"];
    args.extend(more);
    let output = place.run(&args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    let answer: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    let text = |one: &Value, name: &str| one[name].as_str().unwrap_or_default().to_owned();
    let actions = answer["actions"].as_array().unwrap().iter();
    let actions = actions.map(|one| {
        let (action, vm, result) = (text(one, "action"), text(one, "vm"), text(one, "result"));
        format!("{action} {vm} {result}")
    });
    (actions.collect(), output.status.code())
}

pub(crate) fn status(place: &Place) -> (Value, Option<i32>) {
    let output = place.run(&["status", "--json"]);
    (
        serde_json::from_slice(&output.stdout).unwrap(),
        output.status.code(),
    )
}

/// Records that `offsite` has a copy of each point of a VM.
pub(crate) fn note_copies(place: &Place, vm: &str) {
    let repository = Arc::new(Repository::open(&place.repo()).unwrap());
    let other = Repository::open(&place.path("off")).unwrap();
    let vm = vm.parse().unwrap();
    let index = repository.index(&vm).unwrap();
    let owner = Owner::open(repository, Arc::new(SystemClock), "test").unwrap();
    let copies = index.points.iter().map(|point| {
        let copy = PointCopy {
            repository_id: other.format().repository_id,
            at: jiff::Timestamp::now(),
            verified_at: None,
            gone_at: None,
            unknown: Unknown::new(),
        };
        (point.point_id, copy)
    });
    owner.note_copies(&vm, &copies.collect::<Vec<_>>()).unwrap();
}

pub(crate) fn policy_file(place: &Place, name: &str) -> std::path::PathBuf {
    place.repo().join("policies").join(name)
}

#[test]
fn a_policy_is_added_listed_changed_and_removed() {
    let place = place();
    add(
        &place,
        "nightly --vms web* db01 --daily 02:00 --zone Europe/Berlin --keep-daily 7 --keep-tag release --copy-to offsite --copy-after 1h --verify-every 30d --rpo 26h --require 2-2-1 --max-depth 100 --command ./backup-vm --fast",
    );
    let policy = place.json(&["policy", "show", "NIGHTLY"]);
    let off = place.json(&["-r", "offsite", "info"])["repository_id"].clone();
    assert_eq!(policy["vms"], json!(["web*", "db01"]));
    assert_eq!(policy["schedule"], "daily 02:00");
    assert_eq!(policy["zone"], "Europe/Berlin");
    assert_eq!(policy["command"], json!(["./backup-vm", "--fast"]));
    assert_eq!(policy["keep"], json!({"daily": 7, "tags": ["release"]}));
    assert_eq!(
        policy["copies"],
        json!([{"to": "offsite", "repository_id": off, "after_seconds": 3600}])
    );
    assert_eq!(
        policy["require"],
        json!({"copies": 2, "media": 2, "offsite": 1})
    );
    assert_eq!(policy["verify_every_seconds"], 30 * 86_400);
    assert_eq!(policy["rpo_seconds"], 26 * 3_600);
    assert_eq!(policy["max_depth"], 100);
    let listed = place.ok(&["policy", "list"]);
    assert!(
        listed.contains("daily 02:00") && listed.contains("7 daily, tag release"),
        "{listed}"
    );
    let shown = place.ok(&["policy", "show"]);
    for line in [
        "zone      Europe/Berlin",
        "command   ./backup-vm --fast",
        "copy      to offsite, 60m after the commit",
        "require   2-2-1",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }

    // What no flag names stays; a rule replaces all rules.
    place.ok(&[
        "policy",
        "edit",
        "nightly",
        "--weekly",
        "Sun@03:30",
        "--keep-last",
        "3",
        "--rpo",
        "8d",
    ]);
    let changed = place.json(&["policy", "show", "nightly"]);
    assert_eq!(changed["schedule"], "weekly sun 03:30");
    assert_eq!(changed["keep"], json!({"last": 3}));
    assert_eq!(changed["command"], policy["command"]);
    assert_eq!(changed["created_at"], policy["created_at"]);
    place.ok(&[
        "policy",
        "edit",
        "nightly",
        "--no-schedule",
        "--no-keep",
        "--no-copy",
        "--no-require",
        "--no-verify",
        "--no-max-depth",
    ]);
    let changed = place.json(&["policy", "show", "nightly"]);
    for name in [
        "schedule",
        "command",
        "keep",
        "copies",
        "require",
        "verify_every_seconds",
        "max_depth",
    ] {
        assert_eq!(changed[name], Value::Null, "{name}");
    }
    let said = place.fails(2, &["policy", "edit", "nightly", "--no-rpo"]);
    assert!(said.contains("it does nothing"), "{said}");
    // Members that this release does not know stay.
    let path = policy_file(&place, "nightly.json");
    let mut newer = changed.clone();
    newer["lunar"] = json!({"phase": 1.50});
    std::fs::write(&path, serde_json::to_string_pretty(&newer).unwrap()).unwrap();
    place.ok(&["policy", "edit", "nightly", "--rpo", "9d"]);
    assert_eq!(
        place.json(&["policy", "show", "nightly"])["lunar"],
        newer["lunar"]
    );

    assert!(
        place
            .fails(
                1,
                &["policy", "add", "Nightly", "--vms", "x*", "--rpo", "1d"]
            )
            .contains("there is a policy nightly")
    );
    place.ok(&["policy", "remove", "nightly"]);
    assert_eq!(place.json(&["policy", "list"]), json!([]));
    for args in [
        ["policy", "show", "nightly"],
        ["policy", "remove", "nightly"],
    ] {
        assert!(place.fails(1, &args).contains("there is no policy nightly"));
    }
}

#[test]
fn a_run_does_what_is_due_in_its_order_and_nothing_twice() {
    let place = place();
    back_up(&place, 0, 3, &[]);
    add(
        &place,
        "nightly --vms web* db01 --every 24h --keep-last 2 --verify-every 1s --rpo 26h --command ./backup-vm",
    );
    std::thread::sleep(Duration::from_millis(1_100));
    // web01 has points of now; db01 has none, and is named in full.
    let (due, code) = run(&place, &["--dry-run"]);
    assert_eq!(
        due,
        ["backup db01 due", "forget web01 due", "verify web01 due"]
    );
    assert_eq!(code, Some(0));
    assert_eq!(place.json(&["ls", "web01"]).as_array().unwrap().len(), 3);
    assert!(!policy_file(&place, "runs.json").exists());
    let (done, code) = run(&place, &[]);
    assert_eq!(code, Some(0));
    assert_eq!(
        done[..4],
        [
            "backup db01 done",
            "forget web01 done",
            "forget db01 done",
            "merge web01 done"
        ]
    );
    assert!(
        done[4..].contains(&"verify web01 done".to_owned()),
        "{done:?}"
    );
    assert_eq!(place.json(&["ls", "web01"]).as_array().unwrap().len(), 2);
    assert_eq!(place.json(&["ls", "db01"]).as_array().unwrap().len(), 1);
    let (health, code) = status(&place);
    assert_eq!(code, Some(0), "{health}");
    let of_web = &health["policies"][1];
    assert_eq!(of_web["vm"], "web01");
    assert_eq!(of_web["rpo_met"], true);
    assert_eq!(
        of_web["copies"],
        json!({"copies": 1, "media": 1, "offsite": 0})
    );
    // A month: nothing is verified again.
    place.ok(&["policy", "edit", "nightly", "--verify-every", "30d"]);
    assert_eq!(run(&place, &[]), (Vec::new(), Some(0)));
    assert!(place.ok(&["policy", "run"]).contains("nothing is due"));
    let runs: Value =
        serde_json::from_slice(&std::fs::read(policy_file(&place, "runs.json")).unwrap()).unwrap();
    let all = runs["runs"].as_array().unwrap();
    assert!(
        all.iter()
            .all(|one| one["succeeded_at"].is_string() && one.get("failure").is_none())
    );
    let table = place.ok(&["status"]);
    assert!(
        table.lines().any(|line| line.starts_with("web01")
            && line
                .split_whitespace()
                .collect::<Vec<_>>()
                .windows(3)
                .any(|three| three == ["nightly", "26h", "1-1-0"])),
        "{table}"
    );
    assert!(
        table.contains("this repository: ") && table.contains(" a day"),
        "{table}"
    );
}

#[test]
fn actions_do_not_depend_on_each_other_and_failures_are_shown() {
    let place = place();
    back_up(&place, 0, 3, &[]);
    script(
        &place,
        "broken",
        "echo one >&2\necho the snapshot is locked >&2\nexit 3\n",
    );
    add(
        &place,
        "nightly --vms web01 db01 --every 24h --keep-last 1 --copy-to offsite --rpo 26h --command ./broken",
    );
    std::fs::rename(place.path("off"), place.path("away")).unwrap();
    let (done, code) = run(&place, &[]);
    assert_eq!(
        done,
        [
            "backup db01 failed",
            "forget web01 done",
            "copy web01 failed"
        ]
    );
    assert_eq!(code, Some(1));
    // Nothing has a copy: nothing goes.
    assert_eq!(place.json(&["ls", "web01"]).as_array().unwrap().len(), 3);
    let (health, code) = status(&place);
    assert_eq!(code, Some(4));
    assert_eq!(health["verdict"], "unmet");
    assert_eq!(health["policies"][0]["problems"], json!(["no point"]));
    let failure = health["policies"][0]["failures"][0].as_str().unwrap();
    assert!(
        failure.contains("backup: ./broken failed (exit status: 3): one; the snapshot is locked"),
        "{failure}"
    );
    assert_eq!(health["policies"][1]["copies_due"], 3);
    let said = place.fails(4, &["status"]);
    assert!(said.contains("a policy is not met: db01"), "{said}");
    let text = String::from_utf8(place.run(&["status"]).stdout).unwrap();
    assert!(text.starts_with("NOT MET: db01 (policy); 1 VM"), "{text}");
    assert!(
        text.contains("not met: db01: no point\n")
            && text.contains("failed: web01: copy to offsite: "),
        "{text}"
    );
    assert!(text.contains("offsite: the repository offsite "), "{text}");

    // `forget` by hand spares them, too, until they have their copies.
    let plan = place.ok(&["forget", "web01", "--keep-last", "1", "--dry-run"]);
    assert_eq!(plan.matches("uncopied (offsite)").count(), 3, "{plan}");
    std::fs::rename(place.path("away"), place.path("off")).unwrap();
    note_copies(&place, "web01");
    script(
        &place,
        "broken",
        &std::fs::read_to_string(place.path("backup-vm"))
            .unwrap()
            .replace("#!/bin/sh\n", ""),
    );
    let (done, _) = run(&place, &[]);
    assert_eq!(done[..2], ["backup db01 done", "forget web01 done"]);
    assert_eq!(place.json(&["ls", "web01"]).as_array().unwrap().len(), 1);
    let (health, code) = status(&place);
    assert_eq!(code, Some(0), "{health}");
    assert_eq!(
        health["policies"][1]["copies"],
        json!({"copies": 2, "media": 2, "offsite": 1})
    );
}

#[test]
fn policies_overlap_only_where_a_vm_has_its_own() {
    let place = place();
    back_up(&place, 0, 3, &[]);
    add(&place, "web --vms web* --keep-last 1");
    let said = place.fails(
        2,
        &["policy", "add", "one", "--vms", "*01", "--keep-last", "2"],
    );
    assert!(
        said.contains("the policies one and web overlap: both fit web01"),
        "{said}"
    );
    let said = place.fails(
        2,
        &["policy", "add", "one", "--vms", "WEB*", "--keep-last", "2"],
    );
    assert!(said.contains("both have \"web*\""), "{said}");
    add(&place, "one --vms *02 --keep-last 2");
    // The VM comes later, and falls under both.
    place.ok(&["backup", "web02", "vda=a.raw", "--point", "a"]);
    place.ok(&["backup", "web02", "vda=a.raw", "--point", "b"]);
    let (done, code) = run(&place, &[]);
    assert_eq!(
        (
            done.iter().filter(|one| one.contains("web02")).count(),
            code
        ),
        (0, Some(0))
    );
    let (health, code) = status(&place);
    assert_eq!(code, Some(4));
    let problem = health["policies"][1]["problems"][0].as_str().unwrap();
    assert!(
        problem.starts_with("the policies one, web all fit it: none forgets anything"),
        "{problem}"
    );
    assert!(
        place
            .fails(1, &["policy", "assign", "web02", "gold"])
            .contains("there is no policy gold")
    );
    place.fails(1, &["policy", "assign", "web09", "web"]);
    place.ok(&["policy", "assign", "web02", "WEB"]);
    assert_eq!(status(&place).1, Some(0));
    let (done, _) = run(&place, &[]);
    assert_eq!(done[0], "forget web02 done");
    assert_eq!(place.json(&["ls", "web02"]).as_array().unwrap().len(), 1);
    // A policy that is gone is not replaced by patterns.
    place.ok(&["policy", "remove", "web"]);
    assert_eq!(status(&place).1, Some(4));
    place.ok(&["policy", "assign", "web02", "--none"]);
    assert_eq!(status(&place).1, Some(0));
}

#[test]
fn one_machine_runs_policies_and_one_run_at_a_time() {
    let place = place();
    script(&place, "slow", "touch started\nsleep 3\n");
    add(&place, "nightly --vms web01 --every 24h --command ./slow");
    let mine = place.json(&["policy", "runner"]);
    assert_eq!(mine["is_here"], true);
    let mut first = place
        .command(&["policy", "run"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the command runs", || place.path("started").exists());
    assert!(
        place
            .ok(&["policy", "run"])
            .contains("another run is under way")
    );
    assert!(first.wait().unwrap().success());
    // Another machine's name is in the file.
    let other = json!({"schema": 1, "machine": "00", "host": "backup2"});
    let path = policy_file(&place, "runner");
    std::fs::write(&path, other.to_string()).unwrap();
    std::fs::remove_file(policy_file(&place, "runs.json")).unwrap();
    let said = place.ok(&["policy", "run"]);
    assert!(
        said.contains("the machine backup2 runs the policies"),
        "{said}"
    );
    assert!(!policy_file(&place, "runs.json").exists());
    assert_eq!(
        place.json(&["policy", "run"])["stood_back"],
        "the machine backup2 runs the policies"
    );
    assert!(
        place
            .ok(&["policy", "runner", "--none"])
            .contains("any machine")
    );
    assert!(
        place
            .ok(&["policy", "runner", "--here"])
            .contains("this machine")
    );
    assert_eq!(
        place.json(&["policy", "runner"])["runner"]["machine"],
        mine["runner"]["machine"]
    );
}

#[test]
fn a_daemon_changes_policies_and_is_the_owner_of_a_run() {
    let place = place();
    let daemon = place.serve(&[]);
    add(
        &place,
        "nightly --vms web01 --every 24h --keep-last 1 --verify-every 30d --command ./backup-vm",
    );
    let said = place.fails(
        2,
        &["policy", "add", "other", "--vms", "web01", "--rpo", "1d"],
    );
    assert!(said.contains("both have \"web01\""), "{said}");
    let (done, code) = run(&place, &[]);
    assert_eq!(
        (done, code),
        (
            vec![
                "backup web01 done".to_owned(),
                "forget web01 done".to_owned()
            ],
            Some(0)
        )
    );
    place.ok(&["policy", "assign", "web01", "nightly"]);
    place.ok(&["policy", "edit", "nightly", "--rpo", "26h"]);
    assert_eq!(status(&place).1, Some(0));
    daemon.stop();
    assert_eq!(run(&place, &[]), (Vec::new(), Some(0)));
}

/// A daemon's configuration names the repositories, and one of them that is away keeps nothing of the others from being done.
#[test]
fn the_policies_of_all_repositories_of_a_configuration_are_run() {
    let place = place();
    add(
        &place,
        "nightly --vms web01 --every 24h --command ./backup-vm",
    );
    let (repo, away) = (place.repo(), place.path("nowhere"));
    let config = format!(
        "[[repository]]\npath = \"{}\"\n\n[[repository]]\npath = \"{}\"\n",
        away.display(),
        repo.display()
    );
    std::fs::write(place.path("config.toml"), config).unwrap();
    let dry = place.run(&[
        "policy",
        "run",
        "--dry-run",
        "--json",
        "--config",
        "config.toml",
    ]);
    let answer: Value = serde_json::from_slice(&dry.stdout).unwrap();
    assert_eq!(dry.status.code(), Some(10));
    assert!(
        answer["repositories"][0]["error"]
            .as_str()
            .unwrap()
            .contains("no repository")
    );
    assert_eq!(answer["repositories"][1]["actions"][0]["action"], "backup");
    let said = place.fails(10, &["policy", "run", "--config", "config.toml"]);
    assert!(said.contains("nowhere"), "{said}");
    assert_eq!(place.json(&["ls", "web01"]).as_array().unwrap().len(), 1);
}

#[test]
fn damage_that_a_run_finds_is_a_failure_and_status_is_red() {
    let place = place();
    back_up(&place, 0, 2, &[]);
    add(&place, "monthly --vms web* --verify-every 1s");
    std::thread::sleep(Duration::from_millis(1_100));
    let layers = place.repo().join("vms/web01/layers");
    let mut layers: Vec<_> = std::fs::read_dir(layers)
        .unwrap()
        .map(|one| one.unwrap().path())
        .collect();
    layers.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "qcow2")
    });
    layers.sort();
    let layer = &layers[0];
    std::fs::set_permissions(layer, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut bytes = std::fs::read(layer).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(layer, bytes).unwrap();
    let (done, code) = run(&place, &[]);
    assert_eq!(
        (done, code),
        (vec!["verify web01 failed".to_owned()], Some(1))
    );
    let (health, code) = status(&place);
    assert_eq!(code, Some(3));
    assert_eq!(health["verdict"], "damaged");
    let failure = health["policies"][0]["failures"][0].as_str().unwrap();
    assert!(
        failure.starts_with("verify: ") && failure.contains("damage in"),
        "{failure}"
    );
}

/// A run that is killed has recorded what it has done; the next one does the rest, and only that.
#[test]
fn a_run_that_is_killed_is_continued_by_the_next() {
    let place = place();
    script(
        &place,
        "one",
        &format!(
            "echo \"$RESTOREFS_VM\" >> begun\n[ \"$RESTOREFS_VM\" != db02 ] || [ -e again ] || sleep 30\nexec {} --wait 30s backup \"$RESTOREFS_VM\" vda=a.raw\n",
            env!("CARGO_BIN_EXE_restorefs")
        ),
    );
    add(
        &place,
        "nightly --vms db01 db02 db03 --every 24h --command ./one",
    );
    let mut first = place
        .command(&["policy", "run"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let names = || std::fs::read_to_string(place.path("begun")).unwrap_or_default();
    eventually("the second command runs", || names() == "db01\ndb02\n");
    first.kill().unwrap();
    first.wait().unwrap();
    std::fs::write(place.path("again"), "").unwrap();
    let (done, code) = run(&place, &[]);
    assert_eq!(
        (done, code),
        (
            vec!["backup db02 done".to_owned(), "backup db03 done".to_owned()],
            Some(0)
        )
    );
    assert_eq!(names(), "db01\ndb02\ndb02\ndb03\n");
}
