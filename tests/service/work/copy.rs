//! Copies that the daemon makes in its own process.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use restorefs::error::ErrorKind;
use restorefs::jobs::copy::PointState;
use restorefs::repo::Repository;
use restorefs::repo::lock::Holder;
use restorefs::service::Service;
use restorefs::service::work::{CopyAnswer, CopyRequest};
use restorefs::task::{TaskKind, TaskState};
use serde_json::{Value, json};

use super::{
    CLUSTER, CLUSTERS, SLOW, back_up, begun, cancel, client, client_of, copy, damage, ended, job,
    moving, of, verify, with_points,
};
use crate::kit::place::{Daemon, Place};
use crate::kit::wait::eventually;

/// A place with a repository `b` of that name beside its own, `a`.
fn pair(points: u64) -> Place {
    let place = with_points(points);
    place.ok(&["init", "b"]);
    place.ok(&["repo", "add", "b", "b"]);
    place
}

/// A daemon of both repositories.
fn serve_both(place: &Place) -> Daemon {
    let text = format!(
        "[[repository]]\npath = \"{}\"\n[[repository]]\nname = \"b\"\n",
        place.repo().display()
    );
    std::fs::write(place.path("both.toml"), text).unwrap();
    place.serve_config("both.toml")
}

fn serve_b(place: &Place) -> Daemon {
    std::fs::write(place.path("b.toml"), "[[repository]]\nname = \"b\"\n").unwrap();
    place.serve_config("b.toml")
}

/// Whether `b` has these points, sound and with these bytes, and the source knows it.
#[track_caller]
fn is_copied(place: &Place, contents: &[(&str, &[u8])]) {
    let points = place.json(&["-r", "b", "ls", "web01"]);
    let names: Vec<&str> = points
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    let wanted: Vec<&str> = contents.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, wanted);
    place.ok(&["-r", "b", "verify"]);
    for (point, bytes) in contents {
        let _ = std::fs::remove_file(place.path("there.raw"));
        let at = format!("web01@{point}");
        place.ok(&["-r", "b", "restore", &at, "vda", "there.raw"]);
        let file = std::fs::File::open(place.path("there.raw")).unwrap();
        for (n, cluster) in bytes.chunks(CLUSTER).enumerate() {
            let mut found = vec![0; CLUSTER];
            file.read_exact_at(&mut found, (n * 20 * CLUSTER) as u64)
                .unwrap();
            assert!(found == cluster, "{point}: cluster {n}");
        }
    }
    let id = place.json(&["-r", "b", "info"])["repository_id"].clone();
    for point in place.json(&["ls", "web01"]).as_array().unwrap() {
        assert_eq!(point["copies"][0]["repository_id"], id, "{point}");
    }
}

#[test]
fn a_copy_goes_to_a_repository_of_the_same_daemon_and_on_after_it_was_stopped() {
    let place = pair(0);
    let first = back_up(&place, "p0", 1);
    let daemon = serve_both(&place);
    let client = client(&place);
    let trial = client.copy(&copy(&json!({"dry_run": true}))).unwrap();
    let CopyAnswer::Trial(trial) = trial else {
        panic!("{trial:?}");
    };
    assert_eq!(trial.points[0].state, PointState::Due);
    assert!(trial.sent_bytes >= (CLUSTERS * CLUSTER) as u64);
    let said = place.json(&["copy", "web01", "--to", "b", "--dry-run"]);
    assert_eq!(
        serde_json::to_value(&trial).unwrap()["points"],
        said["vms"][0]["points"]
    );
    assert!(client.tasks().unwrap().is_empty(), "a trial is no task");

    let slow = copy(&json!({"limit_bytes": SLOW}));
    let task = begun(client.copy(&slow).unwrap());
    assert_eq!(
        (task.subject.kind, task.state),
        (TaskKind::Copy, TaskState::Running)
    );
    moving(&client, task.id);
    let again = client.copy(&slow).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Busy);
    assert!(again.what().contains(&task.id.to_string()), "{again}");
    // A verification of the VM goes on beside it.
    let beside = client.start_verify(&verify(&json!({}))).unwrap();
    cancel(&client, task.id);
    assert_eq!(ended(&client, beside.id).state, TaskState::Completed);
    let sessions = || {
        let sessions = place.json(&["-r", "b", "sessions"]);
        let sessions = sessions.as_array().unwrap().iter();
        sessions
            .map(|one| one["session"].clone())
            .collect::<Vec<_>>()
    };
    let begun_there = sessions();
    assert_eq!(begun_there.len(), 1);
    let task = begun(client.copy(&copy(&json!({}))).unwrap());
    let done = ended(&client, task.id);
    assert_eq!((done.state, done.reason), (TaskState::Completed, None));
    assert_eq!(done.disks[0].done_bytes, done.disks[0].total_bytes);
    // The same session has become the point.
    assert_eq!(sessions(), Vec::<Value>::new());
    let there = place.json(&["-r", "b", "jobs"]);
    assert_eq!(there.as_array().unwrap()[0]["session"], begun_there[0]);
    is_copied(&place, &[("p0", &first)]);
    assert_eq!(job(&place, task.id)["kind"], "copy");
    // A repository without a name in the register is served as "default", and found by that name: it refuses a copy of its own VM.
    let back = copy(&json!({"to": "default", "dry_run": true}));
    let back = client_of(&place.path("b")).copy(&back).unwrap_err();
    assert_eq!(back.kind(), ErrorKind::NotPermitted, "{back}");
    daemon.stop();
}

