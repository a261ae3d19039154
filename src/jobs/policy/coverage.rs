//! Which policies apply to a VM.

use std::collections::HashMap;
use std::sync::Arc;

use super::facts::{Scene, VmFacts};
use super::terms::Terms;
use crate::error::{Error, ErrorKind, Result};
use crate::jobs::retention::{Choice, Owed};
use crate::repo::Repository;
use crate::types::VmName;

/// LIMIT: VMs that a message names.
const NAMED_MAX: usize = 3;

/// The policies that apply to a VM.
pub(super) struct Coverage<'a> {
    /// The policies.
    pub(super) terms: Vec<&'a Terms>,
    /// Why they do not apply as they should.
    pub(super) problem: Option<String>,
}

impl<'a> Coverage<'a> {
    /// The policies that apply to `vm`: its own, else all that fit its name.
    pub(super) fn of(scene: &'a Scene, vm: &VmFacts) -> Self {
        let mut all = scene.terms.iter();
        if let Some(own) = &vm.own_policy {
            let found = all.find(|terms| terms.name.same_as(own));
            let problem = found.is_none().then(|| {
                let why = scene
                    .unreadable
                    .iter()
                    .find(|(name, _)| name.same_as(own))
                    .map_or("there is none of that name", |(_, why)| why);
                format!("its own policy {own} does not apply: {why}")
            });
            return Self {
                terms: found.into_iter().collect(),
                problem,
            };
        }
        let terms: Vec<&Terms> = all.filter(|terms| terms.fits(&vm.vm)).collect();
        let names: Vec<&str> = terms.iter().map(|terms| terms.name.as_str()).collect();
        let problem = (terms.len() > 1).then(|| {
            format!(
                "the policies {} all fit it: none forgets anything; give it one with: restorefs policy assign {} NAME",
                names.join(", "),
                vm.vm
            )
        });
        Self { terms, problem }
    }

    /// The policy whose rules forget points: the only one.
    pub(super) fn only(&self) -> Option<&'a Terms> {
        match self.terms.as_slice() {
            [one] if self.problem.is_none() => Some(one),
            _ => None,
        }
    }
}

/// Refuses a policy that overlaps with others: both have the same pattern, or both fit a VM that has no policy of its own. One of
/// `others` with the name of the new policy is passed over.
///
/// # Errors
/// `InvalidInput` naming the VMs, or the pattern.
pub fn check_overlap(new: &Terms, others: &[Terms], vms: &[VmFacts]) -> Result<()> {
    for other in others.iter().filter(|other| !other.name.same_as(&new.name)) {
        let refuse = |what: String| {
            Err(Error::invalid(format!(
                "the policies {} and {} overlap: {what}",
                new.name, other.name
            ))
            .advise("choose other patterns, or give single VMs a policy of their own: restorefs policy assign VM NAME"))
        };
        let mut patterns = new.patterns.iter();
        if let Some(same) = patterns.find(|pattern| other.patterns.contains(pattern)) {
            return refuse(format!("both have \"{same}\""));
        }
        // A VM that is named in full need not be there yet, and may have a policy of its own.
        let has_own = |name: &VmName| {
            let mut known = vms.iter();
            known.any(|vm| vm.vm.same_as(name) && vm.own_policy.is_some())
        };
        let there = vms.iter().filter(|vm| vm.own_policy.is_none());
        let there = there.map(|vm| vm.vm.clone());
        let mut both: Vec<VmName> = there
            .chain(new.named())
            .chain(other.named())
            .filter(|vm| new.fits(vm) && other.fits(vm) && !has_own(vm))
            .collect();
        both.sort_by_key(VmName::folded);
        both.dedup_by(|a, b| a.same_as(b));
        if !both.is_empty() {
            let shown: Vec<&str> = both.iter().take(NAMED_MAX).map(VmName::as_str).collect();
            let more = match both.len().saturating_sub(NAMED_MAX) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            return refuse(format!("both fit {}{more}", shown.join(", ")));
        }
    }
    Ok(())
}

/// The repositories that are owed a copy of the points of each VM, and whether the filesystem is so full that points are not spared
/// for them.
///
/// # Errors
/// `Corrupt` when a policy cannot be read, so that it is not known what it owes; `Io`.
fn owed(repository: &Arc<Repository>) -> Result<(HashMap<VmName, Vec<Owed>>, bool)> {
    if repository.policies()?.is_empty() {
        return Ok((HashMap::new(), false));
    }
    let scene = Scene::of(repository, Vec::new())?;
    if let Some((name, why)) = scene.unreadable.first() {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("it is not known which copies the policy {name} owes: {why}"),
        )
        .advise(format!(
            "write it anew, or remove it: restorefs policy remove {name}"
        )));
    }
    let mut all = HashMap::new();
    for vm in &scene.vms {
        let copies = Coverage::of(&scene, vm).terms;
        let copies = copies.iter().flat_map(|terms| &terms.copies);
        let of_vm: Vec<Owed> = copies
            .map(|copy| Owed {
                id: copy.id,
                name: copy.to.clone(),
            })
            .collect();
        if !of_vm.is_empty() {
            all.insert(vm.vm.clone(), of_vm);
        }
    }
    Ok((all, scene.is_low))
}

/// The warning where points go that lack a copy.
pub const UNCOPIED_GO: &str =
    "less than a tenth of the filesystem is free: points that lack a copy are not spared";

/// Adds to the rules of each VM the copies that its policies owe. Returns whether points go although they lack such a copy, because the
/// filesystem is nearly full.
///
/// # Errors
/// `Corrupt` when a policy cannot be read, so that it is not known what it owes; `Io`.
pub fn spare_owed(repository: &Arc<Repository>, vms: &mut [(VmName, Choice)]) -> Result<bool> {
    let (mut owed, is_lifted) = owed(repository)?;
    let mut has_lifted = false;
    for (vm, choice) in vms {
        if let (Choice::Rules(rules), Some(owed)) = (choice, owed.remove(vm)) {
            rules.owed = owed;
            rules.is_owed_lifted = is_lifted;
            has_lifted |= is_lifted;
        }
    }
    Ok(has_lifted)
}
