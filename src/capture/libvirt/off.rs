//! The disks of a domain that is shut off: its files are read without a lock, so that it can start at any time.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::description::{Disk, Place, directories};
use crate::block::ReadAt;
use crate::capture::source::{OpenSource, Source};
use crate::capture::virsh::Virsh;
use crate::error::{Error, ErrorKind, Result};
use crate::types::ImageFormat;

/// The open files of a domain's disks.
pub(super) struct Files(Vec<OpenSource>);

impl Files {
    /// Opens the files. A backing file is opened below the directories that the domain's XML names, and below `allowed`.
    ///
    /// # Errors
    /// `Busy` for a file that has a writer; `Unsupported` for a disk that only QEMU can read; as [`Source::open`].
    pub(super) fn open(virsh: &Virsh, disks: &[Disk], allowed: &[PathBuf]) -> Result<Self> {
        let mut open = Vec::new();
        for disk in disks {
            let path = path(virsh, disk)?;
            let source = Source::File {
                path: path.clone(),
                format: Some(disk.image_format()?),
            };
            // A raw image names no other file.
            let mut below = match source {
                Source::File {
                    format: Some(ImageFormat::Raw),
                    ..
                } => Vec::new(),
                _ => directories(disk),
            };
            if !below.is_empty() {
                below.extend(path.parent().map(Path::to_owned));
            }
            below.extend(allowed.iter().cloned());
            let one = source.open(&below)?;
            if let Some(finding) = one.watch.look()? {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!(
                        "the domain is shut off, but its disk is {}",
                        finding.description
                    ),
                )
                .at_path(&finding.path)
                .advise("stop what writes it, and begin again"));
            }
            open.push(one);
        }
        Ok(Self(open))
    }

    /// The files of each disk from the top down.
    pub(super) fn chains(&self) -> impl Iterator<Item = Vec<PathBuf>> {
        self.0
            .iter()
            .map(|one| one.watch.paths().map(Path::to_owned).collect())
    }

    /// Their contents.
    pub(super) fn contents(&self) -> impl Iterator<Item = Arc<dyn ReadAt>> {
        self.0.iter().map(|one| Arc::clone(&one.disk))
    }

    /// Checks that nothing has written the files.
    ///
    /// # Errors
    /// `Busy` when something has.
    pub(super) fn check(&self) -> Result<()> {
        for one in &self.0 {
            if let Some(finding) = one.watch.look()? {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!(
                        "a disk of the domain was written while it was read ({}): the point is discarded",
                        finding.description
                    ),
                )
                .at_path(&finding.path)
                .advise("begin again"));
            }
        }
        Ok(())
    }
}

/// The path of a disk's content.
fn path(virsh: &Virsh, disk: &Disk) -> Result<PathBuf> {
    match &disk.place {
        Place::File(path) | Place::Block(path) => Ok(path.clone()),
        Place::Volume { pool, volume } => {
            let path = virsh.call(&["vol-path", "--vol", volume, "--pool", pool])?;
            Ok(PathBuf::from(path.trim_end()))
        }
        Place::Other(_) => Err(Error::unsupported(format!(
            "{} is no file and no block device: only the running domain can read it",
            disk.name
        ))
        .advise("start the domain, and back it up while it runs")),
    }
}
