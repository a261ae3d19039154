//! Reports what is missing below the path of a command, although it belongs there.

use std::sync::Arc;

use super::context::Context;
use crate::error::{Error, ErrorKind};
use crate::guest::system::Class;
use crate::tree::{PointView, Tree, Unread};

fn line(one: &Unread) -> String {
    let source = match one.path.ends_with(&one.source) {
        true => String::new(),
        false => format!(" ({})", one.source),
    };
    format!("{}{source}: {}", one.path, one.reason)
}

/// Prints what is missing, and returns how much of it is a loss. What is missing by its nature
/// (another machine, `noauto`) gets a remark of one line.
pub(super) fn report(context: &Context, unread: &[Unread]) -> u64 {
    let mut losses = 0;
    let mut others = Vec::new();
    for one in unread {
        if one.class.is_loss() {
            losses += 1;
            let what = match one.class {
                Class::Missing => "missing",
                _ => "not readable",
            };
            context.output.warn(format!("{what}: {}", line(one)));
        } else {
            others.push(line(one));
        }
    }
    if !others.is_empty() {
        context
            .output
            .remark(format!("not part of it: {}", others.join("; ")));
    }
    losses
}

/// The error for a path that does not exist. If a volume that could not be read would be there,
/// that volume is the cause.
pub(super) fn explain(tree: &Tree, point: &Arc<PointView>, path: &[u8], error: Error) -> Error {
    if error.kind() != ErrorKind::NotFound {
        return error;
    }
    let Ok(unread) = tree.unread(point, path) else {
        return error;
    };
    let here: Vec<&Unread> = unread.iter().filter(|one| one.is_here).collect();
    let losses: Vec<String> = here
        .iter()
        .filter(|one| one.class.is_loss())
        .map(|one| line(one))
        .collect();
    if !losses.is_empty() {
        let place = String::from_utf8_lossy(path).into_owned();
        let what = format!("it may be in what could not be read: {}", losses.join("; "));
        return Error::new(ErrorKind::Corrupt, what).at_path(place);
    }
    match here.first() {
        Some(one) => error.advise(line(one)),
        None => error,
    }
}

/// What is missing, as JSON.
pub(super) fn json(unread: &[Unread]) -> serde_json::Value {
    unread
        .iter()
        .map(|one| {
            serde_json::json!({
                "path": one.path, "source": one.source, "reason": one.reason, "class": one.class.as_str(),
            })
        })
        .collect()
}
