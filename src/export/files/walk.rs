//! The walk: creates every name on the handle of its directory.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::fill::{Fill, Job, instant, is_fatal};
use super::{Extracted, Loss};
use crate::error::{Error, ErrorKind, Result};
use crate::guest::fs::FileType;
use crate::sys::Dir;
use crate::sys::beneath::Stat;
use crate::sys::place::{self, Made, Special};
use crate::tree::{Attributes, Ino};

/// LIMIT: nested directories (each costs a descriptor on the way down).
pub(in crate::export) const DEPTH_MAX: usize = 400;
/// LIMIT: longest name (Linux).
const NAME_MAX: usize = 255;

/// A step of the walk; the newest is taken first.
enum Step {
    Enter {
        ino: Ino,
        attributes: Attributes,
        parent: Arc<Dir>,
        name: OsString,
        path: PathBuf,
        depth: usize,
    },
    /// Everything below exists: now set owner, mode and times.
    Leave(Entered),
}

/// A created directory, so far accessible only to its creator.
pub(super) struct Entered {
    ino: Ino,
    pub(super) dir: Arc<Dir>,
    attributes: Attributes,
    path: PathBuf,
}

impl Entered {
    /// Sets the attributes of the guest's directory.
    pub(super) fn finish(&self, job: &Job<'_>) {
        job.finish(self.dir.as_ref(), self.ino, &self.attributes, &self.path);
    }
}

/// The result of the walk.
pub(super) struct Walked {
    pub(super) extracted: Extracted,
    /// Further names of files with several names, below the top.
    pub(super) links: HashMap<Ino, Vec<PathBuf>>,
    /// The directory at the top, if it is one: closed to other users until everything below it is complete.
    pub(super) top: Option<Entered>,
}

