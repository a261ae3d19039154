//! `restorefs cancel`, and what `restorefs jobs` shows of what runs.

use std::process::Stdio;

use restorefs::service::Service;
use rustix::process::Signal;
use serde_json::Value;

use crate::kit::place::Place;
use crate::kit::wait::eventually;
use crate::task::{client, merges, moving, signal, slow, with_chains};

#[test]
fn a_running_merge_is_listed_first_and_cancelled_by_the_id_that_is_shown() {
    let place = with_chains(&["web01"]);
    let daemon = place.serve(&[]);
    let mut child = slow(&place, "web01");
    let task = moving(&client(&place));
    let jobs = place.json(&["jobs"]);
    let first = &jobs[0];
    assert_eq!(first["job_id"], task.id.to_string());
    assert_eq!(
        (&first["kind"], &first["vm"]),
        (&"merge".into(), &"web01".into())
    );
    assert_eq!(
        (&first["result"], &first["ended_at"]),
        (&Value::Null, &Value::Null)
    );
    assert!(first["disks"][0]["total_bytes"].as_u64() > first["disks"][0]["done_bytes"].as_u64());
    assert_eq!(jobs[1]["result"], "completed", "the history follows");
    // Filters hold for what runs, too.
    for (other, more) in [("--kind", "forget"), ("--kind", "backup")] {
        let jobs = place.json(&["jobs", other, more]);
        assert!(!jobs.as_array().unwrap().is_empty());
        assert!(
            jobs.as_array()
                .unwrap()
                .iter()
                .all(|job| job["kind"] != "merge"),
            "{jobs}"
        );
    }
    assert_eq!(place.json(&["jobs", "other"]), Value::Array(Vec::new()));
    assert_eq!(place.json(&["jobs", "--failed"]), Value::Array(Vec::new()));
    assert_eq!(
        place.json(&["jobs", "WEB01", "--kind", "merge"])[0],
        jobs[0].clone()
    );
    let table = place.ok(&["jobs"]);
    let id = table
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap();
    assert!(table.starts_with("ID ") && table.contains("%"), "{table}");
    assert!(task.id.to_string().starts_with(id), "{table}");
    let said = place.ok(&["cancel", id]);
    assert!(
        said.contains("the merge of web01 is asked to stop"),
        "{said}"
    );
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(1));
    eventually("the line", || !merges(&place).is_empty());
    assert_eq!(merges(&place)[0]["result"], "cancelled");
    // It has ended.
    let said = place.fails(1, &["cancel", id]);
    assert!(said.contains("has ended already"), "{said}");
    daemon.stop();
}

#[test]
fn a_backup_is_aborted() {
    let place = Place::new();
    place.disk("a.raw", 20, 1);
    let daemon = place.serve(&[]);
    let begun = place.json(&["begin", "web01", "vda=1M"]);
    let other = place.json(&["begin", "db01", "vda=1M"]);
    let running = place.json(&["jobs", "--kind", "backup"]);
    assert_eq!(running.as_array().unwrap().len(), 2);
    let of = |vm: &str| {
        let mut jobs = running.as_array().unwrap().iter();
        jobs.find(|job| job["vm"] == vm).unwrap()["job_id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    // One that is wrong, and nothing is stopped.
    place.fails(1, &["cancel", &of("web01"), "00000000"]);
    assert_eq!(place.json(&["sessions"]).as_array().unwrap().len(), 2);
    let web01 = of("web01");
    let done = place.json(&["cancel", &web01, &web01[..8]]);
    assert_eq!(done.as_array().unwrap().len(), 1, "{done}");
    assert_eq!(done[0]["vm"], "web01");
    let left = place.json(&["sessions"]);
    assert_eq!(left.as_array().unwrap().len(), 1);
    assert_eq!(left[0]["session"], other["session"]);
    let last = &place.json(&["jobs", "web01"])[0];
    assert_eq!(
        (&last["result"], &last["session"]),
        (&"aborted".into(), &begun["session"])
    );
    assert_eq!(last["job_id"], web01);
    daemon.stop();
}

/// The command whose backup is cancelled ends, and says why.
#[test]
fn a_backup_command_hears_of_it() {
    let place = Place::new();
    // It takes longer than it takes to look and to stop the command.
    std::fs::write(place.path("a.raw"), vec![7; 256 << 20]).unwrap();
    let daemon = place.serve(&[]);
    let client = client(&place);
    let child = place
        .command(&["backup", "web01", "vda=a.raw", "--no-room-check"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut id = None;
    eventually("it begins", || {
        let task = client.tasks().unwrap().into_iter().next();
        id = task.map(|task| task.id.to_string());
        id.is_some()
    });
    signal(&child, Signal::STOP);
    let said = place.ok(&["cancel", &id.unwrap()]);
    assert!(said.contains("the backup of web01 is aborted"), "{said}");
    signal(&child, Signal::CONT);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let jobs = place.json(&["jobs", "web01"]);
    assert_eq!(jobs.as_array().unwrap().len(), 1, "{jobs}");
    assert_eq!(jobs[0]["result"], "aborted");
    assert!(place.json(&["sessions"]).as_array().unwrap().is_empty());
    place.fails(1, &["info", "web01@latest"]);
    daemon.stop();
}

#[test]
fn what_cannot_be_cancelled_is_said() {
    let place = Place::new();
    for bad in ["abc", "web01", "xyzw1234", ""] {
        let said = place.fails(2, &["cancel", bad]);
        assert!(said.contains("not the id of a job"), "{said}");
    }
    place.fails(2, &["cancel"]);
    place.fails(2, &["jobs", "--kind", "nonsense"]);
    let said = place.fails(1, &["cancel", "abcd"]);
    assert!(
        said.contains("no daemon") && said.contains("Ctrl-C"),
        "{said}"
    );
    let daemon = place.serve(&[]);
    let said = place.fails(1, &["cancel", "abcd"]);
    assert!(
        said.contains("no task abcd is running") && said.contains("restorefs jobs"),
        "{said}"
    );
    daemon.stop();
}
