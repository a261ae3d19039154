//! The file of the access table, for the commands that change its tokens.
//!
//! # Invariants
//! - The edited text is parsed again before it is written, and differs in the one token alone:
//!   comments, the order and all other entries stay. What cannot be edited so (an inline array) is
//!   refused.
//! - The file is replaced as a whole, with its owner, group and mode as they were.
//! - One process edits at a time. The lock is a file of its own, which only its owner may open:
//!   whoever may read the table cannot keep a token from being revoked.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, Value};

use super::place::SYSTEM;
use super::table::{self, Grant};
use super::{Access, Right, Secret};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sys::beneath::Access as OpenAs;
use crate::sys::durable::{self, Replace};
use crate::sys::{Dir, flock, place};
use crate::types::TokenName;

/// The key of the entries.
const KEY: &str = "access";

/// Mode of a new file in [`SYSTEM`], whose group is the daemon's.
const MODE_OF_SYSTEM: u16 = 0o640;

/// Mode of a new file elsewhere, and of lock files.
const MODE_OF_USER: u16 = 0o600;

/// LIMIT: attempts to edit a file that another process is editing, and the pause between them.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// A token that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// Its name.
    pub name: TokenName,
    /// Its rights.
    pub grant: Grant,
    /// When it is made.
    pub created: Timestamp,
    /// When it ends.
    pub expires: Option<Timestamp>,
}

/// A file with an access table.
#[derive(Debug, Clone)]
pub struct AccessFile {
    path: PathBuf,
}

impl AccessFile {
    /// The file at `path`, which need not exist.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self {
            // A symlink stays one: what it points to is replaced.
            path: path.canonicalize().unwrap_or_else(|_| path.to_owned()),
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Loads the table; an empty one when there is no file.
    ///
    /// # Errors
    /// `InvalidInput` with the line of a mistake; `PermissionDenied`, `LimitExceeded`, `Io`.
    pub fn load(&self) -> Result<Access> {
        let text = table::read(&self.path)?.unwrap_or_default();
        let parsed = Access::parse(&text).at_path(&self.path)?;
        Ok(parsed.access)
    }

    /// Adds a token, and returns its secret, which is kept nowhere.
    ///
    /// # Errors
    /// `AlreadyExists` when there is a token of that name; `InvalidInput` for a token without effect
    /// (no rights, no VMs, `admin` on some VMs, an end in the past), or when the file cannot be
    /// edited; `Busy`, `PermissionDenied`, `NoSpace`, `Io`.
    pub fn add(&self, token: &NewToken) -> Result<Secret> {
        check(token)?;
        let secret = Secret::random()?;
        self.change(|text| {
            let before = Access::parse(text)?.access;
            if let Some((taken, _)) = before.token(token.name.as_str()) {
                let what = format!("there is a token {}", taken.name);
                let advice = format!(
                    "choose another name, or end that one first: restorefs token revoke {}",
                    taken.name
                );
                return Err(Error::new(ErrorKind::AlreadyExists, what).advise(advice));
            }
            let after = append(text, token, &secret)?;
            let parsed = Access::parse(&after)?.access;
            let others = parsed.retaining_tokens(|one| one.name != token.name);
            // Patterns are compared without regard to case, and the table has them folded.
            let mut expected = token.grant.clone();
            for pattern in &mut expected.vms {
                pattern.make_ascii_lowercase();
            }
            match parsed.token(token.name.as_str()) {
                Some((_, grant)) if *grant == expected && others == before => Ok(after),
                _ => Err(by_hand()),
            }
        })?;
        Ok(secret)
    }

    /// Removes a token.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` when the file cannot be edited; `Busy`, `PermissionDenied`,
    /// `NoSpace`, `Io`.
    pub fn revoke(&self, name: &TokenName) -> Result<()> {
        self.change(|text| {
            let before = Access::parse(text)?.access;
            if before.token(name.as_str()).is_none() {
                return Err(Error::not_found(format!("there is no token {name}"))
                    .advise("list them with: restorefs token list"));
            }
            let after = remove(text, name)?;
            let expected = before.retaining_tokens(|one| !one.name.same_as(name));
            match Access::parse(&after)?.access == expected {
                true => Ok(after),
                false => Err(by_hand()),
            }
        })
    }

