//! A repository of many VMs and points: opening it for a backup, listing it, mounting it, walking the mounted tree.
//!
//! `cargo bench --bench scale -- [--quick] [--rounds N] [--dir DIR] [--keep DIR] [--only STEP,STEP]`. The repository has 1,000 VMs with 100
//! points each (`--quick`: 50 with 20): one VM is made by backups, the others have its layers by hard links and sidecars of their own.
//! `--keep` makes it in DIR, or uses the one that an earlier run has made there. Steps: `first`, `backup`, `ls`, `forget`, `mount`,
//! `find2`, `find3`, `rebuild`; all of them without `--only`.
//!
//! # Why
//! Nothing is fsynced while the repository is made, and 500,000 names are made: a directory on a tmpfs (`--dir /dev/shm`) is quickest.
#![expect(clippy::print_stdout, reason = "a bench talks to whoever started it")]

#[allow(dead_code, reason = "each bench uses a part of it")]
mod kit;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kit::peer::{restorefs, timed};
use kit::table::Table;
use kit::world::World;
use kit::{Options, Result};
use restorefs::error::{Error, ResultExt};
use restorefs::repo::Repository;
use restorefs::repo::sidecar::encode;
use restorefs::repo::sidecar::index::{Index, PointEntry};
use restorefs::repo::sidecar::point::Point;
use restorefs::repo::sidecar::state::State;
use restorefs::repo::sidecar::vm::Vm;
use restorefs::task::{Monitor, on_threads, threads};
use restorefs::types::{Digest, PointId, VmId, VmName};

const SECONDS: &str = "s";
const MIB: &str = "MiB";
const ONE: &str = "backup, a repository with one VM";
/// LIMIT: threads that make VMs.
const THREADS_MAX: usize = 16;
/// Written last into a directory that is kept.
const MADE: &str = "made";

fn main() -> Result<()> {
    let options = Options::parse()?;
    let place = options.keep.clone().unwrap_or(options.dir().to_owned());
    let (vms, points) = (options.pick(50, 1000), options.pick(20, 100));
    make(&place, vms, points)?;
    let title = format!("A repository of {vms} VMs with {points} points each");
    let mut bench = Bench {
        raw: place.join("disk.raw"),
        small: place.join("one"),
        large: place.join("many"),
        mountpoint: options.dir().join("mnt"),
        table: Table::new(title, ONE, &[SECONDS, MIB]).of_seconds(),
        only: options.only.clone(),
    };
    fs::create_dir(&bench.mountpoint)?;
    let is_new = options.keep.is_none() || fs::read(place.join(MADE))?.is_empty();
    if bench.has("first") && is_new {
        // Whoever opens it first after it was copied together looks at all of it.
        let seconds = timed(&mut bench.backup(&bench.large))?;
        bench.add("backup, first after a crash", seconds);
        fs::write(place.join(MADE), "opened")?;
    }
    for _ in 0..options.rounds {
        bench.round()?;
    }
    println!("{}", bench.table.render());
    Ok(())
}

/// What is measured, and where.
struct Bench {
    raw: PathBuf,
    small: PathBuf,
    large: PathBuf,
    mountpoint: PathBuf,
    table: Table,
    only: Option<String>,
}

impl Bench {
    /// Whether a step is wanted.
    fn has(&self, step: &str) -> bool {
        let only = self.only.as_deref();
        only.is_none_or(|only| only.split(',').any(|part| part == step))
    }

    fn add(&mut self, row: &str, seconds: f64) {
        println!("{row}: {seconds:.3} s");
        self.table.add(row, SECONDS, seconds);
    }

    fn backup(&self, path: &Path) -> Command {
        let mut command = restorefs(path);
        command.args(["backup", "-q", "vm0000"]);
        command.arg(format!("vda={}", self.raw.display()));
        command
    }

