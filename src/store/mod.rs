//! The storage interface under a repository. It has two sides, which need not be one directory.
//!
//! The *store* has the committed objects: callers put them whole, read ranges of them, list, delete and lock
//! them. The *stage* is the workspace of the writing process: local files that are written in place. A
//! session's results are *published*: renamed where the workspace lies in the store ([`LocalStore`] is both),
//! uploaded where it is separate ([`Workspace`]). Keys mean the same on both sides.
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
//! - Nothing below the repository's root is opened through a symlink or a magic link; only regular files and
//!   directories are opened.
//! - A listing is complete or fails.
//! - A prefix that is published in parts exists once its `last` object exists. A prefix without it is not a
//!   point, and the next owner removes it.

pub mod conformance;
pub mod fault;
pub mod fingerprint;
pub mod identity;
pub mod key;
pub mod local;
mod local_lock;
pub mod memory;
mod transfer;
pub mod volatile;
pub mod workspace;

pub use fingerprint::Fingerprint;
pub use identity::Identity;
pub use key::Key;
pub use local::LocalStore;
pub use memory::MemoryStore;
pub use transfer::copy_object;
pub use volatile::VolatileStore;
pub use workspace::Workspace;

use std::sync::Arc;
use std::time::Duration;

use crate::block::{ReadAt, WriteAt};
use crate::error::Result;

/// Whether a `put` or publish may replace an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutMode {
    /// Fails with `AlreadyExists` when the object exists.
    Create,
    /// Replaces the object atomically.
    Replace,
}

/// One name directly below a prefix, as a listing returns it.
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
    /// Where this store is, for messages.
    fn describe(&self) -> String;

    /// Writes a whole object, atomically. The object is durable when the call returns. Missing prefixes are
    /// made.
    ///
    /// # Errors
    /// `AlreadyExists` (mode `Create`), `NoSpace`, `ReadOnly`, `Io`.
    fn put(&self, key: &Key, bytes: &[u8], mode: PutMode) -> Result<()>;

    /// Writes a whole object of any size with the content of `source`; holes stay holes. Atomic; the object
    /// is read-only where the store has modes, and durable when the call returns. Missing prefixes are made.
    ///
    /// # Errors
    /// As [`Store::put`]; errors of reading `source`.
    fn upload(&self, key: &Key, source: &dyn ReadAt, mode: PutMode) -> Result<()>;

    /// Appends to an object, and creates it when it is missing; durable when the call returns. Only the
    /// holder of the lock appends, one thread at a time. After a crash the object may end with any leading
    /// part of `bytes`.
    ///
    /// # Errors
    /// `NoSpace`, `ReadOnly`, `Io`.
    fn append(&self, key: &Key, bytes: &[u8]) -> Result<()>;

    /// Makes a prefix and its parents, where the store has prefixes of their own (directories). An existing
    /// prefix is not an error.
    ///
    /// # Errors
    /// `NotADirectory`, `NoSpace`, `ReadOnly`, `Io`.
    fn make_prefix(&self, prefix: &Key) -> Result<()>;

    /// Reads a whole object of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// `NotFound`; `LimitExceeded` when it is larger; `Io`.
    fn get(&self, key: &Key, bytes_max: u64) -> Result<Vec<u8>>;

    /// Opens an object for ranged reads. The handle keeps reading the object that it opened, even when
    /// another one replaces it.
    ///
    /// # Errors
    /// `NotFound`, `Io`; `Corrupt` when it is no regular file.
    fn open(&self, key: &Key) -> Result<Arc<dyn ReadAt>>;

    /// Bytes that an object takes: in a local directory those that `du` counts (holes take nothing; extents that several
    /// files share count for each of them), elsewhere its size. A store over another one passes the call on.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    fn stored_bytes(&self, key: &Key) -> Result<u64> {
        Ok(self.open(key)?.size_bytes())
    }

    /// Lists all names directly below `prefix`, sorted.
    ///
    /// # Errors
    /// `NotFound` when there is no such prefix; `Io`.
    fn list(&self, prefix: &Key) -> Result<Vec<Entry>>;

    /// Deletes an object or an empty prefix; durable when the call returns.
    ///
    /// # Errors
    /// `NotFound`, `NotEmpty`, `Io`.
    fn delete(&self, key: &Key) -> Result<()>;

    /// Deletes an object, or a prefix with everything below it. A crash may leave a part of it.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    fn delete_all(&self, key: &Key) -> Result<()>;

    /// Removes files directly below a prefix that killed writers left and that no listing shows. Only the
    /// holder of the lock calls it.
    ///
    /// # Errors
    /// `Io`. A missing prefix is not an error.
    fn sweep(&self, prefix: &Key) -> Result<()>;

    /// Moves an object or prefix aside (to the trash) and never replaces one; durable when the call returns.
    ///
    /// # Errors
    /// `AlreadyExists`, `NotFound`, `Io`.
    fn rename(&self, from: &Key, to: &Key) -> Result<()>;

    /// Gives an object a second name, so that it outlasts its replacement; durable when the call returns. `false`
    /// where the store has no second names.
    ///
    /// # Errors
    /// `AlreadyExists`, `NotFound`, `Io`.
    fn link(&self, from: &Key, to: &Key) -> Result<bool> {
        let _ = (from, to);
        Ok(false)
    }

    /// Takes the exclusive lock at `key`, and writes `note` to that object.
    ///
    /// # Errors
    /// `Locked`, with the note of the present holder.
    fn lock(&self, key: &Key, note: &[u8]) -> Result<Box<dyn Lock>>;

    /// The note of the present holder of the lock; `None` when it is free.
    ///
    /// # Errors
    /// `Io`.
    fn lock_note(&self, key: &Key) -> Result<Option<Vec<u8>>>;

    /// Optional capability: which local file or directory `key` is; `None` when it does not exist or is not
    /// local.
    ///
    /// # Errors
    /// `PermissionDenied`, `Io`.
    fn identity(&self, key: &Key) -> Result<Option<Identity>>;

    /// Optional capability: a cheap mark that differs once an object or prefix has changed; `None` when it
    /// does not exist, or the store has no such marks.
    ///
    /// # Errors
    /// `PermissionDenied`, `Io`.
    fn fingerprint(&self, key: &Key) -> Result<Option<Fingerprint>>;

    /// Optional capability: the local path of the root, to watch it and to compare it with mountpoints.
    fn local_root(&self) -> Option<&std::path::Path>;

    /// How long the store may answer from a cache whether an object exists: for so long, an object that was replaced
    /// may seem missing.
    fn look_up_delay(&self) -> Duration {
        Duration::ZERO
    }

    /// Free and total bytes; `None` where the store has no such numbers.
    ///
    /// # Errors
    /// `Io`.
    fn space(&self) -> Result<Option<Space>>;
}

