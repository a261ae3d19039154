//! Beginning a session: which disks it has, what they are compared with, and why.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::disk::DiskWriter;
use super::parent::{ChainSource, Parent};
use super::record::RecordLog;
use super::session::{Engine, Session};
use crate::block::WriteAt;
use crate::block::page::PageTable;
use crate::error::{Error, ErrorKind, Result};
use crate::qcow2::{Compression, LayerOptions, LayerWriter};
use crate::repo::content::PAGE_BYTES;
use crate::repo::entry::VmEntry;
use crate::repo::layout::{self, VmKeys};
use crate::repo::publish::free_name;
use crate::repo::selector::Which;
use crate::repo::sidecar::point::{Kind, Point, PointDisk, PointParent};
use crate::repo::sidecar::session::{self as sidecar, ParentDisk, SessionDisk};
use crate::repo::sidecar::vm::DiskKey;
use crate::repo::sidecar::{Sidecar, Unknown};
use crate::repo::{Repository, Slot};
use crate::types::{DiskName, LayerId, PointName, SessionId, Token, VmName};

/// LIMIT: disks of one VM.
const DISKS_MAX: usize = 256;

/// One disk as the caller wants it.
#[derive(Debug, Clone)]
pub struct DiskRequest {
    /// Name.
    pub name: DiskName,
    /// Size of the source in bytes; by default the parent's.
    pub source_bytes: Option<u64>,
    /// Stable key of the disk.
    pub key: Option<String>,
    /// Store everything, compare with nothing.
    pub full: bool,
}

/// What a session is to be.
#[derive(Debug, Clone)]
pub struct BeginRequest {
    /// The VM; made when there is none of that name.
    pub vm: VmName,
    /// Name of the session; by default the point's.
    pub session: Option<PointName>,
    /// Name of the point; by default the time of capture.
    pub point: Option<PointName>,
    /// Disks that are new, resized or full. The parent's other disks are in the session all the same.
    pub disks: Vec<DiskRequest>,
    /// All disks full.
    pub full: bool,
    /// Compare with the last full point instead of the newest.
    pub differential: bool,
    /// Compare with this point. Naming one also allows a second open session.
    pub parent: Option<Which>,
    /// Seconds without activity after which the session ends by itself.
    pub ttl_seconds: u64,
    /// Whether it goes on after a crash.
    pub resumable: bool,
    /// Compression of the layers.
    pub compression: Compression,
}

impl BeginRequest {
    /// The plainest request for a VM.
    #[must_use]
    pub fn new(vm: VmName) -> Self {
        Self {
            vm,
            session: None,
            point: None,
            disks: Vec::new(),
            full: false,
            differential: false,
            parent: None,
            ttl_seconds: sidecar::TTL_SECONDS_DEFAULT,
            resumable: true,
            compression: Compression::None,
        }
    }
}

/// Key under which a session's sidecar keeps its compression.
const COMPRESSION: &str = "compression";

fn compression_of(session: &sidecar::Session) -> Compression {
    match session.unknown.get(COMPRESSION).and_then(|v| v.as_str()) {
        Some("zlib") => Compression::Zlib,
        Some("zstd") => Compression::Zstd,
        _ => Compression::None,
    }
}

fn choose_parent(
    repository: &Repository,
    entry: &VmEntry,
    request: &BeginRequest,
) -> Result<Option<Point>> {
    if request.full && (request.differential || request.parent.is_some()) {
        return Err(Error::invalid(
            "a full backup has no parent: --full excludes --differential and --parent",
        ));
    }
    let chosen = if request.full {
        None
    } else if let Some(which) = &request.parent {
        Some(which.find(&entry.index)?)
    } else if request.differential {
        entry
            .index
            .points
            .iter()
            .filter(|p| p.kind == Kind::Full)
            .max_by_key(|p| p.seq)
    } else {
        entry.index.latest()
    };
    chosen
        .map(|point| repository.point(&entry.vm.name, point))
        .transpose()
}

