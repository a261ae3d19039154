//! The client side: the service of a repository whose owner is another process.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::events::{Events, gone};
use super::socket_path::{control_socket, is_old_control_socket};
use super::{ANSWER_BYTES_MAX, Hello, Request, Welcome, parse_answer};
use crate::capture::transfer::Export;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::repo::arrive::Arrival;
use crate::repo::checks::CheckNotes;
use crate::repo::lock::{Holder, Note, Site};
use crate::repo::policy::PolicyChange;
use crate::repo::put_back::PutBack;
use crate::repo::replace::Replacement;
use crate::repo::selector::Which;
use crate::repo::sidecar::copied::PointCopy;
use crate::repo::sidecar::index::PointEntry;
use crate::repo::{LabelChange, Repository};
use crate::service::work::{CopyAnswer, CopyRequest, ForgetPlan, ForgetRequest, VerifyRequest};
use crate::service::{
    BeginAnswer, BeginRequest, CommitAnswer, CommitRequest, DiskResult, DiskTarget, ForgetAnswer,
    LoginAnswer, MountRequest, Service, SessionAnswer, Status, TrashAnswer,
};
use crate::sys::{pass, runtime_dir, socket};
use crate::task::{TaskDisk, TaskKind, TaskReport, TaskRequest, TaskState};
use crate::types::sync::Mutex;
use crate::types::width::u64_from_usize;
use crate::types::{JobId, PointId, PointName, SessionRef, VmName};

/// LIMIT: how long a command waits for a daemon that accepts no connections.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a command waits for an answer that it can do without.
pub const SHORT_PATIENCE: Duration = Duration::from_secs(5);

/// A connection to the daemon of a repository.
pub struct Client {
    stream: Mutex<Stream>,
    path: PathBuf,
}

type Stream = BufReader<UnixStream>;

impl Client {
    /// Connects to the daemon that owns the repository; `None` when no process holds the lock. The
    /// client skips a listener that runs as neither root, nor this user, nor the repository's
    /// owner: it would learn what only a daemon may know, and would receive mounts. A daemon of
    /// another repository, of which this one may be a copy, reports that, and is skipped too.
    ///
    /// # Errors
    /// `PermissionDenied` when this user may not reach the daemon; `Unsupported` when it is of
    /// another release; `Io`.
    pub fn connect(repository: &Repository) -> Result<Option<Self>> {
        Self::connect_within(repository, None)
    }

