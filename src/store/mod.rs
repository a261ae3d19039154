//! Where a repository lives: the narrow seam under it, with two sides that need not be one directory.
//!
//! The *store* has the committed objects: they are put whole, read by range, listed, deleted, locked. The *stage* is the workspace of
//! the process that writes: local files that are written in place. What a session has made is *published*: renamed where the workspace
//! lies in the store ([`LocalStore`] is both), uploaded where it lies apart ([`Workspace`]). Keys mean the same on both sides.
//!
//! | key | side |
//! |---|---|
//! | `restorefs.json`, `lock`, `trash/`, `jobs/`, `policies/` | store |
//! | `vms/<vm>/vm.json`, `index.json`, `state/`, `locks/` | store |
//! | `vms/<vm>/points/<point>/` | store |
//! | `vms/<vm>/layers/<slot>.qcow2`, `<slot>.<layer_id>.sums` | store |
//! | `vms/<vm>/points/.<name>.partial/` (sidecar, record logs, attached files) | workspace, until it is published as a point |
//! | `vms/<vm>/layers/*.open` (layers and sums that are being made) | workspace, until the session is over |
//! | `catalog.redb`, `cache/` (leaves, flattened maps, inode numbers, spilled tables, the reserve) | workspace |
//!
//! # Invariants
//! - A `put` is whole or absent after a crash, and durable when it returns.
//! - Nothing below the repository's root is opened through a symlink or a magic link, or is anything but
//!   a regular file or a directory.
//! - A listing is complete or fails.
//! - A prefix that was published in parts is there when its `last` object is; what lacks it is no point, and the next owner removes it.

pub mod conformance;
pub mod fault;
pub mod fingerprint;
pub mod identity;
pub mod key;
pub mod local;
pub mod memory;
mod transfer;
pub mod volatile;
pub mod workspace;

pub use fingerprint::Fingerprint;
pub use identity::Identity;
pub use key::Key;
pub use local::LocalStore;
pub use memory::MemoryStore;
pub use volatile::VolatileStore;
pub use workspace::Workspace;

use std::fs::File;
use std::sync::Arc;

use crate::block::{ReadAt, WriteAt};
use crate::error::Result;

/// Whether a `put` or publish may replace an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutMode {
    /// `AlreadyExists` when there is one.
    Create,
    /// Replaces atomically.
    Replace,
}

/// What a listing says of one name directly below a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Last component.
    pub name: String,
    /// Size in bytes of an object; 0 for a prefix.
    pub size_bytes: u64,
    /// Whether it is a prefix (directory).
    pub is_prefix: bool,
}

/// Committed objects.
pub trait Store: Send + Sync {
    /// For messages: where this is.
    fn describe(&self) -> String;

    /// Writes a whole object; atomic, and durable when it returns. Missing prefixes are made.
    ///
    /// # Errors
    /// `AlreadyExists` (mode `Create`), `NoSpace`, `ReadOnly`, `Io`.
    fn put(&self, key: &Key, bytes: &[u8], mode: PutMode) -> Result<()>;

    /// Writes a whole object of any size with the content of `source`, holes as holes. Atomic, read-only where the store has modes, and
    /// durable when it returns. Missing prefixes are made.
    ///
    /// # Errors
    /// As [`Store::put`]; what a read of `source` returns.
    fn upload(&self, key: &Key, source: &dyn ReadAt, mode: PutMode) -> Result<()>;

    /// Appends to an object, which is made when it is missing; durable when it returns. The holder of the lock appends, one thread at a
    /// time. After a crash any first part of `bytes` may be there.
    ///
    /// # Errors
    /// `NoSpace`, `ReadOnly`, `Io`.
    fn append(&self, key: &Key, bytes: &[u8]) -> Result<()>;

    /// Makes a prefix, its parents too, where the store has prefixes of their own (directories); no error when it is there.
    ///
    /// # Errors
    /// `NotADirectory`, `NoSpace`, `ReadOnly`, `Io`.
    fn make_prefix(&self, prefix: &Key) -> Result<()>;

    /// Reads a whole object of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// `NotFound`; `LimitExceeded` when it is larger; `Io`.
    fn get(&self, key: &Key, bytes_max: u64) -> Result<Vec<u8>>;

    /// Opens an object for ranged reads. It keeps reading the object it opened, whatever replaces it.
    ///
    /// # Errors
    /// `NotFound`, `Io`; `Corrupt` when it is no regular file.
    fn open(&self, key: &Key) -> Result<Arc<dyn ReadAt>>;

    /// Everything directly below `prefix`, sorted by name.
    ///
    /// # Errors
    /// `NotFound` when there is no such prefix; `Io`.
    fn list(&self, prefix: &Key) -> Result<Vec<Entry>>;

    /// Deletes an object, or an empty prefix; durable when it returns.
    ///
    /// # Errors
    /// `NotFound`, `NotEmpty`, `Io`.
    fn delete(&self, key: &Key) -> Result<()>;

    /// Deletes an object, or a prefix with all below it; a crash may leave a part.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    fn delete_all(&self, key: &Key) -> Result<()>;

    /// Removes what writers that were killed left directly below a prefix and no listing shows. The holder of the lock calls it.
    ///
    /// # Errors
    /// `Io`; a prefix that is missing is no error.
    fn sweep(&self, prefix: &Key) -> Result<()>;

