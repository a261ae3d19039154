//! Verifying: `restorefs verify` against `cat` of the same layers, with the pages in memory and without.
//!
//! `cargo bench --bench verify -- [--quick] [--rounds N] [--dir DIR]`. One VM with a full layer and a chain above it; DIR on the filesystem
//! whose speed counts. `cold` drops what the kernel keeps of the layers before each command; `one core` runs the command on processor 0.
#![expect(clippy::print_stdout, reason = "a bench talks to whoever started it")]

#[allow(dead_code, reason = "each bench uses a part of it")]
mod kit;

use std::process::{Command, Stdio};

use kit::measure::megabytes;
use kit::peer::{restorefs, timed};
use kit::table::Table;
use kit::world::Layered;
use kit::{Options, Result};

const COLD: &str = "cold MB/s";
const WARM: &str = "from memory MB/s";
const CORE: &str = "from memory, one core MB/s";
const REFERENCE: &str = "cat of the layers";

fn main() -> Result<()> {
    let options = Options::parse()?;
    let layered = Layered::make(&options, |path| {
        path.extension().is_some_and(|end| end == "qcow2")
    })?;
    let (repository, files, bytes) = (&layered.repository, &layered.files, layered.bytes);
    let title = format!("Verifying {} layers, {} MiB", files.len(), bytes >> 20);
    let mut table = Table::new(title, REFERENCE, &[COLD, WARM, CORE]);
    let cat = || {
        let mut command = Command::new("cat");
        command.args(files).stdout(Stdio::null());
        command
    };
    let sha256sum = || {
        let mut command = Command::new("sha256sum");
        command.args(files).stdout(Stdio::null());
        command
    };
    let verify = || {
        let mut command = restorefs(repository);
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
            layered.forget()?;
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
