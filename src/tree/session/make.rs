//! Creates names: VMs, sessions, disks, attached files.

use super::session_of;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::BeginRequest;
use crate::tree::Tree;
use crate::tree::attribute::Found;
use crate::tree::inode::Ino;
use crate::tree::node::Node;
use crate::tree::refusal::{no_directory, not_permitted, read_only};
use crate::tree::session_node::{DISK_SUFFIX, Part, SessionNode};
use crate::types::{DiskName, VmName};

/// LIMIT: bytes of a name, as in Linux.
const NAME_BYTES_MAX: usize = 255;

/// A name as text.
pub(super) fn text(name: &[u8]) -> Result<&str> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::NameTooLong,
            "a name has at most 255 bytes",
        ));
    }
    std::str::from_utf8(name).map_err(|_| Error::invalid("the name is not UTF-8"))
}

/// The disk of a file name in `disks/`: `vda.raw`, or `.vda.raw.XyZ123` (rsync's name for an unfinished
/// file). The second value is true for the latter.
///
/// # Errors
/// `InvalidInput`, `NameTooLong` for other names.
pub(super) fn parse_disk_file(name: &str) -> Result<(DiskName, bool)> {
    let refused = || {
        Error::invalid(format!("\"{}\" is no name of a disk", name.escape_debug()))
            .advise("disks are called NAME.raw; a tool may write .NAME.raw.SUFFIX first")
    };
    if let Some(hidden) = name.strip_prefix('.') {
        let (disk, suffix) = hidden.rsplit_once('.').ok_or_else(refused)?;
        let disk = disk.strip_suffix(DISK_SUFFIX).ok_or_else(refused)?;
        if suffix.is_empty() {
            return Err(refused());
        }
        return Ok((DiskName::new(disk)?, true));
    }
    let disk = name.strip_suffix(DISK_SUFFIX).ok_or_else(refused)?;
    Ok((DiskName::new(disk)?, false))
}

impl Tree {
    /// Makes a directory: a VM at the top, a session (`NAME.partial`) in a VM, and in a session `disks` or
    /// `attached` if they were removed.
    ///
    /// # Errors
    /// `InvalidInput`, `NameTooLong` (the name), `AlreadyExists`; `Busy` when the VM has an open session; `NoSpace`, `Io`; `ReadOnly`,
    /// `NotPermitted` elsewhere.
    pub fn make_directory(&self, parent: Ino, name: &[u8]) -> Result<Found> {
        let open_sessions = self.open_sessions()?;
        let name = text(name)?;
        match self.node(parent)? {
            Node::Root => {
                let vm = VmName::new(name)?;
                if !self.options.shows(&vm) {
                    return Err(not_permitted(
                        "this mount shows other VMs only (mount option vm=)",
                    ));
                }
                open_sessions.sessions().make_vm(&vm)?;
                self.refresh_quietly()?;
                self.lookup(parent, name.as_bytes())
            }
            Node::Vm(vm) => {
                let session = session_of(name).ok_or_else(|| {
                    Error::invalid("only sessions can be made in a VM's directory")
                        .advise("call it NAME.partial")
                })??;
                let mut request = BeginRequest::new(vm.name.clone());
                request.session = Some(session);
                request.empty = true;
                let session = open_sessions.sessions().begin(&request)?;
                self.session_found(&session)
            }
            Node::Session(node) => self.make_again(&node, name),
            _ => Err(read_only()),
        }
    }

    fn make_again(&self, node: &SessionNode, name: &str) -> Result<Found> {
        let is_own = matches!(node.part, Part::Top) && matches!(name, "disks" | "attached");
        if !is_own {
            return Err(not_permitted(
                "a session has the directories disks and attached, and no others",
            ));
        }
        if let Ok(_there) = self.session_part(node, name) {
            return Err(Error::new(ErrorKind::AlreadyExists, "it is there already"));
        }
        self.open_sessions()?
            .hidden()
            .retain(|(serial, hidden)| *serial != node.serial() || *hidden != name);
        node.session.note_change();
        self.session_child(node, name)
    }

    /// Creates an empty regular file: a disk of a session, or an attached file.
    ///
    /// # Errors
    /// As [`Tree::make_directory`].
    pub fn make_file(&self, parent: Ino, name: &[u8]) -> Result<Found> {
        let node = self.open_node(parent)?;
        let name = text(name)?;
        let made = match &node.part {
            Part::Disks => parse_disk_file(name).and_then(|(disk, is_temporary)| {
                let temporary = is_temporary.then_some(name);
                node.session.create_file(&disk, temporary).map(drop)
            }),
            Part::Attached => node.session.create_attached(name),
            Part::Top => Err(not_permitted("files go below disks/ and attached/")),
            Part::Disk(_) | Part::File(_) | Part::Status | Part::Targets => Err(no_directory()),
        };
        Self::noted(&node.session, made)?;
        self.session_child(&node, name)
    }

    /// The error for any node that is not a file or directory: symlinks, hard links, devices, FIFOs, sockets.
    ///
    /// # Errors
    /// `ReadOnly` below a committed point, else `NotPermitted`.
    pub fn refuse(&self, parent: Ino) -> Error {
        match self.open_node(parent) {
            Ok(_) => not_permitted("a restore point has plain files only"),
            Err(e) => e,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse_disk_file;
    use crate::error::ErrorKind;

    #[test]
    fn disks_are_told_from_what_tools_write_beside_them() {
        let parse = |name: &str| {
            let (disk, beside) = parse_disk_file(name).unwrap();
            (disk.to_string(), beside)
        };
        assert_eq!(parse("vda.raw"), ("vda".to_owned(), false));
        assert_eq!(parse(".vda.raw.XyZ123"), ("vda".to_owned(), true));
        assert_eq!(parse("a.b.raw"), ("a.b".to_owned(), false));
        assert_eq!(parse(".a.b.raw.tmp"), ("a.b".to_owned(), true));
        for name in [
            "vda",
            "vda.img",
            ".vda.raw",
            ".vda.raw.",
            ".raw",
            "raw",
            ".hidden",
            "..raw",
            "vda.raw.tmp",
            "vda~.raw",
        ] {
            let error = parse_disk_file(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}");
        }
        let long = format!("{}.raw", "x".repeat(129));
        assert_eq!(
            parse_disk_file(&long).unwrap_err().kind(),
            ErrorKind::NameTooLong
        );
    }
}
