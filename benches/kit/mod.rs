//! What the benches share: options, a disk like real ones, peers as processes, measuring, and tables.

pub(crate) mod disk;
pub(crate) mod measure;
pub(crate) mod peer;
pub(crate) mod server;
pub(crate) mod table;
pub(crate) mod usage;
pub(crate) mod world;

use std::path::{Path, PathBuf};

use table::Table;

/// Benches end at the first thing that fails.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What the command line says.
pub(crate) struct Options {
    /// Seconds instead of minutes: small disks, one round.
    pub(crate) quick: bool,
    /// Rounds over all rows; the table has their medians.
    pub(crate) rounds: usize,
    /// One of the bench's parts, where it has several.
    pub(crate) only: Option<String>,
    /// A directory for what the bench makes and a later run uses again.
    pub(crate) keep: Option<PathBuf>,
    json: Option<PathBuf>,
    dir: tempfile::TempDir,
}

impl Options {
    /// Parses `[--quick] [--rounds N] [--only PART] [--dir DIR] [--keep DIR] [--json FILE]`; what cargo adds is passed over.
    pub(crate) fn parse() -> Result<Self> {
        let mut arguments = std::env::args().skip(1);
        let (mut quick, mut rounds, mut only, mut keep, mut json) = (false, None, None, None, None);
        let mut dir = std::env::temp_dir();
        while let Some(argument) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .ok_or_else(|| format!("{argument} needs a value"))
            };
            match argument.as_str() {
                "--quick" => quick = true,
                "--rounds" => rounds = Some(value()?.parse()?),
                "--only" => only = Some(value()?),
                "--keep" => keep = Some(PathBuf::from(value()?)),
                "--json" => json = Some(PathBuf::from(value()?)),
                "--dir" => dir = PathBuf::from(value()?),
                "--bench" => {}
                other => return Err(format!("unknown argument {other}").into()),
            }
        }
        let dir = tempfile::Builder::new()
            .prefix("restorefs-bench.")
            .tempdir_in(dir)?;
        Ok(Self {
            quick,
            rounds: rounds.unwrap_or(if quick { 1 } else { 3 }),
            only,
            keep,
            json,
            dir,
        })
    }

    /// A directory that goes with the bench.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `quick` with `--quick`, else `usual`.
    pub(crate) fn pick<T>(&self, quick: T, usual: T) -> T {
        if self.quick { quick } else { usual }
    }

    /// Prints the tables, and saves them as JSON in the file of `--json`, else in `target/tmp/BENCH.json`.
    #[expect(clippy::print_stdout, reason = "a bench talks to whoever started it")]
    pub(crate) fn publish(&self, bench: &str, tables: &[Table]) -> Result<()> {
        for table in tables {
            println!("{}", table.render());
        }
        let all = serde_json::json!({
            "bench": bench, "version": env!("CARGO_PKG_VERSION"), "quick": self.quick, "rounds": self.rounds,
            "kernel": std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
            "processors": std::thread::available_parallelism()?.get(),
            "tables": tables.iter().map(Table::json).collect::<Vec<_>>(),
        });
        let usual = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{bench}.json"));
        let path = self.json.as_ref().unwrap_or(&usual);
        std::fs::write(path, serde_json::to_vec_pretty(&all)?)?;
        println!("saved: {}", path.display());
        Ok(())
    }
}
