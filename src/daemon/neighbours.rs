//! Other repositories, as the works of a served one reach them.
//!
//! # Concurrency
//! A repository is held weakly: two that know each other must not keep each other, and their locks, alive.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use super::served_repository::ServedRepository;
use super::writer::{PATIENCE, Writer, WriterMeans, patiently};
use crate::chain::{Pool, PoolLimits};
use crate::error::Result;
use crate::repo::Repository;
use crate::repo::register::{Register, Registered};
use crate::service::{Destination, Elsewhere, OwnedRepository, Service};
use crate::task::Monitor;
use crate::types::{Memory, RepositoryId, RepositoryName};

/// LIMIT: memory for a step at a repository whose lock this process takes: no data passes through it.
const STEP_MEMORY: Memory = Memory::new(64 << 20);

/// The repositories that this process serves, and those of the register.
pub(super) struct Neighbours {
    served: Vec<Neighbour>,
}

/// A served repository.
struct Neighbour {
    /// The name under which it is served: HTTP, the access table and the audit log know it by this one.
    name: Option<RepositoryName>,
    id: RepositoryId,
    path: PathBuf,
    served: Weak<OwnedRepository>,
}

impl Neighbours {
    /// Makes all repositories of this process known to each other.
    pub(super) fn introduce(repositories: &[ServedRepository]) {
        let served = repositories.iter().map(|repository| Neighbour {
            name: repository.served().access().repository().cloned(),
            id: repository.id(),
            path: repository.path().clone(),
            served: Arc::downgrade(repository.served()),
        });
        let all: Arc<dyn Elsewhere> = Arc::new(Self {
            served: served.collect(),
        });
        for repository in repositories {
            repository.served().set_elsewhere(Arc::clone(&all));
        }
    }

    fn registered(&self, entry: &Registered) -> Option<&Neighbour> {
        let mut served = self.served.iter();
        served.find(|one| one.id == entry.id && entry.is_at(&one.path))
    }
}

impl Elsewhere for Neighbours {
    fn find(&self, name: &RepositoryName) -> Result<Destination> {
        let is_of_name = |one: &&Neighbour| {
            let own = one.name.as_ref();
            own.is_some_and(|own| own.same_as(name))
        };
        let register = Register::load()?;
        let found = match (self.served.iter().find(is_of_name), register.get(name)) {
            (Some(one), _) => one,
            (None, Some(entry)) => match self.registered(entry) {
                Some(one) => one,
                None => return Ok(Destination::Registered(entry.clone())),
            },
            (None, None) => {
                return register.require(name).cloned().map(Destination::Registered);
            }
        };
        Ok(Destination::Served(Weak::clone(&found.served)))
    }

    fn writer(&self, to: &Arc<Repository>, monitor: &Monitor) -> Result<Box<dyn Service>> {
        let means = WriterMeans {
            role: "copy",
            pool: &|| {
                Pool::new(PoolLimits {
                    memory_bytes: STEP_MEMORY.chain_bytes(),
                    ..PoolLimits::default()
                })
            },
            ingest_bytes: STEP_MEMORY.ingest_bytes(),
        };
        let open = || Writer::open(Arc::clone(to), &means);
        patiently(PATIENCE, open, |_| monitor.check()).map(|writer| writer.service)
    }
}
