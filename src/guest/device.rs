//! Adapter for the reader crates that share the traits of fs-core: gives them the volume as a device, and
//! catches their panics.
//!
//! # Concurrency
//! A crate turns the device's error into text. So the error itself is kept in the thread that met it until
//! [`guard`] returns, and [`device_error`] returns it.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result};

/// LIMIT: bytes of one read. The largest valid reads are a few MiB of a log; a hostile length must not cause
/// an allocation.
const READ_BYTES_MAX: usize = 16 << 20;

thread_local! {
    static MET: RefCell<Option<Error>> = const { RefCell::new(None) };
}

/// A volume with the crates' read interface; read-only.
pub(super) struct VolumeBytes(pub(super) Arc<dyn ReadAt>);

impl VolumeBytes {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if buf.len() > READ_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("the filesystem asks for {} bytes at once", buf.len()),
            ));
        }
        self.0.read_at(offset, buf)
    }
}

impl fs_core::BlockRead for VolumeBytes {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> fs_core::Result<()> {
        self.read(offset, buf).map_err(|error| {
            let text = error.to_string();
            MET.with(|met| met.replace(Some(error)));
            fs_core::Error::Io(std::io::Error::other(text))
        })
    }

    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }
}

/// The device's own error, for a crate that reports only that there was one.
pub(super) fn device_error(text: &str) -> Error {
    match MET.with(RefCell::take) {
        // A pointer beyond the volume is damage of the filesystem, not of the disk.
        Some(error) if error.kind() == ErrorKind::InvalidInput => Error::new(
            ErrorKind::Corrupt,
            "the filesystem points beyond its volume",
        )
        .caused_by(error),
        Some(error) => Error::new(error.kind(), "cannot read the volume").caused_by(error),
        None => Error::new(
            ErrorKind::Corrupt,
            format!("cannot read the filesystem: {text}"),
        ),
    }
}

/// Runs a call into the crate that reads `format`; a panic in it counts as damage of the volume.
pub(super) fn guard<T>(format: &'static str, call: impl FnOnce() -> Result<T>) -> Result<T> {
    MET.with(RefCell::take);
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("the reader of {format} stumbled over this volume"),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::{VolumeBytes, device_error, guard};
    use crate::block::MemoryDisk;
    use crate::block::filter::{Fault, OpKind};
    use crate::error::{Error, ErrorKind};
    use fs_core::BlockRead;
    use std::sync::Arc;

    #[test]
    fn errors_keep_their_kind_on_the_way_through_a_crate() {
        let disk = Arc::new(Fault::new(Arc::new(MemoryDisk::sparse(8192))));
        disk.fail_range(OpKind::Read, 0, 1, ErrorKind::Io);
        let device = VolumeBytes(disk);
        let read = |offset: u64, length: usize| {
            guard("test", || {
                device
                    .read_at(offset, &mut vec![0; length])
                    .map_err(|error| device_error(&error.to_string()))
            })
        };
        assert_eq!(read(0, 1).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(read(8000, 500).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(
            read(0, 20 << 20).unwrap_err().kind(),
            ErrorKind::LimitExceeded
        );
        assert!(read(4096, 4096).is_ok());
        assert_eq!(device_error("x").kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_panic_is_damage() {
        let broken: Option<u8> = None;
        let error = guard("test", || {
            broken.map_or_else(|| panic!("x"), |_| Ok::<(), Error>(()))
        });
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
