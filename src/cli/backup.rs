//! `restorefs backup`: all disks of a VM as one restore point, by ourselves or through the daemon.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::args::Backup;
use super::begin::mark;
use super::commit::print;
use super::context::{Context, Writer};
use super::progress::Progress;
use super::sources::{Copied, Sources};
use super::target::{parse_disks, parse_ids, split_paths, untangle};
use crate::block::{ReadAt, WriteAt};
use crate::capture::transfer::transfer;
use crate::daemon::control::{
    BeginAnswer, BeginArguments, Client, CommitAnswer, CommitArguments, DiskArguments, Request,
};
use crate::daemon::interrupt;
use crate::daemon::probe::probe_point;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::ingest::{Session, copy};
use crate::nbd::client::Client as NbdClient;
use crate::repo::selector::Which;
use crate::repo::sidecar::index::PointEntry;
use crate::repo::sidecar::point::Consistency;
use crate::repo::sidecar::session::TTL_SECONDS_DEFAULT;
use crate::repo::{Ending, Job, Owner};
use crate::task::Monitor;
use crate::types::{DiskName, PointName, VmName, size};

/// LIMIT: largest file that can be attached.
const ATTACHED_BYTES_MAX: u64 = 4 << 20;

/// A parsed command.
struct Plan {
    begin: BeginArguments,
    commit: CommitArguments,
    sources: Sources,
    /// What is remarked once the session has begun.
    new_vm: Option<String>,
    attach: Vec<(String, Vec<u8>)>,
}

pub(super) fn run(context: &Context, args: &Backup) -> Result<()> {
    // Everything that can be wrong with the command is found before the repository is touched.
    context.path()?;
    let plan = plan(context, args).inspect_err(|e| keep_failure(context, args, e))?;
    let stop = interrupt::flag()?;
    match context.writer("backup")? {
        Writer::Here(owner) => backup_here(context, &owner, &plan, &stop),
        Writer::Daemon(client) => backup_through(context, client, &plan, &stop),
    }
}

/// Keeps in the history that the sources could not be had. What was asked for wrongly was told to whoever asked.
fn keep_failure(context: &Context, args: &Backup, error: &Error) {
    let untangled = untangle(&args.vm, &args.disks, &args.full);
    let Ok(vm) = untangled.and_then(|(vm, ..)| VmName::new(vm)) else {
        return;
    };
    if matches!(
        error.kind(),
        ErrorKind::InvalidInput | ErrorKind::NameTooLong
    ) {
        return;
    }
    let reason = error.report();
    let kept = context.writer("backup").and_then(|writer| match writer {
        Writer::Daemon(mut client) => client.ask(&Request::Failed { vm, reason }),
        Writer::Here(owner) => {
            let now = owner.clock().now();
            owner.keep_job(&Job::of_failure(&vm, &reason, now, now));
            Ok(())
        }
    });
    if let Err(e) = kept {
        tracing::warn!(error = %e.report(), "the failure could not be kept in the history");
    }
}

fn plan(context: &Context, args: &Backup) -> Result<Plan> {
    let (vm, texts, full) = untangle(&args.vm, &args.disks, &args.full)?;
    if texts.is_empty() {
        return Err(Error::invalid("no disk was named").advise("name each: DISK=SOURCE"));
    }
    let mut sources = Sources::open(args, &texts)?;
    sources.check_before(context)?;
    let mut disks: Vec<_> = sources
        .all()
        .iter()
        .map(|source| DiskArguments {
            name: source.name.clone(),
            source_bytes: Some(source.open.disk.size_bytes()),
            key: None,
            full: false,
        })
        .collect();
    let unchanged = parse_disks(&args.unchanged)?;
    // Without says something of another disk, which had this one's name.
    if let Some(name) = sources
        .names()
        .find(|name| unchanged.iter().any(|u| u.folded() == name.folded()))
    {
        return Err(
            Error::invalid(format!("disk {name} has a source and --unchanged"))
                .advise("give one of them"),
        );
    }
    let vm = VmName::new(vm)?;
    let point = args.point.as_deref().map(PointName::new).transpose()?;
    let full = mark(&mut disks, &full, &args.key)?;
    let begin = BeginArguments {
        vm: vm.clone(),
        session: None,
        point: point.clone(),
        disks,
        without: parse_disks(&args.without)?,
        full,
        differential: args.differential,
        parent: None,
        // Everything is read.
        changed_only: false,
        previous_change_ids: BTreeMap::new(),
        whole: if args.strict {
            Vec::new()
        } else {
            sources.names().cloned().collect()
        },
        ttl_seconds: TTL_SECONDS_DEFAULT,
        resumable: false,
        compression: args.compress.clone(),
        low_water_bytes: args.low_water.as_deref().map(size::parse).transpose()?,
        no_room_check: args.no_room_check,
        origins: sources.origins(!args.no_room_check)?,
    };
    // Wrong words are found now, not after hours of copying.
    begin.request()?;
    let commit = CommitArguments {
        vm: vm.clone(),
        // Known once the session has begun.
        session: point
            .clone()
            .map_or_else(|| PointName::new("unnamed"), Ok)?,
        point,
        change_ids: parse_ids(&args.change_id)?,
        previous_change_ids: BTreeMap::new(),
        unchanged,
        // They are not in the session at all: a disk that has the name of one of them now is another.
        without: Vec::new(),
        // What their sources begin with was judged when the session began.
        raw: sources.names().cloned().collect(),
        // Known once all is copied.
        consistency: None,
        consistency_note: None,
    };
    let attach = split_paths(&args.attach)
        .iter()
        .map(load_attached)
        .collect::<Result<_>>()?;
    Ok(Plan {
        new_vm: context.new_vm_remark(&vm)?,
        begin,
        commit,
        sources,
        attach,
    })
}

