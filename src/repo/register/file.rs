//! A file of the register: loading it, and replacing it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::Registered;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sys::durable::{self, Replace};
use crate::sys::{Dir, flock};
use crate::types::{RepositoryId, RepositoryName};

/// LIMIT: bytes of a file.
const BYTES_MAX: u64 = 1 << 20;
/// Mode of a new file: it has no secrets.
const MODE: u32 = 0o644;
/// LIMIT: attempts to edit a file that another process is editing, and the pause between them.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// The file; what this release does not know in it is left alone.
#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    repository: Vec<WrittenRepository>,
}

/// `[[repository]]`.
#[derive(Deserialize)]
struct WrittenRepository {
    name: String,
    id: String,
    path: PathBuf,
    #[serde(default)]
    media: Option<String>,
    #[serde(default)]
    offsite: bool,
}

/// The text of a file; empty when there is none.
fn read(path: &Path) -> Result<String> {
    let what = "cannot read the names of repositories";
    let file = match std::fs::File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        other => other.or_io(what).at_path(path)?,
    };
    let mut text = String::new();
    file.take(BYTES_MAX + 1)
        .read_to_string(&mut text)
        .or_io(what)
        .at_path(path)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > BYTES_MAX) {
        let error = Error::new(ErrorKind::LimitExceeded, "the file has more than 1 MiB");
        return Err(error.at_path(path));
    }
    Ok(text)
}

/// Loads the entries of a file; none when it is missing.
///
/// # Errors
/// `InvalidInput` with the line of a mistake; `PermissionDenied`, `LimitExceeded`, `Io`.
pub(super) fn load(path: &Path) -> Result<Vec<Registered>> {
    parse(&read(path)?, path).at_path(path)
}

/// Parses the text of the file at `path`.
///
/// # Errors
/// `InvalidInput`.
pub(super) fn parse(text: &str, path: &Path) -> Result<Vec<Registered>> {
    let written: Written = toml::from_str(text).map_err(|e| {
        let before = e.span().and_then(|span| text.get(..span.start));
        let line = before.unwrap_or_default().matches('\n').count() + 1;
        Error::invalid(format!("line {line}: {}", e.message().trim()))
    })?;
    let mut entries: Vec<Registered> = Vec::new();
    for (n, one) in written.repository.into_iter().enumerate() {
        let refuse = |what: &str| Error::invalid(format!("repository {}: {what}", n + 1));
        let name = RepositoryName::new(one.name).map_err(|e| refuse(e.what()))?;
        let id: RepositoryId = one
            .id
            .parse()
            .map_err(|_| refuse(&format!("the id of {name} is not a UUID")))?;
        if !one.path.is_absolute() {
            return Err(refuse(&format!("the path of {name} is not absolute")));
        }
        if entries.iter().any(|other| other.name.same_as(&name)) {
            return Err(refuse(&format!("the name {name} is there twice")));
        }
        entries.push(Registered {
            name,
            id,
            path: one.path,
            media: one.media,
            offsite: one.offsite,
            file: path.to_owned(),
        });
    }
    Ok(entries)
}

/// Replaces the text of a file by what `edit` makes of it, while no other process does so.
///
/// # Errors
/// Errors of `edit`, which leave the file as it is; `Busy`, `PermissionDenied`, `Io`.
pub(super) fn change(path: &Path, edit: impl FnOnce(&str) -> Result<String>) -> Result<()> {
    // A symlink stays one: what it points to is replaced.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::invalid("this is no file").at_path(&path));
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .create(above)
        .or_io("cannot make the directory")
        .at_path(above)?;
    let dir = Dir::open(above)?;
    let mut attempts = 0;
    while !flock::try_lock(&dir, flock::Mode::Exclusive)? {
        attempts += 1;
        if attempts == ATTEMPTS {
            return Err(
                Error::new(ErrorKind::Busy, "another process edits the file").at_path(&path),
            );
        }
        std::thread::sleep(PAUSE);
    }
    let text = edit(&read(&path)?)?;
    let mode = match std::fs::metadata(&path) {
        Ok(found) => std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o777,
        Err(_) => MODE,
    };
    durable::put(&dir, name, text.as_bytes(), mode, Replace::Yes)
}