    fn round(&mut self) -> Result<()> {
        if self.has("backup") {
            for (row, path) in [(ONE, &self.small), ("backup", &self.large)] {
                let seconds = timed(&mut self.backup(path))?;
                // Each row is measured before the next one is added.
                println!("{row}: {seconds:.3} s");
                self.table.add(row, SECONDS, seconds);
            }
        }
        if self.has("ls") {
            let seconds = timed(restorefs(&self.large).arg("ls"))?;
            self.add("ls", seconds);
        }
        if self.has("forget") {
            let mut forget = restorefs(&self.large);
            forget.args(["forget", "*", "--dry-run", "--keep-last", "3"]);
            forget.args(["--keep-daily", "7", "--keep-monthly", "12"]);
            let seconds = timed(forget.args(["--time-zone", "Europe/Berlin"]))?;
            self.add("forget --dry-run", seconds);
        }
        if ["mount", "find2", "find3"]
            .iter()
            .any(|step| self.has(step))
        {
            self.walk()?;
        }
        if self.has("rebuild") {
            let seconds = timed(restorefs(&self.large).arg("rebuild-catalog"))?;
            self.add("rebuild-catalog", seconds);
        }
        Ok(())
    }

    /// Mounts it, and walks through what is mounted.
    fn walk(&mut self) -> Result<()> {
        let mut mount = restorefs(&self.large);
        let seconds = timed(mount.arg("mount").arg(&self.mountpoint))?;
        let mountpoint = self.mountpoint.clone();
        let _mounted = Unmount(&mountpoint);
        self.add("mount", seconds);
        self.weigh("the mount's process, mounted")?;
        for (step, depth) in [("find2", "2"), ("find3", "3")] {
            if !self.has(step) {
                continue;
            }
            let mut find = Command::new("find");
            find.arg(&mountpoint).args(["-maxdepth", depth]);
            let seconds = timed(&mut find)?;
            self.add(&format!("find -maxdepth {depth}, cold"), seconds);
        }
        self.weigh("the mount's process, walked")
    }

    fn weigh(&mut self, row: &str) -> Result<()> {
        let mib = memory(&self.mountpoint)?;
        println!("{row}: {mib:.0} MiB");
        self.table.add(row, MIB, mib);
        Ok(())
    }
}

/// Unmounts when it is dropped.
struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg(self.0)
            .stderr(Stdio::null())
            .status();
        // Its process ends a moment later.
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Resident MiB of the process that serves a mount.
fn memory(mountpoint: &Path) -> Result<f64> {
    for entry in fs::read_dir("/proc")? {
        let dir = entry?.path();
        let Ok(line) = fs::read(dir.join("cmdline")) else {
            continue;
        };
        let serves = line
            .split(|b| *b == 0)
            .any(|word| word == mountpoint.as_os_str().as_encoded_bytes());
        let Ok(status) = fs::read_to_string(dir.join("status")) else {
            continue;
        };
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        if serves && let Some(kib) = kib.and_then(|text| text.split_whitespace().next()) {
            return Ok(kib.parse::<f64>()? / 1024.0);
        }
    }
    Err("nobody serves the mount".into())
}

