//! The writer: writes entries in the order of the walk, with the data from the loaders.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::Archived;
use super::entry::{Entry, Kind, Pen};
use super::load::{Body, Item, Job, Loaded};
use crate::error::{Error, ErrorKind, Result};
use crate::guest::fs::{FileType, Xattr};
use crate::tree::Ino;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// LIMIT: bytes of a symlink's target (Linux).
const TARGET_MAX: usize = 4095;

pub(super) struct Writer<'a> {
    job: &'a Job<'a>,
    pen: Box<dyn Pen + 'a>,
    archived: Archived,
    /// Paths of files with several names; `None` when the file could not be written.
    first: HashMap<Ino, Option<Vec<u8>>>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(job: &'a Job<'a>, pen: Box<dyn Pen + 'a>) -> Self {
        Self {
            job,
            pen,
            archived: Archived::default(),
            first: HashMap::new(),
        }
    }

    /// Writes all items. The receiver is dropped at the end, so that a walk that is still running notices.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "it is dropped here on purpose"
    )]
    pub(super) fn write_all(&mut self, items: Receiver<Item<'_>>) -> Result<()> {
        for item in &items {
            self.job.check_stop()?;
            self.write(item)?;
        }
        Ok(())
    }

    /// Ends the archive.
    pub(super) fn finish(self) -> Result<Archived> {
        self.pen.finish()?;
        Ok(self.archived)
    }

    fn write(&mut self, item: Item<'_>) -> Result<()> {
        let has_names = self.job.links && item.attributes.nlink > 1;
        let has_names = has_names && item.attributes.file_type != FileType::Directory;
        let written = match &item.loaded {
            None => self.link(&item)?,
            Some(loaded) => {
                let loaded = loaded
                    .recv()
                    .map_err(|_| Error::new(ErrorKind::Io, "a loading thread panicked"))?;
                self.load(&item, loaded)?
            }
        };
        if has_names && !item.again {
            self.first.insert(item.ino, written.then_some(item.path));
        }
        // Only now may the same amount be read ahead again.
        drop(item.share);
        Ok(())
    }

    /// Writes a further name of a file.
    fn link(&mut self, item: &Item<'_>) -> Result<bool> {
        let Some(Some(first)) = self.first.get(&item.ino) else {
            let reason = "another name of a file that was left out";
            self.job.notes.fail(&item.path, reason);
            return Ok(false);
        };
        let entry = Entry {
            path: &item.path,
            attributes: &item.attributes,
            xattrs: &[],
            kind: Kind::HardLink(first),
        };
        let begun = self.pen.begin(&entry, &self.job.notes)?;
        if begun {
            self.pen.end()?;
            self.archived.hard_links += 1;
        }
        Ok(begun)
    }

    fn load(&mut self, item: &Item<'_>, loaded: Loaded) -> Result<bool> {
        let body = match loaded.body {
            Ok(body) => body,
            // A cancelled entry is not an entry that was left out.
            Err(error) => {
                self.job.check_stop()?;
                self.job.notes.fail(&item.path, error.report());
                return Ok(false);
            }
        };
        let xattrs = self.xattrs(item, loaded.xattrs);
        let device = item.attributes.rdev.unwrap_or((0, 0));
        let kind = match (item.attributes.file_type, &body) {
            (FileType::Directory, _) => Kind::Directory,
            (FileType::Symlink, Body::Link(target)) => {
                let wrong = target.is_empty() || target.contains(&0) || target.len() > TARGET_MAX;
                if wrong {
                    let reason = "a symlink whose target is empty, too long or has a NUL";
                    self.job.notes.fail(&item.path, reason);
                    return Ok(false);
                }
                Kind::Symlink(target)
            }
            (FileType::Regular, Body::Small(map, _) | Body::Large(map, _)) => Kind::File(map),
            (FileType::CharDevice, _) => Kind::CharDevice(device.0, device.1),
            (FileType::BlockDevice, _) => Kind::BlockDevice(device.0, device.1),
            (FileType::Fifo, _) => Kind::Fifo,
            (FileType::Regular | FileType::Symlink | FileType::Socket, _) => return Ok(false),
        };
        let entry = Entry {
            path: &item.path,
            attributes: &item.attributes,
            xattrs: &xattrs,
            kind,
        };
        if !self.pen.begin(&entry, &self.job.notes)? {
            return Ok(false);
        }
        match &body {
            Body::Small(map, bytes) => {
                let mut rest = bytes.as_slice();
                for (at, length) in &map.segments {
                    let (segment, after) = rest
                        .split_at_checked(usize_from_u64(*length))
                        .ok_or_else(|| Error::new(ErrorKind::Io, "a map changed"))?;
                    self.put(*at, segment)?;
                    rest = after;
                }
            }
            Body::Large(map, content) => {
                let job = self.job;
                let mut put = |at, bytes: &[u8]| self.put(at, bytes);
                job.each_chunk(map, content.as_ref(), &item.path, &mut put)?;
            }
            Body::None | Body::Link(_) => {}
        }
        self.pen.end()?;
        self.count(kind);
        Ok(true)
    }

    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.pen.data(at, bytes)?;
        let written = u64_from_usize(bytes.len());
        self.archived.bytes += written;
        self.job.monitor.advance(written);
        Ok(())
    }

    /// The extended attributes of the guest's file.
    fn xattrs(&self, item: &Item<'_>, loaded: Result<Arc<[Xattr]>>) -> Vec<Xattr> {
        match loaded {
            Ok(all) => all
                .iter()
                // The tree itself adds these for ordinary users.
                .filter(|xattr| !xattr.name.starts_with(b"user.restorefs."))
                .cloned()
                .collect(),
            Err(error) => {
                let reason = format!("its extended attributes: {}", error.report());
                self.job.notes.fail(&item.path, reason);
                Vec::new()
            }
        }
    }

    fn count(&mut self, kind: Kind<'_>) {
        let archived = &mut self.archived;
        let count = match kind {
            Kind::Directory => &mut archived.directories,
            Kind::File(_) => &mut archived.files,
            Kind::Symlink(_) => &mut archived.symlinks,
            Kind::HardLink(_) => &mut archived.hard_links,
            Kind::CharDevice(..) | Kind::BlockDevice(..) | Kind::Fifo => &mut archived.special,
        };
        *count += 1;
    }
}
