//! Records: a reader's facts about an inode in one answer, so that a walk needs one question for each
//! directory instead of five for each file.

use std::sync::Arc;

use super::fs::{
    Attributes, Entry, FileType, FsInfo, GuestFs, GuestIno, Subvolume, Trouble, Xattr,
};
use crate::block::run::{RunMap, Target};
use crate::error::Result;

/// LIMIT: approximate bytes of entries and records in one listing.
const LISTING_BYTES: usize = 384 << 10;
/// LIMIT: entries with records in one listing.
const LISTING_ENTRIES: usize = 2048;
/// LIMIT: directories in one answer.
const LISTINGS_MAX: usize = 256;
/// A directory with at most this many subdirectories is listed together with them.
const DESCENT_MAX: usize = 8;
/// LIMIT: runs, and bytes of xattrs, in a record; larger ones need their own question.
const RECORD_RUNS: usize = 64;
const RECORD_XATTR_BYTES: usize = 4096;
/// The runs of larger files are requested only for reads: a walk of names would otherwise read their whole
/// extent trees.
const RUNS_ALONG_BYTES: u64 = 64 << 20;

/// An inode; `None` means that the record does not contain the fact, and a separate question is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its attributes.
    pub attributes: Attributes,
    /// Target of a symlink.
    pub target: Option<Arc<[u8]>>,
    /// All extended attributes.
    pub xattrs: Option<Arc<[Xattr]>>,
    /// Location of a regular file's bytes.
    pub runs: Option<Arc<RunMap<()>>>,
}

impl Record {
    /// Approximate memory use in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        let target = self.target.as_ref().map_or(0, |target| target.len());
        let xattrs = self.xattrs.as_ref().map_or(0, |list| xattr_bytes(list));
        let runs = self.runs.as_ref().map_or(0, |map| run_bytes(map));
        320 + target + xattrs + runs
    }
}

fn xattr_bytes(xattrs: &[Xattr]) -> usize {
    xattrs
        .iter()
        .map(|x| x.name.len() + x.value.len() + 64)
        .sum()
}

fn run_bytes(map: &RunMap<()>) -> usize {
    let inline = |target: &Target<()>| match target {
        Target::Inline(bytes) => bytes.len(),
        Target::Source { .. } | Target::Hole | Target::Encoded => 0,
    };
    map.runs().iter().map(|run| 48 + inline(&run.target)).sum()
}

/// A part of the entries of a directory, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Entries with their records; `None` when the inode could not be read, and its own question returns the
    /// error.
    pub entries: Vec<(Entry, Option<Record>)>,
    /// Whether there are more.
    pub more: bool,
}

impl Listing {
    /// The directories among its entries.
    #[must_use]
    pub fn directories(&self) -> Vec<GuestIno> {
        let is_directory = |record: &Record| record.attributes.file_type == FileType::Directory;
        let entries = self.entries.iter();
        entries
            .filter(|(_, record)| record.as_ref().is_some_and(is_directory))
            .map(|(entry, _)| entry.ino)
            .collect()
    }
}

/// A filesystem with few, large questions: the daemon's view of a reader, wherever it runs.
pub trait Reader: Send + Sync {
    /// Facts about the filesystem.
    fn info(&self) -> &FsInfo;
    /// The root directory.
    fn root(&self) -> GuestIno;
    /// The root of a subvolume.
    ///
    /// # Errors
    /// As [`GuestFs::subvolume`].
    fn subvolume(&self, which: &Subvolume) -> Result<GuestIno>;
    /// The entries of a directory from that position on.
    ///
    /// # Errors
    /// As [`GuestFs::entries`].
    fn list(&self, dir: GuestIno, from: usize) -> Result<Listing>;
    /// The whole listings of some directories and of directories below them, as many as fit into one answer.
    /// Unreadable and large ones are omitted.
    ///
    /// # Errors
    /// Errors of single directories are not reported; `Io` when there is no reader.
    fn list_many(&self, dirs: &[GuestIno]) -> Result<Vec<(GuestIno, Listing)>>;
    /// One name of a directory.
    ///
    /// # Errors
    /// As [`GuestFs::lookup`].
    fn lookup(&self, dir: GuestIno, name: &[u8]) -> Result<Record>;
    /// One inode.
    ///
    /// # Errors
    /// As [`GuestFs::attributes`].
    fn record(&self, ino: GuestIno) -> Result<Record>;
    /// As [`GuestFs::symlink_target`].
    ///
    /// # Errors
    /// The same.
    fn target(&self, ino: GuestIno) -> Result<Arc<[u8]>>;
    /// As [`GuestFs::xattrs`].
    ///
    /// # Errors
    /// The same.
    fn xattrs(&self, ino: GuestIno) -> Result<Arc<[Xattr]>>;
    /// As [`GuestFs::runs`].
    ///
    /// # Errors
    /// The same.
    fn runs(&self, ino: GuestIno) -> Result<Arc<RunMap<()>>>;
    /// As [`GuestFs::read_encoded`].
    ///
    /// # Errors
    /// The same.
    fn read(&self, ino: GuestIno, offset: u64, buf: &mut [u8]) -> Result<()>;
    /// A fault of the reader itself: it was restarted, or cannot be.
    fn trouble(&self) -> Option<Trouble> {
        None
    }
}

