//! Whether the repositories that are recorded to have copies of points have them: they are asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{self, Receiver};
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
    /// Their ids.
    #[serde(skip)]
    pub lost_ids: Vec<PointId>,
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
                // What the other repository has forgotten by its rules is known.
                let copies = point.copies.iter();
                for copy in copies.filter(|copy| copy.gone_at.is_none()) {
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
        // All are asked at once.
        let begin = |(id, expected): (RepositoryId, Vec<Expected>)| {
            let entry = register.entries().iter().find(|entry| entry.id == id);
            let (points, name) = (expected.len(), entry.map(|entry| entry.name.clone()));
            let asked = match entry {
                Some(entry) => ask(entry.clone(), expected),
                None => Err(
                    Error::not_found("the repository has no name on this machine")
                        .advise("name it: restorefs repo add NAME DIR"),
                ),
            };
            (id, name, points, asked)
        };
        let begun: Vec<_> = expected.into_iter().map(begin).collect();
        let end = |(repository_id, name, points, asked): (_, _, _, Result<Receiver<Answer>>)| {
            let (lost, error) = match asked.and_then(|answered| answer(&answered)) {
                Ok(lost) => (lost, None),
                Err(e) => (Vec::new(), Some(e.report())),
            };
            Self {
                repository_id,
                name,
                points,
                lost_ids: lost.iter().map(|lost| lost.point).collect(),
                lost: lost.into_iter().map(|lost| lost.label).collect(),
                error,
            }
        };
        begun.into_iter().map(end).collect()
    }
}

/// The points that a repository lacks.
type Answer = Result<Vec<Expected>>;

/// Begins to ask a repository which points it lacks.
fn ask(entry: Registered, expected: Vec<Expected>) -> Result<Receiver<Answer>> {
    let (answer, answered) = mpsc::channel();
    let asking = move || {
        let lost = entry.open().and_then(|there| missing(&there, expected));
        // Nobody may wait any more.
        let _ = answer.send(lost);
    };
    let started = std::thread::Builder::new()
        .name("copies".into())
        .spawn(asking);
    started.map_err(|e| Error::io("cannot start a thread", e))?;
    Ok(answered)
}

/// Waits for the answer of a repository, for a bounded time.
fn answer(answered: &Receiver<Answer>) -> Answer {
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

fn missing(there: &Repository, expected: Vec<Expected>) -> Answer {
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
            lost.push(one);
        }
    }
    Ok(lost)
}
