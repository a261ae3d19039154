//! `restorefs info`: shows a restore point's `info.json`, as in the tree, and the damage of its
//! files; without a point, shows the repository. Also shows how the readers of guests' filesystems
//! are isolated from this machine.

use serde_json::{Value, json};

use super::args::Info;
use super::context::Context;
use super::{damage, document};
use crate::error::Result;
use crate::guest::worker::Standing;
use crate::repo::selector::Selector;

pub(super) fn run(context: &Context, args: &Info) -> Result<()> {
    let (info, faults) = match &args.point {
        Some(point) => of_point(context, &point.parse()?)?,
        None => (of_repository(context)?, Vec::new()),
    };
    show(context, info)?;
    damage::end(&faults)
}

fn of_point(context: &Context, selector: &Selector) -> Result<(Value, Vec<String>)> {
    let faults = damage::of_point(context, selector)?;
    let mut info = document::read(context, selector, "info.json")?;
    if let (false, Value::Object(fields)) = (faults.is_empty(), &mut info) {
        fields.insert("damage".to_owned(), faults.as_slice().into());
    }
    Ok((info, faults))
}

fn of_repository(context: &Context) -> Result<Value> {
    let repository = context.repository()?;
    let format = repository.format();
    Ok(json!({
        "repository": context.path()?,
        "repository_id": format.repository_id,
        "format_version": format.format_version,
        "created_at": format.created_at,
    }))
}

/// Prints the information with the state of the readers, in text as one line.
fn show(context: &Context, mut info: Value) -> Result<()> {
    let standing = Standing::of(&context.isolation());
    let is_json = context.output.json;
    if let Value::Object(fields) = &mut info {
        let workers = if is_json {
            json!(standing)
        } else {
            standing.to_string().into()
        };
        fields.insert("workers".to_owned(), workers);
    }
    if is_json {
        return context.output.json(&info);
    }
    let mut lines = Vec::new();
    flatten("", &info, &mut lines);
    lines.iter().try_for_each(|line| context.output.line(line))
}

/// `disks.0.name  vda`: one line for each value.
fn flatten(path: &str, value: &Value, out: &mut Vec<String>) {
    let join = |key: &str| {
        if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        }
    };
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(key, value)| flatten(&join(key), value, out)),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .for_each(|(n, value)| flatten(&join(&n.to_string()), value, out)),
        Value::Null => {}
        Value::String(text) => out.push(format!("{path:<28} {text}")),
        other => out.push(format!("{path:<28} {other}")),
    }
}
