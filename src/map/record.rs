//! `map.json`: the record of a map. It is written once the map's devices exist, and again when some
//! of them are unmapped.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::sys::loop_device;
use crate::types::{DiskName, PointName, RepositoryId, VmName};

/// The only version so far.
const VERSION: u32 = 1;
/// LIMIT: bytes of a record.
pub(super) const RECORD_BYTES_MAX: u64 = 1 << 20;
/// LIMIT: disks of one map. Ours; loop devices have 20-bit numbers.
pub(super) const DISKS_MAX: usize = 1024;

/// A disk of a map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordDisk {
    /// Its name.
    pub disk: DiskName,
    /// `/dev/loopN`.
    pub device: PathBuf,
    /// Size in bytes.
    pub size_bytes: u64,
    /// The device's readahead in KiB before the map, to be restored: it would stay with the device.
    pub read_ahead_kb_before: Option<u32>,
}

/// The content of `map.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// The repository's directory.
    pub repository: String,
    /// The repository.
    pub repository_id: RepositoryId,
    /// The VM.
    pub vm: VmName,
    /// The restore point.
    pub point: PointName,
    /// The selector that named the point: `web01@latest`.
    pub asked: String,
    /// The process that serves it.
    pub pid: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Directory of the scratch files.
    pub scratch: Option<PathBuf>,
    /// Whether partitions get devices too.
    pub partitions: bool,
    /// How the kernel gets the bytes: `passthrough` (from the flat disks in the cache), or `fuse` (from this process).
    pub path: String,
    /// Why not by passthrough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_reason: Option<String>,
    /// The disks.
    pub disks: Vec<RecordDisk>,
}

/// The values for a new record, as in [`Record`].
#[derive(Debug)]
pub(super) struct NewRecord {
    pub(super) repository: String,
    pub(super) repository_id: RepositoryId,
    pub(super) vm: VmName,
    pub(super) point: PointName,
    pub(super) asked: String,
    pub(super) scratch: Option<PathBuf>,
    pub(super) partitions: bool,
    pub(super) is_passthrough: bool,
    pub(super) path_reason: Option<String>,
    pub(super) disks: Vec<RecordDisk>,
}

impl Record {
    /// Creates the record of this process.
    pub(super) fn new(new: NewRecord) -> Self {
        Self {
            version: VERSION,
            repository: new.repository,
            repository_id: new.repository_id,
            vm: new.vm,
            point: new.point,
            asked: new.asked,
            pid: std::process::id(),
            read_only: new.scratch.is_none(),
            scratch: new.scratch,
            partitions: new.partitions,
            path: if new.is_passthrough {
                "passthrough"
            } else {
                "fuse"
            }
            .to_owned(),
            path_reason: new.path_reason,
            disks: new.disks,
        }
    }

    /// Parses a record; after a crash the file may hold any bytes.
    ///
    /// # Errors
    /// `Corrupt`; `Unsupported` for a later version.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let bad = |expected: &'static str, found: String| {
            Error::corrupt("the record of a map makes no sense", expected, found)
        };
        let value: serde_json::Value = serde_json::from_slice(bytes)
            .map_err(|e| bad("JSON", format!("{} bytes", bytes.len())).caused_by(e))?;
        let version = value.get("version").and_then(serde_json::Value::as_u64);
        match version {
            Some(version) if version == u64::from(VERSION) => {}
            Some(version) => {
                return Err(
                    Error::unsupported(format!("a map's record of version {version}"))
                        .advise("use the restorefs that has mapped it"),
                );
            }
            None => return Err(bad("a version", "none".to_owned())),
        }
        let record: Self = serde_json::from_value(value)
            .map_err(|e| bad("the fields of a record", "others".to_owned()).caused_by(e))?;
        if record.disks.len() > DISKS_MAX {
            return Err(bad("fewer disks", record.disks.len().to_string()));
        }
        for disk in &record.disks {
            if !loop_device::is_loop_path(&disk.device) {
                let found = disk.device.display().to_string();
                return Err(bad("/dev/loopN", found.escape_debug().to_string()));
            }
        }
        Ok(record)
    }

    /// The record as bytes.
    ///
    /// # Errors
    /// `InvalidInput` when a path is not UTF-8.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self).map_err(|e| {
            Error::invalid("the record of the map cannot be encoded (is a path not UTF-8?)")
                .caused_by(e)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{NewRecord, Record, RecordDisk};
    use crate::error::ErrorKind;
    use crate::types::{DiskName, PointName, RepositoryId, VmName};
    use proptest::prelude::{any, prop, proptest};

    fn record() -> Record {
        Record::new(NewRecord {
            repository: "/srv/repo".to_owned(),
            repository_id: RepositoryId::random(),
            vm: VmName::new("web01").unwrap(),
            point: PointName::new("one").unwrap(),
            asked: "web01@latest".to_owned(),
            scratch: Some("/var/tmp".into()),
            partitions: false,
            is_passthrough: true,
            path_reason: None,
            disks: vec![RecordDisk {
                disk: DiskName::new("vda").unwrap(),
                device: "/dev/loop7".into(),
                size_bytes: 512,
                read_ahead_kb_before: Some(128),
            }],
        })
    }

    #[test]
    fn a_record_comes_back() {
        let bytes = record().to_bytes().unwrap();
        assert_eq!(Record::parse(&bytes).unwrap().disks, record().disks);
        for cut in 0..bytes.len() {
            let error = Record::parse(bytes.get(..cut).unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "cut at {cut}");
        }
        let text = String::from_utf8(bytes).unwrap();
        for (from, to, kind) in [
            ("\"version\": 1", "\"version\": 2", ErrorKind::Unsupported),
            ("/dev/loop7", "/dev/sda", ErrorKind::Corrupt),
            ("/dev/loop7", "/dev/loop7p1", ErrorKind::Corrupt),
            ("\"vda\"", "\"../vda\"", ErrorKind::Corrupt),
            ("\"web01\"", "\"\"", ErrorKind::Corrupt),
        ] {
            assert!(text.contains(from));
            let error = Record::parse(text.replace(from, to).as_bytes()).unwrap_err();
            assert_eq!(error.kind(), kind, "{to}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), at in any::<prop::sample::Index>()) {
            assert!(Record::parse(&bytes).is_err());
            let mut good = record().to_bytes().unwrap();
            let at = at.index(good.len());
            good.splice(at..at, bytes);
            // The parser must not panic, whatever the bytes are.
            let _ = Record::parse(&good);
        }
    }
}
