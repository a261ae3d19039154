//! What the trial of a directory means for a repository there.

use std::time::Duration;

use serde::Serialize;

use crate::error::Result;
use crate::sys::Dir;
use crate::sys::statfs::is_network;
use crate::sys::trial::{self, Speed, Stop, Trial};
use crate::types::size::Human;

/// How long is written, and how long is read.
const TRANSFER_TIME: Duration = Duration::from_secs(2);
/// Changes of names that take longer are slow: a commit waits for about ten.
const SLOW_SYNC: Duration = Duration::from_millis(100);

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was tried.
    pub test: &'static str,
    /// The result.
    pub result: String,
    /// Whether it is there; `None` for what is only measured.
    pub ok: Option<bool>,
    /// Whether a repository needs it.
    pub needed: bool,
    /// What follows.
    pub follows: &'static str,
}

/// All findings about a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Suitability {
    /// The type of its filesystem.
    pub filesystem: String,
    /// Whether a repository can be there.
    pub suitable: bool,
    /// The findings.
    pub tests: Vec<Finding>,
    /// Free bytes.
    pub free_bytes: u64,
    /// Total bytes.
    pub total_bytes: u64,
    /// Microseconds until a changed name is durable.
    pub directory_sync_us: u64,
    /// Bytes a second; `None` when they were not measured.
    pub write_bytes_per_second: Option<u64>,
    /// Bytes a second; `None` when they were not measured.
    pub read_bytes_per_second: Option<u64>,
}

impl Suitability {
    /// Tries everything in `dir`, and measures the speed unless `is_quick`.
    ///
    /// # Errors
    /// As [`trial::trial`].
    pub fn of(dir: &Dir, is_quick: bool, stop: Stop<'_>) -> Result<Self> {
        let tried = trial::trial(dir, stop)?;
        let speed = match is_quick {
            true => None,
            false => Some(trial::speed(dir, TRANSFER_TIME, stop)?),
        };
        Ok(Self::judge(&tried, speed))
    }

    fn judge(tried: &Trial, speed: Option<Speed>) -> Self {
        let mut tests = findings(tried);
        let measured = |test, result, follows| Finding {
            test,
            result,
            ok: None,
            needed: false,
            follows,
        };
        let room = tried.room;
        tests.push(measured(
            "space",
            format!(
                "{} free of {}",
                Human(room.free_bytes),
                Human(room.total_bytes)
            ),
            "backups begin while --low-water stays free",
        ));
        if let Some(speed) = speed {
            tests.push(measured(
                "sequential write",
                format!("{}/s", Human(speed.write_bytes)),
                "bounds a first backup",
            ));
            tests.push(measured(
                "sequential read",
                format!("{}/s", Human(speed.read_bytes)),
                "bounds restore and verify",
            ));
        }
        Self {
            filesystem: tried.ability.filesystem.clone(),
            suitable: tests.iter().all(|one| !one.needed || one.ok == Some(true)),
            tests,
            free_bytes: room.free_bytes,
            total_bytes: room.total_bytes,
            directory_sync_us: u64::try_from(tried.directory_sync.as_micros()).unwrap_or(u64::MAX),
            write_bytes_per_second: speed.map(|speed| speed.write_bytes),
            read_bytes_per_second: speed.map(|speed| speed.read_bytes),
        }
    }
}

/// What follows from each ability, with it and without it.
fn findings(tried: &Trial) -> Vec<Finding> {
    let ability = &tried.ability;
    let yes_no = |test, ok: bool, needed, with, without| Finding {
        test,
        result: if ok { "yes" } else { "no" }.to_owned(),
        ok: Some(ok),
        needed,
        follows: if ok { with } else { without },
    };
    let is_slow = tried.directory_sync > SLOW_SYNC;
    let is_remote = is_network(&ability.filesystem);
    vec![
        Finding {
            test: "filesystem",
            result: ability.filesystem.clone(),
            ok: None,
            needed: false,
            follows: match is_remote {
                true => "names are cached: a layer that is missing is looked for again after 65 s",
                false => "names are seen at once",
            },
        },
        Finding {
            test: "write and fsync",
            result: milliseconds(tried.file_sync),
            ok: Some(true),
            needed: true,
            follows: "what is committed is durable",
        },
        yes_no(
            "rename over a file",
            tried.rename_over,
            true,
            "files are replaced as a whole",
            "no repository can be here",
        ),
        Finding {
            test: "fsync of a directory",
            result: milliseconds(tried.directory_sync),
            ok: None,
            needed: false,
            follows: match is_slow {
                true => "slow: a commit waits for about ten of them",
                false => "a commit waits for about ten of them",
            },
        },
        yes_no(
            "flock",
            tried.flock,
            true,
            "one process writes; on a network filesystem try it from two machines, too",
            "no repository can be here: two writers would not see each other",
        ),
        yes_no(
            "hard links",
            tried.hard_links,
            false,
            "a layer that a merge replaces stays in the trash for an hour",
            "a layer that a merge replaces is not kept in the trash",
        ),
        yes_no(
            "reflink",
            ability.reflink,
            false,
            "merging shares data, and mounts can hand files to the kernel",
            "merging copies data, and mounts read buffered",
        ),
        yes_no(
            "immutable flag",
            ability.immutable,
            false,
            "this user can protect files from root's mistakes (chattr +i)",
            "files are protected by their mode alone",
        ),
        yes_no(
            "hole punching",
            ability.punch,
            false,
            "space inside layers is given back",
            "layers keep the space of what was written twice",
        ),
        yes_no(
            "SEEK_HOLE",
            ability.seek_holes,
            false,
            "holes are found, not read",
            "holes are read as zeroes",
        ),
        yes_no(
            "rename without replacing",
            ability.rename_noreplace,
            false,
            "names are taken atomically",
            "names are taken by link and unlink",
        ),
        yes_no(
            "openat2",
            ability.openat2,
            false,
            "the kernel keeps paths inside the repository",
            "paths are walked a component at a time",
        ),
    ]
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}