impl Plan {
    /// What the commit is to say, now that all was copied.
    ///
    /// # Errors
    /// `Busy` when a source was written meanwhile; `Io`.
    fn commit(&self, context: &Context, session: &PointName) -> Result<CommitArguments> {
        let note = self.sources.check_after(context)?;
        Ok(CommitArguments {
            session: session.clone(),
            consistency: note.as_ref().map(|_| Consistency::Unknown),
            consistency_note: note,
            ..self.commit.clone()
        })
    }

    /// Refuses what could not be committed once all was copied: a point has all disks of one instant.
    fn check_disks<'a>(&self, disks: impl Iterator<Item = &'a DiskName>) -> Result<()> {
        let (vm, unchanged) = (&self.begin.vm, &self.commit.unchanged);
        let is_in = |list: &[&DiskName], name: &DiskName| {
            list.iter().any(|other| other.folded() == name.folded())
        };
        let disks: Vec<_> = disks.collect();
        let sources: Vec<_> = self.sources.names().collect();
        let declared: Vec<_> = unchanged.iter().collect();
        if let Some(name) = disks
            .iter()
            .find(|name| !is_in(&sources, name) && !is_in(&declared, name))
        {
            return Err(Error::invalid(format!(
                "{vm} has a disk {name}, too, and a point has all disks of one instant"
            ))
            .advise(format!(
                "name its source: {name}=SOURCE, or declare it: --unchanged {name}, --without {name}"
            )));
        }
        let mut named = unchanged.iter().chain(self.commit.change_ids.keys());
        match named.find(|name| !is_in(&disks, name)) {
            Some(name) => Err(Error::not_found(format!("{vm} has no disk {name}"))
                .advise(format!("see what it has: restorefs ls {vm}"))),
            None => Ok(()),
        }
    }
}

fn load_attached(path: &PathBuf) -> Result<(String, Vec<u8>)> {
    let name = path
        .file_name()
        .and_then(|n| n.to_str())
        .ok_or_else(|| Error::invalid("an attached file needs a plain name").at_path(path))?;
    let found = std::fs::metadata(path)
        .or_io("cannot look at the file to attach")
        .at_path(path)?;
    // A pipe may never end, and a device has no end.
    if !found.is_file() {
        return Err(Error::invalid("only regular files can be attached").at_path(path));
    }
    if found.len() > ATTACHED_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            "a file of more than 4 MiB cannot be attached",
        )
        .at_path(path));
    }
    let content = std::fs::read(path)
        .or_io("cannot read the file to attach")
        .at_path(path)?;
    Ok((name.to_owned(), content))
}

fn backup_here(
    context: &Context,
    owner: &Arc<Owner>,
    plan: &Plan,
    stop: &Arc<AtomicBool>,
) -> Result<()> {
    let engine = context.engine(owner);
    let session = Session::begin(&engine, &plan.begin.request()?)?;
    remark_new_vm(context, plan);
    let disks = session.disks();
    let done = plan
        .check_disks(disks.iter().map(|disk| &disk.meta().name))
        .and_then(|()| copy_all_here(context, &session, plan, stop))
        .and_then(|()| plan.commit(context, &session.name()))
        .and_then(|commit| session.commit(&commit.request()));
    match done {
        Ok(point) => {
            print(context, &session.vm(), &point)?;
            probe(context, owner, &session.vm(), &point);
            Ok(())
        }
        Err(e) => {
            if let Err(left) = session.end(&ending(&e)) {
                context.output.warn(format!(
                    "what was written could not be removed: {}",
                    left.report()
                ));
            }
            Err(e)
        }
    }
}

