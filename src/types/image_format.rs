//! Image formats by their names and extensions, as people write them in sources and targets.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The arrangement of the bytes in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    /// The disk's bytes as they are.
    Raw,
    /// QCOW2, read and written by this program.
    Qcow2,
    /// A format that `qemu-nbd` reads, by its QEMU name.
    Foreign(&'static str),
}

/// Formats that `qemu-nbd` reads, with their extensions.
const FOREIGN: [(&str, &str); 6] = [
    ("vmdk", "vmdk"),
    ("vhdx", "vhdx"),
    ("vdi", "vdi"),
    ("vpc", "vhd"),
    ("vpc", "vpc"),
    ("qed", "qed"),
];

impl ImageFormat {
    /// The format that the extension of a file states; `None` where it states none (`disk`, `web01.img`).
    #[must_use]
    pub fn of_extension(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "raw" => Some(Self::Raw),
            "qcow2" => Some(Self::Qcow2),
            other => FOREIGN
                .iter()
                .find(|(_, known)| *known == other)
                .map(|(format, _)| Self::Foreign(format)),
        }
    }

    /// Splits `FORMAT:REST` into the format that the prefix states and the rest; any other text
    /// stays as it is.
    #[must_use]
    pub fn split_prefix(text: &OsStr) -> (Option<Self>, &OsStr) {
        let bytes = text.as_bytes();
        let colon = bytes.iter().position(|byte| *byte == b':');
        let split = colon.and_then(|at| {
            let prefix = std::str::from_utf8(bytes.get(..at)?).ok()?;
            let format = prefix.parse().ok()?;
            Some((Some(format), OsStr::from_bytes(bytes.get(at + 1..)?)))
        });
        split.unwrap_or((None, text))
    }

    /// The format's QEMU name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Foreign(name) => name,
        }
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ImageFormat {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            other => FOREIGN
                .iter()
                .find(|(format, _)| *format == other)
                .map(|(format, _)| Self::Foreign(format))
                .ok_or_else(|| {
                    Error::invalid(format!(
                        "unknown format \"{}\"; there are raw, qcow2, vmdk, vhdx, vdi, vpc, qed",
                        other.escape_debug()
                    ))
                }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ImageFormat;
    use std::path::Path;

    #[test]
    fn an_extension_states_a_format_or_none() {
        let of = |name: &str| ImageFormat::of_extension(Path::new(name));
        assert_eq!(of("a.raw"), Some(ImageFormat::Raw));
        assert_eq!(of("a.QCOW2"), Some(ImageFormat::Qcow2));
        assert_eq!(of("disk.Vhd"), Some(ImageFormat::Foreign("vpc")));
        for unsaid in [
            "disk",
            "a.img",
            "web01.snap1",
            ".raw",
            "/dev/vg0/root",
            "a.qcow2.bak",
        ] {
            assert_eq!(of(unsaid), None, "{unsaid}");
        }
        assert_eq!("vpc".parse::<ImageFormat>().unwrap().as_str(), "vpc");
        assert!("ext4".parse::<ImageFormat>().is_err());
    }
}
