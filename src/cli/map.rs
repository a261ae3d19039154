//! `restorefs map`: attaches disks of a restore point as block devices; without arguments, lists
//! them.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;
use serde_json::Value;

use super::args::{DEFAULT_SCRATCH, Map};
use super::background;
use super::context::Context;
use super::document;
use crate::daemon::interrupt;
use crate::error::{Error, Result, ResultExt};
use crate::map::{self, MapDir, MapId, MappedDevice, Mapping, Order, Record, State, rule, survey};
use crate::repo::selector::Selector;
use crate::sys::beneath::Dir;
use crate::sys::loop_device;
use crate::types::DiskName;
use crate::types::size::Human;

/// `VM@POINT[/DISK]`.
///
/// # Errors
/// `InvalidInput`, `NameTooLong`.
pub(super) fn parse_target(text: &str) -> Result<(Selector, Option<DiskName>)> {
    let (point, disk) = match text.split_once('/') {
        Some((point, disk)) if point.contains('@') => (point, Some(DiskName::new(disk)?)),
        _ => (text, None),
    };
    Ok((point.parse()?, disk))
}

/// Resolves `--scratch` without a value, also when it stands right before the point.
fn untangle(args: &Map) -> (Option<String>, Option<PathBuf>) {
    let is_point = |text: &str| parse_target(text).is_ok();
    let scratch = args.scratch.as_deref().and_then(Path::to_str);
    match (args.target.as_deref(), scratch) {
        (None, Some(text)) if is_point(text) => {
            (Some(text.to_owned()), Some(PathBuf::from(DEFAULT_SCRATCH)))
        }
        (Some(dir), Some(text)) if is_point(text) && !is_point(dir) => {
            (Some(text.to_owned()), Some(PathBuf::from(dir)))
        }
        (target, _) => (target.map(str::to_owned), args.scratch.clone()),
    }
}

pub(super) fn run(context: &Context, args: &Map) -> Result<()> {
    let (target, scratch) = untangle(args);
    let Some(target) = target else {
        if scratch.is_some() || args.partitions {
            return Err(Error::invalid(
                "name the disks to map: VM@POINT or VM@POINT/DISK",
            ));
        }
        return list(context);
    };
    let (selector, disk) = parse_target(&target)?;
    map::check()?;
    let quiet = rule::look();
    // With loop.max_part the kernel searches every loop device for partitions.
    quiet.check(args.partitions || loop_device::looks_for_partitions())?;
    let scratch = scratch
        .map(|dir| std::path::absolute(&dir).or_io("cannot tell the directory's path"))
        .transpose()?;
    if let Some(dir) = &scratch {
        // An error is printed here rather than by the process in the background.
        Dir::open(dir).or_io("cannot use the directory for scratch files")?;
    }
    let tree = context.tree()?;
    // The point must exist; its names get the repository's spelling.
    tree.point(&selector.vm, &selector.which)?;
    let id = args
        .id
        .as_deref()
        .map_or_else(|| Ok(MapId::random()), str::parse)?;
    let order = Order {
        id,
        selector,
        disk,
        scratch,
        partitions: args.partitions,
    };
    if args.foreground {
        let stop = interrupt::flag()?;
        return map::run(&tree, &order, &stop, background::ready_logging);
    }
    drop(tree);
    remark_leftovers(context)?;
    if let Some(warning) = quiet.warning() {
        context.output.remark(format!("restorefs: {warning}"));
    }
    start(context, &order)?;
    let mapped = MapDir::make()?
        .record(&order.id)?
        .ok_or_else(|| Error::not_found("another process unmapped it at once"))?;
    show_new(context, &order, &mapped)?;
    if order.scratch.is_none() {
        remark_mounts(context, &order);
    }
    Ok(())
}

/// Remarks on filesystems that were in use: on a read-only device a kernel replays no journal, and
/// mounts such a filesystem only with an option.
fn remark_mounts(context: &Context, order: &Order) {
    // An error here is ignored: the disks are mapped.
    let Ok(found) = document::read(context, &order.selector, "volumes.json") else {
        return;
    };
    let volumes = found.get("volumes").and_then(Value::as_array);
    for volume in volumes.into_iter().flatten() {
        let text = |name: &str| volume.get(name).and_then(Value::as_str).unwrap_or_default();
        let (path, content) = (text("path"), text("content"));
        let is_mapped = match (&order.disk, path.split_once('/')) {
            (Some(disk), Some((first, _))) => first == disk.as_str(),
            _ => true,
        };
        let was_in_use = volume.pointer("/filesystem/journal_replayed") == Some(&Value::Bool(true));
        let options = match content {
            "xfs" => "ro,norecovery",
            _ if content.starts_with("ext") => "ro,noload",
            _ => continue,
        };
        if is_mapped && was_in_use {
            context.output.remark(format!(
                "restorefs: {path} ({content}) was in use: mount it with -o {options}, without what its journal holds, \
                 or map with --scratch and mount it as usual"
            ));
        }
    }
}

