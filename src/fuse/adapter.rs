//! Implements fuser's trait over the tree. It only translates.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, FileType as FuseType, Filesystem, FopenFlags,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::agreement::agree;
use super::attr::{TTL_COMMITTED, attr, file_type, nothing, ttl, unknown};
use super::listing::list;
use super::passthrough::Opens;
use super::reply::{Answer, GENERATION, NAME_MAX, STATFS_BLOCK, empty, sized};
use super::{change, errno};
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::fuse::{self as metrics, Request as Kind};
use crate::tree::{Found, Ino, NewAttributes, Tree};
use crate::types::width::usize_from_u32;

thread_local! {
    /// This thread's buffer for reads.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Answers the kernel's requests about the tree.
pub(super) struct Adapter {
    tree: Arc<Tree>,
    /// Whether `open` returns ENOSYS; false on kernels that do not support that.
    stateless_open: AtomicBool,
    stateless_opendir: AtomicBool,
    /// The open disks of a mount with passthrough.
    opens: Option<Opens>,
}

impl Adapter {
    pub(super) fn new(tree: Arc<Tree>) -> Self {
        Self {
            opens: tree.options().passthrough.then(Opens::default),
            tree,
            stateless_open: AtomicBool::new(false),
            stateless_opendir: AtomicBool::new(false),
        }
    }
}

/// Runs a handler, and counts its request. A panic in it becomes EIO for that request, and does not end the thread.
fn guarded<T>(kind: Kind, f: impl FnOnce() -> Result<T>) -> Answer<T> {
    metrics::note_request(kind);
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(|error| {
            // That something is not there is an answer.
            if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NoData) {
                metrics::note_error(kind);
            }
            errno::of(&error)
        }),
        Err(_) => {
            metrics::note_error(kind);
            tracing::error!("a request handler panicked");
            Err(Errno::EIO)
        }
    }
}

fn ino(node: INodeNo) -> Ino {
    Ino(node.0)
}

