//! The state of named repositories, and copies among them that have one id.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::capacity::{Growth, Space};
use crate::error::{ErrorKind, Result};
use crate::repo::Repository;
use crate::repo::layout::VmKeys;
use crate::repo::register::Registered;
use crate::store::{Identity, Key};
use crate::types::{RepositoryId, RepositoryName, VmName};

/// LIMIT: how long a repository is waited for; a network filesystem whose server is gone does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A named repository, and what can be seen of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RegisteredHealth {
    /// Its name.
    pub name: RepositoryName,
    /// Its directory.
    pub path: PathBuf,
    /// The id under which it is registered.
    pub id: RepositoryId,
    /// What it lies on.
    pub media: Option<String>,
    /// Whether it lies elsewhere.
    pub offsite: bool,
    /// Whether the directory holds it.
    pub reachable: bool,
    /// Why it could not be seen.
    pub error: Option<String>,
    /// The id of the repository that the directory holds.
    pub found_id: Option<RepositoryId>,
    /// What it holds.
    #[serde(flatten)]
    pub content: Option<Content>,
}

/// What a repository holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Content {
    /// VMs.
    pub vms: usize,
    /// Restore points.
    pub points: usize,
    /// Bytes that the files of its layers take on the filesystem.
    pub used_bytes: u64,
    /// Those bytes by VM.
    #[serde(skip)]
    pub used_by_vm: Vec<(VmName, u64)>,
    /// Bytes of them that hidden layers take: merging frees at most these.
    pub hidden_bytes: u64,
    /// Bytes of what is in the trash.
    pub trash_bytes: u64,
    /// Bytes that the flat disks in `cache/flat` take, as `du` counts: nearly all of them are shared with layers.
    pub flat_bytes: u64,
    /// Room on its filesystem.
    pub space: Option<Space>,
    /// What backups have stored in the last 30 days.
    pub growth: Growth,
    /// Days until the filesystem is full at this pace, if nothing is forgotten.
    pub days_until_full: Option<u64>,
}

/// Repositories with one id in several directories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SameId {
    /// The id.
    pub id: RepositoryId,
    /// The directories.
    pub paths: Vec<PathBuf>,
}

/// A repository that was seen: its id, and where it is.
#[derive(Debug, Clone)]
struct Seen {
    id: RepositoryId,
    place: Option<Identity>,
    path: PathBuf,
}

/// What was seen of named repositories.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RegisterHealth {
    /// The repositories, in the order of the register.
    pub repositories: Vec<RegisteredHealth>,
    /// Ids that several of the directories have, also the directory of the repository at hand.
    pub same_id: Vec<SameId>,
}

impl Content {
    /// Looks at a repository.
    ///
    /// # Errors
    /// `Io`. A VM that cannot be read is counted, and its points are not.
    pub fn of(repository: &Repository, now: Timestamp) -> Result<Self> {
        let store = repository.store();
        let names = repository.vm_names()?;
        let mut content = Self {
            vms: 0,
            points: 0,
            used_bytes: 0,
            used_by_vm: Vec::new(),
            hidden_bytes: 0,
            trash_bytes: repository.trash_bytes()?,
            flat_bytes: repository.flat_bytes()?,
            space: None,
            growth: Growth::of(repository, now)?,
            days_until_full: None,
        };
        content.space = store.space()?.as_ref().map(Space::of);
        content.days_until_full = content
            .space
            .and_then(|space| content.growth.days_until(space.free_bytes));
        for (name, index) in names.iter().zip(repository.indexes(&names)?) {
            match index {
                Ok(index) => {
                    content.points += index.points.len();
                    let hidden = index.hidden.iter().map(|layer| layer.file_bytes);
                    content.hidden_bytes = hidden.fold(content.hidden_bytes, u64::saturating_add);
                }
                // A directory without a sidecar is not a VM.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                // It has a VM, whose points `check` looks at.
                Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {}
                Err(e) => return Err(e),
            }
            content.vms += 1;
            let layers = VmKeys::new(name)?.layers()?;
            let files = match store.list(&layers) {
                Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
                other => other?,
            };
            let mut of_vm = 0_u64;
            for file in files.iter().filter(|file| !file.is_prefix) {
                let taken = match store.stored_bytes(&layers.join(&file.name)?) {
                    // A merge has replaced it.
                    Err(e) if e.kind() == ErrorKind::NotFound => 0,
                    other => other?,
                };
                of_vm = of_vm.saturating_add(taken);
            }
            content.used_bytes = content.used_bytes.saturating_add(of_vm);
            content.used_by_vm.push((name.clone(), of_vm));
        }
        Ok(content)
    }
}

