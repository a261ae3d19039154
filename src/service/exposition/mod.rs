//! The metrics of this process and of the repositories that it serves, as Prometheus reads them.
//!
//! # Invariants
//! - Only VMs that the caller may name have series of their own; the sums of a repository are over all its VMs.
//! - A VM that cannot be read is damage. A repository that cannot be looked at is down (`restorefs_repository_up` is 0). Neither is an
//!   error of the scrape.
//! - However often somebody scrapes, a repository is looked at once in a while, by one thread.

mod family;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::look::Look;
use super::owned::OwnedRepository;
use crate::error::Result;
use crate::jobs::health::VmHealth;
use crate::metrics::{Family, Sheet};
use crate::task::{TaskKind, TaskState};
use crate::types::{RepositoryName, VmName};

pub use super::look::LookLimits;
pub use family::FAMILIES;

const DAY_SECONDS: u64 = 86_400;

/// A repository, and the name that its series have.
#[derive(Clone, Copy)]
pub struct Scraped<'a> {
    /// Its name on this machine.
    pub name: &'a RepositoryName,
    /// The repository.
    pub served: &'a Arc<OwnedRepository>,
}

/// Writes the metrics of the process and of `repositories`, which have different names. `may_name` tells of which VMs the
/// caller may see the names. Blocks for at most the patience of [`LookLimits`].
///
/// # Errors
/// `Io` when the text could not be written.
pub fn expose(
    repositories: &[Scraped<'_>],
    may_name: &dyn Fn(&RepositoryName, &VmName) -> bool,
) -> Result<String> {
    expose_within(repositories, may_name, &LookLimits::default())
}

/// The same within other limits.
///
/// # Errors
/// As [`expose`].
pub fn expose_within(
    repositories: &[Scraped<'_>],
    may_name: &dyn Fn(&RepositoryName, &VmName) -> bool,
    limits: &LookLimits,
) -> Result<String> {
    let deadline = Instant::now() + limits.patience;
    for scraped in repositories {
        let owner = &scraped.served.sessions().engine().owner;
        scraped.served.looks().begin(owner, limits);
    }
    let mut sheet = Sheet::default();
    let mut room = limits.vms;
    for scraped in repositories {
        let mut figures = Figures {
            sheet: &mut sheet,
            repository: scraped.name,
        };
        figures.add_present(scraped.served);
        let look = scraped.served.looks().wait(deadline);
        figures.add(&family::UP, truth(look.is_some()));
        if let Some(look) = look {
            figures.add_look(&look);
            figures.add_vms(&look, may_name, &mut room);
        }
    }
    sheet.into_text()
}

const fn truth(is_so: bool) -> f64 {
    if is_so { 1.0 } else { 0.0 }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the text format has floating-point numbers only"
)]
const fn number(n: u64) -> f64 {
    n as f64
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the text format has floating-point numbers only"
)]
const fn count(n: usize) -> f64 {
    n as f64
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the text format has floating-point numbers only"
)]
fn seconds(at: jiff::Timestamp) -> f64 {
    at.as_second() as f64
}

/// The figures of one repository on a sheet.
struct Figures<'a> {
    sheet: &'a mut Sheet,
    repository: &'a RepositoryName,
}

