//! Limits of what agents declare about disks and points: keys, change ids and notes.
//!
//! # Why
//! These values go into `session.json`, into `point.json` and from there into those of all later
//! points, which are read whole. Without limits, a client that may only write sessions could create
//! sidecars that nobody can read any more.

use crate::error::{Error, ErrorKind, Result};
use crate::types::DiskName;

/// LIMIT: bytes of a disk's key.
const KEY_BYTES_MAX: usize = 255;
/// LIMIT: bytes of a change id, as of an extended attribute's value.
const CHANGE_ID_BYTES_MAX: usize = 64 << 10;

/// Refuses a key that is not short plain text.
///
/// # Errors
/// `InvalidInput`.
pub(in crate::ingest) fn check_key(disk: &DiskName, key: &str) -> Result<()> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX || key.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "the key of disk {disk} is empty, longer than {KEY_BYTES_MAX} bytes, or has control characters"
        )));
    }
    Ok(())
}

/// LIMIT: bytes of the note on a point's consistency.
const NOTE_BYTES_MAX: usize = 4 << 10;

/// Refuses a consistency note that is too long.
///
/// # Errors
/// `LimitExceeded`.
pub(in crate::ingest) fn check_note(note: Option<&str>) -> Result<()> {
    match note.map_or(0, str::len) {
        length if length > NOTE_BYTES_MAX => Err(Error::new(
            ErrorKind::LimitExceeded,
            format!(
                "the note on the consistency has {length} bytes, {NOTE_BYTES_MAX} are possible"
            ),
        )),
        _ => Ok(()),
    }
}

/// Refuses change ids that are too long.
///
/// # Errors
/// `LimitExceeded`, which names the disk.
pub(in crate::ingest) fn check_change_ids<'a>(
    ids: impl IntoIterator<Item = (&'a DiskName, &'a String)>,
) -> Result<()> {
    match ids
        .into_iter()
        .find(|(_, id)| id.len() > CHANGE_ID_BYTES_MAX)
    {
        None => Ok(()),
        Some((disk, id)) => Err(Error::new(
            ErrorKind::LimitExceeded,
            format!(
                "the change id of disk {disk} has {} bytes, {CHANGE_ID_BYTES_MAX} are possible",
                id.len()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::{CHANGE_ID_BYTES_MAX, KEY_BYTES_MAX, check_change_ids, check_key};
    use crate::types::DiskName;

    #[test]
    fn what_is_kept_is_bounded() {
        let disk = DiskName::new("vda").unwrap();
        for good in ["vda", "6000C29a-1", &"k".repeat(KEY_BYTES_MAX)] {
            check_key(&disk, good).unwrap();
        }
        for bad in ["", "a\nb", "\u{1b}[31m", &"k".repeat(KEY_BYTES_MAX + 1)] {
            assert!(check_key(&disk, bad).is_err(), "{bad:?}");
        }
        let id = |length| "z".repeat(length);
        check_change_ids([(&disk, &id(CHANGE_ID_BYTES_MAX))]).unwrap();
        assert!(check_change_ids([(&disk, &id(CHANGE_ID_BYTES_MAX + 1))]).is_err());
    }
}
