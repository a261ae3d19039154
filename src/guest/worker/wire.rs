//! Questions and answers in the encoding of the shared memory.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::block::run::{Run, RunMap, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::guest::fs::{Attributes, Entry, FsInfo, GuestIno, Subvolume, VolumeState, Xattr};
use crate::guest::record::{Listing, Record};
use crate::types::width::u64_from_usize;

/// LIMIT: runs in one answer.
pub(super) const RUNS_MAX: usize = 16_384;

/// A question.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Call {
    /// Opens the filesystem on devices of these sizes.
    Open {
        sizes: Vec<u64>,
    },
    /// The methods of [`crate::guest::record::Reader`].
    Subvolume(Subvolume),
    List {
        dir: GuestIno,
        from: u64,
    },
    ListMany(Vec<GuestIno>),
    Lookup {
        dir: GuestIno,
        name: Vec<u8>,
    },
    Record(GuestIno),
    Target(GuestIno),
    Xattrs(GuestIno),
    /// Some of the runs, beginning with that one.
    Runs {
        ino: GuestIno,
        from: u64,
    },
    Read {
        ino: GuestIno,
        offset: u64,
        length: u64,
    },
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    OpenedFilesystem {
        state: VolumeState,
        fs: Option<OpenedFilesystem>,
    },
    Ino(GuestIno),
    Listing {
        entries: Entries,
        more: bool,
    },
    Listings(Vec<(GuestIno, Entries)>),
    Record(WireRecord),
    Target(Vec<u8>),
    Xattrs(Vec<Xattr>),
    Runs {
        map: WireRuns,
        more: bool,
    },
    Failed {
        kind: ErrorKind,
        what: String,
    },
}

/// The result of opening a filesystem.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OpenedFilesystem {
    pub(super) root: GuestIno,
    pub(super) info: WireInfo,
}

/// [`FsInfo`] with the format's name as text.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireInfo {
    format: String,
    label: Option<String>,
    uuid: Option<String>,
    block_bytes: u32,
    total_bytes: u64,
    used_bytes: u64,
    inodes: Option<u64>,
    inodes_free: Option<u64>,
    journal_replayed: Option<bool>,
    notes: Vec<String>,
}

/// Names of formats: a name from another process must be one of them.
const FORMATS: [&str; 12] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "exfat", "ntfs", "iso9660", "squashfs", "test",
    "memory",
];

impl From<&FsInfo> for WireInfo {
    fn from(info: &FsInfo) -> Self {
        Self {
            format: info.format.to_owned(),
            label: info.label.clone(),
            uuid: info.uuid.clone(),
            block_bytes: info.block_bytes,
            total_bytes: info.total_bytes,
            used_bytes: info.used_bytes,
            inodes: info.inodes,
            inodes_free: info.inodes_free,
            journal_replayed: info.journal_replayed,
            notes: info.notes.clone(),
        }
    }
}

impl From<WireInfo> for FsInfo {
    fn from(info: WireInfo) -> Self {
        Self {
            format: FORMATS
                .into_iter()
                .find(|known| *known == info.format)
                .unwrap_or("unknown"),
            label: info.label,
            uuid: info.uuid,
            block_bytes: info.block_bytes,
            total_bytes: info.total_bytes,
            used_bytes: info.used_bytes,
            inodes: info.inodes,
            inodes_free: info.inodes_free,
            journal_replayed: info.journal_replayed,
            notes: info.notes,
        }
    }
}

/// [`Record`] as plain vectors.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireRecord {
    attributes: Attributes,
    target: Option<Vec<u8>>,
    xattrs: Option<Vec<Xattr>>,
    runs: Option<WireRuns>,
}

impl From<&Record> for WireRecord {
    fn from(record: &Record) -> Self {
        Self {
            attributes: record.attributes.clone(),
            target: record.target.as_deref().map(<[u8]>::to_vec),
            xattrs: record.xattrs.as_deref().map(<[Xattr]>::to_vec),
            runs: record.runs.as_deref().map(|map| WireRuns::part(map, 0).0),
        }
    }
}

