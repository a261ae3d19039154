//! Verifying: what is damaged is found and named, with the points that it harms and no others, and what is whole stays sound.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use restorefs::block::ReadAt;
use restorefs::block::page::PageBudget;
use restorefs::chain::{Pool, PoolLimits};
use restorefs::clock::Clock;
use restorefs::error::ErrorKind;
use restorefs::ingest::{CommitRequest, Registry, Telling};
use restorefs::jobs::verify::{Choice, Keep, Run, Subset, VmReport};
use restorefs::layer::LayerDraft;
use restorefs::point::{ChainSource, ProvedDisk};
use restorefs::qcow2::{Compression, LayerOptions};
use restorefs::repo::Repository;
use restorefs::repo::chains::Chains;
use restorefs::repo::checks::CheckNotes;
use restorefs::repo::layout::VmKeys;
use restorefs::repo::lineage::Lineage;
use restorefs::repo::metadata::prove_chain;
use restorefs::repo::sidecar::index::{CheckResult, PointEntry};
use restorefs::store::{Key, PutMode, Store};
use restorefs::task::{Monitor, Pace};
use restorefs::types::{GuestCluster, LayerId, PointName, VmName};

use crate::chance::Chance;
use crate::pair::Places;
use crate::points::{CLUSTER, commit_as, content, disk, forget, merge, request, try_merge, vm};
use crate::world::World;

const CLUSTERS: usize = 24;

fn reopened(world: &World) -> Arc<Repository> {
    let (store, stage) = world.pair.sides();
    Arc::new(Repository::open_store(store, stage).unwrap())
}

/// Verifies parts of the VM; with `keep`, the owner keeps the results.
fn verify(world: &World, choice: Choice, keep: bool) -> VmReport {
    let owner = &world.engine().owner;
    let note = |vm: &VmName, notes: &CheckNotes| owner.note_checks(vm, notes);
    verify_with(world, choice, keep.then_some(&note))
}

fn verify_with(world: &World, choice: Choice, keep: Option<Keep<'_>>) -> VmReport {
    let repository = reopened(world);
    let monitor = Monitor::default();
    let mut plans = choice.plan(&repository, &[vm()], &monitor).unwrap();
    let parts = plans.remove(0).1.unwrap();
    let run = Run {
        repository: &repository,
        pace: &Pace::new(None),
        monitor: &monitor,
        watch: &|_| Monitor::default(),
        attached: true,
        keep,
        now: world.clock.now(),
    };
    run.verify(&parts).unwrap()
}

fn all() -> Choice {
    Choice {
        subset: Subset::All,
        outdated_since: None,
        data: true,
    }
}

fn share(number: u64, of: u64) -> Choice {
    Choice {
        subset: Subset::Share { number, of },
        ..all()
    }
}

/// What each point reads as, by a reader that proves nothing; the clusters that cannot be read are `None`.
fn contents(world: &World) -> BTreeMap<PointName, Vec<Option<Vec<u8>>>> {
    let repository = reopened(world);
    let index = repository.index(&vm()).unwrap();
    let points = index.points.iter().map(|entry| {
        let clusters = repository.point(&vm(), entry).and_then(|point| {
            let pool = Pool::new(PoolLimits::default());
            let source = ChainSource::new(&repository, &vm(), index.vm_id, false);
            let disk = source.open_disk(&pool, &point.disk(&disk()).unwrap().layer)?;
            let clusters = (0..disk.size_bytes() / CLUSTER as u64).map(|n| {
                let mut bytes = vec![0; CLUSTER];
                let read = disk.read_at(n * CLUSTER as u64, &mut bytes);
                read.ok().map(|()| bytes)
            });
            Ok(clusters.collect())
        });
        (entry.name.clone(), clusters.unwrap_or_default())
    });
    points.collect()
}

