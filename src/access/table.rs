//! The access table: the content of `access.toml`.
//!
//! # Invariants
//! What no entry allows is forbidden. A file with content that is not understood is refused as a
//! whole.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use toml::value::Datetime;

use super::written::{Account, Written, WrittenEntry, line};
use super::{Right, Rights};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sys::account;
use crate::types::{Digest, RepositoryName, TokenName, VmName, pattern};

/// LIMIT: bytes of the file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// LIMIT: characters of a certificate's name, an account or a pattern.
const TEXT_BYTES_MAX: usize = 256;

/// The pattern that stands for all VMs and the repository as a whole.
pub(super) const ALL: &str = "*";

/// Who an entry is about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    /// A name in a certificate.
    Certificate(String),
    /// A user; `None` for a name that no user has.
    User(Option<u32>),
    /// A group; `None` for a name that no group has.
    Group(Option<u32>),
    /// A token.
    Token(TokenEntry),
}

/// A token of the table. `Debug` does not show its hash.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenEntry {
    /// Its name.
    pub name: TokenName,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// When it ends.
    pub expires: Option<Timestamp>,
    /// BLAKE3 of the secret's text.
    hash: Digest,
}

impl std::fmt::Debug for TokenEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenEntry")
            .field("name", &self.name)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl TokenEntry {
    /// Whether the token's secret has this hash. The time does not depend on the hash.
    pub(super) fn is_of(&self, hash: &blake3::Hash) -> bool {
        // blake3::Hash compares in constant time.
        blake3::Hash::from_bytes(self.hash.0) == *hash
    }

    /// Whether the token has ended at `now`.
    #[must_use]
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// The VMs on which a right is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach<'a> {
    /// This one.
    Vm(&'a VmName),
    /// All of them, and the repository as a whole.
    All,
    /// At least one, which need not exist yet.
    Some,
}

impl<'a> From<Option<&'a VmName>> for Reach<'a> {
    fn from(vm: Option<&'a VmName>) -> Self {
        vm.map_or(Self::All, Self::Vm)
    }
}

/// The rights of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Patterns of the names of VMs, folded.
    pub vms: Vec<String>,
    /// The rights on them.
    pub rights: Rights,
    /// The repositories; `None` stands for all.
    pub repositories: Option<Vec<RepositoryName>>,
}

impl Grant {
    /// Whether the entry is about the repository as a whole.
    fn is_whole(&self) -> bool {
        self.vms.iter().any(|pattern| pattern == ALL)
    }

    fn gives(&self, right: Right, reach: Reach<'_>) -> bool {
        if !self.rights.contains(right) {
            return false;
        }
        match reach {
            // This right concerns the repository, not a VM.
            _ if right == Right::Admin => self.is_whole(),
            Reach::All => self.is_whole(),
            Reach::Some => true,
            Reach::Vm(vm) => {
                let vm = vm.folded();
                let mut patterns = self.vms.iter();
                patterns.any(|pattern| pattern::fits(pattern, &vm))
            }
        }
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    subject: Subject,
    grant: Grant,
}

/// The access table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    entries: Vec<Entry>,
    /// Whether the file has an entry for a user or a group, also one for another repository.
    decides_for_users: bool,
}

/// A table with what is to be said of its file.
pub(super) struct Parsed {
    pub(super) access: Access,
    /// Entries that have no effect, each in a sentence.
    pub(super) remarks: Vec<String>,
}

/// The text of the file at `path`; `None` when there is none.
///
/// # Errors
/// `LimitExceeded`, `InvalidInput` (not UTF-8), `PermissionDenied`, `Io`.
pub(super) fn read(path: &Path) -> Result<Option<String>> {
    let what = "cannot read the access table";
    let file = match std::fs::File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.or_io(what).at_path(path)?,
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .or_io(what)
        .at_path(path)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
        let error = Error::new(ErrorKind::LimitExceeded, "the file has more than 1 MiB");
        return Err(error.at_path(path));
    }
    String::from_utf8(bytes).map(Some).map_err(|e| {
        Error::invalid("the file is not UTF-8")
            .caused_by(e)
            .at_path(path)
    })
}

impl Access {
    /// Loads a file that must exist.
    ///
    /// # Errors
    /// `InvalidInput`, which names the mistake and its line; `LimitExceeded`; `NotFound`, `Io`.
    pub fn load(path: &Path) -> Result<Self> {
        let text = read(path)?.ok_or_else(|| missing(path))?;
        Self::parse(&text).map(|parsed| parsed.access).at_path(path)
    }

