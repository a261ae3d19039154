//! Declarations: extended attributes on a session's directory with the meaning of command-line flags.
//!
//! | `user.restorefs.` | value | as the flag |
//! |---|---|---|
//! | `change_id.DISK` | text | `--change-id DISK=ID` |
//! | `full`, `without`, `unchanged`, `finished`, `raw` | disks, separated by commas or blanks; `*`: all | `--full`, `--without`, ... |
//! | `ttl` | `6h`, `90m`, seconds | `--ttl` |
//!
//! They can be read by name and are not listed.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::guest::fs::Xattr;
use crate::ingest::Session;
use crate::repo::sidecar::session::Declared;
use crate::tree::Tree;
use crate::tree::inode::{Ino, low};
use crate::tree::session_node::{Part, SessionNode};
use crate::types::{DiskName, duration};

/// Prefix of the names.
const PREFIX: &str = "user.restorefs.";
/// LIMIT: bytes of a value.
const VALUE_BYTES_MAX: usize = 64 << 10;

/// The declaration of one attribute.
enum Declaration {
    ChangeId(DiskName),
    Full,
    Without,
    Unchanged,
    Finished,
    Raw,
    Ttl,
}

fn parse(name: &[u8]) -> Result<Declaration> {
    let other = || Error::unsupported("only user.restorefs.* attributes are kept on a session");
    let name = std::str::from_utf8(name).map_err(|_| other())?;
    let name = name.strip_prefix(PREFIX).ok_or_else(other)?;
    if let Some(disk) = name.strip_prefix("change_id.") {
        return Ok(Declaration::ChangeId(DiskName::new(disk)?));
    }
    match name {
        "full" => Ok(Declaration::Full),
        "without" => Ok(Declaration::Without),
        "unchanged" => Ok(Declaration::Unchanged),
        "finished" => Ok(Declaration::Finished),
        "raw" => Ok(Declaration::Raw),
        "ttl" => Ok(Declaration::Ttl),
        _ => Err(Error::invalid(format!(
            "there is no declaration \"{}\"",
            name.escape_debug()
        ))
        .advise("known are change_id.DISK, full, without, unchanged, finished, raw, ttl")),
    }
}

/// The disks that a value names; each must be, or have been, in the session.
fn disks(session: &Session, text: &str) -> Result<Vec<DiskName>> {
    let known: Vec<DiskName> = session
        .sidecar()
        .disks
        .into_iter()
        .filter(|disk| disk.temporary.is_none())
        .map(|disk| disk.name)
        .collect();
    let words = text
        .split([',', ' ', '\n', '\t'])
        .filter(|word| !word.is_empty());
    let mut named = Vec::new();
    for word in words {
        if word == "*" {
            named.extend(known.iter().cloned());
            continue;
        }
        let word = DiskName::new(word)?;
        let found = known.iter().find(|disk| disk.same_as(&word));
        named.push(
            found
                .cloned()
                .ok_or_else(|| Error::invalid(format!("the session has no disk {word}")))?,
        );
    }
    named.sort();
    named.dedup();
    Ok(named)
}

fn joined<'a>(disks: impl IntoIterator<Item = &'a DiskName>) -> String {
    let names: Vec<&str> = disks.into_iter().map(DiskName::as_str).collect();
    names.join(",")
}

/// All declarations of a session.
fn declared(session: &Session) -> Vec<Xattr> {
    let sidecar = session.sidecar();
    let Declared {
        change_ids,
        unchanged,
        without,
        raw,
        ..
    } = &sidecar.declared;
    let mut all = vec![("ttl".to_owned(), sidecar.ttl_seconds.to_string())];
    for (disk, id) in change_ids {
        all.push((format!("change_id.{disk}"), id.clone()));
    }
    let full = sidecar
        .disks
        .iter()
        .filter(|disk| disk.inherited && disk.parent.is_none());
    let writers = session.disks();
    let finished = writers.iter().filter(|disk| disk.is_finished());
    let lists = [
        ("full", joined(full.map(|disk| &disk.name))),
        ("finished", joined(finished.map(|disk| &disk.meta().name))),
        ("unchanged", joined(unchanged)),
        ("without", joined(without)),
        ("raw", joined(raw)),
    ];
    let lists = lists.into_iter().filter(|(_, text)| !text.is_empty());
    all.extend(lists.map(|(name, text)| (name.to_owned(), text)));
    all.into_iter()
        .map(|(name, value)| Xattr {
            name: format!("{PREFIX}{name}").into_bytes(),
            value: value.into_bytes(),
        })
        .collect()
}

