//! Room, and what a repository is.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::View;
use crate::access::Right;
use crate::error::{Error, ErrorKind, Result};
use crate::jobs::health::Content;
use crate::types::{RepositoryId, RepositoryName};

/// A served repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RepositoryAnswer {
    /// The name by which it is served.
    pub name: RepositoryName,
    /// Its identity.
    pub repository_id: RepositoryId,
    /// The version of its format.
    pub format_version: u32,
    /// When it was created.
    pub created_at: Timestamp,
    /// The VMs in it that the caller may read.
    pub vms: usize,
}

/// Room in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CapacityAnswer {
    /// Bytes that can still be written; `null` where the storage does not tell.
    pub free_bytes: Option<u64>,
    /// Bytes of its filesystem.
    pub total_bytes: Option<u64>,
    /// Bytes that layers take.
    pub used_bytes: u64,
    /// Bytes of hidden layers: merging frees at most these.
    pub hidden_bytes: u64,
    /// Bytes of what is in the trash.
    pub trash_bytes: u64,
    /// Bytes that backups have stored a day lately.
    pub growth_bytes_per_day: u64,
    /// Days until it is full at that rate; `null` when it does not grow.
    pub days_until_full: Option<u64>,
    /// Whether less than a tenth is free.
    pub is_low: bool,
}

impl CapacityAnswer {
    pub(super) fn of(content: &Content) -> Self {
        Self {
            free_bytes: content.space.map(|space| space.free_bytes),
            total_bytes: content.space.map(|space| space.total_bytes),
            used_bytes: content.used_bytes,
            hidden_bytes: content.hidden_bytes,
            trash_bytes: content.trash_bytes,
            growth_bytes_per_day: content.growth.stored_bytes / content.growth.days.max(1),
            days_until_full: content.days_until_full,
            is_low: content.space.is_some_and(|space| space.is_low),
        }
    }
}

impl View {
    /// What the repository is.
    ///
    /// # Errors
    /// None of its own.
    pub fn describe(&self) -> Result<RepositoryAnswer> {
        let format = self.repository().format();
        let snapshot = self.tree().snapshot();
        let seen = snapshot.vms().filter(|vm| self.may(Right::Read, &vm.name));
        Ok(RepositoryAnswer {
            name: self.name().clone(),
            repository_id: format.repository_id,
            format_version: format.format_version,
            created_at: format.created_at,
            vms: seen.count(),
        })
    }

    /// Room in the repository, and how soon it is full.
    ///
    /// # Errors
    /// `PermissionDenied` for a caller that may not read all VMs; `Io`.
    pub fn capacity(&self) -> Result<CapacityAnswer> {
        if !self.may_all(Right::Read) {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                "room is shown to callers that may read every VM",
            ));
        }
        Ok(CapacityAnswer::of(&self.look()?.content))
    }
}
