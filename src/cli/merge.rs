//! Merging on the command line: the layers are built in this process, and the owner of the lock swaps each in.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::announced::Announced;
use super::context::Context;
use super::progress::{Bar, Progress};
use crate::block::page::PageBudget;
use crate::error::{Error, Result};
use crate::ingest::low_water_default;
use crate::jobs::merge::{MergeOptions, Merged, make_full, merge_vm};
use crate::repo::replace::Replacement;
use crate::repo::selector::Which;
use crate::repo::{Repository, Slot};
use crate::task::{Monitor, Pace, TaskKind, TaskSubject};
use crate::types::size::{self, Count, Human};
use crate::types::{DiskName, PointName, VmName};

/// Merges layers of VMs, one VM after the other.
pub(super) struct Merger<'a> {
    context: &'a Context,
    repository: Arc<Repository>,
    progress: Progress,
    stop: Arc<AtomicBool>,
    options: MergeOptions,
}

impl<'a> Merger<'a> {
    /// A merger that stops when `stop` is set. With `compact`, every hidden layer is merged; `limit` is the size that is
    /// copied in a second at most.
    ///
    /// # Errors
    /// As [`Context::repository`]; `Io`.
    pub(super) fn new(
        context: &'a Context,
        stop: Arc<AtomicBool>,
        compact: bool,
        limit: Option<&str>,
    ) -> Result<Self> {
        let limit = limit.map(parse_limit).transpose()?;
        let repository = context.repository()?;
        let space = repository.store().space()?;
        Ok(Self {
            context,
            repository,
            progress: Progress::new(context.output),
            stop,
            options: MergeOptions {
                compact,
                low_water_bytes: space.map_or(0, |space| low_water_default(space.total_bytes)),
                budget: PageBudget::new(context.ingest_bytes()),
                pace: Pace::new(limit),
            },
        })
    }

    /// Merges what is worth it in a VM.
    ///
    /// # Errors
    /// As [`merge_vm`]; `Locked` when another process has the repository.
    pub(super) fn merge(&self, vm: &VmName) -> Result<Merged> {
        let watched = self.watched(vm, None);
        let merged = merge_vm(
            &self.repository,
            vm,
            &self.options,
            &|replacement| self.swap(replacement),
            &|slot, bytes| watched.piece(slot, bytes),
        );
        watched.finish(&merged);
        merged
    }

    /// Makes disks of a point full; all of them when none is named.
    ///
    /// # Errors
    /// As [`make_full`]; `Locked` when another process has the repository.
    pub(super) fn make_full(
        &self,
        vm: &VmName,
        point: &PointName,
        disks: &[DiskName],
    ) -> Result<Merged> {
        let watched = self.watched(vm, Some(point));
        let merged = make_full(
            &self.repository,
            vm,
            &Which::Named(point.clone()),
            disks,
            &self.options,
            &|replacement| self.swap(replacement),
            &|slot, bytes| watched.piece(slot, bytes),
        );
        watched.finish(&merged);
        merged
    }

    /// The lock is held for the swap alone, so that a backup waits for no more than that.
    fn swap(&self, replacement: &Replacement) -> Result<()> {
        let writer = self.context.patient_writer("merge")?;
        writer.service.replace(replacement)
    }

    /// Whether the whole command is to stop, rather than the merging of one VM.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn watched(&self, vm: &VmName, point: Option<&PointName>) -> Watched<'_> {
        let subject = TaskSubject {
            kind: TaskKind::Merge,
            vm: Some(vm.clone()),
            session: None,
            point: point.cloned(),
        };
        Watched {
            label: vm.to_string(),
            task: Announced::new(self.context, subject, Arc::clone(&self.stop)),
            progress: &self.progress,
            bar: RefCell::default(),
        }
    }
}

/// The merging of one VM, as a task and as a bar for each build.
struct Watched<'a> {
    label: String,
    task: Announced<'a>,
    progress: &'a Progress,
    bar: RefCell<Option<Bar>>,
}

impl Watched<'_> {
    /// Begins a build.
    fn piece(&self, slot: &Slot, bytes: u64) -> Result<Monitor> {
        let bar = self.progress.bar(&self.label, bytes);
        self.next_bar(Some(bar.clone()));
        self.task.begin()?;
        let disk = slot.disk_hint();
        Ok(self
            .task
            .piece(disk.as_ref(), bytes, move |bytes| bar.add(bytes)))
    }

    fn next_bar(&self, next: Option<Bar>) {
        if let Some(last) = self.bar.replace(next) {
            last.finish();
        }
    }

    fn finish(self, merged: &Result<Merged>) {
        self.next_bar(None);
        self.task.finish(merged);
    }
}

/// A limit in bytes a second: `100M`.
pub(super) fn parse_limit(text: &str) -> Result<u64> {
    match size::parse(text)? {
        0 => Err(Error::invalid("--limit 0 would never end")
            .advise("leave it out for as fast as it goes")),
        limit => Ok(limit),
    }
}

/// `3 layers merged, 1.2 GiB written, 3.0 GiB freed`.
pub(super) fn summary(merged: &Merged) -> String {
    format!(
        "{} merged, {} written, {} freed",
        Count::of(
            usize::try_from(merged.layers).unwrap_or(usize::MAX),
            "layer"
        ),
        Human(merged.written_bytes),
        Human(merged.freed_bytes)
    )
}
