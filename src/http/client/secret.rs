//! The token that a client shows, from a file.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, Result, ResultExt};

/// LIMIT: bytes of the file.
const FILE_BYTES_MAX: usize = 4 << 10;

/// Permission bits of group and others.
const OTHERS: u32 = 0o077;

/// A token. `Debug` does not show it.
#[derive(Clone)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Reads the file, which has the token and nothing else. Warns of a file that other users may read.
    ///
    /// # Errors
    /// `InvalidInput` when there is no token in it; `Io`, `NotFound`, `PermissionDenied`.
    pub fn load(path: &Path) -> Result<Self> {
        let what = "cannot read the token";
        let file = File::open(path).or_io(what).at_path(path)?;
        let metadata = file.metadata().or_io(what).at_path(path)?;
        let credentials = std::env::var_os(crate::tls::CREDENTIALS);
        let is_credential = credentials.is_some_and(|directory| path.starts_with(directory));
        if metadata.is_file() && metadata.mode() & OTHERS != 0 && !is_credential {
            tracing::warn!(
                path = %path.display(),
                "other users may read the token: chmod 600 (restorefs token revoke, if somebody has)"
            );
        }
        let mut text = String::new();
        let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX);
        file.take(limit.saturating_add(1))
            .read_to_string(&mut text)
            .or_io(what)
            .at_path(path)?;
        Self::parse(&text).at_path(path)
    }

    /// A token as a file has it.
    fn parse(text: &str) -> Result<Self> {
        let token = text.trim();
        let is_word = token.bytes().all(|byte| byte.is_ascii_graphic());
        if token.is_empty() || !is_word || text.len() > FILE_BYTES_MAX {
            return Err(
                Error::invalid("the file does not have one token and nothing else")
                    .advise("restorefs token add, on the server, prints one"),
            );
        }
        Ok(Self(token.to_owned()))
    }

    /// The value of the header `Authorization`.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{FILE_BYTES_MAX, Secret};

    #[test]
    fn one_word_is_a_token_and_errors_do_not_repeat_it() {
        let secret = Secret::parse(" rfs_abc\n").unwrap();
        assert_eq!(secret.header(), "Bearer rfs_abc");
        assert_eq!(format!("{secret:?}"), "Secret");
        for bad in [
            "",
            "\n",
            "rfs_abc rfs_def",
            "rfs_abc\nrfs_def",
            "rfs_ä",
            "rfs_\u{1}",
        ] {
            let error = Secret::parse(bad).unwrap_err().report();
            assert!(!error.contains("rfs_"), "{error}");
        }
        assert!(Secret::parse(&"a".repeat(FILE_BYTES_MAX + 1)).is_err());
    }
}
