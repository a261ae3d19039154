//! Works of a daemon: it verifies, copies and forgets in its own process. The right values are planted damage, what was backed up, and what
//! the command line says of the same.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use restorefs::access::Caller;
use restorefs::chain::{Pool, PoolLimits};
use restorefs::clock::SystemClock;
use restorefs::control::Client;
use restorefs::error::{Error, ErrorKind};
use restorefs::ingest::{Engine, Registry};
use restorefs::jobs::copy::PointState;
use restorefs::repo::register::Registered;
use restorefs::repo::sidecar::policy::Keeping;
use restorefs::repo::{Owner, Repository};
use restorefs::service::work::{CopyAnswer, CopyRequest, ForgetPlan, ForgetRequest, VerifyRequest};
use restorefs::service::{Destination, Elsewhere, Happening, OwnedRepository, Service};
use restorefs::task::{Monitor, TaskKind, TaskReport, TaskState};
use restorefs::types::{JobId, RepositoryName, VmName};
use serde_json::{Value, json};

use crate::kit::noise::noise;
use crate::kit::place::{Daemon, Place};
use crate::kit::wait::eventually;

const CLUSTER: usize = 65_536;

/// Clusters with data on each disk.
const CLUSTERS: usize = 96;

/// Within which a work that is cancelled must have ended.
const CANCELLED_WITHIN: Duration = Duration::from_secs(2);

/// A pace at which the work on one disk takes about a minute.
const SLOW: u64 = 100_000;

fn vm() -> VmName {
    VmName::new("web01").unwrap()
}

/// A disk of 2 GiB with data here and there; returns the data.
fn disk(place: &Place, seed: u64) -> Vec<u8> {
    let file = std::fs::File::create(place.path("a.raw")).unwrap();
    file.set_len(2 << 30).unwrap();
    let bytes = noise(seed, CLUSTERS * CLUSTER);
    for (n, cluster) in bytes.chunks(CLUSTER).enumerate() {
        file.write_all_at(cluster, (n * 20 * CLUSTER) as u64)
            .unwrap();
    }
    bytes
}

fn back_up(place: &Place, point: &str, seed: u64) -> Vec<u8> {
    let bytes = disk(place, seed);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", point]);
    bytes
}

/// A place with points `p0`, `p1` and so on.
fn with_points(count: u64) -> Place {
    let place = Place::new();
    for n in 0..count {
        back_up(&place, &format!("p{n}"), n + 1);
    }
    place
}

fn client_of(repository: &Path) -> Client {
    let repository = Repository::open(repository).unwrap();
    Client::connect(&repository).unwrap().unwrap()
}

fn client(place: &Place) -> Client {
    client_of(&place.repo())
}