    /// Moves an object or prefix aside (to the trash); never replaces. Durable when it returns.
    ///
    /// # Errors
    /// `AlreadyExists`, `NotFound`, `Io`.
    fn rename(&self, from: &Key, to: &Key) -> Result<()>;

    /// Takes the exclusive lock at `key`, whose object then holds `note`.
    ///
    /// # Errors
    /// `Locked`, with what the present holder's note says.
    fn lock(&self, key: &Key, note: &[u8]) -> Result<Box<dyn Lock>>;

    /// The note of whoever holds the lock now, or `None`.
    ///
    /// # Errors
    /// `Io`.
    fn lock_note(&self, key: &Key) -> Result<Option<Vec<u8>>>;

    /// Optional capability: which local file or directory `key` is; `None` when there is none, or it is not a local one.
    ///
    /// # Errors
    /// `PermissionDenied`, `Io`.
    fn identity(&self, key: &Key) -> Result<Option<Identity>>;

    /// Optional capability: a cheap mark that is another one once an object or prefix has changed; `None` when nothing is there, or the
    /// store has no such marks.
    ///
    /// # Errors
    /// `PermissionDenied`, `Io`.
    fn fingerprint(&self, key: &Key) -> Result<Option<Fingerprint>>;

    /// Optional capability: the object as a local descriptor (reflink, passthrough, `copy_file_range`).
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    fn local_file(&self, key: &Key) -> Result<Option<File>>;

    /// Optional capability: the local path of the root, to watch it and to compare it with mountpoints.
    fn local_root(&self) -> Option<&std::path::Path>;

    /// Bytes free and in all, where that means something.
    ///
    /// # Errors
    /// `Io`.
    fn space(&self) -> Result<Option<Space>>;
}

/// Room in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// A held lock; dropping it releases it.
pub trait Lock: Send + Sync {
    /// Proves that the lock is still ours by reading it again, and writes the new note (heartbeat).
    ///
    /// # Errors
    /// `Stale` when somebody else holds it now.
    fn renew(&self, note: &[u8]) -> Result<()>;

    /// Proves that the lock is still ours, reading it again.
    ///
    /// # Errors
    /// `Stale` when somebody else holds it now.
    fn verify(&self) -> Result<()>;
}

/// The workspace: where sessions write.
pub trait Stage: Send + Sync {
    /// Whether the workspace is another place than the store that it publishes to.
    fn is_separate(&self) -> bool {
        false
    }

    /// Makes a prefix, its parents too; no error when it is there.
    ///
    /// # Errors
    /// `Io`.
    fn make_prefix(&self, prefix: &Key) -> Result<()>;

    /// Creates a file for writing; its name is durable after [`Stage::sync_prefix`].
    ///
    /// # Errors
    /// `AlreadyExists`, `NoSpace`, `Io`.
    fn create(&self, key: &Key) -> Result<Arc<dyn WriteAt>>;

    /// Opens a file of the stage again for reading and writing.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    fn open(&self, key: &Key) -> Result<Arc<dyn WriteAt>>;

    /// Writes a small file whole (temporary file, fsync, rename, fsync of the directory).
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    fn put(&self, key: &Key, bytes: &[u8], mode: PutMode) -> Result<()>;

    /// Reads a small file whole.
    ///
    /// # Errors
    /// As [`Store::get`].
    fn get(&self, key: &Key, bytes_max: u64) -> Result<Vec<u8>>;

    /// Everything directly below a prefix.
    ///
    /// # Errors
    /// As [`Store::list`].
    fn list(&self, prefix: &Key) -> Result<Vec<Entry>>;

    /// Deletes a file, or a prefix with all below it.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    fn delete(&self, key: &Key) -> Result<()>;

    /// Publishes one object: it is in the store as `to`, with all its bytes durable and read-only (mode 0444). The new name is durable
    /// after [`Stage::sync_prefix`] of the prefix of `to`. Where the workspace is separate, the file stays in it, until it is deleted.
    ///
    /// # Errors
    /// `AlreadyExists` (mode `Create`), `NotFound`, `NoSpace`, `Io`.
    fn publish(&self, from: &Key, to: &Key, mode: PutMode) -> Result<()>;

    /// Takes a published object back: afterwards it is not in the store, and `own` is the workspace's file again, to be opened. When it was
    /// not published, `own` only has to be there. Durable when it returns.
    ///
    /// # Errors
    /// `NotFound` when there is neither; `Io`.
    fn reclaim(&self, published: &Key, own: &Key) -> Result<()>;

    /// Publishes a prefix with all below it: afterwards it is in the store as `to` whole, or not visible. Files in it are made read-only
    /// and durable first. `last` names the object directly below it that makes it visible: where a rename cannot be had, it is uploaded
    /// last and only if there is none. What is at `to` already and has `last` is never replaced; a directory there that a rename would
    /// have to replace neither. The prefix is gone from the workspace then. Durable when it returns, both where it was and where it is.
    ///
    /// # Errors
    /// `AlreadyExists`; `NotFound` when `from` or `last` in it is missing; `NoSpace`, `Io`.
    fn publish_prefix(&self, from: &Key, to: &Key, last: &str) -> Result<()>;

    /// Makes the names directly below a prefix durable.
    ///
    /// # Errors
    /// `Io`.
    fn sync_prefix(&self, prefix: &Key) -> Result<()>;

    /// Bytes free and in all, where that means something.
    ///
    /// # Errors
    /// `Io`.
    fn space(&self) -> Result<Option<Space>>;
}
