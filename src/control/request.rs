//! Requests on the control socket.

use serde::{Deserialize, Serialize};

use super::Hello;
use crate::repo::LabelChange;
use crate::repo::arrive::Arrival;
use crate::repo::checks::CheckNotes;
use crate::repo::policy::PolicyChange;
use crate::repo::put_back::PutBack;
use crate::repo::replace::Replacement;
use crate::repo::selector::Which;
use crate::repo::sidecar::copied::PointCopy;
use crate::service::work::{CopyRequest, ForgetRequest, VerifyRequest};
use crate::service::{BeginRequest, CommitRequest, MountRequest};
use crate::task::{TaskDisk, TaskKind, TaskRequest, TaskState};
use crate::types::{JobId, PointId, PointName, SessionRef, VmName};

/// A request to the owner of a repository: one variant for each operation of
/// [`Service`](crate::service::Service), and for each work of the owner ([`crate::service::work`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    /// Names the repository and the release. The first line of each connection.
    Hello(Hello),
    /// Report the process and its addresses.
    Status,
    /// Begin a session.
    Begin(BeginRequest),
    /// Make a restore point of a session.
    Commit {
        /// The session.
        session: SessionRef,
        /// Declarations about its disks.
        request: CommitRequest,
    },
    /// Attach a file to an open session. Its bytes follow the line.
    Attach {
        /// The session.
        session: SessionRef,
        /// Name of the file below `attached/`.
        name: String,
        /// The number of bytes that follow.
        length_bytes: u64,
    },
    /// Prove that the holder of a session lives.
    Renew {
        /// The session.
        session: SessionRef,
    },
    /// End a session without a point.
    Abort {
        /// The session.
        session: SessionRef,
        /// Why the session could not be committed; absent for an abort on request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<String>,
    },
    /// Forget restore points.
    Forget {
        /// The VM.
        vm: VmName,
        /// The points.
        points: Vec<PointName>,
        /// Whether retention keeps the other points.
        #[serde(default)]
        is_retention: bool,
    },
    /// Put a layer that was built into its slot.
    Replace(Replacement),
    /// Put a file back that is lost or damaged.
    PutBack(PutBack),
    /// Change the labels of a point.
    Label {
        /// The VM.
        vm: VmName,
        /// The point.
        point: Which,
        /// The change.
        change: LabelChange,
    },
    /// Give a VM another name.
    RenameVm {
        /// The VM.
        vm: VmName,
        /// The new name.
        to: VmName,
    },
    /// Remove a VM without restore points.
    RemoveVm {
        /// The VM.
        vm: VmName,
    },
    /// Bring a forgotten point back.
    Undelete {
        /// The VM.
        vm: VmName,
        /// The point.
        point: PointName,
    },
    /// Keep results of verifying.
    NoteChecks {
        /// The VM.
        vm: VmName,
        /// The results.
        notes: CheckNotes,
    },
    /// Record copies of points at another repository.
    NoteCopies {
        /// The VM.
        vm: VmName,
        /// The copies, by point.
        copies: Vec<(PointId, PointCopy)>,
    },
    /// Begin to receive a copy of a point, or go on with it.
    BeginArrival(Box<Arrival>),
    /// Make a restore point of a copy that has arrived.
    Arrive {
        /// The VM.
        vm: VmName,
        /// The session that received it.
        session: PointName,
    },
    /// Make a copied VM a VM of this repository.
    Adopt {
        /// The VM.
        vm: VmName,
    },
    /// Change the policies.
    ChangePolicy {
        /// The change.
        policy: PolicyChange,
    },
    /// Delete all that is in the trash.
    EmptyTrash,
    /// Hold a use of a point until the connection ends.
    Hold {
        /// The VM.
        vm: VmName,
        /// The point.
        point: Which,
        /// What needs the point, as text.
        holder: String,
    },
    /// Hold the whole repository until the connection ends.
    HoldStill {
        /// What needs it, as text.
        holder: String,
    },
    /// Record in the history that work failed before its session or task began.
    NoteFailure {
        /// The kind of work.
        kind: TaskKind,
        /// The VM, where the work has one.
        vm: Option<VmName>,
        /// The reason.
        reason: String,
    },
    /// List the open sessions.
    Sessions,
    /// List the tasks.
    Tasks,
    /// Begin a task whose work the sender does; it ends with the connection at the latest.
    BeginTask(TaskRequest),
    /// Report the progress of such a task.
    TellTask {
        /// The task.
        task: JobId,
        /// Its progress by disk.
        disks: Vec<TaskDisk>,
    },
    /// End such a task.
    EndTask {
        /// The task.
        task: JobId,
        /// How it ends.
        state: TaskState,
        /// Why it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Ask a task to stop.
    Cancel {
        /// The task.
        task: JobId,
    },
    /// Send the events from now on, one a line; the connection takes no more requests.
    Follow {
        /// The id of the last event that the sender knows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<String>,
    },
    /// Verify a VM in the owner's process.
    Verify(VerifyRequest),
    /// Copy a VM in the owner's process.
    Copy(CopyRequest),
    /// Forget points of a VM by rules, or make the plan.
    ForgetBy {
        /// The VM.
        vm: VmName,
        /// What is forgotten.
        request: ForgetRequest,
    },
    /// Rebuild the catalog from the sidecars.
    RebuildCatalog,
    /// Make a login to the web pages.
    Login,
    /// Serve a mount that the sender has made; the device's descriptor comes with the request.
    Mount(MountRequest),
}
