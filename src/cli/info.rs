//! `restorefs info`: all that is known of a restore point, the same as its `info.json` in the tree, and what a look at its files finds.

use serde_json::Value;

use super::args::Info;
use super::context::Context;
use super::{damage, document};
use crate::error::Result;
use crate::repo::selector::Selector;

pub(super) fn run(context: &Context, args: &Info) -> Result<()> {
    let selector: Selector = args.point.parse()?;
    let faults = damage::of_point(context, &selector)?;
    let mut info = document::read(context, &selector, "info.json")?;
    if let (false, Value::Object(fields)) = (faults.is_empty(), &mut info) {
        fields.insert("damage".to_owned(), faults.as_slice().into());
    }
    if context.output.json {
        context.output.json(&info)?;
    } else {
        let mut lines = Vec::new();
        flatten("", &info, &mut lines);
        lines
            .iter()
            .try_for_each(|line| context.output.line(line))?;
    }
    damage::end(&faults)
}

/// `disks.0.name  vda`, a line for each value.
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