/// Points of a VM with all kinds of clusters, compressed and not, with a hidden layer, a merged one and an attached file.
fn history(places: Places, compression: Compression) -> World {
    let world = World::over(places, 1 << 20);
    let sessions = Registry::empty(world.engine().clone());
    let mut points: Vec<PointEntry> = Vec::new();
    let mut compressed = request(CLUSTERS);
    compressed.compression = compression;
    for n in 0..6_usize {
        let writes: Vec<(usize, Vec<u8>)> = (0..8)
            .map(|m| {
                let at = (n * 5 + m * 3) % CLUSTERS;
                (at, content((n + m) as u8, (n * 31 + m) as u8))
            })
            .collect();
        points.push(commit_as(&sessions, &world, &compressed, &writes));
        if n == 3 {
            forget(&sessions, &points[1].name);
            merge(&world, true);
        }
    }
    forget(&sessions, &points[4].name);
    let session = sessions.begin(&request(CLUSTERS), Telling::Wait).unwrap();
    session.attach("domain.xml", b"<domain/>\n").unwrap();
    session.disk(&disk()).unwrap().set_finished(true);
    world.clock.advance(60);
    let name = session.name();
    let unchanged = CommitRequest::default();
    sessions
        .commit(&vm(), &name, &unchanged, Telling::Wait)
        .unwrap();
    world
}

fn keys(store: &dyn Store, prefix: &str, suffix: &str) -> Vec<Key> {
    let prefix = Key::parse(prefix).unwrap();
    let entries = store.list(&prefix).unwrap();
    let mut keys: Vec<Key> = entries
        .into_iter()
        .filter(|entry| entry.name.ends_with(suffix))
        .map(|entry| prefix.join(&entry.name).unwrap())
        .collect();
    keys.sort();
    keys
}

/// Whether a report names a file, and the offset where the file is a layer.
fn is_named(report: &VmReport, file: &str, at: usize) -> bool {
    let name = file.rsplit('/').next().unwrap();
    let cluster = at / CLUSTER * CLUSTER;
    let damages = || report.points.iter().filter_map(|p| p.damage.as_ref());
    let by_range = damages().flat_map(|damage| &damage.ranges).any(|range| {
        let from = range.file_offset.unwrap_or(u64::MAX) as usize;
        // A compressed cluster begins anywhere, and takes one at most.
        range.layer.layer_file() == name
            && (from / CLUSTER * CLUSTER..=from + CLUSTER).contains(&cluster)
            || range.layer.layer_file() == name && (from..from + CLUSTER).contains(&at)
    });
    let faults = damages().flat_map(|damage| &damage.faults);
    by_range
        || report
            .faults
            .iter()
            .chain(faults)
            .any(|fault| fault.contains(name))
}

fn flips_are_found_with_the_points_that_they_harm(
    places: Places,
    compression: Compression,
    count: usize,
) {
    let world = history(places, compression);
    let store = world.store();
    let whole = contents(&world);
    assert!(!verify(&world, all(), false).is_damaged());
    let mut files = keys(store, "vms/web01/layers", ".qcow2");
    files.extend(keys(store, "vms/web01/layers", ".sums"));
    let index = reopened(&world).index(&vm()).unwrap();
    for point in &index.points {
        files.push(Key::parse(&format!("vms/web01/points/{}/point.json", point.name)).unwrap());
    }
    let last = &index.latest().unwrap().name;
    files.push(Key::parse(&format!("vms/web01/points/{last}/attached/domain.xml")).unwrap());
    let mut chance = Chance(0x2026_1130);
    let (mut harmful, mut harmless) = (0, 0);
    for n in 0..count {
        let file = &files[n % files.len()];
        let good = store.get(file, 1 << 30).unwrap();
        // Bytes between compressed clusters, and unused ones of tables, are zero; those of tables are proved, too.
        let is_layer = file.as_str().ends_with(".qcow2");
        let is_compressed = compression != Compression::None && is_layer;
        let is_used = |at: usize| match (is_compressed, is_layer) {
            (true, _) => good[at] != 0,
            (_, true) => good
                .chunks(CLUSTER)
                .nth(at / CLUSTER)
                .unwrap()
                .iter()
                .any(|b| *b != 0),
            _ => true,
        };
        let at = loop {
            let at = chance.below(good.len());
            if is_used(at) {
                break at;
            }
        };
        let bit = chance.below(8);
        let mut bytes = good.clone();
        bytes[at] ^= 1 << bit;
        store.put(file, &bytes, PutMode::Replace).unwrap();
        let report = verify(&world, all(), false);
        let what = format!("{file} at {at}, bit {bit}: {report:?}");
        assert!(report.is_damaged(), "not found: {what}");
        assert!(is_named(&report, file.as_str(), at), "not named: {what}");
        let now = contents(&world);
        for point in &report.points {
            let (before, after) = (&whole[&point.point], &now[&point.point]);
            let changed: BTreeSet<usize> = (0..before.len())
                .filter(|n| after.get(*n) != before.get(*n))
                .collect();
            let damage = point.damage.as_ref();
            let has_other_faults = damage.is_some_and(|damage| !damage.faults.is_empty());
            let told: BTreeSet<usize> = damage
                .iter()
                .flat_map(|damage| &damage.ranges)
                .flat_map(|range| {
                    let first = range.offset as usize / CLUSTER;
                    first..first + range.length_bytes as usize / CLUSTER
                })
                .collect();
            if has_other_faults {
                assert!(damage.is_some());
                harmful += 1;
                continue;
            }
            // A flip in what sums say harms no content, and what they cannot prove is told.
            if is_layer {
                assert_eq!(told, changed, "{}: {what}", point.point);
            } else {
                assert!(told.is_superset(&changed), "{}: {what}", point.point);
            }
            match told.is_empty() {
                true => harmless += 1,
                false => harmful += 1,
            }
        }
        store.put(file, &good, PutMode::Replace).unwrap();
        if n % 10 == 0 {
            assert!(
                !verify(&world, all(), false).is_damaged(),
                "put back: {file}"
            );
        }
    }
    assert!(harmful > 0 && harmless > 0, "{harmful} {harmless}");
    assert!(contents(&world) == whole);
    assert!(!verify(&world, all(), false).is_damaged());
}

