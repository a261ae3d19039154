//! Restoring a disk: a chain of 31 layers; a dense and a scattered disk to a new file, without and with fsync; and onto a
//! file that is there.
//!
//! `cargo bench --bench restore -- [--quick] [--rounds N] [--dir DIR] [--only chain|new|durable|changed]`. All read layers from
//! the page cache. `chain` and `new` have no fsync but those that the programs do by themselves; in `durable` the peers are
//! followed by sync(1) of the file.

#[allow(dead_code, reason = "each bench uses a part of it")]
mod kit;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use kit::disk::Dice;
use kit::measure::megabytes;
use kit::peer::{restorefs, timed};
use kit::table::Table;
use kit::usage::Usage;
use kit::world::{Daemon, World};
use kit::{Options, Result};

const SECONDS: &str = "s";
const RATE: &str = "MB/s of data";
const REFERENCE: &str = "restorefs restore";
const CONVERT: &str = "qemu-img convert -W -m 16";
const DENSE: &str = "restore, dense, s";
const SCATTERED: &str = "restore, scattered, s";
const BACKUP: &str = "backup, dense, s";

fn main() -> Result<()> {
    let options = Options::parse()?;
    let mut tables = Vec::new();
    let wants = |part: &str| options.only.as_deref().is_none_or(|only| only == part);
    if wants("chain") {
        tables.push(of_chain(&options)?);
    }
    if ["new", "durable", "changed"].into_iter().any(wants) {
        let pair = Pair::make(&options)?;
        for (part, is_durable) in [("new", false), ("durable", true)] {
            if wants(part) {
                tables.push(pair.to_new_files(&options, is_durable)?);
            }
        }
        if wants("changed") {
            tables.push(pair.onto_a_file(&options)?);
        }
    }
    options.publish("restore", &tables)
}

/// Two disks of one layer each: `dense`, all data, and `scattered`, single clusters among holes.
struct Pair {
    repository: PathBuf,
    dense: PathBuf,
    clusters: Vec<u64>,
    layers: [PathBuf; 2],
}

impl Pair {
    fn make(options: &Options) -> Result<Self> {
        let dir = options.dir().join("pair");
        std::fs::create_dir(&dir)?;
        let (repository, dense) = (dir.join("repo"), dir.join("dense.raw"));
        let scattered = dir.join("scattered.raw");
        let clusters: Vec<u64> = (0..options.pick(1 << 10, 1 << 14)).collect();
        fill(&dense, clusters.len() as u64, &clusters)?;
        let (count, all) = options.pick((256, 4096), (4096, 65_536));
        let mut dice = Dice::new(7);
        let places: Vec<u64> = (0..count).map(|_| dice.below(all)).collect();
        fill(&scattered, all, &places)?;
        timed(restorefs(&repository).arg("init"))?;
        for (vm, raw) in [("dense", &dense), ("scattered", &scattered)] {
            let source = format!("vda={}", raw.display());
            timed(restorefs(&repository).args(["backup", vm, &source]))?;
        }
        let layers = [
            layer(&repository, "dense")?,
            layer(&repository, "scattered")?,
        ];
        Ok(Self {
            repository,
            dense,
            clusters,
            layers,
        })
    }

    fn to_new_files(&self, options: &Options, is_durable: bool) -> Result<Table> {
        let (title, columns, sync) = if is_durable {
            let title = "To a new file, until it is durable";
            (title, &[DENSE, SCATTERED, BACKUP][..], "&& sync \"$2\"")
        } else {
            let title = "To a new file";
            (title, &[DENSE, SCATTERED][..], "")
        };
        let mut table = Table::new(title, CONVERT, columns).of_seconds();
        let target = options.dir().join("new.raw");
        let shell = |formats: &str, from: &Path| {
            let mut command = Command::new("sh");
            let convert =
                format!("qemu-img convert {formats} -t writeback -W -m 16 \"$1\" \"$2\" {sync}");
            command.args(["-c", &convert, "sh"]).arg(from).arg(&target);
            command
        };
        for round in 0..=options.rounds {
            let mut rows = Vec::new();
            for (vm, column, layer) in [
                ("dense", DENSE, &self.layers[0]),
                ("scattered", SCATTERED, &self.layers[1]),
            ] {
                let mut restore = restorefs(&self.repository);
                restore.args(["restore", &format!("{vm}@latest"), "vda"]);
                restore.arg(&target);
                rows.push((REFERENCE, column, restore));
                rows.push((CONVERT, column, shell("-f qcow2 -O raw", layer)));
            }
            if is_durable {
                let mut backup = restorefs(&self.repository);
                let source = format!("vda={}", self.dense.display());
                backup.args(["backup", &format!("new{round}"), &source]);
                rows.push(("restorefs backup", BACKUP, backup));
                rows.push((CONVERT, BACKUP, shell("-f raw -O qcow2", &self.dense)));
            }
            for (name, column, mut command) in rows {
                if target.exists() {
                    std::fs::remove_file(&target)?;
                }
                if is_durable {
                    rustix::fs::sync();
                }
                let used = Usage::of(&mut command)?;
                if round > 0 || options.quick {
                    table.add_used(name, column, used.seconds, &used);
                }
            }
        }
        Ok(table)
    }

