//! The life of a repository: a long history of commits, forgetting, merging, verifying and emptying the trash, any of which a power loss
//! may cut short. After each step two points are compared wholly, now and then all, and nothing but what they need is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use restorefs::block::ReadAt;
use restorefs::block::filter::Power;
use restorefs::block::page::PageBudget;
use restorefs::chain::{Pool, PoolLimits};
use restorefs::clock::ManualClock;
use restorefs::error::{ErrorKind, Result};
use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest, Engine, Session};
use restorefs::jobs::merge::{MergeOptions, make_full, merge_vm};
use restorefs::jobs::verify::{Choice, Run, Subset};
use restorefs::point::ChainSource;
use restorefs::qcow2::Compression;
use restorefs::repo::chains::Chains;
use restorefs::repo::checks::CheckNotes;
use restorefs::repo::sidecar::index::PointEntry;
use restorefs::repo::{Ending, LabelChange, Owner, Repository, Slot};
use restorefs::store::Key;
use restorefs::task::{Monitor, Pace};
use restorefs::types::{PointName, VmName};

use crate::history::{CLUSTER, Random, disk, vm};
use crate::pair::{Pair, Places};
use crate::volatile_pair::{VolatilePair, fresh};

/// Clusters of the disk at first: 16 MiB.
const CLUSTERS: usize = 256;
/// Points beyond which the next step forgets.
const POINTS_MAX: usize = 12;
const BEGIN: i64 = 1_795_226_400;

/// Content of a cluster at a version; version 0 is zeroes, and every fourth one can be compressed.
fn content(cluster: usize, version: u32) -> Vec<u8> {
    let mut bytes = vec![0; CLUSTER];
    if version != 0 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(cluster as u64).to_le_bytes());
        hasher.update(&version.to_le_bytes());
        let filled = if version.is_multiple_of(4) {
            CLUSTER / 8
        } else {
            CLUSTER
        };
        hasher.finalize_xof().fill(&mut bytes[..filled]);
    }
    bytes
}

/// The version of each cluster.
type Versions = Vec<u32>;

/// One step.
#[derive(Debug, Clone)]
enum Step {
    Commit {
        compression: Compression,
        grow: usize,
        changes: Vec<(usize, u32)>,
        differential: bool,
    },
    Forget(Vec<PointName>),
    Merge {
        compact: bool,
    },
    Full(PointName),
    Verify(Choice),
    Keep(PointName, bool),
    EmptyTrash,
}

/// What the repository has, as far as was answered.
#[derive(Default)]
struct Model {
    points: BTreeMap<PointName, Versions>,
    /// The order of commits.
    order: Vec<PointName>,
    next_version: u32,
}

impl Model {
    fn choose(&mut self, random: &mut Random) -> Step {
        let some = |random: &mut Random, order: &[PointName]| {
            order[random.below(order.len() as u64) as usize].clone()
        };
        let roll = random.below(16);
        if self.order.len() > POINTS_MAX {
            let count = 1 + random.below(4) as usize;
            let gone = (0..count).map(|_| some(random, &self.order)).collect();
            return Step::Forget(gone);
        }
        match roll {
            5..8 if !self.order.is_empty() => Step::Forget(vec![some(random, &self.order)]),
            8..11 => Step::Merge {
                compact: random.below(2) == 0,
            },
            11 if !self.order.is_empty() => Step::Full(some(random, &self.order)),
            12..14 => {
                let number = 1 + random.below(3);
                let subset = match random.below(3) {
                    0 => Subset::All,
                    1 => Subset::Percent(30),
                    _ => Subset::Share { number, of: 3 },
                };
                Step::Verify(Choice {
                    subset,
                    outdated_since: None,
                    data: true,
                })
            }
            14 if !self.order.is_empty() => {
                Step::Keep(some(random, &self.order), random.below(2) == 0)
            }
            15 => Step::EmptyTrash,
            _ => {
                let changes = (0..random.below(24))
                    .map(|_| {
                        self.next_version += 1;
                        let cluster = random.below(CLUSTERS as u64) as usize;
                        let is_zero = random.below(6) == 0;
                        (cluster, if is_zero { 0 } else { self.next_version })
                    })
                    .collect();
                Step::Commit {
                    compression: match random.below(3) {
                        0 => Compression::None,
                        1 => Compression::Zlib,
                        _ => Compression::Zstd,
                    },
                    grow: if random.below(8) == 0 { 5 } else { 0 },
                    changes,
                    differential: random.below(5) == 0,
                }
            }
        }
    }

    /// The disk after a commit: its parent's content with the changes.
    fn after(&self, parent: Option<&PointName>, grow: usize, changes: &[(usize, u32)]) -> Versions {
        let largest = self.points.values().map(Vec::len).max();
        let mut versions = parent.map_or_else(Vec::new, |parent| self.points[parent].clone());
        versions.resize(largest.unwrap_or(CLUSTERS) + grow, 0);
        for (cluster, version) in changes {
            versions[*cluster] = *version;
        }
        versions
    }
}

