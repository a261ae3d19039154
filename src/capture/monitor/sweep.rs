//! Removal of what is ours in a QEMU: exports, jobs, nodes and descriptors whose names begin with our prefix. A backup ends with it; the
//! next one begins with it, when an earlier one was killed.
//!
//! # Invariants
//! - Nothing without the prefix is removed. Bitmaps are no part of it: the one of the last restore point has to stay.
//! - Exports go before the jobs and nodes behind them: a client would read later content as if it were the snapshot's.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Monitor;
use crate::error::{Error, ErrorKind, Result};

/// LIMIT: time until QEMU has removed what it was asked to remove.
const PATIENCE: Duration = Duration::from_secs(20);

const PAUSE: Duration = Duration::from_millis(20);

/// What was removed.
#[derive(Debug, Default)]
pub struct Swept {
    /// Exports, jobs and nodes.
    pub names: Vec<String>,
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Removes what begins with the prefix.
///
/// # Errors
/// `TimedOut` for what QEMU does not remove; those of the commands.
pub fn sweep(monitor: &mut dyn Monitor, prefix: &str) -> Result<Swept> {
    let mut swept = Swept::default();
    exports(monitor, prefix, &mut swept)?;
    jobs(monitor, prefix, &mut swept)?;
    nodes(monitor, prefix, &mut swept)?;
    descriptors(monitor, prefix)?;
    Ok(swept)
}

/// Names in the list that a query returns.
fn named(
    monitor: &mut dyn Monitor,
    query: &str,
    arguments: Value,
    key: &str,
    prefix: &str,
) -> Result<Vec<String>> {
    let all = monitor.execute(query, arguments)?;
    let names = list(&all).map(|one| text(one, key));
    let ours = names.filter(|name| name.starts_with(prefix));
    Ok(ours.map(ToOwned::to_owned).collect())
}

/// Waits until a query names nothing of ours any more.
fn until_gone(
    monitor: &mut dyn Monitor,
    query: &str,
    key: &str,
    prefix: &str,
    mut meanwhile: impl FnMut(&mut dyn Monitor) -> Result<()>,
) -> Result<()> {
    let begun = Instant::now();
    loop {
        let left = named(monitor, query, json!({}), key, prefix)?;
        let Some(first) = left.first() else {
            return Ok(());
        };
        if begun.elapsed() > PATIENCE {
            return Err(Error::new(
                ErrorKind::TimedOut,
                format!("QEMU does not remove {first}"),
            ));
        }
        meanwhile(monitor)?;
        std::thread::sleep(PAUSE);
    }
}

fn exports(monitor: &mut dyn Monitor, prefix: &str, swept: &mut Swept) -> Result<()> {
    let ours = named(monitor, "query-block-exports", json!({}), "id", prefix)?;
    if ours.is_empty() {
        return Ok(());
    }
    for id in &ours {
        // An export that is about to go is refused; that it goes is seen below.
        let _ = monitor.execute("block-export-del", json!({"id": id, "mode": "hard"}));
    }
    until_gone(monitor, "query-block-exports", "id", prefix, |_| Ok(()))?;
    swept.names.extend(ours);
    Ok(())
}

fn jobs(monitor: &mut dyn Monitor, prefix: &str, swept: &mut Swept) -> Result<()> {
    let ours = named(monitor, "query-jobs", json!({}), "id", prefix)?;
    if ours.is_empty() {
        return Ok(());
    }
    for id in &ours {
        // A job that has ended already cannot be cancelled, only dismissed.
        let _ = monitor.execute("job-cancel", json!({"id": id}));
    }
    until_gone(monitor, "query-jobs", "id", prefix, |monitor| {
        let jobs = monitor.execute("query-jobs", json!({}))?;
        for job in list(&jobs) {
            if text(job, "id").starts_with(prefix) && text(job, "status") == "concluded" {
                monitor.execute("job-dismiss", json!({"id": text(job, "id")}))?;
            }
        }
        Ok(())
    })?;
    swept.names.extend(ours);
    Ok(())
}

/// The device below which a filter of ours is, and the node that the filter filters.
struct Filtered {
    device: String,
    below: String,
}

/// The path of a device in QEMU's object tree, from what `query-block` names it by.
#[must_use]
pub fn device_path(qdev: &str) -> String {
    let path = qdev.strip_suffix("/virtio-backend").unwrap_or(qdev);
    match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("/machine/peripheral/{path}"),
    }
}

