//! Each operation of the service, once in the process that holds the lock and once through a daemon: the answers and the problems are the
//! same, field by field.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use restorefs::access::{Caller, Door, LiveAccess, Origin};
use restorefs::block::page::PageBudget;
use restorefs::block::piece::CopySource;
use restorefs::block::{MemoryDisk, WriteAt};
use restorefs::chain::{Pool, PoolLimits};
use restorefs::clock::{Clock, SystemClock};
use restorefs::control::Client;
use restorefs::error::{Error, ErrorKind, Problem};
use restorefs::ingest::{Engine, Registry};
use restorefs::jobs::merge::{MergeOptions, merge_vm};
use restorefs::jobs::verify::{Choice, Run};
use restorefs::repo::checks::CheckNotes;
use restorefs::repo::policy::PolicyChange;
use restorefs::repo::put_back::PutBack;
use restorefs::repo::replace::Replacement;
use restorefs::repo::selector::Which;
use restorefs::repo::sidecar::policy::Policy;
use restorefs::repo::sidecar::policy_run::Runner;
use restorefs::repo::{Job, JobResult, LabelChange, Owner, Repository, Slot};
use restorefs::service::{
    BeginRequest, CommitRequest, DiskRequest, OwnedRepository, Service, read_attached,
};
use restorefs::task::{Monitor, Pace, TaskDisk, TaskKind, TaskRequest, TaskState, TaskSubject};
use restorefs::types::{DiskName, JobId, LayerId, PointName, PolicyName, SessionRef, VmName};

use crate::house::{House, nbd};

/// Bytes of each disk.
const DISK_BYTES: u64 = 1 << 20;