    /// Parses the text of a file. Names of users and groups are looked up.
    ///
    /// # Errors
    /// `InvalidInput`, which names the mistake and its line.
    pub(super) fn parse(text: &str) -> Result<Parsed> {
        let mut parsed = Parsed {
            access: Self::default(),
            remarks: Vec::new(),
        };
        for spanned in Written::parse(text)?.access {
            let line = line(text, spanned.span().start);
            let mut remark = |what: String| parsed.remarks.push(format!("line {line}: {what}"));
            let entry = entry(spanned.into_inner(), &mut remark).map_err(|e| {
                let error = Error::invalid(format!("line {line}: {}", e.what()));
                match &e.context().advice {
                    Some(advice) => error.advise(advice.to_string()),
                    None => error,
                }
            })?;
            if let Subject::Token(token) = &entry.subject
                && parsed.access.token(token.name.as_str()).is_some()
            {
                let what = format!("line {line}: the token {} is there twice", token.name);
                return Err(Error::invalid(what));
            }
            let is_of_user = matches!(entry.subject, Subject::User(_) | Subject::Group(_));
            parsed.access.decides_for_users |= is_of_user;
            parsed.access.entries.push(entry);
        }
        Ok(parsed)
    }

    /// The table as the repository of that name sees it: without the entries for others.
    #[must_use]
    pub fn of_repository(&self, name: &RepositoryName) -> Self {
        let is_for = |entry: &&Entry| {
            let named = entry.grant.repositories.as_ref();
            named.is_none_or(|all| all.iter().any(|one| one.same_as(name)))
        };
        Self {
            entries: self.entries.iter().filter(is_for).cloned().collect(),
            decides_for_users: self.decides_for_users,
        }
    }

    /// Whether the table decides for the users of Unix sockets: it does as soon as it has an entry
    /// for a user or a group.
    #[must_use]
    pub const fn decides_for_users(&self) -> bool {
        self.decides_for_users
    }

    fn gives(&self, right: Right, reach: Reach<'_>, is_subject: impl Fn(&Subject) -> bool) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|entry| entry.grant.gives(right, reach) && is_subject(&entry.subject))
    }

    /// Whether a client with these names in its certificate has the right on the VM, or, when none
    /// is given, on all.
    #[must_use]
    pub fn allows_certificate<'a>(
        &self,
        names: &[String],
        vm: impl Into<Reach<'a>>,
        right: Right,
    ) -> bool {
        self.gives(
            right,
            vm.into(),
            |subject| matches!(subject, Subject::Certificate(name) if names.contains(name)),
        )
    }

    /// Whether a user with these groups has the right on the VM, or, when none is given, on all.
    #[must_use]
    pub fn allows_user<'a>(
        &self,
        uid: u32,
        groups: &[u32],
        vm: impl Into<Reach<'a>>,
        right: Right,
    ) -> bool {
        self.gives(right, vm.into(), |subject| match subject {
            Subject::User(id) => *id == Some(uid),
            Subject::Group(id) => id.is_some_and(|id| groups.contains(&id)),
            Subject::Certificate(_) | Subject::Token(_) => false,
        })
    }

    /// Whether the token of that name has the right on the VM, or, when none is given, on all.
    #[must_use]
    pub fn allows_token<'a>(&self, name: &str, vm: impl Into<Reach<'a>>, right: Right) -> bool {
        self.gives(
            right,
            vm.into(),
            |subject| matches!(subject, Subject::Token(token) if token.name.as_str() == name),
        )
    }

    /// The tokens, in the order of the file, with their rights.
    pub fn tokens(&self) -> impl Iterator<Item = (&TokenEntry, &Grant)> {
        self.entries
            .iter()
            .filter_map(|entry| match &entry.subject {
                Subject::Token(token) => Some((token, &entry.grant)),
                _ => None,
            })
    }

    /// The token of that name, compared without regard to case.
    #[must_use]
    pub fn token(&self, name: &str) -> Option<(&TokenEntry, &Grant)> {
        let mut tokens = self.tokens();
        tokens.find(|(token, _)| token.name.as_str().eq_ignore_ascii_case(name))
    }

    /// When the token of that name ends; `None` when there is no such token, or it has no end.
    #[must_use]
    pub fn token_expiry(&self, name: &str) -> Option<Timestamp> {
        self.token(name)?.0.expires
    }

    /// A value that another token of the same name does not have: what was begun with a token
    /// keeps it, and is over when it differs.
    #[must_use]
    pub fn token_identity(&self, name: &str) -> Option<Digest> {
        let (token, _) = self.token(name)?;
        Some(Digest::of(&token.hash.0))
    }

    /// The table without the tokens of which `keep` is false.
    #[must_use]
    pub(super) fn retaining_tokens(&self, keep: impl Fn(&TokenEntry) -> bool) -> Self {
        let stays = |entry: &&Entry| match &entry.subject {
            Subject::Token(token) => keep(token),
            _ => true,
        };
        Self {
            entries: self.entries.iter().filter(stays).cloned().collect(),
            decides_for_users: self.decides_for_users,
        }
    }

    /// The table without the tokens whose hash is not in `text`.
    #[must_use]
    pub(super) fn retaining_named_in(&self, text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        self.retaining_tokens(|token| text.contains(&token.hash.to_string()))
    }

    /// An owned copy for sharing.
    #[must_use]
    pub fn shared(self) -> Arc<Self> {
        Arc::new(self)
    }
}

/// The error for a file that must exist and does not.
pub(super) fn missing(path: &Path) -> Error {
    Error::not_found("the access table is not there")
        .at_path(path)
        .advise(
            "make it, with [[access]] entries (docs/access.md); an empty file gives nobody a right",
        )
}