    /// One cluster of a hundred of the target differs.
    fn onto_a_file(&self, options: &Options) -> Result<Table> {
        const FULL: &str = "restorefs restore --force";
        let title = "Onto a file of which 1 % differs, until it is durable";
        let mut table = Table::new(title, FULL, &[SECONDS]).of_seconds();
        let target = options.dir().join("there.raw");
        std::fs::copy(&self.dense, &target)?;
        for round in 0..=options.rounds {
            let restore = |option: &str| {
                let mut command = restorefs(&self.repository);
                command.args(["restore", "dense@latest", "vda", option]);
                command.arg(&target);
                command
            };
            let mut rsync = Command::new("sh");
            // rsync takes files of the same size and time for equal, and --ignore-times makes it compare.
            let words =
                "rsync --inplace --no-whole-file --ignore-times \"$1\" \"$2\" && sync \"$2\"";
            rsync
                .args(["-c", words, "sh"])
                .arg(&self.dense)
                .arg(&target);
            for (name, mut command) in [
                (FULL, restore("--force")),
                (
                    "restorefs restore --changed-only",
                    restore("--changed-only"),
                ),
                ("rsync --inplace --no-whole-file", rsync),
            ] {
                let file = File::options().write(true).open(&target)?;
                let count = self.clusters.len() / 100;
                for (cluster, bytes) in kit::disk::changes(&self.clusters, count, round as u64)? {
                    file.write_all_at(&bytes, cluster * kit::disk::CLUSTER_BYTES)?;
                }
                file.sync_all()?;
                let used = Usage::of(&mut command)?;
                if round > 0 || options.quick {
                    table.add_used(name, SECONDS, used.seconds, &used);
                }
                timed(Command::new("cmp").arg(&self.dense).arg(&target))?;
            }
        }
        Ok(table)
    }
}

/// Makes a disk of so many clusters with random content at these places.
fn fill(path: &Path, all: u64, clusters: &[u64]) -> Result<()> {
    let file = File::create(path)?;
    file.set_len(all * kit::disk::CLUSTER_BYTES)?;
    for (cluster, seed) in clusters.iter().zip(0..) {
        let mut dice = Dice::new(seed);
        let mut content = vec![0; usize::try_from(kit::disk::CLUSTER_BYTES)?];
        dice.fill(&mut content);
        file.write_all_at(&content, cluster * kit::disk::CLUSTER_BYTES)?;
    }
    Ok(file.sync_all()?)
}

/// The only layer of a VM.
fn layer(repository: &Path, vm: &str) -> Result<PathBuf> {
    for entry in std::fs::read_dir(repository.join("vms").join(vm).join("layers"))? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "qcow2")
        {
            return Ok(path);
        }
    }
    Err("a backup has no layer".into())
}

fn of_chain(options: &Options) -> Result<Table> {
    let size_bytes = options.pick(512 << 20, 4 << 30);
    let depth = 31;
    let raw = options.dir().join("disk.raw");
    let data = kit::disk::make(&raw, size_bytes, 1)?;
    let repository = options.dir().join("repo");
    let world = World::make(&repository)?;
    let changed = (data.len() / 2 / depth).clamp(16, 512);
    world.chain("web01", &raw, &data, depth, changed)?;
    let (_, layer) = world.open("web01")?;
    drop(world);
    let daemon = Daemon::start(&repository, options.dir())?;
    let mounted = daemon.mountpoint.join("web01/latest/disks/vda.raw");
    let data_bytes = u64::try_from(data.len())? * kit::disk::CLUSTER_BYTES;
    let title = format!(
        "Restore of a chain of {depth}: {} MiB, {} MiB of data",
        size_bytes >> 20,
        data_bytes >> 20
    );
    let mut table = Table::new(title, REFERENCE, &[SECONDS, RATE]);
    let target = options.dir().join("out.raw");
    let convert = |parallel: bool| {
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-f", "qcow2", "-O", "raw"]);
        if parallel {
            // Out of order, sixteen at a time: the most that it can.
            command.args(["-W", "-m", "16"]);
        }
        command.arg(&layer).arg(&target);
        command
    };
    for round in 0..=options.rounds {
        let mut cp = Command::new("cp");
        cp.arg("--sparse=always").arg(&mounted).arg(&target);
        let mut cp_auto = Command::new("cp");
        cp_auto.arg(&mounted).arg(&target);
        let mut restore = restorefs(&repository);
        restore
            .args(["restore", "web01@latest", "vda"])
            .arg(&target);
        let rows = [
            (REFERENCE, restore),
            ("cp from the mount", cp_auto),
            ("cp --sparse=always from the mount", cp),
            ("qemu-img convert", convert(false)),
            (CONVERT, convert(true)),
        ];
        for (name, mut command) in rows {
            if target.exists() {
                std::fs::remove_file(&target)?;
            }
            forget(&mounted)?;
            let used = Usage::of(&mut command)?;
            // The first round warms the caches of all.
            if round > 0 || options.quick {
                table.add_used(name, SECONDS, used.seconds, &used);
                table.add(name, RATE, megabytes(data_bytes) / used.seconds);
            }
        }
    }
    let mut compare = Command::new("qemu-img");
    compare.args(["compare", "-q", "-f", "raw", "-F", "qcow2"]);
    timed(compare.args([&target, &layer]))?;
    Ok(table)
}

/// Drops what the kernel keeps of the mounted disk.
fn forget(mounted: &std::path::Path) -> Result<()> {
    let file = std::fs::File::open(mounted)?;
    Ok(rustix::fs::fadvise(
        &file,
        0,
        None,
        rustix::fs::Advice::DontNeed,
    )?)
}
