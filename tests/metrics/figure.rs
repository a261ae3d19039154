//! Each figure of a repository beside what the files say.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use restorefs::block::piece::CopySource;
use restorefs::block::{MemoryDisk, WriteAt};
use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest};
use restorefs::service::Service;
use restorefs::service::exposition::{FAMILIES, LookLimits};
use restorefs::task::Monitor;
use restorefs::types::{DiskName, PointName, SessionRef, VmName};

use crate::kit::place::Place;
use crate::kit::prometheus::Samples;
use crate::world::{EAGER, NAME, REPOSITORY, World, back_up, furnished, layers, of_vm};

const DAY: i64 = 86_400;

/// Bytes that the files of a VM's layers take, as stat(2) has them.
fn taken(place: &Place, vm: &str) -> f64 {
    let files = layers(place, vm);
    let blocks = files.iter().map(|path| path.metadata().unwrap().blocks());
    (blocks.sum::<u64>() * 512) as f64
}

/// A time in the sidecar of a point.
fn captured(place: &Place, vm: &str, point: &str) -> f64 {
    let path = format!("vms/{vm}/points/{point}/point.json");
    let text = std::fs::read(place.repo().join(path)).unwrap();
    let sidecar: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let at: jiff::Timestamp = sidecar["captured_at"].as_str().unwrap().parse().unwrap();
    at.as_second() as f64
}

/// The earliest time at which a point of the VM was verified, by its index.
fn oldest_check(place: &Place, vm: &str) -> f64 {
    let path = place.repo().join(format!("vms/{vm}/index.json"));
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let points = index["points"].as_array().unwrap().iter();
    let times = points.filter_map(|point| point["checked_at"].as_str());
    let times = times.map(|at| at.parse::<jiff::Timestamp>().unwrap().as_second());
    times.min().unwrap() as f64
}

#[track_caller]
fn check(samples: &Samples, labels: &[(&str, &str)], expected: &[(&str, f64)]) {
    for (name, value) in expected {
        let name = format!("restorefs_{name}");
        assert_eq!(
            samples.find(&name, labels),
            Some(*value),
            "{name} {labels:?}"
        );
    }
}

#[test]
fn every_figure_is_what_the_files_say() {
    let place = furnished();
    // In two days the copies are late, and the last point of web01 is too old.
    let world = World::of(&place, 2 * DAY);
    let samples = world.samples();
    let oldest = oldest_check(&place, "web01").min(oldest_check(&place, "db01"));
    let vms = ["web01", "db01", "old01"];
    check(
        &samples,
        &REPOSITORY,
        &[
            ("repository_up", 1.0),
            ("repository_vms", 3.0),
            ("repository_points", 7.0),
            (
                "repository_stored_bytes",
                vms.iter().map(|vm| taken(&place, vm)).sum(),
            ),
            ("repository_hidden_bytes", 0.0),
            ("repository_chain_depth_layers", 4.0),
            ("repository_chain_depth_max_layers", 500.0),
            ("repository_oldest_verification_timestamp_seconds", oldest),
            ("repository_unverified_points", 2.0),
            ("repository_damaged_points", 1.0),
            ("repository_damaged_vms", 1.0),
            ("repository_copies_due", 4.0),
            ("repository_vms_with_unmet_policy", 1.0),
            ("repository_unusable_policies", 0.0),
            ("repository_trash_bytes", 0.0),
            ("repository_held", 0.0),
            ("repository_sessions_open", 0.0),
            ("repository_vms_left_out", 0.0),
        ],
    );
    check(
        &samples,
        &of_vm("web01"),
        &[
            (
                "vm_last_success_timestamp_seconds",
                captured(&place, "web01", "p3"),
            ),
            ("vm_points", 4.0),
            ("vm_stored_bytes", taken(&place, "web01")),
            ("vm_chain_depth_layers", 4.0),
            (
                "vm_oldest_verification_timestamp_seconds",
                oldest_check(&place, "web01"),
            ),
            ("vm_unverified_points", 1.0),
            ("vm_damaged", 0.0),
            ("vm_damaged_points", 0.0),
            ("vm_copies_due", 4.0),
            ("vm_policy_met", 0.0),
        ],
    );
    check(
        &samples,
        &of_vm("db01"),
        &[
            (
                "vm_last_success_timestamp_seconds",
                captured(&place, "db01", "p1"),
            ),
            ("vm_points", 2.0),
            ("vm_stored_bytes", taken(&place, "db01")),
            ("vm_chain_depth_layers", 2.0),
            ("vm_unverified_points", 0.0),
            ("vm_damaged", 1.0),
            ("vm_damaged_points", 1.0),
            ("vm_copies_due", 0.0),
            ("vm_policy_met", 1.0),
        ],
    );
    let old = of_vm("old01");
    check(&samples, &old, &[("vm_points", 1.0), ("vm_damaged", 0.0)]);
    for absent in [
        "vm_copies_due",
        "vm_policy_met",
        "vm_oldest_verification_timestamp_seconds",
    ] {
        assert_eq!(
            samples.find(&format!("restorefs_{absent}"), &old),
            None,
            "{absent}"
        );
    }
    let now = restorefs::clock::Clock::now(&*world.clock).as_second() as f64;
    let seen = "restorefs_repository_seen_timestamp_seconds";
    assert_eq!(samples.value(seen, &REPOSITORY), now);
    let free = samples.value("restorefs_repository_free_bytes", &REPOSITORY);
    let size = samples.value("restorefs_repository_filesystem_size_bytes", &REPOSITORY);
    let full_in = samples.value("restorefs_repository_full_in_seconds", &REPOSITORY);
    assert!(free > 0.0 && free <= size, "{free} of {size}");
    assert_eq!(full_in % DAY as f64, 0.0);
    // A figure that no test asks for is a figure that may be wrong.
    let names = samples.names();
    for family in FAMILIES {
        assert!(names.contains(family.name), "{} has no sample", family.name);
    }
}

