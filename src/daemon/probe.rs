//! Probing after a commit: finds the volumes of new points in the background, and stores them in
//! the points' state.
//!
//! # Concurrency
//! One thread probes one point at a time, at a lower priority than all other work of the process,
//! and holds no lock meanwhile.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use serde_json::Value;

use super::likeness::{PointLook, remarks};
use crate::error::{Result, ResultExt};
use crate::repo::Owner;
use crate::tree::{PointView, Tree};
use crate::types::sync::Mutex;

/// Finds the volumes of a point and stores them in its state. An incomplete result is not stored:
/// the next probe may find more.
///
/// # Errors
/// What the tree or the repository returns.
pub fn probe_point(tree: &Tree, owner: &Owner, point: &Arc<PointView>) -> Result<()> {
    let mut probed = tree.probe(point)?;
    // A failure to compute remarks must not fail the probe.
    for remark in compare(owner, point, &probed.value).unwrap_or_default() {
        tracing::warn!(vm = %point.vm, point = %point.entry.name, "{remark}");
        if let Some(notes) = probed.value.get_mut("notes").and_then(Value::as_array_mut) {
            notes.push(remark.into());
        }
    }
    if !probed.complete {
        tracing::warn!(vm = %point.vm, point = %point.entry.name, "not all volumes could be read; the result of the scan is not kept");
        return Ok(());
    }
    owner.keep_volumes(&point.vm, &point.entry, probed.value)
}

/// Remarks on disks that do not look like the parent point's.
fn compare(owner: &Owner, point: &PointView, volumes: &Value) -> Result<Vec<String>> {
    let repository = owner.repository();
    let Some(parent) = &point.entry.parent else {
        return Ok(Vec::new());
    };
    let index = owner.index(&point.vm)?;
    let mut points = index.points.iter();
    let Some(entry) = points.find(|entry| entry.point_id == parent.point_id) else {
        return Ok(Vec::new());
    };
    let (old, now) = (
        repository.point(&point.vm, entry)?,
        repository.point(&point.vm, &point.entry)?,
    );
    let state = repository.state(&point.vm, entry)?;
    let before = PointLook {
        point: &old,
        volumes: state.volumes.as_ref(),
    };
    let now = PointLook {
        point: &now,
        volumes: Some(volumes),
    };
    Ok(remarks(&before, &now))
}

/// Finds volumes of new points in its own thread. When it is dropped, the thread ends after the
/// present point.
pub struct Prober {
    wake: Mutex<Option<Sender<()>>>,
    thread: Option<JoinHandle<()>>,
}

impl Prober {
    /// Starts the thread. It ignores existing points, except for the newest of each VM.
    ///
    /// # Errors
    /// `Io` when the thread cannot be started.
    pub fn start(tree: &Arc<Tree>, owner: &Arc<Owner>) -> Result<Self> {
        let (wake, woken) = channel();
        let (tree, owner) = (Arc::clone(tree), Arc::clone(owner));
        let newest: HashSet<_> = tree
            .snapshot()
            .vms()
            .filter_map(|vm| vm.latest().map(|point| point.entry.point_id))
            .collect();
        let mut seen: HashSet<_> = points(&tree)
            .iter()
            .map(|point| point.entry.point_id)
            .collect();
        seen.retain(|id| !newest.contains(id));
        let run = move || {
            while woken.recv().is_ok() {
                for point in points(&tree) {
                    if seen.insert(point.entry.point_id) && !is_kept(&owner, &point) {
                        look(&tree, &owner, &point);
                    }
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("probe".to_owned())
            .spawn(run)
            .or_io("cannot start the probing thread")?;
        let prober = Self {
            wake: Mutex::new(Some(wake)),
            thread: Some(thread),
        };
        prober.wake();
        Ok(prober)
    }

    /// Notifies the thread that there may be new points.
    pub fn wake(&self) {
        if let Some(wake) = &*self.wake.lock() {
            // The send cannot fail: the thread ends only with this value.
            let _ = wake.send(());
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.wake.lock().take();
        if let Some(thread) = self.thread.take() {
            // The panic hook has already logged a panic of the thread.
            let _ = thread.join();
        }
    }
}

fn points(tree: &Tree) -> Vec<Arc<PointView>> {
    let snapshot = tree.snapshot();
    snapshot
        .vms()
        .flat_map(|vm| vm.points.iter().cloned())
        .collect()
}

fn is_kept(owner: &Owner, point: &PointView) -> bool {
    owner
        .repository()
        .state(&point.vm, &point.entry)
        .is_ok_and(|state| state.volumes.is_some())
}

fn look(tree: &Tree, owner: &Owner, point: &Arc<PointView>) {
    if let Err(error) = probe_point(tree, owner, point) {
        tracing::warn!(vm = %point.vm, point = %point.entry.name, error = %error.report(), "the volumes of a new point were not found");
    }
}
