//! The repository: layout, sidecars, identity, order, the catalog, the writer's lock, publishing and recovery.
//!
//! [`Repository`] has the reading operations, which any process may use. [`Owner`] holds the lock, and is the
//! only way to change committed objects.
//!
//! # Invariants
//! - A point is listed only when all its disks are durable; a committed point never changes.
//! - Nothing is deleted while a point, a session or a backing chain names it; a failed listing aborts the
//!   deletion.
//! - Everything in the catalog can be rebuilt from the files beside it; the directory `points/` wins over `index.json`.
//!
//! # Concurrency
//! | operation | repository's lock | VM's mutex | others |
//! |---|---|---|---|
//! | read, mount, restore, map | | | none: open files, the trash, a second walk |
//! | begin | held by the owner | while the sidecar is written | a use of the parent |
//! | write, flush | held by the owner | | range locks of the disk |
//! | commit | read again | from the seal to the index | the points directory of the VM |
//! | forget | read again | until the index is written and garbage is moved | none for a point in use |
//! | build of a merge | | | flock of its own file |
//! | bytes of a copy that arrives | | | flock of each layer's file; the session names its slots |
//! | begin of an arrival, arrival | read again | while slots, session, point and index are written | |
//! | adopt | read again | while the sidecar is written and copies end | |
//! | replace | read again | from the second look to the index | the build's flock |
//! | put back | read again | from the look at the damaged file to the new name | the copied file's flock |
//! | rename a VM | read again | to the end of the entry, with the table of VMs | none while a point is in use or a session is open |
//! | undelete | read again | from the look at the trash to the index | |
//! | label, tag, keep | read again | while state and index are written | |
//! | verify | | | none: open files; a layer that is replaced meanwhile is passed over |
//! | note results of verifying | read again | while results and index are written | |
//! | recovery of a VM | held by the owner | before the VM is served | builds whose flock is held stay |
//! | change or note policies | read again | of a VM that gets or loses its own policy | one mutex for `policies/` |
//! | run policies | of each step, as above | as above | `policies/run.lock` |
//! | empty the trash | held by the owner | | |
//! | make a flat disk | | | flock of its own file; the slots are looked at again when it has its name |
//! | hold | held by the owner | | forget, replace, emptying the trash and garbage wait for its end, or are refused |
//! | a line of the history | held by the owner | | one append at a time |
//! | a job of a process without the lock | | | a new file in `jobs/late` |
//!
//! One writer process per repository (the lock). Within it, a mutex per VM orders commits; it is taken before
//! the catalog's own lock, never after.

pub mod adopt;
pub mod arrive;
pub mod arrived;
pub mod catalog;
pub mod chains;
pub mod checks;
pub mod clean;
mod cleanup;
pub mod content;
pub mod entry;
pub mod flat_disk;
mod forget;
pub mod format;
mod garbage;
mod heartbeat;
mod hold;
pub mod job;
mod job_age;
mod job_tail;
mod label;
pub mod layer_file;
pub mod layout;
pub mod leaves;
pub mod lineage;
pub mod lock;
pub mod metadata;
mod missing;
mod new_id;
mod new_vm;
pub mod owner;
pub mod policy;
pub mod publish;
pub mod put_back;
pub mod recovery;
pub mod register;
mod rename;
pub mod replace;
pub mod repository;
mod reserve;
pub mod selector;
mod session;
pub mod sidecar;
pub mod slot;
mod stored;
pub mod sums;
pub mod trash;
mod trashed;
mod undelete;
mod unwritten;
mod uses;

pub use flat_disk::FlatDisk;
pub use forget::Forgetting;
pub use hold::Hold;
pub use job::{Ending, Job, JobDisk, JobResult};
pub use job_tail::JobTail;
pub use label::LabelChange;
pub use missing::MissingFile;
pub use owner::Owner;
pub use repository::Repository;
pub use slot::Slot;
pub use stored::StoredBytes;
pub use trashed::{Trashed, TrashedKind};
pub use uses::PointUse;
