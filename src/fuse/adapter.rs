//! fuser's trait over the tree: translation and nothing else.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType as FuseType, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};

use super::errno;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::fs::{FileType, Time};
use crate::tree::{Attributes, DirEntry, Found, Ino, Tree, Ttl};
use crate::types::width::{u64_from_usize, usize_from_u32};

/// How long the kernel may keep what never changes. Names above it are invalidated, which drops all that is below.
const TTL_COMMITTED: Duration = Duration::from_secs(86_400);
/// How long it may keep what changes, should a notification be lost.
const TTL_CHANGING: Duration = Duration::from_secs(1);
/// Inode numbers are never reused, so there is one generation.
const GENERATION: Generation = Generation(0);
/// Requests that the kernel may have in flight for readahead.
const BACKGROUND: u16 = 64;
/// Cookies of `.` and `..`.
const COOKIES_DOTS: u64 = 2;
/// LIMIT: longest name (ext4, XFS and NTFS: 255 characters).
const NAME_MAX: u32 = 255;
/// The unit that statfs counts in.
const STATFS_BLOCK: u32 = 4096;

thread_local! {
    /// The buffer of this thread's reads.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// See the module.
pub(super) struct Adapter {
    tree: Arc<Tree>,
    /// Whether `open` is answered ENOSYS; false on kernels that do not know what that means.
    stateless_open: AtomicBool,
    stateless_opendir: AtomicBool,
}

impl Adapter {
    pub(super) const fn new(tree: Arc<Tree>) -> Self {
        Self {
            tree,
            stateless_open: AtomicBool::new(false),
            stateless_opendir: AtomicBool::new(false),
        }
    }
}

const fn ttl(ttl: Ttl) -> Duration {
    match ttl {
        Ttl::Committed => TTL_COMMITTED,
        Ttl::Changing => TTL_CHANGING,
        Ttl::Nothing => Duration::ZERO,
    }
}

fn system_time(time: Time) -> SystemTime {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let base = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    base.and_then(|base| base.checked_add(Duration::from_nanos(time.nanoseconds.into())))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

const fn file_type(file_type: FileType) -> FuseType {
    match file_type {
        FileType::Regular => FuseType::RegularFile,
        FileType::Directory => FuseType::Directory,
        FileType::Symlink => FuseType::Symlink,
        FileType::CharDevice => FuseType::CharDevice,
        FileType::BlockDevice => FuseType::BlockDevice,
        FileType::Fifo => FuseType::NamedPipe,
        FileType::Socket => FuseType::Socket,
    }
}

/// A device number in the form of the protocol: `new_encode_dev` of linux/kdev_t.h.
const fn device((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

fn attr(attributes: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(attributes.ino.0),
        size: attributes.size_bytes,
        blocks: attributes.blocks,
        atime: system_time(attributes.atime),
        mtime: system_time(attributes.mtime),
        ctime: system_time(attributes.ctime),
        crtime: system_time(attributes.crtime.unwrap_or_default()),
        kind: file_type(attributes.file_type),
        perm: attributes.mode,
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: attributes.rdev.map_or(0, device),
        blksize: 4096,
        flags: 0,
    }
}

/// Attributes of what there is only a name of.
fn unknown(ino: Ino, kind: FuseType) -> FileAttr {
    FileAttr {
        ino: INodeNo(if ino.0 == 0 { u64::MAX } else { ino.0 }),
        ..nothing(kind)
    }
}

/// Attributes of nothing: node id 0 tells the kernel that there is only a name, or not even that.
fn nothing(kind: FuseType) -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind,
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// Runs a handler; a panic in it is that request's EIO, not the end of the thread.
fn guarded<T>(f: impl FnOnce() -> Result<T>) -> std::result::Result<T, Errno> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(|error| errno::of(&error)),
        Err(_) => {
            tracing::error!("a request handler panicked");
            Err(Errno::EIO)
        }
    }
}

fn ino(node: INodeNo) -> Ino {
    Ino(node.0)
}

impl Adapter {
    /// `.` and `..`, then the tree's own entries; `each` says `false` when it has no more room.
    fn list(
        &self,
        directory: Ino,
        offset: u64,
        each: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let mut room = true;
        for (cookie, name) in [(1, &b"."[..]), (COOKIES_DOTS, b"..")] {
            if offset < cookie && room {
                let parent = if cookie == 1 {
                    directory
                } else {
                    self.tree.parent(directory).unwrap_or(directory)
                };
                room = each(&DirEntry {
                    name,
                    ino: parent,
                    found: None,
                    file_type: FileType::Directory,
                    cookie,
                });
            }
        }
        if room {
            self.tree.entries(directory, offset, each)?;
        }
        Ok(())
    }

    fn seek(&self, node: Ino, offset: i64, whence: i32) -> Result<i64> {
        let offset = u64::try_from(offset).map_err(|_| Error::invalid("a negative offset"))?;
        let at = match whence {
            libc::SEEK_DATA => self
                .tree
                .seek_data(node, offset)?
                .ok_or_else(|| Error::new(ErrorKind::NoData, "no more data"))?,
            libc::SEEK_HOLE => self.tree.seek_hole(node, offset)?,
            _ => return Err(Error::invalid("an unknown way to seek")),
        };
        i64::try_from(at).map_err(|_| Error::invalid("an offset beyond 2^63"))
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let mut wanted = InitFlags::FUSE_NO_OPEN_SUPPORT
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPORT_SUPPORT
            // A listing is read again when the directory's time has changed, should a notification be lost.
            | InitFlags::FUSE_AUTO_INVAL_DATA
            | InitFlags::FUSE_ASYNC_DIO;
        let options = self.tree.options();
        // With ACLs of the guest's users in force, an ordinary user could not read what is shown as his own.
        if !options.noxattr && !options.single_user {
            wanted |= InitFlags::FUSE_POSIX_ACL;
        }
        let granted = wanted & config.capabilities();
        if let Err(missing) = config.add_capabilities(granted) {
            tracing::warn!(?missing, "the kernel takes back what it has offered");
        }
        let has = |flag| granted.contains(flag);
        self.stateless_open
            .store(has(InitFlags::FUSE_NO_OPEN_SUPPORT), Ordering::Relaxed);
        self.stateless_opendir
            .store(has(InitFlags::FUSE_NO_OPENDIR_SUPPORT), Ordering::Relaxed);
        if let Err(nearest) = config.set_max_background(BACKGROUND) {
            tracing::debug!(nearest, "another number of requests in flight");
        }
        if let Err(nearest) = config.set_max_readahead(u32::MAX) {
            // The answer is the highest that is allowed.
            if config.set_max_readahead(nearest).is_err() {
                tracing::debug!(nearest, "the kernel's own readahead is used");
            }
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match guarded(|| match self.tree.lookup(ino(parent), name.as_bytes()) {
            Ok(found) => Ok(Some(found)),
            // In a guest's directory what is not there never will be: the kernel may remember that.
            Err(e) if e.kind() == ErrorKind::NotFound && ino(parent).volume() != 0 => Ok(None),
            Err(e) => Err(e),
        }) {
            Ok(Some(Found {
                attributes,
                entry_ttl,
                attribute_ttl,
            })) => reply.entry_with_ttls(
                &ttl(attribute_ttl),
                &ttl(entry_ttl),
                &attr(&attributes),
                GENERATION,
            ),
            Ok(None) => reply.entry(&TTL_COMMITTED, &nothing(FuseType::RegularFile), GENERATION),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        match guarded(|| self.tree.attributes(ino(node))) {
            Ok(found) => reply.attr(&ttl(found.attribute_ttl), &attr(&found.attributes)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _request: &Request, node: INodeNo, reply: ReplyData) {
        match guarded(|| self.tree.link_target(ino(node))) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _request: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.stateless_open.load(Ordering::Relaxed) {
            reply.error(Errno::ENOSYS);
        } else {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
        }
    }

    fn opendir(&self, _request: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.stateless_opendir.load(Ordering::Relaxed) {
            reply.error(Errno::ENOSYS);
        } else {
            reply.opened(FileHandle(0), FopenFlags::empty());
        }
    }

    fn read(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            let size = usize_from_u32(size);
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let result = guarded(|| {
                let part = buffer.get_mut(..size).unwrap_or_default();
                self.tree.read(ino(node), offset, part)
            });
            match result {
                Ok(length) => reply.data(buffer.get(..length).unwrap_or_default()),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn readdir(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let result = guarded(|| {
            self.list(ino(node), offset, &mut |entry| {
                let name = OsStr::from_bytes(entry.name);
                let kind = file_type(entry.file_type);
                !reply.add(INodeNo(entry.ino.0), entry.cookie, kind, name)
            })
        });
        match result {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let result = guarded(|| {
            self.list(ino(node), offset, &mut |entry| {
                let name = OsStr::from_bytes(entry.name);
                let (ttl, attr) = match &entry.found {
                    Some(found) => (
                        ttl(found.entry_ttl).min(ttl(found.attribute_ttl)),
                        attr(&found.attributes),
                    ),
                    // Asked for again at once, and answered with what is wrong with it. Not node id 0, which fuser would also make the
                    // entry's inode number, and which readdir(3) leaves out.
                    None => (
                        Duration::ZERO,
                        unknown(entry.ino, file_type(entry.file_type)),
                    ),
                };
                !reply.add(
                    INodeNo(entry.ino.0),
                    entry.cookie,
                    name,
                    &ttl,
                    &attr,
                    GENERATION,
                )
            })
        });
        match result {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn statfs(&self, _request: &Request, _node: INodeNo, reply: ReplyStatfs) {
        match guarded(|| self.tree.space()) {
            Ok(space) => {
                let blocks = |bytes: u64| bytes / u64::from(STATFS_BLOCK);
                let total = space.map_or(0, |space| blocks(space.total_bytes));
                let free = space.map_or(0, |space| blocks(space.free_bytes));
                reply.statfs(
                    total,
                    free,
                    free,
                    0,
                    0,
                    STATFS_BLOCK,
                    NAME_MAX,
                    STATFS_BLOCK,
                );
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn getxattr(
        &self,
        _request: &Request,
        node: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        if self.tree.options().noxattr {
            return reply.error(Errno::ENOSYS);
        }
        match guarded(|| self.tree.xattr(ino(node), name.as_bytes())) {
            Ok(value) => sized(&value, size, reply),
            Err(errno) => reply.error(errno),
        }
    }

    fn listxattr(&self, _request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        if self.tree.options().noxattr {
            return reply.error(Errno::ENOSYS);
        }
        match guarded(|| self.tree.xattrs(ino(node))) {
            Ok(xattrs) => {
                let mut names = Vec::new();
                for xattr in xattrs.iter() {
                    names.extend_from_slice(&xattr.name);
                    names.push(0);
                }
                sized(&names, size, reply);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn lseek(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match guarded(|| self.seek(ino(node), offset, whence)) {
            Ok(offset) => reply.offset(offset),
            // lseek(2) says "past the end" and "no more data" with ENXIO.
            Err(errno) if errno.code() == libc::ENODATA => reply.error(Errno::ENXIO),
            Err(errno) => reply.error(errno),
        }
    }

    fn access(&self, _request: &Request, _node: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks permissions itself (default_permissions).
        reply.error(Errno::ENOSYS);
    }

    fn flush(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Sent at every close until it is answered so.
        reply.error(Errno::ENOSYS);
    }

    fn fsync(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn ioctl(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _flags: fuser::IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    // What follows would change something. The kernel refuses most of it itself, the mount being read-only.

    fn setattr(
        &self,
        _request: &Request,
        _node: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _target: &std::path::Path,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn link(
        &self,
        _request: &Request,
        _node: INodeNo,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn create(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(
        &self,
        _request: &Request,
        _node: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _request: &Request, _node: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }
}

/// Answers with the length when that is what was asked, ERANGE when the caller's buffer is too small.
fn sized(value: &[u8], size: u32, reply: ReplyXattr) {
    match u32::try_from(u64_from_usize(value.len())) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(value),
        Ok(_) => reply.error(Errno::ERANGE),
        Err(_) => reply.error(Errno::E2BIG),
    }
}

#[cfg(test)]
mod tests {
    use super::{device, system_time};
    use crate::guest::fs::Time;
    use std::time::{Duration, SystemTime};

    #[test]
    fn times_before_1970_and_devices_keep_their_value() {
        let time = Time {
            seconds: -2,
            nanoseconds: 500_000_000,
        };
        let expected = SystemTime::UNIX_EPOCH - Duration::from_millis(1500);
        assert_eq!(system_time(time), expected);
        assert_eq!(device((8, 1)), 0x801);
        assert_eq!(
            device((259, 0x1_2345)),
            0x45 | (259 << 8) | (0x1_2300 << 12)
        );
    }
}