fn verify(more: &Value) -> VerifyRequest {
    let mut all = json!({"vm": "web01"});
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

fn copy(more: &Value) -> CopyRequest {
    let mut all = json!({"vm": "web01", "to": "b"});
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

fn begun(answer: CopyAnswer) -> TaskReport {
    match answer {
        CopyAnswer::Begun(task) => task,
        CopyAnswer::Trial(report) => panic!("a trial: {report:?}"),
    }
}

fn of(client: &Client, id: JobId) -> TaskReport {
    let mut tasks = client.tasks().unwrap().into_iter();
    tasks.find(|task| task.id == id).unwrap()
}

/// Waits for the end of a task.
fn ended(client: &Client, id: JobId) -> TaskReport {
    eventually("the task ends", || of(client, id).state.is_end());
    of(client, id)
}

/// Waits until a task has moved bytes.
fn moving(client: &Client, id: JobId) {
    eventually("the task moves bytes", || {
        let task = of(client, id);
        assert_eq!(task.state, TaskState::Running, "{task:?}");
        task.disks.iter().any(|disk| disk.done_bytes > 0)
    });
}

/// Cancels a task, which must end at once.
fn cancel(client: &Client, id: JobId) {
    let asked = Instant::now();
    client.cancel(id).unwrap();
    while !of(client, id).state.is_end() {
        assert!(asked.elapsed() < CANCELLED_WITHIN, "{:?}", asked.elapsed());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(of(client, id).state, TaskState::Cancelled);
}

/// The line of a job, of the history or while it runs.
fn job(place: &Place, id: JobId) -> Value {
    let id = Value::from(id.to_string());
    let mut found = None;
    // The line is written just after the end of the task.
    eventually("the job is listed", || {
        let jobs = place.json(&["jobs"]);
        let mut jobs = jobs.as_array().unwrap().iter();
        found = jobs.find(|job| job["job_id"] == id).cloned();
        found.is_some()
    });
    found.unwrap()
}

fn checks(place: &Place) -> Vec<Value> {
    let points = place.json(&["ls", "web01"]);
    let points = points.as_array().unwrap().iter();
    points.map(|point| point["check"].clone()).collect()
}

/// Flips a bit of a cluster where a layer holds it.
fn damage(place: &Place, cluster: &[u8]) {
    let layers = std::fs::read_dir(place.repo().join("vms/web01/layers")).unwrap();
    for layer in layers {
        let path = layer.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        if let Some(n) = bytes.chunks(CLUSTER).position(|chunk| chunk == cluster) {
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            let at = n * CLUSTER + 5;
            file.write_all_at(&[bytes[at] ^ 4], at as u64).unwrap();
            return;
        }
    }
    panic!("no layer holds the cluster");
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
        matches!(
            restorefs::repo::lock::Holder::of(&b),
            restorefs::repo::lock::Holder::Process(_)
        )
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

fn forget(more: &Value) -> ForgetRequest {
    serde_json::from_value(more.clone()).unwrap()
}

fn names(place: &Place) -> Vec<String> {
    let points = place.json(&["ls", "web01"]);
    let points = points.as_array().unwrap().iter();
    points
        .map(|p| p["name"].as_str().unwrap().to_owned())
        .collect()
}

/// The same of the plan as the command line prints.
fn as_printed(plan: &ForgetPlan) -> Value {
    let plan = serde_json::to_value(plan).unwrap();
    json!({"vm": plan["vm"], "points": plan["points"], "freed_bytes": plan["freed_bytes"]})
}

#[test]
fn a_plan_is_what_is_forgotten_and_what_the_command_line_plans() {
    let place = Place::new();
    for n in 1..=5 {
        place.disk("a.raw", 8, n);
        place.ok(&["backup", "web01", "vda=a.raw", "--point", &format!("p{n}")]);
    }
    place.ok(&["keep", "web01@p2"]);
    let daemon = place.serve(&[]);
    let client = client(&place);
    let web = vm();
    let rules = |dry_run: bool| {
        forget(
            &json!({"keep": {"last": 2, "monthly": 2, "within": "0d"}, "zone": "UTC", "dry_run": dry_run}),
        )
    };
    let words = [
        "forget",
        "web01",
        "--keep-last",
        "2",
        "--keep-monthly",
        "2",
        "--time-zone",
        "UTC",
    ];
    let mut printed = place.json(&[&words[..], &["--dry-run"]].concat())["vms"][0].clone();
    printed.as_object_mut().unwrap().remove("mergeable_bytes");
    let plan = client.forget_by(&web, &rules(true)).unwrap();
    assert_eq!(as_printed(&plan), printed);
    assert_eq!((plan.forgotten.len(), plan.kept.len()), (0, 0));
    assert_eq!(names(&place).len(), 5, "a dry run changes nothing");
    let planned: Vec<_> = plan
        .points
        .iter()
        .filter(|p| !p.keep)
        .map(|p| p.point.clone())
        .collect();
    assert_eq!(
        planned.iter().map(|p| p.as_str()).collect::<Vec<_>>(),
        ["p3"]
    );
    let kept = plan
        .points
        .iter()
        .find(|point| point.point.as_str() == "p2");
    assert_eq!(kept.unwrap().reasons, ["kept by hand"]);

    // A point in use is skipped by rules, with the reason.
    let which = "p3".parse().unwrap();
    client.hold(&web, &which, "a test").unwrap();
    let skipped = client.forget_by(&web, &rules(false)).unwrap();
    assert!(skipped.forgotten.is_empty());
    assert_eq!(skipped.kept[0].problem.kind, ErrorKind::Busy.name());
    let shown = skipped
        .points
        .iter()
        .find(|p| p.point.as_str() == "p3")
        .unwrap();
    assert!(
        shown.keep && shown.reasons[0].starts_with("in use"),
        "{shown:?}"
    );
    drop(client);
    let client = client_of(&place.repo());
    let mut done = None;
    eventually("the use ends with its connection", || {
        let answer = client.forget_by(&web, &rules(false)).unwrap();
        let is_done = answer.kept.is_empty();
        done = Some(answer);
        is_done
    });
    let done = done.unwrap();
    assert_eq!(done.forgotten, planned);
    assert_eq!(as_printed(&done), as_printed(&plan));
    assert_eq!(names(&place), ["p1", "p2", "p4", "p5"]);
    let jobs = place.json(&["jobs", "web01", "--kind", "forget"]);
    assert_eq!(jobs[0]["result"], "completed");

    // What the last run has kept is recorded, and an unattended run goes by it.
    let most = json!({"keep": {"last": 1}, "unattended": true});
    place.ok(&["keep", "web01@p2", "--remove"]);
    let alone = client.forget_by(&web, &forget(&most)).unwrap();
    assert!(
        alone.left_alone.is_some() && alone.forgotten.is_empty(),
        "{alone:?}"
    );
    let output = place.run(&[
        "forget",
        "web01",
        "--keep-last",
        "1",
        "--unattended",
        "--dry-run",
        "--json",
    ]);
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["vms"][0]["left_alone"], alone.left_alone.unwrap());
    assert_eq!(names(&place).len(), 4);

    let named = client.forget_by(&web, &forget(&json!({"points": ["latest~1", "p1"]})));
    assert_eq!(named.unwrap().forgotten.len(), 2);
    assert_eq!(names(&place), ["p2", "p5"]);
    let all = client
        .forget_by(&web, &forget(&json!({"all": true})))
        .unwrap();
    assert_eq!(all.forgotten.len(), 2);
    assert!(names(&place).is_empty());
    daemon.stop();
}

#[test]
fn what_keeps_nothing_or_contradicts_itself_is_refused() {
    let place = with_points(1);
    let daemon = place.serve(&[]);
    let client = client(&place);
    for (request, what) in [
        (json!({}), "no rule says which restore points stay"),
        (
            json!({"keep": {"last": 0, "daily": 0}}),
            "keep no restore point",
        ),
        (json!({"zone": "UTC"}), "keep no restore point"),
        (json!({"keep": {"last": 1, "dayly": 7}}), "\"dayly\""),
        (json!({"keep": {"last": 1}, "all": true}), "rules"),
        (json!({"points": ["p0"], "keep": {"last": 1}}), "rules"),
        (json!({"points": ["p0"], "all": true}), "all"),
        (json!({"points": ["p0"], "unattended": true}), "unattended"),
        (json!({"all": true, "unattended": true}), "unattended"),
        (json!({"points": ["latest~x"]}), "~x"),
        (json!({"keep": {"within": "7 days"}}), "7 days"),
        (
            json!({"keep": {"last": 1}, "zone": "Europe/Nowhere"}),
            "Nowhere",
        ),
    ] {
        for dry_run in [true, false] {
            let mut request = request.clone();
            request["dry_run"] = dry_run.into();
            let refused = client.forget_by(&vm(), &forget(&request)).unwrap_err();
            assert_eq!(
                refused.kind(),
                ErrorKind::InvalidInput,
                "{request}: {refused}"
            );
            assert!(refused.report().contains(what), "{request}: {refused}");
        }
    }
    let missing = client.forget_by(&vm(), &forget(&json!({"points": ["p9"]})));
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    let nobody = VmName::new("nobody").unwrap();
    let missing = client.forget_by(&nobody, &forget(&json!({"all": true})));
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(serde_json::from_value::<ForgetRequest>(json!({"everything": true})).is_err());
    assert_eq!(names(&place), ["p0"]);
    daemon.stop();
}

/// The way to one registered repository, which nothing reaches.
struct Only(Registered);

impl Elsewhere for Only {
    fn find(&self, name: &RepositoryName) -> Result<Destination, Error> {
        match self.0.name.same_as(name) {
            true => Ok(Destination::Registered(self.0.clone())),
            false => Err(Error::not_found("no repository has that name")),
        }
    }

    fn check_receives(&self, _: &Repository, _: &Caller, _: &VmName) -> Result<(), Error> {
        Err(Error::invalid("nothing is served here"))
    }

    fn writer(
        &self,
        _: &Arc<Repository>,
        _: &Caller,
        _: &Monitor,
    ) -> Result<Box<dyn Service>, Error> {
        Err(Error::invalid("nothing is reached"))
    }
}

#[test]
fn who_may_only_read_gets_a_plan_and_nothing_else() {
    let place = with_points(1);
    let repository = Arc::new(Repository::open(&place.repo()).unwrap());
    let owner = Owner::open(repository, Arc::new(SystemClock), "test").unwrap();
    let engine = Engine::new(Arc::new(owner), Pool::new(PoolLimits::default()));
    let served = OwnedRepository::new(Registry::empty(engine), Vec::new());
    let member = served.of_caller(Caller::user(4_000_000_000));
    let request = |dry_run| ForgetRequest {
        keep: Some(Keeping {
            last: 1,
            ..Keeping::default()
        }),
        dry_run,
        ..ForgetRequest::default()
    };
    assert_eq!(
        member
            .forget_by(&vm(), &request(true))
            .unwrap()
            .points
            .len(),
        1
    );
    let denied = |error: Error| assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    denied(member.forget_by(&vm(), &request(false)).unwrap_err());
    denied(member.start_verify(&verify(&json!({}))).unwrap_err());
    denied(member.copy(&copy(&json!({}))).unwrap_err());
    denied(member.copy(&copy(&json!({"dry_run": true}))).unwrap_err());
    let stranger = served.of_caller(Caller::Certified(["x".to_owned()].into()));
    let hidden = stranger.start_verify(&verify(&json!({}))).unwrap_err();
    assert_eq!(hidden.kind(), ErrorKind::NotFound);

    denied(member.check_receives(&vm()).unwrap_err());

    // Another repository takes the right to administer this one, and does not exist for others.
    let manager = served.of_caller(Caller::Mount { allow_forget: true });
    place.ok(&["init", "b"]);
    let b = Repository::open(&place.path("b")).unwrap();
    let entry = Registered {
        name: "b".parse().unwrap(),
        id: b.format().repository_id,
        path: place.path("b"),
        media: None,
        offsite: false,
        file: place.path("repositories.toml"),
    };
    let unknown = manager.copy(&copy(&json!({}))).unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound, "no way to others");
    served.set_elsewhere(Arc::new(Only(entry)));
    let to_b = manager.copy(&copy(&json!({}))).unwrap_err();
    let to_c = manager.copy(&copy(&json!({"to": "c"}))).unwrap_err();
    assert_eq!(to_b.report().replace(" b", " c"), to_c.report());
    assert_eq!(to_b.kind(), ErrorKind::NotFound);

    // Who may stop it is who may start it.
    let own = served.of_caller(Caller::Owner);
    let task = own
        .start_verify(&verify(&json!({"limit_bytes": SLOW})))
        .unwrap();
    denied(member.cancel(task.id).unwrap_err());
    manager.cancel(task.id).unwrap();
    assert!(served.works().wait(CANCELLED_WITHIN));
}