    /// Replaces the text by what `edit` makes of it, while no other process does so.
    fn change(&self, edit: impl FnOnce(&str) -> Result<String>) -> Result<()> {
        let (Some(above), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Err(Error::invalid("this is no file").at_path(&self.path));
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .create(above)
            .or_io("cannot make the directory")
            .at_path(above)?;
        let dir = Dir::open(above)?;
        let lock = lock_file(&dir, name)?;
        let mut attempts = 0;
        while !flock::try_lock(&lock, flock::Mode::Exclusive)? {
            attempts += 1;
            if attempts == ATTEMPTS {
                let error = Error::new(ErrorKind::Busy, "another process edits the file");
                return Err(error.at_path(&self.path));
            }
            std::thread::sleep(PAUSE);
        }
        let text = table::read(&self.path)?.unwrap_or_default();
        let text = edit(&text).at_path(&self.path)?;
        let (owner, mode) = self.standing(above)?;
        durable::put_filled(&dir, name, MODE_OF_USER.into(), Replace::Yes, |mut file| {
            std::io::Write::write_all(&mut file, text.as_bytes())
                .or_io("cannot write the access table")?;
            // A file that is ours already needs no right to give it away.
            let meta = file.metadata().or_io("cannot look at the new file")?;
            if let Some((uid, gid)) = owner
                && (meta.uid(), meta.gid()) != (uid, gid)
            {
                place::set_owner(file, uid, gid)?;
            }
            place::set_mode(file, mode)
        })
    }

    /// Owner (as far as it is to be set), and mode of the file that replaces this one.
    fn standing(&self, above: &Path) -> Result<(Option<(u32, u32)>, u16)> {
        match std::fs::metadata(&self.path) {
            Ok(found) => {
                let mode = u16::try_from(found.mode() & 0o777).unwrap_or(MODE_OF_USER);
                Ok((Some((found.uid(), found.gid())), mode))
            }
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("cannot look at the access table", e).at_path(&self.path))
            }
            Err(_) if above == Path::new(SYSTEM) => {
                let found = std::fs::metadata(above)
                    .or_io("cannot look at the directory")
                    .at_path(above)?;
                let user = rustix::process::geteuid().as_raw();
                Ok((Some((user, found.gid())), MODE_OF_SYSTEM))
            }
            Err(_) => Ok((None, MODE_OF_USER)),
        }
    }
}

/// Opens the lock file beside the file `name`, and makes it when it is missing. It is left there.
fn lock_file(dir: &Dir, name: &OsStr) -> Result<std::fs::File> {
    let mut path = OsString::from(".");
    path.push(name);
    path.push(".lock");
    let path = Path::new(&path);
    match dir.create_file(path, MODE_OF_USER.into()) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => dir.open_file(path, OpenAs::ReadWrite),
        other => other,
    }
}

/// Refuses a token that would have no effect.
fn check(token: &NewToken) -> Result<()> {
    let NewToken { grant, .. } = token;
    if grant.rights.is_empty() {
        return Err(Error::invalid("the token has no rights")
            .advise("the rights are read, restore, ingest, manage, admin, metrics"));
    }
    if grant.vms.is_empty() {
        return Err(Error::invalid("the token has no VMs")
            .advise("give patterns of their names: --vms 'web*', or --vms '*' for all"));
    }
    let is_whole = grant.vms.iter().any(|pattern| pattern == table::ALL);
    if grant.rights.contains(Right::Admin) && !is_whole {
        return Err(
            Error::invalid("the right admin is about the repository as a whole")
                .advise("give it with --vms '*'"),
        );
    }
    if token
        .expires
        .is_some_and(|expires| expires <= token.created)
    {
        return Err(Error::invalid("the token would expire at once"));
    }
    Ok(())
}

fn by_hand() -> Error {
    Error::invalid("the file is written in a form that cannot be edited safely")
        .advise("change it with an editor")
}

fn document(text: &str) -> Result<DocumentMut> {
    text.parse().map_err(|e: toml_edit::TomlError| {
        Error::invalid(format!("the file cannot be read: {}", e.message()))
    })
}

/// The entries; `None` when there are none.
fn entries(document: &mut DocumentMut) -> Result<Option<&mut ArrayOfTables>> {
    match document.get_mut(KEY) {
        None => Ok(None),
        Some(item) => item.as_array_of_tables_mut().map(Some).ok_or_else(by_hand),
    }
}

/// An instant as TOML has it.
fn instant(at: Timestamp) -> Result<Value> {
    let at = Timestamp::from_second(at.as_second()).unwrap_or(at);
    let text = at.to_string();
    let parsed: std::result::Result<toml_edit::Datetime, _> = text.parse();
    parsed
        .map(Value::from)
        .map_err(|e| Error::invalid(format!("{text} cannot be written into the file")).caused_by(e))
}

