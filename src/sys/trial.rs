//! Tries in a directory what a repository does to its files, and measures it.
//!
//! # Invariants
//! Everything is made in one directory with a temporary name, which is removed at the end, also after an error and when `stop` ends
//! the trial. The files of the measured transfer have no name at any time.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::Advice;

use super::beneath::{Access, Dir};
use super::durable::TEMPORARY_PREFIX;
use super::probe::{Ability, probe};
use super::statfs::{self, Room};
use super::{flock, scratch};
use crate::error::{Error, Result, ResultExt};

/// Files of the trial.
const FILE_BYTES: usize = 65_536;
/// Changes of names whose fsync is timed; the median counts.
const SYNCS: usize = 9;
/// Bytes of one write or read of the transfer.
const BLOCK_BYTES: usize = 1 << 20;
/// LIMIT: bytes of the transfer, and their share of the free space (a tenth).
const TRANSFER_BYTES_MAX: u64 = 4 << 30;
const FREE_SHARE: u64 = 10;

/// Ends the trial with its error.
pub type Stop<'a> = &'a dyn Fn() -> Result<()>;

/// What was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// What [`probe`] has found.
    pub ability: Ability,
    /// Whether a rename replaces a file.
    pub rename_over: bool,
    /// Whether there are hard links.
    pub hard_links: bool,
    /// Whether a lock (flock) that one descriptor has is refused to another.
    pub flock: bool,
    /// The time that a new file of 64 KiB takes until it is durable.
    pub file_sync: Duration,
    /// The time that a changed name takes until it is durable.
    pub directory_sync: Duration,
    /// Room on the filesystem.
    pub room: Room,
}

/// A sequential transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speed {
    /// Bytes a second that were written, fsync included.
    pub write_bytes: u64,
    /// Bytes a second that were read, past the page cache of this machine.
    pub read_bytes: u64,
}

/// Tries everything in `dir`.
///
/// # Errors
/// `ReadOnly`, `PermissionDenied`, `NoSpace`, `Io` when plain files cannot be written; errors of `stop`.
pub fn trial(dir: &Dir, stop: Stop<'_>) -> Result<Trial> {
    let name = format!("{TEMPORARY_PREFIX}{}-trial", std::process::id());
    dir.make_dir(&name, 0o700)?;
    let tried = dir.dir(&name).and_then(|below| trial_in(&below, stop));
    let removed = dir.remove_tree(&name);
    let tried = tried?;
    removed.map(|()| tried)
}

fn trial_in(dir: &Dir, stop: Stop<'_>) -> Result<Trial> {
    let ability = probe(dir)?;
    stop()?;
    let begun = Instant::now();
    write_new(dir, "a", 1)?;
    let file_sync = begun.elapsed();
    stop()?;
    write_new(dir, "b", 2)?;
    let rename_over = dir.rename("b", "a").is_ok()
        && first_byte(dir, "a")? == Some(2)
        && dir.stat("b")?.is_none();
    stop()?;
    let hard_links = dir.link("a", "c").is_ok() && first_byte(dir, "c")? == Some(2);
    let mut times = Vec::new();
    for n in 0..SYNCS {
        stop()?;
        let (from, to) = match n % 2 {
            0 => ("a", "d"),
            _ => ("d", "a"),
        };
        dir.rename(from, to)?;
        let begun = Instant::now();
        dir.sync("")?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(Trial {
        ability,
        rename_over,
        hard_links,
        flock: excludes(dir)?,
        file_sync,
        directory_sync: times.get(SYNCS / 2).copied().unwrap_or_default(),
        room: statfs::room(dir)?,
    })
}

fn write_new(dir: &Dir, name: &str, fill: u8) -> Result<()> {
    let file = dir.create_file(name, 0o600)?;
    file.write_all_at(&vec![fill; FILE_BYTES], 0)
        .and_then(|()| file.sync_all())
        .or_io("cannot write a file")
        .at_path(dir.path().join(name))
}

fn first_byte(dir: &Dir, name: &str) -> Result<Option<u8>> {
    if dir.stat(name)?.is_none() {
        return Ok(None);
    }
    let mut byte = [0];
    let file = dir.open_file(name, Access::Read)?;
    let read = file.read_exact_at(&mut byte, 0);
    Ok(read.is_ok().then_some(byte[0]))
}

/// Whether a lock excludes another descriptor of the same file, and is free again afterwards.
fn excludes(dir: &Dir) -> Result<bool> {
    let name = Path::new("lock");
    let first = dir.create_file(name, 0o600)?;
    let second = dir.open_file(name, Access::ReadWrite)?;
    let lock = |file: &File| flock::try_lock(file, flock::Mode::Exclusive).ok();
    let taken = (lock(&first), lock(&second));
    drop(first);
    Ok(taken == (Some(true), Some(false)) && lock(&second) == Some(true))
}

/// Writes a file for `time`, and reads it for `time`.
///
/// # Errors
/// As [`trial`].
pub fn speed(dir: &Dir, time: Duration, stop: Stop<'_>) -> Result<Speed> {
    let file = scratch::file(dir.path())?;
    let room = statfs::room(dir)?.free_bytes / FREE_SHARE;
    let mut block = noise();
    let (mut at, begun) = (0, Instant::now());
    while begun.elapsed() < time && at < room.min(TRANSFER_BYTES_MAX) {
        stop()?;
        // No two blocks are equal, for filesystems that store equal ones once.
        if let Some(first) = block.first_chunk_mut() {
            *first = at.to_le_bytes();
        }
        file.write_all_at(&block, at)
            .or_io("cannot write the file of the measurement")?;
        at += BLOCK_BYTES as u64;
    }
    stop()?;
    file.sync_all()
        .or_io("cannot write the file of the measurement")?;
    let written = rate(at, begun.elapsed());
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)
        .map_err(|e| Error::io("cannot leave the page cache", e.into()))?;
    let (end, mut at, begun) = (at, 0, Instant::now());
    while begun.elapsed() < time && at < end {
        stop()?;
        file.read_exact_at(&mut block, at)
            .or_io("cannot read the file of the measurement")?;
        at += BLOCK_BYTES as u64;
    }
    Ok(Speed {
        write_bytes: written,
        read_bytes: rate(at, begun.elapsed()),
    })
}

fn rate(bytes: u64, time: Duration) -> u64 {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(1_000_000) / micros
}

/// A block that does not compress (xorshift).
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    while block.len() < BLOCK_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend(state.to_le_bytes());
    }
    block
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::{speed, trial};
    use crate::error::{Error, ErrorKind};
    use crate::sys::beneath::Dir;

    #[test]
    fn nothing_is_left_behind_whenever_it_is_stopped() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let mut stops = 0;
        loop {
            let left = Cell::new(stops);
            let stop = || match left.get() {
                0 => Err(Error::new(ErrorKind::Cancelled, "stopped")),
                more => {
                    left.set(more - 1);
                    Ok(())
                }
            };
            let tried =
                trial(&dir, &stop).and_then(|_| speed(&dir, Duration::from_millis(1), &stop));
            assert!(dir.list("").unwrap().is_empty(), "stop {stops}");
            match tried {
                Ok(speed) => {
                    assert!(speed.write_bytes > 0 && speed.read_bytes > 0);
                    break;
                }
                Err(e) => assert_eq!(e.kind(), ErrorKind::Cancelled, "{e}"),
            }
            stops += 1;
        }
        assert!(stops >= 14, "{stops}");
    }
}