/// Starts the process of a map, and waits until its devices are there.
fn start(context: &Context, order: &Order) -> Result<()> {
    let program = std::env::current_exe().or_io("cannot find this program's file")?;
    let mut command = Command::new(program);
    command.arg("--repo").arg(context.repo_word()?);
    command.args(context.global_flags());
    command.arg("map").arg("--foreground");
    command.arg("--id").arg(order.id.to_string());
    if let Some(dir) = &order.scratch {
        let mut flag = std::ffi::OsString::from("--scratch=");
        flag.push(dir);
        command.arg(flag);
    }
    if order.partitions {
        command.arg("--partitions");
    }
    let disk = order.disk.as_ref().map(|disk| format!("/{disk}"));
    let disk = disk.unwrap_or_default();
    command.arg("--").arg(format!("{}{disk}", order.selector));
    background::launch(command, "mapping")
}

fn remark_leftovers(context: &Context) -> Result<()> {
    let Some(dir) = MapDir::open()? else {
        return Ok(());
    };
    let is_left = |mapping: &Mapping| matches!(mapping.state, State::Leftover(_));
    let leftovers = survey(&dir)?.iter().filter(|m| is_left(m)).count();
    if leftovers > 0 {
        context.output.remark(format!(
            "restorefs: {leftovers} map(s) are left over; see `restorefs map`, clean up with `restorefs unmap --stale`"
        ));
    }
    Ok(())
}

/// A device as `--json` shows it.
#[derive(Serialize)]
struct Shown {
    device: PathBuf,
    vm: Option<String>,
    point: Option<String>,
    disk: Option<String>,
    repository: Option<String>,
    size_bytes: u64,
    read_only: Option<bool>,
    partitions: Option<bool>,
    scratch: Option<PathBuf>,
    scratch_bytes: Option<u64>,
    failed_requests: u64,
    last_error: Option<String>,
    path: Option<String>,
    path_reason: Option<String>,
    pid: Option<u32>,
    mountpoint: PathBuf,
    id: String,
    state: &'static str,
    reason: Option<String>,
}

fn shown(mapping: &Mapping, device: Option<&MappedDevice>) -> Shown {
    let record = mapping.record.as_ref();
    let (state, reason) = match &mapping.state {
        State::Starting => ("starting", None),
        State::Live => ("live", None),
        State::Leftover(why) => ("leftover", Some(why.clone())),
    };
    Shown {
        device: device.map(|d| d.device.clone()).unwrap_or_default(),
        vm: record.map(|r| r.vm.to_string()),
        point: record.map(|r| r.point.to_string()),
        disk: device
            .and_then(|d| d.disk.as_ref())
            .map(ToString::to_string),
        repository: record.map(|r| r.repository.clone()),
        size_bytes: device.map_or(0, |d| d.size_bytes),
        read_only: record.map(|r| r.read_only),
        partitions: record.map(|r| r.partitions),
        scratch: record.and_then(|r| r.scratch.clone()),
        scratch_bytes: device.and_then(|d| d.scratch_bytes),
        failed_requests: device.map_or(0, |d| d.failed_requests),
        last_error: device.and_then(|d| d.last_error.clone()),
        path: record.map(|r| r.path.clone()),
        path_reason: record.and_then(|r| r.path_reason.clone()),
        pid: record.map(|r| r.pid),
        mountpoint: mapping.mountpoint.clone(),
        id: mapping.id.to_string(),
        state,
        reason,
    }
}