fn begin(vm: &str) -> BeginRequest {
    let mut request = BeginRequest::new(VmName::new(vm).unwrap());
    request.session = Some(PointName::new("nightly").unwrap());
    request.disks = vec![DiskRequest {
        name: DiskName::new("vda").unwrap(),
        source_bytes: Some(1 << 20),
        key: None,
        full: false,
    }];
    request
}

/// Holds, sessions, jobs, commits and bytes, which this process alone changes.
#[test]
fn what_happens_in_the_owner_is_seen_at_once() {
    let place = Place::new();
    back_up(&place, "web01", 0, 1);
    let world = World::of(&place, 0);
    let service = world.service();
    let before = world.samples();
    let begun = service.begin(&begin("web01")).unwrap();
    let session = SessionRef {
        vm: VmName::new("web01").unwrap(),
        session: PointName::new("nightly").unwrap(),
    };
    let refused = service.commit(&session, &CommitRequest::default());
    assert!(refused.is_err());
    let holder = world.service();
    holder.hold_still("a test").unwrap();
    // What is in memory does not wait for a look.
    let lazy = world.text(None, &LookLimits::default());
    let during = Samples::parse(&lazy);
    let backups = [("repository", NAME), ("kind", "backup")];
    let merges = [("repository", NAME), ("kind", "merge")];
    let running = "restorefs_repository_jobs_running";
    assert_eq!(during.value(running, &backups), 1.0);
    assert_eq!(during.value(running, &merges), 0.0);
    check(
        &during,
        &REPOSITORY,
        &[("repository_held", 1.0), ("repository_sessions_open", 1.0)],
    );
    drop(holder);
    let source = MemoryDisk::new();
    source.set_size(1 << 20).unwrap();
    source.write_at(65_536, &[3; 3 * 65_536]).unwrap();
    let target = service
        .disk_target(&session, &begun.disk_results[0])
        .unwrap();
    target
        .fill(CopySource::whole(&source), &Monitor::default())
        .unwrap();
    service.commit(&session, &CommitRequest::default()).unwrap();
    let after = world.samples();
    let rise = |name: &str, labels: &[(&str, &str)]| {
        after.value(name, labels) - before.value(name, labels)
    };
    let result = |result| rise("restorefs_commits_total", &[("result", result)]);
    assert_eq!(
        ["committed", "refused", "failed"].map(result),
        [1.0, 1.0, 0.0]
    );
    assert_eq!(rise("restorefs_commit_duration_seconds_count", &[]), 2.0);
    let written = rise("restorefs_ingest_written_bytes_total", &[]);
    assert_eq!(
        written,
        3.0 * 65_536.0,
        "the holes of the source are not written"
    );
    assert!(rise("restorefs_ingest_write_duration_seconds_count", &[]) >= 1.0);
    let job = [("kind", "backup"), ("result", "committed")];
    assert_eq!(rise("restorefs_jobs_total", &job), 1.0);
    check(
        &after,
        &REPOSITORY,
        &[
            ("repository_held", 0.0),
            ("repository_sessions_open", 0.0),
            ("repository_points", 2.0),
        ],
    );
    assert_eq!(after.value(running, &backups), 0.0);
}