    /// [`Client::connect`] for what can be done without the daemon, too: each answer arrives within `patience`, or the
    /// request has failed. The connection is of no use after that.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_within(
        repository: &Repository,
        patience: Option<Duration>,
    ) -> Result<Option<Self>> {
        let holder = match Holder::of(repository) {
            Holder::Nobody => return Ok(None),
            Holder::Process(note) => note.filter(Note::is_of_this_machine),
            Holder::Unknown => None,
        };
        let Some(site) = Site::of(repository)? else {
            return Ok(None);
        };
        let process = holder.as_ref().map(|note| note.pid);
        let noted = holder.and_then(|note| note.control);
        let id = repository.format().repository_id;
        if let Some(path) = noted
            .as_ref()
            .filter(|path| is_old_control_socket(path, id))
        {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the daemon (pid {}) is of an older release, which this one (release {}) cannot talk to",
                    process.unwrap_or_default(),
                    env!("CARGO_PKG_VERSION")
                ),
            )
            .at_path(path)
            .advise("restart it: systemctl restart restorefs"));
        }
        // A note from elsewhere could name any socket: the client accepts only a socket named as
        // this repository's.
        let own = control_socket(Path::new(""), id, site.lock);
        let noted = noted.filter(|path| path.is_absolute() && path.file_name() == own.file_name());
        let usual = runtime_dir::candidates().into_iter();
        let usual = usual.map(|dir| control_socket(&dir, id, site.lock));
        for path in noted.into_iter().chain(usual) {
            let Some(stream) = reach(&path)? else {
                continue;
            };
            if !is_daemon(&stream, repository, process).at_path(&path)? {
                tracing::warn!(
                    socket = %path.display(),
                    "a process of a user who is neither root nor the repository's owner listens in its daemon's place; it is passed over (ss -xlp shows it)"
                );
                continue;
            }
            let limited = stream
                .set_read_timeout(patience)
                .and_then(|()| stream.set_write_timeout(patience));
            limited.or_io("cannot limit a wait").at_path(&path)?;
            let client = Self {
                stream: Mutex::new(BufReader::new(stream)),
                path,
            };
            let welcome: Welcome = client.ask(&Request::Hello(Hello::new(site)))?;
            if welcome.is_served {
                return Ok(Some(client));
            }
            tracing::warn!(
                socket = %client.path.display(),
                pid = welcome.pid,
                "the daemon there serves another repository, of which this one is a copy; it is passed over"
            );
        }
        Ok(None)
    }

    /// Connects to the daemon, and fails when there is none.
    ///
    /// # Errors
    /// `NotFound` with advice.
    pub fn require(repository: &Repository) -> Result<Self> {
        Self::connect(repository)?.ok_or_else(|| {
            Error::not_found("no daemon serves this repository")
                .advise("start one: restorefs serve --nbd SOCKET")
        })
    }

    /// Asks the daemon to serve what is mounted on `device`.
    ///
    /// # Errors
    /// What the daemon returns; `Disconnected` when it goes away.
    pub fn hand_over(&self, request: MountRequest, device: BorrowedFd<'_>) -> Result<()> {
        let line = encode(&Request::Mount(request))?;
        let mut stream = self.stream.lock();
        pass::send(stream.get_ref(), &line, &[device]).at_path(&self.path)?;
        self.hear(&mut stream)
    }

    /// Starts to verify a VM in the daemon's process; returns the task.
    ///
    /// # Errors
    /// As [`LocalService::start_verify`](crate::service::LocalService::start_verify).
    pub fn start_verify(&self, request: &VerifyRequest) -> Result<TaskReport> {
        self.ask(&Request::Verify(request.clone()))
    }

    /// Starts to copy a VM in the daemon's process; returns the task, or what would be sent.
    ///
    /// # Errors
    /// As [`LocalService::copy`](crate::service::LocalService::copy).
    pub fn copy(&self, request: &CopyRequest) -> Result<CopyAnswer> {
        self.ask(&Request::Copy(request.clone()))
    }

    /// Forgets points of a VM by rules or by name, or returns the plan alone.
    ///
    /// # Errors
    /// As [`LocalService::forget_by`](crate::service::LocalService::forget_by).
    pub fn forget_by(&self, vm: &VmName, request: &ForgetRequest) -> Result<ForgetPlan> {
        self.ask(&Request::ForgetBy {
            vm: vm.clone(),
            request: request.clone(),
        })
    }

    /// Follows the daemon's events from now on, or after the one whose id is `since`.
    ///
    /// # Errors
    /// `Disconnected`, `Io`.
    pub fn follow(self, since: Option<&str>) -> Result<Events> {
        let since = since.map(ToOwned::to_owned);
        let _: String = self.ask(&Request::Follow { since })?;
        Events::new(self.stream.into_inner(), self.path)
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T> {
        self.ask_with(request, &[])
    }

    /// Sends a request and the bytes that follow it, and waits for the answer.
    fn ask_with<T: DeserializeOwned>(&self, request: &Request, content: &[u8]) -> Result<T> {
        let line = encode(request)?;
        let mut stream = self.stream.lock();
        let asked = stream
            .get_mut()
            .write_all(&line)
            .and_then(|()| stream.get_mut().write_all(content));
        match asked.or_io("cannot ask the daemon").at_path(&self.path) {
            Ok(()) => self.hear(&mut stream),
            // The daemon sends the reason to a client that it turns away.
            Err(error) => {
                let heard = self.hear::<T>(&mut stream);
                Err(heard.err().filter(is_answer).unwrap_or(error))
            }
        }
    }

    fn hear<T: DeserializeOwned>(&self, stream: &mut Stream) -> Result<T> {
        let mut answer = Vec::new();
        let mut limited = stream.take(ANSWER_BYTES_MAX);
        limited
            .read_until(b'\n', &mut answer)
            .or_io("the daemon's answer cannot be read from its control socket")
            .at_path(&self.path)?;
        if !answer.ends_with(b"\n") {
            return Err(gone(&self.path));
        }
        parse_answer(&answer)
    }
}

