//! Verifications in the daemon's process.

use std::time::{Duration, Instant};

use restorefs::error::ErrorKind;
use restorefs::service::Happening;
use restorefs::service::work::VerifyRequest;
use restorefs::task::{TaskKind, TaskState};
use serde_json::{Value, json};

use super::{
    CLUSTER, CLUSTERS, SLOW, back_up, cancel, client, client_of, damage, ended, job, moving,
    verify, vm, with_points,
};
use crate::kit::place::Place;
use crate::kit::wait::eventually;

fn checks(place: &Place) -> Vec<Value> {
    let points = place.json(&["ls", "web01"]);
    let points = points.as_array().unwrap().iter();
    points.map(|point| point["check"].clone()).collect()
}

#[test]
fn a_verification_finds_planted_damage_and_keeps_it() {
    let place = with_points(1);
    let second = back_up(&place, "p1", 7);
    let daemon = place.serve(&[]);
    let client = client(&place);
    let task = client.start_verify(&verify(&json!({}))).unwrap();
    assert_eq!(
        (task.subject.kind, task.subject.vm.clone(), task.state),
        (TaskKind::Verify, Some(vm()), TaskState::Running)
    );
    assert!(task.cancellable);
    let sound = ended(&client, task.id);
    assert_eq!((sound.state, sound.reason), (TaskState::Completed, None));
    assert_eq!(sound.disks.len(), 1);
    assert!(sound.disks[0].total_bytes > (2 * CLUSTERS * CLUSTER) as u64);
    assert_eq!(sound.disks[0].done_bytes, sound.disks[0].total_bytes);
    assert_eq!(checks(&place), ["sound", "sound"]);
    assert_eq!(job(&place, task.id)["result"], "completed");

    damage(&place, &second[..CLUSTER]);
    // What has a result of a moment ago is not read again.
    let fresh = verify(&json!({"outdated_after_seconds": 3_600}));
    let fresh = client.start_verify(&fresh).unwrap();
    assert_eq!(ended(&client, fresh.id).state, TaskState::Completed);
    let tables = client.start_verify(&verify(&json!({"data": false})));
    assert_eq!(
        ended(&client, tables.unwrap().id).state,
        TaskState::Completed
    );
    assert_eq!(checks(&place), ["sound", "sound"]);

    let task = client.start_verify(&verify(&json!({"subset": "100%"})));
    let task = ended(&client, task.unwrap().id);
    assert_eq!(task.state, TaskState::Failed);
    assert_eq!(task.reason.as_deref(), Some("web01: damage in p1"));
    assert_eq!(checks(&place), ["sound", "damaged"]);
    let line = job(&place, task.id);
    assert_eq!(
        (&line["kind"], &line["result"], &line["reason"]),
        (
            &"verify".into(),
            &"failed".into(),
            &"web01: damage in p1".into()
        )
    );
    // The command line finds the same.
    place.fails(3, &["verify"]);

    let refused = |more: Value, kind| {
        let error = client.start_verify(&verify(&more)).unwrap_err();
        assert_eq!(error.kind(), kind, "{more}: {error}");
    };
    refused(json!({"vm": "nobody"}), ErrorKind::NotFound);
    refused(json!({"subset": "8/7"}), ErrorKind::InvalidInput);
    refused(json!({"limit_bytes": 0}), ErrorKind::InvalidInput);
    let mistyped = json!({"vm": "web01", "subsets": "1/7"});
    assert!(serde_json::from_value::<VerifyRequest>(mistyped).is_err());
    daemon.stop();
}

#[test]
fn a_work_is_seen_stopped_at_once_and_not_begun_twice() {
    let place = with_points(1);
    let daemon = place.serve(&[]);
    let client = client(&place);
    let mut events = client_of(&place.repo()).follow(None).unwrap();
    let slow = verify(&json!({"limit_bytes": SLOW}));
    let task = client.start_verify(&slow).unwrap();
    moving(&client, task.id);
    let again = client.start_verify(&slow).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Busy);
    assert!(again.what().contains(&task.id.to_string()), "{again}");
    // Another process sees and stops it, too.
    assert_eq!(job(&place, task.id)["result"], Value::Null);
    cancel(&client, task.id);
    assert_eq!(job(&place, task.id)["result"], "cancelled");
    let mut states = Vec::new();
    eventually("the events end with the task", || {
        if let Some(event) = events.next_event().unwrap()
            && let Happening::Task { task: seen } = event.happening
            && seen.id == task.id
        {
            let has_moved = seen.disks.iter().any(|disk| disk.done_bytes > 0);
            states.push((seen.state, has_moved));
        }
        states.last().is_some_and(|(state, _)| state.is_end())
    });
    assert_eq!(states[0], (TaskState::Running, false));
    assert!(states.contains(&(TaskState::Running, true)), "{states:?}");
    let task = client.start_verify(&verify(&json!({}))).unwrap();
    assert_eq!(ended(&client, task.id).state, TaskState::Completed);
    daemon.stop();
}

#[test]
fn a_daemon_that_ends_leaves_a_job_that_was_interrupted() {
    let place = with_points(1);
    let slow = verify(&json!({"limit_bytes": SLOW}));
    let daemon = place.serve(&[]);
    let killed = client(&place).start_verify(&slow).unwrap();
    moving(&client(&place), killed.id);
    daemon.kill();
    let daemon = place.serve(&[]);
    let line = job(&place, killed.id);
    assert_eq!(
        (&line["kind"], &line["result"]),
        (&"verify".into(), &"failed".into())
    );
    assert!(
        line["reason"].as_str().unwrap().starts_with("interrupted"),
        "{line}"
    );

    let stopped = client(&place).start_verify(&slow).unwrap();
    moving(&client(&place), stopped.id);
    let asked = Instant::now();
    daemon.stop();
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );
    let line = job(&place, stopped.id);
    assert_eq!(line["result"], "failed");
    assert_eq!(line["reason"], "interrupted: the daemon was stopped");
    // The lock is free, and nothing writes.
    place.ok(&["verify"]);
}
