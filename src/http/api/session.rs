//! Sessions: a restore point that is being written over NBD.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Error, ErrorKind, Result};
use crate::http::body;
use crate::http::call::Call;
use crate::http::peer::Way;
use crate::http::reply::{self, Answer};
use crate::ingest::{Lookalike, Origin};
use crate::qcow2::Compression;
use crate::repo::selector::Which;
use crate::service::view::{Page, PointAnswer, SessionView, View};
use crate::service::{BeginAnswer, BeginRequest, CommitRequest, DiskRequest};
use crate::types::{DiskName, PointName, SessionRef, VmName};

/// LIMIT: bytes of an attached file.
const ATTACHED_BYTES_MAX: usize = 16 << 20;

/// LIMIT: bytes of the reason why a backup failed.
pub(in crate::http) const FAILURE_BYTES_MAX: usize = 4 << 10;

/// A session to begin.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::http) struct SessionBody {
    /// Disks that are new, resized or full. The parent's other disks are in the session as well.
    disks: Vec<SessionDisk>,
    /// The parent's disks that the VM no longer has.
    without: Vec<DiskName>,
    /// Whether `disks` are all disks that the VM has: the parent's others are gone.
    complete: bool,
    /// Name of the point; by default the time of capture.
    point: Option<PointName>,
    /// Whether all disks are full.
    full: bool,
    /// Whether to compare with the last full point instead of the newest.
    differential: bool,
    /// The point to compare with, by name, or `latest`.
    parent: Option<String>,
    /// Whether the client writes only what changed since the parent.
    changed_only: bool,
    /// The change ids that changes are counted from, by disk.
    previous_change_ids: BTreeMap<DiskName, String>,
    /// Disks that the client writes whole. Such a disk begins anew by itself when what it would be compared with is damaged.
    whole: Vec<DiskName>,
    /// Seconds without activity after which the session ends by itself.
    #[schema(minimum = 1)]
    ttl_seconds: Option<u32>,
    /// Compression of what is stored.
    compression: Compression,
    /// Whether the session begins although there is probably no room for it.
    skip_room_check: bool,
}

/// A disk of a session to begin.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct SessionDisk {
    /// Its name.
    name: DiskName,
    /// Size of the source in bytes; by default the parent's.
    #[serde(default)]
    size_bytes: Option<u64>,
    /// Stable key of the disk: the hypervisor's device key or its serial.
    #[serde(default)]
    key: Option<String>,
    /// Whether to store everything, without comparison.
    #[serde(default)]
    full: bool,
    /// Bytes of the source that are data, where it distinguishes data from holes.
    #[serde(default)]
    data_bytes: Option<u64>,
    /// Set when the source begins as an image, and nobody has named that format: such a disk is refused where the VM does not have it yet.
    #[serde(default)]
    lookalike: Option<Lookalike>,
}

impl SessionDisk {
    fn of(disk: &DiskRequest, origin: Option<&Origin>) -> Self {
        Self {
            name: disk.name.clone(),
            size_bytes: disk.source_bytes,
            key: disk.key.clone(),
            full: disk.full,
            data_bytes: origin.and_then(|origin| origin.data_bytes),
            lookalike: origin.and_then(|origin| origin.lookalike.clone()),
        }
    }

    fn origin(&self) -> Option<(DiskName, Origin)> {
        let origin = Origin {
            data_bytes: self.data_bytes,
            lookalike: self.lookalike.clone(),
        };
        (origin != Origin::default()).then(|| (self.name.clone(), origin))
    }
}

impl SessionBody {
    /// The body that asks for this. The repository's own limits (`low_water_bytes`) are not a client's.
    ///
    /// # Errors
    /// `InvalidInput` for more seconds than the body can have.
    pub(in crate::http) fn of(request: &BeginRequest) -> Result<Self> {
        let ttl_seconds = u32::try_from(request.ttl_seconds)
            .map_err(|_| Error::invalid("the session's time to live is too long"))?;
        let disks = request.disks.iter();
        Ok(Self {
            disks: disks
                .map(|disk| SessionDisk::of(disk, request.origin(&disk.name)))
                .collect(),
            without: request.without.clone(),
            complete: request.complete,
            point: request.point.clone(),
            full: request.full,
            differential: request.differential,
            parent: request.parent.as_ref().map(ToString::to_string),
            changed_only: request.changed_only,
            previous_change_ids: request.previous_change_ids.clone(),
            whole: request.whole.clone(),
            ttl_seconds: Some(ttl_seconds),
            compression: request.compression,
            skip_room_check: !request.checks_room,
        })
    }

