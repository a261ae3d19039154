//! A repository on another machine: what a backup asks of its daemon.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::address::Address;
use super::answer::{self, Info, ListedVm};
use super::secret::Secret;
use super::target::Targets;
use super::wire::{Content, Wire, part};
use crate::capture::transfer::Export;
use crate::error::{Error, ErrorKind, Result};
use crate::http::api::session::{CommitBody, FAILURE_BYTES_MAX, SessionBody};
use crate::service::backup::desk::Desk;
use crate::service::backup::lasting::LEASE_SECONDS;
use crate::service::backup::made::Made;
use crate::service::view::{LIMIT_MAX, Page, RepositoryAnswer};
use crate::service::{BeginAnswer, BeginRequest, CommitRequest, DiskResult, DiskTarget};
use crate::task::{Monitor, Patience, nap};
use crate::types::{
    DiskName, PointName, RepositoryId, RepositoryName, SessionId, SessionRef, VmName,
};

/// LIMIT: how long a commit may take whose answer was lost.
const COMMIT_PATIENCE: Duration = Duration::from_secs(1800);

/// LIMIT: how often a target is connected to.
const TRIES: u32 = 3;

const PAUSE: Duration = Duration::from_secs(1);

/// The restore point that a backup would be compared with.
#[derive(Debug, Default)]
pub struct Latest {
    /// Change ids by disk.
    pub change_ids: BTreeMap<DiskName, String>,
    /// Whether there is one, as far as the caller may read.
    pub is_there: bool,
}

/// A repository on another machine.
#[derive(Debug)]
pub struct Remote {
    wire: Wire,
    targets: Targets,
    repository: RepositoryName,
    id: RepositoryId,
    monitor: Monitor,
}

fn encoded(body: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(body)
        .map_err(|e| Error::new(ErrorKind::Io, "the request cannot be encoded").caused_by(e))
}

fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or_default()
}

impl Remote {
    /// Connects to the repository that the server calls `repository`. `certificates` is the directory with what TLS needs. Nobody waits
    /// for a server that was lost when the monitor asks the work to stop.
    ///
    /// # Errors
    /// `NotFound` when the server has no such repository for this caller; `PermissionDenied` for an unknown token, and for
    /// certificates that one of both sides does not accept; `Unsupported` for what is no restorefs; `Disconnected`.
    pub fn connect(
        address: Address,
        secret: Option<Secret>,
        certificates: PathBuf,
        repository: RepositoryName,
        monitor: Monitor,
    ) -> Result<Self> {
        let targets = Targets {
            is_here: address.is_here(),
            certificates,
        };
        let wire = Wire::new(address, secret, targets.certificates())?;
        let path = format!("/api/v1/repositories/{}", part(repository.as_str()));
        let answer: RepositoryAnswer = wire.ask("GET", &path, Content::Nothing)?;
        Ok(Self {
            wire,
            targets,
            repository,
            id: answer.repository_id,
            monitor,
        })
    }

    /// The repository's identity.
    #[must_use]
    pub const fn repository_id(&self) -> RepositoryId {
        self.id
    }

    /// The VMs that the caller may read; `None` where they are more than one answer has.
    ///
    /// # Errors
    /// As [`Remote::connect`].
    pub fn vm_names(&self) -> Result<Option<Vec<VmName>>> {
        let path = format!("{}/vms?limit={LIMIT_MAX}", self.path());
        let page: Page<ListedVm> = self.wire.ask("GET", &path, Content::Nothing)?;
        let names = page.items.into_iter().map(|vm| vm.name).collect();
        Ok(page.next.is_none().then_some(names))
    }

