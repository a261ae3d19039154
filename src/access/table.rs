//! The access table for TCP: the file of `--nbd-access`.
//!
//! # Invariants
//! What no entry allows is forbidden. A file with content that is not understood is refused as a
//! whole.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::Right;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::types::{VmName, pattern};

/// LIMIT: bytes of the file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// LIMIT: characters of an identity or a pattern.
const TEXT_BYTES_MAX: usize = 256;

/// One entry of the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// A name in the certificate: a common name, or a DNS name or URI of its subjectAltName.
    identity: String,
    /// Names of VMs; `*` stands for any characters, `?` for one.
    vms: Vec<String>,
    rights: Vec<Right>,
}

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    #[serde(default)]
    access: Vec<Entry>,
}

impl Access {
    /// Reads the file.
    ///
    /// # Errors
    /// `InvalidInput`, which names the mistake and its place; `LimitExceeded`; `NotFound`, `Io`.
    pub fn load(path: &Path) -> Result<Self> {
        let mut text = String::new();
        let file = std::fs::File::open(path)
            .or_io("cannot read the access rights")
            .at_path(path)?;
        file.take(FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .or_io("cannot read the access rights")
            .at_path(path)?;
        if u64::try_from(text.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
            let error = Error::new(ErrorKind::LimitExceeded, "the file has more than 1 MiB");
            return Err(error.at_path(path));
        }
        Self::parse(&text).at_path(path)
    }

    fn parse(text: &str) -> Result<Self> {
        let access: Self = toml::from_str(text).map_err(|e| {
            let place = e.span().map_or(0, |span| {
                let before = text.get(..span.start).unwrap_or_default();
                before.matches('\n').count() + 1
            });
            Error::invalid(format!("line {place}: {}", e.message()))
                .advise("write [[access]] identity = \"NAME\" vms = [\"web*\"] rights = [\"read\", \"ingest\"]")
        })?;
        for entry in &access.access {
            let name = entry.identity.escape_debug();
            let is_plain = |text: &String| !text.is_empty() && text.len() <= TEXT_BYTES_MAX;
            if !is_plain(&entry.identity) {
                return Err(Error::invalid("an identity is empty or too long"));
            }
            if entry.vms.is_empty() || !entry.vms.iter().all(is_plain) {
                return Err(Error::invalid(format!(
                    "\"{name}\": vms has no pattern, or one that is empty or too long"
                )));
            }
            if entry.rights.is_empty() {
                return Err(Error::invalid(format!("\"{name}\": rights is empty")));
            }
        }
        Ok(access)
    }

    /// Whether a client with these names has the right on the VM.
    pub fn allows(&self, names: &[String], vm: &VmName, right: Right) -> bool {
        let vm = vm.folded();
        self.access.iter().any(|entry| {
            names.contains(&entry.identity)
                && entry.rights.contains(&right)
                && entry
                    .vms
                    .iter()
                    .any(|pattern| pattern::fits(&pattern.to_ascii_lowercase(), &vm))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Access, Right};
    use crate::types::VmName;

    const FILE: &str = "
        [[access]]
        identity = \"agent1\"
        vms = [\"web*\", \"db01\"]
        rights = [\"read\", \"ingest\"]

        [[access]]
        identity = \"spiffe://example/auditor\"
        vms = [\"*\"]
        rights = [\"read\"]
    ";

    #[test]
    fn the_file_says_who_may_do_what() {
        let access = Access::parse(FILE).unwrap();
        let may = |name: &str, vm: &str, right| {
            let names = ["nobody".to_owned(), name.to_owned()];
            access.allows(&names, &VmName::new(vm).unwrap(), right)
        };
        assert!(may("agent1", "web01", Right::Ingest));
        assert!(may("agent1", "WEB01", Right::Read));
        assert!(may("agent1", "db01", Right::Read));
        assert!(!may("agent1", "db011", Right::Read));
        assert!(!may("Agent1", "web01", Right::Read));
        assert!(may("spiffe://example/auditor", "mail", Right::Read));
        assert!(!may("spiffe://example/auditor", "mail", Right::Ingest));
        assert!(!may("", "web01", Right::Read));
        assert_eq!(Access::parse("").unwrap(), Access::default());
    }

    #[test]
    fn an_identity_may_tell_which_name_it_means() {
        let text = FILE.replace("\"agent1\"", "\"cn:agent1\"");
        let access = Access::parse(&text).unwrap();
        let may = |name: &str| {
            access.allows(
                &[name.to_owned()],
                &VmName::new("web01").unwrap(),
                Right::Read,
            )
        };
        assert!(may("cn:agent1") && !may("agent1") && !may("dns:agent1"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, what) in [
            ("[[acess]]", "line 1"),
            ("\n[[access]]\nidentity = 3", "line 3"),
            ("[[access]]\nidentity = \"a\"", "vms"),
            (
                "[[access]]\nidentity = \"a\"\nvms = [\"b\"]\nrights = [\"write\"]",
                "line 4",
            ),
            (
                "[[access]]\nidentity = \"a\"\nvms = [\"b\"]\nrights = []",
                "rights is empty",
            ),
            (
                "[[access]]\nidentity = \"a\"\nvms = []\nrights = [\"read\"]",
                "vms",
            ),
            (
                "[[access]]\nidentity = \"\"\nvms = [\"b\"]\nrights = [\"read\"]",
                "identity",
            ),
            (
                "[[access]]\nidentity = \"a\"\nvms = [\"b\"]\nrights = [\"read\"]\nwhen = 1",
                "line 5",
            ),
        ] {
            let error = Access::parse(text).unwrap_err();
            assert!(error.to_string().contains(what), "{text}: {error}");
        }
    }
}
