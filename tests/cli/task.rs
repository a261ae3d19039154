//! Long work of commands as tasks: seen and stopped through a daemon, and a line of the history in any case.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use restorefs::control::Client;
use restorefs::error::ErrorKind;
use restorefs::repo::Repository;
use restorefs::service::Service;
use restorefs::task::{TaskKind, TaskReport, TaskState};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::kit::need::has;
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

/// The work needs no daemon: it goes on when that one goes or is killed, and the next one shows it again.
#[test]
fn a_daemon_may_come_and_go_meanwhile() {
    for is_killed in [false, true] {
        let place = with_chains(&["web01"]);
        let mut child = slow(&place, "web01");
        std::thread::sleep(Duration::from_millis(500));
        let daemon = place.serve(&[]);
        let first = moving(&client(&place));
        match is_killed {
            true => daemon.kill(),
            false => daemon.stop(),
        }
        let daemon = place.serve(&[]);
        let client = client(&place);
        let second = moving(&client);
        assert_ne!(first.id, second.id);
        assert_eq!(first.began_at, second.began_at);
        client.cancel(second.id).unwrap();
        assert!(!child.wait().unwrap().success());
        let lines = merges(&place);
        let ids: Vec<&Value> = lines.iter().map(|line| &line["job_id"]).collect();
        assert_eq!(ids, [&second.id.to_string(), &first.id.to_string()]);
        let results: Vec<&Value> = lines.iter().map(|line| &line["result"]).collect();
        assert_eq!(results, ["cancelled", "failed"]);
        let reason = lines[1]["reason"].as_str().unwrap();
        assert!(reason.starts_with("interrupted"), "{reason}");
        let running = std::fs::read_dir(place.repo().join("jobs/running"));
        assert_eq!(running.map_or(0, Iterator::count), 0);
        daemon.stop();
    }
}

/// Nobody waits for a lock to write a line of the history.
#[test]
fn a_lock_that_is_held_at_the_end_costs_nothing() {
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
        !output.status.success() && !said.contains("history"),
        "{said}"
    );
    let line = &merges(&place)[0];
    assert_eq!(
        (&line["result"], &line["vm"]),
        (&"cancelled".into(), &"web01".into())
    );
    drop(lock);
    place.ok(&["tag", "web01@p3", "a=b"]);
    assert_eq!(&merges(&place)[0], line);
}

