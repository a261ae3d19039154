//! Beginning a session: the choice of its disks, of what they are compared with, and the reasons.
//!
//! # Concurrency
//! The begin holds the VM's mutex twice for a moment, and once more to release the parent. So
//! commits, forgets and listings of the VM never wait for a file that a begin makes:
//! 1. held: checks that no other session is open, chooses the parent, and records a use of it, so
//!    that the parent cannot be forgotten;
//! 2. free: plans the disks over a copy of the entry, checks the chains, and estimates the space;
//! 3. held: checks that the result of step 1 still holds, and otherwise plans again; gives the
//!    session its name, its serial and its directory, which reserves the name and prevents further
//!    sessions and the removal of the VM;
//! 4. free: makes layers and records, then the sidecar: from then on the session keeps its parent;
//! 5. held: ends the use of the parent. A forget that looked at the sessions before the sidecar
//!    existed still finds the use.

use std::sync::Arc;

use jiff::Timestamp;

use super::base;
use super::change_id::check_declared;
use super::plan::{choose_parent, plan_disks};
use super::space::{check_room, expect_room};
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::disk::DiskWriter;
use crate::ingest::request::BeginRequest;
use crate::ingest::request::limit::check_change_ids;
use crate::ingest::request::lookalike::check_lookalikes;
use crate::ingest::{Engine, Session};
use crate::point::ChainSource;
use crate::repo::entry::VmEntry;
use crate::repo::publish::free_name;
use crate::repo::sidecar::point::{Point, PointDisk, PointParent};
use crate::repo::sidecar::session::{self as sidecar, SessionDisk};
use crate::repo::sidecar::vm::DiskKey;
use crate::repo::sidecar::{Sidecar, Unknown};
use crate::repo::{Job, PointUse, Repository};
use crate::task::TaskKind;
use crate::types::sync::Mutex;
use crate::types::{DiskName, PointId, SessionId, Token};

/// The holder of the parent's use while the session has no sidecar yet.
const HOLDER: &str = "the begin of a session";

/// Refuses a time to live of zero: the session would end before a client could use it.
///
/// # Errors
/// `InvalidInput`.
pub(in crate::ingest) fn check_ttl(seconds: u64) -> Result<()> {
    match seconds {
        0 => Err(Error::invalid(
            "a session with a ttl of 0 would end at once; its ttl is a second or more",
        )),
        _ => Ok(()),
    }
}

fn room_for(
    engine: &Engine,
    request: &BeginRequest,
    entry: Option<&VmEntry>,
    disks: &[SessionDisk],
    parent: Option<&Point>,
) -> Result<u64> {
    let repository = engine.owner.repository();
    let low_water = request.low_water_bytes.or(engine.low_water_bytes());
    let estimate = expect_room(repository, entry, disks, parent, request);
    if request.checks_room {
        check_room(repository, estimate, &engine.promises, low_water)?;
    }
    Ok(estimate.bytes)
}

/// Refuses a session of a VM that is gone, one of a VM that is copied from another repository, and a
/// session without a named parent while another one is open.
///
/// # Errors
/// `Busy`; `ReadOnly`; `Io`.
fn check_alone(repository: &Repository, entry: &VmEntry, request: &BeginRequest) -> Result<()> {
    if entry.gone {
        return Err(Error::new(
            ErrorKind::Busy,
            format!("{} was being removed at this moment", request.vm),
        )
        .advise("begin again"));
    }
    entry.check_own()?;
    let open = repository.session_names(&request.vm)?;
    if let (Some(other), None) = (open.first(), &request.parent) {
        return Err(Error::new(
            ErrorKind::Busy,
            format!("{} has an open session already: {other}", request.vm),
        )
        .advise(format!(
            "commit it (restorefs commit {0}/{other}) or abort it (restorefs abort {0}/{other}); beside it a session begins only with a named parent (restorefs begin --parent POINT)",
            request.vm
        )));
    }
    Ok(())
}

/// The plan of a session, made over a copy of the VM's entry.
struct Plan {
    /// The point that was chosen as the parent. It cannot be forgotten as long as the plan lives.
    chosen: Option<(PointId, PointUse)>,
    /// The parent; also `None` when the chosen point is damaged and all disks are written whole.
    parent: Option<Point>,
    disks: Vec<SessionDisk>,
    /// The parent's disks that a complete request does not name.
    left_out: Vec<DiskName>,
    estimate_bytes: u64,
    captured_at: Timestamp,
}

/// The parent's disks that no disk of the session continues, where the request has all disks that the VM has.
fn left_out(
    request: &BeginRequest,
    parent: Option<&Point>,
    disks: &[SessionDisk],
) -> Vec<DiskName> {
    let goes_on = |old: &&PointDisk| {
        let mut disks = disks.iter();
        disks.any(|disk| {
            let base = disk.parent.as_ref();
            base.is_some_and(|base| base.layer == old.layer) || disk.name.same_as(&old.name)
        })
    };
    let old = parent.into_iter().flat_map(|parent| &parent.disks);
    let gone = old.filter(|old| request.complete && !goes_on(old));
    gone.map(|old| old.name.clone()).collect()
}

