//! What a copy amounts to: how its task ends, and what the source records of it.

use jiff::Timestamp;

use super::work::{PointReport, PointState, VmReport};
use crate::error::{Error, ErrorKind, Result};
use crate::repo::Repository;
use crate::repo::sidecar::Unknown;
use crate::repo::sidecar::copied::PointCopy;
use crate::types::{PointId, RepositoryId, VmName};

/// LIMIT: copies that are recorded with one request.
const NOTES_AT_ONCE: usize = 1_000;

/// Records copies at the source: the VM, and some of its copies.
pub type Record<'a> = &'a dyn Fn(&VmName, &[(PointId, PointCopy)]) -> Result<()>;

impl VmReport {
    /// The result of the task that copied the VM; `ended` is what ended it before its end.
    ///
    /// # Errors
    /// That of `ended`; `Corrupt` when a point was not copied because of damage.
    pub fn outcome(&self, ended: &Result<()>) -> Result<()> {
        let damaged = self.points.iter().find_map(|p| p.reason.as_ref());
        match (ended, damaged) {
            (Err(e), _) => Err(Error::new(e.kind(), e.report())),
            (Ok(()), Some(reason)) => Err(Error::new(ErrorKind::Corrupt, reason.clone())),
            (Ok(()), None) => Ok(()),
        }
    }

    /// The copies that the repository `target` has now, and those that it has no more.
    ///
    /// # Errors
    /// As [`Repository::index`].
    pub fn copies(
        &self,
        source: &Repository,
        target: RepositoryId,
        now: Timestamp,
    ) -> Result<Vec<(PointId, PointCopy)>> {
        let is_told =
            |point: &&PointReport| point.name.is_some() || point.state == PointState::Gone;
        let told: Vec<&PointReport> = self.points.iter().filter(is_told).collect();
        if told.is_empty() {
            return Ok(Vec::new());
        }
        let index = source.index(&self.vm)?;
        let copies = told.into_iter().map(|point| {
            let mut points = index.points.iter();
            let known = points.find(|known| known.point_id == point.point_id);
            let known = known.and_then(|known| {
                let mut copies = known.copies.iter();
                copies.find(|copy| copy.repository_id == target)
            });
            let is_gone = point.state == PointState::Gone;
            let was_gone = known.and_then(|known| known.gone_at);
            let was_verified = known.and_then(|known| known.verified_at);
            let copy = PointCopy {
                repository_id: target,
                at: known.map_or(now, |known| known.at),
                verified_at: if is_gone { was_verified } else { Some(now) },
                gone_at: is_gone.then_some(was_gone.unwrap_or(now)),
                unknown: known.map_or_else(Unknown::new, |known| known.unknown.clone()),
            };
            (point.point_id, copy)
        });
        Ok(copies.collect())
    }
}

/// Records copies at the source, a bounded number with each request.
///
/// # Errors
/// Those of `record`.
pub fn record(vm: &VmName, copies: &[(PointId, PointCopy)], record: Record<'_>) -> Result<()> {
    let mut chunks = copies.chunks(NOTES_AT_ONCE);
    chunks.try_for_each(|copies| record(vm, copies))
}