#[test]
fn a_copy_goes_to_the_repository_of_another_daemon_or_of_nobody() {
    let place = pair(0);
    let first = back_up(&place, "p0", 1);
    let daemon = place.serve(&[]);
    let client = client(&place);
    let done = |more: &Value| {
        let task = begun(client.copy(&copy(more)).unwrap());
        ended(&client, task.id)
    };
    // Of nobody: the daemon takes the lock for the steps, and gives it back.
    assert_eq!(done(&json!({})).state, TaskState::Completed);
    is_copied(&place, &[("p0", &first)]);
    place.ok(&["-r", "b", "rebuild-catalog"]);
    let second = back_up(&place, "p1", 2);
    let there = serve_b(&place);
    assert_eq!(done(&json!({"points": ["p1"]})).state, TaskState::Completed);
    is_copied(&place, &[("p0", &first), ("p1", &second)]);
    let jobs = client_of(&place.path("b")).tasks().unwrap();
    assert!(jobs.iter().all(|task| task.state.is_end()), "{jobs:?}");
    there.stop();

    // What cannot be reached has failed with the reason, and nothing is made in its place.
    std::fs::rename(place.path("b"), place.path("away")).unwrap();
    let failed = done(&json!({}));
    assert_eq!(failed.state, TaskState::Failed);
    let reason = failed.reason.unwrap();
    assert!(reason.contains("is not in"), "{reason}");
    assert_eq!(job(&place, failed.id)["reason"], reason);
    assert!(!place.path("b").exists());
    std::fs::rename(place.path("away"), place.path("b")).unwrap();
    // A lock that is held is waited for, and a cancelled copy waits no longer.
    back_up(&place, "p2", 3);
    let mut holder = place.command(&["-r", "b", "hold", "--", "sleep", "60"]);
    let mut holder = holder.spawn().unwrap();
    let b = Repository::open(&place.path("b")).unwrap();
    eventually("the lock is held", || {
        matches!(Holder::of(&b), Holder::Process(_))
    });
    let waits = begun(client.copy(&copy(&json!({}))).unwrap());
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(of(&client, waits.id).state, TaskState::Running);
    cancel(&client, waits.id);
    holder.kill().unwrap();
    holder.wait().unwrap();

    let refused = |more: Value| client.copy(&copy(&more)).unwrap_err().kind();
    assert_eq!(refused(json!({"to": "c"})), ErrorKind::NotFound);
    assert_eq!(refused(json!({"vm": "nobody"})), ErrorKind::NotFound);
    for path in ["./b", "/tmp", "../b"] {
        let named = json!({"vm": "web01", "to": path});
        assert!(
            serde_json::from_value::<CopyRequest>(named).is_err(),
            "{path}"
        );
    }
    daemon.stop();
}

/// The points of a VM at the target.
fn there(place: &Place, vm: &str) -> Vec<String> {
    let points = place.json(&["-r", "b", "ls", vm]);
    let points = points.as_array().unwrap().iter();
    points
        .map(|point| point["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_daemon_that_ends_while_it_copies_goes_on_when_it_is_asked_again() {
    let place = pair(0);
    let first = back_up(&place, "p0", 1);
    let slow = copy(&json!({"limit_bytes": SLOW}));
    for is_killed in [false, true] {
        let daemon = serve_both(&place);
        let task = begun(client(&place).copy(&slow).unwrap());
        moving(&client(&place), task.id);
        match is_killed {
            true => daemon.kill(),
            false => daemon.stop(),
        }
        if is_killed {
            // The next owner writes the line.
            place.ok(&["rebuild-catalog"]);
        }
        let line = job(&place, task.id);
        assert_eq!(
            (&line["kind"], &line["result"]),
            (&"copy".into(), &"failed".into())
        );
        let reason = line["reason"].as_str().unwrap();
        assert!(reason.starts_with("interrupted"), "{line}");
        assert_eq!(there(&place, "web01"), Vec::<String>::new());
    }
    let daemon = serve_both(&place);
    let client = client(&place);
    let task = begun(client.copy(&copy(&json!({}))).unwrap());
    assert_eq!(ended(&client, task.id).state, TaskState::Completed);
    is_copied(&place, &[("p0", &first)]);
    daemon.stop();
}

#[test]
fn what_is_damaged_or_was_forgotten_there_is_not_sent() {
    let place = pair(1);
    let second = back_up(&place, "p1", 7);
    damage(&place, &second[..CLUSTER]);
    let daemon = serve_both(&place);
    let client = client(&place);
    let done = |more: &Value| {
        let task = begun(client.copy(&copy(more)).unwrap());
        let task = ended(&client, task.id);
        (task.state, task.reason.unwrap_or_default())
    };
    let (state, reason) = done(&json!({"as_name": "copied"}));
    assert_eq!(state, TaskState::Failed);
    assert!(reason.contains("is not what was committed"), "{reason}");
    assert_eq!(there(&place, "copied"), ["p0"]);
    place.ok(&["-r", "b", "forget", "copied@p0", "--no-merge"]);
    assert_eq!(done(&json!({})).0, TaskState::Failed, "of the damage alone");
    assert_eq!(there(&place, "copied"), Vec::<String>::new());
    assert_eq!(done(&json!({"again": true})).0, TaskState::Failed);
    assert_eq!(there(&place, "copied"), ["p0"]);
    let other = client.copy(&copy(&json!({"as_name": "other"}))).unwrap();
    let other = ended(&client, begun(other).id);
    assert!(other.reason.unwrap().contains("is at the target already"));
    daemon.stop();
}