fn entry(written: WrittenEntry, remark: &mut impl FnMut(String)) -> Result<Entry> {
    let is_plain = |text: &String| !text.is_empty() && text.len() <= TEXT_BYTES_MAX;
    let is_token = written.token.is_some();
    if !is_token {
        let keys = [
            ("hash", written.hash.is_some()),
            ("created", written.created.is_some()),
            ("expires", written.expires.is_some()),
        ];
        if let Some((key, _)) = keys.iter().find(|(_, is_there)| *is_there) {
            let what = format!("{key} belongs to a token, and the entry has no key token");
            return Err(Error::invalid(what));
        }
    }
    let (who, subject) = match (
        written.certificate,
        written.user,
        written.group,
        written.token,
    ) {
        (Some(name), None, None, None) if is_plain(&name) => {
            (name.clone(), Subject::Certificate(name))
        }
        (Some(_), None, None, None) => {
            return Err(Error::invalid("an identity is empty or too long"));
        }
        (None, Some(user), None, None) => {
            let (who, id) = resolve("user", user, account::user_id, remark)?;
            (who, Subject::User(id))
        }
        (None, None, Some(group), None) => {
            let (who, id) = resolve("group", group, account::group_id, remark)?;
            (who, Subject::Group(id))
        }
        (None, None, None, Some(name)) => {
            let name = TokenName::new(name)
                .map_err(|e| Error::invalid(format!("the token's name: {}", e.what())))?;
            let of = |e: &Error| Error::invalid(format!("the token {name}: {}", e.what()));
            let hash = written
                .hash
                .ok_or_else(|| Error::invalid("its hash is missing"));
            let hash = hash.and_then(|hash| hash.parse()).map_err(|e| of(&e))?;
            let time = |key: &str, written: Option<Datetime>| {
                written
                    .map(|at| instant(key, at))
                    .transpose()
                    .map_err(|e| of(&e))
            };
            let token = TokenEntry {
                created: time("created", written.created)?,
                expires: time("expires", written.expires)?,
                hash,
                name: name.clone(),
            };
            (name.to_string(), Subject::Token(token))
        }
        _ => {
            let what =
                "an entry needs exactly one of certificate (or identity), user, group, token";
            return Err(Error::invalid(what));
        }
    };
    let who = who.escape_debug();
    if written.vms.is_empty() || !written.vms.iter().all(is_plain) {
        return Err(Error::invalid(format!(
            "\"{who}\": vms has no pattern, or one that is empty or too long"
        )));
    }
    if written.rights.is_empty() {
        return Err(Error::invalid(format!("\"{who}\": rights is empty")));
    }
    let grant = Grant {
        vms: written
            .vms
            .iter()
            .map(|one| one.to_ascii_lowercase())
            .collect(),
        rights: written.rights.into_iter().collect(),
        repositories: written
            .repositories
            .map(|names| repositories(&who.to_string(), names))
            .transpose()?,
    };
    if grant.rights.contains(Right::Admin) && !grant.is_whole() {
        remark(format!(
            "the right admin of \"{who}\" has no effect: it needs vms = [\"*\"]"
        ));
    }
    Ok(Entry { subject, grant })
}

/// The instant of a date and time.
fn instant(key: &str, at: Datetime) -> Result<Timestamp> {
    at.to_string().parse().map_err(|_| {
        Error::invalid(format!("{key} is no instant"))
            .advise("write date, time and time zone: 2026-11-30T10:00:00Z")
    })
}

/// Names of repositories that must not be none.
fn repositories(who: &str, names: Vec<String>) -> Result<Vec<RepositoryName>> {
    if names.is_empty() {
        let what = format!("\"{who}\": repositories is empty");
        return Err(Error::invalid(what).advise("leave the key out for all repositories"));
    }
    let parse = |name: String| {
        RepositoryName::new(name)
            .map_err(|e| Error::invalid(format!("\"{who}\": repositories: {}", e.what())))
    };
    names.into_iter().map(parse).collect()
}

/// The name of an account, for messages, and its id, if there is such an account.
fn resolve(
    kind: &str,
    account: Account,
    look_up: impl Fn(&str) -> Result<Option<u32>>,
    remark: &mut impl FnMut(String),
) -> Result<(String, Option<u32>)> {
    let name = match account {
        Account::Id(id) => return Ok((id.to_string(), Some(id))),
        Account::Name(name) if name.is_empty() || name.len() > TEXT_BYTES_MAX => {
            return Err(Error::invalid(format!(
                "the name of a {kind} is empty or too long"
            )));
        }
        Account::Name(name) => name,
    };
    let id = look_up(&name).unwrap_or_else(|e| {
        remark(format!("{kind} {}: {}", name.escape_debug(), e.report()));
        None
    });
    if id.is_none() {
        remark(format!(
            "there is no {kind} {}: the entry is for nobody",
            name.escape_debug()
        ));
    }
    Ok((name, id))
}

#[cfg(test)]
mod tests;
