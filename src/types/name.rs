//! Names of VMs, points, sessions and disks, by the rules of DESIGN: a name is valid as a directory
//! name on every system that an administrator exports the tree to.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::schema;
use super::text::Text;
use crate::error::{Error, ErrorKind, Result};

/// LIMIT: longest name in bytes (the repository format).
pub const NAME_BYTES_MAX: usize = 128;

/// Suffix of a session's directory in the tree; never part of a name.
pub const PARTIAL_SUFFIX: &str = ".partial";

/// Names that the tree uses itself.
const RESERVED: [&str; 3] = ["latest", "versions", "diff"];

/// Windows device names, with or without an extension (Microsoft, "Naming Files, Paths, and Namespaces").
const WINDOWS_DEVICES: [&str; 22] = [
    "con", "prn", "aux", "nul", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8",
    "com9", "lpt1", "lpt2", "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9",
];

fn check(text: &str) -> Result<()> {
    let shown = || {
        text.escape_debug()
            .to_string()
            .chars()
            .take(40)
            .collect::<String>()
    };
    if text.is_empty() {
        return Err(Error::invalid("a name is empty"));
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::NameTooLong,
            format!(
                "the name \"{}...\" has {} bytes, at most {NAME_BYTES_MAX} are allowed",
                shown(),
                text.len()
            ),
        ));
    }
    let refuse = |why: &str| Err(Error::invalid(format!("the name \"{}\" {why}", shown())));
    if !text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    {
        return refuse("has characters other than A-Z a-z 0-9 . _ -");
    }
    if !text
        .as_bytes()
        .first()
        .is_some_and(u8::is_ascii_alphanumeric)
    {
        return refuse("does not begin with a letter or digit");
    }
    if text.contains("..") {
        return refuse("contains \"..\"");
    }
    if text.ends_with('.') {
        return refuse("ends with a dot");
    }
    if RESERVED.iter().any(|name| text.eq_ignore_ascii_case(name)) {
        return refuse("is reserved");
    }
    let suffix = text.len().checked_sub(PARTIAL_SUFFIX.len());
    let suffix = suffix.and_then(|from| text.get(from..));
    if suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case(PARTIAL_SUFFIX)) {
        return refuse("ends with .partial, which marks sessions");
    }
    let stem = text.split('.').next().unwrap_or_default();
    if WINDOWS_DEVICES
        .iter()
        .any(|name| stem.eq_ignore_ascii_case(name))
    {
        return refuse("is a Windows device name");
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks a name.
            ///
            /// # Errors
            /// `InvalidInput` or `NameTooLong`, which names the broken rule.
            pub fn new(text: impl Into<String>) -> Result<Self> {
                let text = text.into();
                check(&text)?;
                Ok(Self(text.into()))
            }
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
            /// The form that must be unique: names are compared without regard to case.
            #[must_use]
            pub fn folded(&self) -> String {
                self.0.to_ascii_lowercase()
            }
            /// Whether both names are the same, without regard to case.
            #[must_use]
            pub fn same_as(&self, other: &Self) -> bool {
                self.0.eq_ignore_ascii_case(&other.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                schema::name(NAME_BYTES_MAX)
            }
        }

        impl utoipa::ToSchema for $name {}

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Text::deserialize(deserializer)?.0;
                check(&text).map_err(|e| D::Error::custom(e.to_string()))?;
                Ok(Self(text.into()))
            }
        }
    };
}

name!(
    /// Name of a repository in the register.
    RepositoryName
);
name!(
    /// Name of a policy.
    PolicyName
);
name!(
    /// Name of a token of the access file.
    TokenName
);
name!(
    /// Directory name of a VM.
    VmName
);
name!(
    /// Name of a restore point or of a session: both share one name space within a VM.
    PointName
);
name!(
    /// Name of a disk of a VM.
    DiskName
);

#[cfg(test)]
mod tests {
    use super::{PointName, VmName};
    use crate::error::ErrorKind;

    #[test]
    fn good_names() {
        for good in [
            "web01",
            "2026-11-20_02-00-00",
            "a",
            "A.b-c_d",
            "0",
            &"x".repeat(128),
        ] {
            assert!(VmName::new(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn bad_names() {
        let long = "x".repeat(129);
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a..b",
            "a.",
            "-a",
            "_a",
            ".a",
            "a b",
            "a\n",
            "ä",
            "latest",
            "Latest",
            "versions",
            "diff",
            "x.partial",
            "X.PARTIAL",
            "con",
            "NUL",
            "com1.txt",
            "lpt9",
            "a\0",
            &long,
        ] {
            assert!(PointName::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            PointName::new(long).map_err(|e| e.kind()),
            Err(ErrorKind::NameTooLong)
        );
    }
}