    fn request(self, session: &SessionRef) -> Result<BeginRequest> {
        let parent: Option<Which> = self.parent.map(|text| text.parse()).transpose()?;
        let origins = self.disks.iter().filter_map(SessionDisk::origin).collect();
        let disks = self.disks.into_iter().map(|disk| DiskRequest {
            name: disk.name,
            source_bytes: disk.size_bytes,
            key: disk.key,
            full: disk.full,
        });
        let plain = BeginRequest::new(session.vm.clone());
        Ok(BeginRequest {
            session: Some(session.session.clone()),
            point: self.point,
            disks: disks.collect(),
            without: self.without,
            complete: self.complete,
            full: self.full,
            differential: self.differential,
            parent,
            changed_only: self.changed_only,
            previous_change_ids: self.previous_change_ids,
            whole: self.whole,
            ttl_seconds: self.ttl_seconds.map_or(plain.ttl_seconds, u64::from),
            compression: self.compression,
            checks_room: !self.skip_room_check,
            origins,
            ..plain
        })
    }
}

/// Remote callers write over TCP: paths of this machine mean nothing to them.
fn for_peer(mut answer: BeginAnswer, call: &Call) -> Result<BeginAnswer> {
    if call.peer.way == Way::Unix {
        return Ok(answer);
    }
    let is_here = call
        .peer
        .address
        .is_some_and(|address| address.is_loopback());
    match answer.nbd_targets_tcp.take() {
        Some(targets) => {
            for disk in &mut answer.disk_results {
                if let Some(uri) = disk.tcp_uri.take() {
                    disk.uri = uri;
                }
            }
            answer.nbd_targets_string = targets;
            Ok(answer)
        }
        None if is_here => Ok(answer),
        None => Err(Error::new(
            ErrorKind::Unsupported,
            "this daemon serves NBD on sockets of its machine only",
        )
        .advise("set nbd.listen, nbd.tls_certificates and nbd.access in its configuration")),
    }
}

/// The open sessions of a VM.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/vms/{vm}/sessions", tag = "sessions", operation_id = "listSessions",
    responses((status = 200, description = "The sessions", body = Page<SessionView>)))]
pub(in crate::http) async fn list(call: Call) -> Answer {
    call.query(&[])?;
    let items = call.work(|call| call.view()?.sessions(&call.vm()?)).await?;
    reply::fresh(&call.headers, &Page { items, next: None })
}

/// One open session.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/vms/{vm}/sessions/{session}", tag = "sessions", operation_id = "showSession",
    responses((status = 200, description = "The session", body = SessionView)))]
pub(in crate::http) async fn show(call: Call) -> Answer {
    call.query(&[])?;
    let answer = call
        .work(|call| call.view()?.session(&call.session()?))
        .await?;
    reply::fresh(&call.headers, &answer)
}

/// Begins a session of this name. The same request again answers the same: a client that lost the answer asks again.
#[utoipa::path(put, path = "/api/v1/repositories/{repository}/vms/{vm}/sessions/{session}", tag = "sessions", operation_id = "beginSession",
    request_body = SessionBody,
    responses(
        (status = 200, description = "It is open already, as this request asks", body = BeginAnswer),
        (status = 201, description = "It has begun", body = BeginAnswer)))]
pub(in crate::http) async fn begin(call: Call, body: Body) -> Answer {
    call.query(&[])?;
    let request: SessionBody = body::json(&call.headers, body).await?;
    let (status, answer) = call
        .work(move |call| {
            let (view, session) = (call.view()?, call.session()?);
            let request = request.request(&session)?;
            let (is_new, answer) = view.begin(&session, &request)?;
            let answered = for_peer(answer, call);
            if let (Err(e), true) = (&answered, is_new) {
                // Nobody could write it.
                view.service().abort(&session, Some(&e.report()))?;
            }
            let status = match is_new {
                true => StatusCode::CREATED,
                false => StatusCode::OK,
            };
            Ok((status, answered?))
        })
        .await?;
    reply::json(status, &answer)
}

/// What the client declares at the commit.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::http) struct CommitBody {
    /// Name of the point; replaces the name given at the begin.
    point: Option<PointName>,
    /// Change ids by disk.
    change_ids: BTreeMap<DiskName, String>,
    /// The change ids that changes were counted from, by disk.
    previous_change_ids: BTreeMap<DiskName, String>,
    /// Disks that equal the parent's because nothing was written to them.
    unchanged: Vec<DiskName>,
    /// Disks that the point no longer has.
    without: Vec<DiskName>,
    /// New disks whose content is a raw disk, although it begins as an image.
    raw: Vec<DiskName>,
    /// The consistency of the captured instant.
    consistency: Option<crate::repo::sidecar::point::Consistency>,
    /// Why the consistency is unknown.
    consistency_note: Option<String>,
}

