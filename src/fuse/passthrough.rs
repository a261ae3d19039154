//! Passthrough: the kernel reads an open file from another file, without this process.
//!
//! # Invariants
//! The first open of an inode decides how it is read, until its last release: the kernel refuses (EIO) to open it in the other way, or
//! with another backing file, meanwhile.
//!
//! # Concurrency
//! The kernel ends its side of an open before it sends the release, so an inode that is free here is free there.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{BackingId, FileHandle, FopenFlags, INodeNo, InitFlags, KernelConfig, ReplyOpen};

use crate::metrics::flat::{Path, note_open};
use crate::types::sync::Mutex;

/// Filesystems that the kernel may have to go through below this one: none of the backing files is on a stacked one.
const STACK_DEPTH: u32 = 1;

/// An inode that is open.
struct Open {
    /// The backing file in the kernel; `None` when this process serves the reads.
    backing: Option<Arc<BackingId>>,
    count: u64,
    /// Whether a read through this process was noted.
    was_read: bool,
}

/// LIMIT: inodes that are remembered as read.
const READ_MAX: usize = 4096;

/// The open inodes of one mount.
#[derive(Default)]
pub(super) struct Opens {
    is_granted: AtomicBool,
    open: Mutex<HashMap<u64, Open>>,
    /// Inodes that were read through this process: the kernel may have kept what it has read, and then it sends no further read.
    were_read: Mutex<HashSet<u64>>,
    /// Why the kernel takes no backing files.
    refusal: Mutex<Option<String>>,
}

impl Opens {
    /// Asks the kernel for passthrough; to be called at `init`.
    pub(super) fn ask(&self, config: &mut KernelConfig) {
        let offered = config.capabilities().contains(InitFlags::FUSE_PASSTHROUGH);
        if offered
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(STACK_DEPTH).is_ok()
        {
            self.is_granted.store(true, Ordering::Release);
            return;
        }
        self.refuse("this kernel has no FUSE passthrough (Linux 6.9 or later has)");
    }

    fn refuse(&self, why: impl Into<String>) {
        let why = why.into();
        self.is_granted.store(false, Ordering::Release);
        tracing::warn!(reason = %why, "the disks are read without passthrough");
        *self.refusal.lock() = Some(why);
    }

    /// Why no file is read by passthrough.
    pub(super) fn refusal(&self) -> Option<String> {
        self.refusal.lock().clone()
    }

    /// Whether an inode is open, and all that are are open by passthrough.
    pub(super) fn is_passthrough(&self) -> bool {
        let open = self.open.lock();
        !open.is_empty() && open.values().all(|one| one.backing.is_some())
    }

    /// Answers an open; `find` opens the backing file, if there is one. Returns whether this process serves the reads of an inode
    /// that it has served before.
    pub(super) fn answer(
        &self,
        node: INodeNo,
        reply: ReplyOpen,
        find: impl FnOnce() -> Option<File>,
    ) -> bool {
        let backing = self.enter(node, &reply, find);
        match backing {
            Some(backing) => {
                note_open(Path::Passthrough);
                reply.opened_passthrough(FileHandle(0), FopenFlags::empty(), &backing);
                false
            }
            None => {
                note_open(Path::Buffered);
                let was_read = self.were_read.lock().contains(&node.0);
                reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
                was_read
            }
        }
    }

    fn enter(
        &self,
        node: INodeNo,
        reply: &ReplyOpen,
        find: impl FnOnce() -> Option<File>,
    ) -> Option<Arc<BackingId>> {
        let is_known = self.open.lock().contains_key(&node.0);
        let file = if is_known || !self.is_granted.load(Ordering::Acquire) {
            None
        } else {
            find()
        };
        let mut open = self.open.lock();
        if let Some(known) = open.get_mut(&node.0) {
            known.count += 1;
            return known.backing.clone();
        }
        let backing = file.and_then(|file| match reply.open_backing(&file) {
            Ok(backing) => Some(Arc::new(backing)),
            Err(error) => {
                self.refuse(match error.raw_os_error() {
                    Some(libc::EPERM) => "passthrough needs root (CAP_SYS_ADMIN)".to_owned(),
                    Some(libc::ELOOP) => "the repository lies on a stacked filesystem".to_owned(),
                    _ => format!("the kernel takes no backing file: {error}"),
                });
                None
            }
        });
        let entry = Open {
            backing: backing.clone(),
            count: 1,
            was_read: false,
        };
        open.insert(node.0, entry);
        backing
    }

    /// Notes a read through this process; `true` for the first one since the inode was opened.
    pub(super) fn note_read(&self, node: INodeNo) -> bool {
        let is_first = {
            let mut open = self.open.lock();
            let first = open.get_mut(&node.0).filter(|one| !one.was_read);
            first.is_some_and(|one| {
                one.was_read = true;
                true
            })
        };
        if is_first {
            let mut were_read = self.were_read.lock();
            if were_read.len() >= READ_MAX {
                were_read.clear();
            }
            were_read.insert(node.0);
        }
        is_first
    }

    /// Notes a release.
    pub(super) fn release(&self, node: INodeNo) {
        let mut open = self.open.lock();
        let Some(one) = open.get_mut(&node.0) else {
            return;
        };
        one.count -= 1;
        if one.count == 0 {
            open.remove(&node.0);
        }
    }
}
