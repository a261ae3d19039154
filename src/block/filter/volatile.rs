//! A disk that loses unflushed data when its power is cut: for tests of crash consistency.
//!
//! It holds its durable bytes and every change since the last flush. All disks of a machine share one
//! [`Power`], which counts their flushes and goes off at a chosen one; then everything fails.
//! [`Volatile::after_power_loss`] gives the content that the next boot finds.
//!
//! # Faults that must be survived
//! Each change since the last flush may be present or absent, regardless of order (a later one may be present
//! while an earlier one is missing), may be torn at sector boundaries, or may have grown the file while its
//! bytes are still zero. A flushed change is always present whole.
//!
//! Usage: pass 1 runs with power that never fails and reads [`Power::flushes`]. Pass 2 runs for each smaller
//! N with [`Power::off_at`], takes [`Volatile::after_power_loss`] for some seeds, opens it again and checks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};

use crate::block::{Extent, MemoryDisk, ReadAt, WriteAt};
use crate::error::{Error, ErrorKind, Result};
use crate::types::sync::Mutex;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// Bytes that a device writes whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// The power supply of one or more [`Volatile`] disks.
#[derive(Debug)]
pub struct Power {
    flushes: AtomicU64,
    off_at: u64,
    off: AtomicBool,
}

impl Power {
    /// Power that never fails by itself.
    #[must_use]
    pub fn steady() -> Arc<Self> {
        Self::off_at(u64::MAX)
    }

    /// Power that goes off at flush number `n` (from 0, over all disks): that flush does not happen.
    #[must_use]
    pub fn off_at(n: u64) -> Arc<Self> {
        Arc::new(Self {
            flushes: AtomicU64::new(0),
            off_at: n,
            off: AtomicBool::new(false),
        })
    }

    /// Flushes so far.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::SeqCst)
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        self.off.load(Ordering::SeqCst)
    }

    /// Cuts the power now.
    pub fn cut(&self) {
        self.off.store(true, Ordering::SeqCst);
    }

    /// Fails when the power is off.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_off() {
            Err(Error::new(ErrorKind::Io, "the power is off"))
        } else {
            Ok(())
        }
    }

    /// Counts a flush, and goes off when this is the chosen one.
    pub(crate) fn flush(&self) -> Result<()> {
        self.check()?;
        if self.flushes.fetch_add(1, Ordering::SeqCst) >= self.off_at {
            self.cut();
        }
        self.check()
    }
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Arc<[u8]>),
    SetSize(u64),
    Punch(u64, u64),
}

impl Change {
    fn apply(&self, disk: &MemoryDisk) -> Result<()> {
        match self {
            Self::Write(offset, bytes) => disk.write_at(*offset, bytes),
            Self::SetSize(size_bytes) => disk.set_size(*size_bytes),
            Self::Punch(offset, length_bytes) => disk.punch(*offset, *length_bytes),
        }
    }