impl Adapter {
    /// Makes the flat disk of a disk in the background, where the kernel would take it.
    fn make_flat(&self, opens: &Opens, node: INodeNo) {
        if opens.refusal().is_none() {
            self.tree.make_flat(ino(node));
        }
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
            // The kernel reads a listing again when the directory's time has changed, in case a notification
            // is lost.
            | InitFlags::FUSE_AUTO_INVAL_DATA
            | InitFlags::FUSE_ASYNC_DIO
            // Written files never keep a setuid bit: the kernel need not ask before each write.
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2;
        let options = self.tree.options();
        // With the ACLs of the guest's users in force, an ordinary user could not read files that the mount
        // shows as that user's own.
        if !options.noxattr && !options.single_user {
            wanted |= InitFlags::FUSE_POSIX_ACL;
        }
        if let Some(opens) = &self.opens {
            opens.ask(config);
            // Passthrough is decided at each open.
            if opens.refusal().is_none() {
                wanted.remove(InitFlags::FUSE_NO_OPEN_SUPPORT);
            }
        }
        let granted = agree(config, wanted);
        let has = |flag| granted.contains(flag);
        self.stateless_open
            .store(has(InitFlags::FUSE_NO_OPEN_SUPPORT), Ordering::Relaxed);
        self.stateless_opendir
            .store(has(InitFlags::FUSE_NO_OPENDIR_SUPPORT), Ordering::Relaxed);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match guarded(Kind::Lookup, || {
            match self.tree.lookup(ino(parent), name.as_bytes()) {
                Ok(found) => Ok(Some(found)),
                // A missing name in a guest's directory stays missing: the kernel may remember that.
                Err(e) if e.kind() == ErrorKind::NotFound && ino(parent).volume() != 0 => Ok(None),
                Err(e) => Err(e),
            }
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
        match guarded(Kind::Getattr, || self.tree.attributes(ino(node))) {
            Ok(found) => reply.attr(&ttl(found.attribute_ttl), &attr(&found.attributes)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _request: &Request, node: INodeNo, reply: ReplyData) {
        match guarded(Kind::Readlink, || self.tree.link_target(ino(node))) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _request: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.stateless_open.load(Ordering::Relaxed) {
            return reply.error(Errno::ENOSYS);
        }
        match &self.opens {
            Some(opens) if self.tree.is_whole_disk(ino(node)) => {
                if opens.answer(node, reply, || self.tree.flat_disk(ino(node))) {
                    self.make_flat(opens, node);
                }
            }
            _ => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
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
        if let Some(opens) = &self.opens {
            opens.release(node);
        }
        reply.ok();
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
        // Noted before the reply: a release may follow it.
        if let Some(opens) = &self.opens
            && opens.note_read(node)
        {
            self.make_flat(opens, node);
        }
        BUFFER.with_borrow_mut(|buffer| {
            let size = usize_from_u32(size);
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let began = Instant::now();
            let result = guarded(Kind::Read, || {
                let part = buffer.get_mut(..size).unwrap_or_default();
                self.tree.read(ino(node), offset, part)
            });
            metrics::note_read(began);
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
        let result = guarded(Kind::Readdir, || {
            list(&self.tree, ino(node), offset, &mut |entry| {
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
        let result = guarded(Kind::Readdirplus, || {
            list(&self.tree, ino(node), offset, &mut |entry| {
                let name = OsStr::from_bytes(entry.name);
                let (ttl, attr) = match &entry.found {
                    Some(found) => (
                        ttl(found.entry_ttl).min(ttl(found.attribute_ttl)),
                        attr(&found.attributes),
                    ),
                    // The kernel looks the entry up at once, and then receives its error. The node id must
                    // not be 0: fuser would also use it as the entry's inode number, and readdir(3) skips
                    // such entries.
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
        match guarded(Kind::Statfs, || self.tree.space()) {
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
        match guarded(Kind::Getxattr, || {
            self.tree.xattr(ino(node), name.as_bytes())
        }) {
            Ok(value) => sized(&value, size, reply),
            Err(errno) => reply.error(errno),
        }
    }

    fn listxattr(&self, _request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        if self.tree.options().noxattr {
            return reply.error(Errno::ENOSYS);
        }
        match guarded(Kind::Listxattr, || self.tree.xattrs(ino(node))) {
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
        match guarded(Kind::Lseek, || self.seek(ino(node), offset, whence)) {
            Ok(offset) => reply.offset(offset),
            // lseek(2) returns ENXIO for both "past the end" and "no more data".
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
        // The kernel sends it at every close until it receives this error.
        reply.error(Errno::ENOSYS);
    }

    fn fsync(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        empty(guarded(Kind::Fsync, || self.tree.sync(ino(node))), reply);
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        empty(guarded(Kind::Fsync, || self.tree.sync(ino(node))), reply);
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

    // The following requests change something: only in open sessions, and only where the mount is not
    // read-only.

    fn setattr(
        &self,
        _request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let result = guarded(Kind::Setattr, || {
            let new = NewAttributes {
                mode: mode.map(change::permissions),
                uid,
                gid,
                size_bytes: size,
                atime: atime.map(change::new_time).transpose()?,
                mtime: mtime.map(change::new_time).transpose()?,
            };
            self.tree.set_attributes(ino(node), &new)
        });
        match result {
            Ok(found) => reply.attr(&ttl(found.attribute_ttl), &attr(&found.attributes)),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let result = guarded(Kind::Mknod, || {
            if change::is_regular(mode) {
                self.tree.make_file(ino(parent), name.as_bytes())
            } else {
                Err(self.tree.refuse(ino(parent)))
            }
        });
        entry(result, reply);
    }

    fn mkdir(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        entry(
            guarded(Kind::Mkdir, || {
                self.tree.make_directory(ino(parent), name.as_bytes())
            }),
            reply,
        );
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(
            guarded(Kind::Unlink, || {
                self.tree.remove_file(ino(parent), name.as_bytes())
            }),
            reply,
        );
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(
            guarded(Kind::Rmdir, || {
                self.tree.remove_directory(ino(parent), name.as_bytes())
            }),
            reply,
        );
    }

    fn symlink(
        &self,
        _request: &Request,
        parent: INodeNo,
        _name: &OsStr,
        _target: &std::path::Path,
        reply: ReplyEntry,
    ) {
        entry(
            guarded(Kind::Symlink, || Err(self.tree.refuse(ino(parent)))),
            reply,
        );
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let Some(may_replace) = change::may_replace(flags) else {
            return reply.error(Errno::EINVAL);
        };
        let tree = Arc::clone(&self.tree);
        let (from, to) = (ino(parent), ino(new_parent));
        let (name, new_name) = (name.as_bytes().to_vec(), new_name.as_bytes().to_vec());
        // A commit takes time, and during it the kernel writes back its dirty pages of the disks. The commit
        // must not run on a thread that has to receive them.
        let rename = move || {
            let renamed = guarded(Kind::Rename, || {
                tree.rename((from, &name), (to, &new_name), may_replace)
            });
            empty(renamed, reply);
        };
        let spawned = std::thread::Builder::new()
            .name("fuse-rename".to_owned())
            .spawn(rename);
        if let Err(error) = spawned {
            // The closure owned the reply, which returns EIO when it is dropped.
            tracing::error!(%error, "no thread for a rename");
        }
    }

    fn link(
        &self,
        _request: &Request,
        _node: INodeNo,
        new_parent: INodeNo,
        _new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        entry(
            guarded(Kind::Link, || Err(self.tree.refuse(ino(new_parent)))),
            reply,
        );
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
        match guarded(Kind::Write, || self.tree.write(ino(node), offset, data)) {
            // The length is that of the request, which has 32 bits for it.
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(errno),
        }
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
        // The kernel then uses mknod and opens the file itself, statelessly like all others.
        reply.error(Errno::ENOSYS);
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
        let Some(how) = change::allocation(mode) else {
            return reply.error(Errno::EOPNOTSUPP);
        };
        empty(
            guarded(Kind::Fallocate, || {
                self.tree.allocate(ino(node), offset, length, how)
            }),
            reply,
        );
    }

    fn setxattr(
        &self,
        _request: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let must = change::must_exist(flags);
        empty(
            guarded(Kind::Setxattr, || {
                self.tree.set_xattr(ino(node), name.as_bytes(), value, must)
            }),
            reply,
        );
    }

    fn removexattr(&self, _request: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(
            guarded(Kind::Removexattr, || {
                self.tree.remove_xattr(ino(node), name.as_bytes())
            }),
            reply,
        );
    }
}

fn entry(result: Answer<Found>, reply: ReplyEntry) {
    match result {
        Ok(found) => reply.entry_with_ttls(
            &ttl(found.attribute_ttl),
            &ttl(found.entry_ttl),
            &attr(&found.attributes),
            GENERATION,
        ),
        Err(errno) => reply.error(errno),
    }
}
