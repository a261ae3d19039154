//! Whether a caller's token is still the one with which something began.

use std::sync::Arc;

use crate::access::{Access, Caller};
use crate::types::Digest;

/// The token of a caller at an instant; callers without a token keep their standing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing(Option<(Arc<str>, Option<Digest>)>);

impl Standing {
    pub(super) fn of(caller: &Caller, access: &Access) -> Self {
        match caller {
            Caller::Token(name) => Self(Some((Arc::clone(name), access.token_identity(name)))),
            Caller::Restricted { of, .. } => Self::of(of, access),
            _ => Self(None),
        }
    }

    /// Whether the table still has that token, and no other one of its name. Expired tokens are not in the table.
    pub(super) fn holds(&self, access: &Access) -> bool {
        match &self.0 {
            Some((name, identity)) => {
                identity.is_some() && access.token_identity(name) == *identity
            }
            None => true,
        }
    }
}
