//! What is known of a task: what people and other programs are shown.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::types::{DiskName, JobId, PointName, VmName};

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// A session takes a restore point in.
    Backup,
    /// Restore points are forgotten.
    Forget,
    /// The catalog is built anew from the sidecars.
    RebuildCatalog,
}

impl TaskKind {
    /// As answers spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Forget => "forget",
            Self::RebuildCatalog => "rebuild-catalog",
        }
    }
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// It waits for its turn.
    Pending,
    /// It is being done.
    Running,
    /// It did what it was to do.
    Completed,
    /// It could not be done.
    Failed,
    /// It was stopped on request.
    Cancelled,
}

/// How far a task is with one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskDisk {
    /// Name.
    pub name: DiskName,
    /// Bytes that are done, holes included.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// What a task is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSubject {
    /// What it does.
    pub kind: TaskKind,
    /// The VM, where it is about one.
    pub vm: Option<VmName>,
    /// The session, where it is one.
    pub session: Option<PointName>,
    /// The restore point, where it is about one.
    pub point: Option<PointName>,
}

/// A task as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    /// Identity, from its beginning; the job history keeps it.
    pub id: JobId,
    /// What it is about.
    #[serde(flatten)]
    pub subject: TaskSubject,
    /// Where it stands.
    pub state: TaskState,
    /// Why it ended as it did, where that is not plain.
    pub reason: Option<String>,
    /// When it began.
    pub began_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Progress by disk.
    pub disks: Vec<TaskDisk>,
    /// Whether it can be stopped on request.
    pub cancellable: bool,
}
