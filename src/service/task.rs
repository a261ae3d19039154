//! Tasks of a repository: each session is one; other work is in the process's table.

use crate::ingest::Session;
use crate::task::{TaskDisk, TaskKind, TaskReport, TaskState, TaskSubject};

/// An open session as a task. The job history keeps its id.
pub(super) fn of_session(session: &Session) -> TaskReport {
    let sidecar = session.sidecar();
    let disks = session.disks();
    let disks = disks.iter().map(|disk| {
        let stats = disk.stats();
        let done = stats.received_bytes.saturating_add(stats.zero_bytes);
        TaskDisk {
            name: disk.meta().name.clone(),
            done_bytes: done.min(disk.size_bytes()),
            total_bytes: disk.size_bytes(),
        }
    });
    TaskReport {
        id: sidecar.job_id(),
        subject: TaskSubject {
            kind: TaskKind::Backup,
            vm: Some(sidecar.vm),
            session: Some(sidecar.name),
            point: sidecar.point,
        },
        state: TaskState::Running,
        reason: session.last_error(),
        began_at: sidecar.captured_at,
        ended_at: None,
        disks: disks.collect(),
        cancellable: true,
    }
}
