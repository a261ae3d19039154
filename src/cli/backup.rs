//! `restorefs backup`: all disks of a VM as one restore point.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::args::Backup;
use super::begin::mark;
use super::commit::print;
use super::context::Context;
use super::failure;
use super::progress::{Bar, Progress};
use super::shorten::shorten;
use super::sources::Sources;
use super::target::{parse_disks, parse_ids, split_paths, untangle};
use crate::block::ReadAt;
use crate::daemon::interrupt;
use crate::daemon::probe::probe_point;
use crate::error::{Error, Result, ResultExt};
use crate::ingest::DiskWriter;
use crate::repo::Owner;
use crate::repo::selector::Which;
use crate::repo::sidecar::session::TTL_SECONDS_DEFAULT;
use crate::service::backup::{self, BackupPlan, Observer};
use crate::service::{
    BeginAnswer, BeginRequest, CommitAnswer, CommitRequest, DiskRequest, DiskResult, check_attached,
};
use crate::task::{Monitor, TaskKind};
use crate::types::{DiskName, PointName, VmName, size};

pub(super) fn run(context: &Context, args: &Backup) -> Result<()> {
    // All mistakes in the command are found before the repository is accessed.
    context.path()?;
    prepare(context, args)
        .inspect_err(|e| keep_failure(context, args, e))?
        .run(context)
}

/// Records in the history that the sources could not be opened.
fn keep_failure(context: &Context, args: &Backup, error: &Error) {
    let untangled = untangle(&args.vm, &args.disks, &args.begin.full);
    let Ok(vm) = untangled.and_then(|(vm, ..)| VmName::new(vm)) else {
        return;
    };
    failure::note(context, TaskKind::Backup, Some(&vm), error);
}

/// A parsed command.
struct Prepared {
    begin: BeginRequest,
    commit: CommitRequest,
    sources: Sources,
    /// The remark for a new VM, printed once the session has begun.
    new_vm: Option<String>,
    attach: Vec<(String, File)>,
}

fn prepare(context: &Context, args: &Backup) -> Result<Prepared> {
    let (vm, texts, full) = untangle(&args.vm, &args.disks, &args.begin.full)?;
    if texts.is_empty() {
        return Err(Error::invalid("no disk was named").advise("name each: DISK=SOURCE"));
    }
    let mut sources = Sources::open(args, &texts)?;
    sources.check_before(context)?;
    let mut disks: Vec<_> = sources
        .all()
        .iter()
        .map(|source| DiskRequest {
            name: source.name.clone(),
            source_bytes: Some(source.open.disk.size_bytes()),
            key: None,
            full: false,
        })
        .collect();
    let unchanged = parse_disks(&args.declared.unchanged)?;
    // `--without` refers to another disk, which had this one's name.
    if let Some(name) = sources
        .names()
        .find(|name| unchanged.iter().any(|u| u.same_as(name)))
    {
        return Err(
            Error::invalid(format!("disk {name} has a source and --unchanged"))
                .advise("give one of them"),
        );
    }
    let vm = VmName::new(vm)?;
    let point = args
        .begin
        .point
        .as_deref()
        .map(PointName::new)
        .transpose()?;
    let full = mark(&mut disks, &full, &args.begin.key)?;
    let begin = BeginRequest {
        vm: vm.clone(),
        session: None,
        point: point.clone(),
        disks,
        without: parse_disks(&args.declared.without)?,
        full,
        differential: args.begin.differential,
        parent: None,
        // The backup reads all of each source.
        changed_only: false,
        previous_change_ids: BTreeMap::new(),
        whole: if args.strict {
            Vec::new()
        } else {
            sources.names().cloned().collect()
        },
        empty: false,
        ttl_seconds: TTL_SECONDS_DEFAULT,
        resumable: false,
        compression: args.begin.compress.parse()?,
        low_water_bytes: args.low_water.as_deref().map(size::parse).transpose()?,
        checks_room: !args.begin.no_room_check,
        origins: sources.origins(!args.begin.no_room_check)?,
    };
    let commit = CommitRequest {
        point,
        change_ids: parse_ids(&args.declared.change_id)?,
        unchanged,
        // The beginnings of their sources were checked when the session began.
        raw: sources.names().cloned().collect(),
        // Disks that are gone are not in the session: a disk that has the name of one of them now
        // is a different disk.
        ..CommitRequest::default()
    };
    let attach = split_paths(&args.attach)
        .iter()
        .map(|path| open_attached(path))
        .collect::<Result<_>>()?;
    Ok(Prepared {
        new_vm: context.new_vm_remark(&vm)?,
        begin,
        commit,
        sources,
        attach,
    })
}

