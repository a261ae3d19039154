//! `restorefs begin`: begins a session in the daemon.

use std::collections::BTreeMap;

use super::args::Begin;
use super::context::Context;
use super::target::{parse_disk, parse_disks, parse_ids, plain, split_list, split_pairs, untangle};
use crate::control::Client;
use crate::error::Result;
use crate::service::{BeginRequest, DiskRequest, Service};
use crate::types::duration::parse_seconds;
use crate::types::size;
use crate::types::{DiskName, PointName, VmName};

pub(super) fn run(context: &Context, args: &Begin) -> Result<()> {
    let (vm, texts, full) = untangle(&args.vm, &args.disks, &args.begin.full)?;
    let mut disks = Vec::new();
    for text in &texts {
        let (name, bytes) = parse_disk(plain(text)?, "SIZE")?;
        disks.push(DiskRequest {
            name,
            source_bytes: Some(size::parse(&bytes)?),
            key: None,
            full: false,
        });
    }
    let full = mark(&mut disks, &full, &args.begin.key)?;
    let request = BeginRequest {
        vm: VmName::new(vm)?,
        session: args.session.as_deref().map(PointName::new).transpose()?,
        point: args
            .begin
            .point
            .as_deref()
            .map(PointName::new)
            .transpose()?,
        disks,
        without: parse_disks(&args.without)?,
        complete: false,
        full,
        differential: args.begin.differential,
        parent: args.parent.as_deref().map(str::parse).transpose()?,
        changed_only: args.changed_only,
        previous_change_ids: parse_ids(&args.previous_change_id)?,
        // An NBD client may write only a part of the disk.
        whole: Vec::new(),
        empty: false,
        ttl_seconds: parse_seconds(&args.ttl)?,
        resumable: true,
        compression: args.begin.compress.parse()?,
        low_water_bytes: None,
        checks_room: !args.begin.no_room_check,
        origins: BTreeMap::new(),
    };
    let new_vm = context.new_vm_remark(&request.vm)?;
    let repository = context.repository()?;
    let answer = Client::require(&repository)?.begin(&request)?;
    if let Some(remark) = new_vm {
        context.output.remark(remark);
    }
    if context.output.json {
        return context.output.json(&answer);
    }
    let parent = answer
        .parent
        .as_ref()
        .map_or_else(|| "nothing (full)".to_owned(), ToString::to_string);
    context.output.line(format!(
        "session {}/{}, compared with {parent}",
        answer.vm, answer.session
    ))?;
    let rows: Vec<Vec<String>> = answer
        .disk_results
        .iter()
        .map(|disk| {
            vec![
                disk.name.to_string(),
                disk.kind.clone(),
                size::Human(disk.size_bytes).to_string(),
                disk.uri.clone(),
            ]
        })
        .collect();
    context
        .output
        .table(&["DISK", "KIND", "SIZE", "WRITE TO"], &["SIZE"], &rows)?;
    if let Some(targets) = &answer.nbd_targets_tcp {
        context.output.remark(format!("over TCP: {targets}"));
    }
    context.output.remark(format!(
        "then: restorefs commit {}/{}",
        answer.vm, answer.session
    ));
    Ok(())
}

/// Applies `--full[=DISK]` and `--key DISK=KEY` to the disks; returns whether all are full.
///
/// # Errors
/// `InvalidInput`, `NameTooLong`.
pub(super) fn mark(disks: &mut Vec<DiskRequest>, full: &[String], keys: &[String]) -> Result<bool> {
    let place = |disks: &mut Vec<DiskRequest>, name: &DiskName| -> usize {
        disks
            .iter()
            .position(|d| d.name.same_as(name))
            .unwrap_or_else(|| {
                disks.push(DiskRequest {
                    name: name.clone(),
                    source_bytes: None,
                    key: None,
                    full: false,
                });
                disks.len() - 1
            })
    };
    let mut all = false;
    for name in full.iter().flat_map(|names| split_list(names)) {
        if name.is_empty() {
            all = true;
            continue;
        }
        let at = place(disks, &DiskName::new(name)?);
        if let Some(disk) = disks.get_mut(at) {
            disk.full = true;
        }
    }
    for text in keys.iter().flat_map(|pairs| split_pairs(pairs)) {
        let (name, key) = parse_disk(text, "KEY")?;
        let at = place(disks, &name);
        if let Some(disk) = disks.get_mut(at) {
            disk.key = Some(key);
        }
    }
    Ok(all)
}
