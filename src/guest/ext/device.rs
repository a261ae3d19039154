//! Adapter for the ext crate: gives it the volume as a device, translates its errors, and catches its panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use fs_ext4::block_io::BlockDevice;

use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result};

/// A volume with the crate's read interface; read-only.
pub(super) struct ExtVolume(pub(super) Arc<dyn ReadAt>);

impl BlockDevice for ExtVolume {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> fs_ext4::Result<()> {
        self.0.read_at(offset, buf).map_err(|error| {
            // A pointer beyond the volume is damage of the filesystem, not of the disk.
            if error.kind() == ErrorKind::InvalidInput {
                fs_ext4::Error::OutOfBounds
            } else {
                fs_ext4::Error::Io(std::io::Error::other(error))
            }
        })
    }

    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }
}

/// Names of the incompatible features that are refused (Linux, fs/ext4/ext4.h).
const INCOMPAT: [(u32, &str); 6] = [
    (0x1, "compression"),
    (0x8, "journal_dev"),
    (0x100, "mmp"),
    (0x1000, "dirdata"),
    (0x1_0000, "encrypt"),
    (0x2_0000, "casefold"),
];

fn name_features(bits: u32) -> String {
    let mut names: Vec<String> = INCOMPAT
        .iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, name)| (*name).to_owned())
        .collect();
    let unknown = INCOMPAT.iter().fold(bits, |rest, (bit, _)| rest & !bit);
    if unknown != 0 || names.is_empty() {
        names.push(format!("0x{unknown:x}"));
    }
    names.join(", ")
}

/// Translates the crate's error: damage, unsupported features and read errors stay distinct.
pub(super) fn translate(error: fs_ext4::Error) -> Error {
    use fs_ext4::Error as Ext;
    match error {
        Ext::Io(error) => match error.downcast::<Error>() {
            Ok(error) => Error::new(error.kind(), "cannot read the volume").caused_by(error),
            Err(error) => Error::io("cannot read the volume", error),
        },
        Ext::UnsupportedIncompat(bits) => {
            Error::unsupported(format!("the ext filesystem uses: {}", name_features(bits)))
        }
        Ext::UnsupportedRoCompat(bits) => Error::unsupported(format!(
            "the ext filesystem uses read-only features 0x{bits:x}"
        )),
        Ext::Unsupported(what) => Error::unsupported(format!("ext: {what}")),
        Ext::NotFound | Ext::Stale => Error::not_found("there is no such inode in the guest"),
        Ext::NotADirectory => Error::new(ErrorKind::NotADirectory, "not a directory"),
        Ext::IsADirectory => Error::new(ErrorKind::IsADirectory, "it is a directory"),
        Ext::InvalidArgument(what) => Error::invalid(what),
        // The crate also returns `Corrupt` when it refuses a block-mapped journal or directory; those are
        // handled before.
        other => Error::new(ErrorKind::Corrupt, format!("ext: {other}")),
    }
}

/// Runs a call into the crate; a panic in it counts as damage of the volume.
pub(super) fn guard<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::Corrupt,
            "the reader of ext filesystems stumbled over this volume",
        ))
    })
}