fn show_new(context: &Context, order: &Order, record: &Record) -> Result<()> {
    if context.output.json {
        let dir = MapDir::make()?;
        let mappings = survey(&dir)?;
        let mapping = mappings.iter().find(|mapping| mapping.id == order.id);
        let all: Vec<Shown> = mapping
            .iter()
            .flat_map(|mapping| {
                mapping
                    .devices
                    .iter()
                    .map(|device| shown(mapping, Some(device)))
            })
            .collect();
        return context.output.json(&all);
    }
    for disk in &record.disks {
        let device = disk.device.display();
        match order.disk {
            Some(_) => context.output.line(device.to_string())?,
            None => context.output.line(format!("{} {device}", disk.disk))?,
        }
    }
    Ok(())
}

fn list(context: &Context) -> Result<()> {
    map::check_root()?;
    let mappings = match MapDir::open()? {
        Some(dir) => survey(&dir)?,
        None => Vec::new(),
    };
    let mut all: Vec<Shown> = Vec::new();
    for mapping in &mappings {
        if mapping.devices.is_empty() {
            all.push(shown(mapping, None));
        }
        all.extend(
            mapping
                .devices
                .iter()
                .map(|device| shown(mapping, Some(device))),
        );
    }
    if context.output.json {
        return context.output.json(&all);
    }
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    context.output.table(
        &[
            "DEVICE", "DISK", "SIZE", "MODE", "WRITTEN", "STATE", "REASON",
        ],
        &["SIZE", "WRITTEN"],
        &rows,
    )
}

fn row(shown: &Shown) -> Vec<String> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let device = shown.device.display().to_string();
    let disk = match (&shown.vm, &shown.point) {
        (Some(vm), Some(point)) => format!("{vm}@{point}/{}", or_dash(&shown.disk)),
        _ => or_dash(&shown.disk),
    };
    let mode = match shown.read_only {
        Some(true) => "ro",
        Some(false) => "scratch",
        None => "-",
    };
    let written = shown.scratch_bytes.map(|bytes| Human(bytes).to_string());
    let reason = match (&shown.reason, &shown.last_error, shown.failed_requests) {
        (Some(reason), _, _) => reason.clone(),
        (None, Some(error), 0) => error.clone(),
        (None, Some(error), failed) => format!("{failed} requests failed: {error}"),
        (None, None, _) => String::new(),
    };
    vec![
        if device.is_empty() {
            "-".to_owned()
        } else {
            device
        },
        disk,
        Human(shown.size_bytes).to_string(),
        mode.to_owned(),
        or_dash(&written),
        shown.state.to_owned(),
        reason,
    ]
}

#[cfg(test)]
mod tests {
    use super::{DEFAULT_SCRATCH, parse_target, untangle};
    use crate::cli::args::{Cli, Command};
    use clap::Parser;
    use std::path::PathBuf;

    #[test]
    fn targets_parse() {
        let (point, disk) = parse_target("web01@latest/vda").unwrap();
        assert_eq!(
            (point.to_string(), disk.unwrap().to_string()),
            ("web01@latest".into(), "vda".into())
        );
        assert!(parse_target("web01@one").unwrap().1.is_none());
        for bad in [
            "web01",
            "web01/vda",
            "web01@",
            "web01@one/",
            "web01@one/a/b",
            "web01@one/..",
            "web01@one/.x",
            "/dev/loop1",
            "web01@one/vda:/x",
            "",
        ] {
            assert!(parse_target(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn scratch_may_stand_anywhere() {
        let parse = |words: &[&str]| {
            let all = ["restorefs", "map"].iter().chain(words);
            match Cli::try_parse_from(all).unwrap().command {
                Command::Map(args) => untangle(&args),
                _ => unreachable!(),
            }
        };
        let point = Some("a@b/c".to_owned());
        let default = Some(PathBuf::from(DEFAULT_SCRATCH));
        assert_eq!(
            parse(&["a@b/c", "--scratch"]),
            (point.clone(), default.clone())
        );
        assert_eq!(parse(&["--scratch", "a@b/c"]), (point.clone(), default));
        let named = (point.clone(), Some(PathBuf::from("/x")));
        for words in [
            ["--scratch", "/x", "a@b/c"],
            ["a@b/c", "--scratch", "/x"],
            ["--scratch", "a@b/c", "/x"],
        ] {
            assert_eq!(parse(&words), named, "{words:?}");
        }
        assert_eq!(parse(&["--scratch=/x", "a@b/c"]), named);
        assert_eq!(parse(&["a@b/c"]), (point, None));
        assert_eq!(
            parse(&["--scratch=/x@y"]),
            (None, Some(PathBuf::from("/x@y")))
        );
    }
}
