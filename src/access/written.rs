//! The text form of the access table: TOML in which unknown keys are errors.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, Visitor};
use toml::Spanned;
use toml::value::Datetime;

use super::Right;
use crate::error::{Error, Result};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    #[serde(default)]
    pub(super) access: Vec<Spanned<WrittenEntry>>,
}

/// `[[access]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenEntry {
    /// A name in the certificate: a common name, or a DNS name or URI of its subjectAltName.
    #[serde(alias = "identity")]
    pub(super) certificate: Option<String>,
    pub(super) user: Option<Account>,
    pub(super) group: Option<Account>,
    pub(super) token: Option<String>,
    pub(super) hash: Option<String>,
    pub(super) created: Option<Datetime>,
    pub(super) expires: Option<Datetime>,
    /// Names of VMs; `*` stands for any characters, `?` for one.
    pub(super) vms: Vec<String>,
    pub(super) rights: Vec<Right>,
    pub(super) repositories: Option<Vec<String>>,
}

/// A user or a group, as the file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Account {
    /// By its id.
    Id(u32),
    /// By its name.
    Name(String),
}

impl<'de> Deserialize<'de> for Account {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct ByEither;
        impl Visitor<'_> for ByEither {
            type Value = Account;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or a number")
            }
            fn visit_i64<E: serde::de::Error>(self, id: i64) -> std::result::Result<Account, E> {
                let id = u32::try_from(id).ok().filter(|id| *id != u32::MAX);
                id.map(Account::Id)
                    .ok_or_else(|| E::custom("no account has this id"))
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> std::result::Result<Account, E> {
                if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
                    let id = name
                        .parse()
                        .map_err(|_| E::custom("no account has this id"))?;
                    return self.visit_i64(id);
                }
                Ok(Account::Name(name.to_owned()))
            }
        }
        deserializer
            .deserialize_any(ByEither)
            .map_err(D::Error::custom)
    }
}

/// The line of a position in the text, from 1 on.
pub(super) fn line(text: &str, position: usize) -> usize {
    let before = text.get(..position).unwrap_or_default();
    before.matches('\n').count() + 1
}

impl Written {
    /// Parses the text of the file.
    ///
    /// # Errors
    /// `InvalidInput` with the line of the mistake.
    pub(super) fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| {
            let line = line(text, e.span().map_or(0, |span| span.start));
            Error::invalid(format!("line {line}: {}", e.message().trim())).advise(
                "write [[access]] certificate = \"NAME\" (or user, group) vms = [\"web*\"] rights = [\"read\", \"ingest\"]",
            )
        })
    }
}
