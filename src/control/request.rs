//! Requests on the control socket.

use serde::{Deserialize, Serialize};

use super::Hello;
use crate::repo::selector::Which;
use crate::service::{BeginRequest, CommitRequest, MountRequest};
use crate::types::{JobId, PointName, SessionRef, VmName};

/// What a command asks of the owner of a repository: [`Service`](crate::service::Service), an operation each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    /// Which repository is meant, and which release speaks. The first line of each connection.
    Hello(Hello),
    /// Who it is and where it listens.
    Status,
    /// Begin a session.
    Begin(BeginRequest),
    /// Make a restore point of one.
    Commit {
        /// The session.
        session: SessionRef,
        /// What is said of its disks.
        request: CommitRequest,
    },
    /// Attach a file to an open session. Its bytes follow the line.
    Attach {
        /// The session.
        session: SessionRef,
        /// Name of the file below `attached/`.
        name: String,
        /// How many bytes follow.
        length_bytes: u64,
    },
    /// End a session without a point.
    Abort {
        /// The session.
        session: SessionRef,
        /// What kept it from being committed, when it is not ended on request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<String>,
    },
    /// Forget restore points.
    Forget {
        /// The VM.
        vm: VmName,
        /// The points.
        points: Vec<PointName>,
    },
    /// Hold a use of a point until the connection ends.
    Hold {
        /// The VM.
        vm: VmName,
        /// The point.
        point: Which,
        /// What needs it, in words.
        holder: String,
    },
    /// Keep in the history that a backup failed before a session began.
    NoteFailure {
        /// The VM.
        vm: VmName,
        /// Why.
        reason: String,
    },
    /// List the open sessions.
    Sessions,
    /// List the tasks.
    Tasks,
    /// Ask a task to stop.
    Cancel {
        /// The task.
        task: JobId,
    },
    /// Rebuild the catalog from the sidecars.
    RebuildCatalog,
    /// Serve what the sender has mounted; the device's descriptor comes with it.
    Mount(MountRequest),
}
