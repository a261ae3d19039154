//! `restorefs restore`: restores a disk, all disks, or files of a guest.

use std::cell::RefCell;

use super::announced::Announced;
use super::args::Restore;
use super::context::Context;
use super::progress::{Bar, Progress};
use super::target::Target;
use crate::daemon::interrupt;
use crate::error::{Error, Result};
use crate::jobs::restore::target::Target as Place;
use crate::repo::selector::Selector;
use crate::service::restore::{DiskOptions, Observer, PointRestore, RestoredDisk};
use crate::task::{Monitor, TaskKind, TaskSubject};
use crate::types::DiskName;
use crate::types::size::Human;

pub(super) fn run(context: &Context, args: &Restore) -> Result<()> {
    let from = Target::parse(&args.from)?;
    let task = Announced::new(context, subject(context, &from), interrupt::flag()?);
    let done = restore(context, args, from, &task);
    task.finish(&done);
    done
}

/// The task; the point is named where it is found.
fn subject(context: &Context, from: &Target) -> TaskSubject {
    let mut subject = TaskSubject {
        kind: TaskKind::Restore,
        vm: None,
        session: None,
        point: None,
    };
    match from {
        Target::Vm(vm) => subject.vm = Some(vm.clone()),
        Target::Point(selector) | Target::Path(selector, _) => {
            let found = context
                .repository()
                .and_then(|repository| repository.find(selector));
            // The restore itself fails with the reason.
            subject.vm = Some(selector.vm.clone());
            if let Ok((index, entry, _)) = found {
                (subject.vm, subject.point) = (Some(index.name), Some(entry.name));
            }
        }
    }
    subject
}

fn restore(context: &Context, args: &Restore, from: Target, task: &Announced<'_>) -> Result<()> {
    match (from, &args.disk, &args.target, &args.to) {
        (Target::Path(selector, path), None, None, Some(to)) => {
            match super::archive::format(to, args.format)? {
                Some(format) => {
                    super::archive::run(context, &selector, &path, (to, format), args, task)
                }
                None => super::extract::run(context, &selector, &path, to, args, task),
            }
        }
        (Target::Point(_), ..) if args.format.is_some() => {
            Err(Error::invalid("--format is for files of a guest")
                .advise("name them: VM@POINT:/PATH"))
        }
        (Target::Path(..), ..) => Err(Error::invalid("files are restored into a directory")
            .advise("add --to DIR, or --to - --format tar")),
        (Target::Point(selector), Some(disk), Some(target), None) => {
            let (place, disk) = (
                Place::parse(target, args.force || args.changed_only)?,
                DiskName::new(disk)?,
            );
            disks(context, args, (&selector, task), |restore| {
                let mut done = restore.one(&disk, &place)?;
                done.target = target.to_string_lossy().into_owned();
                Ok(vec![done])
            })
        }
        (Target::Point(selector), None, None, Some(dir)) => {
            disks(context, args, (&selector, task), |restore| restore.all(dir))
        }
        (Target::Point(_), ..) => Err(Error::invalid("a target is missing")
            .advise("write VM@POINT DISK TARGET, or VM@POINT --to DIR")),
        (Target::Vm(vm), ..) => Err(Error::invalid(format!(
            "{vm} names a VM, and no restore point"
        ))
        .advise(format!(
            "name one: {vm}@latest (list them: restorefs ls {vm})"
        ))),
    }
}

/// Shows a bar for each disk.
struct Narrator<'a> {
    progress: Progress,
    task: &'a Announced<'a>,
    bar: RefCell<Option<Bar>>,
}

impl Observer for Narrator<'_> {
    fn restores(&self, disk: &DiskName, size_bytes: u64) -> Monitor {
        let bar = self.progress.bar(disk.as_str(), size_bytes);
        self.bar.replace(Some(bar.clone()));
        self.task
            .piece(Some(disk), size_bytes, move |bytes| bar.add(bytes))
    }

    fn restored(&self, _: &DiskName) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}

fn disks(
    context: &Context,
    args: &Restore,
    (selector, task): (&Selector, &Announced<'_>),
    work: impl FnOnce(&PointRestore<'_>) -> Result<Vec<RestoredDisk>>,
) -> Result<()> {
    let narrator = Narrator {
        progress: Progress::new(context.output),
        task,
        bar: RefCell::default(),
    };
    let options = DiskOptions {
        threads: args.threads,
        force: args.force,
        changed_only: args.changed_only,
    };
    let repository = context.repository()?;
    let restore = PointRestore::new(repository, context.pool(), selector, options, &narrator)?;
    task.begin()?;
    let done = work(&restore)?;
    report(context, &restore, &done)
}

fn report(context: &Context, restore: &PointRestore<'_>, done: &[RestoredDisk]) -> Result<()> {
    let (vm, point) = (restore.vm(), &restore.entry().name);
    if context.output.json {
        let disks = done.iter().map(|done| {
            let mut disk = serde_json::json!({
                "disk": done.disk, "target": done.target, "size_bytes": done.restored.size_bytes,
                "written_bytes": done.restored.written_bytes,
            });
            if let Some(compared) = done.restored.compared {
                disk["compared_bytes"] = compared.compared_bytes.into();
                disk["zeroed_bytes"] = compared.zeroed_bytes.into();
            }
            disk
        });
        let disks: Vec<_> = disks.collect();
        context
            .output
            .json(&serde_json::json!({"vm": vm, "point": point, "disks": disks}))?;
    } else {
        for RestoredDisk {
            disk,
            target,
            restored,
        } in done
        {
            let size = Human(restored.size_bytes);
            let written = Human(restored.written_bytes);
            let numbers = match restored.compared {
                None => format!("{size} ({written} written), every cluster verified"),
                Some(compared) => format!(
                    "{} compared ({written} written, {} made zeroes), every cluster verified",
                    Human(compared.compared_bytes),
                    Human(compared.zeroed_bytes)
                ),
            };
            context
                .output
                .outcome(format!("{vm}@{point} {disk} -> {target}: {numbers}"))?;
        }
    }
    super::damage::end(&restore.faults())
}