/// What one look at a directory yields.
struct Look {
    seen: Option<Seen>,
    content: Option<Result<Content>>,
    error: Option<String>,
}

fn seen(repository: &Repository, path: PathBuf) -> Seen {
    Seen {
        id: repository.format().repository_id,
        place: repository.store().identity(&Key::root()).ok().flatten(),
        path,
    }
}

fn look(entry: &Registered, with_content: bool, now: Timestamp) -> Look {
    match entry.open() {
        Ok(repository) => Look {
            seen: Some(seen(&repository, entry.path.clone())),
            content: with_content.then(|| Content::of(&repository, now)),
            error: None,
        },
        Err(e) => Look {
            // Another repository may be there, as after copying one over it.
            seen: Repository::open(&entry.path)
                .ok()
                .map(|other| seen(&other, entry.path.clone())),
            content: None,
            error: Some(e.report()),
        },
    }
}

impl RegisterHealth {
    /// Looks at all of them, each for a bounded time. `here` is the repository at hand, which may have no name.
    #[must_use]
    pub fn of(
        entries: &[Registered],
        here: Option<(&Repository, PathBuf)>,
        with_content: bool,
        now: Timestamp,
    ) -> Self {
        let looks: Vec<_> = entries
            .iter()
            .map(|entry| {
                let (sender, receiver) = mpsc::channel();
                let of = entry.clone();
                // The process ends without waiting for it.
                std::thread::spawn(move || {
                    let _ = sender.send(look(&of, with_content, now));
                });
                receiver
            })
            .collect();
        let mut all = Self::default();
        let mut places: Vec<Seen> = here
            .map(|(repository, path)| seen(repository, path))
            .into_iter()
            .collect();
        for (entry, look) in entries.iter().zip(looks) {
            let look = look.recv_timeout(PATIENCE).unwrap_or_else(|_| Look {
                seen: None,
                content: None,
                error: Some(format!(
                    "it does not answer within {} s",
                    PATIENCE.as_secs()
                )),
            });
            let (content, failed) = match look.content {
                Some(Ok(content)) => (Some(content), None),
                Some(Err(e)) => (None, Some(e.report())),
                None => (None, None),
            };
            all.repositories.push(RegisteredHealth {
                name: entry.name.clone(),
                path: entry.path.clone(),
                id: entry.id,
                media: entry.media.clone(),
                offsite: entry.offsite,
                reachable: look.error.is_none(),
                error: look.error.or(failed),
                found_id: look.seen.as_ref().map(|seen| seen.id),
                content,
            });
            places.extend(look.seen);
        }
        all.same_id = same_ids(&places);
        all
    }
}

/// Ids that are in several directories.
fn same_ids(places: &[Seen]) -> Vec<SameId> {
    let mut by_id: BTreeMap<RepositoryId, Vec<&Seen>> = BTreeMap::new();
    for place in places {
        let known = by_id.entry(place.id).or_default();
        let is_same = |other: &&Seen| {
            other.path == place.path || (place.place.is_some() && other.place == place.place)
        };
        if !known.iter().any(is_same) {
            known.push(place);
        }
    }
    let several = by_id.into_iter().filter(|(_, places)| places.len() > 1);
    several
        .map(|(id, places)| SameId {
            id,
            paths: places.into_iter().map(|place| place.path.clone()).collect(),
        })
        .collect()
}