impl WireRecord {
    /// Converts to the record.
    ///
    /// # Errors
    /// `Corrupt` when the runs form no map.
    pub(super) fn into_record(self) -> Result<Record> {
        let size_bytes = self.attributes.size_bytes;
        let runs = match self.runs {
            Some(runs) => Some(Arc::new(RunMap::new(size_bytes, runs.into_runs()?)?)),
            None => None,
        };
        Ok(Record {
            target: self.target.map(Into::into),
            xattrs: self.xattrs.map(Into::into),
            runs,
            attributes: self.attributes,
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum WireTarget {
    Source(u64),
    Hole,
    Inline(Vec<u8>),
    Encoded,
}

/// Runs of a file: start, length, target.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireRuns {
    pub(super) size_bytes: u64,
    runs: Vec<(u64, u64, WireTarget)>,
}

impl WireRuns {
    /// Some of the runs from that position on, and whether there are more.
    pub(super) fn part(map: &RunMap<()>, from: usize) -> (Self, bool) {
        let rest = map.runs().get(from..).unwrap_or_default();
        let wire = |run: &Run<()>| {
            let target = match &run.target {
                Target::Source { offset, .. } => WireTarget::Source(*offset),
                Target::Hole => WireTarget::Hole,
                Target::Inline(bytes) => WireTarget::Inline(bytes.to_vec()),
                Target::Encoded => WireTarget::Encoded,
            };
            (run.start, run.length_bytes, target)
        };
        let runs = rest.iter().take(RUNS_MAX).map(wire).collect();
        let size_bytes = map.size_bytes();
        (Self { size_bytes, runs }, rest.len() > RUNS_MAX)
    }

    /// Number of runs.
    pub(super) const fn count(&self) -> usize {
        self.runs.len()
    }

    /// The runs; a map has not checked them yet.
    ///
    /// # Errors
    /// `Corrupt` when the number of inline bytes differs from the length of the run.
    pub(super) fn into_runs(self) -> Result<Vec<Run<()>>> {
        let run = |(start, length_bytes, target)| {
            let target = match target {
                WireTarget::Inline(bytes) if u64_from_usize(bytes.len()) != length_bytes => {
                    return Err(Error::corrupt(
                        "inline bytes of a run",
                        length_bytes,
                        bytes.len(),
                    ));
                }
                WireTarget::Inline(bytes) => Target::Inline(bytes.into()),
                WireTarget::Source(offset) => Target::Source { source: (), offset },
                WireTarget::Hole => Target::Hole,
                WireTarget::Encoded => Target::Encoded,
            };
            Ok(Run {
                start,
                length_bytes,
                target,
            })
        };
        self.runs.into_iter().map(run).collect()
    }
}

/// Entries with their records, where known.
pub(super) type Entries = Vec<(Entry, Option<WireRecord>)>;

/// A listing's entries as plain vectors.
pub(super) fn entries(listing: &Listing) -> Entries {
    let entry = |(entry, record): &(Entry, Option<Record>)| {
        (entry.clone(), record.as_ref().map(Into::into))
    };
    listing.entries.iter().map(entry).collect()
}

/// Converts back to a listing. An invalid record is omitted: a later question for it returns the reason.
pub(super) fn listing(entries: Entries, more: bool) -> Listing {
    let entry = |(entry, record): (Entry, Option<WireRecord>)| {
        (entry, record.and_then(|record| record.into_record().ok()))
    };
    Listing {
        entries: entries.into_iter().map(entry).collect(),
        more,
    }
}

impl From<&Error> for Answer {
    fn from(error: &Error) -> Self {
        Self::Failed {
            kind: error.kind(),
            what: error.report(),
        }
    }
}

/// Encodes a question or an answer.
///
/// # Errors
/// `LimitExceeded`.
pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    postcard::to_stdvec(value)
        .map_err(|e| Error::new(ErrorKind::LimitExceeded, "cannot be written down").caused_by(e))
}

/// Decodes a question or an answer. The number of bytes bounds the memory.
///
/// # Errors
/// `Disconnected` when the bytes are not in this encoding.
pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T> {
    postcard::from_bytes(bytes)
        .map_err(|e| Error::new(ErrorKind::Disconnected, "nonsense in a message").caused_by(e))
}
