//! The reference to a session.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{PointName, VmName};

/// `VM/SESSION`: a session by its VM and its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRef {
    /// The VM.
    pub vm: VmName,
    /// Name of the session.
    pub session: PointName,
}

impl fmt::Display for SessionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.vm, self.session)
    }
}
