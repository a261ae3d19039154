//! `restorefs tag` and `restorefs keep`: change the labels of a restore point.

use serde_json::json;

use super::args::retention::{KeepPoint, Tag};
use super::context::Context;
use crate::error::{Error, Result};
use crate::repo::LabelChange;
use crate::repo::selector::Selector;
use crate::repo::sidecar::index::PointEntry;
use crate::types::VmName;

pub(super) fn tag(context: &Context, args: &Tag) -> Result<()> {
    let selector: Selector = args.point.parse()?;
    let mut change = LabelChange::default();
    for text in &args.tags {
        let (key, value) = text.split_once('=').ok_or_else(|| {
            Error::invalid(format!("\"{}\" is not KEY=VALUE", text.escape_debug()))
        })?;
        if change
            .set
            .insert(key.to_owned(), value.to_owned())
            .is_some()
        {
            let key = key.escape_debug();
            return Err(Error::invalid(format!("the tag {key} is set twice")));
        }
    }
    change.remove = args.remove.iter().cloned().collect();
    let (vm, point) = match change == LabelChange::default() {
        true => {
            let (index, point, _) = context.repository()?.find(&selector)?;
            (index.name, point)
        }
        false => label(context, "tag", &selector, &change)?,
    };
    if context.output.json {
        return show(context, &vm, &point);
    }
    for (key, value) in &point.tags {
        context.output.outcome(format!("{key}={value}"))?;
    }
    Ok(())
}

pub(super) fn keep(context: &Context, args: &KeepPoint) -> Result<()> {
    let change = LabelChange {
        kept: Some(!args.remove),
        ..LabelChange::default()
    };
    let (vm, point) = label(context, "keep", &args.point.parse()?, &change)?;
    if context.output.json {
        return show(context, &vm, &point);
    }
    let name = &point.name;
    context.output.outcome(match point.kept {
        true => format!("{vm}@{name} is kept by hand: retention does not forget it"),
        false => format!("{vm}@{name} is not kept by hand any more"),
    })
}

fn label(
    context: &Context,
    role: &str,
    selector: &Selector,
    change: &LabelChange,
) -> Result<(VmName, PointEntry)> {
    let writer = context.writer(role)?;
    let vm = context.repository()?.spelled(&selector.vm)?;
    let point = writer.service.label(&vm, &selector.which, change)?;
    Ok((vm, point))
}

fn show(context: &Context, vm: &VmName, point: &PointEntry) -> Result<()> {
    context
        .output
        .json(&json!({"vm": vm, "point": point.name, "tags": point.tags, "kept": point.kept}))
}
