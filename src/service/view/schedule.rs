//! When backups come next, by the schedules of policies.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::View;
use crate::access::Right;
use crate::error::Result;
use crate::jobs::policy::Terms;
use crate::service::look::Look;
use crate::types::VmName;

impl View {
    /// When the next backup of each VM is due that the caller may read; VMs without a schedule are left out, and so are policies that
    /// cannot be used (`status` reports them).
    ///
    /// # Errors
    /// `LimitExceeded`, `Io`.
    pub(super) fn next_backups(&self, look: &Look) -> Result<BTreeMap<VmName, Timestamp>> {
        if look.standings.is_empty() {
            return Ok(BTreeMap::new());
        }
        let stored = self.repository().policies()?.into_iter();
        let terms: Vec<Terms> = stored
            .filter_map(|stored| Terms::of(&stored.policy.ok()?).ok())
            .collect();
        let now = self.now();
        let next = |terms: &Terms| terms.schedule?.next(now, terms.zone.time_zone());
        let standings = look.standings.values();
        let seen = standings.filter(|one| self.may(Right::Read, &one.vm));
        let due = seen.filter_map(|one| {
            let own = terms
                .iter()
                .filter(|terms| one.policies.contains(&terms.name));
            Some((one.vm.clone(), own.filter_map(next).min()?))
        });
        Ok(due.collect())
    }
}