#[test]
fn only_vms_that_the_caller_may_name_have_series_and_the_sums_are_over_all() {
    let place = furnished();
    let world = World::of(&place, 0);
    let text = world.text(Some(&["web01"]), &EAGER);
    assert!(!text.contains("db01") && !text.contains("old01"), "{text}");
    let samples = Samples::parse(&text);
    assert_eq!(samples.value("restorefs_vm_points", &of_vm("web01")), 4.0);
    check(
        &samples,
        &REPOSITORY,
        &[
            ("repository_points", 7.0),
            ("repository_damaged_vms", 1.0),
            ("repository_vms_left_out", 0.0),
        ],
    );
    // Of the two that this caller may name, one fits.
    let limits = LookLimits { vms: 1, ..EAGER };
    let samples = Samples::parse(&world.text(Some(&["web01", "db01"]), &limits));
    check(&samples, &REPOSITORY, &[("repository_vms_left_out", 1.0)]);
    assert_eq!(samples.value("restorefs_vm_points", &of_vm("db01")), 2.0);
    assert_eq!(samples.find("restorefs_vm_points", &of_vm("web01")), None);
}

#[test]
fn a_vm_that_cannot_be_read_is_damage_and_no_error() {
    let place = Place::new();
    for vm in ["web01", "db01", "db02", "db03"] {
        back_up(&place, vm, 0, 1);
    }
    let world = World::of(&place, 0);
    let path = |name: &str| place.repo().join("vms").join(name);
    std::fs::write(path("db01/vm.json"), "{").unwrap();
    // Of a later release.
    for name in ["db02/vm.json", "db03/index.json"] {
        let text = std::fs::read(path(name)).unwrap();
        let mut later: serde_json::Value = serde_json::from_slice(&text).unwrap();
        later["schema"] = 99.into();
        let later = later.to_string();
        std::fs::write(path(name), later).unwrap();
    }
    let samples = world.samples();
    check(
        &samples,
        &REPOSITORY,
        &[
            ("repository_up", 1.0),
            ("repository_vms", 4.0),
            ("repository_damaged_vms", 3.0),
        ],
    );
    let damaged = ["web01", "db01", "db02", "db03"]
        .map(|vm| samples.value("restorefs_vm_damaged", &of_vm(vm)));
    assert_eq!(damaged, [0.0, 1.0, 1.0, 1.0]);
    let points = |vm| samples.value("restorefs_vm_points", &of_vm(vm));
    assert_eq!((points("web01"), points("db01")), (1.0, 0.0));
    // The storage fails: the repository is down, and the scrape goes on.
    let vms = place.repo().join("vms");
    std::fs::rename(&vms, place.path("away")).unwrap();
    std::fs::write(&vms, "").unwrap();
    let samples = world.samples();
    std::fs::remove_file(&vms).unwrap();
    std::fs::rename(place.path("away"), &vms).unwrap();
    check(&samples, &REPOSITORY, &[("repository_up", 0.0)]);
    assert_eq!(
        samples.find("restorefs_repository_points", &REPOSITORY),
        None
    );
    assert_eq!(samples.find("restorefs_vm_points", &of_vm("web01")), None);
    check(&samples, &REPOSITORY, &[("repository_sessions_open", 0.0)]);
    let samples = world.samples();
    check(&samples, &REPOSITORY, &[("repository_up", 1.0)]);
}

/// A scrape a second by many costs one look in ten seconds, and the sizes of all files are asked for less often.
#[test]
fn a_look_serves_all_scrapes_of_the_next_seconds() {
    let place = Place::new();
    back_up(&place, "web01", 0, 1);
    let world = World::of(&place, 0);
    let limits = LookLimits::default();
    let points = |limits: &LookLimits| {
        let samples = Samples::parse(&world.text(None, limits));
        samples.value("restorefs_vm_points", &of_vm("web01"))
    };
    assert_eq!(points(&limits), 1.0);
    let index = place.repo().join("vms/web01/index.json");
    let kept = std::fs::read(&index).unwrap();
    let point = place.repo().join("vms/web01/points/p0");
    std::fs::rename(&point, place.path("p0")).unwrap();
    std::fs::remove_file(&index).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(points(&limits), 1.0));
        }
    });
    assert_eq!(points(&EAGER), 0.0);
    std::fs::rename(place.path("p0"), &point).unwrap();
    std::fs::write(&index, kept).unwrap();
    assert_eq!(points(&EAGER), 1.0);
    let stored = |limits: &LookLimits| {
        let samples = Samples::parse(&world.text(None, limits));
        samples.value("restorefs_vm_stored_bytes", &of_vm("web01"))
    };
    let before = stored(&EAGER);
    std::fs::write(place.repo().join("vms/web01/layers/more"), [1; 100_000]).unwrap();
    let looks = LookLimits {
        content_age_max: Duration::from_secs(300),
        ..EAGER
    };
    assert_eq!(stored(&looks), before);
    assert!(stored(&EAGER) >= before + 100_000.0);
}
