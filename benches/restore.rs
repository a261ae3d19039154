//! Restoring a disk: `restorefs restore`, `cp` out of the mount, and `qemu-img convert` of the same chain.
//!
//! `cargo bench --bench restore -- [--quick] [--rounds N] [--dir DIR]`. All read layers from the page cache and write a new sparse
//! file, without fsync but for those that do it by themselves.

#[allow(dead_code, reason = "each bench uses a part of it")]
mod kit;

use std::process::Command;

use kit::measure::megabytes;
use kit::peer::{restorefs, timed};
use kit::table::Table;
use kit::usage::Usage;
use kit::world::{Daemon, World};
use kit::{Options, Result};

const SECONDS: &str = "s";
const RATE: &str = "MB/s of data";
const REFERENCE: &str = "restorefs restore";

fn main() -> Result<()> {
    let options = Options::parse()?;
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
            ("qemu-img convert -W -m 16", convert(true)),
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
    options.publish("restore", &[table])
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
