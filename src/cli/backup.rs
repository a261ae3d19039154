//! `restorefs backup`: all disks of a VM as one restore point.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::args::Backup;
use super::begin::mark;
use super::context::Context;
use super::failure;
use super::home::Home;
use super::machine::{Input, scratch};
use super::progress::{Bar, Progress};
use super::report;
use super::shorten::shorten;
use super::sources::Sources;
use super::target::{parse_disks, parse_ids, split_paths, untangle};
use crate::capture::machine::{Capture, Extent, Instant, MachineDisk, Order};
use crate::control::Client;
use crate::daemon::interrupt;
use crate::daemon::probe::probe_point;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::http::client::Remote;
use crate::ingest::{DiskWriter, Origin};
use crate::repo::selector::Which;
use crate::repo::sidecar::session::TTL_SECONDS_DEFAULT;
use crate::repo::{Owner, Repository};
use crate::service::backup::desk::{Desk, Direct};
use crate::service::backup::lasting::{Lasting, Way};
use crate::service::backup::made::Made;
use crate::service::backup::sample::Sample;
use crate::service::backup::{self, BackupPlan, Observer};
use crate::service::{
    BeginAnswer, BeginRequest, CommitAnswer, CommitRequest, DiskRequest, DiskResult, Service,
    committed, read_attached,
};
use crate::task::{Monitor, TaskKind};
use crate::types::sync::Mutex;
use crate::types::{DiskName, PointName, SessionId, SessionRef, VmName, size};

pub(super) fn run(context: &Context, args: &Backup) -> Result<()> {
    let is_here = args.capture.server.is_none();
    // All mistakes in the command are found before the repository is accessed.
    if is_here {
        context.path()?;
    }
    let prepared = prepare(context, args).inspect_err(|e| {
        // The history of a server has what begins there.
        if !args.capture.dry_run && is_here {
            keep_failure(context, args, e);
        }
    })?;
    match args.capture.dry_run {
        true => prepared.show(context),
        false => prepared.run(context),
    }
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
    plan: BackupPlan,
    input: Input,
    /// The remark for a new VM, printed once the session has begun.
    new_vm: Option<String>,
    home: Home,
    /// Set by the first signal that asks the command to stop.
    stop: Arc<AtomicBool>,
}

fn prepare(context: &Context, args: &Backup) -> Result<Prepared> {
    let (vm, texts, full) = untangle(&args.vm, &args.disks, &args.begin.full)?;
    let vm = VmName::new(vm)?;
    let sample = args.capture.verify_sample.as_deref();
    let seed = args.capture.seed;
    let seed = seed.unwrap_or_else(|| getrandom::u64().unwrap_or_default());
    let sample = sample.map(|text| Sample::parse(text, seed)).transpose()?;
    let attach = split_paths(&args.attach)
        .iter()
        .map(|path| open_attached(path))
        .collect::<Result<_>>()?;
    let unchanged = parse_disks(&args.declared.unchanged)?;
    let limit_bytes = args.capture.limit.as_deref().map(size::parse).transpose()?;
    let stop = interrupt::flag()?;
    let monitor = Monitor::with_listener(Arc::clone(&stop), |_| ());
    let home = Home::open(context, args, &monitor)?;
    let id = home.repository_id();
    let mut input = Input::open(context, args, &texts, &id)?;
    let mut disks: Vec<_> = input
        .capture()
        .disks()
        .iter()
        .map(|disk| DiskRequest {
            name: disk.name.clone(),
            source_bytes: Some(disk.size_bytes),
            key: disk.key.clone(),
            full: false,
        })
        .collect();
    let names: Vec<DiskName> = disks.iter().map(|disk| disk.name.clone()).collect();
    // `--without` refers to another disk, which had this one's name.
    if let Some(name) = names
        .iter()
        .find(|name| unchanged.iter().any(|u| u.same_as(name)))
    {
        return Err(
            Error::invalid(format!("disk {name} has a source and --unchanged"))
                .advise("give one of them"),
        );
    }
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
        complete: matches!(input, Input::Machine(_)),
        full,
        differential: args.begin.differential,
        parent: None,
        // What is copied of each disk is decided when the parent is known.
        changed_only: false,
        previous_change_ids: BTreeMap::new(),
        whole: if args.strict {
            Vec::new()
        } else {
            names.clone()
        },
        empty: false,
        ttl_seconds: TTL_SECONDS_DEFAULT,
        resumable: false,
        compression: args.begin.compress.parse()?,
        low_water_bytes: args.low_water.as_deref().map(size::parse).transpose()?,
        checks_room: !args.begin.no_room_check,
        origins: match &input {
            Input::Sources(sources) => sources.origins(!args.begin.no_room_check)?,
            Input::Machine(machine) => machine.disks().iter().map(origin).collect(),
        },
    };
    let commit = CommitRequest {
        point,
        change_ids: parse_ids(&args.declared.change_id)?,
        unchanged,
        // The beginnings of their sources were checked when the session began; a machine's disks are disks.
        raw: names,
        // Disks that are gone are not in the session: a disk that has the name of one of them now
        // is a different disk.
        ..CommitRequest::default()
    };
    Ok(Prepared {
        new_vm: home.new_vm_remark(context, &vm)?,
        plan: BackupPlan {
            repository: id,
            begin,
            commit,
            attach,
            quiesce: args.capture.quiesce,
            scratch: scratch(args),
            sample,
            limit_bytes,
        },
        input,
        home,
        stop,
    })
}

