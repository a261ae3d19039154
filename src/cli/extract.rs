//! `restorefs restore VM@POINT:/PATH --to DIR`: files of a guest, with everything that they have.

use std::path::Path;
use std::sync::Arc;

use super::args::Restore;
use super::context::Context;
use super::progress::Progress;
use crate::daemon::interrupt;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::repo::selector::Selector;
use crate::sys::Dir;
use crate::tree::extract::{ExtractOptions, Extracted, extract};
use crate::tree::{Found, Ino, Tree};
use crate::types::size::{Count, Human};

pub(super) fn run(
    context: &Context,
    selector: &Selector,
    path: &str,
    to: &Path,
    args: &Restore,
) -> Result<()> {
    let (tree, found, name) = find(context, selector, path)?;
    let name = name.as_str();
    std::fs::create_dir_all(to)
        .or_io("cannot make the target directory")
        .at_path(to)?;
    let target = Dir::open(to)?;
    let options = ExtractOptions {
        special: args.special,
        owner: rustix::process::geteuid().is_root(),
        threads: args.threads.unwrap_or(0),
    };
    let stop = interrupt::flag()?;
    let bar = Progress::new(context.output).bar(name, found.attributes.size_bytes);
    let extracted = extract(
        tree.as_ref(),
        found.attributes.ino,
        name.as_bytes(),
        &target,
        &options,
        &stop,
        &|bytes| bar.add(bytes),
    );
    bar.finish();
    report(context, &extracted?, &to.join(name))
}

/// The tree, the node at `path` of a point, and its name.
pub(super) fn find(
    context: &Context,
    selector: &Selector,
    path: &str,
) -> Result<(Arc<Tree>, Found, String)> {
    let tree = context.tree()?;
    let point = tree.point(&selector.vm, &selector.which)?;
    let start = format!("{}/{}", point.vm, point.entry.name);
    let start = tree.resolve(Ino::ROOT, start.as_bytes())?;
    let found = tree.resolve(start.attributes.ino, path.as_bytes())?;
    let name = path
        .rsplit('/')
        .find(|part| !part.is_empty())
        .unwrap_or(point.entry.name.as_str());
    Ok((tree, found, name.to_owned()))
}

fn report(context: &Context, extracted: &Extracted, to: &Path) -> Result<()> {
    // What was left out on purpose is said; what could not be taken out is an error, too.
    let failed = extracted
        .skipped
        .iter()
        .filter(|skipped| !skipped.reason.contains("--special"))
        .count();
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
        }))?;
    } else {
        for skipped in &extracted.skipped {
            context.output.remark(format!(
                "left out: {}: {}",
                skipped.path.display(),
                skipped.reason
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
    if failed > 0 {
        return Err(Error::new(
            ErrorKind::Io,
            format!("{failed} things could not be taken out, see above"),
        ));
    }
    Ok(())
}
