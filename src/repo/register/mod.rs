//! The register: names of repositories, in `repositories.toml`.
//!
//! # Invariants
//! - A named repository is opened only when the directory holds the repository with the registered id: nothing is written below a
//!   mountpoint whose filesystem is not mounted.
//! - A file is replaced as a whole, by an edit that changes nothing but the entry it is about.
//!
//! # Which files
//! `$RESTOREFS_CONFIG_DIR/repositories.toml` alone, if that variable has an absolute path; else, for users other than root,
//! `$XDG_CONFIG_HOME/restorefs/repositories.toml` (`~/.config` by default), whose names come first; and for all
//! `/etc/restorefs/repositories.toml`. The first of them is the one that is edited.

mod edit;
mod file;

use std::path::{Path, PathBuf};

use super::repository::Repository;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::types::{RepositoryId, RepositoryName, likeness};

/// Name of the file.
const FILE: &str = "repositories.toml";

/// The directory for all users.
const SYSTEM: &str = "/etc/restorefs";

/// Variable that names the only directory.
const OVERRIDE: &str = "RESTOREFS_CONFIG_DIR";

/// A named repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Its name.
    pub name: RepositoryName,
    /// The id that the repository at `path` must have.
    pub id: RepositoryId,
    /// Its directory, absolute.
    pub path: PathBuf,
    /// What it lies on, in the user's own word (disk, nas, tape, cloud).
    pub media: Option<String>,
    /// Whether it lies in another place than what it backs up.
    pub offsite: bool,
    /// The file that names it.
    pub file: PathBuf,
}

/// All named repositories.
#[derive(Debug, Clone, Default)]
pub struct Register {
    entries: Vec<Registered>,
}

impl Registered {
    /// Opens the repository.
    ///
    /// # Errors
    /// `NoRepository` when its directory holds none, or one with another id; as [`Repository::open`].
    pub fn open(&self) -> Result<Repository> {
        let found = match Repository::open(&self.path) {
            Ok(found) if found.format().repository_id == self.id => return Ok(found),
            Ok(found) => format!(
                "the repository there has the id {}",
                found.format().repository_id
            ),
            Err(e) if e.kind() == ErrorKind::NoRepository => "there is no repository".to_owned(),
            Err(e) => return Err(e),
        };
        let (name, id, path) = (&self.name, self.id, self.path.display());
        Err(Error::new(
            ErrorKind::NoRepository,
            format!("the repository {name} (id {id}) is not in {path}: {found}"),
        )
        .advise(format!(
            "mount the filesystem on which it lies; if it is gone or has moved: restorefs repo remove {name}"
        )))
    }

    /// Whether `other` is its directory.
    #[must_use]
    pub fn is_at(&self, other: &Path) -> bool {
        real(&self.path) == real(other)
    }
}

/// A path without symlinks, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for above in path.ancestors() {
        if let (Ok(found), Ok(rest)) = (above.canonicalize(), path.strip_prefix(above)) {
            return match rest.as_os_str().is_empty() {
                true => found,
                false => found.join(rest),
            };
        }
    }
    path
}

/// The files, first the one that is edited.
fn files() -> Vec<PathBuf> {
    let absolute = |name: &str| {
        let dir = std::env::var_os(name).map(PathBuf::from);
        dir.filter(|dir| dir.is_absolute())
    };
    if let Some(dir) = absolute(OVERRIDE) {
        return vec![dir.join(FILE)];
    }
    let mut files = Vec::new();
    if !rustix::process::geteuid().is_root() {
        let own = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
        files.extend(own.map(|dir| dir.join("restorefs").join(FILE)));
    }
    files.push(Path::new(SYSTEM).join(FILE));
    files
}

/// The file that [`Register::add`] edits.
fn own_file() -> PathBuf {
    let first = files().into_iter().next();
    first.unwrap_or_else(|| Path::new(SYSTEM).join(FILE))
}

