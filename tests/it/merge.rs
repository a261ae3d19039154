//! Merging: every point keeps its content, whatever is forgotten and merged, and readers do not notice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use restorefs::block::ReadAt;
use restorefs::block::page::PageBudget;
use restorefs::error::ErrorKind;
use restorefs::ingest::{CommitRequest, Registry, Telling};
use restorefs::jobs::merge::{MergeOptions, Merged, make_full, merge_vm};
use restorefs::layer::LayerDraft;
use restorefs::point::ProvedDisk;
use restorefs::qcow2::{Compression, LayerOptions};
use restorefs::repo::Slot;
use restorefs::repo::chains::Chains;
use restorefs::repo::metadata::prove_chain;
use restorefs::repo::replace::Replacement;
use restorefs::repo::sidecar::index::PointEntry;
use restorefs::store::{Key, PutMode};
use restorefs::task::Monitor;
use restorefs::types::{GuestCluster, LayerId};

use crate::pair::Places;
use crate::points::{
    CLUSTER, commit, content, disk, forget, merge, options, quietly, request, try_merge, vm,
};
use crate::world::{World, read_all};

/// Clusters of the disk.
const CLUSTERS: usize = 24;

fn layer_files(world: &World) -> Vec<String> {
    let prefix = Key::parse("vms/web01/layers").unwrap();
    let entries = world.store().list(&prefix).unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
}

/// Every point reads as the model says, its chain is proved, and nothing is there that nothing needs.
fn check(world: &World, model: &BTreeMap<u64, Vec<u8>>) {
    let owner = &world.engine().owner;
    let (repository, entry) = (owner.repository(), owner.vm_snapshot(&vm()).unwrap());
    let seqs: Vec<u64> = entry.index.points.iter().map(|point| point.seq).collect();
    assert_eq!(seqs, model.keys().copied().collect::<Vec<_>>());
    for point in &entry.index.points {
        assert!(
            read_all(&world.open(&vm(), point, &disk())) == model[&point.seq],
            "point {} is not what was committed",
            point.seq
        );
        let sidecar = repository.point(&vm(), point).unwrap();
        let top = &sidecar.disk(&disk()).unwrap().layer;
        prove_chain(repository, &vm(), entry.vm.vm_id, top).unwrap();
    }
    let chains = Chains::walk(repository, &vm(), &entry.index).unwrap();
    let mut needed: Vec<String> = chains
        .layers()
        .flat_map(|(slot, layer)| [slot.layer_file(), slot.sums_file(layer.layer.unwrap())])
        .collect();
    needed.sort();
    assert_eq!(layer_files(world), needed);
}

