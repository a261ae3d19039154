//! `restorefs.json`: the file that makes a directory a repository, and that states which releases may use it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::sidecar::{Sidecar, Unknown};
use crate::error::{Error, Result};
use crate::types::RepositoryId;

/// Format version that this release writes.
pub const FORMAT_VERSION: u32 = 1;
/// Layers are replaced in their slots: a release that does not know it would read a mix of old and new layers.
pub const MERGE: &str = "merge";
/// Incompatible features that this release knows.
const INCOMPAT_SUPPORTED: [&str; 1] = [MERGE];
/// VMs are copies from another repository, and take no sessions: a release that does not know it would write into them.
pub const COPIES: &str = "copies";
/// Features that a release must know to write, but not to read.
const RO_COMPAT_SUPPORTED: [&str; 1] = [COPIES];

/// Layers of a chain, unless `restorefs.json` says otherwise: hidden layers of a deeper one are merged at any price.
const DEPTH_DEFAULT: u32 = 500;
/// LIMIT: layers of a chain on which a disk is still continued. QEMU 10 ends between 800 and 900, as each layer takes its
/// coroutines' stack.
pub const DEPTH_FULL: u32 = 800;

/// The repository's own sidecar.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Format {
    /// Schema number, 1.
    pub schema: u32,
    /// Version of the repository's format.
    pub format_version: u32,
    /// Identity.
    pub repository_id: RepositoryId,
    /// When it was made.
    pub created_at: Timestamp,
    /// Highest serial of any removed VM and its points.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub serial_high: u32,
    /// Features that may be ignored.
    #[serde(default)]
    pub compat: Vec<String>,
    /// Features that a release must know to write.
    #[serde(default)]
    pub ro_compat: Vec<String>,
    /// Features that a release must know even to read.
    #[serde(default)]
    pub incompat: Vec<String>,
    /// Defaults of commands.
    #[serde(default)]
    pub defaults: Defaults,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_zero(serial: &u32) -> bool {
    *serial == 0
}

/// Defaults of commands on this repository.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Defaults {
    /// Compression of new layers: `none`, `zlib`, `zstd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    /// Layers of a chain from which on hidden layers are merged at any price; 500 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_depth: Option<u32>,
    /// Months for which the job history is kept, the present one included; 0: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_months: Option<u32>,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Sidecar for Format {
    const WHAT: &'static str = "repository file restorefs.json";
    const SCHEMA: u32 = 1;
}

impl Format {
    /// The file of a new repository.
    #[must_use]
    pub fn new(created_at: Timestamp) -> Self {
        Self {
            schema: 1,
            format_version: FORMAT_VERSION,
            repository_id: RepositoryId::random(),
            created_at,
            serial_high: 0,
            compat: Vec::new(),
            ro_compat: Vec::new(),
            incompat: Vec::new(),
            defaults: Defaults::default(),
            unknown: Unknown::new(),
        }
    }

    /// Layers of a chain; hidden layers of a deeper one are merged at any price.
    #[must_use]
    pub fn max_depth(&self) -> u32 {
        let asked = self.defaults.max_depth.unwrap_or(DEPTH_DEFAULT);
        asked.clamp(2, DEPTH_FULL)
    }

    /// Checks that this release may read the repository, and write it if `write`.
    ///
    /// # Errors
    /// `Unsupported` naming the version or the features.
    pub fn check(&self, write: bool) -> Result<()> {
        let advice = "use the release that wrote it, or a newer one";
        if self.format_version > FORMAT_VERSION {
            let text = format!(
                "the repository has format {}, this release knows {FORMAT_VERSION}",
                self.format_version
            );
            return Err(Error::unsupported(text).advise(advice));
        }
        let unknown = |have: &[String], know: &[&str]| -> Vec<String> {
            have.iter()
                .filter(|f| !know.contains(&f.as_str()))
                .cloned()
                .collect()
        };
        let bad = unknown(&self.incompat, &INCOMPAT_SUPPORTED);
        if !bad.is_empty() {
            let text = format!(
                "the repository needs features that this release does not have: {}",
                bad.join(", ")
            );
            return Err(Error::unsupported(text).advise(advice));
        }
        let bad = unknown(&self.ro_compat, &RO_COMPAT_SUPPORTED);
        if write && !bad.is_empty() {
            let text = format!(
                "the repository can only be read by this release, it lacks: {}",
                bad.join(", ")
            );
            return Err(Error::unsupported(text).advise(advice));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Format, Timestamp};
    use crate::error::ErrorKind;
    use crate::repo::sidecar::{encode, parse};

    #[test]
    fn newer_ones_are_refused_and_unknown_fields_kept() {
        let mut format = Format::new(Timestamp::UNIX_EPOCH);
        format.check(true).unwrap();
        format.unknown.insert("colour".into(), "blue".into());
        let back: Format = parse(&encode(&format).unwrap()).unwrap();
        assert_eq!(back, format);
        format.ro_compat.push("x".into());
        format.check(false).unwrap();
        assert!(format.check(true).is_err());
        format.incompat.push("frobnicate".into());
        assert!(
            format
                .check(false)
                .unwrap_err()
                .to_string()
                .contains("frobnicate")
        );
        format.format_version = 2;
        assert!(
            format
                .check(false)
                .unwrap_err()
                .to_string()
                .contains("format 2")
        );
    }

    #[test]
    fn empty_cut_and_newer_files_are_named() {
        let good = encode(&Format::new(Timestamp::UNIX_EPOCH)).unwrap();
        assert_eq!(parse::<Format>(b"").unwrap_err().kind(), ErrorKind::Corrupt);
        for cut in 1..good.len() - 2 {
            assert_eq!(
                parse::<Format>(&good[..cut]).unwrap_err().kind(),
                ErrorKind::Corrupt,
                "{cut}"
            );
        }
        // A newer release writes a hash of the new content.
        let text = String::from_utf8(good).unwrap();
        let end = text.rfind(",\n  \"blake3\"").unwrap();
        let newer = format!("{}\n}}\n", &text[..end]).replace("\"schema\": 1", "\"schema\": 2");
        assert_eq!(
            parse::<Format>(newer.as_bytes()).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
    }
}