/// The text with one more token at its end.
fn append(text: &str, token: &NewToken, secret: &Secret) -> Result<String> {
    let mut document = document(text)?;
    let list = |all: &mut dyn Iterator<Item = &str>| Value::Array(all.collect::<Array>());
    let grant = &token.grant;
    let mut table = Table::new();
    table.insert("token", Item::Value(token.name.as_str().into()));
    table.insert("hash", Item::Value(secret.hash().to_string().into()));
    table.insert("created", Item::Value(instant(token.created)?));
    if let Some(expires) = token.expires {
        table.insert("expires", Item::Value(instant(expires)?));
    }
    let vms = list(&mut grant.vms.iter().map(String::as_str));
    table.insert("vms", Item::Value(vms));
    let rights = list(&mut grant.rights.iter().map(Right::as_str));
    table.insert("rights", Item::Value(rights));
    if let Some(repositories) = &grant.repositories {
        let names = list(&mut repositories.iter().map(|name| name.as_str()));
        table.insert("repositories", Item::Value(names));
    }
    // What stands after the last entry stays before the new one.
    let before = document.trailing().as_str().unwrap_or_default().to_owned();
    let gap = match text {
        "" => "",
        _ if before.ends_with('\n') || before.is_empty() => "\n",
        _ => "\n\n",
    };
    document.set_trailing("");
    table.decor_mut().set_prefix(format!("{before}{gap}"));
    match entries(&mut document)? {
        Some(all) => all.push(table),
        None => {
            let mut all = ArrayOfTables::new();
            all.push(table);
            document.insert(KEY, Item::ArrayOfTables(all));
        }
    }
    Ok(document.to_string())
}