impl Service for Client {
    fn begin(&self, request: &BeginRequest) -> Result<BeginAnswer> {
        self.ask(&Request::Begin(request.clone()))
    }

    fn disk_target(&self, _: &SessionRef, disk: &DiskResult) -> Result<DiskTarget> {
        let export = Export::connect(disk.uri.parse()?)?;
        Ok(DiskTarget::Export(Box::new(export)))
    }

    fn renew(&self, session: &SessionRef) -> Result<()> {
        self.ask(&Request::Renew {
            session: session.clone(),
        })
    }

    fn attach(&self, session: &SessionRef, name: &str, content: &[u8]) -> Result<()> {
        let request = Request::Attach {
            session: session.clone(),
            name: name.to_owned(),
            length_bytes: u64_from_usize(content.len()),
        };
        self.ask_with(&request, content)
    }

    fn commit(&self, session: &SessionRef, request: &CommitRequest) -> Result<CommitAnswer> {
        self.ask(&Request::Commit {
            session: session.clone(),
            request: request.clone(),
        })
    }

    fn abort(&self, session: &SessionRef, failure: Option<&str>) -> Result<()> {
        self.ask(&Request::Abort {
            session: session.clone(),
            failure: failure.map(ToOwned::to_owned),
        })
    }

    fn forget(
        &self,
        vm: &VmName,
        points: &[PointName],
        is_retention: bool,
    ) -> Result<ForgetAnswer> {
        self.ask(&Request::Forget {
            vm: vm.clone(),
            points: points.to_vec(),
            is_retention,
        })
    }

    fn label(&self, vm: &VmName, which: &Which, change: &LabelChange) -> Result<PointEntry> {
        self.ask(&Request::Label {
            vm: vm.clone(),
            point: which.clone(),
            change: change.clone(),
        })
    }

    fn rename_vm(&self, vm: &VmName, to: &VmName) -> Result<VmName> {
        self.ask(&Request::RenameVm {
            vm: vm.clone(),
            to: to.clone(),
        })
    }

    fn remove_vm(&self, vm: &VmName) -> Result<()> {
        self.ask(&Request::RemoveVm { vm: vm.clone() })
    }

    fn undelete(&self, vm: &VmName, point: &PointName) -> Result<PointEntry> {
        self.ask(&Request::Undelete {
            vm: vm.clone(),
            point: point.clone(),
        })
    }

    fn note_checks(&self, vm: &VmName, notes: &CheckNotes) -> Result<()> {
        self.ask(&Request::NoteChecks {
            vm: vm.clone(),
            notes: notes.clone(),
        })
    }

    fn note_copies(&self, vm: &VmName, copies: &[(PointId, PointCopy)]) -> Result<()> {
        self.ask(&Request::NoteCopies {
            vm: vm.clone(),
            copies: copies.to_vec(),
        })
    }

    fn begin_arrival(&self, arrival: &Arrival) -> Result<PointName> {
        self.ask(&Request::BeginArrival(Box::new(arrival.clone())))
    }

    fn arrive(&self, vm: &VmName, session: &PointName) -> Result<PointEntry> {
        self.ask(&Request::Arrive {
            vm: vm.clone(),
            session: session.clone(),
        })
    }

    fn adopt(&self, vm: &VmName) -> Result<bool> {
        self.ask(&Request::Adopt { vm: vm.clone() })
    }

    fn change_policy(&self, change: &PolicyChange) -> Result<()> {
        self.ask(&Request::ChangePolicy {
            policy: change.clone(),
        })
    }

    fn empty_trash(&self) -> Result<TrashAnswer> {
        self.ask(&Request::EmptyTrash)
    }

