//! Inode numbers: unique in the mount and the same after a remount.
//!
//! # Layout
//! | bits | meaning |
//! |---|---|
//! | 63 to 40 | serial of the point or VM (`src/FORMATS.md`); 0: the root, and numbers from the table |
//! | 39 to 32 | volume: 0 is the tree itself, 1 to 254 are guests' filesystems |
//! | 31 to 0 | inode in the guest, or one of the constants in [`low`] |
//!
//! These are the parts of a number *before it is spread*: its upper half is combined with the lower one by
//! XOR; the same operation reverses it.
//!
//! A guest inode beyond 32 bits, or a 255th volume, does not fit. It gets a number from the [`Table`], as
//! serial 0, volume 255.
//!
//! # Why
//! The kernel uses the inode number as the node's id, so that no table of nodes is needed: any number can be
//! resolved at any time, including one that an NFS client kept over a restart.
//!
//! Numbers are spread because of the kernel's inode hash: its key is a product with the address of the
//! superblock, whose lower bits depend only on the lower bits of the number. 100,000 points with the same
//! lower half would share 64 of its rows, and each listing would walk rows of thousands of entries.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::block::{ReadAt, WriteAt};
use crate::error::{Error, ErrorKind, Result};
use crate::repo::{Repository, layout};
use crate::types::SessionId;
use crate::types::sync::Mutex;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// The lower 32 bits of the tree's own nodes (volume 0).
pub(super) mod low {
    /// The directory of a VM or point.
    pub(in crate::tree) const SELF: u32 = 1;
    /// The symlink `latest` that names this point.
    pub(in crate::tree) const LATEST: u32 = 2;
    /// `attached/`.
    pub(in crate::tree) const ATTACHED: u32 = 3;
    /// `disks/`.
    pub(in crate::tree) const DISKS: u32 = 4;
    /// `volumes/`.
    pub(in crate::tree) const VOLUMES: u32 = 5;
    /// `files`, or `files@...`: plus the tree's position.
    pub(in crate::tree) const FILES: u32 = 0x0500_0000;
    /// An attached file: plus the file's position.
    pub(in crate::tree) const ATTACHED_FILE: u32 = 0x0100_0000;
    /// A disk: plus the disk's position.
    pub(in crate::tree) const DISK: u32 = 0x0200_0000;
    /// A directory below `volumes/`: plus 24 bits of the hash of its path.
    pub(in crate::tree) const VOLUME_DIR: u32 = 0x0300_0000;
    /// A volume's raw bytes: likewise.
    pub(in crate::tree) const VOLUME_RAW: u32 = 0x0400_0000;
    /// `info.json`: plus 30 bits of the hash of its bytes.
    pub(in crate::tree) const INFO: u32 = 0x4000_0000;
    /// `volumes.json`: likewise.
    pub(in crate::tree) const VOLUMES_JSON: u32 = 0x8000_0000;
    /// Bits of a position or of a path's hash.
    pub(in crate::tree) const INDEX_MASK: u32 = 0x00ff_ffff;
    /// Bits of the hash of a document.
    pub(in crate::tree) const DOCUMENT_MASK: u32 = 0x3fff_ffff;
}

/// Volume of numbers from the table; packed numbers never have it.
const TABLE_VOLUME: u8 = 255;
/// LIMIT: numbers in the table (our limit); about 100 bytes each.
const TABLE_MAX: usize = 1 << 20;

/// An inode number of the mount.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory.
    pub const ROOT: Self = Self(1);

    /// Packs the three parts; it keeps 24 bits of `serial`.
    #[must_use]
    pub const fn pack(serial: u32, volume: u8, low: u32) -> Self {
        let [_, a, b, c] = serial.to_be_bytes();
        let [e, f, g, h] = low.to_be_bytes();
        Self(Self::spread(u64::from_be_bytes([
            a, b, c, volume, e, f, g, h,
        ])))
    }

    /// Combines the upper half with the lower one; a second call reverses it.
    const fn spread(number: u64) -> u64 {
        number ^ (number >> 32)
    }

    const fn parts(self) -> [u8; 8] {
        Self::spread(self.0).to_be_bytes()
    }

    /// The serial.
    #[must_use]
    pub const fn serial(self) -> u32 {
        let [a, b, c, ..] = self.parts();
        u32::from_be_bytes([0, a, b, c])
    }

    /// The volume.
    #[must_use]
    pub const fn volume(self) -> u8 {
        let [_, _, _, volume, ..] = self.parts();
        volume
    }

    /// The lower 32 bits.
    #[must_use]
    pub const fn low(self) -> u32 {
        let [.., e, f, g, h] = self.parts();
        u32::from_be_bytes([e, f, g, h])
    }

    /// Whether it is a number from the table.
    pub(super) const fn is_from_table(self) -> bool {
        self.serial() == 0 && self.volume() == TABLE_VOLUME
    }
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.serial(), self.volume(), self.low())
    }
}