    /// Applies the part of the change that the seed keeps.
    fn apply_torn(&self, disk: &MemoryDisk, random: &mut impl FnMut() -> u64) -> Result<()> {
        let Self::Write(offset, bytes) = self else {
            return self.apply(disk);
        };
        let end = offset + u64_from_usize(bytes.len());
        let mut at = *offset;
        while at < end {
            let next = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
            let range = usize_from_u64(at - offset)..usize_from_u64(next - offset);
            if random().is_multiple_of(2)
                && let Some(part) = bytes.get(range)
            {
                disk.write_at(at, part)?;
            }
            at = next;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct State {
    live: MemoryDisk,
    durable: MemoryDisk,
    pending: Vec<Change>,
}

/// A disk that loses unflushed writes at a power cut.
#[derive(Debug)]
pub struct Volatile {
    power: Arc<Power>,
    state: Mutex<State>,
}

impl Volatile {
    /// An empty disk.
    #[must_use]
    pub fn new(power: &Arc<Power>) -> Self {
        Self::with_content(power, MemoryDisk::new())
    }

    /// A disk whose durable bytes are `content`: the result of an earlier power loss.
    #[must_use]
    pub fn with_content(power: &Arc<Power>, content: MemoryDisk) -> Self {
        Self {
            power: Arc::clone(power),
            state: Mutex::new(State {
                live: content.clone(),
                durable: content,
                pending: Vec::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The content after a power loss now. Each seed is one possible outcome: seed 0 loses everything
    /// unflushed, seed 1 loses nothing.
    ///
    /// # Errors
    /// None in practice: memory takes every write.
    pub fn after_power_loss(&self, seed: u64) -> Result<MemoryDisk> {
        let state = self.state();
        let disk = state.durable.clone();
        // xorshift64*, Vigna 2016; it must not start from 0.
        let mut random_state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = move || {
            random_state ^= random_state >> 12;
            random_state ^= random_state << 25;
            random_state ^= random_state >> 27;
            random_state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33
        };
        for change in &state.pending {
            match (seed, random() % 8) {
                (0, _) => {}
                (1, _) | (_, 0..3) => change.apply(&disk)?,
                (_, 3 | 4) => change.apply_torn(&disk, &mut random)?,
                (_, 5) => {
                    if let Change::Write(offset, bytes) = change {
                        let end = offset + u64_from_usize(bytes.len());
                        disk.set_size(end.max(disk.size_bytes()))?;
                    }
                }
                _ => {}
            }
        }
        Ok(disk)
    }

    fn change(&self, change: Change) -> Result<()> {
        self.power.check()?;
        let mut state = self.state();
        change.apply(&state.live)?;
        state.pending.push(change);
        Ok(())
    }
}

impl ReadAt for Volatile {
    fn size_bytes(&self) -> u64 {
        self.state().live.size_bytes()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.power.check()?;
        self.state().live.read_at(offset, buf)
    }

    fn extent_at(&self, offset: u64, length_max: u64) -> Result<Extent> {
        self.power.check()?;
        self.state().live.extent_at(offset, length_max)
    }
}

impl WriteAt for Volatile {
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.change(Change::Write(offset, buf.into()))
    }

    fn flush(&self) -> Result<()> {
        let mut state = self.state();
        self.power.flush()?;
        for change in std::mem::take(&mut state.pending) {
            change.apply(&state.durable)?;
        }
        Ok(())
    }

    fn set_size(&self, size_bytes: u64) -> Result<()> {
        self.change(Change::SetSize(size_bytes))
    }

    fn punch(&self, offset: u64, length_bytes: u64) -> Result<()> {
        self.change(Change::Punch(offset, length_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::{Power, Volatile};
    use crate::block::conformance::check_write_at;
    use crate::block::{ReadAt, WriteAt};
    use std::collections::BTreeSet;
    use std::sync::Arc;

    #[test]
    fn conforms_while_the_power_is_on() {
        check_write_at(&|| Arc::new(Volatile::new(&Power::steady())));
    }

    #[test]
    fn flushed_bytes_survive_and_others_may_not() {
        let power = Power::off_at(1);
        let disk = Volatile::new(&power);
        disk.write_at(0, &[1; 2048]).unwrap();
        disk.flush().unwrap();
        disk.write_at(512, &[2; 1024]).unwrap();
        disk.write_at(4096, &[3; 512]).unwrap();
        assert!(disk.flush().is_err(), "this flush meets the power cut");
        assert!(disk.read_at(0, &mut [0]).is_err());
        assert!(power.is_off());
        let lost = disk.after_power_loss(0).unwrap().to_bytes();
        assert_eq!(lost, [1; 2048]);
        let kept = disk.after_power_loss(1).unwrap();
        assert_eq!((kept.size_bytes(), kept.to_bytes()[512]), (4608, 2));
        let mut seen = BTreeSet::new();
        for seed in 2..200 {
            let found = disk.after_power_loss(seed).unwrap();
            let bytes = found.to_bytes();
            assert!(
                bytes[..512]
                    .iter()
                    .chain(&bytes[1536..2048])
                    .all(|b| *b == 1)
            );
            for sector in bytes.chunks(512) {
                assert!(sector.iter().all(|b| *b == sector[0]), "a torn sector");
            }
            assert_eq!(
                bytes,
                disk.after_power_loss(seed).unwrap().to_bytes(),
                "seeds reproduce"
            );
            seen.insert((
                bytes[512],
                bytes[1024],
                found.size_bytes(),
                bytes.last().copied(),
            ));
        }
        assert!(seen.len() >= 8, "only {seen:?}");
    }

    #[test]
    fn disks_share_the_power() {
        let power = Power::off_at(2);
        let (a, b) = (Volatile::new(&power), Volatile::new(&power));
        a.flush().unwrap();
        b.flush().unwrap();
        assert!(a.flush().is_err() && b.write_at(0, b"x").is_err());
        assert_eq!(power.flushes(), 3);
    }
}
