//! A machine that runs, as the source of a backup: all its disks at one instant.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::guard::message::Held;
use crate::block::ReadAt;
use crate::block::piece::Changes;
use crate::error::Result;
use crate::repo::sidecar::point::Consistency;
use crate::types::{DiskName, RepositoryId, SessionId};

/// A disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineDisk {
    /// Its name in the machine.
    pub name: DiskName,
    /// What identifies it more than its name does: a serial, or where it comes from.
    pub key: Option<String>,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Bytes that its image occupies, if that is known.
    pub data_bytes: Option<u64>,
}

/// A disk of the machine that no backup takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its name in the machine.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// What a backup wants of a machine.
#[derive(Debug, Clone)]
pub struct Order {
    /// The repository, in whose name changes are tracked.
    pub repository: RepositoryId,
    /// The session; its id is the new change id.
    pub session: SessionId,
    /// The change ids that the session's disks are compared with; a disk without one is taken whole.
    pub previous: BTreeMap<DiskName, String>,
    /// Whether the guest's filesystems are frozen for the instant.
    pub quiesce: bool,
    /// Directory of the scratch files, which hold what the guest overwrites meanwhile.
    pub scratch: PathBuf,
}

/// What of a disk has to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// What a bitmap of the hypervisor calls changed.
    Since {
        /// The change id that the bitmap begins at.
        change_id: String,
        /// Bytes that it calls changed, as far as the hypervisor reports them.
        changed_bytes: Option<u64>,
    },
    /// Everything; the copy is compared with the parent.
    Whole {
        /// Why, when the disk has a parent.
        reason: Option<String>,
    },
}

/// A disk of the instant.
pub struct TakenDisk {
    /// Its name.
    pub name: DiskName,
    /// Its content at the instant.
    pub source: Arc<dyn ReadAt>,
    /// What of it has to be copied.
    pub extent: Extent,
    /// The changes, when not everything is copied.
    pub changes: Option<Arc<dyn Changes>>,
    /// The change id of the instant, which the next backup begins at.
    pub change_id: Option<String>,
}

/// The instant: all disks, readable until [`Capture::end`].
pub struct Instant {
    /// The disks.
    pub disks: Vec<TakenDisk>,
    /// What the guest was told of it; `None` where nothing is known to have written.
    pub consistency: Option<Consistency>,
    /// Why it is no better.
    pub note: Option<String>,
    /// For how long the guest was held.
    pub held: Held,
    /// What people should know.
    pub remarks: Vec<String>,
}

/// A machine whose disks can be read at one instant.
pub trait Capture {
    /// Its disks that a backup takes.
    fn disks(&self) -> &[MachineDisk];

    /// Its other disks.
    fn left_out(&self) -> &[LeftOut];

    /// Files to attach to the point: the machine's description.
    fn attachments(&self) -> &[(String, Vec<u8>)];

    /// What would be copied of each disk; changes nothing.
    ///
    /// # Errors
    /// Those of the hypervisor.
    fn plan(&mut self, order: &Order) -> Result<Vec<(DiskName, Extent)>>;

    /// Takes the instant.
    ///
    /// # Errors
    /// Those of the hypervisor. Nothing of the backup is left then.
    fn take(&mut self, order: &Order) -> Result<Instant>;

    /// Checks, after the copy, that what was read was the instant; returns why that is not known.
    ///
    /// # Errors
    /// Why it was not.
    fn check(&mut self) -> Result<Option<String>>;

    /// Ends the instant. After a commit the tracking that began with the instant goes on, and the earlier one ends; else the other way
    /// round.
    ///
    /// # Errors
    /// Those of the hypervisor.
    fn end(&mut self, is_committed: bool) -> Result<()>;
}