fn open(pair: &VolatilePair, now: i64) -> Result<Engine> {
    let (store, stage) = pair.sides();
    let repository = Arc::new(Repository::open_store(store, stage)?);
    let owner = Owner::open(repository, Arc::new(ManualClock::at(now)), "test")?;
    let pool = Pool::new(PoolLimits {
        layers: 8,
        memory_bytes: 4 << 20,
    });
    Ok(Engine::with_budget(Arc::new(owner), pool, 16 << 20))
}

fn options(compact: bool) -> MergeOptions {
    MergeOptions {
        compact,
        low_water_bytes: 0,
        budget: PageBudget::new(1 << 20),
        pace: Pace::new(None),
    }
}

/// Writes and commits; `parent` gets the point that the session is compared with as soon as that is known.
fn commit(
    engine: &Engine,
    compression: Compression,
    differential: bool,
    model: &Model,
    grow: usize,
    changes: &[(usize, u32)],
    pending: &mut Option<Versions>,
) -> Result<PointEntry> {
    for name in engine.owner.repository().session_names(&vm())? {
        Session::resume(engine, &vm(), &name)?.end(&Ending::aborted())?;
    }
    let largest = model.points.values().map(Vec::len).max();
    let clusters = largest.unwrap_or(CLUSTERS) + grow;
    let mut request = BeginRequest::new(vm());
    request.compression = compression;
    request.differential = differential;
    request.disks.push(DiskRequest {
        name: disk(),
        source_bytes: Some((clusters * CLUSTER) as u64),
        key: None,
        full: false,
    });
    let session = Session::begin(engine, &request)?;
    let parent = session.sidecar().parent.map(|parent| parent.name);
    let versions = model.after(parent.as_ref(), grow, changes);
    let writer = session.disk(&disk())?;
    for (cluster, version) in changes {
        // A later change of the same cluster wins, in the model as here.
        writer.write((cluster * CLUSTER) as u64, &content(*cluster, *version))?;
    }
    writer.set_finished(true);
    *pending = Some(versions);
    session.commit(&CommitRequest::default(), &|| ())
}

fn verify(engine: &Engine, choice: Choice) -> Result<()> {
    let (owner, monitor) = (&engine.owner, Monitor::default());
    let mut plans = choice.plan(owner.repository(), &[vm()], &monitor)?;
    let Some((_, parts)) = plans.pop() else {
        return Ok(());
    };
    let keep = |vm: &VmName, notes: &CheckNotes| owner.note_checks(vm, notes);
    let run = Run {
        repository: owner.repository(),
        pace: &Pace::new(None),
        monitor: &monitor,
        watch: &|_| Monitor::default(),
        attached: true,
        keep: Some(&keep),
        now: owner.clock().now(),
    };
    match run.verify(&parts?) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(report) => {
            assert!(!report.is_damaged(), "{report:?}");
            Ok(())
        }
    }
}

/// Does a step; the model has what was answered.
fn work(
    engine: &Engine,
    step: &Step,
    model: &mut Model,
    pending: &mut Option<Versions>,
) -> Result<()> {
    let owner = &engine.owner;
    let watch = |_: &Slot, _| Ok(Monitor::default());
    let swap = |replacement: &_| owner.replace(replacement);
    match step {
        Step::Commit {
            compression,
            grow,
            changes,
            differential,
        } => {
            let point = commit(
                engine,
                *compression,
                *differential,
                model,
                *grow,
                changes,
                pending,
            )?;
            model.order.push(point.name.clone());
            model.points.insert(point.name, pending.take().unwrap());
        }
        Step::Forget(names) => {
            let done = owner.forget_points(&vm(), names)?;
            for name in done.forgotten {
                model.points.remove(&name);
                model.order.retain(|known| *known != name);
            }
        }
        Step::Merge { compact } => {
            let merged = merge_vm(owner.repository(), &vm(), &options(*compact), &swap, &watch);
            match merged {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                other => drop(other?),
            }
        }
        Step::Full(name) => {
            let which = name.as_str().parse()?;
            make_full(
                owner.repository(),
                &vm(),
                &which,
                &[],
                &options(false),
                &swap,
                &watch,
            )?;
        }
        Step::Verify(choice) => verify(engine, *choice)?,
        Step::Keep(name, kept) => {
            let change = LabelChange {
                kept: Some(*kept),
                ..LabelChange::default()
            };
            owner.label_point(&vm(), &name.as_str().parse()?, &change)?;
        }
        Step::EmptyTrash => drop(owner.clear_trash()?),
    }
    Ok(())
}

/// Compares a point wholly.
fn compare(
    engine: &Engine,
    index: &restorefs::repo::sidecar::index::Index,
    name: &PointName,
    versions: &[u32],
) {
    let repository = engine.owner.repository();
    let entry = index.points.iter().find(|point| point.name == *name);
    let entry = entry.unwrap_or_else(|| panic!("{name} is gone"));
    let point = repository.point(&vm(), entry).unwrap();
    let source = ChainSource::new(repository, &vm(), index.vm_id, true);
    let layer = &point.disk(&disk()).unwrap().layer;
    let opened = source.open_disk(&engine.pool, layer).unwrap();
    assert_eq!(opened.size_bytes(), (versions.len() * CLUSTER) as u64);
    let mut bytes = vec![0; CLUSTER];
    for (cluster, version) in versions.iter().enumerate() {
        opened
            .read_at((cluster * CLUSTER) as u64, &mut bytes)
            .unwrap();
        assert!(
            bytes == content(cluster, *version),
            "{name}, cluster {cluster}"
        );
    }
}