fn open_attached(path: &Path) -> Result<(String, File)> {
    let name = path
        .file_name()
        .and_then(|n| n.to_str())
        .ok_or_else(|| Error::invalid("an attached file needs a plain name").at_path(path))?;
    let what = "cannot read the file to attach";
    // Opening a FIFO would wait for a writer.
    if !std::fs::metadata(path).or_io(what).at_path(path)?.is_file() {
        return Err(Error::invalid("only regular files can be attached").at_path(path));
    }
    let file = File::open(path).or_io(what).at_path(path)?;
    check_attached(&file).at_path(path)?;
    Ok((name.to_owned(), file))
}

impl Prepared {
    fn run(self, context: &Context) -> Result<()> {
        let vm = &self.begin.vm;
        let writer = context
            .writer("backup")
            .inspect_err(|e| failure::note(context, TaskKind::Backup, Some(vm), e))?;
        let narrator = Narrator {
            context,
            progress: Progress::new(context.output),
            stop: interrupt::flag()?,
            bar: RefCell::default(),
            sources: &self.sources,
            new_vm: self.new_vm,
        };
        let plan = BackupPlan {
            begin: self.begin,
            commit: self.commit,
            sources: self.sources.disks().collect(),
            attach: self.attach,
            check_sources: Box::new(|| self.sources.check_after(context)),
        };
        let answer = backup::run(writer.service.as_ref(), &plan, &narrator)?;
        print(context, &answer)?;
        if let Some(owner) = &writer.owner {
            probe(context, owner, &answer);
        }
        // Merging takes the lock for each swap alone.
        drop(writer);
        shorten(context, &answer, Arc::clone(&narrator.stop));
        Ok(())
    }
}

/// Finds the volumes of the new point now, so that nobody has to wait for that later. A failure
/// does not affect the backup.
fn probe(context: &Context, owner: &Owner, answer: &CommitAnswer) {
    let looked = context.tree_of(&answer.vm).and_then(|tree| {
        let point = tree.point(&answer.vm, &Which::Named(answer.point.name.clone()))?;
        probe_point(&tree, owner, &point)
    });
    if let Err(error) = looked {
        context.output.warn(format!(
            "the volumes of the new point were not looked for: {}",
            error.report()
        ));
    }
}

/// Shows the progress of a backup to the user.
struct Narrator<'a> {
    context: &'a Context,
    progress: Progress,
    stop: Arc<AtomicBool>,
    bar: RefCell<Option<Bar>>,
    sources: &'a Sources,
    new_vm: Option<String>,
}

impl Observer for Narrator<'_> {
    fn begun(&self, _: &BeginAnswer) {
        if let Some(remark) = &self.new_vm {
            self.context.output.remark(remark);
        }
    }

    fn copies(
        &self,
        disk: &DiskResult,
        source_bytes: u64,
        writer: Option<&Arc<DiskWriter>>,
    ) -> Monitor {
        // The session has begun, so a source that looks like an image belongs to a disk that the VM
        // had before.
        let is_same = |name: &DiskName| name.same_as(&disk.name);
        let mut sources = self.sources.all().iter();
        let source = sources.find(|source| is_same(&source.name));
        if let Some(warning) = source.and_then(|source| source.lookalike_warning()) {
            self.context.output.warn(warning);
        }
        if let Some(reason) = &disk.full_reason {
            self.context.output.full(&disk.name, reason);
        }
        let bar = self.progress.bar(disk.name.as_str(), source_bytes);
        self.bar.replace(Some(bar.clone()));
        let writer = writer.cloned();
        Monitor::with_listener(Arc::clone(&self.stop), move |bytes| {
            bar.add(bytes);
            if let Some(writer) = &writer {
                bar.changed(writer.stats().stored_bytes);
            }
        })
    }

    fn copied(&self, _: &DiskResult) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }

    fn left(&self, error: &Error) {
        self.context.output.warn(format!(
            "the session could not be aborted, and is left: {}",
            error.report()
        ));
    }
}