/// What one disk of the session is to be; `None` for reasons that are not worth saying.
fn plan_disk(
    request: Option<&DiskRequest>,
    parent: Option<&PointDisk>,
    session: &BeginRequest,
    has_parent_point: bool,
    captured_at: jiff::Timestamp,
) -> Result<SessionDisk> {
    let name = match (request, parent) {
        // The spelling of an existing disk stays.
        (_, Some(parent)) => parent.name.clone(),
        (Some(request), None) => request.name.clone(),
        (None, None) => return Err(Error::invalid("a disk without a name")),
    };
    let asked_full = session.full || request.is_some_and(|r| r.full);
    let key = request.and_then(|r| r.key.clone());
    let mut full_reason = None;
    let mut base = parent.filter(|_| !asked_full);
    if let (Some(new), Some(old)) = (&key, base)
        && old.key != *new
        && old.key != old.name.as_str()
    {
        full_reason = Some(format!(
            "another disk has this name now (key {new}, was {})",
            old.key
        ));
        base = None;
    }
    if base.is_none() && full_reason.is_none() && has_parent_point && !asked_full {
        full_reason = Some("the parent point has no such disk".to_owned());
    }
    let key = key
        .or_else(|| parent.map(|p| p.key.clone()))
        .unwrap_or_else(|| name.to_string());
    let source_bytes = request
        .and_then(|r| r.source_bytes)
        .or_else(|| parent.map(|p| p.source_bytes))
        .ok_or_else(|| {
            Error::invalid(format!("the size of the new disk {name} is not known"))
                .advise(format!("give it: {name}=SIZE"))
        })?;
    let size_bytes = source_bytes
        .checked_next_multiple_of(512)
        .filter(|size| *size <= crate::qcow2::writer::SIZE_BYTES_MAX)
        .ok_or_else(|| Error::invalid(format!("disk {name} is too large for QCOW2")))?;
    if let Some(base) = base
        && size_bytes < base.size_bytes
    {
        return Err(Error::invalid(format!(
            "disk {name} is smaller than its parent ({size_bytes} < {} bytes)",
            base.size_bytes
        ))
        .advise(format!("if that is right, begin a new disk: --full {name}")));
    }
    let kind = match base {
        None => Kind::Full,
        Some(_) if session.differential => Kind::Differential,
        Some(_) => Kind::Incremental,
    };
    if let Some(reason) = &full_reason {
        tracing::warn!(vm = %session.vm, disk = %name, reason, "this disk is stored in full");
    }
    let layer_id = LayerId::random();
    Ok(SessionDisk {
        layer: Slot::new(&name, captured_at, layer_id),
        name,
        key,
        layer_id,
        kind,
        full_reason,
        size_bytes,
        source_bytes,
        parent: base.map(|base| ParentDisk {
            layer: base.layer.clone(),
            content_root: base.content_root,
            size_bytes: base.size_bytes,
            source_bytes: base.source_bytes,
            data_bytes: base.data_bytes,
        }),
    })
}

fn plan_disks(
    request: &BeginRequest,
    parent: Option<&Point>,
    captured_at: jiff::Timestamp,
) -> Result<Vec<SessionDisk>> {
    let mut disks = Vec::new();
    let has_parent = parent.is_some();
    for old in parent.iter().flat_map(|p| &p.disks) {
        let wanted = request
            .disks
            .iter()
            .find(|r| r.name.folded() == old.name.folded());
        disks.push(plan_disk(
            wanted,
            Some(old),
            request,
            has_parent,
            captured_at,
        )?);
    }
    for wanted in &request.disks {
        if !disks
            .iter()
            .any(|d| d.name.folded() == wanted.name.folded())
        {
            disks.push(plan_disk(
                Some(wanted),
                None,
                request,
                has_parent,
                captured_at,
            )?);
        }
    }
    let names: BTreeSet<String> = disks.iter().map(|d| d.name.folded()).collect();
    let wanted: BTreeSet<String> = request.disks.iter().map(|d| d.name.folded()).collect();
    if names.len() != disks.len() || wanted.len() != request.disks.len() {
        return Err(Error::invalid(
            "a disk is named twice (names are compared without regard to case)",
        ));
    }
    if disks.is_empty() {
        return Err(Error::invalid(format!("{} has no disks yet", request.vm))
            .advise("name them: DISK=SIZE"));
    }
    if disks.len() > DISKS_MAX {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            format!("more than {DISKS_MAX} disks"),
        ));
    }
    Ok(disks)
}

