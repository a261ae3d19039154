//! Copies that are asked for again: the other repositories say which points they have.
//!
//! # Why
//! The state of a point says that a copy was made. It does not know that somebody has removed it since, or that the disk is gone.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc;
use std::time::Duration;

use super::facts::Scene;
use crate::error::{ErrorKind, Result};
use crate::repo::register::Registered;
use crate::types::{Digest, PointId, RepositoryId, RepositoryName, VmId};

/// LIMIT: how long a repository is waited for, which reads all its indexes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The points that a repository has, by VM: their ids and the hashes of their sidecars.
type Holdings = HashMap<VmId, HashSet<(PointId, Digest)>>;

fn holdings(entry: &Registered) -> Result<Holdings> {
    let repository = entry.open()?;
    let names = repository.vm_names()?;
    let mut all = Holdings::new();
    for (name, index) in names.iter().zip(repository.indexes(&names)?) {
        let index = match index {
            Ok(index) => index,
            // What cannot be read is no copy.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
                tracing::warn!(vm = %name, error = %e.report(), "a copy cannot be read");
                continue;
            }
            Err(e) => return Err(e),
        };
        let points = index.points.iter();
        let points = points.map(|point| (point.point_id, point.point_blake3));
        all.entry(index.vm_id).or_default().extend(points);
    }
    Ok(all)
}

/// Asks the repositories of which a point says that they have a copy, all at once, and takes the copies out of `scene` that they do
/// not confirm. Returns the repositories that could not be asked, with the reason: their copies are not confirmed.
pub(super) fn ask(scene: &mut Scene, entries: &[Registered]) -> Vec<(RepositoryName, String)> {
    let points = scene.vms.iter().flat_map(|vm| &vm.points);
    let named: HashSet<RepositoryId> = points
        .flat_map(|point| point.copies.iter().map(|(id, _)| *id))
        .collect();
    let asked = entries.iter().filter(|entry| named.contains(&entry.id));
    let answers: Vec<_> = asked
        .map(|entry| {
            let (sender, receiver) = mpsc::channel();
            let of = entry.clone();
            // The process ends without waiting for it.
            std::thread::spawn(move || {
                let _ = sender.send(holdings(&of));
            });
            (entry, receiver)
        })
        .collect();
    let mut failed = Vec::new();
    let mut found: HashMap<RepositoryId, Holdings> = HashMap::new();
    for (entry, receiver) in answers {
        match receiver.recv_timeout(PATIENCE) {
            Ok(Ok(holdings)) => drop(found.insert(entry.id, holdings)),
            Ok(Err(e)) => failed.push((entry.name.clone(), e.report())),
            Err(_) => {
                let patience = PATIENCE.as_secs();
                let why = format!("it does not answer within {patience} s");
                failed.push((entry.name.clone(), why));
            }
        }
    }
    for vm in &mut scene.vms {
        let vm_id = vm.vm_id;
        for point in &mut vm.points {
            let key = (point.point_id, point.point_blake3);
            let has = |id: &RepositoryId| {
                let holdings = found.get(id)?;
                Some(holdings.get(&vm_id?)?.contains(&key))
            };
            point.copies.retain(|(id, _)| has(id).unwrap_or(false));
        }
    }
    failed
}