    /// The newest restore point of a VM.
    ///
    /// # Errors
    /// As [`Remote::connect`].
    pub fn latest(&self, vm: &VmName) -> Result<Latest> {
        let path = format!(
            "{}/vms/{}/points/latest/info",
            self.path(),
            part(vm.as_str())
        );
        let info: Info = match self.wire.ask("GET", &path, Content::Nothing) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Latest::default()),
            info => info?,
        };
        let disks = info.disks.into_iter();
        Ok(Latest {
            change_ids: disks
                .filter_map(|disk| Some((disk.name, disk.change_id?)))
                .collect(),
            is_there: true,
        })
    }

    /// Does something until the server answers; nothing is repeated once it has.
    fn insist<T>(&self, mut step: impl FnMut() -> Result<T>) -> Result<T> {
        let mut patience = Patience::new(&self.monitor);
        loop {
            match step() {
                Err(e) if e.kind() == ErrorKind::Disconnected => patience.wait(e)?,
                done => return done,
            }
        }
    }

    fn path(&self) -> String {
        format!("/api/v1/repositories/{}", part(self.repository.as_str()))
    }

    fn path_of(&self, vm: &VmName, session: &PointName) -> String {
        format!(
            "{}/vms/{}/sessions/{}",
            self.path(),
            part(vm.as_str()),
            part(session.as_str())
        )
    }

    fn path_to(&self, session: &SessionRef) -> String {
        self.path_of(&session.vm, &session.session)
    }

    fn commit_once(&self, path: &str, body: &[u8]) -> Result<Made> {
        let answer: Value = self.wire.ask("POST", path, Content::Json(body))?;
        answer::made(answer).map_err(|e| e.at_path(self.wire.address().to_string()))
    }
}

impl Desk for Remote {
    fn begin(&self, request: &BeginRequest) -> Result<BeginAnswer> {
        let id = SessionId::random().to_string();
        // A name of its own: what was begun, committed or aborted by this name was so by this backup.
        let name = PointName::new(format!("backup-{}", cut(&id, 13)))?;
        let name = request.session.clone().unwrap_or(name);
        let body = encoded(&SessionBody::of(&BeginRequest {
            ttl_seconds: LEASE_SECONDS,
            ..request.clone()
        })?)?;
        let path = self.path_of(&request.vm, &name);
        self.insist(|| self.wire.ask("PUT", &path, Content::Json(&body)))
    }

    fn target(&self, _: &SessionRef, disk: &DiskResult) -> Result<DiskTarget> {
        let uri = self.targets.uri(&disk.uri)?;
        let mut tries = 0;
        loop {
            tries += 1;
            match Export::connect(uri.clone()) {
                Ok(export) => return Ok(DiskTarget::Export(Box::new(export))),
                // A server that does not accept the certificate looks like one that is being restarted: a few tries tell.
                Err(e) if e.kind() == ErrorKind::Disconnected && tries < TRIES => {
                    nap(PAUSE, &self.monitor)?;
                }
                Err(e) => {
                    return Err(e.advise(
                        "the daemon's NBD server needs a client's certificate (--tls-dir) with the right ingest in its access file",
                    ));
                }
            }
        }
    }

    fn attach(&self, session: &SessionRef, name: &str, content: &[u8]) -> Result<()> {
        let path = format!("{}/attached/{}", self.path_to(session), part(name));
        self.insist(|| self.wire.send("PUT", &path, Content::Bytes(content)))
            .map(drop)
    }

    fn renew(&self, session: &SessionRef) -> Result<()> {
        let path = format!("{}/renew", self.path_to(session));
        self.insist(|| self.wire.send("POST", &path, Content::Nothing))
            .map(drop)
    }

    fn commit(&self, session: &SessionRef, request: &CommitRequest) -> Result<Made> {
        let path = format!("{}/commit", self.path_to(session));
        let body = encoded(&CommitBody::of(request))?;
        let (clock, mut patience) = (Instant::now(), Patience::new(&self.monitor));
        let mut is_repeated = false;
        loop {
            match self.commit_once(&path, &body) {
                Err(e) if e.kind() == ErrorKind::Disconnected => patience.wait(e)?,
                // The request whose answer was lost is still being executed.
                Err(e)
                    if matches!(e.kind(), ErrorKind::Busy | ErrorKind::ReadOnly)
                        && is_repeated
                        && clock.elapsed() < COMMIT_PATIENCE =>
                {
                    patience = Patience::new(&self.monitor);
                    nap(PAUSE, &self.monitor)?;
                }
                done => return done,
            }
            is_repeated = true;
        }
    }

    fn abort(&self, session: &SessionRef, failure: Option<&str>) -> Result<()> {
        let failure = failure.map_or_else(String::new, |text| {
            format!("?failure={}", part(cut(text, FAILURE_BYTES_MAX)))
        });
        let path = format!("{}{failure}", self.path_to(session));
        match self.wire.send("DELETE", &path, Content::Nothing) {
            // It has ended already.
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            done => done.map(drop),
        }
    }
}