impl Tree {
    /// The declarations of a session, if the node is its directory.
    pub(in crate::tree) fn declarations(&self, ino: Ino) -> Option<Arc<[Xattr]>> {
        if ino.low() != low::SELF {
            return None;
        }
        let session = self
            .open_sessions
            .as_ref()?
            .sessions()
            .by_serial(ino.serial())?;
        Some(declared(&session).into())
    }

    fn declaring(&self, ino: Ino) -> Result<SessionNode> {
        let node = self.open_node(ino)?;
        match node.part {
            Part::Top => Ok(node),
            // The error of a filesystem without extended attributes: tools that copy attributes then
            // continue.
            _ => Err(Error::unsupported("there are no attributes here")),
        }
    }

    /// Sets a declaration of a session.
    ///
    /// # Errors
    /// `Unsupported` for other attributes; `InvalidInput` for malformed values; `ReadOnly` for committed
    /// nodes; `AlreadyExists`, `NoData` as the flags of setxattr(2) require; `Busy`, `NoSpace`, `Io`.
    pub fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], must: Option<bool>) -> Result<()> {
        let node = self.declaring(ino)?;
        let declaration = parse(name)?;
        let session = &node.session;
        let is_there = declared(session).iter().any(|xattr| xattr.name == name);
        match must {
            Some(true) if !is_there => {
                return Err(Error::new(ErrorKind::NoData, "no such extended attribute"));
            }
            Some(false) if is_there => {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    "it is declared already",
                ));
            }
            _ => {}
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(Error::invalid("the value is too long"));
        }
        let text = std::str::from_utf8(value)
            .map_err(|_| Error::invalid("the value is not UTF-8"))?
            .trim();
        Self::noted(session, declare(session, &declaration, text))
    }

    /// Withdraws a declaration.
    ///
    /// # Errors
    /// As [`Tree::set_xattr`]; `InvalidInput` for a declaration that cannot be withdrawn.
    pub fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        let node = self.declaring(ino)?;
        let declaration = parse(name)?;
        let session = &node.session;
        if !declared(session).iter().any(|xattr| xattr.name == name) {
            return Err(Error::new(ErrorKind::NoData, "no such extended attribute"));
        }
        match declaration {
            Declaration::Full => Err(Error::invalid("a disk that was made full stays full")),
            Declaration::Ttl => Err(Error::invalid(
                "a session always has a ttl; set another one",
            )),
            other => Self::noted(session, declare(session, &other, "")),
        }
    }
}

fn declare(session: &Session, declaration: &Declaration, text: &str) -> Result<()> {
    match declaration {
        Declaration::ChangeId(disk) => {
            let disk = disks(session, disk.as_str())?;
            session.declare(|declared| {
                for disk in disk {
                    declared.change_ids.remove(&disk);
                    if !text.is_empty() {
                        declared.change_ids.insert(disk, text.to_owned());
                    }
                }
                Ok(())
            })
        }
        Declaration::Full => disks(session, text)?
            .iter()
            .try_for_each(|disk| session.make_full(disk)),
        Declaration::Without => {
            let named = disks(session, text)?;
            session.declare(|declared| {
                declared.without = named;
                Ok(())
            })
        }
        Declaration::Unchanged => {
            let named = disks(session, text)?;
            session.declare(|declared| {
                declared.unchanged = named;
                Ok(())
            })
        }
        Declaration::Raw => {
            let named = disks(session, text)?;
            session.declare(|declared| {
                declared.raw = named;
                Ok(())
            })
        }
        Declaration::Finished => {
            let named = disks(session, text)?;
            session.check_open()?;
            for disk in session.disks() {
                disk.set_finished(named.contains(&disk.meta().name));
            }
            session.flush()
        }
        Declaration::Ttl => session.set_ttl(duration::parse_seconds(text)?),
    }
}
