//! The health of the whole repository, and the verdict.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use super::capacity::Space;
use super::vm::VmHealth;
use crate::error::Result;
use crate::repo::Repository;
use crate::repo::lock::Holder;
use crate::repo::repository::each_on_threads;
use crate::types::VmName;
use crate::types::duration::Age;
use crate::types::size::{Count, Human};

/// LIMIT: VMs that the verdict names.
const NAMED_MAX: usize = 5;

/// The verdict, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All is well.
    Ok,
    /// A policy is not met.
    Unmet,
    /// A VM's last point is older than the caller allows, or it has none; only where the caller sets an age.
    Late,
    /// Damage is known.
    Damaged,
}

impl Verdict {
    /// The spelling in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unmet => "unmet",
            Self::Late => "late",
            Self::Damaged => "damaged",
        }
    }

    fn of(vms: &[VmHealth]) -> Self {
        let of_vm = |vm: &VmHealth| match (vm.damage.is_empty(), vm.is_late) {
            (false, _) => Self::Damaged,
            (true, true) => Self::Late,
            (true, false) => Self::Ok,
        };
        vms.iter().map(of_vm).max().unwrap_or(Self::Ok)
    }
}

/// The process that holds the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holding {
    /// Process id.
    pub pid: u32,
    /// Host name.
    pub host: String,
    /// What it is: `serve`, `backup`, ...
    pub role: String,
    /// Whether it is a daemon.
    pub is_daemon: bool,
}

/// The health of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// The verdict.
    pub verdict: Verdict,
    /// The age that is allowed.
    pub age_max_seconds: Option<u64>,
    /// The VMs, by name.
    pub vms: Vec<VmHealth>,
    /// Room; `None` where the store does not tell it.
    pub space: Option<Space>,
    /// Bytes of what is in the trash.
    pub trash_bytes: u64,
    /// Who holds the lock; `None` when nobody does, or when that cannot be seen.
    pub owner: Option<Holding>,
    /// Whether it could be seen who holds the lock.
    pub is_owner_known: bool,
    /// VMs of which a policy is not met, and policies that cannot be used: see [`Health::judge`].
    #[serde(skip)]
    pub unmet: Vec<String>,
}

impl Health {
    /// Looks at all VMs, without the lock. The caller has counted the trash: that is a walk through all of its files.
    ///
    /// # Errors
    /// `Io`. Damage is in the returned value.
    pub fn of(
        repository: &Repository,
        age_max_seconds: Option<u64>,
        trash_bytes: u64,
        now: Timestamp,
    ) -> Result<Self> {
        let look = |vm: &VmName| VmHealth::of(repository, vm, age_max_seconds, now);
        let mut vms = Vec::new();
        for found in each_on_threads(&repository.vm_names()?, look)? {
            vms.extend(found?);
        }
        let space = repository.store().space()?;
        let (owner, is_owner_known) = match Holder::of(repository) {
            Holder::Nobody => (None, true),
            Holder::Process(Some(note)) => {
                let holding = Holding {
                    pid: note.pid,
                    host: note.host,
                    role: note.role,
                    is_daemon: note.control.is_some(),
                };
                (Some(holding), true)
            }
            Holder::Process(None) | Holder::Unknown => (None, false),
        };
        Ok(Self {
            verdict: Verdict::of(&vms),
            age_max_seconds,
            vms,
            space: space.as_ref().map(Space::of),
            trash_bytes,
            owner,
            is_owner_known,
            unmet: Vec::new(),
        })
    }

    /// Adds the judgement on the policies: `unmet` names the VMs of which one is not met, and policies that cannot be used.
    pub fn judge(&mut self, unmet: Vec<String>) {
        if !unmet.is_empty() {
            self.verdict = self.verdict.max(Verdict::Unmet);
        }
        self.unmet = unmet;
    }

    /// The same of some of the VMs, for somebody who sees no others: without room, and not judged by policies yet.
    #[must_use]
    pub fn only(&self, sees: impl Fn(&VmName) -> bool) -> Self {
        let mut some = self.clone();
        some.vms.retain(|vm| sees(&vm.vm));
        some.verdict = Verdict::of(&some.vms);
        some.space = None;
        some.unmet.clear();
        some
    }

    fn those(&self, is_so: impl Fn(&VmHealth) -> bool) -> Vec<&VmName> {
        let vms = self.vms.iter().filter(|vm| is_so(vm));
        vms.map(|vm| &vm.vm).collect()
    }

    /// VMs with damage.
    #[must_use]
    pub fn damaged(&self) -> Vec<&VmName> {
        self.those(|vm| !vm.damage.is_empty())
    }

    /// VMs whose last point is older than the caller allows, or that have none; none where the caller sets no age.
    #[must_use]
    pub fn late(&self) -> Vec<&VmName> {
        self.those(|vm| vm.is_late)
    }
}

fn texts<'a>(names: &[&'a VmName]) -> Vec<&'a str> {
    names.iter().map(|name| name.as_str()).collect()
}

/// `web01, db01 and 3 more`.
struct Names<'a>(&'a [&'a str]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.iter().take(NAMED_MAX);
        let shown: Vec<&str> = shown.copied().collect();
        f.write_str(&shown.join(", "))?;
        match self.0.len().saturating_sub(NAMED_MAX) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// The verdict as one line, for a monitor: `LATE: web01; 12 VMs, ...`.
impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (damaged, late) = (texts(&self.damaged()), texts(&self.late()));
        if !damaged.is_empty() {
            write!(f, "DAMAGED: {}; ", Names(&damaged))?;
        }
        if !late.is_empty() {
            let max = self.age_max_seconds.unwrap_or_default();
            write!(
                f,
                "LATE: {} (no point of the last {}); ",
                Names(&late),
                Age(max)
            )?;
        }
        if !self.unmet.is_empty() {
            let unmet: Vec<&str> = self.unmet.iter().map(String::as_str).collect();
            write!(f, "NOT MET: {} (policy); ", Names(&unmet))?;
        }
        if damaged.is_empty() && late.is_empty() && self.unmet.is_empty() {
            f.write_str("OK: ")?;
        }
        write!(f, "{}", Count::of(self.vms.len(), "VM"))?;
        let ages = self.vms.iter().filter_map(|vm| vm.last.as_ref());
        if let Some(oldest) = ages.map(|last| last.age_seconds).max() {
            write!(f, ", the oldest last point is {} old", Age(oldest))?;
        }
        match self.space {
            Some(space) => write!(f, ", {} free", Human(space.free_bytes)),
            None => Ok(()),
        }
    }
}
