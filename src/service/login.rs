//! Logins to the web pages of a daemon.

use serde::{Deserialize, Serialize};

use crate::access::Caller;
use crate::error::Result;

/// A code with which a person logs in once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginAnswer {
    /// The address to open: it has the code where no server sees it.
    pub url: String,
    /// The code, for the form of the login.
    pub code: String,
    /// Seconds for which it can be used.
    pub expires_seconds: u64,
}

/// What makes such codes.
pub trait Login: Send + Sync {
    /// Makes a code; who uses it has the rights of this caller.
    ///
    /// # Errors
    /// `NotFound` where no page is served that a browser can open; `LimitExceeded`; `Io`.
    fn make(&self, caller: &Caller) -> Result<LoginAnswer>;
}
