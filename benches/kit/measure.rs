//! Measuring reads: bytes for each second in sequence, operations for each second at random places.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use restorefs::block::ReadAt;
use rustix::fs::Advice;

use super::Result;
use super::disk::{CLUSTER_BYTES, Dice};

/// Bytes of one sequential read.
const STEP_BYTES: u64 = 1 << 20;
/// Bytes of one random read.
const BLOCK_BYTES: u64 = 4096;

/// What can be read.
pub(crate) trait Readable {
    /// Fills `buf`.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()>;
    /// Forgets what an earlier measurement left *above* the layers' own page cache.
    fn forget(&self, _random: bool) -> Result<()> {
        Ok(())
    }
}

/// A file; on FUSE its own pages are dropped before each measurement, so that its server is measured.
pub(crate) struct Mounted {
    file: File,
    is_fuse: bool,
}

impl Mounted {
    pub(crate) fn open(path: &Path, is_fuse: bool) -> Result<Self> {
        let file = File::open(path)?;
        Ok(Self { file, is_fuse })
    }
}

impl Readable for Mounted {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        Ok(self.file.read_exact_at(buf, offset)?)
    }

    fn forget(&self, random: bool) -> Result<()> {
        if self.is_fuse {
            rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)?;
        }
        let pattern = if random {
            Advice::Random
        } else {
            Advice::Normal
        };
        Ok(rustix::fs::fadvise(&self.file, 0, None, pattern)?)
    }
}

impl<T: ReadAt> Readable for T {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        Ok(self.read_at(offset, buf)?)
    }
}

/// MB/s of one thread that reads all in steps of 1 MiB.
pub(crate) fn sequential(source: &dyn Readable, size_bytes: u64) -> Result<f64> {
    source.forget(false)?;
    let mut buf = vec![0; usize::try_from(STEP_BYTES)?];
    let begin = Instant::now();
    let mut at = 0;
    while at < size_bytes {
        let step = STEP_BYTES.min(size_bytes - at);
        source.read(at, &mut buf[..usize::try_from(step)?])?;
        at += step;
    }
    Ok(megabytes(size_bytes) / begin.elapsed().as_secs_f64())
}

/// Thousands of 4 KiB reads a second within clusters that have data, from one thread.
pub(crate) fn random(source: &dyn Readable, clusters: &[u64], time: Duration) -> Result<f64> {
    source.forget(true)?;
    let begin = Instant::now();
    let count = read_at_random(source, clusters, 1, begin + time)?;
    Ok(float(count) / begin.elapsed().as_secs_f64() / 1000.0)
}

/// The same from four threads.
pub(crate) fn random_by_4(
    source: &(dyn Readable + Sync),
    clusters: &[u64],
    time: Duration,
) -> Result<f64> {
    source.forget(true)?;
    let begin = Instant::now();
    let work = |seed| {
        read_at_random(source, clusters, seed, begin + time).map_err(|error| error.to_string())
    };
    let counts: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=4)
            .map(|seed| scope.spawn(move || work(seed)))
            .collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let seconds = begin.elapsed().as_secs_f64();
    let mut sum = 0;
    for count in counts {
        sum += count.map_err(|_| "a reading thread panicked")??;
    }
    Ok(float(sum) / seconds / 1000.0)
}

/// Reads until `end`; how many times.
fn read_at_random(source: &dyn Readable, clusters: &[u64], seed: u64, end: Instant) -> Result<u64> {
    let mut dice = Dice::new(seed);
    let mut buf = vec![0; usize::try_from(BLOCK_BYTES)?];
    let mut count = 0;
    while Instant::now() < end {
        for _ in 0..16 {
            let pick = usize::try_from(dice.below(clusters.len() as u64))?;
            let block = dice.below(CLUSTER_BYTES / BLOCK_BYTES);
            source.read(
                clusters[pick] * CLUSTER_BYTES + block * BLOCK_BYTES,
                &mut buf,
            )?;
            count += 1;
        }
    }
    Ok(count)
}

/// Bytes in units of 10^6.
pub(crate) fn megabytes(bytes: u64) -> f64 {
    float(bytes) / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn float(n: u64) -> f64 {
    n as f64
}
