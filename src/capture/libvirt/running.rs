//! The instant of a domain that runs: a backup job of libvirt in pull mode, whose NBD exports show all disks as they were when it began.
//!
//! # Invariants
//! - The job fails a write of the guest when a scratch image is full: so each image has all its room before the job begins.
//! - The job, the directory of its scratch images and its checkpoint have names of ours. A job that a killed backup left is aborted by the
//!   guard of that backup, or by the next backup.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::checkpoint::{Checkpoints, written};
use super::description::Disk;
use super::export::Export;
use super::image;
use super::xml::{self, Part};
use crate::block::ReadAt;
use crate::block::piece::Changes;
use crate::capture::directory::{Directory, Owner, is_held, of_socket, sweep};
use crate::capture::guard::Guard;
use crate::capture::guard::message::{HELD_MAX, Held};
use crate::capture::guard::not_thawed;
use crate::capture::machine::{Extent, MachineDisk, Order, TakenDisk};
use crate::capture::names::Names;
use crate::capture::reopen::Reopened;
use crate::capture::virsh::Virsh;
use crate::capture::virsh::job::Job;
use crate::error::{Error, ErrorKind, Result};
use crate::repo::sidecar::point::Consistency;
use crate::sys::private_dir::PrivateDir;
use crate::types::printable::printable;

/// LIMIT: time for which the guard of a killed backup may still clean up.
const CLEANING_TIMEOUT: Duration = Duration::from_secs(15);

const PAUSE: Duration = Duration::from_millis(200);

/// A domain that runs.
pub(super) struct Running<'a> {
    pub(super) virsh: &'a Virsh,
    pub(super) domain: &'a str,
    pub(super) disks: &'a [Disk],
    /// Their sizes.
    pub(super) sizes: &'a [MachineDisk],
    /// Targets of disks that are not taken.
    pub(super) others: &'a [String],
    /// QEMU's user.
    pub(super) owner: Option<Owner>,
    pub(super) names: &'a Names,
}

/// What has to be undone at the end.
pub(super) struct Taken {
    /// Ends what is left when this process dies.
    _guard: Guard,
    directory: Directory,
    /// The checkpoint that begins with the instant.
    checkpoint: Option<String>,
    /// Checkpoints of the parent.
    previous: Vec<String>,
    /// Any export of the job.
    job: Export,
}

/// The instant, apart from its disks.
pub(super) struct Moment {
    pub(super) consistency: Consistency,
    pub(super) note: Option<String>,
    pub(super) held: Held,
    pub(super) remarks: Vec<String>,
}

/// What the job is to do.
struct Wish {
    extents: Vec<Extent>,
    /// Whether a checkpoint begins with it.
    is_tracked: bool,
}

