//! `restorefs rename`, `remove` and `undelete`: the life of a VM.

use serde_json::json;

use super::args::retention::{Remove, Rename, Undelete};
use super::context::Context;
use crate::error::{Error, Result};
use crate::repo::selector::{Selector, Which};
use crate::types::size::Count;
use crate::types::{PointName, VmName};

pub(super) fn rename(context: &Context, args: &Rename) -> Result<()> {
    let (vm, to) = (
        VmName::new(args.vm.as_str())?,
        VmName::new(args.to.as_str())?,
    );
    let from = context.writer("rename")?.service.rename_vm(&vm, &to)?;
    if context.output.json {
        return context.output.json(&json!({"vm": to, "was": from}));
    }
    context.output.outcome(format!("{from} is {to} now"))
}

pub(super) fn remove(context: &Context, args: &Remove) -> Result<()> {
    let repository = context.repository()?;
    let vm = repository.spelled(&VmName::new(args.vm.as_str())?)?;
    let writer = context.writer("remove")?;
    let points: Vec<PointName> = repository
        .index(&vm)?
        .points
        .into_iter()
        .map(|point| point.name)
        .collect();
    if !points.is_empty() {
        let done = writer.service.forget(&vm, &points, false)?;
        if let Some(kept) = done.kept.into_iter().next() {
            let forgotten = Count::of(done.forgotten.len(), "point");
            let error = Error::from(kept.problem);
            return Err(Error::new(
                error.kind(),
                format!(
                    "{vm} stays: {forgotten} forgotten, but {vm}@{} is not: {}",
                    kept.point,
                    error.report()
                ),
            ));
        }
    }
    writer.service.remove_vm(&vm)?;
    if context.output.json {
        return context.output.json(&json!({"vm": vm, "forgotten": points}));
    }
    context.output.outcome(format!(
        "{vm} is removed, with {}; the trash keeps them for an hour",
        Count::of(points.len(), "restore point")
    ))
}

pub(super) fn undelete(context: &Context, args: &Undelete) -> Result<()> {
    let selector: Selector = args.point.parse()?;
    let Which::Named(point) = &selector.which else {
        return Err(Error::invalid(format!("{} names no forgotten point", args.point))
            .advise("write VM@POINT, with the name that the point had; list the trash with: restorefs trash"));
    };
    let service = context.writer("undelete")?.service;
    let entry = service.undelete(&selector.vm, point)?;
    let vm = context.repository()?.spelled(&selector.vm)?;
    if context.output.json {
        return context.output.json(&json!({"vm": vm, "point": entry}));
    }
    context
        .output
        .outcome(format!("{vm}@{} is back", entry.name))
}