impl Figures<'_> {
    fn add(&mut self, family: &'static Family, figure: f64) {
        self.sheet.add(family, &[self.repository.as_str()], figure);
    }

    fn add_some(&mut self, family: &'static Family, figure: Option<f64>) {
        if let Some(figure) = figure {
            self.add(family, figure);
        }
    }

    fn add_of_vm(&mut self, family: &'static Family, vm: &VmName, figure: f64) {
        let labels = [self.repository.as_str(), vm.as_str()];
        self.sheet.add(family, &labels, figure);
    }

    /// What the owner has in memory.
    fn add_present(&mut self, served: &OwnedRepository) {
        let sessions = served.sessions().all().len();
        let owner = &served.sessions().engine().owner;
        self.add(&family::HELD, truth(owner.is_held()));
        self.add(&family::SESSIONS, count(sessions));
        let mut running: HashMap<&str, usize> = HashMap::new();
        for task in served.tasks().reports() {
            if task.state == TaskState::Running {
                *running.entry(task.subject.kind.as_str()).or_default() += 1;
            }
        }
        // A session is a task, which the registry keeps.
        *running.entry(TaskKind::Backup.as_str()).or_default() += sessions;
        for kind in TaskKind::ALL.map(TaskKind::as_str) {
            let running = running.get(kind).copied().unwrap_or_default();
            let labels = [self.repository.as_str(), kind];
            self.sheet.add(&family::RUNNING, &labels, count(running));
        }
    }

    /// The sums over all VMs.
    fn add_look(&mut self, look: &Look) {
        let (health, content) = (&look.health, &look.content);
        let vms = || health.vms.iter();
        let sum = |of: fn(&VmHealth) -> usize| count(vms().map(of).sum());
        self.add(&family::SEEN, seconds(look.at));
        self.add(&family::VMS, count(health.vms.len()));
        self.add(&family::POINTS, sum(|vm| vm.points));
        self.add(&family::STORED, number(content.used_bytes));
        self.add(
            &family::HIDDEN,
            number(vms().map(|vm| vm.hidden_bytes).sum()),
        );
        let depth = vms().filter_map(|vm| vm.depth).max();
        self.add(&family::DEPTH, f64::from(depth.unwrap_or_default()));
        self.add(&family::DEPTH_MAX, f64::from(look.depth_max));
        let oldest = vms().filter_map(|vm| vm.oldest_checked_at).min();
        self.add_some(&family::OLDEST_CHECK, oldest.map(seconds));
        self.add(&family::UNCHECKED, sum(|vm| vm.unchecked_points));
        self.add(&family::DAMAGED_POINTS, sum(|vm| vm.damaged_points));
        self.add(&family::DAMAGED_VMS, count(health.damaged().len()));
        let standings = || look.standings.values();
        let copies_due = standings().map(|one| one.copies_due).sum();
        self.add(&family::COPIES_DUE, count(copies_due));
        let unmet = standings().filter(|one| !one.is_met()).count();
        self.add(&family::UNMET, count(unmet));
        self.add(&family::UNUSABLE, count(look.unusable_policies));
        let space = health.space;
        self.add_some(&family::FREE, space.map(|space| number(space.free_bytes)));
        self.add_some(&family::SIZE, space.map(|space| number(space.total_bytes)));
        self.add(&family::TRASH, number(health.trash_bytes));
        self.add(&family::FLAT, number(content.flat_bytes));
        let days = content.days_until_full;
        let full_in = days.map(|days| number(days.saturating_mul(DAY_SECONDS)));
        self.add_some(&family::FULL_IN, full_in);
    }

    /// The figures of each VM that the caller may name, while there is room for their series.
    fn add_vms(
        &mut self,
        look: &Look,
        may_name: &dyn Fn(&RepositoryName, &VmName) -> bool,
        room: &mut usize,
    ) {
        let mut left_out = 0;
        for vm in &look.health.vms {
            if !may_name(self.repository, &vm.vm) {
                continue;
            }
            match room.checked_sub(1) {
                Some(rest) => {
                    *room = rest;
                    self.add_vm(look, vm);
                }
                None => left_out += 1,
            }
        }
        self.add(&family::LEFT_OUT, count(left_out));
    }

    fn add_vm(&mut self, look: &Look, vm: &VmHealth) {
        let name = &vm.vm;
        if let Some(last) = &vm.last {
            self.add_of_vm(&family::VM_SUCCESS, name, seconds(last.captured_at));
        }
        self.add_of_vm(&family::VM_POINTS, name, count(vm.points));
        if let Some(stored) = look.stored_by_vm.get(name) {
            self.add_of_vm(&family::VM_STORED, name, number(*stored));
        }
        if let Some(depth) = vm.depth {
            self.add_of_vm(&family::VM_DEPTH, name, f64::from(depth));
        }
        if let Some(at) = vm.oldest_checked_at {
            self.add_of_vm(&family::VM_OLDEST_CHECK, name, seconds(at));
        }
        self.add_of_vm(&family::VM_UNCHECKED, name, count(vm.unchecked_points));
        self.add_of_vm(&family::VM_DAMAGED, name, truth(!vm.damage.is_empty()));
        self.add_of_vm(&family::VM_DAMAGED_POINTS, name, count(vm.damaged_points));
        if let Some(standing) = look.standings.get(name) {
            self.add_of_vm(&family::VM_COPIES_DUE, name, count(standing.copies_due));
            self.add_of_vm(&family::VM_MET, name, truth(standing.is_met()));
        }
    }
}