/// What is known of a machine's disk before it is read.
fn origin(disk: &MachineDisk) -> (DiskName, Origin) {
    let origin = Origin {
        data_bytes: disk.data_bytes,
        lookalike: None,
    };
    (disk.name.clone(), origin)
}

fn open_attached(path: &Path) -> Result<(String, Vec<u8>)> {
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
    Ok((name.to_owned(), read_attached(&file).at_path(path)?))
}

/// The ways to a daemon that may be restarted during the backup.
struct ToDaemon(Arc<Repository>);

impl Way for ToDaemon {
    fn connect(&self) -> Result<Box<dyn Service>> {
        let client = Client::connect(&self.0)?;
        let gone = || {
            Error::new(
                ErrorKind::Disconnected,
                "no daemon serves the repository now",
            )
        };
        client.map_or_else(
            || Err(gone()),
            |client| Ok(Box::new(client) as Box<dyn Service>),
        )
    }

    fn committed(&self, session: &SessionRef) -> Result<Option<CommitAnswer>> {
        committed(&self.0, session)
    }
}

impl Prepared {
    fn run(self, context: &Context) -> Result<()> {
        match self.home {
            Home::Here(ref repository) => {
                let repository = Arc::clone(repository);
                self.run_here(context, repository)
            }
            Home::There(ref remote) => {
                let remote = Arc::clone(remote);
                self.run_there(context, &remote)
            }
        }
    }

    fn run_here(mut self, context: &Context, repository: Arc<Repository>) -> Result<()> {
        let vm = &self.plan.begin.vm;
        let writer = context
            .writer("backup")
            .inspect_err(|e| failure::note(context, TaskKind::Backup, Some(vm), e))?;
        let narrator = self.narrator(context);
        let capture = self.input.capture();
        narrator.left_out(capture);
        let way = ToDaemon(repository);
        let monitor = Monitor::with_listener(Arc::clone(&narrator.stop), |_| ());
        let (done, writer) = match writer.owner {
            Some(_) => {
                let desk = Direct(writer.service.as_ref());
                let done = backup::run(&desk, capture, &self.plan, &narrator)?;
                (done, Some(writer))
            }
            None => {
                let desk: &dyn Desk = &Lasting::new(writer.service, &way, monitor);
                (backup::run(desk, capture, &self.plan, &narrator)?, None)
            }
        };
        let is_machine = matches!(self.input, Input::Machine(_));
        report::print(context, &done, is_machine)?;
        if let Some(owner) = writer.as_ref().and_then(|writer| writer.owner.as_ref()) {
            probe(context, owner, &done.made);
        }
        // Merging takes the lock for each swap alone.
        drop((self.input, writer));
        shorten(context, &done.made, Arc::clone(&narrator.stop));
        report::verdict(&done)
    }

    /// Volumes are looked for, and chains shortened, by the server's daemon.
    fn run_there(mut self, context: &Context, remote: &Remote) -> Result<()> {
        let narrator = self.narrator(context);
        let capture = self.input.capture();
        narrator.left_out(capture);
        let done = backup::run(remote, capture, &self.plan, &narrator)?;
        let is_machine = matches!(self.input, Input::Machine(_));
        report::print(context, &done, is_machine)?;
        report::verdict(&done)
    }