fn random_flips_are_found(places: Places) {
    flips_are_found_with_the_points_that_they_harm(places, Compression::None, 200);
}

fn random_flips_in_compressed_layers_are_found(places: Places) {
    flips_are_found_with_the_points_that_they_harm(places, Compression::Zlib, 100);
}

fn missing_files_are_found(places: Places) {
    let world = history(places, Compression::None);
    let store = world.store();
    let sound: Vec<Key> = keys(store, "vms/web01/layers", "");
    for file in sound {
        let good = store.get(&file, 1 << 30).unwrap();
        store.delete(&file).unwrap();
        let report = verify(&world, all(), false);
        assert!(is_named(&report, file.as_str(), 0), "{file}: {report:?}");
        // The points that do not need it are sound: those that came before it.
        let now = contents(&world);
        for point in report.points.iter().filter(|p| p.damage.is_none()) {
            assert!(now[&point.point].iter().all(Option::is_some), "{file}");
        }
        store.put(&file, &good, PutMode::Create).unwrap();
    }
    assert!(!verify(&world, all(), false).is_damaged());
}

fn checks_of(world: &World, point: &PointEntry) -> (Option<CheckResult>, Option<jiff::Timestamp>) {
    let index = reopened(world).stored_index(&vm()).unwrap();
    let point = index.points.iter().find(|p| p.point_id == point.point_id);
    point.map(|point| (point.check, point.checked_at)).unwrap()
}

fn shares_cover_everything_while_layers_are_added_and_merged(places: Places) {
    let world = World::over(places, 1 << 20);
    let sessions = Registry::empty(world.engine().clone());
    let mut points = Vec::new();
    let add = |n: usize| {
        let writes = [(n % CLUSTERS, content(2, n as u8))];
        commit_as(&sessions, &world, &request(CLUSTERS), &writes)
    };
    for n in 0..20 {
        points.push(add(n));
    }
    let first = verify(&world, share(1, 7), true);
    // Nothing was verified before: all of it is.
    assert_eq!(first.layers, 20);
    world.clock.advance(1_000);
    let begun = world.clock.now();
    let mut layers = 0;
    for number in 1..=7 {
        points.push(add(20 + number as usize));
        let gone = points.remove(3);
        forget(&sessions, &gone.name);
        let merged = merge(&world, true);
        assert!(merged.layers > 0);
        let report = verify(&world, share(number, 7), true);
        assert!(!report.is_damaged(), "{report:?}");
        layers += report.layers;
        world.clock.advance(100);
    }
    // Far fewer than seven times everything was read.
    assert!(layers < 60, "{layers}");
    for point in &points {
        let (check, since) = checks_of(&world, point);
        assert_eq!(check, Some(CheckResult::Sound), "{}", point.name);
        assert!(since.unwrap() >= begun, "{}", point.name);
    }
    let outdated = Choice {
        outdated_since: Some(begun),
        ..all()
    };
    assert_eq!(verify(&world, outdated, true).layers, 0);
}