/// What fails before there is a session or a task: a lock that is held, names that are not there, damage.
#[test]
fn what_fails_before_it_begins_is_in_the_history() {
    use rustix::fs::{FlockOperation, flock};

    let place = with_chains(&["web01"]);
    let last = || place.json(&["jobs", "-n1"])[0].clone();
    let failed = |code: i32, kind: &str, vm: Value, args: &[&str]| {
        place.fails(code, args);
        let job = last();
        assert_eq!(
            (&job["kind"], &job["result"]),
            (&kind.into(), &"failed".into()),
            "{args:?}"
        );
        assert_eq!(job["vm"], vm, "{args:?}");
        job["reason"].as_str().unwrap().to_owned()
    };
    let web01 = || Value::from("web01");
    let lock = std::fs::File::open(place.repo().join("lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let backup = ["backup", "web01", "vda=a.raw"];
    let reason = failed(11, "ingest", web01(), &backup);
    assert!(reason.contains("another process"), "{reason}");
    failed(11, "forget", web01(), &["forget", "web01", "--all"]);
    failed(11, "forget", web01(), &["forget", "web01@p3"]);
    failed(
        11,
        "forget",
        Value::Null,
        &["forget", "web*", "--keep-last", "1"],
    );
    drop(lock);
    failed(1, "forget", "none".into(), &["forget", "none", "--all"]);
    failed(1, "merge", web01(), &["synthetic-full", "web01@none"]);
    failed(
        1,
        "merge",
        web01(),
        &["synthetic-full", "web01@p3", "--disk", "vdx"],
    );
    // Sources.
    failed(1, "ingest", web01(), &["backup", "web01", "vda=none.raw"]);
    failed(
        1,
        "ingest",
        web01(),
        &["backup", "web01", "vda=nbd://localhost:1/x"],
    );
    // A disk that was forgotten on the command line, and one that there never was.
    place.disk("b.raw", 64, 1);
    place.run(&["backup", "web01", "vdb=b.raw"]);
    assert_eq!(last()["result"], "failed", "{}", last());
    let count = || place.json(&["jobs", "-n0"]).as_array().unwrap().len();
    let before = count();
    // Plans and mistakes are no jobs.
    place.fails(1, &["forget", "none", "--all", "--dry-run"]);
    place.fails(2, &["forget", "web01"]);
    place.fails(2, &["forget", "web01", "--keep-last", "x"]);
    place.fails(2, &["forget", "none*", "--keep-last", "1"]);
    place.fails(2, &["synthetic-full", "web01@p3", "--limit", "0"]);
    place.fails(2, &["backup", "web01", "vda"]);
    assert_eq!(count(), before);
    // Damage: the index and a sidecar of the only point.
    let point = place.repo().join("vms/web01/points/p3/point.json");
    let sound = std::fs::read(&point).unwrap();
    std::fs::write(&point, b"{}").unwrap();
    place.run(&["synthetic-full", "web01@p3"]);
    assert_eq!(
        (&last()["kind"], &last()["result"]),
        (&"merge".into(), &"failed".into())
    );
    std::fs::write(&point, sound).unwrap();
}

/// Restores are tasks: of disks, of files and as an archive, with a daemon and without one.
#[test]
fn restores_are_in_the_history() {
    let place = Place::new();
    place.disk("a.raw", 64, 1);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    for with_daemon in [false, true] {
        let daemon = with_daemon.then(|| place.serve(&[]));
        let last = || place.json(&["jobs", "-n1"])[0].clone();
        place.ok(&["restore", "WEB01@latest", "vda", "out.raw", "--force"]);
        let job = last();
        assert_eq!(
            (&job["kind"], &job["result"]),
            (&"restore".into(), &"completed".into())
        );
        assert_eq!(
            (&job["vm"], &job["point"]),
            (&"web01".into(), &"one".into())
        );
        // What fails before it begins.
        place.fails(1, &["restore", "web01@two", "vda", "new.raw"]);
        let job = last();
        assert_eq!(
            (&job["kind"], &job["result"]),
            (&"restore".into(), &"failed".into())
        );
        assert!(job["reason"].as_str().unwrap().contains("two"), "{job}");
        let before = last()["job_id"].clone();
        // A mistake of the command line is none.
        place.fails(2, &["restore", "web01@one"]);
        place.fails(2, &["restore", "web01@one", "vda", "new.raw", "--to", "x"]);
        assert_eq!(last()["job_id"], before);
        place.fails(3, &["restore", "web01@one:/files/etc", "--to", "out"]);
        assert_eq!(last()["result"], "failed");
        assert_ne!(last()["job_id"], before);
        if let Some(daemon) = daemon {
            let tasks = client(&place).tasks().unwrap();
            let restored = tasks.iter().find(|task| !task.disks.is_empty()).unwrap();
            assert_eq!(restored.disks[0].done_bytes, 64 << 16);
            daemon.stop();
        }
        // The next owner of the lock has moved what waited.
        place.ok(&["tag", "web01@one", "a=b"]);
        let late = std::fs::read_dir(place.repo().join("jobs/late"));
        assert_eq!(late.map_or(0, Iterator::count), 0);
    }
    assert_eq!(
        place
            .json(&["jobs", "--kind", "restore"])
            .as_array()
            .unwrap()
            .len(),
        6
    );
}

/// A restore of a repository that only others may write leaves nothing there, and says nothing of it.
#[test]
fn who_only_reads_keeps_no_history() {
    let place = Place::new();
    place.disk("a.raw", 4, 1);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(place.dir.path(), open).unwrap();
    let opened = Command::new("chmod")
        .args(["-R", "a+rX"])
        .arg(place.repo())
        .status();
    assert!(opened.unwrap().success());
    if !rustix::process::geteuid().is_root() || !has("setpriv") {
        return;
    }
    std::fs::copy(env!("CARGO_BIN_EXE_restorefs"), place.path("restorefs")).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(place.path("restorefs"))
        .args(["--repo", "repo", "restore", "web01@one", "vda", "out.raw"])
        .current_dir(place.dir.path())
        .env("RESTOREFS_RUNTIME_DIR", place.dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    assert!(
        place
            .json(&["jobs", "--kind", "restore"])
            .as_array()
            .unwrap()
            .is_empty()
    );
}

/// Takes the place of the daemon's socket and passes everything on, but for the answer to the end of a task: that connection
/// is closed when the daemon has answered.
fn lose_the_answer_to_an_end(place: &Place) {
    let entries = std::fs::read_dir(place.dir.path()).unwrap();
    let mut sockets = entries.map(|entry| entry.unwrap().path());
    let is_control = |path: &PathBuf| {
        let name = path.to_str().unwrap();
        name.ends_with(".sock") && !name.ends_with("nbd.sock")
    };
    let socket = sockets.find(is_control).unwrap();
    let behind = place.path("behind.sock");
    std::fs::rename(&socket, &behind).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let pass = move |client: UnixStream| -> std::io::Result<()> {
        let daemon = UnixStream::connect(&behind)?;
        let (requests, mut answers) = (BufReader::new(&client), BufReader::new(&daemon));
        for request in requests.lines() {
            let request = request?;
            writeln!(&daemon, "{request}")?;
            let mut answer = String::new();
            answers.read_line(&mut answer)?;
            if request.contains("end-task") {
                return Ok(());
            }
            (&client).write_all(answer.as_bytes())?;
        }
        Ok(())
    };
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let _ = pass(client.unwrap());
        }
    });
}

