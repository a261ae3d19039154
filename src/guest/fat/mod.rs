//! FAT12, FAT16 and FAT32, read without another crate.
//!
//! # Invariants
//! - An inode number is the offset of its entry on the volume divided by the entry size of 32 bytes; the root
//!   directory is 1, where no entry can be. It is below 2^32 on volumes of up to 128 GiB. A number that no
//!   directory contains is not detected: the reader interprets the bytes at that place.
//! - Attributes are those that Linux shows when root mounts it without options: root owns everything,
//!   directories and files have mode 0755, read-only files 0555. Times are interpreted as UTC.
//! - A file's bytes are plain runs. The part of its size beyond its chain is `Encoded`, and reading it yields
//!   `Corrupt`.
//!
//! # Why
//! The format is small, and the existing crates neither return the place of an entry nor decode short names.

mod boot;
mod entry;
mod name;
mod table;

use std::sync::Arc;

use super::bytes::le32;
use super::cache::PageCache;
use super::content;
use super::directory::Directory;
use super::fs::{Attributes, Entry, FileType, FsInfo, GuestFs, GuestIno, Time, Xattr};
use crate::block::run::{Run, RunMap, Target};
use crate::block::{ReadAt, Weighted, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::types::width::{u64_from_usize, usize_from_u64};
use boot::{Boot, Root};
use entry::{ENTRY_BYTES, FileEntry, Listing};

/// LIMIT: bytes of the volume cached per open filesystem.
const CACHE_BYTES: u64 = 8 << 20;
/// LIMIT: directory entries, and runs, that are cached per open filesystem.
const ENTRIES_KEPT: usize = 1 << 18;
const RUNS_KEPT: usize = 1 << 18;
/// LIMIT: bytes of one directory (Linux: 65,536 entries; the format has no such number).
const DIRECTORY_BYTES_MAX: u64 = 16 << 20;
/// LIMIT: bytes of a table to read for counting free clusters; for a larger table the stored count is used.
const COUNTED_BYTES_MAX: u64 = 4 << 20;
/// The root directory.
const ROOT: u64 = 1;

/// Location of the bytes of a directory: offsets and lengths.
type Places = Vec<(u64, u64)>;

/// The content of a directory.
struct Listed {
    directory: Directory,
    subdirectories: u32,
    size_bytes: u64,
}

struct FatFs {
    boot: Boot,
    volume: Arc<dyn ReadAt>,
    info: FsInfo,
    directories: Weighted<u64, Arc<Listed>>,
    maps: Weighted<u64, Arc<RunMap<()>>>,
}

/// Opens a FAT filesystem.
///
/// # Errors
/// `Unsupported` for an unknown version of FAT32; `Corrupt`; `Io`.
pub fn open(devices: &[Arc<dyn ReadAt>]) -> Result<Box<dyn GuestFs>> {
    let volume = devices.first().ok_or_else(|| Error::invalid("no device"))?;
    let volume: Arc<dyn ReadAt> = Arc::new(PageCache::new(Arc::clone(volume), CACHE_BYTES));
    let boot = load_boot(&volume)?;
    let root = list(&boot, &volume, None)?.0;
    let info = info(&boot, &volume, root.label)?;
    Ok(Box::new(FatFs {
        boot,
        volume,
        info,
        directories: Weighted::new(ENTRIES_KEPT),
        maps: Weighted::new(RUNS_KEPT),
    }))
}

/// The label in the root directory, which wins over the one in the boot sector.
pub(super) fn label(volume: &dyn ReadAt) -> Option<String> {
    let boot = load_boot(volume).ok()?;
    list(&boot, volume, None).ok()?.0.label
}

fn load_boot(volume: &dyn ReadAt) -> Result<Boot> {
    let mut sector = [0; 512];
    read(volume, 0, &mut sector)?;
    Boot::parse(&sector)
}

/// Reads metadata; a place beyond the volume is damage.
fn read(volume: &dyn ReadAt, offset: u64, buf: &mut [u8]) -> Result<()> {
    volume.read_at(offset, buf).map_err(|error| {
        if error.kind() == ErrorKind::InvalidInput {
            error.with_kind(ErrorKind::Corrupt)
        } else {
            error
        }
    })
}

fn info(boot: &Boot, volume: &dyn ReadAt, label: Option<String>) -> Result<FsInfo> {
    let mut notes = Vec::new();
    if boot.is_dirty {
        notes.push("the guest has not unmounted the filesystem".to_owned());
    }
    let free = if boot.table_bytes <= COUNTED_BYTES_MAX {
        Some(table::count_free(boot, volume)?)
    } else {
        stored_free(boot, volume)
    };
    if free.is_none() {
        notes.push("the filesystem does not record its free space".to_owned());
    }
    let used = boot.clusters.saturating_sub(free.unwrap_or(0));
    let (high, low) = (boot.serial >> 16, boot.serial & 0xffff);
    Ok(FsInfo {
        format: "vfat",
        label,
        uuid: (boot.serial != 0).then(|| format!("{high:04X}-{low:04X}")),
        block_bytes: u32::try_from(boot.cluster_bytes).unwrap_or(u32::MAX),
        total_bytes: boot.total_bytes,
        used_bytes: used.saturating_mul(boot.cluster_bytes),
        inodes: None,
        inodes_free: None,
        journal_replayed: None,
        notes,
    })
}

/// The number of free clusters that FAT32 stores, if it is plausible.
fn stored_free(boot: &Boot, volume: &dyn ReadAt) -> Option<u64> {
    let mut sector = [0; 512];
    volume.read_at(boot.free_hint?, &mut sector).ok()?;
    let is_signed = sector.starts_with(b"RRaA") && sector.get(484..488) == Some(b"rrAa");
    let free = u64::from(le32(&sector, 488)?);
    (is_signed && free <= boot.clusters).then_some(free)
}

/// Reads a directory (the root where `first` is `None`): its content, the places of its bytes, and their
/// number.
fn list(boot: &Boot, volume: &dyn ReadAt, first: Option<u64>) -> Result<(Listing, Places, u64)> {
    let mut places = Places::new();
    match (first, boot.root) {
        (None, Root::Area(offset, length)) => places.push((offset, length)),
        (Some(cluster), _) | (None, Root::Cluster(cluster)) => {
            let most = DIRECTORY_BYTES_MAX / boot.cluster_bytes;
            let chain = table::chain(boot, volume, cluster, most + 1)?;
            if let Some(error) = chain.broken {
                return Err(error);
            }
            if chain.clusters > most {
                return Err(Error::new(
                    ErrorKind::LimitExceeded,
                    format!("a directory has more than {DIRECTORY_BYTES_MAX} bytes"),
                ));
            }
            for piece in chain.pieces {
                places.push((boot.offset(piece.first), piece.count * boot.cluster_bytes));
            }
        }
    }
    let size: u64 = places.iter().map(|(_, length)| length).sum();
    let mut bytes = vec![0; usize_from_u64(size)];
    let mut rest = bytes.as_mut_slice();
    for (offset, length) in &places {
        let (part, after) = rest
            .split_at_mut_checked(usize_from_u64(*length))
            .unwrap_or_default();
        read(volume, *offset, part)?;
        rest = after;
    }
    let is_wide = boot.width == boot::Width::Bits32;
    Ok((entry::list(&bytes, is_wide), places, size))
}

/// The inode number of the `n`th entry of a directory at `places`.
fn number(places: &[(u64, u64)], n: usize) -> u64 {
    let entry = u64_from_usize(ENTRY_BYTES);
    let mut at = u64_from_usize(n) * entry;
    for (offset, length) in places {
        if at < *length {
            return (offset + at) / entry;
        }
        at -= length;
    }
    0
}

impl FatFs {
    /// The entry of an inode; `None` for the root directory.
    fn entry(&self, ino: GuestIno) -> Result<Option<FileEntry>> {
        let missing = || Error::not_found(format!("there is no inode {} in the guest", ino.0));
        if ino.0 == ROOT {
            return Ok(None);
        }
        let at = ino.0.checked_mul(u64_from_usize(ENTRY_BYTES));
        let first = match self.boot.root {
            Root::Area(offset, _) => offset,
            Root::Cluster(_) => self.boot.data,
        };
        let end = self.boot.offset(self.boot.clusters + boot::FIRST_CLUSTER);
        let at = at
            .filter(|at| (first..end).contains(at))
            .ok_or_else(missing)?;
        let mut bytes = [0; ENTRY_BYTES];
        read(&self.volume, at, &mut bytes)?;
        let is_wide = self.boot.width == boot::Width::Bits32;
        FileEntry::parse(&bytes, is_wide)
            .ok_or_else(missing)
            .map(Some)
    }

    fn listed(&self, ino: GuestIno) -> Result<Arc<Listed>> {
        let entry = self.entry(ino)?;
        if entry.as_ref().is_some_and(|entry| !entry.is_directory) {
            return Err(Error::new(ErrorKind::NotADirectory, "not a directory"));
        }
        self.directories.get_or(ino.0, || {
            let first = entry.map(|entry| entry.cluster);
            let (listing, places, size_bytes) = list(&self.boot, &self.volume, first)?;
            let directories = listing.files.iter().filter(|(_, _, f)| f.is_directory);
            let subdirectories = u32::try_from(directories.count()).unwrap_or(u32::MAX);
            let entries = listing.files.into_iter().map(|(name, n, _)| Entry {
                name,
                ino: GuestIno(number(&places, n)),
            });
            let directory = Directory::new(ino.0, entries)?;
            let weight = directory.weight();
            let listed = Listed {
                directory,
                subdirectories,
                size_bytes,
            };
            Ok((Arc::new(listed), weight))
        })
    }

    fn file(&self, ino: GuestIno) -> Result<FileEntry> {
        self.entry(ino)?
            .filter(|entry| !entry.is_directory)
            .ok_or_else(|| Error::invalid("not a regular file"))
    }

    /// The chain of a file, as far as its size needs it.
    fn chain(&self, file: &FileEntry) -> Result<table::Chain> {
        let wanted = file.size_bytes.div_ceil(self.boot.cluster_bytes);
        table::chain(&self.boot, &self.volume, file.cluster, wanted)
    }

    fn map(&self, file: &FileEntry) -> Result<RunMap<()>> {
        let mut runs = Vec::new();
        let mut start = 0;
        for piece in self.chain(file)?.pieces {
            let length_bytes = piece.count * self.boot.cluster_bytes;
            runs.push(Run {
                start,
                length_bytes,
                target: Target::Source {
                    source: (),
                    offset: self.boot.offset(piece.first),
                },
            });
            start += length_bytes;
        }
        if start < file.size_bytes {
            runs.push(Run {
                start,
                length_bytes: file.size_bytes - start,
                target: Target::Encoded,
            });
        }
        RunMap::new(file.size_bytes, runs)
    }
}

impl GuestFs for FatFs {
    fn info(&self) -> &FsInfo {
        &self.info
    }

    fn root(&self) -> GuestIno {
        GuestIno(ROOT)
    }

    fn attributes(&self, ino: GuestIno) -> Result<Attributes> {
        let entry = self.entry(ino)?;
        let is_directory = entry.as_ref().is_none_or(|entry| entry.is_directory);
        let (nlink, size_bytes) = if is_directory {
            let listed = self.listed(ino)?;
            // Its own entry and that in its parent.
            (listed.subdirectories.saturating_add(2), listed.size_bytes)
        } else {
            (1, entry.as_ref().map_or(0, |entry| entry.size_bytes))
        };
        let is_read_only = !is_directory && entry.as_ref().is_some_and(|e| e.is_read_only);
        let epoch = Time::default();
        let written = entry.as_ref().map_or(epoch, |entry| entry.written);
        Ok(Attributes {
            ino,
            file_type: if is_directory {
                FileType::Directory
            } else {
                FileType::Regular
            },
            mode: if is_read_only { 0o555 } else { 0o755 },
            uid: 0,
            gid: 0,
            nlink,
            size_bytes,
            blocks: size_bytes.next_multiple_of(self.boot.cluster_bytes) / 512,
            atime: entry.as_ref().map_or(epoch, |entry| entry.accessed),
            mtime: written,
            ctime: written,
            crtime: entry.map(|entry| entry.created),
            rdev: None,
        })
    }

    fn entries(&self, ino: GuestIno) -> Result<Arc<[Entry]>> {
        Ok(self.listed(ino)?.directory.entries())
    }

    fn lookup(&self, ino: GuestIno, name: &[u8]) -> Result<GuestIno> {
        self.listed(ino)?.directory.lookup(name)
    }

    fn symlink_target(&self, ino: GuestIno) -> Result<Vec<u8>> {
        self.entry(ino)?;
        Err(Error::invalid("not a symbolic link"))
    }

    fn xattrs(&self, ino: GuestIno) -> Result<Arc<[Xattr]>> {
        self.entry(ino)?;
        Ok(Arc::new([]))
    }

    fn runs(&self, ino: GuestIno) -> Result<Arc<RunMap<()>>> {
        let file = self.file(ino)?;
        self.maps.get_or(ino.0, || {
            let map = self.map(&file)?;
            let weight = map.runs().len() + 1;
            Ok((Arc::new(map), weight))
        })
    }

    fn read_encoded(&self, ino: GuestIno, offset: u64, buf: &mut [u8]) -> Result<()> {
        let file = self.file(ino)?;
        check_range(file.size_bytes, offset, u64_from_usize(buf.len()))?;
        let map = self.runs(ino)?;
        content::read(&map, &self.volume, offset, buf, |at, _| {
            let chain = self.chain(&file)?;
            let short = Error::corrupt(
                "the clusters of a file",
                format!("enough for {} bytes", file.size_bytes),
                chain.clusters,
            );
            Err(match chain.broken {
                Some(cause) => short.caused_by(cause),
                None => short,
            }
            .at_offset(at))
        })
    }
}