/// Room in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Total bytes.
    pub total_bytes: u64,
}

/// A held lock; dropping it releases it.
pub trait Lock: Send + Sync {
    /// Proves that this process still holds the lock by reading it again, and writes the new note
    /// (heartbeat).
    ///
    /// # Errors
    /// `Stale` when another process holds it now.
    fn renew(&self, note: &[u8]) -> Result<()>;

    /// Proves that this process still holds the lock by reading it again.
    ///
    /// # Errors
    /// `Stale` when another process holds it now.
    fn verify(&self) -> Result<()>;
}

/// A file of the stage that nobody else may take; dropping it ends that.
pub trait HeldFile: Send + Sync {}

/// The workspace: where sessions write.
pub trait Stage: Send + Sync {
    /// Whether the workspace lies apart from the store that it publishes to.
    fn is_separate(&self) -> bool {
        false
    }

    /// Makes a prefix and its parents. An existing prefix is not an error.
    ///
    /// # Errors
    /// `Io`.
    fn make_prefix(&self, prefix: &Key) -> Result<()>;

    /// Creates a file for writing; its name is durable after [`Stage::sync_prefix`].
    ///
    /// # Errors
    /// `AlreadyExists`, `NoSpace`, `Io`.
    fn create(&self, key: &Key) -> Result<Arc<dyn WriteAt>>;

    /// Optional capability: creates a file that shares the extents of a published object until either is written;
    /// `None` where the filesystem cannot, and nothing is created then.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, `NoSpace`, `Io`.
    fn clone_object(&self, published: &Key, to: &Key) -> Result<Option<Arc<dyn WriteAt>>> {
        let _ = (published, to);
        Ok(None)
    }

    /// Opens a file of the stage again for reading and writing.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    fn open(&self, key: &Key) -> Result<Arc<dyn WriteAt>>;

    /// Takes a file of the stage for this caller; `None` while another one, in this process or another, has it. It
    /// ends with the returned value, and with the process.
    ///
    /// # Errors
    /// `NotFound`; `Unsupported` where the filesystem has no locks; `Io`.
    fn hold_file(&self, key: &Key) -> Result<Option<Box<dyn HeldFile>>>;

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

    /// Lists all names directly below a prefix.
    ///
    /// # Errors
    /// As [`Store::list`].
    fn list(&self, prefix: &Key) -> Result<Vec<Entry>>;

    /// Deletes a file, or a prefix with everything below it.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    fn delete(&self, key: &Key) -> Result<()>;

    /// Publishes one object: the store then has it as `to`, with all its bytes durable and read-only (mode
    /// 0444). The new name is durable after [`Stage::sync_prefix`] of the prefix of `to`. A separate
    /// workspace keeps the file until it is deleted.
    ///
    /// # Errors
    /// `AlreadyExists` (mode `Create`), `NotFound`, `NoSpace`, `Io`.
    fn publish(&self, from: &Key, to: &Key, mode: PutMode) -> Result<()>;

    /// Takes a published object back: the store does not have it any more, and the workspace can open `own`
    /// again. When the object was not published, `own` only has to exist. Durable when the call returns.
    ///
    /// # Errors
    /// `NotFound` when neither exists; `Io`.
    fn reclaim(&self, published: &Key, own: &Key) -> Result<()>;

    /// Publishes a prefix with everything below it: the store then has it as `to` whole, or it is not
    /// visible. Files in it are made read-only and durable first. `last` names the object directly below it
    /// that makes it visible: a stage that cannot rename uploads it last, and only if there is none. A prefix
    /// at `to` that has `last` is never replaced, and neither is a directory there that a rename would have
    /// to replace. The prefix is then gone from the workspace. Both the old and the new place are durable
    /// when the call returns.
    ///
    /// # Errors
    /// `AlreadyExists`; `NotFound` when `from`, or `last` in it, is missing; `NoSpace`, `Io`.
    fn publish_prefix(&self, from: &Key, to: &Key, last: &str) -> Result<()>;

    /// Makes the names directly below a prefix durable.
    ///
    /// # Errors
    /// `Io`.
    fn sync_prefix(&self, prefix: &Key) -> Result<()>;

    /// Free and total bytes; `None` where the stage has no such numbers.
    ///
    /// # Errors
    /// `Io`.
    fn space(&self) -> Result<Option<Space>>;
}