impl Running<'_> {
    fn checkpoints(&self) -> Checkpoints<'_> {
        Checkpoints {
            virsh: self.virsh,
            domain: self.domain,
        }
    }

    /// Refuses a domain that does something else, and aborts a job that a killed backup left; returns what people should know.
    fn clear(&self) -> Result<Vec<String>> {
        let begun = Instant::now();
        let mut remarks = Vec::new();
        loop {
            let Some(job) = Job::of(self.virsh, self.domain)? else {
                break;
            };
            let socket = job.socket.clone().unwrap_or_default();
            let Some(directory) = of_socket(&socket) else {
                return Err(Error::new(
                    ErrorKind::Busy,
                    "another program backs the domain up, and libvirt runs one backup job at a time",
                )
                .advise("wait for it (virsh domjobinfo), or end it: virsh domjobabort"));
            };
            if !is_held(directory)? {
                Job::abort(self.virsh, self.domain, directory)?;
                remarks.push(
                    "an earlier backup was killed; its job was still there, and is aborted"
                        .to_owned(),
                );
                continue;
            }
            if begun.elapsed() > CLEANING_TIMEOUT {
                return Err(Error::new(
                    ErrorKind::Busy,
                    "another backup of the domain runs, and libvirt runs one backup job at a time",
                )
                .at_path(directory)
                .advise("wait for it"));
            }
            std::thread::sleep(PAUSE);
        }
        let info = self
            .virsh
            .call_lasting(&["domjobinfo", "--domain", self.domain])?;
        match other_job(&info) {
            None => Ok(remarks),
            Some(job) => Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "libvirt does something else with the domain: {}",
                    printable(job)
                ),
            )
            .advise("wait for it: virsh domjobinfo")),
        }
    }

    /// Takes the instant. On a failure nothing is left.
    ///
    /// # Errors
    /// `Busy` when the domain has another job; `NoSpace` where the scratch images have no room; those of libvirt.
    pub(super) fn take(
        &self,
        program: &Path,
        order: &Order,
    ) -> Result<(Taken, Vec<TakenDisk>, Moment)> {
        let mut remarks = self.clear()?;
        let swept = sweep(&order.scratch, &self.names.recording())?;
        if !swept.is_empty() {
            remarks.push(format!(
                "an earlier backup was killed; its scratch images are removed: {}",
                swept.join(", ")
            ));
        }
        let extents = self
            .checkpoints()
            .decide(self.names, self.disks, &order.previous, true)?;
        let kept: Vec<&str> = extents.iter().filter_map(since).collect();
        remarks.extend(self.checkpoints().prune(self.names, &kept)?);
        let name = self.names.directory(order.session);
        let directory = Directory::make(&order.scratch, &name, self.owner)?;
        let begun = self.begin(program, order, &directory, extents);
        let (guard, wish, moment) = begun.inspect_err(|_| {
            let _ = directory.remove();
        })?;
        let new = self.names.bitmap(order.session);
        let mut previous: Vec<String> = wish
            .extents
            .iter()
            .filter_map(since)
            .map(ToOwned::to_owned)
            .collect();
        previous.dedup();
        let taken = Taken {
            _guard: guard,
            checkpoint: wish.is_tracked.then(|| new.clone()),
            previous,
            job: Export {
                virsh: self.virsh.clone(),
                domain: self.domain.to_owned(),
                socket: directory.socket(),
                name: String::new(),
                has_changes: false,
            },
            directory,
        };
        let mut disks = Vec::new();
        for ((disk, size), extent) in self.disks.iter().zip(self.sizes).zip(&wish.extents) {
            let export = Export {
                name: disk.target.clone(),
                has_changes: since(extent).is_some(),
                ..taken.job.clone()
            };
            match open(disk, size, export) {
                Ok((source, changes)) => disks.push(TakenDisk {
                    name: disk.name.clone(),
                    source,
                    extent: extent.clone(),
                    changes,
                    change_id: Some(match wish.is_tracked && disk.is_untracked().is_none() {
                        true => new.clone(),
                        false => Names::untracked(order.session),
                    }),
                }),
                Err(e) => {
                    drop(disks);
                    if let Err(left) = taken.end(self.virsh, self.domain, false) {
                        tracing::warn!(error = %left.report(), "something of the backup is left; the next one removes it");
                    }
                    return Err(e);
                }
            }
        }
        let moment = Moment {
            remarks: [remarks, moment.remarks].concat(),
            ..moment
        };
        Ok((taken, disks, moment))
    }

    /// Makes the scratch images, and begins the job.
    fn begin(
        &self,
        program: &Path,
        order: &Order,
        directory: &Directory,
        extents: Vec<Extent>,
    ) -> Result<(Guard, Wish, Moment)> {
        for (disk, size) in self.disks.iter().zip(self.sizes) {
            image::make(directory, disk, size)?;
        }
        let mut guard =
            Guard::start_domain(program, self.virsh.uri(), self.domain, directory.path())?;
        let mut remarks = Vec::new();
        let mut wish = Wish {
            is_tracked: self.disks.iter().any(|disk| disk.is_untracked().is_none()),
            extents,
        };
        loop {
            match self.try_begin(&mut guard, order, directory, &wish) {
                Ok(mut moment) => {
                    moment.remarks = [remarks, moment.remarks].concat();
                    return Ok((guard, wish, moment));
                }
                Err(e) if !is_about_tracking(&e) => return Err(e),
                Err(e) if wish.extents.iter().any(|extent| since(extent).is_some()) => {
                    let reason = format!("libvirt cannot use the checkpoint: {}", e.report());
                    for extent in &mut wish.extents {
                        if since(extent).is_some() {
                            *extent = Extent::Whole {
                                reason: Some(reason.clone()),
                            };
                        }
                    }
                }
                Err(e) if wish.is_tracked => {
                    remarks.push(format!(
                        "changes are not tracked, so that the next backup reads all disks: {}",
                        e.report()
                    ));
                    wish.is_tracked = false;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Begins the job, with the guest's filesystems frozen where the order wants it.
    fn try_begin(
        &self,
        guard: &mut Guard,
        order: &Order,
        directory: &Directory,
        wish: &Wish,
    ) -> Result<Moment> {
        // Not in the directory that QEMU's user can enter: libvirt believes what it reads.
        let private = PrivateDir::new()?;
        let arguments = self.arguments(order, directory, wish, &private)?;
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut moment = Moment {
            consistency: Consistency::Crash,
            note: None,
            held: Held::default(),
            remarks: Vec::new(),
        };
        let mut doubt = None;
        if order.quiesce {
            match guard.freeze() {
                Ok(_) => moment.consistency = Consistency::Filesystem,
                Err(e) => {
                    doubt = Some(format!(
                        "the guest's filesystems were not frozen: {}",
                        e.report()
                    ));
                }
            }
        }
        let begun = self.virsh.call(&arguments);
        match guard.resume() {
            Ok((held, left)) => {
                moment.held = held;
                moment.remarks.extend(left.map(|e| not_thawed(&e)));
            }
            // The job has begun in one instant all the same.
            Err(e) if e.kind() == ErrorKind::TimedOut => {
                doubt.get_or_insert_with(|| {
                    format!(
                        "the guest's filesystems were frozen for {} seconds, and perhaps thawed before the job began",
                        HELD_MAX.as_secs()
                    )
                });
            }
            Err(e) => return Err(e),
        }
        begun.map_err(|e| match e.kind() {
            ErrorKind::PermissionDenied => e.advise("QEMU must be able to reach the scratch directory; AppArmor or SELinux may forbid it: see docs/capture.md"),
            _ => e,
        })?;
        if let Some(doubt) = doubt {
            moment.consistency = Consistency::Crash;
            moment.remarks.push(doubt.clone());
            moment.note = Some(doubt);
        }
        Ok(moment)
    }

    /// The arguments of the call that begins the job; writes the XML that they name.
    fn arguments(
        &self,
        order: &Order,
        directory: &Directory,
        wish: &Wish,
        private: &PrivateDir,
    ) -> Result<Vec<String>> {
        let images: Vec<_> = self
            .disks
            .iter()
            .map(|disk| directory.path().join(image::name(disk)))
            .collect();
        let disks = self.disks.iter().zip(&images).zip(&wish.extents);
        let mut parts: Vec<Part<'_>> = disks
            .map(|((disk, image), extent)| Part {
                target: &disk.target,
                scratch: Some(image),
                since: since(extent),
            })
            .collect();
        parts.extend(self.others.iter().map(|target| Part {
            target,
            scratch: None,
            since: None,
        }));
        let text = xml::backup(&directory.socket(), &parts);
        let path = written(private, "backup.xml", &text)?;
        let mut arguments: Vec<String> = ["backup-begin", "--reuse-external", "--domain"]
            .map(ToOwned::to_owned)
            .to_vec();
        arguments.push(self.domain.to_owned());
        arguments.extend([
            "--backupxml".to_owned(),
            path.to_string_lossy().into_owned(),
        ]);
        if wish.is_tracked {
            let (tracked, rest): (Vec<&Disk>, Vec<&Disk>) = self
                .disks
                .iter()
                .partition(|disk| disk.is_untracked().is_none());
            let tracked: Vec<&str> = tracked.iter().map(|disk| disk.target.as_str()).collect();
            let rest = rest.iter().map(|disk| disk.target.as_str());
            let rest: Vec<&str> = rest.chain(self.others.iter().map(String::as_str)).collect();
            let text = xml::checkpoint(&self.names.bitmap(order.session), None, &tracked, &rest);
            let path = written(private, "checkpoint.xml", &text)?;
            arguments.extend([
                "--checkpointxml".to_owned(),
                path.to_string_lossy().into_owned(),
            ]);
        }
        Ok(arguments)
    }
}

impl Taken {
    /// Checks that the job still runs.
    ///
    /// # Errors
    /// `Stale` when it has ended.
    pub(super) fn check(&self) -> Result<()> {
        self.job.prove()
    }

    /// Ends the job, and the tracking that is not needed any more.
    ///
    /// # Errors
    /// As [`Job::abort`], [`Checkpoints::remove`].
    pub(super) fn end(self, virsh: &Virsh, domain: &str, is_committed: bool) -> Result<()> {
        let mut failed = Job::abort(virsh, domain, self.directory.path()).map(drop);
        let checkpoints = Checkpoints { virsh, domain };
        let ended = match is_committed {
            true => self.previous,
            false => self.checkpoint.into_iter().collect(),
        };
        for name in ended {
            let removed = match checkpoints.remove(&name) {
                // Libvirt removes bitmaps of domains that run only: the next backup does it.
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
                done => done,
            };
            failed = failed.and(removed);
        }
        failed.and(self.directory.remove())
    }
}

/// The change id from which a disk's changes are copied.
fn since(extent: &Extent) -> Option<&str> {
    match extent {
        Extent::Since { change_id, .. } => Some(change_id),
        Extent::Whole { .. } => None,
    }
}

/// Whether a refusal may be about bitmaps; then the job is tried without them.
fn is_about_tracking(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidInput | ErrorKind::Unsupported | ErrorKind::NotFound
    )
}

/// The job of a domain that is no backup, as `virsh domjobinfo` names it.
fn other_job(info: &str) -> Option<&str> {
    let field = |name: &str| {
        let mut lines = info.lines();
        lines.find_map(|line| Some(line.strip_prefix(name)?.trim()))
    };
    match field("Job type:") {
        None | Some("None" | "") => None,
        Some(kind) => Some(field("Operation:").unwrap_or(kind)),
    }
}

/// What of an export is read.
type Opened = (Arc<dyn ReadAt>, Option<Arc<dyn Changes>>);

/// Connects to the export of a disk.
fn open(disk: &Disk, size: &MachineDisk, export: Export) -> Result<Opened> {
    let has_changes = export.has_changes;
    let source = Arc::new(Reopened::new(export)?);
    if source.size_bytes() != size.size_bytes {
        return Err(Error::new(
            ErrorKind::Stale,
            format!("{} has another size now", disk.name),
        )
        .advise("begin again"));
    }
    let changes = has_changes.then(|| Arc::clone(&source) as Arc<dyn Changes>);
    Ok((source, changes))
}

#[cfg(test)]
mod tests {
    use super::other_job;

    #[test]
    fn another_job_is_named() {
        assert_eq!(other_job("Job type:         None        \n"), None);
        assert_eq!(other_job(""), None);
        let migration = "Job type:         Unbounded   \nOperation:        Outgoing migration\nTime elapsed: 7 ms\n";
        assert_eq!(other_job(migration), Some("Outgoing migration"));
        assert_eq!(other_job("Job type: Bounded\n"), Some("Bounded"));
    }
}
