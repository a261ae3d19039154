//! Keys: relative paths of plain components. A store accepts no other names.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// LIMIT: longest component in bytes (ext4, XFS, btrfs: 255).
const COMPONENT_BYTES_MAX: usize = 255;

/// A relative path without `.`, `..`, empty components, NUL or control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// The root itself.
    #[must_use]
    pub const fn root() -> Self {
        Self(String::new())
    }

    /// Parses a path with `/` between components.
    ///
    /// # Errors
    /// `InvalidInput`, `NameTooLong`.
    pub fn parse(path: &str) -> Result<Self> {
        path.split('/')
            .try_fold(Self::root(), |key, part| key.join(part))
    }

    /// This key with one more component.
    ///
    /// # Errors
    /// `InvalidInput`, `NameTooLong`.
    pub fn join(&self, component: &str) -> Result<Self> {
        if component.len() > COMPONENT_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::NameTooLong,
                "a component of a key is longer than 255 bytes",
            ));
        }
        if component.is_empty()
            || component == "."
            || component == ".."
            || component.contains('/')
            || component.chars().any(char::is_control)
        {
            return Err(Error::invalid(format!(
                "\"{}\" cannot be a component of a key",
                component.escape_debug()
            )));
        }
        Ok(if self.0.is_empty() {
            Self(component.to_owned())
        } else {
            Self(format!("{}/{component}", self.0))
        })
    }

    /// The path, empty for the root.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key without its last component; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.0.is_empty() {
            return None;
        }
        Some(Self(
            self.0
                .rsplit_once('/')
                .map_or_else(String::new, |(parent, _)| parent.to_owned()),
        ))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "." } else { &self.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::Key;

    #[test]
    fn keys_stay_below_the_root() {
        assert_eq!(
            Key::parse("vms/web01")
                .unwrap()
                .join("vm.json")
                .unwrap()
                .as_str(),
            "vms/web01/vm.json"
        );
        for bad in ["", "/", "a//b", "../a", "a/./b", "a/..", "a\0b", "a\nb"] {
            assert!(Key::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Key::root().join(&"x".repeat(256)).is_err());
        assert_eq!(
            Key::parse("a/b").unwrap().parent(),
            Some(Key::parse("a").unwrap())
        );
        assert_eq!(Key::parse("a").unwrap().parent(), Some(Key::root()));
        assert_eq!(Key::root().parent(), None);
    }
}
