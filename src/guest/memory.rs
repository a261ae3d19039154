//! A guest filesystem in memory, with faults on request: for tests of the code above.
//!
//! Content of files lies on its own volume ([`MemoryFs::volume`]), each file on separate pages, so that runs
//! are plain like those of a real filesystem. [`MemoryFs::encoded`] makes a file that only the reader can
//! read.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::fs::{Attributes, Entry, FileType, FsInfo, GuestFs, GuestIno, Subvolume, Time, Xattr};
use crate::block::run::{Run, RunMap, Target};
use crate::block::{MemoryDisk, ReadAt, WriteAt, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::types::width::{u64_from_usize, usize_from_u64};

const PAGE_BYTES: u64 = 4096;
const ROOT: u64 = 2;

#[derive(Debug)]
enum Body {
    Directory(Vec<Entry>),
    Plain { offset: u64 },
    Encoded(Vec<u8>),
    Symlink(Vec<u8>),
    Special,
}

#[derive(Debug)]
struct Node {
    attributes: Attributes,
    body: Body,
    xattrs: Vec<Xattr>,
    fault: Option<ErrorKind>,
}

/// A handmade filesystem. Paths are relative to the root; parent directories are made with the first entry
/// below them.
#[derive(Debug)]
pub struct MemoryFs {
    info: FsInfo,
    nodes: BTreeMap<u64, Node>,
    volume: Arc<MemoryDisk>,
    volume_end: u64,
    /// Subvolumes: path, number, directory. The first is the default one.
    subvolumes: Vec<(String, u64, GuestIno)>,
}

impl Default for MemoryFs {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryFs {
    /// An empty root directory.
    #[must_use]
    pub fn new() -> Self {
        let mut fs = Self {
            info: FsInfo {
                format: "memory",
                label: None,
                uuid: None,
                block_bytes: 4096,
                total_bytes: 1 << 30,
                used_bytes: 0,
                inodes: None,
                inodes_free: None,
                journal_replayed: None,
                notes: Vec::new(),
            },
            nodes: BTreeMap::new(),
            volume: Arc::new(MemoryDisk::new()),
            volume_end: PAGE_BYTES,
            subvolumes: Vec::new(),
        };
        fs.insert(
            ROOT,
            FileType::Directory,
            0o755,
            0,
            Body::Directory(Vec::new()),
        );
        fs
    }

    /// The volume to which plain runs refer.
    #[must_use]
    pub fn volume(&self) -> Arc<dyn ReadAt> {
        Arc::<MemoryDisk>::clone(&self.volume)
    }

    /// Sets label and UUID of the filesystem.
    pub fn set_label(&mut self, label: &str, uuid: &str) {
        self.info.label = Some(label.to_owned());
        self.info.uuid = Some(uuid.to_owned());
    }

    /// Makes a directory a subvolume; an empty path is the top level. A mount without options shows the first
    /// one.
    ///
    /// # Errors
    /// As [`MemoryFs::resolve`].
    pub fn set_subvolume(&mut self, path: &str, number: u64) -> Result<()> {
        let ino = self.resolve(path)?;
        self.subvolumes.push((path.to_owned(), number, ino));
        Ok(())
    }

    fn insert(&mut self, number: u64, file_type: FileType, mode: u16, size_bytes: u64, body: Body) {
        let epoch = Time::default();
        let attributes = Attributes {
            ino: GuestIno(number),
            file_type,
            mode,
            uid: 0,
            gid: 0,
            nlink: 1,
            size_bytes,
            blocks: size_bytes.div_ceil(512),
            atime: epoch,
            mtime: epoch,
            ctime: epoch,
            crtime: None,
            rdev: None,
        };
        let node = Node {
            attributes,
            body,
            xattrs: Vec::new(),
            fault: None,
        };
        self.nodes.insert(number, node);
    }

    /// Resolves a path.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`.
    pub fn resolve(&self, path: &str) -> Result<GuestIno> {
        path.split('/')
            .filter(|part| !part.is_empty())
            .try_fold(GuestIno(ROOT), |dir, name| {
                self.lookup(dir, name.as_bytes())
            })
    }

    /// Changes a node's attributes in any way.
    ///
    /// # Errors
    /// As [`MemoryFs::resolve`].
    pub fn change(&mut self, path: &str, change: impl FnOnce(&mut Attributes)) -> Result<()> {
        change(&mut self.node_mut(path)?.attributes);
        Ok(())
    }

    /// Adds an extended attribute.
    ///
    /// # Errors
    /// As [`MemoryFs::resolve`].
    pub fn set_xattr(&mut self, path: &str, name: &str, value: &[u8]) -> Result<()> {
        self.node_mut(path)?.xattrs.push(Xattr {
            name: name.into(),
            value: value.into(),
        });
        Ok(())
    }

    /// Makes every operation on this node fail from now on, except lookups of its name.
    ///
    /// # Errors
    /// As [`MemoryFs::resolve`].
    pub fn fail(&mut self, path: &str, kind: ErrorKind) -> Result<()> {
        self.node_mut(path)?.fault = Some(kind);
        Ok(())
    }

    fn node_mut(&mut self, path: &str) -> Result<&mut Node> {
        let ino = self.resolve(path)?;
        self.nodes
            .get_mut(&ino.0)
            .ok_or_else(|| Error::not_found("no such inode"))
    }

    fn add(
        &mut self,
        path: &str,
        file_type: FileType,
        mode: u16,
        size: u64,
        body: Body,
    ) -> Result<()> {
        if let Some((above, _)) = path.rsplit_once('/')
            && self.resolve(above).is_err()
        {
            self.directory(above)?;
        }
        let number = self.nodes.last_key_value().map_or(ROOT, |(n, _)| *n) + 1;
        self.name(path, GuestIno(number))?;
        self.insert(number, file_type, mode, size, body);
        Ok(())
    }

    fn name(&mut self, path: &str, ino: GuestIno) -> Result<()> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        if self.resolve(path).is_ok() {
            return Err(Error::new(ErrorKind::AlreadyExists, "it exists already"));
        }
        let Body::Directory(entries) = &mut self.node_mut(dir)?.body else {
            return Err(Error::new(ErrorKind::NotADirectory, "not a directory"));
        };
        entries.push(Entry {
            name: name.into(),
            ino,
        });
        Ok(())
    }

    /// Makes a directory and its parents, as the other creating calls do.
    ///
    /// # Errors
    /// `AlreadyExists`; as [`MemoryFs::resolve`]. The calls below have the same errors.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        let body = Body::Directory(Vec::new());
        self.add(path, FileType::Directory, 0o755, PAGE_BYTES, body)
    }

    /// Makes a file whose bytes lie on the volume.
    ///
    /// # Errors
    /// As [`MemoryFs::directory`].
    pub fn file(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        let offset = self.volume_end;
        self.volume.write_at(offset, bytes)?;
        let size = u64_from_usize(bytes.len());
        self.volume_end = (offset + size).next_multiple_of(PAGE_BYTES);
        self.volume.set_size(self.volume_end)?;
        self.add(path, FileType::Regular, 0o644, size, Body::Plain { offset })
    }

    /// Makes a file that only the reader can read.
    ///
    /// # Errors
    /// As [`MemoryFs::directory`].
    pub fn encoded(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        let size = u64_from_usize(bytes.len());
        self.add(
            path,
            FileType::Regular,
            0o644,
            size,
            Body::Encoded(bytes.into()),
        )
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As [`MemoryFs::directory`].
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        let size = u64_from_usize(target.len());
        self.add(
            path,
            FileType::Symlink,
            0o777,
            size,
            Body::Symlink(target.into()),
        )
    }

    /// Makes a device, FIFO or socket.
    ///
    /// # Errors
    /// As [`MemoryFs::directory`].
    pub fn special(
        &mut self,
        path: &str,
        file_type: FileType,
        rdev: Option<(u32, u32)>,
    ) -> Result<()> {
        self.add(path, file_type, 0o600, 0, Body::Special)?;
        self.change(path, |attributes| attributes.rdev = rdev)
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// As [`MemoryFs::directory`].
    pub fn hard_link(&mut self, path: &str, another: &str) -> Result<()> {
        let ino = self.resolve(path)?;
        self.name(another, ino)?;
        self.change(path, |attributes| attributes.nlink += 1)
    }

    fn node(&self, ino: GuestIno) -> Result<&Node> {
        let node = self
            .nodes
            .get(&ino.0)
            .ok_or_else(|| Error::not_found("there is no such inode in the guest"))?;
        match node.fault {
            Some(kind) => Err(Error::new(kind, "an injected fault")),
            None => Ok(node),
        }
    }
}

impl GuestFs for MemoryFs {
    fn info(&self) -> &FsInfo {
        &self.info
    }

    fn root(&self) -> GuestIno {
        GuestIno(ROOT)
    }

    fn subvolume(&self, which: &Subvolume) -> Result<GuestIno> {
        let is_it = |(path, number, _): &&(String, u64, GuestIno)| match which {
            Subvolume::Default => true,
            Subvolume::Path(wanted) => path.as_bytes() == wanted,
            Subvolume::Id(wanted) => number == wanted,
        };
        match (self.subvolumes.iter().find(is_it), which) {
            (Some((.., ino)), _) => Ok(*ino),
            (None, Subvolume::Default) => Ok(self.root()),
            (None, _) => Err(Error::not_found("there is no such subvolume")),
        }
    }

    fn attributes(&self, ino: GuestIno) -> Result<Attributes> {
        Ok(self.node(ino)?.attributes.clone())
    }

    fn entries(&self, ino: GuestIno) -> Result<Arc<[Entry]>> {
        match &self.node(ino)?.body {
            Body::Directory(entries) => Ok(entries.clone().into()),
            _ => Err(Error::new(ErrorKind::NotADirectory, "not a directory")),
        }
    }

    fn symlink_target(&self, ino: GuestIno) -> Result<Vec<u8>> {
        match &self.node(ino)?.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(Error::invalid("not a symbolic link")),
        }
    }

    fn xattrs(&self, ino: GuestIno) -> Result<Arc<[Xattr]>> {
        Ok(self.node(ino)?.xattrs.clone().into())
    }

    fn runs(&self, ino: GuestIno) -> Result<Arc<RunMap<()>>> {
        let node = self.node(ino)?;
        let length_bytes = node.attributes.size_bytes;
        let target = match &node.body {
            Body::Plain { offset } => Target::Source {
                source: (),
                offset: *offset,
            },
            Body::Encoded(_) => Target::Encoded,
            _ => return Err(Error::invalid("not a regular file")),
        };
        let run = Run {
            start: 0,
            length_bytes,
            target,
        };
        RunMap::new(length_bytes, [run]).map(Arc::new)
    }

    fn read_encoded(&self, ino: GuestIno, offset: u64, buf: &mut [u8]) -> Result<()> {
        let node = self.node(ino)?;
        let length = u64_from_usize(buf.len());
        check_range(node.attributes.size_bytes, offset, length)?;
        match &node.body {
            Body::Plain { offset: start } => self.volume.read_at(start + offset, buf),
            Body::Encoded(bytes) => {
                let from = usize_from_u64(offset);
                let part = bytes.get(from..from + buf.len());
                buf.copy_from_slice(part.ok_or_else(|| Error::invalid("past the end"))?);
                Ok(())
            }
            _ => Err(Error::invalid("not a regular file")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::MemoryFs;
    use crate::error::ErrorKind;
    use crate::guest::conformance::check_guest_fs;
    use crate::guest::fs::{FileType, GuestFs};

    fn sample() -> MemoryFs {
        let mut fs = MemoryFs::new();
        fs.directory("etc").unwrap();
        fs.file("etc/passwd", b"root:x:0:0").unwrap();
        fs.encoded("etc/shadow", &[7; 5000]).unwrap();
        fs.file("empty", b"").unwrap();
        fs.symlink("link", "etc/passwd").unwrap();
        fs.special("null", FileType::CharDevice, Some((1, 3)))
            .unwrap();
        fs.hard_link("etc/passwd", "etc/passwd-").unwrap();
        fs.set_xattr("etc", "user.x", b"y").unwrap();
        fs
    }

    #[test]
    fn conforms() {
        let fs = sample();
        assert_eq!(check_guest_fs(&fs, &fs.volume()), 7);
        let ino = fs.resolve("etc/passwd-").unwrap();
        assert_eq!(fs.attributes(ino).unwrap().nlink, 2);
    }

    #[test]
    fn faults_are_answered() {
        let mut fs = sample();
        fs.fail("etc/shadow", ErrorKind::Corrupt).unwrap();
        let ino = fs.resolve("etc/shadow").unwrap();
        let error = fs.attributes(ino).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}
