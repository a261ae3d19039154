//! Works of a daemon: it verifies, copies and forgets in its own process. The right values are planted damage, what was backed up, and what
//! the command line says of the same.

mod copy;
mod forget;
mod right;
mod verify;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use restorefs::control::Client;
use restorefs::repo::Repository;
use restorefs::service::Service;
use restorefs::service::work::{CopyAnswer, CopyRequest, VerifyRequest};
use restorefs::task::{TaskReport, TaskState};
use restorefs::types::{JobId, VmName};
use serde_json::{Value, json};

use crate::kit::noise::noise;
use crate::kit::place::Place;
use crate::kit::wait::eventually;

pub(crate) const CLUSTER: usize = 65_536;

/// Clusters with data on each disk.
pub(crate) const CLUSTERS: usize = 96;

/// Within which a work that is cancelled must have ended.
pub(crate) const CANCELLED_WITHIN: Duration = Duration::from_secs(2);

/// A pace at which the work on one disk takes about a minute.
pub(crate) const SLOW: u64 = 100_000;

pub(crate) fn vm() -> VmName {
    VmName::new("web01").unwrap()
}

/// A disk of 2 GiB with data here and there; returns the data.
pub(crate) fn disk(place: &Place, seed: u64) -> Vec<u8> {
    let file = std::fs::File::create(place.path("a.raw")).unwrap();
    file.set_len(2 << 30).unwrap();
    let bytes = noise(seed, CLUSTERS * CLUSTER);
    for (n, cluster) in bytes.chunks(CLUSTER).enumerate() {
        file.write_all_at(cluster, (n * 20 * CLUSTER) as u64)
            .unwrap();
    }
    bytes
}

pub(crate) fn back_up(place: &Place, point: &str, seed: u64) -> Vec<u8> {
    let bytes = disk(place, seed);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", point]);
    bytes
}

/// A place with points `p0`, `p1` and so on.
pub(crate) fn with_points(count: u64) -> Place {
    let place = Place::new();
    for n in 0..count {
        back_up(&place, &format!("p{n}"), n + 1);
    }
    place
}

pub(crate) fn client_of(repository: &Path) -> Client {
    let repository = Repository::open(repository).unwrap();
    Client::connect(&repository).unwrap().unwrap()
}

pub(crate) fn client(place: &Place) -> Client {
    client_of(&place.repo())
}

pub(crate) fn verify(more: &Value) -> VerifyRequest {
    let mut all = json!({"vm": "web01"});
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

pub(crate) fn copy(more: &Value) -> CopyRequest {
    let mut all = json!({"vm": "web01", "to": "b"});
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

pub(crate) fn begun(answer: CopyAnswer) -> TaskReport {
    match answer {
        CopyAnswer::Begun(task) => task,
        CopyAnswer::Trial(report) => panic!("a trial: {report:?}"),
    }
}

pub(crate) fn of(client: &Client, id: JobId) -> TaskReport {
    let mut tasks = client.tasks().unwrap().into_iter();
    tasks.find(|task| task.id == id).unwrap()
}

/// Waits for the end of a task.
pub(crate) fn ended(client: &Client, id: JobId) -> TaskReport {
    eventually("the task ends", || of(client, id).state.is_end());
    of(client, id)
}

/// Waits until a task has moved bytes.
pub(crate) fn moving(client: &Client, id: JobId) {
    eventually("the task moves bytes", || {
        let task = of(client, id);
        assert_eq!(task.state, TaskState::Running, "{task:?}");
        task.disks.iter().any(|disk| disk.done_bytes > 0)
    });
}

/// Cancels a task, which must end at once.
pub(crate) fn cancel(client: &Client, id: JobId) {
    let asked = Instant::now();
    client.cancel(id).unwrap();
    while !of(client, id).state.is_end() {
        assert!(asked.elapsed() < CANCELLED_WITHIN, "{:?}", asked.elapsed());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(of(client, id).state, TaskState::Cancelled);
}

/// The line of a job, of the history or while it runs.
pub(crate) fn job(place: &Place, id: JobId) -> Value {
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

/// Flips a bit of a cluster where a layer holds it.
pub(crate) fn damage(place: &Place, cluster: &[u8]) {
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