impl CommitBody {
    /// The body that declares this.
    pub(in crate::http) fn of(request: &CommitRequest) -> Self {
        let request = request.clone();
        Self {
            point: request.point,
            change_ids: request.change_ids,
            previous_change_ids: request.previous_change_ids,
            unchanged: request.unchanged,
            without: request.without,
            raw: request.raw,
            consistency: request.consistency,
            consistency_note: request.consistency_note,
        }
    }
}

/// A restore point that a session made.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(in crate::http) struct CommittedAnswer {
    /// The VM.
    pub(in crate::http) vm: VmName,
    /// The point.
    pub(in crate::http) point: PointAnswer,
}

fn commit_session(view: &View, session: &SessionRef, body: CommitBody) -> Result<CommittedAnswer> {
    let request = CommitRequest {
        point: body.point,
        change_ids: body.change_ids,
        previous_change_ids: body.previous_change_ids,
        unchanged: body.unchanged,
        without: body.without,
        raw: body.raw,
        consistency: body.consistency,
        consistency_note: body.consistency_note,
    };
    let (vm, entry) = view.commit(session, &request)?;
    Ok(CommittedAnswer {
        point: view.answer(&entry, &vm)?,
        vm,
    })
}

/// Makes a restore point of a session. A client that lost the answer asks again, and gets the same point.
#[utoipa::path(post, path = "/api/v1/repositories/{repository}/vms/{vm}/sessions/{session}/commit", tag = "sessions", operation_id = "commitSession",
    request_body = CommitBody,
    responses((status = 200, description = "The restore point", body = CommittedAnswer)))]
pub(in crate::http) async fn commit(call: Call, body: Body) -> Answer {
    call.query(&[])?;
    let request: CommitBody = body::json(&call.headers, body).await?;
    let answer = call
        .work(move |call| commit_session(&call.view()?, &call.session()?, request))
        .await?;
    reply::json(StatusCode::OK, &answer)
}

/// Proves that the client of a session lives: its time to live counts from now. Nothing is begun.
#[utoipa::path(post, path = "/api/v1/repositories/{repository}/vms/{vm}/sessions/{session}/renew", tag = "sessions", operation_id = "renewSession",
    responses((status = 204, description = "It goes on")))]
pub(in crate::http) async fn renew(call: Call) -> Answer {
    call.query(&[])?;
    call.work(|call| call.view()?.service().renew(&call.session()?))
        .await?;
    reply::nothing()
}

/// Ends a session without a restore point. With `failure` the history calls the backup failed, for this reason; otherwise aborted.
#[utoipa::path(delete, path = "/api/v1/repositories/{repository}/vms/{vm}/sessions/{session}", tag = "sessions", operation_id = "abortSession",
    params(("failure" = Option<String>, Query)),
    responses((status = 204, description = "It has ended")))]
pub(in crate::http) async fn abort(call: Call) -> Answer {
    let failure = call.query(&["failure"])?.text("failure")?;
    if failure
        .as_ref()
        .is_some_and(|failure| failure.len() > FAILURE_BYTES_MAX)
    {
        let error = Error::new(
            ErrorKind::TooLarge,
            format!("the reason has more than {FAILURE_BYTES_MAX} bytes"),
        );
        return Err(error.into());
    }
    call.work(move |call| {
        let (view, session) = (call.view()?, call.session()?);
        view.service().abort(&session, failure.as_deref())
    })
    .await?;
    reply::nothing()
}

/// Attaches a file of at most 16 MiB to an open session.
#[utoipa::path(put, path = "/api/v1/repositories/{repository}/vms/{vm}/sessions/{session}/attached/{name}", tag = "sessions", operation_id = "attachFile",
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 204, description = "It is attached")))]
pub(in crate::http) async fn attach(call: Call, body: Body) -> Answer {
    call.query(&[])?;
    // Who may not write is refused before the bytes are received.
    call.work(|call| call.view()?.session_to_write(&call.session()?))
        .await?;
    let bytes = body::read(&call.headers, body, ATTACHED_BYTES_MAX).await?;
    call.work(move |call| {
        let (view, session) = (call.view()?, call.session()?);
        view.service().attach(&session, call.param("name"), &bytes)
    })
    .await?;
    reply::nothing()
}
