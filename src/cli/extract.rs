//! `restorefs restore VM@POINT:/PATH --to DIR`: restores files of a guest with all of their
//! attributes.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::announced::Announced;
use super::args::Restore;
use super::context::Context;
use super::progress::Progress;
use super::target::{last_name, split_list};
use super::unread;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::export::files::{ExtractOptions, Extracted, Loss, XattrChoice, extract};
use crate::repo::selector::Selector;
use crate::service::restore::refuse_repository;
use crate::sys::Dir;
use crate::tree::{Found, Ino, PointView, Tree, Unread};
use crate::types::size::{Count, Human};

pub(super) fn run(
    context: &Context,
    selector: &Selector,
    path: &[u8],
    to: &Path,
    args: &Restore,
    task: &Announced<'_>,
) -> Result<()> {
    refuse_repository(context.repository()?.as_ref(), to)?;
    let place = find(context, selector, path)?;
    let unread = place.unread(path)?;
    let FoundNode {
        tree, found, name, ..
    } = place;
    std::fs::create_dir_all(to)
        .or_io("cannot make the target directory")
        .at_path(to)?;
    let target = Dir::open(to)?;
    let options = ExtractOptions {
        special: args.special,
        owner: rustix::process::geteuid().is_root(),
        threads: args.threads.unwrap_or(0),
        xattrs: xattrs(args),
    };
    task.begin()?;
    let bar =
        Progress::new(context.output).bar(&name.to_string_lossy(), found.attributes.size_bytes);
    let extracted = extract(
        tree.as_ref(),
        found.attributes.ino,
        name.as_bytes(),
        &target,
        &options,
        &task.monitor(&bar),
    );
    bar.finish();
    report(context, &extracted?, &to.join(&name), &unread)
}

/// The node at a path of a point.
pub(super) struct FoundNode {
    pub(super) tree: Arc<Tree>,
    pub(super) found: Found,
    /// The node's name.
    pub(super) name: OsString,
    point: Arc<PointView>,
}

impl FoundNode {
    /// What is not shown below the node, which was found at `path`.
    ///
    /// # Errors
    /// What reading the point's disks returns.
    pub(super) fn unread(&self, path: &[u8]) -> Result<Vec<Unread>> {
        self.tree.unread(&self.point, path)
    }
}

/// Finds the node at `path` of a point.
///
/// # Errors
/// `NotFound`; `Corrupt` when the node would be in something that cannot be read; what the guest's
/// reader returns.
pub(super) fn find(context: &Context, selector: &Selector, path: &[u8]) -> Result<FoundNode> {
    let tree = context.tree()?;
    let point = tree.point(&selector.vm, &selector.which)?;
    // The point's own sidecar decides what the point contains.
    context.repository()?.point(&point.vm, &point.entry)?;
    let start = format!("{}/{}", point.vm, point.entry.name);
    let start = tree.resolve(Ino::ROOT, start.as_bytes())?;
    let found = tree
        .resolve(start.attributes.ino, path)
        .map_err(|error| unread::explain(&tree, &point, path, error))?;
    let name = last_name(path).unwrap_or(point.entry.name.as_str().as_bytes());
    Ok(FoundNode {
        tree,
        found,
        name: OsStr::from_bytes(name).to_owned(),
        point,
    })
}

/// The selection of extended attributes.
pub(super) fn xattrs(args: &Restore) -> XattrChoice {
    let split = |patterns: &[String]| {
        let all = patterns.iter().flat_map(|text| split_list(text));
        all.map(str::to_owned).collect()
    };
    XattrChoice {
        include: split(&args.include_xattr),
        exclude: split(&args.exclude_xattr),
    }
}

/// The result of a command that could not restore everything.
///
/// # Errors
/// `Corrupt` when something could not be read; `Io` when the target refused something.
pub(super) fn judge(unreadable: u64, refused: u64) -> Result<()> {
    let files = |count| Count(count, "thing");
    match (unreadable, refused) {
        (0, 0) => Ok(()),
        (0, refused) => Err(Error::new(
            ErrorKind::Io,
            format!("the target refused {}, see above", files(refused)),
        )),
        (unreadable, _) => Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "{} could not be read from the restore point, see above",
                files(unreadable)
            ),
        )),
    }
}

/// `security.selinux (3 files), ...`
fn counted(names: &BTreeMap<String, u64>) -> String {
    let each = names
        .iter()
        .map(|(name, count)| format!("{name} ({})", Count(*count, "file")));
    each.collect::<Vec<_>>().join(", ")
}

fn report(context: &Context, extracted: &Extracted, to: &Path, unread: &[Unread]) -> Result<()> {
    let losses = unread::report(context, unread);
    if context.output.json {
        let skipped: Vec<_> = extracted
            .skipped
            .iter()
            .map(|s| serde_json::json!({"path": s.path.to_string_lossy(), "reason": s.reason}))
            .collect();
        context.output.json(&serde_json::json!({
            "to": to.to_string_lossy(), "directories": extracted.directories, "files": extracted.files,
            "hard_links": extracted.hard_links, "symlinks": extracted.symlinks, "special": extracted.special,
            "bytes": extracted.bytes, "skipped": skipped, "skipped_count": extracted.skipped_count,
            "unreadable_count": extracted.unreadable_count, "refused_count": extracted.refused_count,
            "labels_not_taken": extracted.labels, "attributes_left_out": extracted.withheld, "unread": unread::json(unread),
        }))?;
    } else {
        for skipped in &extracted.skipped {
            let text = format!("{}: {}", skipped.path.display(), skipped.reason);
            match skipped.loss {
                Loss::Chosen => context.output.remark(format!("left out: {text}")),
                Loss::Unreadable => context.output.warn(format!("not readable: {text}")),
                Loss::Refused => context
                    .output
                    .warn(format!("refused by the target: {text}")),
            }
        }
        if !extracted.withheld.is_empty() {
            context.output.remark(format!(
                "left out: the attributes {}; --special takes them, --include-xattr some of them",
                counted(&extracted.withheld)
            ));
        }
        if !extracted.labels.is_empty() {
            context.output.remark(format!(
                "the target does not take these attributes: {}; --exclude-xattr leaves them out",
                counted(&extracted.labels)
            ));
        }
        context.output.outcome(format!(
            "{}: {}, {}, {}, {} ({} left out)",
            to.display(),
            Count(extracted.files, "file"),
            Count(extracted.directories, "directory"),
            Count(extracted.symlinks, "symlink"),
            Human(extracted.bytes),
            extracted.skipped_count
        ))?;
    }
    judge(
        extracted.unreadable_count.saturating_add(losses),
        extracted.refused_count,
    )
}