/// A reader in this process.
pub struct Direct(pub Box<dyn GuestFs>);

impl Direct {
    /// Entries from that position on; `bytes` counts their size in the answer.
    fn part(&self, dir: GuestIno, from: usize, bytes: &mut usize) -> Result<Listing> {
        let all = self.0.entries(dir)?;
        let mut listing = Listing::default();
        for entry in all.get(from..).unwrap_or_default() {
            if *bytes > LISTING_BYTES || listing.entries.len() >= LISTING_ENTRIES {
                listing.more = true;
                break;
            }
            let record = self.along(entry.ino).ok();
            *bytes += entry.name.len() + 64 + record.as_ref().map_or(0, Record::weight);
            listing.entries.push((entry.clone(), record));
        }
        Ok(listing)
    }

    fn along(&self, ino: GuestIno) -> Result<Record> {
        let attributes = self.0.attributes(ino)?;
        let target = match attributes.file_type {
            FileType::Symlink => self.0.symlink_target(ino).ok().map(Into::into),
            _ => None,
        };
        let runs = match attributes.file_type {
            FileType::Regular if attributes.size_bytes <= RUNS_ALONG_BYTES => self.0.runs(ino).ok(),
            _ => None,
        };
        let xattrs = self.0.xattrs(ino).ok();
        Ok(Record {
            attributes,
            target,
            xattrs: xattrs.filter(|list| xattr_bytes(list) <= RECORD_XATTR_BYTES),
            runs: runs.filter(|map| run_bytes(map) <= RECORD_RUNS * 48),
        })
    }
}

impl Reader for Direct {
    fn info(&self) -> &FsInfo {
        self.0.info()
    }

    fn root(&self) -> GuestIno {
        self.0.root()
    }

    fn subvolume(&self, which: &Subvolume) -> Result<GuestIno> {
        self.0.subvolume(which)
    }

    fn list(&self, dir: GuestIno, from: usize) -> Result<Listing> {
        self.part(dir, from, &mut 0)
    }

    fn list_many(&self, dirs: &[GuestIno]) -> Result<Vec<(GuestIno, Listing)>> {
        let mut bytes = 0;
        let mut listings: Vec<(GuestIno, Listing)> = Vec::new();
        let mut todo: Vec<GuestIno> = dirs.iter().rev().copied().collect();
        while let Some(dir) = todo.pop() {
            if let Ok(listing) = self.part(dir, 0, &mut bytes)
                && !listing.more
            {
                // The walk descends where it can; a directory that occurs twice is a loop.
                let below = listing.directories();
                if below.len() <= DESCENT_MAX {
                    let is_new = |ino: &GuestIno| {
                        listings.iter().all(|(known, _)| known != ino) && !todo.contains(ino)
                    };
                    let below: Vec<GuestIno> = below.into_iter().filter(is_new).collect();
                    todo.extend(below.into_iter().rev());
                }
                listings.push((dir, listing));
            }
            if bytes > LISTING_BYTES || listings.len() >= LISTINGS_MAX {
                break;
            }
        }
        Ok(listings)
    }

    fn lookup(&self, dir: GuestIno, name: &[u8]) -> Result<Record> {
        self.along(self.0.lookup(dir, name)?)
    }

    fn record(&self, ino: GuestIno) -> Result<Record> {
        self.along(ino)
    }

    fn target(&self, ino: GuestIno) -> Result<Arc<[u8]>> {
        self.0.symlink_target(ino).map(Into::into)
    }

    fn xattrs(&self, ino: GuestIno) -> Result<Arc<[Xattr]>> {
        self.0.xattrs(ino)
    }

    fn runs(&self, ino: GuestIno) -> Result<Arc<RunMap<()>>> {
        self.0.runs(ino)
    }

    fn read(&self, ino: GuestIno, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read_encoded(ino, offset, buf)
    }
}