/// Points of two clusters each, of which the next one writes one again.
fn with_four_points(places: Places) -> (World, Arc<Registry>, Vec<PointEntry>) {
    let world = World::over(places, 1 << 20);
    let sessions = Registry::empty(world.engine().clone());
    let points: Vec<PointEntry> = (0..4)
        .map(|n| {
            let writes = [(n, content(2, n as u8)), (n + 1, content(2, n as u8))];
            commit_as(&sessions, &world, &request(CLUSTERS), &writes)
        })
        .collect();
    (world, sessions, points)
}

fn a_merged_layer_counts_as_never_verified(places: Places) {
    let (world, sessions, points) = with_four_points(places);
    assert_eq!(checks_of(&world, &points[0]).0, None);
    verify(&world, all(), true);
    let verified = Some(CheckResult::Sound);
    assert!(
        points
            .iter()
            .all(|point| checks_of(&world, point).0 == verified)
    );
    let results = || keys(world.store(), "vms/web01/state", ".checks.json").len();
    assert_eq!(results(), 4);
    forget(&sessions, &points[1].name);
    assert!(merge(&world, true).layers > 0);
    assert_eq!(checks_of(&world, &points[0]).0, verified);
    assert_eq!(checks_of(&world, &points[2]).0, None);
    assert_eq!(checks_of(&world, &points[3]).0, None);
    assert_eq!(results(), 2);
    // It is read by any share, and by nothing more.
    let report = verify(
        &world,
        Choice {
            outdated_since: Some(jiff::Timestamp::MIN),
            ..all()
        },
        true,
    );
    assert_eq!(report.layers, 1);
    assert_eq!(checks_of(&world, &points[3]).0, verified);
}

/// Layers are merged between their verification and the keeping of its results: nobody has verified the new layer.
fn a_merge_before_the_results_are_kept(places: Places) {
    let (world, sessions, points) = with_four_points(places);
    let heard = std::cell::RefCell::new(Vec::new());
    let note = |_: &VmName, notes: &CheckNotes| {
        heard.borrow_mut().push(notes.clone());
        Ok(())
    };
    verify_with(&world, all(), Some(&note));
    forget(&sessions, &points[1].name);
    assert!(merge(&world, true).layers > 0);
    for notes in heard.take() {
        world.engine().owner.note_checks(&vm(), &notes).unwrap();
    }
    for point in [&points[0], &points[2], &points[3]] {
        assert_eq!(checks_of(&world, point).0, None, "{}", point.name);
    }
    // Of the layers that are gone nothing is kept.
    let results = keys(world.store(), "vms/web01/state", ".checks.json");
    assert_eq!(results.len(), 2, "{results:?}");
    verify(&world, all(), true);
    let sound = (Some(CheckResult::Sound), Some(world.clock.now()));
    assert_eq!(checks_of(&world, &points[3]), sound);
}

fn damage_is_kept_until_it_is_mended(places: Places) {
    let mut world = history(places, Compression::None);
    let layer = keys(world.store(), "vms/web01/layers", ".qcow2").remove(0);
    let good = world.store().get(&layer, 1 << 30).unwrap();
    let mut bytes = good.clone();
    bytes[CLUSTER + 5] ^= 1;
    world.store().put(&layer, &bytes, PutMode::Replace).unwrap();
    let report = verify(&world, all(), true);
    assert!(report.is_damaged());
    let index = reopened(&world).stored_index(&vm()).unwrap();
    let damaged = |index: &restorefs::repo::sidecar::index::Index| -> Vec<PointName> {
        let points = index.points.iter();
        let damaged = points.filter(|point| point.check == Some(CheckResult::Damaged));
        damaged.map(|point| point.name.clone()).collect()
    };
    let told: Vec<PointName> = report
        .points
        .iter()
        .filter(|point| point.damage.is_some())
        .map(|point| point.point.clone())
        .collect();
    assert_eq!(damaged(&index), told);
    // The states have it, too: the index can be lost.
    world
        .store()
        .delete(&Key::parse("vms/web01/index.json").unwrap())
        .unwrap();
    world.start();
    world.engine().owner.vm_snapshot(&vm()).unwrap();
    assert_eq!(
        damaged(&reopened(&world).stored_index(&vm()).unwrap()),
        told
    );
    // A check that reads no data does not make it sound.
    let structure = Choice {
        data: false,
        ..all()
    };
    assert!(verify(&world, structure, true).is_damaged());
    world.store().put(&layer, &good, PutMode::Replace).unwrap();
    assert!(verify(&world, structure, true).is_damaged());
    assert!(!verify(&world, all(), true).is_damaged());
    assert!(damaged(&reopened(&world).stored_index(&vm()).unwrap()).is_empty());
}