impl Session {
    /// Begins a session over all disks of a VM.
    ///
    /// # Errors
    /// `Busy` while another session of the VM is open and no parent is named; `InvalidInput`; `NotFound` (the parent);
    /// `Corrupt` (the parent); `NoSpace`, `Io`. Nothing is left then.
    pub fn begin(engine: &Engine, request: &BeginRequest) -> Result<Arc<Self>> {
        let owner = &engine.owner;
        let repository = owner.repository();
        if owner.vm(&request.vm).is_err() {
            // A request that cannot be met leaves no empty VM behind.
            if request.parent.is_some() {
                owner.vm(&request.vm)?;
            }
            plan_disks(request, None, owner.clock().now())?;
        }
        let entry = owner.ensure_vm(&request.vm)?;
        let mut entry = entry.lock().unwrap_or_else(PoisonError::into_inner);
        let open = repository.session_names(&request.vm)?;
        if let (Some(other), None) = (open.first(), &request.parent) {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("{} has an open session already: {other}", request.vm),
            )
            .advise(format!(
                "commit or abort it (restorefs abort {}/{other}), or name a parent",
                request.vm
            )));
        }
        let captured_at = owner.clock().now();
        let parent = choose_parent(repository, &entry, request)?;
        let disks = plan_disks(request, parent.as_ref(), captured_at)?;
        if let Some(point) = &request.point {
            free_name(repository, &entry.index, None, Some(point), captured_at)?;
        }
        let wanted = request.session.as_ref().or(request.point.as_ref());
        let name = free_name(repository, &entry.index, None, wanted, captured_at)?;
        let mut unknown = Unknown::new();
        let word = match request.compression {
            Compression::None => None,
            Compression::Zlib => Some("zlib"),
            Compression::Zstd => Some("zstd"),
        };
        if let Some(word) = word {
            unknown.insert(COMPRESSION.to_owned(), word.into());
        }
        let session = sidecar::Session {
            schema: sidecar::Session::SCHEMA,
            session_id: SessionId::random(),
            vm: request.vm.clone(),
            name,
            point: request.point.clone(),
            captured_at,
            ttl_seconds: request.ttl_seconds,
            resumable: request.resumable,
            parent: parent.map(|p| PointParent {
                point_id: p.point_id,
                name: p.name,
            }),
            token: Some(Token::random()),
            disks,
            unknown,
        };
        let keys: Vec<DiskKey> = session
            .disks
            .iter()
            .map(|d| DiskKey {
                name: d.name.clone(),
                key: d.key.clone(),
            })
            .collect();
        owner.record_disks(&mut entry, &keys)?;
        let vm_id = entry.vm.vm_id;
        let source = ChainSource::new(repository, &session.vm, vm_id, true);
        let create = || {
            owner.prepare_session(&session.vm, &session.name)?;
            let disks = session.disks.iter();
            let made = disks.map(|disk| create_disk(engine, &session, &source, disk));
            let made = made.collect::<Result<Vec<_>>>()?;
            owner.create_session(&session).map(|()| made)
        };
        let made = create();
        drop(entry);
        match made {
            Ok(disks) => Ok(Self::new(engine.clone(), session, disks)),
            Err(e) => {
                if let Err(left) = owner.discard_session(&session) {
                    tracing::error!(error = %left.report(), "a session that could not begin is left over");
                }
                Err(e)
            }
        }
    }
}

fn create_disk(
    engine: &Engine,
    session: &sidecar::Session,
    source: &Arc<ChainSource>,
    disk: &SessionDisk,
) -> Result<Arc<DiskWriter>> {
    let keys = VmKeys::new(&session.vm)?;
    let stage = engine.owner.repository().stage();
    let layer = stage.create(&keys.open_layer(&disk.layer)?)?;
    let log = RecordLog::create(stage.create(&keys.map(&session.name, &disk.name)?)?);
    let writer = LayerWriter::create(
        layer,
        layer_options(session, disk),
        &engine.budget,
        spill(engine),
    )?;
    assemble(engine, session, source, disk, writer, log).map(Arc::new)
}

pub(super) fn layer_options(session: &sidecar::Session, disk: &SessionDisk) -> LayerOptions {
    LayerOptions {
        size_bytes: disk.size_bytes,
        backing: disk.parent.as_ref().map(|parent| parent.layer.layer_file()),
        layer_id: disk.layer_id,
        compression: compression_of(session),
    }
}

/// Makes files for tables beyond the budget. They have no name: a crash leaves nothing of them.
pub(super) fn spill(
    engine: &Engine,
) -> impl Fn() -> Result<Arc<dyn WriteAt>> + Send + Sync + 'static {
    let repository = Arc::clone(engine.owner.repository());
    move || {
        let prefix = layout::cache()?.join("spill")?;
        let stage = repository.stage();
        stage.make_prefix(&prefix)?;
        let key = prefix.join(&SessionId::random().to_string())?;
        let file = stage.create(&key)?;
        stage.delete(&key)?;
        Ok(file)
    }
}

pub(super) fn assemble(
    engine: &Engine,
    session: &sidecar::Session,
    source: &Arc<ChainSource>,
    disk: &SessionDisk,
    writer: LayerWriter,
    log: RecordLog,
) -> Result<DiskWriter> {
    let repository = engine.owner.repository();
    let point = session.parent.as_ref().map(|parent| &parent.name);
    let parent = match &disk.parent {
        Some(parent) => Some(Parent::open(
            repository,
            &engine.pool,
            source,
            &disk.name,
            parent,
            point,
        )?),
        None => None,
    };
    Ok(DiskWriter {
        pages: PageTable::new(PAGE_BYTES, &engine.budget, Box::new(spill(engine))),
        size_bytes: AtomicU64::new(disk.size_bytes),
        source_bytes: AtomicU64::new(disk.source_bytes),
        meta: disk.clone(),
        writer,
        parent,
        gather: super::gather::Gather::default(),
        ranges: super::range_lock::RangeLock::default(),
        pending: Mutex::default(),
        log: Mutex::new(log),
        finish: super::finish::Finish::default(),
        touched: Mutex::default(),
        counters: super::disk::Counters::default(),
        gate: RwLock::new(()),
        sealed: AtomicBool::new(false),
        is_unsure: AtomicBool::new(false),
        doubts: super::doubt::Doubts::default(),
    })
}