    fn hold(&self, vm: &VmName, which: &Which, holder: &str) -> Result<PointEntry> {
        self.ask(&Request::Hold {
            vm: vm.clone(),
            point: which.clone(),
            holder: holder.to_owned(),
        })
    }

    fn hold_still(&self, holder: &str) -> Result<()> {
        self.ask(&Request::HoldStill {
            holder: holder.to_owned(),
        })
    }

    fn sessions(&self) -> Result<Vec<SessionAnswer>> {
        self.ask(&Request::Sessions)
    }

    fn tasks(&self) -> Result<Vec<TaskReport>> {
        self.ask(&Request::Tasks)
    }

    fn replace(&self, replacement: &Replacement) -> Result<()> {
        self.ask(&Request::Replace(replacement.clone()))
    }

    fn put_back(&self, what: &PutBack) -> Result<()> {
        self.ask(&Request::PutBack(what.clone()))
    }

    fn begin_task(&self, request: &TaskRequest) -> Result<JobId> {
        self.ask(&Request::BeginTask(request.clone()))
    }

    fn tell_task(&self, task: JobId, disks: &[TaskDisk]) -> Result<bool> {
        self.ask(&Request::TellTask {
            task,
            disks: disks.to_vec(),
        })
    }

    fn end_task(&self, task: JobId, state: TaskState, reason: Option<&str>) -> Result<()> {
        self.ask(&Request::EndTask {
            task,
            state,
            reason: reason.map(ToOwned::to_owned),
        })
    }

    fn cancel(&self, task: JobId) -> Result<()> {
        self.ask(&Request::Cancel { task })
    }

    fn note_failure(&self, kind: TaskKind, vm: Option<&VmName>, reason: &str) -> Result<()> {
        self.ask(&Request::NoteFailure {
            kind,
            vm: vm.cloned(),
            reason: reason.to_owned(),
        })
    }

    fn rebuild_catalog(&self) -> Result<usize> {
        self.ask(&Request::RebuildCatalog)
    }

    fn login(&self) -> Result<LoginAnswer> {
        self.ask(&Request::Login)
    }

    fn status(&self) -> Result<Status> {
        self.ask(&Request::Status)
    }
}

/// Connects to a socket; `None` when nobody listens on it.
fn reach(path: &Path) -> Result<Option<UnixStream>> {
    match socket::connect(path, PATIENCE) {
        Ok(stream) => Ok(Some(stream)),
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Err(Error::new(
            ErrorKind::Busy,
            "the process that listens there takes no more connections",
        )
        .caused_by(e)
        .at_path(path)
        .advise(
            "ss -xlp shows the process; if it is the daemon, see its log (journalctl -u restorefs)",
        )),
        // The socket of a dead daemon refuses connections, which counts as no daemon.
        Err(e)
            if matches!(
                e.kind(),
                std::io::ErrorKind::NotFound
                    | std::io::ErrorKind::ConnectionRefused
                    | std::io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(Error::io("cannot reach the daemon", e)
            .at_path(path)
            .advise(
                "its socket lets in root, the daemon's own user, and the members of its group",
            )),
    }
}

/// Whether the listener can be the repository's daemon: the `process` that its lock names, or a
/// process of a user who has full access to the repository anyway.
fn is_daemon(stream: &UnixStream, repository: &Repository, process: Option<u32>) -> Result<bool> {
    let (peer, user) = socket::peer(stream)?;
    if user == 0 || user == rustix::process::geteuid().as_raw() {
        return Ok(true);
    }
    let owner = repository
        .store()
        .local_root()
        .and_then(|root| std::fs::metadata(root).ok())
        .map(|meta| meta.uid());
    let is_holder =
        process.is_some_and(|pid| i32::try_from(pid) == Ok(peer.as_raw_nonzero().get()));
    Ok(owner == Some(user) || is_holder)
}

/// Whether the error is an answer of the daemon rather than a missing answer.
fn is_answer(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::Disconnected | ErrorKind::Io)
}

fn encode(request: &Request) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(request)
        .map_err(|e| Error::invalid("the request cannot be encoded").caused_by(e))?;
    line.push(b'\n');
    Ok(line)
}