/// The inode that a number from the table represents.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Far {
    /// Serial of the point.
    pub(super) serial: u32,
    /// Inode in the guest.
    pub(super) ino: u64,
    /// Path of the volume below `volumes/`.
    pub(super) volume: String,
}

/// Prefix of the volume in a [`Far`] for an instance of `files/`; no path of a volume begins with it.
const INSTANCE: &str = "files#";

impl Far {
    /// The value of `volume` for files in the instance at that position.
    pub(super) fn of_instance(at: usize) -> String {
        format!("{INSTANCE}{at}")
    }

    /// The position of the instance, if `volume` names one.
    pub(super) fn instance(&self) -> Option<usize> {
        self.volume.strip_prefix(INSTANCE)?.parse().ok()
    }

    fn line(&self, number: u32) -> String {
        format!("{number} {} {} {}\n", self.serial, self.ino, self.volume)
    }

    fn parse(line: &str) -> Option<(u32, Self)> {
        let mut words = line.splitn(4, ' ');
        let number = words.next()?.parse().ok()?;
        let serial = words.next()?.parse().ok()?;
        let ino = words.next()?.parse().ok()?;
        let volume = words.next()?.to_owned();
        Some((
            number,
            Self {
                serial,
                ino,
                volume,
            },
        ))
    }
}

#[derive(Default)]
struct Numbers {
    by_far: HashMap<Arc<Far>, u32>,
    by_number: HashMap<u32, Arc<Far>>,
    next: u32,
    file: Option<Arc<dyn WriteAt>>,
}

/// Numbers for inodes that do not fit; the owner of the repository keeps them in `cache/inodes`.
pub(super) struct Table(Mutex<Numbers>);

impl Table {
    /// The table of this mount; `persistent` if this process may write to the repository.
    pub(super) fn open(repository: &Repository, persistent: bool) -> Self {
        let mut numbers = Numbers {
            // After a loss of the table old handles must not get a new meaning, so numbers begin at a random
            // value.
            next: u32::from_be_bytes(first_bytes(SessionId::random().to_bytes())) >> 1,
            ..Numbers::default()
        };
        let opened = Self::load(repository, persistent, &mut numbers);
        if let Err(error) = opened {
            tracing::warn!(error = %error.report(), "the table of inode numbers is not kept");
            numbers.file = None;
        }
        Self(Mutex::new(numbers))
    }

    fn load(repository: &Repository, persistent: bool, numbers: &mut Numbers) -> Result<()> {
        let key = layout::cache()?.join("inodes")?;
        let stage = repository.stage();
        let file = match stage.open(&key) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound && persistent => {
                stage.make_prefix(&layout::cache()?)?;
                stage.create(&key)?
            }
            Err(_) if !persistent => return Ok(()),
            Err(e) => return Err(e),
        };
        // LIMIT: restorefs writes no longer file.
        let length = usize_from_u64(file.size_bytes()).min(TABLE_MAX * 256);
        let mut bytes = vec![0; length];
        file.read_at(0, &mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        for (number, far) in text.lines().filter_map(Far::parse) {
            numbers.keep(number, far);
            numbers.next = number.wrapping_add(1);
        }
        numbers.file = persistent.then_some(file);
        Ok(())
    }

    /// The number of `far`; a new one if it has none yet.
    pub(super) fn number(&self, far: Far) -> Result<Ino> {
        let mut numbers = self.0.lock();
        if let Some(number) = numbers.by_far.get(&far) {
            return Ok(Ino::pack(0, TABLE_VOLUME, *number));
        }
        if numbers.by_far.len() >= TABLE_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("more than {TABLE_MAX} guest inodes need a number of their own"),
            ));
        }
        let number = numbers.next;
        numbers.next = number.wrapping_add(1);
        if let Some(file) = &numbers.file
            && let Err(error) = file.write_at(file.size_bytes(), far.line(number).as_bytes())
        {
            tracing::warn!(error = %error.report(), "the table of inode numbers is not kept");
            numbers.file = None;
        }
        numbers.keep(number, far);
        Ok(Ino::pack(0, TABLE_VOLUME, number))
    }

    /// The inode that a number from the table represents.
    pub(super) fn get(&self, ino: Ino) -> Option<Arc<Far>> {
        let numbers = self.0.lock();
        numbers.by_number.get(&ino.low()).cloned()
    }
}