/// The text without a token. Comments before its entry stay.
fn remove(text: &str, name: &TokenName) -> Result<String> {
    let mut document = document(text)?;
    let trailing = document.trailing().as_str().unwrap_or_default().to_owned();
    let all = entries(&mut document)?.ok_or_else(by_hand)?;
    let is_it = |table: &Table| {
        let found = table.get("token").and_then(Item::as_str);
        found.is_some_and(|found| found.eq_ignore_ascii_case(name.as_str()))
    };
    let n = all.iter().position(is_it).ok_or_else(by_hand)?;
    let decor = |table: &Table| {
        let prefix = table.decor().prefix().and_then(|prefix| prefix.as_str());
        prefix.unwrap_or_default().to_owned()
    };
    let before = all.get(n).map(decor).unwrap_or_default();
    // Blank lines alone go with the entry that they set off.
    let has_comment = !before.trim().is_empty();
    all.remove(n);
    let is_empty = all.is_empty();
    match all.get_mut(n) {
        Some(next) if has_comment => {
            let prefix = format!("{before}{}", decor(next));
            next.decor_mut().set_prefix(prefix);
        }
        Some(_) => {}
        None if has_comment => document.set_trailing(format!("{before}{trailing}")),
        None => {}
    }
    if is_empty {
        document.remove(KEY);
    }
    Ok(document.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    use std::path::PathBuf;

    use jiff::Timestamp;

    use super::{AccessFile, NewToken};
    use crate::access::{Caller, Grant, Right, Rights};
    use crate::error::ErrorKind;
    use crate::types::{RepositoryName, TokenName};

    const FILE: &str = "# Who may do what.\n\n# The agent of the web servers.\n[[access]]\nidentity = 'agent1' # its certificate\n\
        vms = [\n  \"web*\", # all\n]\nrights = [\"read\", \"ingest\"]\n\n# the end\n";

    fn now() -> Timestamp {
        "2026-11-30T10:00:00.5Z".parse().unwrap()
    }

    fn token(name: &str, rights: &[Right], vms: &[&str]) -> NewToken {
        NewToken {
            name: TokenName::new(name).unwrap(),
            grant: Grant {
                vms: vms.iter().map(|one| (*one).to_owned()).collect(),
                rights: rights.iter().copied().collect(),
                repositories: None,
            },
            created: now(),
            expires: None,
        }
    }

    fn place(text: Option<&str>) -> (tempfile::TempDir, PathBuf, AccessFile) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.toml");
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let file = AccessFile::at(&path);
        (dir, path, file)
    }

    #[test]
    fn what_is_added_counts_and_what_is_revoked_leaves_the_rest() {
        for begun in [Some(FILE), Some(""), Some("\n# nothing yet"), None] {
            let (_dir, path, file) = place(begun);
            let names = ["one", "two", "three"].map(|name| TokenName::new(name).unwrap());
            let secrets = ["one", "two", "three"].map(|name| {
                let mut token = token(name, &[Right::Read], &["Web*", "a\"b"]);
                token.expires = (name == "two").then(|| "2027-02-28T10:00:00Z".parse().unwrap());
                let name = RepositoryName::new("default").unwrap();
                token.grant.repositories = (token.expires.is_some()).then(|| vec![name]);
                file.add(&token).unwrap()
            });
            let table = file.load().unwrap();
            for (name, secret) in names.iter().zip(&secrets) {
                let caller = table.authenticate(secret.reveal(), now());
                assert_eq!(caller, Some(Caller::Token(name.as_str().into())));
            }
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.starts_with(begun.unwrap_or_default()), "{text}");
            assert!(text.contains("created = 2026-11-30T10:00:00Z\n"), "{text}");
            assert!(secrets.iter().all(|secret| !text.contains(secret.reveal())));
            file.revoke(&names[1]).unwrap();
            let table = file.load().unwrap();
            assert!(table.authenticate(secrets[1].reveal(), now()).is_none());
            assert!(table.authenticate(secrets[2].reveal(), now()).is_some());
            file.revoke(&TokenName::new("THREE").unwrap()).unwrap();
            file.revoke(&names[0]).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text.trim_end(), begun.unwrap_or_default().trim_end());
        }
    }

    #[test]
    fn comments_before_a_revoked_token_stay() {
        let (_dir, path, file) = place(None);
        for name in ["one", "two"] {
            file.add(&token(name, &[Right::Read], &["*"])).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("# Tokens of the office.\n\n{text}")).unwrap();
        for name in ["one", "two"] {
            file.revoke(&TokenName::new(name).unwrap()).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("# Tokens of the office.\n"), "{text}");
        }
    }

    #[test]
    fn a_token_without_effect_is_refused() {
        let (_dir, path, file) = place(None);
        let mut late = token("a", &[Right::Read], &["*"]);
        late.expires = Some(late.created);
        for (token, what) in [
            (token("a", &[], &["*"]), "no rights"),
            (token("a", &[Right::Read], &[]), "no VMs"),
            (token("a", &[Right::Admin], &["web*"]), "as a whole"),
            (token("a", &[Right::Read], &[""]), "pattern"),
            (late, "expire at once"),
        ] {
            let error = file.add(&token).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.report().contains(what), "{}", error.report());
        }
        assert!(!path.exists());
        let admin = token("a", &[Right::Admin], &["web*", "*"]);
        file.add(&admin).unwrap();
        let error = file.add(&token("A", &[Right::Read], &["*"])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        let gone = file.revoke(&TokenName::new("b").unwrap()).unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn what_cannot_be_edited_or_is_wrong_is_left_as_it_is() {
        for text in [
            "access = [{user = 1, vms = [\"*\"], rights = [\"read\"]}]\n",
            "[[access]]\nuser = 1\n",
        ] {
            let (_dir, path, file) = place(Some(text));
            let error = file.add(&token("a", &[Right::Read], &["*"])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn owner_group_and_mode_stay_and_a_new_file_is_its_owners() {
        let (_dir, path, file) = place(None);
        let add = |name: &str| file.add(&token(name, &[Right::Read], &["*"])).unwrap();
        add("one");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let modes = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(&path, modes).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(&path, Some(4001), Some(5001)).unwrap();
        }
        let before = std::fs::metadata(&path).unwrap();
        add("two");
        let after = std::fs::metadata(&path).unwrap();
        let standing = |meta: &std::fs::Metadata| (meta.uid(), meta.gid(), meta.mode());
        assert_eq!(standing(&after), standing(&before));
        assert_ne!(after.ino(), before.ino());
        let lock = path.with_file_name(".access.toml.lock");
        assert_eq!(std::fs::metadata(lock).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_symlink_stays_one() {
        let (dir, path, _) = place(None);
        let target = dir.path().join("real.toml");
        std::fs::write(&target, FILE).unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        let file = AccessFile::at(&path);
        file.add(&token("one", &[Right::Read], &["*"])).unwrap();
        assert!(std::fs::symlink_metadata(&path).unwrap().is_symlink());
        assert!(
            std::fs::read_to_string(&target)
                .unwrap()
                .contains("token = \"one\"")
        );
    }

    #[test]
    fn commands_at_the_same_time_lose_nothing() {
        let (_dir, _, file) = place(None);
        std::thread::scope(|scope| {
            for n in 0..8 {
                let file = &file;
                scope.spawn(move || {
                    let name = format!("t{n}");
                    file.add(&token(&name, &[Right::Read], &["*"])).unwrap();
                });
            }
        });
        assert_eq!(file.load().unwrap().tokens().count(), 8);
        assert_eq!(Rights::NONE.iter().count(), 0);
    }
}
