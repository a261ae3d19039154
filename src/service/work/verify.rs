//! Verifying a VM in the owner's process.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::start::{Desk, start};
use crate::access::Right;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::jobs::verify::{Choice, Keeper, Subset, Watched};
use crate::repo::Repository;
use crate::repo::checks::CheckNotes;
use crate::service::{LocalService, OwnedRepository, Service};
use crate::task::{Pace, TaskKind, TaskReport};
use crate::types::VmName;
use crate::types::sync::Mutex;

/// A request to verify a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    /// The VM.
    pub vm: VmName,
    /// The share of its parts: `1/7`, `10%` or `10G`; all of them where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    /// Only parts without a result for so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outdated_after_seconds: Option<u64>,
    /// Bytes that are read in a second at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// Whether data is read; otherwise only everything else in the layers, as `restorefs check` does.
    #[serde(default = "yes")]
    pub data: bool,
}

const fn yes() -> bool {
    true
}

/// The pace of so many bytes in a second.
///
/// # Errors
/// `InvalidInput` for a limit of no bytes.
pub(super) fn pace_of(limit_bytes: Option<u64>) -> Result<Pace> {
    match limit_bytes {
        Some(0) => Err(Error::invalid(
            "a limit of no bytes in a second ends nothing",
        )),
        limit => Ok(Pace::new(limit)),
    }
}

impl LocalService {
    /// Starts to verify a VM, and returns the task. It keeps its results like [`Service::note_checks`], and ends as failed when there is
    /// damage, or when results could not be kept.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied` without the right to manage the VM; `InvalidInput`; `Busy` while the VM is verified;
    /// `LimitExceeded`; `Io`.
    pub fn start_verify(&self, request: &VerifyRequest) -> Result<TaskReport> {
        let begun = self.begin_verify(request);
        let subject = request.subset.as_deref().unwrap_or("all");
        self.note_result("verify", &request.vm, subject, &begun);
        begun
    }

    fn begin_verify(&self, request: &VerifyRequest) -> Result<TaskReport> {
        self.demand_to("keep results of verifying", Right::Manage, &request.vm)?;
        let owner = &self.registry().engine().owner;
        let vm = owner.repository().spelled(&request.vm)?;
        let subset: Option<Subset> = request.subset.as_deref().map(str::parse).transpose()?;
        let now = owner.clock().now();
        let since = |seconds: u64| {
            let age = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
            now.checked_sub(age).unwrap_or(Timestamp::MIN)
        };
        let work = Work {
            service: self.at(self.served()),
            choice: Choice {
                subset: subset.unwrap_or_default(),
                outdated_since: request.outdated_after_seconds.map(since),
                data: request.data,
            },
            pace: pace_of(request.limit_bytes)?,
            vm: vm.clone(),
        };
        start(self.served(), TaskKind::Verify, &vm, move |desk| {
            work.run(desk)
        })
    }
}

/// A verification.
struct Work {
    service: LocalService,
    choice: Choice,
    pace: Pace,
    vm: VmName,
}

impl Work {
    fn repository(&self) -> &Arc<Repository> {
        let served: &OwnedRepository = self.service.served();
        served.sessions().engine().owner.repository()
    }

    fn run(&self, desk: &Desk) -> Result<()> {
        let vms = std::slice::from_ref(&self.vm);
        let mut plans = self.choice.plan(self.repository(), vms, desk.monitor())?;
        let (_, parts) = plans
            .pop()
            .ok_or_else(|| Error::not_found(format!("the VM {} is gone", self.vm)))?;
        let keeper = Mutex::new(Keeper::default());
        let keep = |vm: &VmName, notes: &CheckNotes| {
            let mut keeper = keeper.lock();
            keeper.add(vm, notes);
            keeper.give(|vm, notes| self.service.note_checks(vm, notes));
            Ok(())
        };
        let verified = Watched {
            repository: self.repository(),
            pace: &self.pace,
            piece: &|disk, bytes| desk.piece(disk, bytes),
            data: self.choice.data,
            keep: &keep,
            now: self.service.registry().engine().owner.clock().now(),
        }
        .verify(&parts?);
        let kept = keeper.into_inner().end();
        let found = verified.and_then(|report| report.outcome());
        match (found, kept) {
            // What was found is told here alone.
            (Err(found), Err(lost)) if found.kind() == ErrorKind::Corrupt => Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "{}; the results are not kept in the repository: {}",
                    found.report(),
                    lost.report()
                ),
            )),
            (Ok(()), kept) => kept.or_io("the results of verifying are not kept in the repository"),
            (found, _) => found,
        }
    }
}
