//! Renames: from `NAME.partial` to a point's name commits; a file written beside a disk replaces it; attached
//! files get a new name.

use super::make::{parse_disk_file, text};
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::CommitRequest;
use crate::tree::Tree;
use crate::tree::inode::Ino;
use crate::tree::node::Node;
use crate::tree::refusal::{absent, not_permitted, read_only};
use crate::tree::session_node::{Part, SUFFIX, SessionNode};
use crate::types::PointName;

/// Why other renames are refused. The error is not EXDEV: tools would then copy the files and remove the
/// originals, which aborts a session.
const STRANGE: &str = "in a tree of restore points this cannot be renamed so";

impl Tree {
    /// Renames; replaces an existing name only with `may_replace`. A commit takes time: call this on a thread
    /// that nothing waits for.
    ///
    /// # Errors
    /// `NotPermitted` for a rename without a meaning here; `ReadOnly` for committed nodes; `AlreadyExists`;
    /// `InvalidInput` for a name that a point cannot have; `Busy` when the session cannot become a point yet,
    /// or is being written; `NoSpace`, `Io`: the session stays open.
    pub fn rename(
        &self,
        (parent, name): (Ino, &[u8]),
        (new_parent, new_name): (Ino, &[u8]),
        may_replace: bool,
    ) -> Result<()> {
        self.open_sessions()?;
        let (name, new_name) = (text(name)?, text(new_name)?);
        match self.node(parent)? {
            Node::Root => Err(not_permitted(STRANGE)),
            Node::Vm(vm) => match self.session_named(vm.name.as_str(), name) {
                Some(session) => {
                    let is_own = new_parent == parent && !new_name.ends_with(SUFFIX);
                    if !is_own {
                        return match self.node(new_parent)? {
                            Node::Root | Node::Vm(_) | Node::Session(_) => {
                                Err(not_permitted(STRANGE))
                            }
                            _ => Err(read_only()),
                        };
                    }
                    let committed = self.commit(&session, new_name);
                    Self::noted(&session, committed)
                }
                None if vm.point(name).is_some() => Err(read_only()),
                None => Err(not_permitted(STRANGE)),
            },
            Node::Session(node) if new_parent == parent => {
                let renamed = self.rename_in_session(&node, name, new_name, may_replace);
                Self::noted(&node.session, renamed)
            }
            Node::Session(_) => match self.node(new_parent)? {
                Node::Root | Node::Vm(_) | Node::Session(_) => Err(not_permitted(STRANGE)),
                _ => Err(read_only()),
            },
            _ => Err(read_only()),
        }
    }

    fn commit(&self, session: &crate::ingest::Session, point: &str) -> Result<()> {
        let request = CommitRequest {
            point: Some(PointName::new(point)?),
            ..CommitRequest::default()
        };
        // mv(1) interprets EINVAL of a directory rename as a move into itself, so only an invalid name may
        // yield it.
        let busy = |error: Error| match error.kind() {
            ErrorKind::InvalidInput => error.with_kind(ErrorKind::Busy),
            _ => error,
        };
        self.open_sessions()?
            .sessions()
            .commit(session, &request)
            .map_err(busy)?;
        self.refresh_quietly()
    }

    fn rename_in_session(
        &self,
        directory: &SessionNode,
        name: &str,
        new_name: &str,
        may_replace: bool,
    ) -> Result<()> {
        let node = self.session_part(directory, name)?;
        if name == new_name {
            return Ok(());
        }
        let is_there = self.session_part(directory, new_name).is_ok();
        if is_there && !may_replace {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                "there is one of that name",
            ));
        }
        match &node.part {
            Part::Disk(disk) => {
                let (_, is_beside) = parse_disk_file(name)?;
                let (target, is_beside_again) = parse_disk_file(new_name)?;
                let is_its_own = target == disk.meta().name;
                if !is_beside || is_beside_again || !is_its_own {
                    return Err(not_permitted(
                        "only a file beside a disk (.NAME.raw.SUFFIX) can be renamed, to the name of that disk",
                    ));
                }
                node.session.replace(disk)
            }
            Part::File(file) => {
                node.session.rename_attached(file, new_name)?;
                self.open_sessions()?
                    .moved(node.serial(), file, Some(new_name));
                Ok(())
            }
            Part::Top => Err(absent()),
            Part::Disks | Part::Attached | Part::Status | Part::Targets => {
                Err(not_permitted(STRANGE))
            }
        }
    }
}
