//! Copying a VM to another repository in the owner's process.

use std::any::Any;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::start::{Desk, start};
use super::verify::pace_of;
use crate::access::Right;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::jobs::copy::{Ends, Route, VmReport, check_apart, known_vms, record};
use crate::repo::arrive::Arrival;
use crate::repo::selector::Which;
use crate::repo::sidecar::index::PointEntry;
use crate::repo::{Owner, Repository};
use crate::service::owned::still_served;
use crate::service::{Destination, Elsewhere, LocalService, Service};
use crate::task::{Monitor, Pace, TaskKind, TaskReport};
use crate::types::{DiskName, PointName, RepositoryName, SessionRef, VmName};

/// A request to copy a VM to another repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyRequest {
    /// The VM.
    pub vm: VmName,
    /// The repository that receives, by its name in the register.
    pub to: RepositoryName,
    /// Its restore points; all of them where none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<PointName>,
    /// The name of the VM there; that which it has there, or here, where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_name: Option<VmName>,
    /// Whether points that the other repository has forgotten are sent again.
    #[serde(default)]
    pub again: bool,
    /// Bytes that are sent in a second at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// Whether it is only told what would be sent.
    #[serde(default)]
    pub dry_run: bool,
}

/// Answer to [`CopyRequest`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CopyAnswer {
    /// The copy has begun.
    Begun(TaskReport),
    /// What would be sent.
    Trial(VmReport),
}

impl LocalService {
    /// Starts to copy a VM, and returns the task; of a dry run the answer is what would be sent. The source records the copies like
    /// [`Service::note_copies`].
    ///
    /// # Errors
    /// `NotFound` (VM, repository), `PermissionDenied`: the caller needs the right to manage the VM here; at a repository that this process
    /// serves the right to manage the VM there, and for any other one the right to administer this one. `Busy` while the VM is copied;
    /// `LimitExceeded`; `InvalidInput`; `Io`. Of a dry run, those of opening the other repository and of reading both.
    pub fn copy(&self, request: &CopyRequest) -> Result<CopyAnswer> {
        let begun = self.begin_copy(request);
        self.note_result("copy", &request.vm, request.to.as_str(), &begun);
        begun
    }

    fn begin_copy(&self, request: &CopyRequest) -> Result<CopyAnswer> {
        self.demand_to("copy restore points", Right::Manage, &request.vm)?;
        let source = Arc::clone(self.registry().engine().owner.repository());
        let vm = source.spelled(&request.vm)?;
        let elsewhere = self.served().elsewhere().ok_or_else(|| {
            Error::not_found("no daemon serves this repository")
                .advise("copy with: restorefs copy VM --to REPOSITORY")
        })?;
        let work = Work {
            service: self.at(self.served()),
            destination: self.destination(elsewhere.as_ref(), request, &vm)?,
            elsewhere: Arc::clone(elsewhere),
            pace: pace_of(request.limit_bytes)?,
            source,
            vm: vm.clone(),
            request: request.clone(),
        };
        if request.dry_run {
            return work.trial().map(CopyAnswer::Trial);
        }
        let begun = start(self.served(), TaskKind::Copy, &vm, move |desk| {
            work.run(desk)
        });
        begun.map(CopyAnswer::Begun)
    }

    /// The repository of a request, when the caller may copy to it.
    fn destination(
        &self,
        elsewhere: &dyn Elsewhere,
        request: &CopyRequest,
        vm: &VmName,
    ) -> Result<Destination> {
        let to = &request.to;
        let is_admin = self.demand_admin("copy to other repositories").is_ok();
        // For whom may not copy to it, a repository that is only registered does not exist.
        let hidden = || {
            Error::not_found(format!("no repository that you may copy to is named {to}")).advise(
                "who administers this repository may copy to each one that is registered, others to those that this daemon serves",
            )
        };
        match elsewhere.find(to) {
            Ok(Destination::Served(there)) => {
                let name = request.as_name.as_ref().unwrap_or(vm);
                self.at(&still_served(&there)?)
                    .demand_to("receive copies", Right::Manage, name)?;
                Ok(Destination::Served(there))
            }
            found if is_admin => found,
            _ => Err(hidden()),
        }
    }
}

