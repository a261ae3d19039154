//! Answers of the operations on sessions and restore points; every door returns them.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::Problem;
use crate::ingest::Session;
use crate::repo::Forgetting;
use crate::repo::sidecar::index::PointEntry;
use crate::types::{DiskName, PointName, SessionId, VmName};

/// Answer to `begin`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BeginAnswer {
    /// The VM.
    pub vm: VmName,
    /// The session.
    pub session: PointName,
    /// Identity of the session. A hypervisor's tracking of changes that begins with it is named by it.
    pub session_id: SessionId,
    /// The point that the session is compared with.
    pub parent: Option<PointName>,
    /// The parent's disks that the request left out, because it has all disks that the VM has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<DiskName>,
    /// Its disks.
    pub disk_results: Vec<DiskResult>,
    /// `disk:uri,disk:uri`.
    pub nbd_targets_string: String,
    /// The same with the URIs over TCP, if the daemon listens there. They contain the session's
    /// token: keep them secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbd_targets_tcp: Option<String>,
}

/// A disk in the answer to `begin`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskResult {
    /// Name.
    pub name: DiskName,
    /// Stable key.
    pub key: String,
    /// Full, incremental or differential.
    pub kind: String,
    /// The point that the disk is compared with.
    pub parent: Option<PointName>,
    /// The disk's name in that point, when it was different.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_disk: Option<DiskName>,
    /// The change id of the disk in that point: a capture agent asks for changes since it.
    pub previous_change_id: Option<String>,
    /// Why the disk is full although it has a predecessor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_reason: Option<String>,
    /// Size of the export in bytes.
    pub size_bytes: u64,
    /// Size of the source in bytes.
    pub source_bytes: u64,
    /// NBD export name.
    pub export: String,
    /// The URI to write the disk to.
    pub uri: String,
    /// The URI to write the disk to from another machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_uri: Option<String>,
}

impl BeginAnswer {
    /// The answer for a session whose exports are served on `socket`, and below the URI `tcp`.
    #[must_use]
    pub fn of(session: &Session, socket: &Path, tcp: Option<&str>) -> Self {
        let sidecar = session.sidecar();
        let tcp = tcp.zip(sidecar.token.as_ref());
        let results: Vec<DiskResult> = sidecar
            .disks
            .iter()
            .map(|disk| {
                let export = format!("{}/{}/{}", sidecar.vm, sidecar.name, disk.name);
                let base = disk.parent.as_ref();
                let point = sidecar.parent.as_ref().map(|parent| &parent.name);
                DiskResult {
                    parent: base.and(point).cloned(),
                    parent_disk: base.and_then(|base| base.name.clone()),
                    previous_change_id: base.and_then(|base| base.change_id.clone()),
                    name: disk.name.clone(),
                    key: disk.key.clone(),
                    kind: disk.kind.as_str().to_owned(),
                    full_reason: disk.full_reason.clone(),
                    size_bytes: disk.size_bytes,
                    source_bytes: disk.source_bytes,
                    uri: format!("nbd+unix:///{export}?socket={}", socket.display()),
                    tcp_uri: tcp.map(|(base, token)| {
                        let (vm, name) = (&sidecar.vm, &sidecar.name);
                        format!("{base}{vm}/{name}~{}/{}", token.reveal(), disk.name)
                    }),
                    export,
                }
            })
            .collect();
        let targets = |uri: fn(&DiskResult) -> Option<&String>| {
            let all: Option<Vec<String>> = results
                .iter()
                .map(|disk| Some(format!("{}:{}", disk.name, uri(disk)?)))
                .collect();
            all.map(|all| all.join(","))
        };
        let nbd_targets_string = targets(|disk| Some(&disk.uri)).unwrap_or_default();
        let nbd_targets_tcp = targets(|disk| disk.tcp_uri.as_ref());
        Self {
            vm: sidecar.vm,
            session: sidecar.name,
            session_id: sidecar.session_id,
            parent: sidecar.parent.map(|parent| parent.name),
            left_out: sidecar.left_out,
            disk_results: results,
            nbd_targets_string,
            nbd_targets_tcp: nbd_targets_tcp.filter(|_| tcp.is_some()),
        }
    }
}

/// Answer to `commit`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommitAnswer {
    /// The VM.
    pub vm: VmName,
    /// The point.
    pub point: PointEntry,
}

