//! What all repositories of a daemon share to admit callers: the access table and the audit log.

use std::sync::Arc;

use super::config::Config;
use crate::access::{AuditLog, LiveAccess, default_file};
use crate::error::Result;

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