/// A copy.
struct Work {
    service: LocalService,
    source: Arc<Repository>,
    destination: Destination,
    elsewhere: Arc<dyn Elsewhere>,
    pace: Pace,
    vm: VmName,
    request: CopyRequest,
}

impl Work {
    fn owner(&self) -> &Arc<Owner> {
        &self.service.registry().engine().owner
    }

    /// The repository that receives.
    fn target(&self) -> Result<Arc<Repository>> {
        let target = self.destination.open()?;
        target.format().check(true)?;
        check_apart(&self.source, &target)?;
        Ok(target)
    }

    fn route(
        &self,
        target: &Arc<Repository>,
        desk: Option<&Desk>,
    ) -> Result<(VmReport, Result<()>)> {
        let ends = Between {
            work: self,
            target,
            desk,
        };
        let route = Route {
            source: &self.source,
            target,
            pace: &self.pace,
            ends: &ends,
            vm: &self.vm,
            name: self.request.as_name.as_ref(),
            known: &known_vms(target)?,
            chosen: &self.request.points,
            is_again: self.request.again,
            is_trial: self.request.dry_run,
        };
        Ok(route.copy())
    }

    fn trial(&self) -> Result<VmReport> {
        let (report, ended) = self.route(&self.target()?, None)?;
        ended.map(|()| report)
    }

    fn run(&self, desk: &Desk) -> Result<()> {
        let target = self.target()?;
        let (report, ended) = self.route(&target, Some(desk))?;
        let id = target.format().repository_id;
        let copies = report.copies(&self.source, id, self.owner().clock().now());
        let kept = copies.and_then(|copies| {
            record(&self.vm, &copies, &|vm, copies| {
                self.service.note_copies(vm, copies)
            })
        });
        if let Err(e) = &kept {
            tracing::warn!(vm = %self.vm, error = %e.report(), "a VM is copied, and its repository has no record of it");
        }
        report.outcome(&ended)?;
        kept.or_io(format!(
            "{} is copied, but its repository could not record that, and may keep points longer than it must",
            self.vm
        ))
    }
}

/// Both owners, for one copy.
struct Between<'a> {
    work: &'a Work,
    target: &'a Arc<Repository>,
    /// `None` of a trial, which takes no step at the target.
    desk: Option<&'a Desk>,
}

impl Between<'_> {
    fn desk(&self) -> Result<&Desk> {
        self.desk
            .ok_or_else(|| Error::new(ErrorKind::Unsupported, "a trial sends nothing"))
    }

    /// One step at the target. A lock is held for no longer than that.
    fn at_target<T>(&self, step: impl FnOnce(&dyn Service) -> Result<T>) -> Result<T> {
        let monitor = self.desk()?.monitor();
        match &self.work.destination {
            Destination::Served(there) => step(&self.work.service.at(&still_served(there)?)),
            Destination::Registered(_) => {
                step(self.work.elsewhere.writer(self.target, monitor)?.as_ref())
            }
        }
    }
}

impl Ends for Between<'_> {
    fn begin(&self, arrival: &Arrival) -> Result<PointName> {
        self.desk()?.monitor().check()?;
        self.at_target(|service| service.begin_arrival(arrival))
    }

    fn arrive(&self, vm: &VmName, session: &PointName) -> Result<PointEntry> {
        self.at_target(|service| service.arrive(vm, session))
    }

    fn abort(&self, vm: &VmName, session: &PointName, reason: &str) -> Result<()> {
        let session = SessionRef {
            vm: vm.clone(),
            session: session.clone(),
        };
        self.at_target(|service| service.abort(&session, Some(reason)))
    }

    fn hold(&self, vm: &VmName, point: &PointEntry) -> Box<dyn Any> {
        let which = Which::Named(point.name.clone());
        match self.work.owner().use_point(vm, &which, "a copy") {
            Ok((_, held)) => Box::new(held),
            Err(e) => {
                // A point that is forgotten meanwhile is read from the trash, or is not copied.
                tracing::info!(vm = %vm, point = %point.name, error = %e.report(), "the point is copied without a use of it");
                Box::new(())
            }
        }
    }

    fn monitor(&self, disk: &DiskName, bytes: u64) -> Result<Monitor> {
        Ok(self.desk()?.piece(Some(disk), bytes))
    }

    fn now(&self) -> Timestamp {
        self.work.owner().clock().now()
    }
}