impl Plan {
    fn make(engine: &Engine, request: &BeginRequest, cell: &Mutex<VmEntry>) -> Result<Self> {
        let owner = &engine.owner;
        let repository = owner.repository();
        let (known, chosen) = {
            let entry = cell.lock();
            check_alone(repository, &entry, request)?;
            let chosen = choose_parent(&entry, request)?;
            let chosen = chosen.map(|point| (point.point_id, owner.hold_point(point, HOLDER)));
            (entry.clone(), chosen)
        };
        let captured_at = owner.clock().now();
        let (parent, disks) = base::plan(repository, &known, request, captured_at)?;
        check_declared(&disks, &request.previous_change_ids)?;
        check_lookalikes(request, Some(&known), &disks)?;
        let estimate_bytes = room_for(engine, request, Some(&known), &disks, parent.as_ref())?;
        Ok(Self {
            chosen,
            left_out: left_out(request, parent.as_ref(), &disks),
            parent,
            disks,
            estimate_bytes,
            captured_at,
        })
    }

    /// Whether the present entry leads to the same parent.
    fn is_of(&self, entry: &VmEntry, request: &BeginRequest) -> Result<bool> {
        let now = choose_parent(entry, request)?.map(|point| point.point_id);
        Ok(now == self.chosen.as_ref().map(|(point, _)| *point))
    }
}

impl Session {
    /// Begins a session over all disks of a VM.
    ///
    /// # Errors
    /// `Busy` while another session of the VM is open and no parent is named; `InvalidInput`;
    /// `NotFound` (the parent); `Corrupt` (the parent); `NoSpace`, `Io`. After an error nothing of
    /// the session is left.
    pub fn begin(engine: &Engine, request: &BeginRequest) -> Result<Arc<Self>> {
        Self::begin_unkept(engine, request).inspect_err(|e| Self::keep_failure(engine, request, e))
    }

    /// The history shows why there is no point.
    pub(in crate::ingest) fn keep_failure(engine: &Engine, request: &BeginRequest, error: &Error) {
        let now = engine.owner.clock().now();
        let (backup, vm) = (TaskKind::Backup, Some(&request.vm));
        let job = Job::of_failure(backup, vm, &error.report(), now, now);
        engine.owner.keep_job(&job);
    }

    fn begin_unkept(engine: &Engine, request: &BeginRequest) -> Result<Arc<Self>> {
        check_ttl(request.ttl_seconds)?;
        check_change_ids(&request.previous_change_ids)?;
        let owner = &engine.owner;
        let repository = owner.repository();
        let known = owner.vm(&request.vm);
        if known
            .as_ref()
            .is_err_and(|e| e.kind() == ErrorKind::Corrupt)
        {
            known?;
        } else if known.is_err() {
            // A request that is refused must not leave an empty VM behind.
            if request.parent.is_some() {
                owner.vm(&request.vm)?;
            }
            let disks = plan_disks(request, None, owner.clock().now())?;
            check_declared(&disks, &request.previous_change_ids)?;
            check_lookalikes(request, None, &disks)?;
            room_for(engine, request, None, &disks, None)?;
        }
        let cell = owner.ensure_vm(&request.vm)?;
        let (mut entry, plan) = loop {
            let plan = Plan::make(engine, request, &cell)?;
            let entry = cell.lock();
            check_alone(repository, &entry, request)?;
            // Another round is needed only when another session has become a point meanwhile.
            if plan.is_of(&entry, request)? {
                break (entry, plan);
            }
        };
        let captured_at = plan.captured_at;
        if let Some(point) = &request.point {
            free_name(repository, &entry.index, None, Some(point), captured_at)?;
        }
        let wanted = request.session.as_ref().or(request.point.as_ref());
        let name = free_name(repository, &entry.index, None, wanted, captured_at)?;
        let session = sidecar::Session {
            schema: sidecar::Session::SCHEMA,
            session_id: SessionId::random(),
            vm: request.vm.clone(),
            name,
            point: request.point.clone(),
            captured_at,
            ttl_seconds: request.ttl_seconds,
            resumable: request.resumable,
            parent: plan.parent.map(|p| PointParent {
                point_id: p.point_id,
                name: p.name,
                unknown: Unknown::new(),
            }),
            serial: owner.take_serial(&mut entry)?,
            token: Some(Token::random()),
            left_out: plan.left_out,
            disks: plan.disks,
            declared: sidecar::Declared {
                previous_change_ids: request.previous_change_ids.clone(),
                ..sidecar::Declared::default()
            },
            changed_only: request.changed_only,
            dismantled: false,
            arriving: None,
            compression: request.compression,
            unknown: Unknown::new(),
        };
        let keys: Vec<DiskKey> = session
            .disks
            .iter()
            .map(|d| DiskKey {
                name: d.name.clone(),
                key: d.key.clone(),
                unknown: Unknown::new(),
            })
            .collect();
        owner.record_disks(&mut entry, &keys)?;
        let vm_id = entry.vm.vm_id;
        let prepared = owner.prepare_session(&session.vm, &session.name);
        drop(entry);
        let source = ChainSource::new(repository, &session.vm, vm_id, true);
        let made = prepared.and_then(|()| {
            let disks = session.disks.iter();
            let made = disks.map(|disk| DiskWriter::create(engine, &session, &source, disk));
            let made = made.collect::<Result<Vec<_>>>()?;
            owner.create_session(&session).map(|()| made)
        });
        let entry = cell.lock();
        drop(plan.chosen);
        drop(entry);
        match made {
            Ok(disks) => {
                let serial = session.serial;
                Ok(Self::new(
                    engine.clone(),
                    session,
                    serial,
                    disks,
                    plan.estimate_bytes,
                ))
            }
            Err(e) => {
                if let Err(left) = owner.discard_session(&session) {
                    tracing::error!(error = %left.report(), "a session that could not begin is left over");
                }
                Err(e)
            }
        }
    }
}