over_places!(
    random_flips_are_found,
    random_flips_in_compressed_layers_are_found,
    missing_files_are_found,
    shares_cover_everything_while_layers_are_added_and_merged,
    a_merged_layer_counts_as_never_verified,
    a_merge_before_the_results_are_kept,
    damage_is_kept_until_it_is_mended,
);

/// The lowest layer of a chain is replaced by one whose backing file is the topmost: headers and sums are right, and the chain never ends.
fn with_a_loop() -> (World, Vec<PointEntry>) {
    let world = World::over(Places::One, 1 << 20);
    let sessions = Registry::empty(world.engine().clone());
    let points: Vec<PointEntry> = (0..3)
        .map(|n| {
            let writes = [(n, content(2, n as u8))];
            commit_as(&sessions, &world, &request(CLUSTERS), &writes)
        })
        .collect();
    let (lowest, top) = (&points[0].disks[0].layer, &points[2].disks[0].layer);
    let repository = world.engine().owner.repository();
    let layer = LayerId::random();
    let options = LayerOptions {
        size_bytes: (CLUSTERS * CLUSTER) as u64,
        backing: Some(top.layer_file()),
        layer_id: layer,
        compression: Compression::None,
    };
    let budget = PageBudget::new(1 << 20);
    let draft = LayerDraft::create_build(repository, &vm(), lowest, None, options, None, &budget);
    let draft = draft.unwrap();
    draft.write(GuestCluster(0), &content(2, 0), &()).unwrap();
    draft.build().unwrap();
    let (store, stage) = (world.store(), world.stage());
    for sums in keys(store, "vms/web01/layers", ".sums") {
        if sums.as_str().contains(lowest.as_str()) {
            store.delete(&sums).unwrap();
        }
    }
    let of_vm = VmKeys::new(&vm()).unwrap();
    for (built, place) in [
        (of_vm.open_sums(lowest, layer), of_vm.sums(lowest, layer)),
        (of_vm.build(lowest, layer), of_vm.layer(lowest)),
    ] {
        stage
            .publish(&built.unwrap(), &place.unwrap(), PutMode::Replace)
            .unwrap();
    }
    (world, points)
}

#[test]
fn a_chain_that_is_a_loop_is_damage_for_everybody_and_ends() {
    let (world, points) = with_a_loop();
    let owner = &world.engine().owner;
    let repository = reopened(&world);
    let index = repository.index(&vm()).unwrap();
    let is_loop = |error: restorefs::error::Error| {
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.report());
        assert!(error.report().contains("loop"), "{}", error.report());
    };
    let pool = Pool::new(PoolLimits::default());
    let name = vm();
    let mut lineage = Lineage::new(&repository, &name, &index);
    for point in &points {
        let sidecar = repository.point(&vm(), point).unwrap();
        let meta = sidecar.disk(&disk()).unwrap();
        let source = ChainSource::new(&repository, &vm(), index.vm_id, false);
        is_loop(source.open_disk(&pool, &meta.layer).err().unwrap());
        is_loop(
            ProvedDisk::open(&repository, &pool, &vm(), index.vm_id, meta)
                .err()
                .unwrap(),
        );
        is_loop(prove_chain(&repository, &vm(), index.vm_id, &meta.layer).unwrap_err());
        let faults = lineage.damage_of(point).unwrap();
        assert!(!faults.is_empty());
    }
    is_loop(Chains::walk(&repository, &vm(), &index).err().unwrap());
    let report = verify(&world, all(), true);
    assert_eq!(
        report.points.iter().filter(|p| p.damage.is_some()).count(),
        3
    );
    // Nothing is cleaned up, and nothing merged.
    let before = keys(world.store(), "vms/web01/layers", "");
    let done = owner
        .forget_points(&vm(), std::slice::from_ref(&points[1].name))
        .unwrap();
    assert_eq!(done.forgotten.len(), 1);
    assert_eq!(keys(world.store(), "vms/web01/layers", ""), before);
    is_loop(try_merge(&world, true).unwrap_err());
    // The next backup says so, and does not build on it.
    let mut request = request(CLUSTERS);
    let sessions = Registry::empty(world.engine().clone());
    is_loop(sessions.begin(&request, Telling::Wait).err().unwrap());
    request.full = true;
    assert!(sessions.begin(&request, Telling::Wait).is_ok());
}
