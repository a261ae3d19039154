//! `restorefs repair`: damaged content of restore points comes back from a copy.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::announced::Announced;
use super::args::verify::Repair as Args;
use super::context::Context;
use super::progress::{Bar, Progress};
use super::verify::{VmAnswer, verify_again};
use super::{damage, failure, merge};
use crate::block::page::PageBudget;
use crate::daemon::interrupt;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::low_water_default;
use crate::jobs::merge::MergeOptions;
use crate::jobs::repair::{Place, Repair, Repaired};
use crate::repo::chains::Chains;
use crate::repo::layout;
use crate::repo::selector::Selector;
use crate::repo::sidecar::index::{Index, PointEntry};
use crate::repo::{Repository, Slot};
use crate::task::{Monitor, Pace, TaskKind, TaskSubject};
use crate::types::size::{Count, Human};
use crate::types::{PointName, VmId, VmName};

#[derive(Serialize)]
struct Answer {
    vm: VmName,
    repaired: Repaired,
    /// Points that need what was repaired, and have no damage now.
    whole: Vec<PointName>,
    /// What is damaged still.
    verified: VmAnswer,
    /// Whether the results of verifying are kept in the repository.
    kept: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<()> {
    let stop = interrupt::flag()?;
    let prepare = || -> Result<_> {
        let repository = context.repository()?;
        let (index, points) = chosen(&repository, &args.target)?;
        let mut copies = Vec::new();
        for word in &args.from {
            copies.push(copy_of(
                context,
                &repository,
                word,
                index.vm_id,
                &index.name,
            )?);
        }
        let limit = args.limit.as_deref().map(merge::parse_limit).transpose()?;
        Ok((repository, index, points, copies, limit))
    };
    let (repository, index, points, copies, limit) =
        prepare().inspect_err(|e| failure::note(context, TaskKind::Repair, None, e))?;
    let vm = &index.name;
    let space = repository.store().space()?;
    let options = MergeOptions {
        compact: false,
        low_water_bytes: space.map_or(0, |space| low_water_default(space.total_bytes)),
        budget: PageBudget::new(context.ingest_bytes()),
        pace: Pace::new(limit),
    };
    let subject = TaskSubject {
        kind: TaskKind::Repair,
        vm: Some(vm.clone()),
        session: None,
        point: match points.as_slice() {
            [point] => Some(point.name.clone()),
            _ => None,
        },
    };
    let task = Announced::new(context, subject, Arc::clone(&stop));
    let progress = Progress::new(context.output);
    let bar: RefCell<Option<Bar>> = RefCell::default();
    let next_bar = |next: Option<Bar>| {
        if let Some(last) = bar.replace(next) {
            last.finish();
        }
    };
    let watch = |slot: &Slot, bytes: u64| -> Result<Monitor> {
        let bar = progress.bar(vm.as_str(), bytes);
        next_bar(Some(bar.clone()));
        task.begin()?;
        let disk = slot.disk_hint();
        Ok(task.piece(disk.as_ref(), bytes, move |bytes| bar.add(bytes)))
    };
    let repair = Repair {
        repository: &repository,
        vm,
        copies: &copies,
        pool: &context.pool(),
        options: &options,
        swap: &|replacement| {
            context
                .patient_writer("repair")?
                .service
                .replace(replacement)
        },
        put_back: &|what| context.patient_writer("repair")?.service.put_back(what),
        watch: &watch,
    };
    let repaired = repair.run(&points);
    next_bar(None);
    task.finish(&repaired);
    let repaired = repaired?;
    show(context, &repaired)?;
    let slots = repaired.layers.iter().map(|layer| &layer.slot).collect();
    let (verified, mut faults, kept) = verify_again(context, vm, &slots, args.files, &stop)?;
    faults.extend(repaired.faults.iter().map(|fault| format!("{vm}: {fault}")));
    let whole = whole(&repository, &index, &repaired, &verified)?;
    if context.output.json {
        let vm = vm.clone();
        context.output.json(&Answer {
            vm,
            repaired,
            whole,
            verified,
            kept,
        })?;
    } else if !whole.is_empty() {
        let names: Vec<&str> = whole.iter().map(PointName::as_str).collect();
        context
            .output
            .outcome(format!("{vm}: whole again: {}", names.join(", ")))?;
    }
    damage::end(&faults)
}

/// The VM, and the points that are to be repaired.
fn chosen(repository: &Repository, target: &str) -> Result<(Index, Vec<PointEntry>)> {
    if target.contains('@') {
        let selector: Selector = target.parse()?;
        let vm = repository.spelled(&selector.vm)?;
        let index = repository.index(&vm)?;
        let entry = selector.which.find(&index)?.clone();
        return Ok((index, vec![entry]));
    }
    let vm = repository.spelled(&VmName::new(target)?)?;
    let index = repository.index(&vm)?;
    let points = index.points.clone();
    Ok((index, points))
}

/// The copy of a VM at another repository.
fn copy_of(
    context: &Context,
    repository: &Repository,
    word: &Path,
    vm_id: VmId,
    vm: &VmName,
) -> Result<Place> {
    let other = context.of_word(word)?;
    let found = other.repository()?;
    let label = other
        .named()
        .map_or_else(|| word.display().to_string(), |name| name.name.to_string());
    let file = layout::format()?;
    if found.store().identity(&file)? == repository.store().identity(&file)? {
        return Err(
            Error::invalid(format!("{label} is the repository that is repaired")).advise(
                "other points of the same repository are asked in any case: leave --from out",
            ),
        );
    }
    let is_it = |name: &VmName| found.vm(name).is_ok_and(|vm| vm.vm_id == vm_id);
    let name = match is_it(vm) {
        true => Some(vm.clone()),
        false => found.vm_names()?.into_iter().find(is_it),
    };
    let name = name
        .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{label} has no copy of {vm}")))?;
    Ok(Place {
        repository: found,
        label,
        vm: name,
    })
}

fn show(context: &Context, repaired: &Repaired) -> Result<()> {
    if context.output.json {
        return Ok(());
    }
    let output = &context.output;
    let read = Count(repaired.layers_read, "layer");
    output.outcome(match repaired.has_changed() {
        true => format!("{read} read; repaired:"),
        false => format!("{read} read; nothing was repaired"),
    })?;
    for point in &repaired.sidecars {
        output.line(format!("  {point}: its point.json was put back"))?;
    }
    for file in &repaired.attached {
        output.line(format!("  {file}: put back"))?;
    }
    for layer in &repaired.layers {
        let file = layer.slot.layer_file();
        let from = match layer.from.is_empty() {
            true => String::new(),
            false => format!(" from {}", layer.from.join(", ")),
        };
        let mended = Human(layer.mended_bytes);
        output.line(match (&layer.fault, layer.put_back) {
            (Some(fault), _) => format!("  {file}: not repaired: {fault}"),
            (None, true) => format!("  {file}: put back{from}"),
            (None, false) if layer.left_bytes > 0 => format!(
                "  {file}: {mended} taken{from}; nobody has {} more",
                Human(layer.left_bytes)
            ),
            (None, false) => format!("  {file}: {mended} taken{from}"),
        })?;
    }
    Ok(())
}

/// The points that need what was repaired, and have no damage now.
fn whole(
    repository: &Repository,
    index: &Index,
    repaired: &Repaired,
    verified: &VmAnswer,
) -> Result<Vec<PointName>> {
    let changed = repaired.layers.iter().filter(|layer| layer.fault.is_none());
    let changed: HashSet<&Slot> = changed.map(|layer| &layer.slot).collect();
    let chains = match Chains::walk(repository, &index.name, &repository.index(&index.name)?) {
        Ok(chains) => chains,
        // Something is still damaged, and named.
        Err(e) if e.kind() == ErrorKind::Corrupt || e.kind() == ErrorKind::NotFound => {
            Chains::default()
        }
        Err(e) => return Err(e),
    };
    let is_whole = |point: &&PointEntry| {
        let mut reports = verified.report.points.iter();
        let has_damage = reports
            .find(|report| report.point == point.name)
            .is_none_or(|report| report.damage.is_some());
        let mut disks = point.disks.iter();
        let needs = disks.any(|disk| {
            let chain = chains.from(&disk.layer);
            changed.contains(&disk.layer) || chain.iter().any(|slot| changed.contains(slot))
        });
        let of_point = format!("{}/", point.name);
        let mut attached = repaired.attached.iter();
        let is_given = repaired.sidecars.contains(&point.name)
            || attached.any(|file| file.starts_with(&of_point));
        !has_damage && (needs || is_given)
    };
    let points = index.points.iter().filter(is_whole);
    Ok(points.map(|point| point.name.clone()).collect())
}
