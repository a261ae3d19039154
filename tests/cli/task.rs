//! Long work of commands as tasks: seen and stopped through a daemon, and a line of the history in any case.

use std::process::{Child, Stdio};
use std::time::Duration;

use restorefs::control::Client;
use restorefs::error::ErrorKind;
use restorefs::repo::Repository;
use restorefs::service::Service;
use restorefs::task::{TaskKind, TaskReport, TaskState};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::kit::place::Place;
use crate::kit::wait::eventually;

/// A chain of four layers in each VM, of which one point is left: there is something to merge.
pub(crate) fn with_chains(vms: &[&str]) -> Place {
    let place = Place::new();
    for vm in vms {
        for (n, point) in ["p0", "p1", "p2", "p3"].iter().enumerate() {
            place.disk("a.raw", 64, u8::try_from(n + 1).unwrap());
            place.ok(&["backup", vm, "vda=a.raw", "--point", point]);
        }
        place.ok(&["forget", vm, "--keep-last", "1", "--no-merge"]);
    }
    place
}

/// A merge that takes many seconds, and never shares extents.
pub(crate) fn slow(place: &Place, vms: &str) -> Child {
    place
        .command(&["forget", "--compact", vms, "--limit", "200K"])
        .env("RESTOREFS_REFUSE", "reflink")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

pub(crate) fn client(place: &Place) -> Client {
    let repository = Repository::open(&place.repo()).unwrap();
    Client::connect(&repository).unwrap().unwrap()
}

fn running(client: &Client) -> Option<TaskReport> {
    let tasks = client.tasks().unwrap();
    tasks.into_iter().find(|task| task.ended_at.is_none())
}

/// The running merge, once it has moved bytes.
pub(crate) fn moving(client: &Client) -> TaskReport {
    let mut found = None;
    eventually("the merge moves bytes", || {
        found = running(client).filter(|task| task.disks.iter().any(|disk| disk.done_bytes > 0));
        found.is_some()
    });
    found.unwrap()
}

/// The merges of the history, the newest first.
pub(crate) fn merges(place: &Place) -> Vec<Value> {
    let jobs = place.json(&["jobs"]);
    let jobs = jobs.as_array().unwrap().iter();
    jobs.filter(|job| job["kind"] == "merge" && !job["result"].is_null())
        .cloned()
        .collect()
}

fn layers(place: &Place, vm: &str) -> usize {
    let entries = std::fs::read_dir(place.repo().join("vms").join(vm).join("layers")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".qcow2")).count()
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[test]
fn a_merge_is_one_task_and_a_line_without_a_daemon_too() {
    for with_daemon in [false, true] {
        let place = with_chains(&["web01"]);
        let daemon = with_daemon.then(|| place.serve(&[]));
        place.ok(&["forget", "--compact", "web01"]);
        let done = merges(&place);
        assert_eq!(done.len(), 1, "{done:?}");
        assert_eq!(
            (&done[0]["result"], &done[0]["vm"]),
            (&"completed".into(), &"web01".into())
        );
        // What has nothing to do is no job.
        place.ok(&["forget", "--compact", "web01"]);
        assert_eq!(merges(&place).len(), 1);
        if let Some(daemon) = daemon {
            let task = client(&place).tasks().unwrap().remove(0);
            assert_eq!(
                (task.subject.kind, task.state),
                (TaskKind::Merge, TaskState::Completed)
            );
            assert_eq!(task.disks.len(), 1);
            assert_eq!(task.disks[0].name.as_str(), "vda");
            assert_eq!(task.disks[0].done_bytes, task.disks[0].total_bytes);
            daemon.stop();
        }
        place.disk("a.raw", 64, 9);
        place.ok(&["backup", "web01", "vda=a.raw", "--point", "p4"]);
        place.ok(&["synthetic-full", "web01@p4"]);
        let done = merges(&place);
        assert_eq!(
            (done.len(), &done[0]["point"]),
            (2, &"p4".into()),
            "{done:?}"
        );
    }
}

/// The merging of one VM is cancelled; the command goes on with the other one.
#[test]
fn a_merge_is_seen_and_cancelled_from_elsewhere() {
    let place = with_chains(&["db01", "web01"]);
    let daemon = place.serve(&[]);
    let client = client(&place);
    let mut child = slow(&place, "*");
    let task = moving(&client);
    assert_eq!(task.subject.kind, TaskKind::Merge);
    assert_eq!(task.subject.vm.as_ref().unwrap().as_str(), "db01");
    // Only the connection that began it speaks for it.
    assert_eq!(
        client.tell_task(task.id, &[]).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let ended = client.end_task(task.id, TaskState::Completed, None);
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(task.cancellable && task.disks[0].done_bytes <= task.disks[0].total_bytes);
    client.cancel(task.id).unwrap();
    let mut other = None;
    eventually("the other VM is merged", || {
        other = running(&client).filter(|one| one.id != task.id);
        other.is_some()
    });
    assert_eq!(other.unwrap().subject.vm.unwrap().as_str(), "web01");
    assert_eq!(merges(&place)[0]["result"], "cancelled");
    assert_eq!(merges(&place)[0]["job_id"], task.id.to_string());
    assert_eq!(layers(&place, "db01"), 4, "all as it was");
    // Ctrl-C stops the command; the history has that, too.
    signal(&child, Signal::INT);
    assert!(!child.wait().unwrap().success());
    eventually("the line", || merges(&place).len() == 2);
    assert_eq!(merges(&place)[0]["result"], "cancelled");
    assert_eq!(merges(&place)[0]["vm"], "web01");
    daemon.stop();
}

#[test]
fn a_command_that_is_killed_leaves_a_task_that_was_interrupted() {
    let place = with_chains(&["web01"]);
    let daemon = place.serve(&[]);
    let client = client(&place);
    let mut child = slow(&place, "web01");
    let task = moving(&client);
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the task ends", || running(&client).is_none());
    let line = &merges(&place)[0];
    assert_eq!(
        (&line["job_id"], &line["result"]),
        (&task.id.to_string().into(), &"failed".into())
    );
    assert!(
        line["reason"].as_str().unwrap().starts_with("interrupted"),
        "{line}"
    );
    daemon.stop();
}

/// The work needs no daemon: it goes on when that one goes, and the next one shows it again.
#[test]
fn a_daemon_may_come_and_go_meanwhile() {
    let place = with_chains(&["web01"]);
    let mut child = slow(&place, "web01");
    std::thread::sleep(Duration::from_millis(500));
    let daemon = place.serve(&[]);
    let first = moving(&client(&place));
    daemon.stop();
    let daemon = place.serve(&[]);
    let client = client(&place);
    let second = moving(&client);
    assert_ne!(first.id, second.id);
    assert_eq!(first.began_at, second.began_at);
    client.cancel(second.id).unwrap();
    assert!(!child.wait().unwrap().success());
    let lines = merges(&place);
    let results: Vec<&Value> = lines.iter().map(|line| &line["result"]).collect();
    assert_eq!(results, ["cancelled", "failed"]);
    daemon.stop();
}

/// What cannot be written to the history has been done all the same.
#[test]
fn a_lock_that_is_held_at_the_end_costs_the_line_alone() {
    use rustix::fs::{FlockOperation, flock};

    let place = with_chains(&["web01"]);
    let lock = std::fs::File::open(place.repo().join("lock")).unwrap();
    let child = slow(&place, "web01");
    std::thread::sleep(Duration::from_millis(1_000));
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    signal(&child, Signal::TERM);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("does not have this merge"),
        "{said}"
    );
    drop(lock);
    assert!(merges(&place).is_empty());
}
