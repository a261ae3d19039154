//! What the benches share: options, a disk like real ones, peers as processes, measuring, and tables.

pub(crate) mod disk;
pub(crate) mod measure;
pub(crate) mod peer;
pub(crate) mod table;
pub(crate) mod world;

use std::path::{Path, PathBuf};

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
    dir: tempfile::TempDir,
}

impl Options {
    /// Parses `[--quick] [--rounds N] [--only PART] [--dir DIR] [--keep DIR]`; what cargo adds is passed over.
    pub(crate) fn parse() -> Result<Self> {
        let mut arguments = std::env::args().skip(1);
        let (mut quick, mut rounds, mut only, mut keep) = (false, None, None, None);
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
}