/// Holds what a new process finds against the model: some points, or all of them with every file.
fn check(
    engine: &Engine,
    model: &mut Model,
    random: &mut Random,
    step: &Step,
    pending: Option<&Versions>,
    whole: bool,
) {
    let Ok(entry) = engine.owner.vm_snapshot(&vm()) else {
        assert!(model.points.is_empty());
        return;
    };
    let index = &entry.index;
    for point in &index.points {
        if !model.points.contains_key(&point.name) {
            // A commit that was not answered may be there, whole.
            let versions = pending.cloned().expect("a point that nobody committed");
            model.points.insert(point.name.clone(), versions);
            model.order.push(point.name.clone());
        }
    }
    let listed: Vec<&PointName> = index.points.iter().map(|point| &point.name).collect();
    let gone: Vec<PointName> = model
        .order
        .iter()
        .filter(|name| !listed.contains(name))
        .cloned()
        .collect();
    for name in gone {
        // So may be a point that was to be forgotten.
        let is_expected = matches!(step, Step::Forget(names) if names.contains(&name));
        assert!(is_expected, "{name} is gone after {step:?}");
        model.points.remove(&name);
        model.order.retain(|known| *known != name);
    }
    if whole {
        for (name, versions) in &model.points {
            compare(engine, index, name, versions);
        }
        let chains = Chains::walk(engine.owner.repository(), &vm(), index).unwrap();
        let mut needed: Vec<String> = chains
            .layers()
            .filter(|(_, layer)| layer.layer.is_some())
            .flat_map(|(slot, layer)| [slot.layer_file(), slot.sums_file(layer.layer.unwrap())])
            .collect();
        needed.sort();
        let prefix = Key::parse("vms/web01/layers").unwrap();
        let found = engine.owner.repository().store().list(&prefix).unwrap();
        let found: Vec<String> = found.into_iter().map(|entry| entry.name).collect();
        let found: Vec<&String> = found
            .iter()
            .filter(|name| !name.ends_with(".open"))
            .collect();
        assert_eq!(found, needed.iter().collect::<Vec<_>>());
        return;
    }
    for _ in 0..2 {
        if !model.order.is_empty() {
            let at = random.below(model.order.len() as u64) as usize;
            let name = &model.order[at];
            compare(engine, index, name, &model.points[name]);
        }
    }
}

fn steps() -> usize {
    let asked = std::env::var("RESTOREFS_STEPS").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(300)
}

fn live(places: Places, seed: u64, steps: usize) {
    let mut random = Random(seed);
    let mut model = Model::default();
    let mut pair: Pair = fresh(places);
    let (mut cuts, mut kinds) = (0, std::collections::BTreeSet::new());
    for n in 0..steps {
        let step = model.choose(&mut random);
        let is_cut = random.below(4) == 0;
        let power = match is_cut {
            false => Power::steady(),
            true => Power::off_at(random.below(20)),
        };
        // An hour goes by with each step, so that the trash is emptied now and then.
        let now = BEGIN + (n as i64) * 3_600;
        let volatile = VolatilePair::new(&power, &pair);
        let mut pending = None;
        let answered =
            open(&volatile, now).and_then(|engine| work(&engine, &step, &mut model, &mut pending));
        if let Err(e) = &answered {
            assert!(power.is_off(), "step {n}, {step:?}: {}", e.report());
            cuts += 1;
        }
        kinds.insert(kind(&step));
        let outcome = if power.is_off() { random.below(8) } else { 1 };
        pair = volatile.after_power_loss(outcome);
        let volatile = VolatilePair::new(&Power::steady(), &pair);
        let engine = open(&volatile, now + 60).unwrap();
        let whole = n % 50 == 49 || n + 1 == steps;
        check(
            &engine,
            &mut model,
            &mut random,
            &step,
            pending.as_ref(),
            whole,
        );
        drop(engine);
        pair = volatile.after_power_loss(1);
    }
    assert!(cuts > steps / 40, "{cuts} of {steps} steps were cut short");
    assert_eq!(kinds.len(), 7, "{kinds:?}");
}

/// The name of a step's kind.
fn kind(step: &Step) -> String {
    let said = format!("{step:?}");
    let name = said.split([' ', '(', '{']).next();
    name.unwrap_or_default().to_owned()
}

#[test]
fn a_long_life_keeps_every_point_in_one_place() {
    live(Places::One, 20_261_130, steps());
}

#[test]
fn a_long_life_keeps_every_point_with_a_workspace_elsewhere() {
    live(Places::TwoMemories, 7, steps() / 3);
}