pub(super) struct Walk<'a> {
    job: &'a Job<'a>,
    sender: SyncSender<Fill>,
    extracted: Extracted,
    /// First names of files with several names, below the top.
    first: HashMap<Ino, PathBuf>,
    top: Option<Arc<Dir>>,
    links: HashMap<Ino, Vec<PathBuf>>,
    /// Directories that were entered: a second entry means a loop in a damaged filesystem.
    entered: HashSet<Ino>,
    steps: Vec<Step>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(job: &'a Job<'a>, sender: SyncSender<Fill>) -> Self {
        Self {
            job,
            sender,
            extracted: Extracted::default(),
            first: HashMap::new(),
            top: None,
            links: HashMap::new(),
            entered: HashSet::new(),
            steps: Vec::new(),
        }
    }

    pub(super) fn run(mut self, ino: Ino, attributes: Attributes, name: &[u8]) -> Result<Walked> {
        let root = Arc::new(self.job.target.dir("")?);
        let name = OsStr::from_bytes(name).to_owned();
        let path = PathBuf::from(&name);
        self.take(ino, attributes, &root, name, path, 0)?;
        let mut top = None;
        while let Some(step) = self.steps.pop() {
            self.job.check_stop()?;
            match step {
                Step::Enter {
                    ino,
                    attributes,
                    parent,
                    name,
                    path,
                    depth,
                } => {
                    let made = self.enter(ino, attributes, &parent, &name, &path, depth);
                    self.note(&path, made)?;
                }
                Step::Leave(entered) if self.steps.is_empty() => top = Some(entered),
                Step::Leave(entered) => entered.finish(self.job),
            }
        }
        Ok(Walked {
            extracted: self.extracted,
            links: self.links,
            top,
        })
    }

    /// Records a failure and continues, unless the error is fatal.
    fn note(&self, path: &Path, result: Result<()>) -> Result<()> {
        match result {
            Err(error) if is_fatal(&error) => Err(error),
            Err(error) => {
                let reason = match error.kind() {
                    ErrorKind::AlreadyExists => "the name is there already".to_owned(),
                    _ => error.report(),
                };
                self.job.skip(path, Loss::of(&error), reason);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn enter(
        &mut self,
        ino: Ino,
        attributes: Attributes,
        parent: &Dir,
        name: &OsStr,
        path: &Path,
        depth: usize,
    ) -> Result<()> {
        if depth >= DEPTH_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("deeper than {DEPTH_MAX} directories"),
            ));
        }
        if !self.entered.insert(ino) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "a directory that was met before: the filesystem has a loop",
            ));
        }
        // The directory is listed before it is created: an unreadable one must not appear empty.
        let entries = self.job.source.entries(ino)?;
        parent.make_dir(name, 0o700)?;
        let dir = Arc::new(parent.dir(name)?);
        if depth == 0 {
            check_made(parent, &dir)?;
            self.top = Some(Arc::clone(&dir));
        }
        self.extracted.directories += 1;
        self.steps.push(Step::Leave(Entered {
            ino,
            dir: Arc::clone(&dir),
            attributes,
            path: path.to_path_buf(),
        }));
        for (name, child) in entries {
            self.job.check_stop()?;
            if let Err(reason) = check_name(&name) {
                // Such a name is never joined to a path: the escaped form is harmless.
                let shown = name.escape_ascii().to_string().replace('/', "\\x2f");
                self.job.skip(&path.join(shown), Loss::Unreadable, reason);
                continue;
            }
            let path = path.join(OsStr::from_bytes(&name));
            let name = OsStr::from_bytes(&name).to_owned();
            let taken = match self.job.source.attributes(child) {
                Ok(attributes) => self.take(child, attributes, &dir, name, path.clone(), depth + 1),
                Err(error) => Err(error),
            };
            self.note(&path, taken)?;
        }
        Ok(())
    }

    /// Creates one name.
    fn take(
        &mut self,
        ino: Ino,
        attributes: Attributes,
        parent: &Arc<Dir>,
        name: OsString,
        path: PathBuf,
        depth: usize,
    ) -> Result<()> {
        if attributes.file_type == FileType::Directory {
            self.steps.push(Step::Enter {
                ino,
                attributes,
                parent: Arc::clone(parent),
                name,
                path,
                depth,
            });
            return Ok(());
        }
        let has_names = attributes.nlink > 1;
        if let (true, Some(first), Some(top)) = (has_names, self.first.get(&ino), &self.top) {
            let path = below_top(&path);
            top.link(first, &path)?;
            self.links.entry(ino).or_default().push(path);
            self.extracted.hard_links += 1;
            return Ok(());
        }
        let device = attributes.rdev.unwrap_or((0, 0));
        let made = match attributes.file_type {
            // Directories are handled above.
            FileType::Directory | FileType::Regular => {
                let file = parent.create_file(&name, 0o600)?;
                if has_names {
                    self.first.insert(ino, below_top(&path));
                }
                let fill = Fill {
                    file,
                    ino,
                    attributes,
                    parent: Arc::clone(parent),
                    name,
                    path,
                };
                return self.sender.send(fill).map_err(|_| {
                    Error::new(
                        ErrorKind::Cancelled,
                        "the threads that fill files have ended",
                    )
                });
            }
            FileType::Symlink => {
                let target = self.job.source.link_target(ino)?;
                let made = place::symlink(parent, &name, &target)?;
                self.extracted.symlinks += 1;
                made
            }
            FileType::CharDevice | FileType::BlockDevice if !self.job.options.special => {
                self.job
                    .skip(&path, Loss::Chosen, "a device node; --special makes it");
                return Ok(());
            }
            FileType::CharDevice => {
                let kind = Special::CharDevice(device.0, device.1);
                self.special(parent, &name, kind, &attributes)?
            }
            FileType::BlockDevice => {
                let kind = Special::BlockDevice(device.0, device.1);
                self.special(parent, &name, kind, &attributes)?
            }
            FileType::Fifo => self.special(parent, &name, Special::Fifo, &attributes)?,
            FileType::Socket => self.special(parent, &name, Special::Socket, &attributes)?,
        };
        if has_names {
            self.first.insert(ino, below_top(&path));
        }
        self.finish_name(ino, &attributes, &made, &path);
        Ok(())
    }

    fn special(
        &mut self,
        parent: &Dir,
        name: &OsStr,
        kind: Special,
        attributes: &Attributes,
    ) -> Result<Made> {
        let made = place::special(parent, name, kind, attributes.mode & 0o777)?;
        self.extracted.special += 1;
        Ok(made)
    }

    /// Sets owner, xattrs and times of a node that cannot be opened.
    fn finish_name(&self, ino: Ino, attributes: &Attributes, made: &Made, path: &Path) {
        let note = |result: Result<()>| self.job.note(path, result);
        if self.job.options.owner {
            note(made.set_owner(attributes.uid, attributes.gid));
        }
        for xattr in self.job.xattrs(ino, path) {
            let set = made.set_xattr(&xattr.name, &xattr.value);
            self.job.note_xattr(path, &xattr.name, set);
        }
        let (accessed, modified) = (instant(attributes.atime), instant(attributes.mtime));
        note(made.set_times(accessed, modified));
    }
}

/// The path below the top directory.
fn below_top(path: &Path) -> PathBuf {
    path.components().skip(1).collect()
}

/// Checks that the directory at the top is the created one: when another user has replaced it, nothing is
/// written there. A filesystem without owners cannot distinguish them, and gives no owners to restored files
/// either.
fn check_made(parent: &Dir, dir: &Dir) -> Result<()> {
    let stat = Stat::of(dir)?;
    let is_ours = stat.uid == rustix::process::geteuid().as_raw() && stat.mode & 0o077 == 0;
    if is_ours || !place::keeps_owners(parent) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Busy,
        "another process replaced the directory",
    ))
}

pub(in crate::export) fn check_name(name: &[u8]) -> std::result::Result<(), &'static str> {
    match name {
        b"" => Err("an empty name"),
        b"." | b".." => Err("a name that means another directory"),
        _ if name.iter().any(|b| matches!(b, b'/' | 0)) => Err("a name with a slash or NUL"),
        _ if name.len() > NAME_MAX => Err("a name longer than 255 bytes"),
        _ => Ok(()),
    }
}
