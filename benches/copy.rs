//! Copying to another repository: `restorefs copy` against `cp` of the same VM followed by `sync`.
//!
//! `cargo bench --bench copy -- [--quick] [--rounds N] [--dir DIR]`. One VM with a full layer and a chain above it; both repositories
//! lie in DIR. `cold` drops what the kernel keeps of the layers before each command. Both end when what they wrote is durable; only
//! `copy` proves it.
#![expect(clippy::print_stdout, reason = "a bench talks to whoever started it")]

#[allow(dead_code, reason = "each bench uses a part of it")]
mod kit;

use std::process::Command;

use kit::measure::megabytes;
use kit::peer::{restorefs, timed};
use kit::table::Table;
use kit::world::{Layered, World};
use kit::{Options, Result};

const COLD: &str = "cold MB/s";
const WARM: &str = "from memory MB/s";
const REFERENCE: &str = "cp -r and sync";

fn main() -> Result<()> {
    let options = Options::parse()?;
    let layered = Layered::make(&options, |_| true)?;
    let (repository, files, bytes) = (&layered.repository, &layered.files, layered.bytes);
    let title = format!(
        "Copying {} files of layers, {} MiB",
        files.len(),
        bytes >> 20
    );
    let mut table = Table::new(title, REFERENCE, &[COLD, WARM]);
    let to = options.dir().join("to");
    let cp = || {
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                "cp -r --reflink=never \"$0/vms\" \"$1\" && sync -f \"$1\"",
            ])
            .args([repository, &to]);
        command
    };
    let copy = || {
        let mut command = restorefs(repository);
        command.args(["copy", "web01", "--to"]).arg(&to);
        command
    };
    for round in 0..=options.rounds {
        for (name, command, is_ours) in [
            (REFERENCE, &cp as &dyn Fn() -> Command, false),
            ("restorefs copy", &copy, true),
        ] {
            for column in [COLD, WARM] {
                if to.exists() {
                    std::fs::remove_dir_all(&to)?;
                }
                match is_ours {
                    true => drop(World::make(&to)?),
                    false => std::fs::create_dir(&to)?,
                }
                if column == COLD {
                    layered.forget()?;
                }
                rustix::fs::sync();
                let seconds = timed(&mut command())?;
                // The first round warms everything but the layers.
                if round > 0 || options.quick {
                    table.add(name, column, megabytes(bytes) / seconds);
                }
            }
        }
    }
    println!("{}", table.render());
    Ok(())
}
