//! Reading policies.

use std::collections::BTreeSet;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::repo::layout::{self, POLICY_SUFFIX};
use crate::repo::repository::Repository;
use crate::repo::sidecar::policy::Policy;
use crate::repo::sidecar::policy_run::{PolicyRuns, Runner};
use crate::repo::sidecar::{Sidecar, parse};
use crate::store::{Key, Lock};
use crate::sys::{Dir, host};
use crate::types::{Digest, PolicyName};

/// LIMIT: bytes of a policy and of the runner's file; a policy has about 1 KB.
const POLICY_BYTES_MAX: u64 = 1 << 20;
/// LIMIT: bytes of the record of runs: 100,000 actions.
const RUNS_BYTES_MAX: u64 = 64 << 20;
/// LIMIT: policies of a repository.
const POLICIES_MAX: usize = 1_000;

/// A policy as it was found: its name, and the policy or why it cannot be read.
pub struct StoredPolicy {
    /// The name of its file.
    pub name: PolicyName,
    /// The policy.
    pub policy: Result<Policy>,
}

impl Repository {
    /// All policies, by name.
    ///
    /// # Errors
    /// `LimitExceeded`, `Io`; errors of single policies are in the returned list.
    pub fn policies(&self) -> Result<Vec<StoredPolicy>> {
        let load = |name: PolicyName| StoredPolicy {
            policy: self.load_policy(&name),
            name,
        };
        Ok(self.policy_names()?.into_iter().map(load).collect())
    }

    /// The names of all policies.
    fn policy_names(&self) -> Result<BTreeSet<PolicyName>> {
        let listed = match self.store().list(&layout::policies()?) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
            other => other?,
        };
        let runs = layout::policy_runs()?;
        let mut names = BTreeSet::new();
        for entry in listed.iter().filter(|entry| !entry.is_prefix) {
            let is_runs = layout::policies()?.join(&entry.name)? == runs;
            // A file of another name is no policy: an editor's backup, a note.
            let name = entry.name.strip_suffix(POLICY_SUFFIX);
            let name = name.and_then(|name| PolicyName::new(name).ok());
            names.extend(name.filter(|_| !is_runs));
        }
        if names.len() > POLICIES_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("a repository has at most {POLICIES_MAX} policies"),
            ));
        }
        Ok(names)
    }

    /// A policy's name as its file spells it; names are compared without regard to case.
    ///
    /// # Errors
    /// `NotFound`; `LimitExceeded`, `Io`.
    pub fn spelled_policy(&self, name: &PolicyName) -> Result<PolicyName> {
        let mut names = self.policy_names()?.into_iter();
        names.find(|stored| stored.same_as(name)).ok_or_else(|| {
            Error::not_found(format!("there is no policy {name}"))
                .advise("list the policies with: restorefs policy list")
        })
    }

    /// A policy.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt`, `Unsupported`; `Io`.
    pub fn policy(&self, name: &PolicyName) -> Result<Policy> {
        self.load_policy(&self.spelled_policy(name)?)
    }

    fn load_policy(&self, name: &PolicyName) -> Result<Policy> {
        let key = layout::policy(name)?;
        let found: Policy = self.small(&key, POLICY_BYTES_MAX)?;
        if !found.name.same_as(name) {
            let error = Error::corrupt("a policy has another name than its file", name, found.name);
            return Err(error.at_path(key.as_str()));
        }
        Ok(found)
    }

    /// The results of the policies' runs; empty when nothing has run yet.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported`, `Io`.
    pub fn policy_runs(&self) -> Result<PolicyRuns> {
        match self.small(&layout::policy_runs()?, RUNS_BYTES_MAX) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(PolicyRuns::default()),
            other => other,
        }
    }

    /// The machine that runs the policies; `None` when none is named.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported`, `Io`.
    pub fn policy_runner(&self) -> Result<Option<Runner>> {
        match self.small(&layout::policy_runner()?, POLICY_BYTES_MAX) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// Takes the lock of a run of the policies; `None` when another process has it.
    ///
    /// # Errors
    /// `Unsupported`, `PermissionDenied`, `NoSpace`, `Io`.
    pub fn lock_policy_run(&self) -> Result<Option<Box<dyn Lock>>> {
        self.store().make_prefix(&layout::policies()?)?;
        let note = format!("{}\n", std::process::id());
        match self.store().lock(&layout::policy_lock()?, note.as_bytes()) {
            Err(e) if e.kind() == ErrorKind::Locked => Ok(None),
            other => other.map(Some),
        }
    }

    /// Refuses the command of a policy whose file another user can have written.
    ///
    /// # Errors
    /// `PermissionDenied`; `NotFound`, `Unsupported`, `Io`.
    pub fn check_command_owner(&self, name: &PolicyName) -> Result<()> {
        let key = layout::policy(name)?;
        let root = self.store().local_root().ok_or_else(|| {
            Error::unsupported("commands are run from policies in local repositories only")
        })?;
        let stat = Dir::open(root)?.stat(key.as_str())?;
        let stat = stat.ok_or_else(|| Error::not_found(format!("there is no policy {name}")))?;
        let user = rustix::process::geteuid().as_raw();
        let refuse = |what: String| {
            Err(
                Error::new(ErrorKind::PermissionDenied, what).advise(format!(
                    "run the policies as the user with the id {}, to whom the repository belongs",
                    stat.uid
                )),
            )
        };
        if stat.uid != user && stat.uid != 0 {
            return refuse(format!(
                "the command of the policy {name} is not run for the user with the id {user}, because the file belongs to the user with the id {}",
                stat.uid
            ));
        }
        if stat.mode & 0o022 != 0 {
            return refuse(format!(
                "the command of the policy {name} is not run, because others may write to the file (mode {:o})",
                stat.mode
            ));
        }
        Ok(())
    }

    fn small<T: Sidecar>(&self, key: &Key, bytes_max: u64) -> Result<T> {
        parse(&self.store().get(key, bytes_max)?).at_path(key.as_str())
    }
}

impl Runner {
    /// The machine on which this process runs.
    #[must_use]
    pub fn here() -> Self {
        let host = host::name();
        let id = host::machine_id().unwrap_or_else(|| format!("host {host}"));
        Self {
            schema: Self::SCHEMA,
            machine: Digest::of(format!("restorefs policy runner {id}").as_bytes()).to_string(),
            host,
            unknown: crate::repo::sidecar::Unknown::new(),
        }
    }

    /// Whether it is the machine on which this process runs.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.machine == Self::here().machine
    }
}
