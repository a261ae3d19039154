//! Requests and answers of the control socket.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Hello;
use crate::error::{Error, Result};
use crate::ingest::{BeginRequest, CommitRequest, DiskRequest, Origin, Session};
use crate::qcow2::Compression;
use crate::repo::sidecar::index::PointEntry;
use crate::repo::sidecar::point::Consistency;
use crate::types::{DiskName, PointName, VmName};

/// What a command asks of the daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    /// Which repository is meant, and which release speaks. The first line of each connection.
    Hello(Hello),
    /// Who it is and where it listens.
    Status,
    /// Begin a session.
    Begin(BeginArguments),
    /// Commit one.
    Commit(CommitArguments),
    /// Attach a file to an open session.
    Attach {
        /// The VM.
        vm: VmName,
        /// The session.
        session: PointName,
        /// Name of the file below `attached/`.
        name: String,
        /// Its content.
        content: Vec<u8>,
    },
    /// End one without a point.
    Abort {
        /// The VM.
        vm: VmName,
        /// The session.
        session: PointName,
        /// What kept it from being committed, when it is not ended on request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<String>,
    },
    /// Keep in the history that a backup failed before a session began.
    Failed {
        /// The VM.
        vm: VmName,
        /// Why.
        reason: String,
    },
    /// List the open sessions.
    Sessions,
    /// Rebuild the catalog from the sidecars.
    RebuildCatalog,
    /// Serve what the sender has mounted; the device's descriptor comes with it.
    Mount(MountArguments),
}

/// Arguments of `mount`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MountArguments {
    /// Where it is mounted, for people.
    pub mountpoint: PathBuf,
    /// Options as mount(8) takes them.
    pub options: String,
    /// Who mounts: the owner of what the tree itself shows, unless the options say another.
    pub uid: u32,
    /// His group.
    pub gid: u32,
}

/// A mount in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountAnswer {
    /// Where it is.
    pub mountpoint: PathBuf,
    /// Patterns of the VMs that it shows; all when there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vms: Vec<String>,
}

/// Arguments of `begin`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BeginArguments {
    /// The VM.
    pub vm: VmName,
    /// Name of the session.
    pub session: Option<PointName>,
    /// Name of the point.
    pub point: Option<PointName>,
    /// Disks that are new, resized or full.
    pub disks: Vec<DiskArguments>,
    /// Disks of the parent that are gone.
    #[serde(default)]
    pub without: Vec<DiskName>,
    /// All disks full.
    pub full: bool,
    /// On the last full.
    pub differential: bool,
    /// On this point.
    pub parent: Option<String>,
    /// Whether only changes are sent.
    #[serde(default)]
    pub changed_only: bool,
    /// The change ids that changes are counted from.
    #[serde(default)]
    pub previous_change_ids: BTreeMap<DiskName, String>,
    /// Disks that are written whole: they begin anew when what they would be compared with is damaged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub whole: Vec<DiskName>,
    /// Seconds without activity after which it ends.
    pub ttl_seconds: u64,
    /// Whether it goes on after a crash.
    pub resumable: bool,
    /// `none`, `zlib`, `zstd`.
    pub compression: String,
    /// Bytes that are to stay free on the repository's filesystem.
    #[serde(default)]
    pub low_water_bytes: Option<u64>,
    /// Whether a session that is expected to find no room begins all the same.
    #[serde(default)]
    pub no_room_check: bool,
    /// What is known of the disks' sources.
    #[serde(default)]
    pub origins: BTreeMap<DiskName, Origin>,
}

/// One disk of `begin`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DiskArguments {
    /// Name.
    pub name: DiskName,
    /// Size of the source in bytes.
    pub source_bytes: Option<u64>,
    /// Stable key.
    pub key: Option<String>,
    /// Store everything.
    pub full: bool,
}

/// Arguments of `commit`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommitArguments {
    /// The VM.
    pub vm: VmName,
    /// The session.
    pub session: PointName,
    /// Name of the point.
    pub point: Option<PointName>,
    /// Change ids by disk.
    pub change_ids: BTreeMap<DiskName, String>,
    /// The change ids that changes were counted from.
    #[serde(default)]
    pub previous_change_ids: BTreeMap<DiskName, String>,
    /// Disks that are the parent's.
    pub unchanged: Vec<DiskName>,
    /// Disks that are gone.
    pub without: Vec<DiskName>,
    /// New disks whose bytes are a disk's, although they begin as an image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub raw: Vec<DiskName>,
    /// What is known of the instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
    /// Why it is `unknown`, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency_note: Option<String>,
}

/// Compression by its name.
///
/// # Errors
/// `InvalidInput`.
pub(super) fn parse_compression(text: &str) -> Result<Compression> {
    match text {
        "none" => Ok(Compression::None),
        "zlib" => Ok(Compression::Zlib),
        "zstd" => Ok(Compression::Zstd),
        other => Err(Error::invalid(format!(
            "unknown compression \"{other}\"; there are none, zlib, zstd"
        ))),
    }
}