/// How a backup that did not come to its end is kept in the history.
fn ending(error: &Error) -> Ending {
    match error.kind() {
        ErrorKind::Cancelled => Ending::aborted(),
        _ => Ending::failed(error.report()),
    }
}

/// Looks for the volumes of the new point, so that nobody has to wait for that later. The backup is safe, whatever comes of it.
fn probe(context: &Context, owner: &Owner, vm: &VmName, entry: &PointEntry) {
    let looked = context.tree().and_then(|tree| {
        let point = tree.point(vm, &Which::Named(entry.name.clone()))?;
        probe_point(&tree, owner, &point)
    });
    if let Err(error) = looked {
        context.output.warn(format!(
            "the volumes of the new point were not looked for: {}",
            error.report()
        ));
    }
}

fn remark_new_vm(context: &Context, plan: &Plan) {
    if let Some(remark) = &plan.new_vm {
        context.output.remark(remark);
    }
}

/// The session has begun, so the disk is one that the VM had before.
fn warn_lookalike(context: &Context, copied: &Copied) {
    if let Some(warning) = copied.lookalike_warning() {
        context.output.warn(warning);
    }
}

fn copy_all_here(
    context: &Context,
    session: &Session,
    plan: &Plan,
    stop: &Arc<AtomicBool>,
) -> Result<()> {
    let progress = Progress::new(context.output);
    for (name, content) in &plan.attach {
        session.attach(name, content)?;
    }
    for copied in plan.sources.all() {
        let Copied {
            name, open: source, ..
        } = copied;
        warn_lookalike(context, copied);
        let disk = session.disk(name)?;
        if let Some(reason) = &disk.meta().full_reason {
            context.output.full(name, reason);
        }
        let bar = progress.bar(name.as_str(), source.disk.size_bytes());
        let (moved, writer) = (bar.clone(), Arc::clone(&disk));
        let monitor = Monitor::with_listener(Arc::clone(stop), move |bytes| {
            moved.add(bytes);
            moved.changed(writer.stats().stored_bytes);
        });
        copy::copy_into(session, &disk, source.disk.as_ref(), &monitor)?;
        bar.finish();
    }
    Ok(())
}

fn backup_through(
    context: &Context,
    mut client: Client,
    plan: &Plan,
    stop: &Arc<AtomicBool>,
) -> Result<()> {
    let begun: BeginAnswer = client.ask(&Request::Begin(plan.begin.clone()))?;
    remark_new_vm(context, plan);
    let session = begun.session.clone();
    let named = plan.check_disks(begun.disk_results.iter().map(|disk| &disk.name));
    let copied = named.and_then(|()| copy_all_through(context, &mut client, &begun, plan, stop));
    let done = copied
        .and_then(|()| plan.commit(context, &session))
        .and_then(|commit| client.ask::<CommitAnswer>(&Request::Commit(commit)));
    match done {
        Ok(answer) => print(context, &answer.vm, &answer.point),
        Err(e) => {
            let abort = Request::Abort {
                vm: begun.vm.clone(),
                session,
                failure: ending(&e).reason,
            };
            if let Err(left) = client.ask::<()>(&abort) {
                context.output.warn(format!(
                    "the session could not be aborted: {}",
                    left.report()
                ));
            }
            Err(e)
        }
    }
}

fn copy_all_through(
    context: &Context,
    client: &mut Client,
    begun: &BeginAnswer,
    plan: &Plan,
    stop: &Arc<AtomicBool>,
) -> Result<()> {
    let progress = Progress::new(context.output);
    for (name, content) in &plan.attach {
        let request = Request::Attach {
            vm: begun.vm.clone(),
            session: begun.session.clone(),
            name: name.clone(),
            content: content.clone(),
        };
        client.ask::<()>(&request)?;
    }
    for copied in plan.sources.all() {
        let Copied {
            name, open: source, ..
        } = copied;
        warn_lookalike(context, copied);
        let result = begun
            .disk_results
            .iter()
            .find(|disk| disk.name.folded() == name.folded())
            .ok_or_else(|| Error::not_found(format!("the daemon's session has no disk {name}")))?;
        if let Some(reason) = &result.full_reason {
            context.output.full(name, reason);
        }
        let bar = progress.bar(name.as_str(), source.disk.size_bytes());
        let target = NbdClient::connect(&result.uri.parse()?)?;
        transfer(source.disk.as_ref(), &target, &bar.monitor(stop))?;
        target.flush()?;
        target.disconnect()?;
        bar.finish();
    }
    Ok(())
}
