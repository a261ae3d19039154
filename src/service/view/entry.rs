//! Directories of a point.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::View;
use super::page::{Slice, bad_cursor};
use crate::access::Right;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::fs::FileType;
use crate::repo::selector::Which;
use crate::tree::{Attributes, Ino, Tree};
use crate::types::VmName;

/// The type of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// What cannot be read: it is damaged.
    Unreadable,
}

impl EntryKind {
    const fn of(file_type: FileType) -> Self {
        match file_type {
            FileType::Regular => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::CharDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
        }
    }
}

/// An entry of a directory. A name is bytes: where they are not UTF-8, `name` shows them with replacement characters, and `name_b64` has
/// them all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct EntryAnswer {
    /// Its name.
    pub name: String,
    /// The bytes of a name that is not UTF-8, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_b64: Option<String>,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: EntryKind,
    /// Bytes of a file.
    pub size_bytes: Option<u64>,
    /// When its content last changed.
    pub mtime: Option<Timestamp>,
    /// Permission bits as digits: `0644`.
    pub mode: Option<String>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Where a symlink leads.
    pub target: Option<String>,
    /// The bytes of the name, for other modules.
    #[serde(skip)]
    pub bytes: Vec<u8>,
}

impl EntryAnswer {
    fn of(name: &[u8], attributes: Option<&Attributes>, target: Option<&[u8]>) -> Self {
        let text = std::str::from_utf8(name);
        let time = attributes.and_then(|attributes| {
            let nanoseconds = i32::try_from(attributes.mtime.nanoseconds).unwrap_or(0);
            Timestamp::new(attributes.mtime.seconds, nanoseconds).ok()
        });
        Self {
            name: String::from_utf8_lossy(name).into_owned(),
            name_b64: text.is_err().then(|| STANDARD.encode(name)),
            kind: attributes.map_or(EntryKind::Unreadable, |a| EntryKind::of(a.file_type)),
            size_bytes: attributes
                .filter(|a| a.file_type == FileType::Regular)
                .map(|a| a.size_bytes),
            mtime: time,
            mode: attributes.map(|a| format!("{:04o}", a.mode & 0o7777)),
            uid: attributes.map(|a| a.uid),
            gid: attributes.map(|a| a.gid),
            target: target.map(|target| String::from_utf8_lossy(target).into_owned()),
            bytes: name.to_vec(),
        }
    }
}

/// What a path of a point leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Listing {
    /// The node itself.
    pub node: EntryAnswer,
    /// Entries of a directory, in its own order; none for other nodes.
    pub items: Vec<EntryAnswer>,
    /// Where the next page begins; `null` at the end.
    pub next: Option<String>,
    /// Volumes and mount points here or below that cannot be shown, each with its reason.
    pub unread: Vec<UnreadAnswer>,
}

/// What cannot be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct UnreadAnswer {
    /// Where it would be, below the point.
    pub path: String,
    /// Why it is not shown.
    pub reason: String,
}

impl View {
    /// What a path of a point leads to: of a directory a page of its entries. The path begins below the point: `/files/etc`.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` (the cursor, `..`); `Corrupt`, and what the guest's reader returns.
    pub fn list(&self, vm: &VmName, which: &Which, path: &[u8], slice: &Slice) -> Result<Listing> {
        let after = slice.number()?.unwrap_or(0);
        let point = self.point_for(vm, which, Right::Read)?;
        let tree = self.tree();
        let found = node(tree, self.start(&point)?, path)?;
        let unread = match after {
            0 => tree.unread(&point, path)?,
            _ => Vec::new(),
        };
        let name = last_name(path).unwrap_or(point.entry.name.as_str().as_bytes());
        let mut listing = Listing {
            node: entry(tree, name, Some(&found)),
            items: Vec::new(),
            next: None,
            unread: unread
                .into_iter()
                .filter(|one| one.is_here || one.class.is_loss())
                .map(|one| UnreadAnswer {
                    path: one.path,
                    reason: one.reason,
                })
                .collect(),
        };
        if found.file_type != FileType::Directory {
            return match after {
                0 => Ok(listing),
                _ => Err(bad_cursor()),
            };
        }
        let mut last = after;
        let mut has_more = false;
        let mut taken = Vec::new();
        tree.entries(found.ino, after, &mut |one| {
            if taken.len() >= slice.limit {
                has_more = true;
                return false;
            }
            let attributes = one.found.as_ref().map(|found| found.attributes.clone());
            taken.push((one.name.to_vec(), attributes));
            last = one.cookie;
            true
        })?;
        let items = taken.iter();
        listing.items = items
            .map(|(name, attributes)| entry(tree, name, attributes.as_ref()))
            .collect();
        listing.next = has_more.then(|| last.to_string());
        Ok(listing)
    }
}

fn entry(tree: &Tree, name: &[u8], attributes: Option<&Attributes>) -> EntryAnswer {
    let link = attributes.filter(|a| a.file_type == FileType::Symlink);
    let target = link.and_then(|link| tree.link_target(link.ino).ok());
    EntryAnswer::of(name, attributes, target.as_deref())
}

/// The node that a path leads to. A path through what is no directory leads nowhere, and one through too many symlinks is wrong: neither
/// is damage or a limit that waiting helps with.
pub(super) fn node(tree: &Tree, start: Ino, path: &[u8]) -> Result<Attributes> {
    checked(path)?;
    let found = tree.resolve(start, path).map_err(told)?;
    Ok(found.attributes)
}

/// The names on the way to a node, none of which but the last is a symbolic link.
///
/// # Errors
/// As [`node`].
pub(super) fn real_names(tree: &Tree, start: Ino, path: &[u8]) -> Result<Vec<Vec<u8>>> {
    checked(path)?;
    tree.real_names(start, path).map_err(told)
}

fn checked(path: &[u8]) -> Result<()> {
    match path.contains(&0) {
        true => Err(Error::invalid("a path has no zero byte")),
        false => Ok(()),
    }
}

/// A failure to find a node, as a client is told of it.
fn told(e: Error) -> Error {
    match e.kind() {
        ErrorKind::NotADirectory => Error::not_found(e.report()),
        ErrorKind::LimitExceeded => Error::invalid(e.report()),
        _ => e,
    }
}

/// The last name of a path; `None` for a path without names.
pub(super) fn last_name(path: &[u8]) -> Option<&[u8]> {
    let mut parts = path.rsplit(|byte| *byte == b'/');
    parts.find(|part| !part.is_empty() && *part != b".")
}