impl BeginArguments {
    /// As ingest takes it.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub fn request(&self) -> Result<BeginRequest> {
        let disks = self.disks.iter().map(|disk| DiskRequest {
            name: disk.name.clone(),
            source_bytes: disk.source_bytes,
            key: disk.key.clone(),
            full: disk.full,
        });
        Ok(BeginRequest {
            vm: self.vm.clone(),
            session: self.session.clone(),
            point: self.point.clone(),
            disks: disks.collect(),
            without: self.without.clone(),
            full: self.full,
            differential: self.differential,
            parent: self.parent.as_deref().map(str::parse).transpose()?,
            changed_only: self.changed_only,
            previous_change_ids: self.previous_change_ids.clone(),
            whole: self.whole.clone(),
            empty: false,
            ttl_seconds: self.ttl_seconds,
            resumable: self.resumable,
            compression: parse_compression(&self.compression)?,
            low_water_bytes: self.low_water_bytes,
            checks_room: !self.no_room_check,
            origins: self.origins.clone(),
        })
    }
}

impl CommitArguments {
    /// As ingest takes it.
    #[must_use]
    pub fn request(&self) -> CommitRequest {
        CommitRequest {
            point: self.point.clone(),
            change_ids: self.change_ids.clone(),
            previous_change_ids: self.previous_change_ids.clone(),
            unchanged: self.unchanged.clone(),
            without: self.without.clone(),
            raw: self.raw.clone(),
            consistency: self.consistency,
            consistency_note: self.consistency_note.clone(),
        }
    }
}

/// Answer to `begin`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BeginAnswer {
    /// The VM.
    pub vm: VmName,
    /// The session.
    pub session: PointName,
    /// The point that it is compared with.
    pub parent: Option<PointName>,
    /// Its disks.
    pub disk_results: Vec<DiskResult>,
    /// `disk:uri,disk:uri`.
    pub nbd_targets_string: String,
    /// The same with the URIs over TCP, where the daemon listens there. They name the session's token: keep them to yourself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbd_targets_tcp: Option<String>,
}

/// A disk in the answer to `begin`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DiskResult {
    /// Name.
    pub name: DiskName,
    /// Stable key.
    pub key: String,
    /// Full, incremental or differential.
    pub kind: String,
    /// The point that it is compared with.
    pub parent: Option<PointName>,
    /// Its name there, when it had another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_disk: Option<DiskName>,
    /// The change id that it was taken at there: what a capture agent asks for changes since.
    pub previous_change_id: Option<String>,
    /// Why it is full although it has a predecessor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_reason: Option<String>,
    /// Size of the export in bytes.
    pub size_bytes: u64,
    /// Size of the source in bytes.
    pub source_bytes: u64,
    /// NBD export name.
    pub export: String,
    /// Where to write it.
    pub uri: String,
    /// Where to write it from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_uri: Option<String>,
}

impl BeginAnswer {
    /// The answer for a session whose exports are served on `socket`, and below the URI `tcp`.
    #[must_use]
    pub fn of(session: &Session, socket: &std::path::Path, tcp: Option<&str>) -> Self {
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
            parent: sidecar.parent.map(|parent| parent.name),
            disk_results: results,
            nbd_targets_string,
            nbd_targets_tcp: nbd_targets_tcp.filter(|_| tcp.is_some()),
        }
    }
}

/// Answer to `commit`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommitAnswer {
    /// The VM.
    pub vm: VmName,
    /// The point.
    pub point: PointEntry,
}

/// A session in the answer to `sessions`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionAnswer {
    /// The VM.
    pub vm: VmName,
    /// The session.
    pub session: PointName,
    /// When the capture began.
    pub captured_at: Timestamp,
    /// The point that it is compared with.
    pub parent: Option<PointName>,
    /// Whether a daemon holds it open now.
    pub live: bool,
    /// Seconds without activity after which it ends.
    pub ttl_seconds: u64,
    /// Seconds without activity so far; not known of one that no daemon holds open.
    #[serde(default)]
    pub idle_seconds: Option<u64>,
    /// Its disks: name, bytes received, bytes stored, finished.
    pub disks: Vec<SessionDiskAnswer>,
    /// The last error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// A disk in the answer to `sessions`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionDiskAnswer {
    /// Name.
    pub name: DiskName,
    /// Virtual size in bytes.
    pub size_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes stored.
    pub stored_bytes: u64,
    /// Whether it may be committed.
    pub finished: bool,
    /// The door that it is written through: `nbd`, `tree`.
    #[serde(default)]
    pub door: Option<String>,
}

/// Answer to `status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Process id.
    pub pid: u32,
    /// Release.
    pub version: String,
    /// NBD sockets, the first being the one in URIs.
    pub nbd_sockets: Vec<PathBuf>,
    /// URI below which NBD exports are served over TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbd_tcp: Option<String>,
    /// Where the tree is mounted first.
    pub mountpoint: Option<PathBuf>,
    /// Where the tree is mounted.
    #[serde(default)]
    pub mounts: Vec<MountAnswer>,
    /// The repository.
    #[serde(default)]
    pub repository: PathBuf,
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
        let disks = sidecar.disks.into_iter().map(|disk| SessionDiskAnswer {
            name: disk.name,
            size_bytes: disk.size_bytes,
            received_bytes: 0,
            stored_bytes: 0,
            finished: false,
            door: None,
        });
        Self {
            vm: sidecar.vm,
            session: sidecar.name,
            captured_at: sidecar.captured_at,
            parent: sidecar.parent.map(|parent| parent.name),
            live: false,
            ttl_seconds: sidecar.ttl_seconds,
            idle_seconds: None,
            disks: disks.collect(),
            last_error: None,
        }
    }
}
