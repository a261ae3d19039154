//! A right on a VM, or on the repository as a whole.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A right on a VM or on the repository. No right implies another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// List VMs, restore points, sessions and tasks; open read-only NBD exports.
    Read,
    /// Take bytes of restore points out.
    Restore,
    /// Begin, write, commit and abort sessions; over TCP this also needs the session's token.
    Ingest,
    /// Remove, label, merge and repair restore points and VMs.
    Manage,
    /// Change what concerns the repository as a whole: mounts, policies, the catalog, the trash.
    Admin,
    /// Read the metrics.
    Metrics,
}

impl Right {
    /// All rights.
    pub const ALL: [Self; 6] = [
        Self::Read,
        Self::Restore,
        Self::Ingest,
        Self::Manage,
        Self::Admin,
        Self::Metrics,
    ];

    /// The right as the access file writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Restore => "restore",
            Self::Ingest => "ingest",
            Self::Manage => "manage",
            Self::Admin => "admin",
            Self::Metrics => "metrics",
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Right {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|right| right.as_str() == text).ok_or_else(|| {
            Error::invalid(format!("\"{}\" is no right", text.escape_debug()))
                .advise("the rights are read, restore, ingest, manage, admin, metrics")
        })
    }
}
