//! Verifying: `restorefs verify` against `cat` of the same layers, with the pages in memory and without.
//!
//! `cargo bench --bench verify -- [--quick] [--rounds N] [--dir DIR]`. One VM with a full layer and a chain above it; DIR on the filesystem
//! whose speed counts. `cold` drops what the kernel keeps of the layers before each command; `one core` runs the command on processor 0.
#![expect(clippy::print_stdout, reason = "a bench talks to whoever started it")]

#[allow(dead_code, reason = "each bench uses a part of it")]
mod kit;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kit::measure::megabytes;
use kit::peer::{restorefs, timed};
use kit::table::Table;
use kit::world::World;
use kit::{Options, Result};

const COLD: &str = "cold MB/s";
const WARM: &str = "from memory MB/s";
const CORE: &str = "from memory, one core MB/s";
const REFERENCE: &str = "cat of the layers";

fn layers(repository: &Path) -> Result<Vec<PathBuf>> {
    let mut layers = Vec::new();
    for entry in std::fs::read_dir(repository.join("vms/web01/layers"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "qcow2") {
            layers.push(path);
        }
    }
    layers.sort();
    Ok(layers)
}

/// Drops what the kernel keeps of files.
fn forget(files: &[PathBuf]) -> Result<()> {
    for path in files {
        let file = std::fs::File::open(path)?;
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let options = Options::parse()?;
    let size_bytes = options.pick(1 << 30, 8 << 30);
    let raw = options.dir().join("disk.raw");
    let data = kit::disk::make(&raw, size_bytes, 1)?;
    let repository = options.dir().join("repo");
    let world = World::make(&repository)?;
    world.chain("web01", &raw, &data, 7, (data.len() / 20).max(16))?;
    drop(world);
    let files = layers(&repository)?;
    let mut bytes = 0;
    for path in &files {
        use std::os::unix::fs::MetadataExt;
        bytes += std::fs::metadata(path)?.blocks() * 512;
    }
    let title = format!("Verifying {} layers, {} MiB", files.len(), bytes >> 20);
    let mut table = Table::new(title, REFERENCE, &[COLD, WARM, CORE]);
    let cat = || {
        let mut command = Command::new("cat");
        command.args(&files).stdout(Stdio::null());
        command
    };
    let sha256sum = || {
        let mut command = Command::new("sha256sum");
        command.args(&files).stdout(Stdio::null());
        command
    };
    let verify = || {
        let mut command = restorefs(&repository);
        command.arg("verify");
        command
    };
    let pinned = |command: Command| {
        let mut pinned = Command::new("taskset");
        pinned.args(["-c", "0"]).arg(command.get_program());
        pinned.args(command.get_args()).stdout(Stdio::null());
        for (key, value) in command.get_envs() {
            if let Some(value) = value {
                pinned.env(key, value);
            }
        }
        pinned
    };
    for round in 0..=options.rounds {
        for (name, command) in [
            (REFERENCE, &cat as &dyn Fn() -> Command),
            ("restorefs verify", &verify),
            ("sha256sum of the layers", &sha256sum),
        ] {
            forget(&files)?;
            let cold = timed(&mut command())?;
            let warm = timed(&mut command())?;
            let core = timed(&mut pinned(command()))?;
            // The first round warms everything but the layers.
            if round > 0 || options.quick {
                table.add(name, COLD, megabytes(bytes) / cold);
                table.add(name, WARM, megabytes(bytes) / warm);
                table.add(name, CORE, megabytes(bytes) / core);
            }
        }
    }
    println!("{}", table.render());
    Ok(())
}
