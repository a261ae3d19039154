//! Extended attributes of guest files, and of the directories of points and sessions.

use std::sync::Arc;

use super::Tree;
use super::inode::{Ino, low};
use super::node::Node;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::fs::Xattr;

impl Tree {
    /// All extended attributes of a node, in the kernel's form; of the tree's own nodes, points have some. A session's
    /// declarations are not listed: `rsync -X` removes attributes that its source does not have, and would
    /// withdraw them.
    ///
    /// # Errors
    /// `Unsupported` when the tree hides extended attributes; `Stale`, `Corrupt`, `Io`.
    pub fn xattrs(&self, ino: Ino) -> Result<Arc<[Xattr]>> {
        if self.options.noxattr {
            return Err(Error::unsupported("shown without extended attributes"));
        }
        // The tree's own nodes need not be resolved, because they have none; a point has the results of verifying it.
        if ino.volume() == 0 {
            return match ino.low() {
                low::SELF => self.point_xattrs(ino),
                _ => Ok(Arc::new([])),
            };
        }
        let Node::Guest(node) = self.node(ino)? else {
            return Ok(Arc::new([]));
        };
        let mut xattrs = node.fs.xattrs(node.ino)?;
        if self.options.single_user {
            let attributes = node.fs.attributes(node.ino)?;
            let truth = [
                ("uid", attributes.uid.to_string()),
                ("gid", attributes.gid.to_string()),
                ("mode", format!("{:04o}", attributes.mode)),
            ];
            let truth = truth.map(|(name, value)| Xattr {
                name: format!("user.restorefs.{name}").into_bytes(),
                value: value.into_bytes(),
            });
            xattrs = xattrs.iter().cloned().chain(truth).collect();
        }
        Ok(xattrs)
    }

    /// The results of verifying a point: `user.restorefs.check` and `user.restorefs.checked_at`.
    fn point_xattrs(&self, ino: Ino) -> Result<Arc<[Xattr]>> {
        let Node::Point(point) = self.node(ino)? else {
            return Ok(Arc::new([]));
        };
        let check = point.entry.check.map(|check| check.as_str().to_owned());
        let at = point.entry.checked_at.map(|at| at.to_string());
        let found = [("check", check), ("checked_at", at)];
        let found = found.into_iter().filter_map(|(name, value)| {
            Some(Xattr {
                name: format!("user.restorefs.{name}").into_bytes(),
                value: value?.into_bytes(),
            })
        });
        Ok(found.collect())
    }

    /// The value of one extended attribute, or of one declaration of a session.
    ///
    /// # Errors
    /// `NoData` when there is no attribute of that name; as [`Tree::xattrs`].
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        let listed = self.xattrs(ino)?;
        let declared = match ino.volume() {
            0 => self.declarations(ino),
            _ => None,
        };
        declared
            .unwrap_or(listed)
            .iter()
            .find(|xattr| xattr.name == name)
            .map(|xattr| xattr.value.clone())
            .ok_or_else(|| Error::new(ErrorKind::NoData, "no such extended attribute"))
    }
}
