//! Detects writers of a source's files while they are read. A copy would otherwise mix bytes of several
//! instants; and of an image that a QEMU process has open, it would lack tables that only that process has in
//! memory.
//!
//! # Invariants
//! Each file is checked before its first byte is read, and again before the commit. No lock is held in
//! between, so that a machine can start at any time. A writer that came and went in between has changed the
//! file's time or size.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sys::{image_lock, loop_device, writer};

/// One file or block device of a source.
struct Watched {
    path: PathBuf,
    file: Arc<File>,
    /// Size, and seconds and nanoseconds of the last change, when it was opened; none for a device, which has
    /// no such marks.
    seen: Option<(u64, i64, i64)>,
}

/// Watches all files of a source.
#[derive(Default)]
pub struct Watch(Vec<Watched>);

/// A writer, or the trace of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file or device.
    pub path: PathBuf,
    /// The writer, or the observed change.
    pub description: String,
}

fn seen(metadata: &Metadata) -> Option<(u64, i64, i64)> {
    metadata
        .is_file()
        .then(|| (metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

impl Watch {
    /// Watches a file that was just opened and not read yet.
    ///
    /// # Errors
    /// `Io`.
    pub fn add(&mut self, path: &Path, file: Arc<File>) -> Result<()> {
        let metadata = file
            .metadata()
            .or_io("cannot stat the source")
            .at_path(path)?;
        self.0.push(Watched {
            path: path.to_path_buf(),
            file,
            seen: seen(&metadata),
        });
        Ok(())
    }

    /// Device and inode of the first file, or the number of the first device: equal when two sources are the
    /// same.
    #[must_use]
    pub fn identity(&self) -> Option<(u64, u64)> {
        let metadata = self.0.first()?.file.metadata().ok()?;
        Some(if metadata.file_type().is_block_device() {
            (u64::MAX, metadata.rdev())
        } else {
            (metadata.dev(), metadata.ino())
        })
    }

    /// The paths of its files: an image before those that it names.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|watched| watched.path.as_path())
    }

    /// The first file that has a writer, or has changed since it was opened.
    ///
    /// # Errors
    /// `Io`.
    pub fn look(&self) -> Result<Option<Finding>> {
        for watched in &self.0 {
            if let Some(description) = watched.look().at_path(&watched.path)? {
                return Ok(Some(Finding {
                    path: watched.path.clone(),
                    description,
                }));
            }
        }
        Ok(None)
    }
}

impl Watched {
    fn look(&self) -> Result<Option<String>> {
        let metadata = self.file.metadata().or_io("cannot stat the source")?;
        let is_device = metadata.file_type().is_block_device();
        if let Some(description) = qemu(&self.file)? {
            return Ok(Some(description));
        }
        let writer = if is_device {
            writer::of_device(&self.path)?
        } else {
            writer::of_file(&self.file)?
        };
        if writer.is_some() {
            return Ok(writer);
        }
        // A loop device may show the image of a running machine.
        if let Ok(Some(behind)) = loop_device::backing_file(&self.path)
            && let Ok(file) = File::open(&behind)
            && let Some(description) = qemu(&file)?
        {
            return Ok(Some(format!(
                "shows {}, which is {description}",
                behind.display()
            )));
        }
        if self.seen.is_some() && seen(&metadata) != self.seen {
            return Ok(Some("written since it was opened".to_owned()));
        }
        Ok(None)
    }
}

fn qemu(file: &File) -> Result<Option<String>> {
    if !image_lock::has_writer(file)? {
        return Ok(None);
    }
    let holders = image_lock::holders(file)?;
    Ok(Some(match holders.is_empty() {
        true => "open for writing in a QEMU process".to_owned(),
        false => format!("open for writing in a QEMU process: {}", holders.join(", ")),
    }))
}

impl Finding {
    /// The finding as a note for the restore point.
    #[must_use]
    pub fn note(&self) -> String {
        format!("{} was {}", self.path.display(), self.description)
    }

    /// The error that refuses to copy such a source.
    #[must_use]
    pub fn refusal(&self) -> Error {
        Error::new(
            ErrorKind::Busy,
            format!(
                "the source is {}: a copy would mix bytes of several instants",
                self.description
            ),
        )
        .at_path(&self.path)
        .advise("copy a snapshot of it, or the NBD export of the process that writes it (nbd+unix://...), or stop what writes it; --force-share copies it as it is")
    }
}

#[cfg(test)]
mod tests {
    use super::Watch;
    use std::sync::Arc;

    #[test]
    fn a_file_that_was_written_meanwhile_is_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [1; 4096]).unwrap();
        let mut watch = Watch::default();
        watch
            .add(file.path(), Arc::new(file.reopen().unwrap()))
            .unwrap();
        assert_eq!(watch.look().unwrap(), None);
        std::fs::write(file.path(), [2; 8192]).unwrap();
        let found = watch.look().unwrap().unwrap();
        assert!(found.note().contains("written since"), "{found:?}");
        assert!(found.refusal().report().contains("--force-share"));
    }
}