/// A restore point that was not forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeptPoint {
    /// The point.
    pub point: PointName,
    /// The reason.
    pub problem: Problem,
}

/// Answer to `forget`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ForgetAnswer {
    /// Points that are no longer listed.
    pub forgotten: Vec<PointName>,
    /// Points that were not forgotten.
    pub kept: Vec<KeptPoint>,
}

impl From<&Forgetting> for ForgetAnswer {
    fn from(done: &Forgetting) -> Self {
        let kept = done.kept.iter().map(|(point, error)| KeptPoint {
            point: point.clone(),
            problem: error.into(),
        });
        Self {
            forgotten: done.forgotten.clone(),
            kept: kept.collect(),
        }
    }
}

/// Answer to `empty_trash`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrashAnswer {
    /// Entries of the trash that were deleted.
    pub entries: u64,
    /// Their bytes.
    pub freed_bytes: u64,
}

/// A session in the answer to `sessions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionAnswer {
    /// The VM.
    pub vm: VmName,
    /// The session.
    pub session: PointName,
    /// When the capture began.
    pub captured_at: Timestamp,
    /// The point that the session is compared with.
    pub parent: Option<PointName>,
    /// Whether a daemon holds the session open now.
    pub live: bool,
    /// Seconds without activity after which the session ends.
    pub ttl_seconds: u64,
    /// Seconds without activity so far; unknown for a session that no daemon holds open.
    #[serde(default)]
    pub idle_seconds: Option<u64>,
    /// Its disks: name, bytes received, bytes stored, finished.
    pub disks: Vec<SessionDiskAnswer>,
    /// The last error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// A disk in the answer to `sessions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionDiskAnswer {
    /// Name.
    pub name: DiskName,
    /// Virtual size in bytes.
    pub size_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes stored.
    pub stored_bytes: u64,
    /// Whether the disk may be committed.
    pub finished: bool,
    /// The door through which the disk is written: `nbd`, `tree`.
    #[serde(default)]
    pub door: Option<String>,
}

impl SessionAnswer {
    /// The answer for a session that this process holds open.
    #[must_use]
    pub fn of(session: &Session) -> Self {
        let sidecar = session.sidecar();
        let writers = session.disks();
        let disks = writers.iter().map(|disk| {
            let stats = disk.stats();
            SessionDiskAnswer {
                name: disk.meta().name.clone(),
                size_bytes: disk.size_bytes(),
                received_bytes: stats.received_bytes,
                stored_bytes: stats.stored_bytes,
                finished: disk.is_finished(),
                door: disk.door().map(|door| door.name().to_owned()),
            }
        });
        Self {
            vm: sidecar.vm,
            session: sidecar.name,
            captured_at: sidecar.captured_at,
            parent: sidecar.parent.map(|parent| parent.name),
            live: true,
            ttl_seconds: sidecar.ttl_seconds,
            idle_seconds: Some(session.idle().as_secs()),
            disks: disks.collect(),
            last_error: session.last_error(),
        }
    }

    /// The answer for a session that no process holds open.
    #[must_use]
    pub fn of_sidecar(sidecar: crate::repo::sidecar::session::Session) -> Self {
        let written = sidecar.disks.into_iter().map(|disk| SessionDiskAnswer {
            name: disk.name,
            size_bytes: disk.size_bytes,
            received_bytes: 0,
            stored_bytes: 0,
            finished: false,
            door: None,
        });
        let copied = sidecar.arriving.iter().flat_map(|arriving| {
            arriving.disks().into_iter().map(|name| {
                let layers = arriving.layers.iter().filter(|layer| layer.disk == *name);
                SessionDiskAnswer {
                    name: name.clone(),
                    size_bytes: layers.map(|layer| layer.held_bytes).sum(),
                    received_bytes: 0,
                    stored_bytes: 0,
                    finished: false,
                    door: Some("copy".to_owned()),
                }
            })
        });
        let disks = written.chain(copied).collect();
        Self {
            vm: sidecar.vm,
            session: sidecar.name,
            captured_at: sidecar.captured_at,
            parent: sidecar.parent.map(|parent| parent.name),
            live: false,
            ttl_seconds: sidecar.ttl_seconds,
            idle_seconds: None,
            disks,
            last_error: None,
        }
    }
}
