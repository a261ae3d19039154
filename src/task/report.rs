//! The report of a task: what people and other programs see of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Result};
use crate::types::{DiskName, JobId, PointName, VmName};

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// A session writes a restore point.
    Backup,
    /// Restore points are removed.
    Forget,
    /// A layer takes over what layers below it hold.
    Merge,
    /// Layers are read and compared with their sums.
    Verify,
    /// Disks or files of a restore point are written elsewhere.
    Restore,
    /// Damaged content comes back from a copy.
    Repair,
    /// Restore points are copied to another repository.
    Copy,
    /// The catalog is rebuilt from the sidecars.
    RebuildCatalog,
    /// The trash is emptied.
    EmptyTrash,
}

impl TaskKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Backup,
        Self::Forget,
        Self::Merge,
        Self::Verify,
        Self::Restore,
        Self::Repair,
        Self::Copy,
        Self::RebuildCatalog,
        Self::EmptyTrash,
    ];

    /// Whether commands do such work themselves, beside the owner.
    #[must_use]
    pub const fn is_of_command(self) -> bool {
        matches!(
            self,
            Self::Merge | Self::Verify | Self::Restore | Self::Repair | Self::Copy
        )
    }

    /// The spelling in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Forget => "forget",
            Self::Merge => "merge",
            Self::Verify => "verify",
            Self::Restore => "restore",
            Self::Repair => "repair",
            Self::Copy => "copy",
            Self::RebuildCatalog => "rebuild-catalog",
            Self::EmptyTrash => "empty-trash",
        }
    }
}

/// State of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// It waits for its turn.
    Pending,
    /// It is running.
    Running,
    /// It has succeeded.
    Completed,
    /// It has failed.
    Failed,
    /// It was stopped on request.
    Cancelled,
}

impl TaskState {
    /// How a task ends whose work has this result, with the reason of a failure.
    #[must_use]
    pub fn of_result<T>(result: &Result<T>) -> (Self, Option<String>) {
        match result {
            Ok(_) => (Self::Completed, None),
            Err(e) if e.kind() == ErrorKind::Cancelled => (Self::Cancelled, None),
            Err(e) => (Self::Failed, Some(e.report())),
        }
    }

    /// Whether the task has ended.
    #[must_use]
    pub const fn is_end(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }
}

/// The progress of a task on one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskDisk {
    /// Name.
    pub name: DiskName,
    /// Bytes done so far, holes included.
    pub done_bytes: u64,
    /// Total bytes.
    pub total_bytes: u64,
}

/// The subject of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSubject {
    /// The kind of work.
    pub kind: TaskKind,
    /// The VM, where the task has one.
    pub vm: Option<VmName>,
    /// The session, where the task is one.
    pub session: Option<PointName>,
    /// The restore point, where the task has one.
    pub point: Option<PointName>,
}

/// A request to begin a task whose work the caller does itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRequest {
    /// The subject.
    #[serde(flatten)]
    pub subject: TaskSubject,
    /// When the work began, when that was before this request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_at: Option<Timestamp>,
}

/// A task as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    /// Identity, given at the beginning; the job history keeps it.
    pub id: JobId,
    /// The subject.
    #[serde(flatten)]
    pub subject: TaskSubject,
    /// The state.
    pub state: TaskState,
    /// Why it ended as it did, where the state alone does not tell.
    pub reason: Option<String>,
    /// When it began.
    pub began_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Progress by disk.
    pub disks: Vec<TaskDisk>,
    /// Whether a caller can stop it.
    pub cancellable: bool,
}