/// The daemon has written the line, and the command does not know it: the work is one job.
#[test]
fn a_task_whose_end_was_not_confirmed_has_one_line() {
    let place = Place::new();
    place.disk("a.raw", 4, 1);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    let daemon = place.serve(&[]);
    lose_the_answer_to_an_end(&place);
    place.ok(&["restore", "web01@one", "vda", "out.raw"]);
    let late = || {
        let entries = std::fs::read_dir(place.repo().join("jobs/late"));
        entries.map_or(0, Iterator::count)
    };
    let restores = || {
        let jobs = place.json(&["jobs", "--kind", "restore"]);
        let jobs = jobs.as_array().unwrap().iter();
        let ended = jobs.filter(|job| !job["result"].is_null());
        ended.map(|job| job["result"].clone()).collect::<Vec<_>>()
    };
    assert_eq!((late(), restores()), (1, vec!["completed".into()]));
    daemon.stop();
    place.ok(&["keep", "web01@one"]);
    assert_eq!((late(), restores()), (0, vec!["completed".into()]));
}

/// Work that needs no daemon does not hang with one, and is in the history all the same.
#[test]
fn a_daemon_that_answers_nothing_holds_up_no_restore() {
    let place = Place::new();
    place.disk("a.raw", 4, 1);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    let daemon = place.serve(&[]);
    signal(&daemon.child, Signal::STOP);
    place.ok(&["restore", "web01@one", "vda", "out.raw"]);
    place.fails(1, &["restore", "web01@two", "vda", "new.raw"]);
    let output = place.run(&["jobs", "--json"]);
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("what runs is not shown"), "{said}");
    let jobs: Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |n: usize| (jobs[n]["kind"].as_str(), jobs[n]["result"].as_str());
    assert_eq!(of(0), (Some("restore"), Some("failed")));
    assert_eq!(of(1), (Some("restore"), Some("completed")));
    signal(&daemon.child, Signal::CONT);
    daemon.stop();
}
