//! Names the guests' files that damage harms.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;

use super::work::{PointReport, VmReport};
use crate::chain::Pool;
use crate::error::{ErrorKind, Result};
use crate::repo::Repository;
use crate::repo::selector::Which;
use crate::task::Monitor;
use crate::tree::{Harm, Harmed, HarmedKind, Tree, TreeOptions};
use crate::types::{PointName, VmName};

/// LIMIT: files of one point that are told; the others are counted.
const FILES_MAX: usize = 10_000;

/// Of which points files are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Files {
    /// Of none.
    None,
    /// Of the newest damaged point of each VM.
    #[default]
    Newest,
    /// Of each damaged point.
    All,
}

/// A file that damage harms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HarmedFile {
    /// Its path below the point; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// What it is.
    pub kind: HarmedKind,
    /// Byte offset of the first harmed byte in it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What else there is to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What damage harms in a point.
#[derive(Debug, Clone, Serialize)]
pub struct HarmedPoint {
    /// The point.
    pub point: PointName,
    /// Its harmed files, directories and volumes.
    pub files: Vec<HarmedFile>,
    /// Files that are left out here.
    pub left_out: u64,
    /// Disks that cannot be read at all: whatever lies on them is lost in this point.
    pub unreadable: Vec<String>,
}

/// Names the harmed files of the damaged points of a VM, the newest point first.
///
/// # Errors
/// `Cancelled`; errors of reading the repository that are no damage.
pub fn name_files(
    repository: &Arc<Repository>,
    pool: &Arc<Pool>,
    options: &TreeOptions,
    report: &VmReport,
    files: Files,
    monitor: &Monitor,
) -> Result<Vec<HarmedPoint>> {
    let damaged = report.points.iter().rev();
    let damaged = damaged.filter(|point| point.damage.is_some());
    let damaged: Vec<&PointReport> = match files {
        Files::None => Vec::new(),
        Files::Newest => damaged.take(1).collect(),
        Files::All => damaged.collect(),
    };
    let mut named = Vec::new();
    for point in damaged {
        let of_point = name(repository, pool, options, &report.vm, point, monitor);
        match of_point {
            // It was forgotten meanwhile.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            other => named.push(other?),
        }
    }
    Ok(named)
}

fn name(
    repository: &Arc<Repository>,
    pool: &Arc<Pool>,
    options: &TreeOptions,
    vm: &VmName,
    report: &PointReport,
    monitor: &Monitor,
) -> Result<HarmedPoint> {
    let which = Which::Named(report.point.clone());
    let tree = |harm: Arc<Harm>| {
        let options = TreeOptions {
            harm,
            ..options.clone()
        };
        Tree::of_vm(
            Arc::clone(repository),
            Arc::clone(pool),
            options,
            vm.clone(),
        )
    };
    // What is harmed is told even where a harmed filesystem still opens, so this tree reads the bytes as they are.
    let plain = tree(Arc::default())?;
    let point = plain.point(vm, &which)?;
    let names = plain.disk_names(&point);
    let mut harm = Harm::default();
    for range in report.damage.iter().flat_map(|damage| &damage.ranges) {
        let disk = names.iter().position(|name| name.same_as(&range.disk));
        let bytes = range.offset..range.offset.saturating_add(range.length_bytes);
        if let Some(disk) = disk {
            harm.add(point.entry.point_id, disk, [bytes]);
        }
    }
    let harm = Arc::new(harm);
    let mut of_point = HarmedPoint {
        point: report.point.clone(),
        files: Vec::new(),
        left_out: 0,
        unreadable: Vec::new(),
    };
    for disk in &names {
        if let Err(e) = plain.open_disk(vm, &which, disk) {
            of_point.unreadable.push(format!("{disk}: {}", e.report()));
        }
    }
    let mut see = |harmed: Harmed| {
        of_point.add(harmed);
        Ok(())
    };
    let strict = tree(Arc::clone(&harm))?;
    let point = strict.point(vm, &which)?;
    let closed: HashSet<String> = strict.harmed(&point, &harm, None, monitor, &mut see)?;
    if !closed.is_empty() {
        let point = plain.point(vm, &which)?;
        plain.harmed(&point, &harm, Some(&closed), monitor, &mut see)?;
    }
    of_point.files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(of_point)
}

impl HarmedPoint {
    fn add(&mut self, harmed: Harmed) {
        if self.files.len() >= FILES_MAX {
            self.left_out += 1;
            return;
        }
        self.files.push(HarmedFile {
            path: String::from_utf8_lossy(&harmed.path).into_owned(),
            kind: harmed.kind,
            offset: harmed.offset,
            note: harmed.note,
        });
    }
}