/// Makes both repositories in `place`, unless an earlier run has.
fn make(place: &Path, vms: u64, points: u64) -> Result<()> {
    if place.join(MADE).exists() {
        println!("{} is used as it is", place.display());
        return Ok(());
    }
    fs::create_dir_all(place)?;
    let begin = Instant::now();
    let raw = place.join("disk.raw");
    kit::disk::make(&raw, 8 << 20, 1)?;
    let [small, large] = ["one", "many"].map(|name| place.join(name));
    drop(World::make(&small)?);
    for point in 0..points {
        // By the program, which also finds out what is on the disks, as it does for people.
        let mut command = restorefs(&small);
        command.args(["backup", "-q", "vm0000", "--point", &format!("p{point:04}")]);
        timed(command.arg(format!("vda={}", raw.display())))?;
    }
    timed(Command::new("cp").arg("-a").args([&small, &large]))?;
    multiply(&large, vms)?;
    fs::write(place.join(MADE), "")?;
    println!("made in {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}

/// What all VMs are made after.
struct Model {
    root: PathBuf,
    vm: Vm,
    index: Index,
    points: Vec<(Point, State)>,
}

impl Model {
    fn load(root: &Path) -> restorefs::error::Result<Self> {
        let repository = Repository::open(root)?;
        let name = VmName::new("vm0000")?;
        let index = repository.index(&name)?;
        let points = index.points.iter().map(|entry| {
            let point = repository.point(&name, entry)?;
            Ok((point, repository.state(&name, entry)?))
        });
        let points = points.collect::<restorefs::error::Result<Vec<_>>>()?;
        Ok(Self {
            root: root.join("vms"),
            vm: repository.vm(&name)?,
            index,
            points,
        })
    }

    /// Makes the VM of this number: its layers are the model's, its points have its own identities.
    fn copy(&self, number: u32) -> restorefs::error::Result<()> {
        let count = u32::try_from(self.points.len()).unwrap_or(u32::MAX);
        let mut serials = self.index.serial_high + (number - 1) * (count + 1) + 1..;
        let mut next = || serials.next().unwrap_or(u32::MAX);
        let mut vm = self.vm.clone();
        vm.name = VmName::new(format!("vm{number:04}"))?;
        vm.vm_id = VmId::random();
        vm.serial = next();
        let dir = self.root.join(vm.name.as_str());
        let make = |path: PathBuf| {
            fs::create_dir_all(&path)
                .or_io("cannot make it")
                .at_path(path)
        };
        let write = |path: PathBuf, bytes: Vec<u8>| {
            fs::write(&path, bytes)
                .or_io("cannot write it")
                .at_path(path)
        };
        ["points", "layers", "state"]
            .into_iter()
            .try_for_each(|below| make(dir.join(below)))?;
        let layers = fs::read_dir(self.root.join("vm0000/layers")).or_io("cannot list it")?;
        for layer in layers {
            let layer = layer.or_io("cannot list it")?;
            let to = dir.join("layers").join(layer.file_name());
            fs::hard_link(layer.path(), to).or_io("cannot link it")?;
        }
        let ids: Vec<PointId> = self.points.iter().map(|_| PointId::random()).collect();
        let mut index = Index {
            vm_id: vm.vm_id,
            name: vm.name.clone(),
            serial: vm.serial,
            points: Vec::new(),
            ..self.index.clone()
        };
        for ((point, state), id) in self.points.iter().zip(&ids) {
            let (mut point, mut state) = (point.clone(), state.clone());
            (point.vm, point.vm_id, point.point_id) = (vm.name.clone(), vm.vm_id, *id);
            state.point_id = *id;
            if let Some(parent) = &mut point.parent {
                let mut all = self.points.iter().zip(&ids);
                let found = all.find(|((point, _), _)| point.point_id == parent.point_id);
                let (_, id) = found.ok_or_else(|| Error::invalid("a parent that is no point"))?;
                parent.point_id = *id;
            }
            let bytes = encode(&point)?;
            let mut entry = PointEntry::of(&point, Digest::of(&bytes), next());
            for disk in &mut entry.disks {
                disk.depth = self
                    .index
                    .disk_of(&disk.layer)
                    .and_then(|known| known.depth);
            }
            index.serial_high = entry.serial;
            index.points.push(entry);
            let place = dir.join("points").join(point.name.as_str());
            make(place.clone())?;
            write(place.join("point.json"), bytes)?;
            write(dir.join(format!("state/{id}.json")), encode(&state)?)?;
        }
        write(dir.join("index.json"), encode(&index)?)?;
        write(dir.join("vm.json"), encode(&vm)?)
    }
}

/// Gives the repository `count` VMs, all with the points of the one that is there.
fn multiply(path: &Path, count: u64) -> Result<()> {
    let model = Model::load(path)?;
    let mut numbers = 1..u32::try_from(count)?;
    on_threads(
        threads(None, THREADS_MAX),
        &Monitor::default(),
        || Ok(numbers.next()),
        || (),
        |(), number| model.copy(number),
    )?;
    Ok(())
}