/// What was answered, in order.
struct Transcript {
    /// What is different in each repository, and what it is called here.
    own: Vec<(String, &'static str)>,
    steps: Vec<(&'static str, Value)>,
}

/// Fields that are different each time.
const VARIABLE: [&str; 16] = [
    "began_at",
    "captured_at",
    "committed_at",
    "content_root",
    "ended_at",
    // The daemon looks for volumes in the background: a state more.
    "entries",
    "freed_bytes",
    "id",
    "idle_seconds",
    "layer",
    "layer_id",
    "nbd_targets_string",
    "point_blake3",
    "point_id",
    "uri",
    "session_id",
];

impl Transcript {
    fn new(repository: &Path) -> Self {
        Self {
            own: vec![(repository.display().to_string(), "REPOSITORY")],
            steps: Vec::new(),
        }
    }

    /// The value without what differs between any two runs.
    fn plain(&self, value: Value) -> Value {
        match value {
            Value::String(text) => {
                let replaced = self
                    .own
                    .iter()
                    .fold(text, |text, (own, name)| text.replace(own, name));
                Value::String(replaced)
            }
            Value::Array(all) => all.into_iter().map(|one| self.plain(one)).collect(),
            Value::Object(fields) => {
                let plain = fields.into_iter().map(|(name, value)| {
                    let is_variable = VARIABLE.contains(&name.as_str()) && !value.is_null();
                    let value = if is_variable {
                        Value::from("*")
                    } else {
                        self.plain(value)
                    };
                    (name, value)
                });
                Value::Object(plain.collect::<Map<_, _>>())
            }
            other => other,
        }
    }

    fn note<T: Serialize>(&mut self, what: &'static str, answer: &Result<T, Error>) {
        let value = match answer {
            Ok(value) => serde_json::json!({"ok": value}),
            Err(error) => serde_json::json!({"problem": Problem::from(error)}),
        };
        let value = self.plain(value);
        self.steps.push((what, value));
    }
}

fn begin(session: &str) -> BeginRequest {
    let mut request = BeginRequest::new(VmName::new("vm01").unwrap());
    request.session = Some(PointName::new(session).unwrap());
    request.disks = ["vda", "vdb"]
        .map(|name| DiskRequest {
            name: DiskName::new(name).unwrap(),
            source_bytes: Some(DISK_BYTES),
            key: None,
            full: false,
        })
        .into();
    request
}

fn session(name: &str) -> SessionRef {
    SessionRef {
        vm: VmName::new("vm01").unwrap(),
        session: PointName::new(name).unwrap(),
    }
}

fn named(point: &str) -> CommitRequest {
    CommitRequest {
        point: Some(PointName::new(point).unwrap()),
        ..CommitRequest::default()
    }
}

/// Begins, fills and commits.
fn back_up(log: &mut Transcript, service: &dyn Service, point: &str, seed: u8) {
    let begun = service.begin(&begin(point));
    log.note("begin", &begun);
    for disk in begun.unwrap().disk_results {
        let target = service.disk_target(&session(point), &disk).unwrap();
        let source = MemoryDisk::new();
        source.set_size(DISK_BYTES).unwrap();
        source.write_at(65_536, &[seed; 65_536]).unwrap();
        log.note(
            "fill",
            &target.fill(CopySource::whole(&source), &Monitor::default()),
        );
    }
    log.note("commit", &service.commit(&session(point), &named(point)));
}

/// Every operation, with answers and with problems.
fn everything(log: &mut Transcript, service: &dyn Service, dir: &Path, repository: &Path) {
    back_up(log, service, "one", 1);
    back_up(log, service, "two", 2);
    let vm = VmName::new("vm01").unwrap();
    log.note("begin", &service.begin(&begin("three")));
    log.note(
        "begin: the VM has a session",
        &service.begin(&begin("four")),
    );
    log.note("sessions", &service.sessions());
    log.note(
        "commit: not finished",
        &service.commit(&session("three"), &named("three")),
    );

    std::fs::write(dir.join("small"), "<domain/>").unwrap();
    let large = File::create(dir.join("large")).unwrap();
    large.set_len((16 << 20) + 1).unwrap();
    let attach = |session: &SessionRef, name: &str, file: &Path| {
        let content = read_attached(&File::open(file).unwrap())?;
        service.attach(session, name, &content)
    };
    log.note(
        "attach",
        &attach(&session("three"), "domain.xml", &dir.join("small")),
    );
    log.note(
        "attach: a name",
        &attach(&session("three"), "../x", &dir.join("small")),
    );
    log.note(
        "attach: too large",
        &attach(&session("three"), "x", &dir.join("large")),
    );
    log.note("attach: a directory", &attach(&session("three"), "x", dir));
    log.note(
        "attach: no session",
        &attach(&session("none"), "x", &dir.join("small")),
    );

    let tasks = service.tasks().unwrap();
    let open = tasks.iter().find(|task| task.state == TaskState::Running);
    let id = open.unwrap().id;
    log.note("cancel", &service.cancel(id));
    // The history keeps the id that the task had from its beginning.
    let mut kept = None;
    let history = Repository::open(repository).unwrap();
    let see = |job: Job| {
        kept.get_or_insert(job);
        ControlFlow::Break(())
    };
    history.jobs(see).unwrap();
    assert_eq!(
        kept.map(|job| (job.job_id, job.result)),
        Some((id, JobResult::Aborted))
    );
    log.note(
        "cancel: nothing",
        &service.cancel(JobId::from_bytes([7; 16])),
    );
    log.note("abort: it is gone", &service.abort(&session("three"), None));
    log.note("begin", &service.begin(&begin("five")));
    log.note("abort", &service.abort(&session("five"), Some("it broke")));

    let which = |point: &str| Which::Named(PointName::new(point).unwrap());
    log.note("hold", &service.hold(&vm, &which("two"), "a test"));
    log.note("hold: nothing", &service.hold(&vm, &which("six"), "a test"));
    let tags = |set: &[(&str, &str)], remove: &[&str]| LabelChange {
        set: set
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        remove: remove.iter().map(|key| (*key).to_owned()).collect(),
        kept: Some(true),
    };
    let mut label = |what, point: &str, change: &LabelChange| {
        log.note(what, &service.label(&vm, &which(point), change));
    };
    label("label", "two", &tags(&[("release", "1.2"), ("b", "")], &[]));
    label("label", "two", &tags(&[("release", "1.3")], &["b"]));
    label("label: no such tag", "two", &tags(&[("c", "d")], &["b"]));
    label("label: a key", "two", &tags(&[("a=b", "c")], &[]));
    label("label: no point", "six", &tags(&[], &[]));
    verified(log, service, repository, &vm);
    let points = ["one", "two", "six"].map(|name| PointName::new(name).unwrap());
    log.note("forget", &service.forget(&vm, &points, false));
    log.note(
        "forget: all are kept",
        &service.forget(&vm, &points[1..2], true),
    );
    log.note("forget: nothing", &service.forget(&vm, &[], true));
    let retained = Repository::open(repository).unwrap().retained(&vm).unwrap();
    assert_eq!(retained.unwrap().kept.len(), 1);
    let last = service.tasks().unwrap().into_iter();
    let ended = last.filter(|task| task.ended_at.is_some()).take(2);
    let states: Vec<TaskState> = ended.map(|task| task.state).collect();
    assert_eq!(states, [TaskState::Failed, TaskState::Completed]);
    // A merge is built here, and the owner swaps it in.
    let options = MergeOptions {
        compact: true,
        low_water_bytes: 0,
        budget: PageBudget::new(1 << 20),
        pace: Pace::new(None),
    };
    let opened = Arc::new(Repository::open(repository).unwrap());
    let swap = |replacement: &Replacement| service.replace(replacement);
    let merged = merge_vm(
        &opened,
        &vm,
        &options,
        &swap,
        &|_, _| Ok(Monitor::default()),
    );
    log.note("replace", &merged);
    let late = |vm: &VmName| Replacement {
        vm: vm.clone(),
        interval: vec![(
            Slot::parse("vda-20260101T000000Z-000000").unwrap(),
            LayerId::from_bytes([7; 16]),
        )],
        rest: Vec::new(),
        below: None,
        layer: LayerId::from_bytes([8; 16]),
    };
    log.note("replace: too late", &service.replace(&late(&vm)));
    let other = VmName::new("other").unwrap();
    log.note("replace: no VM", &service.replace(&late(&other)));
    log.note("forget: no VM", &service.forget(&other, &points, false));
    log.note("forget: no VM, nothing", &service.forget(&other, &[], true));
    announced(log, service, &vm, &other);
    life(log, service, repository, &vm);
    policies(log, service, &vm);
    log.note("empty_trash", &service.empty_trash());
    log.note(
        "note_failure",
        &service.note_failure(TaskKind::Forget, Some(&vm), "no source"),
    );
    log.note("rebuild_catalog", &service.rebuild_catalog());
    log.note("hold_still", &service.hold_still("a test"));
    log.note("hold_still", &service.hold_still("a test"));
    log.note("forget: held", &service.forget(&vm, &points, false));
    log.note("replace: held", &service.replace(&late(&vm)));
    log.note("empty_trash: held", &service.empty_trash());
    let merge = TaskSubject {
        kind: TaskKind::Merge,
        vm: Some(vm.clone()),
        session: None,
        point: None,
    };
    let request = TaskRequest {
        subject: merge,
        began_at: None,
    };
    log.note("begin_task: held", &service.begin_task(&request));
    log.note("tasks", &service.tasks());
    log.note("login: no pages", &service.login());
    // Where a daemon listens is its own.
    log.note(
        "status",
        &service
            .status()
            .map(|status| (status.repository, status.version)),
    );
}

/// A VM gets another name, a forgotten point comes back, and a lost sidecar is put back.
fn life(log: &mut Transcript, service: &dyn Service, repository: &Path, vm: &VmName) {
    let (other, one) = (
        VmName::new("other").unwrap(),
        PointName::new("one").unwrap(),
    );
    log.note("undelete", &service.undelete(vm, &one));
    log.note("undelete: it is there", &service.undelete(vm, &one));
    log.note("undelete: no VM", &service.undelete(&other, &one));
    // The test holds a use of a point.
    log.note("rename_vm: in use", &service.rename_vm(vm, &other));
    log.note("rename_vm: no VM", &service.rename_vm(&other, vm));
    log.note("remove_vm: it has points", &service.remove_vm(vm));
    let sidecar = repository.join(format!("vms/{vm}/points/one/point.json"));
    let text = std::fs::read_to_string(&sidecar).unwrap();
    let put_back = |text: &str| PutBack::Sidecar {
        vm: vm.clone(),
        point: one.clone(),
        text: text.to_owned(),
    };
    log.note("put_back: it is whole", &service.put_back(&put_back(&text)));
    std::fs::write(&sidecar, "{}").unwrap();
    // The message has the hash of a text with random ids.
    let refused = service.put_back(&put_back("{}")).map_err(|e| e.kind());
    assert_eq!(refused, Err(ErrorKind::Corrupt));
    log.note("put_back", &service.put_back(&put_back(&text)));
    assert_eq!(std::fs::read_to_string(&sidecar).unwrap(), text);
    let empty = VmName::new("empty").unwrap();
    let mut begun = begin("nightly");
    begun.vm = empty.clone();
    service.begin(&begun).unwrap();
    let session = SessionRef {
        vm: empty.clone(),
        session: PointName::new("nightly").unwrap(),
    };
    log.note("remove_vm: a session", &service.remove_vm(&empty));
    service.abort(&session, None).unwrap();
    log.note("rename_vm", &service.rename_vm(&empty, &other));
    log.note("remove_vm", &service.remove_vm(&other));
}

/// Results of verifying, which the caller has found.
fn verified(log: &mut Transcript, service: &dyn Service, repository: &Path, vm: &VmName) {
    let opened = Arc::new(Repository::open(repository).unwrap());
    let monitor = Monitor::default();
    let choice = Choice {
        data: true,
        ..Choice::default()
    };
    let vms = std::slice::from_ref(vm);
    let mut plans = choice.plan(&opened, vms, &monitor).unwrap();
    let keep = |vm: &VmName, notes: &CheckNotes| service.note_checks(vm, notes);
    let run = Run {
        repository: &opened,
        pace: &Pace::new(None),
        monitor: &monitor,
        watch: &|_| Monitor::default(),
        attached: true,
        keep: Some(&keep),
        now: "2026-11-30T00:00:00Z".parse().unwrap(),
    };
    let report = run.verify(&plans.remove(0).1.unwrap()).unwrap();
    assert!(!report.is_damaged() && report.layers > 0, "{report:?}");
    let index = opened.index(vm).unwrap();
    let checks = index
        .points
        .iter()
        .map(|point| (point.check, point.checked_at));
    let checks: Vec<_> = checks.collect();
    assert!(checks.iter().all(|(check, _)| check.is_some()));
    log.note("note_checks", &restorefs::error::Result::Ok(checks));
    let other = VmName::new("other").unwrap();
    let nothing = CheckNotes::default();
    log.note("note_checks: no VM", &service.note_checks(&other, &nothing));
}

/// Tasks whose work the caller does itself.
fn announced(log: &mut Transcript, service: &dyn Service, vm: &VmName, other: &VmName) {
    let request = |kind, vm: Option<&VmName>| TaskRequest {
        subject: TaskSubject {
            kind,
            vm: vm.cloned(),
            session: None,
            point: None,
        },
        began_at: None,
    };
    let disks = |done_bytes| {
        [TaskDisk {
            name: DiskName::new("vda").unwrap(),
            done_bytes,
            total_bytes: 10,
        }]
    };
    let of = |id: JobId| {
        let tasks = service.tasks().unwrap();
        tasks.into_iter().find(|task| task.id == id).unwrap()
    };
    let merge = service.begin_task(&request(TaskKind::Merge, Some(vm)));
    log.note("begin_task", &merge.as_ref().map(|_| ()).map_err(clone));
    let merge = merge.unwrap();
    log.own.push((merge.to_string(), "TASK"));
    assert_eq!(of(merge).state, TaskState::Running);
    log.note("tell_task", &service.tell_task(merge, &disks(3)));
    assert_eq!(of(merge).disks, disks(3));
    assert!(of(merge).cancellable);
    log.note("cancel", &service.cancel(merge));
    log.note("tell_task: to stop", &service.tell_task(merge, &disks(4)));
    let many = vec![disks(1)[0].clone(); 257];
    log.note("tell_task: many disks", &service.tell_task(merge, &many));
    log.note(
        "end_task: goes on",
        &service.end_task(merge, TaskState::Running, None),
    );
    log.note(
        "end_task",
        &service.end_task(merge, TaskState::Cancelled, None),
    );
    log.note(
        "end_task: it has ended",
        &service.end_task(merge, TaskState::Failed, None),
    );
    log.note("tell_task: it has ended", &service.tell_task(merge, &[]));
    let verify = service
        .begin_task(&request(TaskKind::Verify, None))
        .unwrap();
    let ended = service.end_task(verify, TaskState::Failed, Some("rot"));
    log.note("end_task", &ended);
    assert_eq!(of(verify).reason.as_deref(), Some("rot"));
    for kind in [TaskKind::Backup, TaskKind::Forget, TaskKind::EmptyTrash] {
        let refused = service.begin_task(&request(kind, Some(other)));
        log.note("begin_task: the owner's", &refused);
    }
}

/// Policies are written, assigned, noted and removed; one that overlaps or contradicts itself is refused.
fn policies(log: &mut Transcript, service: &dyn Service, vm: &VmName) {
    let policy = |name: &str, words: &Value| -> Policy {
        let mut all = serde_json::json!({
            "schema": 1, "name": name, "created_at": "2026-01-01T00:00:00Z", "vms": ["vm*"],
        });
        for (name, value) in words.as_object().unwrap() {
            all[name] = value.clone();
        }
        serde_json::from_value(all).unwrap()
    };
    let put = |name: &str, words: Value, is_new: bool| {
        let policy = Box::new(policy(name, &words));
        service.change_policy(&PolicyChange::Put { policy, is_new })
    };
    let rpo = || serde_json::json!({"rpo_seconds": 3_600});
    log.note(
        "change_policy: none to replace",
        &put("nightly", rpo(), false),
    );
    log.note("change_policy", &put("nightly", rpo(), true));
    log.note("change_policy: twice", &put("NIGHTLY", rpo(), true));
    log.note("change_policy: again", &put("NIGHTLY", rpo(), false));
    log.note("change_policy: overlaps", &put("other", rpo(), true));
    let never = serde_json::json!({"schedule": "daily 25:00"});
    log.note("change_policy: never", &put("nightly", never, false));
    log.note(
        "change_policy: reserved",
        &put(
            "Runs",
            serde_json::json!({"vms": ["x"], "rpo_seconds": 1}),
            true,
        ),
    );
    let name: PolicyName = "nightly".parse().unwrap();
    let assign = |vm: &str, policy: Option<&PolicyName>| {
        service.change_policy(&PolicyChange::Assign {
            vm: vm.parse().unwrap(),
            policy: policy.cloned(),
        })
    };
    log.note("change_policy: assigned", &assign(vm.as_str(), Some(&name)));
    log.note("change_policy: no VM", &assign("nobody", Some(&name)));
    log.note(
        "change_policy: no policy",
        &assign(vm.as_str(), Some(&"gold".parse().unwrap())),
    );
    log.note("change_policy: taken away", &assign(vm.as_str(), None));
    let run = serde_json::json!([{
        "policy": "nightly", "vm": vm, "action": "backup", "attempted_at": "2026-01-01T02:00:00Z", "failure": "no",
    }]);
    let runs = serde_json::from_value(run).unwrap();
    log.note(
        "change_policy: noted",
        &service.change_policy(&PolicyChange::Note { runs }),
    );
    let runner = Some(Runner::here());
    log.note(
        "change_policy: here",
        &service.change_policy(&PolicyChange::Runner { runner }),
    );
    for _ in 0..2 {
        let none = PolicyChange::Runner { runner: None };
        log.note("change_policy: anywhere", &service.change_policy(&none));
    }
    let remove = || service.change_policy(&PolicyChange::Remove { name: name.clone() });
    log.note("change_policy: removed", &remove());
    log.note("change_policy: is gone", &remove());
}

fn clone(error: &Error) -> Error {
    Error::from(Problem::from(error))
}

fn local(dir: &Path) -> Vec<(&'static str, Value)> {
    let path = dir.join("repository");
    let repository = Arc::new(Repository::init(&path, SystemClock.now()).unwrap());
    let owner = Owner::open(repository, Arc::new(SystemClock), "test").unwrap();
    let engine = Engine::new(Arc::new(owner), Pool::new(PoolLimits::default()));
    let served = OwnedRepository::new(Registry::empty(engine), Vec::new(), LiveAccess::none());
    let service = served.of_caller(Caller::Owner, Origin::of(Door::Command));
    let mut log = Transcript::new(&path);
    everything(&mut log, &service, dir, &path);
    log.steps
}

/// A login is the daemon's alone: nothing else has pages.
#[test]
fn a_login_is_made_by_a_daemon_with_pages() {
    let house = House::new();
    house.configure("[http]\nlisten = \"127.0.0.1:0\"\n", &nbd(&house, ""));
    let daemon = house.start();
    let repository = Repository::open(&house.place.repo()).unwrap();
    let service = Client::connect(&repository).unwrap().unwrap();
    let [one, two] = [(), ()].map(|()| service.login().unwrap());
    for login in [&one, &two] {
        let end = format!("/login#{}", login.code);
        assert!(
            login.url.starts_with("http://127.0.0.1:") && login.url.ends_with(&end),
            "{}",
            login.url
        );
        assert_eq!((login.code.len(), login.expires_seconds), (32, 300));
    }
    assert_ne!(one.code, two.code);
    daemon.stop();
}

#[test]
fn every_operation_answers_the_same_here_and_through_a_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let here = local(dir.path());

    let house = House::new();
    house.configure("", &nbd(&house, ""));
    let daemon = house.start();
    let repository = Repository::open(&house.place.repo()).unwrap();
    let service = Client::connect(&repository).unwrap().unwrap();
    let mut log = Transcript::new(&house.place.repo());
    everything(&mut log, &service, dir.path(), &house.place.repo());
    assert_eq!(here.len(), log.steps.len());
    for ((what, here), (_, there)) in here.iter().zip(&log.steps) {
        assert_eq!(here, there, "{what}");
    }
    let is_refused = |(what, answer): &(&str, Value)| {
        what.ends_with(": held") && answer["problem"]["kind"] == "locked"
    };
    assert_eq!(here.iter().filter(|step| is_refused(step)).count(), 4);
    // It says something: no operation answers nothing but problems.
    for operation in [
        "begin",
        "fill",
        "commit",
        "sessions",
        "attach",
        "cancel",
        "abort",
        "hold",
        "hold_still",
        "label",
        "note_checks",
        "change_policy",
        "change_policy: noted",
        "change_policy: removed",
        "forget",
        "replace",
        "undelete",
        "rename_vm",
        "remove_vm",
        "put_back",
        "begin_task",
        "tell_task",
        "end_task",
        "empty_trash",
        "note_failure",
        "rebuild_catalog",
        "tasks",
        "status",
    ] {
        let answered = here
            .iter()
            .any(|(what, value)| *what == operation && value.get("ok").is_some());
        assert!(answered, "{operation}");
    }
    // The use that the connection held has ended with it.
    drop(service);
    let service = Client::connect(&repository).unwrap().unwrap();
    let two = [PointName::new("two").unwrap()];
    let vm = VmName::new("vm01").unwrap();
    crate::kit::wait::eventually("the use ends", || {
        service
            .forget(&vm, &two, false)
            .is_ok_and(|answer| !answer.forgotten.is_empty())
    });
    daemon.stop();
}