impl Register {
    /// Loads the files; those that are missing, or that this user may not read, name nothing.
    ///
    /// # Errors
    /// `InvalidInput` with the line of a mistake; `LimitExceeded`, `Io`.
    pub fn load() -> Result<Self> {
        let mut all = Self::default();
        for path in files() {
            let entries = match file::load(&path) {
                // Such names are not this user's: HOME is that of another user (su, setpriv), or the directory is closed.
                Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                    tracing::info!(error = %e.report(), "names of repositories that this user may not read are passed over");
                    continue;
                }
                other => other?,
            };
            for entry in entries {
                if all.get(&entry.name).is_none() {
                    all.entries.push(entry);
                }
            }
        }
        Ok(all)
    }

    /// The entries, in the order of the files.
    #[must_use]
    pub fn entries(&self) -> &[Registered] {
        &self.entries
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    /// The entry of a name, compared without regard to case.
    #[must_use]
    pub fn get(&self, name: &RepositoryName) -> Option<&Registered> {
        self.entries.iter().find(|entry| entry.name.same_as(name))
    }

    /// The entry that `word` names. A word with a `/`, or that begins with a dot, is a path; so is a word that names nothing.
    ///
    /// # Errors
    /// As [`Register::load`].
    pub fn find(word: &Path) -> Result<Option<Registered>> {
        let text = word.to_str().filter(|text| !text.contains('/'));
        let Some(name) = text.and_then(|text| RepositoryName::new(text).ok()) else {
            return Ok(None);
        };
        Ok(Self::load()?.get(&name).cloned())
    }

    /// The entry in whose directory `path` lies, or whose directory it is.
    #[must_use]
    pub fn claim(&self, path: &Path) -> Option<&Registered> {
        let path = real(path);
        let mut entries = self.entries.iter();
        entries.find(|entry| path.starts_with(real(&entry.path)))
    }

    /// The entry of a name that must be there.
    ///
    /// # Errors
    /// `NotFound`, with a similar name.
    pub fn require(&self, name: &RepositoryName) -> Result<&Registered> {
        self.get(name).ok_or_else(|| {
            let error = Error::not_found(format!("no repository is named {name}"));
            match likeness::nearest(self.names(), name.as_str()) {
                Some(near) => error.advise(format!("did you mean {near}?")),
                None => error.advise("list them with: restorefs repo list"),
            }
        })
    }

    /// Names the repository in `path`, and returns the entry.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken, or the same repository has another name elsewhere; `NoRepository` when the directory holds
    /// none; `InvalidInput`; `Busy`, `PermissionDenied`, `Io`.
    pub fn add(
        name: &RepositoryName,
        path: &Path,
        media: Option<&str>,
        offsite: bool,
    ) -> Result<Registered> {
        let path = std::path::absolute(path)
            .or_io("cannot tell the directory's path")
            .at_path(path)?;
        let repository = Repository::open(&path)?;
        refuse_nested(&path)?;
        let entry = Registered {
            name: name.clone(),
            id: repository.format().repository_id,
            path,
            media: media.map(str::to_owned),
            offsite,
            file: own_file(),
        };
        file::change(&entry.file, |text| {
            let register = Self::load()?;
            if let Some(taken) = register.get(name) {
                let what = format!(
                    "the name {} is taken by {}",
                    taken.name,
                    taken.path.display()
                );
                let advice = format!(
                    "choose another name, or forget that one: restorefs repo remove {}",
                    taken.name
                );
                return Err(Error::new(ErrorKind::AlreadyExists, what).advise(advice));
            }
            let mut entries = register.entries.iter();
            let twin = entries.find(|other| other.id == entry.id && !other.is_at(&entry.path));
            if let Some(other) = twin {
                let what = format!(
                    "{} has the id {} of the repository {} in {}",
                    entry.path.display(),
                    entry.id,
                    other.name,
                    other.path.display()
                );
                let advice = format!(
                    "if it is a copy of that one, give it an id of its own: restorefs repo new-id {}; if that one has moved here: restorefs \
                     repo remove {}",
                    entry.path.display(),
                    other.name
                );
                return Err(Error::new(ErrorKind::AlreadyExists, what).advise(advice));
            }
            edit::append(text, &entry)
        })?;
        Ok(entry)
    }

    /// Forgets a name; the repository stays as it is. Returns the entry.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` when the file cannot be edited safely; `Busy`, `PermissionDenied`, `Io`.
    pub fn remove(name: &RepositoryName) -> Result<Registered> {
        let entry = Self::load()?.require(name)?.clone();
        file::change(&entry.file, |text| edit::remove(text, &entry.name))?;
        Ok(entry)
    }

    /// Records the new id of the repository in `path`, which had the id `old`, under each of its names, and returns the names.
    ///
    /// # Errors
    /// As [`Register::remove`].
    pub fn renew(path: &Path, old: RepositoryId, id: RepositoryId) -> Result<Vec<RepositoryName>> {
        let mut names = Vec::new();
        for entry in Self::load()?.entries {
            if entry.is_at(path) && entry.id == old {
                file::change(&entry.file, |text| edit::set_id(text, &entry.name, id))?;
                names.push(entry.name);
            }
        }
        Ok(names)
    }
}

/// Refuses a directory that lies in another repository: the outer one would take it for garbage, and copy it.
fn refuse_nested(path: &Path) -> Result<()> {
    for above in real(path).ancestors().skip(1) {
        if above.join(super::layout::FORMAT_FILE).is_file() {
            let what = format!("it lies inside the repository in {}", above.display());
            let error = Error::invalid(what).at_path(path);
            return Err(error.advise("move it out of that repository"));
        }
    }
    Ok(())
}
