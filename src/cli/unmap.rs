//! `restorefs unmap`: detaches the devices that `restorefs map` has attached.

use std::path::{Path, PathBuf};

use super::args::Unmap;
use super::context::Context;
use super::map::parse_target;
use crate::error::{Error, Result, ResultExt};
use crate::map::{self, MapDir, MappedDevice, Mapping, Record, Stale, State, release, survey};
use crate::repo::selector::{Selector, Which};
use crate::types::DiskName;

/// The part to unmap: a map, and some of its devices (`None`: all).
struct Part<'a> {
    mapping: &'a Mapping,
    devices: Option<Vec<PathBuf>>,
}

pub(super) fn run(context: &Context, args: &Unmap) -> Result<()> {
    if args.targets.is_empty() && !args.all && !args.stale {
        return Err(Error::invalid(
            "name the map to end: a device, VM@POINT, VM@POINT/DISK, --all or --stale",
        ));
    }
    map::check_root()?;
    let dir = MapDir::open()?;
    let mappings = dir.as_ref().map(survey).transpose()?.unwrap_or_default();
    let mut parts: Vec<Part<'_>> = Vec::new();
    for target in &args.targets {
        parts.extend(find(context, &mappings, target)?);
    }
    let left = |mapping| whole_or_stale(mapping, args.all, args.stale);
    parts.extend(mappings.iter().filter_map(left));
    let mut unmapped: Vec<PathBuf> = Vec::new();
    let mut failed: Option<Error> = None;
    for part in &parts {
        let Some(dir) = &dir else { break };
        match release(dir, part.mapping, part.devices.as_deref()) {
            Ok(()) => unmapped.extend(devices(part)),
            Err(error) => {
                // All parts are tried; the command ends with the first failure.
                match &failed {
                    None => failed = Some(error),
                    Some(_) => context
                        .output
                        .remark(format!("restorefs: {}", error.report())),
                }
            }
        }
    }
    if context.output.json {
        context
            .output
            .json(&serde_json::json!({"unmapped": unmapped}))?;
    }
    failed.map_or(Ok(()), Err)
}

/// The part of a map that `--all` or `--stale` selects.
fn whole_or_stale(mapping: &Mapping, all: bool, stale: bool) -> Option<Part<'_>> {
    let devices = match (mapping.stale(), &mapping.state) {
        (_, State::Starting) => return None,
        _ if all => None,
        (Some(Stale::All), _) if stale => None,
        // The map's process lives: the devices that it serves must stay.
        (Some(Stale::Devices(gone)), _) if stale => Some(gone),
        _ => return None,
    };
    Some(Part { mapping, devices })
}

fn devices(part: &Part<'_>) -> Vec<PathBuf> {
    part.devices.clone().unwrap_or_else(|| {
        let devices = part.mapping.devices.iter();
        devices.map(|device| device.device.clone()).collect()
    })
}

/// The parts that a target names.
fn find<'a>(context: &Context, mappings: &'a [Mapping], target: &str) -> Result<Vec<Part<'a>>> {
    let found = if target.starts_with('/') {
        by_device(mappings, Path::new(target))
    } else {
        let (selector, disk) = parse_target(target)?;
        by_point(context, mappings, &selector, disk.as_ref())?
    };
    if found.is_empty() {
        return Err(
            Error::not_found(format!("\"{}\" is not mapped", target.escape_debug()))
                .advise("list the maps: restorefs map"),
        );
    }
    Ok(found)
}

fn by_device<'a>(mappings: &'a [Mapping], path: &Path) -> Vec<Part<'a>> {
    let resolved = std::fs::canonicalize(path);
    let path = resolved.as_deref().unwrap_or(path);
    // A leftover's device may belong to another program by now.
    let has = |device: &MappedDevice| device.is_bound && device.device == path;
    mappings
        .iter()
        .filter(|mapping| mapping.devices.iter().any(has))
        .map(|mapping| Part {
            mapping,
            devices: Some(vec![path.to_owned()]),
        })
        .collect()
}

fn by_point<'a>(
    context: &Context,
    mappings: &'a [Mapping],
    selector: &Selector,
    disk: Option<&DiskName>,
) -> Result<Vec<Part<'a>>> {
    let repository = match context.path() {
        Ok(path) => Some(
            std::fs::canonicalize(path)
                .or_io("cannot resolve the repository's path")
                .at_path(path)?,
        ),
        Err(_) => None,
    };
    let mut parts = Vec::new();
    let mut repositories: Vec<&str> = Vec::new();
    for mapping in mappings {
        let Some(record) = &mapping.record else {
            continue;
        };
        let own = std::fs::canonicalize(&record.repository).ok();
        if !names(record, selector) || (repository.is_some() && repository != own) {
            continue;
        }
        let devices: Vec<PathBuf> = mapping
            .devices
            .iter()
            .filter(|device| disk.is_none_or(|disk| is_disk(device, disk)))
            .map(|device| device.device.clone())
            .collect();
        if disk.is_some() && devices.is_empty() {
            continue;
        }
        repositories.push(&record.repository);
        parts.push(Part {
            mapping,
            devices: disk.is_some().then_some(devices),
        });
    }
    repositories.dedup();
    if repositories.len() > 1 {
        return Err(Error::invalid(format!(
            "{selector} is mapped from several repositories: {}",
            repositories.join(", ")
        ))
        .advise("name one with --repo"));
    }
    Ok(parts)
}

fn is_disk(device: &MappedDevice, disk: &DiskName) -> bool {
    device.disk.as_ref().is_some_and(|own| own.same_as(disk))
}

/// Whether the record is of the selected point. `latest` matches a map that was made by that name.
fn names(record: &Record, selector: &Selector) -> bool {
    let is_vm = record.vm.same_as(&selector.vm);
    match &selector.which {
        Which::Named(name) => is_vm && record.point.same_as(name),
        Which::Latest(_) => is_vm && record.asked == selector.to_string(),
    }
}