    fn narrator<'a>(&mut self, context: &'a Context) -> Narrator<'a> {
        Narrator {
            context,
            progress: Progress::new(context.output),
            stop: Arc::clone(&self.stop),
            bars: Mutex::default(),
            lookalikes: match &self.input {
                Input::Sources(sources) => lookalikes(sources),
                Input::Machine(_) => BTreeMap::new(),
            },
            new_vm: self.new_vm.take(),
        }
    }

    /// Shows what would be copied.
    fn show(mut self, context: &Context) -> Result<()> {
        let begin = &self.plan.begin;
        let mut previous = match begin.full {
            true => BTreeMap::new(),
            false => self.home.previous(context, &begin.vm, begin.differential)?,
        };
        let is_full = |name: &DiskName| {
            let mut disks = begin.disks.iter();
            disks.any(|disk| disk.full && disk.name.same_as(name))
        };
        previous.retain(|name, _| !is_full(name));
        let order = Order {
            repository: self.plan.repository,
            session: SessionId::random(),
            previous,
            quiesce: self.plan.quiesce,
            scratch: self.plan.scratch.clone(),
        };
        let capture = self.input.capture();
        let planned = capture.plan(&order)?;
        report::show(context, capture, &planned)
    }
}

/// The warnings for sources that begin as images, by disk.
fn lookalikes(sources: &Sources) -> BTreeMap<DiskName, String> {
    let warning = |name: &DiskName, text: Option<String>| Some((name.clone(), text?));
    let all = sources.all().iter();
    all.filter_map(|source| warning(&source.name, source.lookalike_warning()))
        .collect()
}

/// Finds the volumes of the new point now, so that nobody has to wait for that later. A failure
/// does not affect the backup.
fn probe(context: &Context, owner: &Owner, made: &Made) {
    let looked = context.tree_of(&made.vm).and_then(|tree| {
        let point = tree.point(&made.vm, &Which::Named(made.name.clone()))?;
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
    bars: Mutex<BTreeMap<DiskName, Bar>>,
    lookalikes: BTreeMap<DiskName, String>,
    new_vm: Option<String>,
}

impl Narrator<'_> {
    fn left_out(&self, capture: &dyn Capture) {
        for left in capture.left_out() {
            self.context
                .output
                .remark(format!("{} is not backed up: {}", left.name, left.reason));
        }
    }
}

impl Observer for Narrator<'_> {
    fn begun(&self, answer: &BeginAnswer) {
        if let Some(remark) = &self.new_vm {
            self.context.output.remark(remark);
        }
        for disk in &answer.left_out {
            self.warn(&format!(
                "the machine has no disk {disk} any more: the point is without it"
            ));
        }
    }

    fn taken(&self, instant: &Instant) {
        for remark in &instant.remarks {
            self.warn(remark);
        }
        if let Some(ms) = instant.held.stopped_ms {
            self.context
                .output
                .remark(format!("the guest was stopped for {ms} ms"));
        }
        if let Some(ms) = instant.held.frozen_ms {
            self.context
                .output
                .remark(format!("its filesystems were frozen for {ms} ms"));
        }
        for disk in &instant.disks {
            if let Extent::Whole {
                reason: Some(reason),
            } = &disk.extent
            {
                self.warn(&format!(
                    "all of disk {} is read and compared with the last point: {reason}",
                    disk.name
                ));
            }
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
        let mut warnings = self.lookalikes.iter();
        if let Some((_, warning)) = warnings.find(|(name, _)| name.same_as(&disk.name)) {
            self.context.output.warn(warning);
        }
        if let Some(reason) = &disk.full_reason {
            self.context.output.full(&disk.name, reason);
        }
        let bar = self.progress.bar(disk.name.as_str(), source_bytes);
        self.bars.lock().insert(disk.name.clone(), bar.clone());
        let writer = writer.cloned();
        // The end of one disk's copy is no signal that asks the command to stop.
        Monitor::within(Arc::clone(&self.stop), Arc::default(), move |bytes| {
            bar.add(bytes);
            if let Some(writer) = &writer {
                bar.changed(writer.stats().stored_bytes);
            }
        })
    }

    fn copied(&self, disk: &DiskName) {
        let mut bars = self.bars.lock();
        let known = bars.keys().find(|name| name.same_as(disk)).cloned();
        if let Some(bar) = known.and_then(|name| bars.remove(&name)) {
            bar.finish();
        }
    }

    fn warn(&self, text: &str) {
        self.progress.beside(|| self.context.output.warn(text));
    }
}
