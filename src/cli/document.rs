//! The documents of a restore point, as the tree shows them.

use serde_json::Value;

use super::context::Context;
use crate::block::ReadAt;
use crate::error::{Error, Result};
use crate::repo::selector::Selector;
use crate::tree::Ino;
use crate::types::width::usize_from_u64;

/// Reads a document of a point.
///
/// # Errors
/// `NotFound`, which names VM and point; `Corrupt`, `Io`.
pub(super) fn read(context: &Context, selector: &Selector, name: &str) -> Result<Value> {
    let tree = context.tree()?;
    let point = tree.point(&selector.vm, &selector.which)?;
    let path = format!("{}/{}/{name}", point.vm, point.entry.name);
    let file = tree.resolve(Ino::ROOT, path.as_bytes())?;
    let content = tree.content(file.attributes.ino)?;
    let mut bytes = vec![0; usize_from_u64(content.size_bytes())];
    content.read_at(0, &mut bytes)?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::corrupt(format!("{name} cannot be read"), "JSON", e))
}