impl Numbers {
    fn keep(&mut self, number: u32, far: Far) {
        let far = Arc::new(far);
        self.by_far.insert(Arc::clone(&far), number);
        self.by_number.insert(number, far);
    }
}

fn first_bytes(bytes: [u8; 16]) -> [u8; 4] {
    let [a, b, c, d, ..] = bytes;
    [a, b, c, d]
}

/// The first 32 bits of the BLAKE3 of `bytes`.
pub(super) fn hash(bytes: &[u8]) -> u32 {
    let [a, b, c, d, ..] = *blake3::hash(bytes).as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// A position as the lower bits of an inode number; `None` when it does not fit.
pub(super) fn index_bits(index: usize) -> Option<u32> {
    u32::try_from(u64_from_usize(index))
        .ok()
        .filter(|n| *n <= low::INDEX_MASK)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{Far, Ino, Table};
    use crate::clock::{Clock, ManualClock};
    use crate::repo::Repository;
    use crate::store::MemoryStore;
    use std::sync::Arc;

    #[test]
    fn parts_come_back() {
        for (serial, volume, low) in [
            (0, 0, 1),
            ((1 << 24) - 1, 254, u32::MAX),
            (7, 1, 2),
            (1, 0, 0x8000_0000),
        ] {
            let ino = Ino::pack(serial, volume, low);
            assert_eq!(
                (ino.serial(), ino.volume(), ino.low()),
                (serial, volume, low)
            );
        }
        assert_eq!(Ino::pack(0, 0, 1), Ino::ROOT);
    }

    /// The row in the kernel's inode hash table: `hash()` of fs/inode.c, with 2^20 rows.
    fn row(ino: Ino, superblock: u64) -> u64 {
        const GOLDEN: u64 = 0x61c8_8646_80b5_83eb;
        let key = ino.0.wrapping_mul(superblock) ^ (GOLDEN.wrapping_add(ino.0) / 64);
        (key ^ ((key ^ GOLDEN) >> 20)) & ((1 << 20) - 1)
    }

    #[test]
    fn numbers_share_no_rows_of_the_kernels_table() {
        let points = (1..=50_000).map(|serial| Ino::pack(serial, 0, 1));
        let files = (1..=50_000).map(|low| Ino::pack(70_000, 1, low));
        let documents = (1..=50_000).map(|serial| Ino::pack(serial, 0, 0x4abc_def0));
        let far = (1..=50_000).map(|number| Ino::pack(0, 255, number));
        let all: [Vec<Ino>; 4] = [
            points.collect(),
            files.collect(),
            documents.collect(),
            far.collect(),
        ];
        for superblock in [0xffff_8881_0234_5800, 0xffff_9f3c_4d1e_f000] {
            for numbers in &all {
                let rows: HashSet<u64> = numbers.iter().map(|n| row(*n, superblock)).collect();
                assert!(rows.len() > 25_000, "{:?}: {}", numbers[0], rows.len());
            }
        }
    }

    fn far(ino: u64) -> Far {
        Far {
            serial: 7,
            ino,
            volume: "vda/part/1".to_owned(),
        }
    }

    #[test]
    fn numbers_outlive_the_process_that_may_write() {
        let store = Arc::new(MemoryStore::new());
        let now = ManualClock::at(1_795_226_400).now();
        Repository::init_store(store.clone(), store.clone(), now).unwrap();
        let repository = Repository::open_store(store.clone(), store).unwrap();
        let table = Table::open(&repository, true);
        let one = table.number(far(1 << 40)).unwrap();
        let two = table.number(far(2 << 40)).unwrap();
        assert_ne!(one, two);
        assert!(one.is_from_table());
        assert_eq!(table.number(far(1 << 40)).unwrap(), one);
        assert_eq!(table.get(one).as_deref(), Some(&far(1 << 40)));
        // A follower reads the numbers, and keeps its own ones in memory.
        let follower = Table::open(&repository, false);
        assert_eq!(follower.number(far(2 << 40)).unwrap(), two);
        let third = follower.number(far(3 << 40)).unwrap();
        let again = Table::open(&repository, true);
        assert_eq!(again.get(two).as_deref(), Some(&far(2 << 40)));
        assert_eq!(again.get(third), None);
        assert_eq!(again.number(far(4 << 40)).unwrap(), third);
    }
}
