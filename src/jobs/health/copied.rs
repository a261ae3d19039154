//! Whether the repositories that are recorded to have copies of points have them: they are asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc;
use std::time::Duration;

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::jobs::copy::known_vms;
use crate::repo::Repository;
use crate::repo::register::{Register, Registered};
use crate::repo::sidecar::index::Index;
use crate::types::{Digest, PointId, RepositoryId, RepositoryName, VmId};

/// LIMIT: how long a repository is waited for; a network filesystem whose server is gone does not answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a repository has of the copies that are recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopyCheck {
    /// Its id.
    pub repository_id: RepositoryId,
    /// Its name, if it has one.
    pub name: Option<RepositoryName>,
    /// Points that are recorded to be there.
    pub points: usize,
    /// Points that are not there, or are others: `VM@POINT`.
    pub lost: Vec<String>,
    /// Why it could not be asked; then nothing is known of its points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A point of which a copy is recorded.
struct Expected {
    vm: VmId,
    point: PointId,
    blake3: Digest,
    label: String,
}

impl CopyCheck {
    /// Asks each repository of which these indexes record copies, by its name in the register.
    #[must_use]
    pub fn of(indexes: &[Index], register: &Register) -> Vec<Self> {
        let mut expected: BTreeMap<RepositoryId, Vec<Expected>> = BTreeMap::new();
        for index in indexes {
            for point in &index.points {
                for copy in &point.copies {
                    expected
                        .entry(copy.repository_id)
                        .or_default()
                        .push(Expected {
                            vm: index.vm_id,
                            point: point.point_id,
                            blake3: point.point_blake3,
                            label: format!("{}@{}", index.name, point.name),
                        });
                }
            }
        }
        let check = |(id, expected): (RepositoryId, Vec<Expected>)| {
            let entry = register.entries().iter().find(|entry| entry.id == id);
            let (points, name) = (expected.len(), entry.map(|entry| entry.name.clone()));
            let asked = match entry {
                Some(entry) => ask(entry.clone(), expected),
                None => Err(
                    Error::not_found("the repository has no name on this machine")
                        .advise("name it: restorefs repo add NAME DIR"),
                ),
            };
            let (lost, error) = match asked {
                Ok(lost) => (lost, None),
                Err(e) => (Vec::new(), Some(e.report())),
            };
            Self {
                repository_id: id,
                name,
                points,
                lost,
                error,
            }
        };
        expected.into_iter().map(check).collect()
    }
}

/// The points that a repository lacks.
fn ask(entry: Registered, expected: Vec<Expected>) -> Result<Vec<String>> {
    let (answer, answered) = mpsc::channel();
    let asking = move || {
        let lost = entry.open().and_then(|there| missing(&there, &expected));
        // Nobody may wait any more.
        let _ = answer.send(lost);
    };
    let started = std::thread::Builder::new()
        .name("copies".into())
        .spawn(asking);
    started.map_err(|e| Error::io("cannot start a thread", e))?;
    answered.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::TimedOut,
            format!(
                "the repository does not answer within {} s",
                PATIENCE.as_secs()
            ),
        ))
    })
}

fn missing(there: &Repository, expected: &[Expected]) -> Result<Vec<String>> {
    let names = known_vms(there)?;
    let mut points: HashMap<PointId, Digest> = HashMap::new();
    let mut seen: Vec<VmId> = Vec::new();
    let mut lost = Vec::new();
    for one in expected {
        if !seen.contains(&one.vm) {
            seen.push(one.vm);
            let index = names.get(&one.vm).map(|name| there.index(name));
            // Points of a VM that cannot be read there are lost for this check.
            if let Some(Ok(index)) = index {
                let found = index.points.into_iter();
                points.extend(found.map(|point| (point.point_id, point.point_blake3)));
            }
        }
        if points.get(&one.point) != Some(&one.blake3) {
            lost.push(one.label.clone());
        }
    }
    Ok(lost)
}