/// Devices whose drive is a filter of ours.
fn filtered(monitor: &mut dyn Monitor, prefix: &str) -> Result<Vec<Filtered>> {
    let blocks = monitor.execute("query-block", json!({}))?;
    let ours: Vec<(String, String)> = list(&blocks)
        .filter_map(|block| {
            let node = text(block.get("inserted")?, "node-name");
            let is_ours = node.starts_with(prefix) && !text(block, "qdev").is_empty();
            is_ours.then(|| (device_path(text(block, "qdev")), node.to_owned()))
        })
        .collect();
    if ours.is_empty() {
        return Ok(Vec::new());
    }
    let graph = monitor.execute("x-debug-query-block-graph", json!({}))?;
    let nodes: Vec<(&Value, &str)> = list(&graph["nodes"])
        .map(|node| (&node["id"], text(node, "name")))
        .collect();
    let below = |filter: &str| {
        let (id, _) = nodes.iter().find(|(_, name)| *name == filter)?;
        let mut edges = list(&graph["edges"]);
        let edge = edges.find(|edge| edge["parent"] == **id && edge["name"] == "file")?;
        let child = nodes.iter().find(|(id, _)| **id == edge["child"])?;
        Some(child.1.to_owned())
    };
    ours.into_iter()
        .map(|(device, filter)| {
            let below = below(&filter).ok_or_else(|| {
                Error::not_found(format!(
                    "QEMU does not show what is below the node {filter}"
                ))
                .advise("restart the machine: its monitor shows too little to remove this node")
            })?;
            Ok(Filtered { device, below })
        })
        .collect()
}

fn nodes(monitor: &mut dyn Monitor, prefix: &str, swept: &mut Swept) -> Result<()> {
    let begun = Instant::now();
    loop {
        let flat = json!({"flat": true});
        let ours = named(
            monitor,
            "query-named-block-nodes",
            flat,
            "node-name",
            prefix,
        )?;
        let ours: BTreeSet<String> = ours.into_iter().collect();
        if ours.is_empty() {
            return Ok(());
        }
        // A node that another one uses is refused; that one goes first, in an earlier round. A view of the snapshot keeps its
        // filter from being taken away.
        let mut last = None;
        let mut removed = 0;
        for name in &ours {
            match monitor.execute("blockdev-del", json!({"node-name": name})) {
                Ok(_) => {
                    removed += 1;
                    swept.names.push(name.clone());
                }
                Err(e) if e.kind() == ErrorKind::InvalidInput => last = Some(e),
                Err(e) => return Err(e),
            }
        }
        if removed == 0 {
            for one in filtered(monitor, prefix)? {
                let back = json!({"path": one.device, "property": "drive", "value": one.below});
                match monitor.execute("qom-set", back) {
                    Ok(_) => removed += 1,
                    Err(e) if e.kind() == ErrorKind::InvalidInput => last = Some(e),
                    Err(e) => return Err(e),
                }
            }
        }
        if removed == 0 {
            if begun.elapsed() > PATIENCE {
                return Err(last.unwrap_or_else(|| {
                    Error::new(ErrorKind::TimedOut, "QEMU does not remove our nodes")
                }));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// Gives up the descriptors that were passed. QEMU closes and hides them only while the guest runs, so they are not reported.
fn descriptors(monitor: &mut dyn Monitor, prefix: &str) -> Result<()> {
    let sets = monitor.execute("query-fdsets", json!({}))?;
    for set in list(&sets) {
        let mut fds = list(&set["fds"]);
        if fds.any(|fd| text(fd, "opaque").starts_with(prefix)) {
            monitor.execute("remove-fd", json!({"fdset-id": set["fdset-id"]}))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::device_path;

    #[test]
    fn devices_are_found_by_what_query_block_names() {
        for (qdev, path) in [
            (
                "/machine/peripheral/d0/virtio-backend",
                "/machine/peripheral/d0",
            ),
            ("d2", "/machine/peripheral/d2"),
            (
                "/machine/peripheral-anon/device[1]",
                "/machine/peripheral-anon/device[1]",
            ),
        ] {
            assert_eq!(device_path(qdev), path);
        }
    }
}
