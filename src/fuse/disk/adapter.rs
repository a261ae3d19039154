//! Implements fuser's trait over a list of disks. It only translates.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, WriteFlags,
};

use super::{Content, DiskFile, FAILED_REQUESTS, LAST_ERROR, SCRATCH_BYTES};
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::agreement::agree;
use crate::fuse::passthrough::Opens;
use crate::fuse::reply::{Answer, GENERATION, NAME_MAX, STATFS_BLOCK, empty, sized};
use crate::sys::hole;
use crate::types::width::{u64_from_usize, usize_from_u32, usize_from_u64};

/// Nothing in this mount ever changes.
const TTL: Duration = Duration::from_secs(86_400);
/// Inode number of the first file; the numbers of the others follow.
const FIRST_FILE: u64 = INodeNo::ROOT.0 + 1;

thread_local! {
    /// This thread's buffer for reads.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Answers the kernel's requests about a list of disks.
pub(super) struct DiskAdapter {
    files: Vec<DiskFile>,
    opens: Arc<Opens>,
    uid: u32,
    gid: u32,
}

impl DiskAdapter {
    pub(super) fn new(files: Vec<DiskFile>, opens: Arc<Opens>) -> Self {
        Self {
            files,
            opens,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    fn file(&self, node: INodeNo) -> Answer<&DiskFile> {
        let index = node.0.checked_sub(FIRST_FILE).ok_or(Errno::EISDIR)?;
        self.files.get(usize_from_u64(index)).ok_or(Errno::ENOENT)
    }

    fn attributes(&self, node: INodeNo) -> Answer<FileAttr> {
        let (kind, perm, size) = if node == INodeNo::ROOT {
            (FileType::Directory, 0o500, 0)
        } else {
            let content = &self.file(node)?.content;
            let perm = match content {
                Content::Fixed(..) => 0o400,
                Content::Scratch(..) => 0o600,
            };
            (FileType::RegularFile, perm, content.size_bytes())
        };
        Ok(FileAttr {
            ino: node,
            size,
            blocks: size / 512,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: STATFS_BLOCK,
            flags: 0,
        })
    }

    /// Runs a request on a disk. Every failure becomes EIO: other errors have special meanings for the loop
    /// driver and for filesystems. The reason is recorded.
    fn work<T>(
        &self,
        node: INodeNo,
        what: &'static str,
        f: impl FnOnce(&Content) -> Result<T>,
    ) -> Answer<T> {
        let file = self.file(node)?;
        let error = match catch_unwind(AssertUnwindSafe(|| f(&file.content))) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(_) => Error::new(ErrorKind::Io, "a request handler panicked"),
        };
        file.failures.note(what, &error);
        Err(Errno::EIO)
    }

    fn xattr(&self, node: INodeNo, name: &[u8]) -> Answer<String> {
        let file = self.file(node).map_err(|_| Errno::ENODATA)?;
        let is = |known: &str| name == known.as_bytes();
        if is(SCRATCH_BYTES)
            && let Content::Scratch(_, scratch) = &file.content
        {
            let bytes = hole::allocated_bytes(scratch).map_err(|_| Errno::EIO)?;
            return Ok(bytes.to_string());
        }
        if is(FAILED_REQUESTS) {
            return Ok(file.failures.count().to_string());
        }
        if is(LAST_ERROR) {
            return file.failures.last().ok_or(Errno::ENODATA);
        }
        Err(Errno::ENODATA)
    }
}

impl Filesystem for DiskAdapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2;
        agree(config, wanted);
        if self.files.iter().any(|file| file.flat().is_some()) {
            self.opens.ask(config);
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let place = (FIRST_FILE..)
            .zip(&self.files)
            .find(|(_, file)| parent == INodeNo::ROOT && file.name.as_bytes() == name.as_bytes());
        let found = place
            .ok_or(Errno::ENOENT)
            .and_then(|(ino, _)| self.attributes(INodeNo(ino)));
        match found {
            Ok(attributes) => reply.entry(&TTL, &attributes, GENERATION),
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
        match self.attributes(node) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _request: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.file(node) {
            // `map` has made the flat disks before it mounted.
            Ok(file) => {
                self.opens.answer(node, reply, || file.flat());
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn release(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.opens.release(node);
        reply.ok();
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
            let answer = self.work(node, "read", |content| {
                let left = content.size_bytes().saturating_sub(offset);
                let length = usize_from_u64(left.min(size.into()));
                if buffer.len() < length {
                    buffer.resize(usize_from_u32(size), 0);
                }
                let part = buffer.get_mut(..length).unwrap_or_default();
                match content {
                    Content::Fixed(disk, _) => disk.read_at(offset, part)?,
                    Content::Scratch(disk, _) => disk.read_at(offset, part)?,
                }
                Ok(length)
            });
            match answer {
                Ok(length) => reply.data(buffer.get(..length).unwrap_or_default()),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn write(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let answer = self.work(node, "write", |content| match content {
            Content::Fixed(..) => Err(Error::new(
                ErrorKind::ReadOnly,
                "the disk is mapped read-only",
            )),
            Content::Scratch(disk, _) => disk.write_at(offset, data),
        });
        match answer {
            // The length is that of the request, which has 32 bits for it.
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(errno),
        }
    }

    fn fallocate(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        // The driver sends these modes for a discard and for write-zeroes: the range reads as zero, and the
        // size stays.
        let zeroes = [
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
            libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
            libc::FALLOC_FL_ZERO_RANGE,
        ];
        if !zeroes.contains(&mode) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let answer = self.work(node, "discard a part of", |content| match content {
            Content::Fixed(..) => Err(Error::new(
                ErrorKind::ReadOnly,
                "the disk is mapped read-only",
            )),
            Content::Scratch(disk, _) => disk.punch(offset, length),
        });
        empty(answer, reply);
    }

    fn fsync(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let answer = self.work(node, "flush", |content| match content {
            Content::Fixed(..) => Ok(()),
            Content::Scratch(disk, _) => disk.flush(),
        });
        empty(answer, reply);
    }

    fn flush(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // The kernel sends it at every close until it receives this error.
        reply.error(Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if node != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let dots = [(INodeNo::ROOT.0, "."), (INodeNo::ROOT.0, "..")]
            .into_iter()
            .map(|(ino, name)| (ino, FileType::Directory, name));
        let files = (FIRST_FILE..)
            .zip(&self.files)
            .map(|(ino, file)| (ino, FileType::RegularFile, file.name.as_str()));
        let all = (1..).zip(dots.chain(files));
        for (cookie, (ino, kind, name)) in all.skip(usize_from_u64(offset)) {
            if reply.add(INodeNo(ino), cookie, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _node: INodeNo, reply: ReplyStatfs) {
        let bytes: u64 = self.files.iter().map(|f| f.content.size_bytes()).sum();
        let blocks = bytes / u64::from(STATFS_BLOCK);
        let files = u64_from_usize(self.files.len());
        reply.statfs(blocks, 0, 0, files, 0, STATFS_BLOCK, NAME_MAX, STATFS_BLOCK);
    }

    fn getxattr(
        &self,
        _request: &Request,
        node: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        match self.xattr(node, name.as_bytes()) {
            Ok(value) => sized(value.as_bytes(), size, reply),
            Err(errno) => reply.error(errno),
        }
    }

    fn access(&self, _request: &Request, _node: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks permissions itself (default_permissions).
        reply.error(Errno::ENOSYS);
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
}
