//! Where a repository lives: the narrow seam under it, with two sides.
//!
//! *Committed objects* are put whole, read by range, listed, deleted, locked. A session's files lie in
//! the *stage*, which is always a local directory, and are *published*: renamed where the stage lies in
//! the repository, uploaded where it does not.
//!
//! # Invariants
//! - A `put` is whole or absent after a crash, and durable when it returns.
//! - Nothing below the repository's root is opened through a symlink or a magic link, or is anything but
//!   a regular file or a directory.
//! - A listing is complete or fails.

pub mod conformance;
pub mod fault;
pub mod identity;
pub mod key;
pub mod local;
pub mod memory;
pub mod volatile;

pub use identity::Identity;
pub use key::Key;
pub use local::LocalStore;
pub use memory::MemoryStore;
pub use volatile::VolatileStore;

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

/// Where sessions write. Keys are the same name space as the store's when both are one directory.
pub trait Stage: Send + Sync {
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

    /// Publishes one object: makes its bytes durable, read-only (mode 0444) and moves it to `to`, never
    /// replacing. The new name is durable after [`Stage::sync_prefix`] of the prefix of `to`.
    ///
    /// # Errors
    /// `AlreadyExists`, `NoSpace`, `Io`.
    fn publish(&self, from: &Key, to: &Key) -> Result<()>;

    /// Publishes a prefix with all below it, as one step: afterwards it is at `to` whole, or not at all.
    /// `to` must not exist (an empty directory there counts as existing). Files in it are made read-only and durable
    /// first. `last` names the object below it that makes it visible, uploaded last and conditionally
    /// where a rename cannot be had. Durable when it returns, both where it was and where it is.
    ///
    /// # Errors
    /// `AlreadyExists`; `NotFound` when `from` or `last` in it is missing; `NoSpace`, `Io`.
    fn publish_prefix(&self, from: &Key, to: &Key, last: &str) -> Result<()>;

    /// Makes the names directly below a prefix durable.
    ///
    /// # Errors
    /// `Io`.
    fn sync_prefix(&self, prefix: &Key) -> Result<()>;
}
