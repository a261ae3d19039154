//! ACLs as text, with numbers instead of names: the value of `SCHILY.acl.*`.
//!
//! # On-disk layout
//! The kernel's form (`linux/posix_acl_xattr.h`), little-endian: version (u32, 2), then entries of tag (u16), permissions
//! (u16), id (u32).

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use crate::error::{Error, Result};

const VERSION: u32 = 2;
/// LIMIT: entries of an ACL; an extended attribute has at most 64 KiB.
const ENTRIES_MAX: usize = 8192;

/// The text of an ACL in the kernel's form: `user::rw-,user:1000:r--,group::r--,mask::r--,other::---`.
///
/// # Errors
/// `Corrupt`.
pub(super) fn text(bytes: &[u8]) -> Result<String> {
    let (version, entries) = bytes
        .split_first_chunk::<4>()
        .ok_or_else(|| Error::corrupt("an ACL", "a version", format!("{} bytes", bytes.len())))?;
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(Error::corrupt("the version of an ACL", VERSION, version));
    }
    let (entries, rest) = entries.as_chunks::<8>();
    if !rest.is_empty() || entries.len() > ENTRIES_MAX {
        return Err(Error::corrupt(
            "the length of an ACL",
            format!("at most {ENTRIES_MAX} entries of 8 bytes"),
            format!("{} bytes", bytes.len()),
        ));
    }
    let texts: Result<Vec<String>> = entries.iter().map(entry).collect();
    Ok(texts?.join(","))
}

fn entry(entry: &[u8; 8]) -> Result<String> {
    let [t0, t1, p0, p1, id @ ..] = *entry;
    let id = u32::from_le_bytes(id);
    let subject = match u16::from_le_bytes([t0, t1]) {
        0x01 => "user:".to_owned(),
        0x02 => format!("user:{id}"),
        0x04 => "group:".to_owned(),
        0x08 => format!("group:{id}"),
        0x10 => "mask:".to_owned(),
        0x20 => "other:".to_owned(),
        tag => {
            return Err(Error::corrupt(
                "the tag of an ACL's entry",
                "1, 2, 4, 8, 16 or 32",
                tag,
            ));
        }
    };
    let permissions = u16::from_le_bytes([p0, p1]);
    if permissions > 7 {
        return Err(Error::corrupt(
            "the permissions of an ACL's entry",
            "0 to 7",
            permissions,
        ));
    }
    let letter = |bit, letter| if permissions & bit == 0 { '-' } else { letter };
    Ok(format!(
        "{subject}:{}{}{}",
        letter(4, 'r'),
        letter(2, 'w'),
        letter(1, 'x')
    ))
}

#[cfg(test)]
mod tests {
    use super::text;
    use crate::error::ErrorKind;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn every_tag() {
        let none = u32::MAX;
        let bytes = acl(&[
            (1, 6, none),
            (2, 4, 1000),
            (4, 5, none),
            (8, 7, 4_000_000_000),
            (16, 1, none),
            (32, 0, none),
        ]);
        assert_eq!(
            text(&bytes).unwrap(),
            "user::rw-,user:1000:r--,group::r-x,group:4000000000:rwx,mask::--x,other::---"
        );
    }

    #[test]
    fn damage_is_named() {
        let whole = acl(&[(1, 6, 0)]);
        for end in 0..whole.len() {
            if end != 4 {
                let part = whole.get(..end).unwrap();
                assert_eq!(text(part).unwrap_err().kind(), ErrorKind::Corrupt);
            }
        }
        for bytes in [acl(&[(3, 6, 0)]), acl(&[(1, 8, 0)]), vec![1, 0, 0, 0]] {
            assert_eq!(text(&bytes).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
