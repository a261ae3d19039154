//! Which errors of a look are damage.

use crate::error::{Error, ErrorKind};

/// Whether an error tells of damage, and not of a repository that cannot be reached or a request to stop.
pub(super) fn is_damage(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Corrupt | ErrorKind::Io | ErrorKind::Unsupported | ErrorKind::InvalidInput
    )
}

/// [`is_damage`], or a file is missing or was replaced while it was read: damage where another look meets it, too.
pub(super) fn is_loss(error: &Error) -> bool {
    is_damage(error) || matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Stale)
}
