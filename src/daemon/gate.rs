//! What all repositories of a daemon share to admit callers: the access table and the audit log.

use std::sync::Arc;

use super::config::{Config, RepositoryConfig};
use crate::access::{AuditLog, LiveAccess, default_file};
use crate::error::Result;
use crate::repo::register::Register;
use crate::service::DEFAULT_NAME;
use crate::types::{RepositoryId, RepositoryName};

/// The access table and the audit log of a daemon.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    /// The table, for all repositories.
    pub(super) access: Arc<LiveAccess>,
    /// The audit log.
    pub(super) audit: Arc<AuditLog>,
}

impl Gate {
    /// Opens what a configuration names; without a name the default file is the table, as soon as it
    /// is there.
    ///
    /// # Errors
    /// As [`Config::check_table`], [`LiveAccess::open`] and [`AuditLog::to_file`].
    pub(super) fn open(config: &Config) -> Result<Self> {
        config.check_table()?;
        let access = match &config.access {
            Some(path) => LiveAccess::open(path, true)?,
            None => LiveAccess::open(&default_file(), false)?,
        };
        let audit = match &config.audit {
            Some(path) => AuditLog::to_file(path)?,
            None => AuditLog::to_log(),
        };
        Ok(Self {
            access,
            audit: Arc::new(audit),
        })
    }
}

/// The name by which the access table knows a repository: the one in the register, else `default`.
///
/// # Errors
/// None that can happen: the default name is a name.
pub(super) fn name_of(config: &RepositoryConfig, id: RepositoryId) -> Result<RepositoryName> {
    if let Some(named) = &config.named {
        return Ok(named.name.clone());
    }
    let register = Register::load().unwrap_or_else(|e| {
        tracing::warn!(error = %e.report(), "the repository's name is not known; the access table knows it as {DEFAULT_NAME}");
        Register::default()
    });
    let mut entries = register.entries().iter();
    match entries.find(|entry| entry.id == id && entry.is_at(&config.path)) {
        Some(entry) => Ok(entry.name.clone()),
        None => RepositoryName::new(DEFAULT_NAME),
    }
}
