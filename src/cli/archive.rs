//! `restorefs restore VM@POINT:/PATH --to ARCHIVE`, or `--to -`: writes files of a guest as a tar
//! or a zip.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::announced::Announced;
use super::args::{FilesFormat, Restore};
use super::context::Context;
use super::extract::{FoundNode, find, judge, xattrs};
use super::progress::Progress;
use super::unread;
use crate::error::{Error, Result, ResultExt};
use crate::export::archive::{ArchiveOptions, Archived, Format, archive};
use crate::export::files::Source;
use crate::jobs::restore::making::Making;
use crate::repo::selector::Selector;
use crate::service::restore::{refuse_place, refuse_repository};
use crate::sys::Dir;
use crate::sys::durable::Replace;
use crate::task::Monitor;
use crate::tree::{Ino, Tree, Unread};
use crate::types::size::{Count, Human};

/// The archive format for `to`; `None` stands for a directory.
///
/// # Errors
/// `InvalidInput` when standard output has no format, or the extension is that of an unsupported
/// archive.
pub(super) fn format(to: &Path, given: Option<FilesFormat>) -> Result<Option<Format>> {
    let is_standard = to == Path::new("-");
    match given {
        Some(FilesFormat::Dir) if is_standard => {
            Err(Error::invalid("a directory cannot go to standard output")
                .advise("add --format tar, tar.zst or zip"))
        }
        Some(FilesFormat::Dir) => Ok(None),
        Some(FilesFormat::Tar) => Ok(Some(Format::Tar)),
        Some(FilesFormat::TarZstd) => Ok(Some(Format::TarZstd)),
        Some(FilesFormat::Zip) => Ok(Some(Format::Zip)),
        None if is_standard => Err(Error::invalid("standard output needs a format")
            .advise("add --format tar, tar.zst or zip")),
        // An existing directory is used as one, whatever its name.
        None if to.is_dir() => Ok(None),
        None => match extension(to) {
            None if is_foreign(to) => Err(Error::invalid("no such archive can be made")
                .at_path(to)
                .advise("name it .tar, .tar.zst or .zip, or pipe it: --to - --format tar; a directory of that name is made by --format dir")),
            format => Ok(format),
        },
    }
}

/// Whether the name has the extension of an archive that this program does not write.
fn is_foreign(to: &Path) -> bool {
    let name = to.file_name().unwrap_or_default();
    let name = name.to_string_lossy().to_ascii_lowercase();
    let (stem, end) = name.rsplit_once('.').unwrap_or_default();
    stem.ends_with(".tar") || ["tgz", "txz", "tbz2", "7z", "rar", "cpio"].contains(&end)
}

fn extension(to: &Path) -> Option<Format> {
    let name = to.file_name()?.to_string_lossy().to_ascii_lowercase();
    let ends = |end: &str| name.len() > end.len() && name.ends_with(end);
    if ends(".tar.zst") || ends(".tzst") {
        Some(Format::TarZstd)
    } else if ends(".tar") {
        Some(Format::Tar)
    } else if ends(".zip") {
        Some(Format::Zip)
    } else {
        None
    }
}

/// The files to archive.
struct Taking<'a> {
    tree: &'a Tree,
    ino: Ino,
    name: &'a [u8],
    options: ArchiveOptions<'a>,
    monitor: &'a Monitor,
}

impl Taking<'_> {
    fn write(&self, sink: Box<dyn Write + '_>) -> Result<Archived> {
        archive(
            self.tree as &dyn Source,
            self.ino,
            self.name,
            sink,
            self.options,
            self.monitor,
        )
    }
}

pub(super) fn run(
    context: &Context,
    selector: &Selector,
    path: &[u8],
    (to, format): (&Path, Format),
    args: &Restore,
    task: &Announced<'_>,
) -> Result<()> {
    let is_standard = to == Path::new("-");
    if is_standard && std::io::stdout().is_terminal() {
        return Err(Error::invalid("an archive is not written to a terminal")
            .advise("pipe it, or name a file"));
    }
    if !is_standard {
        refuse_repository(context.repository()?.as_ref(), to)?;
    }
    let place = find(context, selector, path)?;
    let unread = place.unread(path)?;
    let FoundNode {
        tree, found, name, ..
    } = place;
    // `files` contains the guest's root, which has no name of its own.
    let mut parts = path.split(|b| *b == b'/').filter(|part| !part.is_empty());
    let is_root = parts.next() == Some(b"files") && parts.next().is_none();
    task.begin()?;
    let bar =
        Progress::new(context.output).bar(&name.to_string_lossy(), found.attributes.size_bytes);
    let choice = xattrs(args);
    let taking = Taking {
        tree: tree.as_ref(),
        ino: found.attributes.ino,
        name: if is_root { b"." } else { name.as_bytes() },
        options: ArchiveOptions {
            format,
            threads: args.threads.unwrap_or(0),
            xattrs: &choice,
        },
        monitor: &task.monitor(&bar),
    };
    let archived = if is_standard {
        standard_output().and_then(|sink| taking.write(Box::new(sink)))
    } else {
        into_file(&taking, to, args.force)
    };
    bar.finish();
    report(context, &archived?, to, is_standard, &unread)
}

/// Standard output without the line buffer.
fn standard_output() -> Result<File> {
    let owned = std::io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .or_io("cannot write to standard output")?;
    Ok(File::from(owned))
}

/// Writes a new file. The file gets its name only once it is complete.
fn into_file(taking: &Taking<'_>, to: &Path, force: bool) -> Result<Archived> {
    let parent = to
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let name = to
        .file_name()
        .ok_or_else(|| Error::invalid("the archive needs a file name").at_path(to))?;
    let dir = Dir::open(parent)?;
    let replace = if force { Replace::Yes } else { Replace::No };
    refuse_place(&dir, name, replace)?;
    let making = Making::begin(&dir, name)?;
    let archived = taking.write(Box::new(making.file()))?;
    making
        .file()
        .sync_all()
        .or_io("cannot make the archive durable")
        .at_path(to)?;
    making.finish(replace)?;
    Ok(archived)
}

fn report(
    context: &Context,
    archived: &Archived,
    to: &Path,
    is_standard: bool,
    unread: &[Unread],
) -> Result<()> {
    let output = context.output;
    let losses = unread::report(context, unread);
    if output.json {
        let skipped: Vec<_> = archived
            .skipped
            .iter()
            .map(|s| serde_json::json!({"path": s.path.to_string_lossy(), "reason": s.reason}))
            .collect();
        let value = serde_json::json!({
            "to": to.to_string_lossy(), "directories": archived.directories, "files": archived.files,
            "hard_links": archived.hard_links, "symlinks": archived.symlinks, "special": archived.special,
            "bytes": archived.bytes, "skipped": skipped, "skipped_count": archived.skipped_count,
            "failed_count": archived.failed_count, "unread": unread::json(unread),
        });
        if is_standard {
            output.json_aside(&value)?;
        } else {
            output.json(&value)?;
        }
    } else {
        for skipped in &archived.skipped {
            let note = format!("note: {}: {}", skipped.path.display(), skipped.reason);
            output.remark(note);
        }
        let line = format!(
            "{}: {}, {}, {}, {} ({} left out)",
            to.display(),
            Count(archived.files, "file"),
            Count(archived.directories, "directory"),
            Count(archived.symlinks, "symlink"),
            Human(archived.bytes),
            archived.skipped_count
        );
        if is_standard {
            output.remark(line);
        } else {
            output.outcome(line)?;
        }
    }
    judge(archived.failed_count.saturating_add(losses), 0)
}