/// `index.json` says how deep each chain is, and which layers are hidden.
fn check_index(world: &World) {
    let owner = &world.engine().owner;
    let Ok(entry) = owner.vm_snapshot(&vm()) else {
        return;
    };
    let repository = owner.repository();
    let stored = repository.stored_index(&vm()).unwrap();
    let chains = Chains::walk(repository, &vm(), &entry.index).unwrap();
    for index in [&entry.index, &stored] {
        for disk in index.points.iter().flat_map(|point| &point.disks) {
            let depth = u32::try_from(chains.from(&disk.layer).len()).unwrap();
            assert_eq!(disk.depth, Some(depth), "{}", disk.layer);
        }
        let mut hidden: Vec<_> = chains
            .layers()
            .filter(|(_, layer)| !layer.is_named)
            .map(|(slot, layer)| (slot, layer.layer.unwrap(), layer.held_clusters))
            .collect();
        hidden.sort();
        let repeated = index.hidden.iter();
        let repeated: Vec<_> = repeated
            .inspect(|layer| assert_eq!(layer.disk_key, "vda"))
            .map(|layer| (&layer.slot, layer.layer_id, layer.held_clusters))
            .collect();
        assert_eq!(repeated, hidden);
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Clusters with kind and seed; how many clusters the disk grows; compression; whether the parent is another point.
    Commit(Vec<(usize, u8, u8)>, usize, u8, Option<usize>),
    Forget(usize),
    Merge(bool),
    Full(usize),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let writes = proptest::collection::vec((0..CLUSTERS, any::<u8>(), any::<u8>()), 0..8);
    let parent = proptest::option::weighted(0.2, any::<usize>());
    prop_oneof![
        4 => (writes, 0..3_usize, any::<u8>(), parent).prop_map(|(w, g, c, p)| Step::Commit(w, g, c, p)),
        3 => any::<usize>().prop_map(Step::Forget),
        2 => any::<bool>().prop_map(Step::Merge),
        1 => any::<usize>().prop_map(Step::Full),
        1 => Just(Step::Restart),
    ]
}

fn run(places: Places, steps: &[Step]) {
    let mut world = World::over(places, 64 << 20);
    let mut sessions = Registry::resume(world.engine().clone()).unwrap();
    let mut model: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    // Disks that are open all the time: a merge must not change what they read.
    let mut open: BTreeMap<u64, restorefs::chain::Disk> = BTreeMap::new();
    let mut clusters = CLUSTERS;
    for step in steps {
        let points = match world.engine().owner.vm_snapshot(&vm()) {
            Ok(entry) => entry.index.points,
            Err(_) => Vec::new(),
        };
        match step {
            Step::Commit(writes, grow, compression, parent) => {
                clusters += grow;
                let parent = parent.and_then(|n| points.get(n % points.len().max(1)));
                let below = parent.or(points.last());
                let mut bytes = below.map_or_else(Vec::new, |p| model[&p.seq].clone());
                clusters = clusters.max(bytes.len() / CLUSTER);
                bytes.resize(clusters * CLUSTER, 0);
                let writes: Vec<(usize, Vec<u8>)> = writes
                    .iter()
                    .map(|(cluster, kind, seed)| (*cluster, content(*kind, *seed)))
                    .collect();
                for (cluster, new) in &writes {
                    bytes[cluster * CLUSTER..(cluster + 1) * CLUSTER].copy_from_slice(new);
                }
                let compression = match compression % 3 {
                    0 => Compression::None,
                    1 => Compression::Zlib,
                    _ => Compression::Zstd,
                };
                let parent = parent.map(|p| &p.name);
                let point = commit(&sessions, &world, &writes, clusters, compression, parent);
                let reader = world.open(&vm(), &point, &disk());
                open.insert(point.seq, reader);
                model.insert(point.seq, bytes);
            }
            Step::Forget(n) if !points.is_empty() => {
                let point = &points[n % points.len()];
                forget(&sessions, &point.name);
                model.remove(&point.seq);
                open.remove(&point.seq);
            }
            Step::Merge(compact) => {
                if !points.is_empty() {
                    merge(&world, *compact);
                }
            }
            Step::Full(n) if !points.is_empty() => {
                let point = &points[n % points.len()];
                let owner = &world.engine().owner;
                let swap = |replacement: &_| owner.replace(replacement);
                let which = point.name.as_str().parse().unwrap();
                make_full(
                    owner.repository(),
                    &vm(),
                    &which,
                    &[],
                    &options(false),
                    &swap,
                    &quietly,
                )
                .unwrap();
            }
            Step::Restart => {
                open.clear();
                drop(sessions);
                world.start();
                sessions = Registry::resume(world.engine().clone()).unwrap();
            }
            Step::Forget(_) | Step::Full(_) => {}
        }
        check_index(&world);
        for (seq, reader) in &open {
            assert!(
                read_all(reader) == model[seq],
                "an open reader of point {seq}"
            );
        }
    }
    if !model.is_empty() {
        check(&world, &model);
        merge(&world, true);
        check(&world, &model);
        let entry = world.engine().owner.vm_snapshot(&vm()).unwrap();
        let chains = Chains::walk(world.engine().owner.repository(), &vm(), &entry.index).unwrap();
        let left = chains
            .layers()
            .filter(|(slot, _)| chains.is_mergeable(slot));
        assert_eq!(left.count(), 0, "compacting left hidden layers");
    }
}

fn cases() -> u32 {
    std::env::var("RESTOREFS_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(24)
}

proptest::proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_point_keeps_its_content(steps in proptest::collection::vec(step(), 1..30)) {
        run(Places::One, &steps);
    }

    #[test]
    fn the_same_with_a_workspace_elsewhere(steps in proptest::collection::vec(step(), 1..20)) {
        run(Places::TwoMemories, &steps);
    }
}

/// Three points, each with more of the disk.
fn three(world: &World, sessions: &Registry) -> (Vec<PointEntry>, BTreeMap<u64, Vec<u8>>) {
    let mut model = BTreeMap::new();
    let mut bytes = vec![0; CLUSTERS * CLUSTER];
    let points = (1..=3_u8)
        .map(|n| {
            let writes: Vec<(usize, Vec<u8>)> = (0..8)
                .map(|cluster| (cluster + usize::from(n), content(2, n * 16 + cluster as u8)))
                .collect();
            for (cluster, new) in &writes {
                bytes[cluster * CLUSTER..(cluster + 1) * CLUSTER].copy_from_slice(new);
            }
            let point = commit(sessions, world, &writes, CLUSTERS, Compression::None, None);
            model.insert(point.seq, bytes.clone());
            point
        })
        .collect();
    (points, model)
}

/// A reader that began before the merge reads the same, when its layers are evicted, when they lie in the trash, and when
/// the trash is empty.
fn readers_of_a_merged_chain_notice_nothing(places: Places) {
    let world = World::over(places, 64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let (points, mut model) = three(&world, &sessions);
    let readers: Vec<_> = [0, 1, 2]
        .map(|n: usize| world.open(&vm(), &points[n], &disk()))
        .into();
    assert!(read_all(&readers[2]) == model[&3]);
    for n in [0, 1] {
        forget(&sessions, &points[n].name);
        model.remove(&points[n].seq);
    }
    assert_eq!(merge(&world, false).layers, 2);
    check(&world, &model);
    assert!(read_all(&readers[2]) == model[&3], "from the trash");
    // Other chains push the open layers out of the pool.
    for n in 0..20 {
        let writes = [(0, content(2, n))];
        let point = commit(
            &sessions,
            &world,
            &writes,
            CLUSTERS,
            Compression::None,
            None,
        );
        read_all(&world.open(&vm(), &point, &disk()));
    }
    assert!(
        read_all(&readers[2]) == model[&3],
        "after they were evicted"
    );
    world.clock.advance(2 * 3600);
    world.engine().owner.empty_trash().unwrap();
    assert!(read_all(&readers[2]) == model[&3], "with an empty trash");
}

#[test]
fn readers_of_a_merged_chain_notice_nothing_in_one_place() {
    readers_of_a_merged_chain_notice_nothing(Places::One);
}

#[test]
fn readers_of_a_merged_chain_notice_nothing_in_two_directories() {
    readers_of_a_merged_chain_notice_nothing(Places::TwoDirectories);
}

/// A chain of three layers with a flipped bit in the lowest one, which is hidden and shows through in the newest.
fn damaged(world: &World, sessions: &Registry) -> (Vec<PointEntry>, String) {
    let (points, _) = three(world, sessions);
    for n in [0, 1] {
        forget(sessions, &points[n].name);
    }
    let slot = points[0].disks[0].layer.to_string();
    // Layers lie among the committed objects; in memory they can be written there.
    let key = Key::parse(&format!("vms/web01/layers/{slot}.qcow2")).unwrap();
    let file = world.store().open(&key).unwrap();
    let mut bytes = vec![0; usize::try_from(file.size_bytes()).unwrap()];
    file.read_at(0, &mut bytes).unwrap();
    bytes[CLUSTER + 5] ^= 1;
    world.store().put(&key, &bytes, PutMode::Replace).unwrap();
    (points, slot)
}

#[test]
fn a_merge_that_meets_damage_leaves_everything_as_it_was() {
    // Without clones, each cluster is copied, and proved on the way.
    let world = World::over(Places::TwoMemories, 64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let (_, slot) = damaged(&world, &sessions);
    let before = layer_files(&world);
    let error = try_merge(&world, true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.report().contains(&slot), "{}", error.report());
    assert_eq!(layer_files(&world), before);
    let owner = &world.engine().owner;
    assert_eq!(owner.vm_snapshot(&vm()).unwrap().index.points.len(), 1);
}

#[test]
fn damage_that_is_cloned_unread_is_still_damage() {
    let world = World::new(64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let (points, _) = damaged(&world, &sessions);
    match try_merge(&world, true) {
        // The harmed layer was copied.
        Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt),
        // It was cloned: a reader that proves what it reads still tells.
        Ok(_) => {
            let owner = &world.engine().owner;
            let repository = owner.repository();
            let point = repository.point(&vm(), &points[2]).unwrap();
            let disk = point.disk(&disk()).unwrap();
            let pool = &world.engine().pool;
            let id = owner.vm_snapshot(&vm()).unwrap().vm.vm_id;
            let proved = ProvedDisk::open(repository, pool, &vm(), id, disk).unwrap();
            let mut buf = vec![0; CLUSTER];
            let error = proved
                .reader()
                .read(CLUSTER as u64, CLUSTER as u64, &mut buf)
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }
}

#[test]
fn a_merge_is_cancelled_between_pieces_and_leaves_no_build() {
    let world = World::new(64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let (points, model) = three(&world, &sessions);
    forget(&sessions, &points[0].name);
    forget(&sessions, &points[1].name);
    let before = layer_files(&world);
    let stop = Arc::new(AtomicBool::new(false));
    let watch = |_: &Slot, _| {
        let flag = Arc::clone(&stop);
        Ok(Monitor::with_listener(Arc::clone(&stop), move |_| {
            flag.store(true, Ordering::Relaxed);
        }))
    };
    let owner = &world.engine().owner;
    let swap = |replacement: &_| owner.replace(replacement);
    let error = merge_vm(owner.repository(), &vm(), &options(true), &swap, &watch).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(layer_files(&world), before);
    let opened = world.open(&vm(), &points[2], &disk());
    assert!(read_all(&opened) == model[&3]);
}

#[test]
fn a_build_that_comes_too_late_changes_nothing() {
    let world = World::new(64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let (points, mut model) = three(&world, &sessions);
    for n in [0, 1] {
        forget(&sessions, &points[n].name);
        model.remove(&points[n].seq);
    }
    let owner = &world.engine().owner;
    // Between build and swap another merge takes the whole chain.
    let first = AtomicBool::new(true);
    let swap = |replacement: &_| {
        if first.swap(false, Ordering::SeqCst) {
            merge(&world, true);
        }
        owner.replace(replacement)
    };
    let merged = merge_vm(owner.repository(), &vm(), &options(true), &swap, &quietly).unwrap();
    assert_eq!(merged, Merged::default());
    check(&world, &model);
}

/// An index of an earlier release has neither depths nor hidden layers: the next owner adds them, once.
#[test]
fn depths_and_hidden_layers_are_added_to_an_old_index() {
    let mut world = World::new(64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let (points, model) = three(&world, &sessions);
    forget(&sessions, &points[1].name);
    drop(sessions);
    let key = Key::parse("vms/web01/index.json").unwrap();
    let bytes = world.store().get(&key, 1 << 20).unwrap();
    let mut index: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let members = index.as_object_mut().unwrap();
    assert_eq!(
        members.remove("hidden").unwrap().as_array().unwrap().len(),
        1
    );
    members.remove("blake3");
    for point in members["points"].as_array_mut().unwrap() {
        let disk = point["disks"][0].as_object_mut().unwrap();
        assert!(disk.remove("depth").is_some());
    }
    let old = serde_json::to_vec(&index).unwrap();
    world.engine = None;
    world.store().put(&key, &old, PutMode::Replace).unwrap();
    let stored = |world: &World| {
        let bytes = world.store().get(&key, 1 << 20).unwrap();
        serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()
    };
    let read = world.pair.sides();
    let read = restorefs::repo::Repository::open_store(read.0, read.1).unwrap();
    let reader = read.index(&vm()).unwrap();
    assert!(reader.hidden.is_empty() && reader.points[1].disks[0].depth.is_none());
    world.start();
    check_index(&world);
    let again = stored(&world)["generation"].clone();
    world.start();
    world.engine().owner.vm_snapshot(&vm()).unwrap();
    assert_eq!(stored(&world)["generation"], again);
    let mut left = model;
    left.remove(&points[1].seq);
    check(&world, &left);
}

#[test]
fn a_hidden_layer_that_was_moved_away_stops_all_cleaning() {
    let mut world = World::new(64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let (points, _) = three(&world, &sessions);
    forget(&sessions, &points[0].name);
    let slot = &points[0].disks[0].layer;
    let from = Key::parse(&format!("vms/web01/layers/{}", slot.layer_file())).unwrap();
    let to = Key::parse("trash/moved").unwrap();
    world.store().rename(&from, &to).unwrap();
    let before = layer_files(&world);
    let hidden = |world: &World| {
        let entry = world.engine().owner.vm_snapshot(&vm()).unwrap();
        let hidden = entry.index.hidden.iter();
        hidden.map(|layer| layer.slot.clone()).collect::<Vec<_>>()
    };
    // The newest point goes, with nothing of its layers; so it is for the next owner.
    forget(&sessions, &points[2].name);
    assert_eq!(layer_files(&world), before);
    assert_eq!(hidden(&world), std::slice::from_ref(slot));
    drop(sessions);
    world.start();
    assert_eq!(hidden(&world), std::slice::from_ref(slot));
    assert_eq!(layer_files(&world), before);
    // Put back, all is as if nothing had been.
    world.store().rename(&to, &from).unwrap();
    world.start();
    check_index(&world);
    assert_eq!(layer_files(&world).len(), 4);
}

#[test]
fn a_repository_with_replaced_layers_says_so() {
    let world = World::new(64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let (points, _) = three(&world, &sessions);
    let format = || {
        let key = Key::parse("restorefs.json").unwrap();
        String::from_utf8(world.store().get(&key, 1 << 20).unwrap()).unwrap()
    };
    assert!(!format().contains("\"merge\""));
    forget(&sessions, &points[0].name);
    merge(&world, true);
    assert!(format().contains("\"merge\""));
}

/// A session that is open while the chain below its parent is merged, and its parent becomes full.
fn a_session_goes_on_over_a_merged_chain(places: Places) {
    let world = World::over(places, 64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let (points, mut model) = three(&world, &sessions);
    let session = sessions.begin(&request(CLUSTERS), Telling::Wait).unwrap();
    let writer = session.disk(&disk()).unwrap();
    let mut bytes = model[&3].clone();
    // Less than a cluster: the rest of it comes from the parent.
    let mut write = |at: usize, fill: u8| {
        writer.write(at as u64, &[fill; 700]).unwrap();
        bytes[at..at + 700].fill(fill);
    };
    write(CLUSTER + 100, 1);
    for n in [0, 1] {
        forget(&sessions, &points[n].name);
        model.remove(&points[n].seq);
    }
    assert_eq!(merge(&world, true).layers, 2);
    write(2 * CLUSTER + 5000, 2);
    world.clock.advance(2 * 3600);
    world.engine().owner.empty_trash().unwrap();
    write(3 * CLUSTER + 9, 3);
    writer.set_finished(true);
    let (name, commit) = (session.name(), CommitRequest::default());
    let point = sessions
        .commit(&vm(), &name, &commit, Telling::Wait)
        .unwrap();
    model.insert(point.seq, bytes);
    check(&world, &model);
    // The parent of the next one becomes the base of nothing but itself.
    forget(&sessions, &points[2].name);
    model.remove(&points[2].seq);
    merge(&world, true);
    check(&world, &model);
}

#[test]
fn a_session_goes_on_over_a_merged_chain_in_one_place() {
    a_session_goes_on_over_a_merged_chain(Places::One);
}

#[test]
fn a_session_goes_on_over_a_merged_chain_in_two_directories() {
    a_session_goes_on_over_a_merged_chain(Places::TwoDirectories);
}

#[test]
fn the_owner_takes_no_layer_of_another_content() {
    let world = World::new(64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let (points, model) = three(&world, &sessions);
    let owner = &world.engine().owner;
    let repository = owner.repository();
    let slot = points[2].disks[0].layer.clone();
    let entry = owner.vm_snapshot(&vm()).unwrap();
    let chains = Chains::walk(repository, &vm(), &entry.index).unwrap();
    let old = chains.get(&slot).unwrap().layer.unwrap();
    let before = layer_files(&world);
    let layer = LayerId::random();
    let layer_options = LayerOptions {
        size_bytes: (CLUSTERS * CLUSTER) as u64,
        backing: None,
        layer_id: layer,
        compression: Compression::None,
    };
    let budget = PageBudget::new(1 << 20);
    let draft =
        LayerDraft::create_build(repository, &vm(), &slot, None, layer_options, None, &budget);
    let draft = draft.unwrap();
    draft.write(GuestCluster(0), &content(2, 200), &()).unwrap();
    draft.build().unwrap();
    let replacement = Replacement {
        vm: vm(),
        interval: vec![(slot, old)],
        rest: Vec::new(),
        below: None,
        layer,
    };
    let error = owner.replace(&replacement).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    replacement.discard(repository).unwrap();
    assert_eq!(layer_files(&world), before);
    check(&world, &model);
}

#[test]
fn merging_leaves_the_room_that_is_to_stay_free() {
    let world = World::over(Places::TwoDirectories, 64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let (points, mut model) = three(&world, &sessions);
    forget(&sessions, &points[0].name);
    model.remove(&points[0].seq);
    let owner = &world.engine().owner;
    let tight = MergeOptions {
        low_water_bytes: u64::MAX,
        ..options(true)
    };
    let swap = |replacement: &_| owner.replace(replacement);
    let error = merge_vm(owner.repository(), &vm(), &tight, &swap, &quietly).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    let which = points[2].name.as_str().parse().unwrap();
    let error = make_full(
        owner.repository(),
        &vm(),
        &which,
        &[],
        &tight,
        &swap,
        &quietly,
    )
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    merge(&world, true);
    check(&world, &model);
}
